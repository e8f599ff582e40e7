//! Sending a snapshot: the state, the pages it names, and the entries that still hold something it needs.
//!
//! Shape: a thread of its own reads and packs; a short channel of frames is what the transport pulls from. What was
//! dead when the snapshot was cut is left out, whole segments by their range; of a nearly dead segment the survivors go;
//! of all others everything the segment still holds. So at most a few times the bytes that live are sent, and nothing
//! is listed or looked up per message.
//! Invariants: while a [`Pin`] lives no segment and no page goes, so all that the snapshot leans on is there to the
//! end; the machine is locked for single questions only.
//! Limits: [`FRAMES_AHEAD`] frames and one read of the log are in memory, and the state.
//! Not here: the bytes ([`super::transfer`]), the far side ([`super::receiving`]).

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::stream;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::shared::Shared;
use super::snapshot::Held;
use super::transfer::{Item, PART_BYTES, Packer};
use super::types::Vote;
use super::{BoxStream, Frame};
use crate::log::{LogError, Record};

/// Frames that wait for the transport.
const FRAMES_AHEAD: usize = if cfg!(feature = "sim") { 1 << 16 } else { 2 };

/// Keeps old segments and pages from going, and what follows the snapshot from being purged.
pub(super) struct Pin(Arc<Shared>, u64);

impl Pin {
    /// For a snapshot that ends with entry `last`. Waits for the deletion or compaction that is under way. Blocks.
    pub(super) fn new(shared: &Arc<Shared>, last: u64) -> Self {
        shared.pins.lock().push(last);
        Self(Arc::clone(shared), last)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.0.pins.lock();
        if let Some(at) = pins.iter().position(|last| *last == self.1) {
            pins.swap_remove(at);
        }
    }
}

impl Shared {
    /// Does `work`, which takes something away, unless a snapshot is being sent.
    pub(super) fn unpinned<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let pins = self.pins.lock();
        pins.is_empty().then(work)
    }
}

/// How a snapshot's sending goes.
#[derive(Default)]
pub(super) struct Progress {
    taken: AtomicU64,
    failure: Mutex<Option<String>>,
    /// Held to the answer, so that the far side finds the log going on where its snapshot ends.
    pin: Mutex<Option<Pin>>,
}

impl Progress {
    /// Frames the transport took so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Why this side ended the stream, if it did.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }
}

/// The frames of `held`. They end early if something cannot be read; `progress` then says what. Nothing is read or
/// pinned before the first frame is asked for, as most peers that are away are never asked to take it.
pub(super) fn frames(
    shared: &Arc<Shared>,
    held: Held,
    vote: Vote,
    progress: &Arc<Progress>,
) -> BoxStream<Frame> {
    let (shared, progress) = (Arc::clone(shared), Arc::clone(progress));
    let start = move || {
        let (tx, rx) = mpsc::channel(FRAMES_AHEAD);
        let told = Arc::clone(&progress);
        let produce = move || produce(&shared, &held, vote, tx, &told);
        if cfg!(feature = "sim") {
            produce();
        } else {
            tokio::task::spawn_blocking(produce);
        }
        (rx, progress)
    };
    Box::pin(stream::unfold(Source::Waiting(start), |source| async {
        let (mut rx, progress) = match source {
            Source::Waiting(start) => start(),
            Source::Running(rx, progress) => (rx, progress),
        };
        let frame = rx.recv().await?;
        progress.taken.fetch_add(1, Ordering::Relaxed);
        Some((frame, Source::Running(rx, progress)))
    }))
}

/// Frames to come.
enum Source<F> {
    Waiting(F),
    Running(mpsc::Receiver<Frame>, Arc<Progress>),
}

fn produce(
    shared: &Arc<Shared>,
    held: &Held,
    vote: Vote,
    out: mpsc::Sender<Frame>,
    progress: &Progress,
) {
    let last = held.meta.last_log_id.map_or(0, |id| id.index);
    *progress.pin.lock() = Some(Pin::new(shared, last));
    let shipment = Shipment {
        shared,
        held,
        packer: Packer::default(),
        out,
    };
    match shipment.run(vote) {
        Ok(()) | Err(ShipError::NobodyListens) => {}
        Err(error) => *progress.failure.lock() = Some(error.to_string()),
    }
}

/// Why a snapshot cannot be sent.
#[derive(Debug, thiserror::Error)]
enum ShipError {
    /// The transport has let go of the frames.
    #[error("nobody listens")]
    NobodyListens,
    /// Another snapshot took its place before its files were pinned.
    #[error("a newer snapshot is there")]
    Superseded,
    /// A record or the snapshot's file cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A page cannot be read.
    #[error("page: {0}")]
    Page(#[from] io::Error),
}

struct Shipment<'a> {
    shared: &'a Arc<Shared>,
    held: &'a Held,
    packer: Packer,
    out: mpsc::Sender<Frame>,
}

impl Shipment<'_> {
    fn run(mut self, vote: Vote) -> Result<(), ShipError> {
        let current = self.shared.snapshot.lock().as_ref().map(Held::name);
        if current != Some(self.held.name()) {
            return Err(ShipError::Superseded);
        }
        let log = &self.shared.log;
        // What is applied was committed by a majority, which need not have included this disk.
        log.sync_barrier()?;
        let meta = self.held.meta.clone();
        self.put(&Item::Head { vote, meta })?;
        let state = log.read_snapshot(self.held.name())?;
        self.put(&Item::State(state))?;
        let store = self.shared.machine.lock().page_store();
        if let Some(store) = store {
            for id in self.held.pages.iter() {
                let page = store.read(*id)?;
                self.put(&Item::Page(*id, page))?;
            }
        }
        self.records()?;
        for frame in std::mem::take(&mut self.packer).end() {
            send(&self.out, frame)?;
        }
        Ok(())
    }

    fn put(&mut self, item: &Item) -> Result<(), ShipError> {
        let out = self.out.clone();
        self.packer.put(item, &mut |frame| send(&out, frame))
    }

    fn records(&mut self) -> Result<(), ShipError> {
        let end = self.held.meta.last_log_id.map_or(0, |id| id.index + 1);
        let live = Arc::clone(&self.held.live);
        let mut from = 0;
        while from < end {
            if let Some(dead) = live.dead_at(from) {
                from = dead.end;
                continue;
            }
            let until = live.dead_after(from).unwrap_or(end).min(end);
            let some = match self.shared.log.survivors(from, until, PART_BYTES) {
                Ok(some) => some,
                Err(LogError::Damaged { first, .. }) if self.dead(first) => {
                    from = first + 1;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            from = some.last().map_or(until, |last| last.index + 1);
            for record in some {
                if let Some(record) = self.survivor(&live, record) {
                    self.put(&Item::Record(record))?;
                }
            }
        }
        Ok(())
    }

    /// Whether nobody needs the entry any more, so that its damage harms nobody.
    fn dead(&self, index: u64) -> bool {
        let machine = self.shared.machine.lock();
        machine.live_entries(index, index).is_empty()
    }

    /// What is sent of an entry.
    fn survivor(&self, live: &Scarcity, record: Record) -> Option<Record> {
        let Some(slots) = live.slots(record.index) else {
            return Some(record);
        };
        if slots.is_empty() {
            return None;
        }
        let payload = (self.shared.compact)(record.index, &record.payload, slots)?;
        Some(Record { payload, ..record })
    }
}

fn send(out: &mpsc::Sender<Frame>, frame: Frame) -> Result<(), ShipError> {
    if cfg!(feature = "sim") {
        return out.try_send(frame).map_err(|_| ShipError::NobodyListens);
    }
    out.blocking_send(frame)
        .map_err(|_| ShipError::NobodyListens)
}

/// What a snapshot does not need of the log, by index.
#[derive(Debug, Default)]
pub(super) struct Scarcity {
    /// Dead ranges, ascending.
    dead: Vec<Range<u64>>,
    /// Nearly dead ranges, by their first index: their end, and the slots that live.
    scarce: BTreeMap<u64, (u64, BTreeMap<u64, Vec<Range<u32>>>)>,
}

impl Scarcity {
    /// From ranges in which nothing lives, ascending, and those of which little does.
    pub(super) fn new(
        dead: Vec<Range<u64>>,
        scarce: impl IntoIterator<Item = (Range<u64>, BTreeMap<u64, Vec<Range<u32>>>)>,
    ) -> Self {
        let scarce = scarce.into_iter();
        Self {
            dead,
            scarce: scarce
                .map(|(range, slots)| (range.start, (range.end, slots)))
                .collect(),
        }
    }

    /// The dead range that `index` is in.
    fn dead_at(&self, index: u64) -> Option<&Range<u64>> {
        let at = self.dead.partition_point(|range| range.end <= index);
        self.dead.get(at).filter(|range| range.contains(&index))
    }

    /// Where the next dead range after `index` begins.
    fn dead_after(&self, index: u64) -> Option<u64> {
        let at = self.dead.partition_point(|range| range.start <= index);
        self.dead.get(at).map(|range| range.start)
    }

    /// The slots that live of an entry, if it is in a nearly dead range.
    fn slots(&self, index: u64) -> Option<&[Range<u32>]> {
        let (_, (end, slots)) = self.scarce.range(..=index).next_back()?;
        (index < *end).then(|| slots.get(&index).map_or(&[][..], Vec::as_slice))
    }
}

#[cfg(test)]
#[allow(
    clippy::single_range_in_vec_init,
    reason = "lists of slots are lists of ranges"
)]
mod test {
    use super::*;

    #[test]
    fn every_index_is_dead_scarce_or_neither() {
        let slots = BTreeMap::from([(22, vec![1..3])]);
        let scarcity = Scarcity::new(vec![5..10, 30..31], [(20..25, slots)]);
        assert_eq!(scarcity.dead_at(4), None);
        assert_eq!(scarcity.dead_at(5), Some(&(5..10)));
        assert_eq!(scarcity.dead_at(9), Some(&(5..10)));
        assert_eq!(scarcity.dead_at(10), None);
        assert_eq!(scarcity.dead_after(0), Some(5));
        assert_eq!(scarcity.dead_after(5), Some(30));
        assert_eq!(scarcity.dead_after(30), None);
        assert_eq!(scarcity.slots(19), None);
        assert_eq!(scarcity.slots(20), Some(&[][..]));
        assert_eq!(scarcity.slots(22), Some(&[1..3][..]));
        assert_eq!(scarcity.slots(25), None);
    }
}
