//! `/metrics` for Prometheus: the node's counters, and gauges read from the machines at each scrape. The machines keep
//! sums, so a scrape costs the same with one queue or with 20 000.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, Gauge, GaugeVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use super::web::WebListener;
use crate::broker::{Node, alarm};
use crate::cluster::SetHandle;
use crate::model::topology::Topology;

/// What a scrape reads.
pub struct MetricsState {
    node: Arc<Node>,
    names: Names,
    limits: alarm::Limits,
    started: Instant,
}

/// What the node says of itself.
#[derive(Clone, Debug)]
pub struct Names {
    /// Node name, `rabbit@host`.
    pub node: String,
    /// Cluster name.
    pub cluster: String,
    /// The version advertised to clients.
    pub version: String,
    /// The product advertised to clients.
    pub product: String,
    /// Type of queues declared without one, in vhosts made without one.
    pub default_queue_type: String,
}

impl MetricsState {
    /// Over a started node.
    #[must_use]
    pub fn new(node: Arc<Node>, names: Names, limits: alarm::Limits) -> Arc<Self> {
        Arc::new(Self {
            node,
            names,
            limits,
            started: Instant::now(),
        })
    }
}

/// Serves until the node stops.
pub async fn serve(state: Arc<MetricsState>, listener: WebListener) {
    let supervisor = state.node.supervisor.clone();
    let app = Router::new()
        .route("/metrics", get(scrape))
        .with_state(state);
    let stopping = async move { supervisor.stopping().await };
    if let Err(error) = axum::serve(listener, app)
        .with_graceful_shutdown(stopping)
        .await
    {
        tracing::error!(%error, "the metrics listener ended");
    }
}

async fn scrape(State(state): State<Arc<MetricsState>>) -> Response {
    let text = gauges(&state).and_then(|own| {
        let mut families = state.node.stats.registry.gather();
        families.extend(own);
        families.sort_by(|a, b| a.name().cmp(b.name()));
        let mut out = Vec::new();
        TextEncoder::new().encode(&families, &mut out)?;
        Ok(out)
    });
    match text {
        Ok(text) => (
            [(
                header::CONTENT_TYPE,
                "text/plain; version=0.0.4; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

struct Scrape(Registry);

impl Scrape {
    fn gauge(&self, name: &str, help: &str, value: u64) -> prometheus::Result<()> {
        let gauge = IntGauge::new(name, help)?;
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        self.0.register(Box::new(gauge))
    }

    fn seconds(&self, name: &str, help: &str, value: f64) -> prometheus::Result<()> {
        let gauge = Gauge::new(name, help)?;
        gauge.set(value);
        self.0.register(Box::new(gauge))
    }

    fn info(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> prometheus::Result<()> {
        let (names, values): (Vec<_>, Vec<_>) = labels.iter().copied().unzip();
        let gauge = GaugeVec::new(Opts::new(name, help), &names)?;
        gauge.with_label_values(&values).set(1.0);
        self.0.register(Box::new(gauge))
    }
}

fn gauges(state: &MetricsState) -> prometheus::Result<Vec<MetricFamily>> {
    let scrape = Scrape(Registry::new());
    let names = &state.names;
    let set = state.node.cluster.topology.read(Topology::cluster_name);
    let cluster = set.unwrap_or_else(|| names.cluster.clone());
    scrape.info(
        "rabbitmq_identity_info",
        "Identity of the node",
        &[
            ("rabbitmq_node", &names.node),
            ("rabbitmq_cluster", &cluster),
            ("rabbitmq_cluster_permanent_id", &names.cluster),
            ("rabbitmq_endpoint", "aggregated"),
        ],
    )?;
    scrape.info(
        "rabbitmq_build_info",
        "Version of the broker",
        &[
            ("rabbitmq_version", &names.version),
            ("prometheus_plugin_version", &names.version),
            ("prometheus_client_version", env!("CARGO_PKG_VERSION")),
            ("erlang_version", "none"),
            ("product_version", env!("CARGO_PKG_VERSION")),
            ("product_name", &names.product),
        ],
    )?;
    node_gauges(state, &scrape)?;
    queue_gauges(state, &scrape)?;
    raft_gauges(state, &scrape)?;
    Ok(scrape.0.gather())
}

fn node_gauges(state: &MetricsState, scrape: &Scrape) -> prometheus::Result<()> {
    let usage = alarm::measure(&state.limits.data_dir);
    let alarms = *state.node.alarm.borrow();
    let rows = [
        (
            "rabbitmq_process_resident_memory_bytes",
            "Memory used",
            usage.memory_bytes,
        ),
        (
            "rabbitmq_resident_memory_limit_bytes",
            "Memory high watermark",
            state.limits.memory_bytes(),
        ),
        (
            "rabbitmq_disk_space_available_bytes",
            "Disk space available",
            usage.disk_free_bytes,
        ),
        (
            "rabbitmq_disk_space_available_limit_bytes",
            "Free disk space low watermark",
            state.limits.disk_free_bytes(),
        ),
        (
            "rabbitmq_process_open_fds",
            "Open file descriptors",
            open_fds(),
        ),
        (
            "rabbitmq_process_max_fds",
            "Open file descriptors limit",
            max_fds(),
        ),
        (
            "rabbitmq_alarms_memory_used_watermark",
            "Memory alarm",
            u64::from(alarms.memory),
        ),
        (
            "rabbitmq_alarms_free_disk_space_watermark",
            "Disk alarm",
            u64::from(alarms.disk),
        ),
    ];
    for (name, help, value) in rows {
        scrape.gauge(name, help, value)?;
    }
    let uptime = state.started.elapsed().as_secs_f64();
    scrape.seconds("rabbitmq_erlang_uptime_seconds", "Node uptime", uptime)
}

fn queue_gauges(state: &MetricsState, scrape: &Scrape) -> prometheus::Result<()> {
    let (mut ready, mut unsettled) = (0, 0);
    for (_, handle) in state.node.cluster.sets() {
        handle.with(|replica| {
            let totals = replica.machine().totals();
            ready += totals.ready;
            unsettled += totals.unsettled;
        });
    }
    let queues = state
        .node
        .cluster
        .topology
        .read(|topology| topology.queue_count());
    let rows = [
        ("rabbitmq_queues", "Queues available", queues),
        (
            "rabbitmq_queue_messages_ready",
            "Messages ready to be delivered",
            ready,
        ),
        (
            "rabbitmq_queue_messages_unacked",
            "Messages delivered and not settled",
            unsettled,
        ),
        (
            "rabbitmq_queue_messages",
            "Sum of ready and unacknowledged messages",
            ready + unsettled,
        ),
    ];
    for (name, help, value) in rows {
        scrape.gauge(name, help, value)?;
    }
    Ok(())
}

fn raft_gauges(state: &MetricsState, scrape: &Scrape) -> prometheus::Result<()> {
    let make = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["set"]);
    let term = make("rabbitmq_raft_term_total", "Current Raft term")?;
    let commit = make("rabbitmq_raft_log_commit_index", "Raft commit index")?;
    let last = make(
        "rabbitmq_raft_log_last_written_index",
        "Raft last written index",
    )?;
    let snapshot = make("rabbitmq_raft_log_snapshot_index", "Raft snapshot index")?;
    let leading = make("leveret_set_leading", "Whether this node leads the set")?;
    let waiting = make(
        "leveret_pipe_waiting_bytes",
        "Bytes waiting in the pipe to the set",
    )?;
    let in_flight = make("leveret_pipe_in_flight", "Entries proposed and not applied")?;
    let int = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let mut groups = vec![("0".to_owned(), state.node.cluster.topology_group().clone())];
    for (set, handle) in state.node.cluster.sets() {
        let label = if set.is_local() {
            "local".to_owned()
        } else {
            set.to_string()
        };
        let (bytes, entries) = handle.outbox().depth();
        waiting.with_label_values(&[&label]).set(int(bytes as u64));
        in_flight
            .with_label_values(&[&label])
            .set(int(entries as u64));
        if let SetHandle::Replica { group, .. } = handle {
            groups.push((label, group.clone()));
        }
    }
    let mut members = Vec::new();
    for (label, group) in groups {
        let metrics = group.metrics();
        let leader = metrics.leader.map_or(0, |node| node.0);
        let applied = metrics.applied.unwrap_or(0);
        members.push((label.clone(), [leader, metrics.term, applied]));
        let label = &[label.as_str()];
        term.with_label_values(label).set(int(metrics.term));
        commit
            .with_label_values(label)
            .set(int(metrics.committed.unwrap_or(0)));
        last.with_label_values(label)
            .set(int(metrics.last_log.unwrap_or(0)));
        snapshot
            .with_label_values(label)
            .set(int(metrics.snapshot.unwrap_or(0)));
        leading
            .with_label_values(label)
            .set(i64::from(group.is_leader()));
    }
    member_gauges(scrape, &members)?;
    cluster_gauges(state, scrape)?;
    for family in [term, commit, last, snapshot, leading, waiting, in_flight] {
        scrape.0.register(Box::new(family))?;
    }
    Ok(())
}

/// Who leads each set in this node's eyes, in which term, and how far its replica is.
fn member_gauges(scrape: &Scrape, members: &[(String, [u64; 3])]) -> prometheus::Result<()> {
    let make = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["set"]);
    let gauges = [
        make("leveret_set_leader", "Id of the node that leads the set")?,
        make("leveret_set_term", "Raft term of the replica")?,
        make("leveret_set_applied", "Last entry the replica has applied")?,
    ];
    for (set, values) in members {
        for (gauge, value) in gauges.iter().zip(values) {
            let value = i64::try_from(*value).unwrap_or(i64::MAX);
            gauge.with_label_values(&[set]).set(value);
        }
    }
    for gauge in gauges {
        scrape.0.register(Box::new(gauge))?;
    }
    Ok(())
}

/// The cluster as this node sees it; lag and silence of members only of the sets it leads.
fn cluster_gauges(state: &MetricsState, scrape: &Scrape) -> prometheus::Result<()> {
    let make = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["set", "node"]);
    let lag = make("leveret_set_lag_entries", "Entries a member lacks")?;
    let silent = make(
        "leveret_set_silent_ms",
        "Since the leader last heard of a member",
    )?;
    let int = |value: u128| i64::try_from(value).unwrap_or(i64::MAX);
    let cluster = &state.node.cluster;
    let sets = cluster
        .sets()
        .filter_map(|(set, handle)| Some((set.to_string(), handle.group()?)));
    for (set, group) in sets.chain([("0".to_owned(), cluster.topology_group())]) {
        let last = group.metrics().last_log.unwrap_or(0);
        for (node, matched) in group.replication() {
            let behind = last.saturating_sub(matched.unwrap_or(0));
            let labels = [set.as_str(), &node.to_string()];
            lag.with_label_values(&labels).set(int(u128::from(behind)));
        }
        for (node, age) in group.heard().members {
            if let Some(age) = age {
                let labels = [set.as_str(), &node.to_string()];
                silent.with_label_values(&labels).set(int(age.as_millis()));
            }
        }
    }
    for family in [lag, silent] {
        scrape.0.register(Box::new(family))?;
    }
    let queues = IntGaugeVec::new(
        Opts::new("leveret_set_queues", "Queues with a part in the set"),
        &["set"],
    )?;
    let (nodes, draining) = cluster.topology.read(|topology| {
        for set in topology.sets() {
            let count = topology.queues_in(set.id);
            let label = set.id.to_string();
            queues
                .with_label_values(&[&label])
                .set(int(u128::from(count)));
        }
        (topology.nodes().count(), topology.draining().count())
    });
    scrape.0.register(Box::new(queues))?;
    scrape.gauge("leveret_nodes", "Members of the cluster", nodes as u64)?;
    let help = "Queues that are on their way to another set";
    scrape.gauge("leveret_queues_moving", help, draining as u64)
}

pub(super) fn open_fds() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}

pub(super) fn max_fds() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
