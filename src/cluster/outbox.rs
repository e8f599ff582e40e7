//! The node's pipe to one set: commands wait here, bounded in bytes, until the proposer takes them as one batch, and
//! batches stay here until this node's own replica has applied them.
//!
//! Every command has a sequence number in the pipe. A confirm is no message: the replica tells how far the pipe has
//! been applied, and the connections that put something into the batch are woken, once each.
//!
//! Invariants
//!   applied < first of `flights` ≤ … < first of `builder` ≤ next
//!   the machine ignores a repeat, so a batch may be proposed again whenever its fate is unknown

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::base::limits;
use crate::base::{Millis, PipeId, QueueId, SetId};
use crate::model::batch::{BatchBuilder, BufferPool, MessageParts, PublishOptions};
use crate::model::set::Command;

use super::mailbox::{Event, Mailbox};

/// Where a command ended up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Its sequence number in the pipe.
    pub seq: u64,
    /// The batch it travels in; a batch is applied as a whole.
    pub batch: u64,
}

/// The set cannot be reached, or the node stops: the answer will never come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the broker set gives no answer")]
pub struct Refusal;

/// See the module's head. `R` is the answer of the set's machine.
#[derive(Debug)]
pub struct Outbox<R> {
    set: SetId,
    pipe: PipeId,
    inner: Mutex<Inner<R>>,
    waiting_bytes: AtomicUsize,
    applied: AtomicU64,
    in_flight: AtomicUsize,
    resend: AtomicBool,
    /// See [`super::presence`]: lapses the set has been asked about, and those a question is under way about.
    lapses: AtomicU64,
    lapses_asked: AtomicU64,
    /// Something waits, or a batch was applied, or leadership changed.
    pub(super) kick: Notify,
    /// A batch was applied and none is left in flight.
    pub(super) quiet: Notify,
    room: Notify,
}

#[derive(Debug)]
struct Inner<R> {
    builder: BatchBuilder,
    first_seq: u64,
    next_seq: u64,
    batch: u64,
    contributors: Vec<Arc<Mailbox>>,
    /// Batches closed by their size, before `builder`.
    closed: VecDeque<Flight>,
    closed_bytes: usize,
    last_stamp: Millis,
    flights: VecDeque<Flight>,
    replies: HashMap<u64, oneshot::Sender<R>>,
    latency: Latency,
}

/// How long batches took from this node until they were applied here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// How many.
    pub batches: u64,
    /// In all.
    pub sum: Duration,
    /// The last one.
    pub last: Duration,
}

impl Latency {
    fn took(&mut self, time: Duration) {
        self.batches += 1;
        self.sum += time;
        self.last = time;
    }
}

impl<R> Inner<R> {
    /// Bytes of commands not proposed yet.
    fn waiting(&self) -> usize {
        let open = if self.builder.commands() == 0 {
            0
        } else {
            self.builder.size()
        };
        self.closed_bytes + open
    }

    /// Seals what the builder holds.
    fn close(&mut self, pipe: PipeId, stamp: Millis) -> Flight {
        let payload = self.builder.seal(pipe, self.first_seq, stamp);
        let last_seq = self.next_seq - 1;
        self.first_seq = self.next_seq;
        self.batch += 1;
        Flight {
            last_seq,
            sent: None,
            payload,
            contributors: std::mem::take(&mut self.contributors),
        }
    }
}

#[derive(Debug)]
struct Flight {
    last_seq: u64,
    /// When it went on its way.
    sent: Option<Instant>,
    payload: Bytes,
    contributors: Vec<Arc<Mailbox>>,
}

impl<R> Outbox<R> {
    /// An empty pipe; its first command has sequence number 1.
    #[must_use]
    pub fn new(set: SetId, pipe: PipeId, pool: BufferPool) -> Self {
        Self {
            set,
            pipe,
            inner: Mutex::new(Inner {
                builder: BatchBuilder::new(pool),
                first_seq: 1,
                next_seq: 1,
                batch: 0,
                contributors: Vec::new(),
                closed: VecDeque::new(),
                closed_bytes: 0,
                last_stamp: Millis(0),
                flights: VecDeque::new(),
                replies: HashMap::new(),
                latency: Latency::default(),
            }),
            waiting_bytes: AtomicUsize::new(0),
            applied: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            resend: AtomicBool::new(false),
            lapses: AtomicU64::new(0),
            lapses_asked: AtomicU64::new(0),
            kick: Notify::new(),
            quiet: Notify::new(),
            room: Notify::new(),
        }
    }

    /// Lapses of the node's presence after which the set has been asked.
    #[must_use]
    pub fn known_lapses(&self) -> u64 {
        self.lapses.load(Ordering::Acquire)
    }

    /// The set has been asked after this many lapses, or its pipe began after them.
    pub fn knows_lapses(&self, lapses: u64) {
        self.lapses.fetch_max(lapses, Ordering::AcqRel);
        self.lapses_asked.fetch_max(lapses, Ordering::AcqRel);
    }

    /// Whether a question after this many lapses is not under way yet; it is from now on.
    pub(super) fn ask_begins(&self, lapses: u64) -> bool {
        self.lapses_asked.swap(lapses, Ordering::AcqRel) != lapses
    }

    /// The question under way got no answer.
    pub(super) fn ask_failed(&self) {
        let known = self.lapses.load(Ordering::Acquire);
        self.lapses_asked.store(known, Ordering::Release);
    }

    /// The set at its end.
    #[must_use]
    pub fn set(&self) -> SetId {
        self.set
    }

    /// The pipe.
    #[must_use]
    pub fn pipe(&self) -> PipeId {
        self.pipe
    }

    /// Appends a publish for a connection. The proposer is not woken: [`Self::kick`] follows.
    pub fn publish(
        &self,
        from: &Arc<Mailbox>,
        queues: &[QueueId],
        options: PublishOptions,
        parts: &MessageParts<'_>,
    ) -> Pushed {
        let mut inner = self.inner.lock();
        inner.builder.publish(queues, options, parts);
        self.pushed(&mut inner, Some(from))
    }

    /// Appends a command nobody waits for. The proposer is not woken.
    pub fn push(&self, command: &Command) -> Pushed {
        let mut inner = self.inner.lock();
        inner.builder.command(command);
        self.pushed(&mut inner, None)
    }

    /// Appends a command and wakes the proposer; the answer comes when this node's replica has applied it.
    pub fn ask(&self, command: &Command) -> oneshot::Receiver<R> {
        self.ask_with(|builder| builder.command(command))
    }

    /// As [`Self::ask`], for another machine's command.
    pub fn ask_opaque(&self, bytes: &[u8]) -> oneshot::Receiver<R> {
        self.ask_with(|builder| builder.opaque(bytes))
    }

    fn ask_with(&self, write: impl FnOnce(&mut BatchBuilder)) -> oneshot::Receiver<R> {
        let (tx, rx) = oneshot::channel();
        {
            let mut inner = self.inner.lock();
            write(&mut inner.builder);
            let pushed = self.pushed(&mut inner, None);
            inner.replies.insert(pushed.seq, tx);
        }
        self.kick();
        rx
    }

    fn pushed(&self, inner: &mut Inner<R>, from: Option<&Arc<Mailbox>>) -> Pushed {
        let seq = inner.next_seq;
        inner.next_seq += 1;
        if let Some(from) = from {
            let last = inner
                .contributors
                .last()
                .is_some_and(|last| Arc::ptr_eq(last, from));
            // The mark tells batches of different sets apart by their id, which is never 0 in its high half.
            let id = u64::from(self.set.0) << 40 ^ inner.batch;
            if !last && !from.marked(id) {
                inner.contributors.push(Arc::clone(from));
            }
        }
        let pushed = Pushed {
            seq,
            batch: inner.batch,
        };
        if inner.builder.size() >= limits::BATCH_SPLIT_BYTES
            || inner.builder.commands() as usize >= limits::ENTRY_COMMANDS_MAX
        {
            let stamp = inner.last_stamp;
            let flight = inner.close(self.pipe, stamp);
            inner.closed_bytes += flight.payload.len();
            inner.closed.push_back(flight);
        }
        self.waiting_bytes.store(inner.waiting(), Ordering::Relaxed);
        if inner.builder.size() >= limits::ENTRY_BYTES_MAX
            || inner.builder.commands() as usize >= limits::ENTRY_COMMANDS_MAX
        {
            self.kick.notify_one();
        }
        pushed
    }

    /// Wakes the proposer if something waits.
    pub fn kick(&self) {
        self.kick.notify_one();
    }

    /// Whether a socket that feeds this pipe should be read.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.waiting_bytes.load(Ordering::Relaxed) < limits::OUTBOX_BYTES_MAX
    }

    /// Completes once there may be room again.
    pub async fn room(&self) {
        let mut waiting = std::pin::pin!(self.room.notified());
        loop {
            waiting.as_mut().enable();
            if self.has_room() {
                return;
            }
            waiting.as_mut().await;
            waiting.set(self.room.notified());
        }
    }

    /// How far the pipe is known to be applied.
    #[must_use]
    pub fn applied_seq(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Batches proposed and not applied.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Seals what waits into a payload, which counts as in flight from here on. `None` if nothing waits.
    pub fn seal(&self, stamp: Millis) -> Option<Bytes> {
        let mut inner = self.inner.lock();
        inner.last_stamp = stamp;
        let mut flight = match inner.closed.pop_front() {
            Some(flight) => {
                inner.closed_bytes -= flight.payload.len();
                flight
            }
            None if inner.builder.commands() == 0 => return None,
            None => inner.close(self.pipe, stamp),
        };
        let payload = flight.payload.clone();
        flight.sent = Some(Instant::now());
        inner.flights.push_back(flight);
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.waiting_bytes.store(inner.waiting(), Ordering::Relaxed);
        drop(inner);
        self.room.notify_waiters();
        Some(payload)
    }

    /// Payloads in flight, oldest first, to be proposed again after a leader change.
    #[must_use]
    pub fn unapplied(&self) -> Vec<Bytes> {
        self.inner
            .lock()
            .flights
            .iter()
            .map(|flight| flight.payload.clone())
            .collect()
    }

    /// Asks the proposer to propose everything in flight again.
    pub fn resend(&self) {
        self.resend.store(true, Ordering::Release);
        self.kick.notify_one();
    }

    pub(super) fn take_resend(&self) -> bool {
        self.resend.swap(false, Ordering::AcqRel)
    }

    /// The answer to the command `seq`, from this node's replica.
    pub fn reply(&self, seq: u64, reply: R) {
        let waiting = self.inner.lock().replies.remove(&seq);
        if let Some(tx) = waiting {
            // The asker may be gone with its connection; its command stands.
            drop(tx.send(reply));
        }
    }

    /// This node's replica refused the publish `seq`: every connection of its batch is told.
    pub fn refused(&self, seq: u64) {
        let inner = self.inner.lock();
        if let Some(flight) = inner.flights.iter().find(|flight| seq <= flight.last_seq) {
            for mailbox in &flight.contributors {
                mailbox.push(Event::Refused(self.set, seq));
            }
        }
    }

    /// This node's replica has applied the pipe up to `seq`.
    pub fn applied(&self, seq: u64) {
        self.applied.fetch_max(seq, Ordering::AcqRel);
        let mut done = 0;
        let mut inner = self.inner.lock();
        while inner
            .flights
            .front()
            .is_some_and(|flight| flight.last_seq <= seq)
        {
            if let Some(flight) = inner.flights.pop_front() {
                if let Some(sent) = flight.sent {
                    inner.latency.took(sent.elapsed());
                }
                for mailbox in flight.contributors {
                    mailbox.post(Event::Applied(self.set, flight.last_seq));
                }
                done += 1;
            }
        }
        drop(inner);
        if done > 0 {
            if self.in_flight.fetch_sub(done, Ordering::AcqRel) == done {
                self.quiet.notify_one();
            }
            self.kick.notify_one();
        }
    }

    /// This node's replica was given the pipe's commands up to `sent`, and has applied them up to `applied`. If that is
    /// less, an earlier batch is missing: all in flight goes again, behind it.
    pub fn settled(&self, applied: u64, sent: u64) {
        self.applied(applied.min(sent));
        if applied < sent {
            self.resend();
        }
    }

    /// Nothing will be heard of commands up to `seq`: publishes count as refused, answers never come. What was sent later
    /// goes again. `u64::MAX`: nothing of all that was appended so far will ever be applied.
    pub fn give_up(&self, seq: u64) {
        let mut inner = self.inner.lock();
        if seq == u64::MAX {
            let stamp = inner.last_stamp;
            if inner.builder.commands() > 0 {
                let flight = inner.close(self.pipe, stamp);
                inner.closed.push_back(flight);
            }
            let closed = std::mem::take(&mut inner.closed);
            self.in_flight.fetch_add(closed.len(), Ordering::AcqRel);
            inner.flights.extend(closed);
            inner.closed_bytes = 0;
        }
        inner.replies.retain(|asked, _| *asked > seq);
        let gone = |flight: &Flight| flight.last_seq <= seq;
        let last = inner.flights.iter().rfind(|flight| gone(flight));
        let last = last.map_or(0, |flight| flight.last_seq);
        for flight in inner.flights.iter().filter(|flight| gone(flight)) {
            for mailbox in &flight.contributors {
                mailbox.push(Event::GivenUp(self.set, flight.last_seq));
            }
        }
        self.waiting_bytes.store(inner.waiting(), Ordering::Relaxed);
        drop(inner);
        self.applied(last);
        self.room.notify_waiters();
        self.resend();
    }

    /// Whether anything waits or is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.in_flight() > 0 || self.depth().0 > 0
    }

    /// How long batches took, for metrics.
    #[must_use]
    pub fn latency(&self) -> Latency {
        self.inner.lock().latency
    }

    /// Bytes waiting and batches in flight, for metrics.
    #[must_use]
    pub fn depth(&self) -> (usize, usize) {
        (self.waiting_bytes.load(Ordering::Relaxed), self.in_flight())
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::base::NodeId;
    use crate::model::batch::{Batch, MessageFlags};

    const PIPE: PipeId = PipeId {
        node: NodeId(1),
        incarnation: 1,
    };

    fn publish(outbox: &Outbox<()>, from: &Arc<Mailbox>, size: usize) -> Pushed {
        let body = [Bytes::from(vec![0; size])];
        let parts = MessageParts {
            flags: MessageFlags::default(),
            exchange: b"",
            routing_key: b"q",
            blind_keys: &[],
            properties: &[],
            body: &body,
        };
        outbox.publish(from, &[QueueId(1)], PublishOptions::default(), &parts)
    }

    fn applied(mailbox: &Mailbox) -> Vec<u64> {
        let mut events = Vec::new();
        mailbox.take(&mut events);
        let seq = |event| match event {
            Event::Applied(_, seq) => seq,
            other => panic!("{other:?}"),
        };
        events.into_iter().map(seq).collect()
    }

    #[test]
    fn many_large_messages_at_once_become_several_entries() {
        let outbox = Outbox::<()>::new(SetId(1), PIPE, BufferPool::default());
        let from = Arc::new(Mailbox::default());
        for _ in 0..5 {
            publish(&outbox, &from, limits::BATCH_SPLIT_BYTES / 2);
        }
        assert!(!outbox.has_room());
        let mut seqs = Vec::new();
        while let Some(payload) = outbox.seal(Millis(7)) {
            assert!(payload.len() < limits::BATCH_SPLIT_BYTES * 2);
            let mut batch = Batch::new(&payload).unwrap();
            let (chunk, _) = batch.next_chunk().unwrap().unwrap();
            seqs.push((chunk.first_seq, chunk.commands));
        }
        assert_eq!(seqs, [(1, 2), (3, 2), (5, 1)]);
        assert!(outbox.has_room());
        outbox.applied(3);
        assert_eq!(applied(&from), [2], "only whole batches are told");
        outbox.applied(5);
        assert_eq!(applied(&from), [4, 5]);
        assert_eq!(outbox.depth(), (0, 0), "an idle pipe holds nothing");
    }

    #[test]
    fn what_was_not_applied_is_proposed_again_and_an_answer_comes_once() {
        let outbox = Outbox::<u8>::new(SetId(1), PIPE, BufferPool::default());
        let mut answer = outbox.ask(&Command::Tick);
        let payload = outbox.seal(Millis(1)).unwrap();
        assert_eq!(outbox.unapplied(), [payload]);
        outbox.reply(1, 9);
        outbox.reply(1, 8);
        outbox.applied(1);
        assert_eq!(answer.try_recv(), Ok(9));
        assert!(outbox.unapplied().is_empty());
    }

    #[test]
    fn a_refusal_reaches_every_connection_of_the_batch() {
        let outbox = Outbox::<()>::new(SetId(1), PIPE, BufferPool::default());
        let (one, two) = (Arc::new(Mailbox::default()), Arc::new(Mailbox::default()));
        publish(&outbox, &one, 1);
        publish(&outbox, &two, 1);
        publish(&outbox, &one, 1);
        drop(outbox.seal(Millis(1)));
        outbox.refused(2);
        for mailbox in [one, two] {
            let mut events = Vec::new();
            mailbox.take(&mut events);
            assert!(
                matches!(events[..], [Event::Refused(SetId(1), 2)]),
                "{events:?}"
            );
        }
    }
}
