//! The start of a replica: log, snapshot, machine, core, first election.
//!
//! Shape: what is on disk is read before anything runs; then the core starts, a fresh group is given its members,
//! and a replica that is its own majority need not wait for a timeout.
//! Invariants: a snapshot or hard state that cannot be read stops the start: a replica never forgets a vote or begins
//! with less than it acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft::errors::{InitializeError, RaftError as CoreError};
use openraft::{BasicNode, Config, Raft, SnapshotPolicy};
use parking_lot::Mutex;

use super::applier::Applier;
use super::codec;
use super::lead::Lead;
use super::machine::{CompactPayload, Machine};
use super::mend::{self, Mender};
use super::network::Network;
use super::shared::{Parts, Shared};
use super::snapshot::Held;
use super::store::{Store, decode_vote};
use super::types::Types;
use super::upkeep::Rule;
use super::{Group, GroupOptions, RaftError};
use crate::log::{Log, Recovered};

/// Entries one append to a follower carries at most; their bytes are bounded by the store's reads.
const APPEND_ENTRIES_MAX: u64 = 1024;

/// See [`Group::start`].
pub(super) async fn start<M: Machine>(
    options: GroupOptions,
    machine: Arc<Mutex<M>>,
    compact: CompactPayload,
) -> Result<Group, RaftError> {
    let config = Arc::new(config(&options)?);
    let shared = open(&options, machine, compact).await?;
    let network = Network {
        append_limit: options.append_limit,
        shared: Arc::clone(&shared),
        transport: Arc::clone(&options.transport),
    };
    let store = Store::new(Arc::clone(&shared));
    let applier = Applier::new(Arc::clone(&shared));
    let raft = Raft::new(options.node.0, config, network, store, applier)
        .await
        .map_err(stopped)?;
    let fresh = shared.log.last().is_none() && shared.log.purged().is_none();
    let rule = Rule {
        every: options.snapshot_every,
        keep_log_bytes: options.keep_log_bytes,
    };
    let in_flight = options.proposals_in_flight_max;
    let lead = Lead::new(Arc::clone(&shared), raft.clone(), &options);
    let group = Group::assemble(shared, raft, in_flight, rule, lead);
    if fresh {
        // Brings an election of its own.
        initialise(group.raft(), &options).await?;
    } else {
        elect_if_alone(&group, options.node.0).await?;
    }
    Ok(group)
}

/// Reads all that is on disk.
pub(super) async fn open<M: Machine>(
    options: &GroupOptions,
    machine: Arc<Mutex<M>>,
    compact: CompactPayload,
) -> Result<Arc<Shared>, RaftError> {
    let mender = Mender::new(options);
    let (log, recovered) = mend::open_log(options, &mender).await?;
    tell_damage(&recovered);
    let damaged = recovered.damages.iter().map(|one| one.first).collect();
    let vote = log.hard_state().map(|bytes| decode_vote(&bytes));
    let vote = vote
        .transpose()
        .map_err(|error| RaftError::Log(format!("hard state: {error}")))?;
    let newest = Held::newest(&log).map_err(RaftError::Snapshot)?;
    let snapshot = match newest {
        Some((mut held, state)) => {
            let mut machine = machine.lock();
            machine.restore(&state)?;
            held.pages = machine.page_ids().into();
            Some(held)
        }
        None => None,
    };
    reaches_log(snapshot.as_ref(), &log)?;
    let tail = log.last().or_else(|| log.purged());
    let tail_at_start = match tail {
        Some((index, meta)) => {
            let (_, term) = codec::record_term(&meta)
                .map_err(|error| RaftError::Log(format!("entry {index}: {error}")))?;
            Some(codec::log_id(term, index))
        }
        None => None,
    };
    Ok(Arc::new(Shared::new(Parts {
        set: options.set,
        node: options.node,
        log,
        machine,
        compact,
        vote,
        snapshot,
        snapshot_every_bytes: options.snapshot_every_bytes,
        tail_at_start,
        mender,
        damaged,
        on_fatal: Arc::clone(&options.on_fatal),
    })))
}

/// An older snapshot stands in for a damaged one only as long as the log still holds all that came after it.
fn reaches_log(snapshot: Option<&Held>, log: &Log) -> Result<(), RaftError> {
    let ends = snapshot.and_then(|held| held.meta.last_log_id.map(|id| id.index));
    match log.purged() {
        Some((purged, _)) if ends.is_none_or(|ends| ends < purged) => {
            let reason =
                format!("the log is purged up to {purged}, no sound snapshot reaches there");
            Err(RaftError::Snapshot(reason))
        }
        _ => Ok(()),
    }
}

/// Damage among entries that Raft may still read has failed the opening already; what is left is bodies.
fn tell_damage(recovered: &Recovered) {
    for damage in &recovered.damages {
        tracing::warn!(?damage, "old entries are damaged");
    }
}

fn config(options: &GroupOptions) -> Result<Config, RaftError> {
    let millis = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: format!("set {}", options.set),
        heartbeat_interval: millis(options.heartbeat),
        election_timeout_min: millis(options.election_timeout_min),
        election_timeout_max: millis(options.election_timeout_max),
        enable_pre_vote: Some(true),
        max_payload_entries: APPEND_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::Never,
        // Entries go to followers while the leader's own disk still syncs. A leader that lost some of them and went on
        // in its old term would write others under the same log ids.
        enable_leader_restore: Some(false),
        // A member that lost its disk is a fault of its node, and no reason for every leader it meets to panic.
        allow_log_reversion: Some(true),
        max_in_snapshot_log_to_keep: u64::MAX,
        purge_batch_size: 1,
        api_channel_size: Some(
            (options.proposals_in_flight_max as u64)
                .saturating_mul(2)
                .max(1024),
        ),
        ..Config::default()
    };
    config
        .validate()
        .map_err(|error| RaftError::Configuration(error.to_string()))
}

async fn initialise(raft: &Raft<Types, Applier>, options: &GroupOptions) -> Result<(), RaftError> {
    let voters: BTreeMap<u64, BasicNode> = options
        .voters
        .iter()
        .map(|(id, address)| (id.0, BasicNode::new(address)))
        .collect();
    if !voters.contains_key(&options.node.0) {
        // A member to be: the group's leader adds it and sends what it lacks.
        return Ok(());
    }
    match raft.initialize(voters).await {
        // A peer was quicker, and its entries have arrived.
        Ok(()) | Err(CoreError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(RaftError::Configuration(error.to_string())),
    }
}

/// Nobody else can vote, so nothing is gained by waiting for a timeout.
async fn elect_if_alone(group: &Group, node: u64) -> Result<(), RaftError> {
    let voters = group
        .raft()
        .with_raft_state(|state| {
            state
                .membership_state
                .effective()
                .voter_ids()
                .collect::<Vec<_>>()
        })
        .await
        .map_err(stopped)?;
    if voters == [node] {
        group.raft().trigger().elect(false).await.map_err(stopped)?;
    }
    Ok(())
}

fn stopped(error: impl ToString) -> RaftError {
    RaftError::Stopped(error.to_string())
}
