use super::{Flag, Takes};

pub(super) const FLAGS: &[Flag] = &[
    Flag {
        name: "key-file",
        value: "PATH",
        takes: Takes::File,
        brief: "a file with the key, and nothing else",
        default: "",
        text: "A file with the key, and nothing else but one newline at its end.",
    },
    Flag {
        name: "config",
        value: "FILE",
        takes: Takes::File,
        brief: "more flags, one a line: key-file /etc/dtun/key",
        default: "",
        text: "A file with more flags: see CONFIGURATION FILE. What stands on the command \
               line beats it.",
    },
    Flag {
        name: "key",
        value: "S",
        takes: Takes::Text,
        brief: "the key; other users see it in ps. Also $DTUN_KEY",
        default: "",
        text: "The key itself. Every user of the machine can read an argument: better use \
               `-key-file`.",
    },
    Flag {
        name: "up",
        value: "PROGRAM",
        takes: Takes::File,
        brief: "run when the tunnel is up (a hub: for each lease)",
        default: "",
        text: "A program that is run when the tunnel is up; on a hub for each lease. See \
               HOOKS.",
    },
    Flag {
        name: "down",
        value: "PROGRAM",
        takes: Takes::File,
        brief: "run before it goes away",
        default: "",
        text: "A program that is run before the tunnel goes away. See HOOKS.",
    },
    Flag {
        name: "post-up",
        value: "LINE",
        takes: Takes::Text,
        brief: "a line for the shell; may be given again",
        default: "",
        text: "A line that the shell runs after `-up`, with `%i` for the device, as wg-quick has \
               them; may be given several times. See HOOKS.",
    },
    Flag {
        name: "post-down",
        value: "LINE",
        takes: Takes::Text,
        brief: "the line that undoes it",
        default: "",
        text: "A line that undoes what `-post-up` does; may be given several times.",
    },
    Flag {
        name: "fwmark",
        value: "VALUE[/MASK]",
        takes: Takes::Text,
        brief: "borne by its own datagrams",
        default: "0x640000/0xff0000",
        text: "What the program's own datagrams bear, for rules and firewalls; other bits of \
               a mark are left alone. The default holds with `-route`; without, nothing is \
               marked.",
    },
    Flag {
        name: "keepalive",
        value: "TIME",
        takes: Takes::Text,
        brief: "an idle peer is asked for a sign of life",
        default: "25s",
        text: "How long a peer may be idle until it is asked for a sign of life: from `1s` to \
               `20m`.",
    },
    Flag {
        name: "mtu",
        value: "N",
        takes: Takes::Text,
        brief: "1280 or more",
        default: "what the path carries",
        text: "The device's MTU, 1280 or more. The lower one of both sides holds.",
    },
    Flag {
        name: "suite",
        value: "gcm|ccm|ccm8",
        takes: Takes::Words(&["gcm", "ccm", "ccm8"]),
        brief: "this cipher and no other",
        default: "the best both have",
        text: "This cipher and no other, with AES-128. `gcm` is the fastest. Peers of the Go \
               program have `ccm8` alone.",
    },
    Flag {
        name: "offload",
        value: "on|off",
        takes: Takes::Words(&["on", "off"]),
        brief: "many packets in one piece",
        default: "on",
        text: "Whether many packets pass in one piece. `off` is for kernels and drivers that \
               get that wrong.",
    },
    Flag {
        name: "state",
        value: "DIR",
        takes: Takes::Directory,
        brief: "what outlives a restart",
        default: "/var/lib/dtun",
        text: "Where that is kept what outlives a restart: a hub's leases, a spoke's number \
               and the resolvers that it replaced. Without the flag `$STATE_DIRECTORY` \
               counts.",
    },
    Flag {
        name: "log-format",
        value: "text|json",
        takes: Takes::Words(&["text", "json"]),
        brief: "lines for people or for machines",
        default: "text",
        text: "The log goes to the standard error, in lines for people or for machines.",
    },
    Flag {
        name: "v",
        value: "",
        takes: Takes::Nothing,
        brief: "more in the log; or $RUST_LOG",
        default: "",
        text: "Logs more; `$RUST_LOG` chooses in detail.",
    },
    Flag {
        name: "version",
        value: "",
        takes: Takes::Nothing,
        brief: "print the version",
        default: "",
        text: "Print the version and exit.",
    },
    Flag {
        name: "h",
        value: "",
        takes: Takes::Nothing,
        brief: "print this",
        default: "",
        text: "Print the flags, on one screen, and exit. `-help` does the same.",
    },
];
