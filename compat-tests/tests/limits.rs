//! What the configuration file says about how many channels, queues and exchanges there may be, and about redeclarations.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::connect;
use compat_tests::{Broker, skipped_on_foreign};
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};

fn arguments(pairs: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in pairs {
        table.insert((*key).into(), value.clone());
    }
    table
}

async fn declare(channel: &Channel, queue: &str, arguments: FieldTable) -> Result<(), String> {
    let declared = channel
        .queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments)
        .await;
    declared.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn the_file_bounds_channels_queues_and_exchanges() {
    if skipped_on_foreign("limits") {
        return;
    }
    let broker = Broker::start_with(&[
        ("cluster_queue_limit", "2"),
        ("cluster_exchange_limit", "8"),
        ("channel_max_per_node", "3"),
    ]);
    let connection = connect(broker.url()).await;
    let channel = connection.create_channel().await.expect("a channel");
    for queue in ["a", "b", "b"] {
        declare(&channel, queue, FieldTable::default())
            .await
            .expect("declared");
    }
    let error = declare(&channel, "c", FieldTable::default())
        .await
        .expect_err("a third");
    assert!(
        error.contains("cannot declare queue 'c': queue limit in cluster (2) is reached"),
        "{error}"
    );
    let channel = connection.create_channel().await.expect("a channel");
    // Seven are in every vhost.
    for exchange in ["x", "x", "y"] {
        let options = ExchangeDeclareOptions::default();
        let declared = channel
            .exchange_declare(
                exchange.into(),
                ExchangeKind::Fanout,
                options,
                FieldTable::default(),
            )
            .await;
        match (exchange, declared) {
            ("y", Err(error)) => assert!(
                error.to_string().contains(
                    "cannot declare exchange 'y' in vhost '/': exchange limit of 8 is reached"
                ),
                "{error}"
            ),
            (_, declared) => declared.expect("declared"),
        }
    }
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(connection.create_channel().await.expect("a channel"));
    }
    let error = connection
        .create_channel()
        .await
        .expect_err("a fourth")
        .to_string();
    assert!(
        error.contains("has reached the maximum allowed limit of (3)"),
        "{error}"
    );
}

#[tokio::test]
async fn the_file_bounds_connections() {
    if skipped_on_foreign("limits") {
        return;
    }
    let broker = Broker::start_with(&[("connection_max", "1")]);
    let first = connect(broker.url()).await;
    let error = Connection::connect(broker.url(), ConnectionProperties::default())
        .await
        .expect_err("a second")
        .to_string();
    assert!(
        error.contains("connection refused: node connection limit (1) is reached"),
        "{error}"
    );
    drop(first);
}

#[tokio::test]
async fn a_relaxed_broker_takes_a_classic_declaration_for_a_quorum_queue() {
    if skipped_on_foreign("redeclaration") {
        return;
    }
    let key = "quorum_queue.property_equivalence.relaxed_checks_on_redeclaration";
    for relaxed in ["true", "false"] {
        let broker = Broker::start_with(&[(key, relaxed)]);
        let connection = connect(broker.url()).await;
        let channel = connection.create_channel().await.expect("a channel");
        let ttl = ("x-message-ttl", AMQPValue::LongInt(1000));
        let quorum = ("x-queue-type", AMQPValue::LongString("quorum".into()));
        declare(&channel, "q", arguments(&[ttl.clone(), quorum]))
            .await
            .expect("declared");
        let again = declare(&channel, "q", arguments(&[ttl])).await;
        assert_eq!(again.is_ok(), relaxed == "true", "{again:?}");
        if relaxed == "true" {
            let other = declare(&channel, "q", FieldTable::default()).await;
            let error = other.expect_err("another time to live");
            assert!(
                error.contains("inequivalent arg 'x-message-ttl'"),
                "{error}"
            );
        }
    }
}
