//! Frames to bytes, appended to the connection's output buffer.
//!
//! The hot methods and content are written without allocation (beyond the buffer's own growth); the rest through
//! `amq-protocol`, with one scratch buffer. Short strings are cut at their 255 octets. Nothing here can fail.

use bytes::{BufMut, BytesMut};

use super::AMQPClass;
use super::decode::FRAME_END;
use crate::base::ChannelId;

/// Starts a frame; returns where its size stands.
fn open(out: &mut BytesMut, kind: u8, channel: ChannelId) -> usize {
    out.put_u8(kind);
    out.put_u16(channel.0);
    let at = out.len();
    out.put_u32(0);
    at
}

/// Ends the frame whose size stands at `at`.
fn close(out: &mut BytesMut, at: usize) {
    let size = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&size.to_be_bytes());
    out.put_u8(FRAME_END);
}

/// Starts a method frame of class basic.
fn open_basic(out: &mut BytesMut, channel: ChannelId, method_id: u16) -> usize {
    let at = open(out, 1, channel);
    out.put_u16(60);
    out.put_u16(method_id);
    at
}

fn shortstr(out: &mut BytesMut, text: &[u8]) {
    let n = u8::try_from(text.len()).unwrap_or(u8::MAX);
    out.put_u8(n);
    out.put_slice(&text[..usize::from(n)]);
}

/// Any method. One that cannot be written (a table past 4 GiB) is left out: the types allow it, memory does not.
pub fn method(out: &mut BytesMut, channel: ChannelId, class: &AMQPClass) {
    let scratch = Vec::with_capacity(64);
    let written = amq_protocol::protocol::gen_class(class)(scratch.into());
    if let Ok(context) = written {
        let at = open(out, 1, channel);
        out.put_slice(&context.write);
        close(out, at);
    }
}

/// A heartbeat, on channel 0.
pub fn heartbeat(out: &mut BytesMut) {
    out.put_slice(&[8, 0, 0, 0, 0, 0, 0, FRAME_END]);
}

/// basic.deliver.
pub fn deliver(
    out: &mut BytesMut,
    channel: ChannelId,
    consumer_tag: &[u8],
    delivery_tag: u64,
    redelivered: bool,
    exchange: &[u8],
    routing_key: &[u8],
) {
    out.reserve(32 + consumer_tag.len() + exchange.len() + routing_key.len());
    let at = open_basic(out, channel, 60);
    shortstr(out, consumer_tag);
    out.put_u64(delivery_tag);
    out.put_u8(u8::from(redelivered));
    shortstr(out, exchange);
    shortstr(out, routing_key);
    close(out, at);
}

/// basic.get-ok.
pub fn get_ok(
    out: &mut BytesMut,
    channel: ChannelId,
    delivery_tag: u64,
    redelivered: bool,
    exchange: &[u8],
    routing_key: &[u8],
    message_count: u32,
) {
    let at = open_basic(out, channel, 71);
    out.put_u64(delivery_tag);
    out.put_u8(u8::from(redelivered));
    shortstr(out, exchange);
    shortstr(out, routing_key);
    out.put_u32(message_count);
    close(out, at);
}

/// basic.ack, as a confirm.
pub fn ack(out: &mut BytesMut, channel: ChannelId, tag: u64, multiple: bool) {
    let at = open_basic(out, channel, 80);
    out.put_u64(tag);
    out.put_u8(u8::from(multiple));
    close(out, at);
}

/// basic.nack, as a refused confirm.
pub fn nack(out: &mut BytesMut, channel: ChannelId, tag: u64, multiple: bool, requeue: bool) {
    let at = open_basic(out, channel, 120);
    out.put_u64(tag);
    out.put_u8(u8::from(multiple) | u8::from(requeue) << 1);
    close(out, at);
}

/// basic.return.
pub fn basic_return(
    out: &mut BytesMut,
    channel: ChannelId,
    code: u16,
    text: &[u8],
    exchange: &[u8],
    routing_key: &[u8],
) {
    let at = open_basic(out, channel, 50);
    out.put_u16(code);
    shortstr(out, text);
    shortstr(out, exchange);
    shortstr(out, routing_key);
    close(out, at);
}

/// Content header of class 60 with `body_size` octets to follow. Empty `properties` are written as no flags.
pub fn content_header(out: &mut BytesMut, channel: ChannelId, body_size: u64, properties: &[u8]) {
    out.reserve(24 + properties.len());
    let at = open(out, 2, channel);
    out.put_u16(60);
    out.put_u16(0);
    out.put_u64(body_size);
    if properties.is_empty() {
        out.put_u16(0);
    } else {
        out.put_slice(properties);
    }
    close(out, at);
}

/// One body frame with all of `part`, which must fit the peer's frame-max.
pub fn body_frame(out: &mut BytesMut, channel: ChannelId, part: &[u8]) {
    out.reserve(part.len() + 8);
    let at = open(out, 3, channel);
    out.put_slice(part);
    close(out, at);
}

/// Content header and body frames of at most `frame_max - 8` octets each. `frame_max` 0 = one frame; an empty body has
/// none.
pub fn content(
    out: &mut BytesMut,
    channel: ChannelId,
    frame_max: u32,
    properties: &[u8],
    body: &[u8],
) {
    content_header(out, channel, body.len() as u64, properties);
    if body.is_empty() {
        return;
    }
    let most = match frame_max {
        0 => body.len(),
        // Below the overhead nothing fits; one octet a frame at least ends.
        max => usize::try_from(max.saturating_sub(8).max(1)).unwrap_or(usize::MAX),
    };
    for part in body.chunks(most) {
        body_frame(out, channel, part);
    }
}
