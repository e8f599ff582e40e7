//! The machine's front.

use super::{Command, DeadLetter, Effects, LiveMap, PageError, Pages, QueueStats, Source, Totals};
use crate::base::{Millis, PipeId, Position, QueueId};
use crate::model::Meta;

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was the pipe's next one.
    Done,
    /// It had been applied before; nothing happened.
    Repeat,
    /// Refused: numbers before it are missing, the pipe is of an older incarnation or was not opened, or the
    /// machine has stopped ([`SetMachine::fault`]).
    Gap,
}

/// Why a snapshot cannot be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes end early, or are not a snapshot of this machine, or contradict themselves.
    #[error("snapshot is damaged")]
    Damaged,
    /// Written by a version this one does not know.
    #[error("snapshot has version {version}")]
    Version {
        /// The version found.
        version: u8,
    },
}

/// All queues of one broker set.
pub struct SetMachine {
    pages: Box<dyn Pages>,
    live: LiveMap,
    totals: Totals,
}

#[expect(unused_variables, clippy::unused_self, reason = "signatures first")]
impl SetMachine {
    /// A machine without queues.
    #[must_use]
    pub fn new(pages: Box<dyn Pages>) -> Self {
        Self { pages, live: LiveMap::default(), totals: Totals::default() }
    }
    /// Begins an entry.
    pub fn begin(&mut self, meta: Meta, effects: &mut Effects) {}
    /// Applies one command.
    pub fn apply(&mut self, source: Source, command: Command, effects: &mut Effects) -> Applied { Applied::Gap }
    /// Next deadline.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> { None }
    /// Pending dead letters.
    #[must_use]
    pub fn pending_dead_letters(&self) -> Vec<DeadLetter> { Vec::new() }
    /// Live entries.
    #[must_use]
    pub fn live(&self) -> &LiveMap { &self.live }
    /// Live positions in entries `from_index ..= to_index`.
    #[must_use]
    pub fn live_positions(&self, from_index: u64, to_index: u64) -> Vec<(Position, u32)> { Vec::new() }
    /// Snapshot.
    pub fn snapshot(&mut self) -> Vec<u8> { Vec::new() }
    /// Restores a snapshot.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn restore(bytes: &[u8], pages: Box<dyn Pages>) -> Result<Self, SnapshotError> { Err(SnapshotError::Damaged) }
    /// Digest of the state.
    #[must_use]
    pub fn digest(&self) -> u64 { 0 }
    /// Stats of a queue.
    #[must_use]
    pub fn queue_stats(&self, queue: QueueId) -> Option<QueueStats> { None }
    /// All queues.
    pub fn queues(&self) -> impl Iterator<Item = (QueueId, QueueStats)> + '_ { std::iter::empty() }
    /// Totals.
    #[must_use]
    pub fn totals(&self) -> Totals { self.totals }
    /// Whether the queue is here.
    #[must_use]
    pub fn has_queue(&self, queue: QueueId) -> bool { false }
    /// Last applied sequence number of the pipe, 0 if none.
    #[must_use]
    pub fn last_seq(&self, pipe: PipeId) -> u64 { 0 }
    /// The machine's clock.
    #[must_use]
    pub fn last_now(&self) -> Millis { Millis(0) }
    /// Index of the last entry begun.
    #[must_use]
    pub fn applied_index(&self) -> u64 { 0 }
    /// Why the machine stopped: a page could not be read.
    #[must_use]
    pub fn fault(&self) -> Option<PageError> { None }
}
