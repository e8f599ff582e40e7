//! What exists: queues, exchanges, bindings, vhosts and users, as records.
//!
//! Need: one place says what is kept of each thing and what the queue machine is told of it. Invariant: a record's
//! arguments carry `x-queue-type`, and an exclusive queue is never durable. [`QueueRecord::config`] is where arguments
//! and policies meet. Not here: who may change what.

use std::sync::Arc;

use super::arguments::max_age;
use super::policy::{Effective, least_limit};
use super::table::{integer, lookup, text};
use crate::amqp::{AMQPValue, FieldTable};
use crate::base::{Millis, NodeId, QueueId, SessionId, SetId};
use crate::model::set::{DelayedRetry, Overdue, Overflow, QueueConfig, StreamRules};

/// A queue's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// `classic`.
    Classic,
    /// `quorum`.
    Quorum,
    /// `stream`.
    Stream,
}

impl QueueKind {
    /// The value of `x-queue-type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
            Self::Stream => "stream",
        }
    }

    /// RabbitMQ's module of the type, which its error texts name.
    #[must_use]
    pub fn module(self) -> &'static str {
        match self {
            Self::Classic => "rabbit_classic_queue",
            Self::Quorum => "rabbit_quorum_queue",
            Self::Stream => "rabbit_stream_queue",
        }
    }

    pub(super) fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"classic" => Some(Self::Classic),
            b"quorum" => Some(Self::Quorum),
            b"stream" => Some(Self::Stream),
            _ => None,
        }
    }
}

/// Whether a part takes new messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartState {
    /// It does.
    Active,
    /// It only gives away what it has.
    Draining,
}

/// Where (a share of) a queue lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The set.
    pub set: SetId,
    /// What it is for.
    pub state: PartState,
}

/// Where a queue's dead letters are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterTarget {
    /// Exchange, not checked to exist.
    pub exchange: String,
    /// Routing key; the message's own keys if `None`.
    pub routing_key: Option<String>,
}

/// What the configuration file says about queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueDefaults {
    /// `consumer_timeout`, ms.
    pub consumer_timeout: Millis,
    /// Delivery limit of quorum queues without `x-delivery-limit`; `None` = unlimited.
    pub quorum_delivery_limit: Option<u32>,
    /// Every return counts towards it, nack too (RabbitMQ before 4.3).
    pub count_every_return: bool,
}

impl Default for QueueDefaults {
    fn default() -> Self {
        Self {
            consumer_timeout: Millis(1_800_000),
            quorum_delivery_limit: Some(20),
            count_every_return: false,
        }
    }
}

/// A queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueRecord {
    /// Its id, never reused.
    pub id: QueueId,
    /// Its vhost.
    pub vhost: Arc<str>,
    /// Its name, unique in the vhost.
    pub name: String,
    /// Survives restarts; false for exclusive queues whatever the client said.
    pub durable: bool,
    /// The connection that owns it, if it is exclusive.
    pub exclusive: Option<SessionId>,
    /// Deleted with its last consumer.
    pub auto_delete: bool,
    /// Its type.
    pub kind: QueueKind,
    /// Arguments, with `x-queue-type`.
    pub arguments: FieldTable,
    /// Where it lives; at least one part.
    pub parts: Vec<Part>,
    /// The node that declared it.
    pub node: NodeId,
    /// That node's incarnation.
    pub incarnation: u64,
    /// Where its dead letters go, by its arguments or else its policy.
    pub dead_letter: Option<DeadLetterTarget>,
    /// The policies that apply to it.
    pub effective: Option<Arc<Effective>>,
}

impl QueueRecord {
    /// The set that takes its messages.
    #[must_use]
    pub fn set(&self) -> SetId {
        self.parts
            .iter()
            .find(|part| part.state == PartState::Active)
            .or(self.parts.first())
            .map_or(SetId::local(self.node), |part| part.set)
    }

    /// The sets that take its messages.
    pub fn active_sets(&self) -> impl Iterator<Item = SetId> + '_ {
        let active = self
            .parts
            .iter()
            .filter(|part| part.state == PartState::Active);
        active.map(|part| part.set)
    }

    /// The sets that hold messages of it.
    pub fn sets(&self) -> impl Iterator<Item = SetId> + '_ {
        self.parts.iter().map(|part| part.set)
    }

    /// `x-parts`: over how many sets it is to be spread from the start.
    #[must_use]
    pub fn wanted_parts(arguments: &FieldTable) -> usize {
        let wanted = lookup(arguments, "x-parts").and_then(integer);
        wanted
            .and_then(|parts| usize::try_from(parts).ok())
            .unwrap_or(1)
    }

    /// Whether a part of it is in `set`.
    #[must_use]
    pub fn lives_in(&self, set: SetId) -> bool {
        self.parts.iter().any(|part| part.set == set)
    }

    /// Whether it goes when its node restarts.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.exclusive.is_some() || self.parts.iter().any(|part| part.set.is_local())
    }

    /// Whether it belongs to an exchange of type x-recent-history, and comes and goes with that.
    #[must_use]
    pub fn keeps_history(&self) -> bool {
        self.name.starts_with(HISTORY_PREFIX)
    }

    /// `queue 'q' in vhost '/'`, as error texts name it.
    #[must_use]
    pub fn title(&self) -> String {
        queue_title(&self.vhost, &self.name)
    }

    fn number(&self, name: &str) -> Option<u64> {
        lookup(&self.arguments, name)
            .and_then(integer)
            .and_then(|value| u64::try_from(value).ok())
    }

    fn word(&self, name: &str) -> Option<&[u8]> {
        lookup(&self.arguments, name).and_then(text)
    }

    fn policy(&self, key: &str) -> Option<&AMQPValue> {
        lookup(&self.effective.as_ref()?.definition, key)
    }

    /// The smaller of what was declared as `x-{key}` and what the policies say.
    fn least(&self, key: &str) -> Option<u64> {
        let declared = self.number(&format!("x-{key}"));
        let policy = self.policy(key).and_then(integer);
        let policy = policy.and_then(|value| u64::try_from(value).ok());
        match (declared, policy) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Takes over what the policies say now.
    pub(super) fn set_effective(&mut self, effective: Option<Arc<Effective>>) {
        self.effective = effective;
        let said = |argument: &str, key: &str| {
            let value = lookup(&self.arguments, argument).or_else(|| self.policy(key));
            let word = value.and_then(text);
            word.map(|word| String::from_utf8_lossy(word).into_owned())
        };
        let exchange = said("x-dead-letter-exchange", "dead-letter-exchange");
        let routing_key = said("x-dead-letter-routing-key", "dead-letter-routing-key");
        self.dead_letter = exchange.map(|exchange| DeadLetterTarget {
            exchange,
            routing_key,
        });
    }

    /// What the queue machine is told, from arguments, policies and `defaults`.
    #[must_use]
    pub fn config(&self, defaults: &QueueDefaults) -> QueueConfig {
        let quorum = self.kind == QueueKind::Quorum;
        let max_priority = if quorum {
            Some(31)
        } else {
            let levels = self.number("x-max-priority");
            levels.map(|max| u8::try_from(max.max(1)).unwrap_or(u8::MAX))
        };
        QueueConfig {
            message_ttl: self.least("message-ttl").map(Millis),
            expires: self.least("expires").map(Millis),
            max_length: self.least("max-length"),
            max_length_bytes: self.least("max-length-bytes"),
            overflow: self.overflow(),
            dead_letters: self.dead_letter.is_some(),
            at_least_once: self.retains_dead_letters(),
            max_priority,
            default_priority: if quorum { 4 } else { 0 },
            single_active: lookup(&self.arguments, "x-single-active-consumer")
                == Some(&AMQPValue::Boolean(true)),
            active_by_priority: quorum,
            delivery_limit: self.delivery_limit(defaults),
            count_every_return: quorum && defaults.count_every_return,
            visibility: self.visibility(defaults),
            overdue: self.overdue(),
            auto_delete: self.auto_delete,
            delayed_retry: self.delayed_retry(),
            stream: self.stream_rules(),
        }
    }

    /// Of a stream, what it keeps: a policy counts more than an argument.
    fn stream_rules(&self) -> Option<StreamRules> {
        if self.kind != QueueKind::Stream {
            return None;
        }
        let said = |key: &str| {
            let declared = || lookup(&self.arguments, &format!("x-{key}"));
            self.policy(key).or_else(declared)
        };
        let bytes = said("max-length-bytes").and_then(integer);
        Some(StreamRules {
            max_age: said("max-age").and_then(|age| max_age(age).ok()),
            max_bytes: bytes.and_then(|bytes| u64::try_from(bytes).ok()),
        })
    }

    fn delivery_limit(&self, defaults: &QueueDefaults) -> Option<u32> {
        if self.kind != QueueKind::Quorum {
            return None;
        }
        let declared = lookup(&self.arguments, "x-delivery-limit").and_then(integer);
        let policy = self.policy("delivery-limit").and_then(integer);
        let limit = match (declared, policy) {
            (Some(a), Some(b)) => Some(least_limit(a, b)),
            (a, b) => a.or(b),
        };
        match limit {
            Some(limit) if limit < 0 => None,
            Some(limit) => Some(u32::try_from(limit).unwrap_or(u32::MAX)),
            None => defaults.quorum_delivery_limit,
        }
    }

    fn visibility(&self, defaults: &QueueDefaults) -> Millis {
        self.number("x-visibility-timeout")
            .or_else(|| self.least("consumer-timeout"))
            .map_or(defaults.consumer_timeout, Millis)
    }

    /// What a consumer hears of a lease that ended: RabbitMQ's word where its own timeout was asked for, nothing else.
    fn overdue(&self) -> Overdue {
        let own = self.number("x-visibility-timeout").is_some();
        match self.strict_lease() {
            Some(true) => Overdue::Close,
            None if !own && self.least("consumer-timeout").is_some() => Overdue::Cancel,
            Some(false) | None => Overdue::Nothing,
        }
    }

    /// `x-strict-lease`, if it was declared.
    pub(super) fn strict_lease(&self) -> Option<bool> {
        match lookup(&self.arguments, "x-strict-lease") {
            Some(AMQPValue::Boolean(strict)) => Some(*strict),
            _ => None,
        }
    }

    /// Whether dead letters stay until they are safe elsewhere; a queue that drops its head cannot wait for that.
    #[must_use]
    pub fn retains_dead_letters(&self) -> bool {
        if self.kind != QueueKind::Quorum || self.dead_letter.is_none() {
            return false;
        }
        let declared = self.word("x-dead-letter-strategy");
        let strategy = declared.or_else(|| self.policy("dead-letter-strategy").and_then(text));
        strategy == Some(b"at-least-once") && self.overflow() == Overflow::RejectPublish
    }

    fn overflow(&self) -> Overflow {
        let quorum = self.kind == QueueKind::Quorum;
        let declared = self.word("x-overflow");
        let policy = self.policy("overflow").and_then(text);
        match if quorum {
            policy.or(declared)
        } else {
            declared.or(policy)
        } {
            Some(b"reject-publish") => Overflow::RejectPublish,
            Some(b"reject-publish-dlx") if !quorum => Overflow::RejectPublishDlx,
            _ => Overflow::DropHead,
        }
    }

    fn delayed_retry(&self) -> Option<DelayedRetry> {
        if self.kind != QueueKind::Quorum {
            return None;
        }
        let policy = self.policy("delayed-retry-type").and_then(text);
        let kind = policy.or_else(|| self.word("x-delayed-retry-type"))?;
        let (failed, returned) = match kind {
            b"all" => (true, true),
            b"failed" => (true, false),
            b"returned" => (false, true),
            _ => return None,
        };
        let min = self.least("delayed-retry-min")?;
        let max = self.least("delayed-retry-max").unwrap_or(min).max(min);
        Some(DelayedRetry {
            failed,
            returned,
            min: Millis(min),
            max: Millis(max),
        })
    }
}

/// An exchange's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    /// `direct`.
    Direct,
    /// `fanout`.
    Fanout,
    /// `topic`.
    Topic,
    /// `headers`.
    Headers,
    /// `x-consistent-hash`: one target by the hash of the key, a header or a property; binding keys are weights.
    ConsistentHash,
    /// `x-modulus-hash`: one binding by the hash of the keys.
    ModulusHash,
    /// `x-random`: any one binding.
    Random,
    /// `x-local-random`: any one queue. Every node serves every queue, so all are local.
    LocalRandom,
    /// `x-delayed-message`: routes as its argument `x-delayed-type` says, and messages wait for their header `x-delay`.
    Delayed,
    /// `x-recent-history`: fanout, and what is bound to it gets the last messages first.
    RecentHistory,
}

impl ExchangeKind {
    /// The type's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
            Self::ConsistentHash => "x-consistent-hash",
            Self::ModulusHash => "x-modulus-hash",
            Self::Random => "x-random",
            Self::LocalRandom => "x-local-random",
            Self::Delayed => "x-delayed-message",
            Self::RecentHistory => "x-recent-history",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "x-consistent-hash" => Some(Self::ConsistentHash),
            "x-modulus-hash" => Some(Self::ModulusHash),
            "x-random" => Some(Self::Random),
            "x-local-random" => Some(Self::LocalRandom),
            "x-delayed-message" => Some(Self::Delayed),
            "x-recent-history" => Some(Self::RecentHistory),
            "direct" => Some(Self::Direct),
            "fanout" => Some(Self::Fanout),
            "topic" => Some(Self::Topic),
            "headers" => Some(Self::Headers),
            _ => None,
        }
    }
}

/// An exchange.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// Its vhost.
    pub vhost: Arc<str>,
    /// Its name; empty for the default exchange.
    pub name: Arc<str>,
    /// Its type.
    pub kind: ExchangeKind,
    /// Survives restarts.
    pub durable: bool,
    /// Deleted with its last outgoing binding.
    pub auto_delete: bool,
    /// Refuses publishes.
    pub internal: bool,
    /// Arguments.
    pub arguments: FieldTable,
    /// `alternate-exchange`, by its arguments or else its policy.
    pub alternate: Option<String>,
    /// The policies that apply to it.
    pub effective: Option<Arc<Effective>>,
    /// The node that declared it.
    pub node: NodeId,
    /// That node's incarnation.
    pub incarnation: u64,
}

impl Exchange {
    /// The type it routes as: its own, or what stands behind x-delayed-message.
    #[must_use]
    pub fn routes_as(&self) -> ExchangeKind {
        match self.kind {
            ExchangeKind::Delayed => delayed_kind(&self.arguments).unwrap_or(ExchangeKind::Direct),
            kind => kind,
        }
    }

    /// How many messages it keeps for what is bound to it later, and in which queue; only x-recent-history does.
    #[must_use]
    pub fn history(&self) -> Option<(String, u64)> {
        if self.kind != ExchangeKind::RecentHistory {
            return None;
        }
        let length = lookup(&self.arguments, HISTORY_LENGTH).and_then(integer);
        let length = length.and_then(|length| u64::try_from(length).ok());
        Some((
            history_queue(&self.name),
            length.unwrap_or(HISTORY_LENGTH_DEFAULT),
        ))
    }

    /// Takes over what the policies say now.
    pub(super) fn set_effective(&mut self, effective: Option<Arc<Effective>>) {
        const KEY: &str = "alternate-exchange";
        let policy = effective
            .as_ref()
            .and_then(|effective| lookup(&effective.definition, KEY));
        let value = lookup(&self.arguments, KEY).or(policy);
        let word = value.and_then(text);
        self.alternate = word.map(|word| String::from_utf8_lossy(word).into_owned());
        self.effective = effective;
    }
}

/// The argument of x-recent-history that says how many messages it keeps.
pub(super) const HISTORY_LENGTH: &str = "x-recent-history-length";
/// No client may take such a name.
const HISTORY_PREFIX: &str = "amq.recent-history.";
/// RabbitMQ's default.
const HISTORY_LENGTH_DEFAULT: u64 = 20;

/// The queue that keeps an exchange's last messages.
pub(crate) fn history_queue(exchange: &str) -> String {
    format!("{HISTORY_PREFIX}{exchange}")
}

/// What `x-delayed-type` names, if it is a type that can stand behind x-delayed-message.
pub(super) fn delayed_kind(arguments: &FieldTable) -> Option<ExchangeKind> {
    let name = lookup(arguments, "x-delayed-type").and_then(text)?;
    let kind = ExchangeKind::from_name(std::str::from_utf8(name).ok()?)?;
    (kind != ExchangeKind::Delayed).then_some(kind)
}

/// An exchange's full name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeName {
    /// Vhost.
    pub vhost: String,
    /// Name.
    pub name: String,
}

/// A binding, as listings show it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BindingRef<'a> {
    /// Vhost.
    pub vhost: &'a str,
    /// Source exchange; empty for the implicit binding of every queue.
    pub source: &'a str,
    /// Whether `destination` is a queue (otherwise an exchange).
    pub to_queue: bool,
    /// Name of the destination.
    pub destination: &'a str,
    /// Binding key.
    pub routing_key: &'a str,
    /// Arguments.
    pub arguments: Option<&'a FieldTable>,
}

/// `queue 'q' in vhost '/'`.
pub(crate) fn queue_title(vhost: &str, name: &str) -> String {
    format!("queue '{name}' in vhost '{vhost}'")
}

/// `exchange 'x' in vhost '/'`.
pub(crate) fn exchange_title(vhost: &str, name: &str) -> String {
    format!("exchange '{name}' in vhost '{vhost}'")
}
