//! A shovel runs on one node of the cluster, and on another when that one dies in the middle of its work.

use std::collections::BTreeSet;

use compat_tests::cluster::{Shape, TestCluster};
use compat_tests::{eventually, eventually_async, skipped_on_foreign};
use futures_util::StreamExt;
use futures_util::future::join_all;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;

use crate::common::{PATIENCE, connect, declared, persistent};
use crate::depth;

const MESSAGES: usize = 6_000;
/// Moved when the node dies.
const BEFORE: u32 = 500;
const TERMS: &str = r#"{"src-uri":"amqp://","dest-uri":"amqp://","src-queue":"here","dest-queue":"there","src-prefetch-count":100,"reconnect-delay":1}"#;

/// The node a shovel runs on, as `node` says.
fn runs_on(cluster: &TestCluster, node: usize) -> Option<usize> {
    let told = cluster.tool(node, "rabbitmqctl -q shovel_status --formatter json");
    let rows: serde_json::Value = serde_json::from_str(&told.ok()?).expect("JSON");
    let row = rows
        .as_array()?
        .iter()
        .find(|row| row["state"] == "running")?;
    (0..cluster.len()).find(|node| row["node"] == cluster.name(*node))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shovel_goes_on_at_another_node_and_loses_nothing() {
    if skipped_on_foreign("starting a cluster") {
        return;
    }
    let mut cluster = TestCluster::new(&Shape::default());
    cluster.start_all();
    cluster.settled();
    let connection = connect(&cluster.url(0)).await;
    let channel = declared(&connection, "here", FieldTable::default()).await;
    declared(&connection, "there", FieldTable::default()).await;
    for batch in (0..MESSAGES).collect::<Vec<_>>().chunks(1000) {
        let sending = batch.iter().map(|number| {
            let options = BasicPublishOptions::default();
            let body = number.to_string().into_bytes();
            let channel = &channel;
            async move {
                let (to, queue) = ("".into(), "here".into());
                let sent = channel.basic_publish(to, queue, options, &body, persistent());
                sent.await.expect("sent").await.expect("confirmed")
            }
        });
        assert!(
            join_all(sending)
                .await
                .iter()
                .all(lapin::Confirmation::is_ack)
        );
    }
    drop(connection);
    let set = format!("rabbitmqctl -q set_parameter shovel s {TERMS}");
    cluster.tool(0, &set).expect("defined");
    let first = eventually(PATIENCE, || runs_on(&cluster, 0));
    let another = (first + 1) % cluster.len();
    eventually_async(PATIENCE, || async {
        (depth(&cluster.url(another), "there").await >= BEFORE).then_some(())
    })
    .await;
    cluster.kill(first);
    let second = eventually(PATIENCE, || {
        runs_on(&cluster, another).filter(|node| *node != first)
    });
    println!("a shovel of node {first} runs on node {second}");
    // What the dead node held comes back with it.
    cluster.start_all();
    eventually_async(PATIENCE * 2, || async {
        (depth(&cluster.url(another), "there").await as usize >= MESSAGES).then_some(())
    })
    .await;
    cluster
        .tool(another, "rabbitmqctl -q delete_shovel s")
        .expect("deleted");
    let there = depth(&cluster.url(another), "there").await as usize;
    println!("{there} messages for {MESSAGES}");
    assert!(
        there - MESSAGES <= 200,
        "only what was under way may come twice"
    );
    let connection = connect(&cluster.url(another)).await;
    let channel = connection.create_channel().await.expect("a channel");
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let consuming =
        channel.basic_consume("there".into(), "".into(), options, FieldTable::default());
    let deliveries = consuming.await.expect("subscribed").take(there);
    let moved = deliveries.map(|delivery| {
        let body = String::from_utf8(delivery.expect("a delivery").data).expect("text");
        body.parse::<usize>().expect("a number")
    });
    let moved: BTreeSet<usize> = moved.collect().await;
    assert_eq!(moved.len(), MESSAGES, "every message has come");
    assert_eq!(depth(&cluster.url(another), "here").await, 0);
}
