#!/bin/sh
# Fills a set of the firewall with a list of networks, from files or URLs
# (chnroutes, china_ip_list): one network a line, "#" begins a comment.
#
#   bypass-set.sh nft:TABLE:NAME SOURCE..     sets NAME4, NAME6 of table inet TABLE
#   bypass-set.sh ipset:NAME SOURCE..         sets NAME4, NAME6
#   bypass-set.sh firewalld:NAME SOURCE..     ipsets NAME4, NAME6 of firewalld
#   bypass-set.sh file:PATH SOURCE..          the list itself, for -bypass and DTUN_BYPASS
#
# A set that is not there is made. All is loaded at once and takes the place of
# what was there in one step (firewalld itself empties a set for a moment).
# Networks inside others are left out.
#
# The last good list is kept. It is loaded again where the sources cannot be
# had, or have lost half their networks or more; the exit code is 1 then.
# dtun-bypass.timer runs this daily.
set -eu
# shellcheck source=scripts/routes.sh
. "$(dirname "$(readlink -f "$0")")/routes.sh"

state=${STATE_DIRECTORY:-/var/lib/dtun-bypass}

main() {
    [ $# -ge 2 ] || fail 'use: bypass-set.sh nft:TABLE:NAME|ipset:NAME|firewalld:NAME|file:PATH FILE|URL..'
    where=$1
    shift
    case $where in
        nft:*:*) put=put_in_nft ;;
        ipset:*) put=put_in_ipset ;;
        firewalld:*) put=put_in_firewalld ;;
        file:/*) put=put_in_file ;;
        *) fail "$where: it begins with nft:TABLE:, ipset:, firewalld: or file:/" ;;
    esac
    name=${where##*:}
    [ "$put" != put_in_file ] || name=${where#file:}

    mkdir -p "$state"
    good=$state/$(echo "$where" | tr -c 'A-Za-z0-9.\n-' _)
    new=$good.new
    trap 'rm -f "$new" "$new".*' EXIT
    trap 'exit 1' INT TERM
    if renewed "$@"; then
        "$put" "$new"
        mv "$new" "$good"
        echo "$where: $count networks, $skipped"
    elif [ -e "$good" ]; then
        "$put" "$good"
        fail "$why: the last good list is loaded, $(wc -l <"$good") networks"
    else
        fail "$why: nothing is loaded"
    fi
}

# renewed SOURCE..: makes $new, or says why not.
renewed() {
    for source; do
        why="$source cannot be had"
        case $source in
            http://* | https://*) fetch "$source" ;;
            *) cat "$source" ;;
        esac || return 1
        echo
    done >"$new.raw"
    why="the list cannot be read"
    tidy <"$new.raw" >"$new" 2>"$new.skipped" || return 1
    skipped=$(cat "$new.skipped")

    count=$(wc -l <"$new")
    old=0
    [ ! -e "$good" ] || old=$(wc -l <"$good")
    [ "$count" -gt 0 ] || { why="there is no network in $*" && return 1; }
    [ $((count * 2)) -gt "$old" ] || {
        why="of $old networks only $count are left (remove $good if that is right)"
        return 1
    }
}

fetch() {
    if command -v curl >/dev/null; then
        curl -fsSL --connect-timeout 20 --max-time 300 "$1"
    else
        # Without -T, at which some of busybox's crash.
        wget -q -O - "$1"
    fi
}

put_in_nft() {
    table=${where#nft:}
    table=${table%:*}
    {
        echo "add table inet $table"
        for version in 4 6; do
            set="inet $table $name$version"
            # shellcheck disable=SC2086 # three words
            nft -t list set $set >/dev/null 2>&1 ||
                echo "add set $set { type ipv${version}_addr; flags interval; }"
            echo "flush set $set"
            of_version "$version" "$1" | awk -v set="$set" '
                { printf "%s%s", NR == 1 ? "add element " set " { " : ", ", $1 }
                END { if (NR) print " }" }'
        done
    } | nft -f - || fail "nft refuses the list for $where"
}

# A second set is filled, and the names of the two change places.
put_in_ipset() {
    for version in 4 6; do
        set=$name$version
        type="hash:net family $(family_of "$version") maxelem 1048576"
        {
            ipset list -n "$set" >/dev/null 2>&1 || echo "create $set $type"
            echo "create $set-new $type"
            echo "flush $set-new"
            of_version "$version" "$1" | sed "s/^/add $set-new /"
        } | ipset restore -exist || fail "ipset refuses the list for $set"
        patiently ipset swap "$set-new" "$set"
        patiently ipset destroy "$set-new"
    done
}

# A set that somebody reads at the moment is busy.
patiently() {
    for _ in 1 2 3 4 5 6 7 8 9; do
        "$@" 2>/dev/null && return
        sleep 1
    done
    "$@"
}

put_in_firewalld() {
    made=
    for version in 4 6; do
        set=$name$version
        if ! firewall-cmd --permanent --get-ipsets | tr ' ' '\n' | grep -qxF "$set"; then
            firewall-cmd -q --permanent --new-ipset="$set" --type=hash:net \
                --option=family="$(family_of "$version")" --option=maxelem=1048576 || fail "firewalld makes no $set"
            made=1
        fi
        of_version "$version" "$1" >"$new.wanted"
        changed "$set" --permanent
        [ -n "$made" ] || changed "$set"
    done
    [ -z "$made" ] || firewall-cmd -q --reload || fail 'firewalld does not reload'
}

# changed SET [--permanent]: from what it has to what is wanted. What overlaps,
# firewalld refuses: what goes, goes first.
changed() {
    set=$1
    shift
    firewall-cmd "$@" --ipset="$set" --get-entries >"$new.there"
    for verb in remove add; do
        case $verb in
            remove) without "$new.wanted" "$new.there" ;;
            add) without "$new.there" "$new.wanted" ;;
        esac >"$new.entries"
        [ ! -s "$new.entries" ] ||
            firewall-cmd -q "$@" --ipset="$set" "--$verb-entries-from-file=$new.entries" ||
            fail "firewalld refuses the list for $set"
    done
}

put_in_file() {
    # It is renamed where it stands, so that no reader finds half of it, and
    # whoever could read the old one can read it.
    [ ! -e "$name" ] || cp -p "$name" "$name.new"
    cat "$1" >"$name.new" && mv "$name.new" "$name"
}

# without FILE1 FILE2: the lines of FILE2 that are not in FILE1.
without() {
    awk 'FILENAME == ARGV[1] { there[$0]; next } !($0 in there)' "$1" "$2"
}

family_of() {
    case $1 in 4) echo inet ;; 6) echo inet6 ;; esac
}

main "$@"
