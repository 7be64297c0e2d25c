# The median of the samples in value[], count[]; "" where there are none.
function median(veth, program, what,    n, i, j, list, held) {
    n = count[veth, program, what]
    if (!n) return ""
    for (i = 1; i <= n; i++) {
        held = value[veth, program, what, i] + 0
        for (j = i; j > 1 && list[j - 1] > held; j--) list[j] = list[j - 1]
        list[j] = held
    }
    return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
}
