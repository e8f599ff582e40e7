//! Figures of other nodes: what each can show of itself, asked for and answered as bytes this floor does not look into.
//!
//! Need: any node answers for the whole cluster. Invariants: a question takes at most [`ANSWER_LIMIT`], however many nodes
//! are silent; one that does not answer is named. Not here: what the figures are and how they are written.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;

use crate::base::NodeId;
use crate::raft::BoxFuture;

use super::peer::control::{Ask, Told};
use super::start::Cluster;

/// Longest a question waits for its answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

type Answer = Arc<dyn Fn(Bytes) -> BoxFuture<Bytes> + Send + Sync>;

/// Who answers for this node.
#[derive(Default)]
pub struct Figures(OnceLock<Answer>);

impl Figures {
    /// This answers from now on; the first that was set stays.
    pub fn answer(&self, answer: impl Fn(Bytes) -> BoxFuture<Bytes> + Send + Sync + 'static) {
        if self.0.set(Arc::new(answer)).is_err() {
            tracing::debug!("figures are answered for already");
        }
    }

    pub(super) async fn told(&self, question: Bytes) -> Told {
        match self.0.get() {
            Some(answer) => Told::Figures(answer(question).await),
            None => Told::Refused("the node shows no figures".to_owned()),
        }
    }
}

/// What a node answered.
#[derive(Debug)]
pub struct NodeAnswer {
    /// Which.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Nothing if it did not answer in time.
    pub answer: Option<Bytes>,
}

impl Cluster {
    /// The other members of the cluster: id, name and address.
    #[must_use]
    pub fn others(&self) -> Vec<(NodeId, String, String)> {
        self.topology.read(|topology| {
            let nodes = topology.nodes();
            let others = nodes.filter(|node| node.id != self.pipe.node);
            others
                .map(|node| (node.id, node.name.clone(), node.address.clone()))
                .collect()
        })
    }

    /// Asks the other members, or only those in `only`.
    pub async fn ask_figures(&self, question: Bytes, only: Option<&[NodeId]>) -> Vec<NodeAnswer> {
        let mut others = self.others();
        others.retain(|(node, ..)| only.is_none_or(|only| only.contains(node)));
        let ask = Ask::Figures(question).encode();
        let asked = others.into_iter().map(|(node, name, address)| {
            let ask = ask.clone();
            async move {
                let links = &self.options.links;
                let told = tokio::time::timeout(ANSWER_LIMIT, links.figures(&address, ask)).await;
                let answer = match told
                    .ok()
                    .and_then(Result::ok)
                    .map(|told| Told::decode(&told))
                {
                    Some(Ok(Told::Figures(figures))) => Some(figures),
                    _ => None,
                };
                NodeAnswer { node, name, answer }
            }
        });
        futures_util::future::join_all(asked).await
    }
}
