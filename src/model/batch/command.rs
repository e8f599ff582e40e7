//! The bytes of one command: an opcode, then its fields. Varints for ids and counts.

use bytes::BufMut;

use crate::base::coding::{Reader, Truncated, Writer};
use crate::base::{ConsumerId, Millis, NodeId, QueueId, SessionId};
use crate::model::set::{
    Command, ConsumerConfig, Credit, DelayedRetry, Outcome, Overdue, Overflow, QueueConfig,
    StreamRules, StreamStart,
};

pub(super) const PUBLISH: u8 = 1;
pub(super) const OPAQUE: u8 = 2;
const CREATE: u8 = 3;
const CONFIGURE: u8 = 4;
const DELETE: u8 = 5;
const PURGE: u8 = 6;
const INSPECT: u8 = 7;
const SUBSCRIBE: u8 = 8;
const UNSUBSCRIBE: u8 = 9;
const GRANT: u8 = 10;
const LIMIT_CHANNEL: u8 = 11;
const GET: u8 = 12;
const SETTLE: u8 = 13;
const CLOSE_SESSION: u8 = 14;
const OPEN_PIPE: u8 = 15;
const DEAD_LETTERED: u8 = 16;
const TICK: u8 = 17;
const RETIRE: u8 = 19;
/// 18 was one without a condition.
const CLOSE_NODE: u8 = 20;
const RETURN: u8 = 21;

/// Version of a queue's configuration inside a command.
const CONFIG_VERSION: u8 = 2;

/// Writes any command but a publish, which the builder writes with its message.
pub(super) fn encode(out: &mut Vec<u8>, command: &Command) {
    match command {
        Command::Enqueue(_) => unreachable!("publishes are written with their message"),
        Command::Create { queue, config } => {
            out.put_u8(CREATE);
            out.put_varint(queue.0);
            encode_config(out, config);
        }
        Command::Configure { queue, config } => {
            out.put_u8(CONFIGURE);
            out.put_varint(queue.0);
            encode_config(out, config);
        }
        Command::Delete {
            queue,
            if_unused,
            if_empty,
        } => {
            out.put_u8(DELETE);
            out.put_varint(queue.0);
            out.put_u8(u8::from(*if_unused) | u8::from(*if_empty) << 1);
        }
        Command::Purge { queue } => {
            out.put_u8(PURGE);
            out.put_varint(queue.0);
        }
        Command::Inspect { queue, touch } => {
            out.put_u8(INSPECT);
            out.put_varint(queue.0);
            out.put_flag(*touch);
        }
        Command::Subscribe {
            consumer,
            queue,
            config,
        } => {
            out.put_u8(SUBSCRIBE);
            out.put_varint(consumer.0);
            out.put_varint(queue.0);
            encode_consumer(out, config);
        }
        Command::Unsubscribe { consumer } => {
            out.put_u8(UNSUBSCRIBE);
            out.put_varint(consumer.0);
        }
        Command::Grant { consumer, add } => {
            out.put_u8(GRANT);
            out.put_varint(consumer.0);
            out.put_varint(u64::from(*add));
        }
        Command::LimitChannel {
            session,
            channel,
            limit,
        } => {
            out.put_u8(LIMIT_CHANNEL);
            out.put_varint(session.0);
            out.put_u16_le(*channel);
            out.put_varint(u64::from(*limit));
        }
        Command::Get {
            queue,
            holder,
            session,
            channel,
            no_ack,
        } => {
            out.put_u8(GET);
            out.put_varint(queue.0);
            out.put_varint(holder.0);
            out.put_varint(session.0);
            out.put_u16_le(*channel);
            out.put_flag(*no_ack);
        }
        Command::Settle {
            consumer,
            first,
            last,
            outcome,
        } => {
            out.put_u8(SETTLE);
            out.put_varint(consumer.0);
            out.put_varint(*first);
            out.put_varint(last - first);
            encode_outcome(out, *outcome);
        }
        Command::CloseSession { session, channel } => {
            out.put_u8(CLOSE_SESSION);
            out.put_varint(session.0);
            out.put_u16_le(channel.unwrap_or(0));
        }
        Command::OpenPipe => out.put_u8(OPEN_PIPE),
        Command::DeadLettered { queue, id } => {
            out.put_u8(DEAD_LETTERED);
            out.put_varint(queue.0);
            out.put_varint(*id);
        }
        Command::Tick => out.put_u8(TICK),
        Command::Retire { queue } => {
            out.put_u8(RETIRE);
            out.put_varint(queue.0);
        }
        Command::CloseNode {
            node,
            incarnation,
            returns,
        } => {
            out.put_u8(CLOSE_NODE);
            out.put_varint(node.0);
            out.put_varint(*incarnation);
            out.put_varint(*returns);
        }
        Command::Return => out.put_u8(RETURN),
    }
}

/// Reads what [`encode`] wrote, after the opcode. `None`: no such opcode.
pub(super) fn decode(opcode: u8, reader: &mut Reader<'_>) -> Result<Option<Command>, Truncated> {
    Ok(Some(match opcode {
        CREATE => Command::Create {
            queue: queue(reader)?,
            config: decode_config(reader)?,
        },
        CONFIGURE => Command::Configure {
            queue: queue(reader)?,
            config: decode_config(reader)?,
        },
        DELETE => {
            let queue = queue(reader)?;
            let flags = reader.u8()?;
            Command::Delete {
                queue,
                if_unused: flags & 1 != 0,
                if_empty: flags & 2 != 0,
            }
        }
        PURGE => Command::Purge {
            queue: queue(reader)?,
        },
        INSPECT => Command::Inspect {
            queue: queue(reader)?,
            touch: reader.flag()?,
        },
        SUBSCRIBE => Command::Subscribe {
            consumer: ConsumerId(reader.varint()?),
            queue: queue(reader)?,
            config: decode_consumer(reader)?,
        },
        UNSUBSCRIBE => Command::Unsubscribe {
            consumer: ConsumerId(reader.varint()?),
        },
        GRANT => Command::Grant {
            consumer: ConsumerId(reader.varint()?),
            add: small(reader)?,
        },
        LIMIT_CHANNEL => Command::LimitChannel {
            session: SessionId(reader.varint()?),
            channel: reader.u16()?,
            limit: small(reader)?,
        },
        GET => Command::Get {
            queue: queue(reader)?,
            holder: ConsumerId(reader.varint()?),
            session: SessionId(reader.varint()?),
            channel: reader.u16()?,
            no_ack: reader.flag()?,
        },
        SETTLE => {
            let consumer = ConsumerId(reader.varint()?);
            let first = reader.varint()?;
            let last = first.checked_add(reader.varint()?).ok_or(Truncated)?;
            Command::Settle {
                consumer,
                first,
                last,
                outcome: decode_outcome(reader)?,
            }
        }
        CLOSE_SESSION => {
            let session = SessionId(reader.varint()?);
            let channel = reader.u16()?;
            Command::CloseSession {
                session,
                channel: (channel != 0).then_some(channel),
            }
        }
        OPEN_PIPE => Command::OpenPipe,
        DEAD_LETTERED => Command::DeadLettered {
            queue: queue(reader)?,
            id: reader.varint()?,
        },
        TICK => Command::Tick,
        RETIRE => Command::Retire {
            queue: queue(reader)?,
        },
        CLOSE_NODE => Command::CloseNode {
            node: NodeId(reader.varint()?),
            incarnation: reader.varint()?,
            returns: reader.varint()?,
        },
        RETURN => Command::Return,
        _ => return Ok(None),
    }))
}

fn queue(reader: &mut Reader<'_>) -> Result<QueueId, Truncated> {
    reader.varint().map(QueueId)
}

fn small(reader: &mut Reader<'_>) -> Result<u32, Truncated> {
    u32::try_from(reader.varint()?).map_err(|_| Truncated)
}

fn encode_outcome(out: &mut Vec<u8>, outcome: Outcome) {
    match outcome {
        Outcome::Ack => out.put_u8(0),
        Outcome::Requeue { failed: false } => out.put_u8(1),
        Outcome::Requeue { failed: true } => out.put_u8(2),
        Outcome::Reject => out.put_u8(3),
        Outcome::Extend { visibility } => {
            out.put_u8(4);
            out.put_varint(visibility.0);
        }
    }
}

fn decode_outcome(reader: &mut Reader<'_>) -> Result<Outcome, Truncated> {
    Ok(match reader.u8()? {
        0 => Outcome::Ack,
        1 => Outcome::Requeue { failed: false },
        2 => Outcome::Requeue { failed: true },
        3 => Outcome::Reject,
        4 => Outcome::Extend {
            visibility: Millis(reader.varint()?),
        },
        _ => return Err(Truncated),
    })
}

/// An optional number as a varint, one higher, 0 for none.
fn put_option(out: &mut Vec<u8>, value: Option<u64>) {
    out.put_varint(value.map_or(0, |value| value.saturating_add(1)));
}

fn option(reader: &mut Reader<'_>) -> Result<Option<u64>, Truncated> {
    Ok(reader.varint()?.checked_sub(1))
}

fn overdue(byte: u8) -> Result<Overdue, Truncated> {
    match byte {
        0 => Ok(Overdue::Nothing),
        1 => Ok(Overdue::Cancel),
        2 => Ok(Overdue::Close),
        _ => Err(Truncated),
    }
}

fn encode_config(out: &mut Vec<u8>, config: &QueueConfig) {
    out.put_u8(CONFIG_VERSION);
    out.put_u8(
        u8::from(config.dead_letters)
            | u8::from(config.single_active) << 1
            | u8::from(config.count_every_return) << 2
            | u8::from(config.auto_delete) << 3
            | u8::from(config.at_least_once) << 4
            | u8::from(config.active_by_priority) << 5,
    );
    out.put_u8(match config.overflow {
        Overflow::DropHead => 0,
        Overflow::RejectPublish => 1,
        Overflow::RejectPublishDlx => 2,
    });
    put_option(out, config.message_ttl.map(|ttl| ttl.0));
    put_option(out, config.expires.map(|expires| expires.0));
    put_option(out, config.max_length);
    put_option(out, config.max_length_bytes);
    put_option(out, config.max_priority.map(u64::from));
    out.put_u8(config.default_priority);
    put_option(out, config.delivery_limit.map(u64::from));
    out.put_varint(config.visibility.0);
    out.put_u8(config.overdue as u8);
    match config.delayed_retry {
        None => out.put_u8(0),
        Some(retry) => {
            out.put_u8(1 | u8::from(retry.failed) << 1 | u8::from(retry.returned) << 2);
            out.put_varint(retry.min.0);
            out.put_varint(retry.max.0);
        }
    }
    out.put_flag(config.stream.is_some());
    if let Some(rules) = config.stream {
        put_option(out, rules.max_age.map(|age| age.0));
        put_option(out, rules.max_bytes);
    }
}

fn decode_config(reader: &mut Reader<'_>) -> Result<Box<QueueConfig>, Truncated> {
    if reader.u8()? != CONFIG_VERSION {
        return Err(Truncated);
    }
    let flags = reader.u8()?;
    let overflow = match reader.u8()? {
        0 => Overflow::DropHead,
        1 => Overflow::RejectPublish,
        2 => Overflow::RejectPublishDlx,
        _ => return Err(Truncated),
    };
    let mut config = QueueConfig {
        dead_letters: flags & 1 != 0,
        single_active: flags & 2 != 0,
        count_every_return: flags & 4 != 0,
        auto_delete: flags & 8 != 0,
        at_least_once: flags & 16 != 0,
        active_by_priority: flags & 32 != 0,
        overflow,
        message_ttl: option(reader)?.map(Millis),
        expires: option(reader)?.map(Millis),
        max_length: option(reader)?,
        max_length_bytes: option(reader)?,
        max_priority: option(reader)?.map(|p| u8::try_from(p).unwrap_or(u8::MAX)),
        default_priority: reader.u8()?,
        delivery_limit: option(reader)?.map(|l| u32::try_from(l).unwrap_or(u32::MAX)),
        visibility: Millis(reader.varint()?),
        overdue: overdue(reader.u8()?)?,
        delayed_retry: None,
        stream: None,
    };
    let retry = reader.u8()?;
    if retry != 0 {
        config.delayed_retry = Some(DelayedRetry {
            failed: retry & 2 != 0,
            returned: retry & 4 != 0,
            min: Millis(reader.varint()?),
            max: Millis(reader.varint()?),
        });
    }
    if reader.flag()? {
        config.stream = Some(StreamRules {
            max_age: option(reader)?.map(Millis),
            max_bytes: option(reader)?,
        });
    }
    Ok(Box::new(config))
}

fn encode_consumer(out: &mut Vec<u8>, config: &ConsumerConfig) {
    out.put_varint(config.session.0);
    out.put_u16_le(config.channel);
    let (window, credit) = match config.credit {
        Credit::Prefetch(credit) => (0, credit),
        Credit::Window(credit) => (1, credit),
    };
    let (no_ack, exclusive) = (u8::from(config.no_ack), u8::from(config.exclusive));
    out.put_u8(no_ack | exclusive << 1 | window << 2 | u8::from(config.until_sent) << 3);
    out.put_varint(u64::from(credit));
    out.put_i64_le(i64::from(config.priority));
    put_option(out, config.visibility.map(|visibility| visibility.0));
    out.put_u8(config.overdue.map_or(0xFF, |overdue| overdue as u8));
    let (start, value) = match config.start {
        StreamStart::Next => (0, 0),
        StreamStart::First => (1, 0),
        StreamStart::Last => (2, 0),
        StreamStart::Offset(offset) => (3, offset),
        StreamStart::Time(time) => (4, time.0),
        StreamStart::Ago(span) => (5, span.0),
    };
    out.put_u8(start);
    out.put_varint(value);
}

fn decode_start(reader: &mut Reader<'_>) -> Result<StreamStart, Truncated> {
    let (start, value) = (reader.u8()?, reader.varint()?);
    Ok(match start {
        0 => StreamStart::Next,
        1 => StreamStart::First,
        2 => StreamStart::Last,
        3 => StreamStart::Offset(value),
        4 => StreamStart::Time(Millis(value)),
        5 => StreamStart::Ago(Millis(value)),
        _ => return Err(Truncated),
    })
}

fn decode_consumer(reader: &mut Reader<'_>) -> Result<ConsumerConfig, Truncated> {
    let session = SessionId(reader.varint()?);
    let channel = reader.u16()?;
    let flags = reader.u8()?;
    let credit = small(reader)?;
    Ok(ConsumerConfig {
        session,
        channel,
        no_ack: flags & 1 != 0,
        exclusive: flags & 2 != 0,
        until_sent: flags & 8 != 0,
        credit: if flags & 4 == 0 {
            Credit::Prefetch(credit)
        } else {
            Credit::Window(credit)
        },
        priority: i32::try_from(reader.i64()?).map_err(|_| Truncated)?,
        visibility: option(reader)?.map(Millis),
        overdue: match reader.u8()? {
            0xFF => None,
            byte => Some(overdue(byte)?),
        },
        start: decode_start(reader)?,
    })
}
