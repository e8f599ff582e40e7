//! What a client asked for, typed, and what the broker answers. The only place where AMQP's frames become requests.
//!
//! A request that has an answer makes its channel busy: later frames of that channel wait in the session (bounded;
//! past the bound the session wants no input) until the answer has come, so a channel's methods happen in order.
//! Other channels go on. `Publish` and `Settle` have no answer and never wait.

use bytes::Bytes;

use crate::amqp::{FieldTable, ProtocolError, RawProperties};
use crate::base::{ChannelId, ConsumerId};

/// What the connection, or one of its channels, wants done.
#[derive(Clone, Debug)]
pub enum Request {
    /// Check a login. Answer: [`Answer::LoggedIn`] or [`Answer::LoginRefused`].
    Login {
        mechanism: String,
        credentials: Credentials,
    },
    /// connection.open. Answer: [`Answer::Opened`] or [`Answer::Failed`].
    Open { vhost: String },
    /// connection.update-secret. Answer: [`Answer::Done`] or [`Answer::Failed`].
    UpdateSecret { secret: Bytes },
    /// The connection closes (by either side): drop every channel, consumer and exclusive queue.
    /// Answer: [`Answer::Done`], upon which close or close-ok goes out.
    CloseConnection,
    /// Something on a channel.
    Channel(ChannelId, ChannelRequest),
}

/// What a client shows of itself.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// PLAIN and AMQPLAIN both end here.
    Password {
        /// User name.
        user: String,
        /// Password, never logged.
        password: Bytes,
    },
    /// EXTERNAL: the certificate it came with. What it answers counts for nothing.
    Certificate,
    /// ANONYMOUS: nothing.
    Nothing,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { user, .. } => f
                .debug_struct("Password")
                .field("user", user)
                .finish_non_exhaustive(),
            Self::Certificate => f.write_str("Certificate"),
            Self::Nothing => f.write_str("Nothing"),
        }
    }
}

/// Answer to a connection-level request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The login is good: connection.tune goes out.
    LoggedIn { user: String, impersonator: bool },
    /// 403 to clients that can take it, silence and a closed socket after the brake for the others.
    LoginRefused,
    /// connection.open-ok goes out.
    Opened,
    /// Done.
    Done,
    /// connection.close with this error.
    Failed(ProtocolError),
}

/// What a channel wants done. Names are as sent except where said.
#[derive(Clone, Debug)]
pub enum ChannelRequest {
    /// channel.open. Answer: `Done` or `Failed` (limits).
    Open,
    /// No answer. In confirm mode the broker later calls `confirm` or `refuse` with `confirm`'s number.
    Publish(PublishRequest),
    /// A publish that goes nowhere, or not yet: only whether its exchange exists and may be published to is asked.
    /// Answer: `Done` or `Failed` (403, 404).
    CheckPublish(Box<PublishRequest>),
    /// tx.commit: publish all in order, then settle all, wait until every queue has confirmed.
    /// Answer: `Done`, or `Failed` (406 `partial tx completion`).
    Commit {
        publishes: Vec<PublishRequest>,
        settlements: Vec<Settlement>,
    },
    /// No answer. The leases are no longer in the channel's ring.
    Settle(Vec<Settlement>),
    /// Answer: `Done` or `Failed`. `no_wait` is the session's business everywhere: the answer is always given.
    DeclareExchange(DeclareExchange),
    /// Answer: `Done` or `Failed`. CR and LF are already stripped from names here and below.
    DeleteExchange { exchange: String, if_unused: bool },
    /// exchange.bind. Answer: `Done` or `Failed`.
    BindExchange(BindingRequest),
    /// exchange.unbind. Answer: `Done` or `Failed`.
    UnbindExchange(BindingRequest),
    /// Answer: `QueueDeclared` (its name becomes the channel's last queue) or `Failed`.
    DeclareQueue(DeclareQueue),
    /// queue.bind. Answer: `Done` or `Failed`. The empty-name shortcut is already resolved here and below.
    BindQueue(BindingRequest),
    /// queue.unbind. Answer: `Done` or `Failed`.
    UnbindQueue(BindingRequest),
    /// Answer: `Count` or `Failed`.
    PurgeQueue { queue: String },
    /// Answer: `Count` or `Failed`.
    DeleteQueue {
        queue: String,
        if_unused: bool,
        if_empty: bool,
    },
    /// basic.qos global=true. Answer: `Done`. (global=false is the session's own: it becomes `ConsumeRequest::prefetch`,
    /// and sends this with 0 if a limit was set.)
    LimitChannel { prefetch: u16 },
    /// Answer: `Consuming` or `Failed`. Deliveries follow only after the answer.
    Consume(ConsumeRequest),
    /// basic.consume on `amq.rabbitmq.reply-to`. Answer: `Consuming`; the broker then routes replies for `token`.
    /// The session substitutes reply-to = `amq.rabbitmq.reply-to.<token>` in publishes, `token` from the answer.
    ConsumeReplies { tag: String },
    /// basic.cancel of a live consumer (unknown tags are answered by the session). Answer: `Done`.
    Cancel { consumer: ConsumerId },
    /// basic.get. Answer: `Got`, `GotNothing` or `Failed`.
    Get { queue: String, no_ack: bool },
    /// The channel is gone (closed by the client, or by an error): drop consumers, release leases.
    /// Answer: `Done`, upon which close-ok (or channel.close) goes out.
    Close,
}

/// Answer to a channel's request.
#[derive(Clone, Debug)]
pub enum ChannelAnswer {
    /// The method's ok, if it has one and was not no-wait.
    Done,
    /// queue.declare-ok.
    QueueDeclared {
        queue: String,
        messages: u32,
        consumers: u32,
    },
    /// purge-ok, delete-ok.
    Count(u32),
    /// consume-ok. `tag` is the client's, or generated. `token`: reply consumers only.
    Consuming {
        consumer: ConsumerId,
        tag: String,
        no_ack: bool,
        token: Option<String>,
    },
    /// get-ok.
    Got {
        lease: Option<Lease>,
        redelivered: bool,
        exchange: Bytes,
        routing_key: Bytes,
        properties: RawProperties,
        body: Bytes,
        messages: u32,
    },
    /// get-empty.
    GotNothing,
    /// A channel or connection error, by its code, with the ids of the method that was asked for.
    Failed(ProtocolError),
}

/// basic.publish with all its content.
#[derive(Clone, Debug)]
pub struct PublishRequest {
    /// Exchange, bytes as sent.
    pub exchange: Bytes,
    /// Routing key, bytes as sent.
    pub routing_key: Bytes,
    /// CC and BCC keys, in order.
    pub more_keys: Vec<Bytes>,
    /// How many of those, at their end, are BCC's.
    pub blind: usize,
    /// Return it if unroutable.
    pub mandatory: bool,
    /// As to be stored: BCC stripped, reply-to substituted; otherwise the client's bytes.
    pub properties: RawProperties,
    /// The body.
    pub body: Body,
    /// `expiration`, ms, checked.
    pub ttl_ms: Option<u64>,
    /// Sequence number on the channel from 1, in confirm mode. In tx mode the index in the commit.
    pub confirm: Option<u64>,
}

/// A body as it arrived: one slice per body frame; empty for a 0-byte body.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// The slices, in order.
    pub parts: Vec<Bytes>,
    /// Their total length, bytes.
    pub size: usize,
}

/// exchange.declare.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "AMQP's own names")]
pub struct DeclareExchange {
    pub exchange: String,
    pub kind: String,
    pub passive: bool,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: FieldTable,
}

/// queue.declare. An empty name asks for a generated one.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "AMQP's own names")]
pub struct DeclareQueue {
    pub queue: String,
    pub passive: bool,
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub arguments: FieldTable,
}

/// queue.bind, exchange.bind and their opposites: `destination` is a queue or an exchange by the request's variant.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "AMQP's own names")]
pub struct BindingRequest {
    pub source: String,
    pub destination: String,
    pub routing_key: String,
    pub arguments: FieldTable,
}

/// basic.consume.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "AMQP's own names")]
pub struct ConsumeRequest {
    pub queue: String,
    /// Empty: the broker generates `amq.ctag-…`. Uniqueness on the channel is already checked.
    pub tag: String,
    pub no_ack: bool,
    pub exclusive: bool,
    pub arguments: FieldTable,
    /// 0 = unlimited.
    pub prefetch: u16,
    /// A channel-wide limit (qos global=true) is in force.
    pub channel_limited: bool,
}

/// One leased message: with the consumer, the delivery number is the fencing token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Consumer, or the channel's holder for basic.get.
    pub consumer: ConsumerId,
    /// Its delivery number.
    pub no: u64,
}

/// Ends the leases `first ..= last` of one consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Whose.
    pub consumer: ConsumerId,
    /// First delivery number.
    pub first: u64,
    /// Last delivery number.
    pub last: u64,
    /// How.
    pub outcome: SettleOutcome,
}

/// basic.ack, nack, reject, recover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleOutcome {
    /// Consumed.
    Ack,
    /// nack with requeue, recover.
    Requeue,
    /// basic.reject with requeue: counts as a failed delivery.
    RequeueFailed,
    /// reject or nack without requeue.
    Reject,
}
