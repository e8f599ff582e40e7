//! Brings what waits in a set's outbox to the set's leader: proposes it here, or sends it to the node that leads.
//!
//! Takes all that waits, never waits for more, and never for a timer: while the allowed entries are in flight the next
//! batch grows by itself. An idle leader proposes a tick when the machine's next deadline passes.
//! After a change of leader, or of the connection to it, everything not yet applied here goes again; the pipe's numbers
//! make that harmless. So it does when the leader's core refused a batch although it leads on in the same term, as one
//! whose lease ran out for a moment does: nothing else would ever bring that batch again if no other follows it.
//! Invariant: in each term the pipe's batches are proposed without a gap, from the first that is not applied on: a
//! sequence begun in one term, here or on a stream from a peer, never goes on in another.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
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

/// Pause before a leader that cannot be reached, or refused a batch, is tried again.
const RETRY: Duration = Duration::from_millis(50);

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
        loop {
            let state = *leadership.borrow_and_update();
            if state.stopped {
                return;
            }
            let leader = state.leader.filter(|leader| *leader != self.node);
            let go_on = if state.leading {
                self.stamp.lead(Some(last_stamp()));
                let go_on = self.lead(&mut leadership, &supervisor).await;
                self.stamp.lead(None);
                go_on
            } else if let Some(leader) = leader {
                self.forward(leader, state, &mut leadership, &supervisor)
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
        supervisor: &Supervisor,
    ) -> bool {
        let outbox = &*self.outbox;
        let term = leadership.borrow().term;
        let mut refusals = self.group.refusals();
        outbox.resend();
        loop {
            let current = *leadership.borrow_and_update();
            if !current.leading || current.stopped || current.term != term {
                return !current.stopped;
            }
            self.propose(term);
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
                refused = refusals.changed() => {
                    if refused.is_err() {
                        return false;
                    }
                    tracing::debug!(set = %outbox.set(), "a batch was refused, it goes again");
                    tokio::time::sleep(RETRY).await;
                    refusals.mark_unchanged();
                    outbox.resend();
                }
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
            () = forward(&self.outbox, &self.links, leader, changed) => true,
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
) {
    // Holds no more than is in flight, which is bounded.
    let (batches, out) = mpsc::unbounded_channel();
    let out = UnboundedReceiverStream::new(out);
    let mut pipe = std::pin::pin!(links.pipe(leader, outbox.set(), out));
    let mut changed = std::pin::pin!(changed);
    outbox.resend();
    loop {
        send(outbox, &batches);
        tokio::select! {
            ended = &mut pipe => {
                tracing::debug!(set = %outbox.set(), %leader, %ended, "the pipe to the leader ended");
                break;
            }
            () = outbox.kick.notified() => {}
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
    use crate::cluster::peer::{Own, PeerSecurity};
    use crate::cluster::topology_replica::{SharedTopology, TopologyReplica};
    use crate::log::OsDisk;
    use crate::model::batch::BufferPool;
    use crate::model::topology::TopologyReply;
    use crate::raft::GroupOptions;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_batch_refused_in_a_term_that_goes_on_goes_again_though_no_other_follows() {
        let dir = tempfile::tempdir().unwrap();
        let (set, node) = (SetId::TOPOLOGY, NodeId(1));
        let pipe = PipeId {
            node,
            incarnation: 1,
        };
        let outbox = Outbox::<TopologyReply>::new(set, pipe, BufferPool::default());
        let outbox = Arc::new(outbox);
        let machine =
            TopologyReplica::new(Arc::new(SharedTopology::default()), Arc::clone(&outbox));
        let options = GroupOptions::new(set, node, dir.path().to_owned(), Arc::new(OsDisk));
        let machine = Arc::new(parking_lot::Mutex::new(machine));
        let group = Group::start(options, machine).await.unwrap();
        group.ready().await.unwrap();
        // It leads on, and takes nothing: there is nobody to take over.
        group.hand_over(NodeId(2)).await.unwrap();
        let security = PeerSecurity::new("secret", None);
        let proposer = Proposer {
            outbox: Arc::clone(&outbox),
            group: group.clone(),
            stamp: Arc::default(),
            deadline: Arc::default(),
            tick: |_| (),
            links: Links::new(Arc::new(Own::default()), security, BufferPool::default()),
            node,
        };
        let (mut refusals, supervisor) = (group.refusals(), Supervisor::default());
        let run = proposer.run(|| Millis(0), supervisor.clone());
        let running = supervisor.spawn("proposer", run);
        drop(outbox.ask_opaque(b"a command"));
        let often = refusals.wait_for(|count| *count >= 3);
        let often = tokio::time::timeout(Duration::from_secs(60), often).await;
        assert!(often.expect("it goes again").is_ok());
        assert_eq!(outbox.in_flight(), 1);
        running.abort();
    }
}
