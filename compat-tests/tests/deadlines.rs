//! Deadlines and a broker that is down: what passed meanwhile takes effect at the start, what has not passes later.
//!
//! Whether a queue is there is asked by a mandatory message, which renews nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use std::time::{Duration, Instant};

use common::{PATIENCE, connect, declared, persistent, put};
use compat_tests::{Broker, eventually, eventually_async, skipped_on_foreign};
use lapin::message::BasicGetMessage;
use lapin::options::{BasicGetOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Confirmation};

/// Passes while the broker is down.
const SHORT: Duration = Duration::from_millis(1500);
/// Passes after it is up again.
const LONG: Duration = Duration::from_secs(12);

fn arguments(pairs: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in pairs {
        table.insert((*key).into(), value.clone());
    }
    table
}

fn millis(span: Duration) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(span.as_millis()).unwrap())
}

/// A queue with one argument more, whose dead letters go to `dead`.
async fn mortal(channel: &Channel, queue: &str, argument: Option<(&str, Duration)>, dead: &str) {
    let mut pairs = vec![
        (
            "x-dead-letter-exchange",
            AMQPValue::LongString(Vec::new().into()),
        ),
        (
            "x-dead-letter-routing-key",
            AMQPValue::LongString(dead.into()),
        ),
    ];
    pairs.extend(argument.map(|(name, span)| (name, millis(span))));
    for (name, table) in [(dead, FieldTable::default()), (queue, arguments(&pairs))] {
        let declared = channel.queue_declare(name.into(), QueueDeclareOptions::durable(), table);
        declared.await.expect("declared");
    }
}

/// Whether the default exchange still knows the queue.
async fn exists(channel: &Channel, queue: &str) -> bool {
    let options = BasicPublishOptions {
        mandatory: true,
        ..Default::default()
    };
    let sent = channel.basic_publish("".into(), queue.into(), options, b"?", persistent());
    match sent.await.expect("sent").await.expect("answered") {
        Confirmation::Ack(returned) => returned.is_none(),
        other => panic!("{other:?}"),
    }
}

async fn get(channel: &Channel, queue: &str) -> Option<BasicGetMessage> {
    let asked = channel.basic_get(queue.into(), BasicGetOptions::default());
    asked.await.expect("asked")
}

/// The next message of `queue`, waited for.
async fn take(channel: &Channel, queue: &str) -> BasicGetMessage {
    eventually_async(PATIENCE, || get(channel, queue)).await
}

/// The broker is down until `deadline` after `begin`.
fn down_until(broker: &mut Broker, graceful: bool, begin: Instant, deadline: Duration) {
    if graceful {
        broker.stop();
    } else {
        broker.kill_dash_nine();
    }
    eventually(PATIENCE, || (begin.elapsed() > deadline).then_some(()));
    broker.restart();
}

async fn a_life(broker: &mut Broker, graceful: bool) {
    let connection = connect(broker.url()).await;
    let channel = declared(&connection, "plain", FieldTable::default()).await;
    for (span, name) in [(SHORT, "short"), (LONG, "long")] {
        let dead = |kind: &str| format!("{kind}-{name}-dead");
        let ttl = Some(("x-message-ttl", span));
        mortal(&channel, &format!("ttl-{name}"), ttl, &dead("ttl")).await;
        mortal(&channel, &format!("own-{name}"), None, &dead("own")).await;
        let expires = arguments(&[("x-expires", millis(span))]);
        let queue = format!("expires-{name}");
        declared(&connection, &queue, expires).await;
    }
    let begin = Instant::now();
    for (span, name) in [(SHORT, "short"), (LONG, "long")] {
        assert!(put(&channel, &format!("ttl-{name}"), b"ttl").await.unwrap());
        let properties = persistent().with_expiration(span.as_millis().to_string().into());
        let queue = format!("own-{name}");
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish("".into(), queue.into(), options, b"own", properties);
        assert!(sent.await.unwrap().await.unwrap().is_ack());
    }
    drop(connection);
    down_until(broker, graceful, begin, SHORT + Duration::from_millis(200));

    let connection = connect(broker.url()).await;
    let channel = declared(&connection, "plain", FieldTable::default()).await;
    // What has not passed has not happened. Asking took a moment, which must have been short enough to say so.
    for kind in ["ttl", "own"] {
        let early = get(&channel, &format!("{kind}-long-dead")).await;
        assert!(
            early.is_none() || begin.elapsed() > LONG,
            "{kind}: too early"
        );
    }
    let there = exists(&channel, "expires-long").await;
    assert!(there || begin.elapsed() > LONG, "the queue went too early");
    // What has passed has happened.
    for kind in ["ttl", "own"] {
        let dead = take(&channel, &format!("{kind}-short-dead")).await;
        assert_eq!(dead.delivery.data, kind.as_bytes());
        assert!(get(&channel, &format!("{kind}-short")).await.is_none());
    }
    eventually_async(PATIENCE, || async {
        (!exists(&channel, "expires-short").await).then_some(())
    })
    .await;
    assert!(begin.elapsed() < LONG, "too slow a machine for this test");
    // The rest passes in its time.
    for kind in ["ttl", "own"] {
        let dead = take(&channel, &format!("{kind}-long-dead")).await;
        assert_eq!(dead.delivery.data, kind.as_bytes());
        assert!(begin.elapsed() >= LONG, "{kind}: {:?}", begin.elapsed());
    }
    eventually_async(PATIENCE, || async {
        (!exists(&channel, "expires-long").await).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ttl_and_queue_expiry_pass_while_a_killed_broker_is_down() {
    if skipped_on_foreign("killing the broker") {
        return;
    }
    a_life(&mut Broker::start(), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ttl_and_queue_expiry_pass_while_a_stopped_broker_is_down() {
    if skipped_on_foreign("stopping the broker") {
        return;
    }
    a_life(&mut Broker::start(), true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_end_with_the_life_of_the_broker_and_the_next_ones_by_their_own_deadline() {
    if skipped_on_foreign("killing the broker") {
        return;
    }
    for graceful in [false, true] {
        let mut broker = Broker::start();
        let begin = Instant::now();
        {
            let connection = connect(broker.url()).await;
            for (span, queue) in [(SHORT, "lease-short"), (LONG, "lease-long")] {
                let lease = arguments(&[("x-visibility-timeout", millis(span))]);
                let channel = declared(&connection, queue, lease).await;
                assert!(put(&channel, queue, queue.as_bytes()).await.unwrap());
                let held = get(&channel, queue).await.expect("one");
                assert!(!held.redelivered);
                assert!(get(&channel, queue).await.is_none(), "it is leased");
            }
            down_until(&mut broker, graceful, begin, SHORT);
        }
        let connection = connect(broker.url()).await;
        let channel = connection.create_channel().await.expect("a channel");
        // The consumer is gone with its connection: the lease that had time left does not hide the message either.
        for queue in ["lease-long", "lease-short"] {
            let again = take(&channel, queue).await;
            assert_eq!(again.delivery.data, queue.as_bytes());
            assert!(again.redelivered);
        }
        // A lease of this life ends by its deadline, on a channel that stays open.
        let since = Instant::now();
        let again = take(&channel, "lease-short").await;
        assert_eq!(again.delivery.data, b"lease-short");
        let held = since.elapsed();
        assert!(held > SHORT / 2, "a new lease of {held:?}");
    }
}
