//! Makes this node what the topology says it should be: replicas it should hold, members of the sets it leads, and
//! leaderships that belong elsewhere.
//!
//! Shape: one task that looks at the records and at what is, whenever the topology changed and every [`LOOK_EVERY`], and
//! takes the next step for each set; a step that fails is taken again at the next look. So it needs no memory of its own,
//! and any node that leads a set can finish what another began.
//! Not here: what the records should say ([`super::controller`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use tokio::time::Instant;

use crate::base::{NodeId, SetId};
use crate::model::topology::{NodeState, SetRecord};
use crate::raft::{Group, RaftError};
use crate::rt::Supervisor;

use super::start::{Cluster, TOPOLOGY_VOTERS_MAX};

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A learner this close behind the leader, in entries, may vote.
const CAUGHT_UP: u64 = 256;
/// A member heard of within this time is there.
const THERE: Duration = Duration::from_secs(1);

/// How long a leader leads before it gives way to the one that should: whoever just lost the leadership, perhaps for a
/// reason that is still there, does not get it back at once.
const SETTLED: Duration = Duration::from_secs(5);

/// Since when this node leads which set.
type Leads = HashMap<SetId, Instant>;

/// What a set's members should be.
struct Wanted {
    voters: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    leader: Option<NodeId>,
}

/// Runs until the node stops.
pub async fn run(cluster: Arc<Cluster>, supervisor: Supervisor) {
    let mut changed = cluster.topology.changes();
    let mut leads = Leads::new();
    loop {
        cluster.look(&mut leads).await;
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            seen = changed.changed() => if seen.is_err() { return },
            () = supervisor.stopping() => return,
        }
    }
}

impl Cluster {
    async fn look(&self, leads: &mut Leads) {
        let (nodes, sets) = self.topology.read(|topology| {
            let nodes: Vec<_> = topology.nodes().cloned().collect();
            let sets: Vec<SetRecord> = topology.sets().cloned().collect();
            (nodes, sets)
        });
        for node in nodes.iter().filter(|node| node.id != self.pipe.node) {
            self.options.links.set_address(node.id, &node.address);
        }
        for set in &sets {
            if set.members.contains(&self.pipe.node) && self.set(set.id).is_none() {
                self.take_in(set).await;
            }
        }
        for set in &sets {
            if let Some(hosted) = self.options.hub.hosted(set.id) {
                let others = nodes.iter().map(|node| node.id);
                let foreign = others.filter(|node| !set.members.contains(node));
                hosted
                    .ring
                    .set_foreign(foreign.collect(), self.applied(set.id));
            }
        }
        for set in &sets {
            let Some(group) = self.set(set.id).and_then(|handle| handle.group()) else {
                continue;
            };
            let wanted = Wanted {
                voters: set.members.iter().copied().collect(),
                learners: BTreeSet::new(),
                leader: Some(set.leader),
            };
            self.align(set.id, group, &wanted, leads).await;
        }
        let there = nodes.iter().filter(|node| node.state == NodeState::Active);
        let mut ids = there.map(|node| node.id);
        let voters: BTreeSet<NodeId> = ids.by_ref().take(TOPOLOGY_VOTERS_MAX).collect();
        let rest = nodes.iter().map(|node| node.id);
        let wanted = Wanted {
            learners: rest.filter(|id| !voters.contains(id)).collect(),
            voters,
            leader: None,
        };
        self.align(SetId::TOPOLOGY, &self.topology_group, &wanted, leads)
            .await;
    }

    fn applied(&self, set: SetId) -> u64 {
        let handle = self.set(set);
        let index = handle.and_then(|handle| handle.with(|r| r.machine().applied_index()));
        index.unwrap_or(0)
    }

    async fn take_in(&self, set: &SetRecord) {
        let taken = async {
            self.host(set).await?;
            Ok::<(), super::StartError>(())
        };
        match taken.await {
            Ok(()) => tracing::info!(set = %set.id, "holds a replica"),
            Err(error) => tracing::error!(set = %set.id, %error, "cannot hold a replica"),
        }
    }

    /// Takes the next step towards `wanted`, if this node leads the set.
    async fn align(&self, set: SetId, group: &Group, wanted: &Wanted, leads: &mut Leads) {
        if !group.is_leader() || wanted.voters.is_empty() {
            leads.remove(&set);
            return;
        }
        let settled = leads.entry(set).or_insert_with(Instant::now).elapsed() >= SETTLED;
        if let Err(error) = self.step(group, wanted, settled).await {
            tracing::debug!(%set, %error, "members not changed yet");
        }
    }

    async fn step(&self, group: &Group, wanted: &Wanted, settled: bool) -> Result<(), RaftError> {
        let now = group.members();
        let missing = wanted
            .voters
            .union(&wanted.learners)
            .find(|node| !now.voters.contains_key(node) && !now.learners.contains_key(node));
        if let Some(node) = missing {
            let address = self.options.links.address(*node).unwrap_or_default();
            return group.add_learner(*node, address).await;
        }
        let last = group.metrics().last_log.unwrap_or(0);
        let replication = group.replication();
        let near = |node: &NodeId| {
            let matched = replication.get(node).copied().flatten();
            matched.is_some_and(|matched| matched + CAUGHT_UP >= last)
        };
        if !now.voters.keys().eq(wanted.voters.iter()) {
            let ready = wanted
                .voters
                .iter()
                .all(|node| now.voters.contains_key(node) || near(node));
            if ready {
                return group.set_voters(wanted.voters.clone(), true).await;
            }
            return Ok(());
        }
        let extra = now
            .learners
            .keys()
            .find(|node| !wanted.learners.contains(node));
        if let Some(node) = extra {
            return group.remove_learner(*node).await;
        }
        let other = wanted.leader.filter(|leader| *leader != self.pipe.node);
        if let Some(leader) = other.filter(|_| settled) {
            let heard = group.heard().members.get(&leader).copied().flatten();
            if near(&leader) && heard.is_some_and(|since| since < THERE) {
                return group.hand_over(leader).await;
            }
        }
        Ok(())
    }
}
