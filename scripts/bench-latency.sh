#!/bin/sh
# Measures how long a ping takes while TCP fills a slow link, through the
# tunnel and beside it, in network namespaces of this machine:
#
#   spoke ---- router ---- hub
#
# The link is slow (tbf) in the middle, where a queue is the router's own
# affair, or at both ends, where it is that of the sender: its TCP, or dtun.
# With and without the tunnel take turns, round by round. Prints medians.
# As root; scripts/bench-latency.sh -h tells the options.
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=scripts/bench/options.sh
. scripts/bench/options.sh
# shellcheck source=scripts/bench/network.sh
. scripts/bench/network.sh

usage() {
    cat <<'END'
scripts/bench-latency.sh [OPTION VALUE]..      as root

  -where router,uplink      the slow link             both of them
  -way up,down              where TCP sends           both of them
  -rate MBIT                of the slow link          50
  -queue MS                 tbf's latency             50
  -tcp NAME                 congestion control        cubic
  -streams N                                          1
  -rounds N                                           5
  -seconds N                each measurement, 4 or more   8
  -samples PATH             keep what was measured

DTUN=PATH takes a program that is already built, DTUN_FLAGS go to both ends.
END
}

main() {
    options "$@"
    needs ip:iproute2 tc:iproute2 iperf3:iperf3 ping:iputils-ping
    build_dtun

    work=$(mktemp -d)
    trap clean EXIT
    trap 'exit 1' INT TERM
    samples=${samples:-$work/samples}
    network
    start

    round=0
    while [ "$round" -lt "$rounds" ]; do
        round=$((round + 1))
        for where in $wheres; do
            slow "$where"
            for way in $ways; do
                measure without 203.0.113.2
                measure with 10.0.0.1
            done
        done
    done
    echo "$rate Mbit/s, tbf with $queue ms, $tcp, $streams stream(s); medians of $rounds rounds of $seconds s; $("$dtun" -version)"
    LC_ALL=C awk -f scripts/bench/median.awk -f scripts/bench/latency.awk "$samples"
}

options() {
    wheres='router uplink' ways='up down' rate=50 queue=50 tcp=cubic streams=1 rounds=5 seconds=8 samples=''
    read_options "$@"
    numbers "$rate" "$queue" "$streams" "$rounds" "$seconds"
    [ "$seconds" -gt 3 ] || fail '-seconds: at least 4, for the first 3 are not measured'
}

option() {
    case $1 in
        -where) wheres=$(list "$2") ;;
        -way) ways=$(list "$2") ;;
        -rate) rate=$2 ;;
        -queue) queue=$2 ;;
        -tcp) tcp=$2 ;;
        -streams) streams=$2 ;;
        -rounds) rounds=$2 ;;
        -seconds) seconds=$2 ;;
        -samples) samples=$2 ;;
        *) return 1 ;;
    esac
}

flag() { return 1; }

network() {
    for host in spoke router hub; do
        ip netns add "$host$id"
        in_ "$host" ip link set lo up
    done
    in_ router sysctl -qw net.ipv4.ip_forward=1
    join spoke 198.51.100
    join hub 203.0.113
}

# join HOST NET: the host has NET.2 on `wire`, the router NET.1 on a link of the host's name.
join() {
    ip link add wire netns "$1$id" type veth peer name "$1" netns "router$id"
    in_ router ip addr add "$2.1/24" dev "$1"
    in_ router ip link set "$1" up
    in_ "$1" ip addr add "$2.2/24" dev wire
    in_ "$1" ip link set wire up
    in_ "$1" ip route add default via "$2.1"
}

remove_hosts() {
    for host in spoke router hub; do ip netns del "$host$id" 2>/dev/null || :; done
}

# slow router|uplink
slow() {
    for at in 'router spoke' 'router hub' 'spoke wire' 'hub wire'; do
        in_ "${at% *}" tc qdisc del dev "${at#* }" root 2>/dev/null || :
    done
    case $1 in
        router) set -- 'router spoke' 'router hub' ;;
        uplink) set -- 'spoke wire' 'hub wire' ;;
        *) fail "-where is router or uplink" ;;
    esac
    for at; do
        in_ "${at% *}" tc qdisc add dev "${at#* }" root tbf rate "${rate}mbit" burst 16kb latency "${queue}ms"
    done
}

start() {
    umask 077
    echo 0123456789abcdef0123456789abcdef >"$work/key"
    # shellcheck disable=SC2086 # several flags
    daemon hub.log hub "$dtun" -key-file "$work/key" -state "$work/state" ${DTUN_FLAGS:-}
    says hub.log listening || fail "the hub: $(tail -n 3 "$work/hub.log")"
    # shellcheck disable=SC2086
    daemon spoke.log spoke "$dtun" -key-file "$work/key" -connect 203.0.113.2:443 -id spoke ${DTUN_FLAGS:-}
    says spoke.log 'tunnel up' || fail "the spoke: $(tail -n 3 "$work/spoke.log")"
    other iperf.hub.log hub iperf3 -s
    within 5 in_ hub sh -c 'ss -Hltn "sport = 5201" | grep -q .' || fail 'no iperf3 server'
}

# measure with|without TARGET: TCP, and pings once it is in its stride.
measure() {
    case $way in up) reverse='' ;; down) reverse=-R ;; *) fail '-way is up or down' ;; esac
    # shellcheck disable=SC2086 # no word if there is nothing to reverse
    in_ spoke timeout -k 1 $((seconds + 10)) iperf3 -c "$2" -t "$seconds" -f k -C "$tcp" -P "$streams" $reverse \
        >"$work/iperf" 2>&1 &
    load=$!
    sleep 2
    in_ spoke ping -n -i 0.02 -c $(((seconds - 3) * 50)) -W 1 "$2" >"$work/ping" || :
    wait "$load" || fail "iperf3: $(tail -n 2 "$work/iperf")"

    sed -n 's/.*time=\([0-9.]*\) ms/\1/p' "$work/ping" | sort -n >"$work/times"
    for what in "median 50" "worst 95"; do
        sample "$1" "${what% *}" "$(awk -v percent="${what#* }" \
            '{ time[NR] = $1 } END { print NR ? time[int((NR * percent + 99) / 100)] : "-" }' "$work/times")"
    done
    sample "$1" lost "$(sed -n 's/.* \([0-9.]*\)% packet loss.*/\1/p' "$work/ping")"
    # With several streams the last line is their sum.
    sample "$1" rate "$(awk '/receiver$/ { for (i = 2; i <= NF; i++) if ($i == "Kbits/sec") rate = $(i - 1) / 1000 } END { print rate + 0 }' "$work/iperf")"
    sample "$1" again "$(awk '/sender$/ { again = $(NF - 1) } END { print again + 0 }' "$work/iperf")"
}

# sample with|without WHAT VALUE
sample() {
    echo "$where.$way $1 $2 $3" >>"$samples"
    echo "round $round, $where, $way, $1 the tunnel: $2 $3" >&2
}

fail() {
    echo "bench-latency: $*" >&2
    exit 1
}

clean() {
    status=$?
    trap '' INT TERM
    stop
    remove_hosts
    rm -r "$work"
    exit "$status"
}

main "$@"
