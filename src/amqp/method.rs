//! Methods: the hot ones as slices of the input, the rest through `amq-protocol`.

use bytes::Bytes;

use super::AMQPClass;

/// A decoded method.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// 60,40.
    Publish(Publish),
    /// 60,80.
    Ack { delivery_tag: u64, multiple: bool },
    /// 60,90.
    Reject { delivery_tag: u64, requeue: bool },
    /// 60,120.
    Nack {
        delivery_tag: u64,
        multiple: bool,
        requeue: bool,
    },
    /// 60,70.
    Get { queue: Bytes, no_ack: bool },
    /// 60,10: not hot, but `amq-protocol` does not show the size, which must be refused (540).
    Qos {
        prefetch_size: u32,
        prefetch_count: u16,
        global: bool,
    },
    /// Everything else.
    Other(Box<AMQPClass>),
    /// A class and method id nobody knows: 503 COMMAND_INVALID, decided by the session.
    Unknown { class_id: u16, method_id: u16 },
}

/// basic.publish, its strings not checked for UTF-8 (RabbitMQ does not either).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Exchange name.
    pub exchange: Bytes,
    /// Routing key.
    pub routing_key: Bytes,
    /// Return it if unroutable.
    pub mandatory: bool,
    /// 540.
    pub immediate: bool,
}
