//! Snapshots, purging, and the end of old segments.
//!
//! Shape: one task per replica. When enough was applied, or time has passed and something was, it has openraft take
//! a snapshot, purges the log behind it but for `keep_log_bytes`, then looks at each purged, sealed segment:
//! nothing live in it, neither in the snapshot nor now, and it is deleted; nearly nothing, and it is compacted. Between
//! rounds it has damaged segments repaired.
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
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, Raft};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::RaftError;
use super::applier::Applier;
use super::machine::{LiveEntry, Machine};
use super::mend::mend;
use super::shared::Shared;
use super::shipping::Scarcity;
use super::snapshot::blocking;
use super::types::Types;
use crate::log::{CompactOutcome, Fate, LogError, SegmentInfo};

/// Segments compacted per snapshot at most.
const COMPACTIONS_PER_ROUND: usize = 4;
/// A segment is compacted when less than this share of its bytes is live: one in so many.
const LIVE_SHARE: u64 = 4;
/// Times `keep_log_bytes` that are kept for members that are in reach and still behind: else a member that was sent a
/// snapshot under load would need the next one when it has it.
const CATCH_UP_SHARE: u64 = 16;
/// Longest wait for what the core was asked for.
const OUTCOME_MAX: Duration = Duration::from_secs(5);
/// A member that answered so lately is in reach.
const IN_REACH: Duration = Duration::from_secs(5);
/// Time between two attempts to have damaged segments repaired, if one fails: each reads a segment.
const MEND_AGAIN: Duration = Duration::from_secs(30);
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
        let mut mend_from = last;
        loop {
            let mut wish = None;
            tokio::select! {
                asked = wishes.recv() => match asked {
                    Some(asked) => wish = Some(asked),
                    None => return,
                },
                () = self.shared.snapshot_due.notified() => {}
                _ = clock.tick() => {
                    if mend_from <= Instant::now() && !self.mend().await {
                        mend_from = Instant::now() + MEND_AGAIN;
                    }
                    if last.elapsed() < self.rule.every {
                        self.tidy_rest().await;
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

    /// Has one damaged segment repaired; false if it cannot be had now, and is to be tried again.
    async fn mend(&self) -> bool {
        let Some(index) = self.shared.damaged.lock().pop() else {
            return true;
        };
        match mend(&self.shared, index).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(set = %self.shared.set, index, %error, "a damaged segment is not repaired yet");
                self.shared.note_damage(index);
                false
            }
        }
    }

    /// What had to wait for a snapshot that was sent.
    async fn tidy_rest(&self) {
        if self.shared.live.lock().is_none() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        if let Err(error) = blocking(move || tidy(&shared)).await {
            tracing::warn!(set = %self.shared.set, %error, "old segments stay");
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

    /// The last entry that every member in reach, and every snapshot that is being sent, has behind it.
    fn needed(&self) -> Option<u64> {
        let sent = self.shared.pins.lock().iter().min().copied();
        let metrics = self.raft.data_metrics();
        let seen = metrics.borrow_watched();
        let near = |id: &u64| {
            let heard = seen.heartbeat.as_ref()?.get(id)?.as_ref()?;
            (heard.elapsed() < IN_REACH).then_some(())
        };
        let members = seen.replication.iter().flatten();
        let matched = members.filter_map(|(id, matched)| {
            near(id)?;
            matched.as_ref().map(|id| id.index)
        });
        matched.chain(sent).min()
    }

    /// Waits until openraft knows of a snapshot at or past `index`, and says where it ends.
    async fn snapshot_reaches(&self, index: u64) -> Result<u64, RaftError> {
        let mut metrics = self.raft.metrics();
        let mut asked = Instant::now();
        loop {
            let (found, running) = {
                let seen = metrics.borrow_watched();
                (seen.snapshot.map(|id| id.index), seen.running_state.clone())
            };
            running.map_err(stopped)?;
            if let Some(found) = found.filter(|found| *found >= index) {
                return Ok(found);
            }
            if asked.elapsed() > OUTCOME_MAX {
                // The core may have been at another one, which ends before `index`.
                self.raft.trigger().snapshot().await.map_err(stopped)?;
                asked = Instant::now();
            }
            if let Ok(Err(_)) = timeout(OUTCOME_MAX, metrics.changed()).await {
                return Err(RaftError::Stopped("while a snapshot was taken".into()));
            }
        }
    }

    /// Purges up to the snapshot, but keeps the youngest `keep_log_bytes`, and more for members that are catching up.
    async fn purge(&self, snapshot: u64) -> Result<(), RaftError> {
        let segments = self.shared.log.segments();
        let keep = self.rule.keep_log_bytes;
        let Some(upto) = purge_upto(&segments, snapshot, keep, self.needed()) else {
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
        let begin = Instant::now();
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
            if begin.elapsed() > OUTCOME_MAX {
                // A member that lags holds it up; the next round asks again.
                return Ok(());
            }
            if let Ok(Err(_)) = timeout(OUTCOME_MAX, metrics.changed()).await {
                return Err(RaftError::Stopped("while the log was purged".into()));
            }
        }
    }
}

/// Up to where to purge: the snapshot, but for the youngest `keep` bytes by whole segments, and for what follows
/// `needed` as long as that is within [`CATCH_UP_SHARE`] times as much.
fn purge_upto(
    segments: &[SegmentInfo],
    snapshot: u64,
    keep: u64,
    needed: Option<u64>,
) -> Option<u64> {
    let behind = |bytes: u64| {
        let mut kept = 0;
        let mut upto = Some(snapshot);
        for segment in segments.iter().rev() {
            if kept >= bytes {
                break;
            }
            kept += segment.bytes;
            let before = segment.first.checked_sub(1);
            upto = before.map(|before| before.min(snapshot));
        }
        upto
    };
    let upto = behind(keep)?;
    let Some(needed) = needed.filter(|needed| *needed < upto) else {
        return Some(upto);
    };
    let furthest = behind(keep.saturating_mul(CATCH_UP_SHARE));
    Some(furthest.map_or(needed, |furthest| needed.max(furthest)))
}

fn stopped(reason: impl std::fmt::Display) -> RaftError {
    RaftError::Stopped(reason.to_string())
}

/// Deletes dead segments and compacts nearly dead ones. While a snapshot that may need them is sent, what is left to do
/// is kept for later.
fn tidy(shared: &Shared) -> io::Result<()> {
    let Some(mut live) = shared.live.lock().take() else {
        return Ok(());
    };
    let Some((purged, _)) = shared.log.purged() else {
        return Ok(());
    };
    live.dead.retain(|range| range.end <= purged + 1);
    live.scarce.retain(|(range, _)| range.end <= purged + 1);
    let mut done = 0;
    for range in &live.dead {
        let now = shared.machine.lock().live_bytes(range.start, range.end - 1);
        if now == 0 {
            let deleted = shared.unpinned(|| shared.log.delete_segment(range.start));
            let Some(deleted) = deleted else { break };
            deleted.map_err(io::Error::other)?;
        }
        done += 1;
    }
    live.dead.drain(..done);
    while live.dead.is_empty()
        && let Some((range, then)) = live.scarce.pop()
    {
        let compacted = compact(shared, &range, &then);
        if let Err(LogError::Damaged { first, .. }) = &compacted {
            shared.note_damage(*first);
        }
        if compacted.map_err(io::Error::other)?.is_none() {
            live.scarce.push((range, then));
            break;
        }
    }
    if !live.dead.is_empty() || !live.scarce.is_empty() {
        *shared.live.lock() = Some(live);
    }
    Ok(())
}

/// Compacts one segment to what lived then or lives now; `None` if a snapshot is being sent.
fn compact(
    shared: &Shared,
    range: &Range<u64>,
    then: &[LiveEntry],
) -> Result<Option<CompactOutcome>, LogError> {
    let now = shared
        .machine
        .lock()
        .live_entries(range.start, range.end - 1);
    let survivors = union(then.to_vec(), now);
    let compact = shared.compact;
    let mut fate = |index: u64, payload: &Bytes| match survivors.get(&index) {
        None => Fate::Drop,
        Some(slots) => compact(index, payload, slots).map_or(Fate::Drop, Fate::Replace),
    };
    shared
        .unpinned(|| shared.log.compact_segment(range.start, &mut fate))
        .transpose()
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
    fn the_log_is_purged_up_to_the_snapshot_but_for_its_youngest_part_and_what_members_need() {
        let segments: Vec<_> = (0..100)
            .map(|at| SegmentInfo {
                first: at * 10 + 1,
                last: at * 10 + 10,
                bytes: 100,
                sealed: true,
            })
            .collect();
        let upto = |snapshot, keep, needed| purge_upto(&segments, snapshot, keep, needed);
        assert_eq!(upto(1000, 0, None), Some(1000));
        assert_eq!(upto(1000, 0, Some(3)), Some(1000), "nothing is kept");
        assert_eq!(upto(1000, 200, None), Some(980));
        assert_eq!(
            upto(500, 200, None),
            Some(500),
            "no further than the snapshot"
        );
        assert_eq!(
            upto(1000, 200, Some(990)),
            Some(980),
            "needs less than is kept"
        );
        assert_eq!(upto(1000, 200, Some(900)), Some(900), "catching up");
        assert_eq!(upto(1000, 200, Some(100)), Some(680), "too far behind");
        assert_eq!(upto(1000, 1 << 60, None), Some(0), "all is kept");
        assert_eq!(upto(1000, 5000, Some(7)), Some(7));
    }

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
