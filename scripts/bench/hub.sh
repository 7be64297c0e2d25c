# shellcheck shell=sh
# scripts/bench.sh hub: one hub and many spokes. What an idle hub takes, what
# each further session takes, and what a busy spoke keeps of its rate beside
# 1,000 others, and while others do 2,000 handshakes a second. The others are
# one process (server/examples/crowd.rs).

hub_main() {
    build_dtun
    crowd=${CARGO_TARGET_DIR:-target}/release/examples/crowd
    cargo build --release --quiet -p dtun-server --example crowd
    crowd=$(realpath "$crowd")
    note machine "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores, Linux $(uname -r)"
    note command "scripts/bench.sh hub, $rounds rounds of $seconds s, $spokes spokes beside the busy one"
    note dtun "$("$dtun" -version)"
    # A socket each.
    ulimit -n "$(ulimit -Hn)"
    hosts
    veth=on
    round=0
    while [ "$round" -lt "$rounds" ]; do
        round=$((round + 1))
        wire on
        hub_round
        stop
    done
    awk -f scripts/bench/median.awk -f scripts/bench/hub.awk "$samples"
}

hub_round() {
    program=dtun
    # shellcheck disable=SC2086 # several flags
    start_hub "$dtun" -state "$work/hub$round" ${DTUN_FLAGS:-} || fail "the hub did not start"
    hub_pid=${daemons##* }
    sleep 1
    sample idle-kib "$(resident)"
    # shellcheck disable=SC2086 # several flags
    start_spoke "$dtun" -state "$work/spoke$round" ${DTUN_FLAGS:-} && answers || fail "the spoke did not start"

    rate alone
    without=$(resident)
    other crowd.log spoke "$crowd" idle "$hub_address:443" bench "$spokes"
    crowd_pid=${others##* }
    within 120 grep -q '^ready' "$work/crowd.log" || fail "the crowd did not come: $(tail -n 3 "$work/crowd.log")"
    sample session-kib "$(awk -v grown="$(($(resident) - without))" -v many="$spokes" 'BEGIN { printf "%.1f", grown / many }')"
    before=$(ticks "$hub_pid")
    sleep 5
    sample idle-cpu "$(awk -v ticks="$(($(ticks "$hub_pid") - before))" -v hz="$(getconf CLK_TCK)" 'BEGIN { printf "%.2f", ticks / hz / 5 * 100 }')"
    rate many
    kill "$crowd_pid"
    dispersed || :

    share
    handshakes $((seconds + 1))
    sleep 0.5
    rate beside
    dispersed || :
    sample beside-handshakes "$(awk -v time=$((seconds + 1)) '/handshakes$/ { printf "%.0f", $1 / time }' "$work/crowd.log")"
}

# Waits for the crowd, whose number may be another process's after that.
dispersed() {
    others=$(echo "$others " | sed "s/ $crowd_pid / /")
    wait "$crowd_pid"
}

# handshakes SECONDS: starts the crowd that does them.
handshakes() {
    ip netns exec "spoke$id" "$crowd" handshakes "$hub_address:443" bench 2000 "$1" >"$work/crowd.log" 2>&1 &
    crowd_pid=$!
    others="$others $crowd_pid"
}

# The share of all cores that the handshakes take, with nothing else to do: the
# part of its rate that a busy spoke may lose to them.
share() {
    before=$(ticks "$hub_pid")
    waited=$(children)
    handshakes "$seconds"
    dispersed || fail "no handshakes: $(tail -n 3 "$work/crowd.log")"
    spent=$(($(ticks "$hub_pid") - before + $(children) - waited))
    sample share "$(awk -v ticks="$spent" -v hz="$(getconf CLK_TCK)" -v time="$seconds" -v cores="$(nproc)" \
        'BEGIN { printf "%.3f", ticks / hz / time / cores }')"
    sample handshakes "$(awk -v time="$seconds" '/handshakes$/ { printf "%.0f", $1 / time }' "$work/crowd.log")"
}

rate() {
    if iperf; then
        sample "$1" "$(received | awk '{ printf "%.3f", $1 / 1e9 }')"
    else
        sample "$1" -
    fi
}

resident() {
    awk '/^VmRSS/ { print $2 }' "/proc/$hub_pid/status"
}

ticks() {
    sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'
}

# Ticks of the children that this shell has waited for.
children() {
    sed 's/.*) //' "/proc/$$/stat" | awk '{ print $14 + $15 }'
}
