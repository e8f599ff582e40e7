//! Counters of a log, for metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Upper bounds in microseconds of the classes commits are counted in; the last class has none.
pub const COMMIT_MICROS_BOUNDS: [u64; 9] =
    [100, 200, 500, 1000, 2000, 5000, 10_000, 100_000, 1_000_000];

/// Figures since the log was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Writes to segments.
    pub writes: u64,
    /// Bytes of these writes, padding and rewritten blocks included.
    pub bytes_written: u64,
    /// Groups made durable.
    pub syncs: u64,
    /// Groups by how long write and sync took, see [`COMMIT_MICROS_BOUNDS`].
    pub sync_micros: [u64; 10],
    /// Sum of these times, microseconds.
    pub sync_micros_sum: u64,
    /// Records found in the tail cache.
    pub tail_hits: u64,
    /// Records found in the read cache.
    pub read_hits: u64,
    /// Records read from disk.
    pub disk_reads: u64,
    /// Bytes waiting for the writer.
    pub queued_bytes: u64,
}

impl LogStats {
    /// Upper bounds in microseconds of the classes of [`Self::sync_micros`]; the last class has none.
    #[must_use]
    pub fn sync_bounds(&self) -> &'static [u64] {
        &COMMIT_MICROS_BOUNDS
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) writes: AtomicU64,
    pub(super) bytes_written: AtomicU64,
    syncs: AtomicU64,
    sync_micros: [AtomicU64; 10],
    sync_micros_sum: AtomicU64,
    pub(super) tail_hits: AtomicU64,
    pub(super) read_hits: AtomicU64,
    pub(super) disk_reads: AtomicU64,
    pub(super) queued_bytes: AtomicU64,
    /// When the writer began what it is at.
    pub(super) busy_since: Mutex<Option<Instant>>,
}

impl Counters {
    pub(super) fn committed(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = COMMIT_MICROS_BOUNDS.partition_point(|bound| *bound < micros);
        self.syncs.fetch_add(1, Relaxed);
        self.sync_micros[class].fetch_add(1, Relaxed);
        self.sync_micros_sum.fetch_add(micros, Relaxed);
    }

    pub(super) fn read(&self) -> LogStats {
        LogStats {
            writes: self.writes.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
            syncs: self.syncs.load(Relaxed),
            sync_micros: self.sync_micros.each_ref().map(|count| count.load(Relaxed)),
            sync_micros_sum: self.sync_micros_sum.load(Relaxed),
            tail_hits: self.tail_hits.load(Relaxed),
            read_hits: self.read_hits.load(Relaxed),
            disk_reads: self.disk_reads.load(Relaxed),
            queued_bytes: self.queued_bytes.load(Relaxed),
        }
    }
}
