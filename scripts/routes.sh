# shellcheck shell=sh
# What the scripts beside it share: reading a list of networks, putting routes
# and rules in place, and writing down first what is put there, so that this
# and nothing else is taken away again: by the script's "down", or after a
# kill -9 by the next run of any of them.
#
# A record is $run/DEVICE.NAMESPACE.KIND; it goes with the device. A line is what
# follows "ip route add" (kinds "tunnel" and "bypass") or "ip rule add" (kind
# "rules"; "-4" or "-6" comes first), the name of a table of the family inet
# (kind "nft") or of a set (kind "ipset"), "iptables|ip6tables -t TABLE CHAIN
# RULE" (kind "iptables"), or a file and what was in it (kind "sysctl"). The
# kinds of dtun-via.sh begin with "via-".
LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
export LC_ALL PATH

proto=117
run=${DTUN_RUN:-/run/dtun}
# The same /run serves every network namespace.
here=$(readlink /proc/self/ns/net | tr -cd 0-9)

# forget DEVICE [via-]: takes away what its records say, the rules first, then
# what they lead to.
forget() {
    for kind in rules nft iptables ipset sysctl tunnel bypass; do
        record=$run/$1.$here.${2:-}$kind
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
        [ ! -e "$record" ] || ip link show dev "$device" >/dev/null 2>&1 || {
            forget "$device"
            forget "$device" via-
        }
    done
}

# renew RECORD: from what is in RECORD to what is in RECORD.new. Prints what is
# complained of.
renew() {
    [ -e "$1" ] || : >"$1"
    how=${1##*[.-]}
    case $how in
        tunnel) how=each ;;
        bypass) how=bulk ;;
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

# put_ipset add|del FILE: what is in a set, its owner loads.
put_ipset() {
    [ "$1" = del ] || return 0
    while read -r name; do ipset destroy "$name" 2>&1 || :; done <"$2"
}

put_sysctl() {
    [ "$1" = del ] || return 0
    while read -r file value; do [ ! -e "$file" ] || echo "$value" >"$file" || :; done <"$2"
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

# networks, in one order and one way of writing, without those that are inside
# others; first those of IPv4. It fails where any part of it does.
tidy() {
    tidied=$(networks) && tidied=$(echo "$tidied" | spread) && echo "$tidied" | sort -k 1,1 -k 2,2n | collapsed
}

# What spread prints, sorted, to the networks that are inside no other; first
# those of IPv4.
collapsed() {
    awk '
        function bits(key, n,    last, rest) {
            last = index("0123456789abcdef", substr(key, int(n / 4) + 2, 1)) - 1
            for (rest = n % 4; rest < 4; rest++) last = int(last / 2)
            return substr(key, 1, int(n / 4) + 1) (n % 4 ? "/" last : "")
        }
        NF == 0 || kept != "" && bits($1, len) == kept { next }
        { len = $2; kept = bits($1, len); print $3 }'
}

# Puts before each network its version with all its hex digits, and its length;
# those of IPv6 are masked, and all written in one way.
spread() {
    awk '
        function digits(text,    halves, half, left, right, a, b, i, all) {
            halves = split(text, half, "::")
            left = half[1] == "" ? 0 : split(half[1], a, ":")
            right = halves < 2 || half[2] == "" ? 0 : split(half[2], b, ":")
            if (halves > 2 || (halves == 1 ? left != 8 : left + right > 7)) return ""
            for (i = 1; i <= 8; i++)
                all = all group(i <= left ? a[i] : i > 8 - right ? b[i - 8 + right] : "0")
            return all ~ /^[0-9a-f]+$/ && length(all) == 32 ? all : ""
        }
        function group(text) {
            return text == "" || length(text) > 4 ? "?" : substr("000" tolower(text), length(text))
        }
        function masked(all, n,    last, size) {
            last = index("0123456789abcdef", substr(all, int(n / 4) + 1, 1)) - 1
            size = substr("16 8 4 2", n % 4 * 2 + (n % 4 > 0), 2) + 0
            all = substr(all, 1, int(n / 4)) substr("0123456789abcdef", last - last % size + 1, 1)
            return substr(all "0000000000000000000000000000000", 1, 32)
        }
        function written(all,    i, part, text) {
            for (i = 1; i <= 32; i += 4) {
                part = substr(all, i, 4)
                sub(/^0+/, "", part)
                text = text (i > 1 ? ":" : "") (part == "" ? "0" : part)
            }
            return text
        }
        NF == 0 { next }
        { split($1, net, "/") }
        !/:/ {
            split(net[1], octet, ".")
            printf "4%02x%02x%02x%02x %d %s\n", octet[1], octet[2], octet[3], octet[4], net[2], $1
            next
        }
        {
            all = digits(net[1])
            if (all == "") { bad++; next }
            all = masked(all, net[2])
            print "6" all, net[2], written(all) "/" net[2]
        }
        END { if (bad) printf ", nor are %d more", bad >"/dev/stderr" }'
}

# of_version 4|6 FILE: its networks of that version.
of_version() {
    case $1 in
        4) sed '/:/d' "$2" ;;
        6) sed '/:/!d' "$2" ;;
    esac
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

# Lets the reverse path filter look with the mark. It stays so: others may rely on it.
valid_mark() {
    file=/proc/sys/net/ipv4/conf/all/src_valid_mark
    [ "$(cat "$file")" = 1 ] || echo 1 2>/dev/null >"$file" ||
        echo "cannot write $file: a strict rp_filter drops what comes in" >&2
}

host() {
    case $1 in *:*) echo "$1/128" ;; *) echo "$1/32" ;; esac
}

# family ADDRESS..: what the first word is of.
family() {
    case ${1%% *} in *:*) echo -6 ;; *) echo -4 ;; esac
}

# Says what a hub without IPv6 means. Routes that refuse it would outlive a kill -9.
beside6() {
    echo "${0##*/}: the hub has no IPv6 to the outside: this machine's goes past the tunnel" >&2
}

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}
