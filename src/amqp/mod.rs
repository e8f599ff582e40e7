//! F1, bytes to typed AMQP 0-9-1 and back. Pure: no tokio, no clock, no queue.
//!
//! The frame envelope and the hot methods (basic.publish, ack, nack, reject, get, deliver, get-ok, and content
//! headers) are parsed with `nom` over `Bytes` and written without allocation; everything else goes through
//! `amq-protocol`.

mod error;
mod frame;
mod method;
mod properties;

pub use amq_protocol::protocol::AMQPClass;
pub use amq_protocol::types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};
pub use error::{ProtocolError, ReplyCode};
pub use frame::{ContentHeader, Frame};
pub use method::{Method, Publish};
pub use properties::RawProperties;
