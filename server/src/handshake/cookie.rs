//! Stateless cookies (RFC 6347, section 4.2.1): proof that a spoke receives at
//! the address it sends from, before anything is kept for it.
//!
//! A cookie binds the address, the port and the client random, so that one
//! learnt at an address is worth nothing for another address or another hello.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use dtun_shared::dtls::hmac;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::entropy::Entropy;

/// The secrets that cookies are made with.
pub(super) struct Cookies {
    /// Made at the first hello: there is no clock before it.
    secrets: Option<Secrets>,
}

impl Cookies {
    pub(super) fn new() -> Self {
        Self { secrets: None }
    }

    /// The cookie for a hello from `peer`.
    pub(super) fn issue(
        &mut self,
        now: Instant,
        entropy: &mut dyn Entropy,
        peer: SocketAddr,
        client_random: &[u8; 32],
    ) -> [u8; COOKIE] {
        let secrets = self.renew(now, entropy);

        cookie(&secrets.current, peer, client_random)
    }

    /// Whether `presented` was issued to this peer and random within the last
    /// two lives of a secret.
    pub(super) fn verify(
        &mut self,
        now: Instant,
        entropy: &mut dyn Entropy,
        peer: SocketAddr,
        client_random: &[u8; 32],
        presented: &[u8],
    ) -> bool {
        if presented.len() != COOKIE {
            return false;
        }
        let secrets = self.renew(now, entropy);

        [Some(&secrets.current), secrets.previous.as_ref()]
            .into_iter()
            .flatten()
            .any(|secret| {
                let issued = cookie(secret, peer, client_random);
                issued.ct_eq(presented).into()
            })
    }

    fn renew(&mut self, now: Instant, entropy: &mut dyn Entropy) -> &Secrets {
        let secrets = match self.secrets.take() {
            None => Secrets {
                made: now,
                current: secret(entropy),
                previous: None,
            },
            Some(old) => match now.saturating_duration_since(old.made) {
                age if age < LIFE => old,
                age => Secrets {
                    made: now,
                    current: secret(entropy),
                    previous: (age < 2 * LIFE).then_some(old.current),
                },
            },
        };

        self.secrets.insert(secrets)
    }
}

struct Secrets {
    made: Instant,
    current: hmac::Key,
    previous: Option<hmac::Key>,
}

fn secret(entropy: &mut dyn Entropy) -> hmac::Key {
    let mut bytes = Zeroizing::new([0; 32]);
    entropy.fill(&mut *bytes);

    hmac::Key::new(&*bytes)
}

fn cookie(secret: &hmac::Key, peer: SocketAddr, client_random: &[u8; 32]) -> [u8; COOKIE] {
    let ip = match peer.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bound = [0; 16 + 2 + 32];
    bound[..16].copy_from_slice(&ip.octets());
    bound[16..18].copy_from_slice(&peer.port().to_be_bytes());
    bound[18..].copy_from_slice(client_random);

    let tag = secret.tag([&bound[..]]);
    let mut cookie = [0; COOKIE];
    cookie.copy_from_slice(&tag[..COOKIE]);

    cookie
}

/// Short enough that the HelloVerifyRequest (48 bytes) is smaller than the
/// smallest ClientHello (67 bytes).
pub(super) const COOKIE: usize = 20;

/// How long a secret makes cookies; it verifies them for as long again.
pub(super) const LIFE: Duration = Duration::from_secs(60);

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time needs an origin")]
mod tests {
    use super::super::entropy::SeededEntropy;
    use super::*;

    struct Jar {
        cookies: Cookies,
        entropy: SeededEntropy,
        start: Instant,
    }

    impl Jar {
        fn new() -> Self {
            Self {
                cookies: Cookies::new(),
                entropy: SeededEntropy::new(1),
                start: Instant::now(),
            }
        }

        fn issue(&mut self, at: u64, peer: &str, random: u8) -> [u8; COOKIE] {
            let now = self.start + Duration::from_secs(at);
            let peer = peer.parse().unwrap();
            self.cookies
                .issue(now, &mut self.entropy, peer, &[random; 32])
        }

        fn verify(&mut self, at: u64, peer: &str, random: u8, cookie: &[u8]) -> bool {
            let now = self.start + Duration::from_secs(at);
            let peer = peer.parse().unwrap();
            self.cookies
                .verify(now, &mut self.entropy, peer, &[random; 32], cookie)
        }
    }

    #[test]
    fn a_cookie_is_good_for_its_address_port_and_random_only() {
        let mut jar = Jar::new();
        let cookie = jar.issue(0, "192.0.2.1:1000", 7);

        assert!(jar.verify(0, "192.0.2.1:1000", 7, &cookie));
        assert!(!jar.verify(0, "192.0.2.2:1000", 7, &cookie));
        assert!(!jar.verify(0, "192.0.2.1:1001", 7, &cookie));
        assert!(!jar.verify(0, "192.0.2.1:1000", 8, &cookie));
        assert!(!jar.verify(0, "192.0.2.1:1000", 7, &cookie[..COOKIE - 1]));
        assert!(!jar.verify(0, "192.0.2.1:1000", 7, &[]));
    }

    #[test]
    fn a_cookie_outlives_one_renewal_of_the_secret_and_not_two() {
        let mut jar = Jar::new();
        jar.issue(0, "[2001:db8::1]:1000", 7);
        let cookie = jar.issue(59, "[2001:db8::1]:1000", 7);

        assert!(jar.verify(61, "[2001:db8::1]:1000", 7, &cookie));
        assert_ne!(jar.issue(62, "[2001:db8::1]:1000", 7), cookie);
        assert!(jar.verify(120, "[2001:db8::1]:1000", 7, &cookie));
        assert!(!jar.verify(122, "[2001:db8::1]:1000", 7, &cookie));
    }

    #[test]
    fn a_secret_that_nobody_renewed_in_time_is_not_a_previous_one() {
        let mut jar = Jar::new();
        let cookie = jar.issue(0, "192.0.2.1:1000", 7);

        assert!(!jar.verify(120, "192.0.2.1:1000", 7, &cookie));
    }
}
