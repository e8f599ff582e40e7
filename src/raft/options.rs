//! What a replica is started with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::transport::{Alone, Transport};
use crate::base::{NodeId, SetId};
use crate::log::{Disk, LogOptions};

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
    /// Nodes that hold replicas, and where they are: asked for what this one's disk lost.
    pub peers: Vec<(NodeId, String)>,
    /// Options of the log.
    pub log: LogOptions,
    /// The disk the log writes to.
    pub disk: Arc<dyn Disk>,
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
    /// How long a leader's write or sync may take before it hands the lead over.
    pub stall_limit: Duration,
    /// How long a leader may hear no majority, or have proposals that come to nothing, before it hands the lead over.
    pub stuck_limit: Duration,
    /// How long a follower may leave entries unanswered before they are sent over a new stream.
    pub append_limit: Duration,
    /// Proposals on their way at once; past it [`super::Group::propose`] says busy.
    pub proposals_in_flight_max: usize,
    /// Told why the replica stopped.
    pub on_fatal: OnFatal,
}

impl GroupOptions {
    /// The defaults for a replica on `disk`, alone and with nobody told of failures.
    #[must_use]
    pub fn new(set: SetId, node: NodeId, dir: PathBuf, disk: Arc<dyn Disk>) -> Self {
        Self {
            set,
            node,
            dir,
            voters: vec![(node, String::new())],
            peers: Vec::new(),
            log: LogOptions::default(),
            disk,
            transport: Arc::new(Alone),
            snapshot_every_bytes: 256 * 1024 * 1024,
            snapshot_every: Duration::from_secs(60),
            keep_log_bytes: 64 * 1024 * 1024,
            heartbeat: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(500),
            election_timeout_max: Duration::from_millis(800),
            stall_limit: Duration::from_secs(1),
            stuck_limit: Duration::from_secs(4),
            append_limit: Duration::from_secs(30),
            proposals_in_flight_max: 1024,
            on_fatal: Arc::new(|_, _| {}),
        }
    }
}
