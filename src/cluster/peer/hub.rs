//! What this node offers its peers: the replicas it holds, by set.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::RwLock;

use crate::base::SetId;
use crate::cluster::clock::Stamp;
use crate::raft::{BoxFuture, Group};

/// One set as peers reach it.
#[derive(Clone)]
pub struct Hosted {
    /// Its replica here.
    pub group: Group,
    /// The leader's clock.
    pub stamp: Arc<Stamp>,
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
