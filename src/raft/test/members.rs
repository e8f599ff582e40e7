//! Members come, go and move.

use std::collections::BTreeSet;
use std::sync::Arc;

use tempfile::TempDir;

use super::super::{Group, RaftError};
use super::three::{Node, Wires, leader, rule, three};
use super::{ToyHandle, payload};
use crate::base::NodeId;

/// A node that is no member yet.
async fn newcomer(wires: &Wires, id: u64) -> Node {
    let dir: TempDir = tempfile::tempdir().unwrap();
    let mut options = rule(wires, &dir, id);
    options.voters.retain(|(node, _)| node.0 != id);
    let machine = ToyHandle::default();
    let group = Group::start(options.clone(), Arc::clone(&machine))
        .await
        .unwrap();
    wires.join(NodeId(id), &group);
    Node {
        group,
        machine,
        options,
        dir,
    }
}

fn ids<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> Vec<u64> {
    nodes.into_iter().map(|node| node.0).collect()
}

async fn committed(node: &Node, number: u64) -> u64 {
    let receipt = node.group.propose(payload(number)).unwrap();
    receipt.await.unwrap().index
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_catches_up_votes_and_replaces_a_voter_that_then_is_no_member() {
    let wires = Wires::default();
    let nodes = three(&wires).await;
    let at = leader(&nodes).await;
    let lead = &nodes[at].group;
    for number in 0..20 {
        committed(&nodes[at], number).await;
    }
    let fourth = newcomer(&wires, 4).await;
    lead.add_learner(NodeId(4), "node 4".into()).await.unwrap();
    let members = lead.members();
    assert_eq!(ids(members.voters.keys()), [1, 2, 3]);
    assert_eq!(ids(members.learners.keys()), [4]);
    assert_eq!(members.learners[&NodeId(4)], "node 4");

    let last = committed(&nodes[at], 20).await;
    fourth.group.wait_applied(last).await.unwrap();
    assert_eq!(fourth.machine.lock().payloads, 21);
    assert_eq!(fourth.group.members(), members);

    let leaves = NodeId(if at == 0 { 2 } else { 1 });
    let stays: BTreeSet<_> = (1..=4).map(NodeId).filter(|node| *node != leaves).collect();
    lead.set_voters(stays.clone(), false).await.unwrap();
    assert!(lead.members().voters.keys().eq(stays.iter()));
    assert!(lead.members().learners.is_empty());
    let before = lead.metrics().last_log;
    lead.set_voters(stays.clone(), false).await.unwrap();
    assert_eq!(lead.metrics().last_log, before, "asked twice, done once");

    let last = committed(&nodes[at], 21).await;
    fourth.group.wait_applied(last).await.unwrap();
    while lead.replication()[&NodeId(4)] < Some(last) {
        tokio::task::yield_now().await;
    }
    assert!(lead.replication().keys().eq(stays.iter()));
    let heard = lead.heard();
    assert!(heard.majority.is_some());
    assert!(heard.members[&NodeId(4)].is_some());
    assert!(fourth.group.replication().is_empty());
    assert_eq!(fourth.group.heard().majority, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_may_stay_as_a_learner_and_leave_later() {
    let wires = Wires::default();
    let nodes = three(&wires).await;
    let at = leader(&nodes).await;
    let lead = &nodes[at].group;
    let own = nodes[at].options.node;
    let other = NodeId(own.0 % 3 + 1);
    let third = NodeId(other.0 % 3 + 1);
    let refused = lead.remove_learner(third).await;
    assert!(matches!(refused, Err(RaftError::StillVoter(node)) if node == third));
    lead.set_voters([own, other].into(), true).await.unwrap();
    assert_eq!(ids(lead.members().learners.keys()), [third.0]);
    lead.remove_learner(third).await.unwrap();
    assert!(lead.members().learners.is_empty());
    lead.remove_learner(third).await.unwrap();
    committed(&nodes[at], 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_refused_by_a_follower_for_strangers_and_for_nobody() {
    let wires = Wires::default();
    let nodes = three(&wires).await;
    let at = leader(&nodes).await;
    let follower = &nodes[(at + 1) % 3].group;
    let refused = follower.add_learner(NodeId(4), "node 4".into()).await;
    let own = nodes[at].options.node;
    assert!(matches!(refused, Err(RaftError::NotLeader { leader }) if leader == Some(own)));
    let lead = &nodes[at].group;
    let refused = lead.set_voters([own, NodeId(9)].into(), false).await;
    assert!(matches!(refused, Err(RaftError::UnknownMember(NodeId(9)))));
    let refused = lead.set_voters(BTreeSet::new(), false).await;
    assert!(matches!(refused, Err(RaftError::NoVoters)));
    assert_eq!(ids(lead.members().voters.keys()), [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_moved_is_asked_at_its_new_address() {
    let wires = Wires::default();
    let nodes = three(&wires).await;
    let at = leader(&nodes).await;
    let moved = nodes[(at + 1) % 3].options.node;
    let lead = &nodes[at].group;
    lead.add_learner(moved, "elsewhere".into()).await.unwrap();
    assert_eq!(ids(lead.members().voters.keys()), [1, 2, 3]);
    assert_eq!(lead.members().voters[&moved], "elsewhere");
    wires.forget_asked();
    lead.hand_over(moved).await.unwrap();
    while !nodes[(at + 1) % 3].group.is_leader() {
        tokio::task::yield_now().await;
    }
    assert!(wires.asked(moved, "elsewhere"));
}
