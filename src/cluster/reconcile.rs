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

use crate::base::{NodeId, QueueId, SetId};
use crate::model::set::{Command, Reply};
use crate::model::topology::{
    MembersCommand, NodeState, Part, PartState, QueueRecord, SetRecord, TopologyCommand,
};
use crate::raft::{Group, RaftError};
use crate::rt::Supervisor;

use super::leftovers::Leftovers;
use super::set_handle::SetHandle;
use super::start::{Cluster, TOPOLOGY_VOTERS_MAX};

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A learner this close behind the leader, in entries, may vote.
const CAUGHT_UP: u64 = 256;
/// A learner that is no member and was not heard of for this long is let go.
const GONE: Duration = Duration::from_secs(10);
/// A member heard of within this time is there.
const THERE: Duration = Duration::from_secs(1);

/// How long a leader leads before it gives way to the one that should: whoever just lost the leadership, perhaps for a
/// reason that is still there, does not get it back at once.
const SETTLED: Duration = Duration::from_secs(5);

/// How long a part of a queue drains at least: until then all nodes know that it takes no more, and those who did not
/// know sent what they had.
const DRAINS: Duration = Duration::from_secs(2);

/// Silence after which a replica that is no member any more is given up.
const LOST: Duration = Duration::from_secs(30);

/// Since when this node leads which set, or hears nobody of it.
type Leads = HashMap<SetId, Instant>;
/// Since when it knows of which part that drains in a set it leads.
type Drains = HashMap<(SetId, QueueId), Instant>;

/// What a set's members should be.
struct Wanted {
    voters: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    leader: Option<NodeId>,
}

/// Runs until the node stops.
pub async fn run(cluster: Arc<Cluster>, supervisor: Supervisor) {
    let mut changed = cluster.topology.changes();
    let (mut leads, mut lost, mut drains) = (Leads::new(), Leads::new(), Drains::new());
    let mut leftovers = Leftovers::find(&cluster);
    loop {
        cluster.look(&mut leads, &mut lost).await;
        cluster.sweep(&mut leftovers).await;
        cluster.end_drained(&mut drains).await;
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            seen = changed.changed() => if seen.is_err() { return },
            () = supervisor.stopping() => return,
        }
    }
}

impl Cluster {
    /// A replica whose place was given to another node while this one was away hears of nobody any more. Its clients are
    /// served again after a restart, from elsewhere.
    fn look_for_lost_replicas(&self, sets: &[SetRecord], lost: &mut Leads) {
        for set in sets {
            let group = self.table.get(set.id).and_then(SetHandle::any_group);
            let silent = group.is_some_and(|group| group.leader().is_none());
            if set.members.contains(&self.pipe.node) || !silent {
                lost.remove(&set.id);
                continue;
            }
            let since = lost.entry(set.id).or_insert_with(Instant::now);
            if since.elapsed() >= LOST {
                tracing::error!(set = %set.id, "the replica here was given to another node; restart this one");
                self.removed.cancel();
            }
        }
    }

    async fn look(&self, leads: &mut Leads, lost: &mut Leads) {
        let (nodes, sets) = self.topology.read(|topology| {
            let nodes: Vec<_> = topology.nodes().cloned().collect();
            let sets: Vec<SetRecord> = topology.sets().cloned().collect();
            (nodes, sets)
        });
        if !nodes.iter().any(|node| node.id == self.pipe.node) {
            tracing::error!(
                "the cluster has taken this node out; its data folder is of no more use"
            );
            self.removed.cancel();
            return;
        }
        self.look_for_lost_replicas(&sets, lost);
        for node in nodes.iter().filter(|node| node.id != self.pipe.node) {
            self.options.links.set_address(node.id, &node.address);
        }
        for set in &sets {
            if set.members.contains(&self.pipe.node) {
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
            let Some(group) = self.table.get(set.id).and_then(SetHandle::any_group) else {
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

    /// Ends parts of queues that drain in a set this node leads and hold nothing any more.
    async fn end_drained(&self, drains: &mut Drains) {
        let found: Vec<(QueueRecord, SetId)> = self.topology.read(|topology| {
            let records = topology.draining();
            let parts = records.flat_map(|record| {
                let draining = record
                    .parts
                    .iter()
                    .filter(|part| part.state == PartState::Draining);
                draining.map(|part| (record.clone(), part.set))
            });
            parts.collect()
        });
        drains.retain(|key, _| found.iter().any(|(record, set)| *key == (*set, record.id)));
        for (record, set) in found {
            let handle = self.set(set);
            let leads = handle.and_then(|handle| handle.group());
            if !leads.is_some_and(Group::is_leader) {
                continue;
            }
            let since = drains.entry((set, record.id)).or_insert_with(Instant::now);
            if since.elapsed() < DRAINS {
                continue;
            }
            let queue = record.id;
            let retired = match handle {
                Some(handle) => handle.ask(&Command::Retire { queue }).await,
                None => continue,
            };
            if !matches!(retired, Ok(Reply::Count(_) | Reply::NoQueue)) {
                continue;
            }
            let parts = record.parts.iter().filter(|part| part.set != set);
            let parts: Vec<Part> = parts.copied().collect();
            let command = MembersCommand::SetParts { queue, parts };
            match self.ask_topology(&TopologyCommand::Members(command)).await {
                Ok(_) => tracing::info!(queue = %record.title(), %set, "a part has drained"),
                Err(error) => tracing::warn!(%error, "a drained part stays in the records"),
            }
        }
    }

    fn applied(&self, set: SetId) -> u64 {
        let group = self.table.get(set).and_then(SetHandle::any_group);
        group.and_then(|group| group.metrics().applied).unwrap_or(0)
    }

    /// Holds a replica of a set, also of one that was elsewhere so far.
    async fn take_in(&self, set: &SetRecord) {
        let fresh = match self.table.get(set.id) {
            None => true,
            Some(SetHandle::Remote { remote, .. }) => !remote.has_replica(),
            Some(_) => return,
        };
        if fresh {
            match self.host(set).await {
                Ok(()) => tracing::info!(set = %set.id, "holds a replica"),
                Err(error) => tracing::error!(set = %set.id, %error, "cannot hold a replica"),
            }
        }
        if let Some(SetHandle::Remote { remote, .. }) = self.table.get(set.id)
            && remote.here().is_none()
            && remote.take_over().await
        {
            self.table.came_here(set.id);
            tracing::info!(set = %set.id, "the replica here serves its clients");
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
        // A node that runs serves its clients from the replica it had until it stops or starts again.
        let ages = group.heard().members;
        let here = |node: &NodeId| {
            let age = ages.get(node).copied().flatten();
            let known = self
                .topology
                .read(|topology| topology.node(*node).is_some());
            known && age.is_some_and(|age| age < GONE)
        };
        let mut learners = now.learners.keys();
        let extra = learners.find(|node| !wanted.learners.contains(node) && !here(node));
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
