use super::{Flag, Reload, Takes};

pub(super) const FLAGS: &[Flag] = &[
    Flag {
        name: "connect",
        reload: Reload::Restart,
        value: "HOST:PORT",
        takes: Takes::Text,
        brief: "the hub, resolved again at every dial",
        default: "",
        text: "The hub, which makes this a spoke. The name is resolved again at every dial, \
               and all its addresses are tried. An IPv6 address stands in brackets: \
               `[2001:db8::1]:443`.",
    },
    Flag {
        name: "id",
        reload: Reload::Restart,
        value: "NAME",
        takes: Takes::Text,
        brief: "the name the hub knows it by",
        default: "made from the host name",
        text: "The name the hub knows it by, with a lease for each: no two spokes may have \
               the same. By default it is the host name and four digits of the machine's id.",
    },
    Flag {
        name: "peernet",
        reload: Reload::Restart,
        value: "NET,..",
        takes: Takes::Text,
        brief: "networks behind this spoke",
        default: "none",
        text: "Networks behind this spoke. The hub routes them to it, if it accepts them, and \
               their packets keep their addresses.",
    },
    Flag {
        name: "tun",
        reload: Reload::Restart,
        value: "NAME",
        takes: Takes::Device,
        brief: "the device",
        default: "dtun0, or the next free",
        text: "The name of the device. A persistent one of this name is attached to, and its \
               addresses are kept.",
    },
    Flag {
        name: "fallback",
        reload: Reload::Taken,
        value: "TIME|never",
        takes: Takes::Words(&["never"]),
        brief: "hub away for so long: own network back",
        default: "1m",
        text: "When the hub has been away for so long, the machine has its own network back; \
               the tunnel comes back with the hub. It does nothing with `-strict`.",
    },
    Flag {
        name: "once",
        reload: Reload::Taken,
        value: "",
        takes: Takes::Nothing,
        brief: "exit 1 when the hub refuses or does not answer",
        default: "",
        text: "Exit with 1 when the hub refuses or does not answer, instead of dialling \
               again.",
    },
    Flag {
        name: "route",
        reload: Reload::Taken,
        value: "default[,NET,..]|NET,..",
        takes: Takes::Words(&["default"]),
        brief: "goes through the tunnel, without a script",
        default: "",
        text: "What goes through the tunnel, without a script: `default` is everything but \
               the networks that the machine is in, a list is these networks alone. It is \
               done by rules and tables of its own; the main table is not touched. \
               Networks may stand behind it, as in `default,10.8.0.0/16`: they go in although \
               `-bypass` has a larger network around them. Where the hub has no IPv6 to the \
               outside, `default` answers public IPv6 with \"no route\", but for networks \
               named so: give those behind other spokes.",
    },
    Flag {
        name: "route-from",
        reload: Reload::Taken,
        value: "WHO,..",
        takes: Takes::Words(&["forwarded"]),
        brief: "of these alone: users, groups, devices, networks",
        default: "",
        text: "Whose packets `-route` takes in, if not everybody's: users, groups, devices \
               that they come in by, source networks, or the word `forwarded` for those of \
               other machines. `user:`, `group:` and `dev:` before a name say which it is.",
    },
    Flag {
        name: "bypass",
        reload: Reload::Taken,
        value: "LIST",
        takes: Takes::File,
        brief: "stays out of it: networks, files of them, @private",
        default: "",
        text: "What stays out of `-route`, joined by commas: networks, files with one network \
               a line, and `@private` for private, shared, link-local and multicast ranges. A \
               file that changes is taken over at once.",
    },
    Flag {
        name: "dns",
        reload: Reload::Taken,
        value: "ADDR,..",
        takes: Takes::Text,
        brief: "asked for names, by the tunnel",
        default: "",
        text: "At most three servers, which are asked for all names, by the tunnel, while it \
               stands. systemd-resolved, resolvconf or `/etc/resolv.conf` is told so, and put \
               back at the end.",
    },
    Flag {
        name: "bind",
        reload: Reload::Restart,
        value: "ADDR|DEV",
        takes: Takes::Device,
        brief: "the uplink that it takes",
        default: "the kernel's choice",
        text: "The uplink that the tunnel's own datagrams take: its device, or an address of \
               the machine, which stands for the device that has it. Where a rule of the \
               machine's owner says where that address goes (`ip rule add from ADDR ..`), it is \
               followed. A strict `rp_filter` wants that device's `rp_filter` set to 2 if \
               another default route is better.",
    },
    Flag {
        name: "strict",
        reload: Reload::Restart,
        value: "",
        takes: Takes::Nothing,
        brief: "nothing else leaves, from the start on: a kill switch",
        default: "",
        text: "With `-route`: what would leave by another way than the tunnel is stopped, \
               from the program's start on, also while the hub is away and after a crash. See \
               KILL SWITCH.",
    },
    Flag {
        name: "table",
        reload: Reload::Restart,
        value: "N",
        takes: Takes::Text,
        brief: "its routing table, and two more",
        default: "11764",
        text: "The first of its three routing tables, `N` to `N+2`. \
               Where the default is in use, the next free ones are taken.",
    },
    Flag {
        name: "rule-pref",
        reload: Reload::Restart,
        value: "N",
        takes: Takes::Text,
        brief: "its rules, sixteen at most",
        default: "32500",
        text: "The first of the sixteen preferences that its rules may have. \
               Where the default is in use, the next free ones are taken.",
    },
];
