//! Congestion marks through the tunnel (RFC 6040).

use crate::network::Network;
use crate::tunnel::{HUB4, HUB6, Hub, Spoke};
use crate::watch::Watch;

#[test]
fn a_mark_on_the_way_reaches_a_transport_that_understands_it() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let (spoke, _) = Spoke::up(&network, 2, &[]);
    let router = Watch::new(&network.router, "forward");
    let inner = Watch::new(&hub.host, "input");
    for family in ["ip", "ip6"] {
        router.count(
            "ect",
            &format!("udp dport 443 {family} ecn ect0"),
            &format!("{family} ecn set ce"),
        );
        inner.count("ce", &format!("iifname dtun* {family} ecn ce"), "");
        inner.count("none", &format!("iifname dtun* {family} ecn not-ect"), "");
    }

    for to in [HUB4, HUB6] {
        // Two is ECT(0), as the TOS or the traffic class has it.
        spoke.host.run(&format!("ping -n -q -c 3 -i 0.2 -Q 2 {to}"));
    }
    assert_eq!(inner.packets("ce"), 6);
    assert!(router.packets("ect") >= 6);

    // What has no mark to bear gets none, inside and out.
    let before = (router.packets("ect"), inner.packets("none"));
    spoke.host.run(&format!("ping -n -q -c 3 -i 0.2 {HUB4}"));
    assert_eq!(router.packets("ect"), before.0);
    assert_eq!(inner.packets("none"), before.1 + 3);
}
