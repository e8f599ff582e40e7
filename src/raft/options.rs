//! What a replica is started with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::transport::Transport;
use crate::base::{NodeId, SetId};

/// Told once, from any thread, why the replica can no longer be trusted. The process must end.
pub type OnFatal = Arc<dyn Fn(SetId, &str) + Send + Sync>;

/// What a replica is started with.
#[derive(Clone)]
pub struct GroupOptions {
    /// The set this replica belongs to.
    pub set: SetId,
    /// This node.
    pub node: NodeId,
    /// Folder of the replica: its log segments, hard state and snapshots.
    pub dir: PathBuf,
    /// Members a fresh group starts with, and where their nodes are; not looked at once the log has an entry.
    pub voters: Vec<(NodeId, String)>,
    /// How other members are reached.
    pub transport: Arc<dyn Transport>,
    /// Log bytes after which a snapshot is taken.
    pub snapshot_every_bytes: u64,
    /// Time after which a snapshot is taken if anything was applied since the last one.
    pub snapshot_every: Duration,
    /// Log bytes kept behind a snapshot so that a member that was away shortly catches up from the log.
    pub keep_log_bytes: u64,
    /// Idle leader's message to its followers; also the tick of all timeouts.
    pub heartbeat: Duration,
    /// Shortest silence of the leader after which a follower stands for election.
    pub election_timeout_min: Duration,
    /// Longest silence of the leader after which a follower stands for election; also the leader's lease.
    pub election_timeout_max: Duration,
    /// Proposals on their way at once; past it [`super::Group::propose`] says busy.
    pub proposals_in_flight_max: usize,
    /// Told why the replica stopped.
    pub on_fatal: OnFatal,
}
