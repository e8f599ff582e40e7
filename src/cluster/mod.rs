//! F6, which set, which node, who leads: the pipes from this node's access layer to the sets, and the glue that turns
//! what a replica applied into confirms, deliveries and answers.
//!
//! - [`Mailbox`]: what reaches one connection from every set it uses.
//! - [`Outbox`]: the node's pipe to one set, commands waiting and in flight.
//! - [`SetReplica`]: a set's machine behind the raft floor.
//! - `proposer`: seals what waits into entries.
//! - [`LocalSet`]: the node's own set for exclusive and transient queues.
//!
//! Not here: sockets, sessions, AMQP.

mod clock;
mod control;
mod controller;
mod figures;
mod formation;
#[cfg(test)]
mod gap_test;
mod leftovers;
mod local_set;
mod mailbox;
mod others;
mod outbox;
mod pages;
pub mod peer;
mod policies;
mod presence;
mod proposer;
mod reconcile;
mod registry;
mod rejoin;
mod remote;
mod replica;
mod replicas;
mod ring;
mod set_handle;
mod start;
mod table;
mod topology_replica;
mod waits;

pub use clock::LeaderClock;
pub use controller::Patience;
pub use figures::{Figures, NodeAnswer};
pub use formation::{Candidate, FormationError, Membership, alone, find};
pub use local_set::LocalSet;
pub use mailbox::{Event, Mailbox, Skipped};
pub use outbox::{Latency, Outbox, Pushed, Refusal};
pub use registry::Registry;
pub use rejoin::{Leaving, Rejoin, Standing, leave, wish};
pub use replica::{SetEffect, SetEffects, SetReplica};
pub use set_handle::{ReadError, SetHandle};
pub use start::{Cluster, ClusterOptions, StartError};
pub use topology_replica::SharedTopology;

/// A replica's group, as whoever shows its figures has it.
pub use crate::raft::{Group, GroupMetrics};
