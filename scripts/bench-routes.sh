#!/bin/sh
# Measures what a list of networks that stay out of the tunnel costs, in network
# namespaces of this machine: how long it takes to come and go, beside
# `ip -batch`, and how many small packets a router then passes on to a network of
# the list, beside a router without dtun.
#
#   pc ---- spoke ---- hub
#
# Prints medians. As root; scripts/bench-routes.sh -h tells the options.
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=scripts/bench/options.sh
. scripts/bench/options.sh
# shellcheck source=scripts/bench/network.sh
. scripts/bench/network.sh

usage() {
    cat <<'END'
scripts/bench-routes.sh [OPTION VALUE]..      as root

  -networks N,..      sizes of the list             1,10000,100000
  -rounds N                                         3
  -seconds N          each measurement of packets   4

DTUN=PATH takes a program that is already built.
END
}

main() {
    options "$@"
    needs ip:iproute2 nft:nftables iperf3:iperf3 ping:iputils-ping
    build_dtun

    work=$(mktemp -d)
    trap clean EXIT
    trap 'exit 1' INT TERM
    network
    hub

    round=0
    while [ "$round" -lt "$rounds" ]; do
        round=$((round + 1))
        packets 0
        for networks in $sizes; do
            write_list "$networks"
            by_batch "$networks"
            by_dtun "$networks"
        done
    done
    echo "medians of $rounds rounds; $("$dtun" -version)"
    table
}

options() {
    sizes='1 10000 100000' rounds=3 seconds=4
    read_options "$@"
    # shellcheck disable=SC2086 # several numbers
    numbers $sizes "$rounds" "$seconds"
}

option() {
    case $1 in
        -networks) sizes=$(list "$2") ;;
        -rounds) rounds=$2 ;;
        -seconds) seconds=$2 ;;
        *) return 1 ;;
    esac
}

flag() { return 1; }

network() {
    hosts
    ip netns add "pc$id"
    wire on
    ip link add lan netns "spoke$id" type veth peer name lan netns "pc$id"
    for end in 'spoke 192.168.8.1' 'pc 192.168.8.2'; do
        in_ "${end% *}" ip addr add "${end#* }/24" dev lan
        in_ "${end% *}" ip link set lan up
    done
    in_ spoke sysctl -qw net.ipv4.ip_forward=1
    in_ pc ip route add default via 192.168.8.1
    in_ hub ip addr add 203.0.113.1/32 dev lo
    in_ hub ip route add 192.168.8.0/24 via "$spoke_address"
    in_ spoke ip route add default via "$hub_address"
}

hub() {
    umask 077
    echo 0123456789abcdef0123456789abcdef >"$work/key"
    other hub.log hub "$dtun" -key-file "$work/key" -state "$work/state"
    says hub.log listening || fail "the hub: $(tail -n 3 "$work/hub.log")"
    # An answer must come from the address that was asked.
    other iperf.log hub iperf3 -s -B 203.0.113.1
}

# write_list N: networks of which no two are neighbours, and the one that is measured.
write_list() {
    awk -v n="$1" 'BEGIN {
        print "203.0.113.0/25"
        for (i = 1; i < n; i++) printf "%d.%d.%d.0/25\n", 100 + i / 65536, i / 256 % 256, i % 256
    }' >"$work/list"
}

# What ip takes for the same networks in a table of its own.
by_batch() {
    sed 's/.*/route add throw & table 77/' "$work/list" >"$work/add"
    sed 's/.*/route del throw & table 77/' "$work/list" >"$work/del"
    sample "$1" batch_add "$(seconds_of in_ spoke ip -batch "$work/add")"
    sample "$1" batch_del "$(seconds_of in_ spoke ip -batch "$work/del")"
}

by_dtun() {
    daemon spoke.log spoke "$dtun" -key-file "$work/key" -connect "$hub_address:443" -id bench \
        -route default -bypass "$work/list" -state "$work/state" -v
    says spoke.log 'tunnel up' || fail "the spoke: $(tail -n 3 "$work/spoke.log")"
    sample "$1" dtun_add "$(took 'routes stand')"
    packets "$1"
    stop_spoke
    sample "$1" dtun_del "$(took 'routes removed')"
}

stop_spoke() {
    for pid in $daemons; do
        kill "$pid"
        wait "$pid" || :
    done
    daemons=
}

# packets N: thousands a second that arrive at a network of the list.
packets() {
    within 5 in_ pc ping -n -c 1 -W 1 203.0.113.1 || fail 'nothing gets through'
    in_ pc iperf3 --client 203.0.113.1 --udp --length 100 --bitrate 0 --time "$seconds" \
        --format k >"$work/iperf" 2>&1 || fail "iperf3: $(tail -n 2 "$work/iperf")"
    sample "$1" kpps "$(awk '/receiver$/ {
        for (i = 2; i <= NF; i++) {
            if ($i == "sec") split($(i - 1), interval, "-")
            if ($i ~ /^[0-9]+\/[0-9]+$/) split($i, lost, "/")
        }
        printf "%.1f", (lost[2] - lost[1]) / (interval[2] - interval[1]) / 1000
    }' "$work/iperf")"
}

# seconds_of COMMAND..
seconds_of() {
    began=$(date +%s%N)
    "$@"
    ended=$(date +%s%N)
    awk -v ns="$((ended - began))" 'BEGIN { printf "%.3f", ns / 1e9 }'
}

# took TEXT: the seconds in the last line of the spoke's log that has it.
took() {
    sed -n "s/.*$1.* took=\([0-9.]*\)\([a-zµ]*\).*/\1 \2/p" "$work/spoke.log" | awk '
        { unit["s"] = 1; unit["ms"] = 1e-3; unit["µs"] = 1e-6; seconds = $1 * unit[$2] }
        END { printf "%.3f", seconds }'
}

sample() {
    echo "$1 $2 $3" >>"$work/samples"
}

table() {
    LC_ALL=C sort -k1,1n -k2,2 -k3,3n "$work/samples" | awk '
        { key = $1 " " $2; value[key, ++count[key]] = $3; size[$1] = 1; if (!seen[$1]++) order[++sizes] = $1 }
        function median(key) { return count[key] ? value[key, int((count[key] + 1) / 2)] : "-" }
        END {
            print "| networks | ip -batch add s | dtun s | ip -batch del s | dtun s | kpps |"
            print "| --- | --- | --- | --- | --- | --- |"
            for (i = 1; i <= sizes; i++) {
                n = order[i]
                printf "| %s | %s | %s | %s | %s | %s |\n", n ? n : "no dtun", median(n " batch_add"),
                    median(n " dtun_add"), median(n " batch_del"), median(n " dtun_del"), median(n " kpps")
            }
        }'
}

clean() {
    status=$?
    trap '' INT TERM
    stop
    remove_hosts
    ip netns del "pc$id" 2>/dev/null || :
    rm -r "$work"
    exit "$status"
}

fail() {
    echo "bench-routes: $*" >&2
    exit 1
}

main "$@"
