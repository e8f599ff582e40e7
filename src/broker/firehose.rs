//! The firehose: while a vhost is traced (`rabbitmqctl trace_on`), a copy of every message that a client publishes or gets
//! there goes to the vhost's exchange `amq.rabbitmq.trace` (RabbitMQ: rabbit_trace).
//!
//! Shape: routing key `publish.EXCHANGE` or `deliver.QUEUE`, the message's body, and everything else about it in headers;
//! the copy has no other properties. Invariants: what went through that exchange is not traced again; a copy is nobody's
//! to confirm. Cost: without tracing one comparison per publish and per run of deliveries; with it, the topology is read
//! for each copy. Bounds: copies wait in the outboxes of the connection that made them, whose socket is not read while
//! one is full; deliveries are bounded by its windows.

use std::sync::Arc;

use bytes::Bytes;

use crate::amqp::{AMQPValue, FieldArray, FieldTable, Properties, RawProperties};
use crate::base::{ChannelId, QueueId};
use crate::model::batch::{Message, MessageFlags, MessageParts, PublishOptions};
use crate::model::route::RouteInput;
use crate::model::topology::user_shown;
use crate::session::PublishRequest;

use super::connection::Connection;
use super::death::{routing_keys, text};
use super::routes::{Route, by_set, take_spread, with_parts};

const EXCHANGE: &str = "amq.rabbitmq.trace";

/// Whether this connection's vhost is traced, and of which version of the topology that was true.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traced {
    version: u64,
    on: bool,
}

/// What is copied.
struct Copied<'a> {
    exchange: &'a [u8],
    keys: Vec<Bytes>,
    properties: &'a RawProperties,
    body: &'a [Bytes],
}

impl Connection {
    pub(super) fn is_traced(&mut self) -> bool {
        let topology = &self.node.cluster.topology;
        let version = topology.version();
        if self.traced.version != version {
            let on = topology.read(|topology| {
                let settings = topology.vhost_settings(&self.vhost);
                settings.is_some_and(|settings| settings.tracing)
            });
            self.traced = Traced { version, on };
        }
        self.traced.on
    }

    /// A message was published, and goes where `route` says.
    pub(super) fn trace_publish(
        &mut self,
        channel: ChannelId,
        publish: &PublishRequest,
        route: &Route,
    ) {
        let mut headers = self.origin(channel);
        let whole = route.sets.iter().flat_map(|(_, queues)| queues);
        let parts = route.spread.iter().map(|(queue, _)| queue);
        let names = self.node.cluster.topology.read(|topology| {
            let records = whole
                .chain(parts)
                .filter_map(|id| topology.queue_by_id(*id));
            records
                .filter(|record| !record.keeps_history())
                .map(|record| text(record.name.as_bytes()))
                .collect()
        });
        headers.insert("routed_queues".into(), array(names));
        let mut keys = vec![publish.routing_key.clone()];
        keys.extend(publish.more_keys.iter().cloned());
        let copied = Copied {
            exchange: &publish.exchange,
            keys,
            properties: &publish.properties,
            body: &publish.body.parts,
        };
        self.trace("publish.", &publish.exchange, headers, &copied);
    }

    /// A message of `queue` is on its way to the client.
    pub(super) fn trace_delivery(
        &mut self,
        channel: ChannelId,
        queue: QueueId,
        redelivered: bool,
        message: &Message,
    ) {
        let topology = &self.node.cluster.topology;
        let name = topology.read(|topology| Some(topology.queue_by_id(queue)?.name.clone()));
        let Some(name) = name else { return };
        let mut headers = self.origin(channel);
        let redelivered = AMQPValue::LongInt(redelivered.into());
        headers.insert("redelivered".into(), redelivered);
        let properties = RawProperties(message.properties.clone());
        let copied = Copied {
            exchange: &message.exchange,
            keys: routing_keys(message, properties.headers().as_ref()),
            properties: &properties,
            body: std::slice::from_ref(&message.body),
        };
        self.trace("deliver.", name.as_bytes(), headers, &copied);
    }

    /// Who publishes or gets it.
    fn origin(&self, channel: ChannelId) -> FieldTable {
        let mut headers = FieldTable::default();
        let connection = format!("{} -> {}", self.peer, self.local);
        headers.insert("vhost".into(), text(self.vhost.as_bytes()));
        headers.insert("connection".into(), text(connection.as_bytes()));
        headers.insert("channel".into(), AMQPValue::LongInt(channel.0.into()));
        let user = user_shown(&self.user);
        headers.insert("user".into(), text(user.as_bytes()));
        headers
    }

    fn trace(&mut self, prefix: &str, suffix: &[u8], mut headers: FieldTable, copied: &Copied<'_>) {
        if copied.exchange == EXCHANGE.as_bytes() {
            return;
        }
        headers.insert("exchange_name".into(), text(copied.exchange));
        let keys = copied.keys.iter().map(text).collect();
        headers.insert("routing_keys".into(), array(keys));
        let properties = AMQPValue::FieldTable(table(&copied.properties.decode()));
        headers.insert("properties".into(), properties);
        headers.insert("node".into(), text(self.node.options.name.as_bytes()));
        let properties = Properties {
            headers: Some(headers),
            ..Properties::default()
        }
        .encode();
        let mut key = [prefix.as_bytes(), suffix].concat();
        key.truncate(255);
        let (mut targets, mut spread) = (Vec::new(), Vec::new());
        let topology = &self.node.cluster.topology;
        topology.read(|topology| {
            let input = RouteInput {
                vhost: &self.vhost,
                exchange: EXCHANGE.as_bytes(),
                keys: &[&key],
                properties: &properties,
                dice: rand::random(),
            };
            // Without the exchange nobody listens.
            if topology.route(&input, &mut targets).is_err() {
                targets.clear();
            }
            spread = take_spread(topology, &mut targets);
        });
        self.rotation += u64::from(!spread.is_empty());
        let parts = MessageParts {
            flags: MessageFlags::default(),
            exchange: EXCHANGE.as_bytes(),
            routing_key: &key,
            blind_keys: &[],
            properties: &properties.0,
            body: copied.body,
        };
        for (set, queues) in with_parts(&by_set(&targets), &spread, self.rotation) {
            let node = Arc::clone(&self.node);
            if let Some(handle) = node.cluster.set(set) {
                let options = PublishOptions::default();
                handle.publish(&self.mailbox, &queues, options, &parts);
                self.touch(set);
            }
        }
    }
}

fn array(values: Vec<AMQPValue>) -> AMQPValue {
    AMQPValue::FieldArray(FieldArray::from(values))
}

/// The properties that are there, by RabbitMQ's names.
fn table(properties: &Properties) -> FieldTable {
    let mut table = FieldTable::default();
    let texts = [
        ("content_type", &properties.content_type),
        ("content_encoding", &properties.content_encoding),
        ("correlation_id", &properties.correlation_id),
        ("reply_to", &properties.reply_to),
        ("expiration", &properties.expiration),
        ("message_id", &properties.message_id),
        ("type", &properties.kind),
        ("user_id", &properties.user_id),
        ("app_id", &properties.app_id),
        ("cluster_id", &properties.cluster_id),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            table.insert(name.into(), text(value));
        }
    }
    if let Some(headers) = &properties.headers {
        table.insert("headers".into(), AMQPValue::FieldTable(headers.clone()));
    }
    let octets = [
        ("delivery_mode", properties.delivery_mode),
        ("priority", properties.priority),
    ];
    for (name, value) in octets {
        if let Some(value) = value {
            table.insert(name.into(), AMQPValue::LongInt(value.into()));
        }
    }
    if let Some(at) = properties.timestamp {
        let at = i64::try_from(at).unwrap_or(i64::MAX);
        table.insert("timestamp".into(), AMQPValue::LongLongInt(at));
    }
    table
}
