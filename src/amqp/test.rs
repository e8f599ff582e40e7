//! The wire, by golden bytes and by random frames.

use std::hint::black_box;

use amq_protocol::protocol::{basic, connection, queue};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::base::ChannelId;

const CHANNEL: ChannelId = ChannelId(1);

fn decode_all(bytes: &[u8], chunk: usize) -> Result<Vec<Frame>, ProtocolError> {
    let mut decoder = FrameDecoder::new(0);
    let mut input = BytesMut::new();
    let mut frames = Vec::new();
    for part in bytes.chunks(chunk.max(1)) {
        input.extend_from_slice(part);
        while let Some(frame) = decoder.decode(&mut input)? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, 0, 1];
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    out.extend_from_slice(payload);
    out.push(0xCE);
    out
}

fn method(payload: &[u8]) -> Method {
    match decode_all(&frame(1, payload), 3).unwrap().remove(0) {
        Frame::Method { method, .. } => method,
        other => panic!("{other:?}"),
    }
}

fn text_of(kind: u8, payload: &[u8]) -> String {
    let error = decode_all(&frame(kind, payload), 4096).unwrap_err();
    assert_eq!(error.code, ReplyCode::FrameError);
    error.text
}

#[test]
fn the_hot_methods_are_read_from_their_golden_bytes() {
    assert_eq!(
        method(b"\0\x3c\0\x28\0\0\x01e\x02rk\x01"),
        Method::Publish(Publish {
            exchange: Bytes::from_static(b"e"),
            routing_key: Bytes::from_static(b"rk"),
            mandatory: true,
            immediate: false,
        })
    );
    assert_eq!(
        method(b"\0\x3c\0\x50\0\0\0\0\0\0\x01\x02\x01"),
        Method::Ack {
            delivery_tag: 258,
            multiple: true
        }
    );
    assert_eq!(
        method(b"\0\x3c\0\x5a\0\0\0\0\0\0\0\x03\x01"),
        Method::Reject {
            delivery_tag: 3,
            requeue: true
        }
    );
    assert_eq!(
        method(b"\0\x3c\0\x78\0\0\0\0\0\0\0\x04\x02"),
        Method::Nack {
            delivery_tag: 4,
            multiple: false,
            requeue: true
        }
    );
    assert_eq!(
        method(b"\0\x3c\0\x46\0\0\x01q\x01"),
        Method::Get {
            queue: Bytes::from_static(b"q"),
            no_ack: true
        }
    );
    let unknown = Method::Unknown {
        class_id: 60,
        method_id: 999,
    };
    assert_eq!(method(b"\0\x3c\x03\xe7"), unknown);
}

#[test]
fn what_the_broker_sends_has_golden_bytes() {
    let check = |write: &dyn Fn(&mut BytesMut), kind: u8, payload: &[u8]| {
        let mut out = BytesMut::new();
        write(&mut out);
        assert_eq!(out[..], frame(kind, payload)[..]);
    };
    check(
        &|o| encode::deliver(o, CHANNEL, b"t", 9, true, b"e", b"k"),
        1,
        b"\0\x3c\0\x3c\x01t\0\0\0\0\0\0\0\x09\x01\x01e\x01k",
    );
    check(
        &|o| encode::get_ok(o, CHANNEL, 9, false, b"e", b"k", 5),
        1,
        b"\0\x3c\0\x47\0\0\0\0\0\0\0\x09\0\x01e\x01k\0\0\0\x05",
    );
    check(
        &|o| encode::ack(o, CHANNEL, 2, true),
        1,
        b"\0\x3c\0\x50\0\0\0\0\0\0\0\x02\x01",
    );
    check(
        &|o| encode::nack(o, CHANNEL, 2, true, true),
        1,
        b"\0\x3c\0\x78\0\0\0\0\0\0\0\x02\x03",
    );
    check(
        &|o| encode::basic_return(o, CHANNEL, 312, b"NO_ROUTE", b"e", b"k"),
        1,
        b"\0\x3c\0\x32\x01\x38\x08NO_ROUTE\x01e\x01k",
    );
    check(
        &|o| encode::content_header(o, CHANNEL, 3, &[]),
        2,
        b"\0\x3c\0\0\0\0\0\0\0\0\0\x03\0\0",
    );
    let tune = AMQPClass::Connection(connection::AMQPMethod::Tune(connection::Tune {
        channel_max: 2047,
        frame_max: 131_072,
        heartbeat: 60,
    }));
    check(
        &|o| encode::method(o, CHANNEL, &tune),
        1,
        b"\0\x0a\0\x1e\x07\xff\0\x02\0\0\0\x3c",
    );
    let close = AMQPClass::Connection(connection::AMQPMethod::Close(connection::Close {
        reply_code: 200,
        reply_text: "OK".into(),
        class_id: 0,
        method_id: 0,
    }));
    check(
        &|o| encode::method(o, CHANNEL, &close),
        1,
        b"\0\x0a\0\x32\0\xc8\x02OK\0\0\0\0",
    );
    let mut server_properties = FieldTable::default();
    server_properties.insert("a".into(), AMQPValue::Boolean(true));
    let start = AMQPClass::Connection(connection::AMQPMethod::Start(connection::Start {
        version_major: 0,
        version_minor: 9,
        server_properties,
        mechanisms: "PLAIN".into(),
        locales: "en_US".into(),
    }));
    check(
        &|o| encode::method(o, CHANNEL, &start),
        1,
        b"\0\x0a\0\x0a\0\x09\0\0\0\x04\x01at\x01\0\0\0\x05PLAIN\0\0\0\x05en_US",
    );
    let mut out = BytesMut::new();
    encode::heartbeat(&mut out);
    assert_eq!(out[..], *b"\x08\0\0\0\0\0\0\xce");
}

#[test]
fn a_payload_of_frame_max_is_taken_and_one_octet_more_refused_at_its_header() {
    let mut decoder = FrameDecoder::new(16);
    let mut input = BytesMut::from(&frame(3, &[7; 16])[..]);
    assert!(decoder.decode(&mut input).unwrap().is_some());
    let mut input = BytesMut::from(&frame(3, &[7; 17])[..7]);
    let error = decoder.decode(&mut input).unwrap_err();
    let text = "type 3, all octets = <<>>: {frame_too_large,17,8}";
    assert_eq!(error, ProtocolError::new(ReplyCode::FrameError, text));
    let mut good = BytesMut::from(&b"\x08\0\0\0\0\0\0\xce"[..]);
    assert_eq!(decoder.decode(&mut good).unwrap_err(), error);
}

#[test]
fn arguments_that_do_not_fit_name_their_method() {
    let mut decoder = FrameDecoder::new(4096);
    assert_eq!(decoder.failed_method(), (0, 0));
    let mut input = BytesMut::from(&frame(1, b"\0\x32\0\x0a\0\0")[..]);
    decoder.decode(&mut input).unwrap_err();
    assert_eq!(decoder.failed_method(), (50, 10));
}

#[test]
fn malformed_frames_are_refused_in_the_words_of_rabbitmq() {
    let mut bad_end = frame(3, b"ab");
    *bad_end.last_mut().unwrap() = 5;
    let text = decode_all(&bad_end, 1).unwrap_err().text;
    assert_eq!(
        text,
        "type 3, all octets = <<97,98>>: {invalid_frame_end_marker,5}"
    );
    assert!(text_of(9, b"").ends_with("unknown_frame"));
    assert!(text_of(8, b"x").ends_with("unknown_frame"));
    assert!(text_of(1, b"\0\x3c\0").ends_with("unknown_frame"));
    assert!(text_of(2, &[0; 11]).ends_with("unknown_frame"));
    assert!(text_of(9, &[0; 17]).starts_with("type 9, first 16 octets = <<0,"));
    assert_eq!(text_of(1, b"\0\x3c\0\x50\x01"), "cannot decode <<1>>");
    let utf8 = "Malformed UTF-8 in shortstr";
    assert_eq!(text_of(1, b"\0\x3c\0\x46\0\0\x01\xff\0"), utf8);
    assert_eq!(text_of(1, b"\0\x14\0\x0a\x01\xff"), utf8);
    assert!(decode_all(&frame(1, b"\0\x3c\0\x28\0\0\x01\xff\x01\xff\0"), 9).is_ok());
}

#[test]
fn properties_are_edited_without_touching_the_others() {
    let mut headers = FieldTable::default();
    headers.insert("a".into(), AMQPValue::LongInt(1));
    headers.insert("b".into(), AMQPValue::LongString("x".into()));
    let all = Properties {
        headers: Some(headers),
        delivery_mode: Some(2),
        reply_to: Some(Bytes::from_static(b"here")),
        expiration: Some(Bytes::from_static(b"100")),
        cluster_id: Some(Bytes::from_static(b"last")),
        ..Properties::default()
    };
    let edited = (all.encode().without_header(b"a").without_expiration())
        .with_reply_to(b"elsewhere")
        .with_headers_set(&[("b", AMQPValue::Void), ("c", AMQPValue::Boolean(true))]);
    assert!(properties::check(&edited.0));
    assert_eq!(edited.header(b"a"), None);
    assert_eq!(edited.header(b"b"), Some(AMQPValue::Void));
    assert_eq!(edited.iter_headers().count(), 2);
    let edited = edited.decode();
    assert_eq!(edited.reply_to.as_deref(), Some(&b"elsewhere"[..]));
    assert_eq!((edited.expiration, edited.delivery_mode), (None, Some(2)));
    assert_eq!(edited.cluster_id, all.cluster_id);
    let made = RawProperties::default().with_headers_set(&[("c", AMQPValue::Void)]);
    assert!(properties::check(&made.0) && made.header(b"c").is_some());
}

fn value() -> impl Strategy<Value = AMQPValue> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i8>().prop_map(AMQPValue::ShortShortInt),
        any::<u8>().prop_map(AMQPValue::ShortShortUInt),
        any::<i16>().prop_map(AMQPValue::ShortInt),
        any::<u16>().prop_map(AMQPValue::ShortUInt),
        any::<i32>().prop_map(AMQPValue::LongInt),
        any::<u32>().prop_map(AMQPValue::LongUInt),
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        any::<i32>().prop_map(|v| AMQPValue::Double(f64::from(v))),
        any::<i16>().prop_map(|v| AMQPValue::Float(f32::from(v))),
        any::<u64>().prop_map(AMQPValue::Timestamp),
        "[a-z]{0,9}".prop_map(|v| AMQPValue::LongString(v.into())),
        prop::collection::vec(any::<u8>(), 0..9).prop_map(|v| AMQPValue::ByteArray(v.into())),
        Just(AMQPValue::Void),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|v| AMQPValue::FieldArray(v.into())),
            prop::collection::btree_map("[a-z]{0,5}".prop_map(ShortString::from), inner, 0..4)
                .prop_map(|v| AMQPValue::FieldTable(v.into())),
        ]
    })
}

fn table() -> impl Strategy<Value = FieldTable> {
    prop::collection::btree_map("[a-z]{0,5}".prop_map(ShortString::from), value(), 0..5)
        .prop_map(FieldTable::from)
}

/// A declaration with arguments and a message with properties, written, and what must be read.
fn written(arguments: FieldTable, properties: &Properties, body: &[u8]) -> (BytesMut, AMQPClass) {
    let declare = AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
        queue: "q".into(),
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: true,
        nowait: false,
        arguments,
    }));
    let mut out = BytesMut::new();
    encode::method(&mut out, CHANNEL, &declare);
    let publish = AMQPClass::Basic(basic::AMQPMethod::Publish(basic::Publish {
        exchange: "".into(),
        routing_key: "key".into(),
        mandatory: true,
        immediate: false,
    }));
    encode::method(&mut out, CHANNEL, &publish);
    encode::content(&mut out, CHANNEL, 64, &properties.encode(), body);
    (out, declare)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_however_it_is_chunked(
        arguments in table(),
        headers in prop::option::of(table()),
        priority in any::<Option<u8>>(),
        timestamp in any::<Option<u64>>(),
        user in prop::option::of("[a-z]{0,20}"),
        body in prop::collection::vec(any::<u8>(), 0..200),
        chunk in 1_usize..50,
    ) {
        let stored = value::table_to_bytes(&arguments).unwrap();
        prop_assert_eq!(&value::table_from_bytes(&stored).unwrap(), &arguments);
        let properties = Properties {
            headers, priority, timestamp, user_id: user.map(Bytes::from), ..Properties::default()
        };
        let (bytes, declare) = written(arguments, &properties, &body);
        let frames = decode_all(&bytes, chunk).unwrap();
        prop_assert_eq!(&frames, &decode_all(&bytes, bytes.len()).unwrap());
        let expected = Frame::Method { channel: CHANNEL, method: Method::Other(Box::new(declare)) };
        prop_assert_eq!(&frames[0], &expected);
        let Frame::Header { header, .. } = &frames[2] else { panic!("{:?}", frames[2]) };
        prop_assert_eq!(header.properties.decode(), properties);
        let read: Vec<u8> = frames[3..].iter().flat_map(|f| match f {
            Frame::Body { body, .. } => body.to_vec(),
            other => panic!("{other:?}"),
        }).collect();
        prop_assert_eq!(read, body);
    }

    #[test]
    fn no_truncation_or_flipped_octet_panics(
        arguments in table(),
        headers in table(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let properties = Properties { headers: Some(headers), ..Properties::default() };
        let (bytes, _) = written(arguments, &properties, b"body");
        let mut bytes = bytes.to_vec();
        for (at, octet) in flips {
            let at = at.index(bytes.len());
            bytes[at] = octet;
        }
        for end in 0..=bytes.len() {
            for frame in decode_all(&bytes[..end], end).unwrap_or_default() {
                if let Frame::Header { header, .. } = frame {
                    black_box(header.properties.decode());
                    black_box(header.properties.with_reply_to(b"r").without_header(b"a").decode());
                }
            }
            black_box(RawProperties(Bytes::copy_from_slice(&bytes[..end])).without_expiration().decode());
        }
    }
}
