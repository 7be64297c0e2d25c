//! The messages after the hellos of a plain PSK handshake (RFC 4279, section 2).

use super::super::reader::{Reader, put_vec16};

/// The server's hint, which names a key to the client; ours never sends one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerKeyExchange<'a> {
    pub hint: &'a [u8],
}

impl<'a> ServerKeyExchange<'a> {
    #[must_use]
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        only_vec16(body).map(|hint| Self { hint })
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        put_vec16(self.hint, out);
    }
}

/// Has no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerHelloDone;

impl ServerHelloDone {
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        body.is_empty().then_some(Self)
    }

    /// Appends nothing; stands here so that all messages read alike.
    pub fn emit(&self, _out: &mut Vec<u8>) {}
}

/// Carries the spoke's name. Which names are good is for the hub to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientKeyExchange<'a> {
    pub identity: &'a [u8],
}

impl<'a> ClientKeyExchange<'a> {
    #[must_use]
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        only_vec16(body).map(|identity| Self { identity })
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        put_vec16(self.identity, out);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    pub verify_data: [u8; 12],
}

impl Finished {
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let verify_data = body.try_into().ok()?;

        Some(Self { verify_data })
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.verify_data);
    }
}

fn only_vec16(body: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader(body);
    let content = reader.vec16()?;
    reader.end()?;

    Some(content)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_are_parsed_back_and_fill_their_message(
            name in prop::collection::vec(any::<u8>(), 0..200),
            extra: u8,
        ) {
            let mut body = Vec::new();
            ClientKeyExchange { identity: &name }.emit(&mut body);
            let mut same = Vec::new();
            ServerKeyExchange { hint: &name }.emit(&mut same);

            prop_assert_eq!(&body, &same);
            prop_assert_eq!(
                ClientKeyExchange::parse(&body),
                Some(ClientKeyExchange { identity: &name })
            );
            prop_assert_eq!(
                ServerKeyExchange::parse(&body),
                Some(ServerKeyExchange { hint: &name })
            );
            prop_assert_eq!(ClientKeyExchange::parse(&body[..body.len() - 1]), None);
            body.push(extra);
            prop_assert_eq!(ClientKeyExchange::parse(&body), None);
            prop_assert_eq!(ServerKeyExchange::parse(&body), None);
        }

        #[test]
        fn a_finished_is_twelve_bytes(bytes in prop::collection::vec(any::<u8>(), 0..30)) {
            let parsed = Finished::parse(&bytes);

            prop_assert_eq!(parsed.is_some(), bytes.len() == 12);
            if let Some(finished) = parsed {
                let mut body = Vec::new();
                finished.emit(&mut body);
                prop_assert_eq!(body, bytes);
            }
        }
    }

    #[test]
    fn the_longest_identity_fits() {
        let identity = vec![b'x'; 65535];
        let mut body = Vec::new();
        ClientKeyExchange {
            identity: &identity,
        }
        .emit(&mut body);

        assert_eq!(
            ClientKeyExchange::parse(&body).unwrap().identity.len(),
            65535
        );
    }

    #[test]
    fn a_server_hello_done_is_empty() {
        assert_eq!(ServerHelloDone::parse(&[]), Some(ServerHelloDone));
        assert_eq!(ServerHelloDone::parse(&[0]), None);
    }
}
