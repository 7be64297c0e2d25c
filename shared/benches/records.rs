//! What a record costs: `cargo bench -p dtun-shared --bench records`.
//!
//! `aead`: AES-128-GCM in place by the two libraries that have it, so that the
//! choice between them is one by measurement. `seal` and `open`: whole records,
//! each suite. `replay`: one sequence number's way through the window, in order
//! and as a network with a few milliseconds of reordering brings them.
//! Times are for [`BATCH`] records.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench fails where it stands"
)]

use std::hint::black_box;

use aws_lc_rs::aead as aws;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::header::ContentType;
use dtun_shared::dtls::schedule::DirectionKey;
use dtun_shared::record::{Opener, Sealer};
use dtun_shared::replay::ReplayWindow;
use ring::aead as ring_aead;

/// As many as one send takes.
const BATCH: usize = 64;

/// A small packet, and one that fills the usual path.
const SIZES: [usize; 2] = [100, 1400];

const AAD: [u8; 13] = [23; 13];

fn aead(c: &mut Criterion) {
    let mut group = c.benchmark_group("aead");
    let aws_key = aws::LessSafeKey::new(aws::UnboundKey::new(&aws::AES_128_GCM, &[7; 16]).unwrap());
    let ring_key = ring_aead::LessSafeKey::new(
        ring_aead::UnboundKey::new(&ring_aead::AES_128_GCM, &[7; 16]).unwrap(),
    );

    for size in SIZES {
        group.throughput(Throughput::Elements(BATCH as u64));
        let mut plain = vec![0; size];

        group.bench_function(BenchmarkId::new("seal/aws-lc-rs", size), |b| {
            b.iter(|| {
                for seq in 0..BATCH {
                    let nonce = aws::Nonce::assume_unique_for_key(nonce(seq));
                    let aad = aws::Aad::from(black_box(AAD));
                    let tag = aws_key.seal_in_place_separate_tag(nonce, aad, &mut plain);
                    black_box(tag.unwrap().as_ref());
                }
            });
        });
        group.bench_function(BenchmarkId::new("seal/ring", size), |b| {
            b.iter(|| {
                for seq in 0..BATCH {
                    let nonce = ring_aead::Nonce::assume_unique_for_key(nonce(seq));
                    let aad = ring_aead::Aad::from(black_box(AAD));
                    let tag = ring_key.seal_in_place_separate_tag(nonce, aad, &mut plain);
                    black_box(tag.unwrap().as_ref());
                }
            });
        });

        let sealed: Vec<Vec<u8>> = (0..BATCH).map(|seq| sealed(&aws_key, seq, size)).collect();
        group.bench_function(BenchmarkId::new("open/aws-lc-rs", size), |b| {
            b.iter_batched_ref(
                || sealed.clone(),
                |records| {
                    for (seq, record) in records.iter_mut().enumerate() {
                        let nonce = aws::Nonce::assume_unique_for_key(nonce(seq));
                        black_box(
                            aws_key
                                .open_in_place(nonce, aws::Aad::from(black_box(AAD)), record)
                                .unwrap(),
                        );
                    }
                },
                BatchSize::SmallInput,
            );
        });
        group.bench_function(BenchmarkId::new("open/ring", size), |b| {
            b.iter_batched_ref(
                || sealed.clone(),
                |records| {
                    for (seq, record) in records.iter_mut().enumerate() {
                        let nonce = ring_aead::Nonce::assume_unique_for_key(nonce(seq));
                        let aad = ring_aead::Aad::from(black_box(AAD));
                        black_box(ring_key.open_in_place(nonce, aad, record).unwrap());
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn nonce(seq: usize) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&(seq as u64).to_be_bytes());
    nonce
}

/// Opened by both libraries, which thereby agree.
fn sealed(key: &aws::LessSafeKey, seq: usize, size: usize) -> Vec<u8> {
    let mut record = vec![0; size];
    let nonce = aws::Nonce::assume_unique_for_key(nonce(seq));
    key.seal_in_place_append_tag(nonce, aws::Aad::from(AAD), &mut record)
        .unwrap();
    record
}

fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    for suite in CipherSuite::ALL {
        for size in SIZES {
            let sealer = Sealer::new(suite, &key(), 1, 1);
            let mut record = vec![0; size + sealer.overhead()];
            group.throughput(Throughput::Elements(BATCH as u64));
            group.bench_function(BenchmarkId::new(suite.to_string(), size), |b| {
                b.iter(|| {
                    for _ in 0..BATCH {
                        sealer
                            .seal_in_place(ContentType::ApplicationData, &mut record)
                            .unwrap();
                    }
                });
            });
        }
    }
    group.finish();
}

fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("open");
    for suite in CipherSuite::ALL {
        for size in SIZES {
            let sealer = Sealer::new(suite, &key(), 1, 1);
            let mut opener = Opener::new(suite, &key(), 1);
            group.throughput(Throughput::Elements(BATCH as u64));
            group.bench_function(BenchmarkId::new(suite.to_string(), size), |b| {
                b.iter_batched_ref(
                    || -> Vec<Vec<u8>> { (0..BATCH).map(|_| record(&sealer, size)).collect() },
                    |records| {
                        for record in records.iter_mut() {
                            black_box(opener.open(record).unwrap());
                        }
                    },
                    // In the order they were sealed, or the window refuses them.
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

fn record(sealer: &Sealer, size: usize) -> Vec<u8> {
    let mut record = Vec::new();
    sealer
        .seal(ContentType::ApplicationData, &vec![0; size], &mut record)
        .unwrap();
    record
}

fn replay(c: &mut Criterion) {
    let mut group = c.benchmark_group("replay");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut in_order = (ReplayWindow::default(), 0);
    group.bench_function("in order", |b| b.iter(|| advance(&mut in_order, |seq| seq)));
    // Each block of 64 backwards.
    let mut reordered = (ReplayWindow::default(), 0);
    group.bench_function("reordered", |b| {
        b.iter(|| advance(&mut reordered, |seq| seq ^ 63));
    });
    group.finish();
}

/// Takes the next [`BATCH`] numbers as the opener does: looked up before they
/// are decrypted, entered after.
fn advance((window, next): &mut (ReplayWindow, u64), order: impl Fn(u64) -> u64) {
    for seq in *next..*next + BATCH as u64 {
        window.check(black_box(order(seq))).unwrap();
        window.accept(black_box(order(seq))).unwrap();
    }
    *next += BATCH as u64;
}

fn key() -> DirectionKey {
    DirectionKey::new([7; 16], [9; 4])
}

criterion_group!(benches, aead, seal, open, replay);
criterion_main!(benches);
