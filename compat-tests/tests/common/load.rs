//! Publishers with confirms and consumers with acks on several nodes, whose history is recorded.
//!
//! A client whose connection breaks says so in [`Load::errors`], and connects again, to the next of its nodes.
#![allow(dead_code)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use compat_tests::history::{self, History, Message};
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Before a client that was refused asks the next node.
const RETRY: Duration = Duration::from_millis(100);
const PREFETCH: u16 = 50;
/// Acks between two synchronous methods that make them certain.
const ACKS_PER_CHECK: usize = 40;
const BODY_BYTES: usize = 200;

/// Where clients go, and what they do.
#[derive(Clone)]
pub struct Plan {
    /// AMQP URLs of all nodes, by number.
    pub urls: Vec<String>,
    /// The queues, by number; declared before.
    pub queues: Vec<String>,
    /// Nodes that publishers use.
    pub publish_at: Vec<usize>,
    /// Nodes that consumers use.
    pub consume_at: Vec<usize>,
    /// Publishers per queue; each begins at another node.
    pub publishers: usize,
    /// Consumers per queue; each begins at another node.
    pub consumers: usize,
    /// Unconfirmed messages of a publisher.
    pub window: usize,
    /// A publisher rests this long after each window.
    pub rest: Duration,
    /// A client that gets no answer for so long goes to another node.
    pub patience: Duration,
    /// One of so many deliveries is given back; 0: none.
    pub requeue_one_in: u64,
    /// What the judge must know.
    pub rules: history::Rules,
}

impl Plan {
    /// One publisher and one consumer per queue, on different nodes of `nodes`.
    pub fn new(urls: Vec<String>, queues: Vec<String>, nodes: &[usize]) -> Self {
        let mut other = nodes.to_vec();
        other.rotate_left(1);
        Self {
            urls,
            queues,
            publish_at: nodes.to_vec(),
            consume_at: other,
            publishers: 1,
            consumers: 1,
            window: 16,
            rest: Duration::from_millis(10),
            patience: Duration::from_secs(30),
            requeue_one_in: 0,
            rules: history::Rules::default(),
        }
    }
}

/// A client's connection broke, or it got no answer.
#[derive(Clone, Debug)]
pub struct ClientError {
    /// The node it used.
    pub node: usize,
    /// When, milliseconds of the history.
    pub at_ms: u32,
    /// What it was told.
    pub text: String,
}

struct Shared {
    plan: Plan,
    history: Arc<History>,
    /// Queue and time of each confirm.
    confirms: Mutex<Vec<(u16, u32)>>,
    errors: Mutex<Vec<ClientError>>,
}

/// Clients at work.
pub struct Load {
    shared: Arc<Shared>,
    publishers: Vec<JoinHandle<()>>,
    consumers: Vec<JoinHandle<()>>,
    stop_publishing: watch::Sender<bool>,
    stop_consuming: watch::Sender<bool>,
}

type Stop = watch::Receiver<bool>;
type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Load {
    /// Starts them.
    pub fn start(plan: Plan, history: Arc<History>) -> Self {
        let (stop_publishing, publishing) = watch::channel(false);
        let (stop_consuming, consuming) = watch::channel(false);
        let shared = Arc::new(Shared {
            plan,
            history,
            confirms: Mutex::default(),
            errors: Mutex::default(),
        });
        let (mut publishers, mut consumers) = (Vec::new(), Vec::new());
        for queue in 0..shared.plan.queues.len() {
            let number = u16::try_from(queue).unwrap();
            for slot in 0..shared.plan.consumers {
                let task = consume(Arc::clone(&shared), number, queue + slot, consuming.clone());
                consumers.push(tokio::spawn(task));
            }
            for slot in 0..shared.plan.publishers {
                let task = publish(
                    Arc::clone(&shared),
                    number,
                    queue + slot,
                    publishing.clone(),
                );
                publishers.push(tokio::spawn(task));
            }
        }
        Self {
            shared,
            publishers,
            consumers,
            stop_publishing,
            stop_consuming,
        }
    }

    /// Milliseconds of the history.
    pub fn now_ms(&self) -> u32 {
        self.shared.history.now_ms()
    }

    /// Confirms since the clients started.
    pub fn confirmed(&self) -> usize {
        self.shared.confirms.lock().unwrap().len()
    }

    /// Confirms of the queue with the fewest, of those at or after `from_ms`.
    pub fn confirmed_each(&self, from_ms: u32) -> usize {
        let mut counts = vec![0; self.shared.plan.queues.len()];
        for (queue, at) in self.shared.confirms.lock().unwrap().iter() {
            counts[usize::from(*queue)] += usize::from(*at >= from_ms);
        }
        counts.into_iter().min().unwrap_or(0)
    }

    /// For each queue, the end of its longest time without a confirm that began at `from_ms` or later, and that time.
    pub fn silences(&self, from_ms: u32) -> Vec<(u32, u32)> {
        let confirms = self.shared.confirms.lock().unwrap();
        let mut longest = vec![(from_ms, 0); self.shared.plan.queues.len()];
        let mut last = vec![from_ms; longest.len()];
        for (queue, at) in confirms.iter().filter(|(_, at)| *at >= from_ms) {
            let queue = usize::from(*queue);
            let gap = at - last[queue];
            if gap > longest[queue].1 {
                longest[queue] = (*at, gap);
            }
            last[queue] = *at;
        }
        longest
    }

    /// What clients were told that they should not have been.
    pub fn errors(&self) -> Vec<ClientError> {
        self.shared.errors.lock().unwrap().clone()
    }

    /// Publishers get the answers they wait for and end.
    pub async fn stop_publishing(&mut self) {
        self.stop_publishing.send_replace(true);
        for task in self.publishers.drain(..) {
            task.await.expect("a publisher that does not panic");
        }
    }

    /// Consumers end.
    pub async fn stop_consuming(&mut self) {
        self.stop_consuming.send_replace(true);
        for task in self.consumers.drain(..) {
            task.await.expect("a consumer that does not panic");
        }
    }
}

impl Shared {
    fn failed(&self, node: usize, failure: &Failure) {
        self.errors.lock().unwrap().push(ClientError {
            node,
            at_ms: self.history.now_ms(),
            text: failure.to_string(),
        });
    }

    async fn connect(&self, node: usize) -> Result<Connection, Failure> {
        let url = &self.plan.urls[node];
        let connecting = Connection::connect(url, ConnectionProperties::default());
        Ok(tokio::time::timeout(CONNECT_LIMIT, connecting).await??)
    }
}

/// Does `session` at one node after another until it is told to stop.
async fn again_and_again<F: Future<Output = Result<(), Failure>>>(
    shared: &Shared,
    nodes: &[usize],
    begin: usize,
    stop: &Stop,
    mut session: impl FnMut(usize) -> F,
) {
    for turn in begin.. {
        if *stop.borrow() {
            return;
        }
        let node = nodes[turn % nodes.len()];
        if let Err(failure) = session(node).await {
            shared.failed(node, &failure);
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn publish(shared: Arc<Shared>, queue: u16, begin: usize, stop: Stop) {
    let nodes = shared.plan.publish_at.clone();
    again_and_again(&shared, &nodes, begin, &stop, |node| {
        publish_session(&shared, queue, node, stop.clone())
    })
    .await;
}

async fn publish_session(
    shared: &Shared,
    queue: u16,
    node: usize,
    stop: Stop,
) -> Result<(), Failure> {
    let plan = &shared.plan;
    let connection = shared.connect(node).await?;
    let channel = within(plan, connection.create_channel()).await?;
    within(
        plan,
        channel.confirm_select(ConfirmSelectOptions::default()),
    )
    .await?;
    let publisher = shared.history.new_publisher();
    let mut number = 0;
    while !*stop.borrow() {
        let mut window = Vec::with_capacity(plan.window);
        for _ in 0..plan.window {
            number += 1;
            let message = Message { publisher, number };
            let body = history::body(message, queue, BODY_BYTES);
            shared.history.attempt(message, queue);
            let sending = channel.basic_publish(
                "".into(),
                plan.queues[usize::from(queue)].as_str().into(),
                BasicPublishOptions::default(),
                &body,
                BasicProperties::default().with_delivery_mode(2),
            );
            window.push((message, within(plan, sending).await?));
        }
        for (message, confirm) in window {
            let confirmed = matches!(within(plan, confirm).await?, Confirmation::Ack(_));
            shared.history.answered(message, confirmed);
            if confirmed {
                // The time is taken under the lock: the list is in its order.
                let mut confirms = shared.confirms.lock().unwrap();
                confirms.push((queue, shared.history.now_ms()));
            }
        }
        tokio::time::sleep(plan.rest).await;
    }
    within(plan, connection.close(200, "done".into())).await
}

/// An answer in time. Nothing is waited for without a limit: a call on a connection that just broke may never end.
async fn within<T>(
    plan: &Plan,
    answer: impl IntoFuture<Output = lapin::Result<T>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(plan.patience, answer.into_future()).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err("no answer in time".into()),
    }
}

async fn consume(shared: Arc<Shared>, queue: u16, begin: usize, stop: Stop) {
    let nodes = shared.plan.consume_at.clone();
    again_and_again(&shared, &nodes, begin, &stop, |node| {
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        async move {
            let connection = shared.connect(node).await?;
            let consumer = shared.history.start_consumer(queue, node);
            let ended = consume_session(&shared, &connection, queue, consumer, stop).await;
            shared.history.stop_consumer(consumer);
            if ended.is_err() {
                // A connection that is only let go of may live on, and hold what it was given.
                let closing = connection.close(200, "gives up".into());
                drop(tokio::time::timeout(CONNECT_LIMIT, closing).await);
            }
            ended?;
            within(&shared.plan, connection.close(200, "done".into())).await
        }
    })
    .await;
}

async fn consume_session(
    shared: &Shared,
    connection: &Connection,
    queue: u16,
    consumer: u16,
    mut stop: Stop,
) -> Result<(), Failure> {
    let (plan, history) = (&shared.plan, &shared.history);
    let name = plan.queues[usize::from(queue)].as_str();
    let channel = within(plan, connection.create_channel()).await?;
    within(
        plan,
        channel.basic_qos(PREFETCH, BasicQosOptions::default()),
    )
    .await?;
    let subscribing = channel.basic_consume(
        name.into(),
        "".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut deliveries = within(plan, subscribing).await?;
    let mut acked = Vec::new();
    let mut seen = 0_u64;
    loop {
        let delivery = tokio::select! {
            biased;
            () = told(&mut stop) => None,
            delivery = deliveries.next() => Some(delivery),
        };
        let Some(delivery) = delivery else {
            return make_certain(shared, &channel, name, consumer, &mut acked).await;
        };
        let delivery = delivery.ok_or("the consumer was cancelled")??;
        let Some((message, _)) = history::parse(&delivery.data) else {
            history.unreadable(consumer);
            continue;
        };
        history.delivered(message, consumer, delivery.redelivered);
        seen += 1;
        if plan.requeue_one_in > 0 && seen.is_multiple_of(plan.requeue_one_in) {
            history.requeued(message, consumer);
            let back = BasicNackOptions {
                requeue: true,
                ..BasicNackOptions::default()
            };
            within(plan, delivery.nack(back)).await?;
            continue;
        }
        history.acked(message, consumer);
        within(plan, delivery.ack(BasicAckOptions::default())).await?;
        acked.push(message);
        if acked.len() == ACKS_PER_CHECK {
            make_certain(shared, &channel, name, consumer, &mut acked).await?;
        }
    }
}

async fn told(stop: &mut Stop) {
    // The sender lives as long as the load.
    drop(stop.wait_for(|stop| *stop).await);
}

/// A passive declare goes the way of the acks, behind them: its answer says that they are committed.
async fn make_certain(
    shared: &Shared,
    channel: &Channel,
    queue: &str,
    consumer: u16,
    acked: &mut Vec<Message>,
) -> Result<(), Failure> {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::durable()
    };
    let asked = channel.queue_declare(queue.into(), passive, FieldTable::default());
    within(&shared.plan, asked).await?;
    for message in acked.drain(..) {
        shared.history.ack_certain(message, consumer);
    }
    Ok(())
}

/// Declares durable queues, at `url`.
pub async fn declare(url: &str, prefix: &str, count: usize) -> Vec<String> {
    let connection = Connection::connect(url, ConnectionProperties::default())
        .await
        .expect("connected");
    let channel = connection.create_channel().await.expect("a channel");
    let mut names = Vec::new();
    for number in 0..count {
        let name = format!("{prefix}-{number}");
        let durable = QueueDeclareOptions::durable();
        channel
            .queue_declare(name.as_str().into(), durable, FieldTable::default())
            .await
            .expect("declared");
        names.push(name);
    }
    names
}

/// Messages ready in `queue`, as the node at `url` says.
pub async fn depth(url: &str, queue: &str) -> u32 {
    let connection = Connection::connect(url, ConnectionProperties::default())
        .await
        .expect("connected");
    let channel = connection.create_channel().await.expect("a channel");
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::durable()
    };
    let queue = channel
        .queue_declare(queue.into(), passive, FieldTable::default())
        .await
        .expect("declared");
    queue.message_count()
}

/// Waits until every confirmed message was delivered and nothing more comes; then ends the consumers and judges.
pub async fn drain(load: &mut Load, limit: Duration) -> history::Report {
    let begin = std::time::Instant::now();
    let (history, rules) = (Arc::clone(&load.shared.history), load.shared.plan.rules);
    let mut events = 0;
    while begin.elapsed() < limit {
        let quiet = std::mem::replace(&mut events, history.len()) == history.len();
        if quiet && history::check(&history, rules).lost == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    load.stop_consuming().await;
    history::check(&history, rules)
}
