//! Gives the writers of one node's logs their turns: after the time its disk takes, and not while it is stalled.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use leveret::log::{Turns, Wake, WriterHost};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::world::World;

/// How long nothing is asked before a log's last write is vouched for.
const IDLE: Duration = Duration::from_secs(1);

/// See the module's head.
#[derive(Clone)]
pub struct Spindle {
    pub world: World,
    pub at: usize,
    pub dead: Arc<AtomicBool>,
}

impl fmt::Debug for Spindle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk of n{}", self.at + 1)
    }
}

impl Spindle {
    /// One write's time: mostly short.
    fn delay(&self) -> Duration {
        let roll = self.world.roll(0..100);
        Duration::from_millis(if roll < 60 { 0 } else { roll % 5 + 1 })
    }

    async fn run(self, turns: Arc<Turns>, kick: Arc<Notify>) {
        loop {
            if timeout(IDLE, kick.notified()).await.is_err() {
                if !self.stalled() && !self.dead.load(Ordering::Acquire) {
                    turns.idle();
                }
                continue;
            }
            sleep(self.delay()).await;
            while self.stalled() {
                sleep(Duration::from_millis(20)).await;
            }
            if self.dead.load(Ordering::Acquire) {
                return;
            }
            if turns.turn() {
                kick.notify_one();
            }
        }
    }

    fn stalled(&self) -> bool {
        let now = turmoil::sim_elapsed().unwrap_or_default();
        self.world
            .with(|state| state.nodes[self.at].stalled_until > now)
    }
}

impl WriterHost for Spindle {
    fn host(&self, turns: Arc<Turns>) -> Wake {
        let kick = Arc::new(Notify::new());
        tokio::spawn(self.clone().run(turns, Arc::clone(&kick)));
        Arc::new(move || kick.notify_one())
    }
}
