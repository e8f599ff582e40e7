//! What this node offers its peers: the replicas it holds, by set.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::RwLock;

use crate::base::{NodeId, SetId};
use crate::cluster::clock::Stamp;
use crate::cluster::ring::Ring;
use crate::cluster::set_handle::SetHandle;
use crate::raft::{BoxFuture, Group};

/// One set as peers reach it.
#[derive(Clone)]
pub struct Hosted {
    /// This node.
    pub own: NodeId,
    /// How it is used here; `None` for the topology.
    pub handle: Option<SetHandle>,
    /// The replica's group; `None` for this node's own set.
    pub group: Option<Group>,
    /// The leader's clock.
    pub stamp: Arc<Stamp>,
    /// What it did for nodes without a replica.
    pub ring: Arc<Ring>,
}

/// Answers a question about the cluster.
pub type Answer = Arc<dyn Fn(Bytes) -> BoxFuture<Bytes> + Send + Sync>;

/// See the module's head.
#[derive(Default)]
pub struct Hub {
    sets: RwLock<HashMap<SetId, Hosted>>,
    control: RwLock<Option<Answer>>,
}

impl Hub {
    /// Offers a set.
    pub fn host(&self, set: SetId, hosted: Hosted) {
        self.sets.write().insert(set, hosted);
    }

    /// No longer offers a set.
    pub fn drop_set(&self, set: SetId) {
        self.sets.write().remove(&set);
    }

    /// A set, if it is here.
    #[must_use]
    pub fn hosted(&self, set: SetId) -> Option<Hosted> {
        self.sets.read().get(&set).cloned()
    }

    /// Who answers questions about the cluster from now on.
    pub fn answer_control(&self, answer: Answer) {
        *self.control.write() = Some(answer);
    }

    pub(super) fn control(&self) -> Option<Answer> {
        self.control.read().clone()
    }
}
