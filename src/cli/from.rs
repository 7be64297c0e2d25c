//! `-route-from`: whose packets go into the tunnel.
//!
//! A bare word may be a user, a group or a device; `user:`, `group:` and `dev:`
//! before it say which.

use std::net::IpAddr;
use std::path::Path;

use dtun_client::RouteFrom;
use ipnet::IpNet;
use nix::unistd::{Group, User};

use super::value;

/// In the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct From(pub(super) Vec<RouteFrom>);

pub(super) fn parse(text: &str) -> Result<From, String> {
    let words = text
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    let from: Vec<_> = words.map(one).collect::<Result<_, _>>()?;
    if from.is_empty() {
        return Err(
            "empty: give users, groups, devices, networks, or the word forwarded".to_owned(),
        );
    }

    Ok(From(from))
}

fn one(word: &str) -> Result<RouteFrom, String> {
    if word == "forwarded" {
        return Ok(RouteFrom::Forwarded);
    }
    if let Some(name) = word.strip_prefix("user:") {
        return user(name).ok_or_else(|| format!("there is no user {name}"));
    }
    if let Some(name) = word.strip_prefix("group:") {
        return group(name).ok_or_else(|| format!("there is no group {name}"));
    }
    if let Some(name) = word.strip_prefix("dev:") {
        // It may come later.
        return value::device(name).map(RouteFrom::Device);
    }
    let host = || word.parse::<IpAddr>().map(IpNet::from);
    if let Ok(net) = word.parse::<IpNet>().or_else(|_| host()) {
        return if net.prefix_len() == 0 {
            Err(format!("{word} is everybody: leave -route-from out"))
        } else {
            Ok(RouteFrom::Net(net.trunc()))
        };
    }

    bare(word)
}

/// A user mostly has a group of the same name, which is then not meant.
fn bare(word: &str) -> Result<RouteFrom, String> {
    let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
    let person = user(word).or_else(|| group(word)).filter(|_| !is_number);
    let device = value::device(word)
        .ok()
        .filter(|name| Path::new("/sys/class/net").join(name).exists())
        .map(RouteFrom::Device);

    match (person, device) {
        (Some(_), Some(_)) => Err(format!(
            "{word} is a device and somebody's name: dev:{word}, user:{word} or group:{word}"
        )),
        (Some(from), None) | (None, Some(from)) => Ok(from),
        (None, None) => Err(format!(
            "{word} is no user, group, device or network here, nor the word forwarded; \
             a number wants user: or group: before it, a device that comes later dev:"
        )),
    }
}

fn user(name: &str) -> Option<RouteFrom> {
    let id = || User::from_name(name).ok()?.map(|user| user.uid.as_raw());

    number(name).or_else(id).map(RouteFrom::User)
}

fn group(name: &str) -> Option<RouteFrom> {
    let id = || Group::from_name(name).ok()?.map(|group| group.gid.as_raw());

    number(name).or_else(id).map(RouteFrom::Group)
}

/// An id; the highest number is that of nobody, for the kernel.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_known_by_its_prefix_or_by_what_is_there() {
        assert_eq!(
            parse("root, group:7,user:1000,lo,dev:ppp9,10.1.2.3/8,fd00::1,forwarded"),
            Ok(From(vec![
                RouteFrom::User(0),
                RouteFrom::Group(7),
                RouteFrom::User(1000),
                RouteFrom::Device("lo".to_owned()),
                RouteFrom::Device("ppp9".to_owned()),
                RouteFrom::Net("10.0.0.0/8".parse().unwrap()),
                RouteFrom::Net("fd00::1/128".parse().unwrap()),
                RouteFrom::Forwarded,
            ]))
        );
    }

    #[test]
    fn what_is_nobody_is_refused_with_the_fix() {
        for (text, why) in [
            ("user:nobody-here", "there is no user nobody-here"),
            ("user:4294967295", "there is no user 4294967295"),
            ("0.0.0.0/0", "0.0.0.0/0 is everybody: leave -route-from out"),
            ("1000", "a number wants user: or group: before it"),
            ("eth77", "a device that comes later dev:"),
            (",", "empty: give users"),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
