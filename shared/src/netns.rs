//! A network namespace for one test: nothing but a loopback, and gone with
//! the test's thread.

use std::net::IpAddr;
use std::panic;
use std::thread;

use tokio::runtime::Builder;

use crate::link::Netlink;
use crate::sys;

/// Runs a test in a namespace of its own, on a runtime of its own.
pub(crate) fn isolated<F: Future<Output = ()>>(test: impl FnOnce(Netlink) -> F + Send + 'static) {
    let inside = move || {
        sys::netns::unshare().expect("the tests run as root");
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let netlink = Netlink::new().unwrap();
            let lo = netlink.link("lo").await.unwrap().unwrap();
            netlink.set_up(lo.index, lo.mtu).await.unwrap();
            test(netlink).await;
        });
    };

    if let Err(panicked) = thread::spawn(inside).join() {
        panic::resume_unwind(panicked);
    }
}

/// Gives the loopback more addresses.
pub(crate) async fn add_to_lo(netlink: &Netlink, addresses: &[&str]) {
    let lo = netlink.link("lo").await.unwrap().unwrap().index;
    for address in addresses {
        match address.parse().unwrap() {
            IpAddr::V4(ip) => netlink.add_address_ptp4(lo, ip, ip).await.unwrap(),
            IpAddr::V6(ip) => netlink.add_address6(lo, ip, None).await.unwrap(),
        }
    }
    netlink.settle(lo).await.unwrap();
}
