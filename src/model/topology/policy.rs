//! Policies and operator policies: what they may say, which one applies to what, and what the two together mean.
//!
//! Need: RabbitMQ's rules of matching and merging, and its words of refusal. Shape: [`KEYS`] is one table of (key, queue
//! types, rule, operator's rule). Invariants: at most one policy of each scope applies to a thing: the highest priority
//! that matches, the first by name among equals; one with a key that a queue's type does not know does not match it.
//! Not here: how the keys combine with declared arguments ([`super::record`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::pattern::Pattern;
use super::record::QueueKind;
use super::table::{Value, binary, integer, text, view};
use crate::amqp::{AMQPValue, FieldTable};

/// Whose policy it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyScope {
    /// The users'.
    User,
    /// The operator's: limits that users cannot exceed.
    Operator,
}

/// What a policy applies to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ApplyTo {
    /// `all`.
    #[default]
    All,
    /// `queues`.
    Queues,
    /// `classic_queues`, `quorum_queues`, `streams`.
    Kind(QueueKind),
    /// `exchanges`.
    Exchanges,
}

impl ApplyTo {
    /// RabbitMQ's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Queues => "queues",
            Self::Kind(QueueKind::Classic) => "classic_queues",
            Self::Kind(QueueKind::Quorum) => "quorum_queues",
            Self::Kind(QueueKind::Stream) => "streams",
            Self::Exchanges => "exchanges",
        }
    }

    /// By RabbitMQ's name.
    ///
    /// # Errors
    /// RabbitMQ's words.
    pub fn from_name(name: &str) -> Result<Self, String> {
        Ok(match name {
            "all" => Self::All,
            "queues" => Self::Queues,
            "classic_queues" => Self::Kind(QueueKind::Classic),
            "quorum_queues" => Self::Kind(QueueKind::Quorum),
            "streams" => Self::Kind(QueueKind::Stream),
            "exchanges" => Self::Exchanges,
            other => {
                return Err(format!(
                    "apply-to '{other}' unrecognised; should be one of: 'queues', 'classic_queues',  \
                     'quorum_queues', 'streams', 'exchanges', or 'all'"
                ));
            }
        })
    }
}

/// A policy of either scope.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its vhost.
    pub vhost: String,
    /// Its name, unique in vhost and scope.
    pub name: String,
    /// Searched in names.
    pub pattern: Pattern,
    /// What it applies to.
    pub apply_to: ApplyTo,
    /// Higher wins.
    pub priority: i64,
    /// What it says.
    pub definition: FieldTable,
}

/// What applies to a queue or exchange.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effective {
    /// The policy's name.
    pub policy: Option<String>,
    /// The operator policy's name.
    pub operator: Option<String>,
    /// Both, merged.
    pub definition: FieldTable,
}

#[derive(Clone, Copy)]
enum Rule {
    Text,
    Integer,
    AtLeast(i64),
    Between(i64, i64),
    Words(&'static [&'static str]),
    MaxAge,
    Any,
}

/// How an operator's value joins a user's; `None` where operators may not say it.
#[derive(Clone, Copy, PartialEq)]
enum Merge {
    Refused,
    Least,
    Most,
    /// The larger if one is negative (no limit), else the smaller.
    Limit,
    Operator,
}

const C: u8 = 1;
const Q: u8 = 2;
const S: u8 = 4;
const ALL: u8 = C | Q | S;
const LOCATORS: &[&str] = &["client-local", "balanced", "random", "least-leaders"];
const OVERFLOWS: &[&str] = &["drop-head", "reject-publish", "reject-publish-dlx"];
const STRATEGIES: &[&str] = &["at-most-once", "at-least-once"];
const RETRIES: &[&str] = &["disabled", "all", "failed", "returned"];
pub(super) const SEGMENT_BYTES_MAX: i64 = 3_000_000_000;

/// Known keys; keys that concern exchanges only do not keep a policy from queues.
const KEYS: &[(&str, u8, Rule, Merge, &str)] = {
    use Merge::{Least, Limit, Most, Operator, Refused};
    use Rule::{Any, AtLeast, Between, Integer, MaxAge, Text, Words};
    &[
        (
            "alternate-exchange",
            ALL,
            Text,
            Refused,
            "alternate exchange name",
        ),
        (
            "dead-letter-exchange",
            C | Q,
            Text,
            Refused,
            "dead letter exchange name",
        ),
        (
            "dead-letter-routing-key",
            C | Q,
            Text,
            Refused,
            "dead letter routing key",
        ),
        (
            "dead-letter-strategy",
            Q,
            Words(STRATEGIES),
            Refused,
            "dead letter strategy",
        ),
        ("message-ttl", C | Q, AtLeast(0), Least, "message TTL"),
        ("expires", C | Q, AtLeast(1), Least, "queue expiry"),
        ("max-length", C | Q, AtLeast(0), Least, "maximum length"),
        (
            "max-length-bytes",
            ALL,
            AtLeast(0),
            Least,
            "maximum length in bytes",
        ),
        (
            "max-in-memory-length",
            Q,
            AtLeast(0),
            Least,
            "maximum memory in bytes",
        ),
        (
            "max-in-memory-bytes",
            Q,
            AtLeast(0),
            Least,
            "maximum memory in bytes",
        ),
        (
            "overflow",
            C | Q,
            Words(OVERFLOWS),
            Operator,
            "overflow value",
        ),
        ("delivery-limit", Q, Integer, Limit, "delivery limit"),
        (
            "consumer-timeout",
            C | Q,
            AtLeast(0),
            Refused,
            "consumer timeout",
        ),
        (
            "consumer-disconnected-timeout",
            Q,
            AtLeast(0),
            Refused,
            "consumer disconnected timeout",
        ),
        (
            "delayed-retry-type",
            Q,
            Words(RETRIES),
            Operator,
            "delayed retry type",
        ),
        (
            "delayed-retry-min",
            Q,
            AtLeast(1),
            Most,
            "delayed retry min",
        ),
        (
            "delayed-retry-max",
            Q,
            AtLeast(1),
            Least,
            "delayed retry max",
        ),
        (
            "queue-mode",
            C,
            Words(&["default", "lazy"]),
            Refused,
            "queue-mode value",
        ),
        (
            "queue-version",
            C,
            Between(1, 2),
            Operator,
            "queue version value",
        ),
        (
            "queue-leader-locator",
            ALL,
            Words(LOCATORS),
            Refused,
            "queue leader locator value",
        ),
        (
            "queue-master-locator",
            ALL,
            Text,
            Refused,
            "queue master locator value",
        ),
        (
            "target-group-size",
            Q,
            AtLeast(1),
            Most,
            "target quorum group size",
        ),
        (
            "member-placement-tag",
            Q,
            Text,
            Operator,
            "member placement tag",
        ),
        (
            "initial-cluster-size",
            S,
            AtLeast(0),
            Refused,
            "cluster size",
        ),
        ("max-age", S, MaxAge, Refused, "max age"),
        (
            "stream-max-segment-size-bytes",
            S,
            Between(0, SEGMENT_BYTES_MAX),
            Refused,
            "segment size",
        ),
        (
            "stream-filter-size-bytes",
            S,
            Between(16, 255),
            Refused,
            "filter size. Valid range is 16-255",
        ),
        (
            "federation-upstream",
            ALL,
            Text,
            Refused,
            "federation upstream name",
        ),
        (
            "federation-upstream-set",
            ALL,
            Text,
            Refused,
            "federation upstream set name",
        ),
        (
            "federation-upstream-pattern",
            ALL,
            Any,
            Refused,
            "federation upstream pattern",
        ),
    ]
};

fn row(key: &str) -> Option<&'static (&'static str, u8, Rule, Merge, &'static str)> {
    KEYS.iter().find(|row| row.0 == key)
}

fn allows(rule: Rule, value: &AMQPValue) -> bool {
    let word = text(value).map(String::from_utf8_lossy);
    let number = integer(value);
    match rule {
        Rule::Any => true,
        Rule::Text => word.is_some(),
        Rule::Integer => number.is_some(),
        Rule::AtLeast(min) => number.is_some_and(|number| number >= min),
        Rule::Between(min, max) => number.is_some_and(|number| (min..=max).contains(&number)),
        Rule::Words(words) => word.is_some_and(|word| words.contains(&&*word)),
        Rule::MaxAge => word.is_some_and(|word| max_age_s(&word).is_some()),
    }
}

/// `7D` as seconds, more than none; units Y, M, D, h, m, s.
#[must_use]
pub fn max_age_s(age: &str) -> Option<u64> {
    let (at, unit) = age.char_indices().next_back()?;
    let count: u64 = age.get(..at)?.parse().ok().filter(|count| *count > 0)?;
    let day = 86_400;
    let seconds = match unit {
        'Y' => 365 * day,
        'M' => 30 * day,
        'D' => day,
        'h' => 3_600,
        'm' => 60,
        's' => 1,
        _ => return None,
    };
    count.checked_mul(seconds)
}

/// A value as RabbitMQ prints it.
pub(super) fn erlang(value: &AMQPValue) -> String {
    match value {
        AMQPValue::FieldTable(table) => {
            let entries: Vec<_> = table
                .into_iter()
                .map(|(key, value)| format!("<<\"{}\">> => {}", key.as_str(), erlang(value)))
                .collect();
            format!("#{{{}}}", entries.join(","))
        }
        AMQPValue::FieldArray(items) => {
            let items: Vec<_> = items.as_slice().iter().map(erlang).collect();
            format!("[{}]", items.join(","))
        }
        other => match view(other) {
            Value::Int(number) => number.to_string(),
            Value::Float(number) => format!("{number:?}"),
            Value::Text(bytes) => binary(bytes),
            Value::Bool(flag) => flag.to_string(),
            Value::Time(time) => time.to_string(),
            Value::Void | Value::Opaque | Value::Other(_) => "null".to_owned(),
        },
    }
}

/// Whether a policy may be set.
///
/// # Errors
/// RabbitMQ's words.
pub fn validate_policy(scope: PolicyScope, policy: &Policy) -> Result<(), String> {
    if let Err(error) = Pattern::check(policy.pattern.source()) {
        return Err(format!(
            "pattern should be a regular expression but is invalid: {error}"
        ));
    }
    if policy.definition.inner().is_empty() {
        return Err("no policy provided".to_owned());
    }
    let known =
        |key: &str| row(key).filter(|row| scope == PolicyScope::User || row.3 != Merge::Refused);
    let unknown: Vec<String> = (&policy.definition)
        .into_iter()
        .filter(|(key, _)| known(key.as_str()).is_none())
        .map(|(key, value)| format!("{{<<\"{}\">>,{}}}", key.as_str(), erlang(value)))
        .collect();
    if !unknown.is_empty() {
        let list = unknown.join(",");
        return Err(format!("[{list}] are not recognised policy settings"));
    }
    for (key, value) in &policy.definition {
        if let Some((_, _, rule, _, title)) = known(key.as_str())
            && !allows(*rule, value)
        {
            return Err(format!("{} is not a valid {title}", erlang(value)));
        }
    }
    Ok(())
}

/// What a policy is matched against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Exchange,
    Queue(QueueKind),
}

fn bit(kind: QueueKind) -> u8 {
    match kind {
        QueueKind::Classic => C,
        QueueKind::Quorum => Q,
        QueueKind::Stream => S,
    }
}

impl Policy {
    fn matches(&self, subject: Subject, name: &str) -> bool {
        let meant = match (self.apply_to, subject) {
            (ApplyTo::All, _)
            | (ApplyTo::Queues, Subject::Queue(_))
            | (ApplyTo::Exchanges, Subject::Exchange) => true,
            (ApplyTo::Kind(kind), Subject::Queue(of)) => kind == of,
            _ => false,
        };
        meant && self.suits(subject) && self.pattern.search(name)
    }

    fn suits(&self, subject: Subject) -> bool {
        let Subject::Queue(kind) = subject else {
            return true;
        };
        let mut keys = self.definition.inner().keys();
        keys.all(|key| row(key.as_str()).is_none_or(|row| row.1 & bit(kind) != 0))
    }
}

/// One vhost's policies of both scopes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policies {
    user: BTreeMap<String, Arc<Policy>>,
    operator: BTreeMap<String, Arc<Policy>>,
}

/// Which policies apply: what [`Effective`] is made of.
type Pair = (Option<Arc<Policy>>, Option<Arc<Policy>>);

impl Policies {
    pub fn of(&self, scope: PolicyScope) -> &BTreeMap<String, Arc<Policy>> {
        match scope {
            PolicyScope::User => &self.user,
            PolicyScope::Operator => &self.operator,
        }
    }

    pub fn of_mut(&mut self, scope: PolicyScope) -> &mut BTreeMap<String, Arc<Policy>> {
        match scope {
            PolicyScope::User => &mut self.user,
            PolicyScope::Operator => &mut self.operator,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.user.is_empty() && self.operator.is_empty()
    }

    fn best(&self, scope: PolicyScope, subject: Subject, name: &str) -> Option<Arc<Policy>> {
        let matching = self
            .of(scope)
            .values()
            .filter(|policy| policy.matches(subject, name));
        // Of equals the last is taken by `max_by_key`, so the order is turned.
        matching.rev().max_by_key(|policy| policy.priority).cloned()
    }

    fn pair(&self, subject: Subject, name: &str) -> Pair {
        (
            self.best(PolicyScope::User, subject, name),
            self.best(PolicyScope::Operator, subject, name),
        )
    }

    /// What applies to a queue or exchange of this name.
    pub fn effective(&self, subject: Subject, name: &str) -> Option<Arc<Effective>> {
        if self.is_empty() {
            return None;
        }
        effective(&self.pair(subject, name))
    }
}

fn effective((user, operator): &Pair) -> Option<Arc<Effective>> {
    let name = |policy: &Option<Arc<Policy>>| policy.as_ref().map(|policy| policy.name.clone());
    if user.is_none() && operator.is_none() {
        return None;
    }
    let mut definition = user
        .as_ref()
        .map(|policy| policy.definition.clone())
        .unwrap_or_default();
    for (key, theirs) in operator.iter().flat_map(|policy| &policy.definition) {
        let merged = match definition.inner().get(key.as_str()) {
            Some(own) => merge(key.as_str(), own, theirs),
            None => theirs.clone(),
        };
        definition.insert(key.clone(), merged);
    }
    Some(Arc::new(Effective {
        policy: name(user),
        operator: name(operator),
        definition,
    }))
}

fn merge(key: &str, own: &AMQPValue, operator: &AMQPValue) -> AMQPValue {
    let how = row(key).map_or(Merge::Operator, |row| row.3);
    let (Some(a), Some(b)) = (integer(own), integer(operator)) else {
        return operator.clone();
    };
    AMQPValue::LongLongInt(match how {
        Merge::Least => a.min(b),
        Merge::Most => a.max(b),
        Merge::Limit => least_limit(a, b),
        Merge::Refused | Merge::Operator => b,
    })
}

/// Of two limits the stricter, negative ones being none.
pub(super) fn least_limit(a: i64, b: i64) -> i64 {
    if a < 0 || b < 0 { a.max(b) } else { a.min(b) }
}

/// [`Effective`]s of many names at once: those of the same policies are one.
#[derive(Default)]
pub(super) struct Matcher {
    made: Vec<(Pair, Option<Arc<Effective>>)>,
}

impl Matcher {
    pub fn effective(
        &mut self,
        policies: &Policies,
        subject: Subject,
        name: &str,
    ) -> Option<Arc<Effective>> {
        if policies.is_empty() {
            return None;
        }
        let pair = policies.pair(subject, name);
        let same = |a: &Option<Arc<Policy>>, b: &Option<Arc<Policy>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        let known = self
            .made
            .iter()
            .find(|(known, _)| same(&known.0, &pair.0) && same(&known.1, &pair.1));
        if let Some((_, made)) = known {
            return made.clone();
        }
        let made = effective(&pair);
        self.made.push((pair, made.clone()));
        made
    }
}
