//! What may be asked of a set's queue machine. Time and every outside decision come in with the command.

use crate::base::{ConsumerId, Millis, NodeId, PipeId, Position, QueueId, SessionId};

/// One command. Travels in a pipe; its sequence number is [`Source::seq`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Puts a run of messages of one entry into one queue. The codec makes one of these per queue of a
    /// published message and joins neighbours, so `count` messages at `first`, `first + 1`, … cost one step.
    /// Sequence numbers of the run are `seq, seq + 1, …`. A missing queue swallows it (it was deleted).
    Enqueue(Enqueue),
    /// Makes a queue. Idempotent: an existing queue of this id keeps its messages and its configuration.
    Create {
        queue: QueueId,
        config: Box<QueueConfig>,
    },
    /// Replaces the configuration of a queue (a policy changed).
    Configure {
        queue: QueueId,
        config: Box<QueueConfig>,
    },
    /// Deletes a queue, its messages and consumers. [`Reply::Count`](super::Reply::Count) or
    /// [`Reply::InUse`](super::Reply::InUse) / [`Reply::NotEmpty`](super::Reply::NotEmpty) (emptiness is tested first).
    Delete {
        queue: QueueId,
        if_unused: bool,
        if_empty: bool,
    },
    /// Ends a part of a queue that lives elsewhere now: deletes it if nothing at all is left in it; publishes that still
    /// come are refused. `Reply::Count(0)`, `Reply::NotEmpty` or `Reply::NoQueue`.
    Retire { queue: QueueId },
    /// Removes the ready messages; unsettled ones stay. `Reply::Count`.
    Purge { queue: QueueId },
    /// Counts: ready messages and consumers. `Reply::Counts`. `touch` renews the queue's expiry (a declare).
    Inspect { queue: QueueId, touch: bool },
    /// Attaches a consumer. `Reply::Subscribed`, `Reply::ExclusiveUse` or `Reply::NoQueue`.
    Subscribe {
        consumer: ConsumerId,
        queue: QueueId,
        config: ConsumerConfig,
    },
    /// Detaches a consumer (basic.cancel). Its unsettled messages stay leased to it until they are settled or
    /// the session closes. `Reply::Unsubscribed`.
    Unsubscribe { consumer: ConsumerId },
    /// Lets a consumer whose credit is [`Credit::Window`] have `add` more messages.
    Grant { consumer: ConsumerId, add: u32 },
    /// basic.qos global=true: all consumers of (session, channel) in this set together hold at most `limit`
    /// unsettled messages; 0 lifts the limit.
    LimitChannel {
        session: SessionId,
        channel: u16,
        limit: u32,
    },
    /// basic.get. Leases the next message to `holder` (made on first use, owned by `session`), or consumes it at
    /// once if `no_ack`. `Reply::Got`, `Reply::GotNothing` or `Reply::NoQueue`.
    Get {
        queue: QueueId,
        holder: ConsumerId,
        session: SessionId,
        channel: u16,
        no_ack: bool,
    },
    /// Ends the leases `first ..= last` (delivery numbers of `consumer`) that still run. Numbers that do not
    /// name a running lease (settled, expired) are skipped and counted as late: never an error.
    Settle {
        consumer: ConsumerId,
        first: u64,
        last: u64,
        outcome: Outcome,
    },
    /// A channel or connection is gone: detaches its consumers (all of the session, or those of one channel) and
    /// makes their leases visible again at once, `failed`. `Reply::Closed` lists the queues that went with it
    /// (auto-delete).
    CloseSession {
        session: SessionId,
        channel: Option<u16>,
    },
    /// A node's pipe begins. A higher incarnation than the last one of that node first releases everything that
    /// older incarnations held. The first command of an incarnation (seq 1), or, where the set forgot the pipe with all
    /// its queues (a node's own set, after the node restarted), the first one after that.
    OpenPipe,
    /// A node is thought lost: what its incarnations up to this one held is released, their consumers end. Unless this
    /// incarnation came back more often than `returns`: then nothing is done. `Reply::Done`, or `Reply::Returned`.
    CloseNode {
        node: NodeId,
        incarnation: u64,
        returns: u64,
    },
    /// This pipe's node was silent and is heard again: what was decided before about closing it is void. `Reply::Done`.
    Return,
    /// The dead letter `id` of `queue` has been routed and published (or had nowhere to go): forget it.
    DeadLettered { queue: QueueId, id: u64 },
    /// Nothing but the entry's time, so that deadlines fire.
    Tick,
}

/// Where a command comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The pipe.
    pub pipe: PipeId,
    /// Sequence number in the pipe, from 1. Applied: the next one. A repeat (≤ last) is ignored; a gap is refused.
    pub seq: u64,
}

/// See [`Command::Enqueue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enqueue {
    /// The queue.
    pub queue: QueueId,
    /// Position of the first message.
    pub first: Position,
    /// Messages, at least 1, in consecutive slots.
    pub count: u32,
    /// Body bytes of each of them.
    pub size: u32,
    /// Per-message TTL (`expiration`), ms.
    pub ttl: Option<Millis>,
    /// The message's priority property.
    pub priority: Option<u8>,
    /// Delivered no earlier than this long after the entry's time (delayed messages), ms.
    pub delay: Option<Millis>,
}

/// How a settled lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Deleted.
    Ack,
    /// Visible again at its place, `redelivered`. `failed` raises the delivery count (basic.reject, a lost
    /// channel), otherwise only the acquired count rises (basic.nack, basic.recover).
    Requeue { failed: bool },
    /// Dead-lettered with reason `rejected`, or dropped.
    Reject,
    /// Stays leased for this long from the entry's time, ms.
    Extend { visibility: Millis },
}

/// A queue's rules, already merged from arguments and policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueConfig {
    /// `x-message-ttl`, ms.
    pub message_ttl: Option<Millis>,
    /// `x-expires`, ms: the queue goes after this long without use.
    pub expires: Option<Millis>,
    /// `x-max-length`, ready messages.
    pub max_length: Option<u64>,
    /// `x-max-length-bytes`, body bytes of ready messages.
    pub max_length_bytes: Option<u64>,
    /// `x-overflow`.
    pub overflow: Overflow,
    /// Whether there is a dead-letter exchange; where to is the topology's business.
    pub dead_letters: bool,
    /// `x-dead-letter-strategy: at-least-once`: dead letters count as part of the queue until they have gone.
    pub at_least_once: bool,
    /// Priority levels above 0 (`x-max-priority`); `None` = one level.
    pub max_priority: Option<u8>,
    /// Priority of a message without one (quorum queues: 4; classic: 0).
    pub default_priority: u8,
    /// `x-single-active-consumer`.
    pub single_active: bool,
    /// The single active consumer is the one with the highest `x-priority` (quorum queues).
    pub active_by_priority: bool,
    /// `x-delivery-limit`; `None` = unlimited.
    pub delivery_limit: Option<u32>,
    /// Every return counts towards the delivery limit, nack too (RabbitMQ before 4.3).
    pub count_every_return: bool,
    /// Lease length, ms: `x-visibility-timeout`, or the consumer timeout.
    pub visibility: Millis,
    /// What a consumer hears when a lease ends by its deadline.
    pub overdue: Overdue,
    /// Deleted when its last consumer goes.
    pub auto_delete: bool,
    /// `x-delayed-retry-*`.
    pub delayed_retry: Option<DelayedRetry>,
    /// It is a stream, and what it keeps. A queue never becomes one, and a stream stays one.
    pub stream: Option<StreamRules>,
}

/// What a stream keeps; without a rule, everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamRules {
    /// `x-max-age`, ms.
    pub max_age: Option<Millis>,
    /// `x-max-length-bytes`, body bytes.
    pub max_bytes: Option<u64>,
}

/// Where a stream's consumer begins (`x-stream-offset`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamStart {
    /// The oldest message there is.
    First,
    /// The newest run there is.
    Last,
    /// What comes after the consumer.
    #[default]
    Next,
    /// This offset, or the oldest message if that is younger.
    Offset(u64),
    /// The first message at or after this moment, ms.
    Time(Millis),
    /// The first message of the last so many ms.
    Ago(Millis),
}

/// What a consumer hears when one of its leases ends by its deadline. The message is visible again in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overdue {
    /// Nothing: it goes on, and a late settle is harmless.
    #[default]
    Nothing,
    /// It is cancelled (`x-consumer-timeout`, as RabbitMQ 4.3).
    Cancel,
    /// Its channel is closed (`x-strict-lease`, as RabbitMQ before 4.3).
    Close,
}

/// What happens to a publish that exceeds a length limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// Oldest ready messages go, dead-lettered with reason `maxlen`.
    #[default]
    DropHead,
    /// The publish is refused (basic.nack).
    RejectPublish,
    /// The publish is refused and dead-lettered with reason `maxlen`.
    RejectPublishDlx,
}

/// Returned messages wait before they are visible: `min(min * max(delivery count, 1), max)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayedRetry {
    /// Applies to returns that count as failed.
    pub failed: bool,
    /// Applies to returns that do not.
    pub returned: bool,
    /// ms.
    pub min: Millis,
    /// ms.
    pub max: Millis,
}

/// How a consumer takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerConfig {
    /// Owner.
    pub session: SessionId,
    /// Channel of the owner.
    pub channel: u16,
    /// Delivered means consumed: no lease.
    pub no_ack: bool,
    /// With `no_ack` and [`Credit::Window`]: what was delivered is kept until [`Command::Grant`] says that it was sent.
    pub until_sent: bool,
    /// No other consumer on the queue.
    pub exclusive: bool,
    /// `x-priority`, higher first.
    pub priority: i32,
    /// What bounds it.
    pub credit: Credit,
    /// Lease length, ms, if not the queue's.
    pub visibility: Option<Millis>,
    /// Where it begins, in a stream.
    pub start: StreamStart,
    /// What it hears of a lease that ended by its deadline, if not what the queue says.
    pub overdue: Option<Overdue>,
}

/// What bounds the messages a consumer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credit {
    /// At most this many unsettled (prefetch ≥ 1, not for `no_ack`).
    Prefetch(u32),
    /// A window the node renews with [`Command::Grant`] as messages reach the socket (prefetch 0, and `no_ack`).
    Window(u32),
}
