//! Direct reply-to: which connection waits for replies under which token (spec/amqp-behaviour.md §18).
//!
//! A reply is not stored: it goes straight to the requester's connection, and nowhere if that is gone or has more
//! than [`PENDING_BYTES_MAX`] of replies it does not take. An address names the node of its requester, so that a reply
//! published elsewhere finds it (relay.rs).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::RwLock;
use tokio::sync::mpsc;

use crate::base::{ChannelId, ConsumerId, NodeId};

use super::connection::Posted;
use super::node::random_name;

const PENDING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The prefix of a reply-to address, before its token.
pub(super) const ADDRESS_PREFIX: &[u8] = b"amq.rabbitmq.reply-to.";

/// What became of a message for a routing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The key is no address.
    NoAddress,
    /// It went, or its requester is gone (RabbitMQ 4.2: it counts as routed).
    Here,
    /// Its requester, if there is one, is at this node.
    At(NodeId),
}

/// The first part of a token: the requester's node, and chance.
fn place(node: NodeId) -> String {
    let mut bytes = node.0.to_be_bytes().to_vec();
    bytes.extend(rand::random::<[u8; 16]>());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn node_of(token: &[u8]) -> Option<NodeId> {
    let place = token.split(|byte| *byte == b'.').next()?;
    let bytes = URL_SAFE_NO_PAD.decode(place).ok()?;
    let (node, chance) = bytes.split_first_chunk::<8>()?;
    (chance.len() == 16).then_some(NodeId(u64::from_be_bytes(*node)))
}

/// A message for a requester.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reply<'a> {
    /// Whose: the routing key, or one of CC or BCC.
    pub address: &'a Bytes,
    /// As it was published.
    pub routing_key: &'a Bytes,
    pub properties: &'a Bytes,
    pub body: &'a [Bytes],
}

/// One reply on its way.
#[derive(Debug)]
pub(super) struct DirectReply {
    pub channel: ChannelId,
    pub consumer: ConsumerId,
    pub exchange: Bytes,
    pub routing_key: Bytes,
    pub properties: Bytes,
    pub body: Bytes,
}

#[derive(Clone, Debug)]
struct Requester {
    vhost: Arc<str>,
    channel: ChannelId,
    consumer: ConsumerId,
    post: mpsc::UnboundedSender<Posted>,
    pending_bytes: Arc<AtomicUsize>,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Replies(RwLock<HashMap<Vec<u8>, Requester>>);

impl Replies {
    /// Opens an address; its token.
    pub(super) fn open(
        &self,
        node: NodeId,
        vhost: &Arc<str>,
        channel: ChannelId,
        consumer: ConsumerId,
        post: mpsc::UnboundedSender<Posted>,
        pending_bytes: Arc<AtomicUsize>,
    ) -> String {
        let token = format!("{}.{}", place(node), random_name());
        let vhost = Arc::clone(vhost);
        let requester = Requester {
            vhost,
            channel,
            consumer,
            post,
            pending_bytes,
        };
        self.0.write().insert(token.clone().into_bytes(), requester);
        token
    }

    /// Closes an address.
    pub(super) fn close(&self, token: &str) {
        self.0.write().remove(token.as_bytes());
    }

    /// Whether somebody waits at this routing key.
    pub(super) fn is_open(&self, vhost: &str, routing_key: &[u8]) -> bool {
        routing_key
            .strip_prefix(ADDRESS_PREFIX)
            .is_some_and(|token| {
                self.0
                    .read()
                    .get(token)
                    .is_some_and(|requester| &*requester.vhost == vhost)
            })
    }

    /// Which node an address names.
    pub(super) fn node_of(routing_key: &[u8]) -> Option<NodeId> {
        routing_key.strip_prefix(ADDRESS_PREFIX).and_then(node_of)
    }

    /// Sends a reply to its address, if its requester is here.
    pub(super) fn send(&self, vhost: &str, reply: &Reply<'_>) -> Sent {
        let Some(token) = reply.address.strip_prefix(ADDRESS_PREFIX) else {
            return Sent::NoAddress;
        };
        let Some(requester) = self.0.read().get(token).cloned() else {
            return node_of(token).map_or(Sent::Here, Sent::At);
        };
        let size: usize = reply.body.iter().map(Bytes::len).sum();
        let pending = requester.pending_bytes.load(Ordering::Relaxed);
        if *requester.vhost != *vhost || pending > PENDING_BYTES_MAX {
            return Sent::Here;
        }
        requester.pending_bytes.fetch_add(size, Ordering::Relaxed);
        let reply = DirectReply {
            channel: requester.channel,
            consumer: requester.consumer,
            exchange: Bytes::new(),
            routing_key: Bytes::copy_from_slice(reply.routing_key),
            properties: Bytes::copy_from_slice(reply.properties),
            body: Bytes::from(reply.body.concat()),
        };
        // The requester may close in this moment: its reply is dropped as if it had closed before.
        drop(requester.post.send(Posted::Reply(Box::new(reply))));
        Sent::Here
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_address_names_the_node_of_its_requester() {
        let token = format!("{}.{}", place(NodeId(258)), random_name());
        assert_eq!(node_of(token.as_bytes()), Some(NodeId(258)));
        for other in ["", ".", "abc.def", &random_name()] {
            assert_eq!(node_of(other.as_bytes()), None, "{other}");
        }
    }
}
