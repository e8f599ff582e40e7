//! The open connections of this node: what others may know of each and ask of it, and how many there may be.
//!
//! Need: limits by vhost and user, the management API, and connections that end with their user or vhost. Shape: one
//! table under one lock, touched when a connection opens and ends; what changes with every frame is in atomics of its
//! own, the rest is asked of the connection's task. Limits hold per node: a cluster takes as many on each.
//! Not here: who may close whose connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::amqp::{FieldTable, ProtocolError, ReplyCode};
use crate::base::{ChannelId, Clock, ConsumerId, Millis, QueueId, SessionId, SystemClock};
use crate::model::topology::{OPERATOR, Topology, user_shown};
use crate::session::ChannelState;

use super::connection::Connection;
use super::consume::Kind;
use super::meters::ChannelMeter;
use super::node::Node;
use super::wire::TlsView;

/// What others ask of a connection's task.
#[derive(Debug)]
pub enum Order {
    /// 320 with this text.
    Close(String),
    /// Its channels and consumers as they are; kept short, as it is answered between two frames.
    Describe(oneshot::Sender<Described>),
}

/// A connection's channels.
#[derive(Debug, Default)]
pub struct Described {
    /// By number.
    pub channels: Vec<ChannelView>,
}

/// A channel as listings show it.
#[derive(Debug)]
pub struct ChannelView {
    /// What the session knows.
    pub state: ChannelState,
    /// Its consumers.
    pub consumers: Vec<ConsumerView>,
}

/// A consumer as listings show it.
#[derive(Debug)]
pub struct ConsumerView {
    /// Its id.
    pub id: ConsumerId,
    /// Consumer tag.
    pub tag: String,
    /// Its queue.
    pub queue: QueueId,
    /// No acknowledgements are expected.
    pub no_ack: bool,
    /// It alone consumes.
    pub exclusive: bool,
    /// Its prefetch; 0 = unlimited.
    pub prefetch: u32,
    /// Arguments.
    pub arguments: FieldTable,
    /// Its lease in ms, if not the queue's.
    pub visibility: Option<Millis>,
}

/// An open connection.
#[derive(Debug)]
pub struct Client {
    /// Its session.
    pub session: SessionId,
    /// The client's address.
    pub peer: SocketAddr,
    /// Ours.
    pub local: SocketAddr,
    /// Its TLS, if any.
    pub tls: Option<Arc<TlsView>>,
    /// The SASL mechanism it logged in by.
    pub mechanism: String,
    /// Who logged in; `none` for the broker itself.
    pub user: Arc<str>,
    /// It is one of the broker's own.
    pub inner: bool,
    /// Where.
    pub vhost: Arc<str>,
    /// What the client says of itself.
    pub properties: FieldTable,
    /// Since the epoch.
    pub connected_at: Millis,
    /// Negotiated; 0 = none.
    pub channel_max: u16,
    /// Negotiated, bytes; 0 = no limit.
    pub frame_max: u32,
    /// Negotiated, seconds; 0 = none.
    pub heartbeat_s: u64,
    /// Open channels.
    pub channels: AtomicU32,
    /// Bytes received.
    pub bytes_in: AtomicU64,
    /// Bytes sent.
    pub bytes_out: AtomicU64,
    /// Reads from the socket.
    pub reads: AtomicU64,
    /// Writes to it.
    pub writes: AtomicU64,
    /// An alarm stops it.
    pub blocked: AtomicBool,
    /// What its channels counted, in the order they were opened.
    meters: Mutex<Vec<Arc<ChannelMeter>>>,
    /// Which user and vhost of these names.
    born: (u64, u64),
    order: mpsc::UnboundedSender<Order>,
}

impl Client {
    /// `127.0.0.1:51740 -> 127.0.0.1:5672`, as RabbitMQ names it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} -> {}", self.peer, self.local)
    }

    /// Ends it with 320 CONNECTION_FORCED and this text.
    pub fn close(&self, text: &str) {
        // One that is gone is closed.
        drop(self.order.send(Order::Close(text.to_owned())));
    }

    /// Its channels; `None` if it does not say within `limit`.
    pub async fn describe(&self, limit: Duration) -> Option<Described> {
        let (tell, told) = oneshot::channel();
        self.order.send(Order::Describe(tell)).ok()?;
        tokio::time::timeout(limit, told).await.ok()?.ok()
    }

    /// What its open channels counted.
    #[must_use]
    pub fn meters(&self) -> Vec<Arc<ChannelMeter>> {
        self.meters.lock().clone()
    }

    fn is_orphan(&self, topology: &Topology) -> Option<String> {
        let vhost = topology.vhost_settings(&self.vhost);
        if vhost.is_none_or(|vhost| vhost.born != self.born.1) {
            return Some(format!("vhost '{}' is deleted", self.vhost));
        }
        let user = topology.user(&self.user);
        if !self.inner && user.is_none_or(|user| user.born != self.born.0) {
            return Some(format!("user '{}' is deleted", self.user));
        }
        None
    }
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<SessionId, Arc<Client>>,
    by_user: HashMap<Arc<str>, u32>,
    by_vhost: HashMap<Arc<str>, u32>,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Clients(Mutex<Table>);

fn count(counts: &HashMap<Arc<str>, u32>, name: &str) -> i64 {
    counts.get(name).map_or(0, |count| i64::from(*count))
}

fn down(counts: &mut HashMap<Arc<str>, u32>, name: &Arc<str>) {
    if let Some(count) = counts.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            counts.remove(name);
        }
    }
}

/// The limit, if so many reach it.
fn reached(limit: Option<i64>, count: i64) -> Option<i64> {
    limit.filter(|limit| *limit >= 0 && count >= *limit)
}

impl Clients {
    /// Adds one unless that is one too many.
    fn add(&self, client: &Arc<Client>, topology: &Topology) -> Result<(), String> {
        let (user, vhost) = (&client.user, &client.vhost);
        let of_vhost = topology.vhost_settings(vhost);
        let of_user = topology.user(user).filter(|_| !client.inner);
        let mut table = self.0.lock();
        let limit = of_vhost.and_then(|vhost| vhost.max_connections);
        if let Some(limit) = reached(limit, count(&table.by_vhost, vhost)) {
            return Err(format!(
                "access to vhost '{vhost}' refused for user '{user}': vhost connection limit ({limit}) is reached"
            ));
        }
        let limit = of_user.and_then(|user| user.max_connections);
        if let Some(limit) = reached(limit, count(&table.by_user, user)) {
            return Err(format!(
                "connection refused for user '{user}': user connection limit ({limit}) is reached"
            ));
        }
        let who = if client.inner { OPERATOR } else { user };
        if !topology.vhost_access(who, vhost) {
            return Err(format!(
                "access to vhost '{vhost}' refused for user '{user}'"
            ));
        }
        if !client.inner {
            *table.by_user.entry(Arc::clone(user)).or_default() += 1;
        }
        *table.by_vhost.entry(Arc::clone(vhost)).or_default() += 1;
        table.open.insert(client.session, Arc::clone(client));
        Ok(())
    }

    pub(super) fn remove(&self, client: &Client) {
        let mut table = self.0.lock();
        if table.open.remove(&client.session).is_some() {
            if !client.inner {
                down(&mut table.by_user, &client.user);
            }
            down(&mut table.by_vhost, &client.vhost);
        }
    }

    /// All of them, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Client>> {
        let mut all: Vec<_> = self.0.lock().open.values().cloned().collect();
        all.sort_unstable_by_key(|client| (client.connected_at, client.session));
        all
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, session: SessionId) -> Option<Arc<Client>> {
        self.0.lock().open.get(&session).cloned()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().open.len()
    }

    fn channels_of(&self, user: &str) -> i64 {
        let table = self.0.lock();
        let own = table.open.values().filter(|client| &*client.user == user);
        own.map(|client| i64::from(client.channels.load(Ordering::Relaxed)))
            .sum()
    }
}

/// Closes the connections of users and vhosts that are deleted, and sees what the cluster is called; runs until the node
/// stops.
pub async fn watch_access(node: Arc<Node>) {
    let topology = &node.cluster.topology;
    let mut changed = topology.changes();
    let mut seen = topology.access_version();
    node.tell_cluster_name();
    loop {
        tokio::select! {
            more = changed.changed() => if more.is_err() { return },
            () = node.supervisor.stopping() => return,
        }
        node.tell_cluster_name();
        let version = topology.access_version();
        if std::mem::replace(&mut seen, version) == version {
            continue;
        }
        for client in node.clients.all() {
            if let Some(text) = topology.read(|topology| client.is_orphan(topology)) {
                tracing::info!(connection = client.name(), text, "closing AMQP connection");
                client.close(&text);
            }
        }
    }
}

impl Connection {
    /// Makes it one of the node's open connections.
    ///
    /// # Errors
    /// Why it may not be one, in RabbitMQ's words (530).
    pub(super) fn register(&mut self, user: &str, vhost: &str) -> Result<(), String> {
        let topology = Arc::clone(&self.node.cluster.topology);
        let client = topology.read(|topology| {
            let Some(settings) = topology.vhost_settings(vhost) else {
                return Err(format!("vhost {vhost} not found"));
            };
            let born = topology.user(user).map_or(0, |user| user.born);
            let inner = user == OPERATOR;
            let client = Arc::new(Client {
                session: self.id,
                peer: self.peer,
                local: self.local,
                tls: self.tls.clone(),
                mechanism: self.session.mechanism().to_owned(),
                user: Arc::from(user_shown(user)),
                inner,
                vhost: Arc::from(vhost),
                properties: self.session.client_properties().clone(),
                connected_at: SystemClock.now(),
                channel_max: self.session.channel_max(),
                frame_max: self.session.frame_max(),
                heartbeat_s: self.session.heartbeat().0 / 1000,
                channels: AtomicU32::new(0),
                bytes_in: AtomicU64::new(0),
                bytes_out: AtomicU64::new(0),
                reads: AtomicU64::new(0),
                writes: AtomicU64::new(0),
                blocked: AtomicBool::new(false),
                meters: Mutex::default(),
                born: (born, settings.born),
                order: self.order(),
            });
            // Under the topology's lock: whoever is deleted after this is found in the table.
            self.node.clients.add(&client, topology)?;
            Ok(client)
        })?;
        self.client = Some(client);
        self.tally.of_vhost(self.node.meters.vhost(vhost));
        Ok(())
    }

    /// One more channel.
    ///
    /// # Errors
    /// 530 if the user may have no more.
    pub(super) fn count_channel(&mut self, channel: ChannelId) -> Result<(), ProtocolError> {
        let Some(client) = &self.client else {
            return Ok(());
        };
        client.channels.fetch_add(1, Ordering::Relaxed);
        let meter = self.tally.open(channel);
        client.meters.lock().push(meter);
        let refused = |text: String| Err(ProtocolError::new(ReplyCode::NotAllowed, text));
        let topology = &self.node.cluster.topology;
        let limit = topology.read(|topology| topology.user(&self.user)?.max_channels);
        if let Some(limit) = limit.filter(|limit| *limit >= 0)
            && self.node.clients.channels_of(&self.user) > limit
        {
            return refused(format!(
                "number of channels opened for user '{}' has reached the maximum allowed user limit of ({limit})",
                self.user
            ));
        }
        let limit = self.node.options.objects.channels;
        if let Some(limit) = limit
            && self.node.stats.channels.get() > i64::from(limit)
        {
            let node = self.node.cluster.node_name();
            return refused(format!(
                "number of channels opened on node '{node}' has reached the maximum allowed limit of ({limit})"
            ));
        }
        Ok(())
    }

    pub(super) fn forget_channel(&mut self, channel: ChannelId) {
        self.tally.close(channel, &self.node.stats);
        if let Some(client) = &self.client {
            client.channels.fetch_sub(1, Ordering::Relaxed);
            let mut meters = client.meters.lock();
            meters.retain(|meter| meter.number != channel.0);
        }
    }

    /// Adds up what was done since the last time.
    pub(super) fn report(&mut self) {
        if let Some(client) = &self.client {
            let tally = &self.tally;
            client.bytes_in.fetch_add(tally.bytes_in, Ordering::Relaxed);
            client
                .bytes_out
                .fetch_add(tally.bytes_out, Ordering::Relaxed);
            client.reads.fetch_add(tally.reads, Ordering::Relaxed);
            client.writes.fetch_add(tally.writes, Ordering::Relaxed);
            let blocked = self.session.is_blocked();
            client.blocked.store(blocked, Ordering::Relaxed);
        }
        let session = &mut self.session;
        self.tally
            .flush(&self.node.stats, |channel| session.load(channel));
    }

    pub(super) fn obey(&mut self, order: Order) {
        match order {
            Order::Close(text) => self.session.shutdown(&text),
            // Whoever asked may have given up.
            Order::Describe(tell) => drop(tell.send(self.described())),
        }
    }

    fn described(&self) -> Described {
        let states = self.session.channel_states();
        let view = |state: ChannelState| ChannelView {
            consumers: self.consumers_of(&state),
            state,
        };
        Described {
            channels: states.into_iter().map(view).collect(),
        }
    }

    fn consumers_of(&self, channel: &ChannelState) -> Vec<ConsumerView> {
        let number = ChannelId(channel.number);
        let mut views = Vec::new();
        for (id, tag) in &channel.consumers {
            let Some(entry) = self.consumers.get(id) else {
                continue;
            };
            if entry.kind != Kind::Open || entry.channel != number {
                continue;
            }
            views.push(ConsumerView {
                id: *id,
                tag: tag.clone(),
                queue: entry.queue,
                no_ack: entry.no_ack,
                exclusive: entry.config.is_some_and(|config| config.exclusive),
                prefetch: entry.prefetch,
                arguments: entry.arguments.clone(),
                visibility: entry.config.and_then(|config| config.visibility),
            });
        }
        views
    }
}
