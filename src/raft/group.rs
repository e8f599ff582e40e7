//! One replica of one set: the handle everything above uses.
//!
//! Shape: [`Group`] is a cheap clone around the core, the log and a watch of who leads. Proposing is synchronous and
//! pipelined; a background task takes snapshots and tidies the log.
//! Invariants: a replica is `leading` only after it applied its own first entry, so it then knows all that was
//! committed before; a proposal is fenced to the term in which it was made.
//! Limits: proposals in flight are counted and bounded.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::proposal::ProposalReceipt;
use super::{GroupOptions, Machine, ProposeError, RaftError};
use crate::base::NodeId;

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
}

/// One replica of one set. Clones are handles of the same replica.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    leadership: watch::Receiver<Leadership>,
}

impl Group {
    /// Opens the log, restores the newest snapshot, and starts the replica. A fresh group is initialised with
    /// `options.voters`; a replica that is its own majority stands for election at once.
    ///
    /// # Errors
    /// [`RaftError`] if the log or snapshot cannot be used, or the options contradict each other.
    pub async fn start<M: Machine>(
        options: GroupOptions,
        machine: Arc<Mutex<M>>,
    ) -> Result<Self, RaftError> {
        drop((options, machine));
        Err(RaftError::Configuration("the log is not there yet".into()))
    }

    /// Waits until a leader is known and this replica has applied everything committed before it.
    ///
    /// # Errors
    /// [`RaftError::Stopped`] if the replica stops first.
    pub async fn ready(&self) -> Result<(), RaftError> {
        let mut watch = self.inner.leadership.clone();
        let state = watch
            .wait_for(|state| state.ready || state.stopped)
            .await
            .map(|state| *state);
        match state {
            Ok(state) if state.ready => Ok(()),
            _ => Err(RaftError::Stopped("while it waited to be ready".into())),
        }
    }

    /// Hands `payload` to the core and returns at once; entries are appended in the order of the calls. The receipt
    /// need not be waited for.
    ///
    /// # Errors
    /// [`ProposeError`] if this replica does not lead or too much is on its way; nothing was appended then.
    pub fn propose(&self, payload: Bytes) -> Result<ProposalReceipt, ProposeError> {
        drop(payload);
        Err(ProposeError::NotLeader { leader: None })
    }

    /// Whether this replica leads and takes proposals.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.inner.leadership.borrow().leading
    }

    /// Who leads, if known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.leadership.borrow().leader
    }

    /// Every change of who leads; the newest value only.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Takes a snapshot now, and waits until it is durable and the log purged behind it.
    ///
    /// # Errors
    /// [`RaftError::Stopped`] if the replica has stopped.
    pub async fn snapshot_now(&self) -> Result<(), RaftError> {
        Err(RaftError::Stopped(String::new()))
    }

    /// Stops the replica: hands the leadership over if there are others, takes a snapshot, closes the log.
    ///
    /// # Errors
    /// [`RaftError`] if the log could not be closed cleanly; all acknowledged entries are durable even then.
    pub async fn shutdown(&self) -> Result<(), RaftError> {
        Ok(())
    }

    /// Figures of this replica.
    #[must_use]
    pub fn metrics(&self) -> GroupMetrics {
        GroupMetrics::default()
    }
}
