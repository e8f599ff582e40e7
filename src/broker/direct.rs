//! What is done for a user without a connection: the management API's declares, publishes and gets, with the same checks
//! and the same words as for a client.
//!
//! Shape: an [`Asker`] with a session of its own; a get holds its leases only until the answer is complete. Bounds: a
//! publish waits at most [`CONFIRM_WAIT`] for its confirm. Not here: JSON, tags.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::amqp::{FieldTable, ProtocolError, RawProperties};
use crate::base::{Clock, ConsumerId, Millis, QueueId, SetId, SystemClock};
use crate::cluster::{Event, Mailbox};
use crate::model::batch::{MessageFlags, MessageParts, PublishOptions};
use crate::model::set::{Command, Outcome, Reply};
use crate::model::topology::{
    Bind, DeclareExchange, DeclareQueue, Destination, OPERATOR, Permission, QueueRecord, Removed,
    TopologyCommand, TopologyReply,
};
use crate::session::{self, ChannelAnswer, copy_keys};

use super::meters::{Count, Counts};
use super::node::Node;
use super::queues::Asker;
use super::routes::{Route, Routed, Routes, with_parts};
use super::stream::no_stream;

const CONFIRM_WAIT: Duration = Duration::from_secs(5);

/// Somebody who acts in a vhost.
pub struct Direct(Asker);

/// What happens to messages after they were got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// They are gone.
    Consumed,
    /// They are visible again.
    Requeued,
    /// As rejected: dead-lettered or dropped.
    Rejected,
}

/// A message that was got.
#[derive(Debug)]
pub struct Got {
    /// Handed out before.
    pub redelivered: bool,
    /// Where it was published.
    pub exchange: Bytes,
    /// With which key.
    pub routing_key: Bytes,
    /// Its properties.
    pub properties: RawProperties,
    /// Its body.
    pub body: Bytes,
    /// Messages ready after it.
    pub left: u32,
}

/// Why a publish has no good end.
#[derive(Debug)]
pub enum Refused {
    /// The publisher's fault.
    Error(ProtocolError),
    /// A queue refused it.
    Nack,
    /// No confirm came in time.
    Timeout,
}

impl From<ProtocolError> for Refused {
    fn from(error: ProtocolError) -> Self {
        Self::Error(error)
    }
}

/// Leases taken so far: whose, and the last number.
type Held = HashMap<ConsumerId, (SetId, u64)>;

impl Direct {
    /// `user` in `vhost`.
    #[must_use]
    pub fn new(node: &Arc<Node>, user: &str, vhost: &str) -> Self {
        Self(Asker {
            node: Arc::clone(node),
            session: node.cluster.registry.session(),
            user: Arc::from(user),
            vhost: Arc::from(vhost),
        })
    }

    /// Whoever runs the node, in `vhost`.
    #[must_use]
    pub fn operator(node: &Arc<Node>, vhost: &str) -> Self {
        Self::new(node, OPERATOR, vhost)
    }

    /// queue.declare.
    ///
    /// # Errors
    /// As a client would get them.
    pub async fn declare_queue(
        &self,
        queue: String,
        durable: bool,
        auto_delete: bool,
        arguments: FieldTable,
    ) -> Result<(), ProtocolError> {
        let request = session::DeclareQueue {
            queue,
            passive: false,
            durable,
            exclusive: false,
            auto_delete,
            arguments,
        };
        let (record, created) = self.0.declare_record(request).await?;
        if created {
            self.0.node.stats.queues_created.inc();
            self.0.create(&record).await?;
        }
        Ok(())
    }

    /// queue.delete; a missing queue is success.
    ///
    /// # Errors
    /// As a client would get them.
    pub async fn delete_queue(
        &self,
        queue: &str,
        if_unused: bool,
        if_empty: bool,
    ) -> Result<(), ProtocolError> {
        let deleted = self.0.delete_queue(queue, if_unused, if_empty).await;
        deleted.map(drop)
    }

    /// queue.purge.
    ///
    /// # Errors
    /// As a client would get them.
    pub async fn purge(&self, queue: &str) -> Result<(), ProtocolError> {
        self.0.purge(queue).await.map(drop)
    }

    /// exchange.declare.
    ///
    /// # Errors
    /// As a client would get them.
    pub async fn declare_exchange(
        &self,
        exchange: String,
        kind: String,
        flags: [bool; 3],
        arguments: FieldTable,
    ) -> Result<(), ProtocolError> {
        let [durable, auto_delete, internal] = flags;
        let request = session::DeclareExchange {
            exchange,
            kind,
            passive: false,
            durable,
            auto_delete,
            internal,
            arguments,
        };
        self.0.declare_exchange(request).await.map(drop)
    }

    /// exchange.delete; a missing exchange is success.
    ///
    /// # Errors
    /// As a client would get them.
    pub async fn delete_exchange(
        &self,
        exchange: String,
        if_unused: bool,
    ) -> Result<(), ProtocolError> {
        let deleted = self.0.delete_exchange(exchange, if_unused).await;
        deleted.map(drop)
    }

    /// queue.bind, exchange.bind, or their opposites.
    ///
    /// # Errors
    /// As a client would get them.
    pub async fn bind(
        &self,
        source: String,
        destination: Destination,
        routing_key: String,
        arguments: FieldTable,
        bind: bool,
    ) -> Result<(), ProtocolError> {
        let command = Bind {
            vhost: self.0.vhost.to_string(),
            source,
            destination,
            routing_key,
            arguments,
            session: self.0.session,
        };
        let topology = &self.0.node.cluster.topology;
        topology.read(|topology| topology.check_bind(&self.0.user, &command))?;
        self.0.change_binding(command, bind).await
    }

    /// Makes a queue without asking for rights.
    ///
    /// # Errors
    /// What the topology refuses.
    pub async fn import_queue(
        &self,
        name: String,
        durable: bool,
        auto_delete: bool,
        arguments: FieldTable,
    ) -> Result<(), ProtocolError> {
        let cluster = &self.0.node.cluster;
        let sets = match durable {
            true => cluster.place(QueueRecord::wanted_parts(&arguments)),
            false => vec![cluster.local()],
        };
        let command = TopologyCommand::DeclareQueue(DeclareQueue {
            vhost: self.0.vhost.to_string(),
            name,
            relaxed: false,
            server_named: false,
            durable,
            exclusive: false,
            auto_delete,
            arguments,
            session: self.0.session,
            node: cluster.pipe.node,
            incarnation: cluster.pipe.incarnation,
            sets,
            user: String::new(),
        });
        if let TopologyReply::Queue { record, created } = self.0.change(command).await?
            && created
        {
            self.0.node.stats.queues_created.inc();
            self.0.create(&record).await?;
        }
        Ok(())
    }

    /// Makes an exchange without asking for rights.
    ///
    /// # Errors
    /// What the topology refuses.
    pub async fn import_exchange(
        &self,
        name: String,
        kind: String,
        flags: [bool; 3],
        arguments: FieldTable,
    ) -> Result<(), ProtocolError> {
        let [durable, auto_delete, internal] = flags;
        let history = name.clone();
        let pipe = self.0.node.cluster.pipe;
        let command = TopologyCommand::DeclareExchange(DeclareExchange {
            vhost: self.0.vhost.to_string(),
            name,
            kind,
            durable,
            auto_delete,
            internal,
            arguments,
            user: String::new(),
            node: pipe.node,
            incarnation: pipe.incarnation,
        });
        self.0.change(command).await?;
        self.0.keep_history(&history).await
    }

    /// Makes a binding without asking for rights.
    ///
    /// # Errors
    /// What the topology refuses.
    pub async fn import_binding(
        &self,
        source: String,
        destination: Destination,
        routing_key: String,
        arguments: FieldTable,
    ) -> Result<(), ProtocolError> {
        let bind = TopologyCommand::Bind(Bind {
            vhost: self.0.vhost.to_string(),
            source,
            destination,
            routing_key,
            arguments,
            session: self.0.session,
        });
        self.0.change(bind).await.map(drop)
    }

    /// Any other change of the topology, without a check. Contents of queues that went with it go too.
    ///
    /// # Errors
    /// What the topology answers.
    pub async fn change(&self, command: TopologyCommand) -> Result<Removed, ProtocolError> {
        match self.0.change(command).await? {
            TopologyReply::Removed(removed) => Ok(removed),
            _ => Ok(Removed::default()),
        }
    }

    /// Publishes and waits for the confirm; whether it was routed.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn publish(
        &self,
        exchange: &Bytes,
        routing_key: &Bytes,
        properties: &RawProperties,
        body: Bytes,
    ) -> Result<bool, Refused> {
        let (more_keys, blind) = copy_keys(properties)?;
        let blind_keys = &more_keys[more_keys.len() - blind..];
        let visible = properties.without_header(b"BCC");
        let access = self.0.node.access.load();
        let (stamps, node) = (access.session.stamps, &access.session.node_name);
        let properties = &stamps.on_publish(visible, node, SystemClock.now());
        let routed = Routed {
            vhost: &self.0.vhost,
            user: &self.0.user,
            exchange,
            routing_key,
            more_keys: &more_keys,
            properties,
            meters: &self.0.node.meters,
        };
        let cluster = &self.0.node.cluster;
        let route = Routes::default().find(&cluster.topology, &routed)?;
        self.count_publish(&route, body.len());
        let sets = with_parts(&route.sets, &route.spread, rand::random::<u32>().into());
        if sets.is_empty() {
            return Ok(false);
        }
        let routed = !route.nowhere;
        let expiration = properties.expiration();
        let ttl = expiration.and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok());
        let options = PublishOptions {
            ttl: ttl.map(Millis),
            priority: properties.priority(),
            delay: None,
        };
        let body = [body];
        let parts = MessageParts {
            flags: MessageFlags::default(),
            exchange,
            routing_key,
            blind_keys,
            properties: &properties.0,
            body: &body,
        };
        let mailbox: Arc<Mailbox> = Arc::default();
        let mut waiting = Vec::new();
        for (set, queues) in &sets {
            let handle = self.0.set(*set)?;
            let pushed = handle.publish(&mailbox, queues, options, &parts);
            waiting.push((*set, pushed.seq));
            handle.kick();
        }
        let confirmed = confirmed(&mailbox, waiting);
        match tokio::time::timeout(CONFIRM_WAIT, confirmed).await {
            Ok(true) => Ok(routed),
            Ok(false) => Err(Refused::Nack),
            Err(_) => Err(Refused::Timeout),
        }
    }

    fn count_publish(&self, route: &Route, size: usize) {
        let (stats, meters) = (&self.0.node.stats, &self.0.node.meters);
        stats.received.inc();
        stats.message_size.observe(size as f64);
        let mut counts = Counts::default();
        counts.add(Count::Publish, 1);
        meters.vhost(&self.0.vhost).counts.add(&counts);
        route.meter.add([1, route.queues, 0, 0]);
        if route.queues > 0 {
            stats.routed.inc();
            stats.enqueued.inc_by(route.queues);
        }
    }

    /// Gets up to `count` messages, all before any of them is settled.
    ///
    /// # Errors
    /// As a client would get them.
    pub async fn get(
        &self,
        queue: &str,
        count: usize,
        settled: Settled,
        bytes_max: usize,
    ) -> Result<Vec<Got>, ProtocolError> {
        let record = self.0.find(queue, Permission::Read)?;
        no_stream(&record, "basic.get")?;
        let mut held = Held::new();
        let mut messages = Vec::new();
        let mailbox: Arc<Mailbox> = Arc::default();
        let taken = self.take(&record, (count, bytes_max), settled, &mailbox, &mut held);
        let result = taken.await.map(|taken| messages = taken);
        self.settle(held, settled).await;
        result.map(|()| messages)
    }

    /// What is at the head of a queue, which stays there; nobody's rights are asked for.
    ///
    /// # Errors
    /// If its set gives no answer.
    pub(super) async fn look(
        &self,
        record: &QueueRecord,
        count: usize,
    ) -> Result<Vec<Got>, ProtocolError> {
        let mut held = Held::new();
        let mailbox: Arc<Mailbox> = Arc::default();
        let how = Settled::Requeued;
        let taken = self.take(record, (count, usize::MAX), how, &mailbox, &mut held);
        let taken = taken.await;
        self.settle(held, how).await;
        taken
    }

    async fn take(
        &self,
        record: &QueueRecord,
        (count, bytes_max): (usize, usize),
        settled: Settled,
        mailbox: &Arc<Mailbox>,
        held: &mut Held,
    ) -> Result<Vec<Got>, ProtocolError> {
        let no_ack = settled == Settled::Consumed;
        let (mut messages, mut bytes) = (Vec::new(), 0);
        for set in record.sets() {
            let handle = self.0.set(set)?.clone();
            let holder = self.0.node.cluster.registry.consumer(mailbox);
            held.insert(holder, (set, 0));
            while messages.len() < count && bytes < bytes_max {
                let get = Command::Get {
                    queue: record.id,
                    holder,
                    session: self.0.session,
                    channel: 1,
                    no_ack,
                };
                // Twice would be one message more than is counted.
                let reply = handle.asking(&get).answer_once().await?;
                if reply == Reply::GotNothing {
                    break;
                }
                if let Reply::Got { delivery, .. } = &reply {
                    held.insert(holder, (set, delivery.first_no));
                }
                let got = self.0.got(Some(reply), &handle, record, no_ack).await?;
                if let ChannelAnswer::Got {
                    redelivered,
                    exchange,
                    routing_key,
                    properties,
                    body,
                    messages: left,
                    ..
                } = got
                {
                    bytes += body.len();
                    messages.push(Got {
                        redelivered,
                        exchange,
                        routing_key,
                        properties,
                        body,
                        left,
                    });
                }
            }
        }
        Ok(messages)
    }

    /// Whatever happened on the way, nothing stays leased.
    async fn settle(&self, held: Held, settled: Settled) {
        let outcome = match settled {
            Settled::Rejected => Outcome::Reject,
            Settled::Requeued | Settled::Consumed => Outcome::Requeue { failed: false },
        };
        for (consumer, (set, last)) in held {
            if let Ok(handle) = self.0.set(set) {
                if last > 0 && settled != Settled::Consumed {
                    handle.push(&Command::Settle {
                        consumer,
                        first: 1,
                        last,
                        outcome,
                    });
                }
                let close = Command::CloseSession {
                    session: self.0.session,
                    channel: None,
                };
                if handle.ask(&close).await.is_err() {
                    tracing::warn!(%set, "a broker set did not hear that a get is over");
                }
            }
            self.0.node.cluster.registry.forget(consumer);
        }
    }

    /// A queue's figures by asking its sets, wherever they are: ready, unsettled, consumers.
    ///
    /// # Errors
    /// If a set gives no answer.
    pub async fn counts(&self, record: &QueueRecord) -> Result<[u64; 3], ProtocolError> {
        let inspect = Command::Inspect {
            queue: record.id,
            touch: false,
        };
        let mut all = [0; 3];
        for reply in self.0.ask_parts(record, &inspect).await? {
            if let Reply::Counts {
                ready,
                unsettled,
                consumers,
            } = reply
            {
                all[0] += ready;
                all[1] += unsettled;
                all[2] = all[2].max(u64::from(consumers));
            }
        }
        Ok(all)
    }

    /// The queue's id and record, if it exists and the user may see it.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<(QueueId, QueueRecord)> {
        let topology = &self.0.node.cluster.topology;
        let record = topology.read(|topology| topology.queue(&self.0.vhost, name).cloned())?;
        Some((record.id, record))
    }
}

/// Whether every set took what it was sent.
async fn confirmed(mailbox: &Mailbox, mut waiting: Vec<(SetId, u64)>) -> bool {
    let mut events = Vec::new();
    let mut accepted = true;
    while !waiting.is_empty() {
        mailbox.ready().await;
        mailbox.take(&mut events);
        for event in events.drain(..) {
            match event {
                Event::Refused(set, seq) | Event::GivenUp(set, seq) => {
                    accepted &= !waiting.iter().any(|(to, at)| *to == set && *at <= seq);
                }
                Event::Applied(set, seq) => waiting.retain(|(to, at)| *to != set || *at > seq),
                _ => {}
            }
        }
    }
    accepted
}
