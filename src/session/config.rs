//! What the server offers and allows on every connection.

use super::Stamps;
use crate::amqp::{AMQPValue, FieldTable, LongString};
use crate::base::{Millis, limits};

/// Settings shared by all connections of a listener.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// connection.start's server-properties, capabilities included.
    pub server_properties: FieldTable,
    /// SASL mechanisms offered, separated by spaces. A login by any other is refused.
    pub mechanisms: String,
    /// Most open channels of a connection, offered in connection.tune; 0 = no limit of our own.
    pub channel_max: u16,
    /// Most bytes of a frame, offered in connection.tune; 0 = no limit.
    pub frame_max: u32,
    /// Most bytes of a frame before tune-ok, in which start-ok must fit (§3.4).
    pub frame_max_initial: u32,
    /// Heartbeat offered, seconds; 0 = none.
    pub heartbeat_s: u16,
    /// Largest body taken, bytes; a larger one is read and then refused with 406.
    pub max_message_size: u64,
    /// Most consumers of a channel; the next is refused with 530.
    pub consumer_max_per_channel: Option<u32>,
    /// What the broker writes into messages unasked.
    pub stamps: Stamps,
    /// The node's name, for one of them.
    pub node_name: String,
    /// Time from accept to connection.open-ok.
    pub handshake_timeout: Millis,
    /// Bytes one connection may hold for busy channels, and requests not polled, before it wants no more input.
    pub backlog_bytes_max: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            server_properties: server_properties(),
            mechanisms: "PLAIN AMQPLAIN".to_owned(),
            channel_max: 2047,
            frame_max: 131_072,
            frame_max_initial: 8192,
            heartbeat_s: 60,
            max_message_size: limits::MESSAGE_SIZE_MAX_BYTES_DEFAULT,
            consumer_max_per_channel: None,
            stamps: Stamps::default(),
            node_name: "rabbit@localhost".to_owned(),
            handshake_timeout: Millis(10_000),
            backlog_bytes_max: 1024 * 1024,
        }
    }
}

const CAPABILITIES: [&str; 9] = [
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
];

/// Clients choose workarounds by product and version, so both name what is emulated (§3.2, §23).
fn server_properties() -> FieldTable {
    let mut capabilities = FieldTable::default();
    for name in CAPABILITIES {
        capabilities.insert(name.into(), AMQPValue::Boolean(true));
    }
    let mut table = FieldTable::default();
    for (key, value) in [
        ("product", "RabbitMQ"),
        ("version", "4.2.1"),
        ("platform", "Erlang/OTP 27"),
        ("copyright", "Leveret contributors"),
        ("information", "Licensed under Apache-2.0"),
    ] {
        table.insert(key.into(), AMQPValue::LongString(LongString::from(value)));
    }
    table.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    table
}
