//! A disk that fills up under the broker: what it confirmed stays confirmed.
//! The small disk needs root to be mounted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use std::time::Duration;

use common::{PATIENCE, connect, declared, persistent, put};
use compat_tests::{Broker, SmallDisk, eventually, skipped_on_foreign};
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;

const QUEUE: &str = "full";
const BODY_BYTES: usize = 8192;
const WINDOW: usize = 64;
/// A disk with this many MiB takes far fewer messages than these.
const DISK_MEBIBYTES: u64 = 200;
const MESSAGES_MAX: u64 = 200 * 1024 * 1024 / BODY_BYTES as u64;
const LAST: u64 = u64::MAX;

fn body(number: u64) -> Vec<u8> {
    number.to_be_bytes().repeat(BODY_BYTES / 8)
}

/// Publishes until a confirm is missing; returns how many were confirmed, and how many were sent.
async fn publish_until_full(broker: &Broker) -> (u64, u64) {
    let connection = connect(broker.url()).await;
    let channel = declared(&connection, QUEUE, FieldTable::default()).await;
    let (mut sent, mut confirmed) = (0, 0);
    while sent < MESSAGES_MAX {
        let mut window = Vec::with_capacity(WINDOW);
        for _ in 0..WINDOW {
            let options = BasicPublishOptions::default();
            let body = body(sent);
            sent += 1;
            let publish =
                channel.basic_publish("".into(), QUEUE.into(), options, &body, persistent());
            match publish.await {
                Ok(confirm) => window.push(confirm),
                Err(_) => break,
            }
        }
        for confirm in window {
            match tokio::time::timeout(Duration::from_secs(10), confirm).await {
                Ok(Ok(answer)) if answer.is_ack() => confirmed += 1,
                _ => return (confirmed, sent),
            }
        }
    }
    panic!("{sent} messages do not fill the disk");
}

/// Takes everything up to [`LAST`]; the numbers in order.
async fn take_all(broker: &Broker) -> Vec<u64> {
    let connection = connect(broker.url()).await;
    let channel = declared(&connection, QUEUE, FieldTable::default()).await;
    assert!(put(&channel, QUEUE, &body(LAST)).await.expect("published"));
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let consuming = channel.basic_consume(QUEUE.into(), "".into(), options, FieldTable::default());
    let mut deliveries = consuming.await.expect("subscribed");
    let mut got = Vec::new();
    loop {
        let next = tokio::time::timeout(PATIENCE, deliveries.next()).await;
        let delivery = next.expect("in time").expect("open").expect("good");
        let number = u64::from_be_bytes(*delivery.data.first_chunk().unwrap());
        assert_eq!(delivery.data, body(number));
        if number == LAST {
            return got;
        }
        got.push(number);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_stops_the_broker_and_loses_no_confirmed_message() {
    if skipped_on_foreign("a full disk") {
        return;
    }
    let Some(disk) = SmallDisk::mount(DISK_MEBIBYTES) else {
        return;
    };
    disk.fill(100);
    let settings = [
        ("leveret.segment_size", "8MiB"),
        ("leveret.snapshot_every", "32MiB"),
        ("disk_free_limit.absolute", "0"),
    ];
    let mut broker = Broker::attempt(disk.folder(), &settings).expect("started");
    let (confirmed, sent) = publish_until_full(&broker).await;
    println!("{confirmed} of {sent} confirmed when the disk was full");
    assert!(confirmed > 1000, "{confirmed}: the disk was full at once");
    let status = eventually(PATIENCE, || broker.ended());
    assert!(!status.success(), "ended with {status}");
    let log = broker.log();
    assert!(log.contains("no space left"), "it is not said why:\n{log}");

    // As long as there is no room it refuses to start, or serves; it never takes a message away.
    if let Err(refused) = broker.try_restart() {
        println!("full, it refuses: {}", refused.stderr.trim_end());
        assert!(!refused.stderr.contains("panicked"), "{}", refused.stderr);
    }
    disk.make_room();
    broker.restart();
    let got = take_all(&broker).await;
    let count = u64::try_from(got.len()).unwrap();
    assert!(confirmed <= count && count <= sent, "{count} came back");
    assert!(got.into_iter().eq(0..count), "out of order");
    broker.stop();
}
