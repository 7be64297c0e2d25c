use super::*;
use crate::cli::table::Takes;

fn made() -> String {
    let commands: String = COMMANDS
        .iter()
        .map(|command| {
            let brief = quoted(command.brief);
            format!(
                "complete -c dtun -n __fish_use_subcommand -a {} -d {brief}\n",
                command.name
            )
        })
        .collect();
    let names: Vec<_> = others().map(|command| command.name).collect();
    let tunnel = format!(
        "function __dtun_serves\n    not __fish_seen_subcommand_from {}\nend\n",
        names.join(" ")
    );
    let flags: String = flags().map(|flag| line(flag, "__dtun_serves")).collect();
    let others: String = others().map(arguments).collect();

    format!("{HEAD}{tunnel}\n{commands}\n{flags}\n{others}")
}

fn arguments(command: &super::super::table::Command) -> String {
    let condition = format!("__fish_seen_subcommand_from {}", command.name);
    match command.arguments {
        Arguments::VerbAndFile(verbs) => {
            let verbs = verbs.join(" ");
            format!(
                "complete -c dtun -n '{condition}; and not __fish_seen_subcommand_from {verbs}' \
                 -a '{verbs}'\n\
                 complete -c dtun -n '{condition}; and __fish_seen_subcommand_from {verbs}' -F\n"
            )
        }
        Arguments::These(flags) => flags.iter().map(|flag| line(flag, &condition)).collect(),
        Arguments::Flags => unreachable!("{} has the tunnel's flags", command.name),
    }
}

fn line(flag: &Flag, condition: &str) -> String {
    let value = match flag.takes {
        Takes::Nothing => String::new(),
        Takes::Text => " -x".to_owned(),
        Takes::Words(words) => format!(" -x -a '{}'", words.join(" ")),
        Takes::File => " -r -F".to_owned(),
        Takes::Directory => " -x -a '(__fish_complete_directories)'".to_owned(),
        Takes::Device => " -x -a '(__fish_print_interfaces)'".to_owned(),
    };

    format!(
        "complete -c dtun -n '{condition}' -o {}{value} -d {}\n",
        flag.name,
        quoted(flag.brief)
    )
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "\\'"))
}

const HEAD: &str = "\
# fish completion for dtun, made from src/cli/table: do not edit.

complete -c dtun -f

";

#[test]
fn the_committed_file_is_made_from_the_table() {
    assert_committed("scripts/completions/dtun.fish", &made());
}

#[test]
fn fish_completes_flags_values_and_commands() {
    let offered = |line: &str| {
        let script = "source scripts/completions/dtun.fish; complete -C $argv[1]";
        let lines = output(Command::new("fish").args(["--no-config", "-c", script, line]));
        lines
            .lines()
            .map(|line| line.split('\t').next().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };

    assert_eq!(offered("dtun -key-"), ["-key-file"]);
    assert_eq!(offered("dtun -once -suite cc"), ["ccm", "ccm8"]);
    assert_eq!(offered("dtun -config Cargo.t"), ["Cargo.toml"]);
    assert_eq!(offered("dtun unl"), ["unlock"]);
    assert_eq!(offered("dtun unlock -f"), ["-for"]);
    assert_eq!(offered("dtun lock -byp"), ["-bypass"]);
    assert_eq!(offered("dtun routes "), ["add", "del"]);
    assert_eq!(offered("dtun routes add Cargo.t"), ["Cargo.toml"]);
}
