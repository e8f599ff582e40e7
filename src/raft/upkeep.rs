//! Snapshots, purging, and the end of old segments.
//!
//! Shape: one task per replica. When enough was applied, or time has passed and something was, it has openraft take
//! a snapshot, purges the log behind it but for `keep_log_bytes`, then looks at each purged, sealed segment:
//! nothing live in it, neither in the snapshot nor now, and it is deleted; nearly nothing, and it is compacted.
//! Invariants: a segment loses only what the newest durable snapshot and the present both no longer need, so a restart
//! and a peer that is sent the snapshot find every body they may read.
//! Limits: [`COMPACTIONS_PER_ROUND`] segments are compacted per snapshot; the machine is locked for one question at a
//! time.
//! Not here: what is live, which the machine knows.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::Raft;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::RaftError;
use super::applier::Applier;
use super::machine::{LiveEntry, Machine};
use super::shared::Shared;
use super::shipping::Scarcity;
use super::snapshot::blocking;
use super::types::Types;
use crate::log::{Fate, SegmentInfo};

/// Segments compacted per snapshot at most.
const COMPACTIONS_PER_ROUND: usize = 4;
/// A segment is compacted when less than this share of its bytes is live: one in so many.
const LIVE_SHARE: u64 = 4;
/// How often the clock is looked at.
const TICK: Duration = Duration::from_secs(1);

/// What was live in old segments when a snapshot was cut, by the segments' first index.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    /// Nothing live.
    dead: Vec<Range<u64>>,
    /// Little live, and this is it.
    scarce: Vec<(Range<u64>, Vec<LiveEntry>)>,
}

impl Liveness {
    /// Asks `machine` about each sealed segment that ends at or below `horizon`.
    pub(super) fn of(machine: &dyn Machine, segments: &[SegmentInfo], horizon: u64) -> Self {
        let mut live = Self::default();
        for segment in segments {
            if !segment.sealed || segment.last > horizon {
                continue;
            }
            let range = segment.first..segment.last + 1;
            let bytes = machine.live_bytes(segment.first, segment.last);
            if bytes == 0 {
                live.dead.push(range);
            } else if bytes < segment.bytes / LIVE_SHARE
                && live.scarce.len() < COMPACTIONS_PER_ROUND
            {
                let entries = machine.live_entries(segment.first, segment.last);
                live.scarce.push((range, entries));
            }
        }
        live
    }
}

impl Liveness {
    /// What need not be sent with the snapshot.
    pub(super) fn scarcity(&self) -> Scarcity {
        let scarce = self.scarce.iter();
        let scarce = scarce.map(|(range, then)| (range.clone(), union(then.clone(), Vec::new())));
        Scarcity::new(self.dead.clone(), scarce)
    }
}

/// A wish for a snapshot now, answered when it is durable and the log behind it tidied.
pub(super) type Wish = oneshot::Sender<Result<(), RaftError>>;

/// When the upkeep acts.
pub(super) struct Rule {
    pub(super) every: Duration,
    pub(super) keep_log_bytes: u64,
}

/// The upkeep of one replica.
pub(super) struct Upkeep {
    pub(super) shared: Arc<Shared>,
    pub(super) raft: Raft<Types, Applier>,
    pub(super) rule: Rule,
}

impl Upkeep {
    /// Runs until `wishes` closes or the core stops.
    pub(super) async fn run(self, mut wishes: mpsc::Receiver<Wish>) {
        let mut clock = interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        loop {
            let mut wish = None;
            tokio::select! {
                asked = wishes.recv() => match asked {
                    Some(asked) => wish = Some(asked),
                    None => return,
                },
                () = self.shared.snapshot_due.notified() => {}
                _ = clock.tick() => {
                    if last.elapsed() < self.rule.every {
                        continue;
                    }
                }
            }
            let result = self.round().await;
            last = Instant::now();
            if let Err(error) = &result {
                tracing::warn!(set = %self.shared.set, %error, "snapshot not taken");
            }
            if let Some(wish) = wish {
                // Whoever asked may have left.
                drop(wish.send(result));
            }
        }
    }

    async fn round(&self) -> Result<(), RaftError> {
        let Some(applied) = self.shared.applied_index() else {
            return Ok(());
        };
        let held = self.shared.snapshot_index();
        if held.is_none_or(|index| index < applied) {
            self.raft.trigger().snapshot().await.map_err(stopped)?;
        }
        let index = self.snapshot_reaches(applied).await?;
        self.purge(index).await?;
        let shared = Arc::clone(&self.shared);
        let tidied = blocking(move || tidy(&shared)).await;
        tidied.map_err(|error| RaftError::Log(error.to_string()))
    }

    /// Waits until openraft knows of a snapshot at or past `index`, and says where it ends.
    async fn snapshot_reaches(&self, index: u64) -> Result<u64, RaftError> {
        let mut metrics = self.raft.metrics();
        loop {
            let (found, running) = {
                let seen = metrics.borrow_watched();
                (seen.snapshot.map(|id| id.index), seen.running_state.clone())
            };
            running.map_err(stopped)?;
            if let Some(found) = found.filter(|found| *found >= index) {
                return Ok(found);
            }
            let changed = metrics.changed().await;
            changed.map_err(|_| RaftError::Stopped("while a snapshot was taken".into()))?;
        }
    }

    /// Purges up to the snapshot, but keeps the youngest `keep_log_bytes`, by whole segments.
    async fn purge(&self, snapshot: u64) -> Result<(), RaftError> {
        let mut kept = 0;
        let mut upto = Some(snapshot);
        for segment in self.shared.log.segments().iter().rev() {
            if kept >= self.rule.keep_log_bytes {
                break;
            }
            kept += segment.bytes;
            upto = segment
                .first
                .checked_sub(1)
                .map(|before| before.min(snapshot));
        }
        let Some(upto) = upto else {
            return Ok(());
        };
        if self
            .shared
            .log
            .purged()
            .is_some_and(|(purged, _)| purged >= upto)
        {
            return Ok(());
        }
        self.raft.trigger().purge_log(upto).await.map_err(stopped)?;
        let mut metrics = self.raft.metrics();
        loop {
            let running = {
                let seen = metrics.borrow_watched();
                if seen.purged.is_some_and(|id| id.index >= upto) {
                    return Ok(());
                }
                seen.running_state.clone()
            };
            running.map_err(stopped)?;
            let changed = metrics.changed().await;
            changed.map_err(|_| RaftError::Stopped("while the log was purged".into()))?;
        }
    }
}

fn stopped(reason: impl std::fmt::Display) -> RaftError {
    RaftError::Stopped(reason.to_string())
}

/// Deletes dead segments and compacts nearly dead ones; not while a snapshot that may need them is sent.
fn tidy(shared: &Shared) -> io::Result<()> {
    let Some(live) = shared.live.lock().take() else {
        return Ok(());
    };
    let Some((purged, _)) = shared.log.purged() else {
        return Ok(());
    };
    for range in live.dead {
        if range.end > purged + 1 {
            continue;
        }
        let now = shared.machine.lock().live_bytes(range.start, range.end - 1);
        if now == 0 {
            let deleted = shared.unpinned(|| shared.log.delete_segment(range.start));
            deleted.unwrap_or(Ok(())).map_err(io::Error::other)?;
        }
    }
    for (range, then) in live.scarce {
        if range.end > purged + 1 {
            continue;
        }
        let now = shared
            .machine
            .lock()
            .live_entries(range.start, range.end - 1);
        let survivors = union(then, now);
        let compact = shared.compact;
        let mut fate = |index: u64, payload: &Bytes| match survivors.get(&index) {
            None => Fate::Drop,
            Some(slots) => compact(index, payload, slots).map_or(Fate::Drop, Fate::Replace),
        };
        let compacted = shared.unpinned(|| shared.log.compact_segment(range.start, &mut fate));
        compacted.transpose().map_err(io::Error::other)?;
    }
    Ok(())
}

/// What either list needs, by index.
fn union(one: Vec<LiveEntry>, other: Vec<LiveEntry>) -> BTreeMap<u64, Vec<Range<u32>>> {
    let mut all: BTreeMap<u64, Vec<Range<u32>>> = BTreeMap::new();
    for entry in one.into_iter().chain(other) {
        all.entry(entry.index).or_default().extend(entry.slots);
    }
    for slots in all.values_mut() {
        slots.sort_unstable_by_key(|range| range.start);
        let mut merged: Vec<Range<u32>> = Vec::with_capacity(slots.len());
        for range in slots.drain(..) {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        *slots = merged;
    }
    all
}

#[cfg(test)]
#[allow(
    clippy::single_range_in_vec_init,
    reason = "lists of slots are lists of ranges"
)]
mod test {
    use super::*;

    #[test]
    fn survivors_of_then_and_now_are_joined_and_merged() {
        let entry = |index, slots: &[Range<u32>]| LiveEntry {
            index,
            slots: slots.to_vec(),
        };
        let then = vec![entry(3, &[0..2, 5..6]), entry(9, &[1..2])];
        let now = vec![entry(3, &[1..4]), entry(4, &[7..8])];
        let all: Vec<_> = union(then, now).into_iter().collect();
        assert_eq!(
            all,
            [(3, vec![0..4, 5..6]), (4, vec![7..8]), (9, vec![1..2])]
        );
    }
}
