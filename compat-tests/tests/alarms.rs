//! Memory and disk alarms: publishers are not read and told so, consumers go on, nothing is lost.
//! The disk alarm needs a small disk of its own, which only root can mount.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use common::raw::{ACK, BLOCKED, Raw, UNBLOCKED};
use common::{PATIENCE, connect, declared, put};
use compat_tests::{Broker, SmallDisk, eventually, skipped_on_foreign};
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;

/// Bodies in order, got and acked until the queue is empty.
async fn drained(channel: &Channel, queue: &str) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    while let Some(got) = channel
        .basic_get(queue.into(), BasicGetOptions::default())
        .await
        .expect("asked")
    {
        let acked = got.delivery.ack(BasicAckOptions::default()).await;
        acked.expect("acked");
        bodies.push(got.delivery.data);
    }
    bodies
}

async fn depth(channel: &Channel, queue: &str) -> u32 {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::durable()
    };
    let declared = channel.queue_declare(queue.into(), passive, FieldTable::default());
    declared.await.expect("it exists").message_count()
}

fn numbered(from: u32, to: u32) -> Vec<Vec<u8>> {
    (from..to)
        .map(|one| format!("m{one}").into_bytes())
        .collect()
}

fn alarm_is(broker: &Broker, kind: &str, state: &str) {
    let line = format!("{kind} resource limit alarm");
    eventually(PATIENCE, || {
        let log = broker.log();
        let last = log.lines().rfind(|one| one.contains(&line))?;
        last.contains(&format!("{line} {state}")).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_alarm_blocks_publishers_until_there_is_room_and_loses_nothing() {
    if skipped_on_foreign("a full disk") {
        return;
    }
    let Some(disk) = SmallDisk::mount(64) else {
        return;
    };
    let settings = [
        ("leveret.segment_size", "1MiB"),
        ("disk_free_limit.absolute", "32MiB"),
    ];
    let broker = Broker::attempt(disk.folder(), &settings).expect("started");
    let connection = connect(broker.url()).await;
    let channel = declared(&connection, "alarmed", FieldTable::default()).await;
    for body in numbered(0, 10) {
        assert!(put(&channel, "alarmed", &body).await.expect("published"));
    }
    let mut publisher = Raw::connect(broker.amqp_port(), true);
    let mut silent = Raw::connect(broker.amqp_port(), false);
    declared(&connection, "silent", FieldTable::default()).await;
    disk.fill(40);
    alarm_is(&broker, "disk", "set");

    publisher.publish("alarmed", b"m10");
    let blocked = publisher.expect(BLOCKED);
    assert_eq!(blocked.arguments, b"\x0blow on disk");
    for body in numbered(11, 30) {
        publisher.publish("alarmed", &body);
    }
    for body in numbered(0, 20) {
        silent.publish("silent", &body);
    }
    // A consumer goes on; a hundred of its round trips later nothing of what was sent has arrived.
    assert_eq!(drained(&channel, "alarmed").await, numbered(0, 10));
    for _ in 0..100 {
        assert_eq!(depth(&channel, "alarmed").await, 0);
        assert_eq!(depth(&channel, "silent").await, 0);
    }
    let waited = std::time::Duration::from_millis(1);
    assert!(publisher.poll(waited).is_none() && silent.poll(waited).is_none());

    disk.make_room();
    publisher.expect(UNBLOCKED);
    publisher.confirmed(20);
    silent.confirmed(20);
    assert_eq!(drained(&channel, "alarmed").await, numbered(10, 30));
    assert_eq!(drained(&channel, "silent").await, numbered(0, 20));
    publisher.publish("alarmed", b"after");
    assert_eq!(publisher.expect(ACK).arguments[..8], 21_u64.to_be_bytes());
    alarm_is(&broker, "disk", "cleared");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_alarm_blocks_publishers_and_consumers_go_on() {
    if skipped_on_foreign("a memory alarm") {
        return;
    }
    let mut broker = Broker::start();
    let connection = connect(broker.url()).await;
    let channel = declared(&connection, "short", FieldTable::default()).await;
    for body in numbered(0, 10) {
        assert!(put(&channel, "short", &body).await.expect("published"));
    }
    broker.stop();
    // Less than any process has.
    broker.reconfigure(&[("vm_memory_high_watermark.absolute", "1MiB")]);
    broker.restart();
    alarm_is(&broker, "memory", "set");
    let mut publisher = Raw::connect(broker.amqp_port(), true);
    publisher.publish("short", b"m10");
    let blocked = publisher.expect(BLOCKED);
    assert_eq!(blocked.arguments, b"\x0dlow on memory");
    publisher.publish("short", b"m11");
    let connection = connect(broker.url()).await;
    let channel = declared(&connection, "short", FieldTable::default()).await;
    assert_eq!(drained(&channel, "short").await, numbered(0, 10));
    for _ in 0..100 {
        assert_eq!(depth(&channel, "short").await, 0);
    }
    assert!(
        publisher
            .poll(std::time::Duration::from_millis(1))
            .is_none()
    );
    // A start with room enough: what was never confirmed may be gone, but nothing else is.
    broker.reconfigure(&[]);
    broker.restart();
    let mut publisher = Raw::connect(broker.amqp_port(), true);
    publisher.publish("short", b"m12");
    publisher.confirmed(1);
}
