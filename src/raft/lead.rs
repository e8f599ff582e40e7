//! Whether this replica should go on leading: it must be heard by a majority, its disk must keep up, and what is proposed
//! must come to be applied.
//!
//! Need: openraft's leader that no majority hears keeps its role until it learns of another term, and one whose disk
//! stalls goes on because the others' disks suffice. Whoever sends commands must learn of both early. And a leader that is
//! heard, but does not hear (a connection that broke one way, a fault nobody thought of), would lead for ever and do nothing:
//! its followers have no reason to stand for election.
//! Shape: one task per replica looks every few milliseconds at what the core and the log report.
//!
//! | seen while leading | done |
//! | --- | --- |
//! | no majority heard for `election_timeout_max` | not `leading` until one is heard again |
//! | the core refused a proposal before this was seen | not `leading` until the next look, and a lapse |
//! | disk busy with one thing for `stall_limit`, a voter in reach | not `leading` in this term; the best voter is asked |
//! | no majority heard for `stuck_limit` | the best voter is asked: no more heartbeats, so the others may elect |
//! | nothing applied for `stuck_limit` while proposals wait | as well |
//! | nobody took over | the best voter is asked again |
//!
//! Invariants: this only ever gives up; who leads is openraft's decision alone.
//! Not here: what becomes of proposals on their way, which openraft settles.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, Raft};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::GroupOptions;
use super::applier::Applier;
use super::shared::Shared;
use super::types::Types;
use crate::base::NodeId;

/// Shortest and longest time between looks.
const LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));

/// Longest time between two looks of a node that does not stand still.
const AWAKE_MAX: Duration = Duration::from_millis(500);

/// Watches over the lead of one replica.
pub(super) struct Lead {
    pub(super) shared: Arc<Shared>,
    pub(super) raft: Raft<Types, Applier>,
    /// Silence of the majority after which the lead is not believed.
    pub(super) silence_max: Duration,
    pub(super) stall_limit: Duration,
    /// Longest time without a majority, or without a step of the proposals that wait.
    pub(super) stuck_limit: Duration,
}

/// A term this replica leads.
struct Led {
    term: u64,
    since: Instant,
    /// Since when no majority is heard.
    cut_off: Option<Instant>,
    /// The last entry applied, and since when there is nothing to wait for, or that has been the last.
    applied: Option<u64>,
    moved: Instant,
    looked: Instant,
}

impl Led {
    fn new(term: u64) -> Self {
        let now = Instant::now();
        Self {
            term,
            since: now,
            cut_off: None,
            applied: None,
            moved: now,
            looked: now,
        }
    }

    fn look(&mut self, shared: &Shared, cut_off: bool) {
        let now = Instant::now();
        // Of the time in which this node stood still, nothing is known.
        if now - self.looked > AWAKE_MAX {
            (self.cut_off, self.moved) = (None, now);
        }
        self.looked = now;
        self.cut_off = cut_off.then(|| self.cut_off.unwrap_or(now));
        let applied = shared.applied_index();
        let waits = shared.in_flight.load(Ordering::Relaxed) > 0;
        if !waits || applied != self.applied {
            (self.applied, self.moved) = (applied, now);
        }
    }
}

impl Lead {
    pub(super) fn new(
        shared: Arc<Shared>,
        raft: Raft<Types, Applier>,
        options: &GroupOptions,
    ) -> Self {
        Self {
            shared,
            raft,
            silence_max: options.election_timeout_max,
            stall_limit: options.stall_limit,
            stuck_limit: options.stuck_limit,
        }
    }

    /// Runs until the core stops.
    pub(super) async fn run(self) {
        let look = self.silence_max.min(self.stall_limit) / 8;
        let mut clock = interval(look.clamp(LOOK.0, LOOK.1));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut led: Option<Led> = None;
        loop {
            clock.tick().await;
            let term = {
                let servers = self.raft.server_metrics();
                let seen = servers.borrow_watched();
                let leads = seen.state.is_leader();
                leads.then_some(seen.vote.leader_id.term)
            };
            let Some(term) = term else {
                led = None;
                continue;
            };
            let led = led.get_or_insert_with(|| Led::new(term));
            if led.term != term {
                *led = Led::new(term);
            }
            let cut_off = self.silence(led.since) > self.silence_max;
            led.look(&self.shared, cut_off);
            self.shared.cut_off(cut_off);
            if !self.look_after(led).await {
                return;
            }
        }
    }

    /// How long no majority was heard.
    fn silence(&self, since: Instant) -> Duration {
        let alone = {
            let servers = self.raft.server_metrics();
            let seen = servers.borrow_watched();
            let own = self.shared.node.0;
            seen.membership_config.voter_ids().all(|id| id == own)
        };
        if alone {
            return Duration::ZERO;
        }
        let metrics = self.raft.data_metrics();
        let heard = metrics.borrow_watched().last_quorum_acked;
        let heard = heard.map(|at| at.elapsed());
        heard.map_or_else(|| since.elapsed(), |heard| heard.min(since.elapsed()))
    }

    /// Gives the lead up if there is a reason; says whether the core still runs.
    async fn look_after(&self, led: &Led) -> bool {
        let asked = *self.shared.handing_over.lock();
        let waited = asked
            .filter(|(of, _)| *of == led.term)
            .map(|(_, at)| at.elapsed());
        if waited.is_some_and(|waited| waited < self.silence_max * 2) {
            return true;
        }
        let busy = self.shared.log.busy_for();
        let stalled = busy.is_some_and(|busy| busy > self.stall_limit);
        let lonely = led
            .cut_off
            .is_some_and(|at| at.elapsed() > self.stuck_limit);
        let stuck = led.moved.elapsed() > self.stuck_limit;
        let why = match (stalled, lonely, stuck) {
            (true, _, _) => "the disk stalls",
            _ if waited.is_some() => "nobody took it over",
            (_, true, _) => "no majority is heard",
            (_, _, true) => "nothing is applied any more",
            _ => return true,
        };
        // A disk that stalls may recover before anybody is there.
        let own = self.shared.node;
        let near = heir(&self.raft, own, Some(self.silence_max));
        let far = || heir(&self.raft, own, None).filter(|_| !stalled);
        let Some(heir) = near.or_else(far) else {
            return true;
        };
        let set = self.shared.set;
        match waited {
            None => tracing::warn!(%set, %heir, "the lead is handed over: {why}"),
            Some(_) => tracing::debug!(%set, %heir, "the lead is handed over: {why}"),
        }
        *self.shared.handing_over.lock() = Some((led.term, Instant::now()));
        self.shared.yielded(led.term);
        self.raft.trigger().transfer_leader(heir.0).await.is_ok()
    }
}

/// The voter with the longest log, other than `own`; if `within` is given, among those heard that lately.
pub(super) fn heir(
    raft: &Raft<Types, Applier>,
    own: NodeId,
    within: Option<Duration>,
) -> Option<NodeId> {
    let metrics = raft.metrics();
    let seen = metrics.borrow_watched();
    let matched = |id: &u64| {
        let replication = seen.replication.as_ref()?;
        replication.get(id)?.as_ref().map(|matched| matched.index)
    };
    let heard = |id: &u64| {
        let heartbeat = seen.heartbeat.as_ref()?;
        Some(heartbeat.get(id)?.as_ref()?.elapsed())
    };
    let near =
        |id: &u64| within.is_none_or(|within| heard(id).is_some_and(|silence| silence < within));
    let voters = seen.membership_config.voter_ids();
    let others = voters.filter(|id| *id != own.0 && near(id));
    others.max_by_key(matched).map(NodeId)
}
