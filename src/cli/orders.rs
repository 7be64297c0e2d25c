//! Words in the first place that make the program do something else than carry
//! a tunnel.

use std::ffi::OsString;

use clap::CommandFactory;
use dtun_client::CleanConfig;
use dtun_shared::link::Action;

use super::config::Config;
use super::flags::Flags;
use super::{Invocation, Order, Usage, argv, asked, ignored_but, state_directory, value};
use crate::log;

/// `dtun routes add|del FILE`: what the up-script calls where `ip` has no `-batch`.
pub(super) fn routes(args: &[OsString]) -> Result<Invocation, Usage> {
    let (action, file) = match args {
        [verb, file] if verb == "add" => (Action::Add, file),
        [verb, file] if verb == "del" => (Action::Delete, file),
        _ => return Err(Usage::new("routes", "use: dtun routes add|del FILE")),
    };

    Ok(Invocation {
        order: Order::Routes {
            action,
            file: file.into(),
        },
        log: log::Options::default(),
        warnings: Vec::new(),
        settings: None,
    })
}

/// `dtun clean`, for a unit's `ExecStopPost`, and the form of it in which a
/// spoke starts the guard of its resolvers. A start that failed for its
/// configuration is cleaned up after, too, so a bad file is only a warning.
pub(super) fn clean(
    args: &[OsString],
    env: &impl Fn(&str) -> Option<OsString>,
) -> Result<Invocation, Usage> {
    let mut warnings = Vec::new();
    if let [flag, record] = args
        && flag == "-when-over"
    {
        return Ok(Invocation {
            order: Order::Guard {
                record: record.into(),
            },
            log: log::Options::new(log::Format::Text, false, env),
            warnings,
            settings: None,
        });
    }

    let mut command = Flags::command();
    let given = argv::tokens(&command, args.iter().cloned())?;
    let mut flags = Flags::read(&mut command, &given)?;
    if let Some(path) = flags.config.take()
        && !flags.asks()
    {
        let config = Config::read(&path, &command, &mut Vec::new());
        let read = config.and_then(|config| {
            let tokens = config.unless(&given).chain(&given);
            Flags::read(&mut command, tokens).map_err(|usage| config.locate(usage, &given))
        });
        match read {
            Ok(all) => flags = all,
            Err(usage) => warnings.push(format!("cleaned up without the file: {usage}")),
        }
    }
    warnings.extend(ignored_but(&CLEANS, &given).map(|names| {
        format!("{names}: nothing to `dtun clean`, which looks at -state, -table and -rule-pref")
    }));
    let log = log::Options::new(flags.log_format.unwrap_or_default(), flags.v, env);
    let order = if flags.asks() {
        asked(&flags)
    } else {
        Order::Clean(CleanConfig {
            state: flags.state.or_else(|| state_directory(env)),
            table: flags.table,
            rule_pref: flags.rule_pref,
        })
    };

    Ok(Invocation {
        order,
        log,
        warnings,
        settings: None,
    })
}

/// `dtun unlock [-for TIME]`.
pub(super) fn unlock(args: &[OsString]) -> Result<Invocation, Usage> {
    let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    let words: Vec<_> = words.iter().flat_map(|word| word.split('=')).collect();
    let time = match words[..] {
        [] => None,
        ["-for" | "--for", time] => {
            Some(value::unlocked(time).map_err(|fault| Usage::new("unlock -for", fault))?)
        }
        _ => return Err(Usage::new("unlock", "use: dtun unlock [-for TIME]")),
    };

    Ok(Invocation {
        order: Order::Unlock(time),
        log: log::Options::default(),
        warnings: Vec::new(),
        settings: None,
    })
}

/// Those that `dtun clean` looks at.
const CLEANS: [&str; 3] = ["state", "table", "rule-pref"];
