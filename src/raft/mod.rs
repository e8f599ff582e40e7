//! F5, consensus: one Raft group per set, over the set's log. The only floor that names openraft.
//!
//! Need: payload bytes proposed on the leader reach the machine of every replica, in one order, once, and only after
//! a majority has them on disk.
//! Shape: [`Group`] is a replica; [`Machine`] is what it replicates; [`Transport`] is how members reach each other.
//! Inside: `store` is openraft's log over [`crate::log`], `applier` feeds the machine, `network` turns openraft's
//! calls into frames, `upkeep` takes snapshots, purges and compacts.
//! Invariants: what is proposed is encoded once and never copied here; a write that failed stops the replica for good.
//! Not here: what payloads mean, sockets, who is a member of what.

mod answer;
mod applier;
mod codec;
mod error;
mod group;
mod lead;
mod machine;
mod members;
mod mend;
mod network;
mod options;
mod proposal;
mod receiving;
mod shared;
mod shipping;
mod snapshot;
mod start;
mod store;
#[cfg(test)]
mod test;
mod transfer;
mod transport;
mod types;
mod upkeep;
mod wire;

pub use error::{ProposeError, RaftError};
pub use group::{Group, GroupMetrics, Leadership, Tenure};
pub use machine::{CompactPayload, LiveEntry, Machine, MachineError, PageStore, SnapshotPages};
pub use members::{Heard, Members};
pub use options::{GroupOptions, OnFatal};
pub use proposal::{Applied, ProposalReceipt};
pub use transport::{Alone, BoxFuture, BoxStream, Frame, Lane, Peer, Transport, TransportError};
