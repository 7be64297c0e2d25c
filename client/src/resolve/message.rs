//! Questions to a name server and its answers (RFC 1035, section 4): as much
//! as the addresses of one host take. Pure.
//!
//! Nothing here has to be trusted: whoever answers in the hub's place has no
//! key.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    A = 1,
    Aaaa = 28,
}

/// A question and the answers that belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    id: u16,
    /// Name, type and class, as both messages have them.
    body: Vec<u8>,
}

impl Question {
    /// None for a name that does not go into a message: a label has 1 to 63
    /// bytes, the name 253 at most.
    pub(super) fn new(id: u16, name: &str, kind: Kind) -> Option<Self> {
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.is_empty() || name.len() > 253 || !name.is_ascii() {
            return None;
        }
        let mut body = Vec::with_capacity(name.len() + 6);
        for label in name.split('.') {
            let len = u8::try_from(label.len())
                .ok()
                .filter(|len| (1..64).contains(len))?;
            body.push(len);
            body.extend(label.as_bytes());
        }
        body.push(0);
        body.extend((kind as u16).to_be_bytes());
        body.extend(INTERNET.to_be_bytes());

        Some(Self { id, body })
    }

    /// The datagram that asks.
    pub(super) fn emit(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(HEADER + self.body.len());
        message.extend(self.id.to_be_bytes());
        message.extend(RECURSION_DESIRED.to_be_bytes());
        message.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        message.extend(&self.body);

        message
    }

    /// The addresses in a datagram; none if it does not answer this question.
    /// A host that has no such address is told by an empty list.
    pub(super) fn answer(&self, datagram: &[u8]) -> Option<Vec<IpAddr>> {
        let (header, rest) = datagram.split_first_chunk::<HEADER>()?;
        let field = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let (flags, records) = (field(2), field(6));
        let asked = rest.get(..self.body.len())?;
        let is_ours = field(0) == self.id
            && flags & RESPONSE != 0
            && field(4) == 1
            && asked.eq_ignore_ascii_case(&self.body);
        let code = flags & CODE;
        if !is_ours || (code != NO_ERROR && code != NO_SUCH_NAME) {
            return None;
        }

        let mut rest = &rest[self.body.len()..];
        let mut found = Vec::new();
        for _ in 0..records {
            // What was cut off is not there; what came before it holds.
            let Some((address, after)) = record(rest) else {
                break;
            };
            found.extend(address);
            rest = after;
        }

        Some(found)
    }
}

/// The address in the first record, if it has one, and what follows. Whose
/// address it is does not matter: aliases of the name come first.
fn record(bytes: &[u8]) -> Option<(Option<IpAddr>, &[u8])> {
    let rest = behind_name(bytes)?;
    let (fixed, rest) = rest.split_first_chunk::<RECORD>()?;
    let field = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    let (value, rest) = rest.split_at_checked(field(8).into())?;
    if field(2) != INTERNET {
        return Some((None, rest));
    }

    let four = || <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
    let six = || <[u8; 16]>::try_from(value).ok().map(Ipv6Addr::from);
    let address = match field(0) {
        kind if kind == Kind::A as u16 => four().map(IpAddr::V4),
        kind if kind == Kind::Aaaa as u16 => six().map(IpAddr::V6),
        _ => None,
    };

    Some((address, rest))
}

/// Skips a name: labels, and a pointer or a zero byte at its end.
fn behind_name(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let (&len, rest) = bytes.split_first()?;
        match len {
            0 => return Some(rest),
            len if len & POINTER == POINTER => return rest.get(1..),
            len if len & POINTER != 0 => return None,
            len => bytes = rest.get(usize::from(len)..)?,
        }
    }
}

const HEADER: usize = 12;

/// Type, class, time to live, length of the value.
const RECORD: usize = 10;

const INTERNET: u16 = 1;
const POINTER: u8 = 0xc0;

const RESPONSE: u16 = 0x8000;
const RECURSION_DESIRED: u16 = 0x0100;
const CODE: u16 = 0x000f;
const NO_ERROR: u16 = 0;
const NO_SUCH_NAME: u16 = 3;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn question() -> Question {
        Question::new(0x1234, "vpn.example.com", Kind::A).unwrap()
    }

    /// An answer with these records behind the question.
    fn answer(flags: u16, records: &[&[u8]]) -> Vec<u8> {
        let mut message = question().emit();
        message[2..4].copy_from_slice(&flags.to_be_bytes());
        message[7] = records.len() as u8;
        message.extend(records.concat());
        message
    }

    const ALIAS: &[u8] = b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x05\x02hi\xc0\x10";
    const FOUR: &[u8] = b"\x02hi\xc0\x10\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x07";
    const SIX: &[u8] =
        b"\xc0\x0c\0\x1c\0\x01\0\0\0\x3c\0\x10\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07";

    #[test]
    fn a_question_is_as_the_rfc_has_it() {
        assert_eq!(
            question().emit(),
            b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x03vpn\x07example\x03com\0\0\x01\0\x01"
        );
        assert_eq!(
            Question::new(1, "vpn.example.com.", Kind::Aaaa)
                .unwrap()
                .emit()[12..],
            *b"\x03vpn\x07example\x03com\0\0\x1c\0\x01"
        );
    }

    #[test]
    fn what_is_no_name_is_not_asked_for() {
        let long = "a".repeat(64);
        for name in ["", ".", "a..b", "bücher.example", long.as_str()] {
            assert_eq!(Question::new(1, name, Kind::A), None, "{name}");
        }
    }

    #[test]
    fn addresses_behind_an_alias_are_found() {
        let found = question().answer(&answer(0x8180, &[ALIAS, FOUR, SIX]));

        let addresses = ["192.0.2.7", "2001:db8::7"].map(|ip| ip.parse().unwrap());
        assert_eq!(found, Some(addresses.to_vec()));
    }

    #[test]
    fn a_name_without_an_address_is_an_answer_and_a_failure_is_none() {
        assert_eq!(question().answer(&answer(0x8183, &[])), Some(vec![]));
        assert_eq!(question().answer(&answer(0x8180, &[])), Some(vec![]));
        assert_eq!(question().answer(&answer(0x8182, &[])), None);
        assert_eq!(question().answer(&answer(0x8185, &[FOUR])), None);
    }

    #[test]
    fn what_answers_another_question_is_no_answer() {
        let good = answer(0x8180, &[FOUR]);
        let other = |at: usize| {
            let mut message = good.clone();
            message[at] ^= 1;
            message
        };
        assert!(question().answer(&good).is_some());
        for at in [0, 1, 5, 13, 28] {
            assert_eq!(question().answer(&other(at)), None, "byte {at}");
        }
        assert_eq!(question().answer(&question().emit()), None);
    }

    #[test]
    fn what_was_cut_off_leaves_what_came_before() {
        let whole = answer(0x8380, &[FOUR, SIX]);

        let found = question().answer(&whole[..whole.len() - 1]).unwrap();

        assert_eq!(found, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
    }

    proptest! {
        #[test]
        fn no_datagram_makes_it_panic(
            tail in prop::collection::vec(any::<u8>(), 0..100),
            records in any::<u8>(),
        ) {
            let mut message = answer(0x8180, &[&tail]);
            message[7] = records;
            prop_assert!(question().answer(&message).is_some());
            question().answer(&tail);
        }
    }
}
