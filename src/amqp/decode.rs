//! Bytes to frames.
//!
//! Need: every byte a client sends passes here, most of them as publishes. Shape: [`FrameDecoder`] looks at the
//! buffer in place and splits off only what a frame keeps (names, properties, body), so a hot frame costs reference
//! counts and no allocation. Rare methods are checked against their layout first and only then given to
//! `amq-protocol`, whose table parser has no bound on nesting.
//! Invariants: any chunking of the input decodes alike; after an error the decoder answers the same error for ever.
//! Limits: a payload may exceed the legal size by the 8 octets of overhead, as RabbitMQ allows.
//! Not here: which frame may come when (the session's).

use bytes::{Buf, Bytes, BytesMut};
use nom::IResult;
use nom::bytes::complete::take;
use nom::multi::length_data;
use nom::number::complete::{be_u8, be_u16, be_u32, be_u64};

use super::frame::{ContentHeader, Frame};
use super::layout::{self, Fault};
use super::method::{Method, Publish};
use super::properties::{self, RawProperties};
use super::{ProtocolError, ReplyCode};
use crate::base::ChannelId;

/// Last octet of every frame.
pub(super) const FRAME_END: u8 = 0xCE;
/// Octets before the payload.
const HEADER_BYTES: usize = 7;
/// Class, weight and body size of a content header.
const CONTENT_HEADER_BYTES: usize = 12;
/// Payload octets worth printing: more would be cut from the reply text anyway.
const PRINTED_BYTES_MAX: usize = 256;

type Parsed<'a, T> = IResult<&'a [u8], T, ()>;

/// Incremental decoder of one connection's input.
#[derive(Debug)]
pub struct FrameDecoder {
    frame_max: u32,
    failed: Option<Undecodable>,
}

/// An error, and the class and method it is about (0 and 0 when it is about no method).
type Undecodable = (ProtocolError, (u16, u16));

/// What a method frame keeps: either offsets into the payload or a finished method.
enum Parts {
    Publish {
        exchange: usize,
        routing_key: usize,
        bits: u8,
    },
    Get {
        queue: usize,
        bits: u8,
    },
    Done(Method),
}

impl FrameDecoder {
    /// A decoder that takes payloads of up to `frame_max` octets; 0 = no limit.
    #[must_use]
    pub fn new(frame_max: u32) -> Self {
        Self {
            frame_max,
            failed: None,
        }
    }

    /// Changes the limit for the frames that follow (tune-ok).
    pub fn set_frame_max(&mut self, frame_max: u32) {
        self.frame_max = frame_max;
    }

    /// Takes one frame off the front of `input`; `None` if it is not complete yet, and nothing is taken then.
    ///
    /// # Errors
    /// 501 for every malformed frame (spec/amqp-behaviour.md §1); the same error again on later calls.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, ProtocolError> {
        if let Some((error, _)) = &self.failed {
            return Err(error.clone());
        }
        self.next(input).map_err(|failed| {
            self.failed = Some(failed.clone());
            failed.0
        })
    }

    /// Class and method of what could not be decoded, for the close frame.
    #[must_use]
    pub fn failed_method(&self) -> (u16, u16) {
        self.failed.as_ref().map_or((0, 0), |(_, ids)| *ids)
    }

    fn next(&self, input: &mut BytesMut) -> Result<Option<Frame>, Undecodable> {
        let Ok((rest, (kind, channel, size))) = envelope(input) else {
            return Ok(None);
        };
        if self.frame_max != 0 && size > self.frame_max {
            let legal = i64::from(self.frame_max) - 8;
            let what = format!("{{frame_too_large,{size},{legal}}}");
            return Err((frame_error(kind, &[], &what), (0, 0)));
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let Some(&end) = rest.get(size) else {
            return Ok(None);
        };
        let payload = &rest[..size];
        if end != FRAME_END {
            let what = format!("{{invalid_frame_end_marker,{end}}}");
            return Err((frame_error(kind, payload, &what), (0, 0)));
        }
        let channel = ChannelId(channel);
        match kind {
            1 => {
                let parts = method(payload)?;
                let method = keep_method(input, size, parts);
                Ok(Some(Frame::Method { channel, method }))
            }
            2 => {
                let (class_id, weight, body_size) =
                    content_header(payload).map_err(|error| (error, (0, 0)))?;
                input.advance(HEADER_BYTES + CONTENT_HEADER_BYTES);
                let properties = input.split_to(size - CONTENT_HEADER_BYTES).freeze();
                input.advance(1);
                let header = ContentHeader {
                    class_id,
                    weight,
                    body_size,
                    properties: RawProperties(properties),
                };
                Ok(Some(Frame::Header { channel, header }))
            }
            3 => {
                input.advance(HEADER_BYTES);
                let body = keep(input, size);
                input.advance(1);
                Ok(Some(Frame::Body { channel, body }))
            }
            8 if size == 0 => {
                input.advance(HEADER_BYTES + 1);
                Ok(Some(Frame::Heartbeat { channel }))
            }
            _ => Err((frame_error(kind, payload, "unknown_frame"), (0, 0))),
        }
    }
}

fn envelope(input: &[u8]) -> Parsed<'_, (u8, u16, u32)> {
    let (input, kind) = be_u8(input)?;
    let (input, channel) = be_u16(input)?;
    let (input, size) = be_u32(input)?;
    Ok((input, (kind, channel, size)))
}

/// Splits `n` octets off without a reference count for none.
fn keep(input: &mut BytesMut, n: usize) -> Bytes {
    if n == 0 {
        Bytes::new()
    } else {
        input.split_to(n).freeze()
    }
}

/// Takes the whole frame off `input` and makes its method.
fn keep_method(input: &mut BytesMut, size: usize, parts: Parts) -> Method {
    match parts {
        Parts::Publish {
            exchange,
            routing_key,
            bits,
        } => {
            // Ids, ticket and the exchange's length octet come first.
            input.advance(HEADER_BYTES + 7);
            let exchange = keep(input, exchange);
            input.advance(1);
            let routing_key = keep(input, routing_key);
            input.advance(2);
            Method::Publish(Publish {
                exchange,
                routing_key,
                mandatory: bits & 1 != 0,
                immediate: bits & 2 != 0,
            })
        }
        Parts::Get { queue, bits } => {
            input.advance(HEADER_BYTES + 7);
            let queue = keep(input, queue);
            input.advance(2);
            Method::Get {
                queue,
                no_ack: bits & 1 != 0,
            }
        }
        Parts::Done(method) => {
            input.advance(HEADER_BYTES + size + 1);
            method
        }
    }
}

fn method(payload: &[u8]) -> Result<Parts, Undecodable> {
    let ids: Parsed<'_, (u16, u16)> = be_u16(payload)
        .and_then(|(rest, class)| be_u16(rest).map(|(rest, id)| (rest, (class, id))));
    let Ok((arguments, (class_id, method_id))) = ids else {
        return Err((frame_error(1, payload, "unknown_frame"), (0, 0)));
    };
    let undecodable = || (cannot_decode(arguments), (class_id, method_id));
    if class_id == 60
        && let Some(parsed) = hot(method_id, arguments)
    {
        return match parsed {
            Ok(([], Parts::Get { queue, .. })) if !is_utf8_queue(arguments, queue) => {
                Err((malformed_utf8(), (0, 0)))
            }
            Ok(([], parts)) => Ok(parts),
            _ => Err(undecodable()),
        };
    }
    let Some(layout) = layout::of(class_id, method_id) else {
        return Ok(Parts::Done(Method::Unknown {
            class_id,
            method_id,
        }));
    };
    match layout::check(layout, arguments) {
        Ok(()) => {}
        Err(Fault::Utf8) => return Err((malformed_utf8(), (0, 0))),
        Err(Fault::Shape) => return Err(undecodable()),
    }
    match amq_protocol::protocol::parse_class(payload) {
        Ok((_, class)) => Ok(Parts::Done(Method::Other(Box::new(class)))),
        Err(_) => Err(undecodable()),
    }
}

/// The hot methods of class 60; `None` for the others.
fn hot(method_id: u16, arguments: &[u8]) -> Option<Parsed<'_, Parts>> {
    match method_id {
        10 => Some(qos(arguments)),
        40 => Some(publish(arguments)),
        70 => Some(get(arguments)),
        80 => Some(settle(arguments, |delivery_tag, bits| Method::Ack {
            delivery_tag,
            multiple: bits & 1 != 0,
        })),
        90 => Some(settle(arguments, |delivery_tag, bits| Method::Reject {
            delivery_tag,
            requeue: bits & 1 != 0,
        })),
        120 => Some(settle(arguments, |delivery_tag, bits| Method::Nack {
            delivery_tag,
            multiple: bits & 1 != 0,
            requeue: bits & 2 != 0,
        })),
        _ => None,
    }
}

fn publish(input: &[u8]) -> Parsed<'_, Parts> {
    let (input, _ticket) = take(2_usize)(input)?;
    let (input, exchange) = shortstr(input)?;
    let (input, routing_key) = shortstr(input)?;
    let (input, bits) = be_u8(input)?;
    let parts = Parts::Publish {
        exchange: exchange.len(),
        routing_key: routing_key.len(),
        bits,
    };
    Ok((input, parts))
}

fn get(input: &[u8]) -> Parsed<'_, Parts> {
    let (input, _ticket) = take(2_usize)(input)?;
    let (input, queue) = shortstr(input)?;
    let (input, bits) = be_u8(input)?;
    let queue = queue.len();
    Ok((input, Parts::Get { queue, bits }))
}

fn qos(input: &[u8]) -> Parsed<'_, Parts> {
    let (input, prefetch_size) = be_u32(input)?;
    let (input, prefetch_count) = be_u16(input)?;
    let (input, bits) = be_u8(input)?;
    let global = bits & 1 != 0;
    Ok((
        input,
        Parts::Done(Method::Qos {
            prefetch_size,
            prefetch_count,
            global,
        }),
    ))
}

fn settle(input: &[u8], method: impl Fn(u64, u8) -> Method) -> Parsed<'_, Parts> {
    let (input, delivery_tag) = be_u64(input)?;
    let (input, bits) = be_u8(input)?;
    Ok((input, Parts::Done(method(delivery_tag, bits))))
}

fn shortstr(input: &[u8]) -> Parsed<'_, &[u8]> {
    use nom::Parser;
    length_data(be_u8).parse(input)
}

/// Whether the queue of basic.get, which follows ticket and length, is UTF-8.
fn is_utf8_queue(arguments: &[u8], queue: usize) -> bool {
    arguments
        .get(3..3 + queue)
        .is_some_and(|name| std::str::from_utf8(name).is_ok())
}

fn content_header(payload: &[u8]) -> Result<(u16, u16, u64), ProtocolError> {
    let fields = |input| -> Parsed<'_, (u16, u16, u64)> {
        let (input, class_id) = be_u16(input)?;
        let (input, weight) = be_u16(input)?;
        let (input, body_size) = be_u64(input)?;
        Ok((input, (class_id, weight, body_size)))
    };
    let Ok((list, header)) = fields(payload) else {
        return Err(frame_error(2, payload, "unknown_frame"));
    };
    // Another class is the session's to refuse, whatever its properties look like.
    if header.0 == 60 && !properties::check(list) {
        return Err(cannot_decode(list));
    }
    Ok(header)
}

fn octets(bytes: &[u8]) -> String {
    let printed: Vec<String> = bytes.iter().map(u8::to_string).collect();
    format!("<<{}>>", printed.join(","))
}

fn frame_error(kind: u8, payload: &[u8], what: &str) -> ProtocolError {
    let which = if payload.len() <= 16 {
        "all"
    } else {
        "first 16"
    };
    let shown = octets(&payload[..payload.len().min(16)]);
    let text = format!("type {kind}, {which} octets = {shown}: {what}");
    ProtocolError::new(ReplyCode::FrameError, text)
}

fn cannot_decode(bytes: &[u8]) -> ProtocolError {
    let shown = octets(&bytes[..bytes.len().min(PRINTED_BYTES_MAX)]);
    ProtocolError::new(ReplyCode::FrameError, format!("cannot decode {shown}"))
}

fn malformed_utf8() -> ProtocolError {
    ProtocolError::new(ReplyCode::FrameError, "Malformed UTF-8 in shortstr")
}
