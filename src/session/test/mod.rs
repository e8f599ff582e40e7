//! The session seen from outside: frames in, frames and requests out. A client and a broker in one hand.

mod any;
mod channel;
mod close;
mod consume;
mod handshake;
mod publish;

use std::sync::Arc;

use amq_protocol::frame::{AMQPFrame, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::{basic, channel as class, connection as conn};
use bytes::{BufMut, Bytes, BytesMut};

use super::core::IntoClass;
use super::*;
use crate::amqp::{AMQPClass, AMQPValue, FieldTable, LongString, ProtocolError, ReplyCode};
use crate::base::{ChannelId, ConsumerId, Millis};

const HEADER: &[u8] = b"AMQP\0\0\x09\x01";

fn frame(channel: u16, method: impl IntoClass) -> Vec<u8> {
    let frame = AMQPFrame::Method(channel, method.class());
    gen_frame(&frame)(WriteContext::from(Vec::new()))
        .unwrap()
        .write
}

fn raw(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.put_u16(channel);
    out.put_u32(payload.len() as u32);
    out.put_slice(payload);
    out.put_u8(0xce);
    out
}

fn publish_frame(channel: u16, exchange: &str, key: &str, immediate: bool) -> Vec<u8> {
    frame(
        channel,
        basic::AMQPMethod::Publish(basic::Publish {
            exchange: exchange.into(),
            routing_key: key.into(),
            mandatory: false,
            immediate,
        }),
    )
}

fn header_frame(channel: u16, body_size: u64, properties: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.put_u16(60);
    payload.put_u16(0);
    payload.put_u64(body_size);
    payload.put_slice(properties);
    raw(2, channel, &payload)
}

fn properties(properties: &basic::AMQPProperties) -> Vec<u8> {
    basic::gen_properties(properties)(WriteContext::from(Vec::new()))
        .unwrap()
        .write
}

/// A whole publish to the default exchange.
fn publish(channel: u16, key: &str, body: &str) -> Vec<u8> {
    publish_with(channel, key, &[0, 0], body)
}

fn publish_with(channel: u16, key: &str, properties: &[u8], body: &str) -> Vec<u8> {
    let mut out = publish_frame(channel, "", key, false);
    out.extend(header_frame(channel, body.len() as u64, properties));
    if !body.is_empty() {
        out.extend(raw(3, channel, body.as_bytes()));
    }
    out
}

fn channel_open() -> class::AMQPMethod {
    class::AMQPMethod::Open(class::Open {})
}

fn channel_close() -> class::AMQPMethod {
    class::AMQPMethod::Close(class::Close {
        reply_code: 200,
        reply_text: "".into(),
        class_id: 0,
        method_id: 0,
    })
}

fn channel_close_ok() -> class::AMQPMethod {
    class::AMQPMethod::CloseOk(class::CloseOk {})
}

/// Frames as text: channel, then the method or content, without the codec's wrappings.
fn shown(mut bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    if bytes.starts_with(b"AMQP") {
        lines.push(format!("{:?}", Bytes::copy_from_slice(&bytes[..8])));
        bytes = &bytes[8..];
    }
    while !bytes.is_empty() {
        let (rest, frame) = parse_frame(bytes).unwrap();
        bytes = rest;
        lines.push(match frame {
            AMQPFrame::Method(channel, class) => {
                let text = plain(&format!("{class:?}"));
                // Class(Method(Method { … })) -> Method { … }
                let inner = text.splitn(3, '(').nth(2).unwrap_or_default();
                format!(
                    "{channel} {}",
                    inner.trim_end_matches(')').trim_end_matches(" {}")
                )
            }
            AMQPFrame::Header(channel, header) => format!("{channel} header {}", header.body_size),
            AMQPFrame::Body(channel, body) => {
                format!("{channel} body {}", String::from_utf8_lossy(&body))
            }
            AMQPFrame::Heartbeat => "0 heartbeat".to_owned(),
            other => format!("{other:?}"),
        });
    }
    lines
}

fn plain(text: &str) -> String {
    let text = unwrap(text, "LongString([", "])", |bytes| {
        let bytes: Vec<u8> = bytes.split(", ").filter_map(|b| b.parse().ok()).collect();
        format!("{:?}", String::from_utf8_lossy(&bytes))
    });
    let text = unwrap(&text, "ShortString(\"", "\")", |inner| {
        format!("\"{inner}\"")
    });
    let text = unwrap(&text, "ConsumerId(", ")", str::to_owned);
    unwrap(&text, "ChannelId(", ")", str::to_owned)
}

fn unwrap(text: &str, before: &str, after: &str, show: impl Fn(&str) -> String) -> String {
    let mut parts = text.split(before);
    let mut out = parts.next().unwrap().to_owned();
    for part in parts {
        let (inner, rest) = part.split_once(after).unwrap();
        out.push_str(&show(inner));
        out.push_str(rest);
    }
    out
}

/// The parts of `text` that are promised to be in `line`, one after the other, separated by `…`.
fn matches(line: &str, text: &str) -> bool {
    let mut rest = line;
    text.split('…').all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

#[track_caller]
fn assert_lines(lines: &[String], expected: &[&str]) {
    assert!(
        lines.len() == expected.len() && lines.iter().zip(expected).all(|(l, e)| matches(l, e)),
        "got {lines:#?}\nexpected {expected:#?}"
    );
}

/// A session with its input.
struct Peer {
    session: Connection,
    input: BytesMut,
    now: Millis,
}

impl Peer {
    fn new(config: SessionConfig) -> Self {
        Self {
            session: Connection::new(Arc::new(config), Millis(0)),
            input: BytesMut::new(),
            now: Millis(0),
        }
    }

    /// A session with an open connection whose client has all capabilities.
    fn running() -> Self {
        Self::running_with(SessionConfig::default(), true)
    }

    fn running_with(config: SessionConfig, capable: bool) -> Self {
        let (channel_max, frame_max) = (config.channel_max, config.frame_max);
        let mut peer = Self::new(config);
        peer.bytes(HEADER);
        peer.bytes(&frame(0, start_ok("PLAIN", "\0guest\0guest", capable)));
        peer.session.answer(logged_in());
        peer.bytes(&frame(0, tune_ok(channel_max, frame_max, 10)));
        peer.bytes(&frame(0, open()));
        peer.session.answer(Answer::Opened);
        assert_eq!(peer.requests().len(), 2);
        assert_eq!(peer.sent().len(), 3);
        peer
    }

    /// A running session with channel 1 open.
    fn with_channel() -> Self {
        let mut peer = Self::running();
        peer.open_channel(1);
        peer
    }

    fn open_channel(&mut self, channel: u16) {
        self.send(channel, channel_open());
        assert_lines(&self.requests(), &[&format!("{channel} Open")]);
        self.answer(channel, ChannelAnswer::Done);
        assert_lines(&self.sent(), &[&format!("{channel} OpenOk")]);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.session.handle_input(&mut self.input, self.now);
    }

    fn send(&mut self, channel: u16, method: impl IntoClass) {
        self.bytes(&frame(channel, method));
    }

    fn answer(&mut self, channel: u16, answer: ChannelAnswer) {
        self.session.answer_channel(ChannelId(channel), answer);
    }

    fn requests(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(request) = self.session.poll_request() {
            lines.push(match request {
                Request::Channel(channel, request) => {
                    format!("{channel} {}", plain(&format!("{request:?}")))
                }
                request => plain(&format!("{request:?}")),
            });
        }
        lines
    }

    fn sent(&mut self) -> Vec<String> {
        shown(&self.session.output().split())
    }

    /// What the client sees and the broker is asked after one more frame.
    #[track_caller]
    fn expect(&mut self, requests: &[&str], sent: &[&str]) {
        assert_lines(&self.requests(), requests);
        assert_lines(&self.sent(), sent);
    }

    /// Consumes as consumer 7 with tag `c`.
    fn consume(&mut self, channel: u16, no_ack: bool) {
        self.send(channel, consume("q", "c", no_ack));
        assert_eq!(self.requests().len(), 1);
        self.answer(channel, consuming(7, "c", no_ack));
        assert_lines(&self.sent(), &["ConsumeOk { consumer_tag: \"c\" }"]);
    }

    fn deliver(&mut self, channel: u16, consumer: u64, no: u64) -> bool {
        self.session.deliver(
            ChannelId(channel),
            ConsumerId(consumer),
            crate::session::Lease {
                consumer: ConsumerId(consumer),
                no,
            },
            false,
            b"x",
            b"k",
            &[0, 0],
            b"hello",
        )
    }
}

fn start_ok(mechanism: &str, response: &str, capable: bool) -> conn::AMQPMethod {
    let mut capabilities = FieldTable::default();
    for name in [
        "consumer_cancel_notify",
        "connection.blocked",
        "authentication_failure_close",
    ] {
        capabilities.insert(name.into(), AMQPValue::Boolean(capable));
    }
    let mut client_properties = FieldTable::default();
    client_properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    client_properties.insert(
        "connection_name".into(),
        AMQPValue::LongString(LongString::from("test")),
    );
    conn::AMQPMethod::StartOk(conn::StartOk {
        client_properties,
        mechanism: mechanism.into(),
        response: LongString::from(response),
        locale: "en_US".into(),
    })
}

fn logged_in() -> Answer {
    Answer::LoggedIn {
        user: "guest".to_owned(),
        impersonator: false,
    }
}

fn tune_ok(channel_max: u16, frame_max: u32, heartbeat: u16) -> conn::AMQPMethod {
    conn::AMQPMethod::TuneOk(conn::TuneOk {
        channel_max,
        frame_max,
        heartbeat,
    })
}

fn open() -> conn::AMQPMethod {
    conn::AMQPMethod::Open(conn::Open {
        virtual_host: "/".into(),
    })
}

fn close() -> conn::AMQPMethod {
    conn::AMQPMethod::Close(conn::Close {
        reply_code: 200,
        reply_text: "bye".into(),
        class_id: 0,
        method_id: 0,
    })
}

fn close_ok() -> conn::AMQPMethod {
    conn::AMQPMethod::CloseOk(conn::CloseOk {})
}

fn consume(queue: &str, tag: &str, no_ack: bool) -> basic::AMQPMethod {
    basic::AMQPMethod::Consume(basic::Consume {
        queue: queue.into(),
        consumer_tag: tag.into(),
        no_local: false,
        no_ack,
        exclusive: false,
        nowait: false,
        arguments: FieldTable::default(),
    })
}

fn consuming(consumer: u64, tag: &str, no_ack: bool) -> ChannelAnswer {
    ChannelAnswer::Consuming {
        consumer: ConsumerId(consumer),
        tag: tag.to_owned(),
        no_ack,
        token: None,
    }
}

fn not_found() -> ProtocolError {
    ProtocolError::new(ReplyCode::NotFound, "no queue 'q' in vhost '/'")
}

/// For methods that are given ready-made.
impl IntoClass for AMQPClass {
    fn class(self) -> AMQPClass {
        self
    }
}
