# shellcheck shell=sh
# The options of a bench, what it needs of the machine, and the program that is
# measured. The bench defines `usage`, `fail`, and what its options mean:
# `option NAME VALUE` and, for those without a value, `flag NAME`; both fail for
# a name that they do not know.

read_options() {
    while [ $# -gt 0 ]; do
        case $1 in
            -h | -help | --help)
                usage
                exit
                ;;
        esac
        if flag "$1"; then
            shift
            continue
        fi
        [ $# -gt 1 ] || fail "$1 wants a value, or is no option; -h tells all"
        option "$1" "$2" || fail "no option $1; -h tells all"
        shift 2
    done
}

# list A,B: its words.
list() {
    echo "$1" | tr , ' '
}

# numbers N..: each is a whole number above zero.
numbers() {
    for number; do
        case $number in '' | 0 | *[!0-9]*) fail "\"$number\" is no number that can be used here" ;; esac
    done
}

# needs PROGRAM:PACKAGE..: they are there, and the bench runs as root.
needs() {
    [ "$(id -u)" = 0 ] || fail 'needs root: run it with sudo'
    for wanted; do
        command -v "${wanted%:*}" >/dev/null || fail "${wanted%:*} is missing: install ${wanted#*:}"
    done
}

# Builds the program, unless DTUN names one; $dtun is its path.
build_dtun() {
    dtun=${DTUN:-${CARGO_TARGET_DIR:-target}/release/dtun}
    [ -n "${DTUN:-}" ] || cargo build --release --quiet
    dtun=$(realpath "$dtun")
}
