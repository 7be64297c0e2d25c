#!/bin/sh
# Installs dtun on this machine: the program, its manual page, completions and
# scripts, units for systemd or the init script of OpenWrt, and the folder
# /etc/dtun, whose files are its owner's and are never written to.
#
#   install.sh [-key] [-binary FILE]    again for an upgrade
#   install.sh -uninstall               what it made goes, what it replaced comes back
#
# -key makes /etc/dtun/key unless there is one. The program is -binary, else what
# was built here. PREFIX is /usr/local, on OpenWrt /usr: a full path without blanks.
# DESTDIR goes before all paths, for a package or an image.
set -eu
LC_ALL=C
export LC_ALL
umask 022

here=$(dirname "$(readlink -f "$0")")
root=${DESTDIR:-}
scripts='up-split.sh down-split.sh up-policy.sh down-policy.sh routes.sh
    bypass-set.sh dtun-via.sh via-nft.sh via-iptables.sh hub-nat.sh install.sh'

main() {
    key='' binary='' task=install
    while [ $# -gt 0 ]; do
        case $1 in
            -key) key=yes ;;
            -binary) binary=${2-} && shift ;;
            -uninstall) task=uninstall ;;
            *) fail 'use: install.sh [-key] [-binary FILE] | -uninstall' ;;
        esac
        shift
    done
    if [ -e "$root/etc/rc.common" ]; then
        init=procd prefix=${PREFIX:-/usr}
    else
        init=systemd prefix=${PREFIX:-/usr/local}
    fi
    check_prefix
    lib=$prefix/lib/dtun
    done=$root$lib/installed # What was made: a line for each, "file PATH", "dir PATH", "key SUM".
    $task
}

# It stands in the units as it is.
check_prefix() {
    case $prefix in
        *[!A-Za-z0-9/._+@-]*) ;;
        /*) return ;;
    esac
    echo "install: PREFIX is to be a full path of letters, digits and ._+@-, not '$prefix'" >&2
    exit 2
}

install() {
    [ -n "$binary" ] || binary=$(built)
    [ -f "$binary" ] || fail "$binary: no such file"
    folder "$lib"
    [ -e "$done" ] || : >"$done"

    put 755 "$binary" "$prefix/bin/dtun"
    for script in $scripts; do
        put 755 "$(source_of "$script")" "$lib/$script"
    done
    "install_$init"
    folder /etc/dtun
    chmod 700 "$root/etc/dtun"
    [ -z "$key" ] || make_key
}

install_systemd() {
    case $prefix in
        /usr | /usr/local) units=$prefix/lib/systemd/system ;;
        *) units=/etc/systemd/system ;;
    esac
    for unit in "$here"/systemd/*; do
        with_prefix "$unit" | put 644 - "$units/${unit##*/}"
    done
    put 644 "$here/../docs/dtun.8" "$prefix/share/man/man8/dtun.8"
    put 644 "$here/completions/dtun.bash" "$prefix/share/bash-completion/completions/dtun"
    put 644 "$here/completions/_dtun" "$prefix/share/zsh/site-functions/_dtun"
    put 644 "$here/completions/dtun.fish" "$prefix/share/fish/vendor_completions.d/dtun.fish"
    reload
}

install_procd() {
    with_prefix "$here/openwrt/dtun.init" | put 755 - /etc/init.d/dtun
    # The files of /etc/dtun outlive a new firmware.
    echo /etc/dtun/ | put 644 - /lib/upgrade/keep.d/dtun
}

# The files of $lib are the sources of an installed copy of this script.
source_of() {
    echo "$here/$1"
}

built() {
    for binary in "$here/../dtun" "$here/../target/release/dtun"; do
        [ ! -f "$binary" ] || break
    done
    [ -f "$binary" ] || fail 'build it first (cargo build --release), or give -binary FILE'
    echo "$binary"
}

with_prefix() {
    sed "s|/usr/local/|$prefix/|g" "$1"
}

# put MODE FROM PATH: in one step, so that a program that runs goes on. What was
# there before the first time is kept.
put() {
    folder "$(dirname "$3")"
    if ! grep -qxF "file $3" "$done"; then
        if [ -e "$root$3" ]; then
            mkdir -p "$root$lib/replaced$(dirname "$3")"
            cp -p "$root$3" "$root$lib/replaced$3"
        fi
        echo "file $3" >>"$done"
    fi
    if [ "$2" = - ]; then
        cat >"$root$3.new"
    else
        cp "$2" "$root$3.new"
    fi
    chmod "$1" "$root$3.new"
    mv -f "$root$3.new" "$root$3"
}

# A folder and those above it; those that it makes are noted, outermost first.
folder() {
    [ ! -d "$root$1" ] || return 0
    if [ "$1" = / ]; then
        mkdir -p "$root"
        return
    fi
    folder "$(dirname "$1")"
    mkdir "$root$1"
    made="${made-}dir $1
"
    if [ -d "$root$lib" ]; then
        printf %s "$made" >>"$done"
        made=''
    fi
}

make_key() {
    [ ! -e "$root/etc/dtun/key" ] || return 0
    (umask 077 && tr -dc A-Za-z0-9 </dev/urandom | head -c 43 >"$root/etc/dtun/key")
    echo "key $(sum <"$root/etc/dtun/key")" >>"$done"
    echo 'made /etc/dtun/key: every hub and spoke of this tunnel needs the same'
}

sum() {
    if command -v sha256sum >/dev/null; then
        sha256sum
    else
        cksum
    fi
}

uninstall() {
    [ -e "$done" ] || fail "nothing of it is installed below $root$prefix"
    "stop_$init"
    open_up
    while read -r kind what; do
        case $kind in
            file) take_back "$what" ;;
            key) take_key "$what" ;;
        esac
    done <"$done"
    folders=$(sed -n 's/^dir //p' "$done" | sort -r)
    rm -rf "$done" "$root$lib/replaced"
    while read -r folder; do
        [ -n "$folder" ] || continue
        rmdir "$root$folder" 2>/dev/null || echo "$root$folder stays: it is not empty"
    done <<FOLDERS
$folders
FOLDERS
    [ "$init" = procd ] || reload
}

take_back() {
    if [ -e "$root$lib/replaced$1" ]; then
        mv -f "$root$lib/replaced$1" "$root$1"
    else
        rm -f "$root$1"
    fi
}

# A key that somebody has changed since is theirs.
take_key() {
    [ -e "$root/etc/dtun/key" ] || return 0
    if [ "$(sum <"$root/etc/dtun/key")" = "$1" ]; then
        rm "$root/etc/dtun/key"
    fi
}

# What runs ends, and nothing starts at the next boot.
stop_systemd() {
    is_live || return 0
    for link in /etc/systemd/system/*.wants/dtun*; do
        [ ! -L "$link" ] || systemctl disable --quiet "${link##*/}"
    done
    systemctl stop 'dtun@*.service' 'dtun-lock@*.service' dtun-hub.service dtun-bypass.timer
}

stop_procd() {
    [ -z "$root" ] || return 0
    /etc/init.d/dtun stop
    /etc/init.d/dtun disable
}

# What a lock keeps shut and a run that was killed has left: nothing else can undo
# that once the program is gone, which stays where the lock does.
open_up() {
    dtun=$prefix/bin/dtun
    [ -z "$root" ] && [ -x "$dtun" ] || return 0
    if said=$("$dtun" unlock 2>&1); then
        echo 'the lock of -strict was closed: it is open now'
    else
        case $("$dtun" clean 2>&1) in
            *'the lock of -strict stands'*)
                fail "the lock of -strict stays closed, and the program: $said"
                ;;
        esac
    fi
    for conf in /etc/dtun/*.conf; do
        [ -f "$conf" ] || continue
        name=${conf##*/}
        STATE_DIRECTORY=$(state_of "${name%.conf}") "$dtun" clean -config "$conf" || true
    done
}

# As the units and the init script have it.
state_of() {
    case $init/$1 in
        procd/*) echo "/etc/dtun/state/$1" ;;
        */hub) echo /var/lib/dtun ;;
        *) echo "/var/lib/dtun/$1" ;;
    esac
}

reload() {
    ! is_live || systemctl daemon-reload
}

# Whether this is the machine's own root, and systemd runs there.
is_live() {
    [ -z "$root" ] && [ -d /run/systemd/system ]
}

fail() {
    echo "install: $*" >&2
    exit 1
}

main "$@"
