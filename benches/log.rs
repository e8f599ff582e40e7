//! What the log costs on the disk of the temporary folder: `cargo bench --bench log`, or one with `-- append`.
//!
//! The faulty disk of the log's tests is not reachable from here, so there is no bench without a disk.

#![allow(
    clippy::unwrap_used,
    reason = "a bench that cannot go on has nothing to measure"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use leveret::log::{Log, LogOptions, OsDisk, Record};

const RECORD_BYTES: usize = 64 * 1024;
/// Purged and deleted from here on, so that an append bench does not fill the disk.
const LOG_BYTES_MAX: u64 = 256 << 20;

fn open(dir: &Path, direct: bool) -> Log {
    let options = LogOptions {
        direct,
        ..LogOptions::default()
    };
    Log::open(Arc::new(OsDisk), dir, options).unwrap().0
}

/// Appends a batch and waits until it is durable.
fn append(log: &Log, next: &mut u64, count: u64, payload: &Bytes) {
    let records = (*next..*next + count).map(|index| Record {
        index,
        meta: Bytes::from_static(b"meta"),
        payload: payload.clone(),
    });
    let (done, durable) = channel();
    log.append(
        records.collect(),
        Box::new(move |result| drop(done.send(result))),
    );
    durable.recv().unwrap().unwrap();
    *next += count;
    let segments = log.segments();
    let whole = segments.iter().map(|one| one.bytes).sum::<u64>();
    if whole > LOG_BYTES_MAX && segments[0].sealed {
        log.purge(segments[0].last, Bytes::new()).unwrap();
        log.delete_segment(segments[0].first).unwrap();
    }
}

fn appends(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log append");
    let payload = Bytes::from(vec![7; RECORD_BYTES]);
    for (name, direct) in [("direct", true), ("buffered", false)] {
        for count in [1, 16_u64] {
            let dir = tempfile::tempdir().unwrap();
            let log = open(dir.path(), direct);
            let mut next = 1;
            group.throughput(Throughput::Bytes(count * RECORD_BYTES as u64));
            let id = BenchmarkId::new(name, format!("{count} x 64 KiB"));
            group.bench_function(id, |bencher| {
                bencher.iter(|| append(&log, &mut next, count, &payload));
            });
        }
    }
    group.finish();
}

/// A closed log of [`LOG_BYTES_MAX`], and its last index.
fn filled(dir: &Path, record_bytes: usize) -> u64 {
    let log = open(dir, true);
    let payload = Bytes::from(vec![7; record_bytes]);
    let (mut next, batch) = (1, (1024 * 1024 / record_bytes) as u64);
    while next * (record_bytes as u64) < LOG_BYTES_MAX - (2 << 20) {
        append(&log, &mut next, batch, &payload);
    }
    log.close().unwrap();
    next - 1
}

fn recoveries(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log recovery");
    group.throughput(Throughput::Bytes(LOG_BYTES_MAX));
    let dir = tempfile::tempdir().unwrap();
    let last = filled(dir.path(), RECORD_BYTES);
    // Without hard state and purge mark every segment is read; with both, the newest.
    group.bench_function("256 MiB, read whole", |bencher| {
        bencher.iter(|| assert_eq!(open(dir.path(), true).last_index(), Some(last)));
    });
    let log = open(dir.path(), true);
    log.save_hard_state(
        Bytes::from_static(b"vote"),
        Box::new(|result| result.unwrap()),
    );
    log.purge(1, Bytes::new()).unwrap();
    log.close().unwrap();
    drop(log);
    group.bench_function("256 MiB, by side indexes", |bencher| {
        bencher.iter(|| assert_eq!(open(dir.path(), true).last_index(), Some(last)));
    });
    group.finish();
}

fn reads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log read");
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 1024);
    let log = open(dir.path(), true);
    let sealed = log.segments().into_iter().find(|one| one.sealed).unwrap();
    let span = sealed.last - sealed.first;
    let mut step = 0_u64;
    group.throughput(Throughput::Elements(1));
    group.bench_function("1 KiB of a sealed segment", |bencher| {
        bencher.iter(|| {
            // A stride that is prime and long: neither cache has it.
            step = (step + 7919) % span;
            log.get(sealed.first + step).unwrap()
        });
    });
    assert!(log.stats().disk_reads > 1000);
    group.finish();
}

criterion_group! {
    name = log;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = appends, recoveries, reads
}
criterion_main!(log);
