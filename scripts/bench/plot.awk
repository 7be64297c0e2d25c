# Samples to the README's plot (SVG): medians, a panel for each measurement, a
# bar for each program. The bare wire is left out: it would dwarf them all.

/^#/ { next }

{
    if ($2 != "raw" && !($2 in known)) { known[$2]; programs[++nprograms] = $2 }
    if ($4 != "-") value[$1, $2, $3, ++count[$1, $2, $3]] = $4
}

END {
    row = 20
    panel = 34 + nprograms * row
    width = 760
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"system-ui, sans-serif\" font-size=\"12\" role=\"img\" aria-label=\"%s\">\n", \
        width, 3 * panel + 8, "dtun beside other user-space VPNs"
    print "<style>text{fill:#57606a}.t{fill:#24292f;font-weight:600}.o{fill:#24292f}.b{fill:#afb8c1}.d{fill:#0969da}"
    print "@media(prefers-color-scheme:dark){text{fill:#8b949e}.t,.o{fill:#e6edf3}.b{fill:#484f58}.d{fill:#2f81f7}}</style>"
    draw(0, 0, "TCP, one stream, Gb/s", "on", "up")
    draw(1, 0, "the same without offloads of the wire, Gb/s", "off", "up")
    draw(0, 1, "100-byte UDP packets, thousands a second", "on", "udp")
    draw(1, 1, "CPU seconds for each GB (less is better)", "on", "cpu")
    draw(0, 2, "ping, µs (less is better)", "on", "ping")
    draw(1, 2, "memory of one end, MiB (less is better)", "on", "rss")
    print "</svg>"
}

function draw(x, y, title, veth, what,    p, most, median_, top, left, long_) {
    left = x * width / 2
    top = y * panel + 18
    printf "<text class=\"t\" x=\"%d\" y=\"%d\">%s</text>\n", left + 4, top, title
    for (p = 1; p <= nprograms; p++)
        if (median(veth, programs[p], what) > most) most = median(veth, programs[p], what)
    for (p = 1; p <= nprograms; p++) {
        median_ = median(veth, programs[p], what)
        top += row
        long_ = most ? median_ / most * 220 : 0
        printf "<text%s x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>", \
            programs[p] == "dtun" ? " class=\"o\"" : "", left + 76, top, programs[p]
        printf "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"13\" rx=\"2\"/>", \
            programs[p] == "dtun" ? "d" : "b", left + 82, top - 11, long_
        printf "<text%s x=\"%.1f\" y=\"%d\">%s</text>\n", \
            programs[p] == "dtun" ? " class=\"o\"" : "", left + 86 + long_, top, \
            median_ == "" ? "–" : sprintf(median_ >= 10 ? "%.0f" : "%.2g", median_)
    }
}
