//! What the kernel counts as it passes.

use crate::namespace::Netns;

/// Counters on what passes a namespace.
pub(crate) struct Watch<'a>(&'a Netns);

impl<'a> Watch<'a> {
    pub(crate) fn new(netns: &'a Netns, hook: &str) -> Self {
        netns.run("nft add table inet watch");
        netns.run(&format!(
            "nft add chain inet watch every {{ type filter hook {hook} priority 0 ; }}"
        ));

        Self(netns)
    }

    /// Counts what matches under `name`, and does something with it.
    pub(crate) fn count(&self, name: &str, matches: &str, then: &str) {
        self.0.run(&format!("nft add counter inet watch {name}"));
        self.0.run(&format!(
            "nft add rule inet watch every {matches} counter name {name} {then}"
        ));
    }

    pub(crate) fn packets(&self, name: &str) -> u32 {
        let text = self.0.run(&format!("nft list counter inet watch {name}"));
        let (_, rest) = text.split_once("packets ").unwrap();

        rest.split_whitespace().next().unwrap().parse().unwrap()
    }
}
