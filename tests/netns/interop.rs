//! Wire compatibility with the Go program, by a peer of the same habits.

use crate::go_peer;
use crate::network::Network;
use crate::traffic::{reaches, transfer};

#[test]
fn the_go_peer_carries_data_to_its_like() {
    let network = Network::new();
    let (hub, spoke) = (network.host(1), network.host(2));
    let mut server = go_peer::start(&hub, &["-key", "foo"]);
    server.line("listening");
    let at = format!("{}:443", hub.ip4());

    let mut client = go_peer::start(&spoke, &["-key", "foo", "-connect", &at]);
    client.line("tunnel up");
    server.line("session up");

    reaches(&spoke, [10, 0, 0, 1]);
    transfer(&hub, &spoke, [10, 0, 0, 2], 100_000);
}
