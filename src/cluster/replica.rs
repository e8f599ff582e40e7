//! A set's machine behind the raft floor: entries in; confirms, deliveries and answers out to this node's connections.
//!
//! Runs inside the apply of the set's replica, so it only pushes to mailboxes and bounded channels, and never waits.
//! A payload that cannot be read here was committed by a majority: the replica must not go on without it, so the
//! process ends.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use crate::base::{ConsumerId, Millis, NodeId, PipeId, Position, QueueId, SetId};
use crate::model::Meta;
use crate::model::batch::{self, Batch, BatchError, Item, PublishItem};
use crate::model::set::{
    Applied, Command, DeadLetter, Delivery, Effect, Effects, Enqueue, MemoryPages, Pages, Reply,
    SetMachine, Source,
};
use crate::raft::{LiveEntry, Machine, MachineError, PageStore, SnapshotPages};

use super::local_set::Entries;
use super::mailbox::{Event, Mailbox, Skipped};
use super::outbox::Outbox;
use super::pages::SetPages;
use super::registry::{Registry, node_of};
use super::ring::{PipeEvent, Ring};

/// What a set's leader must do, told to the node's worker.
#[derive(Debug)]
pub enum SetEffect {
    /// Route and publish this dead letter.
    DeadLetter(SetId, DeadLetter),
    /// Forget this queue in the topology.
    QueueGone(QueueId),
}

/// The leader's side of a set's effects. Full: the worker asks the machine for what it missed.
#[derive(Clone, Debug)]
pub struct SetEffects {
    tx: mpsc::Sender<SetEffect>,
    missed: Arc<AtomicBool>,
}

impl SetEffects {
    /// A bounded channel of effects.
    #[must_use]
    pub fn channel(capacity: usize) -> (Self, mpsc::Receiver<SetEffect>) {
        let (tx, rx) = mpsc::channel(capacity);
        (
            Self {
                tx,
                missed: Arc::default(),
            },
            rx,
        )
    }

    fn send(&self, effect: SetEffect) {
        if self.tx.try_send(effect).is_err() {
            self.missed.store(true, Ordering::Release);
        }
    }

    /// Whether something was missed since the last call.
    #[must_use]
    pub fn take_missed(&self) -> bool {
        self.missed.swap(false, Ordering::AcqRel)
    }
}

/// When the machine next needs an entry although nobody sends one.
#[derive(Debug)]
pub struct Deadline {
    at: AtomicU64,
    earlier: Notify,
}

impl Default for Deadline {
    fn default() -> Self {
        Self {
            at: AtomicU64::new(u64::MAX),
            earlier: Notify::new(),
        }
    }
}

impl Deadline {
    fn set(&self, at: Option<Millis>) {
        let at = at.map_or(u64::MAX, |at| at.0);
        if at < self.at.swap(at, Ordering::AcqRel) {
            self.earlier.notify_one();
        }
    }

    /// The time, if there is one.
    #[must_use]
    pub fn get(&self) -> Option<Millis> {
        let at = self.at.load(Ordering::Acquire);
        (at != u64::MAX).then_some(Millis(at))
    }

    /// Completes when the time moved forward.
    pub async fn earlier(&self) {
        self.earlier.notified().await;
    }
}

/// One replica of a set, on this node.
pub struct SetReplica {
    set: SetId,
    machine: SetMachine,
    outbox: Arc<Outbox<Reply>>,
    registry: Arc<Registry>,
    leader: SetEffects,
    leading: bool,
    deadline: Arc<Deadline>,
    effects: Effects,
    last_mailbox: Option<(ConsumerId, Arc<Mailbox>)>,
    pages: Option<SetPages>,
    /// The entries themselves, if they are kept in memory and may be gone when a delivery is read.
    entries: Option<Arc<Entries>>,
    ring: Arc<Ring>,
    /// This node's own pipe and consumers hear of the set from elsewhere: nothing is told to them here.
    mute: bool,
}

impl SetReplica {
    /// A replica whose machine is empty or about to be restored.
    pub fn new(
        machine: SetMachine,
        outbox: Arc<Outbox<Reply>>,
        registry: Arc<Registry>,
        leader: SetEffects,
        ring: Arc<Ring>,
    ) -> Self {
        Self {
            ring,
            mute: false,
            set: outbox.set(),
            machine,
            outbox,
            registry,
            leader,
            leading: false,
            deadline: Arc::default(),
            effects: Effects::new(),
            last_mailbox: None,
            pages: None,
            entries: None,
        }
    }

    /// With the files its machine keeps cold pages in.
    #[must_use]
    pub fn with_pages(mut self, pages: SetPages) -> Self {
        self.pages = Some(pages);
        self
    }

    /// With the entries of a set that keeps them in memory.
    #[must_use]
    pub fn with_entries(mut self, entries: Arc<Entries>) -> Self {
        self.entries = Some(entries);
        self
    }

    /// A replica that is to take over from what this node hears from elsewhere: it keeps what concerns this node, and
    /// tells nobody until [`Self::speak`].
    #[must_use]
    pub fn muted(mut self) -> Self {
        self.mute = true;
        self.ring.keep_own(true);
        self
    }

    /// Whether everything that concerns this node after entry `heard` is known here.
    #[must_use]
    pub fn knows_own(&self, heard: u64) -> bool {
        let pipe = self.outbox.pipe();
        self.machine.applied_index() >= heard && self.ring.read(pipe, heard, 0).is_some()
    }

    /// Tells what concerns this node from here on; what was kept of it after entry `heard`, or `None` if not all was.
    pub fn speak(&mut self, heard: u64) -> Option<Vec<PipeEvent>> {
        self.mute = false;
        let missed = self.ring.read(self.outbox.pipe(), heard, usize::MAX);
        self.ring.keep_own(false);
        missed.map(|(events, _)| events)
    }

    /// Whether this node's own pipe is told here what became of it.
    fn tells(&self, pipe: PipeId) -> bool {
        !self.mute && pipe == self.outbox.pipe()
    }

    /// Whether the set's effects are this node's to see to.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leading
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &SetMachine {
        &self.machine
    }

    /// Its next deadline, shared.
    #[must_use]
    pub fn deadline(&self) -> Arc<Deadline> {
        Arc::clone(&self.deadline)
    }

    /// Begins or ends leading: a new leader finds the set's unfinished effects in the state.
    pub fn lead(&mut self, leading: bool) {
        self.leading = leading;
        if leading {
            for letter in self.machine.pending_dead_letters() {
                self.leader.send(SetEffect::DeadLetter(self.set, letter));
            }
        }
        self.deadline.set(self.machine.next_deadline());
    }

    /// Whether an entry can be applied: what a peer sent is looked through before it counts.
    #[must_use]
    pub fn check_entry(&self, payload: &Bytes) -> bool {
        let read = || -> Result<(), BatchError> {
            let mut batch = Batch::new(payload)?;
            while let Some((_, mut items)) = batch.next_chunk()? {
                while let Some(item) = items.next_item()? {
                    if matches!(item, Item::Opaque(_)) {
                        return Err(BatchError::Unknown);
                    }
                }
            }
            Ok(())
        };
        match read() {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(set = %self.set, %error, "a peer's batch cannot be read");
                false
            }
        }
    }

    /// Applies one entry and runs its effects.
    pub fn apply_entry(&mut self, index: u64, payload: &Bytes) {
        if let Err(error) = self.apply_batch(index, payload) {
            tracing::error!(set = %self.set, index, %error, "a committed entry cannot be applied");
            std::process::abort();
        }
    }

    fn apply_batch(&mut self, index: u64, payload: &Bytes) -> Result<(), BatchError> {
        let mut batch = Batch::new(payload)?;
        let meta = Meta {
            index,
            now: batch.stamp,
        };
        self.machine.begin(meta, &mut self.effects);
        while let Some((chunk, mut items)) = batch.next_chunk()? {
            let mut run: Option<(Source, Enqueue)> = None;
            let mut seq = chunk.first_seq;
            while let Some(item) = items.next_item()? {
                let source = Source {
                    pipe: chunk.pipe,
                    seq,
                };
                seq += 1;
                match item {
                    Item::Publish(publish) => self.publish(index, source, &publish, &mut run),
                    Item::Command(command) => {
                        self.flush(&mut run);
                        self.step(source, command);
                    }
                    Item::Opaque(_) => return Err(BatchError::Unknown),
                }
            }
            self.flush(&mut run);
            // What was refused for a gap is not applied: it must come again, behind what is missing.
            if self.tells(chunk.pipe) {
                self.run_effects(index);
                self.outbox
                    .settled(self.machine.last_seq(chunk.pipe), seq - 1);
            } else if self.ring.keeps(chunk.pipe.node) {
                self.run_effects(index);
                let (node, last) = (chunk.pipe.node, self.machine.last_seq(chunk.pipe));
                self.ring
                    .push(node, index, PipeEvent::Applied(last.min(seq - 1)));
                if last < seq - 1 {
                    self.ring.push(node, index, PipeEvent::Gap(last));
                }
            }
        }
        self.run_effects(index);
        self.ring.applied(index);
        self.deadline.set(self.machine.next_deadline());
        Ok(())
    }

    /// Joins a publish to the run before it, or starts a new one.
    fn publish(
        &mut self,
        index: u64,
        source: Source,
        publish: &PublishItem<'_>,
        run: &mut Option<(Source, Enqueue)>,
    ) {
        let mut queues = publish.queues();
        let Some(queue) = queues.next() else { return };
        let enqueue = Enqueue {
            queue,
            first: Position::new(index, publish.slot),
            count: 1,
            size: publish.size,
            ttl: publish.ttl,
            priority: publish.priority,
            delay: publish.delay,
        };
        if publish.queue_count() == 1 {
            if let Some((_, open)) = run {
                let next = Enqueue {
                    first: open.first.plus(open.count),
                    count: 1,
                    ..*open
                };
                if next == enqueue {
                    open.count += 1;
                    return;
                }
            }
            self.flush(run);
            *run = Some((source, enqueue));
            return;
        }
        self.flush(run);
        let applied = self
            .machine
            .apply(source, Command::Enqueue(enqueue), &mut self.effects);
        if applied == Applied::Done {
            for queue in queues {
                let enqueue = Enqueue { queue, ..enqueue };
                self.machine
                    .enqueue_also(source, enqueue, &mut self.effects);
            }
        }
    }

    fn flush(&mut self, run: &mut Option<(Source, Enqueue)>) {
        if let Some((source, enqueue)) = run.take() {
            self.step(source, Command::Enqueue(enqueue));
        }
    }

    fn step(&mut self, source: Source, command: Command) {
        let applied = self.machine.apply(source, command, &mut self.effects);
        if applied == Applied::Gap {
            tracing::warn!(set = %self.set, ?source, "command refused, an earlier one is missing");
        }
    }

    fn run_effects(&mut self, index: u64) {
        if let Some(fault) = self.machine.fault() {
            // What the machine says after a page it could not read is not to be believed.
            tracing::error!(set = %self.set, %fault, "the set's index cannot be read");
            std::process::abort();
        }
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Deliver(delivery) => self.deliver(index, delivery),
                Effect::Refused(source) if self.tells(source.pipe) => {
                    self.outbox.refused(source.seq);
                }
                Effect::Reply(source, reply) if self.tells(source.pipe) => {
                    self.outbox.reply(source.seq, reply);
                }
                Effect::Refused(source) => {
                    self.keep(source.pipe.node, index, PipeEvent::Refused(source.seq));
                }
                Effect::Reply(source, reply) => {
                    self.keep(source.pipe.node, index, PipeEvent::Reply(source.seq, reply));
                }
                Effect::Cancelled(consumer) => {
                    if let Some(mailbox) = self.mailbox(consumer) {
                        mailbox.post(Event::Cancelled(consumer));
                    } else {
                        self.keep(node_of(consumer), index, PipeEvent::Cancelled(consumer));
                    }
                }
                Effect::TimedOut(late) => {
                    if let Some(mailbox) = self.mailbox(late.consumer) {
                        mailbox.post(Event::TimedOut(late));
                    } else {
                        let node = node_of(late.consumer);
                        self.keep(node, index, PipeEvent::TimedOut(late));
                    }
                }
                Effect::DeadLetter(letter) if self.leading => {
                    self.leader.send(SetEffect::DeadLetter(self.set, letter));
                }
                Effect::QueueGone(queue) if self.leading => {
                    self.leader.send(SetEffect::QueueGone(queue));
                }
                Effect::DeadLetter(_) | Effect::QueueGone(_) => {}
            }
        }
        self.effects = effects;
        if let Some((_, mailbox)) = self.last_mailbox.take() {
            mailbox.wake();
        }
    }

    /// Entries were skipped: what they did for this node is in the state, but nobody here was told. What was under way is
    /// given up, and the connections are told what their consumers hold; at the start there is nothing of either.
    fn tell_skipped(&self) {
        let pipe = self.outbox.pipe();
        let applied = self.machine.last_seq(pipe);
        if !self.tells(pipe) || applied == 0 {
            return;
        }
        self.outbox.give_up(applied);
        let held = self.machine.held(pipe);
        let skipped = Arc::new(Skipped { applied, held });
        for mailbox in self.registry.mailboxes() {
            mailbox.post(Event::Skipped(self.set, Arc::clone(&skipped)));
        }
    }

    fn mailbox(&self, consumer: ConsumerId) -> Option<Arc<Mailbox>> {
        match self.mute {
            true => None,
            false => self.registry.mailbox(consumer),
        }
    }

    fn keep(&self, node: NodeId, index: u64, event: PipeEvent) {
        if self.ring.keeps(node) {
            self.ring.push(node, index, event);
        }
    }

    /// Neighbouring deliveries mostly go to the same connection: it is looked up and woken once.
    fn deliver(&mut self, index: u64, delivery: Delivery) {
        let known = self
            .last_mailbox
            .as_ref()
            .is_some_and(|(last, _)| *last == delivery.consumer);
        if !known {
            let next = self
                .mailbox(delivery.consumer)
                .map(|m| (delivery.consumer, m));
            let before = std::mem::replace(&mut self.last_mailbox, next);
            let same = match (&before, &self.last_mailbox) {
                (Some((_, before)), Some((_, next))) => Arc::ptr_eq(before, next),
                _ => false,
            };
            if let (Some((_, before)), false) = (before, same) {
                before.wake();
            }
        }
        if let Some((_, mailbox)) = &self.last_mailbox {
            let entries = self.entries.as_ref();
            let entry = entries.and_then(|entries| entries.get(delivery.first.index()));
            mailbox.push(Event::Deliver(self.set, delivery, entry));
        } else {
            let node = node_of(delivery.consumer);
            self.keep(node, index, PipeEvent::Deliver(delivery));
        }
    }
}

impl Machine for SetReplica {
    fn apply(&mut self, index: u64, _term: u64, payload: &Bytes) {
        self.apply_entry(index, payload);
    }

    fn snapshot(&mut self) -> Vec<u8> {
        self.machine.snapshot()
    }

    fn pages(&mut self) -> Option<Box<dyn SnapshotPages>> {
        self.pages.as_ref().map(SetPages::snapshot)
    }

    fn page_ids(&self) -> Vec<u64> {
        self.machine.page_ids().collect()
    }

    fn page_store(&self) -> Option<Arc<dyn PageStore>> {
        let pages = self.pages.clone()?;
        Some(Arc::new(pages))
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), MachineError> {
        let pages: Box<dyn Pages> = match &self.pages {
            Some(pages) => Box::new(pages.clone()),
            None => Box::new(MemoryPages::default()),
        };
        self.machine = SetMachine::restore(bytes, pages)
            .map_err(|error| MachineError::new(error.to_string()))?;
        self.ring.restart(self.machine.applied_index());
        self.tell_skipped();
        if let Some(pages) = &self.pages {
            pages.retain(&self.machine.page_ids().collect());
        }
        Ok(())
    }

    fn live_bytes(&self, first: u64, last: u64) -> u64 {
        // An estimate: bodies of the set's average size. What is ready stands for what is leased.
        let totals = self.machine.totals();
        let average = totals.ready_bytes.checked_div(totals.ready).unwrap_or(0) + 64;
        self.machine.live().count(first, last) * average
    }

    fn live_entries(&self, first: u64, last: u64) -> Vec<LiveEntry> {
        let mut entries: Vec<LiveEntry> = Vec::new();
        for (position, count) in self.machine.live_positions(first, last) {
            let slots = position.slot()..position.slot() + count;
            match entries.last_mut() {
                Some(entry) if entry.index == position.index() => entry.slots.push(slots),
                _ => entries.push(LiveEntry {
                    index: position.index(),
                    slots: vec![slots],
                }),
            }
        }
        entries
    }

    fn compact_payload(_index: u64, payload: &Bytes, live: &[Range<u32>]) -> Option<Bytes> {
        if live.is_empty() {
            return None;
        }
        let kept = batch::survivors(payload, live.iter().cloned().flatten());
        // What cannot be taken apart stays whole.
        Some(kept.unwrap_or_else(|| payload.clone()))
    }

    fn leadership(&mut self, leading: bool, _term: u64) {
        self.lead(leading);
    }
}
