//! Seals what waits in a set's outbox into entries and proposes them, a few at a time.
//!
//! Takes all that waits, never waits for more, and never for a timer: while the allowed entries are in flight the next
//! batch grows by itself. An idle leader proposes a tick when the machine's next deadline passes.
//! After a change of leader everything not yet applied is proposed again; the pipe's numbers make that harmless.

use std::sync::Arc;
use std::time::Duration;

use crate::base::limits::ENTRIES_IN_FLIGHT_MAX;
use crate::base::{Millis, SystemClock};
use crate::model::set::{Command, Reply};
use crate::raft::Group;
use crate::rt::Supervisor;

use super::clock::LeaderClock;
use super::outbox::Outbox;
use super::replica::Deadline;

/// Runs until the node stops or the replica has stopped. `last_stamp` reads the machine's clock.
pub async fn run<R: Send>(
    outbox: Arc<Outbox<R>>,
    group: Group,
    last_stamp: impl Fn() -> Millis + Send,
    tick: impl Fn(&Outbox<R>) + Send,
    deadline: Arc<Deadline>,
    supervisor: Supervisor,
) {
    let mut leadership = group.leadership();
    loop {
        let state = tokio::select! {
            state = leadership.wait_for(|state| state.leading || state.stopped) => state.map(|s| *s),
            () = supervisor.stopping() => return,
        };
        match state {
            Ok(state) if state.leading => {}
            _ => return,
        }
        let mut clock = LeaderClock::new(SystemClock, last_stamp());
        outbox.resend();
        loop {
            let current = *leadership.borrow_and_update();
            if !current.leading || current.stopped {
                break;
            }
            propose(&outbox, &group, &mut clock);
            if tick_due(&deadline, &mut clock) && outbox.in_flight() == 0 {
                tick(&outbox);
                continue;
            }
            let wait = deadline
                .get()
                .map(|at| at.since(clock.stamp()).0.clamp(1, 60_000));
            tokio::select! {
                () = outbox.kick.notified() => {}
                () = sleep(wait) => {}
                () = deadline.earlier() => {}
                changed = leadership.changed() => if changed.is_err() { return },
                () = supervisor.stopping(), if outbox.in_flight() == 0 && outbox.depth().0 == 0 => return,
            }
        }
    }
}

/// The tick of a broker set.
pub fn set_tick(outbox: &Outbox<Reply>) {
    outbox.push(&Command::Tick);
}

fn tick_due(deadline: &Deadline, clock: &mut LeaderClock<SystemClock>) -> bool {
    deadline.get().is_some_and(|at| at <= clock.stamp())
}

async fn sleep(wait: Option<u64>) {
    match wait {
        Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        None => std::future::pending().await,
    }
}

fn propose<R>(outbox: &Outbox<R>, group: &Group, clock: &mut LeaderClock<SystemClock>) {
    if outbox.take_resend() {
        for payload in outbox.unapplied() {
            if group.propose(payload).is_err() {
                outbox.resend();
                return;
            }
        }
    }
    while outbox.in_flight() < ENTRIES_IN_FLIGHT_MAX {
        let Some(payload) = outbox.seal(clock.stamp()) else {
            return;
        };
        if group.propose(payload).is_err() {
            outbox.resend();
            return;
        }
    }
}
