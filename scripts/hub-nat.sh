#!/bin/sh
# Lets the spokes of a hub out, for owners who prefer a script to -nat, or who
# have iptables only.
#
#   hub-nat.sh up [NET..]     the pools, and networks behind spokes that are to
#                             be let out; without NET the default pools
#   hub-nat.sh down
#
# "up" switches forwarding on, which stays on, and translates what spokes send
# to the machine's own address on the way out: by nft in the table inet dtun-nat,
# else by iptables. Where iptables drops what is forwarded, or the hub's port
# (DTUN_PORT, 443), an accept goes in there: into DOCKER-USER or ufw's chain for
# users, else on top. All of it bears the comment "dtun-nat"; "down" takes this
# away and nothing else. After a reload of the firewall run "up" again. firewalld,
# and chains that you wrote for nft yourself, have to be told by you: -nat of the
# hub does that too.
# shellcheck disable=SC2086 # the comment and a rule are several words
set -eu
LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
export LC_ALL PATH

name=dtun-nat
comment="-m comment --comment $name"
port=${DTUN_PORT:-443}

up() {
    [ $# -gt 0 ] || set -- 10.0.0.0/24 fc00::/120
    down
    forwarding
    if command -v nft >/dev/null; then
        table "$@" | nft -f -
    else
        for tool in iptables ip6tables; do
            if [ "$tool" = ip6tables ] && ! command -v "$tool" >/dev/null; then
                echo 'hub-nat.sh: ip6tables is missing: spokes are let out by IPv4 only' >&2
                continue
            fi
            for net; do
                [ "$(tool "$net")" = "$tool" ] || continue
                "$tool" -w -t nat -A POSTROUTING -s "$net" ! -o dtun+ $comment -j MASQUERADE
            done
            for way in -i -o; do
                "$tool" -w -t mangle -A FORWARD $way dtun+ -p tcp --tcp-flags SYN,RST SYN $comment -j TCPMSS --clamp-mss-to-pmtu
            done
        done
    fi
    for net; do let_pass "$net"; done
    for tool in iptables ip6tables; do open_port; done
}

down() {
    ! command -v nft >/dev/null || printf 'table inet %s\ndelete table inet %s\n' $name $name | nft -f -
    for tool in iptables ip6tables; do
        for table in nat mangle filter; do
            has "$table" || continue
            rules=$("$tool" -w -t "$table" -S | sed -n "/--comment $name /s/^-A/-D/p")
            [ -z "$rules" ] || echo "$rules" | while read -r rule; do
                "$tool" -w -t "$table" $rule
            done
        done
    done
}

forwarding() {
    conf=/proc/sys/net
    [ "$(cat $conf/ipv4/ip_forward)" = 1 ] || echo 1 >$conf/ipv4/ip_forward
    [ -e $conf/ipv6/conf/all/forwarding ] && [ "$(cat $conf/ipv6/conf/all/forwarding)" = 0 ] || return 0
    # One that forwards takes routers' advertisements with the value 2 only.
    for file in "$conf"/ipv6/conf/*/accept_ra; do
        case $file in */all/* | */default/*) continue ;; esac
        [ "$(cat "$file")" != 1 ] || echo 2 >"$file"
    done
    echo 1 >$conf/ipv6/conf/all/forwarding
}

# table NET..: in nft's words.
table() {
    echo "table inet $name {"
    echo ' chain clamp {'
    echo '  type filter hook forward priority -150'
    for way in iifname oifname; do
        echo "  $way \"dtun*\" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu"
    done
    echo ' }'
    echo ' chain out {'
    echo '  type nat hook postrouting priority 100'
    for net; do
        case $net in *:*) ip=ip6 ;; *) ip=ip ;; esac
        echo "  oifname != { \"lo\", \"dtun*\" } $ip saddr $net masquerade"
    done
    echo ' }'
    echo '}'
}

let_pass() {
    tool=$(tool "$1")
    has filter || return 0
    chain=$(chain FORWARD DOCKER-USER ufw-user-forward ufw6-user-forward)
    [ -n "$chain" ] || return 0
    "$tool" -w -I "$chain" -d "$1" -o dtun+ -m conntrack --ctstate RELATED,ESTABLISHED $comment -j ACCEPT
    "$tool" -w -I "$chain" -s "$1" -i dtun+ $comment -j ACCEPT
}

open_port() {
    has filter || return 0
    chain=$(chain INPUT ufw-user-input ufw6-user-input)
    [ -z "$chain" ] || "$tool" -w -I "$chain" -p udp --dport "$port" $comment -j ACCEPT
}

# chain BASE OTHERS..: where an accept goes; nothing where nothing is dropped.
chain() {
    rules=$("$tool" -w -S)
    echo "$rules" | grep -Eq -e "^-P $1 DROP|^-A $1 (.* )?-j (DROP|REJECT)" || return 0
    base=$1
    shift
    for other; do
        ! echo "$rules" | grep -q -e "^-N $other\$" || base=$other
        [ "$base" != "$other" ] || break
    done
    echo "$base"
}

# has TABLE: whether $tool has rules there; asking would make the table.
has() {
    command -v "$tool" >/dev/null || return 1
    ip=${tool%tables}
    case $("$tool" -V) in
        *nf_tables*) ! command -v nft >/dev/null || nft list tables | grep -q "^table $ip $1\$" ;;
        *) grep -qx "$1" "/proc/net/${ip}_tables_names" 2>/dev/null ;;
    esac
}

tool() {
    case $1 in *:*) echo ip6tables ;; *) echo iptables ;; esac
}

case ${1:-} in
    up) shift && up "$@" ;;
    down) down ;;
    *)
        echo 'hub-nat.sh: use: hub-nat.sh up [NET..] | hub-nat.sh down' >&2
        exit 2
        ;;
esac
