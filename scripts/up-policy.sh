#!/bin/sh
# Sends everything through the tunnel by rules and a table of its own, as
# wg-quick does; the main table stays as it is.
#
#   dtun -connect HOST:PORT -key-file KEY -fwmark 0x640000/0xff0000 \
#       -up .../up-policy.sh -down .../down-policy.sh
#
# What dtun itself sends carries the mark and takes the main table; of the main
# table all but the default route holds for the rest, too. DTUN_BYPASS, in
# dtun's own environment, names a list of networks that keep to the main table:
# one a line, "#" begins a comment.
#
# IPv6 keeps its own way where the hub has none for it; -route default refuses it.
#
# All is written down first; down-policy.sh, or after a kill -9 the next run,
# takes this away and nothing else. What a kill leaves leads nowhere, so that
# the main table holds again at once. The sysctl src_valid_mark stays at 1.
set -eu
# shellcheck source=scripts/routes.sh
. "$(dirname "$(readlink -f "$0")")/routes.sh"
: "${TUN:?}"

# Busybox knows tables up to 1023.
table=${DTUN_TABLE:-764}
first=${DTUN_RULE_PREF:-32480}
filter=dtun-policy

up() {
    own=$run/$TUN.$here.tunnel
    list=$run/$TUN.$here.bypass
    rules=$run/$TUN.$here.rules
    umask 077
    mkdir -p "$run"
    forget_vanished
    alone
    case ${FWMARK:-} in
        0x*/0x*) ;;
        *) fail 'there is no FWMARK: give dtun -fwmark 0x640000/0xff0000 as well, so that its own datagrams do not go into the tunnel' ;;
    esac
    families='-4'
    case ${OUT6:-0}/${LOCAL_IP6:-} in
        0/* | false/* | */) beside6 ;;
        *) families='-4 -6' ;;
    esac

    for family in $families; do
        case $family in -4) net=0.0.0.0/0 ;; -6) net=::/0 ;; esac
        echo "$net dev $TUN table $table"
    done >"$own.new"
    said=$(renew "$own")
    for family in $families; do
        ip "$family" route list table all | grep -q "^default dev $TUN table $table " ||
            fail "table $table cannot be had: $said"
    done
    bypass
    valid_mark
    incoming

    # Marked and unknown to the main table is the end: further down is the tunnel.
    for family in $families; do
        echo "$family pref $first fwmark $FWMARK table main"
        echo "$family pref $((first + 1)) fwmark $FWMARK type unreachable"
        echo "$family pref $((first + 2)) table main suppress_prefixlength 0"
        echo "$family pref $((first + 3)) table $table"
    done >"$rules.new"
    said=$(renew "$rules" | grep -v 'File exists' || :)
    [ -z "$said" ] || fail "the rules are not complete: $said"

    echo "all by $TUN, table $table, but what carries the mark $FWMARK and" \
        "$(wc -l <"$list") networks: $counts, $((failed - there)) refused"
    [ -z "$fault" ] || fail "$fault"
}

down() {
    forget "$TUN"
    forget_vanished
}

# One machine has one full tunnel.
alone() {
    for record in "$run"/*."$here".rules; do
        [ ! -e "$record" ] || [ "$record" = "$rules" ] || fail "the full tunnel is another's already: $record"
    done
}

# Throws what $DTUN_BYPASS lists out of the tunnel's table.
bypass() {
    fault=
    file=${DTUN_BYPASS:-/dev/null}
    [ -r "$file" ] || fault="cannot read the bypass list $file" file=/dev/null
    counts=$(networks <"$file" 2>&1 >"$list.nets") || fail "$counts"
    case $families in
        *6) sed "s/.*/throw & table $table/" "$list.nets" >"$list.new" ;;
        *) sed "/:/d; s/.*/throw & table $table/" "$list.nets" >"$list.new" ;;
    esac
    rm "$list.nets"
    said=$(renew "$list")
    failed=$(echo "$said" | grep -c 'Command failed' || :)
    there=$(echo "$said" | grep -c 'File exists' || :)
}

# Gives the hub's datagrams the mark, before any reverse path filter looks at
# them, and lets nobody reach the lease's address but through the tunnel. An
# address that another link has taken after a kill is not the lease's.
incoming() {
    : "${SERVER_PORT:?}"
    value=${FWMARK%/*} mask=${FWMARK#*/}
    nft=$run/$TUN.$here.nft
    iptables=$run/$TUN.$here.iptables
    if command -v nft >/dev/null; then
        echo "$filter" >"$nft.new"
        renew "$nft"
        said=$(incoming_nft | nft -f - 2>&1) || warn_incoming "$said"
    elif command -v iptables >/dev/null; then
        incoming_iptables >"$iptables.new"
        said=$(renew "$iptables")
        [ -z "$said" ] || warn_incoming "$said"
    else
        warn_incoming 'neither nft nor iptables is here'
    fi
}

incoming_nft() {
    echo "table inet $filter"
    echo "delete table inet $filter"
    echo "table inet $filter {"
    echo ' chain in {'
    echo '  type filter hook prerouting priority -310'
    echo "  iifname { lo, \"$TUN\" } return"
    echo '  fib daddr type != local return'
    for lease in ${LOCAL_IP4:-} ${LOCAL_IP6:-}; do
        case $lease in *:*) ip=ip6 ;; *) ip=ip ;; esac
        echo "  $ip daddr ${lease%/*} fib daddr . iif type != local drop"
    done
    echo "  udp sport $SERVER_PORT meta mark set meta mark & $((0xffffffff & ~mask)) | $((value))"
    echo ' }'
    echo '}'
}

incoming_iptables() {
    for family in $families; do
        case $family in
            -4) tool=iptables lease=${LOCAL_IP4:-} ;;
            -6) tool=ip6tables lease=$LOCAL_IP6 ;;
        esac
        at="$tool -t mangle PREROUTING ! -i $TUN"
        echo "$at -p udp --sport $SERVER_PORT -m addrtype --dst-type LOCAL -j MARK --set-xmark $FWMARK"
        [ -z "$lease" ] || echo "$at -d ${lease%/*} -m addrtype ! --src-type LOCAL" \
            "-m addrtype --dst-type LOCAL -m addrtype ! --dst-type LOCAL --limit-iface-in -j DROP"
    done
}

warn_incoming() {
    echo "a strict rp_filter drops what the hub sends, for its datagrams cannot be marked: $*" >&2
}

case ${1:-up} in
    up) up ;;
    down) down ;;
    *) fail 'use: up-policy.sh [up|down]' ;;
esac
