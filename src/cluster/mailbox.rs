//! What reaches one connection: deliveries, refusals, cancellations, and how far each of its pipes has been applied.
//!
//! Replicas push under a short lock and wake the connection's task once per batch; the task takes everything at once.
//! Bounded by what the connection itself asked for: credit bounds deliveries (positions, no bodies), its own commands
//! bound the rest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::base::{ConsumerId, SessionId, SetId};
use crate::model::set::{Delivery, Held, TimedOut};

/// What stands after entries were skipped that nobody here was told of.
#[derive(Debug)]
pub struct Skipped {
    /// Commands of this node's pipe up to this number are done.
    pub applied: u64,
    /// What each of the node's consumers holds, by session; whoever is missing has ended.
    pub held: BTreeMap<(SessionId, ConsumerId), Held>,
}

impl Skipped {
    /// What a consumer holds.
    #[must_use]
    pub fn held(&self, session: SessionId, consumer: ConsumerId) -> Option<&Held> {
        self.held.get(&(session, consumer))
    }

    /// What the consumers of a session hold.
    pub fn of(&self, session: SessionId) -> impl Iterator<Item = (ConsumerId, &Held)> {
        let from = (session, ConsumerId(0))..=(session, ConsumerId(u64::MAX));
        let own = self.held.range(from);
        own.map(|((_, consumer), held)| (*consumer, held))
    }
}

/// One thing for a connection, in the order its replica produced it.
#[derive(Debug)]
pub enum Event {
    /// Messages leased to one of its consumers; with the part of their entry that holds them, if the set is elsewhere or keeps
    /// its entries in memory.
    Deliver(SetId, Delivery, Option<Bytes>),
    /// The publish at this sequence number of the pipe to the set was refused.
    Refused(SetId, u64),
    /// Every command up to this sequence number of the pipe to the set is applied.
    Applied(SetId, u64),
    /// Nothing will be heard of commands up to this sequence number of the pipe to the set; its `Applied` follows.
    GivenUp(SetId, u64),
    /// The set has forgotten this node's consumers.
    Lost(SetId),
    /// This node's replica of the set skipped what it did for the consumers here.
    Skipped(SetId, Arc<Skipped>),
    /// A set ended this consumer.
    Cancelled(ConsumerId),
    /// A set ended this consumer, which was too slow.
    TimedOut(TimedOut),
}

/// See the module's head.
#[derive(Debug)]
pub struct Mailbox {
    events: Mutex<Vec<Event>>,
    wake: Notify,
    /// Batch of the last contribution, so that an outbox lists a connection once.
    pub(super) mark: AtomicU64,
}

impl Default for Mailbox {
    fn default() -> Self {
        Self {
            events: Mutex::default(),
            wake: Notify::new(),
            mark: AtomicU64::new(u64::MAX),
        }
    }
}

impl Mailbox {
    /// Adds an event and wakes the connection.
    pub fn post(&self, event: Event) {
        self.events.lock().push(event);
        self.wake.notify_one();
    }

    /// Adds an event; [`Self::wake`] follows.
    pub fn push(&self, event: Event) {
        self.events.lock().push(event);
    }

    /// Wakes the connection.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Moves all events to the end of `into`.
    pub fn take(&self, into: &mut Vec<Event>) {
        let mut events = self.events.lock();
        if into.is_empty() {
            std::mem::swap(&mut *events, into);
        } else {
            into.append(&mut events);
        }
    }

    /// Completes when something was posted since the last [`Self::take`] began.
    pub async fn ready(&self) {
        self.wake.notified().await;
    }

    pub(super) fn marked(&self, batch: u64) -> bool {
        self.mark.swap(batch, Ordering::Relaxed) == batch
    }
}
