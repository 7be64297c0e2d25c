# shellcheck shell=sh
# shellcheck disable=SC2154 # what the script that reads this one has set
# dtun-via.sh with nftables: one table, loaded in one step.

nft_table() {
    keep=$((0xffffffff & ~mask)) value=$((value)) mask_=$((mask))
    marked="meta mark & $mask_ == $value"
    set_mark="meta mark set meta mark & $keep | $value"
    asked='meta l4proto { tcp, udp } th dport 53'
    by='=='
    [ "$way" = tunnel ] || by='!='
    cat <<END
table inet dtun-via
delete table inet dtun-via
table inet dtun-via {
 set bypass4 { type ipv4_addr; flags interval; elements = { $(elements 4) } }
 set bypass6 { type ipv6_addr; flags interval; elements = { $(elements 6) } }
 chain in {
  type filter hook prerouting priority -310
  iifname lo return
  iifname "$TUN" ip daddr 127.0.0.0/8 drop
  fib daddr type != local return
  iifname $by "$TUN" $set_mark
 }
 chain out {
  type route hook output priority -150
  ct direction reply return
$(nft_programs)
 }
 chain programs {
  ${dns:+$asked $set_mark return}
  oifname lo return
  ip daddr @bypass4 return
  ip6 daddr @bypass6 return
  $set_mark
 }
 chain names {
  type nat hook output priority -100
$(nft_dns)
 }
 chain refused {
  type filter hook output priority 0
$(nft_refused)
 }
 chain post {
  type nat hook postrouting priority 100
  oifname != lo $marked masquerade
 }
}
END
}

nft_programs() {
    [ -z "$gid" ] || echo "  meta skgid $gid goto programs"
    for uid in $uids; do echo "  meta skuid $uid goto programs"; done
}

# The first resolver of each version; nothing is asked of another.
nft_dns() {
    for version in 4 6; do
        case $version in 4) ip=ip ;; 6) ip=ip6 ;; esac
        server=$(resolver "$version")
        [ -z "$server" ] || echo "  $marked meta nfproto ipv$version $asked dnat $ip to $server"
    done
}

# Where the tunnel has no IPv6, or no resolver of a version is given: told at
# once. To TCP only a reset is an answer.
nft_refused() {
    [ -n "$has6" ] || refuse "$marked meta nfproto ipv6"
    [ -n "$dns" ] || return 0
    for version in 4 6; do
        [ -n "$(resolver "$version")" ] || refuse "$marked meta nfproto ipv$version $asked"
    done
}

refuse() {
    echo "  $* meta l4proto tcp reject with tcp reset"
    echo "  $* reject"
}

# resolver 4|6: the first of that version.
resolver() {
    for server in $dns; do
        case $1/$server in 6/*:*) echo "$server" ;; 6/* | 4/*:*) ;; *) echo "$server" ;; esac
    done | sed 1q
}

elements() {
    of_version "$1" "${of}list.new" | tr '\n' ,
}
