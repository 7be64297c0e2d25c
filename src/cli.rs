//! Arguments and environment in, a configuration that cannot be invalid out.
//!
//! Flags are those of the Go program and more, in its syntax: one dash or two,
//! `-flag value` or `-flag=value`, the last one given wins. [`argv`] and
//! [`config`] read them into tokens; clap knows the flags, [`value`] their values.
//! A flag of the other role is ignored with a warning, as the Go program
//! ignores it, so that one unit file may serve both.

mod argv;
#[cfg(test)]
mod completions;
mod config;
mod flags;
mod from;
mod key;
#[cfg(test)]
mod manual;
mod orders;
mod settings;
mod table;
mod usage;
mod value;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::CommandFactory;
use dtun_client::{CleanConfig, LockConfig, RouteFrom, SpokeConfig};
use dtun_server::{HubConfig, NatConfig, Pool6};
use dtun_shared::dtls::CipherSuite;
use dtun_shared::hook::Lines;
use dtun_shared::link::Action;

use crate::log;
use argv::Token;
use config::Config;
use flags::Flags;
pub(crate) use settings::Settings;
use table::{GROUPS, Role};
pub(crate) use usage::{Usage, help};

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) order: Order,
    pub(crate) log: log::Options,
    /// To be said once there is a log.
    pub(crate) warnings: Vec<String>,
    /// Of a tunnel whose flags stand in a file, which may be read again.
    pub(crate) settings: Option<Settings>,
}

#[derive(Debug)]
pub(crate) enum Order {
    Help,
    Version,
    Hub(Box<HubConfig>),
    Spoke(Box<SpokeConfig>),
    Routes {
        action: Action,
        file: PathBuf,
    },
    /// Undo what spokes that were killed have left.
    Clean(CleanConfig),
    /// Undo what this record says when the process is over that holds our input.
    Guard {
        record: PathBuf,
    },
    Lock(LockConfig),
    /// For a time, or for good.
    Unlock(Option<Duration>),
}

impl Order {
    pub(crate) fn into_hub(self) -> Option<Box<HubConfig>> {
        if let Self::Hub(config) = self {
            Some(config)
        } else {
            None
        }
    }

    pub(crate) fn into_spoke(self) -> Option<Box<SpokeConfig>> {
        if let Self::Spoke(config) = self {
            Some(config)
        } else {
            None
        }
    }
}

/// Reads the arguments that follow the program's name, and the environment.
pub(crate) fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Invocation, Usage> {
    let args: Vec<OsString> = args.into_iter().collect();
    if let [order, flag] = &args[..]
        && (order == "unlock" || order == "routes")
        && HELP.iter().any(|help| flag == help)
    {
        return parse([flag.clone()], env);
    }
    if args.first().is_some_and(|first| first == "routes") {
        return orders::routes(&args[1..]);
    }
    if args.first().is_some_and(|first| first == "clean") {
        return orders::clean(&args[1..], &env);
    }
    if args.first().is_some_and(|first| first == "unlock") {
        return orders::unlock(&args[1..]);
    }
    let locks = args.first().is_some_and(|first| first == "lock");

    let mut command = Flags::command();
    let given = argv::tokens(&command, args.into_iter().skip(locks.into()))?;
    let mut flags = Flags::read(&mut command, &given)?;
    let mut warnings = Vec::new();
    let config = match flags.config.take() {
        Some(path) if !flags.asks() => Some(Config::read(&path, &command, &mut warnings)?),
        _ => None,
    };
    let locate = |usage| match &config {
        Some(config) => config.locate(usage, &given),
        None => usage,
    };
    if let Some(config) = &config {
        let tokens = config.unless(&given).chain(&given);
        flags = Flags::read(&mut command, tokens).map_err(locate)?;
    }

    let log = log::Options::new(flags.log_format.unwrap_or_default(), flags.v, &env);
    if locks {
        warnings.extend(ignored_but(&LOCKS, &given).map(|names| {
            format!("{names}: nothing to a lock, which looks at -bypass, -dns and -fwmark alone")
        }));
    } else if !flags.asks() {
        let tokens = config.iter().flat_map(|config| config.unless(&given));
        warnings.extend(ignored(tokens.chain(&given), flags.connect.is_some()));
    }
    let order = order(flags, locks, &env, &mut warnings).map_err(locate)?;
    let psk = if let Order::Hub(hub) = &order {
        Some(&hub.psk)
    } else if let Order::Spoke(spoke) = &order {
        Some(&spoke.psk)
    } else {
        None
    };
    let settings = config.as_ref().zip(psk).map(|(config, psk)| {
        let tokens = config.unless(&given).chain(&given);
        Settings::new(tokens, psk.clone())
    });

    Ok(Invocation {
        order,
        log,
        warnings,
        settings,
    })
}

fn order(
    flags: Flags,
    locks: bool,
    env: &impl Fn(&str) -> Option<OsString>,
    warnings: &mut Vec<String>,
) -> Result<Order, Usage> {
    if flags.asks() {
        return Ok(asked(&flags));
    }
    if locks {
        return Ok(Order::Lock(LockConfig {
            names: flags.dns.is_some(),
            bypass: flags.bypass,
            fwmark: flags.fwmark,
        }));
    }

    serve(flags, env, warnings)
}

/// Help or the version.
fn asked(flags: &Flags) -> Order {
    if flags.h || flags.help {
        Order::Help
    } else {
        Order::Version
    }
}

/// What to say of flags that belong to the other role.
fn ignored<'a>(tokens: impl Iterator<Item = &'a Token>, is_spoke: bool) -> Vec<String> {
    let (other, text) = if is_spoke {
        (Role::Hub, "is for a hub and does nothing on a spoke")
    } else {
        (Role::Spoke, "is for a spoke and does nothing on a hub")
    };
    let given: Vec<_> = tokens.map(|token| token.flag.as_str()).collect();
    let flags = GROUPS
        .iter()
        .filter(|group| group.role == other)
        .flat_map(|group| group.flags)
        .filter(|flag| given.contains(&flag.name) && flag.name != "id");

    flags.map(|flag| format!("-{} {text}", flag.name)).collect()
}

/// Flags that a command does not look at. Those of a file are left out: it is
/// the spoke's.
fn ignored_but(looked_at: &[&str], given: &[Token]) -> Option<String> {
    let mut names: Vec<_> = given
        .iter()
        .filter(|token| ![looked_at, &ALWAYS].concat().contains(&token.flag.as_str()))
        .map(|token| format!("-{}", token.flag))
        .collect();
    names.sort_unstable();
    names.dedup();

    (!names.is_empty()).then(|| names.join(", "))
}

fn serve(
    flags: Flags,
    env: &impl Fn(&str) -> Option<OsString>,
    warnings: &mut Vec<String>,
) -> Result<Order, Usage> {
    let psk = key::find(flags.key, flags.key_file, env, warnings)?;
    let state = flags.state.or_else(|| state_directory(env));
    let keepalive = flags.keepalive.unwrap_or(KEEPALIVE);
    let suites = flags
        .suite
        .map_or_else(|| CipherSuite::ALL.to_vec(), |suite| vec![suite]);

    let lines = Lines {
        up: flags.post_up,
        down: flags.post_down,
    };

    let Some(connect) = flags.connect else {
        if flags.nat_except.is_some() && !flags.nat {
            return Err(Usage::new(
                "-nat-except",
                "names networks that -nat leaves alone: give -nat as well",
            ));
        }
        let except = flags.nat_except.unwrap_or_default().0;
        return Ok(Order::Hub(Box::new(HubConfig {
            listen: flags.listen,
            psk,
            pool4: flags.pool4,
            pool6: flags.pool6.unwrap_or(Pool6::Default),
            lease: flags.lease.unwrap_or(LEASE),
            state,
            allow_peernet: flags.allow_peernet.unwrap_or_default().0,
            spoke_to_spoke: !flags.no_spoke_to_spoke,
            nat: flags.nat.then_some(NatConfig { except }),
            mtu: flags.mtu,
            offload: flags.offload,
            up: flags.up,
            down: flags.down,
            lines,
            fwmark: flags.fwmark,
            keepalive,
            suites,
        })));
    };

    if flags.route_from.is_some() && flags.route.is_none() {
        return Err(Usage::new(
            "-route-from",
            "says whose packets -route takes in: -route default",
        ));
    }
    let groups = |from: &RouteFrom| matches!(from, RouteFrom::Group(_));
    if let (Some(mark), Some(from)) = (flags.fwmark, &flags.route_from)
        && mark.second().is_none()
        && from.0.iter().any(groups)
    {
        return Err(Usage::new(
            &format!("-fwmark {mark}"),
            "a group needs a second value: use a mask of two bits or more",
        ));
    }
    if flags.bypass.is_some() && flags.route.is_none() {
        return Err(Usage::new(
            "-bypass",
            "keeps networks out of what -route takes in: -route default",
        ));
    }

    if flags.strict && flags.route.is_none() {
        return Err(Usage::new(
            "-strict",
            "stops all that does not go into the tunnel, so something must: -route default",
        ));
    }
    if flags.strict && flags.route_from.is_some() {
        return Err(Usage::new(
            "-strict",
            "stops what does not go into the tunnel, and with -route-from most does not: \
             leave one of them out",
        ));
    }
    if flags.strict && flags.fallback.is_some_and(|fallback| fallback.0.is_some()) {
        warnings.push("-fallback does nothing with -strict".to_owned());
    }
    let fallback = flags.fallback.map_or(Some(FALLBACK), |fallback| fallback.0);

    Ok(Order::Spoke(Box::new(SpokeConfig {
        connect,
        psk,
        hint: flags.id,
        peernet: flags.peernet.unwrap_or_default().0,
        up: flags.up,
        down: flags.down,
        lines,
        tun: flags.tun,
        keepalive,
        fallback: fallback.filter(|_| !flags.strict),
        once: flags.once,
        mtu: flags.mtu,
        offload: flags.offload,
        state,
        suites,
        route: flags.route,
        route_from: flags.route_from.unwrap_or_default().0,
        bypass: flags.bypass,
        fwmark: flags.fwmark,
        bind: flags.bind,
        table: flags.table,
        rule_pref: flags.rule_pref,
        dns: flags.dns.unwrap_or_default().0,
        strict: flags.strict,
    })))
}

/// systemd names several directories with colons between them.
fn state_directory(env: &impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;

    let directories = env("STATE_DIRECTORY")?;
    let first = directories.as_bytes().split(|byte| *byte == b':').next()?;
    (!first.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(first)))
}

/// What asks for the flags of all orders, behind one that has no more than words.
const HELP: [&str; 3] = ["-h", "-help", "--help"];

/// The flags that `dtun lock` looks at.
const LOCKS: [&str; 3] = ["bypass", "dns", "fwmark"];

/// Those of every order.
const ALWAYS: [&str; 6] = ["config", "h", "help", "log-format", "v", "version"];

const KEEPALIVE: Duration = Duration::from_secs(25);

const LEASE: Duration = Duration::from_secs(3600);

const FALLBACK: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
