//! The bytes of a watch: what a set did for one node, with the bodies of what it delivers.
//!
//! | message | fields |
//! | --- | --- |
//! | request | pipe, last entry seen (or that it is new), the set's incarnation it knows |
//! | head | incarnation of the set's owner, whether the watch goes on where it was, entry, pipe applied up to, leader |
//! | events | entry they end with, leader, events; bodies follow in their order |
//!
//! Not here: who reads them when.

use bytes::{BufMut, Bytes};

use crate::base::coding::{Reader, Truncated, Writer};
use crate::base::{ConsumerId, Millis, NodeId, PipeId, Position, QueueId};
use crate::cluster::ring::PipeEvent;
use crate::model::set::{Delivery, Reply, TimedOut};
use crate::raft::Frame;

/// What a watcher wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchRequest {
    /// Its pipe.
    pub pipe: PipeId,
    /// Last entry of which it has seen all; `None`: it has seen none, and begins now.
    pub after: Option<u64>,
    /// The owner's incarnation it knows, for a node's own set; 0: any.
    pub owner: u64,
}

/// The first message of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Incarnation of the node whose own set this is; 0 for a replicated set.
    pub owner: u64,
    /// Whether nothing is missing after the entry the watcher named.
    pub resumed: bool,
    /// The entry after which events follow.
    pub index: u64,
    /// What the set has applied of the pipe.
    pub applied: u64,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
}

/// Any later message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Events {
    /// The entry they end with.
    pub index: u64,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// What was done, each delivery with the part of its entry that holds its messages; empty: they cannot be read there.
    pub events: Vec<(PipeEvent, Bytes)>,
}

impl WatchRequest {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(40);
        out.put_u64_le(self.pipe.node.0);
        out.put_u64_le(self.pipe.incarnation);
        out.put_flag(self.after.is_some());
        out.put_u64_le(self.after.unwrap_or(0));
        out.put_u64_le(self.owner);
        out.into()
    }

    /// From bytes.
    ///
    /// # Errors
    /// They are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(bytes);
        let pipe = PipeId {
            node: NodeId(reader.u64()?),
            incarnation: reader.u64()?,
        };
        let (seen, after) = (reader.flag()?, reader.u64()?);
        Ok(Self {
            pipe,
            after: seen.then_some(after),
            owner: reader.u64()?,
        })
    }
}

fn put_leader(out: &mut Vec<u8>, leader: Option<NodeId>) {
    out.put_u64_le(leader.map_or(0, |leader| leader.0));
}

fn get_leader(reader: &mut Reader<'_>) -> Result<Option<NodeId>, Truncated> {
    let leader = NodeId(reader.u64()?);
    Ok((leader.0 != 0).then_some(leader))
}

impl Head {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(40);
        out.put_u64_le(self.owner);
        out.put_flag(self.resumed);
        out.put_u64_le(self.index);
        out.put_u64_le(self.applied);
        put_leader(&mut out, self.leader);
        out.into()
    }

    /// From bytes.
    ///
    /// # Errors
    /// They are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(bytes);
        Ok(Self {
            owner: reader.u64()?,
            resumed: reader.flag()?,
            index: reader.u64()?,
            applied: reader.u64()?,
            leader: get_leader(&mut reader)?,
        })
    }
}

const APPLIED: u8 = 1;
const REFUSED: u8 = 2;
const REPLY: u8 = 3;
const DELIVER: u8 = 4;
const CANCELLED: u8 = 5;
const GAP: u8 = 6;
const TIMED_OUT: u8 = 7;

impl Events {
    /// As the parts of a message: the fields, then the bodies uncopied.
    #[must_use]
    pub fn encode(self) -> Frame {
        let mut out = Vec::with_capacity(32 + self.events.len() * 32);
        out.put_u64_le(self.index);
        put_leader(&mut out, self.leader);
        out.put_varint(self.events.len() as u64);
        let mut bodies = Vec::new();
        for (event, body) in self.events {
            put_event(&mut out, &event);
            out.put_varint(body.len() as u64);
            bodies.push(body);
        }
        let mut frame = vec![Bytes::from(out)];
        frame.extend(bodies);
        frame
    }

    /// From a message; bodies are parts of it.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(message: &Bytes) -> Result<Self, Truncated> {
        let mut reader = Reader::new(message);
        let index = reader.u64()?;
        let leader = get_leader(&mut reader)?;
        let mut found = Vec::new();
        for _ in 0..reader.varint()? {
            let event = get_event(&mut reader)?;
            let length = usize::try_from(reader.varint()?).map_err(|_| Truncated)?;
            found.push((event, length));
        }
        let mut events = Vec::with_capacity(found.len());
        for (event, length) in found {
            let body = message.slice_ref(reader.bytes(length)?);
            events.push((event, body));
        }
        Ok(Self {
            index,
            leader,
            events,
        })
    }
}

fn put_event(out: &mut Vec<u8>, event: &PipeEvent) {
    match event {
        PipeEvent::Applied(seq) => {
            out.put_u8(APPLIED);
            out.put_varint(*seq);
        }
        PipeEvent::Gap(seq) => {
            out.put_u8(GAP);
            out.put_varint(*seq);
        }
        PipeEvent::Refused(seq) => {
            out.put_u8(REFUSED);
            out.put_varint(*seq);
        }
        PipeEvent::Reply(seq, reply) => {
            out.put_u8(REPLY);
            out.put_varint(*seq);
            put_reply(out, reply);
        }
        PipeEvent::Deliver(delivery) => {
            out.put_u8(DELIVER);
            put_delivery(out, delivery);
        }
        PipeEvent::Cancelled(consumer) => {
            out.put_u8(CANCELLED);
            out.put_varint(consumer.0);
        }
        PipeEvent::TimedOut(late) => {
            out.put_u8(TIMED_OUT);
            out.put_varint(late.consumer.0);
            out.put_flag(late.close);
            out.put_varint(late.timeout.0);
        }
    }
}

fn get_event(reader: &mut Reader<'_>) -> Result<PipeEvent, Truncated> {
    Ok(match reader.u8()? {
        APPLIED => PipeEvent::Applied(reader.varint()?),
        GAP => PipeEvent::Gap(reader.varint()?),
        REFUSED => PipeEvent::Refused(reader.varint()?),
        REPLY => PipeEvent::Reply(reader.varint()?, get_reply(reader)?),
        DELIVER => PipeEvent::Deliver(get_delivery(reader)?),
        CANCELLED => PipeEvent::Cancelled(ConsumerId(reader.varint()?)),
        TIMED_OUT => PipeEvent::TimedOut(TimedOut {
            consumer: ConsumerId(reader.varint()?),
            close: reader.flag()?,
            timeout: Millis(reader.varint()?),
        }),
        _ => return Err(Truncated),
    })
}

fn put_delivery(out: &mut Vec<u8>, delivery: &Delivery) {
    out.put_varint(delivery.consumer.0);
    out.put_varint(delivery.first_no);
    out.put_u64_le(delivery.first.0);
    out.put_varint(u64::from(delivery.count));
    out.put_u32_le(delivery.size);
    out.put_flag(delivery.redelivered);
    out.put_u32_le(delivery.acquired);
    out.put_u32_le(delivery.failed);
    out.put_varint(delivery.offset.map_or(0, |offset| offset.saturating_add(1)));
}

fn get_delivery(reader: &mut Reader<'_>) -> Result<Delivery, Truncated> {
    Ok(Delivery {
        consumer: ConsumerId(reader.varint()?),
        first_no: reader.varint()?,
        first: Position(reader.u64()?),
        count: u32::try_from(reader.varint()?).map_err(|_| Truncated)?,
        size: reader.u32()?,
        redelivered: reader.flag()?,
        acquired: reader.u32()?,
        failed: reader.u32()?,
        offset: reader.varint()?.checked_sub(1),
    })
}

fn put_reply(out: &mut Vec<u8>, reply: &Reply) {
    match reply {
        Reply::Done => out.put_u8(1),
        Reply::Count(count) => {
            out.put_u8(2);
            out.put_varint(*count);
        }
        Reply::Counts {
            ready,
            unsettled,
            consumers,
        } => {
            out.put_u8(3);
            out.put_varint(*ready);
            out.put_varint(*unsettled);
            out.put_u32_le(*consumers);
        }
        Reply::InUse => out.put_u8(4),
        Reply::NotEmpty => out.put_u8(5),
        Reply::NoQueue => out.put_u8(6),
        Reply::Subscribed => out.put_u8(7),
        Reply::ExclusiveUse => out.put_u8(8),
        Reply::Unsubscribed { deleted } => {
            out.put_u8(9);
            out.put_varint(deleted.map_or(0, |queue| queue.0));
        }
        Reply::Closed { deleted } => {
            out.put_u8(10);
            out.put_varint(deleted.len() as u64);
            for queue in deleted {
                out.put_varint(queue.0);
            }
        }
        Reply::Got { delivery, ready } => {
            out.put_u8(11);
            put_delivery(out, delivery);
            out.put_varint(*ready);
        }
        Reply::GotNothing => out.put_u8(12),
        Reply::Returned(times) => {
            out.put_u8(13);
            out.put_varint(*times);
        }
    }
}

fn get_reply(reader: &mut Reader<'_>) -> Result<Reply, Truncated> {
    Ok(match reader.u8()? {
        1 => Reply::Done,
        2 => Reply::Count(reader.varint()?),
        3 => Reply::Counts {
            ready: reader.varint()?,
            unsettled: reader.varint()?,
            consumers: reader.u32()?,
        },
        4 => Reply::InUse,
        5 => Reply::NotEmpty,
        6 => Reply::NoQueue,
        7 => Reply::Subscribed,
        8 => Reply::ExclusiveUse,
        9 => {
            let queue = QueueId(reader.varint()?);
            Reply::Unsubscribed {
                deleted: (queue.0 != 0).then_some(queue),
            }
        }
        10 => {
            let mut deleted = Vec::new();
            for _ in 0..reader.varint()? {
                deleted.push(QueueId(reader.varint()?));
            }
            Reply::Closed { deleted }
        }
        11 => Reply::Got {
            delivery: get_delivery(reader)?,
            ready: reader.varint()?,
        },
        12 => Reply::GotNothing,
        13 => Reply::Returned(reader.varint()?),
        _ => return Err(Truncated),
    })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn every_event_comes_back_from_its_bytes_with_its_body() {
        let delivery = Delivery {
            consumer: ConsumerId(1 << 60),
            first_no: 3,
            first: Position::new(5, 6),
            count: 7,
            size: 8,
            redelivered: true,
            acquired: 9,
            failed: 10,
            offset: Some(0),
        };
        let replies = [
            Reply::Done,
            Reply::Count(1),
            Reply::Counts {
                ready: 1,
                unsettled: 2,
                consumers: 3,
            },
            Reply::InUse,
            Reply::NotEmpty,
            Reply::NoQueue,
            Reply::Subscribed,
            Reply::ExclusiveUse,
            Reply::Unsubscribed { deleted: None },
            Reply::Unsubscribed {
                deleted: Some(QueueId(4)),
            },
            Reply::Closed {
                deleted: vec![QueueId(1), QueueId(2)],
            },
            Reply::Got { delivery, ready: 4 },
            Reply::GotNothing,
            Reply::Returned(5),
        ];
        let mut events: Vec<(PipeEvent, Bytes)> = vec![
            (PipeEvent::Applied(9), Bytes::new()),
            (PipeEvent::Gap(7), Bytes::new()),
            (PipeEvent::Refused(8), Bytes::new()),
            (PipeEvent::Deliver(delivery), Bytes::from_static(b"body")),
            (PipeEvent::Cancelled(ConsumerId(5)), Bytes::new()),
            (
                PipeEvent::TimedOut(TimedOut {
                    consumer: ConsumerId(6),
                    close: true,
                    timeout: Millis(1_800_000),
                }),
                Bytes::new(),
            ),
        ];
        for reply in replies {
            events.push((PipeEvent::Reply(1, reply), Bytes::from_static(b"x")));
        }
        let events = Events {
            index: 77,
            leader: Some(NodeId(2)),
            events,
        };
        let message = Bytes::from(events.clone().encode().concat());
        assert_eq!(Events::decode(&message), Ok(events));
        for cut in 0..message.len() {
            assert!(Events::decode(&message.slice(..cut)).is_err(), "{cut}");
        }
        let head = Head {
            owner: 1,
            resumed: true,
            index: 2,
            applied: 3,
            leader: None,
        };
        assert_eq!(Head::decode(&head.encode()), Ok(head));
        for after in [None, Some(4)] {
            let request = WatchRequest {
                pipe: PipeId {
                    node: NodeId(1),
                    incarnation: 2,
                },
                after,
                owner: 5,
            };
            assert_eq!(WatchRequest::decode(&request.encode()), Ok(request));
        }
    }
}
