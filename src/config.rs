//! What the node is told: RabbitMQ's `key = value` files, then the environment, then the command line.
//!
//! Need: a folder of configuration written for RabbitMQ starts this broker unchanged, and a mistake in it is told with
//! its key, file and line before anything listens. Shape: [`keys`] is one table of every key; [`file`] reads lines;
//! [`value`] reads values; this file puts the sources in order. Later sources win over earlier ones; within a file the
//! last line wins. All problems are reported together, not only the first.
//!
//! Invariants: a [`Config`] that was handed out has only values within the ranges said at its fields.
//! Not here: applying anything. Nothing here opens a socket or creates a folder.

pub mod cluster;
pub mod document;
pub mod draft;
pub mod environment;
pub mod file;
pub mod keys;
pub mod lookup;
pub mod secret;
pub mod source;
pub mod value;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::base::limits;
use crate::broker::listener::SocketOptions;
use crate::broker::tls::{NameFrom, TlsOptions};
use crate::http::{Front, MetricsOptions, Passwords, VhostDefaults};
use crate::session::Stamps;

pub use file::{ConfigError, Place, Problems};
pub use source::{Assigned, Loaded, Note, Sources, load};

/// A bound that is a part of memory, or a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// Part of the memory available, more than 0.
    Relative(f64),
    /// Bytes.
    Absolute(u64),
}

impl Threshold {
    /// The bound in bytes, on a machine with `memory_bytes`.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss
    )]
    pub fn bytes(self, memory_bytes: u64) -> u64 {
        match self {
            Self::Relative(part) => (memory_bytes as f64 * part) as u64,
            Self::Absolute(bytes) => bytes,
        }
    }
}

/// Least severe line that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// The default.
    Info,
    /// Warnings and errors (`warning`).
    Warning,
    /// Errors (`error`, `critical`).
    Error,
    /// Nothing.
    None,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// RabbitMQ's lines.
    Plain,
    /// One JSON object per line.
    Json,
}

/// A file that log lines go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// Where.
    pub path: PathBuf,
    /// Bytes after which another is begun. Default none.
    pub size_max: Option<u64>,
    /// How many of those that were full are kept. Default 5.
    pub kept: u32,
}

/// What there may be of channels, queues and exchanges, and how queues are compared and counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Channels of the node. Default none.
    pub channels_per_node: Option<u32>,
    /// Queues of the cluster. Default none.
    pub queues: Option<u32>,
    /// Exchanges of the cluster. Default none.
    pub exchanges: Option<u32>,
    /// A classic declaration of a quorum queue that is there may differ in what only one of the two types knows. Default no.
    pub relaxed_redeclaration: bool,
    /// Every return of a message counts towards its delivery limit, as before RabbitMQ 4.3. Default no.
    pub count_every_return: bool,
}

/// Everything a node can be told, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Folder of all state. Default `./data`.
    pub data_dir: PathBuf,
    /// AMQP listeners; empty = none. Default `[::]:5672`.
    pub listeners: Vec<SocketAddr>,
    /// AMQP listeners under TLS. Default none.
    pub tls_listeners: Vec<SocketAddr>,
    /// Their TLS.
    pub tls: TlsOptions,
    /// Longest TLS handshake, milliseconds, from 1. Default 5000.
    pub tls_handshake_timeout_ms: u64,
    /// AMQP connections begin with a PROXY header. Default no.
    pub proxy_protocol: bool,
    /// AMQP's sockets.
    pub socket: SocketOptions,
    /// Metrics listeners, plain and under TLS. Default `[::]:15692` and none.
    pub prometheus: [Option<SocketAddr>; 2],
    /// The TLS of the second.
    pub prometheus_tls: TlsOptions,
    /// Where they are, for whom, how long. Default `/metrics`, for everybody, without a line per object.
    pub prometheus_options: MetricsOptions,
    /// Management API, plain and under TLS. Default `[::]:15672` and none.
    pub management: [Option<SocketAddr>; 2],
    /// The TLS of the second.
    pub management_tls: TlsOptions,
    /// Largest body of a request to it, bytes, 1 to 1 GiB. Default 10000000.
    pub management_body_max: u64,
    /// How it looks from outside. Default as it is.
    pub front: Front,
    /// Definitions imported at the start. Default none.
    pub definitions: Option<PathBuf>,
    /// First user, made when the store is empty. Default `guest`.
    pub default_user: String,
    /// Its password. Default `guest`.
    pub default_pass: String,
    /// Its tags. Default `administrator`.
    pub default_user_tags: Vec<String>,
    /// Its permissions: configure, write, read patterns. Default `.*` each.
    pub default_permissions: [String; 3],
    /// First vhost. Default `/`.
    pub default_vhost: String,
    /// What new passwords must be like. Default anything, hashed with SHA-256.
    pub passwords: Passwords,
    /// Vhosts of the cluster. Default none.
    pub vhosts_max: Option<u32>,
    /// What new vhosts are given. Default nothing.
    pub vhost_defaults: VhostDefaults,
    /// Users that may only log in over loopback. Default `guest`.
    pub loopback_users: Vec<String>,
    /// SASL mechanisms offered, in order; never empty. Default `PLAIN`, `AMQPLAIN`, `ANONYMOUS`.
    pub auth_mechanisms: Vec<String>,
    /// Name and password of whoever logs in as ANONYMOUS. Default `guest`, `guest`.
    pub anonymous: Option<(String, String)>,
    /// What of a certificate names the user of EXTERNAL. Default its distinguished name.
    pub name_from: NameFrom,
    /// Heartbeat offered, seconds, 0 to 65535; 0 = off. Default 60.
    pub heartbeat_s: u16,
    /// Largest frame, bytes, 0 (no limit) or from 4096. Default 131072.
    pub frame_max: u32,
    /// Largest frame before connection.tune, bytes, from 4096. Default 8192.
    pub frame_max_initial: u32,
    /// Channels of a connection, 0 (no limit) to 65535. Default 2047.
    pub channel_max: u16,
    /// Consumers of a channel. Default none.
    pub consumer_max_per_channel: Option<u32>,
    /// Connections of the node. Default none.
    pub max_connections: Option<u32>,
    /// Largest body, bytes, 1 to 536870912. Default 16777216.
    pub max_message_size: u64,
    /// What is written into messages unasked. Default nothing.
    pub stamps: Stamps,
    /// Longest lease of a delivery, milliseconds, from 1. Default 1800000.
    pub consumer_timeout_ms: u64,
    /// Silence of a node after which its clients' leases end, milliseconds, from 1. Default 60000.
    pub consumer_disconnected_timeout_ms: u64,
    /// From accept to connection.open, milliseconds, from 1. Default 10000.
    pub handshake_timeout_ms: u64,
    /// Memory at which publishers are blocked. Default 0.6 of memory.
    pub memory_high_watermark: Threshold,
    /// Memory the node may count on, bytes, in place of what it finds. Default none.
    pub total_memory_bytes: Option<u64>,
    /// Free disk below which publishers are blocked. Default 50 MB.
    pub disk_free_limit: Threshold,
    /// What queues and exchanges there may be.
    pub objects: Objects,
    /// Type of queues declared without `x-queue-type`: `classic`, `quorum` or `stream`. Default `classic`.
    pub default_queue_type: String,
    /// This node's name. Default `rabbit@` and the host's name.
    pub node_name: String,
    /// The cluster's name. Default: the name of its first node.
    pub cluster_name: Option<String>,
    /// Shovels make no queues, unless their definitions say that they do. Default false.
    pub shovels_predeclared: bool,
    /// What the cluster and this node are called by: names and values. Default nothing.
    pub tags: [Vec<(String, String)>; 2],
    /// Its peers. Default none.
    pub cluster: cluster::Cluster,
    /// Least severe line logged. Default info.
    pub log_level: LogLevel,
    /// Other levels by category (`connection`, `channel`, `queue`…). Default none.
    pub log_categories: Vec<(String, LogLevel)>,
    /// How log lines are written. Default plain.
    pub log_format: LogFormat,
    /// Whether they go to standard output. Default yes.
    pub log_console: bool,
    /// And the file they go to. Default none.
    pub log_file: Option<LogFile>,
    /// Product name told to clients. `None` = the broker's own choice.
    pub product: Option<String>,
    /// Version told to clients. `None` = the broker's own choice.
    pub version: Option<String>,
    /// Bytes of a log segment, 1 MiB to 1 GiB. Default 64 MiB.
    pub segment_bytes: u64,
    /// Log bytes after which a snapshot is taken, from 1 MiB. Default 256 MiB.
    pub snapshot_every_bytes: u64,
}

/// Where listeners listen when only a port is given: everywhere, IPv4 included.
pub const ANY: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// AMQP's port.
pub const AMQP_PORT: u16 = 5672;
/// The metrics port.
pub const PROMETHEUS_PORT: u16 = 15692;
/// The management API's port.
pub const MANAGEMENT_PORT: u16 = 15672;
/// The metrics port under TLS.
pub const PROMETHEUS_TLS_PORT: u16 = 15691;
/// The management API's port under TLS.
pub const MANAGEMENT_TLS_PORT: u16 = 15671;

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./data"),
            listeners: vec![SocketAddr::new(ANY, AMQP_PORT)],
            tls_listeners: Vec::new(),
            tls: TlsOptions::default(),
            tls_handshake_timeout_ms: 5_000,
            proxy_protocol: false,
            socket: SocketOptions::default(),
            prometheus: [Some(SocketAddr::new(ANY, PROMETHEUS_PORT)), None],
            prometheus_tls: TlsOptions::default(),
            prometheus_options: MetricsOptions::default(),
            management: [Some(SocketAddr::new(ANY, MANAGEMENT_PORT)), None],
            management_tls: TlsOptions::default(),
            management_body_max: 10_000_000,
            front: Front::default(),
            definitions: None,
            default_user: "guest".to_owned(),
            default_pass: "guest".to_owned(),
            default_user_tags: vec!["administrator".to_owned()],
            default_permissions: [".*".to_owned(), ".*".to_owned(), ".*".to_owned()],
            default_vhost: "/".to_owned(),
            passwords: Passwords::default(),
            vhosts_max: None,
            vhost_defaults: VhostDefaults::default(),
            loopback_users: vec!["guest".to_owned()],
            auth_mechanisms: ["PLAIN", "AMQPLAIN", "ANONYMOUS"]
                .map(str::to_owned)
                .to_vec(),
            anonymous: Some(("guest".to_owned(), "guest".to_owned())),
            name_from: NameFrom::default(),
            heartbeat_s: 60,
            frame_max: 131_072,
            frame_max_initial: 8192,
            channel_max: 2047,
            consumer_max_per_channel: None,
            max_connections: None,
            max_message_size: limits::MESSAGE_SIZE_MAX_BYTES_DEFAULT,
            stamps: Stamps::default(),
            consumer_timeout_ms: 1_800_000,
            consumer_disconnected_timeout_ms: 60_000,
            handshake_timeout_ms: 10_000,
            memory_high_watermark: Threshold::Relative(0.6),
            total_memory_bytes: None,
            disk_free_limit: Threshold::Absolute(50_000_000),
            objects: Objects::default(),
            default_queue_type: "classic".to_owned(),
            node_name: "rabbit@localhost".to_owned(),
            cluster_name: None,
            shovels_predeclared: false,
            tags: [Vec::new(), Vec::new()],
            cluster: cluster::Cluster::default(),
            log_level: LogLevel::Info,
            log_categories: Vec::new(),
            log_format: LogFormat::Plain,
            log_console: true,
            log_file: None,
            product: None,
            version: None,
            segment_bytes: 64 << 20,
            snapshot_every_bytes: 256 << 20,
        }
    }
}
