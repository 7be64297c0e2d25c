#!/bin/sh
# Installs what the tests need, on Debian and its kin, and runs them all.
# As root: the tests make network namespaces. Arguments go to the test runner.
set -eu
cd "$(dirname "$0")/.."

main() {
    [ "$(id -u)" = 0 ] || fail 'needs root: run it with sudo'
    command -v cargo >/dev/null || fail 'cargo is missing: install it from https://rustup.rs'
    [ -c /dev/net/tun ] || fail 'no /dev/net/tun: modprobe tun'
    install_missing

    shellcheck -x scripts/*.sh scripts/openwrt/dtun.init scripts/completions/dtun.bash .ci/run \
        tests/netns/systemd/boot.sh
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --workspace --no-fail-fast "$@"
    else
        cargo test --workspace --no-fail-fast "$@"
    fi
}

# What is missing in the left column comes with the package in the right one.
install_missing() {
    packages=$(
        while read -r wanted package; do
            case $wanted in
                /*) [ -e "$wanted" ] ;;
                *) command -v "$wanted" >/dev/null ;;
            esac || echo "$package"
        done <<'WANTED' | sort -u | tr '\n' ' '
cc gcc
/usr/include/stdio.h libc6-dev
ip iproute2
nft nftables
iptables iptables
ipset ipset
curl curl
ping iputils-ping
setpriv util-linux
sg login
useradd passwd
sudo sudo
perl perl-base
python3 python3
dnsmasq dnsmasq-base
firewalld firewalld
dbus-daemon dbus
busctl systemd
dash dash
/bin/busybox busybox
shellcheck shellcheck
man man-db
/usr/lib/systemd/systemd systemd
systemd-analyze systemd
zsh zsh
fish fish
openssl openssl
gnutls-cli gnutls-bin
/usr/include/mbedtls/ssl.h libmbedtls-dev
go golang-go
/usr/share/gocode/src/github.com/pion/dtls/v2 golang-github-pion-dtls.v2-dev
WANTED
    )
    [ -n "${packages% }" ] || return 0
    command -v apt-get >/dev/null || fail "not Debian: install by hand what it calls $packages"

    # Where it is installed it is started, and filters this machine.
    case " $packages" in
        *" firewalld "*)
            mkdir -p /etc/systemd/system
            ln -sf /dev/null /etc/systemd/system/firewalld.service
            ;;
    esac

    echo "installing $packages"
    apt-get update -qq
    # shellcheck disable=SC2086 # several packages
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages
}

fail() {
    echo "test: $*" >&2
    exit 1
}

main "$@"
