//! One set as this node uses it: publish, command, ask, read; the same for a replica and for the local set.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::base::limits::READ_AHEAD_BYTES;
use crate::base::{Position, QueueId};
use crate::log::{Log, LogError};
use crate::model::batch::{MessageParts, PublishOptions};
use crate::model::set::{Command, Flow, QueueStats, Reply};
use crate::raft::Group;

use super::local_set::LocalSet;
use super::mailbox::Mailbox;
use super::others::Others;
use super::outbox::{Outbox, Pushed, Refusal};
use super::remote::Remote;
use super::replica::SetReplica;

/// Queues whose figures are read at a time: the machine's lock is held for no longer.
const FIGURES_AT_ONCE: usize = 512;

/// Why a message's bytes cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The log cannot give the entry.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The local set has dropped it, or the set elsewhere could not read it.
    #[error("the message is gone")]
    Gone,
    /// The reading task ended early: the node stops.
    #[error("the node stops")]
    Stopping,
}

/// A set as this node uses it.
#[derive(Clone)]
pub enum SetHandle {
    /// A replica of a broker set.
    Replica {
        /// Who else holds one.
        others: Others,
        /// The node's pipe to it.
        outbox: Arc<Outbox<Reply>>,
        /// Its log.
        log: Log,
        /// Its Raft group.
        group: Group,
        /// The machine.
        replica: Arc<Mutex<SetReplica>>,
    },
    /// The node's own set.
    Local {
        /// The pipe to it.
        outbox: Arc<Outbox<Reply>>,
        /// The set.
        set: Arc<LocalSet>,
    },
    /// A set of which this node holds nothing.
    Remote {
        /// The node's pipe to it.
        outbox: Arc<Outbox<Reply>>,
        /// What it says.
        remote: Arc<Remote>,
    },
}

/// A command on its way to a set.
pub struct Asked {
    handle: SetHandle,
    command: Command,
    answer: oneshot::Receiver<Reply>,
}

impl Asked {
    /// Its answer. A replica that skipped the entry with the command knows that it is done, and not what was answered: it
    /// is asked again, so the command must be one that may come twice.
    ///
    /// # Errors
    /// [`Refusal`] if the set is elsewhere and can be heard no more.
    pub async fn answer(self) -> Result<Reply, Refusal> {
        let Self {
            handle,
            command,
            mut answer,
        } = self;
        loop {
            match answer.await {
                Ok(reply) => return Ok(reply),
                Err(_) if !handle.is_here() => return Err(Refusal),
                Err(_) => {
                    answer = handle.outbox().ask(&command);
                    handle.kick();
                }
            }
        }
    }

    /// As [`Self::answer`], for a command that must not come twice.
    ///
    /// # Errors
    /// [`Refusal`] also if the answer was skipped.
    pub async fn answer_once(self) -> Result<Reply, Refusal> {
        self.answer.await.map_err(|_| Refusal)
    }
}

impl SetHandle {
    /// What stands for the set now: a set that was elsewhere may have come here.
    fn now(&self) -> &Self {
        match self {
            Self::Remote { remote, .. } => remote.here().unwrap_or(self),
            _ => self,
        }
    }

    /// The node's pipe to the set.
    #[must_use]
    pub fn outbox(&self) -> &Arc<Outbox<Reply>> {
        match self {
            Self::Replica { outbox, .. }
            | Self::Local { outbox, .. }
            | Self::Remote { outbox, .. } => outbox,
        }
    }

    /// The Raft group of a replicated set.
    #[must_use]
    pub fn group(&self) -> Option<&Group> {
        match self.now() {
            Self::Replica { group, .. } => Some(group),
            Self::Local { .. } | Self::Remote { .. } => None,
        }
    }

    /// As [`Self::group`], also of a replica that has not taken over yet.
    #[must_use]
    pub fn any_group(&self) -> Option<&Group> {
        match self {
            Self::Remote { remote, .. } => remote.coming().and_then(Self::group),
            _ => self.group(),
        }
    }

    /// Whether the set's state is on this node.
    #[must_use]
    pub fn is_here(&self) -> bool {
        matches!(self.now(), Self::Replica { .. } | Self::Local { .. })
    }

    /// Appends a publish; [`Self::kick`] follows.
    pub fn publish(
        &self,
        from: &Arc<Mailbox>,
        queues: &[QueueId],
        options: PublishOptions,
        parts: &MessageParts<'_>,
    ) -> Pushed {
        self.outbox().publish(from, queues, options, parts)
    }

    /// Appends a command nobody waits for; [`Self::kick`] follows.
    pub fn push(&self, command: &Command) -> Pushed {
        self.outbox().push(command)
    }

    /// Sends what was appended on its way.
    pub fn kick(&self) {
        match self {
            Self::Replica { outbox, .. } | Self::Remote { outbox, .. } => outbox.kick(),
            Self::Local { set, .. } => set.kick(),
        }
    }

    /// Appends a command and waits until it is applied here.
    ///
    /// # Errors
    /// [`Refusal`] if the set is elsewhere and can be heard no more.
    pub async fn ask(&self, command: &Command) -> Result<Reply, Refusal> {
        self.asking(command).answer().await
    }

    /// As [`Self::ask`], with the command appended before this returns.
    pub fn asking(&self, command: &Command) -> Asked {
        let answer = self.outbox().ask(command);
        self.kick();
        Asked {
            handle: self.clone(),
            command: command.clone(),
            answer,
        }
    }

    /// An entry's payload if it is in memory.
    #[must_use]
    pub fn cached(&self, index: u64) -> Option<Bytes> {
        match self.now() {
            Self::Replica { log, .. } => log
                .cached(index)
                .or_else(|| log.read_cached(index))
                .map(|record| record.payload),
            Self::Local { set, .. } => set.payload(index),
            Self::Remote { .. } => None,
        }
    }

    /// An entry's payload, from this node only.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn load_here(&self, index: u64) -> Result<Bytes, ReadError> {
        if let Some(payload) = self.cached(index) {
            return Ok(payload);
        }
        let Self::Replica { log, .. } = self.now() else {
            return Err(ReadError::Gone);
        };
        let log = log.clone();
        let read = move || -> Result<Bytes, LogError> {
            if let Some(record) = log
                .read_ahead(index, READ_AHEAD_BYTES)?
                .into_iter()
                .find(|r| r.index == index)
            {
                return Ok(record.payload);
            }
            Ok(log.get(index)?.payload)
        };
        if cfg!(feature = "sim") {
            return Ok(read()?);
        }
        let read = tokio::task::spawn_blocking(read);
        Ok(read.await.map_err(|_| ReadError::Stopping)??)
    }

    /// An entry's payload, from the disk if need be; reads ahead, because what follows is mostly wanted next.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn load(&self, position: Position) -> Result<Bytes, ReadError> {
        let index = position.index();
        if let Self::Remote { remote, .. } = self.now() {
            let got = remote.take_got(position).filter(|got| !got.is_empty());
            return got.ok_or(ReadError::Gone);
        }
        let here = self.load_here(index).await;
        let (
            Err(error),
            Self::Replica {
                others,
                outbox,
                group,
                ..
            },
        ) = (&here, self.now())
        else {
            return here;
        };
        if matches!(error, ReadError::Log(LogError::Damaged { .. })) {
            group.damaged(index);
        }
        // Same index, same bytes: a committed entry is what it is on every replica.
        match others.entry(outbox.set(), position).await {
            Some(payload) => {
                tracing::warn!(set = %outbox.set(), index, %error, "an entry was read from another replica");
                Ok(payload)
            }
            None => here,
        }
    }

    /// Figures of every queue that is here, by id, in portions; the machine's lock is free between them. Nothing if the
    /// set is elsewhere.
    pub fn figures(&self) -> impl Iterator<Item = Vec<(QueueId, QueueStats, Flow)>> + '_ {
        let mut after = None;
        std::iter::from_fn(move || {
            let some = self.with(|replica| {
                let figures = replica.machine().figures_after(after);
                figures.take(FIGURES_AT_ONCE).collect::<Vec<_>>()
            })?;
            after = Some(some.last()?.0);
            Some(some)
        })
    }

    /// Reads the machine under its lock: short, and not on a hot path. `None` if it is elsewhere.
    pub fn with<T>(&self, read: impl FnOnce(&SetReplica) -> T) -> Option<T> {
        match self.now() {
            Self::Replica { replica, .. } => Some(read(&replica.lock())),
            Self::Local { set, .. } => Some(set.with(read)),
            Self::Remote { .. } => None,
        }
    }
}
