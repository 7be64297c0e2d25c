//! The listings are what nft 1.0.6 prints for rules as people write them.

use serde_json::json;

use super::*;

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A chain `inet filter NAME` with this policy and these rules, whose handles
/// are 1, 2, ...
fn listing(hook: &str, policy: &str, rules: &[Value]) -> Value {
    let chain = json!({"chain": {"family": "inet", "table": "filter", "name": hook,
        "type": "filter", "hook": hook, "prio": 0, "policy": policy}});
    let rules = rules.iter().zip(1..).map(|(expr, handle)| {
        json!({"rule": {"family": "inet", "table": "filter", "chain": hook,
            "handle": handle, "expr": expr}})
    });
    let all: Vec<_> = std::iter::once(chain).chain(rules).collect();

    json!({ "nftables": all })
}

/// The commands for a pool of either family.
fn script(listing: &Value) -> String {
    let inside = nets(&["10.0.0.0/24", "fc00::/120"]);
    let wanted = Wanted {
        tag: "dtun-hub-443",
        inside: &inside,
        port: 443,
    };
    let changes = Ruleset::parse(listing, &[]).changes(wanted);

    changes
        .iter()
        .map(|change| change.script.as_str())
        .collect()
}

fn is(left: Value, right: Value) -> Value {
    json!({"match": {"op": "==", "left": left, "right": right}})
}

fn meta(key: &str) -> Value {
    json!({"meta": {"key": key}})
}

fn accept() -> Value {
    json!({"accept": null})
}

fn established() -> Value {
    json!([{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set":
        [["invalid", {"drop": null}], ["established", {"accept": null}]]}}}])
}

const FORWARD_AT_THE_END: &str = r#"add rule inet filter forward iifgroup 25716 ip saddr 10.0.0.0/24 accept comment "dtun-hub-443 from 10.0.0.0/24"
add rule inet filter forward oifgroup 25716 ip daddr 10.0.0.0/24 ct state established,related accept comment "dtun-hub-443 to 10.0.0.0/24"
add rule inet filter forward iifgroup 25716 ip6 saddr fc00::/120 accept comment "dtun-hub-443 from fc00::/120"
add rule inet filter forward oifgroup 25716 ip6 daddr fc00::/120 ct state established,related accept comment "dtun-hub-443 to fc00::/120"
"#;

#[test]
fn a_policy_that_drops_is_met_behind_what_the_owner_blocks() {
    let blocked = json!([is(json!({"payload": {"protocol": "ip", "field": "daddr"}}), json!("192.0.2.66")), {"drop": null}]);
    let lan = json!([is(meta("iifname"), json!("br0")), {"jump": {"target": "lan"}}]);

    assert_eq!(script(&listing("forward", "drop", &[])), FORWARD_AT_THE_END);
    assert_eq!(
        script(&listing("forward", "drop", &[established(), blocked, lan])),
        FORWARD_AT_THE_END
    );
}

#[test]
fn the_accept_goes_before_a_rule_that_rejects_or_a_jump_that_may_not_come_back() {
    let reject = json!([{"counter": {"packets": 1, "bytes": 2}}, {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}]);
    let jump = json!([is(json!({"payload": {"protocol": "ip", "field": "daddr"}}), json!("@wan")), {"jump": {"target": "wan"}}]);
    let named = json!([{"vmap": {"key": meta("iifname"), "data": "@zones"}}]);
    let before = |handle: u64| {
        let insert = format!("insert rule inet filter forward handle {handle}");
        FORWARD_AT_THE_END.replace("add rule inet filter forward", &insert)
    };

    assert_eq!(
        script(&listing("forward", "accept", &[established(), reject])),
        before(2)
    );
    for unclear in [jump, named] {
        assert_eq!(
            script(&listing("forward", "drop", &[established(), unclear])),
            before(2)
        );
    }
}

#[test]
fn what_passes_already_is_left_alone() {
    let tunnel = || is(meta("iifname"), json!("dtun*"));
    let out = is(meta("oifname"), json!("eth0"));
    let saddr = |protocol, addr, len| {
        let left = json!({"payload": {"protocol": protocol, "field": "saddr"}});
        is(left, json!({"prefix": {"addr": addr, "len": len}}))
    };
    for rules in [
        vec![json!([accept()])],
        vec![json!([tunnel(), accept()])],
        vec![json!([tunnel(), out, accept()])],
        vec![
            json!([saddr("ip", "10.0.0.0", 8), accept()]),
            json!([saddr("ip6", "fc00::", 7), accept()]),
        ],
    ] {
        assert_eq!(script(&listing("forward", "drop", &rules)), "", "{rules:?}");
    }
    assert_eq!(script(&listing("forward", "accept", &[established()])), "");
}

#[test]
fn one_family_alone_may_be_dropped() {
    let rule = json!([is(meta("nfproto"), json!("ipv6")), {"drop": null}]);

    let script = script(&listing("forward", "accept", &[rule]));

    assert!(
        script.contains("saddr fc00::/120") && !script.contains("10.0.0.0"),
        "{script}"
    );
    assert!(
        script.starts_with("insert rule inet filter forward handle 1 "),
        "{script}"
    );
}

#[test]
fn the_port_is_opened_where_it_is_closed() {
    let dport = |right| {
        json!([
            is(
                json!({"payload": {"protocol": "udp", "field": "dport"}}),
                right
            ),
            accept()
        ])
    };
    let opened =
        "add rule inet filter input udp dport 443 accept comment \"dtun-hub-443 udp 443\"\n";
    let loopback = json!([is(meta("iifname"), json!("lo")), accept()]);
    let ssh = json!([
        is(
            json!({"payload": {"protocol": "tcp", "field": "dport"}}),
            json!(22)
        ),
        accept()
    ]);

    assert_eq!(script(&listing("input", "drop", &[])), opened);
    assert_eq!(
        script(&listing(
            "input",
            "drop",
            &[established(), loopback, ssh, dport(json!("@some"))]
        )),
        opened
    );
    for open in [json!(443), json!({"set": [53, {"range": [400, 500]}]})] {
        assert_eq!(script(&listing("input", "drop", &[dport(open)])), "");
    }
}

#[test]
fn a_jump_is_followed_and_comes_back() {
    let jump = json!([{"jump": {"target": "common"}}]);
    let mut listing = listing("input", "accept", &[established(), jump]);
    let mut common = |handle: u64, expr: Value| {
        let rule = json!({"rule": {"family": "inet", "table": "filter", "chain": "common",
            "handle": handle, "expr": expr}});
        listing["nftables"].as_array_mut().unwrap().push(rule);
        script(&listing)
    };

    assert_eq!(
        common(
            7,
            json!([is(meta("l4proto"), json!("tcp")), {"drop": null}])
        ),
        ""
    );
    let closed = common(8, json!([{"reject": null}]));
    assert!(
        closed.starts_with("insert rule inet filter input handle 2 udp dport 443"),
        "{closed}"
    );
}

#[test]
fn what_stands_is_left_and_what_is_in_the_wrong_place_is_moved_or_removed() {
    let ours = |handle, comment: &str| {
        json!({"rule": {"family": "inet", "table": "filter", "chain": "input",
            "handle": handle, "comment": comment, "expr": [accept()]}})
    };
    let with = |policy, rules: &[Value], ours: Value, first: bool| {
        let mut listing = listing("input", policy, rules);
        let all = listing["nftables"].as_array_mut().unwrap();
        let at = if first { 1 } else { all.len() };
        all.insert(at, ours);
        listing
    };
    let drop = [json!([{"drop": null}])];

    let good = ours(9, "dtun-hub-443 udp 443");
    assert_eq!(script(&with("accept", &drop, good.clone(), true)), "");
    assert_eq!(
        script(&with("accept", &drop, good.clone(), false)),
        "delete rule inet filter input handle 9\n\
         insert rule inet filter input handle 1 udp dport 443 accept comment \"dtun-hub-443 udp 443\"\n"
    );
    assert_eq!(
        script(&with("accept", &[], good, true)),
        "delete rule inet filter input handle 9\n"
    );
    // Another hub's.
    let mut other = ours(9, "dtun-hub-4433 udp 4433");
    let port = json!({"payload": {"protocol": "udp", "field": "dport"}});
    other["rule"]["expr"] = json!([is(port, json!(4433)), accept()]);
    assert_eq!(
        script(&with("drop", &[], other, true)),
        "add rule inet filter input udp dport 443 accept comment \"dtun-hub-443 udp 443\"\n"
    );
}

#[test]
fn chains_of_programs_with_a_way_of_their_own_are_left_alone() {
    let chain = |family: &str, table: &str, name: &str| {
        json!({"nftables": [{"chain": {"family": family, "table": table, "name": name,
            "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}}]})
    };
    for (family, table, name) in [
        ("inet", "firewalld", "filter_FORWARD"),
        ("ip", "filter", "FORWARD"),
        ("ip", "mangle", "FORWARD"),
        ("inet", "dtun-lock", "forward"),
        ("bridge", "filter", "forward"),
    ] {
        let ruleset = Ruleset::parse(&chain(family, table, name), &["ip"]);
        assert_eq!(ruleset.bases.len(), 0, "{table}");
    }
    for (table, name) in [("filter", "FORWARD"), ("filter", "forward"), ("mine", "x")] {
        let ruleset = Ruleset::parse(&chain("ip6", table, name), &["ip"]);
        assert_eq!(ruleset.bases.len(), 1, "{table} {name}");
    }
}
