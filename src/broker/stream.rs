//! Streams as a connection sees them: what they refuse, where a consumer begins, which messages it wants, and the offset
//! each one carries.
//!
//! A filter is looked at here, message by message, where RabbitMQ looks at blocks: a message that is not wanted is settled
//! unsent, which gives its credit back. Not here: places and retention, which the set's machine keeps.

use crate::amqp::{AMQPValue, ProtocolError, RawProperties, ReplyCode};
use crate::model::batch::Message;
use crate::model::set::{Command, Delivery, Outcome};
use crate::model::topology::{QueueKind, QueueRecord, StreamFilter};
use crate::session::ConsumeRequest;

use super::connection::Connection;
use super::queues::soft;

/// Refuses what a stream cannot do.
pub(super) fn no_stream(record: &QueueRecord, method: &str) -> Result<(), ProtocolError> {
    if record.kind != QueueKind::Stream {
        return Ok(());
    }
    let text = format!("{method} not supported by stream queues {}", record.title());
    Err(soft(ReplyCode::NotImplemented, text))
}

/// What basic.consume needs on this type of queue, in RabbitMQ's order.
pub(super) fn check_consume(
    record: &QueueRecord,
    request: &ConsumeRequest,
) -> Result<(), ProtocolError> {
    let title = record.title();
    let refuse = |code, text| Err(soft(code, text));
    if record.kind == QueueKind::Stream {
        if request.prefetch == 0 {
            let text = format!("consumer prefetch count is not set for stream {title}");
            return refuse(ReplyCode::PreconditionFailed, text);
        }
        if request.no_ack {
            let text = format!("automatic acknowledgement not supported by stream {title}");
            return refuse(ReplyCode::NotImplemented, text);
        }
    }
    if record.kind != QueueKind::Classic && request.channel_limited {
        let text = format!("{title} does not support global qos");
        return refuse(ReplyCode::NotImplemented, text);
    }
    Ok(())
}

/// The properties with the message's offset.
pub(super) fn with_offset(message: &Message, offset: u64) -> bytes::Bytes {
    let offset = AMQPValue::LongLongInt(i64::try_from(offset).unwrap_or(i64::MAX));
    RawProperties(message.properties.clone())
        .with_headers_set(&[("x-stream-offset", offset)])
        .0
}

/// Whether a consumer with this filter wants the message.
pub(super) fn wanted(filter: &StreamFilter, message: &Message) -> bool {
    let value = RawProperties(message.properties.clone()).header(b"x-stream-filter-value");
    let value = value.as_ref().and_then(|value| match value {
        AMQPValue::LongString(value) => Some(value.as_bytes()),
        _ => None,
    });
    filter.wants(value)
}

impl Connection {
    /// Settles messages the consumer's filter keeps from it, or that cannot be read: a stream's credit would be lost with
    /// them, since its leases have no deadline.
    pub(super) fn skip(&mut self, delivery: &Delivery, count: u32) {
        if count == 0 {
            return;
        }
        let Some(entry) = self.consumers.get(&delivery.consumer) else {
            return;
        };
        let settle = Command::Settle {
            consumer: delivery.consumer,
            first: delivery.first_no - u64::from(count),
            last: delivery.first_no - 1,
            outcome: Outcome::Ack,
        };
        self.push(entry.set, &settle);
    }
}
