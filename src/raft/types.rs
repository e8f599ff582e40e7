//! The types openraft is instantiated with.
//!
//! Shape: a payload is nothing, opaque bytes encoded once by the proposer, or a list of members. Standard Raft's
//! leader id (one leader per term), so an entry is named by (term, index) alone.
//! Not here: how they are written ([`super::codec`]).

use std::fmt;

use bytes::Bytes;
use openraft::entry::RaftPayload;
use openraft::type_config::alias;
use openraft::vote::leader_id_std;

use super::proposal::Proposal;

/// The one instantiation of openraft.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Types;

type Runtime = openraft::impls::TokioRuntime;

impl openraft::RaftTypeConfig for Types {
    type D = Blob;
    type R = ();
    type NodeId = u64;
    type Node = openraft::BasicNode;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = Payload;
    type Entry = openraft::Entry<leader_id_std::CommittedLeaderId<u64>, Payload>;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Proposal<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(super) type Entry = alias::EntryOf<Types>;
pub(super) type LogId = alias::LogIdOf<Types>;
pub(super) type Vote = alias::VoteOf<Types>;
pub(super) type LeaderTerm = alias::CommittedLeaderIdOf<Types>;
pub(super) type Members = openraft::Membership<u64, openraft::BasicNode>;
pub(super) type StoredMembers = alias::StoredMembershipOf<Types>;
pub(super) type Snapshot = alias::SnapshotOf<Types, super::snapshot::SnapshotHandle>;
pub(super) type SnapshotMeta = alias::SnapshotMetaOf<Types>;

/// The bytes of a proposal.
#[derive(Clone)]
pub struct Blob(pub Bytes);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What an entry carries.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Nothing: a new leader's first entry.
    Blank,
    /// A proposal.
    Normal(Blob),
    /// The members from this entry on.
    Members(Members),
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("blank"),
            Self::Normal(blob) => fmt::Display::fmt(blob, f),
            Self::Members(members) => fmt::Display::fmt(members, f),
        }
    }
}

impl RaftPayload for Payload {
    type D = Blob;
    type NodeId = u64;
    type Node = openraft::BasicNode;

    fn blank() -> Self {
        Self::Blank
    }

    fn with_normal(self, data: Blob) -> Self {
        Self::Normal(data)
    }

    fn with_membership(self, members: Members) -> Self {
        Self::Members(members)
    }

    fn get_membership(&self) -> Option<Members> {
        match self {
            Self::Members(members) => Some(members.clone()),
            Self::Blank | Self::Normal(_) => None,
        }
    }
}
