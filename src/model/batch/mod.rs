//! The bytes of an entry: a batch of commands, and the messages they publish.
//!
//! Little-endian. Offsets count from the start of the payload.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 1 | magic: 0xB1 whole, 0xB2 survivors of a compaction |
//! | 1 | 1 | version, 1 |
//! | 2 | 2 | reserved, 0 |
//! | 4 | 4 | chunks (survivors: 0) |
//! | 8 | 8 | stamp: the leader's clock, ms since the epoch |
//! | 16 | 4 | slots: messages in the directory |
//! | 20 | 4 | offset of the directory |
//! | 24 | 8 | reserved, 0 |
//! | 32 | … | chunks, then the directory |
//!
//! A chunk is what one pipe sent: node u64, incarnation u64, sequence number of its first command u64, commands u32,
//! bytes of its commands u32, then the commands (codec in [`command`]). Each command has one sequence number.
//!
//! The directory is one u32 per slot, the offset of the slot's message record; for survivors (slot u32, offset u32),
//! sorted by slot. A message record is crc32 u32 of all that follows it, length u32 of what follows the length, then
//! flags u8, exchange (u8 length), routing key (u8 length), with flag 2 further keys (u32 count, then u32 length each),
//! properties (u32 length), body. Flags: 1 the x-death headers are the broker's, 4 keys in CC count no more. The crc is
//! checked each time a message is read for delivery; the body is written once and never copied again.

mod command;
mod message;
mod reader;
mod writer;

pub use message::{Message, MessageError, MessageFlags, MessageParts, message, survivors};
pub use reader::{Batch, BatchError, Chunk, Item, Items, PublishItem};
pub use writer::{BatchBuilder, BufferPool, PooledBuffer, PublishOptions, restamp};

const MAGIC_WHOLE: u8 = 0xB1;
const MAGIC_SURVIVORS: u8 = 0xB2;
const VERSION: u8 = 1;
const HEADER_SIZE: usize = 32;
const CHUNK_HEADER_SIZE: usize = 32;

#[cfg(test)]
mod test;
