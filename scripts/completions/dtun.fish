# fish completion for dtun, made from src/cli/table: do not edit.

complete -c dtun -f

function __dtun_serves
    not __fish_seen_subcommand_from unlock routes
end

complete -c dtun -n __fish_use_subcommand -a lock -d 'close the lock of -strict'
complete -c dtun -n __fish_use_subcommand -a unlock -d 'open it: for good, or for a while'
complete -c dtun -n __fish_use_subcommand -a clean -d 'undo what a killed run has left'
complete -c dtun -n __fish_use_subcommand -a routes -d 'load routes, for scripts'

complete -c dtun -n '__dtun_serves' -o listen -x -d 'where spokes come in'
complete -c dtun -n '__dtun_serves' -o pool4 -x -d 'IPv4 addresses to lease'
complete -c dtun -n '__dtun_serves' -o pool6 -x -a 'none' -d 'IPv6 addresses to lease'
complete -c dtun -n '__dtun_serves' -o lease -x -d 'kept after a spoke has gone'
complete -c dtun -n '__dtun_serves' -o allow-peernet -x -d 'accept these behind spokes, beyond private ranges'
complete -c dtun -n '__dtun_serves' -o no-spoke-to-spoke -d 'spokes reach the hub but not each other'
complete -c dtun -n '__dtun_serves' -o nat -d 'let spokes out: forwarding, and this machine\'s address'
complete -c dtun -n '__dtun_serves' -o nat-except -x -d 'these know the way back and see the spokes\' own'
complete -c dtun -n '__dtun_serves' -o connect -x -d 'the hub, resolved again at every dial'
complete -c dtun -n '__dtun_serves' -o id -x -d 'the name the hub knows it by'
complete -c dtun -n '__dtun_serves' -o peernet -x -d 'networks behind this spoke'
complete -c dtun -n '__dtun_serves' -o tun -x -a '(__fish_print_interfaces)' -d 'the device'
complete -c dtun -n '__dtun_serves' -o fallback -x -a 'never' -d 'hub away for so long: own network back'
complete -c dtun -n '__dtun_serves' -o once -d 'exit 1 when the hub refuses or does not answer'
complete -c dtun -n '__dtun_serves' -o route -x -a 'default' -d 'goes through the tunnel, without a script'
complete -c dtun -n '__dtun_serves' -o route-from -x -a 'forwarded' -d 'of these alone: users, groups, devices, networks'
complete -c dtun -n '__dtun_serves' -o bypass -r -F -d 'stays out of it: networks, files of them, @private'
complete -c dtun -n '__dtun_serves' -o dns -x -d 'asked for names, by the tunnel'
complete -c dtun -n '__dtun_serves' -o bind -x -a '(__fish_print_interfaces)' -d 'the uplink that it takes'
complete -c dtun -n '__dtun_serves' -o strict -d 'nothing else leaves, from the start on: a kill switch'
complete -c dtun -n '__dtun_serves' -o table -x -d 'its routing table, and two more'
complete -c dtun -n '__dtun_serves' -o rule-pref -x -d 'its rules, sixteen at most'
complete -c dtun -n '__dtun_serves' -o key-file -r -F -d 'a file with the key, and nothing else'
complete -c dtun -n '__dtun_serves' -o config -r -F -d 'more flags, one a line: key-file /etc/dtun/key'
complete -c dtun -n '__dtun_serves' -o key -x -d 'the key; other users see it in ps. Also $DTUN_KEY'
complete -c dtun -n '__dtun_serves' -o up -r -F -d 'run when the tunnel is up (a hub: for each lease)'
complete -c dtun -n '__dtun_serves' -o down -r -F -d 'run before it goes away'
complete -c dtun -n '__dtun_serves' -o post-up -x -d 'a line for the shell; may be given again'
complete -c dtun -n '__dtun_serves' -o post-down -x -d 'the line that undoes it'
complete -c dtun -n '__dtun_serves' -o fwmark -x -d 'borne by its own datagrams'
complete -c dtun -n '__dtun_serves' -o keepalive -x -d 'an idle peer is asked for a sign of life'
complete -c dtun -n '__dtun_serves' -o mtu -x -d '1280 or more'
complete -c dtun -n '__dtun_serves' -o suite -x -a 'gcm ccm ccm8' -d 'this cipher and no other'
complete -c dtun -n '__dtun_serves' -o offload -x -a 'on off' -d 'many packets in one piece'
complete -c dtun -n '__dtun_serves' -o state -x -a '(__fish_complete_directories)' -d 'what outlives a restart'
complete -c dtun -n '__dtun_serves' -o log-format -x -a 'text json' -d 'lines for people or for machines'
complete -c dtun -n '__dtun_serves' -o v -d 'more in the log; or $RUST_LOG'
complete -c dtun -n '__dtun_serves' -o version -d 'print the version'
complete -c dtun -n '__dtun_serves' -o h -d 'print this'

complete -c dtun -n '__fish_seen_subcommand_from unlock' -o for -x -d 'close it again after this time'
complete -c dtun -n '__fish_seen_subcommand_from routes; and not __fish_seen_subcommand_from add del' -a 'add del'
complete -c dtun -n '__fish_seen_subcommand_from routes; and __fish_seen_subcommand_from add del' -F
