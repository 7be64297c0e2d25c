use super::{Arguments, Command, Flag, Reload, Takes};

pub(in crate::cli) const COMMANDS: &[Command] = &[
    Command {
        name: "lock",
        usage: "[FLAGS]",
        arguments: Arguments::Flags,
        brief: "close the lock of -strict",
        text: "Closes the lock of `-strict`: at boot, before there is a spoke, or to end \
               what `dtun unlock` began. It takes the flags of the spoke; of them `-bypass`, `-dns` and `-fwmark` say what \
               stays open, and the rest is nothing to it. A spoke with `-strict` takes the lock over.",
    },
    Command {
        name: "unlock",
        usage: "[-for TIME]",
        arguments: Arguments::These(&[Flag {
            name: "for",
            reload: Reload::Never,
            value: "TIME",
            takes: Takes::Text,
            brief: "close it again after this time",
            default: "",
            text: "",
        }]),
        brief: "open it: for good, or for a while",
        text: "Opens it until the next start with `-strict`, or for a time, such as a captive portal takes; \
               24 hours at most.",
    },
    Command {
        name: "clean",
        usage: "[FLAGS]",
        arguments: Arguments::Flags,
        brief: "undo what a killed run has left",
        text: "Puts the machine's resolvers back, and takes rules and tables away, those of `-nat` \
               too, a hub's devices that nobody holds, and what waits for a restart that does not come; runs the lines of \
               `-post-down` that are due. \
               It takes the flags of the program, best as `-config` `FILE`; of them `-state`, \
               `-table` and `-rule-pref` say where to look. \
               It touches nothing of a tunnel that runs, and leaves a lock closed, and says so: \
               `dtun unlock` opens it.",
    },
    Command {
        name: "routes",
        usage: "add|del FILE",
        arguments: Arguments::VerbAndFile(&["add", "del"]),
        brief: "load routes, for scripts",
        text: "Loads a file of routes for the scripts that come with the program, where `ip` has no `-batch`. \
               What was refused is said line by line, and makes the exit code 1.",
    },
];
