//! Whether this replica should go on leading: it must be heard by a majority, and its disk must keep up.
//!
//! Need: openraft's leader that no majority hears keeps its role until it learns of another term, and one whose disk
//! stalls goes on because the others' disks suffice. Whoever sends commands must learn of both early.
//! Shape: one task per replica looks every few milliseconds at what the core and the log report.
//!
//! | seen while leading | done |
//! | --- | --- |
//! | no majority heard for `election_timeout_max` | not `leading` until one is heard again |
//! | the core refused a proposal before this was seen | not `leading` until the next look, and a lapse |
//! | disk busy with one thing for `stall_limit`, a voter in reach | not `leading` in this term; the best voter is asked |
//! | nobody took over, the disk works | an election: the new term ends the hand-over |
//! | nobody took over, the disk does not work | the best voter is asked again |
//!
//! Invariants: this only ever gives up; who leads is openraft's decision alone.
//! Not here: what becomes of proposals on their way, which openraft settles.

use std::sync::Arc;
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

/// Watches over the lead of one replica.
pub(super) struct Lead {
    pub(super) shared: Arc<Shared>,
    pub(super) raft: Raft<Types, Applier>,
    /// Silence of the majority after which the lead is not believed.
    pub(super) silence_max: Duration,
    pub(super) stall_limit: Duration,
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
        }
    }

    /// Runs until the core stops.
    pub(super) async fn run(self) {
        let look = self.silence_max.min(self.stall_limit) / 8;
        let mut clock = interval(look.clamp(LOOK.0, LOOK.1));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The term led, and since when.
        let mut led: Option<(u64, Instant)> = None;
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
            let since = match led {
                Some((known, since)) if known == term => since,
                _ => Instant::now(),
            };
            led = Some((term, since));
            self.shared.cut_off(self.silence(since) > self.silence_max);
            if !self.look_after(term).await {
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

    /// Gives the lead up if the disk stalls; says whether the core still runs.
    async fn look_after(&self, term: u64) -> bool {
        let log = &self.shared.log;
        let stalled = log.busy_for().is_some_and(|busy| busy > self.stall_limit);
        let asked = *self.shared.handing_over.lock();
        let waited = asked
            .filter(|(of, _)| *of == term)
            .map(|(_, at)| at.elapsed());
        if waited.is_some_and(|waited| waited < self.silence_max * 2) {
            return true;
        }
        if waited.is_some() && !stalled {
            *self.shared.handing_over.lock() = None;
            tracing::warn!(set = %self.shared.set, "nobody took the lead over");
            return self.raft.trigger().elect(false).await.is_ok();
        }
        if !stalled {
            return true;
        }
        let Some(heir) = heir(&self.raft, self.shared.node, Some(self.silence_max)) else {
            return true;
        };
        tracing::warn!(set = %self.shared.set, %heir, "the disk stalls: the lead is handed over");
        *self.shared.handing_over.lock() = Some((term, Instant::now()));
        self.shared.yielded(term);
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
