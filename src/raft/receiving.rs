//! Taking a peer's snapshot: everything is on disk, beside what this replica has, before openraft is told.
//!
//! Shape: frames go to a thread of their own, which unpacks them and stages records and pages; the whole result is one
//! handle for openraft, which installs it if it still wants it. Dropped at any point, the handle takes what was staged
//! with it.
//! Invariants: nothing of this replica's state changes before the last frame has arrived and checked out; one transfer
//! at a time.
//! Limits: one frame, one item and the state are in memory.
//! Not here: the change of the log itself ([`crate::log::Install`]).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::machine::PageStore;
use super::shared::Shared;
use super::snapshot::{SnapshotHandle, decode};
use super::transfer::{Item, TransferError, Unpacker};
use super::types::{LogId, Snapshot, SnapshotMeta, Vote};
use super::wire;
use super::{BoxFuture, BoxStream, Group};
use crate::log::{Install, LogError};

/// Longest wait for the next frame.
const FRAME_WAIT_MAX: Duration = Duration::from_secs(15);

/// Pages that are staged and not adopted yet.
struct Staged(Arc<dyn PageStore>);

impl Drop for Staged {
    fn drop(&mut self) {
        // After an adoption there are none.
        self.0.unstage();
    }
}

/// A snapshot that is whole and waits beside the present state. The pages go before the log's claim does.
pub(super) struct Arrived {
    /// The bytes of the snapshot's file.
    pub(super) bytes: Bytes,
    pages: Option<Staged>,
    pub(super) records: Install,
}

impl Arrived {
    /// Where to adopt the staged pages.
    pub(super) fn pages(&self) -> Option<&Arc<dyn PageStore>> {
        self.pages.as_ref().map(|staged| &staged.0)
    }
}

/// What became of a stream of frames.
enum Outcome {
    Whole(Vote, SnapshotMeta, Box<Arrived>),
    /// The sender leads no longer.
    Outvoted(Vote),
}

/// Why a snapshot was not taken.
#[derive(Debug, thiserror::Error)]
enum IntakeError {
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("page: {0}")]
    Page(#[from] std::io::Error),
    #[error("the machine keeps no pages, but some were sent")]
    NoPages,
    #[error("snapshot: {0}")]
    Snapshot(#[from] super::snapshot::SnapshotError),
    #[error("the snapshot is not the one announced, or one no leader can send")]
    Meta,
}

impl Group {
    /// Answers a peer's snapshot: see [`super::Transport::snapshot`]. A stream that ends early changes nothing and leaves
    /// nothing behind. The answer comes when all that was sent is durable and in force.
    #[must_use]
    pub fn answer_snapshot(&self, frames: BoxStream<Bytes>) -> BoxFuture<Bytes> {
        let group = self.clone();
        Box::pin(async move {
            match group.receive(frames).await {
                Ok(bytes) => bytes,
                Err(reason) => {
                    let shared = group.shared();
                    if shared.log.poisoned() {
                        // Staging syncs too; after a failed sync this replica must not go on.
                        shared.fail(&reason);
                    }
                    tracing::warn!(set = %shared.set, reason, "a snapshot did not arrive");
                    wire::put_failure(&reason)
                }
            }
        })
    }

    async fn receive(&self, frames: BoxStream<Bytes>) -> Result<Bytes, String> {
        let (vote, meta, arrived) = match collect(self.shared(), frames).await? {
            Outcome::Whole(vote, meta, arrived) => (vote, meta, arrived),
            Outcome::Outvoted(vote) => return Ok(wire::put_snapshot_answer(&vote)),
        };
        let committed = self
            .raft()
            .with_raft_state(|state| state.local_committed().copied());
        let committed = committed.await.map_err(text)?;
        possible(&vote, meta.last_log_id, committed).map_err(text)?;
        let snapshot = Snapshot {
            meta,
            snapshot: SnapshotHandle::received(arrived),
        };
        let installed = self.raft().install_full_snapshot(vote, snapshot).await;
        let answer = installed.map_err(text)?;
        Ok(wire::put_snapshot_answer(&answer.vote))
    }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

/// openraft takes these for granted.
fn possible(vote: &Vote, last: Option<LogId>, committed: Option<LogId>) -> Result<(), IntakeError> {
    let last = last.ok_or(IntakeError::Meta)?;
    let of_leader = last.leader_id.term <= vote.leader_id.term && vote.committed;
    let after =
        committed.is_none_or(|committed| (last > committed) == (last.index > committed.index));
    match of_leader && after {
        true => Ok(()),
        false => Err(IntakeError::Meta),
    }
}

/// Moves frames to the thread that takes them in, until that has an outcome.
async fn collect(shared: &Arc<Shared>, mut frames: BoxStream<Bytes>) -> Result<Outcome, String> {
    if cfg!(feature = "sim") {
        return collect_first(shared, frames).await;
    }
    let (tx, mut rx) = mpsc::channel(1);
    let into = Arc::clone(shared);
    let mut intake = tokio::task::spawn_blocking(move || Intake::run(&into, || rx.blocking_recv()));
    let mut tx = Some(tx);
    loop {
        tokio::select! {
            outcome = &mut intake => {
                return outcome.map_err(text)?.map_err(text);
            }
            frame = tokio::time::timeout(FRAME_WAIT_MAX, frames.next()), if tx.is_some() => {
                let sent = match (frame, &tx) {
                    (Ok(Some(frame)), Some(tx)) => tx.send(frame).await.is_ok(),
                    _ => false,
                };
                if !sent {
                    // The thread sees the end, and judges.
                    tx = None;
                }
            }
        }
    }
}

/// As [`collect`], without a thread: what arrives is kept until all of it is there.
async fn collect_first(
    shared: &Arc<Shared>,
    mut frames: BoxStream<Bytes>,
) -> Result<Outcome, String> {
    let (tx, rx) = mpsc::unbounded_channel();
    while let Ok(Some(frame)) = tokio::time::timeout(FRAME_WAIT_MAX, frames.next()).await {
        drop(tx.send(frame));
    }
    drop(tx);
    let mut rx = rx;
    Intake::run(shared, || rx.try_recv().ok()).map_err(text)
}

struct Intake<'a> {
    shared: &'a Shared,
    head: Option<(Vote, SnapshotMeta)>,
    state: Option<Bytes>,
    pages: Option<Staged>,
    records: Install,
}

impl Intake<'_> {
    fn run(
        shared: &Shared,
        mut frame: impl FnMut() -> Option<Bytes>,
    ) -> Result<Outcome, IntakeError> {
        // The log's claim comes first: the pages of another transfer are not touched.
        let records = shared.log.begin_install()?;
        let store = shared.machine.lock().page_store();
        let mut intake = Intake {
            shared,
            head: None,
            state: None,
            pages: store.map(Staged),
            records,
        };
        let mut unpacker = Unpacker::default();
        while !unpacker.whole() {
            let frame = frame().ok_or(TransferError::BrokenOff)?;
            unpacker.take(&frame)?;
            while let Some(item) = unpacker.next()? {
                intake.take(item)?;
                if let Some(vote) = intake.outvoted() {
                    return Ok(Outcome::Outvoted(vote));
                }
            }
        }
        intake.finish()
    }

    fn take(&mut self, item: Item) -> Result<(), IntakeError> {
        match item {
            Item::Head { vote, meta } if self.head.is_none() => self.head = Some((vote, meta)),
            Item::State(bytes) if self.head.is_some() && self.state.is_none() => {
                self.state = Some(bytes);
            }
            Item::Page(id, bytes) if self.state.is_some() => {
                let pages = self.pages.as_ref().ok_or(IntakeError::NoPages)?;
                pages.0.stage(id, &bytes)?;
            }
            Item::Record(record) if self.state.is_some() => self.records.push(&record)?,
            _ => return Err(TransferError::Place.into()),
        }
        Ok(())
    }

    /// The vote of this replica, if it is past the sender's.
    fn outvoted(&self) -> Option<Vote> {
        let (vote, _) = self.head.as_ref()?;
        let own = (*self.shared.vote.lock())?;
        (own.leader_id.term > vote.leader_id.term).then_some(own)
    }

    fn finish(self) -> Result<Outcome, IntakeError> {
        let ((vote, meta), bytes) = self.head.zip(self.state).ok_or(TransferError::Place)?;
        let (found, _) = decode(&bytes)?;
        if found != meta {
            return Err(IntakeError::Meta);
        }
        let arrived = Arrived {
            bytes,
            pages: self.pages,
            records: self.records,
        };
        Ok(Outcome::Whole(vote, meta, Box::new(arrived)))
    }
}
