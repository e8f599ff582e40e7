//! F1, bytes to typed AMQP 0-9-1 and back. Pure: no tokio, no clock, no queue.
//!
//! The frame envelope and the hot methods (basic.publish, ack, nack, reject, get, deliver, get-ok, and content
//! headers) are parsed with `nom` over `Bytes` and written without allocation; everything else goes through
//! `amq-protocol`.

mod decode;
pub mod encode;
mod error;
mod frame;
mod layout;
mod method;
mod properties;
mod table;
pub mod value;

#[cfg(test)]
mod test;

pub use amq_protocol::protocol::AMQPClass;
pub use amq_protocol::types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};
pub use decode::FrameDecoder;
pub use error::{ProtocolError, ReplyCode};
pub use frame::{ContentHeader, Frame};
pub use method::{Method, Publish};
pub use properties::{Headers, Properties, RawProperties};
pub use table::RawValue;
