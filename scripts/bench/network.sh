# shellcheck shell=sh
# Two network namespaces and the wire between them, and the processes in them.
# $work: a directory for logs.

id=-bench$$
hub_address=192.0.2.1
spoke_address=192.0.2.2
daemons=
others=

hosts() {
    for host in spoke hub; do
        ip netns add "$host$id"
        in_ "$host" ip link set lo up
        in_ "$host" sysctl -qw net.ipv6.conf.default.accept_dad=0
    done
}

remove_hosts() {
    for host in spoke hub; do ip netns del "$host$id" 2>/dev/null || :; done
}

# wire on|off: a new one, with the offloads it is born with, or without.
wire() {
    in_ spoke ip link del wire 2>/dev/null || :
    ip link add wire netns "spoke$id" type veth peer name wire netns "hub$id"
    for end in "hub $hub_address" "spoke $spoke_address"; do
        [ "$1" = on ] || in_ "${end% *}" ethtool -K wire tso off gso off gro off tx off >/dev/null 2>&1
        in_ "${end% *}" ip addr add "${end#* }/24" dev wire
        in_ "${end% *}" ip link set wire up
    done
}

in_() {
    host=$1
    shift
    ip netns exec "$host$id" "$@"
}

# daemon LOG HOST COMMAND..: a process of the program that is measured.
daemon() {
    log=$1 at=$2
    shift 2
    ip netns exec "$at$id" "$@" >"$work/$log" 2>&1 &
    daemons="$daemons $!"
}

# other LOG HOST COMMAND..: one that belongs to the measurement.
other() {
    log=$1 at=$2
    shift 2
    ip netns exec "$at$id" "$@" >"$work/$log" 2>&1 &
    others="$others $!"
}

# Ends what daemon and other have started.
stop() {
    for pid in $daemons $others; do kill "$pid" 2>/dev/null || :; done
    for pid in $daemons $others; do
        # A child that is slow to go is shown the door.
        (within 5 gone "$pid" || kill -KILL "$pid") 2>/dev/null || :
        wait "$pid" 2>/dev/null || :
    done
    daemons='' others=''
}

# A child that has ended is a zombie until it is waited for.
gone() {
    ! [ -e "/proc/$1" ] || grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null
}

# within SECONDS COMMAND..: until it succeeds; fails when the time is over.
within() {
    tries=$(($1 * 20))
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.05
    done
}

# says LOG TEXT
says() {
    within 15 grep -q -- "$2" "$work/$1"
}

answers() {
    within 10 in_ spoke ping -n -c 1 -W 1 "$target"
}
