//! Checksums, cutting and coalescing, in bytes of packets a second:
//! `cargo bench -p dtun-shared --bench packet`.

use std::hint::black_box;
use std::io::IoSlice;
use std::ops::Range;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dtun_shared::packet::checksum;
use dtun_shared::packet::coalesce::{Coalescer, Sink};
use dtun_shared::packet::segment::Segments;
use dtun_shared::packet::vnet::{Gso, Offloads, VnetHeader};

struct Count(usize);

impl Sink for Count {
    fn write(&mut self, _: VnetHeader, parts: &[IoSlice<'_>]) {
        self.0 += parts.len();
    }
}

/// A run of TCP over IPv4 with timestamps, its checksum begun.
fn run(payload: usize, size: u16) -> (VnetHeader, Vec<u8>) {
    let len = 52 + payload;
    let mut packet = vec![0x45, 0];
    packet.extend((len as u16).to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let check = checksum::finish(checksum::sum(0, &packet));
    packet[10..12].copy_from_slice(&check);
    let addresses = packet[12..20].try_into().expect("eight bytes");
    let begun = checksum::fold(checksum::pseudo4(addresses, 6, (len - 20) as u16));
    packet.extend([
        0x9c, 0x40, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 2, 0x80, 0x10, 1, 0,
    ]);
    packet.extend(begun.to_ne_bytes());
    packet.extend([0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    packet.extend((0..payload).map(|at| (at * 31) as u8));
    let header = VnetHeader {
        needs_csum: true,
        gso: Gso::Tcp4,
        hdr_len: 52,
        gso_size: size,
        csum_start: 20,
        csum_offset: 16,
        ..VnetHeader::PLAIN
    };

    (header, packet)
}

/// The packets of a run, one after another, with room between them as for
/// the heads and tags of records.
fn cut(payload: usize, size: u16) -> (Vec<u8>, Vec<Range<usize>>) {
    let (header, mut packet) = run(payload, size);
    let mut segments = Segments::new(header, &mut packet, usize::MAX).expect("well formed");
    let mut arena = Vec::new();
    let mut ranges = Vec::new();
    while let Some(len) = segments.next_len() {
        let start = arena.len() + 21;
        arena.resize(start + len, 0);
        segments.write_next(&mut arena[start..]);
        ranges.push(start..start + len);
        arena.resize(start + len + 16, 0);
    }

    (arena, ranges)
}

fn checksums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for len in [40, 100, 1400, 9000] {
        let bytes: Vec<u8> = (0..len + 1).map(|at| (at * 7) as u8).collect();
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("{len}"), |bencher| {
            bencher.iter(|| checksum::fold(checksum::sum(0, black_box(&bytes[1..]))));
        });
    }
    group.finish();
}

fn segment(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("segment");
    for (payload, size) in [(64_000, 1368), (64_000, 536), (1368, 1368)] {
        let (header, packet) = run(payload, size);
        let mut copy = packet.clone();
        let mut out = vec![0; 2000];
        group.throughput(Throughput::Bytes(payload as u64));
        group.bench_function(format!("{payload} by {size}"), |bencher| {
            bencher.iter(|| {
                // Cutting consumes the headers.
                copy[..52].copy_from_slice(&packet[..52]);
                let mut segments =
                    Segments::new(header, &mut copy, usize::MAX).expect("well formed");
                while let Some(len) = segments.next_len() {
                    segments.write_next(&mut out[..len]);
                }
                black_box(&out);
            });
        });
    }
    group.finish();
}

fn coalesce(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("coalesce");
    for (payload, size) in [(62_000, 1368), (6_400, 100)] {
        let (arena, ranges) = cut(payload, size);
        let mut work = arena.clone();
        let mut coalescer = Coalescer::new(Offloads::ALL);
        group.throughput(Throughput::Bytes(payload as u64));
        group.bench_function(format!("{payload} by {size}"), |bencher| {
            bencher.iter(|| {
                // A written run has changed its first packet.
                let first = ranges[0].clone();
                work[first.clone()].copy_from_slice(&arena[first]);
                let mut count = Count(0);
                for range in &ranges {
                    coalescer.push(&mut work, range.clone(), &mut count);
                }
                coalescer.flush(&mut work, &mut count);
                assert_eq!(count.0, ranges.len());
            });
        });
    }
    let (mut arena, ranges) = cut(64, 64);
    let mut coalescer = Coalescer::new(Offloads::ALL);
    group.throughput(Throughput::Elements(1));
    group.bench_function("a packet alone", |bencher| {
        bencher.iter(|| {
            let mut count = Count(0);
            coalescer.push(&mut arena, ranges[0].clone(), &mut count);
            coalescer.flush(&mut arena, &mut count);
            count.0
        });
    });
    group.finish();
}

criterion_group!(benches, checksums, segment, coalesce);
criterion_main!(benches);
