//! Direct reply-to: which connection waits for replies under which token (spec/amqp-behaviour.md §18).
//!
//! A reply is not stored: it goes straight to the requester's connection, and nowhere if that is gone or has more
//! than [`PENDING_BYTES_MAX`] of replies it does not take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::RwLock;
use tokio::sync::mpsc;

use crate::base::{ChannelId, ConsumerId};

use super::connection::Posted;
use super::node::random_name;

const PENDING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The prefix of a reply-to address, before its token.
pub(super) const ADDRESS_PREFIX: &[u8] = b"amq.rabbitmq.reply-to.";

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
        vhost: &Arc<str>,
        channel: ChannelId,
        consumer: ConsumerId,
        post: mpsc::UnboundedSender<Posted>,
        pending_bytes: Arc<AtomicUsize>,
    ) -> String {
        let token = format!("{}.{}", random_name(), random_name());
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

    /// Sends a reply to the address a routing key names. Returns whether it is an address at all; a requester that is
    /// gone drops the reply (RabbitMQ 4.2: it counts as routed).
    pub(super) fn send(
        &self,
        vhost: &str,
        routing_key: &Bytes,
        properties: &Bytes,
        body: &[Bytes],
    ) -> bool {
        let Some(token) = routing_key.strip_prefix(ADDRESS_PREFIX) else {
            return false;
        };
        let Some(requester) = self.0.read().get(token).cloned() else {
            return true;
        };
        let size: usize = body.iter().map(Bytes::len).sum();
        let pending = requester.pending_bytes.load(Ordering::Relaxed);
        if *requester.vhost != *vhost || pending > PENDING_BYTES_MAX {
            return true;
        }
        requester.pending_bytes.fetch_add(size, Ordering::Relaxed);
        let reply = DirectReply {
            channel: requester.channel,
            consumer: requester.consumer,
            exchange: Bytes::new(),
            routing_key: Bytes::copy_from_slice(routing_key),
            properties: Bytes::copy_from_slice(properties),
            body: Bytes::from(body.concat()),
        };
        // The requester may close in this moment: its reply is dropped as if it had closed before.
        drop(requester.post.send(Posted::Reply(Box::new(reply))));
        true
    }
}
