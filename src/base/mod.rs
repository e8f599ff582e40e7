//! F0, the words every floor shares: ids, time, bounds, byte coding, digests.
//!
//! Knows nothing of AMQP, Raft, files or sockets.

mod clock;
pub mod coding;
mod digest;
mod id;
pub mod limits;

#[cfg(feature = "sim")]
pub use clock::SIMULATED;
pub use clock::{Clock, Millis, SystemClock, civil, date_and_time};
pub use digest::Digest;
pub use id::{ChannelId, ConsumerId, NodeId, PipeId, Position, QueueId, SessionId, SetId};
