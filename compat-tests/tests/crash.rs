//! What a killed broker still owes its clients.
//!
//! Publishers with confirms and consumers with acks work on several queues; the process is killed at a random
//! moment, started again, and so on. A ledger of what the clients were told decides.
//! Hundreds of rounds: `COMPAT_CRASH_ROUNDS=200 cargo test --release -p compat-tests --test crash`.
//! A failing run is repeated with the seed it printed: `COMPAT_CRASH_SEED=…`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod common;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{PATIENCE, connect, declared, persistent, put};
use compat_tests::{Broker, env_number, eventually, skipped_on_foreign};
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Confirmation, Connection};
use rand::{Rng, SeedableRng, rngs::StdRng};

const QUEUES: u32 = 3;
const PUBLISHERS_PER_QUEUE: u32 = 2;
const PREFETCH: u16 = 100;
/// Acks between two synchronous methods that make them certain.
const ACKS_PER_CHECK: usize = 40;
const PUBLISH_WINDOW: usize = 32;

/// Publisher, and its own number of the message.
type Message = (u32, u64);

/// What the clients were told, over all lives of the broker.
#[derive(Default)]
struct Ledger {
    life: u32,
    next: HashMap<u32, u64>,
    confirmed: HashSet<Message>,
    /// Confirmed and never delivered.
    owed: HashSet<Message>,
    /// Settled, and a later synchronous method on the same channel was answered.
    certain: HashSet<Message>,
    /// The life in which each message was last delivered.
    delivered: HashMap<Message, u32>,
    last_first: HashMap<u32, u64>,
    violations: Vec<String>,
}

impl Ledger {
    fn number(&mut self, publisher: u32) -> u64 {
        let next = self.next.entry(publisher).or_insert(0);
        *next += 1;
        *next
    }

    fn deliver(&mut self, message: Message) {
        let (publisher, number) = message;
        if number == 0 || number > self.next.get(&publisher).copied().unwrap_or(0) {
            self.violations
                .push(format!("{message:?} was never published"));
        }
        if self.certain.contains(&message) {
            self.violations
                .push(format!("{message:?} came back after its ack was certain"));
        }
        self.owed.remove(&message);
        match self.delivered.insert(message, self.life) {
            Some(life) if life == self.life => {
                self.violations
                    .push(format!("{message:?} was delivered twice in life {life}"));
            }
            Some(_) => {}
            None => {
                let last = self.last_first.insert(publisher, number).unwrap_or(0);
                if number <= last {
                    self.violations.push(format!(
                        "{message:?} was first delivered after {last} of its publisher"
                    ));
                }
            }
        }
    }

    fn confirm(&mut self, message: Message) {
        self.confirmed.insert(message);
        if !self.delivered.contains_key(&message) {
            self.owed.insert(message);
        }
    }
}

type Shared = Arc<Mutex<Ledger>>;

fn queue_name(queue: u32) -> String {
    format!("crash-{queue}")
}

/// Publishes windows of messages until the connection is gone.
async fn publisher(
    channel: Channel,
    queue: String,
    publisher: u32,
    ledger: Shared,
) -> lapin::Result<()> {
    loop {
        let mut window = Vec::with_capacity(PUBLISH_WINDOW);
        for _ in 0..PUBLISH_WINDOW {
            let number = ledger.lock().unwrap().number(publisher);
            let body = format!("{publisher} {number}");
            let options = BasicPublishOptions::default();
            let confirm = channel
                .basic_publish(
                    "".into(),
                    queue.as_str().into(),
                    options,
                    body.as_bytes(),
                    persistent(),
                )
                .await?;
            window.push(((publisher, number), confirm));
        }
        for (message, confirm) in window {
            if matches!(confirm.await?, Confirmation::Ack(_)) {
                ledger.lock().unwrap().confirm(message);
            }
        }
    }
}

/// Consumes and acks until the connection is gone; now and then a synchronous method makes the acks certain.
async fn consumer(channel: Channel, queue: String, ledger: Shared) -> lapin::Result<()> {
    channel
        .basic_qos(PREFETCH, BasicQosOptions::default())
        .await?;
    let mut deliveries = channel
        .basic_consume(
            queue.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let mut acked = Vec::new();
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        let message = parse(&delivery.data);
        ledger.lock().unwrap().deliver(message);
        delivery.ack(BasicAckOptions::default()).await?;
        acked.push(message);
        if acked.len() == ACKS_PER_CHECK {
            // A passive declare goes the way of the acks, behind them: its answer says that they are committed.
            let passive = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::durable()
            };
            channel
                .queue_declare(queue.as_str().into(), passive, FieldTable::default())
                .await?;
            ledger.lock().unwrap().certain.extend(acked.drain(..));
        }
    }
    Ok(())
}

fn parse(body: &[u8]) -> Message {
    let text = std::str::from_utf8(body).expect("a body of ours");
    let (publisher, number) = text.split_once(' ').expect("two numbers");
    (
        publisher.parse().expect("publisher"),
        number.parse().expect("number"),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_keeps_what_it_confirmed_and_forgets_what_was_acked() {
    if skipped_on_foreign("killing the broker") {
        return;
    }
    let seed = env_number("COMPAT_CRASH_SEED", rand::random());
    println!("COMPAT_CRASH_SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut broker = Broker::start();
    let ledger = Shared::default();
    for round in 0..env_number("COMPAT_CRASH_ROUNDS", 5) {
        let before = ledger.lock().unwrap().confirmed.len();
        let connection = connect(broker.url()).await;
        let mut tasks = Vec::new();
        for queue in 0..QUEUES {
            let name = queue_name(queue);
            for slot in 0..PUBLISHERS_PER_QUEUE {
                let channel = declared(&connection, &name, FieldTable::default()).await;
                let who = queue * PUBLISHERS_PER_QUEUE + slot;
                tasks.push(tokio::spawn(publisher(
                    channel,
                    name.clone(),
                    who,
                    Arc::clone(&ledger),
                )));
            }
            let channel = connection.create_channel().await.expect("a channel");
            tasks.push(tokio::spawn(consumer(channel, name, Arc::clone(&ledger))));
        }
        let enough = before + chance.random_range(1..4000);
        eventually(PATIENCE, || {
            (ledger.lock().unwrap().confirmed.len() >= enough).then_some(())
        });
        broker.kill_dash_nine();
        for task in tasks {
            // How a client ends whose broker was killed is not what this test is about: what it was told is in the
            // ledger, and it is told nothing more.
            task.abort();
            drop(task.await);
        }
        drop(connection);
        ledger.lock().unwrap().life += 1;
        broker.restart();
        assert_eq!(
            ledger.lock().unwrap().violations,
            Vec::<String>::new(),
            "in round {round}, seed {seed}"
        );
    }
    drain(&broker, &ledger).await;
    let ledger = ledger.lock().unwrap();
    assert_eq!(ledger.violations, Vec::<String>::new(), "seed {seed}");
    println!(
        "{} confirmed, {} delivered, {} acked for certain",
        ledger.confirmed.len(),
        ledger.delivered.len(),
        ledger.certain.len()
    );
}

/// Consumes until every confirmed message has been seen. What is not seen for [`PATIENCE`] is lost, or stuck.
async fn drain(broker: &Broker, ledger: &Shared) {
    let connection = connect(broker.url()).await;
    for queue in 0..QUEUES {
        let channel = connection.create_channel().await.expect("a channel");
        let ledger = Arc::clone(ledger);
        tokio::spawn(async move {
            let ended = consumer(channel, queue_name(queue), ledger).await;
            println!("the last consumer of queue {queue} ended: {ended:?}");
        });
    }
    let (mut left, mut since) = (usize::MAX, Instant::now());
    loop {
        let now = ledger.lock().unwrap().owed.len();
        match now {
            0 => return,
            _ if now < left => (left, since) = (now, Instant::now()),
            _ if since.elapsed() > PATIENCE => break,
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    let ready = ready_counts(&connection).await;
    let ledger = ledger.lock().unwrap();
    let mut missing: Vec<_> = ledger.owed.iter().collect();
    missing.sort();
    missing.truncate(20);
    panic!(
        "{left} confirmed messages are not delivered, the first are {missing:?}; ready in the queues: {ready:?}; \
         last first deliveries: {:?}",
        ledger.last_first
    );
}

async fn ready_counts(connection: &Connection) -> Vec<u32> {
    let mut counts = Vec::new();
    for queue in 0..QUEUES {
        let channel = connection.create_channel().await.expect("a channel");
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::durable()
        };
        let declared = channel
            .queue_declare(
                queue_name(queue).as_str().into(),
                passive,
                FieldTable::default(),
            )
            .await
            .expect("declared");
        counts.push(declared.message_count());
    }
    counts
}

#[tokio::test]
async fn persistent_messages_of_a_durable_queue_survive_a_kill() {
    if skipped_on_foreign("killing the broker") {
        return;
    }
    let mut broker = Broker::start();
    let channel = declared(&connect(broker.url()).await, "kept", FieldTable::default()).await;
    for number in 0..100_u32 {
        assert!(
            put(&channel, "kept", &number.to_be_bytes())
                .await
                .expect("published")
        );
    }
    broker.restart();
    let channel = declared(&connect(broker.url()).await, "kept", FieldTable::default()).await;
    for number in 0..100_u32 {
        let got = channel
            .basic_get("kept".into(), Default::default())
            .await
            .expect("asked")
            .expect("a message");
        assert_eq!(got.delivery.data, number.to_be_bytes());
    }
    broker.stop();
}

/// Ten million: `COMPAT_DEEP_MESSAGES=10000000 cargo test --release -p compat-tests --test crash deep -- --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deep_queue_stays_small_in_memory_and_drains_in_order_after_a_kill() {
    if skipped_on_foreign("killing the broker") {
        return;
    }
    let count = env_number("COMPAT_DEEP_MESSAGES", 200_000);
    let mut broker = Broker::start();
    let empty = broker.resident_bytes();
    let connection = connect(broker.url()).await;
    let channel = declared(&connection, "deep", FieldTable::default()).await;
    let mut window = Vec::new();
    for number in 0..count {
        let mut body = [0; 100];
        body[..8].copy_from_slice(&number.to_be_bytes());
        let options = BasicPublishOptions::default();
        window.push(
            channel
                .basic_publish("".into(), "deep".into(), options, &body, persistent())
                .await
                .expect("sent"),
        );
        if window.len() == 5000 || number + 1 == count {
            for confirm in window.drain(..) {
                assert!(matches!(
                    confirm.await.expect("answered"),
                    Confirmation::Ack(_)
                ));
            }
        }
    }
    let full = broker.resident_bytes();
    broker.restart();
    println!(
        "deep queue of {count}: {empty} B resident when empty, {full} B when full, {:?} to start again",
        broker.startup()
    );
    let connection = connect(broker.url()).await;
    let channel = declared(&connection, "deep", FieldTable::default()).await;
    channel
        .basic_qos(1000, BasicQosOptions::default())
        .await
        .expect("prefetch");
    let mut deliveries = channel
        .basic_consume(
            "deep".into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .expect("subscribed");
    for number in 0..count {
        let delivery = tokio::time::timeout(PATIENCE, deliveries.next())
            .await
            .expect("in time")
            .expect("open")
            .expect("good");
        assert_eq!(delivery.data[..8], number.to_be_bytes());
        if number % 500 == 499 || number + 1 == count {
            delivery
                .ack(BasicAckOptions { multiple: true })
                .await
                .expect("acked");
        }
    }
    assert!(
        channel
            .basic_get("deep".into(), Default::default())
            .await
            .expect("asked")
            .is_none()
    );
    println!("{} B resident when drained", broker.resident_bytes());
    broker.stop();
}
