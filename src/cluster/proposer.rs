//! Brings what waits in a set's outbox to the set's leader: proposes it here, or sends it to the node that leads.
//!
//! Takes all that waits, never waits for more, and never for a timer: while the allowed entries are in flight the next
//! batch grows by itself. An idle leader proposes a tick when the machine's next deadline passes.
//! After a change of leader, or of the connection to it, everything not yet applied here goes again; the pipe's numbers
//! make that harmless.
//! And if nothing of what is in flight is applied for [`PATIENCE`]: whatever lost it, the pipe does not stand still for ever.
//! Invariant: in each tenure of a leader the pipe's batches are proposed without a gap, from the first that is not applied
//! on: a sequence begun in one, here or on a stream from a peer, never goes on in another.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::base::limits::ENTRIES_IN_FLIGHT_MAX;
use crate::base::{Millis, NodeId};
use crate::model::set::{Command, Reply};
use crate::raft::{Group, Leadership};
use crate::rt::Supervisor;

use super::clock::Stamp;
use super::outbox::Outbox;
use super::peer::Links;
use super::replica::Deadline;

/// Pause before a leader that cannot be reached is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// Longest time that batches are in flight without one of them being applied, before all go again. Doubles while that
/// does not help: the set may have no majority, or more than it can do.
const PATIENCE: Duration = Duration::from_secs(3);
const PATIENCE_MAX: Duration = Duration::from_secs(48);

/// When to lose patience with a pipe.
pub struct Patience {
    applied: u64,
    limit: Duration,
    ends: Instant,
}

impl Patience {
    /// From now on.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            applied: 0,
            limit: PATIENCE,
            ends: now + PATIENCE,
        }
    }

    /// Called before anything is sent; until when there is patience.
    fn look<R>(&mut self, outbox: &Outbox<R>, now: Instant) -> Instant {
        let applied = outbox.applied_seq();
        if applied != self.applied || outbox.in_flight() == 0 {
            (self.applied, self.limit) = (applied, PATIENCE);
            self.ends = now + PATIENCE;
        }
        self.ends
    }

    /// All in flight goes again.
    fn lost<R>(&mut self, outbox: &Outbox<R>, now: Instant) {
        let (set, batches) = (outbox.set(), outbox.in_flight());
        if batches == 0 {
            return;
        }
        tracing::warn!(%set, batches, waited = ?self.limit, "batches are not applied: they go again");
        self.limit = (self.limit * 2).min(PATIENCE_MAX);
        self.ends = now + self.limit;
        outbox.resend();
    }
}

/// What brings one outbox to one set's leader.
pub struct Proposer<R> {
    /// The pipe.
    pub outbox: Arc<Outbox<R>>,
    /// This node's replica of the set.
    pub group: Group,
    /// The leader's clock, while this node leads.
    pub stamp: Arc<Stamp>,
    /// The machine's next deadline.
    pub deadline: Arc<Deadline>,
    /// Appends a tick; nothing for a machine without deadlines.
    pub tick: fn(&Outbox<R>),
    /// Ways to other nodes.
    pub links: Links,
    /// This node.
    pub node: NodeId,
}

impl<R: Send + 'static> Proposer<R> {
    /// Runs until the node stops or the replica has stopped. `last_stamp` reads the machine's clock.
    pub async fn run(
        self,
        last_stamp: impl Fn() -> Millis + Send + 'static,
        supervisor: Supervisor,
    ) {
        let mut leadership = self.group.leadership();
        let mut patience = Patience::new(Instant::now());
        loop {
            let state = *leadership.borrow_and_update();
            if state.stopped {
                return;
            }
            let leader = state.leader.filter(|leader| *leader != self.node);
            let go_on = if state.leading {
                self.stamp.lead(Some(last_stamp()));
                let go_on = self.lead(&mut leadership, &mut patience, &supervisor).await;
                self.stamp.lead(None);
                go_on
            } else if let Some(leader) = leader {
                self.forward(leader, state, &mut leadership, &mut patience, &supervisor)
                    .await
            } else {
                self.wait(&mut leadership, &supervisor).await
            };
            if !go_on {
                return;
            }
        }
    }

    fn idle(&self) -> bool {
        !self.outbox.is_busy()
    }

    /// While this node leads; whether to go on after it.
    async fn lead(
        &self,
        leadership: &mut watch::Receiver<Leadership>,
        patience: &mut Patience,
        supervisor: &Supervisor,
    ) -> bool {
        let outbox = &*self.outbox;
        let tenure = leadership.borrow().tenure();
        outbox.resend();
        loop {
            let current = *leadership.borrow_and_update();
            if !current.leading || current.stopped || current.tenure() != tenure {
                return !current.stopped;
            }
            let patient = patience.look(outbox, Instant::now());
            self.propose(tenure.term);
            let Some(now) = self.stamp.now() else {
                return true;
            };
            let due = self.deadline.get();
            if due.is_some_and(|at| at <= now) && outbox.in_flight() == 0 {
                (self.tick)(outbox);
                continue;
            }
            let wait = due.map(|at| at.since(now).0.clamp(1, 60_000));
            tokio::select! {
                () = outbox.kick.notified() => {}
                () = sleep(wait) => {}
                () = self.deadline.earlier() => {}
                () = sleep_until(patient), if outbox.in_flight() > 0 => patience.lost(outbox, Instant::now()),
                changed = leadership.changed() => if changed.is_err() { return false },
                () = supervisor.stopping(), if self.idle() => return false,
            }
        }
    }

    /// Proposes what waits, in `term` and no other: what follows a batch that fell with its term would come without it.
    fn propose(&self, term: u64) {
        let outbox = &*self.outbox;
        if outbox.take_resend() {
            for payload in outbox.unapplied() {
                if self.group.propose_in(term, payload).is_err() {
                    outbox.resend();
                    return;
                }
            }
        }
        while outbox.in_flight() < ENTRIES_IN_FLIGHT_MAX
            && let Some(now) = self.stamp.now()
            && let Some(payload) = outbox.seal(now)
        {
            if self.group.propose_in(term, payload).is_err() {
                outbox.resend();
                return;
            }
        }
    }

    /// While `leader` leads; whether to go on after it.
    async fn forward(
        &self,
        leader: NodeId,
        state: Leadership,
        leadership: &mut watch::Receiver<Leadership>,
        patience: &mut Patience,
        supervisor: &Supervisor,
    ) -> bool {
        let changed = async {
            loop {
                if leadership.changed().await.is_err() {
                    return;
                }
                let now = *leadership.borrow_and_update();
                if now.stopped || (now.leader, now.term) != (state.leader, state.term) {
                    return;
                }
            }
        };
        tokio::select! {
            () = forward(&self.outbox, &self.links, leader, changed, patience) => true,
            () = self.stopping(supervisor) => false,
        }
    }

    /// Completes when the node stops and nothing is under way any more.
    async fn stopping(&self, supervisor: &Supervisor) {
        supervisor.stopping().await;
        while !self.idle() {
            self.outbox.quiet.notified().await;
        }
    }

    /// While nobody leads.
    async fn wait(
        &self,
        leadership: &mut watch::Receiver<Leadership>,
        supervisor: &Supervisor,
    ) -> bool {
        tokio::select! {
            changed = leadership.changed() => changed.is_ok(),
            () = self.stopping(supervisor) => false,
        }
    }
}

/// Sends what waits to `leader` until the pipe to it breaks or `changed` completes, then pauses for a moment.
pub async fn forward<R>(
    outbox: &Outbox<R>,
    links: &Links,
    leader: NodeId,
    changed: impl Future<Output = ()>,
    patience: &mut Patience,
) {
    // Holds no more than is in flight, which is bounded.
    let (batches, out) = mpsc::unbounded_channel();
    let out = UnboundedReceiverStream::new(out);
    let mut pipe = std::pin::pin!(links.pipe(leader, outbox.set(), out));
    let mut changed = std::pin::pin!(changed);
    outbox.resend();
    loop {
        let patient = patience.look(outbox, Instant::now());
        send(outbox, &batches);
        tokio::select! {
            ended = &mut pipe => {
                tracing::debug!(set = %outbox.set(), %leader, %ended, "the pipe to the leader ended");
                break;
            }
            () = outbox.kick.notified() => {}
            () = sleep_until(patient), if outbox.in_flight() > 0 => {
                patience.lost(outbox, Instant::now());
                break;
            }
            () = &mut changed => return,
        }
    }
    tokio::select! {
        () = tokio::time::sleep(RETRY) => {}
        () = changed => {}
    }
}

fn send<R>(outbox: &Outbox<R>, batches: &mpsc::UnboundedSender<Bytes>) {
    let mut sent = true;
    if outbox.take_resend() {
        for payload in outbox.unapplied() {
            sent &= batches.send(payload).is_ok();
        }
    }
    // The leader puts its own clock in.
    while sent
        && outbox.in_flight() < ENTRIES_IN_FLIGHT_MAX
        && let Some(payload) = outbox.seal(Millis(0))
    {
        sent = batches.send(payload).is_ok();
    }
}

/// The tick of a broker set.
pub fn set_tick(outbox: &Outbox<Reply>) {
    outbox.push(&Command::Tick);
}

async fn sleep(wait: Option<u64>) {
    match wait {
        Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::base::{PipeId, SetId};
    use crate::model::batch::BufferPool;

    #[test]
    fn what_is_not_applied_goes_again_in_doubling_times_until_something_is() {
        let pipe = PipeId {
            node: NodeId(1),
            incarnation: 1,
        };
        let outbox = Outbox::<()>::new(SetId(1), pipe, BufferPool::default());
        let begin = Instant::now();
        let mut patience = Patience::new(begin);
        let mut now = begin + PATIENCE * 9;
        let ends = patience.look(&outbox, now);
        assert_eq!(ends, now + PATIENCE, "nothing is in flight");
        for _ in 0..2 {
            outbox.push(&Command::Tick);
            outbox.seal(Millis(1)).unwrap();
        }
        let mut limit = PATIENCE;
        for _ in 0..6 {
            assert_eq!(patience.look(&outbox, now), now + limit);
            now += limit;
            assert!(!outbox.take_resend());
            patience.lost(&outbox, now);
            assert!(outbox.take_resend());
            limit = (limit * 2).min(PATIENCE_MAX);
        }
        assert_eq!(limit, PATIENCE_MAX);
        outbox.applied(1);
        assert_eq!(patience.look(&outbox, now), now + PATIENCE);
    }
}
