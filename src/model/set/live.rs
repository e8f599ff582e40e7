//! Which entries of the log still hold messages somebody needs.
//!
//! A message counts while it is ready, leased, returned, delayed or a dead letter. Counted per bucket of 64
//! entries: a segment may go when no bucket that touches it is left.
//!
//! Not here: which messages of an entry live ([`SetMachine::live_positions`](super::SetMachine::live_positions)).

use std::collections::BTreeMap;

use crate::base::Position;

/// Live messages per bucket of [`LiveMap::BUCKET_ENTRIES`] entry indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveMap {
    buckets: BTreeMap<u64, u64>,
    total: u64,
}

impl LiveMap {
    /// Entry indexes in a bucket.
    pub const BUCKET_ENTRIES: u64 = 64;

    /// Whether any entry of the buckets touching `from_index ..= to_index` holds a live message. May say yes
    /// for up to 63 entries either side.
    #[must_use]
    pub fn any(&self, from_index: u64, to_index: u64) -> bool {
        self.range(from_index, to_index).next().is_some()
    }

    /// Live messages in the buckets touching `from_index ..= to_index`.
    #[must_use]
    pub fn count(&self, from_index: u64, to_index: u64) -> u64 {
        self.range(from_index, to_index)
            .map(|(_, count)| count)
            .sum()
    }

    /// First entry index of the lowest bucket with a live message.
    #[must_use]
    pub fn lowest_index(&self) -> Option<u64> {
        let (&bucket, _) = self.buckets.first_key_value()?;
        Some(bucket * Self::BUCKET_ENTRIES)
    }

    /// All live messages.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// (First entry index of the bucket, live messages) of the buckets touching `from_index ..= to_index`.
    pub fn range(&self, from_index: u64, to_index: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let from = from_index / Self::BUCKET_ENTRIES;
        let to = (to_index / Self::BUCKET_ENTRIES).max(from);
        self.buckets
            .range(from..=to)
            .map(|(&bucket, &count)| (bucket * Self::BUCKET_ENTRIES, count))
    }

    pub(super) fn add(&mut self, position: Position, count: u64) {
        *self
            .buckets
            .entry(position.index() / Self::BUCKET_ENTRIES)
            .or_default() += count;
        self.total += count;
    }

    pub(super) fn remove(&mut self, position: Position, count: u64) {
        let bucket = position.index() / Self::BUCKET_ENTRIES;
        let left = self.buckets.get(&bucket).copied().unwrap_or_default();
        assert!(left >= count, "bucket {bucket} holds {left}, {count} end");
        self.total -= count;
        if left > count {
            self.buckets.insert(bucket, left - count);
        } else {
            self.buckets.remove(&bucket);
        }
    }

    pub(super) fn buckets(&self) -> &BTreeMap<u64, u64> {
        &self.buckets
    }

    pub(super) fn from_buckets(buckets: BTreeMap<u64, u64>) -> Self {
        let total = buckets
            .values()
            .fold(0, |sum: u64, n| sum.saturating_add(*n));
        Self { buckets, total }
    }
}
