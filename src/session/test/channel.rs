use amq_protocol::protocol::{access, exchange, queue};

use super::*;

fn declare(name: &str, nowait: bool) -> queue::AMQPMethod {
    queue::AMQPMethod::Declare(queue::Declare {
        queue: name.into(),
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        nowait,
        arguments: FieldTable::default(),
    })
}

fn declared(name: &str) -> ChannelAnswer {
    ChannelAnswer::QueueDeclared {
        queue: name.to_owned(),
        messages: 3,
        consumers: 1,
    }
}

fn bind(queue: &str, key: &str) -> queue::AMQPMethod {
    queue::AMQPMethod::Bind(queue::Bind {
        queue: queue.into(),
        exchange: "x\r\n".into(),
        routing_key: key.into(),
        nowait: false,
        arguments: FieldTable::default(),
    })
}

fn delete_exchange(name: &str) -> exchange::AMQPMethod {
    exchange::AMQPMethod::Delete(exchange::Delete {
        exchange: name.into(),
        if_unused: true,
        nowait: false,
    })
}

#[test]
fn methods_of_a_busy_channel_wait_and_other_channels_go_on() {
    let mut peer = Peer::with_channel();
    peer.open_channel(2);
    peer.send(1, declare("a", false));
    peer.bytes(&publish(1, "a", "late"));
    peer.send(1, delete_exchange("x"));
    peer.bytes(&publish(2, "a", "early"));
    peer.expect(&["1 DeclareQueue", "2 Publish"], &[]);
    peer.answer(1, declared("a"));
    peer.expect(
        &[
            "1 Publish",
            "1 DeleteExchange { exchange: \"x\", if_unused: true }",
        ],
        &["1 DeclareOk { queue: \"a\", message_count: 3, consumer_count: 1 }"],
    );
    peer.answer(1, ChannelAnswer::Done);
    peer.expect(&[], &["1 DeleteOk"]);
}

#[test]
fn no_wait_sends_nothing_but_errors() {
    let mut peer = Peer::with_channel();
    peer.send(1, declare("a", true));
    peer.answer(1, declared("a"));
    peer.expect(&["1 DeclareQueue"], &[]);
    peer.send(1, declare("b", true));
    peer.answer(1, ChannelAnswer::Failed(not_found()));
    peer.expect(&["1 DeclareQueue", "1 Close"], &[]);
    peer.answer(1, ChannelAnswer::Done);
    peer.expect(
        &[],
        &["1 Close { reply_code: 404, reply_text: \"NOT_FOUND - no queue 'q' in vhost '/'\", class_id: 50, method_id: 10 }"],
    );
}

#[test]
fn an_empty_queue_name_is_the_last_declared_queue() {
    let mut peer = Peer::with_channel();
    peer.send(1, declare("", false));
    peer.answer(1, declared("amq.gen-x"));
    peer.expect(&["DeclareQueue { queue: \"\""], &["queue: \"amq.gen-x\""]);
    for (queue, key, destination, routing_key) in [
        ("", "", "amq.gen-x", "amq.gen-x"),
        ("", "k", "amq.gen-x", "k"),
        ("q\n", "", "q", ""),
    ] {
        peer.send(1, bind(queue, key));
        peer.answer(1, ChannelAnswer::Done);
        let request = format!(
            "1 BindQueue(BindingRequest {{ source: \"x\", destination: \"{destination}\", routing_key: \"{routing_key}\""
        );
        peer.expect(&[&request], &["1 BindOk"]);
    }
}

#[test]
fn an_empty_queue_name_without_a_declared_queue_closes_the_channel() {
    let mut peer = Peer::with_channel();
    peer.send(1, bind("", ""));
    peer.expect(&["1 Close"], &[]);
    peer.answer(1, ChannelAnswer::Done);
    peer.expect(
        &[],
        &["404, reply_text: \"NOT_FOUND - no previously declared queue\", class_id: 50, method_id: 20"],
    );
}

#[test]
fn a_closed_channels_number_is_free_and_pipelined_methods_are_for_the_next() {
    let mut peer = Peer::with_channel();
    peer.send(1, channel_close());
    peer.send(1, channel_open());
    peer.expect(&["1 Close"], &[]);
    peer.answer(1, ChannelAnswer::Done);
    peer.expect(&["1 Open"], &["1 CloseOk"]);
    peer.answer(1, ChannelAnswer::Done);
    peer.expect(&[], &["1 OpenOk"]);
}

#[test]
fn after_our_close_everything_is_discarded_until_close_ok() {
    let mut peer = Peer::with_channel();
    peer.bytes(&publish_frame(1, "x", "k", false));
    peer.session
        .fail_channel(ChannelId(1), not_found(), (60, 40));
    peer.expect(&["1 Close"], &[]);
    peer.answer(1, ChannelAnswer::Done);
    peer.expect(
        &[],
        &["1 Close { reply_code: 404…class_id: 60, method_id: 40"],
    );
    // The rest of the content that was under way, and more.
    peer.bytes(&header_frame(1, 3, &[0, 0]));
    peer.bytes(&raw(3, 1, b"abc"));
    peer.bytes(&publish(1, "q", "x"));
    peer.send(1, declare("a", false));
    peer.expect(&[], &[]);
    peer.send(1, channel_close());
    peer.expect(&[], &["1 CloseOk"]);
    assert_eq!(peer.session.channel_count(), 1);
    peer.send(1, channel_close_ok());
    assert_eq!(peer.session.channel_count(), 0);
    peer.open_channel(1);
}

#[test]
fn a_client_that_closes_before_it_knows_of_the_error_gets_only_its_close_ok() {
    let mut peer = Peer::with_channel();
    peer.session
        .fail_channel(ChannelId(1), not_found(), (60, 40));
    peer.send(1, channel_close());
    peer.expect(&["1 Close"], &[]);
    peer.answer(1, ChannelAnswer::Done);
    peer.expect(&[], &["1 CloseOk"]);
    peer.open_channel(1);
}

#[test]
fn a_late_error_drops_publishes_not_polled_and_ignores_the_answer_under_way() {
    let mut peer = Peer::with_channel();
    peer.send(1, declare("a", false));
    peer.expect(&["1 DeclareQueue"], &[]);
    peer.session
        .fail_channel(ChannelId(1), not_found(), (60, 40));
    peer.expect(&["1 Close"], &[]);
    peer.answer(1, declared("a"));
    peer.expect(&[], &[]);
    peer.answer(1, ChannelAnswer::Done);
    peer.expect(&[], &["1 Close { reply_code: 404"]);

    let mut peer = Peer::with_channel();
    peer.bytes(&publish(1, "q", "x"));
    peer.send(1, declare("a", false));
    peer.session
        .fail_channel(ChannelId(1), not_found(), (60, 40));
    peer.expect(&["1 Close"], &[]);
    peer.answer(1, ChannelAnswer::Done);
    peer.expect(&[], &["1 Close { reply_code: 404"]);
}

#[test]
fn a_channel_too_many_closes_the_connection() {
    let config = SessionConfig {
        channel_max: 1,
        ..SessionConfig::default()
    };
    let mut peer = Peer::running_with(config, true);
    peer.open_channel(60_000);
    peer.send(2, channel_open());
    peer.expect(&["CloseConnection"], &[]);
    peer.session.answer(Answer::Done);
    peer.expect(
        &[],
        &["530, reply_text: \"NOT_ALLOWED - number of channels opened (1) has reached the negotiated channel_max (1)\", class_id: 20, method_id: 10"],
    );
}

#[test]
fn small_methods_are_answered_by_the_session() {
    let mut peer = Peer::with_channel();
    peer.send(1, class::AMQPMethod::Flow(class::Flow { active: true }));
    peer.expect(&[], &["1 FlowOk { active: true }"]);
    peer.send(
        1,
        AMQPClass::Access(access::AMQPMethod::Request(access::Request {
            realm: "/data".into(),
            exclusive: false,
            passive: true,
            active: true,
            write: true,
            read: true,
        })),
    );
    let bytes = peer.session.output().split();
    assert_eq!(&bytes[7..], [0, 30, 0, 11, 0, 1, 0xce], "ticket 1");
}

#[test]
fn a_backlog_past_its_bound_stops_the_input() {
    let config = SessionConfig {
        backlog_bytes_max: 10_000,
        ..SessionConfig::default()
    };
    let mut peer = Peer::running_with(config, true);
    peer.open_channel(1);
    peer.send(1, declare("a", false));
    assert_eq!(peer.requests().len(), 1);
    let body = "x".repeat(3_000);
    for _ in 0..10 {
        peer.bytes(&publish(1, "a", &body));
    }
    assert!(!peer.session.wants_input());
    let waiting = peer.input.len();
    assert!(waiting > 4 * 3_000, "{waiting}");
    peer.answer(1, declared("a"));
    let mut count = 0;
    for _ in 0..10 {
        count += peer.requests().len();
        peer.bytes(b"");
    }
    assert_eq!((count, peer.input.len()), (10, 0));
}

#[test]
fn requests_nobody_polls_stop_the_input() {
    let mut peer = Peer::with_channel();
    for _ in 0..3_000 {
        peer.bytes(&publish(1, "q", ""));
    }
    assert!(!peer.session.wants_input());
    assert!(peer.requests().len() <= 1024);
    assert!(peer.session.wants_input());
}
