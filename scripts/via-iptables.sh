# shellcheck shell=sh
# shellcheck disable=SC2154 # what the script that reads this one has set
# dtun-via.sh with iptables and ipset, for machines without nftables.

iptables_rules() {
    printf 'dtun-via%s\n' 4 6 >"${of}ipset.new"
    renew "${of}ipset"
    for version in 4 6; do
        family=inet
        [ "$version" = 4 ] || family=inet6
        echo "create dtun-via$version hash:net family $family maxelem 1048576"
        echo "flush dtun-via$version"
        of_version "$version" "${of}list.new" | sed "s/^/add dtun-via$version /"
    done | ipset restore -exist || fail 'ipset refuses the list'

    { iptables_of iptables 4 && iptables_of ip6tables 6; } >"${of}iptables.new"
    said=$(renew "${of}iptables")
    [ -z "$said" ] || fail "iptables: $said"
}

# iptables_of TOOL VERSION: one rule a line.
iptables_of() {
    server=$(resolver "$2")
    through="! -i $TUN"
    [ "$way" = direct ] || through="-i $TUN"
    to_mark="-j MARK --set-xmark $mark"
    [ "$2" = 6 ] || echo "$1 -t mangle PREROUTING -i $TUN -d 127.0.0.0/8 -j DROP"
    echo "$1 -t mangle PREROUTING $through -m addrtype --dst-type LOCAL $to_mark"
    echo "$1 -t nat POSTROUTING -m mark --mark $mark ! -o lo -j MASQUERADE"
    if [ "$2" = 6 ] && [ -z "$has6" ]; then
        for protocol in tcp all; do refuse_by "$1" "$protocol" "-m mark --mark $mark -p $protocol"; done
    fi
    for owner in ${gid:+gid=$gid} ${uids:+$(echo "uid=$uids" | sed 's/ / uid=/g')}; do
        owner="-m owner --${owner%=*}-owner ${owner#*=}"
        echo "$1 -t mangle OUTPUT $owner ! -o lo -m conntrack --ctdir ORIGINAL -m set ! --match-set dtun-via$2 dst $to_mark"
        [ -n "$dns" ] || continue
        for protocol in udp tcp; do
            asked="-p $protocol --dport 53"
            echo "$1 -t mangle OUTPUT $owner $asked -m conntrack --ctdir ORIGINAL $to_mark"
            if [ -n "$server" ]; then
                echo "$1 -t nat OUTPUT $owner $asked -j DNAT --to-destination $server"
            else
                refuse_by "$1" "$protocol" "$owner $asked"
            fi
        done
    done
}

# refuse_by TOOL PROTOCOL RULE: to TCP only a reset is an answer.
refuse_by() {
    case $2 in
        tcp) echo "$1 -t filter OUTPUT $3 -j REJECT --reject-with tcp-reset" ;;
        *) echo "$1 -t filter OUTPUT $3 -j REJECT" ;;
    esac
}
