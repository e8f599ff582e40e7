//! Who belongs to a set, how that changes, and how far each member has come.
//!
//! Shape: voters decide, learners only receive. A change is an entry like any other: the leader proposes it and waits
//! until it is committed; a change of voters is two entries, a joint list and the new one (joint consensus).
//! Invariants: one change at a time; the leader counts a change from the moment it is in its log, not committed yet.
//! A change whose caller gave up half-way leaves the joint list in force, which is safe; asking again completes it.
//! Not here: who should be a member, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError as CoreError};
use openraft::{BasicNode, ChangeMembers, Instant};

use super::types::{StoredMembers, Types};
use super::{Group, RaftError};
use crate::base::NodeId;

/// The members of a set, and where their nodes are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Those who vote and are counted for a majority, in either list of a joint change.
    pub voters: BTreeMap<NodeId, String>,
    /// Those who receive entries and are not counted.
    pub learners: BTreeMap<NodeId, String>,
}

/// How long ago a leader last heard of its members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Since a majority of voters had last answered; `None` if this replica does not lead or none has answered yet.
    pub majority: Option<Duration>,
    /// The same for each member but this one.
    pub members: BTreeMap<NodeId, Option<Duration>>,
}

type Written<T> = Result<T, CoreError<Types, ClientWriteError<Types>>>;

fn members(stored: &StoredMembers) -> Members {
    let voters: BTreeSet<u64> = stored.voter_ids().collect();
    let mut members = Members::default();
    for (id, node) in stored.nodes() {
        let list = if voters.contains(id) {
            &mut members.voters
        } else {
            &mut members.learners
        };
        list.insert(NodeId(*id), node.addr.clone());
    }
    members
}

impl Group {
    /// The members this replica acts by: those of the last such entry in its log, committed or not. A learner that has
    /// heard nothing yet knows none.
    #[must_use]
    pub fn members(&self) -> Members {
        members(
            &self
                .raft()
                .server_metrics()
                .borrow_watched()
                .membership_config,
        )
    }

    /// Makes `node` a learner, or notes that a known member moved to `address`. Returns when the change is committed,
    /// not when the learner has caught up ([`Self::replication`] tells). May be repeated; a change that changes nothing
    /// is not proposed.
    ///
    /// # Errors
    /// [`RaftError::NotLeader`]; [`RaftError::ChangeInProgress`]: try again later; [`RaftError::OutcomeUnknown`];
    /// [`RaftError::Stopped`].
    pub async fn add_learner(&self, node: NodeId, address: String) -> Result<(), RaftError> {
        self.leads()?;
        let now = self.members();
        let known = now.voters.get(&node).or_else(|| now.learners.get(&node));
        if known == Some(&address) && self.members_settled() {
            return Ok(());
        }
        let nodes = BTreeMap::from([(node.0, BasicNode::new(address))]);
        self.change(ChangeMembers::SetNodes(nodes), true).await
    }

    /// Makes exactly `voters` the voters, by joint consensus. Each must be a voter or a learner already, and one that
    /// is not up to date delays every commit until it is. Who no longer votes stays as a learner or leaves. Returns when
    /// both steps are committed; a leader that is no longer a voter goes on leading until then.
    ///
    /// # Errors
    /// As [`Self::add_learner`]; [`RaftError::UnknownMember`]; [`RaftError::NoVoters`].
    pub async fn set_voters(
        &self,
        voters: BTreeSet<NodeId>,
        keep_as_learners: bool,
    ) -> Result<(), RaftError> {
        self.leads()?;
        let now = self.members();
        if voters.is_empty() {
            return Err(RaftError::NoVoters);
        }
        let same = now.voters.keys().eq(voters.iter());
        if same && self.members_settled() {
            return Ok(());
        }
        let ids: BTreeSet<u64> = voters.into_iter().map(|node| node.0).collect();
        let change = ChangeMembers::ReplaceAllVoters(ids);
        self.change(change, keep_as_learners).await
    }

    /// Takes a learner out of the set. May be repeated: who is no member is gone already.
    ///
    /// # Errors
    /// As [`Self::add_learner`]; [`RaftError::StillVoter`].
    pub async fn remove_learner(&self, node: NodeId) -> Result<(), RaftError> {
        self.leads()?;
        let now = self.members();
        if now.voters.contains_key(&node) {
            return Err(RaftError::StillVoter(node));
        }
        if !now.learners.contains_key(&node) && self.members_settled() {
            return Ok(());
        }
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([node.0]));
        self.change(change, true).await
    }

    /// Last entry each member, this one included, is known to hold on disk. Empty if this replica does not lead.
    #[must_use]
    pub fn replication(&self) -> BTreeMap<NodeId, Option<u64>> {
        let metrics = self.raft().data_metrics();
        let seen = metrics.borrow_watched();
        let matched = seen.replication.iter().flatten();
        matched
            .map(|(id, matched)| (NodeId(*id), matched.as_ref().map(|id| id.index)))
            .collect()
    }

    /// How long ago this leader last heard of its members; nothing if this replica does not lead.
    #[must_use]
    pub fn heard(&self) -> Heard {
        let own = self.node().0;
        let metrics = self.raft().data_metrics();
        let seen = metrics.borrow_watched();
        let Some(heartbeat) = seen.heartbeat.as_ref() else {
            return Heard::default();
        };
        let members = heartbeat.iter().filter(|(id, _)| **id != own);
        let alone = self.members().voters.keys().all(|voter| voter.0 == own);
        let majority = seen.last_quorum_acked.map(|at| at.elapsed());
        Heard {
            majority: if alone {
                Some(Duration::ZERO)
            } else {
                majority
            },
            members: members
                .map(|(id, at)| (NodeId(*id), at.map(|at| at.elapsed())))
                .collect(),
        }
    }

    /// Waits until this replica has applied the entry of `index`.
    ///
    /// # Errors
    /// [`RaftError::Stopped`] if the replica stops first.
    pub async fn wait_applied(&self, index: u64) -> Result<(), RaftError> {
        let core = self.raft().wait(None);
        let applied = core.applied_index_at_least(Some(index), "wait_applied");
        let mut state = self.leadership();
        // A replica whose disk failed stops before its core does.
        let stopped = state.wait_for(|state| state.stopped);
        let gone = || RaftError::Stopped(format!("before entry {index} was applied"));
        tokio::select! {
            applied = applied => applied.map(drop).map_err(|_| gone()),
            _ = stopped => Err(gone()),
        }
    }

    fn leads(&self) -> Result<(), RaftError> {
        let state = *self.leadership().borrow();
        match state {
            state if state.stopped => Err(RaftError::Stopped("before the members changed".into())),
            state if state.leading => Ok(()),
            state => Err(RaftError::NotLeader {
                leader: state.leader,
            }),
        }
    }

    /// Whether no change of members is half-way.
    fn members_settled(&self) -> bool {
        let metrics = self.raft().server_metrics();
        let seen = metrics.borrow_watched();
        let now = &seen.membership_config;
        let single = now.membership().get_joint_config().len() <= 1;
        single && now.log_id() == seen.committed_membership_config.log_id()
    }

    async fn change(
        &self,
        change: ChangeMembers<u64, BasicNode>,
        keep: bool,
    ) -> Result<(), RaftError> {
        let written: Written<_> = self.raft().change_membership(change, keep).await;
        written.map(drop).map_err(refusal)
    }
}

fn refusal(error: CoreError<Types, ClientWriteError<Types>>) -> RaftError {
    let refused = match error {
        CoreError::APIError(refused) => refused,
        CoreError::Fatal(fatal) => return RaftError::Stopped(fatal.to_string()),
    };
    match refused {
        ClientWriteError::ForwardToLeader(forward) => RaftError::NotLeader {
            leader: forward.leader_id.map(NodeId),
        },
        ClientWriteError::ChangeMembershipError(change) => match change {
            ChangeMembershipError::LearnerNotFound(missing) => {
                RaftError::UnknownMember(NodeId(missing.node_id))
            }
            ChangeMembershipError::EmptyMembership(_) => RaftError::NoVoters,
            // The rest is about the moment: an earlier change, or this term's first entry, is not committed yet.
            _ => RaftError::ChangeInProgress,
        },
        // Another change came between the two steps.
        ClientWriteError::PreconditionFailed(_) => RaftError::ChangeInProgress,
        _ => RaftError::OutcomeUnknown,
    }
}
