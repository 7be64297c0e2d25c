//! What a failed round of dialling means, for the user. Pure.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::attempt::Failure;
use crate::dial::DialError;
use crate::resolve::ResolveError;
use crate::session::NotOpened;
use crate::steering::{Filtered, NoUplink};

/// The outcome of a round without a session.
#[derive(Debug)]
pub(crate) enum Report {
    /// The name led nowhere, and no address is known from before.
    Unresolved { name: String, error: ResolveError },
    /// The uplink that is to be taken is not there.
    NoUplink(NoUplink),
    /// The hub is there and does not take us.
    NotAccepted { hub: SocketAddr, hint: String },
    /// The hub took the key, and says why there is no tunnel.
    Refused { hub: SocketAddr, why: String },
    /// The hub took the key, and then nothing more came of it.
    Interrupted { hub: SocketAddr, why: String },
    /// What the hub gives cannot be used here.
    Unusable { hub: SocketAddr, why: String },
    /// Nothing answers.
    Unreachable {
        hub: Vec<Silence>,
        /// The name that was not resolved: these are its last good addresses.
        unresolved: Option<String>,
        /// What this machine may drop answers for.
        filtered: Option<Filtered>,
    },
}

/// Says reports once, and again at longer and longer intervals.
#[derive(Debug, Default)]
pub(crate) struct Teller {
    last: String,
    /// When the same text is due again, and how long that took.
    again: Option<(Instant, Duration)>,
}

impl Teller {
    pub(crate) fn tell(&mut self, now: Instant, report: &Report) {
        let text = report.to_string();
        if self.is_due(now, &text) {
            tracing::warn!("{text}");
        } else {
            tracing::debug!("{text}");
        }
    }

    /// The report with which the program ends: no cause is named twice.
    pub(crate) fn last_word(&self, report: &Report) -> String {
        let text = report.to_string();

        match report {
            Report::Unreachable { hub, .. } if text == self.last => {
                format!("gave up: nothing answers: {}", listed(hub))
            }
            Report::Unreachable { .. }
            | Report::Unresolved { .. }
            | Report::NoUplink(_)
            | Report::NotAccepted { .. }
            | Report::Refused { .. }
            | Report::Interrupted { .. }
            | Report::Unusable { .. } => text,
        }
    }

    /// A session stood in between.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    fn is_due(&mut self, now: Instant, text: &str) -> bool {
        let interval = match self.again {
            Some((at, _)) if text == self.last && now < at => return false,
            Some((_, interval)) if text == self.last => (interval * 2).min(LONGEST),
            Some(_) | None => SHORTEST,
        };
        text.clone_into(&mut self.last);
        self.again = Some((now + interval, interval));

        true
    }
}

/// What is known of one address that does not answer.
#[derive(Debug)]
pub(crate) struct Silence {
    pub(crate) addr: SocketAddr,
    pub(crate) kind: SilenceKind,
}

#[derive(Debug)]
pub(crate) enum SilenceKind {
    Silent,
    Refused,
    /// This machine did not let a datagram out.
    Unsent(io::Error),
}

impl Report {
    /// Makes sense of every attempt of a round.
    pub(crate) fn of(hint: &str, failures: Vec<(SocketAddr, Failure)>) -> Self {
        let mut silences = Vec::new();
        for (addr, failure) in failures {
            let kind = match failure {
                Failure::Dial(DialError::NotAccepted { .. }) => {
                    return Self::NotAccepted {
                        hub: addr,
                        hint: hint.to_owned(),
                    };
                }
                Failure::NotOpened(NotOpened::Refused(why)) => {
                    return Self::Refused { hub: addr, why };
                }
                Failure::NotOpened(
                    error @ (NotOpened::NoMeta | NotOpened::Closed | NotOpened::Io(_)),
                ) => {
                    return Self::Interrupted {
                        hub: addr,
                        why: error.to_string(),
                    };
                }
                Failure::NotOpened(error @ NotOpened::BadMeta(_)) => {
                    return Self::Unusable {
                        hub: addr,
                        why: error.to_string(),
                    };
                }
                Failure::Dial(DialError::Unreachable { refused: true }) => SilenceKind::Refused,
                Failure::Dial(DialError::Unreachable { refused: false }) => SilenceKind::Silent,
                Failure::Dial(DialError::Io(error)) => SilenceKind::Unsent(error),
                Failure::Dial(error) => {
                    return Self::Unusable {
                        hub: addr,
                        why: error.to_string(),
                    };
                }
            };
            silences.push(Silence { addr, kind });
        }

        Self::Unreachable {
            hub: silences,
            unresolved: None,
            filtered: None,
        }
    }

    /// An address that nothing came from, if that is all.
    pub(crate) fn silent(&self) -> Option<SocketAddr> {
        let Self::Unreachable { hub, .. } = self else {
            return None;
        };
        let is_silent = |silence: &&Silence| matches!(silence.kind, SilenceKind::Silent);

        hub.iter().find(is_silent).map(|silence| silence.addr)
    }

    /// The same, with what may keep answers out.
    pub(crate) fn filtered(mut self, by: Option<Filtered>) -> Self {
        if let Self::Unreachable { filtered, .. } = &mut self {
            *filtered = by;
        }

        self
    }

    /// The same, with a name that this round could not resolve.
    pub(crate) fn without_name(mut self, name: &str) -> Self {
        if let Self::Unreachable { unresolved, .. } = &mut self {
            *unresolved = Some(name.to_owned());
        }

        self
    }

    /// Whether trying again soon is of no use.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::NotAccepted { .. } | Self::Refused { .. } | Self::Unusable { .. } => true,
            Self::Unresolved { .. }
            | Self::NoUplink(_)
            | Self::Interrupted { .. }
            | Self::Unreachable { .. } => false,
        }
    }

    /// Whether datagrams left this machine and no hub answered.
    pub(crate) fn is_silence(&self) -> bool {
        match self {
            Self::Unreachable { hub, .. } => hub.iter().any(|silence| match silence.kind {
                SilenceKind::Silent | SilenceKind::Refused => true,
                SilenceKind::Unsent(_) => false,
            }),
            Self::Unresolved { .. }
            | Self::NoUplink(_)
            | Self::NotAccepted { .. }
            | Self::Refused { .. }
            | Self::Interrupted { .. }
            | Self::Unusable { .. } => false,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved { name, error } => write!(
                f,
                "the name {name} cannot be resolved ({error}): is it spelt right, \
                 and is this machine online?"
            ),
            Self::NoUplink(error) => error.fmt(f),
            Self::NotAccepted { hub, hint } => write!(
                f,
                "the hub at {hub} answers but does not accept the key or hint {hint:?}: \
                 compare -key, and -suite where it is given, on both sides"
            ),
            Self::Refused { hub, why } => write!(f, "the hub at {hub} says: {why}"),
            Self::Interrupted { hub, why } => {
                write!(f, "the hub at {hub} took the key, but then: {why}")
            }
            Self::Unusable { hub, why } => write!(f, "the hub at {hub} gives no tunnel: {why}"),
            Self::Unreachable {
                hub,
                filtered: Some(Filtered { device, usual }),
                ..
            } => write!(
                f,
                "nothing answers: {}; likeliest this machine's strict rp_filter, which drops what \
                 comes in by {device} while the usual way there is by {usual}: \
                 sysctl -w net.ipv4.conf.{device}.rp_filter=2",
                listed(hub)
            ),
            Self::Unreachable {
                hub,
                unresolved: None,
                ..
            } => {
                write!(f, "nothing answers: {}; {}", listed(hub), likeliest(hub))
            }
            Self::Unreachable {
                hub,
                unresolved: Some(name),
                ..
            } => {
                let cause = match is_refused(hub) {
                    true => "the hub may have moved, or dtun does not run on it",
                    false => "likeliest this machine is offline",
                };
                write!(
                    f,
                    "nothing answers: {}, and the name {name} cannot be resolved now; {cause}",
                    listed(hub)
                )
            }
        }
    }
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            SilenceKind::Silent => write!(f, "{} is silent", self.addr),
            SilenceKind::Refused => write!(f, "{} refused", self.addr),
            SilenceKind::Unsent(error) => write!(f, "{} was not sent to ({error})", self.addr),
        }
    }
}

fn listed(silences: &[Silence]) -> String {
    let texts: Vec<_> = silences.iter().map(ToString::to_string).collect();

    texts.join(", ")
}

fn is_refused(silences: &[Silence]) -> bool {
    silences
        .iter()
        .any(|silence| matches!(silence.kind, SilenceKind::Refused))
}

/// The cause to look at first.
fn likeliest(silences: &[Silence]) -> String {
    let find =
        |wanted: fn(&SilenceKind) -> bool| silences.iter().find(|silence| wanted(&silence.kind));
    if is_refused(silences) {
        return "a machine is there, but dtun does not run on it, or on another port".to_owned();
    }
    if let Some(silence) = find(|kind| matches!(kind, SilenceKind::Silent)) {
        return format!(
            "likeliest a firewall before the hub that does not let UDP port {} in, \
             or a wrong address",
            silence.addr.port()
        );
    }

    let is_forbidden = |kind: &SilenceKind| match kind {
        SilenceKind::Unsent(error) => error.kind() == io::ErrorKind::PermissionDenied,
        SilenceKind::Silent | SilenceKind::Refused => false,
    };
    if find(is_forbidden).is_some() {
        return "likeliest a firewall on this machine".to_owned();
    }

    "likeliest this machine is offline".to_owned()
}

const SHORTEST: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    fn report(failures: Vec<DialError>) -> Report {
        let addr = "192.0.2.1:443".parse().unwrap();
        let failures = failures
            .into_iter()
            .map(|error| (addr, Failure::Dial(error)))
            .collect();

        Report::of("laptop", failures)
    }

    #[test]
    fn a_hub_that_answers_at_one_address_is_not_called_silent() {
        let report = report(vec![
            DialError::Unreachable { refused: false },
            DialError::NotAccepted { alert: None },
        ]);

        assert!(report.is_refusal());
        assert_eq!(
            report.to_string(),
            "the hub at 192.0.2.1:443 answers but does not accept the key or hint \"laptop\": \
             compare -key, and -suite where it is given, on both sides"
        );
    }

    #[test]
    fn silence_points_to_the_firewall_and_a_refusal_to_the_hub() {
        assert_eq!(
            report(vec![DialError::Unreachable { refused: false }]).to_string(),
            "nothing answers: 192.0.2.1:443 is silent; likeliest a firewall before the hub \
             that does not let UDP port 443 in, or a wrong address"
        );
        assert_eq!(
            report(vec![DialError::Unreachable { refused: true }]).to_string(),
            "nothing answers: 192.0.2.1:443 refused; a machine is there, but dtun \
             does not run on it, or on another port"
        );
    }

    #[test]
    fn a_dead_resolver_beside_a_silent_hub_points_to_this_machine() {
        let dead = |refused| {
            report(vec![DialError::Unreachable { refused }]).without_name("hub.example:443")
        };

        assert_eq!(
            dead(false).to_string(),
            "nothing answers: 192.0.2.1:443 is silent, and the name hub.example:443 cannot be \
             resolved now; likeliest this machine is offline"
        );
        assert!(dead(true).to_string().contains("the hub may have moved"));
    }

    #[test]
    fn what_kept_a_datagram_from_leaving_is_named() {
        let unsent = |kind: io::ErrorKind| report(vec![DialError::Io(kind.into())]);

        assert_eq!(
            unsent(io::ErrorKind::NetworkUnreachable).to_string(),
            "nothing answers: 192.0.2.1:443 was not sent to (network unreachable); \
             likeliest this machine is offline"
        );
        assert_eq!(
            unsent(io::ErrorKind::PermissionDenied).to_string(),
            "nothing answers: 192.0.2.1:443 was not sent to (permission denied); \
             likeliest a firewall on this machine"
        );
        assert!(!unsent(io::ErrorKind::NetworkUnreachable).is_silence());
    }

    #[test]
    fn a_failure_of_the_library_is_quoted() {
        let failure = DialError::Library(webrtc_dtls::Error::ErrCipherSuiteUnset);

        assert_eq!(
            report(vec![failure]).to_string(),
            format!(
                "the hub at 192.0.2.1:443 gives no tunnel: handshake failed: {}",
                webrtc_dtls::Error::ErrCipherSuiteUnset
            )
        );
    }

    #[test]
    fn a_hub_whose_meta_was_lost_is_asked_again_soon() {
        let addr = "192.0.2.1:443".parse().unwrap();

        let report = Report::of("laptop", vec![(addr, NotOpened::NoMeta.into())]);

        assert!(!report.is_refusal());
    }

    #[test]
    fn a_full_pool_is_said_in_the_hubs_words() {
        let addr = "192.0.2.1:443".parse().unwrap();
        let full = NotOpened::Refused("address pool 10.0.0.0/24 is full".to_owned());

        assert_eq!(
            Report::of("laptop", vec![(addr, full.into())]).to_string(),
            "the hub at 192.0.2.1:443 says: address pool 10.0.0.0/24 is full"
        );
    }

    #[test]
    fn a_program_that_ends_does_not_name_the_cause_twice() {
        let silent = || report(vec![DialError::Unreachable { refused: false }]);
        let mut teller = Teller::default();
        assert_eq!(teller.last_word(&silent()), silent().to_string());

        teller.tell(Instant::now(), &silent());

        assert_eq!(
            teller.last_word(&silent()),
            "gave up: nothing answers: 192.0.2.1:443 is silent"
        );
        let refused = report(vec![DialError::Unreachable { refused: true }]);
        assert_eq!(teller.last_word(&refused), refused.to_string());
    }

    #[test]
    fn a_text_is_told_again_when_it_is_new_or_old() {
        let start = Instant::now();
        let mut teller = Teller::default();
        let mut due = |second, text| teller.is_due(start + Duration::from_secs(second), text);

        assert!(due(0, "silent"));
        assert!(!due(29, "silent"));
        assert!(due(30, "silent"));
        assert!(!due(89, "silent"));
        assert!(due(89, "refused"));
        assert!(due(90, "silent"));
        assert!(!due(119, "silent"));
    }
}
