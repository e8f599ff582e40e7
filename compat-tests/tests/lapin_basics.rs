//! lapin against the broker: confirms, returns, refusals, and what only a broker of ours does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use common::{PATIENCE, connect, declared, put};
use compat_tests::{Broker, Stage, skipped_on_foreign};
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Confirmation};

fn arguments(pairs: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in pairs {
        table.insert((*key).into(), value.clone());
    }
    table
}

#[tokio::test]
async fn a_confirmed_message_can_be_got() {
    let broker = Stage::start(&[]);
    let channel = declared(
        &connect(broker.url()).await,
        "lapin-get",
        FieldTable::default(),
    )
    .await;
    assert!(
        put(&channel, "lapin-get", b"body")
            .await
            .expect("published")
    );
    let got = channel
        .basic_get("lapin-get".into(), BasicGetOptions { no_ack: true })
        .await
        .expect("asked")
        .expect("one");
    assert_eq!(got.delivery.data, b"body");
    assert!(
        channel
            .basic_get("lapin-get".into(), BasicGetOptions { no_ack: true })
            .await
            .expect("asked")
            .is_none()
    );
    channel
        .queue_delete("lapin-get".into(), QueueDeleteOptions::default())
        .await
        .expect("deleted");
}

#[tokio::test]
async fn an_unroutable_mandatory_message_comes_back_before_its_ack() {
    let broker = Stage::start(&[]);
    let connection = connect(broker.url()).await;
    let channel = connection.create_channel().await.expect("a channel");
    channel
        .confirm_select(Default::default())
        .await
        .expect("confirm mode");
    let options = BasicPublishOptions {
        mandatory: true,
        ..Default::default()
    };
    let confirm = channel
        .basic_publish(
            "".into(),
            "lapin-nowhere".into(),
            options,
            b"body",
            BasicProperties::default(),
        )
        .await
        .expect("sent")
        .await
        .expect("answered");
    let Confirmation::Ack(Some(returned)) = confirm else {
        panic!("acked with the return before it: {confirm:?}")
    };
    assert_eq!(
        (returned.reply_code, returned.reply_text.as_str()),
        (312, "NO_ROUTE")
    );
    assert_eq!(returned.delivery.data, b"body");
}

#[tokio::test]
async fn a_full_queue_with_reject_publish_answers_nack() {
    let broker = Stage::start(&[]);
    let limits = arguments(&[
        ("x-max-length", AMQPValue::LongInt(1)),
        ("x-overflow", AMQPValue::LongString("reject-publish".into())),
    ]);
    let channel = declared(&connect(broker.url()).await, "lapin-full", limits).await;
    assert!(put(&channel, "lapin-full", b"1").await.expect("published"));
    assert!(!put(&channel, "lapin-full", b"2").await.expect("answered"));
    channel
        .queue_delete("lapin-full".into(), QueueDeleteOptions::default())
        .await
        .expect("deleted");
}

#[tokio::test]
async fn a_message_whose_lease_ran_out_goes_to_another_consumer_and_the_late_ack_is_harmless() {
    if skipped_on_foreign("x-visibility-timeout") {
        return;
    }
    let broker = Stage::start(&[]);
    let connection = connect(broker.url()).await;
    let lease = arguments(&[("x-visibility-timeout", AMQPValue::LongInt(1000))]);
    let first = declared(&connection, "lapin-lease", lease.clone()).await;
    assert!(
        put(&first, "lapin-lease", b"work")
            .await
            .expect("published")
    );
    let held = first
        .basic_get("lapin-lease".into(), BasicGetOptions::default())
        .await
        .expect("asked")
        .expect("one");
    let second = connection.create_channel().await.expect("a channel");
    let mut deliveries = second
        .basic_consume(
            "lapin-lease".into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .expect("subscribed");
    let again = tokio::time::timeout(PATIENCE, deliveries.next())
        .await
        .expect("in time")
        .expect("open")
        .expect("good");
    assert_eq!(again.data, b"work");
    assert!(again.redelivered);
    held.delivery
        .ack(BasicAckOptions::default())
        .await
        .expect("sent");
    assert!(
        put(&first, "lapin-lease", b"more")
            .await
            .expect("the channel is still open")
    );
    again.ack(BasicAckOptions::default()).await.expect("acked");
}

#[tokio::test]
async fn a_stopping_broker_says_320_and_ends_with_0() {
    if skipped_on_foreign("stopping the broker") {
        return;
    }
    let mut broker = Broker::start();
    let connection = connect(broker.url()).await;
    let channel = declared(&connection, "lapin-stop", FieldTable::default()).await;
    let mut deliveries = channel
        .basic_consume(
            "lapin-stop".into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .expect("subscribed");
    broker.terminate();
    let end = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(Err(error)) = deliveries.next().await {
                break error;
            }
        }
    })
    .await
    .expect("the connection is closed");
    assert!(end.to_string().contains("CONNECTION_FORCED"), "{end}");
    assert!(broker.wait_end().success());
}
