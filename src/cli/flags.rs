//! The flags, as clap sees them. What they mean to a user stands in [`super::table`].

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Command, FromArgMatches, Parser};
use dtun_client::{BypassSource, RouteWhat};
use dtun_server::Pool6;
use dtun_shared::dtls::CipherSuite;
use dtun_shared::leaving::Bind;
use dtun_shared::mark::Mark;
use ipnet::{IpNet, Ipv4Net};

use super::argv::Token;
use super::from::{self, From};
use super::usage::Usage;
use super::value;
use crate::log::Format;

#[derive(Debug, Parser)]
#[command(
    name = "dtun",
    disable_help_flag = true,
    disable_version_flag = true,
    args_override_self = true
)]
pub(super) struct Flags {
    #[arg(long)]
    pub(super) key: Option<OsString>,
    #[arg(long)]
    pub(super) key_file: Option<PathBuf>,
    #[arg(long)]
    pub(super) config: Option<PathBuf>,

    #[arg(long, value_parser = value::listen)]
    pub(super) listen: Option<SocketAddr>,
    #[arg(long, value_parser = value::pool4)]
    pub(super) pool4: Option<Ipv4Net>,
    #[arg(long, value_parser = value::pool6)]
    pub(super) pool6: Option<Pool6>,
    #[arg(long, value_parser = value::lease)]
    pub(super) lease: Option<Duration>,
    #[arg(long, value_parser = value::networks)]
    pub(super) allow_peernet: Option<Networks>,
    #[arg(long, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = value::switch, action = ArgAction::Set)]
    pub(super) no_spoke_to_spoke: bool,
    #[arg(long, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = value::switch, action = ArgAction::Set)]
    pub(super) nat: bool,
    #[arg(long, value_parser = value::networks)]
    pub(super) nat_except: Option<Networks>,

    #[arg(long, value_parser = value::connect)]
    pub(super) connect: Option<String>,
    #[arg(long, value_parser = value::hint)]
    pub(super) id: Option<String>,
    #[arg(long, value_parser = value::peernet)]
    pub(super) peernet: Option<Networks>,
    #[arg(long, value_parser = value::device)]
    pub(super) tun: Option<String>,
    #[arg(long, value_parser = value::fallback)]
    pub(super) fallback: Option<Fallback>,
    #[arg(long, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = value::switch, action = ArgAction::Set)]
    pub(super) once: bool,

    #[arg(long, value_parser = value::route)]
    pub(super) route: Option<RouteWhat>,
    #[arg(long, value_parser = from::parse)]
    pub(super) route_from: Option<From>,
    #[arg(long, value_parser = value::bypass)]
    pub(super) bypass: Option<BypassSource>,
    #[arg(long, value_parser = value::bind)]
    pub(super) bind: Option<Bind>,
    #[arg(long, value_parser = value::table)]
    pub(super) table: Option<u32>,
    #[arg(long, value_parser = value::rule_pref)]
    pub(super) rule_pref: Option<u32>,
    #[arg(long, value_parser = value::resolvers)]
    pub(super) dns: Option<Resolvers>,

    #[arg(long, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = value::switch, action = ArgAction::Set)]
    pub(super) strict: bool,

    #[arg(long)]
    pub(super) fwmark: Option<Mark>,
    #[arg(long, value_parser = value::program)]
    pub(super) up: Option<PathBuf>,
    #[arg(long, value_parser = value::program)]
    pub(super) down: Option<PathBuf>,
    #[arg(long, action = ArgAction::Append)]
    pub(super) post_up: Vec<String>,
    #[arg(long, action = ArgAction::Append)]
    pub(super) post_down: Vec<String>,
    #[arg(long, value_parser = value::keepalive)]
    pub(super) keepalive: Option<Duration>,
    #[arg(long, value_parser = value::mtu)]
    pub(super) mtu: Option<u16>,
    #[arg(long, value_parser = value::suite)]
    pub(super) suite: Option<CipherSuite>,
    #[arg(long, default_value = "on", value_parser = value::offload, action = ArgAction::Set)]
    pub(super) offload: bool,
    #[arg(long, value_parser = value::directory)]
    pub(super) state: Option<PathBuf>,
    #[arg(long, value_parser = value::log_format)]
    pub(super) log_format: Option<Format>,

    #[arg(long, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = value::switch, action = ArgAction::Set)]
    pub(super) v: bool,
    #[arg(long, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = value::switch, action = ArgAction::Set)]
    pub(super) version: bool,
    #[arg(long, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = value::switch, action = ArgAction::Set)]
    pub(super) h: bool,
    #[arg(long, default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = value::switch, action = ArgAction::Set)]
    pub(super) help: bool,
}

impl Flags {
    /// The last one wins of those given twice, but for those that are a list.
    pub(super) fn read<'a>(
        command: &mut Command,
        tokens: impl IntoIterator<Item = &'a Token>,
    ) -> Result<Self, Usage> {
        let args = tokens.into_iter().map(Token::to_arg);

        command
            .try_get_matches_from_mut(std::iter::once("dtun".into()).chain(args))
            .and_then(|matches| Self::from_arg_matches(&matches))
            .map_err(|error| Usage::from_clap(&error))
    }

    /// Whether help or the version is all that is wanted.
    pub(super) fn asks(&self) -> bool {
        self.h || self.help || self.version
    }
}

/// `None`: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fallback(pub(super) Option<Duration>);

/// Without host bits, each once, in the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Networks(pub(super) Vec<IpNet>);

/// Each once, in the order in which they are to be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resolvers(pub(super) Vec<IpAddr>);
