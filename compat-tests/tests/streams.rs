//! Streams outlive what happens to brokers: a kill, and the loss of the node that leads their set while somebody reads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use std::time::{Duration, Instant};

use common::{PATIENCE, connect, declared, persistent, put};
use compat_tests::cluster::TestCluster;
use compat_tests::{Broker, env_number, eventually_async, skipped_on_foreign};
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Confirmation, Connection, Consumer};

fn stream() -> FieldTable {
    let mut table = FieldTable::default();
    table.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("stream".into()),
    );
    table
}

/// A consumer, and the channel that would end with its last handle.
struct Reader {
    consumer: Consumer,
    _channel: Channel,
}

async fn read_from(connection: &Connection, queue: &str, offset: i64) -> Reader {
    let channel = connection.create_channel().await.unwrap();
    let qos = channel.basic_qos(20, BasicQosOptions::default());
    qos.await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-stream-offset".into(), AMQPValue::LongLongInt(offset));
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(queue.into(), "reader".into(), options, arguments);
    Reader {
        consumer: consumer.await.unwrap(),
        _channel: channel,
    }
}

/// Reads and acknowledges the next message: its offset and its body.
async fn next(reader: &mut Reader) -> (i64, Vec<u8>) {
    let delivery = tokio::time::timeout(PATIENCE, reader.consumer.next()).await;
    let delivery = delivery.expect("in time").expect("not ended").unwrap();
    delivery.ack(BasicAckOptions::default()).await.unwrap();
    assert!(!delivery.redelivered);
    let headers = delivery.properties.headers().as_ref().unwrap();
    match headers.inner().get("x-stream-offset") {
        Some(AMQPValue::LongLongInt(offset)) => (*offset, delivery.data.clone()),
        other => panic!("{other:?}"),
    }
}

fn body(n: i64) -> Vec<u8> {
    format!("{n:09}").into_bytes()
}

async fn read_all(reader: &mut Reader, from: i64, to: i64) {
    for n in from..to {
        assert_eq!(next(reader).await, (n, body(n)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_and_its_numbers_survive_a_kill() {
    if skipped_on_foreign("killing a broker") {
        return;
    }
    let mut broker = Broker::start();
    for round in 0..2 {
        let connection = connect(broker.url()).await;
        let channel = declared(&connection, "s", stream()).await;
        for n in round * 300..(round + 1) * 300 {
            assert!(put(&channel, "s", &body(n)).await.unwrap());
        }
        drop(connection);
        broker.kill_dash_nine();
        broker.restart();
    }
    let connection = connect(broker.url()).await;
    for from in [0, 299, 450] {
        let mut reader = read_from(&connection, "s", from).await;
        read_all(&mut reader, from, 600).await;
    }
    let channel = connection.create_channel().await.unwrap();
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::durable()
    };
    let found = channel.queue_declare("s".into(), passive, FieldTable::default());
    assert_eq!(found.await.unwrap().message_count(), 600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_goes_on_at_its_place_when_the_leader_is_lost() {
    if skipped_on_foreign("starting a cluster") {
        return;
    }
    let mut cluster = TestCluster::start();
    cluster.settled();
    // One stream per set, so that whoever is lost leads one of them.
    let here = connect(&cluster.url(0)).await;
    let names: Vec<String> = (0..3).map(|n| format!("s{n}")).collect();
    let mut writers = Vec::new();
    let mut readers = Vec::new();
    for name in &names {
        writers.push(declared(&here, name, stream()).await);
        readers.push(read_from(&here, name, 0).await);
    }
    let led = cluster.led_by(1);
    assert!(led.iter().any(|set| *set != 0), "node 1 leads {led:?}");
    for (writer, name) in writers.iter().zip(&names) {
        for n in 0..100 {
            assert!(put(writer, name, &body(n)).await.unwrap());
        }
    }
    for reader in &mut readers {
        read_all(reader, 0, 50).await;
    }
    cluster.kill(1);
    for (writer, name) in writers.iter().zip(&names) {
        for n in 100..200 {
            assert!(put(writer, name, &body(n)).await.unwrap());
        }
    }
    for reader in &mut readers {
        read_all(reader, 50, 200).await;
    }
    cluster.start_all();
    cluster.caught_up(Duration::from_secs(60));
    // The node that was away serves all of it, too.
    let there = connect(&cluster.url(1)).await;
    for name in &names {
        let mut reader = read_from(&there, name, 0).await;
        read_all(&mut reader, 0, 200).await;
    }
    let channel = there.create_channel().await.unwrap();
    for name in &names {
        eventually_async(PATIENCE, || async {
            let gone = channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default());
            (gone.await.unwrap() == 200).then_some(())
        })
        .await;
    }
}

/// Ten million: `COMPAT_DEEP_MESSAGES=10000000 cargo test --release -p compat-tests --test streams deep -- --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deep_stream_stays_small_in_memory_and_is_found_anywhere_after_a_kill() {
    if skipped_on_foreign("killing a broker") {
        return;
    }
    let count = i64::try_from(env_number("COMPAT_DEEP_MESSAGES", 50_000)).unwrap();
    let mut broker = Broker::start();
    let empty = broker.resident_bytes();
    let connection = connect(broker.url()).await;
    let channel = declared(&connection, "deep", stream()).await;
    let mut window = Vec::new();
    for n in 0..count {
        let options = BasicPublishOptions::default();
        let body = body(n);
        let sent = channel.basic_publish("".into(), "deep".into(), options, &body, persistent());
        window.push(sent.await.unwrap());
        if window.len() == 5000 || n + 1 == count {
            for confirm in window.drain(..) {
                assert!(matches!(confirm.await.unwrap(), Confirmation::Ack(_)));
            }
        }
    }
    let full = broker.resident_bytes();
    broker.kill_dash_nine();
    broker.restart();
    println!(
        "deep stream of {count}: {empty} B resident when empty, {full} B when full, {:?} to start again",
        broker.startup()
    );
    let connection = connect(broker.url()).await;
    for from in [count / 2, 0, count - 100, count / 3] {
        let begin = Instant::now();
        let mut reader = read_from(&connection, "deep", from).await;
        read_all(&mut reader, from, from + 1).await;
        println!("offset {from} after {:?}", begin.elapsed());
        assert!(begin.elapsed() < Duration::from_secs(5), "{from}");
        read_all(&mut reader, from + 1, from + 100).await;
    }
    println!("{} B resident when read", broker.resident_bytes());
    broker.stop();
}
