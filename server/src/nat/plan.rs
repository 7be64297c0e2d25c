//! What the packet filter is to hold, in nft's words. Pure.

#![deny(clippy::disallowed_methods, reason = "this is pure")]

use ipnet::IpNet;

use crate::hub::GROUP;

/// The table of one hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Its name.
    pub(super) table: String,
    pools: Vec<IpNet>,
    /// Networks behind spokes.
    pub(super) peernets: Vec<IpNet>,
    /// Networks that see the spokes' own addresses.
    pub(super) except: Vec<IpNet>,
}

impl Plan {
    pub(super) fn new(name: &str, pools: Vec<IpNet>, except: Vec<IpNet>) -> Self {
        Self {
            table: table(name),
            pools,
            peernets: Vec::new(),
            except,
        }
    }

    /// All networks that are let out, none within another.
    pub(super) fn inside(&self) -> Vec<IpNet> {
        IpNet::aggregate(&[&self.pools[..], &self.peernets].concat())
    }

    /// The script that makes the table what it is to be, in one step.
    pub(super) fn script(&self) -> String {
        let table = &self.table;
        let except = IpNet::aggregate(&self.except);
        let sets = set("inside", &self.inside()) + &set("except", &except);

        // By source: what came in by is not known after routing before Linux
        // 5.7. Nobody but a spoke's device takes these sources in.
        format!(
            r#"table inet {table}
delete table inet {table}
table inet {table} {{
{sets} chain clamp {{
  type filter hook forward priority -150
  iifgroup {GROUP} tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
  oifgroup {GROUP} tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
 }}
 chain out {{
  type nat hook postrouting priority 100
  oifname "lo" return
  oifgroup {GROUP} return
  ip daddr @except4 return
  ip6 daddr @except6 return
  ip saddr @inside4 masquerade
  ip6 saddr @inside6 masquerade
 }}
}}
"#
        )
    }
}

/// The name of a hub's table.
pub(super) fn table(name: &str) -> String {
    format!("dtun-{name}")
}

/// A set of networks of each family; one within another would be refused.
fn set(name: &str, networks: &[IpNet]) -> String {
    [("4", "ipv4_addr"), ("6", "ipv6_addr")]
        .map(|(family, kind)| {
            let elements: Vec<_> = networks
                .iter()
                .filter(|net| net.addr().is_ipv6() == (family == "6"))
                .map(ToString::to_string)
                .collect();
            let elements = match &elements[..] {
                [] => String::new(),
                some => format!(" elements = {{ {} }}", some.join(", ")),
            };
            format!(" set {name}{family} {{ type {kind}; flags interval;{elements} }}\n")
        })
        .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets<const N: usize>(texts: [&str; N]) -> Vec<IpNet> {
        texts.map(|text| text.parse().unwrap()).to_vec()
    }

    #[test]
    fn pools_and_peernets_are_translated_but_towards_the_exceptions() {
        let mut plan = Plan::new(
            "hub-443",
            nets(["10.0.0.0/24", "fc00::/120"]),
            nets(["192.168.0.0/16", "192.168.7.0/24"]),
        );
        plan.peernets = nets(["192.168.8.0/24", "192.168.9.0/24", "fd00:9::/64"]);

        let script = plan.script();

        for line in [
            "delete table inet dtun-hub-443\n",
            "set inside4 { type ipv4_addr; flags interval; \
             elements = { 10.0.0.0/24, 192.168.8.0/23 } }\n",
            "set inside6 { type ipv6_addr; flags interval; \
             elements = { fc00::/120, fd00:9::/64 } }\n",
            "set except4 { type ipv4_addr; flags interval; elements = { 192.168.0.0/16 } }\n",
            "set except6 { type ipv6_addr; flags interval; }\n",
            "oifgroup 25716 return\n",
        ] {
            assert!(script.contains(line), "{line}{script}");
        }
    }
}
