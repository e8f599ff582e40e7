//! What the broker writes into messages when `message_interceptors.*` says so, as clients see it. Which stamp replaces what is
//! in the unit tests of `src/session/stamp.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::{SystemTime, UNIX_EPOCH};

use common::{PATIENCE, connect, declared, persistent, web};
use compat_tests::{Broker, skipped_on_foreign};
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, QueueBindOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};

const NODE: &str = "rabbit@localhost";

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

async fn publish(channel: &Channel, exchange: &str, key: &str, properties: BasicProperties) {
    channel
        .basic_publish(
            exchange.into(),
            key.into(),
            BasicPublishOptions::default(),
            b"x",
            properties,
        )
        .await
        .expect("sent")
        .await
        .expect("confirmed");
}

async fn got(channel: &Channel, queue: &str) -> Delivery {
    let options = BasicGetOptions { no_ack: true };
    let got = channel.basic_get(queue.into(), options).await;
    got.expect("asked").expect("one").delivery
}

fn header(delivery: &Delivery, name: &str) -> Option<AMQPValue> {
    let headers = delivery.properties.headers().clone()?;
    headers.inner().get(name).cloned()
}

/// A time of the last minute, in milliseconds.
fn recent(delivery: &Delivery, name: &str) -> i64 {
    match header(delivery, name) {
        Some(AMQPValue::LongLongInt(ms)) if (now_ms() - 60_000..=now_ms()).contains(&ms) => ms,
        other => panic!("{name}: {other:?}"),
    }
}

#[tokio::test]
async fn messages_say_when_they_came_by_which_node_and_when_they_were_sent() {
    if skipped_on_foreign("stamps") {
        return;
    }
    let broker = Broker::start_in(
        &[("RABBITMQ_NODENAME", NODE)],
        &[
            (
                "message_interceptors.incoming.set_header_timestamp.overwrite",
                "true",
            ),
            (
                "message_interceptors.incoming.set_header_routing_node.overwrite",
                "true",
            ),
            ("message_interceptors.outgoing.timestamp.enabled", "true"),
        ],
    );
    let channel = declared(&connect(broker.url()).await, "q", FieldTable::default()).await;
    // Stamped before it is routed.
    let mut by_node = FieldTable::default();
    let text = |text: &str| AMQPValue::LongString(text.into());
    by_node.insert("x-match".into(), text("all-with-x"));
    by_node.insert("x-routed-by".into(), text(NODE));
    channel
        .queue_bind(
            "q".into(),
            "amq.headers".into(),
            "".into(),
            QueueBindOptions::default(),
            by_node,
        )
        .await
        .expect("bound");
    publish(&channel, "amq.headers", "", persistent().with_timestamp(5)).await;
    let message = got(&channel, "q").await;
    let came = recent(&message, "timestamp_in_ms");
    let seconds = u64::try_from(came / 1000).unwrap();
    assert_eq!(*message.properties.timestamp(), Some(seconds));
    assert_eq!(header(&message, "x-routed-by"), Some(text(NODE)));
    assert!(recent(&message, "x-opt-rabbitmq-sent-time") >= came);

    publish(&channel, "", "q", persistent()).await;
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let consumer = channel.basic_consume("q".into(), "".into(), options, FieldTable::default());
    let mut consumer = consumer.await.expect("a consumer");
    let next = tokio::time::timeout(PATIENCE, consumer.next());
    let message = next.await.expect("in time").expect("one").expect("well");
    let came = recent(&message, "timestamp_in_ms");
    assert!(recent(&message, "x-opt-rabbitmq-sent-time") >= came);
    assert_eq!(header(&message, "x-routed-by"), Some(text(NODE)));

    // What the management API publishes.
    let port = broker.management_url();
    let port = port.rsplit(':').next().unwrap().parse().unwrap();
    let (status, answer) = web::send(
        web::plain(port),
        "POST",
        "/api/exchanges/%2F/amq.default/publish",
        Some("guest:guest"),
        r#"{"properties":{},"routing_key":"q","payload":"x","payload_encoding":"string"}"#,
    );
    assert_eq!((status, answer.as_str()), (200, r#"{"routed":true}"#));
    let next = tokio::time::timeout(PATIENCE, consumer.next());
    let message = next.await.expect("in time").expect("one").expect("well");
    recent(&message, "timestamp_in_ms");
    assert_eq!(header(&message, "x-routed-by"), Some(text(NODE)));
}

#[tokio::test]
async fn what_the_publisher_wrote_stays_in_a_transaction_too() {
    if skipped_on_foreign("stamps") {
        return;
    }
    let broker = Broker::start_with(&[(
        "message_interceptors.incoming.set_header_timestamp.overwrite",
        "false",
    )]);
    let connection = connect(broker.url()).await;
    let confirmed = declared(&connection, "q", FieldTable::default()).await;
    let channel = connection.create_channel().await.expect("a channel");
    channel.tx_select().await.expect("selected");
    for properties in [persistent().with_timestamp(5), persistent()] {
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish("".into(), "q".into(), options, b"x", properties);
        sent.await.expect("sent");
    }
    channel.tx_commit().await.expect("committed");
    let first = got(&confirmed, "q").await;
    assert_eq!(*first.properties.timestamp(), Some(5));
    recent(&first, "timestamp_in_ms");
    let second = got(&confirmed, "q").await;
    let came = recent(&second, "timestamp_in_ms");
    let seconds = u64::try_from(came / 1000).unwrap();
    assert_eq!(*second.properties.timestamp(), Some(seconds));
    assert_eq!(header(&second, "x-routed-by"), None);
    assert_eq!(header(&second, "x-opt-rabbitmq-sent-time"), None);
}
