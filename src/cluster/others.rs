//! The other replicas of a set, for what cannot be read here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::base::{NodeId, Position, SetId};
use crate::model::batch;

use super::peer::Links;
use super::topology_replica::SharedTopology;

/// A replica that does not answer within this time is passed over: a consumer waits for the message.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

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
            let asked = self.links.entry(node, set, position.index());
            let Ok(answer) = tokio::time::timeout(ANSWER_LIMIT, asked).await else {
                tracing::warn!(%set, %node, ?position, "no answer in time");
                continue;
            };
            match answer {
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
