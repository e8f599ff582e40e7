//! A writer without a thread of its own: whoever hosts it gives it its turns.
//!
//! Need: a simulation has one thread, and decides when a disk is slow. One turn is one group of the writer, so what
//! reaches the disk, and in which order, is the same as with a thread.
//! Limits: as the writer's. Spare segments are not made ahead, as that takes a thread as well.
//! Not here: when turns are given.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use parking_lot::Mutex;

use super::writer::{Job, Writer};

/// Told that something waits for the writer. Must not block, nor give a turn: locks are held.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Gives writers their turns.
pub trait WriterHost: Send + Sync + Debug {
    /// Takes over the writer of a log that was opened.
    fn host(&self, turns: Arc<Turns>) -> Wake;
}

/// A writer that waits for its turns.
pub struct Turns(Mutex<Option<(Writer, Receiver<Job>)>>);

impl Turns {
    pub(super) fn new(mut writer: Writer, queue: Receiver<Job>) -> Self {
        writer.begin();
        Self(Mutex::new(Some((writer, queue))))
    }

    /// Does one group of what waits; whether there was any.
    #[must_use]
    pub fn turn(&self) -> bool {
        let mut held = self.0.lock();
        let Some((writer, queue)) = held.as_mut() else {
            return false;
        };
        let Ok(first) = queue.try_recv() else {
            return false;
        };
        if writer.group(first, queue, &mut Vec::new()) {
            *held = None;
        }
        true
    }

    /// Does all that waits.
    pub fn all(&self) {
        while self.turn() {}
    }

    /// Nothing was asked for a while: the last write is vouched for.
    pub fn idle(&self) {
        if let Some((writer, _)) = self.0.lock().as_mut() {
            writer.idle();
        }
    }
}
