#!/bin/sh
# Sends what one group or user sends through the tunnel while all else keeps its
# way, or the other way round.
#
#   dtun-via.sh install [FILE]    a command that runs a program so: /usr/local/bin/t
#   dtun-via.sh start             t curl ..; t bash
#   dtun-via.sh stop              rules and tables as they were
#   dtun-via.sh run COMMAND..     what t is short for
#   dtun-via.sh uninstall [FILE]
#
# As -up and -down of dtun it follows the tunnel by itself. What it shall do
# stands in /etc/dtun-via.conf (or the file that DTUN_VIA names, in dtun's own
# environment):
#
#   group=dtun-via         the programs of this group, by its name or number,
#   users=                 or of these users: "alice bob"
#   way=tunnel             or "direct": beside a tunnel that takes everything
#   dns=                   their resolvers: "9.9.9.9 2620:fe::fe"
#   bypass=                a list of networks that keep their way
#   strict=                1: no other way while the tunnel is away
#   tun=dtun0
#   table=765 pref=32470 mark=0x76000000/0xff000000
#
# Private networks always keep their way. The sockets have chosen the address
# of the machine's usual way, so what takes the other one is masqueraded. dtun's
# -strict stops what goes beside the tunnel, "direct" too.
#
# After a kill -9 of dtun the programs take the usual way (but with "strict"),
# and with "dns" know no names: nobody but those resolvers is asked, and they by
# the tunnel alone. The next start, or stop, takes away what is left.
set -eu
self=$(readlink -f "$0")
# shellcheck source=scripts/routes.sh
. "${self%/*}/routes.sh"
# shellcheck source=scripts/via-nft.sh
. "${self%/*}/via-nft.sh"
# shellcheck source=scripts/via-iptables.sh
. "${self%/*}/via-iptables.sh"

group=dtun-via users='' way=tunnel dns='' bypass='' strict='' tun=dtun0
table=765 pref=32470 mark=0x76000000/0xff000000
conf=${DTUN_VIA:-/etc/dtun-via.conf}
if [ -e "$conf" ]; then
    # shellcheck source=/dev/null
    . "$conf"
fi
TUN=${TUN:-$tun}
of=$run/$TUN.$here.via-

private='0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.168.0.0/16
224.0.0.0/4 240.0.0.0/4 ::/127 fc00::/7 fe80::/10 ff00::/8'

main() {
    # By another name it is the command that was installed.
    [ "${0##*/}" = "${self##*/}" ] || run "$@"
    command=${1:-${EVENT:-}}
    [ $# -eq 0 ] || shift
    case $command in
        start | up | uplink) start ;;
        stop | down) stop ;;
        run) run "$@" ;;
        install) install_ "${1:-/usr/local/bin/t}" ;;
        uninstall) uninstall "${1:-/usr/local/bin/t}" ;;
        *) fail 'use: dtun-via.sh start|stop|run COMMAND..|install [FILE]|uninstall [FILE]' ;;
    esac
}

start() {
    who
    case $way in tunnel | direct) ;; *) fail "way=$way: it is \"tunnel\" or \"direct\"" ;; esac
    umask 077
    mkdir -p "$run"
    forget_vanished
    ip link show dev "$TUN" >/dev/null 2>&1 || fail "there is no $TUN: start dtun first"
    value=${mark%/*} mask=${mark#*/}
    : >"${of}list"
    fault=
    [ -z "$bypass" ] || [ -r "$bypass" ] || fault="cannot read the bypass list $bypass" bypass=
    # shellcheck disable=SC2086 # several networks
    { printf '%s\n' $private && cat "${bypass:-/dev/null}"; } >"${of}list.raw"
    counts=$(tidy <"${of}list.raw" 2>&1 >"${of}list.new") || fail "$counts"

    has6=1
    [ "$way" = direct ] || six || has6=
    filter
    routes
    rules
    rm "$of"list*
    what="group ${gid:-none}${uids:+, users $uids}"
    echo "$what: $way, but for private networks and ${bypass:-no list}: $counts"
    [ -z "$fault" ] || fail "$fault"
}

stop() {
    forget "$TUN" via-
    forget_vanished
}

# Sets $gid and $uids.
who() {
    gid='' uids=''
    if [ -n "$users" ]; then
        for user in $users; do
            uid=$(id -u "$user") || fail "there is no user $user"
            [ "$uid" != 0 ] || fail 'root is the user of dtun itself: take a group'
            uids="$uids${uids:+ }$uid"
        done
        return
    fi
    gid=$(gid_of "$group")
    [ -n "$gid" ] || fail "there is no group $group: dtun-via.sh install makes it"
}

gid_of() {
    case $1 in
        *[!0-9]*) awk -F: -v group="$1" '$1 == group { print $3; exit }' /etc/group ;;
        *) echo "$1" ;;
    esac
}

# The marks, the masquerade, the resolver.
filter() {
    valid_mark
    localnet
    if command -v nft >/dev/null; then
        echo dtun-via >"${of}nft.new"
        renew "${of}nft"
        nft_table | nft -f - || fail 'nft refuses the table dtun-via'
    elif command -v iptables >/dev/null && command -v ipset >/dev/null; then
        iptables_rules
    else
        fail 'it takes nft, or iptables with ipset'
    fi
}

# Answers find back to programs that asked 127.0.0.53.
localnet() {
    [ -n "$dns" ] || return 0
    file=/proc/sys/net/ipv4/conf/$TUN/route_localnet
    [ -e "${of}sysctl" ] || echo "$file $(cat "$file")" >"${of}sysctl"
    echo 1 >"$file" || echo "cannot write $file: who asks 127.0.0.53 gets no answer" >&2
}

# The table that is asked for what the main table has no network for.
routes() {
    for net in 0.0.0.0/0 ::/0; do
        if [ "$way" = tunnel ]; then
            [ "$net" = ::/0 ] && [ -z "$has6" ] || echo "$net dev $TUN table $table"
        elif by_halves "$net"; then
            hop=$(way "${net%/0}" /dev/null)
            [ -z "$hop" ] || echo "$net $hop table $table"
        fi
    done >"${of}tunnel.new"
    said=$(renew "${of}tunnel" | grep -v 'File exists' || :)
    [ -z "$said" ] || fail "table $table: $said"
}

# Whether the tunnel covers the main table's default route with its two halves.
by_halves() {
    case $1 in
        *:*) ip -6 route list table main | grep -q "^::/1 dev $TUN " ;;
        *) ip -4 route list table main | grep -q "^0\.0\.0\.0/1 .*dev $TUN " ;;
    esac
}

# Whether the tunnel has IPv6 to the outside: as a hook is told, else by its address.
six() {
    [ "${OUT6:-1}" = 1 ] && ip -6 addr show dev "$TUN" | grep -q 'inet6.* global'
}

rules() {
    # "direct" passes over a default route and over one in two halves.
    shortest=0
    [ "$way" = tunnel ] || shortest=1
    for family in -4 -6; do
        echo "$family pref $pref fwmark $mark table main suppress_prefixlength $shortest"
        echo "$family pref $((pref + 1)) fwmark $mark table $table"
        if [ "$way" = direct ]; then
            echo "$family pref $((pref + 2)) fwmark $mark table main"
        elif [ -n "$strict" ]; then
            echo "$family pref $((pref + 2)) fwmark $mark type unreachable"
        else
            not_beside "$family"
        fi
    done >"${of}rules.new"
    said=$(renew "${of}rules" | grep -v 'File exists' || :)
    [ -z "$said" ] || fail "the rules are not complete: $said"
}

# Without the tunnel's device its table is empty: what was translated for the
# resolver does not get there by another way.
not_beside() {
    server=$(resolver "${1#-}")
    [ -z "$server" ] || echo "$1 pref $((pref + 2)) to $server fwmark $mark type unreachable"
}

# run COMMAND..: in the group, or as the first of the users; a shell by itself.
run() {
    [ $# -gt 0 ] || set -- "${SHELL:-/bin/sh}"
    if [ -n "$users" ]; then
        user=${users%% *}
        [ "$(id -un)" != "$user" ] || exec "$@"
        [ "$(id -u)" = 0 ] || exec sudo -u "$user" -- "$@"
        exec su -s /bin/sh "$user" -c "$(quoted "$@")"
    fi
    gid=$(gid_of "$group")
    [ -n "$gid" ] || fail "there is no group $group: dtun-via.sh install makes it"
    [ "$(id -g)" != "$gid" ] || exec "$@"
    if [ "$(id -u)" = 0 ]; then
        ! setpriv --regid "$gid" --keep-groups true 2>/dev/null ||
            exec setpriv --regid "$gid" --keep-groups "$@"
        ! command -v start-stop-daemon >/dev/null || by_daemon "$@"
    fi
    command -v sg >/dev/null || fail 'it takes sg (package login or shadow) to run a program in a group'
    exec sg "$group" -c "exec $(quoted "$@")"
}

# Busybox alone has nothing else that sets a group. The pid file keeps it from
# looking whether the program runs already.
by_daemon() {
    program=$(command -v "$1") || fail "there is no $1"
    shift
    exec start-stop-daemon -S -q -p /dev/null/none -c "0:$gid" -x "$program" -- "$@"
}

# The words for a shell that reads them again.
quoted() {
    for word; do
        printf "'%s' " "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")"
    done
}

install_() {
    if [ -z "$users" ] && [ -z "$(gid_of "$group")" ]; then
        groupadd --system "$group" 2>/dev/null || addgroup -S "$group" || fail "there is no group $group"
    fi
    [ ! -e "$1" ] || [ "$(readlink -f "$1")" = "$self" ] || fail "$1 is something else: name another file"
    ln -sf "$self" "$1"
    [ -n "$users" ] || echo "whoever shall use $1: usermod -aG $group USER"
}

uninstall() {
    [ "$(readlink -f "$1")" = "$self" ] || fail "$1 is not this script's"
    rm "$1"
}

main "$@"
