//! Queue arguments: what each type knows, what a value may be, when two declarations agree.
//!
//! Need: refuse what RabbitMQ refuses, in its words. Shape: one table of (argument, types, rule). Invariant: the order of
//! the table is the order of the checks; where RabbitMQ has another, it is beside the table. What RabbitMQ 4.3 removed stays
//! accepted. Not here: what the arguments do.

use std::sync::LazyLock;

use super::policy::{SEGMENT_BYTES_MAX, max_age_s};
use super::precondition;
use super::record::{QueueKind, QueueRecord, queue_title};
use super::table::{integer, lookup, show, text, view};
use crate::amqp::value::type_name;
use crate::amqp::{AMQPValue, FieldTable, ProtocolError};
use crate::base::Millis;
use crate::base::limits::{TTL_MS_MAX, VISIBILITY_TIMEOUT_MS_MAX, VISIBILITY_TIMEOUT_MS_MIN};

#[derive(Clone, Copy)]
enum Rule {
    Any,
    Text,
    Bool,
    AtLeast0,
    AtLeast1,
    AtMost(u64),
    Between1(u64),
    Priority,
    Version,
    Visibility,
    DeadLetterKey,
    Word(&'static [&'static [u8]], &'static str),
    MaxAge,
}

const TYPE: &str = "x-queue-type";
const C: u8 = 1;
const Q: u8 = 2;
const S: u8 = 4;
const LOCATORS: &[&[u8]] = &[b"client-local", b"balanced", b"random", b"least-leaders"];
const OVERFLOWS: &[&[u8]] = &[b"drop-head", b"reject-publish", b"reject-publish-dlx"];
const STRATEGIES: &[&[u8]] = &[b"at-most-once", b"at-least-once"];
const TEN_YEARS: u64 = TTL_MS_MAX;
/// Sets one queue may be spread over.
const PARTS_MAX: u64 = 64;

/// A queue argument, the types that have it, and what it may be.
type Known = (&'static str, u8, Rule);

/// Known queue arguments, in the order in which RabbitMQ checks their values.
const TABLE: &[Known] = &[
    ("x-expires", C | Q, Rule::Between1(TEN_YEARS)),
    ("x-message-ttl", C | Q, Rule::AtMost(TEN_YEARS)),
    ("x-dead-letter-exchange", C | Q, Rule::Text),
    ("x-dead-letter-routing-key", C | Q, Rule::DeadLetterKey),
    (
        "x-dead-letter-strategy",
        Q,
        Rule::Word(STRATEGIES, "invalid_dlx_strategy"),
    ),
    ("x-max-length", C | Q, Rule::AtLeast0),
    ("x-max-length-bytes", C | Q | S, Rule::AtLeast0),
    ("x-max-in-memory-length", Q, Rule::AtLeast0),
    ("x-max-in-memory-bytes", Q, Rule::AtLeast0),
    ("x-max-priority", C, Rule::Priority),
    (
        "x-overflow",
        C | Q,
        Rule::Word(OVERFLOWS, "invalid_overflow"),
    ),
    ("x-queue-mode", C, Rule::Any),
    ("x-queue-version", C, Rule::Version),
    ("x-single-active-consumer", C | Q, Rule::Bool),
    (TYPE, C | Q | S, Rule::Text),
    (
        "x-queue-leader-locator",
        C | Q | S,
        Rule::Word(LOCATORS, "invalid_queue_locator_arg"),
    ),
    ("x-quorum-initial-group-size", Q, Rule::AtLeast1),
    ("x-delivery-limit", Q, Rule::Any),
    ("x-consumer-timeout", C | Q, Rule::AtLeast0),
    ("x-consumer-disconnected-timeout", Q, Rule::AtLeast0),
    ("x-visibility-timeout", C | Q, Rule::Visibility),
    ("x-strict-lease", C | Q, Rule::Bool),
    ("x-parts", C | Q, Rule::Between1(PARTS_MAX)),
    ("x-delayed-retry-type", Q, Rule::Text),
    ("x-delayed-retry-min", Q, Rule::AtLeast1),
    ("x-delayed-retry-max", Q, Rule::AtLeast1),
    ("x-initial-cluster-size", S, Rule::AtLeast1),
    ("x-max-age", S, Rule::MaxAge),
    ("x-stream-max-segment-size-bytes", S, Rule::AtLeast0),
    ("x-stream-filter-size-bytes", S, Rule::AtLeast0),
];

/// What RabbitMQ compares first of a quorum queue, before the rest of the table.
const QUORUM_COMPARED_FIRST: &[&str] = &[
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-overflow",
    "x-single-active-consumer",
    TYPE,
    "x-quorum-initial-group-size",
    "x-delivery-limit",
];

/// The table by name, the order in which RabbitMQ looks for arguments of other types.
static BY_NAME: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let mut known = TABLE.to_vec();
    known.sort_unstable_by_key(|(key, ..)| *key);
    known
});

fn bit(kind: QueueKind) -> u8 {
    match kind {
        QueueKind::Classic => C,
        QueueKind::Quorum => Q,
        QueueKind::Stream => S,
    }
}

pub(super) fn invalid(key: &str, title: &str, reason: &str) -> ProtocolError {
    precondition(format!("invalid arg '{key}' for {title}: {reason}"))
}

/// Checks the arguments of a new queue.
pub(super) fn validate(
    vhost: &str,
    name: &str,
    kind: QueueKind,
    arguments: &FieldTable,
) -> Result<(), ProtocolError> {
    let title = queue_title(vhost, name);
    if let Some(value) = lookup(arguments, TYPE) {
        expect_text(value).map_err(|reason| invalid(TYPE, &title, &reason))?;
    }
    for (key, kinds, rule) in TABLE {
        if kinds & bit(kind) != 0
            && let Some(value) = lookup(arguments, key)
        {
            check(*rule, value, arguments).map_err(|reason| invalid(key, &title, &reason))?;
        }
    }
    for (key, kinds, _) in BY_NAME.iter() {
        if kinds & bit(kind) == 0 && lookup(arguments, key).is_some() {
            let module = kind.module();
            let text = format!("invalid arg '{key}' for {title} of queue type {module}");
            return Err(precondition(text));
        }
    }
    Ok(())
}

/// The refusal of a type that no queue has.
pub(super) fn unsupported_type(
    vhost: &str,
    name: &str,
    arguments: &FieldTable,
    type_name: &str,
) -> ProtocolError {
    let given = lookup(arguments, TYPE).filter(|value| text(value).is_none());
    let reason = given.map_or_else(
        || format!("\"unsupported queue type '{type_name}'\""),
        unacceptable,
    );
    invalid(TYPE, &queue_title(vhost, name), &reason)
}

fn check(rule: Rule, value: &AMQPValue, arguments: &FieldTable) -> Result<(), String> {
    match rule {
        Rule::Any => Ok(()),
        Rule::Text => expect_text(value).map(|_| ()),
        Rule::Bool if matches!(value, AMQPValue::Boolean(_)) => Ok(()),
        Rule::Bool => Err(unacceptable(value)),
        Rule::AtLeast0 => range(value, 0, u64::MAX, "value_too_large"),
        Rule::AtLeast1 => range(value, 1, u64::MAX, "value_too_large"),
        Rule::AtMost(max) => range(value, 0, max, "value_too_large"),
        Rule::Between1(max) => range(value, 1, max, "value_too_large"),
        Rule::Priority => range(value, 0, 255, "max_value_exceeded"),
        Rule::Version => match integer_of(value)? {
            1 | 2 => Ok(()),
            other => Err(format!("\"unsupported queue version '{other}'\"")),
        },
        Rule::Visibility => visibility(value).map(|_| ()),
        Rule::DeadLetterKey => {
            expect_text(value)?;
            let paired = lookup(arguments, "x-dead-letter-exchange").is_some();
            paired
                .then_some(())
                .ok_or_else(|| "routing_key_but_no_dlx_defined".to_owned())
        }
        Rule::MaxAge => max_age(value).map(|_| ()),
        Rule::Word(words, reason) => {
            let known = words.contains(&expect_text(value)?);
            known.then_some(()).ok_or_else(|| reason.to_owned())
        }
    }
}

pub(super) fn unacceptable(value: &AMQPValue) -> String {
    format!("{{unacceptable_type,{}}}", type_name(value))
}

fn expect_text(value: &AMQPValue) -> Result<&[u8], String> {
    text(value).ok_or_else(|| unacceptable(value))
}

pub(super) fn integer_of(value: &AMQPValue) -> Result<i64, String> {
    integer(value).ok_or_else(|| format!("\"expected integer, got {}\"", type_name(value)))
}

pub(super) fn range(value: &AMQPValue, min: u64, max: u64, above: &str) -> Result<(), String> {
    let signed = integer_of(value)?;
    let number = u64::try_from(signed).map_err(|_| format!("{{value_negative,{signed}}}"))?;
    if number < min {
        return Err(format!("{{value_zero,{number}}}"));
    }
    if number > max {
        return Err(format!("{{{above},{number}}}"));
    }
    Ok(())
}

pub(super) fn visibility(value: &AMQPValue) -> Result<Millis, String> {
    let signed = integer_of(value)?;
    let number = u64::try_from(signed).map_err(|_| format!("{{value_negative,{signed}}}"))?;
    if number < VISIBILITY_TIMEOUT_MS_MIN {
        return Err(format!("{{value_too_small,{number}}}"));
    }
    if number > VISIBILITY_TIMEOUT_MS_MAX {
        return Err(format!("{{value_too_large,{number}}}"));
    }
    Ok(Millis(number))
}

/// A span such as `7D`.
pub(super) fn max_age(value: &AMQPValue) -> Result<Millis, String> {
    let span = std::str::from_utf8(expect_text(value)?).ok();
    let span = span
        .and_then(max_age_s)
        .and_then(|seconds| seconds.checked_mul(1_000));
    span.map(Millis).ok_or_else(|| "invalid_max_age".to_owned())
}

/// What RabbitMQ looks at last when a stream is declared.
pub(super) fn check_stream(arguments: &FieldTable) -> Result<(), ProtocolError> {
    let value = |key| lookup(arguments, key).and_then(integer);
    let key = "x-stream-max-segment-size-bytes";
    if value(key).is_some_and(|bytes| bytes > SEGMENT_BYTES_MAX) {
        return Err(precondition(format!("Exceeded max value for {key}")));
    }
    let key = "x-stream-filter-size-bytes";
    if value(key).is_some_and(|bytes| !(16..=255).contains(&bytes)) {
        return Err(precondition(format!("Invalid value for {key}")));
    }
    Ok(())
}

/// Whether a redeclaration's arguments agree with a queue's; unknown ones do not count.
pub(super) fn check_equivalent(
    queue: &QueueRecord,
    arguments: &FieldTable,
) -> Result<(), ProtocolError> {
    let first = match queue.kind {
        QueueKind::Quorum => QUORUM_COMPARED_FIRST,
        QueueKind::Classic | QueueKind::Stream => &[],
    };
    let known = TABLE
        .iter()
        .filter(|(_, kinds, _)| kinds & bit(queue.kind) != 0);
    let keys = first.iter().chain(known.map(|(key, ..)| key));
    for key in keys {
        let current = lookup(&queue.arguments, key);
        equivalent_value(key, &queue.title(), lookup(arguments, key), current)?;
    }
    Ok(())
}

/// What a classic declaration of a quorum queue must agree in where checks are relaxed (RabbitMQ:
/// rabbit_queue_type_util, relaxed checks on redeclaration).
const SHARED: &[&str] = &[
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-single-active-consumer",
    "x-message-ttl",
];

/// Whether a classic declaration asks for a queue like this one of another type.
pub(super) fn check_like(queue: &QueueRecord, arguments: &FieldTable) -> Result<(), ProtocolError> {
    for key in SHARED {
        let current = lookup(&queue.arguments, key);
        equivalent_value(key, &queue.title(), lookup(arguments, key), current)?;
    }
    Ok(())
}

/// Whether two optional values of an argument agree.
pub(super) fn equivalent_value(
    key: &str,
    title: &str,
    received: Option<&AMQPValue>,
    current: Option<&AMQPValue>,
) -> Result<(), ProtocolError> {
    if received.map(view) == current.map(view) {
        return Ok(());
    }
    let (received, current) = match (received, current) {
        (Some(received), Some(current)) => (quoted(received), quoted(current)),
        (received, current) => (described(received), described(current)),
    };
    Err(inequivalent(key, title, &received, &current))
}

/// Of two values, one that is void reads as one that is not there.
fn quoted(value: &AMQPValue) -> String {
    match value {
        AMQPValue::Void => "none".to_owned(),
        value => format!("'{}'", show(value)),
    }
}

fn described(value: Option<&AMQPValue>) -> String {
    value.map_or_else(
        || "none".to_owned(),
        |value| format!("the value '{}' of type '{}'", show(value), type_name(value)),
    )
}

/// The refusal of a redeclaration.
pub(super) fn inequivalent(key: &str, title: &str, received: &str, current: &str) -> ProtocolError {
    precondition(format!(
        "inequivalent arg '{key}' for {title}: received {received} but current is {current}"
    ))
}
