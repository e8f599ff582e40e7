//! Direct replies published at another node than their requester's.
//!
//! Shape: from its first requester on, a node of a cluster has one queue more in its own set, of which the topology knows
//! nothing; whoever meets an address that names another node publishes there, as to any queue of that node's, with the
//! vhost in the exchange's place, and the address beside the routing key if it is another. A task of the node takes what
//! comes and hands it to the requester. Bounds: a window of messages, and what the queue may hold; past that replies are
//! dropped, as for a requester that does not read.
//! Not here: addresses (replies.rs).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::base::limits::WINDOW_MESSAGES;
use crate::base::{ConsumerId, NodeId, QueueId, SetId};
use crate::cluster::{Event, Mailbox};
use crate::model::batch::{self, MessageFlags, MessageParts, PublishOptions};
use crate::model::set::{Command, ConsumerConfig, Credit, Delivery, QueueConfig, StreamStart};
use crate::rt::Supervisor;

use super::node::Node;
use super::replies::{Reply, Sent};

/// No queue of the topology has this id.
const QUEUE: QueueId = QueueId(u64::MAX);
const QUEUE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What the task of a node listens to.
#[derive(Debug, Default)]
pub struct Relay {
    mailbox: Arc<Mailbox>,
    begun: AtomicBool,
}

impl Node {
    /// Somebody here waits for replies: they may be published at other nodes.
    pub(super) fn expect_replies(&self) {
        let alone = self
            .cluster
            .topology
            .read(|topology| topology.nodes().nth(1).is_none());
        let Some(handle) = self.cluster.set(self.cluster.local()) else {
            return;
        };
        if alone || self.relay.begun.swap(true, Ordering::AcqRel) {
            return;
        }
        let config = QueueConfig {
            max_length_bytes: Some(QUEUE_BYTES_MAX),
            ..QueueConfig::default()
        };
        handle.push(&Command::Create {
            queue: QUEUE,
            config: Box::new(config),
        });
        let config = ConsumerConfig {
            session: self.cluster.registry.session(),
            channel: 1,
            no_ack: true,
            until_sent: false,
            exclusive: true,
            priority: 0,
            credit: Credit::Window(WINDOW_MESSAGES),
            visibility: None,
            overdue: None,
            start: StreamStart::Next,
        };
        handle.push(&Command::Subscribe {
            consumer: self.cluster.registry.consumer(&self.relay.mailbox),
            queue: QUEUE,
            config,
        });
        handle.kick();
    }

    /// Sends a message to the requester its address names. Whether it is an address at all, and the set something was
    /// appended to.
    pub(super) fn send_reply(
        &self,
        mailbox: &Arc<Mailbox>,
        vhost: &str,
        reply: &Reply<'_>,
    ) -> (bool, Option<SetId>) {
        let node = match self.replies.send(vhost, reply) {
            Sent::NoAddress => return (false, None),
            Sent::Here => return (true, None),
            Sent::At(node) => node,
        };
        if !self.is_other(node) {
            return (true, None);
        }
        let set = SetId::local(node);
        let Some(handle) = self.cluster.set(set) else {
            return (true, None);
        };
        let vhost = Bytes::copy_from_slice(vhost.as_bytes());
        let parts = MessageParts {
            flags: MessageFlags::default(),
            exchange: &vhost,
            routing_key: reply.routing_key,
            blind_keys: match reply.address == reply.routing_key {
                true => &[],
                false => std::slice::from_ref(reply.address),
            },
            properties: reply.properties,
            body: reply.body,
        };
        handle.publish(mailbox, &[QUEUE], PublishOptions::default(), &parts);
        (true, Some(set))
    }

    /// Whether this is another node of the cluster.
    pub(super) fn is_other(&self, node: NodeId) -> bool {
        let topology = &self.cluster.topology;
        node != self.cluster.node()
            && topology.read(|topology| topology.nodes().any(|known| known.id == node))
    }
}

/// Hands replies from other nodes to their requesters, until the node stops.
pub async fn run(node: Arc<Node>, supervisor: Supervisor) {
    let mut events = Vec::new();
    let mut taken = 0;
    loop {
        tokio::select! {
            () = node.relay.mailbox.ready() => {}
            () = supervisor.stopping() => return,
        }
        node.relay.mailbox.take(&mut events);
        for event in events.drain(..) {
            let Event::Deliver(set, delivery, entry) = event else {
                continue;
            };
            taken += delivery.count;
            if let Some(entry) = entry {
                hand_on(&node, &entry, &delivery);
            }
            if taken >= WINDOW_MESSAGES / 4 {
                grant(&node, set, delivery.consumer, std::mem::take(&mut taken));
            }
        }
    }
}

fn grant(node: &Node, set: SetId, consumer: ConsumerId, add: u32) {
    if let Some(handle) = node.cluster.set(set) {
        handle.push(&Command::Grant { consumer, add });
        handle.kick();
    }
}

fn hand_on(node: &Node, entry: &Bytes, delivery: &Delivery) {
    for slot in 0..delivery.count {
        let position = delivery.first.plus(slot);
        match batch::message(entry, position.slot()) {
            Ok(message) => {
                let vhost = String::from_utf8_lossy(&message.exchange);
                let reply = Reply {
                    address: message.blind_keys.first().unwrap_or(&message.routing_key),
                    routing_key: &message.routing_key,
                    properties: &message.properties,
                    body: std::slice::from_ref(&message.body),
                };
                // One that went in the meantime takes nothing.
                let _: Sent = node.replies.send(&vhost, &reply);
            }
            Err(error) => {
                tracing::error!(?position, %error, "a reply cannot be read");
                node.stats.unreadable.inc();
            }
        }
    }
}
