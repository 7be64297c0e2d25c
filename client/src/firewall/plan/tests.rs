use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;

/// Every line of the file is a command; the kernel takes them too.
#[track_caller]
fn is(plan: &Plan, golden: &str) {
    let text = plan.commands("dtun").join("\n") + "\n";
    assert_eq!(text, golden);

    let mut nft = Command::new("unshare")
        .args(["-n", "nft", "-c", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = nft.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    assert!(nft.wait().unwrap().success(), "nft refuses");
}

fn open() -> Plan {
    Plan {
        mark: Mark::DEFAULT,
        end: Some(End {
            device: "dtun0".to_owned(),
            ip4: [10, 0, 0, 2].into(),
            ip6: Some("fc00::2".parse().unwrap()),
        }),
        chosen: None,
        names: false,
        inside: BTreeSet::new(),
        lock: None,
    }
}

fn locked() -> Plan {
    Plan {
        inside: ["docker0".to_owned(), "virbr0".to_owned()].into(),
        lock: Some(Lock {
            bypass: Bypass {
                ip4: vec![
                    "192.168.0.0/16".parse().unwrap(),
                    "198.51.100.128/25".parse().unwrap(),
                ],
                ..Bypass::default()
            },
            served: [22, 8080].into(),
            ephemeral: 32_768..=60_999,
        }),
        ..open()
    }
}

#[test]
fn what_came_by_the_uplink_is_answered_by_it() {
    is(&open(), include_str!("answers.nft"));
}

#[test]
fn one_tunnel_without_ipv6_under_a_mark_of_all_bits() {
    let mut plan = open();
    plan.mark = "51820".parse().unwrap();
    plan.end = plan.end.map(|end| End { ip6: None, ..end });

    is(&plan, include_str!("ip4.nft"));
}

#[test]
fn questions_for_names_leave_by_the_tunnel_only() {
    let plan = Plan {
        names: true,
        ..open()
    };

    is(&plan, include_str!("names.nft"));
}

#[test]
fn groups_are_marked_and_translated() {
    let chosen = Chosen {
        mark: Mark::DEFAULT.second().unwrap(),
        groups: vec![100, 101],
    };
    let plan = Plan {
        chosen: Some(chosen),
        ..open()
    };

    is(&plan, include_str!("groups.nft"));
}

#[test]
fn the_lock_lets_nothing_leave_but_what_it_names() {
    is(&locked(), include_str!("lock.nft"));
}

#[test]
fn the_lock_stands_before_there_is_a_tunnel() {
    let plan = Plan {
        end: None,
        names: true,
        inside: BTreeSet::new(),
        ..locked()
    };

    is(&plan, include_str!("alone.nft"));
}

#[test]
fn names_that_nft_would_read_otherwise_are_not_plain() {
    for plain in ["dtun0", "br-1f_2.3", "a@b+c"] {
        assert!(is_plain(plain), "{plain}");
    }
    for odd in ["", "br*", "a\"b", "a\\b", "a b", "a;b", "é", "$x"] {
        assert!(!is_plain(odd), "{odd}");
    }
}
