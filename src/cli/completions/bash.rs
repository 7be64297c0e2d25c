use super::*;
use crate::cli::table::Takes;

fn made() -> String {
    let commands: Vec<_> = COMMANDS.iter().map(|command| command.name).collect();
    let others: String = others().map(arguments).collect();

    format!(
        "{HEAD}{}    esac\n\n    case ${{COMP_WORDS[1]}} in\n{others}        *)\n            \
         words='{}'\n            ((COMP_CWORD > 1)) || words+=' {}'\n            ;;\n{TAIL}",
        values(),
        dashed(flags()),
        commands.join(" "),
    )
}

/// What follows a flag.
fn values() -> String {
    let named = |takes| {
        let flags = flags()
            .chain(others().flat_map(own))
            .filter(move |flag| flag.takes == takes);
        let mut names: Vec<_> = flags.map(|flag| format!("-{}", flag.name)).collect();
        names.dedup();
        names.join(" | ")
    };
    let mut cases = String::new();
    for (takes, action) in [
        (
            Takes::File,
            "_dtun_offer -f; compopt -o filenames 2>/dev/null; return",
        ),
        (
            Takes::Directory,
            "_dtun_offer -d; compopt -o filenames 2>/dev/null; return",
        ),
        (
            Takes::Device,
            "_dtun_offer -W \"$(command ls /sys/class/net)\"; return",
        ),
        (Takes::Text, "return"),
    ] {
        cases += &format!("        {}) {action} ;;\n", named(takes));
    }
    for flag in flags() {
        if let Takes::Words(words) = flag.takes {
            let words = words.join(" ");
            cases += &format!(
                "        -{}) _dtun_offer -W '{words}'; return ;;\n",
                flag.name
            );
        }
    }

    cases
}

fn arguments(command: &super::super::table::Command) -> String {
    let name = command.name;
    match command.arguments {
        Arguments::VerbAndFile(verbs) => format!(
            "        {name})\n            case $COMP_CWORD in\n                \
             2) words='{}' ;;\n                \
             3) _dtun_offer -f; compopt -o filenames 2>/dev/null; return ;;\n            esac\n            ;;\n",
            verbs.join(" ")
        ),
        Arguments::These(flags) => format!("        {name}) words='{}' ;;\n", dashed(flags)),
        Arguments::Flags => unreachable!("{name} has the tunnel's flags"),
    }
}

fn dashed<'a>(flags: impl IntoIterator<Item = &'a Flag>) -> String {
    let names: Vec<_> = flags
        .into_iter()
        .map(|flag| format!("-{}", flag.name))
        .collect();

    names.join(" ")
}

const HEAD: &str = r#"# bash completion for dtun, made from src/cli/table: do not edit.

_dtun_offer() {
    mapfile -t COMPREPLY < <(compgen "$@" -- "$cur")
}

_dtun() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} words=
    COMPREPLY=()
    # For bash, "-flag=value" is three words.
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi

    case ${prev/#--/-} in
"#;

const TAIL: &str = r#"    esac
    if [[ $cur == --* ]]; then
        words=" $words"
        words=${words// -/ --}
    fi
    _dtun_offer -W "$words"
}

complete -F _dtun dtun
"#;

#[test]
fn the_committed_file_is_made_from_the_table() {
    assert_committed("scripts/completions/dtun.bash", &made());
}

#[test]
fn bash_completes_flags_values_and_commands() {
    let offered = |words: &[&str]| {
        let script = "source scripts/completions/dtun.bash; COMP_WORDS=(\"$@\"); \
                      COMP_CWORD=$(($# - 1)); _dtun; printf '%s\\n' \"${COMPREPLY[@]}\"";
        let mut bash = Command::new("bash");
        output(bash.args(["-c", script, "bash", "dtun"]).args(words))
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };

    assert_eq!(offered(&["-key"]), ["-key-file", "-key"]);
    assert_eq!(offered(&["--key-f"]), ["--key-file"]);
    assert_eq!(offered(&["-once", "-suite", "cc"]), ["ccm", "ccm8"]);
    assert_eq!(offered(&["-suite", "="]), ["gcm", "ccm", "ccm8"]);
    assert_eq!(offered(&["--offload", "=", "of"]), ["off"]);
    assert_eq!(offered(&["-config", "Cargo.t"]), ["Cargo.toml"]);
    assert_eq!(
        offered(&["-state", "scripts/comp"]),
        ["scripts/completions"]
    );
    assert_eq!(offered(&["-bind", "l"]), ["lo"]);
    assert_eq!(offered(&["-id", ""]), [""]);
    assert_eq!(offered(&["un"]), ["unlock"]);
    assert_eq!(offered(&["unlock", "-"]), ["-for"]);
    assert_eq!(offered(&["lock", "-byp"]), ["-bypass"]);
    assert_eq!(offered(&["routes", ""]), ["add", "del"]);
    assert_eq!(offered(&["routes", "add", "Cargo.t"]), ["Cargo.toml"]);
}
