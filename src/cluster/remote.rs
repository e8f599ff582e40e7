//! A set of which this node holds no replica: another node's own set, or a broker set elsewhere.
//!
//! Shape: two tasks. One watches the set at its owner or at any member, and does with what it hears what a replica here
//! would do: confirms, answers, deliveries. The other brings the outbox to whoever leads.
//! Invariants: a watch that breaks goes on where it was, at the same or another member; only where that is not possible
//! (a node's own set ended with the node, or too much was missed) is everything under way given up, and told.
//! Not here: sets with a replica here ([`super::replica`]).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::base::{NodeId, PipeId, Position, SetId};
use crate::model::set::{Command, Reply};
use crate::rt::Supervisor;

use super::mailbox::Event;
use super::outbox::Outbox;
use super::peer::{Events, Head, Links, Messages, WatchRequest};
use super::proposer::{self, Patience};
use super::registry::Registry;
use super::ring::PipeEvent;
use super::set_handle::SetHandle;

const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_millis(500);
/// Commands for another node's own set are given up after this long without the node.
const OWNER_AWAY_MAX: Duration = Duration::from_secs(10);

/// See the module's head.
pub struct Remote {
    outbox: Arc<Outbox<Reply>>,
    registry: Arc<Registry>,
    links: Links,
    /// Messages of basic.get on their way to who asked.
    got: Mutex<HashMap<Position, Bytes>>,
    leader: watch::Sender<Option<NodeId>>,
    /// The entry of which all has been heard.
    heard: AtomicU64,
    /// A replica that is coming to be here, and whether it has taken over.
    coming: OnceLock<SetHandle>,
    here: AtomicBool,
    stop_feed: CancellationToken,
    stop_watch: CancellationToken,
    watch_ended: CancellationToken,
}

/// Where a watch stands.
struct Progress {
    after: Option<u64>,
    owner: u64,
    heard: Instant,
}

impl Remote {
    /// A set at the end of `outbox`; [`Self::run`] and [`Self::feed`] do the work.
    #[must_use]
    pub fn new(outbox: Arc<Outbox<Reply>>, registry: Arc<Registry>, links: Links) -> Self {
        Self {
            outbox,
            registry,
            links,
            got: Mutex::default(),
            leader: watch::Sender::new(None),
            heard: AtomicU64::new(0),
            coming: OnceLock::new(),
            here: AtomicBool::new(false),
            stop_feed: CancellationToken::new(),
            stop_watch: CancellationToken::new(),
            watch_ended: CancellationToken::new(),
        }
    }

    /// The message of a get, once.
    #[must_use]
    pub fn take_got(&self, position: Position) -> Option<Bytes> {
        self.got.lock().remove(&position)
    }

    /// The replica here that has taken over, if one has.
    #[must_use]
    pub fn here(&self) -> Option<&SetHandle> {
        self.coming
            .get()
            .filter(|_| self.here.load(Ordering::Acquire))
    }

    /// The replica that is coming to be here, or is here.
    #[must_use]
    pub fn coming(&self) -> Option<&SetHandle> {
        self.coming.get()
    }

    /// Whether there is one.
    #[must_use]
    pub fn has_replica(&self) -> bool {
        self.coming.get().is_some()
    }

    /// A replica comes to be here: it brings the outbox to the leader from now on, and catches up.
    pub fn replica_comes(&self, handle: SetHandle) {
        self.stop_feed.cancel();
        // The first stays; there is one caller.
        drop(self.coming.set(handle));
    }

    /// Lets the replica take over if it knows all that was heard from elsewhere; whether it has.
    pub async fn take_over(&self) -> bool {
        let Some(handle) = self.coming.get() else {
            return false;
        };
        let SetHandle::Replica { replica, .. } = handle else {
            return false;
        };
        if self.here.load(Ordering::Acquire) {
            return true;
        }
        // Of what was never heard of elsewhere, the replica knows all.
        let heard = self.heard.load(Ordering::Acquire);
        if heard > 0 && !replica.lock().knows_own(heard) {
            return false;
        }
        self.stop_watch.cancel();
        self.watch_ended.cancelled().await;
        // What is delivered from here on is read from this node's log.
        self.here.store(true, Ordering::Release);
        let heard = self.heard.load(Ordering::Acquire);
        let mut replica = replica.lock();
        match replica.speak(heard) {
            Some(missed) => {
                for event in missed {
                    self.take(event, None);
                }
            }
            None => {
                let applied = replica.machine().last_seq(self.pipe());
                self.give_up(applied);
            }
        }
        true
    }

    fn set(&self) -> SetId {
        self.outbox.set()
    }

    fn pipe(&self) -> PipeId {
        self.outbox.pipe()
    }

    /// Watches until the node stops. `members` says who may be asked.
    pub async fn run(
        self: Arc<Self>,
        members: impl Fn() -> Vec<NodeId> + Send,
        supervisor: Supervisor,
    ) {
        let mut progress = Progress {
            after: None,
            owner: 0,
            heard: Instant::now(),
        };
        let (mut turn, mut pause) = (0, RETRY_MIN);
        loop {
            let ask = members();
            if let Some(node) = ask.get(turn % ask.len().max(1)) {
                let watched = self.watch(*node, &mut progress);
                tokio::select! {
                    heard = watched => if heard { pause = RETRY_MIN },
                    () = self.stop_watch.cancelled() => return self.watch_ended.cancel(),
                    () = supervisor.stopping() => return,
                }
            }
            turn += 1;
            self.leader.send_replace(None);
            let away = progress.heard.elapsed() >= OWNER_AWAY_MAX;
            if self.set().is_local() && away && self.outbox.is_busy() {
                self.give_up(u64::MAX);
                progress.after = None;
                progress.heard = Instant::now();
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
                () = self.stop_watch.cancelled() => return self.watch_ended.cancel(),
                () = supervisor.stopping() => return,
            }
        }
    }

    /// Watches at one node until that ends; whether anything was heard.
    async fn watch(&self, node: NodeId, progress: &mut Progress) -> bool {
        let request = WatchRequest {
            pipe: self.pipe(),
            after: progress.after,
            owner: progress.owner,
        };
        let opened = self.links.watch(node, self.set(), request.encode()).await;
        let mut messages = match opened {
            Ok(messages) => messages,
            Err(error) => {
                tracing::debug!(set = %self.set(), %node, %error, "cannot watch");
                return false;
            }
        };
        let Some(head) = next(&mut messages)
            .await
            .and_then(|bytes| Head::decode(&bytes).ok())
        else {
            return false;
        };
        // The replica here may have brought commands to the leader before this watch began, and is told of them.
        if progress.after.is_none() && self.has_replica() {
            return false;
        }
        self.begin(head, progress);
        while let Some(message) = next(&mut messages).await {
            let Ok(events) = Events::decode(&message) else {
                tracing::warn!(set = %self.set(), %node, "what a peer says cannot be read");
                break;
            };
            self.lead(events.leader);
            for (event, body) in events.events {
                self.take(event, Some(body));
            }
            self.heard.store(events.index, Ordering::Release);
            progress.after = Some(events.index);
            progress.heard = Instant::now();
        }
        progress.heard = Instant::now();
        true
    }

    fn begin(&self, head: Head, progress: &mut Progress) {
        if !head.resumed && progress.after.is_some() {
            let new_owner = progress.owner != 0 && head.owner != progress.owner;
            tracing::info!(set = %self.set(), new_owner, "a watch begins anew");
            self.give_up(if new_owner { u64::MAX } else { head.applied });
        }
        self.heard.store(head.index, Ordering::Release);
        progress.after = Some(head.index);
        progress.owner = head.owner;
        progress.heard = Instant::now();
        self.lead(head.leader);
    }

    fn lead(&self, leader: Option<NodeId>) {
        self.leader.send_if_modified(|now| {
            let changed = *now != leader;
            *now = leader;
            changed
        });
    }

    /// Nothing will be heard of commands up to `seq`, nor of what consumers held.
    fn give_up(&self, seq: u64) {
        self.outbox.give_up(seq);
        if seq == u64::MAX {
            self.outbox.push(&Command::OpenPipe);
        }
        for mailbox in self.registry.mailboxes() {
            mailbox.post(Event::Lost(self.set()));
        }
        self.got.lock().clear();
    }

    /// Does with an event what a replica here would do; `body` only if it is not in this node's log.
    fn take(&self, event: PipeEvent, body: Option<Bytes>) {
        match event {
            PipeEvent::Applied(seq) => self.outbox.applied(seq),
            // All that is in flight goes again: what is applied already is a repeat.
            PipeEvent::Gap(_) => self.outbox.resend(),
            PipeEvent::Refused(seq) => self.outbox.refused(seq),
            PipeEvent::Reply(seq, reply) => {
                if let (Reply::Got { delivery, .. }, Some(body)) = (&reply, body) {
                    self.got.lock().insert(delivery.first, body);
                }
                self.outbox.reply(seq, reply);
            }
            PipeEvent::Deliver(delivery) => {
                if let Some(mailbox) = self.registry.mailbox(delivery.consumer) {
                    mailbox.post(Event::Deliver(self.set(), delivery, body));
                }
            }
            PipeEvent::Cancelled(consumer) => {
                if let Some(mailbox) = self.registry.mailbox(consumer) {
                    mailbox.post(Event::Cancelled(consumer));
                }
            }
            PipeEvent::TimedOut(late) => {
                if let Some(mailbox) = self.registry.mailbox(late.consumer) {
                    mailbox.post(Event::TimedOut(late));
                }
            }
        }
    }

    /// Brings the outbox to whoever leads, until the node stops.
    pub async fn feed(self: Arc<Self>, supervisor: Supervisor) {
        let mut leader = self.leader.subscribe();
        let mut patience = Patience::new(Instant::now());
        loop {
            let now = *leader.borrow_and_update();
            let fed = async {
                match now {
                    Some(node) => {
                        let changed = async { drop(leader.changed().await) };
                        let outbox = &self.outbox;
                        proposer::forward(outbox, &self.links, node, changed, &mut patience).await;
                    }
                    None => drop(leader.changed().await),
                }
            };
            tokio::select! {
                () = fed => {}
                () = self.stop_feed.cancelled() => return,
                () = supervisor.stopping() => return,
            }
        }
    }
}

async fn next(messages: &mut Messages) -> Option<Bytes> {
    let message = messages.next().await.ok().flatten();
    message.map(crate::model::batch::PooledBuffer::freeze)
}
