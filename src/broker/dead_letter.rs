//! The leader's side of a set's effects: dead letters are routed and published through this node's own pipes, and
//! forgotten by their queue only once they are applied where they went. At least once by construction.
//!
//! One task, bounded in flight. What a full channel could not take is asked of the machines again.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::amqp::{ProtocolError, RawProperties};
use crate::base::{Clock, QueueId, SetId, SystemClock};
use crate::cluster::{Event, Mailbox, SetEffect, SetHandle, SetReplica};
use crate::model::batch::{self, Message, MessageFlags, MessageParts, PublishOptions};
use crate::model::route::{QueueTarget, RouteInput};
use crate::model::set::{Command, DeadLetter, DeathReason};
use crate::model::topology::{QueueRecord, TopologyCommand};

use crate::rt::Supervisor;

use super::death::{Death, Obituary, routing_keys};
use super::node::Node;
use super::parts::drop_parts;
use super::replies::{ADDRESS_PREFIX, Reply};
use super::retained::{Key, Retained};
use super::routes::by_set;

/// Dead letters under way whose queues do not wait for them.
const IN_FLIGHT_MAX: usize = 1024;
/// A retained dead letter that found no queue, or one that refused it, is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Runs until the node stops.
pub async fn run(node: Arc<Node>, effects: mpsc::Receiver<SetEffect>, supervisor: Supervisor) {
    let worker = Worker {
        node,
        mailbox: Arc::default(),
        flights: HashMap::new(),
        waiting: BTreeMap::new(),
        known: HashSet::new(),
        retained: Retained::default(),
        backlog: VecDeque::new(),
        retries: VecDeque::new(),
        given_up: false,
        events: Vec::new(),
    };
    worker.run(effects, supervisor).await;
}

/// One publish of a dead letter.
#[derive(Debug)]
struct Sent {
    seq: u64,
    key: Key,
    to: Vec<QueueId>,
    refused: bool,
    given_up: bool,
}

/// A dead letter under way.
#[derive(Debug)]
struct Flight {
    retains: bool,
    left: usize,
    refused: bool,
    given_up: bool,
}

struct Worker {
    node: Arc<Node>,
    mailbox: Arc<Mailbox>,
    flights: HashMap<Key, Flight>,
    /// Per target set, in the order of the pipe.
    waiting: BTreeMap<SetId, VecDeque<Sent>>,
    /// Those of queues that do not retain them.
    known: HashSet<Key>,
    retained: Retained,
    backlog: VecDeque<(SetId, DeadLetter)>,
    retries: VecDeque<(SetId, DeadLetter)>,
    /// Some were given up by their pipe: the machines are to be asked for them again.
    given_up: bool,
    events: Vec<Event>,
}

/// What to publish.
struct Letter {
    message: Message,
    properties: RawProperties,
    exchange: Bytes,
    routing_key: Bytes,
    /// Its queue has a key of its own for it, or one before had.
    rekeyed: bool,
    sets: Vec<(SetId, Vec<QueueId>)>,
}

/// What is to become of a dead letter.
enum Prepared {
    /// Nothing more.
    Over,
    /// There is no queue for it.
    Nowhere,
    Letter(Box<Letter>),
}

impl Worker {
    async fn run(mut self, mut effects: mpsc::Receiver<SetEffect>, supervisor: Supervisor) {
        loop {
            while let Some((set, letter)) = self.backlog.pop_front() {
                self.letter(set, letter).await;
            }
            while let Some((set, letter)) = self.retries.pop_front() {
                let key = (set, letter.queue, letter.id);
                let record = self.record(letter.queue);
                self.send(key, record, &letter, true).await;
            }
            if !self.backlog.is_empty() {
                continue;
            }
            let room = self.known.len() < IN_FLIGHT_MAX;
            let due = self.retained.next();
            tokio::select! {
                effect = effects.recv(), if room => match effect {
                    Some(SetEffect::DeadLetter(set, letter)) => self.letter(set, letter).await,
                    Some(SetEffect::QueueGone(queue)) => self.queue_gone(queue).await,
                    None => return,
                },
                () = self.mailbox.ready() => self.settle(),
                () = until(due) => self.try_again(),
                () = supervisor.stopping() => return,
            }
            let missed = effects.is_empty() && self.node.cluster.effects.take_missed();
            if missed || std::mem::take(&mut self.given_up) {
                self.ask_again().await;
            }
        }
    }

    /// Some effects did not fit the channel; the state has them all.
    async fn ask_again(&mut self) {
        let node = Arc::clone(&self.node);
        for (set, handle) in node.cluster.sets() {
            if !leads(handle) {
                continue;
            }
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

    fn record(&self, queue: QueueId) -> Option<QueueRecord> {
        let topology = &self.node.cluster.topology;
        topology.read(|topology| topology.queue_by_id(queue).cloned())
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
        let record = self.record(letter.queue);
        let retains = record
            .as_ref()
            .is_some_and(QueueRecord::retains_dead_letters);
        let new = if retains {
            self.retained.begin(key)
        } else {
            self.known.insert(key)
        };
        if new {
            self.send(key, record, &letter, retains).await;
        }
    }

    /// Publishes a dead letter to wherever it has not gone yet.
    async fn send(
        &mut self,
        key: Key,
        record: Option<QueueRecord>,
        letter: &DeadLetter,
        retains: bool,
    ) {
        let prepared = match &record {
            Some(record) => self.prepare(key.0, record, letter).await,
            None => Prepared::Over,
        };
        let mut flight = Flight {
            retains,
            left: 0,
            refused: false,
            given_up: false,
        };
        match prepared {
            Prepared::Over => {}
            Prepared::Nowhere => flight.refused = true,
            Prepared::Letter(ready) => flight.left = self.publish(key, &ready, retains),
        }
        if flight.left == 0 {
            self.landed(key, &flight);
        } else {
            self.flights.insert(key, flight);
        }
    }

    /// Every publish of it is through.
    fn landed(&mut self, key: Key, flight: &Flight) {
        if flight.retains && (flight.refused || flight.given_up) {
            self.retained.again(key, Instant::now() + RETRY_AFTER);
            return;
        }
        if flight.given_up {
            self.known.remove(&key);
            self.given_up = true;
            return;
        }
        let (set, queue, id) = key;
        if let Some(handle) = self.node.cluster.set(set) {
            handle.push(&Command::DeadLettered { queue, id });
            handle.kick();
        }
        if flight.retains {
            self.ended(key);
        } else {
            self.known.remove(&key);
        }
    }

    /// A retained letter has gone: the next ones of its queue have their turn.
    fn ended(&mut self, key: Key) {
        let Some((last, room)) = self.retained.end(key) else {
            return;
        };
        let (set, queue, _) = key;
        let Some(handle) = self.node.cluster.set(set) else {
            return;
        };
        let next = handle.with(|r| r.machine().dead_letters_after(queue, last, room));
        let next = next.unwrap_or_default();
        if next.is_empty() {
            self.retained.rest(set, queue);
        }
        self.backlog
            .extend(next.into_iter().map(|letter| (set, letter)));
    }

    /// Tries what is due, unless another node leads its set by now, or it has gone.
    fn try_again(&mut self) {
        while let Some(key) = self.retained.due(Instant::now()) {
            let (set, queue, id) = key;
            let handle = self.node.cluster.set(set).filter(|handle| leads(handle));
            let Some(handle) = handle else {
                self.retained.forget(set, queue);
                continue;
            };
            let letters = handle.with(|r| r.machine().dead_letters_after(queue, id - 1, 1));
            match letters.unwrap_or_default().first() {
                Some(letter) if letter.id == id => self.retries.push_back((set, *letter)),
                _ => self.ended(key),
            }
        }
    }

    fn settle(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        self.mailbox.take(&mut events);
        for event in events.drain(..) {
            match event {
                Event::Refused(set, seq) => {
                    let sent = self.waiting.get_mut(&set);
                    let at = sent.and_then(|sent| {
                        let at = sent.binary_search_by_key(&seq, |sent| sent.seq).ok()?;
                        sent.get_mut(at)
                    });
                    if let Some(sent) = at {
                        sent.refused = true;
                    }
                }
                Event::GivenUp(set, seq) => {
                    let sent = self.waiting.get_mut(&set).into_iter().flatten();
                    for sent in sent.take_while(|sent| sent.seq <= seq) {
                        sent.given_up = true;
                    }
                }
                Event::Applied(set, seq) => self.applied(set, seq),
                Event::Deliver(..)
                | Event::Lost(_)
                | Event::Skipped(..)
                | Event::Cancelled(_)
                | Event::TimedOut(_) => {}
            }
        }
        self.events = events;
    }

    fn applied(&mut self, set: SetId, seq: u64) {
        while let Some(waiting) = self.waiting.get_mut(&set)
            && waiting.front().is_some_and(|sent| sent.seq <= seq)
            && let Some(sent) = waiting.pop_front()
        {
            let Some(flight) = self.flights.get_mut(&sent.key) else {
                continue;
            };
            flight.left -= 1;
            flight.refused |= sent.refused;
            flight.given_up |= sent.given_up;
            if flight.retains && !sent.refused && !sent.given_up {
                for queue in sent.to {
                    self.retained.taken(sent.key, queue);
                }
            }
            if flight.left == 0
                && let Some(flight) = self.flights.remove(&sent.key)
            {
                self.landed(sent.key, &flight);
            }
        }
    }

    /// One publish per set; per queue where each queue's word counts. How many.
    fn publish(&mut self, key: Key, letter: &Letter, retains: bool) -> usize {
        let parts = MessageParts {
            flags: MessageFlags {
                died: true,
                rekeyed: letter.rekeyed,
            },
            exchange: &letter.exchange,
            routing_key: &letter.routing_key,
            blind_keys: &letter.message.blind_keys,
            properties: &letter.properties.0,
            body: std::slice::from_ref(&letter.message.body),
        };
        let options = PublishOptions {
            ttl: None,
            priority: letter.properties.priority(),
            delay: None,
        };
        let mut count = 0;
        for (set, queues) in &letter.sets {
            let Some(handle) = self.node.cluster.set(*set) else {
                continue;
            };
            let each: Vec<&[QueueId]> = if retains {
                queues.chunks(1).collect()
            } else {
                vec![queues]
            };
            for to in each {
                if to.iter().all(|queue| self.retained.has_taken(key, *queue)) {
                    continue;
                }
                let pushed = handle.publish(&self.mailbox, to, options, &parts);
                count += 1;
                self.waiting.entry(*set).or_default().push_back(Sent {
                    seq: pushed.seq,
                    key,
                    to: to.to_vec(),
                    refused: false,
                    given_up: false,
                });
            }
            handle.kick();
        }
        count
    }

    /// Reads a dead letter and finds where it goes.
    async fn prepare(&self, set: SetId, record: &QueueRecord, letter: &DeadLetter) -> Prepared {
        let cluster = &self.node.cluster;
        let (Some(target), Some(handle)) = (record.dead_letter.clone(), cluster.set(set)) else {
            return Prepared::Over;
        };
        let position = letter.position;
        let payload = match handle.load(position).await {
            Ok(payload) => payload,
            Err(error) => return self.unreadable(set, record, &error),
        };
        let mut message = match batch::message(&payload, position.slot()) {
            Ok(message) => message,
            Err(error) => return self.unreadable(set, record, &error),
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
            Some(key) => {
                message.flags.rekeyed = true;
                message.blind_keys.clear();
                vec![Bytes::copy_from_slice(key.as_bytes())]
            }
            None => {
                let mut keys = routing_keys(&message, headers.as_ref());
                keys.extend(message.blind_keys.iter().cloned());
                keys
            }
        };
        let exchange = target.exchange.to_string();
        let routed = self.route(record, &exchange, &keys, &obituary, letter.reason);
        let (found, sets) = routed.unwrap_or_default();
        let routing_key = keys.into_iter().next().unwrap_or_default();
        let exchange = Bytes::from(exchange);
        if exchange.is_empty() && routing_key.starts_with(ADDRESS_PREFIX) {
            let reply = Reply {
                address: &routing_key,
                routing_key: &routing_key,
                properties: &obituary.properties.0,
                body: std::slice::from_ref(&message.body),
            };
            let (vhost, mailbox) = (&record.vhost, &self.mailbox);
            let (_, set) = self.node.send_reply(mailbox, vhost, &reply);
            if let Some(handle) = set.and_then(|set| self.node.cluster.set(set)) {
                handle.kick();
            }
            return Prepared::Over;
        }
        if sets.is_empty() {
            // What would only go round in a circle is dropped.
            return if found {
                Prepared::Over
            } else {
                Prepared::Nowhere
            };
        }
        Prepared::Letter(Box::new(Letter {
            rekeyed: message.flags.rekeyed,
            message,
            properties: obituary.properties,
            exchange,
            routing_key,
            sets,
        }))
    }

    fn unreadable(
        &self,
        set: SetId,
        record: &QueueRecord,
        error: &dyn std::fmt::Display,
    ) -> Prepared {
        tracing::error!(%set, queue = record.name, %error, "a dead letter cannot be read");
        self.node.stats.unreadable.inc();
        Prepared::Nowhere
    }

    /// Whether any queue was found, and those that do not begin a cycle.
    fn route(
        &self,
        record: &QueueRecord,
        exchange: &str,
        keys: &[Bytes],
        obituary: &Obituary,
        reason: DeathReason,
    ) -> Result<(bool, Vec<(SetId, Vec<QueueId>)>), ProtocolError> {
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        let mut targets: Vec<QueueTarget> = Vec::new();
        let found = self.node.cluster.topology.read(|topology| {
            let input = RouteInput {
                vhost: &record.vhost,
                exchange: exchange.as_bytes(),
                keys: &keys,
                properties: &obituary.properties,
                dice: rand::random(),
            };
            topology.route(&input, &mut targets)?;
            let found = !targets.is_empty();
            targets.retain(|target| {
                let name = topology
                    .queue_by_id(target.queue)
                    .map(|record| &*record.name);
                name.is_some_and(|name| !obituary.cycles(name, reason))
            });
            Ok::<_, ProtocolError>(found)
        })?;
        Ok((found, by_set(&targets)))
    }
}

/// Whether this node sees to the effects of a set.
fn leads(handle: &SetHandle) -> bool {
    handle.with(SetReplica::leads) == Some(true)
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
