//! What every connection of the node shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::watch;

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
    /// Name of the cluster as long as nobody has given it another.
    pub cluster_name: String,
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
