//! What dead-lettering writes into a message: x-death and its companions (spec/amqp-behaviour.md §12.4). Pure.
//!
//! The history is the broker's own: a client's x-death in a message the broker has not marked as died is ignored and
//! replaced (RabbitMQ 4.0 and later).

use bytes::Bytes;

use crate::amqp::{AMQPValue, FieldArray, FieldTable, LongString, Properties, RawProperties};
use crate::base::Millis;
use crate::model::batch::Message;
use crate::model::set::DeathReason;

/// One death.
pub(super) struct Death<'a> {
    /// Queue it died in.
    pub queue: &'a str,
    pub reason: DeathReason,
    pub now: Millis,
}

/// A dead letter's new properties, and what its history says.
pub(super) struct Obituary {
    pub properties: RawProperties,
    history: Vec<FieldTable>,
}

fn reason_name(reason: DeathReason) -> &'static str {
    match reason {
        DeathReason::Rejected => "rejected",
        DeathReason::Expired => "expired",
        DeathReason::MaxLen => "maxlen",
        DeathReason::DeliveryLimit => "delivery_limit",
    }
}

pub(super) fn text(value: impl AsRef<[u8]>) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value.as_ref().to_vec()))
}

fn get<'a>(table: &'a FieldTable, key: &str) -> Option<&'a AMQPValue> {
    table
        .inner()
        .iter()
        .find(|(name, _)| name.as_str() == key)
        .map(|(_, value)| value)
}

fn is(table: &FieldTable, key: &str, wanted: &str) -> bool {
    matches!(get(table, key), Some(AMQPValue::LongString(s)) if s.as_bytes() == wanted.as_bytes())
}

impl Obituary {
    /// Adds a death to a message's history.
    pub fn write(message: &Message, death: &Death<'_>) -> Self {
        let mut properties: Properties = RawProperties(message.properties.clone()).decode();
        let mut headers = properties.headers.take().unwrap_or_default();
        let mut history = if message.flags.died {
            history(&headers)
        } else {
            Vec::new()
        };
        let reason = reason_name(death.reason);
        let known = history
            .iter()
            .position(|entry| is(entry, "queue", death.queue) && is(entry, "reason", reason));
        let entry = match known {
            Some(at) => again(history.remove(at)),
            None => first(message, &headers, properties.expiration.as_ref(), death),
        };
        history.insert(0, entry);
        let exchange = String::from_utf8_lossy(&message.exchange).into_owned();
        if !message.flags.died || get(&headers, "x-first-death-reason").is_none() {
            headers.insert("x-first-death-reason".into(), text(reason));
            headers.insert("x-first-death-queue".into(), text(death.queue));
            headers.insert("x-first-death-exchange".into(), text(&exchange));
        }
        headers.insert("x-last-death-reason".into(), text(reason));
        headers.insert("x-last-death-queue".into(), text(death.queue));
        headers.insert("x-last-death-exchange".into(), text(&exchange));
        let values: Vec<_> = history.iter().cloned().map(AMQPValue::FieldTable).collect();
        headers.insert(
            "x-death".into(),
            AMQPValue::FieldArray(FieldArray::from(values)),
        );
        properties.headers = Some(headers);
        properties.expiration = None;
        Self {
            properties: properties.encode(),
            history,
        }
    }

    /// Whether a target queue would begin a cycle without a reject in it: it is skipped then.
    pub fn cycles(&self, target: &str, reason: DeathReason) -> bool {
        if reason == DeathReason::Rejected {
            return false;
        }
        match self
            .history
            .iter()
            .position(|entry| is(entry, "queue", target))
        {
            Some(at) => !self
                .history
                .iter()
                .take(at + 1)
                .any(|entry| is(entry, "reason", "rejected")),
            None => false,
        }
    }
}

/// The routing keys of a message that its reader may know: its own, and those in CC unless another took their place.
pub(super) fn routing_keys(message: &Message, headers: Option<&FieldTable>) -> Vec<Bytes> {
    let mut keys = vec![message.routing_key.clone()];
    if message.flags.rekeyed {
        return keys;
    }
    if let Some(AMQPValue::FieldArray(more)) = headers.and_then(|headers| get(headers, "CC")) {
        for value in more.as_slice() {
            if let AMQPValue::LongString(key) = value {
                keys.push(Bytes::copy_from_slice(key.as_bytes()));
            }
        }
    }
    keys
}

fn history(headers: &FieldTable) -> Vec<FieldTable> {
    let Some(AMQPValue::FieldArray(entries)) = get(headers, "x-death") else {
        return Vec::new();
    };
    let tables = entries.as_slice().iter().filter_map(|entry| match entry {
        AMQPValue::FieldTable(table) => Some(table.clone()),
        _ => None,
    });
    tables.collect()
}

/// The same death once more: only its count changes.
fn again(mut entry: FieldTable) -> FieldTable {
    let count = match get(&entry, "count") {
        Some(AMQPValue::LongLongInt(count)) => *count,
        _ => 0,
    };
    entry.insert(
        "count".into(),
        AMQPValue::LongLongInt(count.saturating_add(1)),
    );
    entry
}

fn first(
    message: &Message,
    headers: &FieldTable,
    expiration: Option<&Bytes>,
    death: &Death<'_>,
) -> FieldTable {
    let mut entry = FieldTable::default();
    entry.insert("count".into(), AMQPValue::LongLongInt(1));
    entry.insert("reason".into(), text(reason_name(death.reason)));
    entry.insert("queue".into(), text(death.queue));
    entry.insert("time".into(), AMQPValue::Timestamp(death.now.0 / 1_000));
    entry.insert("exchange".into(), text(&message.exchange));
    let keys: Vec<_> = routing_keys(message, Some(headers))
        .iter()
        .map(text)
        .collect();
    entry.insert(
        "routing-keys".into(),
        AMQPValue::FieldArray(FieldArray::from(keys)),
    );
    if let Some(expiration) = expiration {
        entry.insert("original-expiration".into(), text(expiration));
    }
    entry
}
