//! Which connection a consumer of this node belongs to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use parking_lot::RwLock;

use crate::base::{ConsumerId, NodeId, PipeId, SessionId};

use super::mailbox::Mailbox;

/// Consumers to mailboxes, and the ids this node mints.
#[derive(Debug)]
pub struct Registry {
    consumers: RwLock<HashMap<ConsumerId, Arc<Mailbox>>>,
    prefix: u64,
    next: AtomicU64,
}

/// 10 bits of node, 20 of incarnation, 34 of count.
const COUNT_BITS: u32 = 34;
const INCARNATION_BITS: u32 = 20;

/// The node that minted a consumer's id.
#[must_use]
pub fn node_of(consumer: ConsumerId) -> NodeId {
    NodeId(consumer.0 >> (COUNT_BITS + INCARNATION_BITS))
}

impl Registry {
    /// For one incarnation of a node.
    #[must_use]
    pub fn new(pipe: PipeId) -> Self {
        let incarnation = pipe.incarnation & ((1 << INCARNATION_BITS) - 1);
        let prefix = (pipe.node.0 << INCARNATION_BITS | incarnation) << COUNT_BITS;
        Self {
            consumers: RwLock::default(),
            prefix,
            next: AtomicU64::new(1),
        }
    }

    fn mint(&self) -> u64 {
        self.prefix | self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A new consumer whose deliveries go to `mailbox`.
    pub fn consumer(&self, mailbox: &Arc<Mailbox>) -> ConsumerId {
        let id = ConsumerId(self.mint());
        self.consumers.write().insert(id, Arc::clone(mailbox));
        id
    }

    /// A new session id.
    #[must_use]
    pub fn session(&self) -> SessionId {
        SessionId(self.mint())
    }

    /// Forgets a consumer: deliveries to it are dropped from here on.
    pub fn forget(&self, consumer: ConsumerId) {
        self.consumers.write().remove(&consumer);
    }

    /// The connections that have consumers, each once.
    #[must_use]
    pub fn mailboxes(&self) -> Vec<Arc<Mailbox>> {
        let consumers = self.consumers.read();
        let mut all: Vec<Arc<Mailbox>> = consumers.values().cloned().collect();
        all.sort_by_key(|mailbox| Arc::as_ptr(mailbox) as usize);
        all.dedup_by(|a, b| Arc::ptr_eq(a, b));
        all
    }

    /// Where a consumer's deliveries go.
    #[must_use]
    pub fn mailbox(&self, consumer: ConsumerId) -> Option<Arc<Mailbox>> {
        self.consumers.read().get(&consumer).cloned()
    }
}
