#!/bin/sh
# Shows the main job in network namespaces of this machine, which it leaves as
# it was: a laptop sends everything through the hub, but for one network.
#
#   laptop ---- router ----+---- hub ---- www
#                          +---- direct
#
# As root. DTUN=PATH takes a program that is already built.
set -eu
cd "$(dirname "$0")/.."

main() {
    check
    build
    work=$(mktemp -d)
    trap clean EXIT
    trap 'exit 1' INT TERM
    network
    tables=$(routes)

    cat <<'PICTURE'

    laptop ---- router ----+---- hub ---- www        through the tunnel
 192.168.1.2               +---- direct              on the bypass list
PICTURE

    step 'The hub, then the spoke on the laptop'
    umask 077
    head -c 24 /dev/urandom | base64 >"$work/key"
    echo 192.0.2.0/24 >"$work/bypass"
    run hub.log hub "$dtun" -key-file "$work/key" -state "$work/state"
    wait_for hub.log listening
    DTUN_BYPASS=$work/bypass run laptop.log laptop "$dtun" -key-file "$work/key" \
        -connect 203.0.113.2:443 -id laptop -up "$PWD/scripts/up-split.sh" -down "$PWD/scripts/down-split.sh"
    spoke=$!
    wait_for laptop.log 'tunnel up'
    wait_for laptop.log 'all by dtun0'

    step 'Ping through the tunnel, both ways, IPv4 and IPv6'
    lease=$(in_ laptop ip -4 -o addr show dev dtun0 | sed 's/.*inet \([0-9.]*\).*/\1/')
    ping_ laptop 10.0.0.1
    ping_ laptop fc00::1
    ping_ hub "$lease"
    ping_ laptop 198.51.100.2

    step 'Who sees which address'
    for host in www direct; do
        run "$host.log" "$host" "$work/witness" serve 80 $((MEGABYTES * 1000000))
    done
    saw www 198.51.100.2 198.51.100.1 'the hub'
    saw www '[2001:db8:4::2]' 2001:db8:4::1 'the hub'
    saw direct 192.0.2.2 192.168.1.2 'the laptop itself'

    step 'Goodbye'
    kill -INT "$spoke"
    wait "$spoke" || fail "the spoke ended with $?"
    [ "$(routes)" = "$tables" ] || fail "the laptop's routes are not as before"
    echo "the laptop's routes are as they were before"

    step 'What the hub printed'
    cat "$work/hub.log"
    step 'What the spoke printed'
    cat "$work/laptop.log"
    printf '\nAll as it should be.\n'
}

check() {
    [ "$(id -u)" = 0 ] || fail 'needs root: run it with sudo'
    need ip iproute2
    need ping iputils-ping
    need nft nftables
    [ -n "${DTUN:-}" ] || need cc gcc
    need cargo 'cargo, from https://rustup.rs'
    [ -c /dev/net/tun ] || fail 'no /dev/net/tun: modprobe tun'
}

build() {
    step 'Building'
    dtun=${DTUN:-target/debug/dtun}
    [ -n "${DTUN:-}" ] || cargo build --quiet
    dtun=$(realpath "$dtun")
    mkdir -p target/demo
    rustc --edition 2024 -O -o target/demo/witness scripts/demo/witness.rs
    "$dtun" -version
}

network() {
    ln -s "$PWD/target/demo/witness" "$work/witness"
    for host in laptop router hub www direct; do
        ip netns add "$host$id"
        in_ "$host" ip link set lo up
        in_ "$host" sysctl -qw net.ipv6.conf.default.accept_dad=0
    done
    link laptop 192.168.1.2 2001:db8:1::2 router 192.168.1.1 2001:db8:1::1
    link hub 203.0.113.2 2001:db8:2::2 router 203.0.113.1 2001:db8:2::1
    link direct 192.0.2.2 2001:db8:3::2 router 192.0.2.1 2001:db8:3::1
    link www 198.51.100.2 2001:db8:4::2 hub 198.51.100.1 2001:db8:4::1
    for host in laptop hub direct; do
        via=$(in_ "$host" ip -4 -o route show proto kernel | sed 's/\.0\/24 .*/.1/' | grep -v '^198')
        in_ "$host" ip route add default via "$via"
    done
    in_ hub ip route add default via 2001:db8:2::1
    for host in router hub; do
        in_ "$host" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    done
    in_ hub nft -f - <<'RULES'
table inet nat {
    chain postrouting {
        type nat hook postrouting priority srcnat;
        iifname "dtun*" oifname != "dtun*" masquerade
    }
}
RULES
}

# link HOST IP4 IP6 HOST IP4 IP6: joins two hosts.
link() {
    ip link add "to-$4" netns "$1$id" type veth peer name "to-$1" netns "$4$id"
    for end in "$1 to-$4 $2 $3" "$4 to-$1 $5 $6"; do
        # shellcheck disable=SC2086 # four words
        set -- $end
        in_ "$1" ip addr add "$3/24" dev "$2"
        in_ "$1" ip addr add "$4/64" dev "$2" nodad
        in_ "$1" ip link set "$2" up
    done
}

in_() {
    host=$1
    shift
    ip netns exec "$host$id" "$@"
}

# run LOG HOST COMMAND..: in the background, until the demo ends.
run() {
    log=$1 at=$2
    shift 2
    ip netns exec "$at$id" "$@" >"$work/$log" 2>&1 &
    pids="$pids $!"
}

# Every wait has an end.
wait_for() {
    tries=0
    until grep -q -- "$2" "$work/$1"; do
        tries=$((tries + 1))
        [ "$tries" -lt 150 ] || fail "waited 15 s for \"$2\" in $1"
        sleep 0.1
    done
}

ping_() {
    in_ "$1" ping -n -c 3 -i 0.2 -W 2 "$2" >"$work/ping" || fail "$1 cannot ping $2: $(cat "$work/ping")"
    echo "$1 -> $2: $(tail -n 1 "$work/ping")"
}

# saw HOST ADDRESS EXPECTED WHO: the laptop loads MEGABYTES from a host.
saw() {
    tries=0
    until answer=$(in_ laptop "$work/witness" ask "$2:80" 2>"$work/ask"); do
        tries=$((tries + 1))
        [ "$tries" -lt 20 ] || fail "laptop asks $1 at $2: $(cat "$work/ask")"
        sleep 0.1
    done
    [ "$answer" = "$3 $((MEGABYTES * 1000000))" ] || fail "$1 at $2 said $answer, not $3"
    echo "$1 at $2 saw ${answer% *}, $4; ${answer#* } bytes came, all of them right"
}

routes() {
    in_ laptop ip -4 route show table all
    in_ laptop ip -6 route show table all
}

step() {
    printf '\n== %s\n' "$*"
}

need() {
    command -v "$1" >/dev/null || fail "$1 is missing: install $2"
}

fail() {
    echo "demo: $*" >&2
    if [ -n "${work:-}" ]; then tail -n 20 "$work"/*.log >&2; fi
    exit 1
}

clean() {
    status=$?
    for pid in $pids; do kill "$pid" 2>/dev/null || :; done
    wait
    for host in laptop router hub www direct; do ip netns del "$host$id" 2>/dev/null || :; done
    rm -r "$work"
    exit "$status"
}

MEGABYTES=20
id=-demo$$
pids=

main
