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

    /// An empty buffer for at least `size` bytes.
    #[must_use]
    pub fn lend(&self, size: usize) -> PooledBuffer {
        PooledBuffer {
            buffer: self.take(size),
            pool: self.clone(),
        }
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

/// A recycled buffer that goes back to its pool when the last `Bytes` made of it is dropped.
#[derive(Debug)]
pub struct PooledBuffer {
    buffer: Vec<u8>,
    pool: BufferPool,
}

impl PooledBuffer {
    /// What is in it so far.
    #[must_use]
    pub fn filled(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// The content for good. A short one is copied, so that it does not hold a page.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        if self.buffer.len() < POOL_FROM {
            return Bytes::copy_from_slice(&self.buffer);
        }
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for PooledBuffer {
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
        let size = self.buffer.len();
        let payload = if size < POOL_FROM {
            Bytes::copy_from_slice(&self.buffer)
        } else if size < COPY_BELOW {
            let mut copy = self.pool.lend(size);
            copy.filled().extend_from_slice(&self.buffer);
            copy.freeze()
        } else {
            let full = std::mem::replace(&mut self.buffer, self.pool.take(size));
            PooledBuffer {
                buffer: full,
                pool: self.pool.clone(),
            }
            .freeze()
        };
        self.begin();
        payload
    }
}

/// Puts the leader's clock into a payload that another node sealed. `false`: it is no payload.
#[must_use]
pub fn restamp(payload: &mut [u8], stamp: Millis) -> bool {
    let whole = payload.first() == Some(&MAGIC_WHOLE) && payload.len() >= HEADER_SIZE;
    if whole && let Some(field) = payload.get_mut(STAMP_AT..STAMP_AT + 8) {
        field.copy_from_slice(&stamp.0.to_le_bytes());
        return true;
    }
    false
}

/// Where the stamp stands in a payload's header.
const STAMP_AT: usize = 8;
