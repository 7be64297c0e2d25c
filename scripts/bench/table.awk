# Samples ("on dtun up 8.1"; "# NAME VERSION") to tables, medians, and the ratios
# that are aimed at.

/^#/ {
    name = $2
    sub(/^# [^ ]+ /, "")
    if (!(name in version)) versions[++nversions] = name
    version[name] = $0
    next
}

{
    if (!($2 in known)) { known[$2]; programs[++nprograms] = $2 }
    if (!($1 in seen)) { seen[$1]; veths[++nveths] = $1 }
    if ($4 != "-") value[$1, $2, $3, ++count[$1, $2, $3]] = $4
}

END {
    columns = split("up down streams udp ping cpu rss", column, " ")
    for (v = 1; v <= nveths; v++) {
        print veths[v] == "on" ? "\nThe wire with its offloads:\n" : "\nThe wire without offloads (packets of wire size):\n"
        print "| | TCP up Gb/s | TCP down | 4 streams up | 100-byte UDP kpps | ping µs | CPU s/GB | RSS MiB |"
        print "| --- | --- | --- | --- | --- | --- | --- | --- |"
        for (p = 1; p <= nprograms; p++) {
            row = "| " programs[p] " |"
            for (c = 1; c <= columns; c++) row = row " " cell(median(veths[v], programs[p], column[c])) " |"
            print row
        }
    }

    print "\n| ratio | measured | goal |"
    print "| --- | --- | --- |"
    goal("on", "up", "dtun", "gotatun", ">=", 9)
    goal("on", "down", "dtun", "gotatun", ">=", 9)
    goal("on", "up", "dtun", "raw", ">=", 0.42)
    goal("on", "down", "dtun", "raw", ">=", 0.42)
    goal("on", "streams", "dtun", "gotatun", ">=", 8)
    goal("on", "streams", "dtun", "raw", ">=", 0.27)
    goal("off", "up", "dtun", "gotatun", ">=", 4.5)
    goal("off", "down", "dtun", "gotatun", ">=", 4.5)
    goal("off", "streams", "dtun", "gotatun", ">=", 4.5)
    goal("off", "up", "dtun", "raw", ">=", 0.57)
    goal("off", "down", "dtun", "raw", ">=", 0.57)
    goal("off", "streams", "dtun", "raw", ">=", 0.57)
    goal("on", "cpu", "dtun", "gotatun", "<=", 0.1)
    goal("off", "cpu", "dtun", "gotatun", "<=", 0.22)
    goal("on", "udp", "dtun", "gotatun", ">=", 2)
    goal("off", "udp", "dtun", "gotatun", ">=", 2)
    goal("on", "ping", "dtun", "boringtun", "<=", 0.75)
    goal("off", "ping", "dtun", "boringtun", "<=", 0.75)
    goal("on", "up", "ccm8", "pion", ">=", 5)
    goal("on", "down", "ccm8", "pion", ">=", 5)
    for (p = 1; p <= nprograms; p++) {
        if (programs[p] ~ /^(raw|dtun|ccm8|pion|gotatun|boringtun|openvpn|ocserv)$/) continue
        for (v = 1; v <= nveths; v++)
            for (c = 1; c <= 3; c++) goal(veths[v], column[c], "dtun", programs[p], "", "")
    }

    print ""
    for (i = 1; i <= nversions; i++) print versions[i] ": " version[versions[i]] "  "
}

# A line, where both were measured.
function goal(veth, what, one, other, sign, wanted,    ours, theirs, ratio, verdict) {
    ours = median(veth, one, what)
    theirs = median(veth, other, what)
    verdict = ""
    if (ours == "" || theirs + 0 == 0) return
    ratio = ours / theirs
    if (sign == ">=") verdict = "≥ " wanted (ratio >= wanted ? "" : ", missed")
    if (sign == "<=") verdict = "≤ " wanted (ratio <= wanted ? "" : ", missed")
    printf "| %s, offloads %s: %s / %s | %.2f | %s |\n", what, veth, one, other, ratio, verdict
}

function cell(number) {
    if (number == "") return ""
    return sprintf(number >= 100 ? "%.0f" : number >= 10 ? "%.1f" : "%.2f", number)
}
