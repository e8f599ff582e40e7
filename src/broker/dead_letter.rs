//! The leader's side of a set's effects: dead letters are routed and published through this node's own pipes, and
//! forgotten by their queue only once they are applied where they went. At least once by construction.
//!
//! One task, bounded in flight. What a full channel could not take is asked of the machines again.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::amqp::{ProtocolError, RawProperties};
use crate::base::{Clock, QueueId, SetId, SystemClock};
use crate::cluster::{Event, Mailbox, SetEffect};
use crate::model::batch::{self, Message, MessageFlags, MessageParts, PublishOptions};
use crate::model::route::{QueueTarget, RouteInput};
use crate::model::set::{Command, DeadLetter, DeathReason};
use crate::model::topology::{QueueRecord, TopologyCommand};

use crate::rt::Supervisor;

use super::death::{Death, Obituary, routing_keys};
use super::node::Node;
use super::parts::drop_parts;
use super::replies::ADDRESS_PREFIX;
use super::routes::by_set;

const IN_FLIGHT_MAX: usize = 1024;

/// Runs until the node stops.
pub async fn run(node: Arc<Node>, effects: mpsc::Receiver<SetEffect>, supervisor: Supervisor) {
    let worker = Worker {
        node,
        mailbox: Arc::default(),
        waiting: BTreeMap::new(),
        known: HashSet::new(),
        events: Vec::new(),
    };
    worker.run(effects, supervisor).await;
}

/// A dead letter that has been published and waits for its last target.
#[derive(Debug)]
struct Flight {
    seq: u64,
    set: SetId,
    queue: QueueId,
    id: u64,
}

struct Worker {
    node: Arc<Node>,
    mailbox: Arc<Mailbox>,
    /// Per target set, in the order of the pipe. A letter to several sets waits in the last of them it was sent to,
    /// after waiting in the others.
    waiting: BTreeMap<SetId, VecDeque<(Flight, Vec<(SetId, u64)>)>>,
    known: HashSet<(SetId, QueueId, u64)>,
    events: Vec<Event>,
}

/// What to publish.
struct Letter {
    message: Message,
    properties: RawProperties,
    exchange: Bytes,
    routing_key: Bytes,
    sets: Vec<(SetId, Vec<QueueId>)>,
}

impl Worker {
    async fn run(mut self, mut effects: mpsc::Receiver<SetEffect>, supervisor: Supervisor) {
        loop {
            let room = self.known.len() < IN_FLIGHT_MAX;
            tokio::select! {
                effect = effects.recv(), if room => match effect {
                    Some(SetEffect::DeadLetter(set, letter)) => self.letter(set, letter).await,
                    Some(SetEffect::QueueGone(queue)) => self.queue_gone(queue).await,
                    None => return,
                },
                () = self.mailbox.ready() => self.settle(),
                () = supervisor.stopping() => return,
            }
            if effects.is_empty() && self.node.cluster.effects.take_missed() {
                self.ask_again().await;
            }
        }
    }

    /// Some effects did not fit the channel; the state has them all.
    async fn ask_again(&mut self) {
        let node = Arc::clone(&self.node);
        for (set, handle) in node.cluster.sets() {
            let pending = handle.with(|replica| replica.machine().pending_dead_letters());
            for letter in pending.unwrap_or_default() {
                while self.known.len() >= IN_FLIGHT_MAX {
                    self.mailbox.ready().await;
                    self.settle();
                }
                self.letter(set, letter).await;
            }
        }
    }

    async fn queue_gone(&mut self, queue: QueueId) {
        self.node.stats.queues_deleted.inc();
        drop_parts(&self.node.cluster, queue);
        let delete = TopologyCommand::DeleteQueue { id: queue };
        if let Err(error) = self.node.cluster.ask_topology(&delete).await {
            tracing::warn!(%queue, %error, "a deleted queue stays in the topology");
        }
    }

    async fn letter(&mut self, set: SetId, letter: DeadLetter) {
        let key = (set, letter.queue, letter.id);
        if !self.known.insert(key) {
            return;
        }
        let sent = match self.prepare(set, &letter).await {
            Some(ready) => self.publish(&ready),
            None => Vec::new(),
        };
        let flight = Flight {
            seq: 0,
            set,
            queue: letter.queue,
            id: letter.id,
        };
        self.wait(flight, sent);
    }

    /// Moves a letter to the next set it waits for, or ends it.
    fn wait(&mut self, mut flight: Flight, mut sent: Vec<(SetId, u64)>) {
        match sent.pop() {
            Some((target, seq)) => {
                flight.seq = seq;
                self.waiting
                    .entry(target)
                    .or_default()
                    .push_back((flight, sent));
            }
            None => {
                self.known.remove(&(flight.set, flight.queue, flight.id));
                if let Some(handle) = self.node.cluster.set(flight.set) {
                    handle.push(&Command::DeadLettered {
                        queue: flight.queue,
                        id: flight.id,
                    });
                    handle.kick();
                }
            }
        }
    }

    fn settle(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        self.mailbox.take(&mut events);
        for event in events.drain(..) {
            let Event::Applied(set, seq) = event else {
                continue;
            };
            let mut done = Vec::new();
            if let Some(waiting) = self.waiting.get_mut(&set) {
                while waiting.front().is_some_and(|(flight, _)| flight.seq <= seq) {
                    done.extend(waiting.pop_front());
                }
            }
            for (flight, sent) in done {
                self.wait(flight, sent);
            }
        }
        self.events = events;
    }

    fn publish(&mut self, letter: &Letter) -> Vec<(SetId, u64)> {
        let parts = MessageParts {
            flags: MessageFlags { died: true },
            exchange: &letter.exchange,
            routing_key: &letter.routing_key,
            properties: &letter.properties.0,
            body: std::slice::from_ref(&letter.message.body),
        };
        let options = PublishOptions {
            ttl: None,
            priority: letter.properties.priority(),
            delay: None,
        };
        let mut sent = Vec::new();
        for (set, queues) in &letter.sets {
            if let Some(handle) = self.node.cluster.set(*set) {
                let pushed = handle.publish(&self.mailbox, queues, options, &parts);
                handle.kick();
                sent.push((*set, pushed.seq));
            }
        }
        sent
    }

    /// Reads a dead letter and finds where it goes. `None`: nowhere, it is dropped.
    async fn prepare(&self, set: SetId, letter: &DeadLetter) -> Option<Letter> {
        let cluster = &self.node.cluster;
        let record = cluster
            .topology
            .read(|t| t.queue_by_id(letter.queue).cloned())?;
        let target = record.dead_letter.clone()?;
        let position = letter.position;
        let payload = match cluster.set(set)?.load(position).await {
            Ok(payload) => payload,
            Err(error) => return self.unreadable(set, &record, &error),
        };
        let message = match batch::message(&payload, position.slot()) {
            Ok(message) => message,
            Err(error) => return self.unreadable(set, &record, &error),
        };
        let now = SystemClock.now();
        let death = Death {
            queue: &record.name,
            reason: letter.reason,
            now,
        };
        let obituary = Obituary::write(&message, &death);
        let headers = RawProperties(message.properties.clone()).headers();
        let keys = match &target.routing_key {
            Some(key) => vec![Bytes::copy_from_slice(key.as_bytes())],
            None => routing_keys(&message, headers.as_ref()),
        };
        let exchange = target.exchange.to_string();
        let sets = self
            .route(&record, &exchange, &keys, &obituary, letter.reason)
            .unwrap_or_default();
        let routing_key = keys.into_iter().next().unwrap_or_default();
        let exchange = Bytes::from(exchange);
        if exchange.is_empty() && routing_key.starts_with(ADDRESS_PREFIX) {
            let properties = &obituary.properties.0;
            let body = std::slice::from_ref(&message.body);
            self.node
                .replies
                .send(&record.vhost, &routing_key, properties, body);
            return None;
        }
        Some(Letter {
            message,
            properties: obituary.properties,
            exchange,
            routing_key,
            sets,
        })
    }

    fn unreadable(
        &self,
        set: SetId,
        record: &QueueRecord,
        error: &dyn std::fmt::Display,
    ) -> Option<Letter> {
        tracing::error!(%set, queue = record.name, %error, "a dead letter cannot be read");
        self.node.stats.unreadable.inc();
        None
    }

    fn route(
        &self,
        record: &QueueRecord,
        exchange: &str,
        keys: &[Bytes],
        obituary: &Obituary,
        reason: DeathReason,
    ) -> Result<Vec<(SetId, Vec<QueueId>)>, ProtocolError> {
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        let mut targets: Vec<QueueTarget> = Vec::new();
        self.node.cluster.topology.read(|topology| {
            let input = RouteInput {
                vhost: &record.vhost,
                exchange: exchange.as_bytes(),
                keys: &keys,
                properties: &obituary.properties,
                dice: rand::random(),
            };
            topology.route(&input, &mut targets)?;
            targets.retain(|target| {
                let name = topology
                    .queue_by_id(target.queue)
                    .map(|record| &*record.name);
                name.is_some_and(|name| !obituary.cycles(name, reason))
            });
            Ok::<_, ProtocolError>(())
        })?;
        Ok(by_set(&targets))
    }
}
