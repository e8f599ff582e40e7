//! One replica of one set: the handle everything above uses.
//!
//! Shape: [`Group`] is a cheap clone around the core, the log and a watch of who leads. Proposing is synchronous and
//! pipelined; a background task takes snapshots and tidies the log.
//! Invariants: a replica is `leading` only after it applied its own first entry, so it then knows all that was
//! committed before; a proposal is fenced to the term in which it was made.
//! Limits: proposals in flight are counted and bounded.

use std::sync::Arc;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use openraft::Raft;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::applier::Applier;
use super::lead::{Lead, heir};
use super::proposal::{InFlight, Proposal, ProposalReceipt};
use super::shared::Shared;
use super::snapshot::blocking;
use super::types::{Blob, LeaderTerm, Types};
use super::upkeep::{Rule, Upkeep, Wish};
use super::{GroupOptions, Machine, ProposeError, RaftError, start};
use crate::base::NodeId;
use crate::log::{Log, LogStats};

/// Wishes for a snapshot that may wait.
const WISHES_MAX: usize = 16;
/// Longest wait for a follower to take over at a planned stop.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);
/// Longest wait for the snapshot of a replica that stops.
const LAST_SNAPSHOT_MAX: Duration = Duration::from_secs(10);

/// Who leads a set, as one replica knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The term this replica is in.
    pub term: u64,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// This replica leads and has applied everything committed before: it takes proposals.
    pub leading: bool,
    /// The replica knows the leader and has applied everything committed before that leader came.
    pub ready: bool,
    /// The replica has stopped, for good.
    pub stopped: bool,
    /// How often the core refused what was proposed here while it led on in the same term.
    pub lapses: u64,
}

impl Leadership {
    /// The present stretch of the lead.
    #[must_use]
    pub fn tenure(&self) -> Tenure {
        Tenure {
            term: self.term,
            lapses: self.lapses,
        }
    }
}

/// A stretch of one lead: what was proposed in an earlier one may be gone, and must go again before what follows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tenure {
    /// The term.
    pub term: u64,
    lapses: u64,
}

/// Figures of one replica.
#[derive(Clone, Debug, Default)]
pub struct GroupMetrics {
    /// Current term.
    pub term: u64,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// Index of the last entry in the log, if any.
    pub last_log: Option<u64>,
    /// Index of the last entry known to be committed.
    pub committed: Option<u64>,
    /// Index of the last entry applied.
    pub applied: Option<u64>,
    /// Index of the last entry in the newest durable snapshot.
    pub snapshot: Option<u64>,
    /// Index up to which entries are purged: Raft no longer reads them.
    pub purged: Option<u64>,
    /// Proposals not yet applied here.
    pub proposals_in_flight: usize,
    /// Figures of the log.
    pub log: LogStats,
}

/// One replica of one set. Clones are handles of the same replica.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    raft: Raft<Types, Applier>,
    in_flight_max: usize,
    wishes: mpsc::Sender<Wish>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The tasks hold the core, which ends with the last handle of it.
        for task in self.tasks.get_mut().drain(..) {
            task.abort();
        }
    }
}

impl Group {
    /// Opens the log, restores the newest snapshot, and starts the replica. A fresh group is initialised with
    /// `options.voters`; a replica that is its own majority stands for election at once.
    ///
    /// Entries after the snapshot are applied again once they are known to be committed; wait for [`Self::ready`].
    ///
    /// # Errors
    /// [`RaftError`] if the log or snapshot cannot be used, or the options contradict each other.
    pub async fn start<M: Machine>(
        options: GroupOptions,
        machine: Arc<Mutex<M>>,
    ) -> Result<Self, RaftError> {
        start::start(options, machine, M::compact_payload).await
    }

    pub(super) fn assemble(
        shared: Arc<Shared>,
        raft: Raft<Types, Applier>,
        in_flight_max: usize,
        rule: Rule,
        lead: Lead,
    ) -> Self {
        let (wishes, heard) = mpsc::channel(WISHES_MAX);
        let upkeep = Upkeep {
            shared: Arc::clone(&shared),
            raft: raft.clone(),
            rule,
        };
        let watcher = watch_core(Arc::clone(&shared), raft.clone());
        let tasks = vec![
            tokio::spawn(upkeep.run(heard)),
            tokio::spawn(watcher),
            tokio::spawn(lead.run()),
        ];
        Self {
            inner: Arc::new(Inner {
                shared,
                raft,
                in_flight_max,
                wishes,
                tasks: Mutex::new(tasks),
            }),
        }
    }

    pub(super) fn raft(&self) -> &Raft<Types, Applier> {
        &self.inner.raft
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// The node of this replica.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.inner.shared.node
    }

    /// Waits until a leader is known and this replica has applied everything committed before it.
    ///
    /// # Errors
    /// [`RaftError::Stopped`] if the replica stops first.
    pub async fn ready(&self) -> Result<(), RaftError> {
        let mut watch = self.leadership();
        let state = watch
            .wait_for(|state| state.ready || state.stopped)
            .await
            .map(|state| *state);
        match state {
            Ok(state) if !state.stopped => Ok(()),
            _ => Err(RaftError::Stopped("before it was ready".into())),
        }
    }

    /// Hands `payload` to the core and returns at once; entries are appended in the order of the calls. The receipt
    /// need not be waited for. Does not lock the machine, so a machine's effects may call it.
    ///
    /// # Errors
    /// [`ProposeError`] if this replica does not lead or too much is on its way; nothing was appended then.
    pub fn propose(&self, payload: Bytes) -> Result<ProposalReceipt, ProposeError> {
        let term = self.inner.shared.leadership.borrow().term;
        self.propose_in(term, payload)
    }

    /// As [`Self::propose`], but only in `term`: whoever sends a sequence of payloads must not go on with it in a term
    /// that may lack what was proposed in the one before.
    ///
    /// # Errors
    /// As [`Self::propose`], also if this replica leads in another term.
    pub fn propose_in(&self, term: u64, payload: Bytes) -> Result<ProposalReceipt, ProposeError> {
        let state = *self.inner.shared.leadership.borrow();
        if !state.leading || state.term != term {
            return Err(ProposeError::NotLeader {
                leader: state.leader,
            });
        }
        let place = InFlight::take(&self.inner.shared.in_flight, self.inner.in_flight_max)
            .ok_or(ProposeError::Busy)?;
        let shared = Arc::clone(&self.inner.shared);
        let (proposal, receipt) = Proposal::new(place, shared, term);
        let write = self
            .inner
            .raft
            .write(Blob(payload))
            .responder(proposal)
            .with_leader(LeaderTerm::new(state.term));
        // The channel to the core is longer than the bound of proposals in flight, so this never waits; the budget
        // of the calling task is no reason to refuse.
        match tokio::task::unconstrained(write.into_future()).now_or_never() {
            Some(Ok(())) => Ok(receipt),
            Some(Err(_)) => Err(ProposeError::NotLeader { leader: None }),
            None => Err(ProposeError::Busy),
        }
    }

    /// As if the core had refused a proposal.
    #[cfg(test)]
    pub(crate) fn refuse(&self) {
        let term = self.leadership().borrow().term;
        self.inner.shared.refused(term);
    }

    /// Whether this replica leads and takes proposals.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.inner.shared.leadership.borrow().leading
    }

    /// Who leads, if known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.shared.leadership.borrow().leader
    }

    /// Every change of who leads; a slow reader sees the newest only.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.shared.leadership.subscribe()
    }

    /// The set's log, for reading messages.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.inner.shared.log
    }

    /// Takes a snapshot now, and waits until it is durable and the log behind it tidied.
    ///
    /// # Errors
    /// [`RaftError::Stopped`] if the replica has stopped, [`RaftError::Log`] if a segment could not be tidied.
    pub async fn snapshot_now(&self) -> Result<(), RaftError> {
        let gone = || RaftError::Stopped("before the snapshot was taken".into());
        let (wish, answer) = oneshot::channel();
        self.inner.wishes.send(wish).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Makes `to` the leader, if this replica is. Returns when the request is made, not when it is done.
    ///
    /// # Errors
    /// [`RaftError::Stopped`] if the replica has stopped.
    pub async fn hand_over(&self, to: NodeId) -> Result<(), RaftError> {
        let state = *self.inner.shared.leadership.borrow();
        if state.leading {
            // If nobody takes over, the lead ends this term: no proposal is taken in it any more.
            *self.inner.shared.handing_over.lock() = Some((state.term, Instant::now()));
        }
        let asked = self.inner.raft.trigger().transfer_leader(to.0).await;
        asked.map_err(|error| RaftError::Stopped(error.to_string()))
    }

    /// Stops the replica: hands the leadership over if there are others, takes a snapshot, closes the log.
    ///
    /// # Errors
    /// [`RaftError`] if the snapshot was not taken or the log not closed cleanly; all acknowledged entries are
    /// durable even then.
    pub async fn shutdown(&self) -> Result<(), RaftError> {
        self.yield_leadership().await;
        // It shortens the next start, no more.
        let snapshot = match tokio::time::timeout(LAST_SNAPSHOT_MAX, self.snapshot_now()).await {
            Ok(snapshot) => snapshot,
            Err(_) => Err(RaftError::Stopped(
                "the last snapshot takes too long".into(),
            )),
        };
        self.inner.shared.stop();
        let joined = self.inner.raft.shutdown().await;
        for task in self.inner.tasks.lock().drain(..) {
            task.abort();
        }
        let log = self.inner.shared.log.clone();
        blocking(move || log.close().map_err(std::io::Error::other))
            .await
            .map_err(|error| RaftError::Log(error.to_string()))?;
        joined.map_err(|error| RaftError::Stopped(error.to_string()))?;
        snapshot
    }

    /// Hands the leadership to another member, if this replica has it, and waits a moment until it is gone.
    pub async fn yield_leadership(&self) {
        if !self.is_leader() {
            return;
        }
        let Some(heir) = heir(&self.inner.raft, self.node(), None) else {
            return;
        };
        if self.hand_over(heir).await.is_ok() {
            let mut watch = self.leadership();
            let left = watch.wait_for(|state| !state.leading);
            // A peer that does not answer must not hold up the stop: it will stand for election by itself.
            drop(tokio::time::timeout(HAND_OVER_MAX, left).await);
        }
    }

    /// Figures of this replica.
    #[must_use]
    pub fn metrics(&self) -> GroupMetrics {
        let shared = &self.inner.shared;
        let state = *shared.leadership.borrow();
        let metrics = self.inner.raft.metrics();
        let seen = metrics.borrow_watched();
        GroupMetrics {
            term: seen.current_term,
            leader: state.leader,
            last_log: seen.last_log_index,
            committed: seen.local_committed.map(|id| id.index),
            applied: seen.last_applied.map(|id| id.index),
            snapshot: seen.snapshot.map(|id| id.index),
            purged: seen.purged.map(|id| id.index),
            proposals_in_flight: shared.in_flight.load(Ordering::Relaxed),
            log: shared.log.stats(),
        }
    }
}

/// Carries the core's view of who leads to [`Shared`], and its end.
async fn watch_core(shared: Arc<Shared>, raft: Raft<Types, Applier>) {
    let mut servers = raft.server_metrics();
    loop {
        let (vote, leader, leads) = {
            let seen = servers.borrow_watched();
            let members = seen.membership_config.nodes();
            *shared.addresses.lock() = members
                .map(|(id, node)| (NodeId(*id), node.addr.clone()))
                .collect();
            (seen.vote, seen.current_leader, seen.state.is_leader())
        };
        shared.led_by(vote.leader_id.term, leader, leads);
        if servers.changed().await.is_err() {
            break;
        }
    }
    let metrics = raft.metrics();
    let state = metrics.borrow_watched().running_state.clone();
    match state {
        Err(fatal @ (Fatal::StorageError(_) | Fatal::Panicked)) => shared.fail(&fatal.to_string()),
        Ok(()) | Err(Fatal::Stopped) => shared.stop(),
    }
}
