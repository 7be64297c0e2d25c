//! The up-script by itself: which routes it sets, and that it takes away these
//! and no other; with dash and iproute2, and with busybox alone.

use std::time::Instant;

use crate::laptop::{Laptop, TOOLS};

#[test]
fn all_but_the_hub_and_the_list_goes_into_the_tunnel() {
    for tools in TOOLS {
        let laptop = Laptop::new("split", tools);
        laptop.list(
            "# chnroutes\r\n\r\n1.0.1.0/24\r\n 1.0.2.0/23 # two\n2001:db8:77::/48\n8.8.8.8\n",
        );

        let said = laptop.up().unwrap();

        assert_eq!(
            laptop.ours("-4"),
            "0.0.0.0/1 dev dtun0\n\
             1.0.1.0/24 via 192.168.5.1 dev uplink\n\
             1.0.2.0/23 via 192.168.5.1 dev uplink\n\
             128.0.0.0/1 dev dtun0\n\
             198.51.100.7 via 192.168.5.1 dev uplink\n\
             8.8.8.8 via 192.168.5.1 dev uplink\n"
        );
        assert_eq!(
            laptop.ours("-6"),
            "2001:db8:77::/48 via fe80::1 dev uplink\n\
             8000::/1 dev dtun0\n\
             ::/1 dev dtun0\n"
        );
        assert!(
            said.contains("4 networks via 192.168.5.1 dev uplink: 0 lines are no networks"),
            "{said}"
        );
    }
}

#[test]
fn down_leaves_the_routes_as_they_were() {
    for tools in TOOLS {
        let laptop = Laptop::new("split", tools);
        laptop.list("1.0.1.0/24\n2001:db8:77::/48\n");
        let before = laptop.tables();

        laptop.up().unwrap();
        assert_ne!(laptop.tables(), before);
        laptop.down().unwrap();

        assert_eq!(laptop.tables(), before);
        assert_eq!(laptop.records(), 0);
    }
}

#[test]
fn a_second_run_changes_nothing_and_complains_of_nothing() {
    for tools in TOOLS {
        let laptop = Laptop::new("split", tools);
        laptop.list("1.0.1.0/24\n1.0.2.0/24\n");
        let before = laptop.tables();
        laptop.up().unwrap();
        let once = laptop.tables();

        let said = laptop.up().unwrap();

        assert_eq!(laptop.tables(), once);
        assert!(said.contains("2 already routed, 0 refused"), "{said}");
        laptop.down().unwrap();
        assert_eq!(laptop.tables(), before);
    }
}

#[test]
fn a_line_that_is_no_network_is_counted_and_stops_nothing() {
    for tools in TOOLS {
        let laptop = Laptop::new("split", tools);
        laptop.list(
            "1.0.1.0/24\n300.0.0.0/8\n1.0.0/24\n1.0.0.0/33\nhello\n1.0.3.0/24 via 1.2.3.4\n0.0.0.0/0\n\
             ; ip link del uplink\n$(reboot)\n::/0\n2001:db8::/129\n1.0.4.9/24",
        );

        let said = laptop.up().unwrap();

        assert!(
            said.contains("2 networks via 192.168.5.1 dev uplink: 10 lines are no networks"),
            "{said}"
        );
        let routes = laptop.ours("-4");
        assert!(
            routes.contains("1.0.1.0/24 via") && routes.contains("1.0.4.0/24 via"),
            "{routes}"
        );
    }
}

#[test]
fn what_hung_on_the_old_gateway_moves_to_the_new_one() {
    for tools in TOOLS {
        let mut laptop = Laptop::new("split", tools);
        laptop.list("1.0.1.0/24\n2001:db8:77::/48\n");
        laptop.up().unwrap();

        laptop.netns.ip("addr add 192.168.6.2/24 dev other");
        laptop.netns.ip("route replace default via 192.168.6.1");
        laptop
            .netns
            .ip("-6 route replace default via fe80::2 dev other");
        let before = laptop.without_ours();
        laptop.server = "198.51.100.8";
        laptop.up().unwrap();

        assert_eq!(
            laptop.ours("-4"),
            "0.0.0.0/1 dev dtun0\n\
             1.0.1.0/24 via 192.168.6.1 dev other\n\
             128.0.0.0/1 dev dtun0\n\
             198.51.100.8 via 192.168.6.1 dev other\n"
        );
        assert!(
            laptop
                .ours("-6")
                .contains("2001:db8:77::/48 via fe80::2 dev other")
        );
        laptop.down().unwrap();
        assert_eq!(laptop.tables(), before);
    }
}

#[test]
fn a_link_without_a_gateway_and_a_hub_next_door_need_none() {
    for tools in TOOLS {
        let mut laptop = Laptop::new("split", tools);
        laptop.list("1.0.1.0/24\n");

        laptop.server = "192.168.5.9";
        laptop.up().unwrap();
        assert!(laptop.ours("-4").contains("192.168.5.9 dev uplink\n"));

        laptop.netns.ip("route replace default dev other");
        laptop.server = "198.51.100.7";
        laptop.up().unwrap();
        let routes = laptop.ours("-4");
        assert!(routes.contains("198.51.100.7 dev other\n"), "{routes}");
        assert!(routes.contains("1.0.1.0/24 dev other\n"), "{routes}");
    }
}

#[test]
fn the_user_s_own_routes_are_neither_changed_nor_taken_away() {
    for tools in TOOLS {
        let laptop = Laptop::new("split", tools);
        laptop.netns.ip("route add 1.0.1.0/24 via 192.168.5.77");
        laptop.netns.ip("route add 198.51.100.7 via 192.168.5.78");
        laptop
            .netns
            .ip("-6 route add 2001:db8:77::/48 via fe80::77 dev uplink");
        laptop.list("1.0.1.0/24\n2001:db8:77::/48\n1.0.2.0/24\n");
        let before = laptop.tables();

        let said = laptop.up().unwrap();

        assert!(said.contains("2 already routed, 0 refused"), "{said}");
        laptop.down().unwrap();
        assert_eq!(laptop.tables(), before);
    }
}

#[test]
fn after_a_kill_the_next_up_and_down_clean_up_even_under_another_name() {
    for tools in TOOLS {
        let mut laptop = Laptop::new("split", tools);
        laptop.netns.ip("link del dtun0");
        let before = laptop.tables();
        for next in ["dtun0", "dtun1"] {
            laptop.device("dtun0");
            laptop.list("1.0.1.0/24\n");
            laptop.up().unwrap();
            laptop.netns.ip("link del dtun0");

            laptop.device(next);
            laptop.list("1.0.2.0/24\n");
            laptop.up().unwrap();
            assert!(!laptop.ours("-4").contains("1.0.1.0/24"));
            laptop.down().unwrap();
            laptop.netns.ip(&format!("link del {next}"));

            assert_eq!(laptop.tables(), before);
            assert_eq!(laptop.records(), 0);
        }
    }
}

#[test]
fn a_tunnel_without_ipv6_to_the_outside_leaves_ipv6_alone() {
    for tools in TOOLS {
        let mut laptop = Laptop::new("split", tools);
        laptop.out6 = "";
        laptop.list("1.0.1.0/24\n2001:db8:77::/48\n");

        laptop.up().unwrap();

        assert_eq!(laptop.ours("-6"), "");
    }
}

#[test]
fn a_hub_with_an_ipv6_address_keeps_its_gateway() {
    for tools in TOOLS {
        let mut laptop = Laptop::new("split", tools);
        laptop.server = "2001:db8:9::7";
        laptop.list("");

        laptop.up().unwrap();

        let routes = laptop.ours("-6");
        assert!(
            routes.contains("2001:db8:9::7 via fe80::1 dev uplink\n"),
            "{routes}"
        );
    }
}

#[test]
fn a_list_that_cannot_be_read_is_said_and_the_rest_is_done() {
    for tools in TOOLS {
        let laptop = Laptop::new("split", tools);

        let said = laptop.up().unwrap_err();

        assert!(said.contains("cannot read the bypass list"), "{said}");
        assert!(laptop.ours("-4").contains("128.0.0.0/1 dev dtun0"));
    }
}

#[test]
fn no_gateway_but_the_tunnel_is_said() {
    for tools in TOOLS {
        let laptop = Laptop::new("split", tools);
        laptop.netns.ip("route del default");
        laptop.netns.ip("route add default dev dtun0");

        let said = laptop.up().unwrap_err();

        assert!(
            said.contains("no gateway to 198.51.100.7 but the tunnel itself"),
            "{said}"
        );
    }
}

#[test]
fn ten_thousand_networks_are_one_bulk_load() {
    for tools in TOOLS {
        let laptop = Laptop::new("split", tools);
        let networks: Vec<_> = (0..10_000)
            .map(|at| format!("100.{}.{}.0/24\n", at / 256, at % 256))
            .collect();
        laptop.list(&networks.concat());
        let before = laptop.tables();
        laptop.count_ip();

        let start = Instant::now();
        laptop.up().unwrap();
        println!("{tools:?}: 10,000 networks in {:?}", start.elapsed());

        assert_eq!(laptop.ours("-4").lines().count(), 10_003);
        let calls = laptop.scratch.read("calls").lines().count();
        assert!(calls < 40, "{calls} calls of ip");
        laptop.down().unwrap();
        assert_eq!(laptop.tables(), before);
    }
}
