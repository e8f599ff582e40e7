//! The loop around one session: bytes and answers in, bytes and requests out. Everything that can happen to a
//! connection is in the one `select!` of [`Connection::wait`].
//!
//! Bounds: the read buffer, the output (deliveries stop at [`OUTPUT_HIGH`], reading too), one mailbox bounded by
//! credit, one request in flight per channel. When an outbox this connection feeds is full its socket is not read.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hashbrown::{HashMap, HashSet};
use tokio::io::Interest;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::base::{ChannelId, Clock, ConsumerId, Millis, QueueId, SessionId, SetId, SystemClock};
use crate::cluster::{Event, Mailbox, ReadError};
use crate::model::set::Delivery;
use crate::model::topology::user_shown;
use crate::session::{self, Answer, ChannelAnswer};

use super::clients::{Client, Order};
use super::confirms::Confirms;
use super::consume::Consumer;
use super::firehose::Traced;
use super::node::Node;
use super::replies::DirectReply;
use super::routes::{Route, Routes};
use super::tally::Tally;
use super::wire::{TlsView, Wire};

/// Past this much unsent output nothing is delivered and nothing is read.
pub(super) const OUTPUT_HIGH: usize = 1024 * 1024;
/// One read asks for at least and at most this much; it grows while reads fill it.
const READ_BYTES_MIN: usize = 8 * 1024;
const READ_BYTES_MAX: usize = 256 * 1024;
/// Buffers above this are given back by a connection that has nothing to do.
const IDLE_BUFFER_MAX: usize = 16 * 1024;

/// What a connection's own tasks, and repliers, post to it.
#[derive(Debug)]
pub(super) enum Posted {
    /// The end of a request.
    Answer(ChannelId, ChannelAnswer),
    /// The end of a basic.get on this queue.
    Got(ChannelId, QueueId, ChannelAnswer),
    /// consume-ok, or why not.
    Consuming {
        channel: ChannelId,
        consumer: ConsumerId,
        answer: ChannelAnswer,
    },
    /// The consumer is detached.
    Unsubscribed {
        channel: ChannelId,
        consumer: ConsumerId,
    },
    /// A queue was declared, exclusively for this connection if `exclusive`.
    Declared {
        channel: ChannelId,
        answer: ChannelAnswer,
        exclusive: Option<QueueId>,
    },
    /// The transaction is through.
    Committed(ChannelId),
    /// The channel's leftovers are gone.
    ChannelClosed(ChannelId),
    /// The connection's leftovers are gone.
    AllClosed,
    /// The login is decided, or the vhost opened.
    Connection(Answer),
    /// A direct reply.
    Reply(Box<DirectReply>),
}

/// Deliveries and answers, in order.
#[derive(Debug)]
pub(super) enum Work {
    Deliver(SetId, Delivery, Option<Bytes>),
    Posted(Posted),
}

/// Between whom a connection is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// The client's address, as a balancer says it if one does.
    pub peer: SocketAddr,
    /// Ours.
    pub local: SocketAddr,
    /// It is the broker itself: its login is not checked.
    pub trusted: bool,
}

/// One client connection.
pub(super) struct Connection {
    pub node: Arc<Node>,
    pub session: session::Connection,
    pub id: SessionId,
    pub peer: SocketAddr,
    /// Its address here.
    pub local: SocketAddr,
    pub trusted: bool,
    /// Its TLS, if any.
    pub tls: Option<Arc<TlsView>>,
    /// Since it is open: what others may know of it and ask of it.
    pub client: Option<Arc<Client>>,
    order: mpsc::UnboundedSender<Order>,
    orders: mpsc::UnboundedReceiver<Order>,
    pub user: Arc<str>,
    pub vhost: Arc<str>,
    pub mailbox: Arc<Mailbox>,
    pub post: mpsc::UnboundedSender<Posted>,
    posted: mpsc::UnboundedReceiver<Posted>,
    pub work: VecDeque<Work>,
    events: Vec<Event>,
    pub consumers: HashMap<ConsumerId, Consumer>,
    pub holders: HashMap<(ChannelId, QueueId, SetId), ConsumerId>,
    pub confirms: Confirms,
    pub tx_refused: HashSet<ChannelId>,
    /// Where the publishes of transactions go, in their order.
    pub tx_routes: HashMap<ChannelId, Vec<Arc<Route>>>,
    pub routes: Routes,
    pub traced: Traced,
    /// Counts publishes to queues that are spread over sets.
    pub rotation: u64,
    /// What was known when consumers were last attached to the parts of their queues.
    parts_version: u64,
    pub exclusive: HashSet<QueueId>,
    pub reply_tokens: HashMap<ConsumerId, String>,
    pub reply_bytes: Arc<AtomicUsize>,
    /// Sets something was appended to since they were last kicked.
    pub touched: Vec<SetId>,
    pub tasks: JoinSet<()>,
    /// A delivery's entry on its way from the disk.
    pub loading: Option<Loading>,
    /// The entry that came, held until its run is delivered.
    pub loaded: Option<(SetId, u64, Bytes)>,
    pub tally: Tally,
    pub publishes: bool,
    /// Nothing of it is left anywhere.
    pub over: bool,
    input: BytesMut,
    /// The session did not want all of the input when it was last offered.
    input_refused: bool,
    read_bytes: usize,
}

/// An entry on its way from the disk.
#[derive(Debug)]
pub(super) struct Loading {
    pub set: SetId,
    pub index: u64,
    pub read: tokio::task::JoinHandle<Result<Bytes, ReadError>>,
}

/// Runs a connection to its end.
pub(super) async fn run(node: Arc<Node>, mut wire: Wire, ends: Ends) {
    let now = SystemClock.now();
    let (post, posted) = mpsc::unbounded_channel();
    let (order, orders) = mpsc::unbounded_channel();
    let access = node.access.load();
    let tls = wire.view(access.name_from);
    let config = Arc::clone(match tls {
        Some(_) => &access.session_tls,
        None => &access.session,
    });
    drop(access);
    let mut connection = Connection {
        id: node.cluster.registry.session(),
        session: session::Connection::new(config, now),
        peer: ends.peer,
        local: ends.local,
        trusted: ends.trusted,
        tls,
        client: None,
        order,
        orders,
        user: Arc::from(""),
        vhost: Arc::from(""),
        mailbox: Arc::default(),
        post,
        posted,
        work: VecDeque::new(),
        events: Vec::new(),
        consumers: HashMap::new(),
        holders: HashMap::new(),
        confirms: Confirms::default(),
        tx_refused: HashSet::new(),
        tx_routes: HashMap::new(),
        routes: Routes::default(),
        traced: Traced::default(),
        rotation: 0,
        parts_version: node.cluster.topology.parts_version(),
        exclusive: HashSet::new(),
        reply_tokens: HashMap::new(),
        reply_bytes: Arc::default(),
        touched: Vec::new(),
        tasks: JoinSet::new(),
        loading: None,
        loaded: None,
        tally: Tally::default(),
        publishes: false,
        over: false,
        input: BytesMut::new(),
        input_refused: false,
        read_bytes: READ_BYTES_MIN,
        node,
    };
    let ended = connection.drive(&mut wire).await;
    connection.note_end(&ended);
    wire.close();
    connection.clean_up().await;
}

/// Why the loop ended.
#[derive(Debug)]
pub(super) enum End {
    /// Both sides closed as the protocol says.
    Closed,
    /// The client closed the socket, or it broke.
    Lost(Option<io::Error>),
}

impl Connection {
    async fn drive(&mut self, wire: &mut Wire) -> End {
        let mut alarm = self.node.alarm.clone();
        self.session.set_blocked(alarm.borrow_and_update().reason());
        let mut timer = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        let mut armed = None;
        let supervisor = self.node.supervisor.clone();
        let mut told_to_stop = false;
        loop {
            self.step();
            match self.write(wire) {
                // There is room again: what waited for it goes on before anything else.
                Ok(true) if self.can_go_on() => continue,
                Ok(_) => {}
                Err(error) => return End::Lost(Some(error)),
            }
            let output_empty = self.session.output().is_empty() && !wire.owes();
            if self.session.is_closed() && output_empty {
                return End::Closed;
            }
            let due = self.session.poll_timeout();
            if due != armed {
                armed = due;
                let wait = due.map_or(3_600_000, |due| due.since(SystemClock.now()).0);
                timer
                    .as_mut()
                    .reset(tokio::time::Instant::now() + Duration::from_millis(wait));
            }
            let full = self.full_outbox();
            let may_read = full.is_none()
                && self.session.wants_input()
                && !self.session.is_closed()
                && self.output_low();
            self.rest_small();
            let interest = match (may_read, output_empty) {
                (true, true) => Some(Interest::READABLE),
                (true, false) => Some(Interest::READABLE | Interest::WRITABLE),
                (false, false) => Some(Interest::WRITABLE),
                (false, true) => None,
            };
            tokio::select! {
                ready = wire.ready(interest) => match ready {
                    Ok(ready) if ready.is_readable() && may_read => match self.read(wire) {
                        Ok(true) => {}
                        Ok(false) => return End::Lost(None),
                        Err(error) => return End::Lost(Some(error)),
                    },
                    Ok(_) => {}
                    Err(error) => return End::Lost(Some(error)),
                },
                () = self.mailbox.ready() => {}
                Some(posted) = self.posted.recv() => {
                    self.take_events();
                    self.work.push_back(Work::Posted(posted));
                }
                Some(order) = self.orders.recv() => self.obey(order),
                (set, index, read) = loaded(&mut self.loading) => self.loading_done(set, index, read),
                () = room(full.as_deref()) => {}
                () = &mut timer => {
                    armed = None;
                    let now = SystemClock.now();
                    // While nothing is read, what lies unread still shows that the client lives.
                    if !may_read && wire.unread() {
                        self.session.note_received(now);
                    }
                    self.session.handle_timeout(now);
                    self.give_buffers_back();
                    timer.as_mut().reset(tokio::time::Instant::now() + Duration::from_secs(3_600));
                }
                changed = alarm.changed() => if changed.is_ok() {
                    let reason = alarm.borrow_and_update().reason();
                    self.session.set_blocked(reason);
                },
                () = supervisor.stopping(), if !told_to_stop => {
                    told_to_stop = true;
                    self.session.stop();
                }
            }
        }
    }

    /// Does all that can be done without waiting.
    fn step(&mut self) {
        self.take_events();
        let parts = self.node.cluster.topology.parts_version();
        if parts != self.parts_version {
            self.parts_version = parts;
            self.follow_queues();
        }
        self.do_work();
        if self.input_refused && self.wants_input() {
            self.take_input(SystemClock.now());
        }
        while let Some(request) = self.session.poll_request() {
            self.handle(request);
        }
        self.session.flush_confirms();
        self.kick();
        // A kick of the local set may have answered at once.
        self.take_events();
        self.do_work();
        self.session.flush_confirms();
        self.kick();
        self.report();
    }

    pub(super) fn kick(&mut self) {
        for set in self.touched.drain(..) {
            if let Some(handle) = self.node.cluster.set(set) {
                handle.kick();
            }
        }
    }

    pub(super) fn touch(&mut self, set: SetId) {
        if !self.touched.contains(&set) {
            self.touched.push(set);
        }
    }

    /// Sorts what replicas sent: verdicts are cheap and done at once, deliveries wait their turn.
    fn take_events(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        self.mailbox.take(&mut events);
        for event in events.drain(..) {
            match event {
                Event::Deliver(set, delivery, body) => {
                    self.work.push_back(Work::Deliver(set, delivery, body));
                }
                Event::GivenUp(set, seq) => self.confirms.given_up(set, seq),
                Event::Lost(set) => self.lost(set),
                Event::Skipped(set, skipped) => self.skipped(set, &skipped),
                Event::Refused(set, seq) => self.confirms.refused(set, seq),
                Event::Applied(set, seq) => self.applied(set, seq),
                Event::Cancelled(consumer) => self.cancelled(consumer),
                Event::TimedOut(late) => self.timed_out(late),
            }
        }
        self.events = events;
    }

    pub(super) fn output_low(&mut self) -> bool {
        self.session.output().len() < OUTPUT_HIGH
    }

    fn full_outbox(&self) -> Option<Arc<crate::cluster::Outbox<crate::model::set::Reply>>> {
        if !self.publishes {
            return None;
        }
        let full = self
            .node
            .cluster
            .sets()
            .find(|(_, handle)| !handle.outbox().has_room());
        full.map(|(_, handle)| Arc::clone(handle.outbox()))
    }

    fn read(&mut self, wire: &mut Wire) -> io::Result<bool> {
        match wire.read(&mut self.input, self.read_bytes) {
            Ok(0) => Ok(false),
            Ok(read) => {
                if read >= self.read_bytes {
                    self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
                } else if read < self.read_bytes / 4 {
                    self.read_bytes = (self.read_bytes / 2).max(READ_BYTES_MIN);
                }
                let now = SystemClock.now();
                self.tally.bytes_in += read as u64;
                self.tally.reads += 1;
                self.session.note_received(now);
                self.take_input(now);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Feeds the session until it has used or refused what is there.
    fn take_input(&mut self, now: Millis) {
        loop {
            let before = self.input.len();
            self.session.handle_input(&mut self.input, now);
            let mut asked = false;
            while let Some(request) = self.session.poll_request() {
                asked = true;
                self.handle(request);
            }
            self.input_refused = !self.session.wants_input();
            if self.input.is_empty() || self.input_refused || (!asked && self.input.len() == before)
            {
                return;
            }
        }
    }

    fn wants_input(&self) -> bool {
        self.session.wants_input() && self.full_outbox().is_none()
    }

    /// Whether what waited for room in the output can go on.
    fn can_go_on(&mut self) -> bool {
        self.output_low()
            && ((!self.work.is_empty() && self.loading.is_none())
                || (self.input_refused && self.wants_input()))
    }

    /// A connection with little traffic keeps no buffers at all between its frames: thousands of them cost little.
    fn rest_small(&mut self) {
        if self.read_bytes == READ_BYTES_MIN && self.input.is_empty() {
            self.input = BytesMut::new();
        }
        let output = self.session.output();
        if output.is_empty() && output.capacity() <= IDLE_BUFFER_MAX {
            *output = BytesMut::new();
        }
    }

    /// An idle connection keeps no large buffers.
    fn give_buffers_back(&mut self) {
        if self.input.is_empty() && self.input.capacity() > IDLE_BUFFER_MAX {
            self.input = BytesMut::new();
            self.read_bytes = READ_BYTES_MIN;
        }
        let output = self.session.output();
        if output.is_empty() && output.capacity() > IDLE_BUFFER_MAX {
            *output = BytesMut::new();
        }
    }

    /// Writes what the socket takes; whether it took anything.
    fn write(&mut self, wire: &mut Wire) -> io::Result<bool> {
        let mut wrote = false;
        wire.flush()?;
        while !self.session.output().is_empty() {
            match wire.write(self.session.output()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.tally.bytes_out += written as u64;
                    self.tally.writes += 1;
                    let output = self.session.output();
                    bytes::Buf::advance(output, written);
                    self.session.note_sent(SystemClock.now());
                    wrote = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(wrote)
    }

    pub(super) fn posted_now(&mut self) -> Result<Posted, mpsc::error::TryRecvError> {
        self.posted.try_recv()
    }

    fn note_end(&self, end: &End) {
        let name = self.session.name().unwrap_or_default();
        let (peer, local, user, vhost) = (self.peer, self.local, &*self.user, &*self.vhost);
        let user = user_shown(user);
        let ends = format!("{peer} -> {local}, vhost: '{vhost}', user: '{user}'");
        match end {
            End::Closed => tracing::info!(name, "closing AMQP connection ({ends})"),
            End::Lost(_) if user.is_empty() => {
                tracing::debug!(%peer, "client left before it logged in")
            }
            End::Lost(None) => {
                tracing::warn!(
                    name,
                    "closing AMQP connection ({ends}): client unexpectedly closed TCP connection"
                );
            }
            End::Lost(Some(error)) => {
                tracing::warn!(name, %error, "closing AMQP connection ({ends})");
            }
        }
    }

    /// Who gives it orders.
    pub(super) fn order(&self) -> mpsc::UnboundedSender<Order> {
        self.order.clone()
    }

    pub(super) fn replied(&self, size: usize) {
        self.reply_bytes.fetch_sub(size, Ordering::Relaxed);
    }
}

async fn loaded(loading: &mut Option<Loading>) -> (SetId, u64, Result<Bytes, ReadError>) {
    match loading {
        Some(task) => {
            let read = (&mut task.read).await.unwrap_or(Err(ReadError::Stopping));
            let (set, index) = (task.set, task.index);
            *loading = None;
            (set, index, read)
        }
        None => std::future::pending().await,
    }
}

async fn room(full: Option<&crate::cluster::Outbox<crate::model::set::Reply>>) {
    match full {
        Some(outbox) => outbox.room().await,
        None => std::future::pending().await,
    }
}
