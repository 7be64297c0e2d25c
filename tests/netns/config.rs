//! Both ends from a file alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::daemon::Daemon;
use crate::network::Network;
use crate::scratch::Scratch;
use crate::traffic::reaches;
use crate::tunnel::HUB4;

#[test]
fn a_tunnel_stands_with_all_its_flags_in_files() {
    let network = Network::new();
    let (hub, spoke) = (network.host(1), network.host(2));
    let scratch = Scratch::new();
    let file = |name: &str, text: &str, mode| {
        let path = scratch.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let key = "'c2 ret#'";
    let key_file = file("key", "c2 ret#\n", 0o600);
    let hub_state = scratch.path("hub");
    let hub_file = file(
        "hub.conf",
        &format!("# A hub.\nkey-file \"{key_file}\"\nstate = {hub_state}\nlease 5m\n"),
        0o644,
    );
    let spoke_state = scratch.path("spoke");
    let spoke_file = file(
        "spoke.conf",
        &format!(
            "key {key}\nstate {spoke_state}\nid nobody # beaten\nconnect 198.18.1.2:443\nonce"
        ),
        0o644,
    );

    let mut hub_daemon = Daemon::dtun(&hub, &["-config", &hub_file]);
    hub_daemon.line("listening");
    let mut daemon = Daemon::dtun(&spoke, &["-config", &spoke_file, "-id", "spoke2"]);
    daemon.line("tunnel up");

    hub_daemon.line("spoke2");
    reaches(&spoke, HUB4);
    assert_eq!(daemon.count(&format!("chmod 600 {spoke_file}")), 1);
    assert_eq!(hub_daemon.count("chmod"), 0, "{}", hub_daemon.text());
}
