# Samples of scripts/bench/hub.sh to a table.

/^#/ { print $0; next }
$4 != "-" { value[$1, $2, $3, ++count[$1, $2, $3]] = $4 }

END {
    print "\n| | measured | goal |"
    print "| --- | --- | --- |"
    printf "| idle hub | %.1f MiB | ≤ 12 |\n", of("idle-kib") / 1024
    printf "| each further idle session that carried a packet | %.1f KiB | ≤ 48 |\n", of("session-kib")
    printf "| the hub's CPU with them idle | %.2f %% | 0.0 |\n", of("idle-cpu")
    printf "| one busy spoke, TCP up | %.2f Gb/s | |\n", of("alone")
    if (of("alone") == 0) exit
    printf "| beside the connected spokes | %.2f of that | ≥ 0.9 |\n", of("many") / of("alone")
    printf "| beside %d handshakes a second | %.2f of that | ≥ %.2f: alone, %d a second took %.2f of the CPU |\n", \
        of("beside-handshakes"), of("beside") / of("alone"), 1 - of("share"), of("handshakes"), of("share")
}

function of(what) {
    return median("on", "dtun", what) + 0
}
