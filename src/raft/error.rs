//! The one error enum of the floor, and the two things a proposal can be refused for.

use crate::base::NodeId;

/// The replica cannot start, or has stopped.
#[derive(Debug, thiserror::Error)]
pub enum RaftError {
    /// The log could not be opened, read or written.
    #[error("log: {0}")]
    Log(String),
    /// The newest snapshot is damaged or of a version this build does not know.
    #[error("snapshot: {0}")]
    Snapshot(String),
    /// The machine refused the snapshot.
    #[error("machine: {0}")]
    Machine(#[from] super::MachineError),
    /// The options contradict each other.
    #[error("configuration: {0}")]
    Configuration(String),
    /// Only the leader can do it.
    #[error("not the leader, which is {leader:?}")]
    NotLeader {
        /// Who leads, as far as this replica knows.
        leader: Option<NodeId>,
    },
    /// An earlier change of members, or the first entry of this leader, is not committed yet.
    #[error("a change of members is in progress")]
    ChangeInProgress,
    /// Leadership was lost while the members changed: the change may or may not come to be committed.
    #[error("leadership was lost, the outcome is unknown")]
    OutcomeUnknown,
    /// A voter to be is neither a voter nor a learner.
    #[error("node {0} is not a member")]
    UnknownMember(NodeId),
    /// A set without voters could never decide anything.
    #[error("no voters")]
    NoVoters,
    /// A voter must become a learner before it can go.
    #[error("node {0} is still a voter")]
    StillVoter(NodeId),
    /// The consensus core has stopped; the reason is its last words.
    #[error("raft core stopped: {0}")]
    Stopped(String),
}

/// Why a payload was not, or may not have been, replicated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This replica does not lead; the payload was not appended.
    #[error("not the leader, which is {leader:?}")]
    NotLeader {
        /// Who leads, as far as this replica knows.
        leader: Option<NodeId>,
    },
    /// Too many proposals are on their way; the payload was not appended.
    #[error("too many proposals in flight")]
    Busy,
    /// Leadership was lost on the way, or the replica stopped: the entry may or may not come to be committed.
    #[error("outcome unknown")]
    Unknown,
}
