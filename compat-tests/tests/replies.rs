//! Direct reply-to in a cluster: requester and responder are rarely at the same node.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{PATIENCE, connect};
use compat_tests::cluster::TestCluster;
use compat_tests::skipped_on_foreign;
use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};

async fn publish(channel: &Channel, key: &str, body: &[u8], properties: BasicProperties) {
    let options = BasicPublishOptions::default();
    channel
        .basic_publish("".into(), key.into(), options, body, properties)
        .await
        .expect("published");
}

fn copied_to(key: &str) -> BasicProperties {
    let keys = vec![AMQPValue::LongString(key.into())];
    let mut headers = FieldTable::default();
    headers.insert("CC".into(), AMQPValue::FieldArray(keys.into()));
    BasicProperties::default().with_headers(headers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_published_at_any_node_finds_its_requester() {
    if skipped_on_foreign("starting a cluster") {
        return;
    }
    let cluster = TestCluster::start();
    let connection = connect(&cluster.url(0)).await;
    let asker = connection.create_channel().await.expect("a channel");
    let no_ack = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let reply_to = "amq.rabbitmq.reply-to";
    let mut replies = asker
        .basic_consume(reply_to.into(), "".into(), no_ack, FieldTable::default())
        .await
        .expect("consuming");
    for node in 0..cluster.len() {
        let connection = connect(&cluster.url(node)).await;
        let responder = connection.create_channel().await.expect("a channel");
        let queue = format!("rpc-{node}");
        let declare = QueueDeclareOptions::durable();
        responder
            .queue_declare(queue.as_str().into(), declare, FieldTable::default())
            .await
            .expect("declared");
        for count in 0..20 {
            let asks = BasicProperties::default().with_reply_to(reply_to.into());
            publish(&asker, &queue, b"ask", asks).await;
            let asked = compat_tests::eventually_async(PATIENCE, || async {
                let options = BasicGetOptions { no_ack: true };
                let got = responder.basic_get(queue.as_str().into(), options).await;
                got.expect("asked")
            })
            .await;
            let address = asked
                .delivery
                .properties
                .reply_to()
                .clone()
                .expect("an address");
            let passive = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            responder
                .queue_declare(address.clone(), passive, FieldTable::default())
                .await
                .expect("somebody waits there");
            let answer = format!("{node}.{count}");
            // Every other one by its address in CC.
            let (key, properties) = match count % 2 {
                0 => (address.as_str(), BasicProperties::default()),
                _ => ("elsewhere", copied_to(address.as_str())),
            };
            publish(&responder, key, answer.as_bytes(), properties).await;
            let reply = tokio::time::timeout(PATIENCE, replies.next())
                .await
                .expect("in time");
            let reply = reply.expect("a reply").expect("delivered");
            assert_eq!(reply.data, answer.as_bytes());
            assert_eq!(reply.routing_key.as_str(), key);
        }
    }
}
