//! Wiring: what starts, in which order, and how it stops in reverse.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::base::{NodeId, SetId};
use crate::broker::listener::{Entry, SocketOptions};
use crate::broker::tls::TlsError;
use crate::broker::{self, Access, Node, NodeOptions, ObjectLimits, Stats, alarm};
use crate::cluster::peer::{self, Hub, Links, Own, PeerSecurity, PeerTls};
use crate::cluster::{
    self, Candidate, Cluster, ClusterOptions, FormationError, Leaving, Patience, Rejoin, Standing,
    StartError, alone, find,
};
use crate::config;
use crate::doors::{Doors, TlsFiles, TlsServers, bind, places};
use crate::http::api::{self, Api};
use crate::http::control::{Control, SOCKET};
use crate::http::{ApiOptions, MetricsOptions, MetricsState, Names};
use crate::identity::{Folder, Identity, IdentityError};
use crate::log::{LogOptions, OsDisk};
use crate::model::batch::BufferPool;
use crate::model::topology::{Hashing, QueueDefaults, Seed, hash_password};
use crate::raft::GroupOptions;
use crate::rt::Supervisor;
use crate::shovel::{self, Shovels};

/// The topology's log is small: its segments are too.
const TOPOLOGY_SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// Connections get this long to close after they were asked to.
const STOP_LIMIT: Duration = Duration::from_secs(20);
const PEERS_LIMIT: Duration = Duration::from_secs(2);

/// Everything a node is started with, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Data folder.
    pub data_dir: PathBuf,
    /// AMQP listeners.
    pub listeners: Vec<SocketAddr>,
    /// AMQP listeners under TLS.
    pub tls_listeners: Vec<SocketAddr>,
    /// How clients come in at both.
    pub entry: Entry,
    /// Metrics listeners, plain and under TLS.
    pub metrics: [Option<SocketAddr>; 2],
    /// Listeners of the management API, plain and under TLS.
    pub management: [Option<SocketAddr>; 2],
    /// Whose TLS is what.
    pub tls: TlsFiles,
    /// What the management API is told.
    pub api: ApiOptions,
    /// Where metrics are, for whom, how long.
    pub metrics_options: MetricsOptions,
    /// Shovels make no queues of their own accord.
    pub shovels_predeclared: bool,
    /// Definitions to import before clients may come.
    pub definitions: Option<PathBuf>,
    /// First user: name, password, tags; and vhost.
    pub default_user: String,
    /// Its password.
    pub default_pass: String,
    /// Its tags.
    pub default_tags: Vec<String>,
    /// Its patterns: configure, write, read.
    pub default_permissions: [String; 3],
    /// First vhost.
    pub default_vhost: String,
    /// Type of queues declared without one.
    pub default_queue_type: String,
    /// What may change while the node runs.
    pub access: Access,
    /// What there may be of channels, queues and exchanges.
    pub objects: ObjectLimits,
    /// What the configuration says about queues.
    pub queue_defaults: QueueDefaults,
    /// Memory watermark, bytes.
    pub memory_limit_bytes: u64,
    /// Free disk limit, bytes.
    pub disk_free_limit_bytes: u64,
    /// Bytes of a log segment.
    pub segment_bytes: u64,
    /// Log bytes after which a snapshot is taken.
    pub snapshot_every_bytes: u64,
    /// How long silent peers keep what they have.
    pub patience: Patience,
    /// Peers.
    pub cluster: config::cluster::Cluster,
    /// The cluster's name as long as it is given no other.
    pub cluster_name: Option<String>,
    /// Names for metrics.
    pub names: Names,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data folder.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A set.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It is no member of a cluster.
    #[error(transparent)]
    Formation(#[from] FormationError),
    /// A listener's certificate or key.
    #[error("{what}: {error}")]
    Tls {
        /// The keys' prefix.
        what: &'static str,
        /// Why.
        error: TlsError,
    },
    /// Definitions that were to be imported.
    #[error("definitions in {path}: {why}", path = path.display())]
    Definitions {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate or key for talk between nodes.
    #[error("{path}: {error}")]
    PeerTls {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A listener.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
}

/// A node that serves.
pub struct Running {
    /// Connections and listeners: they end first, while the sets still answer.
    front: Supervisor,
    /// Proposers, timers, workers.
    core: Supervisor,
    /// What is heard from peers: without it no replica here learns what was committed.
    peers: Supervisor,
    cluster: Arc<Cluster>,
    node: Arc<Node>,
    limits: alarm::Limits,
    tls: Arc<TlsServers>,
}

impl Running {
    /// Starts everything in `folder`, the data folder; returns when clients may come.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn start(
        mut settings: Settings,
        control: Control,
        folder: Arc<Folder>,
    ) -> Result<Self, NodeError> {
        let mut identity = Identity::open(&folder)?;
        rejoin(&mut settings, &mut identity)?;
        control.listen().map_err(|error| {
            let path = settings.data_dir.join(SOCKET);
            NodeError::Identity(IdentityError::Io { path, error })
        })?;
        let doors = Doors::open(&settings)?;
        let tls = Arc::clone(&doors.tls);
        let (front, core) = (Supervisor::default(), Supervisor::default());
        let peers = Supervisor::default();
        let options = enter(&settings, &mut identity, &core, &peers).await?;
        let id = options.membership.formation.cluster;
        settings.names.cluster_id = format!("rabbitmq-cluster-id-{id:016x}");
        let (cluster, effects) = Cluster::start(options, &core).await?;
        let (alarm_tx, alarm_rx) = watch::channel(alarm::Alarm::default());
        let (memory, disk) = (settings.memory_limit_bytes, settings.disk_free_limit_bytes);
        let limits = alarm::Limits::new(memory, disk, settings.data_dir.clone());
        core.spawn(
            "alarms",
            alarm::watch(limits.clone(), alarm_tx, core.clone()),
        );
        let node = Node::new(
            Arc::clone(&cluster),
            NodeOptions {
                name: settings.names.node.clone(),
                cluster_name: settings.cluster_name.clone(),
                objects: settings.objects,
                queue_defaults: settings.queue_defaults,
            },
            settings.access.clone(),
            Arc::new(Stats::default()),
            alarm_rx,
            front.clone(),
        );
        front.spawn("access", broker::watch_access(Arc::clone(&node)));
        let letters = broker::run_set_effects(Arc::clone(&node), effects, core.clone());
        core.spawn("dead letters", letters);
        core.spawn(
            "replies",
            broker::run_relay(Arc::clone(&node), core.clone()),
        );
        let shovels = Shovels::new(Arc::clone(&node), settings.shovels_predeclared);
        front.spawn("shovels", shovel::run(Arc::clone(&shovels)));
        let api = Api::new(
            Arc::clone(&node),
            settings.names.clone(),
            limits.clone(),
            places(&settings, &tls),
            settings.api.clone(),
            Arc::clone(&shovels),
        );
        if cluster.seeded() {
            first_vhost(&api, &settings.default_vhost).await;
        }
        if let Some(path) = &settings.definitions {
            definitions(&api, path).await?;
        }
        let metrics = MetricsState::new(
            Arc::clone(&node),
            settings.names,
            limits.clone(),
            shovels,
            settings.metrics_options,
        );
        let served = Arc::clone(&api);
        doors.serve(&node, &settings.entry, api, metrics, &front);
        control.serves(served);
        Ok(Self {
            front,
            core,
            peers,
            cluster,
            node,
            limits,
            tls,
        })
    }

    /// What the node is, for who decides later whether it may leave its cluster.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.cluster.standing()
    }

    /// Takes over what may change while the node runs: certificates, limits, watermarks, who may log in and how. What
    /// cannot be served stays as it was, and is said.
    pub fn reload(&self, settings: &Settings) {
        for (what, error) in self.tls.reload(&settings.tls) {
            tracing::error!(%error, "{what} stays as it was: it cannot be served");
        }
        self.node.set_access(settings.access.clone());
        self.limit(settings.memory_limit_bytes, settings.disk_free_limit_bytes);
    }

    /// Sets when publishers are blocked: resident memory and free disk space, bytes. From the next measurement on.
    pub fn limit(&self, memory_bytes: u64, disk_free_bytes: u64) {
        self.limits.set_memory_bytes(memory_bytes);
        self.limits.set_disk_free_bytes(disk_free_bytes);
    }

    /// Completes once a task of the node's own threads has looked at what exists: that they run, and nothing holds it.
    pub async fn answers(&self) {
        let node = Arc::clone(&self.node);
        let look = self.core.spawn("sign of life", async move {
            node.cluster
                .topology
                .read(|topology| topology.vhosts().count())
        });
        // A task that ended otherwise is no sign of life.
        if look.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Completes when the node cannot go on as the member it is.
    pub async fn leaving(&self) -> Leaving {
        self.cluster.leaving().await
    }

    /// Closes every connection (320), gives every lead away, lets what is under way come to its end, then closes the sets.
    pub async fn stop(self) {
        if !self.front.stop(STOP_LIMIT).await {
            tracing::warn!("some connections did not close in time");
        }
        // Before the rest, which may take long: others' clients wait for a leader that does not answer.
        self.cluster.yield_leaderships().await;
        if !self.core.stop(STOP_LIMIT).await {
            tracing::warn!("some work did not end in time");
        }
        if !self.peers.stop(PEERS_LIMIT).await {
            tracing::warn!("the listener for peers did not close in time");
        }
        let closing = tokio::time::timeout(STOP_LIMIT, self.cluster.stop());
        if closing.await.is_err() {
            // What was acknowledged is durable all the same.
            tracing::warn!("some replicas did not close in time");
        }
    }
}

/// A node that was told to join another cluster leaves its own behind.
fn rejoin(settings: &mut Settings, identity: &mut Identity) -> Result<(), NodeError> {
    let dir = &settings.data_dir;
    let Some(wish) = Rejoin::find(dir).map_err(|error| unread(dir, error))? else {
        return Ok(());
    };
    if identity.token == wish.leaves || identity.membership.is_none() {
        wish.clear(dir).map_err(|error| unread(dir, error))?;
        identity.forget()?;
    }
    tracing::info!(member = wish.member, "joins another cluster");
    settings.cluster.join = Some(wish.member);
    Ok(())
}

/// Lets a node that does not serve join the cluster of `node`, `rabbit@host` or `host:port`, at its next start.
///
/// # Errors
/// Why it may not leave its own, or will not be taken in.
pub async fn join(settings: &Settings, standing: &Standing, node: &str) -> Result<(), String> {
    let member = settings.cluster.peer_address(node)?;
    let links = stranger(settings)?;
    let wish = cluster::wish(&links, standing, &settings.data_dir, member).await?;
    tracing::info!(
        member = wish.member,
        "the node joins another cluster when it starts"
    );
    Ok(())
}

/// Lets the others take out a node that does not serve.
///
/// # Errors
/// They have not, within `limit`.
pub async fn leave(
    settings: &Settings,
    standing: &Standing,
    limit: Duration,
) -> Result<(), String> {
    cluster::leave(&stranger(settings)?, standing, limit).await
}

fn stranger(settings: &Settings) -> Result<Links, String> {
    let tls = peer_tls(&settings.cluster.tls).map_err(|error| error.to_string())?;
    let security = PeerSecurity::new(&settings.cluster.secret, tls);
    Ok(Links::new(Arc::default(), security, BufferPool::default()))
}

fn unread(dir: &Path, error: io::Error) -> NodeError {
    let path = dir.to_owned();
    IdentityError::Io { path, error }.into()
}

/// The vhost of an empty store is a new one too.
async fn first_vhost(api: &Arc<Api>, vhost: &str) {
    if let Err(why) = api::furnish(api, vhost).await {
        tracing::error!(
            vhost,
            why,
            "the vhost lacks what is configured for new ones"
        );
    }
}

/// Imports definitions from a file, or from each of a folder's.
async fn definitions(api: &Arc<Api>, path: &Path) -> Result<(), NodeError> {
    let wrong = |path: &Path, why: String| NodeError::Definitions {
        path: path.to_owned(),
        why,
    };
    let files = api::definition_files(path).map_err(|error| wrong(path, error.to_string()))?;
    for file in &files {
        tracing::info!(file = %file.display(), "importing definitions");
        let document = std::fs::read(file).map_err(|error| wrong(file, error.to_string()))?;
        let imported = api::import(api, &document).await;
        imported.map_err(|why| wrong(file, why))?;
    }
    tracing::info!(files = files.len(), "definitions are imported");
    Ok(())
}

/// Listens for peers and becomes a member of a cluster, of its own if there are none.
async fn enter(
    settings: &Settings,
    identity: &mut Identity,
    core: &Supervisor,
    heard: &Supervisor,
) -> Result<ClusterOptions, NodeError> {
    let own = Arc::new(Own::default());
    let (hub, pool) = (Arc::new(Hub::default()), BufferPool::default());
    let security = PeerSecurity::new(&settings.cluster.secret, peer_tls(&settings.cluster.tls)?);
    let links = Links::new(Arc::clone(&own), security.clone(), pool.clone());
    if let Some(membership) = &identity.membership {
        own.set(membership, identity.incarnation);
    }
    if let Some(address) = settings.cluster.listener {
        let socket = bind(address, &SocketOptions::default())?;
        tracing::info!(%address, "started the listener for peers");
        let (hub, own, pool) = (Arc::clone(&hub), Arc::clone(&own), pool.clone());
        let served = peer::serve(socket, hub, own, security, pool, heard.clone());
        heard.spawn("peers", async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "peers are no longer served");
            }
        });
    }
    let candidate = Candidate {
        name: settings.names.node.clone(),
        address: settings.cluster.address.clone().unwrap_or_default(),
        token: identity.token,
        peers: peers(&settings.cluster),
        dns: settings
            .cluster
            .dns
            .clone()
            .filter(|_| settings.cluster.join.is_none()),
    };
    let alone_for_good = candidate.peers.is_empty() && candidate.dns.is_none();
    let membership = match identity.membership.clone() {
        Some(membership) => membership,
        None if settings.cluster.listener.is_none() || alone_for_good => {
            alone(&candidate, rand::random::<u64>().max(1))
        }
        None => find(candidate.clone(), &links, &hub, core).await?,
    };
    own.set(&membership, identity.incarnation);
    let pipe = identity.join(membership.clone())?;
    Rejoin::done(&settings.data_dir).map_err(|error| unread(&settings.data_dir, error))?;
    let node = pipe.node;
    tracing::info!(%node, cluster = format_args!("{:016x}", membership.formation.cluster), "member of a cluster");
    Ok(ClusterOptions {
        data_dir: settings.data_dir.clone(),
        pipe,
        name: candidate.name,
        address: candidate.address,
        token: candidate.token,
        membership,
        links,
        hub,
        group: group_options(settings, node),
        seed: seed(settings),
        queue_defaults: settings.queue_defaults,
        patience: settings.patience,
        sets_per_node: settings.cluster.sets_per_node,
        pool,
    })
}

/// What an empty store begins with: nothing, if definitions are to say it.
fn seed(settings: &Settings) -> Option<Seed> {
    if settings.definitions.is_some() {
        tracing::info!("no default user and vhost are made: definitions are to be imported");
        return None;
    }
    Some(Seed {
        user: settings.default_user.clone(),
        password_hash: hash_password(Hashing::Sha256, rand::random(), &settings.default_pass),
        tags: settings.default_tags.clone(),
        vhost: settings.default_vhost.clone(),
        permissions: settings.default_permissions.clone(),
        default_queue_type: settings.default_queue_type.clone(),
    })
}

/// Whom to ask for a cluster, if it is not found by a name.
fn peers(cluster: &config::cluster::Cluster) -> Vec<String> {
    match &cluster.join {
        Some(join) => vec![join.clone()],
        None => cluster.peers.clone(),
    }
}

/// The certificates in these files, if they are named.
///
/// # Errors
/// [`NodeError::Tls`].
pub fn peer_tls(files: &[Option<PathBuf>; 3]) -> Result<Option<PeerTls>, NodeError> {
    let [Some(ca), Some(certificate), Some(key)] = files else {
        return Ok(None);
    };
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| NodeError::PeerTls {
            path: path.clone(),
            error,
        })
    };
    Ok(Some(PeerTls {
        ca: read(ca)?,
        certificate: read(certificate)?,
        key: read(key)?,
    }))
}

type SetOptions = Box<dyn Fn(SetId, PathBuf) -> GroupOptions + Send + Sync>;

fn group_options(settings: &Settings, node: NodeId) -> SetOptions {
    let (segment, snapshot) = (settings.segment_bytes, settings.snapshot_every_bytes);
    Box::new(move |set: SetId, dir: PathBuf| {
        let mut options = GroupOptions::new(set, node, dir, Arc::new(OsDisk));
        let topology = set == SetId::TOPOLOGY;
        options.log = LogOptions {
            segment_size_bytes: if topology {
                segment.min(TOPOLOGY_SEGMENT_BYTES)
            } else {
                segment
            },
            ..LogOptions::default()
        };
        options.snapshot_every_bytes = snapshot;
        options.on_fatal = Arc::new(|set, reason| {
            // What was acknowledged is on disk; going on could acknowledge what is not.
            tracing::error!(%set, reason, "the node must stop");
            std::process::exit(70);
        });
        options
    })
}
