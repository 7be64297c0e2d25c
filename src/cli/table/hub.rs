use super::{Flag, Reload, Takes};

pub(super) const FLAGS: &[Flag] = &[
    Flag {
        name: "listen",
        reload: Reload::Restart,
        value: "ADDR:PORT",
        takes: Takes::Text,
        brief: "where spokes come in",
        default: "[::]:443, and IPv4",
        text: "The UDP address and port where spokes come in. `:443` means every address of \
               the machine.",
    },
    Flag {
        name: "pool4",
        reload: Reload::Restart,
        value: "NET",
        takes: Takes::Text,
        brief: "IPv4 addresses to lease",
        default: "10.0.0.0/24",
        text: "The IPv4 addresses to lease; the first one is the hub's. Where the default is \
               in use on the machine, the next free network is taken, and kept over restarts.",
    },
    Flag {
        name: "pool6",
        reload: Reload::Restart,
        value: "NET|none",
        takes: Takes::Words(&["none"]),
        brief: "IPv6 addresses to lease",
        default: "fc00::/120",
        text: "The same for IPv6. With `none` spokes get no IPv6 address.",
    },
    Flag {
        name: "lease",
        reload: Reload::Taken,
        value: "TIME",
        takes: Takes::Text,
        brief: "kept after a spoke has gone",
        default: "1h",
        text: "How long a spoke that has gone keeps its device and its addresses.",
    },
    Flag {
        name: "allow-peernet",
        reload: Reload::Taken,
        value: "NET,..",
        takes: Takes::Text,
        brief: "accept these behind spokes, beyond private ranges",
        default: "",
        text: "Networks to accept behind spokes, beyond private and unique local ones that \
               nobody else has.",
    },
    Flag {
        name: "no-spoke-to-spoke",
        reload: Reload::Restart,
        value: "",
        takes: Takes::Nothing,
        brief: "spokes reach the hub but not each other",
        default: "",
        text: "Spokes reach the hub but not each other.",
    },
    Flag {
        name: "nat",
        reload: Reload::Restart,
        value: "",
        takes: Takes::Nothing,
        brief: "let spokes out: forwarding, and this machine's address",
        default: "",
        text: "Lets spokes out: switches forwarding on, which stays on, and gives what they send \
               the machine's own address on the way out, by a table of its own in nftables. \
               Where other rules drop that, or the hub's port, it is accepted there as long as \
               the hub runs: in chains of iptables and nft before what drops, with the table's \
               name in a comment, and by firewalld, which puts the devices into its zone \
               `trusted` where they have none.",
    },
    Flag {
        name: "nat-except",
        reload: Reload::Taken,
        value: "NET,..",
        takes: Takes::Text,
        brief: "these know the way back and see the spokes' own",
        default: "",
        text: "Networks that know the way back to the spokes: they see the spokes' own addresses.",
    },
];
