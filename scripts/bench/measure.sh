# shellcheck shell=sh
# The measurements. Each leaves a sample of $program, or "-" when it failed.

# The server end of iperf3 that the next measurement talks to.
listen() {
    in_ hub ss -Hltn 'sport = 5201' | grep -q . && return
    other iperf.hub.log hub iperf3 -s
    within 5 in_ hub sh -c 'ss -Hltn "sport = 5201" | grep -q .'
}

measure_up() {
    tcp up
}

measure_down() {
    tcp down --reverse
}

measure_streams() {
    tcp streams --parallel 4
}

# tcp NAME OPTION..: Gb/s, and the daemons' CPU seconds for each 10^9 bytes.
tcp() {
    what=$1
    shift
    before=$(spent)
    if ! iperf "$@"; then
        sample "$what" -
        return
    fi
    after=$(spent)
    sample "$what" "$(received | awk '{ printf "%.3f", $1 / 1e9 }')"
    [ -z "$daemons" ] || [ "$what" = streams ] ||
        sample cpu "$(received | awk -v spent="$((after - before))" -v hz="$(getconf CLK_TCK)" \
            '$1 > 0 { printf "%.3f", spent / hz / ($1 * $2 / 8e9) }')"
}

# Thousands of packets of 100 bytes a second that arrive, sent without a limit.
measure_udp() {
    if ! iperf --udp --length 100 --bitrate 0; then
        sample udp -
        return
    fi
    sample udp "$(received | awk '$2 > 0 { printf "%.1f", $3 / $2 / 1000 }')"
}

# The median round trip in µs while nothing else happens.
measure_ping() {
    in_ spoke ping -n -i 0.01 -c 300 -W 1 "$target" >"$work/ping" || :
    sample ping "$(sed -n 's/.*time=\([0-9.]*\) ms/\1/p' "$work/ping" | sort -n |
        awk '{ time[NR] = $1 } END { if (NR) printf "%.0f", time[int((NR + 1) / 2)] * 1000; else print "-" }')"
}

iperf() {
    listen
    in_ spoke timeout -k 1 $((seconds + 10)) iperf3 --client "$target" --time "$seconds" --format k "$@" \
        >"$work/iperf" 2>&1 || {
        tail -n 2 "$work/iperf" >&2
        # A server that waits for the rest of a failed run answers no other.
        for pid in $others; do kill "$pid" 2>/dev/null || :; done
        for pid in $others; do wait "$pid" 2>/dev/null || :; done
        others=''
        return 1
    }
}

# "BITS-A-SECOND SECONDS PACKETS" as the receiver counted them.
received() {
    awk '/receiver$/ {
        for (i = 2; i <= NF; i++) {
            if ($i == "Kbits/sec") rate = $(i - 1) * 1000
            if ($i == "sec") { split($(i - 1), interval, "-"); seconds = interval[2] - interval[1] }
            if ($i ~ /^[0-9]+\/[0-9]+$/) { split($i, lost, "/"); packets = lost[2] - lost[1] }
        }
    }
    END { print rate + 0, seconds + 0, packets + 0 }' "$work/iperf"
}

# Clock ticks that the daemons and their children have used.
spent() {
    family | awk '{ sum += $2 } END { print sum + 0 }'
}

# MiB of the larger end.
memory() {
    [ -z "$daemons" ] ||
        sample rss "$(family | awk -v page="$(getconf PAGESIZE)" \
            '{ size[$1] += $3 * page / 1048576 } END { for (i in size) if (size[i] > most) most = size[i]; printf "%.1f", most }')"
}

# "DAEMON TICKS PAGES" for each process that is a daemon or comes from one.
family() {
    cat /proc/[0-9]*/stat 2>/dev/null | awk -v daemons="$daemons" '
        BEGIN { for (n = split(daemons, list, " "); n > 0; n--) daemon[list[n]] }
        { sub(/\(.*\)/, "name"); parent[$1] = $4; ticks[$1] = $14 + $15; pages[$1] = $24 }
        END {
            for (pid in parent) {
                for (up = pid; up in parent && !(up in daemon); ) up = parent[up]
                if (up in daemon) print up, ticks[pid], pages[pid]
            }
        }'
}
