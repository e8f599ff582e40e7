//! What must be done after a command: of a pipe (by that pipe's own replica), or of the set (by the leader).
//!
//! Safe to repeat or to lose: the leases in the state are the truth. A confirm is no effect: when the replica has
//! applied sequence number `n` of a pipe, every publish up to `n` that was not [`Effect::Refused`] is confirmed.

use crate::base::{ConsumerId, Millis, Position, QueueId};

use super::command::Source;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Pipe: send messages to a consumer.
    Deliver(Delivery),
    /// Pipe: the publish at this sequence number was refused by a queue (basic.nack).
    Refused(Source),
    /// Pipe: the answer to a command that has one.
    Reply(Source, Reply),
    /// Pipe: the set ended this consumer (its queue is gone); basic.cancel to the client.
    Cancelled(ConsumerId),
    /// Pipe: a lease of this consumer ended by its deadline, and with it the consumer.
    TimedOut(TimedOut),
    /// Set: dead letter `id` of `queue` waits to be routed and published, then `DeadLettered`.
    DeadLetter(DeadLetter),
    /// Set: the queue deleted itself (auto-delete, expiry); the topology must forget it.
    QueueGone(QueueId),
}

/// A run of messages leased to one consumer: delivery numbers `first_no ..`, positions `first ..`, `count` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// To whom.
    pub consumer: ConsumerId,
    /// Delivery number of the first; with the consumer it is the lease's fencing token. From 1, never reused.
    pub first_no: u64,
    /// Position of the first.
    pub first: Position,
    /// How many, at least 1.
    pub count: u32,
    /// Body bytes of each.
    pub size: u32,
    /// Handed out before.
    pub redelivered: bool,
    /// Earlier deliveries (x-acquired-count).
    pub acquired: u32,
    /// Earlier failed deliveries (x-delivery-count).
    pub failed: u32,
    /// Offset of the first, if they come from a stream.
    pub offset: Option<u64>,
}

impl Delivery {
    /// Without what came before delivery number `no`; `None` if nothing is left.
    #[must_use]
    pub fn from_no(&self, no: u64) -> Option<Self> {
        let before = no.saturating_sub(self.first_no);
        let before = u32::try_from(before).unwrap_or(u32::MAX);
        (before < self.count).then(|| Self {
            first_no: self.first_no + u64::from(before),
            first: self.first.plus(before),
            count: self.count - before,
            offset: self.offset.map(|offset| offset + u64::from(before)),
            ..*self
        })
    }
}

/// A consumer, or a channel's holder of basic.get leases, that was too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut {
    /// Who. A consumer is detached by now.
    pub consumer: ConsumerId,
    /// Its channel is to be closed; otherwise it is told basic.cancel.
    pub close: bool,
    /// How long its leases were, ms.
    pub timeout: Millis,
}

/// A message that must move to the dead-letter exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The queue it died in.
    pub queue: QueueId,
    /// Names the dead letter in the queue's outbox.
    pub id: u64,
    /// Where its bytes are.
    pub position: Position,
    /// Why.
    pub reason: DeathReason,
}

/// x-death's `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeathReason {
    /// basic.reject or basic.nack with requeue=false.
    Rejected,
    /// TTL.
    Expired,
    /// Length limit.
    MaxLen,
    /// Delivery limit.
    DeliveryLimit,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done.
    Done,
    /// CloseNode of a node that came back so many times.
    Returned(u64),
    /// Messages removed (purge, delete).
    Count(u64),
    /// Inspect.
    Counts {
        ready: u64,
        unsettled: u64,
        consumers: u32,
    },
    /// Delete with if_unused.
    InUse,
    /// Delete with if_empty.
    NotEmpty,
    /// The queue does not exist here.
    NoQueue,
    /// Subscribed; deliveries follow.
    Subscribed,
    /// Another consumer is exclusive, or this one asked to be and is not alone.
    ExclusiveUse,
    /// Unsubscribed. `deleted`: the queue went with its last consumer (auto-delete).
    Unsubscribed { deleted: Option<QueueId> },
    /// The session or channel is closed; queues that went with it.
    Closed { deleted: Vec<QueueId> },
    /// basic.get: the message, and how many are ready after it.
    Got { delivery: Delivery, ready: u64 },
    /// basic.get on an empty queue.
    GotNothing,
}

/// Effects in order, reused from batch to batch.
pub type Effects = Vec<Effect>;
