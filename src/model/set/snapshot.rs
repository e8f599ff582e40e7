//! The bytes of a snapshot: all state of the machine, cold pages by id only.
//!
//! | field | size | why |
//! | --- | --- | --- |
//! | magic `LVQM` | 4 | |
//! | version | 1 | [`VERSION`] |
//! | body | | varints; lists are a count and their items, in the machine's own order |
//! | crc32 | 4 | of all before it |
//!
//! A list is read item by item, so a count that lies cannot reserve memory. Timers are not stored: they follow
//! from what is armed. Not here: the contents of pages (pages.rs).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::command::{Credit, DelayedRetry, Overdue, Overflow, QueueConfig, StreamRules};
use super::effect::DeathReason;
use super::lease::{Channel, Consumer, Lease, Piece, Timer};
use super::machine::{Pipe, SetMachine, SnapshotError};
use super::pages::{Pages, Run, get_run, put_run};
use super::queue::Queue;
use super::ready::PageRef;
use super::stream::{Span, Stream, StreamPage};
use super::{Flow, LiveMap};
use crate::base::coding::{Reader, Truncated, Writer};
use crate::base::{ConsumerId, Millis, NodeId, PipeId, Position, QueueId, SessionId};

const MAGIC: &[u8; 4] = b"LVQM";
/// The version written.
pub(super) const VERSION: u8 = 5;

type Out = Vec<u8>;
type In<'a, 'b> = &'a mut Reader<'b>;

/// A value that has a place in the snapshot.
trait Stored: Sized {
    fn put(&self, out: &mut Out);
    fn get(from: In<'_, '_>) -> Result<Self, Truncated>;
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Stored for $type {
            fn put(&self, out: &mut Out) { out.put_varint(u64::from(*self)); }
            fn get(from: In<'_, '_>) -> Result<Self, Truncated> {
                Self::try_from(from.varint()?).map_err(|_| Truncated)
            }
        }
    )*};
}
number!(u8, u16, u32, u64);

macro_rules! newtype {
    ($($type:ident),*) => {$(
        impl Stored for $type {
            fn put(&self, out: &mut Out) { self.0.put(out); }
            fn get(from: In<'_, '_>) -> Result<Self, Truncated> { Ok(Self(Stored::get(from)?)) }
        }
    )*};
}
newtype!(Millis, Position, QueueId, ConsumerId, SessionId, NodeId);

macro_rules! fields {
    ($type:ident { $($field:ident),* }) => {
        impl Stored for $type {
            fn put(&self, out: &mut Out) { $(self.$field.put(out);)* }
            fn get(from: In<'_, '_>) -> Result<Self, Truncated> {
                Ok(Self { $($field: Stored::get(from)?),* })
            }
        }
    };
}
/// Has no place there: a replica counts from when it knows the queue.
impl Stored for Flow {
    fn put(&self, _out: &mut Out) {}
    fn get(_from: In<'_, '_>) -> Result<Self, Truncated> {
        Ok(Self::default())
    }
}
fields!(PipeId { node, incarnation });
fields!(Pipe {
    incarnation,
    last_seq,
    returns
});
fields!(Channel { limit, unsettled });
fields!(DelayedRetry {
    failed,
    returned,
    min,
    max
});
fields!(PageRef {
    id,
    messages,
    bytes,
    index_min,
    index_max
});
fields!(Piece {
    run,
    acquired,
    failed,
    level
});
fields!(Lease {
    queue,
    piece,
    deadline
});
fields!(QueueConfig {
    message_ttl,
    expires,
    max_length,
    max_length_bytes,
    overflow,
    dead_letters,
    at_least_once,
    max_priority,
    default_priority,
    single_active,
    active_by_priority,
    delivery_limit,
    count_every_return,
    visibility,
    overdue,
    auto_delete,
    delayed_retry,
    stream
});
fields!(StreamRules { max_age, max_bytes });
fields!(Span { offset, run });
fields!(StreamPage {
    id,
    offset,
    messages,
    bytes,
    since,
    until,
    index_min,
    index_max
});
fields!(Stream {
    next,
    head,
    middle,
    tail,
    waiting
});

impl Stored for bool {
    fn put(&self, out: &mut Out) {
        out.put_flag(*self);
    }
    fn get(from: In<'_, '_>) -> Result<Self, Truncated> {
        from.flag()
    }
}

impl Stored for i32 {
    fn put(&self, out: &mut Out) {
        self.cast_unsigned().put(out);
    }
    fn get(from: In<'_, '_>) -> Result<Self, Truncated> {
        Ok(u32::get(from)?.cast_signed())
    }
}

impl Stored for Run {
    fn put(&self, out: &mut Out) {
        put_run(out, self, &mut 0);
    }
    fn get(from: In<'_, '_>) -> Result<Self, Truncated> {
        get_run(from, &mut 0)
    }
}

impl<T: Stored> Stored for Option<T> {
    fn put(&self, out: &mut Out) {
        out.put_flag(self.is_some());
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn get(from: In<'_, '_>) -> Result<Self, Truncated> {
        Ok(if from.flag()? {
            Some(T::get(from)?)
        } else {
            None
        })
    }
}

impl<T: Stored> Stored for Box<T> {
    fn put(&self, out: &mut Out) {
        (**self).put(out);
    }
    fn get(from: In<'_, '_>) -> Result<Self, Truncated> {
        T::get(from).map(Self::new)
    }
}

impl<A: Stored, B: Stored> Stored for (A, B) {
    fn put(&self, out: &mut Out) {
        self.0.put(out);
        self.1.put(out);
    }
    fn get(from: In<'_, '_>) -> Result<Self, Truncated> {
        Ok((A::get(from)?, B::get(from)?))
    }
}

impl<A: Stored, B: Stored, C: Stored> Stored for (A, B, C) {
    fn put(&self, out: &mut Out) {
        self.0.put(out);
        self.1.put(out);
        self.2.put(out);
    }
    fn get(from: In<'_, '_>) -> Result<Self, Truncated> {
        Ok((A::get(from)?, B::get(from)?, C::get(from)?))
    }
}

macro_rules! list {
    ($type:ident, $add:ident $(, $bound:ident)?) => {
        impl<T: Stored $(+ $bound)?> Stored for $type<T> {
            fn put(&self, out: &mut Out) {
                self.len().put_len(out);
                self.iter().for_each(|item| item.put(out));
            }
            fn get(from: In<'_, '_>) -> Result<Self, Truncated> {
                let mut list = Self::new();
                for _ in 0..from.varint()? {
                    list.$add(T::get(from)?);
                }
                Ok(list)
            }
        }
    };
}

trait PutLen {
    fn put_len(&self, out: &mut Out);
}
impl PutLen for usize {
    fn put_len(&self, out: &mut Out) {
        out.put_varint(*self as u64);
    }
}
list!(Vec, push);
list!(VecDeque, push_back);
list!(BTreeSet, insert, Ord);

impl<K: Stored + Ord, V: Stored> Stored for BTreeMap<K, V> {
    fn put(&self, out: &mut Out) {
        self.len().put_len(out);
        for (key, value) in self {
            key.put(out);
            value.put(out);
        }
    }
    fn get(from: In<'_, '_>) -> Result<Self, Truncated> {
        let mut map = Self::new();
        for _ in 0..from.varint()? {
            map.insert(K::get(from)?, V::get(from)?);
        }
        Ok(map)
    }
}

impl<T: Stored> Stored for Reverse<T> {
    fn put(&self, out: &mut Out) {
        self.0.put(out);
    }
    fn get(from: In<'_, '_>) -> Result<Self, Truncated> {
        Ok(Self(T::get(from)?))
    }
}

impl Stored for Overflow {
    fn put(&self, out: &mut Out) {
        out.push(match self {
            Self::DropHead => 0,
            Self::RejectPublish => 1,
            Self::RejectPublishDlx => 2,
        });
    }
    fn get(from: In<'_, '_>) -> Result<Self, Truncated> {
        match from.u8()? {
            0 => Ok(Self::DropHead),
            1 => Ok(Self::RejectPublish),
            2 => Ok(Self::RejectPublishDlx),
            _ => Err(Truncated),
        }
    }
}

impl Stored for Overdue {
    fn put(&self, out: &mut Out) {
        out.push(*self as u8);
    }
    fn get(from: In<'_, '_>) -> Result<Self, Truncated> {
        match from.u8()? {
            0 => Ok(Self::Nothing),
            1 => Ok(Self::Cancel),
            2 => Ok(Self::Close),
            _ => Err(Truncated),
        }
    }
}

impl Stored for DeathReason {
    fn put(&self, out: &mut Out) {
        out.push(match self {
            Self::Rejected => 0,
            Self::Expired => 1,
            Self::MaxLen => 2,
            Self::DeliveryLimit => 3,
        });
    }
    fn get(from: In<'_, '_>) -> Result<Self, Truncated> {
        match from.u8()? {
            0 => Ok(Self::Rejected),
            1 => Ok(Self::Expired),
            2 => Ok(Self::MaxLen),
            3 => Ok(Self::DeliveryLimit),
            _ => Err(Truncated),
        }
    }
}

impl Stored for Credit {
    fn put(&self, out: &mut Out) {
        let (kind, count) = match self {
            Self::Prefetch(count) => (0, count),
            Self::Window(count) => (1, count),
        };
        out.push(kind);
        count.put(out);
    }
    fn get(from: In<'_, '_>) -> Result<Self, Truncated> {
        match from.u8()? {
            0 => Ok(Self::Prefetch(u32::get(from)?)),
            1 => Ok(Self::Window(u32::get(from)?)),
            _ => Err(Truncated),
        }
    }
}

use super::lease::Leases;
use super::queue::Level;
use super::ready::Ready;
fields!(Ready { head, middle, tail });
fields!(Level { returned, ready });
fields!(Leases {
    plain,
    extended,
    by_deadline,
    last_deadline
});
fields!(Consumer {
    queue,
    session,
    channel,
    pipe,
    attached,
    getter,
    no_ack,
    until_sent,
    priority,
    credit,
    visibility,
    overdue,
    parked,
    limited,
    next_no,
    unsettled,
    leases,
    on_way,
    armed,
    cursor
});
fields!(Queue {
    id,
    config,
    levels,
    stream,
    ready,
    ready_bytes,
    unsettled,
    unsettled_bytes,
    delayed,
    delayed_count,
    delayed_bytes,
    outbox,
    outbox_bytes,
    next_dead,
    attached,
    rotation,
    active,
    heir,
    exclusive,
    holders,
    last_used,
    flow,
    heads_armed,
    delayed_armed,
    expires_armed
});

impl SetMachine {
    /// The state as bytes. Pages are named, not contained: keep them for as long as the snapshot is needed.
    pub fn snapshot(&mut self) -> Vec<u8> {
        self.encode()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.push(VERSION);
        let ground = &self.ground;
        self.index.put(&mut out);
        ground.now.put(&mut out);
        self.pipes.put(&mut out);
        self.queues.put(&mut out);
        self.members.put(&mut out);
        self.opened.put(&mut out);
        self.moved.put(&mut out);
        ground.consumers.put(&mut out);
        ground.channels.put(&mut out);
        ground.live.buckets().put(&mut out);
        let mut totals = ground.totals;
        for word in totals.words() {
            word.put(&mut out);
        }
        ground.store.lock().next_id.put(&mut out);
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// The machine a snapshot was made of.
    ///
    /// # Errors
    /// [`SnapshotError::Version`] for a version it does not know, [`SnapshotError::Damaged`] for anything else.
    pub fn restore(bytes: &[u8], pages: Box<dyn Pages>) -> Result<Self, SnapshotError> {
        let (body, crc) = bytes
            .split_last_chunk::<4>()
            .ok_or(SnapshotError::Damaged)?;
        if !body.starts_with(MAGIC) || crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(SnapshotError::Damaged);
        }
        let mut from = Reader::new(&body[MAGIC.len()..]);
        match from.u8() {
            Ok(VERSION) => {}
            Ok(version) => return Err(SnapshotError::Version { version }),
            Err(Truncated) => return Err(SnapshotError::Damaged),
        }
        let machine = Self::decode(&mut from, pages).map_err(|_| SnapshotError::Damaged)?;
        if from.is_empty() {
            Ok(machine)
        } else {
            Err(SnapshotError::Damaged)
        }
    }

    fn decode(from: In<'_, '_>, pages: Box<dyn Pages>) -> Result<Self, Truncated> {
        let mut machine = Self::new(pages);
        machine.index = Stored::get(from)?;
        machine.ground.now = Stored::get(from)?;
        machine.pipes = Stored::get(from)?;
        machine.queues = Stored::get(from)?;
        machine.members = Stored::get(from)?;
        machine.opened = Stored::get(from)?;
        machine.moved = Stored::get(from)?;
        machine.ground.consumers = Stored::get(from)?;
        machine.ground.channels = Stored::get(from)?;
        machine.ground.live = LiveMap::from_buckets(Stored::get(from)?);
        for word in machine.ground.totals.words() {
            *word = Stored::get(from)?;
        }
        machine.ground.store.get_mut().next_id = Stored::get(from)?;
        machine.rearm();
        Ok(machine)
    }

    fn rearm(&mut self) {
        let timers = &mut self.ground.timers;
        for (id, consumer) in &self.ground.consumers {
            timers.extend(consumer.armed.map(|at| (at, Timer::Leases(*id))));
        }
        for (id, queue) in &self.queues {
            timers.extend(queue.heads_armed.map(|at| (at, Timer::Heads(*id))));
            timers.extend(queue.delayed_armed.map(|at| (at, Timer::Delayed(*id))));
            timers.extend(queue.expires_armed.map(|at| (at, Timer::Expires(*id))));
        }
    }
}
