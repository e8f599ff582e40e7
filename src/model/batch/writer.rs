//! Building an entry: commands of one pipe are appended as they come, and sealed once.
//!
//! The buffer is the only copy of a body in user space. Large payloads go out in the buffer itself, which comes back to
//! the pool when the last `Bytes` of it is dropped: fresh pages cost more than all the rest. Smaller ones are copied into
//! pooled buffers of their size, so that a cached one-message entry does not hold a batch's buffer.

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use parking_lot::Mutex;

use crate::base::coding::Writer;
use crate::base::{Millis, PipeId, QueueId};
use crate::model::set::Command;

use super::message::{self, MessageParts};
use super::{CHUNK_HEADER_SIZE, HEADER_SIZE, MAGIC_WHOLE, VERSION, command};

/// Payloads below this are copied into memory of their own: a cached entry must not hold a much larger buffer.
const COPY_BELOW: usize = 256 * 1024;
/// Payloads below this are too small to be worth a pooled buffer.
const POOL_FROM: usize = 1 << CLASS_FIRST;
/// Buffers are pooled by powers of two, from 4 KiB to 4 MiB; larger ones go back to the allocator.
const CLASS_FIRST: u32 = 12;
const CLASSES: usize = 11;
/// Bytes of unused buffers kept per power of two.
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Recycled buffers, by size.
#[derive(Clone, Debug, Default)]
pub struct BufferPool(Arc<[Mutex<Vec<Vec<u8>>>; CLASSES]>);

impl BufferPool {
    /// An empty buffer of at least `size` bytes, at most twice that.
    fn take(&self, size: usize) -> Vec<u8> {
        let class = size.next_power_of_two().ilog2().max(CLASS_FIRST);
        let pooled = self.class(class).and_then(|free| free.lock().pop());
        pooled.unwrap_or_else(|| Vec::with_capacity(1 << class))
    }

    fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let class = buffer.capacity().checked_ilog2().unwrap_or(0);
        if let Some(free) = self.class(class) {
            let mut free = free.lock();
            if free.len() < KEPT_BYTES_MAX >> class {
                free.push(buffer);
            }
        }
    }

    fn class(&self, class: u32) -> Option<&Mutex<Vec<Vec<u8>>>> {
        self.0.get(class.checked_sub(CLASS_FIRST)? as usize)
    }
}

/// A sealed payload's buffer, on its way back to the pool.
struct Pooled {
    buffer: Vec<u8>,
    pool: BufferPool,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.buffer));
    }
}

/// What a publish says besides its message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishOptions {
    /// Per-message TTL, ms.
    pub ttl: Option<Millis>,
    /// Priority property.
    pub priority: Option<u8>,
    /// Delay, ms.
    pub delay: Option<Millis>,
}

/// Collects commands of one pipe.
#[derive(Debug)]
pub struct BatchBuilder {
    pool: BufferPool,
    buffer: Vec<u8>,
    directory: Vec<u32>,
    commands: u32,
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new(pool: BufferPool) -> Self {
        let mut builder = Self {
            buffer: pool.take(COPY_BELOW),
            pool,
            directory: Vec::new(),
            commands: 0,
        };
        builder.begin();
        builder
    }

    fn begin(&mut self) {
        self.buffer.clear();
        self.buffer.resize(HEADER_SIZE + CHUNK_HEADER_SIZE, 0);
        self.directory.clear();
        self.commands = 0;
    }

    /// Commands so far.
    #[must_use]
    pub fn commands(&self) -> u32 {
        self.commands
    }

    /// Bytes the sealed payload will have.
    #[must_use]
    pub fn size(&self) -> usize {
        self.buffer.len() + self.directory.len() * 4
    }

    /// Appends a publish to at least one queue; its one command has one sequence number.
    pub fn publish(
        &mut self,
        queues: &[QueueId],
        options: PublishOptions,
        parts: &MessageParts<'_>,
    ) {
        assert!(!queues.is_empty(), "a publish without queues is no command");
        let out = &mut self.buffer;
        out.put_u8(command::PUBLISH);
        let flags = u8::from(options.ttl.is_some())
            | u8::from(options.priority.is_some()) << 1
            | u8::from(options.delay.is_some()) << 2;
        out.put_u8(flags);
        out.put_varint(queues.len() as u64);
        for queue in queues {
            out.put_varint(queue.0);
        }
        if let Some(ttl) = options.ttl {
            out.put_varint(ttl.0);
        }
        if let Some(priority) = options.priority {
            out.put_u8(priority);
        }
        if let Some(delay) = options.delay {
            out.put_varint(delay.0);
        }
        let size: usize = parts.body.iter().map(Bytes::len).sum();
        out.put_varint(size as u64);
        let (offset, written) = message::encode(out, parts);
        assert_eq!(size, written, "body size");
        self.directory
            .push(u32::try_from(offset).unwrap_or(u32::MAX));
        self.commands += 1;
    }

    /// Appends any other command.
    pub fn command(&mut self, command: &Command) {
        command::encode(&mut self.buffer, command);
        self.commands += 1;
    }

    /// Appends bytes another machine understands (the topology's commands).
    pub fn opaque(&mut self, bytes: &[u8]) {
        self.buffer.put_u8(command::OPAQUE);
        self.buffer.put_blob(bytes);
        self.commands += 1;
    }

    /// The payload of all that was appended; the builder is empty again. `first_seq` is the sequence number of the
    /// first command in `pipe`, `stamp` the leader's clock.
    pub fn seal(&mut self, pipe: PipeId, first_seq: u64, stamp: Millis) -> Bytes {
        let bytes = self.buffer.len() - HEADER_SIZE - CHUNK_HEADER_SIZE;
        let directory_offset = self.buffer.len() as u32;
        for offset in &self.directory {
            self.buffer.put_u32_le(*offset);
        }
        let mut head = &mut self.buffer[..HEADER_SIZE + CHUNK_HEADER_SIZE];
        head.put_u8(MAGIC_WHOLE);
        head.put_u8(VERSION);
        head.put_u16_le(0);
        head.put_u32_le(1);
        head.put_u64_le(stamp.0);
        head.put_u32_le(self.directory.len() as u32);
        head.put_u32_le(directory_offset);
        head.put_u64_le(0);
        head.put_u64_le(pipe.node.0);
        head.put_u64_le(pipe.incarnation);
        head.put_u64_le(first_seq);
        head.put_u32_le(self.commands);
        head.put_u32_le(bytes as u32);
        let payload = match self.buffer.len() {
            small if small < POOL_FROM => Bytes::copy_from_slice(&self.buffer),
            size if size < COPY_BELOW => {
                let mut copy = self.pool.take(size);
                copy.extend_from_slice(&self.buffer);
                self.pooled(copy)
            }
            size => {
                let buffer = std::mem::replace(&mut self.buffer, self.pool.take(size));
                self.pooled(buffer)
            }
        };
        self.begin();
        payload
    }

    fn pooled(&self, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Pooled {
            buffer,
            pool: self.pool.clone(),
        })
    }
}
