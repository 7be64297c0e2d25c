# shellcheck shell=sh
# How each program is built, started and asked for its version. A start sets
# $target, the hub's address in the tunnel, and $daemons. Each program keeps the
# MTU that it takes by itself (WireGuard's is that of wg-quick).

gotatun_cli=0.10.2
boringtun_cli=0.7.1

# Builds what is to be measured, and drops, aloud, what is not installed.
prepare() {
    cache=${BENCH_CACHE:-target/bench}
    mkdir -p "$cache"
    cache=$(realpath "$cache")
    ready=''
    note machine "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores, Linux $(uname -r)"
    note command "scripts/bench.sh, $rounds rounds of $seconds s, $(iperf3 --version | head -n 1 | cut -d' ' -f1,2)"
    for name in $programs; do
        case $name in
            raw) ;;
            dtun | ccm8)
                build_dtun
                note "$name" "$("$dtun" -version)$([ "$name" = dtun ] || echo ', AES-128-CCM-8')"
                ;;
            pion)
                { has go golang-go && has_pion; } || continue
                (cd tests/peers/go && GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE="$cache/go" \
                    go build -o "$cache/pion" main.go)
                note pion "tests/peers/go on pion/dtls $(dpkg-query -Wf '${Version}' "$pion"), AES-128-CCM-8"
                ;;
            *=*) note "${name%%=*}" "$("${name#*=}" -version)" ;;
            gotatun | boringtun)
                has wg wireguard-tools || continue
                has cargo 'cargo, from https://rustup.rs' || continue
                case $name in gotatun) version=$gotatun_cli ;; *) version=$boringtun_cli ;; esac
                [ "$(cat "$cache/$name.version" 2>/dev/null)" = "$version" ] || {
                    echo "compiling $name-cli $version" >&2
                    cargo install --quiet --root "$cache" --locked "$name-cli" --version "$version"
                    echo "$version" >"$cache/$name.version"
                }
                note "$name" "$name-cli $version"
                ;;
            openvpn)
                { has openvpn openvpn && has openssl openssl; } || continue
                note openvpn "$(openvpn --version | head -n 1 | cut -d' ' -f1,2), TLS mode, AES-128-GCM, in user space"
                ;;
            ocserv)
                { has ocserv ocserv && has openconnect openconnect && has openssl openssl; } || continue
                note ocserv "$(ocserv --version 2>&1 | head -n 1), $(openconnect --version | head -n 1), DTLS-PSK, AES-128-GCM"
                ;;
            *)
                extra "$name" >/dev/null || fail "no program $name"
                note "$name" 'by BENCH_EXTRA'
                ;;
        esac
        ready="$ready $name"
    done
    programs=$ready
}

note() {
    echo "# $1 $2" >>"$samples"
}

has() {
    command -v "$1" >/dev/null || {
        left_out "$2"
        return 1
    }
}

left_out() {
    echo "$name is left out: install $1" >&2
    note "$name" "left out, $1 is not installed"
}

pion=golang-github-pion-dtls.v2-dev

has_pion() {
    [ -d /usr/share/gocode/src/github.com/pion/dtls/v2 ] || {
        left_out "$pion"
        return 1
    }
}

# extra NAME: its script.
extra() {
    for pair in ${BENCH_EXTRA:-}; do
        [ "${pair%%=*}" != "$1" ] || {
            echo "${pair#*=}"
            return
        }
    done
    return 1
}

start() {
    case $1 in
        dtun) start_dtun "$dtun" ;;
        ccm8) start_dtun "$dtun" -suite ccm8 ;;
        *=*) start_dtun "${1#*=}" ;;
        raw | pion | gotatun | boringtun | openvpn | ocserv) "start_$1" ;;
        *) start_extra "$1" ;;
    esac && answers
}

start_raw() {
    target=$hub_address
}

# start_dtun BINARY FLAG..
start_dtun() {
    binary=$1
    shift
    # shellcheck disable=SC2086 # several flags
    start_hub "$binary" -state "$work/$program.hub" "$@" ${DTUN_FLAGS:-} || return 1
    # shellcheck disable=SC2086 # several flags
    start_spoke "$binary" -state "$work/$program.spoke" "$@" ${DTUN_FLAGS:-}
}

start_pion() {
    start_hub "$cache/pion" && start_spoke "$cache/pion"
}

start_hub() {
    target=10.77.0.1
    binary=$1
    shift
    daemon "$program.hub.log" hub "$binary" -key bench -listen "$hub_address:443" -pool4 10.77.0.0/16 -pool6 fd00:77::/64 "$@"
    says "$program.hub.log" listening
}

start_spoke() {
    binary=$1
    shift
    daemon "$program.spoke.log" spoke "$binary" -key bench -connect "$hub_address:443" -id bench "$@"
    says "$program.spoke.log" 'tunnel up'
}

start_gotatun() {
    start_wireguard gotatun gotatun
}

start_boringtun() {
    start_wireguard boringtun boringtun-cli
}

# start_wireguard NAME BINARY: both take the same command line. The control
# sockets of all namespaces stand in one directory, hence the process number.
start_wireguard() {
    target=10.78.0.1
    binary=$cache/bin/$2
    for host in hub spoke; do (umask 077 && wg genkey >"$work/wg.$host"); done
    for ends in 'hub spoke 1' 'spoke hub 2'; do
        # shellcheck disable=SC2086 # three words
        set -- "$1" $ends
        device=wg$4-$$
        daemon "$1.$2.log" "$2" "$binary" --foreground --disable-drop-privileges "$device"
        within 5 in_ "$2" wg show "$device" || return 1
        in_ "$2" wg set "$device" private-key "$work/wg.$2" listen-port 51820 \
            peer "$(wg pubkey <"$work/wg.$3")" allowed-ips 10.78.0.0/24 endpoint "192.0.2.$((3 - $4)):51820"
        in_ "$2" ip addr add "10.78.0.$4/24" dev "$device"
        in_ "$2" ip link set "$device" mtu 1420 up
    done
}

start_openvpn() {
    target=10.79.0.1
    certificates openvpn
    daemon openvpn.hub.log hub openvpn --server 10.79.0.0 255.255.255.0 --topology subnet --dh none \
        --local "$hub_address" --proto udp4 --dev tun --disable-dco --data-ciphers AES-128-GCM \
        --cert "$work/openvpn.hub.crt" --key "$work/openvpn.hub.key" --peer-fingerprint "$(fingerprint spoke)"
    says openvpn.hub.log 'Initialization Sequence Completed' || return 1
    daemon openvpn.spoke.log spoke openvpn --client --nobind --remote "$hub_address" 1194 udp4 \
        --dev tun --disable-dco --data-ciphers AES-128-GCM \
        --cert "$work/openvpn.spoke.crt" --key "$work/openvpn.spoke.key" --peer-fingerprint "$(fingerprint hub)"
    says openvpn.spoke.log 'Initialization Sequence Completed'
}

certificates() {
    for host in hub spoke; do
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$host" \
            -keyout "$work/$1.$host.key" -out "$work/$1.$host.crt" 2>/dev/null
    done
}

fingerprint() {
    openssl x509 -in "$work/openvpn.$1.crt" -noout -fingerprint -sha256 | cut -d= -f2
}

start_ocserv() {
    target=10.80.0.1
    certificates ocserv
    chmod 711 "$work"
    # The hash of "bench", as ocpasswd writes it.
    echo "bench:*:$(openssl passwd -5 bench)" >"$work/passwd"
    cat >"$work/ocserv.conf" <<END
auth = "plain[passwd=$work/passwd]"
listen-host = $hub_address
tcp-port = 443
udp-port = 443
run-as-user = nobody
run-as-group = nogroup
socket-file = $work/ocserv.socket
isolate-workers = true
server-cert = $work/ocserv.hub.crt
server-key = $work/ocserv.hub.key
tls-priorities = "NORMAL:-CIPHER-ALL:+AES-128-GCM"
dtls-psk = true
dtls-legacy = false
cisco-client-compat = false
device = oc
ipv4-network = 10.80.0.0
ipv4-netmask = 255.255.255.0
END
    # shellcheck disable=SC2016 # openconnect's own variables
    printf '#!/bin/sh\n[ "$reason" = connect ] || exit 0\n%s\n%s\n' \
        'ip addr add "$INTERNAL_IP4_ADDRESS/24" dev "$TUNDEV"' \
        'ip link set "$TUNDEV" mtu "$INTERNAL_IP4_MTU" up' >"$work/ocserv.script"
    chmod 755 "$work/ocserv.script"
    daemon ocserv.hub.log hub ocserv --foreground --config "$work/ocserv.conf"
    within 10 in_ hub sh -c 'ss -Hltn "sport = 443" | grep -q .' || return 1
    pin=$(openssl x509 -in "$work/ocserv.hub.crt" -noout -pubkey | openssl pkey -pubin -outform der |
        openssl dgst -sha256 -binary | base64)
    echo bench >"$work/ocserv.password"
    # shellcheck disable=SC2016 # the inner shell's
    daemon ocserv.spoke.log spoke sh -c 'password=$1; shift; exec "$@" <"$password"' sh "$work/ocserv.password" \
        openconnect --verbose --user bench --passwd-on-stdin --servercert "pin-sha256:$pin" \
        --script "$work/ocserv.script" --interface oc "https://$hub_address"
    says ocserv.spoke.log 'Established DTLS connection'
}

# Its script names namespaces itself, so it runs in none.
start_extra() {
    script=$(extra "$1")
    mkdir -p "$work/$1"
    "$script" "hub$id" "spoke$id" "$hub_address" "$spoke_address" "$work/$1" >"$work/$1.log" 2>&1 &
    daemons="$daemons $!"
    says "$1.log" '^ready ' || return 1
    target=$(sed -n 's/^ready //p' "$work/$1.log")
}
