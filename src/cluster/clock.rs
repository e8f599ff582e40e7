//! The time a leader stamps into entries: never back, and no jump when a wall clock jumps.
//!
//! Starts at the later of the machine's last stamp and the wall clock, runs by the monotonic clock, and slews towards
//! the wall clock by at most 500 ppm of the time that passed (spec/raft-storage.md §4).

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::base::{Clock, Millis, SystemClock};

/// One leader's clock.
#[derive(Debug)]
pub struct LeaderClock<C> {
    wall: C,
    base: Millis,
    since: Instant,
    last: Millis,
}

/// How often the base is moved, so that slewing accumulates.
const SLEW_EVERY_MS: u64 = 1_000;
const SLEW_PPM: u64 = 500;

impl<C: Clock> LeaderClock<C> {
    /// Continues from the machine's last stamp.
    pub fn new(wall: C, last: Millis) -> Self {
        let base = wall.now().max(last);
        Self {
            wall,
            base,
            since: Instant::now(),
            last,
        }
    }

    /// The stamp for an entry sealed at this moment.
    pub fn stamp(&mut self) -> Millis {
        let elapsed = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut now = self.base.plus(Millis(elapsed));
        if elapsed >= SLEW_EVERY_MS {
            let wall = self.wall.now();
            let step = Millis((elapsed * SLEW_PPM / 1_000_000).max(1));
            if wall > now {
                now = now.plus(step.min(wall.since(now)));
            } else if now > wall {
                now = Millis(now.0 - step.min(now.since(wall)).0);
            }
            self.base = now;
            self.since = Instant::now();
        }
        self.last = self.last.max(now);
        self.last
    }
}

/// The clock of a set's leader, for whoever proposes to it on this node.
#[derive(Debug, Default)]
pub struct Stamp(Mutex<Option<LeaderClock<SystemClock>>>);

impl Stamp {
    /// This node leads from now on and continues from the machine's last stamp; or no longer leads.
    pub fn lead(&self, last: Option<Millis>) {
        *self.0.lock() = last.map(|last| LeaderClock::new(SystemClock, last));
    }

    /// The stamp for an entry sealed now; `None` if this node does not lead.
    #[must_use]
    pub fn now(&self) -> Option<Millis> {
        self.0.lock().as_mut().map(LeaderClock::stamp)
    }
}
