//! Which PSK identities are the hint of a spoke.

/// The hint in a ClientKeyExchange's identity; `None` is an unknown one, whose
/// spoke must see no difference to a wrong key.
pub(super) fn parse(identity: &[u8]) -> Option<&str> {
    if !(1..=LONGEST).contains(&identity.len()) {
        return None;
    }

    std::str::from_utf8(identity)
        .ok()
        .filter(|hint| !hint.chars().any(char::is_control))
}

/// Hints become device aliases and log fields.
const LONGEST: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_1_to_128_bytes_of_utf8_without_control_characters() {
        assert_eq!(parse(b"laptop-1"), Some("laptop-1"));
        assert_eq!(parse("笔记本".as_bytes()), Some("笔记本"));
        assert_eq!(parse(&[b'a'; 128]).map(str::len), Some(128));

        assert_eq!(parse(b""), None);
        assert_eq!(parse(&[b'a'; 129]), None);
        assert_eq!(parse(b"lap\ntop"), None);
        assert_eq!(parse(b"lap\0top"), None);
        assert_eq!(parse("lap\u{85}top".as_bytes()), None);
        assert_eq!(parse(b"lap\xFFtop"), None);
    }
}
