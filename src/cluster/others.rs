//! The other replicas of a set, for what cannot be read here.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::{NodeId, Position, SetId};
use crate::model::batch;

use super::peer::Links;
use super::topology_replica::SharedTopology;

/// See the module's head.
#[derive(Clone)]
pub struct Others {
    links: Links,
    topology: Arc<SharedTopology>,
    own: NodeId,
}

impl Others {
    /// Those of the sets `topology` knows.
    #[must_use]
    pub fn new(links: Links, topology: Arc<SharedTopology>, own: NodeId) -> Self {
        Self {
            links,
            topology,
            own,
        }
    }

    /// The entry that holds the message at `position`, from the first replica that has it whole.
    pub async fn entry(&self, set: SetId, position: Position) -> Option<Bytes> {
        let members = self.topology.read(|topology| {
            let record = topology.set(set);
            record.map_or_else(Vec::new, |record| record.members.clone())
        });
        for node in members.into_iter().filter(|node| *node != self.own) {
            match self.links.entry(node, set, position.index()).await {
                Ok(payload) if batch::message(&payload, position.slot()).is_ok() => {
                    return Some(payload);
                }
                Ok(_) => tracing::warn!(%set, %node, ?position, "damaged there too"),
                Err(error) => tracing::warn!(%set, %node, ?position, %error, "not to be had there"),
            }
        }
        None
    }
}
