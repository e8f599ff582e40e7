//! The machine of one set: takes commands in order, keeps the clock, and answers questions about its state.
//!
//! Call [`SetMachine::begin`] once per entry, then [`SetMachine::apply`] for each of its commands.
//!
//! Invariants
//!   a pipe's numbers are applied once each, in order    a repeat changes nothing, a gap is refused
//!   the clock never goes back                           now = max(last, stamped)
//!   no command leaves a ready message beside a consumer that may have it
//! Limits: `limits::DEADLINES_PER_APPLY_MAX` runs are moved by deadlines per entry, the rest by the next.
//! Not here: what each command does (perform.rs), the bytes of a snapshot (snapshot.rs).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use parking_lot::Mutex;

use super::lease::Timer;
use super::queue::{Ground, Queue};
use super::ready::Store;
use super::{
    Command, DeadLetter, Effect, Effects, Enqueue, Flow, LiveMap, PageError, Pages, QueueConfig,
    QueueStats, Source, Totals,
};
use crate::base::{
    ConsumerId, Digest, Millis, NodeId, PipeId, Position, QueueId, SessionId, limits,
};
use crate::model::Meta;

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was the pipe's next one.
    Done,
    /// It had been applied before; nothing happened.
    Repeat,
    /// Refused: numbers before it are missing, the pipe is of an older incarnation or was not opened, or the
    /// machine has stopped ([`SetMachine::fault`]).
    Gap,
}

/// Why a snapshot cannot be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes end early, or are not a snapshot of this machine, or contradict themselves.
    #[error("snapshot is damaged")]
    Damaged,
    /// Written by a version this one does not know.
    #[error("snapshot has version {version}")]
    Version {
        /// The version found.
        version: u8,
    },
}

/// All queues of one broker set.
pub struct SetMachine {
    pub(super) index: u64,
    pub(super) pipes: BTreeMap<NodeId, Pipe>,
    pub(super) queues: BTreeMap<QueueId, Queue>,
    pub(super) members: BTreeSet<(SessionId, u16, ConsumerId)>,
    pub(super) opened: BTreeSet<(PipeId, SessionId)>,
    /// Queues of which a part was here and was retired.
    pub(super) moved: BTreeSet<QueueId>,
    pub(super) ground: Ground,
}

/// How far a node's pipe has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pipe {
    pub incarnation: u64,
    pub last_seq: u64,
    /// How often the node was silent and came back.
    pub returns: u64,
}

impl SetMachine {
    /// A machine without queues.
    #[must_use]
    pub fn new(pages: Box<dyn Pages>) -> Self {
        Self {
            index: 0,
            pipes: BTreeMap::new(),
            queues: BTreeMap::new(),
            members: BTreeSet::new(),
            opened: BTreeSet::new(),
            moved: BTreeSet::new(),
            ground: Ground {
                now: Millis(0),
                consumers: BTreeMap::new(),
                channels: BTreeMap::new(),
                live: LiveMap::default(),
                totals: Totals::default(),
                timers: BTreeSet::new(),
                store: Mutex::new(Store {
                    pages,
                    next_id: 1,
                    fault: None,
                    hot: VecDeque::new(),
                }),
            },
        }
    }

    /// Begins an entry: advances the clock and fires what is due, a bounded number.
    pub fn begin(&mut self, meta: Meta, effects: &mut Effects) {
        if self.fault().is_some() {
            return;
        }
        self.index = self.index.max(meta.index);
        self.ground.now = self.ground.now.max(meta.now);
        let mut budget = limits::DEADLINES_PER_APPLY_MAX;
        while budget > 0 {
            let Some(&(at, timer)) = self.ground.timers.first() else {
                return;
            };
            if at > self.ground.now {
                return;
            }
            budget -= 1;
            self.ground.timers.pop_first();
            self.fire(at, timer, &mut budget, effects);
        }
    }

    fn fire(&mut self, at: Millis, timer: Timer, budget: &mut usize, effects: &mut Effects) {
        match timer {
            Timer::Leases(id) => self.expire_leases(id, at, budget, effects),
            Timer::Heads(id) => {
                if let Some(queue) = self.queues.get_mut(&id) {
                    queue.heads_armed = None;
                    if queue.is_stream() {
                        queue.drop_aged(at, budget, &mut self.ground);
                    } else {
                        queue.drop_expired(at, budget, &mut self.ground, effects);
                    }
                    queue.settle_down(&mut self.ground, effects);
                }
            }
            Timer::Delayed(id) => {
                if let Some(queue) = self.queues.get_mut(&id) {
                    queue.delayed_armed = None;
                    queue.wake(at, budget, &mut self.ground);
                    queue.settle_down(&mut self.ground, effects);
                }
            }
            Timer::Expires(id) => self.expire_queue(id, at, effects),
        }
    }

    fn expire_queue(&mut self, id: QueueId, at: Millis, effects: &mut Effects) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        queue.expires_armed = None;
        let Some(expires) = queue.config.expires else {
            return;
        };
        if !queue.attached.is_empty() {
            return;
        }
        let due = queue.last_used.plus(expires);
        if due > at {
            let armed = &mut queue.expires_armed;
            Ground::arm(&mut self.ground.timers, armed, due, Timer::Expires(id));
            return;
        }
        self.delete(id, effects);
        effects.push(Effect::QueueGone(id));
    }

    /// Applies one command of the entry begun last.
    pub fn apply(&mut self, source: Source, command: Command, effects: &mut Effects) -> Applied {
        if self.fault().is_some() {
            return Applied::Gap;
        }
        let count = match &command {
            Command::Enqueue(run) => u64::from(run.count.max(1)),
            _ => 1,
        };
        let opening = command == Command::OpenPipe;
        let pipe = self.pipes.get(&source.pipe.node).copied();
        let known = pipe.filter(|pipe| pipe.incarnation == source.pipe.incarnation);
        let last = match (known, pipe) {
            (Some(known), _) if opening => known.last_seq.max(source.seq.saturating_sub(1)),
            (Some(known), _) => known.last_seq,
            (None, Some(other)) if other.incarnation > source.pipe.incarnation => {
                return Applied::Gap;
            }
            (None, _) if opening => source.seq.saturating_sub(1),
            (None, _) => return Applied::Gap,
        };
        let Some(end) = source.seq.checked_add(count - 1) else {
            return Applied::Gap;
        };
        if end <= last {
            return Applied::Repeat;
        }
        if source.seq > last + 1 {
            return Applied::Gap;
        }
        let pipe = Pipe {
            incarnation: source.pipe.incarnation,
            last_seq: end,
            returns: known.map_or(0, |known| known.returns),
        };
        self.pipes.insert(source.pipe.node, pipe);
        // A run sent again may have been cut differently: only what is new of it is applied.
        let skip = (last + 1).saturating_sub(source.seq) as u32;
        self.perform(source, skip, command, effects);
        Applied::Done
    }

    /// Puts the message of the publish applied last into one more of its queues: one publish, one sequence number.
    pub fn enqueue_also(&mut self, source: Source, run: Enqueue, effects: &mut Effects) {
        if self.fault().is_none() {
            self.perform(source, 0, Command::Enqueue(run), effects);
        }
    }

    /// When the machine next wants a tick; in the past if deadlines are left over.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        self.ground.timers.first().map(|(at, _)| *at)
    }

    /// Dead letters not published yet, for a new leader; of a queue that retains them only as many as are tried at once.
    /// O(queues + dead letters).
    #[must_use]
    pub fn pending_dead_letters(&self) -> Vec<DeadLetter> {
        let of = |queue: &Queue| {
            let max = if queue.config.at_least_once {
                limits::RETAINED_IN_FLIGHT_MAX
            } else {
                usize::MAX
            };
            queue.letters_after(0, max)
        };
        self.queues.values().flat_map(of).collect()
    }

    /// The next dead letters of a queue after the one with this id, in order.
    #[must_use]
    pub fn dead_letters_after(&self, queue: QueueId, id: u64, max: usize) -> Vec<DeadLetter> {
        let queue = self.queues.get(&queue);
        queue.map_or_else(Vec::new, |queue| queue.letters_after(id, max))
    }

    /// Ids of the pages outside that the state names.
    pub fn page_ids(&self) -> impl Iterator<Item = u64> + '_ {
        let levels = self.queues.values().flat_map(|queue| &queue.levels);
        let ready = levels.flat_map(|level| level.ready.middle.iter().map(|page| page.id));
        let streams = self
            .queues
            .values()
            .filter_map(|queue| queue.stream.as_ref());
        ready.chain(streams.flat_map(|stream| stream.middle.iter().map(|page| page.id)))
    }

    /// Which entries still hold live messages.
    #[must_use]
    pub fn live(&self) -> &LiveMap {
        &self.ground.live
    }

    /// Live messages of entries `from_index ..= to_index`, sorted and merged: (first position, how many). Reads
    /// only pages that may hold some, but walks all leases and returns. Check [`Self::fault`] afterwards: after a
    /// page that could not be read the answer is not complete.
    #[must_use]
    pub fn live_positions(&self, from_index: u64, to_index: u64) -> Vec<(Position, u32)> {
        let mut found: Vec<(Position, u32)> = Vec::new();
        let mut store = self.ground.store.lock();
        let mut add = |first: Position, count: u32| {
            if (from_index..=to_index).contains(&first.index()) {
                found.push((first, count));
            }
        };
        for queue in self.queues.values() {
            if let Some(stream) = &queue.stream {
                stream.visit(from_index, to_index, &mut store, &mut add);
            }
            for level in &queue.levels {
                level
                    .ready
                    .visit(from_index, to_index, &mut store, &mut add);
                level
                    .returned
                    .values()
                    .for_each(|p| add(p.run.first, p.run.count));
            }
            queue
                .delayed
                .values()
                .for_each(|p| add(p.run.first, p.run.count));
            queue
                .outbox
                .values()
                .for_each(|(position, ..)| add(*position, 1));
        }
        for consumer in self.ground.consumers.values() {
            consumer
                .leases
                .all()
                .for_each(|(_, l)| add(l.piece.run.first, l.piece.run.count));
            let on_way = consumer.on_way.iter();
            on_way.for_each(|(first, count)| add(*first, *count));
        }
        found.sort_unstable();
        let mut merged: Vec<(Position, u32)> = Vec::with_capacity(found.len());
        for (first, count) in found {
            match merged.last_mut() {
                Some((start, have))
                    if start.index() == first.index() && first.0 <= start.0 + u64::from(*have) =>
                {
                    let end = (first.0 - start.0) as u32 + count;
                    *have = (*have).max(end);
                }
                _ => merged.push((first, count)),
            }
        }
        merged
    }

    /// A hash of the whole state; equal on replicas at the same index. O(state), cold pages aside.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::default();
        digest.bytes(&self.encode());
        digest.value()
    }

    /// Figures of a queue, O(log queues).
    #[must_use]
    pub fn queue_stats(&self, queue: QueueId) -> Option<QueueStats> {
        self.queues.get(&queue).map(Queue::stats)
    }

    /// Figures of the queues whose ids are above `after`, by id: for who reads them in portions.
    pub fn figures_after(
        &self,
        after: Option<QueueId>,
    ) -> impl Iterator<Item = (QueueId, QueueStats, Flow)> + '_ {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let queues = self.queues.range((from, Bound::Unbounded));
        queues.map(|(id, queue)| (*id, queue.stats(), queue.flow))
    }

    /// What went through a queue.
    #[must_use]
    pub fn flow(&self, queue: QueueId) -> Option<Flow> {
        self.queues.get(&queue).map(|queue| queue.flow)
    }

    /// What a queue is told to do.
    #[must_use]
    pub fn queue_config(&self, queue: QueueId) -> Option<&QueueConfig> {
        self.queues.get(&queue).map(|queue| &queue.config)
    }

    /// Every queue with its figures, by id.
    pub fn queues(&self) -> impl Iterator<Item = (QueueId, QueueStats)> + '_ {
        self.queues.iter().map(|(id, queue)| (*id, queue.stats()))
    }

    /// Sums over all queues, O(1).
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.ground.totals
    }

    /// Whether the queue is here.
    #[must_use]
    pub fn has_queue(&self, queue: QueueId) -> bool {
        self.queues.contains_key(&queue)
    }

    /// Last applied sequence number of the pipe; 0 if none of this incarnation was.
    #[must_use]
    pub fn last_seq(&self, pipe: PipeId) -> u64 {
        self.pipe(pipe).map_or(0, |known| known.last_seq)
    }

    pub(super) fn pipe(&self, pipe: PipeId) -> Option<Pipe> {
        let known = self.pipes.get(&pipe.node);
        known
            .filter(|known| known.incarnation == pipe.incarnation)
            .copied()
    }

    /// The machine's clock.
    #[must_use]
    pub fn last_now(&self) -> Millis {
        self.ground.now
    }

    /// Index of the last entry begun.
    #[must_use]
    pub fn applied_index(&self) -> u64 {
        self.index
    }

    /// Why the machine has stopped: a page could not be read. This replica must be restored from a snapshot.
    #[must_use]
    pub fn fault(&self) -> Option<PageError> {
        self.ground.store.lock().fault
    }
}
