use amq_protocol::protocol::{confirm, tx};

use super::*;

fn ack(delivery_tag: u64, multiple: bool) -> basic::AMQPMethod {
    basic::AMQPMethod::Ack(basic::Ack {
        delivery_tag,
        multiple,
    })
}

fn qos(prefetch_count: u16, global: bool) -> basic::AMQPMethod {
    basic::AMQPMethod::Qos(basic::Qos {
        prefetch_count,
        global,
    })
}

/// A channel with consumer 7 that holds the leases 101 … 100 + `count` under the tags 1 … `count`.
fn holding(count: u64) -> Peer {
    let mut peer = Peer::with_channel();
    peer.consume(1, false);
    for no in 1..=count {
        assert!(peer.deliver(1, 7, 100 + no));
    }
    peer.sent();
    peer
}

#[test]
fn a_delivery_is_method_header_and_body_frames() {
    let mut peer = Peer::with_channel();
    peer.consume(1, false);
    assert!(peer.deliver(1, 7, 1));
    peer.expect(
        &[],
        &[
            "1 Deliver { consumer_tag: \"c\", delivery_tag: 1, redelivered: false, exchange: \"x\", routing_key: \"k\" }",
            "1 header 5",
            "1 body hello",
        ],
    );
    assert!(!peer.deliver(1, 8, 1), "no such consumer");
    assert!(!peer.deliver(2, 7, 1), "no such channel");
    peer.expect(&[], &[]);
}

#[test]
fn a_delivery_may_leave_its_body_to_the_caller() {
    let mut peer = holding(0);
    let head = |peer: &mut Peer, consumer| {
        let (channel, consumer) = (ChannelId(1), ConsumerId(consumer));
        let lease = crate::session::Lease { consumer, no: 1 };
        peer.session
            .deliver_head(channel, consumer, lease, true, b"x", b"k", &[0, 0], 9)
    };
    assert!(head(&mut peer, 7));
    assert!(!head(&mut peer, 8));
    peer.expect(
        &[],
        &["Deliver…delivery_tag: 1, redelivered: true", "1 header 9"],
    );
    peer.send(1, ack(1, false));
    peer.expect(&["1 Settle"], &[]);
}

#[test]
fn settlements_name_leases_and_join_neighbours() {
    let nack = |delivery_tag, multiple, requeue| {
        basic::AMQPMethod::Nack(basic::Nack {
            delivery_tag,
            multiple,
            requeue,
        })
    };
    let reject = |delivery_tag, requeue| {
        basic::AMQPMethod::Reject(basic::Reject {
            delivery_tag,
            requeue,
        })
    };
    let table: Vec<(Vec<basic::AMQPMethod>, &str)> = vec![
        (vec![ack(3, false)], "first: 103, last: 103, outcome: Ack"),
        (vec![ack(3, true)], "first: 101, last: 103, outcome: Ack"),
        (vec![ack(0, true)], "first: 101, last: 105, outcome: Ack"),
        (
            vec![ack(1, false), ack(2, false), ack(3, false)],
            "first: 101, last: 103, outcome: Ack",
        ),
        (
            vec![ack(2, false), nack(4, true, true)],
            "first: 102, last: 102, outcome: Ack…first: 101, last: 101, outcome: Requeue…first: 103, last: 104, outcome: Requeue",
        ),
        (
            vec![nack(2, true, false)],
            "first: 101, last: 102, outcome: Reject",
        ),
        (
            vec![reject(2, true)],
            "first: 102, last: 102, outcome: RequeueFailed",
        ),
        (
            vec![reject(2, false)],
            "first: 102, last: 102, outcome: Reject",
        ),
    ];
    for (methods, settled) in table {
        let mut peer = holding(5);
        for method in methods {
            peer.send(1, method);
        }
        peer.expect(
            &[&format!("1 Settle([Settlement {{ consumer: 7, {settled}")],
            &[],
        );
    }
}

#[test]
fn a_tag_that_is_not_outstanding_closes_the_channel() {
    for (before, method, tag) in [
        (None, ack(6, false), 6),
        (None, ack(6, true), 6),
        (None, ack(0, false), 0),
        (Some(2), ack(2, false), 2),
        (Some(2), ack(2, true), 2),
    ] {
        let mut peer = holding(5);
        if let Some(tag) = before {
            peer.send(1, ack(tag, false));
            assert_eq!(peer.requests().len(), 1);
        }
        peer.send(1, method);
        peer.expect(&["1 Close"], &[]);
        peer.answer(1, ChannelAnswer::Done);
        peer.expect(
            &[],
            &[&format!("406, reply_text: \"PRECONDITION_FAILED - unknown delivery tag {tag}\", class_id: 60, method_id: 80")],
        );
    }
    // All of nothing is no error.
    let mut peer = Peer::with_channel();
    peer.send(1, ack(0, true));
    peer.expect(&[], &[]);
}

#[test]
fn no_ack_deliveries_and_gets_take_tags_too() {
    let mut peer = Peer::with_channel();
    peer.consume(1, true);
    assert!(peer.deliver(1, 7, 1));
    peer.sent();
    let get = |no_ack| {
        basic::AMQPMethod::Get(basic::Get {
            queue: "q".into(),
            no_ack,
        })
    };
    let got = |no: Option<u64>| ChannelAnswer::Got {
        lease: no.map(|no| Lease {
            consumer: ConsumerId(9),
            no,
        }),
        redelivered: true,
        exchange: Bytes::new(),
        routing_key: Bytes::from_static(b"q"),
        properties: crate::amqp::RawProperties(Bytes::from_static(&[0, 0])),
        body: Bytes::new(),
        messages: 4,
    };
    for (no_ack, no, tag) in [(true, None, 2), (false, Some(1), 3)] {
        peer.send(1, get(no_ack));
        peer.expect(
            &[&format!("1 Get {{ queue: \"q\", no_ack: {no_ack} }}")],
            &[],
        );
        peer.answer(1, got(no));
        peer.expect(
            &[],
            &[
                &format!("1 GetOk {{ delivery_tag: {tag}, redelivered: true, exchange: \"\", routing_key: \"q\", message_count: 4 }}"),
                "1 header 0",
            ],
        );
    }
    peer.send(1, get(false));
    peer.answer(1, ChannelAnswer::GotNothing);
    peer.expect(&["1 Get"], &["1 GetEmpty"]);
    peer.send(1, ack(3, true));
    peer.expect(
        &["1 Settle([Settlement { consumer: 9, first: 1, last: 1"],
        &[],
    );
    peer.send(1, ack(1, false));
    peer.expect(&["1 Close"], &[]);
}

#[test]
fn no_queue_to_mean_is_noticed_before_a_tag_in_use() {
    let mut peer = holding(0);
    peer.send(1, consume("", "c", false));
    peer.expect(&["1 Close"], &[]);
}

#[test]
fn a_tag_in_use_closes_the_connection() {
    let mut peer = holding(0);
    peer.send(1, consume("other", "c", false));
    peer.expect(&["CloseConnection"], &[]);
    peer.session.answer(Answer::Done);
    peer.expect(
        &[],
        &["530, reply_text: \"NOT_ALLOWED - attempt to reuse consumer tag 'c'\", class_id: 60, method_id: 20"],
    );
}

#[test]
fn a_consumer_too_many_closes_the_connection() {
    let config = SessionConfig {
        consumer_max_per_channel: Some(1),
        ..SessionConfig::default()
    };
    let mut peer = Peer::running_with(config, true);
    peer.open_channel(1);
    peer.consume(1, false);
    peer.send(1, consume("q", "d", false));
    peer.expect(&["CloseConnection"], &[]);
    peer.session.answer(Answer::Done);
    peer.expect(&[], &["530…reached maximum (1) of consumers per channel"]);
}

#[test]
fn prefetch_is_for_later_consumers_and_a_global_one_for_the_channel() {
    let mut peer = Peer::with_channel();
    peer.send(1, qos(10, false));
    peer.expect(&[], &["1 QosOk"]);
    peer.send(1, qos(50, true));
    peer.expect(&["1 LimitChannel { prefetch: 50 }"], &[]);
    peer.answer(1, ChannelAnswer::Done);
    peer.expect(&[], &["1 QosOk"]);
    peer.send(1, consume("q", "a", false));
    peer.expect(&["prefetch: 10, channel_limited: true"], &[]);
    peer.answer(1, consuming(1, "a", false));
    peer.sent();
    // global=false lifts the channel's limit.
    peer.send(1, qos(20, false));
    peer.expect(&["1 LimitChannel { prefetch: 0 }"], &[]);
    peer.answer(1, ChannelAnswer::Done);
    peer.expect(&[], &["1 QosOk"]);
    peer.send(1, consume("q", "b", false));
    peer.expect(&["prefetch: 20, channel_limited: false"], &[]);
}

#[test]
fn nothing_is_delivered_after_a_cancel_but_what_was_can_be_settled() {
    let cancel = |tag: &str| {
        basic::AMQPMethod::Cancel(basic::Cancel {
            consumer_tag: tag.into(),
            nowait: false,
        })
    };
    let mut peer = holding(1);
    peer.send(1, cancel("c"));
    peer.expect(&["1 Cancel { consumer: 7 }"], &[]);
    assert!(!peer.deliver(1, 7, 102));
    peer.answer(1, ChannelAnswer::Done);
    peer.expect(&[], &["1 CancelOk { consumer_tag: \"c\" }"]);
    peer.send(1, ack(1, false));
    peer.expect(&["1 Settle"], &[]);
    peer.send(1, cancel("unknown"));
    peer.expect(&[], &["1 CancelOk { consumer_tag: \"unknown\" }"]);
}

#[test]
fn the_servers_cancel_is_sent_only_to_clients_that_can_take_it() {
    for (capable, sent) in [
        (
            true,
            &["1 Cancel { consumer_tag: \"c\", nowait: true }"][..],
        ),
        (false, &[]),
    ] {
        let mut peer = Peer::running_with(SessionConfig::default(), capable);
        peer.open_channel(1);
        peer.consume(1, false);
        peer.session.cancel_consumer(ChannelId(1), ConsumerId(7));
        peer.expect(&[], sent);
        assert!(!peer.deliver(1, 7, 1));
        peer.send(
            1,
            basic::AMQPMethod::CancelOk(basic::CancelOk {
                consumer_tag: "c".into(),
            }),
        );
        peer.expect(&[], &[]);
    }
}

#[test]
fn a_cancel_waits_for_the_delete_ok_of_its_own_channel() {
    use amq_protocol::protocol::queue;
    let mut peer = Peer::running();
    peer.open_channel(1);
    peer.consume(1, false);
    peer.send(
        1,
        queue::AMQPMethod::Delete(queue::Delete {
            queue: "q".into(),
            if_unused: false,
            if_empty: false,
            nowait: false,
        }),
    );
    peer.session.cancel_consumer(ChannelId(1), ConsumerId(7));
    peer.expect(&["1 DeleteQueue"], &[]);
    peer.answer(1, ChannelAnswer::Count(2));
    peer.expect(
        &[],
        &[
            "1 DeleteOk { message_count: 2 }",
            "1 Cancel { consumer_tag: \"c\", nowait: true }",
        ],
    );
}

#[test]
fn recover_gives_everything_back() {
    let mut peer = holding(3);
    peer.send(
        1,
        basic::AMQPMethod::Recover(basic::Recover { requeue: true }),
    );
    peer.expect(
        &["1 Settle([Settlement { consumer: 7, first: 101, last: 103, outcome: Requeue }])"],
        &["1 RecoverOk"],
    );
    peer.send(
        1,
        basic::AMQPMethod::RecoverAsync(basic::RecoverAsync { requeue: true }),
    );
    peer.expect(&[], &[]);
}

#[test]
fn a_transaction_carries_all_and_rollback_puts_tags_back() {
    let select = || tx::AMQPMethod::Select(tx::Select {});
    let commit = || tx::AMQPMethod::Commit(tx::Commit {});
    let rollback = || tx::AMQPMethod::Rollback(tx::Rollback {});
    let mut peer = holding(4);
    peer.send(1, select());
    peer.expect(&[], &["1 SelectOk"]);
    peer.bytes(&publish(1, "q", "lost"));
    peer.expect(&["1 CheckPublish"], &[]);
    peer.answer(1, ChannelAnswer::Done);
    peer.send(1, ack(2, true));
    peer.send(1, rollback());
    peer.expect(&[], &["1 RollbackOk"]);
    peer.bytes(&publish(1, "q", "a"));
    peer.expect(&["1 CheckPublish"], &[]);
    peer.answer(1, ChannelAnswer::Done);
    peer.bytes(&publish(1, "q", "b"));
    peer.expect(&["1 CheckPublish"], &[]);
    peer.answer(1, ChannelAnswer::Done);
    peer.send(1, ack(1, false));
    peer.send(1, ack(2, false));
    peer.expect(&[], &[]);
    peer.send(1, commit());
    peer.expect(
        &["1 Commit { publishes: [PublishRequest…confirm: Some(0)…confirm: Some(1)…settlements: [Settlement { consumer: 7, first: 101, last: 102, outcome: Ack }] }"],
        &[],
    );
    peer.answer(1, ChannelAnswer::Done);
    peer.expect(&[], &["1 CommitOk"]);
    peer.send(1, commit());
    peer.expect(&["1 Commit { publishes: [], settlements: [] }"], &[]);
}

#[test]
fn modes_do_not_mix() {
    let confirm = || confirm::AMQPMethod::Select(confirm::Select { nowait: false }).class();
    let select = || tx::AMQPMethod::Select(tx::Select {}).class();
    let commit = || tx::AMQPMethod::Commit(tx::Commit {}).class();
    let rollback = || tx::AMQPMethod::Rollback(tx::Rollback {}).class();
    for (methods, text) in [
        (
            vec![confirm(), select()],
            "cannot switch from confirm to tx mode\", class_id: 90, method_id: 10",
        ),
        (
            vec![select(), confirm()],
            "cannot switch from tx to confirm mode\", class_id: 85, method_id: 10",
        ),
        (
            vec![commit()],
            "channel is not transactional\", class_id: 90, method_id: 20",
        ),
        (
            vec![rollback()],
            "channel is not transactional\", class_id: 90, method_id: 30",
        ),
    ] {
        let mut peer = Peer::with_channel();
        for method in methods {
            peer.send(1, method);
        }
        peer.sent();
        peer.expect(&["1 Close"], &[]);
        peer.answer(1, ChannelAnswer::Done);
        peer.expect(
            &[],
            &[&format!("406, reply_text: \"PRECONDITION_FAILED - {text}")],
        );
    }
}
