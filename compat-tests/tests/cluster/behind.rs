//! A node that stood still for so long that the others have forgotten the entries it lacks: its replicas are brought up by
//! snapshot, and its clients go on as if nothing had been.

use std::time::Duration;

use compat_tests::cluster::{Sets, Shape, TestCluster};
use compat_tests::{eventually, skipped_on_foreign};
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};

use crate::common::{PATIENCE, connect, declared, put};
use crate::depth;

const BEHIND: usize = 2;
/// Messages a consumer has before its node stands still.
const BEFORE: usize = 5;
/// Those that come meanwhile, at most; it takes more than the 64 MiB of log that a set keeps behind a snapshot.
const MEANWHILE_MAX: usize = 600;
const BODY_BYTES: usize = 1024 * 1024;
const PREFETCH: u16 = 10;
const INSTALLED: &str = "a snapshot of the leader was installed";

fn body(number: usize) -> Vec<u8> {
    let mut body = vec![b'.'; BODY_BYTES];
    body[..8].copy_from_slice(&u64::try_from(number).unwrap().to_be_bytes());
    body
}

fn number(delivery: &Delivery) -> usize {
    assert_eq!(delivery.data.len(), BODY_BYTES);
    let number = u64::from_be_bytes(delivery.data[..8].try_into().unwrap());
    usize::try_from(number).unwrap()
}

async fn consumer(channel: &Channel, queue: &str, no_ack: bool) -> Consumer {
    let options = BasicConsumeOptions {
        no_ack,
        ..BasicConsumeOptions::default()
    };
    let consuming =
        channel.basic_consume(queue.into(), queue.into(), options, FieldTable::default());
    consuming.await.expect("subscribed")
}

async fn next(from: &mut Consumer) -> Delivery {
    let next = tokio::time::timeout(PATIENCE, from.next()).await;
    let next = next.expect("a delivery in time");
    next.expect("a consumer that was not cancelled").unwrap()
}

/// Whether the others have forgotten what follows `known` in every set of queues.
fn forgotten(cluster: &TestCluster, known: &Sets) -> bool {
    let others: Vec<Sets> = (0..BEHIND).filter_map(|node| cluster.sets(node)).collect();
    let mut sets = known.iter().filter(|(set, _)| **set != 0);
    others.len() == BEHIND
        && sets.all(|(set, known)| {
            let mut purged = others.iter().filter_map(|sets| Some(sets.get(set)?.purged));
            purged.all(|purged| purged > known.applied)
        })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_of_a_node_brought_up_by_snapshot_get_each_message_once_and_are_not_cancelled() {
    if skipped_on_foreign("starting a cluster") {
        return;
    }
    let mut cluster = TestCluster::new(&Shape {
        settings: vec![
            ("leveret.segment_size", "4MiB".to_owned()),
            ("leveret.snapshot_every", "4MiB".to_owned()),
        ],
        ..Shape::default()
    });
    cluster.start_all();
    cluster.settled();
    let elsewhere = connect(&cluster.url(0)).await;
    let connection = connect(&cluster.url(BEHIND)).await;
    let queues = ["acked", "automatic", "more"];
    let channel = connection.create_channel().await.unwrap();
    let limit = channel.basic_qos(PREFETCH, BasicQosOptions::default());
    limit.await.unwrap();
    let (mut consumers, mut publishers) = (Vec::new(), Vec::new());
    for (place, queue) in queues.iter().enumerate() {
        publishers.push(declared(&elsewhere, queue, FieldTable::default()).await);
        consumers.push(consumer(&channel, queue, place % 2 == 1).await);
    }
    for (publisher, queue) in publishers.iter().zip(queues) {
        for message in 0..BEFORE {
            assert!(put(publisher, queue, &body(message)).await.unwrap());
        }
    }
    let mut held = Vec::new();
    for (place, from) in consumers.iter_mut().enumerate() {
        for message in 0..BEFORE {
            let delivery = next(from).await;
            assert_eq!(number(&delivery), message);
            if place % 2 == 0 {
                held.push(delivery);
            }
        }
    }
    let known = cluster.sets(BEHIND).expect("its sets");
    cluster.pause(BEHIND);
    let mut end = BEFORE;
    while !forgotten(&cluster, &known) {
        assert!(end < MEANWHILE_MAX, "nothing is forgotten");
        for (publisher, queue) in publishers.iter().zip(queues) {
            assert!(put(publisher, queue, &body(end)).await.unwrap());
        }
        end += 1;
    }
    cluster.unpause(BEHIND);
    eventually(Duration::from_secs(30), || {
        let installed = cluster.log(BEHIND).matches(INSTALLED).count();
        (installed >= queues.len()).then_some(())
    });
    for delivery in held {
        delivery.ack(BasicAckOptions::default()).await.unwrap();
    }
    for (place, from) in consumers.iter_mut().enumerate() {
        for message in BEFORE..end {
            let delivery = next(from).await;
            assert_eq!(number(&delivery), message, "{}", queues[place]);
            assert!(!delivery.redelivered, "{message} of {}", queues[place]);
            if place % 2 == 0 {
                delivery.ack(BasicAckOptions::default()).await.unwrap();
            }
        }
    }
    connection.close(200, "done".into()).await.unwrap();
    for queue in queues {
        for node in 0..cluster.len() {
            assert_eq!(
                depth(&cluster.url(node), queue).await,
                0,
                "{queue} at {node}"
            );
        }
    }
}
