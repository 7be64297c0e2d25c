//! In a network namespace of each test's own, with an uplink and a tunnel.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::task::Poll;
use std::{panic, thread};

use dtun_shared::link::{Route, Via};
use dtun_shared::mark::Mark;
use dtun_shared::tun::Tun;
use nix::sched::{CloneFlags, unshare};
use tokio::runtime::Builder;

use super::super::{BypassSource, RouteWhat};
use super::*;

#[test]
fn broken_off_at_any_step_it_holds_nothing_up_and_the_next_start_removes_it() {
    isolated(|machine| async move {
        let round = async |steps| {
            let tun = machine.tunnel().await;
            let mut routes = machine.routes("10.0.0.0/8,192.0.2.0/24,fc00::/7");
            let index = tun.index();
            let work = async {
                routes.prepare(index).await.unwrap();
                routes.lead().await.unwrap();
            };
            let is_done = up_to(steps, work).await;
            if is_done {
                assert_eq!(machine.way(FAR4).await, index);
                assert_eq!(machine.way(FAR6).await, index);
                assert_eq!(machine.way("192.0.2.1").await, machine.uplink());
            }

            // As when the process is killed: its device goes, and nothing else.
            drop((routes, tun));
            for far in [FAR4, FAR6, "10.0.0.9", "192.0.2.1", "fd00::9"] {
                assert_eq!(
                    machine.way(far).await,
                    machine.uplink(),
                    "{far}, step {steps}"
                );
            }

            machine.routes("10.0.0.0/8").clean_up(&[]).await.unwrap();

            is_done
        };
        machine.broken_off_at_each_step(20, round).await;
    });
}

#[test]
fn another_list_is_taken_over_without_a_moment_outside_and_can_be_broken_off() {
    isolated(|machine| async move {
        let round = async |steps| {
            let tun = machine.tunnel().await;
            let mut routes = machine.routes("192.0.2.0/24");
            routes.prepare(tun.index()).await.unwrap();
            routes.lead().await.unwrap();

            assert!(routes.set_bypass(bypass("198.51.100.0/24")));
            let is_done = up_to(steps, async {
                routes.prepare(tun.index()).await.unwrap();
            })
            .await;

            assert_eq!(machine.way(FAR4).await, tun.index(), "step {steps}");
            assert_eq!(machine.way(FAR6).await, tun.index(), "step {steps}");
            if is_done {
                assert_eq!(machine.way("192.0.2.1").await, tun.index());
                assert_eq!(machine.way("198.51.100.1").await, machine.uplink());
            }
            routes.remove().await.unwrap();
            drop(tun);

            is_done
        };
        machine.broken_off_at_each_step(10, round).await;
    });
}

#[test]
fn a_removal_that_was_broken_off_at_any_step_is_finished_by_the_next() {
    isolated(|machine| async move {
        let round = async |steps| {
            let tun = machine.tunnel().await;
            let mut routes = machine.routes("192.0.2.0/24,fc00::/7");
            routes.prepare(tun.index()).await.unwrap();
            routes.lead().await.unwrap();

            let is_done = up_to(steps, async {
                routes.remove().await.unwrap();
            })
            .await;
            routes.remove().await.unwrap();

            drop(tun);

            is_done
        };
        machine.broken_off_at_each_step(10, round).await;
    });
}

#[test]
fn what_others_take_away_is_put_back_and_what_they_add_stays() {
    isolated(|machine| async move {
        let tun = machine.tunnel().await;
        let mut routes = machine.routes("192.0.2.0/24,198.51.100.0/24");
        routes.prepare(tun.index()).await.unwrap();
        routes.lead().await.unwrap();
        assert!(!routes.restore(true).await.unwrap());
        let theirs = Rule::new(Family::Ip4, 32_504, Then::Lookup(77));
        machine.netlink.add_rule(&theirs).await.unwrap();
        let whole = machine.state().await;

        let block = routes.standing.as_ref().unwrap().block;
        let is_ours = |rule: &&Rule| block.holds(rule.pref) && **rule != theirs;
        for rule in whole.0.iter().filter(is_ours) {
            machine.netlink.delete_rule(rule).await.unwrap();
            assert!(routes.restore(false).await.unwrap(), "{rule:?}");
        }
        assert_eq!(sorted(machine.state().await.0), sorted(whole.0.clone()));

        let table = routes.table().unwrap();
        machine.netlink.empty(table).await.unwrap();
        assert!(routes.restore(true).await.unwrap());
        assert_eq!(machine.way(FAR4).await, tun.index());
        assert_eq!(machine.way("192.0.2.1").await, machine.uplink());
        assert!(!routes.restore(true).await.unwrap());
    });
}

#[test]
fn a_list_that_is_cut_is_noticed_where_the_tunnel_takes_no_ipv6() {
    isolated(|machine| async move {
        let tun = machine.tunnel().await;
        let switch = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", tun.name());
        std::fs::write(switch, "1").unwrap();
        let mut routes = machine.routes("192.0.2.0/24,198.51.100.0/24");
        routes.prepare(tun.index()).await.unwrap();
        routes.lead().await.unwrap();
        assert!(!routes.restore(true).await.unwrap());

        let table = routes.table().unwrap().to_string();
        let status = std::process::Command::new("ip")
            .args(["route", "del", "throw", "192.0.2.0/24", "table", &table])
            .status();
        assert!(status.unwrap().success());

        assert!(routes.restore(true).await.unwrap());
    });
}

#[test]
fn a_table_that_somebody_uses_is_left_to_them() {
    isolated(|machine| async move {
        let rule = Rule::new(Family::Ip6, 32_510, Then::Lookup(77));
        machine.netlink.add_rule(&rule).await.unwrap();
        let tun = machine.tunnel().await;

        let mut routes = machine.routes("192.0.2.0/24");
        routes.prepare(tun.index()).await.unwrap();
        assert_eq!(routes.table(), Some(11_768));
        routes.remove().await.unwrap();

        routes.place.pref = Some(32_500);
        let taken = routes.prepare(tun.index()).await.unwrap_err();
        assert_eq!(
            taken.to_string(),
            "rules from 32500 or tables from 11764 on are in use: \
             name others with -rule-pref and -table"
        );
    });
}

/// Polls some work until it is done, but not that often; then it is dropped.
async fn up_to(polls: usize, work: impl Future<Output = ()>) -> bool {
    let mut work = pin!(work);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        work.as_mut().poll(context).map(|()| true)
    })
    .await
}

/// A machine with an uplink that leads everywhere.
struct Machine {
    netlink: Netlink,
    uplink: Tun,
}

impl Machine {
    fn routes(&self, list: &str) -> Routes {
        let plan = Plan {
            what: RouteWhat::Everything(Vec::new()),
            mark: Mark::DEFAULT,
            dns: vec!["192.0.2.53".parse().unwrap()],
            from: Vec::new(),
            unmarked: super::super::Unmarked::default(),
        };
        let mut routes = Routes::new(self.netlink.clone(), plan, Place::default());
        routes.set_bypass(bypass(list));
        routes
    }

    async fn tunnel(&self) -> Tun {
        let tun = Tun::create("dtun%d", false, true).unwrap();
        self.netlink.set_up(tun.index(), 1400).await.unwrap();
        tun
    }

    fn uplink(&self) -> u32 {
        self.uplink.index()
    }

    /// The device by which a packet leaves.
    async fn way(&self, to: &str) -> u32 {
        let hop = self.netlink.route_to(to.parse().unwrap()).await.unwrap();

        hop.unwrap_or_else(|| panic!("no way to {to}")).oif
    }

    /// Runs rounds that break something off after 0, 1, 2.. steps, until one says
    /// that it was done by then; each leaves the machine as it was.
    async fn broken_off_at_each_step(&self, least: usize, round: impl AsyncFn(usize) -> bool) {
        let before = self.state().await;
        let mut steps = 0;
        loop {
            let is_done = round(steps).await;
            assert_eq!(self.state().await, before, "step {steps}");
            if is_done {
                break;
            }
            steps += 1;
        }
        assert!(steps > least, "only {steps} steps");
    }

    /// Rules, and routes of every table.
    async fn state(&self) -> (Vec<Rule>, Vec<Route>) {
        let mut rules = Vec::new();
        for family in Family::BOTH {
            rules.extend(self.netlink.rules(family).await.unwrap());
        }

        (rules, self.netlink.routes().await.unwrap())
    }
}

fn sorted(rules: Vec<Rule>) -> Vec<String> {
    let mut rules: Vec<_> = rules.iter().map(|rule| format!("{rule:?}")).collect();
    rules.sort();
    rules
}

fn bypass(text: &str) -> Bypass {
    text.parse::<BypassSource>().unwrap().read().unwrap()
}

fn isolated<F: Future<Output = ()>>(test: impl FnOnce(Machine) -> F + Send + 'static) {
    let inside = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("the tests run as root");
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let netlink = Netlink::new().unwrap();
            let uplink = Tun::create("uplink", false, true).unwrap();
            let index = uplink.index();
            netlink.quiet(index, uplink.name()).await.unwrap();
            netlink.set_up(index, 1400).await.unwrap();
            for net in ["203.0.113.7", "2001:db8::7"] {
                match net.parse().unwrap() {
                    IpAddr::V4(ip) => netlink.add_address_ptp4(index, ip, ip).await.unwrap(),
                    IpAddr::V6(ip) => netlink.add_address6(index, ip, None).await.unwrap(),
                }
            }
            netlink.settle(index).await.unwrap();
            for family in Family::BOTH {
                let everything = family.everything();
                let via = Via::Device(index);
                netlink.add_route(everything, via).await.unwrap();
            }
            test(Machine { netlink, uplink }).await;
        });
    };

    if let Err(panicked) = thread::spawn(inside).join() {
        panic::resume_unwind(panicked);
    }
}

const FAR4: &str = "8.8.8.8";
const FAR6: &str = "2001:4860::1";
