//! What the parts of one replica share: the log, the machine, the vote, and who leads.
//!
//! Shape: one [`Shared`] behind an `Arc`, held by the store, the applier, the upkeep task and the handle.
//! Invariants: locks are taken in the order roles, machine, and never the other way; the machine hears `leadership`
//! exactly when the published [`Leadership::leading`] changes, and before it is published.
//! Not here: any decision of Raft.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::Leadership;
use super::machine::{CompactPayload, Machine};
use super::mend::Mender;
use super::options::OnFatal;
use super::proposal::Refusals;
use super::snapshot::Held;
use super::types::{LogId, Vote};
use super::upkeep::Liveness;
use crate::base::{NodeId, SetId};
use crate::log::Log;

/// Damaged entries that are remembered; more are found again when they are read.
const DAMAGES_MAX: usize = 64;

/// What is known of who leads and how far this replica has applied.
#[derive(Debug, Default)]
struct Roles {
    /// Term, leader, and whether this replica's core is in the leader's state.
    term: u64,
    leader: Option<u64>,
    core_leads: bool,
    /// No majority hears this leader.
    cut_off: bool,
    /// The term in which this leader has given up.
    yielded: Option<u64>,
    applied: Option<LogId>,
}

/// What the parts of one replica share.
pub(super) struct Shared {
    pub(super) set: SetId,
    pub(super) node: NodeId,
    pub(super) log: Log,
    pub(super) machine: Arc<Mutex<dyn Machine>>,
    pub(super) compact: CompactPayload,
    /// The vote as last saved.
    pub(super) vote: Mutex<Option<Vote>>,
    /// The committed log id as last reported; memory only.
    pub(super) committed: Mutex<Option<LogId>>,
    /// The newest durable snapshot, and what was live in it.
    pub(super) snapshot: Mutex<Option<Held>>,
    pub(super) live: Mutex<Option<Liveness>>,
    /// Last entries of the snapshots being sent: see [`super::shipping::Pin`].
    pub(super) pins: Mutex<Vec<u64>>,
    /// Payload bytes applied since the newest snapshot: what a restart replays.
    pub(super) replay_bytes: AtomicU64,
    /// Woken when `replay_bytes` passes `snapshot_every_bytes`, or somebody asks for a snapshot.
    pub(super) snapshot_due: Notify,
    pub(super) snapshot_every_bytes: u64,
    pub(super) in_flight: Arc<AtomicUsize>,
    pub(super) refusals: Refusals,
    pub(super) leadership: watch::Sender<Leadership>,
    /// The term in which the lead is being handed over, and since when.
    pub(super) handing_over: Mutex<Option<(u64, Instant)>>,
    /// Where members are, as last agreed.
    pub(super) addresses: Mutex<BTreeMap<NodeId, String>>,
    roles: Mutex<Roles>,
    /// Index after the last applied entry; ahead of `roles`, which learn of whole batches.
    applied_end: AtomicU64,
    /// Last entry of the log when the replica started; until it is applied or replaced the replica is not ready.
    tail_at_start: Option<LogId>,
    /// Who may have what the disk lost.
    pub(super) mender: Mender,
    /// Entries whose messages were found damaged and are to be had from a peer.
    pub(super) damaged: Mutex<Vec<u64>>,
    on_fatal: OnFatal,
    failed: AtomicBool,
}

/// What a [`Shared`] is made of.
pub(super) struct Parts {
    pub(super) set: SetId,
    pub(super) node: NodeId,
    pub(super) log: Log,
    pub(super) machine: Arc<Mutex<dyn Machine>>,
    pub(super) compact: CompactPayload,
    pub(super) vote: Option<Vote>,
    pub(super) snapshot: Option<Held>,
    pub(super) snapshot_every_bytes: u64,
    pub(super) tail_at_start: Option<LogId>,
    pub(super) mender: Mender,
    pub(super) damaged: Vec<u64>,
    pub(super) on_fatal: OnFatal,
}

impl Shared {
    /// The entry at `index` cannot be read here: it is had from a peer soon.
    pub(super) fn note_damage(&self, index: u64) {
        let mut damaged = self.damaged.lock();
        if damaged.len() < DAMAGES_MAX && !damaged.contains(&index) {
            damaged.insert(0, index);
        }
    }

    pub(super) fn new(parts: Parts) -> Self {
        let applied = parts
            .snapshot
            .as_ref()
            .and_then(|held| held.meta.last_log_id);
        let roles = Roles {
            applied,
            ..Roles::default()
        };
        Self {
            set: parts.set,
            node: parts.node,
            log: parts.log,
            machine: parts.machine,
            compact: parts.compact,
            vote: Mutex::new(parts.vote),
            committed: Mutex::new(None),
            snapshot: Mutex::new(parts.snapshot),
            live: Mutex::new(None),
            pins: Mutex::default(),
            replay_bytes: AtomicU64::new(0),
            snapshot_due: Notify::new(),
            snapshot_every_bytes: parts.snapshot_every_bytes,
            in_flight: Arc::default(),
            refusals: Refusals::default(),
            leadership: watch::Sender::new(Leadership::default()),
            handing_over: Mutex::new(None),
            addresses: Mutex::default(),
            roles: Mutex::new(roles),
            applied_end: AtomicU64::new(applied.map_or(0, |id| id.index + 1)),
            tail_at_start: parts.tail_at_start,
            mender: parts.mender,
            damaged: Mutex::new(parts.damaged),
            on_fatal: parts.on_fatal,
            failed: AtomicBool::new(false),
        }
    }

    /// The replica can no longer be trusted: says so, once.
    pub(super) fn fail(&self, reason: &str) {
        if !self.failed.swap(true, Ordering::AcqRel) {
            (self.on_fatal)(self.set, reason);
        }
        self.stop();
    }

    /// The replica has stopped: it leads nothing from now on.
    pub(super) fn stop(&self) {
        let mut roles = self.roles.lock();
        roles.core_leads = false;
        roles.leader = None;
        self.publish(&roles, true);
    }

    /// The core's view of who leads.
    pub(super) fn led_by(&self, term: u64, leader: Option<u64>, core_leads: bool) {
        let mut roles = self.roles.lock();
        roles.term = term;
        roles.leader = leader;
        roles.core_leads = core_leads;
        // Only who leads can be cut off; the next lead begins in good faith.
        roles.cut_off &= core_leads;
        self.publish(&roles, false);
    }

    /// Whether no majority hears this replica, should it lead.
    pub(super) fn cut_off(&self, cut_off: bool) {
        let mut roles = self.roles.lock();
        if roles.cut_off != cut_off {
            roles.cut_off = cut_off;
            self.publish(&roles, false);
        }
    }

    /// This replica no longer leads in `term`, whatever its core thinks.
    pub(super) fn yielded(&self, term: u64) {
        let mut roles = self.roles.lock();
        roles.yielded = Some(term);
        self.publish(&roles, false);
    }

    /// Entries up to `id` are applied, by the machine and in its own time. Must not be called with the machine locked.
    pub(super) fn applied(&self, id: LogId) {
        let mut roles = self.roles.lock();
        roles.applied = Some(id);
        self.publish(&roles, false);
    }

    /// Notes that the entry of `index` is applied, before its proposer is told.
    pub(super) fn note_applied(&self, index: u64) {
        self.applied_end.store(index + 1, Ordering::Release);
    }

    /// Index of the last applied entry.
    pub(super) fn applied_index(&self) -> Option<u64> {
        self.applied_end.load(Ordering::Acquire).checked_sub(1)
    }

    /// Index of the last entry in the newest durable snapshot.
    pub(super) fn snapshot_index(&self) -> Option<u64> {
        let held = self.snapshot.lock();
        held.as_ref()?.meta.last_log_id.map(|id| id.index)
    }

    fn publish(&self, roles: &Roles, stopping: bool) {
        let before = *self.leadership.borrow();
        let of_this_term = roles
            .applied
            .is_some_and(|id| id.leader_id.term == roles.term);
        let doubtful = roles.cut_off || roles.yielded == Some(roles.term);
        let leading = roles.core_leads && of_this_term && !doubtful;
        let own = roles.leader == Some(self.node.0);
        let following = roles.leader.is_some() && !own && of_this_term && self.past_tail(roles);
        let now = Leadership {
            term: roles.term,
            leader: roles.leader.map(NodeId).filter(|_| !(own && doubtful)),
            leading,
            ready: leading || following,
            stopped: before.stopped || stopping,
        };
        if now == before {
            return;
        }
        if before.leading && (!now.leading || before.term != now.term) {
            self.machine.lock().leadership(false, before.term);
        }
        if now.leading && (!before.leading || before.term != now.term) {
            self.machine.lock().leadership(true, now.term);
        }
        self.leadership.send_replace(now);
    }

    fn past_tail(&self, roles: &Roles) -> bool {
        roles.applied >= self.tail_at_start
    }
}
