#!/bin/sh
# Measures dtun beside the bare wire and other VPNs that run in user space, in
# network namespaces of this machine, which it leaves as it was:
#
#   spoke ---- wire ---- hub
#
# Programs take turns, round by round, so that a machine that slows down slows
# all of them. Prints medians as a table, and draws the plot of the README.
# As root; scripts/bench.sh -h tells the options.
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=scripts/bench/options.sh
. scripts/bench/options.sh
# shellcheck source=scripts/bench/network.sh
. scripts/bench/network.sh
# shellcheck source=scripts/bench/programs.sh
. scripts/bench/programs.sh
# shellcheck source=scripts/bench/measure.sh
. scripts/bench/measure.sh
# shellcheck source=scripts/bench/hub.sh
. scripts/bench/hub.sh

usage() {
    cat <<'END'
scripts/bench.sh [OPTION VALUE]..        the data path, as root
scripts/bench.sh hub [OPTION VALUE]..    one hub, many spokes: memory, rates

  -only NAME,..      raw, dtun, gotatun, boringtun, openvpn, ocserv   all of them
                     ccm8, pion: dtun with the cipher of the Go program, and a
                     pair of peers like it; NAME=PATH: another build of dtun
  -measure WHAT,..   up, down, streams, udp, ping             all of them
  -veth on|off|both  the wire's offloads                      both
  -rounds N                                                   3
  -seconds N         each measurement                         5
  -spokes N          beside the busy one of "hub"             1000
  -quick             one round of 2 seconds
  -svg PATH          draw the plot
  -samples PATH      keep what was measured; a file that has samples is added to
  -table PATH        measure nothing, print the table of such a file

DTUN=PATH takes a program that is already built, DTUN_FLAGS go to both ends.
BENCH_CACHE=DIR keeps the peers that are compiled here (target/bench).
BENCH_EXTRA='NAME=SCRIPT ..' measures more: SCRIPT HUB SPOKE HUB-ADDRESS
SPOKE-ADDRESS DIRECTORY joins the two namespaces, prints "ready ADDRESS" (the
hub's in the tunnel) and stays until SIGTERM; what it started ends with it.
END
}

main() {
    mode=path
    if [ "${1:-}" = hub ]; then
        mode=hub
        shift
    fi
    options "$@"
    if [ -n "$table" ]; then
        samples=$table
        report
        exit
    fi
    needs ip:iproute2 ethtool:ethtool iperf3:iperf3 ping:iputils-ping
    [ -c /dev/net/tun ] || fail 'no /dev/net/tun: modprobe tun'

    work=$(mktemp -d)
    trap clean EXIT
    trap 'exit 1' INT TERM
    samples=${samples:-$work/samples}
    if [ "$mode" = hub ]; then
        hub_main
        exit
    fi
    prepare
    hosts

    round=0
    while [ "$round" -lt "$rounds" ]; do
        round=$((round + 1))
        for veth in $veths; do
            wire "$veth"
            for name in $programs; do measure "$name"; done
        done
    done
    report
}

options() {
    programs='raw dtun gotatun boringtun openvpn ocserv' whats='up down streams udp ping'
    veths='on off' rounds=3 seconds=5 spokes=1000 svg='' samples='' table='' given=''
    read_options "$@"
    numbers "$rounds" "$seconds" "$spokes"
    for extra in ${BENCH_EXTRA:-}; do
        case " $programs " in *" ${extra%%=*} "*) ;; *) [ -n "$given" ] || programs="$programs ${extra%%=*}" ;; esac
    done
}

option() {
    case $1 in
        -only) programs=$(list "$2") given=1 ;;
        -measure) whats=$(list "$2") ;;
        -veth) case $2 in both) veths='on off' ;; on | off) veths=$2 ;; *) fail '-veth is on, off or both' ;; esac ;;
        -rounds) rounds=$2 ;;
        -seconds) seconds=$2 ;;
        -spokes) spokes=$2 ;;
        -svg) svg=$2 ;;
        -samples) samples=$2 ;;
        -table) table=$2 ;;
        *) return 1 ;;
    esac
}

flag() {
    case $1 in
        -quick) rounds=1 seconds=2 ;;
        *) return 1 ;;
    esac
}

# measure NAME: starts a program, measures, ends it.
measure() {
    program=${1%%=*} daemons='' target=''
    if ! start "$1"; then
        echo "$program did not start with the offloads $veth: $(tail -n 3 "$work"/"$program".*log)" >&2
        stop
        return
    fi
    for what in $whats; do "measure_$what"; done
    memory
    stop
}

sample() {
    echo "$veth $program $1 $2" >>"$samples"
    echo "round $round, offloads $veth, $program: $1 $2" >&2
}

report() {
    LC_ALL=C awk -f scripts/bench/median.awk -f scripts/bench/table.awk "$samples"
    [ -z "$svg" ] || LC_ALL=C awk -f scripts/bench/median.awk -f scripts/bench/plot.awk "$samples" >"$svg"
}

fail() {
    echo "bench: $*" >&2
    exit 1
}

clean() {
    status=$?
    trap '' INT TERM
    stop
    # A WireGuard that is ended leaves its control socket.
    rm -f "/var/run/wireguard/wg1-$$.sock" "/var/run/wireguard/wg2-$$.sock"
    remove_hosts
    rm -r "$work"
    exit "$status"
}

main "$@"
