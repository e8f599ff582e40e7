//! Reading an entry: its chunks, and each chunk's commands in order. Bodies are skipped, not touched.

use crate::base::coding::{Reader, Truncated};
use crate::base::{Millis, NodeId, PipeId, QueueId};
use crate::model::set::Command;

use super::{HEADER_SIZE, MAGIC_WHOLE, VERSION, command};

/// Why a payload is no batch. The log's crc held, so this is a fault of ours or of a version we do not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Not this format, or a newer version of it.
    #[error("payload is no batch of a known version")]
    Unknown,
    /// A command that is not known.
    #[error("batch holds an unknown command {0}")]
    Command(u8),
    /// It ends too early.
    #[error("batch ends inside a value")]
    Truncated,
}

impl From<Truncated> for BatchError {
    fn from(Truncated: Truncated) -> Self {
        Self::Truncated
    }
}

/// An entry's payload.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The leader's clock when it was sealed.
    pub stamp: Millis,
    chunks: u32,
    rest: Reader<'a>,
    slot: u32,
}

/// What one pipe sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The pipe.
    pub pipe: PipeId,
    /// Sequence number of its first command.
    pub first_seq: u64,
    /// Commands.
    pub commands: u32,
}

/// A chunk's commands.
#[derive(Debug)]
pub struct Items<'b, 'a> {
    batch: &'b mut Batch<'a>,
    reader: Reader<'a>,
    left: u32,
}

/// One command as it stands in the entry.
#[derive(Debug)]
pub enum Item<'a> {
    /// A publish.
    Publish(PublishItem<'a>),
    /// Any other command of a set.
    Command(Command),
    /// Another machine's command.
    Opaque(&'a [u8]),
}

/// A publish, without its message.
#[derive(Clone, Copy, Debug)]
pub struct PublishItem<'a> {
    queues: Reader<'a>,
    queue_count: u64,
    /// The message's slot.
    pub slot: u32,
    /// Body bytes.
    pub size: u32,
    /// Per-message TTL.
    pub ttl: Option<Millis>,
    /// Priority property.
    pub priority: Option<u8>,
    /// Delay.
    pub delay: Option<Millis>,
}

impl PublishItem<'_> {
    /// How many queues it goes to, at least 1.
    #[must_use]
    pub fn queue_count(&self) -> u64 {
        self.queue_count
    }

    /// The queues, in the order they were written.
    pub fn queues(&self) -> impl Iterator<Item = QueueId> + '_ {
        let mut reader = self.queues;
        (0..self.queue_count).map_while(move |_| reader.varint().ok().map(QueueId))
    }
}

impl<'a> Batch<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`BatchError::Unknown`] or [`BatchError::Truncated`].
    pub fn new(payload: &'a [u8]) -> Result<Self, BatchError> {
        let mut reader = Reader::new(payload);
        if reader.u8()? != MAGIC_WHOLE || reader.u8()? != VERSION {
            return Err(BatchError::Unknown);
        }
        reader.u16()?;
        let chunks = reader.u32()?;
        let stamp = Millis(reader.u64()?);
        let _slots = reader.u32()?;
        let directory = reader.u32()? as usize;
        let body = payload
            .get(HEADER_SIZE..directory)
            .ok_or(BatchError::Truncated)?;
        Ok(Self {
            stamp,
            chunks,
            rest: Reader::new(body),
            slot: 0,
        })
    }

    /// The next chunk and its commands; `None` after the last. The commands must be read to the end before the next
    /// call, or the slots of later chunks are wrong.
    ///
    /// # Errors
    /// [`BatchError::Truncated`].
    pub fn next_chunk(&mut self) -> Result<Option<(Chunk, Items<'_, 'a>)>, BatchError> {
        if self.chunks == 0 {
            return Ok(None);
        }
        self.chunks -= 1;
        let node = NodeId(self.rest.u64()?);
        let incarnation = self.rest.u64()?;
        let first_seq = self.rest.u64()?;
        let commands = self.rest.u32()?;
        let bytes = self.rest.u32()? as usize;
        let reader = Reader::new(self.rest.bytes(bytes)?);
        let chunk = Chunk {
            pipe: PipeId { node, incarnation },
            first_seq,
            commands,
        };
        Ok(Some((
            chunk,
            Items {
                batch: self,
                reader,
                left: commands,
            },
        )))
    }
}

impl<'a> Items<'_, 'a> {
    /// The next command; `None` after the last.
    ///
    /// # Errors
    /// [`BatchError::Truncated`] or [`BatchError::Command`].
    pub fn next_item(&mut self) -> Result<Option<Item<'a>>, BatchError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let opcode = self.reader.u8()?;
        Ok(Some(match opcode {
            command::PUBLISH => Item::Publish(self.publish()?),
            command::OPAQUE => Item::Opaque(self.reader.blob()?),
            _ => match command::decode(opcode, &mut self.reader)? {
                Some(command) => Item::Command(command),
                None => return Err(BatchError::Command(opcode)),
            },
        }))
    }

    fn publish(&mut self) -> Result<PublishItem<'a>, BatchError> {
        let reader = &mut self.reader;
        let flags = reader.u8()?;
        let queue_count = reader.varint()?;
        let queues = *reader;
        for _ in 0..queue_count {
            reader.varint()?;
        }
        let ttl = if flags & 1 != 0 {
            Some(Millis(reader.varint()?))
        } else {
            None
        };
        let priority = if flags & 2 != 0 {
            Some(reader.u8()?)
        } else {
            None
        };
        let delay = if flags & 4 != 0 {
            Some(Millis(reader.varint()?))
        } else {
            None
        };
        let size = u32::try_from(reader.varint()?).map_err(|_| BatchError::Truncated)?;
        reader.u32()?;
        let length = reader.u32()? as usize;
        reader.bytes(length)?;
        let slot = self.batch.slot;
        self.batch.slot += 1;
        Ok(PublishItem {
            queues,
            queue_count,
            slot,
            size,
            ttl,
            priority,
            delay,
        })
    }
}
