//! What the records of nodes and sets should become: decided by the topology's leader, from the records and from who is
//! heard of.
//!
//! Shape: [`plan`] is pure: records in, changes out. The task around it runs on every node and acts only where the
//! topology is led, so there is one controller at a time; its changes are commands like any other, so a change of
//! controller half-way loses nothing.
//! At most one set at a time is changed only to spread what there is evenly, and only when nothing else is to be done.
//! Invariants: a set keeps as many members as before or more, except that nobody is kept who was told to leave; a member
//! is replaced only where a node is there to take its place.
//! Not here: carrying it out ([`super::reconcile`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::base::{NodeId, SetId};
use crate::model::set::{Command, Reply};
use crate::model::topology::{MembersCommand, NodeRecord, NodeState, SetRecord, TopologyCommand};
use crate::rt::Supervisor;

use super::start::Cluster;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a silent node keeps what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Until its clients' leases end.
    pub leases: Duration,
    /// Until another node takes its replicas.
    pub replicas: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            leases: Duration::from_secs(60),
            replicas: Duration::from_secs(600),
        }
    }
}

/// The changes that are due. `lost`: nodes that were silent for too long; `sets_per_node`: broker sets for each node that
/// takes its share.
#[must_use]
pub fn plan(
    nodes: &[NodeRecord],
    sets: &[SetRecord],
    lost: &BTreeSet<NodeId>,
    sets_per_node: usize,
) -> Vec<MembersCommand> {
    let mut load = Load::new(nodes, sets, lost);
    let mut changes = Vec::new();
    if load.active.is_empty() {
        return changes;
    }
    let want = SetRecord::REPLICAS.min(load.active.len());
    let mut sets = sets.to_vec();
    for set in &mut sets {
        let before = set.clone();
        load.choose_members(set, nodes, want);
        load.choose_leader(set);
        if *set != before {
            changes.push(MembersCommand::PutSet(set.clone()));
        }
    }
    let wanted = (load.active.len() * sets_per_node).min(SetRecord::ID_MAX as usize);
    for _ in sets.len()..wanted {
        let mut set = SetRecord {
            id: SetId::TOPOLOGY,
            members: Vec::new(),
            leader: NodeId(0),
            generation: 0,
        };
        load.choose_members(&mut set, nodes, want);
        load.choose_leader(&mut set);
        changes.push(MembersCommand::PutSet(set));
    }
    // Members first: a replica may go to a node that then can lead.
    let levelled = match changes.is_empty() {
        true => load.level_replicas(&sets),
        false => None,
    };
    let levelled = levelled.or_else(|| load.level_leaders(&sets));
    changes.extend(levelled.map(MembersCommand::PutSet));
    for node in nodes.iter().filter(|node| node.state == NodeState::Leaving) {
        if !sets.iter().any(|set| set.members.contains(&node.id)) {
            changes.push(MembersCommand::RemoveNode { node: node.id });
        }
    }
    changes
}

/// How much each node that takes its share has.
struct Load {
    active: BTreeSet<NodeId>,
    replicas: BTreeMap<NodeId, usize>,
    leads: BTreeMap<NodeId, usize>,
}

impl Load {
    fn new(nodes: &[NodeRecord], sets: &[SetRecord], lost: &BTreeSet<NodeId>) -> Self {
        let takes =
            |node: &&NodeRecord| node.state == NodeState::Active && !lost.contains(&node.id);
        let active: BTreeSet<NodeId> = nodes.iter().filter(takes).map(|node| node.id).collect();
        let mut load = Self {
            active,
            replicas: BTreeMap::new(),
            leads: BTreeMap::new(),
        };
        for set in sets {
            for node in &set.members {
                *load.replicas.entry(*node).or_default() += 1;
            }
            *load.leads.entry(set.leader).or_default() += 1;
        }
        load
    }

    fn least(&self, by: &BTreeMap<NodeId, usize>, of: impl Fn(&NodeId) -> bool) -> Option<NodeId> {
        let fit = self.active.iter().copied().filter(of);
        fit.min_by_key(|node| by.get(node).copied().unwrap_or(0))
    }

    fn choose_members(&mut self, set: &mut SetRecord, nodes: &[NodeRecord], want: usize) {
        let stays = |id: &NodeId| self.active.contains(id);
        let mut kept: Vec<NodeId> = set.members.iter().copied().filter(stays).collect();
        while kept.len() < want
            && let Some(node) = self.least(&self.replicas, |id| !kept.contains(id))
        {
            kept.push(node);
            *self.replicas.entry(node).or_default() += 1;
        }
        // Nobody takes the place of these: a lost node may come back, one that is to leave may not stay.
        let waits = |id: &NodeId| {
            let node = nodes.iter().find(|node| node.id == *id);
            node.is_some_and(|node| node.state == NodeState::Active)
        };
        for node in set
            .members
            .iter()
            .filter(|id| !kept.contains(id))
            .copied()
            .collect::<Vec<_>>()
        {
            if kept.len() < SetRecord::REPLICAS.min(set.members.len()) && waits(&node) {
                kept.push(node);
            } else {
                self.replicas.entry(node).and_modify(|count| *count -= 1);
            }
        }
        kept.sort_unstable();
        if !kept.is_empty() {
            set.members = kept;
        }
    }

    fn choose_leader(&mut self, set: &mut SetRecord) {
        let fits = self.active.contains(&set.leader) && set.members.contains(&set.leader);
        if fits {
            return;
        }
        if let Some(node) = self.least(&self.leads, |id| set.members.contains(id)) {
            self.leads
                .entry(set.leader)
                .and_modify(|count| *count = count.saturating_sub(1));
            *self.leads.entry(node).or_default() += 1;
            set.leader = node;
        }
    }

    /// One set of which a replica goes from the node with the most to one with at least two fewer.
    fn level_replicas(&self, sets: &[SetRecord]) -> Option<SetRecord> {
        let holds = |node: &NodeId| self.replicas.get(node).copied().unwrap_or(0);
        let most = self.active.iter().copied().max_by_key(holds)?;
        let fewest = self.least(&self.replicas, |_| true)?;
        if holds(&most) < holds(&fewest) + 2 {
            return None;
        }
        let fits = |set: &&SetRecord| set.members.contains(&most) && !set.members.contains(&fewest);
        // Best one that is led elsewhere.
        let fit = sets.iter().filter(fits);
        let set = fit.min_by_key(|set| set.leader == most)?;
        let kept = set.members.iter().copied().filter(|node| *node != most);
        let mut members: Vec<NodeId> = kept.chain([fewest]).collect();
        members.sort_unstable();
        let leader = match set.leader == most {
            true => fewest,
            false => set.leader,
        };
        Some(SetRecord {
            members,
            leader,
            ..set.clone()
        })
    }

    /// One set whose leader has two more than another member.
    fn level_leaders(&self, sets: &[SetRecord]) -> Option<SetRecord> {
        let leads = |node: &NodeId| self.leads.get(node).copied().unwrap_or(0);
        sets.iter().find_map(|set| {
            let fewest = self.least(&self.leads, |id| set.members.contains(id))?;
            (leads(&set.leader) > leads(&fewest) + 1).then(|| SetRecord {
                leader: fewest,
                ..set.clone()
            })
        })
    }
}

/// How far a set is with ending what an incarnation of a silent node held there.
enum Closing {
    /// It was told, or asked how often the node came back.
    Asked(JoinHandle<Option<Reply>>),
    Done,
}

/// What the controller has seen, for as long as it has looked without a break.
#[derive(Default)]
struct Seen {
    /// When each node was last heard of, or first missed.
    heard: BTreeMap<NodeId, Instant>,
    /// Incarnations that were ended in the topology.
    closed: BTreeSet<(NodeId, u64)>,
    /// The same in the sets.
    closing: BTreeMap<(NodeId, u64, SetId), Closing>,
    looked: Option<Instant>,
}

impl Seen {
    /// Whether what was seen still says who is silent: a controller that stood still, or was not heard by a majority,
    /// knows of its own silence only.
    fn goes_on(&mut self, now: Instant, majority: Option<Duration>) -> bool {
        let before = self.looked.replace(now);
        let awake = before.is_none_or(|before| now - before <= LOOK_EVERY * 2);
        let heard = majority.is_some_and(|silence| silence <= LOOK_EVERY);
        if !(awake && heard) {
            self.heard.clear();
            self.closed.clear();
            self.closing.clear();
        }
        awake && heard
    }

    fn silent(&self, node: NodeId, now: Instant) -> Duration {
        let heard = self.heard.get(&node);
        heard.map_or(Duration::ZERO, |at| now.saturating_duration_since(*at))
    }
}

/// Runs until the node stops; acts while this node leads the topology.
pub async fn run(cluster: Arc<Cluster>, patience: Patience, supervisor: Supervisor) {
    let mut seen = Seen::default();
    // A set has answered: it is gone on with at once.
    let answered = Arc::new(Notify::new());
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = answered.notified() => {}
            () = supervisor.stopping() => return,
        }
        let group = cluster.topology_group();
        if !group.is_leader() {
            seen = Seen::default();
            continue;
        }
        if seen.goes_on(Instant::now(), group.heard().majority) {
            cluster.control(patience, &mut seen, &answered).await;
        }
    }
}

impl Cluster {
    async fn control(&self, patience: Patience, seen: &mut Seen, answered: &Arc<Notify>) {
        let (nodes, sets) = self.topology.read(|topology| {
            let nodes: Vec<NodeRecord> = topology.nodes().cloned().collect();
            let sets: Vec<SetRecord> = topology.sets().cloned().collect();
            (nodes, sets)
        });
        let now = Instant::now();
        let ages = self.topology_group().heard().members;
        for node in &nodes {
            let age = ages.get(&node.id).copied().flatten();
            let at = age.and_then(|age| now.checked_sub(age));
            let at = at.max(self.presence.noted(node.id));
            let known = seen.heard.entry(node.id).or_insert(now);
            let at = if node.id == self.pipe.node {
                Some(now)
            } else {
                at
            };
            *known = at.unwrap_or(*known).max(*known);
        }
        for node in &nodes {
            if node.incarnation > 0 && seen.silent(node.id, now) >= patience.leases {
                let of = (node.id, node.incarnation);
                self.close_node(of, &sets, seen, answered).await;
            }
        }
        let silent: BTreeSet<NodeId> = nodes
            .iter()
            .map(|node| node.id)
            .filter(|id| seen.silent(*id, now) >= patience.leases)
            .collect();
        seen.closed.retain(|(id, _)| silent.contains(id));
        seen.closing.retain(|(id, ..), _| silent.contains(id));
        let lost = nodes.iter().map(|node| node.id);
        let lost = lost
            .filter(|id| seen.silent(*id, now) >= patience.replicas)
            .collect();
        for change in plan(&nodes, &sets, &lost, self.options.sets_per_node) {
            tracing::info!(?change, "the controller changes the cluster");
            if self
                .ask_topology(&TopologyCommand::Members(change))
                .await
                .is_err()
            {
                return;
            }
        }
    }

    /// A node is silent for too long: what it held is given to others. First the topology is told, and each set at a later
    /// look, if the node is still silent then and the set has a leader.
    ///
    /// A set may come to it late, when the node is back and has asked it ([`super::presence`]) whether its leases run. So
    /// it is told how often the node had come back when it was silent, and does nothing if it has once more.
    async fn close_node(
        &self,
        (node, incarnation): (NodeId, u64),
        sets: &[SetRecord],
        seen: &mut Seen,
        answered: &Arc<Notify>,
    ) {
        if seen.closed.insert((node, incarnation)) {
            tracing::warn!(%node, incarnation, "a node is silent; its leases end");
            let close = MembersCommand::CloseNode { node, incarnation };
            // Refused only when the node stops.
            drop(self.ask_topology(&TopologyCommand::Members(close)).await);
            return;
        }
        for set in sets.iter().map(|set| set.id) {
            let Some(handle) = self.set(set) else {
                continue;
            };
            let key = (node, incarnation, set);
            let returns = match seen.closing.remove(&key) {
                None => 0,
                Some(Closing::Asked(answer)) if answer.is_finished() => match answer.await {
                    Ok(Some(Reply::Returned(times))) => times,
                    Ok(Some(_)) => {
                        seen.closing.insert(key, Closing::Done);
                        continue;
                    }
                    // Not known: from the beginning.
                    Ok(None) | Err(_) => 0,
                },
                Some(closing) => {
                    seen.closing.insert(key, closing);
                    continue;
                }
            };
            if handle.group().is_some_and(|group| group.leader().is_none()) {
                continue;
            }
            let asked = handle.asking(&Command::CloseNode {
                node,
                incarnation,
                returns,
            });
            let answered = Arc::clone(answered);
            let answer = self.supervisor.spawn("close node", async move {
                let answer = asked.answer_once().await.ok();
                answered.notify_one();
                answer
            });
            seen.closing.insert(key, Closing::Asked(answer));
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn node(id: u64, state: NodeState) -> NodeRecord {
        NodeRecord {
            id: NodeId(id),
            name: format!("n{id}"),
            address: String::new(),
            token: id,
            incarnation: 1,
            state,
        }
    }

    fn active(count: u64) -> Vec<NodeRecord> {
        (1..=count).map(|id| node(id, NodeState::Active)).collect()
    }

    fn set(id: u32, members: &[u64], leader: u64) -> SetRecord {
        SetRecord {
            id: SetId(id),
            members: members.iter().map(|id| NodeId(*id)).collect(),
            leader: NodeId(leader),
            generation: 0,
        }
    }

    /// Applies plans until there is nothing left to do.
    fn settle(nodes: &[NodeRecord], sets: &[SetRecord], lost: &[u64]) -> Vec<SetRecord> {
        let lost = lost.iter().map(|id| NodeId(*id)).collect();
        let mut sets = sets.to_vec();
        for _ in 0..20 {
            let changes = plan(nodes, &sets, &lost, 1);
            let mut changed = false;
            for change in changes {
                let MembersCommand::PutSet(mut new) = change else {
                    continue;
                };
                changed = true;
                match sets.iter_mut().find(|set| set.id == new.id) {
                    Some(old) => *old = new,
                    None => {
                        new.id = SetId(sets.len() as u32 + 1);
                        sets.push(new);
                    }
                }
            }
            if !changed {
                return sets;
            }
        }
        panic!("does not settle: {sets:?}");
    }

    #[test]
    fn a_controller_that_stood_still_or_was_not_heard_blames_nobody_else() {
        let begin = Instant::now();
        let fresh = Some(Duration::from_millis(100));
        let mut seen = Seen::default();
        assert!(seen.goes_on(begin, fresh));
        seen.heard.insert(NodeId(2), begin);
        assert!(seen.goes_on(begin + LOOK_EVERY, fresh));
        assert_eq!(seen.silent(NodeId(2), begin + LOOK_EVERY), LOOK_EVERY);
        assert!(
            !seen.goes_on(begin + LOOK_EVERY * 5, fresh),
            "it stood still"
        );
        assert_eq!(
            seen.silent(NodeId(2), begin + LOOK_EVERY * 5),
            Duration::ZERO
        );
        assert!(seen.goes_on(begin + LOOK_EVERY * 6, fresh));
        seen.heard.insert(NodeId(2), begin);
        let cut_off = Some(LOOK_EVERY * 2);
        assert!(!seen.goes_on(begin + LOOK_EVERY * 7, cut_off));
        assert!(seen.heard.is_empty());
        assert!(!seen.goes_on(begin + LOOK_EVERY * 8, None));
    }

    #[test]
    fn a_cluster_that_is_as_it_should_be_is_left_alone() {
        let sets = [
            set(1, &[1, 2, 3], 1),
            set(2, &[1, 2, 3], 2),
            set(3, &[1, 2, 3], 3),
        ];
        assert_eq!(plan(&active(3), &sets, &BTreeSet::new(), 1), []);
    }

    #[test]
    fn nodes_that_join_one_that_was_alone_get_replicas_sets_and_leaderships() {
        let sets = settle(&active(3), &[set(1, &[1], 1)], &[]);
        assert_eq!(sets.len(), 3);
        assert!(sets.iter().all(|set| set.members.len() == 3));
        let leaders: BTreeSet<NodeId> = sets.iter().map(|set| set.leader).collect();
        assert_eq!(leaders.len(), 3);
    }

    #[test]
    fn five_nodes_share_replicas_evenly() {
        let sets = settle(&active(5), &[set(1, &[1], 1)], &[]);
        for id in 1..=5 {
            let holds = sets.iter().filter(|set| set.members.contains(&NodeId(id)));
            assert_eq!(holds.count(), 3, "{sets:?}");
        }
    }

    #[test]
    fn a_node_that_is_no_longer_drained_gets_replicas_and_leaderships_back() {
        let mut nodes = active(4);
        let all = settle(&nodes, &[set(1, &[1], 1)], &[]);
        nodes[3].state = NodeState::Draining;
        let without = settle(&nodes, &all, &[]);
        assert!(without.iter().all(|set| !set.members.contains(&NodeId(4))));
        nodes[3].state = NodeState::Active;
        let back = settle(&nodes, &without, &[]);
        let holds = back.iter().filter(|set| set.members.contains(&NodeId(4)));
        assert_eq!(holds.count(), 3, "{back:?}");
        assert!(back.iter().any(|set| set.leader == NodeId(4)), "{back:?}");
        assert!(back.iter().all(|set| set.members.len() == 3), "{back:?}");
    }

    #[test]
    fn there_are_as_many_sets_for_each_node_as_are_wanted() {
        let wanted = |per_node| plan(&active(3), &[], &BTreeSet::new(), per_node);
        assert_eq!(wanted(4).len(), 12);
        let leads = |node: u64| {
            let of = wanted(4).into_iter().filter(|change| {
                matches!(change, MembersCommand::PutSet(set) if set.leader == NodeId(node))
            });
            of.count()
        };
        assert_eq!([leads(1), leads(2), leads(3)], [4, 4, 4]);
    }

    #[test]
    fn a_lost_member_is_replaced_by_a_spare_node_and_kept_where_there_is_none() {
        let three = [
            set(1, &[1, 2, 3], 3),
            set(2, &[1, 2, 3], 2),
            set(3, &[1, 2, 3], 1),
        ];
        let kept = settle(&active(3), &three, &[3]);
        assert!(kept.iter().all(|set| set.members.len() == 3), "{kept:?}");
        assert!(kept.iter().all(|set| set.leader != NodeId(3)), "{kept:?}");
        let moved = settle(&active(4), &three, &[3]);
        assert!(
            moved
                .iter()
                .all(|set| !set.members.contains(&NodeId(3)) && set.members.len() == 3),
            "{moved:?}"
        );
    }

    #[test]
    fn a_node_that_is_to_leave_gives_everything_away_and_is_then_removed() {
        let mut nodes = active(4);
        nodes[0].state = NodeState::Leaving;
        let sets = [
            set(1, &[1, 2, 3], 1),
            set(2, &[1, 2, 4], 2),
            set(3, &[1, 3, 4], 3),
        ];
        let sets = settle(&nodes, &sets, &[]);
        assert!(sets.iter().all(|set| !set.members.contains(&NodeId(1))));
        assert!(
            sets.iter()
                .all(|set| set.members.len() == 3 && set.leader != NodeId(1))
        );
        let last = plan(&nodes, &sets, &BTreeSet::new(), 1);
        assert_eq!(last, [MembersCommand::RemoveNode { node: NodeId(1) }]);
    }

    #[test]
    fn where_nobody_is_left_to_take_over_a_draining_node_leaves_smaller_sets() {
        let mut nodes = active(3);
        nodes[2].state = NodeState::Draining;
        let sets = settle(&nodes, &[set(1, &[1, 2, 3], 3), set(2, &[1, 2, 3], 2)], &[]);
        assert!(sets.iter().all(|set| set.members == [NodeId(1), NodeId(2)]));
    }
}
