//! What it costs to find a datagram's session among many:
//! `cargo bench -p dtun-server --bench demux`. Times are for [`BATCH`]
//! datagrams of as many peers, which come in no order.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench fails where it stands"
)]

use std::hint::black_box;
use std::net::{Ipv6Addr, SocketAddr};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dtun_server::bench::Demux;

/// As many as one receive brings.
const BATCH: usize = 64;

fn demux(c: &mut Criterion) {
    let mut group = c.benchmark_group("demux");
    group.throughput(Throughput::Elements(BATCH as u64));
    for sessions in [1, 1_000, 10_000] {
        let v4 = |n: u16| SocketAddr::from(([198, 51, (n >> 8) as u8, n as u8], 4433 + n));
        let v6 = |n: u16| (Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(n)), 4433).into();
        let peers: Vec<SocketAddr> = (0..sessions)
            .map(|n| if n % 2 == 0 { v4(n) } else { v6(n) })
            .collect();
        let demux = Demux::new(&peers).unwrap();
        let come: Vec<_> = (0..BATCH).map(|n| peers[n * 7919 % peers.len()]).collect();

        group.bench_function(BenchmarkId::from_parameter(sessions), |b| {
            b.iter(|| {
                for &peer in &come {
                    assert!(black_box(demux.find(black_box(peer))).is_some());
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, demux);
criterion_main!(benches);
