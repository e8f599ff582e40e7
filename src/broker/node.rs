//! What every connection of the node shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::watch;

use crate::amqp::{AMQPValue, LongString};
use crate::cluster::Cluster;
use crate::model::topology::QueueDefaults;
use crate::rt::Supervisor;
use crate::session::SessionConfig;

use super::alarm::Alarm;
use super::clients::Clients;
use super::failures::Failures;
use super::meters::Meters;
use super::relay::Relay;
use super::replies::Replies;
use super::stats::Stats;
use super::tls::NameFrom;

/// What there may be of channels, queues and exchanges; `None` = no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct ObjectLimits {
    /// Channels of the node.
    pub channels: Option<u32>,
    /// Queues of the cluster.
    pub queues: Option<u32>,
    /// Exchanges of the cluster.
    pub exchanges: Option<u32>,
    /// A quorum queue that is there may be declared as a classic one with the same limits.
    pub relaxed_redeclaration: bool,
}

/// What the configuration says once and for all.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Name of the node.
    pub name: String,
    /// The cluster's name as long as it is given no other.
    pub cluster_name: Option<String>,
    /// What there may be of channels, queues and exchanges.
    pub objects: ObjectLimits,
    /// What the configuration says about queues.
    pub queue_defaults: QueueDefaults,
}

/// What the configuration says about connections, and may say otherwise while the node runs. A connection keeps the
/// session's settings it began with.
#[derive(Clone, Debug)]
pub struct Access {
    /// Protocol limits and what the server says of itself.
    pub session: Arc<SessionConfig>,
    /// The same under TLS, where a certificate may stand for a user.
    pub session_tls: Arc<SessionConfig>,
    /// Users that may only log in over loopback.
    pub loopback_users: Vec<String>,
    /// Connections the node takes; `None` = no limit.
    pub connections_max: Option<u32>,
    /// Name and password of whoever logs in as ANONYMOUS.
    pub anonymous: Option<(String, String)>,
    /// What of a certificate names the user of EXTERNAL.
    pub name_from: NameFrom,
}

/// The server's property that names the cluster.
const CLUSTER_NAME: &str = "cluster_name";

impl Access {
    fn tells(&self, cluster_name: &str) -> bool {
        let told = self.session.server_properties.inner().get(CLUSTER_NAME);
        matches!(told, Some(AMQPValue::LongString(told)) if told.as_bytes() == cluster_name.as_bytes())
    }

    fn telling(&self, cluster_name: &str) -> Self {
        let named = |config: &SessionConfig| {
            let mut config = config.clone();
            let name = AMQPValue::LongString(LongString::from(cluster_name));
            config.server_properties.insert(CLUSTER_NAME.into(), name);
            Arc::new(config)
        };
        Self {
            session: named(&self.session),
            session_tls: named(&self.session_tls),
            ..self.clone()
        }
    }
}

/// See the module's head.
pub struct Node {
    /// Sets and topology.
    pub cluster: Arc<Cluster>,
    /// Configuration.
    pub options: NodeOptions,
    /// Configuration that may change.
    pub access: ArcSwap<Access>,
    /// Counters.
    pub stats: Arc<Stats>,
    /// What exchanges and vhosts saw.
    pub meters: Meters,
    /// Open connections.
    pub clients: Clients,
    /// Logins that failed.
    pub failures: Failures,
    /// Direct reply-to consumers of this node.
    pub replies: Replies,
    /// Replies from other nodes.
    pub(super) relay: Relay,
    /// Resource alarms.
    pub alarm: watch::Receiver<Alarm>,
    /// Tasks.
    pub supervisor: Supervisor,
    connections: AtomicU32,
    /// Whoever reads an exchange's history holds all of it for a moment.
    pub(super) histories: tokio::sync::Mutex<()>,
    /// No client is taken for now.
    suspended: watch::Sender<bool>,
}

impl Node {
    /// A node over its started sets.
    #[must_use]
    pub fn new(
        cluster: Arc<Cluster>,
        options: NodeOptions,
        access: Access,
        stats: Arc<Stats>,
        alarm: watch::Receiver<Alarm>,
        supervisor: Supervisor,
    ) -> Arc<Self> {
        Arc::new(Self {
            cluster,
            options,
            access: ArcSwap::from_pointee(access),
            stats,
            meters: Meters::default(),
            clients: Clients::default(),
            failures: Failures::default(),
            replies: Replies::default(),
            relay: Relay::default(),
            alarm,
            supervisor,
            connections: AtomicU32::new(0),
            histories: tokio::sync::Mutex::new(()),
            suspended: watch::Sender::new(false),
        })
    }

    /// Takes no clients from now on, or takes them again. Those that are there stay.
    pub fn suspend(&self, suspended: bool) {
        self.suspended.send_replace(suspended);
    }

    /// Whether no clients are taken for now.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        *self.suspended.borrow()
    }

    /// Completes when clients are taken again, or (true) when none are any more.
    pub(super) async fn suspended(&self, suspended: bool) {
        let mut watch = self.suspended.subscribe();
        // The sender lives as long as the node.
        drop(watch.wait_for(|now| *now == suspended).await);
    }

    /// The cluster's name: as it was set, or configured, or else that of its first node.
    #[must_use]
    pub fn cluster_name(&self) -> String {
        let configured = || self.options.cluster_name.clone();
        self.cluster.topology.read(|topology| {
            let first = || Some(topology.nodes().next()?.name.clone());
            let name = topology.cluster_name().or_else(configured).or_else(first);
            name.unwrap_or_else(|| self.options.name.clone())
        })
    }

    /// Replaces what may change while the node runs.
    pub fn set_access(&self, access: Access) {
        self.access.store(Arc::new(access));
        self.tell_cluster_name();
    }

    /// Sees to it that clients that come are told the cluster's name.
    pub(super) fn tell_cluster_name(&self) {
        let name = self.cluster_name();
        self.access.rcu(|access| match access.tells(&name) {
            true => Arc::clone(access),
            false => Arc::new(access.telling(&name)),
        });
    }

    pub(super) fn connection_opened(&self) {
        self.stats.connections.inc();
        self.stats.connections_opened.inc();
        self.connections.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn connection_count(&self) -> u32 {
        self.connections.load(Ordering::Acquire)
    }

    pub(super) fn connection_closed(&self) {
        self.stats.connections.dec();
        self.stats.connections_closed.inc();
        self.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

/// 16 random bytes in unpadded base64url, 22 characters, as RabbitMQ's generated names end.
pub(super) fn random_name() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>())
}
