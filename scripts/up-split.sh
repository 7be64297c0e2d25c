#!/bin/sh
# Sends everything through the tunnel but the hub's own address and a list of
# networks, which keep the gateway that the machine has without the tunnel.
#
#   dtun -connect HOST:PORT -key-file KEY -up .../up-split.sh -down .../down-split.sh
#
# DTUN_BYPASS, in dtun's own environment, names the list: one network a line,
# "#" begins a comment. Run again, it renews what hangs on the gateway.
#
# IPv6 keeps its own way where the hub has none for it; -route default refuses it.
#
# Two halves win over the default route without touching it, and go with the
# device. What is put on the uplink is written down first, and carries a
# protocol number of its own: what is taken away again, by down-split.sh or
# after a kill -9 by the next run, is that and nothing else.
set -eu
# shellcheck source=scripts/routes.sh
. "$(dirname "$(readlink -f "$0")")/routes.sh"
: "${TUN:?}"

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
        0/* | false/* | */) beside6 ;;
        *) halves="$halves ::/1 8000::/1" ;;
    esac
    {
        echo "$(host "$SERVER_IP") $server"
        for half in $halves; do echo "$half dev $TUN"; done
    } >"$own.new"
    said=$(renew "$own")
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
    counts=$({ networks <"$file" | by_way "$way4" "$way6" >"$list.new"; } 2>&1) || fail "$counts"
    said=$(renew "$list")
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

# by_way WAY4 WAY6: routes for the networks on stdin; how many have none, on stderr.
by_way() {
    awk -v way4="$1" -v way6="$2" '
        {
            way = $1 ~ /:/ ? way6 : way4
            if (way == "") homeless++
            else print $1, way
        }
        END { printf ", %d have no gateway", homeless >"/dev/stderr" }'
}

case ${1:-up} in
    up) up ;;
    down) down ;;
    *) fail 'use: up-split.sh [up|down]' ;;
esac
