# shellcheck shell=sh
# What the scripts beside it share: reading a list of networks, putting routes
# and rules in place, and writing down first what is put there, so that this
# and nothing else is taken away again: by the script's "down", or after a
# kill -9 by the next run of any of them.
#
# A record is $run/NAME.NAMESPACE.KIND; it goes with the device NAME. A line is
# what follows "ip route add" (kinds "tunnel" and "bypass"), "ip rule add"
# (kind "rules"; "-4" or "-6" comes first), or the name of an nftables table of
# the family inet (kind "nft"), or "iptables|ip6tables -t TABLE CHAIN RULE"
# (kind "iptables").
LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
export LC_ALL PATH

proto=117
run=${DTUN_RUN:-/run/dtun}
# The same /run serves every network namespace.
here=$(readlink /proc/self/ns/net | tr -cd 0-9)

# Takes away what a device's records say: the rules first, then what they lead to.
forget() {
    for kind in rules nft iptables tunnel bypass; do
        record=$run/$1.$here.$kind
        [ -e "$record" ] || continue
        : >"$record.new"
        renew "$record" >/dev/null
        rm "$record"
    done
}

# A process that was killed took its device with it and left its records.
forget_vanished() {
    for record in "$run"/*."$here".*; do
        device=${record##*/}
        device=${device%."$here".*}
        [ ! -e "$record" ] || ip link show dev "$device" >/dev/null 2>&1 || forget "$device"
    done
}

# renew RECORD: from what is in RECORD to what is in RECORD.new. Prints what is
# complained of.
renew() {
    [ -e "$1" ] || : >"$1"
    case $1 in
        *.tunnel) how=each ;;
        *.bypass) how=bulk ;;
        *.rules) how=rules ;;
        *.nft) how=nft ;;
        *.iptables) how=iptables ;;
    esac
    awk 'FILENAME == ARGV[1] { wanted[$0]; next } !($0 in wanted)' "$1.new" "$1" >"$1.gone"
    "put_$how" del "$1.gone" >/dev/null
    rm "$1.gone"
    mv "$1.new" "$1"
    "put_$how" add "$1"
}

# put_each add|del FILE: one ip for each line, so that the hub's old route and
# the new one are a moment apart.
put_each() {
    while read -r route; do
        # shellcheck disable=SC2086 # a route is several words
        ip "$(family "${route#throw }")" route "$1" $route proto "$proto" 2>&1 || :
    done <"$2"
}

# put_bulk add|del FILE: the whole file in one go; dtun does it where ip cannot.
put_bulk() {
    [ -s "$2" ] || return 0
    sed "s/.*/route $1 & proto $proto/" "$2" >"$2.batch"
    if ip -batch /dev/null >/dev/null 2>&1; then
        ip -force -batch "$2.batch" 2>&1 || :
    elif command -v "${DTUN:-dtun}" >/dev/null; then
        "${DTUN:-dtun}" routes "$1" "$2.batch" 2>&1 || :
    else
        put_each "$1" "$2"
    fi
    rm "$2.batch"
}

# put_rules add|del FILE: the last one counts, so it is made last and goes first.
put_rules() {
    awk -v verb="$1" '{ line[NR] = $0 } END { for (i = 1; i <= NR; i++) print line[verb == "del" ? NR + 1 - i : i] }' "$2" |
        while read -r family rule; do
            # shellcheck disable=SC2086 # a rule is several words
            ip "$family" rule "$1" $rule 2>&1 || :
        done
}

# put_nft add|del FILE: what is in a table, its owner loads.
put_nft() {
    [ "$1" = del ] || return 0
    while read -r name; do nft delete table inet "$name" 2>&1 || :; done <"$2"
}

put_iptables() {
    while read -r tool _ in chain rule; do
        # shellcheck disable=SC2086 # a rule is several words
        case $1 in
            add) "$tool" -w -t "$in" -C "$chain" $rule 2>/dev/null || "$tool" -w -t "$in" -A "$chain" $rule 2>&1 || : ;;
            del) "$tool" -w -t "$in" -D "$chain" $rule 2>&1 || : ;;
        esac
    done <"$2"
}

# networks: the list on stdin, one network a line; how many lines were none, on
# stderr.
networks() {
    awk '
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
            print net
        }
        END { printf "%d lines are no networks", skipped >"/dev/stderr" }'
}

host() {
    case $1 in *:*) echo "$1/128" ;; *) echo "$1/32" ;; esac
}

# family ADDRESS..: what the first word is of.
family() {
    case ${1%% *} in *:*) echo -6 ;; *) echo -4 ;; esac
}

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}
