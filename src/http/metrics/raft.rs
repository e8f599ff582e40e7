//! Raft under RabbitMQ's names (those of 4.2, and the older ones dashboards still query), and what is our own: sets, pipes,
//! leases, logs, the controller.
//!
//! RabbitMQ has a Raft group per queue; here a broker set has one for all its queues. Its series carry the set, and as
//! `queue` its name, by which the Raft dashboard groups. Bounds: as many series as the node has replicas.

use super::MetricsState;
use super::text::{Kind, Metric, Text, labels};
use crate::base::SetId;
use crate::cluster::{Group, GroupMetrics, SetHandle};
use crate::model::set::Totals;

struct Replica {
    set: String,
    group: Group,
    metrics: GroupMetrics,
    latency: f64,
}

fn replicas(state: &MetricsState) -> Vec<Replica> {
    let cluster = &state.node.cluster;
    let topology = (SetId::TOPOLOGY, cluster.topology_group().clone(), None);
    let sets = cluster.sets().filter_map(|(set, handle)| {
        let group = handle.group()?.clone();
        Some((set, group, Some(handle.outbox().latency())))
    });
    std::iter::once(topology)
        .chain(sets)
        .map(|(set, group, latency)| Replica {
            set: set.0.to_string(),
            metrics: group.metrics(),
            latency: latency.map_or(0.0, |latency| latency.last.as_secs_f64()),
            group,
        })
        .collect()
}

const FIGURES: &[Metric<Replica, f64>] = &[
    ("raft_term_total", "Current Raft term number", term),
    ("raft_term", "Current Raft term number", term),
    ("raft_commit_index", "Raft commit index", committed),
    ("raft_log_commit_index", "Raft log commit index", committed),
    ("raft_last_written_index", "Raft last written index", last),
    (
        "raft_log_last_written_index",
        "Raft log last written index",
        last,
    ),
    ("raft_snapshot_index", "Raft snapshot index", snapshot),
    (
        "raft_log_snapshot_index",
        "Raft log snapshot index",
        snapshot,
    ),
    ("raft_last_applied", "Raft last applied index", applied),
    (
        "raft_log_last_applied_index",
        "Raft log last applied index",
        applied,
    ),
    (
        "raft_commit_latency_seconds",
        "From sending a batch of commands until it was applied here, the last one",
        |replica| replica.latency,
    ),
    (
        "raft_entry_commit_latency_seconds",
        "Time taken for a log entry to be committed, the last one",
        |replica| replica.latency,
    ),
];

/// RabbitMQ's. With objects, terms are told as 4.2 does.
pub fn figures(text: &mut Text, state: &MetricsState, objects: bool) {
    let replicas = replicas(state);
    let named = replicas.iter().map(|replica| {
        let queue = match replica.set.as_str() {
            "0" => "topology".to_owned(),
            set => format!("set {set}"),
        };
        labels(&[("set", &replica.set), ("vhost", ""), ("queue", &queue)])
    });
    let named: Vec<String> = named.collect();
    let rows = named.iter().map(String::as_str).zip(&replicas);
    text.families(None, FIGURES, rows);
    if !objects {
        let slowest = replicas.iter().map(|replica| replica.latency);
        let slowest = slowest.fold(0.0, f64::max);
        let help = "The slowest set's commit latency";
        text.family("raft_max_commit_latency_seconds", Kind::Gauge, help);
        text.sample("ra_system=\"quorum_queues\"", slowest);
    }
}

fn term(replica: &Replica) -> f64 {
    replica.metrics.term as f64
}

fn committed(replica: &Replica) -> f64 {
    replica.metrics.committed.unwrap_or(0) as f64
}

fn last(replica: &Replica) -> f64 {
    replica.metrics.last_log.unwrap_or(0) as f64
}

fn snapshot(replica: &Replica) -> f64 {
    replica.metrics.snapshot.unwrap_or(0) as f64
}

fn applied(replica: &Replica) -> f64 {
    replica.metrics.applied.unwrap_or(0) as f64
}

/// Our names.
const OURS: Option<&str> = Some("leveret_");

const OWN: &[Metric<Replica, u64>] = &[
    ("set_leading", "Whether this node leads the set", |r| {
        u64::from(r.group.is_leader())
    }),
    ("set_leader", "Id of the node that leads the set", |r| {
        r.metrics.leader.map_or(0, |node| node.0)
    }),
    ("set_term", "Raft term of the replica", |r| r.metrics.term),
    ("set_applied", "Last entry the replica has applied", |r| {
        r.metrics.applied.unwrap_or(0)
    }),
    ("set_proposals", "Proposals not yet applied", |r| {
        r.metrics.proposals_in_flight as u64
    }),
    ("log_writes_total", "Writes to the set's log", |r| {
        r.metrics.log.writes
    }),
    ("log_written_bytes_total", "Bytes of these writes", |r| {
        r.metrics.log.bytes_written
    }),
    (
        "log_tail_hits_total",
        "Entries read from the tail cache",
        |r| r.metrics.log.tail_hits,
    ),
    (
        "log_read_hits_total",
        "Entries read from the read cache",
        |r| r.metrics.log.read_hits,
    ),
    ("log_disk_reads_total", "Entries read from the disk", |r| {
        r.metrics.log.disk_reads
    }),
    (
        "log_queued_bytes",
        "Bytes waiting for the log's writer",
        |r| r.metrics.log.queued_bytes,
    ),
    ("log_purged_index", "Entries up to here are purged", |r| {
        r.metrics.purged.unwrap_or(0)
    }),
];

/// Our own.
pub fn own(text: &mut Text, state: &MetricsState) {
    let replicas = replicas(state);
    let named = replicas.iter().map(|one| labels(&[("set", &one.set)]));
    let named: Vec<String> = named.collect();
    let rows = named.iter().map(String::as_str).zip(&replicas);
    text.families(OURS, OWN, rows);
    syncs(text, &replicas);
    members(text, &replicas);
    pipes(text, state);
    leases(text, state);
    controller(text, state);
}

/// How long the log's groups took to become durable.
fn syncs(text: &mut Text, replicas: &[Replica]) {
    let name = "leveret_log_sync_seconds";
    text.append(&format!(
        "# HELP {name} Time of a write to the log and its sync\n# TYPE {name} histogram\n"
    ));
    for Replica { set, metrics, .. } in replicas {
        let (log, mut count) = (&metrics.log, 0);
        for (bound, own) in log.sync_bounds().iter().zip(&log.sync_micros) {
            count += own;
            let bound = *bound as f64 / 1e6;
            text.append(&format!(
                "{name}_bucket{{set=\"{set}\",le=\"{bound}\"}} {count}\n"
            ));
        }
        let count: u64 = log.sync_micros.iter().sum();
        let sum = log.sync_micros_sum as f64 / 1e6;
        text.append(&format!(
            "{name}_bucket{{set=\"{set}\",le=\"+Inf\"}} {count}\n\
             {name}_sum{{set=\"{set}\"}} {sum}\n{name}_count{{set=\"{set}\"}} {count}\n"
        ));
    }
}

/// How far behind and how silent the members are of the sets this node leads.
fn members(text: &mut Text, replicas: &[Replica]) {
    text.raw_family(
        "leveret_set_lag_entries",
        Kind::Gauge,
        "Entries a member lacks",
    );
    for Replica {
        set,
        group,
        metrics,
        ..
    } in replicas
    {
        let last = metrics.last_log.unwrap_or(0);
        for (node, matched) in group.replication() {
            let behind = last.saturating_sub(matched.unwrap_or(0));
            let node = node.to_string();
            text.sample(&labels(&[("set", set), ("node", &node)]), behind);
        }
    }
    let help = "Since the leader last heard of a member";
    text.raw_family("leveret_set_silent_ms", Kind::Gauge, help);
    for Replica { set, group, .. } in replicas {
        for (node, age) in group.heard().members {
            if let Some(age) = age {
                let node = node.to_string();
                let labels = labels(&[("set", set), ("node", &node)]);
                text.sample(&labels, age.as_millis());
            }
        }
    }
}

fn label(set: SetId) -> String {
    let set = match set.is_local() {
        true => "local".to_owned(),
        false => set.to_string(),
    };
    labels(&[("set", &set)])
}

/// This node's pipes to its sets.
fn pipes(text: &mut Text, state: &MetricsState) {
    const PIPES: &[Metric<SetHandle, f64>] = &[
        (
            "pipe_waiting_bytes",
            "Bytes waiting in the pipe to the set",
            |handle| handle.outbox().depth().0 as f64,
        ),
        (
            "pipe_in_flight",
            "Entries proposed and not applied",
            |handle| handle.outbox().depth().1 as f64,
        ),
        (
            "pipe_batches_total",
            "Batches that were applied",
            |handle| handle.outbox().latency().batches as f64,
        ),
        (
            "pipe_batch_seconds_total",
            "Time these batches took from this node until they were applied here",
            |handle| handle.outbox().latency().sum.as_secs_f64(),
        ),
    ];
    let sets = state.node.cluster.sets();
    let sets: Vec<(String, &SetHandle)> = sets.map(|(set, handle)| (label(set), handle)).collect();
    let rows = sets.iter().map(|(label, handle)| (label.as_str(), *handle));
    text.families(OURS, PIPES, rows);
}

/// What the machines of this node's replicas hold; the same on every replica of a set.
fn leases(text: &mut Text, state: &MetricsState) {
    const TOTALS: &[Metric<Totals, u64>] = &[
        (
            "set_messages_ready",
            "Ready messages of the set",
            |totals| totals.ready,
        ),
        ("set_leases", "Leased messages of the set", |totals| {
            totals.unsettled
        }),
        (
            "set_leases_expired_total",
            "Leases ended by their deadline",
            |totals| totals.leases_expired,
        ),
        (
            "set_late_settles_total",
            "Settles that named no running lease",
            |totals| totals.late_settles,
        ),
        (
            "set_refused_total",
            "Publishes refused by a length limit",
            |totals| totals.refused,
        ),
    ];
    let totals = state.node.cluster.sets().filter_map(|(set, handle)| {
        let totals = handle.with(|replica| replica.machine().totals())?;
        Some((label(set), totals))
    });
    let totals: Vec<(String, Totals)> = totals.collect();
    let rows = totals
        .iter()
        .map(|(label, totals)| (label.as_str(), totals));
    text.families(OURS, TOTALS, rows);
}

/// The cluster as its records say.
fn controller(text: &mut Text, state: &MetricsState) {
    let cluster = &state.node.cluster;
    let help = "Queues with a part in the set";
    text.raw_family("leveret_set_queues", Kind::Gauge, help);
    let (sets, nodes, draining) = cluster.topology.read(|topology| {
        let sets = topology.sets();
        let sets: Vec<_> = sets
            .map(|set| (label(set.id), topology.queues_in(set.id)))
            .collect();
        (sets, topology.nodes().count(), topology.draining().count())
    });
    for (label, queues) in &sets {
        text.sample(label, queues);
    }
    for (name, help, value) in [
        ("leveret_nodes", "Members of the cluster", nodes),
        (
            "leveret_queues_moving",
            "Queues that are on their way to another set",
            draining,
        ),
        (
            "leveret_controller",
            "Whether this node leads the topology, and so runs the controller",
            usize::from(cluster.topology_group().is_leader()),
        ),
    ] {
        text.raw_family(name, Kind::Gauge, help);
        text.sample("", value);
    }
    let own = cluster.node();
    let heard = cluster.topology_group().heard().members;
    let silent = heard.iter().filter(|(node, age)| {
        **node != own && age.is_none_or(|age| age > std::time::Duration::from_secs(5))
    });
    let silent = silent.count();
    let help = "Peers this node has not heard of for 5 s; known by the topology's leader";
    text.single("unreachable_cluster_peers_count", Kind::Gauge, help, silent);
}
