use amq_protocol::protocol::basic::AMQPProperties;
use amq_protocol::protocol::confirm;

use super::*;
use crate::amqp::FieldArray;

fn select(nowait: bool) -> confirm::AMQPMethod {
    confirm::AMQPMethod::Select(confirm::Select { nowait })
}

fn headers(name: &str, value: AMQPValue) -> AMQPProperties {
    let mut table = FieldTable::default();
    table.insert(name.into(), value);
    AMQPProperties::default().with_headers(table)
}

fn published(peer: &mut Peer) -> PublishRequest {
    match peer.session.poll_request() {
        Some(Request::Channel(_, ChannelRequest::Publish(publish))) => publish,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_publish_keeps_the_clients_bytes() {
    let mut peer = Peer::with_channel();
    let sent = properties(&AMQPProperties::default().with_delivery_mode(2));
    peer.bytes(&publish_with(1, "key", &sent, "hello"));
    let publish = published(&mut peer);
    assert_eq!(&publish.routing_key[..], b"key");
    assert_eq!(&publish.properties.0[..], &sent[..]);
    assert_eq!(
        (&publish.body.parts[0][..], publish.body.size),
        (&b"hello"[..], 5)
    );
    assert_eq!((publish.confirm, publish.ttl_ms), (None, None));
    assert!(publish.more_keys.is_empty());
}

#[test]
fn faults_of_a_publish_have_their_codes_and_texts() {
    let plain = AMQPProperties::default;
    let table = [
        (
            plain().with_expiration("10ms".into()),
            "406…invalid expiration '10ms': {leftover_string,\\\"ms\\\"}",
        ),
        (
            plain().with_user_id("other".into()),
            "406…user_id property set to 'other' but authenticated user was 'guest'",
        ),
        (
            plain().with_reply_to("amq.rabbitmq.reply-to".into()),
            "406…fast reply consumer does not exist",
        ),
        (
            headers("CC", AMQPValue::LongString("x".into())),
            "406…invalid message: {unacceptable_type_in_header,\\\"CC\\\",longstr}",
        ),
        (
            headers("BCC", AMQPValue::LongInt(1)),
            "406…invalid message: {unacceptable_type_in_header,\\\"BCC\\\",signedint}",
        ),
    ];
    for (sent, text) in table {
        let mut peer = Peer::with_channel();
        peer.bytes(&publish_with(1, "q", &properties(&sent), "x"));
        peer.expect(&["1 CheckPublish"], &[]);
        peer.answer(1, ChannelAnswer::Done);
        peer.expect(&["1 Close"], &[]);
        peer.answer(1, ChannelAnswer::Done);
        peer.expect(
            &[],
            &[&format!(
                "1 Close {{ reply_code: {text}…class_id: 60, method_id: 40"
            )],
        );
    }
}

#[test]
fn a_missing_exchange_is_told_before_what_is_wrong_with_the_properties() {
    let mut peer = Peer::with_channel();
    let sent = AMQPProperties::default().with_expiration("10ms".into());
    peer.bytes(&publish_with(1, "q", &properties(&sent), "x"));
    peer.expect(&["1 CheckPublish"], &[]);
    let missing = ProtocolError::new(ReplyCode::NotFound, "no exchange 'e' in vhost '/'");
    peer.answer(1, ChannelAnswer::Failed(missing));
    peer.expect(&["1 Close"], &[]);
    peer.answer(1, ChannelAnswer::Done);
    peer.expect(&[], &["404…class_id: 60, method_id: 40"]);
}

#[test]
fn immediate_is_not_implemented_and_comes_before_everything_else() {
    let mut peer = Peer::with_channel();
    peer.bytes(&publish_frame(1, "", "q", true));
    peer.bytes(&header_frame(1, 0, &[0, 0]));
    peer.expect(&["CloseConnection"], &[]);
    peer.session.answer(Answer::Done);
    peer.expect(
        &[],
        &["540…NOT_IMPLEMENTED - immediate=true…class_id: 60, method_id: 40"],
    );
}

#[test]
fn a_message_too_large_is_refused_after_its_last_byte() {
    let config = SessionConfig {
        max_message_size: 4,
        ..SessionConfig::default()
    };
    let mut peer = Peer::running_with(config, true);
    peer.open_channel(1);
    peer.bytes(&publish(1, "q", "1234"));
    peer.expect(&["1 Publish"], &[]);
    peer.bytes(&publish(1, "q", "12345"));
    peer.expect(&["1 Close"], &[]);
    peer.answer(1, ChannelAnswer::Done);
    peer.expect(
        &[],
        &["406…message size 5 is larger than configured max size 4"],
    );
}

#[test]
fn cc_and_bcc_are_more_keys_and_bcc_is_not_passed_on() {
    let keys = |keys: &[&str]| {
        let keys: Vec<_> = keys
            .iter()
            .map(|key| AMQPValue::LongString(LongString::from(*key)))
            .collect();
        AMQPValue::FieldArray(FieldArray::from(keys))
    };
    let mut table = FieldTable::default();
    table.insert("BCC".into(), keys(&["c"]));
    table.insert("CC".into(), keys(&["a", "b"]));
    let sent = AMQPProperties::default().with_headers(table);
    let mut peer = Peer::with_channel();
    peer.bytes(&publish_with(1, "q", &properties(&sent), "x"));
    let publish = published(&mut peer);
    assert_eq!(publish.more_keys, ["a", "b", "c"]);
    assert_eq!(publish.blind, 1);
    assert!(publish.properties.header(b"BCC").is_none());
    assert_eq!(publish.properties.header(b"CC"), Some(keys(&["a", "b"])));
}

#[test]
fn the_own_user_id_passes_and_an_impersonator_may_use_any() {
    let sent = properties(&AMQPProperties::default().with_user_id("guest".into()));
    let mut peer = Peer::with_channel();
    peer.bytes(&publish_with(1, "q", &sent, "x"));
    peer.expect(&["1 Publish"], &[]);
    peer.session.core.impersonator = true;
    let sent = properties(&AMQPProperties::default().with_user_id("other".into()));
    peer.bytes(&publish_with(1, "q", &sent, "x"));
    peer.expect(&["1 Publish"], &[]);
}

#[test]
fn confirms_are_numbered_from_1_after_select_and_joined_at_the_flush() {
    let mut peer = Peer::with_channel();
    peer.bytes(&publish(1, "q", "before"));
    peer.send(1, select(false));
    peer.expect(&["confirm: None"], &["1 SelectOk"]);
    for number in 1..=4u64 {
        peer.bytes(&publish(1, "q", "x"));
        assert_eq!(published(&mut peer).confirm, Some(number));
    }
    // Selecting again neither answers twice nor begins anew.
    peer.send(1, select(true));
    peer.bytes(&publish(1, "q", "x"));
    assert_eq!(published(&mut peer).confirm, Some(5));
    let id = ChannelId(1);
    peer.session.confirm(id, 2, false);
    peer.session.confirm(id, 1, false);
    peer.session.refuse(id, 4);
    peer.session.confirm(id, 5, false);
    peer.session.confirm(id, 5, false);
    peer.expect(&[], &[]);
    peer.session.flush_confirms();
    peer.expect(
        &[],
        &[
            "1 Nack { delivery_tag: 4, multiple: false",
            "1 Ack { delivery_tag: 2, multiple: true }",
            "1 Ack { delivery_tag: 5, multiple: false }",
        ],
    );
    peer.session.flush_confirms();
    peer.expect(&[], &[]);
}

#[test]
fn a_return_is_method_header_and_body() {
    let mut peer = Peer::with_channel();
    peer.session
        .return_message(ChannelId(1), 312, "NO_ROUTE", b"x", b"k", &[0, 0], b"hello");
    peer.expect(
        &[],
        &[
            "1 Return { reply_code: 312, reply_text: \"NO_ROUTE\", exchange: \"x\", routing_key: \"k\" }",
            "1 header 5",
            "1 body hello",
        ],
    );
    peer.session
        .return_message(ChannelId(9), 312, "NO_ROUTE", b"x", b"k", &[0, 0], b"hello");
    peer.expect(&[], &[]);
}

#[test]
fn direct_replies_are_named_by_the_consumers_token() {
    let mut peer = Peer::with_channel();
    peer.send(1, consume("amq.rabbitmq.reply-to", "r", true));
    peer.expect(&["1 ConsumeReplies { tag: \"r\" }"], &[]);
    peer.answer(
        1,
        ChannelAnswer::Consuming {
            consumer: ConsumerId(5),
            tag: "r".to_owned(),
            no_ack: true,
            token: Some("T.K".to_owned()),
        },
    );
    peer.expect(&[], &["ConsumeOk { consumer_tag: \"r\" }"]);
    let asking = AMQPProperties::default().with_reply_to("amq.rabbitmq.reply-to".into());
    peer.bytes(&publish_with(1, "rpc", &properties(&asking), "x"));
    let reply_to = published(&mut peer).properties.reply_to();
    assert_eq!(reply_to.as_deref(), Some(&b"amq.rabbitmq.reply-to.T.K"[..]));
    assert!(peer.deliver(1, 5, 0));
    peer.expect(
        &[],
        &[
            "Deliver { consumer_tag: \"r\", delivery_tag: 1",
            "header",
            "body",
        ],
    );
    // A second one is refused; so is one that would acknowledge.
    for (no_ack, text) in [(true, "already set"), (false, "cannot acknowledge")] {
        let mut peer = Peer::with_channel();
        if no_ack {
            peer.send(1, consume("amq.rabbitmq.reply-to", "r", true));
            peer.answer(
                1,
                ChannelAnswer::Consuming {
                    consumer: ConsumerId(5),
                    tag: "r".to_owned(),
                    no_ack: true,
                    token: Some("T".to_owned()),
                },
            );
            peer.requests();
            peer.sent();
        }
        peer.send(1, consume("amq.rabbitmq.reply-to", "s", no_ack));
        peer.expect(&["1 Close"], &[]);
        peer.answer(1, ChannelAnswer::Done);
        peer.expect(
            &[],
            &[&format!(
                "406…reply consumer {text}…class_id: 60, method_id: 20"
            )],
        );
    }
}
