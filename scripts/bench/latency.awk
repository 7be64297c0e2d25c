# The table of scripts/bench-latency.sh, of lines PLACE PROGRAM WHAT VALUE.
!($1 in known) { known[$1]; places[++number] = $1 }
$4 != "-" { value[$1, $2, $3, ++count[$1, $2, $3]] = $4 }

END {
    print "| slow link, TCP | ping under load, ms | with the tunnel | difference | 95th percentile, ms | with the tunnel | lost % | TCP Mbit/s | with the tunnel | sent again | with the tunnel |"
    print "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for (i = 1; i <= number; i++) {
        place = places[i]
        without = median(place, "without", "median")
        within = median(place, "with", "median")
        shown = place
        sub(/\./, ", ", shown)
        printf "| %s | %.1f | **%.1f** | %+.1f | %.1f | %.1f | %.1f | %.1f | **%.1f** | %d | %d |\n", shown,
            without, within, within - without,
            median(place, "without", "worst"), median(place, "with", "worst"), median(place, "with", "lost"),
            median(place, "without", "rate"), median(place, "with", "rate"),
            median(place, "without", "again"), median(place, "with", "again")
    }
}
