//! Until when this node may believe that its consumers hold what they were given.
//!
//! Need: a node that was silent for `consumer_disconnected_timeout` has lost its leases, and others have its messages.
//! When it goes on, after a pause or a cut, it still has deliveries of those leases in hand, made before it heard of their
//! end. Sent now they would come after another consumer's ack.
//! Shape: the node asks the topology's leader, which runs the controller, several times within that time to note that it
//! is there. Each answer makes the node sure for half that time from the moment it asked. A node that is no longer sure
//! sends no deliveries; when it is sure again it first tells each set that it is back: what the answer comes after has been
//! applied here, the end of its leases too, and then the consumers that ended are gone; and an end of its leases that was
//! decided before and comes to the set after it does nothing.
//! Invariants: the controller ends leases only of a node it has not heard for the whole time, so never of one that is sure:
//! the half that is left covers an old leader that answered when a new one was elected already, which it no longer does
//! after an election timeout.
//! Limits: what is in the output of a connection, or in the kernel, is sent. Transient queues' sets are not asked for: their
//! owner ends with the node.
//! Not here: who ends leases ([`super::controller`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::outbox::Outbox;
use super::peer::control::{Ask, Told};
use super::start::Cluster;
use crate::base::{NodeId, SetId};
use crate::model::set::{Command, Reply};
use crate::rt::Supervisor;

/// Times the controller is asked while one answer holds.
const ASKS: u32 = 4;
const ASK_EVERY_MAX: Duration = Duration::from_secs(5);
const ASK_EVERY_MIN: Duration = Duration::from_millis(50);

/// See the module's head.
#[derive(Debug)]
pub struct Presence {
    begin: Instant,
    holds: Duration,
    /// Milliseconds since `begin` until which this node is sure.
    sure_until: AtomicU64,
    /// How often it was not.
    lapses: AtomicU64,
    /// At the controller: when each node last asked.
    noted: Mutex<BTreeMap<NodeId, Instant>>,
}

impl Presence {
    /// A node that begins now; `patience`: silence after which its leases end.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        let holds = patience / 2;
        Self {
            begin: Instant::now(),
            holds,
            sure_until: AtomicU64::new(millis(holds)),
            lapses: AtomicU64::new(0),
            noted: Mutex::default(),
        }
    }

    /// Whether what a set gave to this node's consumers is still theirs.
    #[must_use]
    pub fn is_sure<R>(&self, of: &Outbox<R>) -> bool {
        self.is_sure_at(Instant::now(), of)
    }

    fn is_sure_at<R>(&self, now: Instant, of: &Outbox<R>) -> bool {
        of.set().is_local()
            || (self.since_begin(now) < self.sure_until.load(Ordering::Acquire)
                && of.known_lapses() == self.lapses.load(Ordering::Acquire))
    }

    fn since_begin(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.begin))
    }

    /// How often this node was not sure: a pipe that begins now has nothing from before.
    #[must_use]
    pub fn lapses(&self) -> u64 {
        self.lapses.load(Ordering::Acquire)
    }

    /// The controller notes that `node` is there.
    pub fn note(&self, node: NodeId) {
        self.noted.lock().insert(node, Instant::now());
    }

    /// When the controller, if it is here, last heard of `node` this way.
    #[must_use]
    pub fn noted(&self, node: NodeId) -> Option<Instant> {
        self.noted.lock().get(&node).copied()
    }

    /// A controller was known to be there at `at`, and had noted this node. Whether the node was not sure until now.
    fn heard(&self, at: Instant, now: Instant) -> bool {
        let waited = self.sure_until.load(Ordering::Acquire) <= self.since_begin(now);
        let until = self.since_begin(at + self.holds);
        let sure_at = self.since_begin(at);
        if self.sure_until.load(Ordering::Acquire) < sure_at {
            // Before the node is sure again, so that no set counts as asked meanwhile.
            let lapses = self.lapses.fetch_add(1, Ordering::AcqRel) + 1;
            tracing::warn!(
                lapses,
                "this node was silent: deliveries wait until its sets have been asked"
            );
        }
        self.sure_until.fetch_max(until, Ordering::AcqRel);
        waited
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Keeps this node sure until it stops.
pub async fn run(cluster: Arc<Cluster>, supervisor: Supervisor) {
    let every = cluster.presence.holds / ASKS;
    let every = every.clamp(ASK_EVERY_MIN, ASK_EVERY_MAX);
    loop {
        if let Some(at) = cluster.ask_controller(every * 2).await
            && cluster.presence.heard(at, Instant::now())
        {
            // An answer that came late may have left no lapse, and deliveries that wait all the same.
            for mailbox in cluster.registry.mailboxes() {
                mailbox.wake();
            }
        }
        for (_, outbox) in cluster.table.outboxes() {
            cluster.ask_set(outbox);
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = supervisor.stopping() => return,
        }
    }
}

impl Cluster {
    /// Whether what a set gave to this node's consumers is still theirs.
    #[must_use]
    pub fn is_sure(&self, set: SetId) -> bool {
        let handle = self.table.get(set);
        handle.is_none_or(|handle| self.presence.is_sure(handle.outbox()))
    }

    /// When the controller was last known to count this node as there.
    async fn ask_controller(&self, limit: Duration) -> Option<Instant> {
        let now = Instant::now();
        if self.topology_group.is_leader() {
            // Nobody else can be elected before a majority has not heard this leader for a while.
            let silence = self.topology_group.heard().majority?;
            return now.checked_sub(silence);
        }
        let leader = self.topology_group.leader()?;
        let address = self.options.links.address(leader)?;
        let node = self.pipe.node;
        let asked = self
            .options
            .links
            .control(&address, Ask::Here { node }.encode());
        let answer = tokio::time::timeout(limit, asked).await.ok()?.ok()?;
        matches!(Told::decode(&answer), Ok(Told::Noted)).then_some(now)
    }

    /// Answers [`Ask::Here`].
    pub(super) fn note_presence(&self, node: NodeId) -> Told {
        if !self.topology_group.is_leader() {
            return Told::Refused("the controller is elsewhere".to_owned());
        }
        self.presence.note(node);
        Told::Noted
    }

    /// Asks a set whether it ended this node's leases, if the node was not sure since it last did.
    fn ask_set(&self, outbox: &Arc<Outbox<Reply>>) {
        let lapses = self.presence.lapses();
        if outbox.set().is_local() || outbox.known_lapses() == lapses || !outbox.ask_begins(lapses)
        {
            return;
        }
        let answer = outbox.ask(&Command::Return);
        let (outbox, registry) = (Arc::clone(outbox), Arc::clone(&self.registry));
        self.supervisor.spawn("presence", async move {
            match answer.await {
                Ok(_) => {
                    outbox.knows_lapses(lapses);
                    tracing::info!(set = %outbox.set(), lapses, "deliveries go on");
                    for mailbox in registry.mailboxes() {
                        mailbox.wake();
                    }
                }
                Err(_) => outbox.ask_failed(),
            }
        });
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::base::PipeId;
    use crate::model::batch::BufferPool;

    fn outbox(set: SetId) -> Outbox<()> {
        let pipe = PipeId {
            node: NodeId(1),
            incarnation: 1,
        };
        Outbox::new(set, pipe, BufferPool::default())
    }

    #[test]
    fn a_node_that_was_silent_is_sure_again_only_of_sets_it_asked_since() {
        let presence = Presence::new(Duration::from_secs(2));
        let after = |millis| presence.begin + Duration::from_millis(millis);
        let (one, other) = (outbox(SetId(1)), outbox(SetId(2)));
        let local = outbox(SetId::local(NodeId(1)));
        let sure = |at, of: &Outbox<()>| presence.is_sure_at(after(at), of);
        assert!(sure(900, &one) && sure(900, &other));
        assert!(!presence.heard(after(900), after(901)));
        assert!(sure(1_800, &one), "an answer holds for half the time");
        assert!(!sure(1_900, &one) && !sure(1_900, &other));
        assert!(sure(1_900, &local), "its owner ends with the node");
        assert!(presence.heard(after(2_000), after(2_001)));
        assert!(!sure(2_001, &one), "it has not been asked");
        one.knows_lapses(presence.lapses());
        assert!(sure(2_001, &one) && !sure(2_001, &other));
        // An answer to a question from long ago says nothing of now, and what waits is still to wait.
        assert!(presence.heard(after(2_500), after(5_000)));
        assert!(!sure(5_000, &one));
        assert!(presence.heard(after(5_001), after(5_002)));
        assert!(!sure(5_002, &one), "the set was asked in another silence");
    }

    #[test]
    fn an_answer_that_came_late_leaves_no_lapse() {
        let presence = Presence::new(Duration::from_secs(2));
        let after = |millis| presence.begin + Duration::from_millis(millis);
        let one = outbox(SetId(1));
        assert!(!presence.is_sure_at(after(1_050), &one));
        // Asked while the node was sure: the controller has counted it as there all the time.
        assert!(presence.heard(after(950), after(1_100)));
        assert!(presence.is_sure_at(after(1_100), &one));
    }

    #[test]
    fn a_question_that_got_no_answer_is_asked_again() {
        let one = outbox(SetId(1));
        assert!(one.ask_begins(1));
        assert!(!one.ask_begins(1), "it is under way");
        one.ask_failed();
        assert!(one.ask_begins(1));
        one.knows_lapses(1);
        assert_eq!(one.known_lapses(), 1);
    }
}
