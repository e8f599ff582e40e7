//! How a shovel is.

use std::sync::atomic::{AtomicU64, Ordering};

use lapin::ConnectionStatus;
use parking_lot::Mutex;

use crate::base::{Clock, Millis, SystemClock};

use super::definition::Definition;

/// No end is set.
const UNLIMITED: u64 = u64::MAX;

/// Where it stands.
#[derive(Clone, Debug, Default)]
pub enum State {
    /// On its way to both ends.
    #[default]
    Starting,
    /// Between these addresses, as they may be shown.
    Running {
        /// The source's.
        source: String,
        /// The destination's.
        destination: String,
        /// What it does.
        definition: Box<Definition>,
    },
    /// It failed, and is tried again after a while if its definition says so.
    Terminated {
        /// Why.
        reason: String,
    },
}

impl State {
    /// As RabbitMQ calls it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running { .. } => "running",
            Self::Terminated { .. } => "terminated",
        }
    }
}

/// What it has done since it last started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Messages until it goes; `None`: it stays.
    pub remaining: Option<u64>,
    /// Messages sent and not confirmed.
    pub pending: u64,
    /// Messages that are through.
    pub forwarded: u64,
}

/// A shovel as it is shown.
#[derive(Clone, Debug)]
pub struct View {
    /// Its vhost.
    pub vhost: String,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: State,
    /// Since when, ms since the epoch.
    pub since: Millis,
    /// The destination takes nothing at the moment (connection.blocked).
    pub blocked: bool,
    /// How far it is.
    pub progress: Progress,
}

#[derive(Default)]
struct Now {
    state: State,
    since: Millis,
    destination: Option<ConnectionStatus>,
}

/// Written by its worker, read by who asks.
#[derive(Default)]
pub(super) struct Status {
    now: Mutex<Now>,
    remaining: AtomicU64,
    pending: AtomicU64,
    forwarded: AtomicU64,
}

impl Status {
    pub(super) fn set(&self, state: State, destination: Option<ConnectionStatus>) {
        let since = SystemClock.now();
        *self.now.lock() = Now {
            state,
            since,
            destination,
        };
    }

    pub(super) fn progress(&self, progress: Progress) {
        let remaining = progress.remaining.unwrap_or(UNLIMITED);
        self.remaining.store(remaining, Ordering::Relaxed);
        self.pending.store(progress.pending, Ordering::Relaxed);
        self.forwarded.store(progress.forwarded, Ordering::Relaxed);
    }

    pub(super) fn view(&self, vhost: &str, name: &str) -> View {
        let now = self.now.lock();
        let remaining = self.remaining.load(Ordering::Relaxed);
        let destination = now.destination.as_ref();
        View {
            vhost: vhost.to_owned(),
            name: name.to_owned(),
            state: now.state.clone(),
            since: now.since,
            blocked: destination.is_some_and(ConnectionStatus::blocked),
            progress: Progress {
                remaining: (remaining != UNLIMITED).then_some(remaining),
                pending: self.pending.load(Ordering::Relaxed),
                forwarded: self.forwarded.load(Ordering::Relaxed),
            },
        }
    }
}
