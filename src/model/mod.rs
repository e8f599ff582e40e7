//! F3, the pure replicated machines. No clock, no file, no socket, no randomness, no hash-map walk.
//!
//! - [`topology`]: set 0, what exists (vhosts, users, exchanges, bindings, queue records).
//! - [`route`]: pure routing of one message over the topology.
//! - [`set`]: the queue machine, one per broker set.
//! - [`batch`]: the bytes of an entry: many commands, each message with its own crc.

pub mod batch;
pub mod route;
pub mod set;
pub mod topology;

use crate::base::Millis;

/// What an entry tells the machine besides its commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Raft log index of the entry.
    pub index: u64,
    /// The leader's clock when it sealed the entry. Machines use `max(last, now)`.
    pub now: Millis,
}
