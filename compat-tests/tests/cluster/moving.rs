//! A queue that moves from set to set, is spread over three and gathered again, while clients publish and consume.
//!
//! Rates over longer phases: `COMPAT_MOVE_SECONDS=10 cargo test --release -p compat-tests --test cluster moves -- --nocapture`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use compat_tests::cluster::TestCluster;
use compat_tests::history::{self, Message};
use compat_tests::{env_number, eventually_async, skipped_on_foreign};
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Confirmation};

use crate::common::{PATIENCE, connect, declared, persistent};

const QUEUE: &str = "wandering";
const SETS: usize = 3;
const PUBLISHERS: usize = 2;
const WINDOW: u64 = 256;
const PREFETCH: u16 = 1000;
const ACK_EVERY: usize = 100;
const BODY_BYTES: usize = 200;

#[derive(Default)]
struct Seen {
    confirmed: [AtomicU64; PUBLISHERS],
    consumed: AtomicU64,
    stop: AtomicBool,
    /// In the order of their coming.
    deliveries: Mutex<Vec<Message>>,
}

impl Seen {
    fn confirmed(&self) -> u64 {
        let each = self.confirmed.iter();
        each.map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

async fn publish(channel: Channel, publisher: usize, seen: Arc<Seen>) {
    let mut number = 0;
    while !seen.stop.load(Ordering::Relaxed) {
        let mut window = Vec::new();
        for _ in 0..WINDOW {
            let message = Message {
                publisher: u32::try_from(publisher).unwrap(),
                number,
            };
            let body = history::body(message, 0, BODY_BYTES);
            number += 1;
            let options = BasicPublishOptions::default();
            let sent = channel.basic_publish("".into(), QUEUE.into(), options, &body, persistent());
            window.push(sent.await.expect("sent"));
        }
        for confirm in window {
            let confirm = confirm.await.expect("an answer");
            assert!(matches!(confirm, Confirmation::Ack(_)), "{confirm:?}");
            seen.confirmed[publisher].fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn consume(channel: Channel, seen: Arc<Seen>) {
    let options = BasicQosOptions::default();
    channel.basic_qos(PREFETCH, options).await.expect("a limit");
    let mut consumer = channel
        .basic_consume(
            QUEUE.into(),
            "c".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .expect("a consumer");
    let mut held = 0;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery.expect("a delivery");
        assert!(!delivery.redelivered, "nothing is given back");
        let (message, _) = history::parse(&delivery.data).expect("what was published");
        seen.deliveries.lock().unwrap().push(message);
        seen.consumed.fetch_add(1, Ordering::Relaxed);
        held += 1;
        if held == ACK_EVERY {
            held = 0;
            let multiple = BasicAckOptions { multiple: true };
            delivery.ack(multiple).await.expect("acked");
        }
    }
}

/// Whether these numbers are an interleaving of at most `parts` rising sequences, as when each part keeps its order.
fn rises_in(parts: usize, numbers: impl Iterator<Item = u64>) -> bool {
    // Each number goes behind the largest of the ends below it, which is the best that can be done with it.
    let mut ends: Vec<u64> = Vec::new();
    for number in numbers {
        let best = (0..ends.len()).filter(|part| ends[*part] < number);
        match best.max_by_key(|part| ends[*part]) {
            Some(part) => ends[part] = number,
            None if ends.len() < parts => ends.push(number),
            None => return false,
        }
    }
    true
}

#[test]
fn an_order_within_parts_is_told_from_none() {
    assert!(rises_in(1, [1, 2, 5].into_iter()));
    assert!(!rises_in(1, [1, 3, 2].into_iter()));
    assert!(rises_in(2, [1, 5, 2, 6, 3, 4].into_iter()));
    assert!(!rises_in(2, [3, 2, 1].into_iter()));
}

async fn watch(seen: &Seen, what: &str, length: Duration) {
    let (from, confirmed) = (Instant::now(), seen.confirmed());
    let consumed = seen.consumed.load(Ordering::Relaxed);
    tokio::time::sleep(length).await;
    let seconds = from.elapsed().as_secs_f64();
    let rate = |before: u64, after: u64| (after - before) as f64 / seconds;
    let out = rate(consumed, seen.consumed.load(Ordering::Relaxed));
    let confirmed = rate(confirmed, seen.confirmed());
    println!("{what}: {confirmed:.0} confirmed/s, {out:.0} consumed/s");
    assert!(confirmed > 0.0 && out > 0.0, "clients stand still: {what}");
}

/// The `parts` of the queue, when it moves or is spread.
fn parts(cluster: &TestCluster) -> Option<String> {
    let status = cluster.operate(1, &["status", "--json"]).expect("a status");
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    let rows = status["queues"].as_array().expect("queues");
    let row = rows.iter().find(|row| row["name"] == QUEUE)?;
    row["parts"].as_str().map(str::to_owned)
}

async fn placed(cluster: &TestCluster, seen: &Seen, words: &[&str]) {
    let (from, before) = (Instant::now(), seen.confirmed());
    cluster.operate(0, words).expect("done");
    let drains = || parts(cluster).is_some_and(|parts| parts.contains("draining"));
    eventually_async(PATIENCE, || async { (!drains()).then_some(()) }).await;
    let (took, count) = (from.elapsed(), seen.confirmed() - before);
    println!(
        "{}: {} ms, {count} confirmed meanwhile; now {}",
        words.join(" "),
        took.as_millis(),
        parts(cluster).as_deref().unwrap_or("whole")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_moves_and_is_spread_unseen_by_its_clients() {
    if skipped_on_foreign("starting a cluster") {
        return;
    }
    let cluster = TestCluster::start();
    let sets = cluster.settled();
    let length = Duration::from_secs(env_number("COMPAT_MOVE_SECONDS", 1));
    let seen = Arc::new(Seen::default());
    let mut publishers = Vec::new();
    let mut connections = Vec::new();
    for publisher in 0..PUBLISHERS {
        let connection = connect(&cluster.url(publisher)).await;
        let channel = declared(&connection, QUEUE, FieldTable::default()).await;
        let confirms = ConfirmSelectOptions::default();
        channel.confirm_select(confirms).await.expect("confirms");
        publishers.push(tokio::spawn(publish(channel, publisher, Arc::clone(&seen))));
        connections.push(connection);
    }
    let connection = connect(&cluster.url(2)).await;
    let channel = connection.create_channel().await.expect("a channel");
    let consumer = tokio::spawn(consume(channel, Arc::clone(&seen)));
    eventually_async(PATIENCE, || async {
        (seen.consumed.load(Ordering::Relaxed) > WINDOW).then_some(())
    })
    .await;

    watch(&seen, "in one set", length).await;
    for set in sets.iter().rev() {
        placed(&cluster, &seen, &["move", QUEUE, &set.to_string()]).await;
        watch(&seen, "moved", length).await;
    }
    placed(&cluster, &seen, &["spread", QUEUE, "3"]).await;
    let spread = parts(&cluster).expect("a spread queue is shown");
    assert_eq!(spread.matches("active").count(), SETS, "{spread}");
    watch(&seen, "spread over three sets", length).await;
    placed(&cluster, &seen, &["spread", QUEUE, "1"]).await;
    assert_eq!(parts(&cluster), None);
    watch(&seen, "gathered", length).await;

    seen.stop.store(true, Ordering::Relaxed);
    for publisher in publishers {
        publisher.await.expect("no publisher saw an error");
    }
    let confirmed = seen.confirmed();
    eventually_async(PATIENCE, || async {
        (seen.consumed.load(Ordering::Relaxed) >= confirmed).then_some(())
    })
    .await;
    assert!(!consumer.is_finished(), "the consumer saw an error");
    connection.close(200, "done".into()).await.expect("closed");
    consumer.await.expect("the consumer saw no error");
    let deliveries = std::mem::take(&mut *seen.deliveries.lock().unwrap());
    let mut each: HashMap<usize, Vec<u64>> = HashMap::new();
    for message in &deliveries {
        let publisher = message.publisher as usize;
        each.entry(publisher).or_default().push(message.number);
    }
    for (publisher, numbers) in &mut each {
        let sent = seen.confirmed[*publisher].load(Ordering::Relaxed);
        assert!(
            rises_in(SETS, numbers.iter().copied()),
            "order within parts"
        );
        numbers.sort_unstable();
        assert!(numbers.iter().copied().eq(0..sent), "each exactly once");
    }
    println!("{confirmed} confirmed, as many delivered, each once, in order within its part");
}
