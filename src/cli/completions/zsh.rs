use super::*;
use crate::cli::table::Takes;

fn made() -> String {
    let commands: String = COMMANDS
        .iter()
        .map(|command| format!("        '{}:{}'\n", command.name, command.brief))
        .collect();
    let others: String = others().map(case).collect();

    format!(
        "{HEAD}        local -a commands=(\n{}        )\n        \
         [[ $PREFIX == -* ]] || _describe -t commands command commands\n    \
         else\n        case $words[2] in\n{others}{}        esac\n    fi\n\n    \
         _arguments \\\n{}}}\n\n_dtun \"$@\"\n",
        commands.replace("        '", "            '"),
        "            lock) shift words; ((CURRENT--)) ;;\n",
        specs(flags()),
    )
}

fn case(command: &super::super::table::Command) -> String {
    let arguments = match command.arguments {
        Arguments::VerbAndFile(verbs) => {
            format!(
                "                    ':verb:({})' ':FILE:_files'\n",
                verbs.join(" ")
            )
        }
        Arguments::These(flags) => specs(flags).replace("        '", "                    '"),
        Arguments::Flags => unreachable!("{} has the tunnel's flags", command.name),
    };

    format!(
        "            {})\n                shift words\n                ((CURRENT--))\n                \
         _arguments \\\n{arguments}                return\n                ;;\n",
        command.name
    )
}

/// One spec of `_arguments` a line; `-flag=` takes its value with an equals
/// sign or as the next word.
fn specs<'a>(flags: impl IntoIterator<Item = &'a Flag>) -> String {
    let specs: Vec<_> = flags.into_iter().map(spec).collect();

    format!("{}\n", specs.join(" \\\n"))
}

fn spec(flag: &Flag) -> String {
    let brief = flag.brief.replace('[', "\\[").replace(']', "\\]");
    let brief = brief.replace(':', "\\:").replace('\'', "'\\''");
    let value = flag.value.replace(':', "\\:");
    let action = match flag.takes {
        Takes::Nothing => return format!("        '-{}[{brief}]'", flag.name),
        Takes::Text => " ".to_owned(),
        Takes::Words(words) => format!("({})", words.join(" ")),
        Takes::File => "_files".to_owned(),
        Takes::Directory => "_files -/".to_owned(),
        Takes::Device => "_net_interfaces".to_owned(),
    };

    format!("        '-{}=[{brief}]:{value}:{action}'", flag.name)
}

const HEAD: &str = "\
#compdef dtun
# Made from src/cli/table: do not edit.

_dtun() {
    if ((CURRENT == 2)); then
";

#[test]
fn the_committed_file_is_made_from_the_table() {
    assert_committed("scripts/completions/_dtun", &made());
}

/// In a terminal of zsh's own making: its completions work in no other place.
#[test]
fn zsh_completes_flags_values_and_commands() {
    let lines = [
        ("dtun -key-", "dtun -key-file"),
        ("dtun -once -offload=of", "dtun -once -offload=off"),
        ("dtun -log-format js", "dtun -log-format json"),
        ("dtun -config Cargo.t", "dtun -config Cargo.toml"),
        ("dtun unl", "dtun unlock"),
        ("dtun unlock -f", "dtun unlock -for"),
        ("dtun lock -byp", "dtun lock -bypass"),
        ("dtun routes a", "dtun routes add"),
    ];
    let typed = lines.iter().map(|(typed, _)| typed);
    let mut zsh = Command::new("zsh");
    let offered = output(zsh.args(["-f", "-c", TERMINAL, "zsh"]).args(typed));

    let offered: Vec<_> = offered
        .lines()
        .map(|line| line.trim_end_matches(['=', ' ']))
        .collect();
    assert_eq!(offered, lines.map(|(_, completed)| completed));
}

/// Types each line and a tab, and prints the line that this makes.
const TERMINAL: &str = r#"
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PS1= RPS1=; fpath=($PWD/scripts/completions \$fpath); autoload -U compinit; compinit -u -D
zstyle ':completion:*' verbose no
shown() { print -r -- \"<<<\$BUFFER>>>\"; BUFFER=; zle accept-line }
zle -N shown; bindkey '^X' shown; cd $PWD; print READY-\$((1+1))"
zpty -r shell seen '*READY-2*'
for line; do
    zpty -w -n shell "$line"$'\t\x18'
    zpty -r shell seen '*<<<*>>>*'
    seen=${seen##*<<<}
    print -r -- ${seen%%>>>*}
done
zpty -d shell
"#;
