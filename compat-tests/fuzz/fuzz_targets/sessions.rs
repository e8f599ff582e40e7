//! A connection that has been opened takes any frames, and answers or closes; it never panics, and its channels' requests
//! come one at a time. The input is a list of frames: kind of frame, channel, length, content.
//! How it is run: `docs/testing.md`.
#![no_main]

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use leveret::base::{ChannelId, ConsumerId, Millis};
use leveret::session::{Answer, ChannelAnswer, ChannelRequest, Connection, Request, SessionConfig};
use libfuzzer_sys::fuzz_target;

/// Methods a client sends, (class, method), so that the fuzzer need not guess their numbers.
const METHODS: [(u16, u16); 28] = [
    (20, 10),
    (20, 20),
    (20, 40),
    (20, 41),
    (40, 10),
    (40, 20),
    (40, 30),
    (40, 40),
    (50, 10),
    (50, 20),
    (50, 30),
    (50, 40),
    (50, 50),
    (60, 10),
    (60, 20),
    (60, 30),
    (60, 40),
    (60, 70),
    (60, 80),
    (60, 90),
    (60, 110),
    (60, 120),
    (85, 10),
    (90, 10),
    (90, 20),
    (90, 30),
    (10, 50),
    (10, 51),
];

fn frame(input: &mut BytesMut, kind: u8, channel: u16, payload: &[u8]) {
    input.put_u8(kind);
    input.put_u16(channel);
    input.put_u32(payload.len() as u32);
    input.put_slice(payload);
    input.put_u8(0xCE);
}

fn method(input: &mut BytesMut, channel: u16, (class, number): (u16, u16), arguments: &[u8]) {
    let mut payload = Vec::with_capacity(4 + arguments.len());
    payload.put_u16(class);
    payload.put_u16(number);
    payload.put_slice(arguments);
    frame(input, 1, channel, &payload);
}

fn opened() -> Connection {
    let config = SessionConfig::default();
    let mut tune = config.channel_max.to_be_bytes().to_vec();
    tune.put_u32(config.frame_max);
    tune.put_u16(0);
    let mut session = Connection::new(Arc::new(config), Millis(0));
    let mut input = BytesMut::from(&b"AMQP\x00\x00\x09\x01"[..]);
    let start = b"\0\0\0\0\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US";
    method(&mut input, 0, (10, 11), start);
    session.handle_input(&mut input, Millis(0));
    assert!(matches!(
        session.poll_request(),
        Some(Request::Login { .. })
    ));
    session.answer(Answer::LoggedIn {
        user: "guest".into(),
        impersonator: false,
    });
    method(&mut input, 0, (10, 31), &tune);
    method(&mut input, 0, (10, 40), b"\x01/\0\0");
    session.handle_input(&mut input, Millis(0));
    assert!(matches!(session.poll_request(), Some(Request::Open { .. })));
    session.answer(Answer::Opened);
    for channel in 1..4 {
        method(&mut input, channel, (20, 10), &[0]);
    }
    session.handle_input(&mut input, Millis(0));
    session
}

/// What a willing broker answers.
fn answer(session: &mut Connection, id: ChannelId, request: ChannelRequest, consumers: &mut u64) {
    let answer = match request {
        ChannelRequest::Publish(publish) => {
            if let Some(number) = publish.confirm {
                session.confirm(id, number, false);
            }
            return;
        }
        ChannelRequest::Settle(_) => return,
        ChannelRequest::Consume(consume) => {
            *consumers += 1;
            let consumer = ConsumerId(*consumers);
            let (tag, no_ack) = (consume.tag, consume.no_ack);
            let token = None;
            session.answer_channel(
                id,
                ChannelAnswer::Consuming {
                    consumer,
                    tag,
                    no_ack,
                    token,
                },
            );
            for no in 0..3 {
                session.deliver(id, consumer, no, false, b"e", b"k", b"\0\0", b"body");
            }
            return;
        }
        ChannelRequest::DeclareQueue(declare) => ChannelAnswer::QueueDeclared {
            queue: declare.queue,
            messages: 0,
            consumers: 0,
        },
        ChannelRequest::PurgeQueue { .. } | ChannelRequest::DeleteQueue { .. } => {
            ChannelAnswer::Count(1)
        }
        ChannelRequest::Get { .. } => ChannelAnswer::GotNothing,
        ChannelRequest::ConsumeReplies { tag } => {
            *consumers += 1;
            let (consumer, token) = (ConsumerId(*consumers), Some("token".into()));
            ChannelAnswer::Consuming {
                consumer,
                tag,
                no_ack: true,
                token,
            }
        }
        _ => ChannelAnswer::Done,
    };
    session.answer_channel(id, answer);
}

fn serve(session: &mut Connection, input: &mut BytesMut, consumers: &mut u64) {
    loop {
        match session.poll_request() {
            Some(Request::Channel(id, request)) => answer(session, id, request, consumers),
            Some(_) => session.answer(Answer::Done),
            None => {
                let before = input.len();
                session.handle_input(input, Millis(1));
                if input.len() == before {
                    return;
                }
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let (mut session, mut input, mut consumers) = (opened(), BytesMut::new(), 0);
    serve(&mut session, &mut input, &mut consumers);
    let mut rest = data;
    while let [kind, channel, size, tail @ ..] = rest {
        let (payload, tail) = tail.split_at(usize::from(*size).min(tail.len()));
        rest = tail;
        let (kind, channel) = (usize::from(*kind), u16::from(*channel % 4));
        match METHODS.get(kind) {
            Some(id) => method(&mut input, channel, *id, payload),
            None => frame(&mut input, [1, 2, 3, 8][kind % 4], channel, payload),
        }
        session.handle_input(&mut input, Millis(1));
        if kind % 2 == 0 {
            serve(&mut session, &mut input, &mut consumers);
        }
    }
    serve(&mut session, &mut input, &mut consumers);
    session.flush_confirms();
    std::hint::black_box(session.output().split());
});
