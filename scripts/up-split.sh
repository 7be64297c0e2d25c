#!/bin/sh
# Sends everything through the tunnel but the hub's own address and a list of
# networks, which keep the gateway that the machine has without the tunnel.
#
#   dtun -connect HOST:PORT -key-file KEY -up .../up-split.sh -down .../down-split.sh
#
# DTUN_BYPASS, in dtun's own environment, names the list: one network a line,
# "#" begins a comment. Run again, it renews what hangs on the gateway.
#
# Two halves win over the default route without touching it, and go with the
# device. What is put on the uplink is written down first, and carries a
# protocol number of its own: what is taken away again, by down-split.sh or
# after a kill -9 by the next run, is that and nothing else.
set -eu
LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
export LC_ALL PATH
: "${TUN:?}"

proto=117
run=${DTUN_RUN:-/run/dtun}
# The same /run serves every network namespace.
here=$(readlink /proc/self/ns/net | tr -cd 0-9)

up() {
    : "${SERVER_IP:?}"
    own=$run/$TUN.$here.tunnel
    list=$run/$TUN.$here.bypass
    umask 077
    mkdir -p "$run"
    forget_vanished

    server=$(way "$SERVER_IP" "$own")
    [ -n "$server" ] || fail "no gateway to $SERVER_IP but the tunnel itself"
    halves='0.0.0.0/1 128.0.0.0/1'
    case ${OUT6:-0}/${LOCAL_IP6:-} in
        0/* | false/* | */) ;;
        *) halves="$halves ::/1 8000::/1" ;;
    esac
    {
        echo "$(host "$SERVER_IP") $server"
        for half in $halves; do echo "$half dev $TUN"; done
    } >"$own.new"
    said=$(renew "$own" each)
    while read -r net route; do
        ip "$(family "$net")" -o route list exact "$net" | grep -qF "dev ${route##*dev } " ||
            fail "$net cannot be routed $route: $said"
    done <"$own"

    bypass
}

# Routes what $DTUN_BYPASS lists by the gateway of each family.
bypass() {
    way4=$(way 0.0.0.0 "$own")
    way6=
    case $halves in *:*) way6=$(way :: "$own") ;; esac

    fault=
    file=${DTUN_BYPASS:-/dev/null}
    [ -r "$file" ] || fault="cannot read the bypass list $file" file=/dev/null
    counts=$(networks "$way4" "$way6" <"$file" 2>&1 >"$list.new") || fail "$counts"
    said=$(renew "$list" bulk)
    failed=$(echo "$said" | grep -c 'Command failed' || :)
    there=$(echo "$said" | grep -c 'File exists' || :)

    echo "all by $TUN but $(host "$SERVER_IP") $server and $(wc -l <"$list") networks $way4: $counts," \
        "$there already routed, $((failed - there)) refused"
    [ -z "$fault" ] || fail "$fault"
}

down() {
    forget "$TUN"
    forget_vanished
}

# Takes away what a device's records say.
forget() {
    for record in "$run/$1.$here.tunnel" "$run/$1.$here.bypass"; do
        [ -e "$record" ] || continue
        : >"$record.new"
        renew "$record" bulk >/dev/null
        rm "$record"
    done
}

# A process that was killed took its device with it and left its records.
forget_vanished() {
    for record in "$run"/*."$here".tunnel "$run"/*."$here".bypass; do
        device=${record##*/}
        device=${device%."$here".*}
        [ ! -e "$record" ] || ip link show dev "$device" >/dev/null 2>&1 || forget "$device"
    done
}

# renew RECORD each|bulk: from the routes in RECORD to those in RECORD.new.
# Prints what ip complains of.
renew() {
    [ -e "$1" ] || : >"$1"
    awk 'FILENAME == ARGV[1] { wanted[$0]; next } !($0 in wanted)' "$1.new" "$1" >"$1.gone"
    "$2" del "$1.gone" >/dev/null
    rm "$1.gone"
    mv "$1.new" "$1"
    "$2" add "$1"
}

# each add|del FILE: one ip for each line, so that the hub's old route and the
# new one are a moment apart.
each() {
    while read -r net route; do
        # shellcheck disable=SC2086 # a route is several words
        ip "$(family "$net")" route "$1" "$net" $route proto "$proto" 2>&1 || :
    done <"$2"
}

# bulk add|del FILE: the whole file in one go; dtun does it where ip cannot.
bulk() {
    [ -s "$2" ] || return 0
    sed "s/.*/route $1 & proto $proto/" "$2" >"$2.batch"
    if ip -batch /dev/null >/dev/null 2>&1; then
        ip -force -batch "$2.batch" 2>&1 || :
    elif command -v "${DTUN:-dtun}" >/dev/null; then
        "${DTUN:-dtun}" routes "$1" "$2.batch" 2>&1 || :
    else
        each "$1" "$2"
    fi
    rm "$2.batch"
}

# way ADDRESS RECORD: "via GATEWAY dev DEVICE" of the closest route that is
# neither the tunnel's nor the one put there by RECORD. For 0.0.0.0 and ::
# the default route's.
way() {
    ours=$(grep -F "$(host "$1") " "$2" 2>/dev/null || :)
    ip "$(family "$1")" -o route list match "$1" |
        awk -v address="$1" -v tun="$TUN" -v ours="${ours#* }" '
            /^(unreachable|blackhole|prohibit|throw|local|broadcast|anycast|multicast) / { next }
            / (linkdown|dead)( |$)/ { next }
            (address == "0.0.0.0" || address == "::") && $1 != "default" { next }
            {
                via = device = flag = ""
                for (i = 2; i <= NF; i++) {
                    if ($i == "via" && via == "")
                        via = "via " ($(i + 1) == "inet6" ? "inet6 " $(i + 2) : $(i + 1)) " "
                    if ($i == "dev" && device == "") device = $(i + 1)
                    if ($i == "onlink") flag = "onlink "
                }
                if (device == "" || device == tun) next
                route = via flag "dev " device
                n = split($1, part, "/")
                length_ = $1 == "default" ? 0 : n == 2 ? part[2] + 0 : 128
                if (n == 1 && length_ == 128 && route == ours) next
                if (length_ >= best + 0 && !(length_ == best + 0 && found != "")) {
                    best = length_
                    found = route
                }
            }
            END { print found }'
}

# networks WAY4 WAY6: routes for the list on stdin; what it skipped, on stderr.
networks() {
    awk -v way4="$1" -v way6="$2" '
        function ip4(text, length_,    octet, i, sum, size) {
            if (split(text, octet, ".") != 4 || length_ > 32) return ""
            for (i = 1; i <= 4; i++) {
                if (octet[i] !~ /^[0-9][0-9]?[0-9]?$/ || octet[i] > 255) return ""
                sum = sum * 256 + octet[i]
            }
            for (size = 1; length_ < 32; length_++) size *= 2
            sum -= sum % size
            return int(sum / 16777216) "." int(sum / 65536) % 256 "." int(sum / 256) % 256 "." sum % 256
        }
        { sub(/^\357\273\277/, ""); sub(/#.*/, ""); gsub(/\r/, "") }
        NF == 0 { next }
        {
            n = split($1, part, "/")
            six = $1 ~ /:/
            length_ = n == 2 ? part[2] : six ? 128 : 32
            bad = NF > 1 || n > 2 || length_ !~ /^[0-9]+$/ || length_ + 0 == 0 || length_ > 128
            net = bad ? "" : six ? part[1] : ip4(part[1], length_ + 0)
            if (net == "" || six && net !~ /^[0-9a-fA-F:.]+$/) { skipped++; next }
            net = net "/" (length_ + 0)
            if (net in seen) next
            seen[net]
            route = six ? way6 : way4
            if (route == "") { homeless++; next }
            print net, route
        }
        END {
            print skipped + 0 " lines are no networks, " homeless + 0 " have no gateway" >"/dev/stderr"
        }'
}

host() {
    case $1 in *:*) echo "$1/128" ;; *) echo "$1/32" ;; esac
}

family() {
    case $1 in *:*) echo -6 ;; *) echo -4 ;; esac
}

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

case ${1:-up} in
    up) up ;;
    down) down ;;
    *) fail 'use: up-split.sh [up|down]' ;;
esac
