//! What a node is told about its peers.
//!
//! RabbitMQ's names where it has them (`cluster_formation.*`, node names `rabbit@host`), our own for the listener, the
//! secret and TLS. A node listens for peers only if it is told of any, or where to.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::ANY;
use super::keys::{Key, ignored, set, text};
use super::value::{self, Expected};

/// Peers, as told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Where peers reach this node; `None`: the node stays alone.
    pub listener: Option<SocketAddr>,
    /// What peers are told to reach it by, `host:port`. Default: the host of the node's name, or the listener if it names
    /// an address.
    pub address: Option<String>,
    /// Addresses, `host:port`, of the nodes to form a cluster with.
    pub peers: Vec<String>,
    /// A name that stands for the addresses of all nodes.
    pub dns: Option<String>,
    /// A member of the cluster to join, `host:port`; then none is ever formed.
    pub join: Option<String>,
    /// What all nodes share.
    pub secret: String,
    /// Authority, certificate and key files for mutual TLS between nodes; all or none.
    pub tls: [Option<PathBuf>; 3],
    /// Silence of a node after which another takes its replicas, if there is one to spare, seconds. Default 600.
    pub replace_after_s: u64,
    /// Broker sets for each node; the controller makes what lacks and removes none. Default 1.
    pub sets_per_node: usize,
    /// Nodes that make the cluster complete, for the check that says so. Default 1.
    pub target_size: usize,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            listener: None,
            address: None,
            peers: Vec::new(),
            dns: None,
            join: None,
            secret: String::new(),
            tls: [None, None, None],
            replace_after_s: 600,
            sets_per_node: 1,
            target_size: 1,
        }
    }
}

/// Each set costs every member a heartbeat and a log of its own.
const SETS_PER_NODE_MAX: u64 = 64;

const PEERS: &str = "peers are found by a list (classic_config) or by DNS only";

/// The keys about peers.
pub(super) static KEYS: &[Key] = &[
    set(
        "cluster_formation.peer_discovery_backend",
        "classic_config or dns",
        "classic_config",
        "how peers are found",
        |d, _, v| {
            let name = v.trim_start_matches("rabbit_peer_discovery_");
            d.cluster.by_dns = name == "dns";
            let known = matches!(name, "classic_config" | "dns" | "local");
            Ok((!known).then_some(PEERS))
        },
    ),
    set(
        "cluster_formation.classic_config.nodes.$n",
        "node name",
        "",
        "a node of the cluster",
        |d, name, v| {
            host(v)?;
            d.cluster.nodes.push((name.to_owned(), v.to_owned()));
            Ok(None)
        },
    ),
    set(
        "cluster_formation.dns.hostname",
        "host name",
        "",
        "a name that stands for all nodes' addresses",
        |d, _, v| {
            d.cluster.dns = Some(v.to_owned());
            Ok(None)
        },
    ),
    set(
        "cluster_formation.target_cluster_size_hint",
        "count",
        "1",
        "nodes that must run until `reached-target-cluster-size` is true",
        |d, _, v| {
            let size = value::number(v, 0, 1_023)?;
            d.cluster.config.target_size = usize::try_from(size).unwrap_or(1);
            Ok(None)
        },
    ),
    ignored("cluster_formation.*", PEERS),
    set(
        "leveret.cluster.listener",
        "port, or ip:port",
        "",
        "where peers reach this node; without it and without peers it stays alone",
        |d, _, v| {
            d.cluster.config.listener = Some(value::address(v, ANY)?);
            Ok(None)
        },
    ),
    set(
        "leveret.cluster.replace_after",
        "seconds",
        "600",
        "silence of a node after which another takes its replicas",
        |d, _, v| {
            d.cluster.config.replace_after_s = value::number(v, 1, u64::MAX)?;
            Ok(None)
        },
    ),
    set(
        "leveret.cluster.sets_per_node",
        "count",
        "1",
        "broker sets for each node that takes its share; more are made, none are removed",
        |d, _, v| {
            let count = value::number(v, 1, SETS_PER_NODE_MAX)?;
            d.cluster.config.sets_per_node = usize::try_from(count).unwrap_or(1);
            Ok(None)
        },
    ),
    set(
        "leveret.cluster.address",
        "host:port",
        "",
        "what peers are told to reach it by",
        |d, _, v| {
            d.cluster.config.address = Some(v.to_owned());
            Ok(None)
        },
    ),
    set(
        "leveret.cluster.join",
        "host:port",
        "",
        "a member of the cluster to join; then none is ever formed",
        |d, _, v| {
            d.cluster.config.join = Some(v.to_owned());
            Ok(None)
        },
    ),
    set(
        "leveret.cluster.secret",
        "text",
        "",
        "what all nodes share (or RABBITMQ_ERLANG_COOKIE)",
        |d, _, v| text(&mut d.cluster.config.secret, v),
    ),
    set(
        "leveret.cluster.tls.cacertfile",
        "file",
        "",
        "authority of the certificates between nodes; all three or none",
        |d, _, v| {
            d.cluster.config.tls[0] = Some(v.into());
            Ok(None)
        },
    ),
    set(
        "leveret.cluster.tls.certfile",
        "file",
        "",
        "this node's certificate",
        |d, _, v| {
            d.cluster.config.tls[1] = Some(v.into());
            Ok(None)
        },
    ),
    set(
        "leveret.cluster.tls.keyfile",
        "file",
        "",
        "its key",
        |d, _, v| {
            d.cluster.config.tls[2] = Some(v.into());
            Ok(None)
        },
    ),
];

/// What of it was written, before it is put together.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) config: Cluster,
    /// Node names by the last part of their key.
    pub(super) nodes: Vec<(String, String)>,
    pub(super) port: Option<u16>,
    /// `classic_config` unless said otherwise.
    pub(super) by_dns: bool,
    pub(super) dns: Option<String>,
}

/// How far the port for peers is from AMQP's, as RabbitMQ's is.
const PORT_OFFSET: u16 = 20_000;

/// The host in `rabbit@host`.
pub(super) fn host(node: &str) -> Result<&str, Expected> {
    let parts = node.split_once('@');
    let host = parts.map(|(_, host)| host);
    host.filter(|host| !host.is_empty() && !host.contains(char::is_whitespace))
        .ok_or_else(|| "a node name such as rabbit@host1".to_owned())
}

fn with_port(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    }
}

impl Cluster {
    /// Where a node is reached: `rabbit@host`, whose port is this node's own, or `host:port`.
    ///
    /// # Errors
    /// There is no such name, or this node does not listen for peers.
    pub fn peer_address(&self, node: &str) -> Result<String, Expected> {
        let Some(listener) = self.listener else {
            return Err(
                "this node does not listen for peers: set leveret.cluster.listener and a secret"
                    .to_owned(),
            );
        };
        Ok(match node.contains('@') {
            true => with_port(host(node)?, listener.port()),
            false => node.to_owned(),
        })
    }
}

impl Written {
    /// The configuration of a node of this name, whose AMQP port is `node_port` and listens at `any`.
    pub(super) fn finish(
        self,
        node_name: &str,
        any: IpAddr,
        node_port: u16,
    ) -> Result<Cluster, Expected> {
        let mut config = self.config;
        let near = node_port.checked_add(PORT_OFFSET);
        let port = self.port.or(near).unwrap_or(25_672);
        if self.by_dns {
            config.dns = self.dns.map(|name| with_port(&name, port));
        } else {
            for (_, node) in &self.nodes {
                config.peers.push(with_port(host(node)?, port));
            }
            config.peers.sort();
            config.peers.dedup();
        }
        config.join = config.join.map(|address| {
            let bare = !address.contains(':') || address.parse::<IpAddr>().is_ok();
            if bare {
                with_port(&address, port)
            } else {
                address
            }
        });
        let told = !config.peers.is_empty() || config.dns.is_some() || config.join.is_some();
        if config.listener.is_none() && told {
            config.listener = Some(SocketAddr::new(any, port));
        }
        let Some(listener) = config.listener else {
            return Ok(config);
        };
        if config.address.is_none() {
            config.address = Some(if listener.ip().is_unspecified() {
                with_port(host(node_name)?, listener.port())
            } else {
                listener.to_string()
            });
        }
        if config.secret.is_empty() {
            return Err(
                "a secret that all nodes share (or RABBITMQ_ERLANG_COOKIE), to talk to peers"
                    .into(),
            );
        }
        let given = config.tls.iter().flatten().count();
        if given != 0 && given != config.tls.len() {
            return Err("an authority, a certificate and a key for peers, or none".into());
        }
        Ok(config)
    }
}
