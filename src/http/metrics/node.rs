//! Who the node is, what it uses, and what it has done in all.

use std::collections::BTreeMap;

use super::MetricsState;
use super::text::{Kind, Text, labels};
use crate::base::{Clock, SystemClock};
use crate::broker::alarm;

/// The two series every panel of RabbitMQ's dashboards joins with.
pub fn identity(text: &mut Text, state: &MetricsState, endpoint: &str) {
    let names = &state.names;
    let cluster = state.node.cluster_name();
    let help = "RabbitMQ node & cluster identity info";
    text.raw_family("rabbitmq_identity_info", Kind::Untyped, help);
    let identity = labels(&[
        ("rabbitmq_node", &names.node),
        ("rabbitmq_cluster", &cluster),
        ("rabbitmq_cluster_permanent_id", &names.cluster_id),
        ("rabbitmq_endpoint", endpoint),
    ]);
    text.sample(&identity, 1);
    let help = "RabbitMQ & Erlang/OTP version info";
    text.raw_family("rabbitmq_build_info", Kind::Untyped, help);
    let build = labels(&[
        ("rabbitmq_version", &names.version),
        ("prometheus_plugin_version", &names.version),
        ("prometheus_client_version", env!("CARGO_PKG_VERSION")),
        ("erlang_version", "none"),
        ("product_version", env!("CARGO_PKG_VERSION")),
        ("product_name", &names.product),
    ]);
    text.sample(&build, 1);
}

/// What the node uses of the machine it is on, and its alarms.
pub fn figures(text: &mut Text, state: &MetricsState) {
    coarse(text, state);
    limits(text, state);
    persister(text, state);
    for (name, help, raised) in [
        (
            "alarms_memory_used_watermark",
            "is 1 if VM memory watermark alarm is in effect",
            state.node.alarm.borrow().memory,
        ),
        (
            "alarms_free_disk_space_watermark",
            "is 1 if free disk space watermark alarm is in effect",
            state.node.alarm.borrow().disk,
        ),
        (
            "alarms_file_descriptor_limit",
            "is 1 if file descriptor limit alarm is in effect",
            false,
        ),
    ] {
        text.single(name, Kind::Untyped, help, u8::from(raised));
    }
    let now = SystemClock.now().0 / 1000;
    let started = now.saturating_sub(state.started.elapsed().as_secs());
    let help = "Start time of the process since unix epoch in seconds";
    text.raw_family("process_start_time_seconds", Kind::Gauge, help);
    text.sample("", started);
}

/// One of the families of `/metrics/detailed` that are about the node.
pub fn detailed(text: &mut Text, state: &MetricsState, family: &str) {
    match family {
        "node_coarse_metrics" => coarse(text, state),
        "node_metrics" => limits(text, state),
        _ => persister(text, state),
    }
}

fn coarse(text: &mut Text, state: &MetricsState) {
    let usage = alarm::measure(&state.limits.data_dir);
    let stats = &state.node.stats;
    let rows = [
        ("process_open_fds", "Open file descriptors", open_fds()),
        (
            "process_open_tcp_sockets",
            "Open TCP sockets",
            u64::try_from(stats.connections.get()).unwrap_or(0),
        ),
        (
            "process_resident_memory_bytes",
            "Memory used in bytes",
            usage.memory_bytes,
        ),
        (
            "disk_space_available_bytes",
            "Disk space available in bytes",
            usage.disk_free_bytes,
        ),
        (
            "erlang_processes_used",
            "Tasks, which stand for Erlang's processes",
            tasks(),
        ),
    ];
    for (name, help, value) in rows {
        text.single(name, Kind::Gauge, help, value);
    }
    for (name, help) in [
        (
            "erlang_gc_runs_total",
            "Garbage collector runs: there is none",
        ),
        (
            "erlang_gc_reclaimed_bytes_total",
            "Bytes reclaimed by a garbage collector: there is none",
        ),
        (
            "erlang_scheduler_context_switches_total",
            "Context switches of an Erlang scheduler: there is none",
        ),
    ] {
        text.single(name, Kind::Counter, help, 0);
    }
}

fn limits(text: &mut Text, state: &MetricsState) {
    let limits = &state.limits;
    let rows = [
        ("process_max_fds", "Open file descriptors limit", max_fds()),
        (
            "process_max_tcp_sockets",
            "Open TCP sockets limit",
            max_fds(),
        ),
        (
            "resident_memory_limit_bytes",
            "Memory high watermark in bytes",
            limits.memory_bytes(),
        ),
        (
            "disk_space_available_limit_bytes",
            "Free disk space low watermark in bytes",
            limits.disk_free_bytes(),
        ),
        ("erlang_processes_limit", "RabbitMQ's default", 1_048_576),
        ("erlang_scheduler_run_queue", "Runnable tasks", 0),
        (
            "erlang_net_ticktime_seconds",
            "Inter-node heartbeat interval",
            60,
        ),
    ];
    for (name, help, value) in rows {
        text.single(name, Kind::Gauge, help, value);
    }
    let uptime = state.started.elapsed().as_secs_f64();
    let help = "Node uptime in seconds";
    text.single("erlang_uptime_seconds", Kind::Gauge, help, uptime);
}

/// What the logs of this node's sets wrote and read.
/// What RabbitMQ counted before it kept messages in logs, and shows as 0 since.
const NOTHING: [&str; 9] = [
    "io_seek_ops_total",
    "io_reopen_ops_total",
    "io_seek_time_seconds_total",
    "schema_db_ram_tx_total",
    "schema_db_disk_tx_total",
    "msg_store_read_total",
    "msg_store_write_total",
    "queue_index_read_ops_total",
    "queue_index_write_ops_total",
];

fn persister(text: &mut Text, state: &MetricsState) {
    let cluster = &state.node.cluster;
    let (mut writes, mut bytes, mut syncs, mut micros, mut reads) = (0, 0, 0, 0, 0);
    let groups = cluster.sets().filter_map(|(_, handle)| handle.group());
    for group in groups.chain([cluster.topology_group()]) {
        let log = group.metrics().log;
        writes += log.writes;
        bytes += log.bytes_written;
        syncs += log.syncs;
        micros += log.sync_micros_sum;
        reads += log.disk_reads;
    }
    for (name, help, value) in [
        (
            "io_read_ops_total",
            "Total number of I/O read operations",
            reads,
        ),
        (
            "io_write_ops_total",
            "Total number of I/O write operations",
            writes,
        ),
        (
            "io_write_bytes_total",
            "Total number of I/O bytes written",
            bytes,
        ),
        (
            "io_sync_ops_total",
            "Total number of I/O sync operations",
            syncs,
        ),
    ] {
        text.single(name, Kind::Counter, help, value);
    }
    for name in NOTHING {
        text.single(name, Kind::Counter, "Nothing here is of this kind", 0);
    }
    let help = "Total time of writes and the syncs that follow";
    let seconds = micros as f64 / 1e6;
    text.single("io_sync_time_seconds_total", Kind::Counter, help, seconds);
}

/// Connections, channels, queues that came and went.
pub fn churn(text: &mut Text, state: &MetricsState) {
    let stats = &state.node.stats;
    for (name, help, value) in [
        (
            "connections_opened_total",
            "Total number of connections opened",
            &stats.connections_opened,
        ),
        (
            "connections_closed_total",
            "Total number of connections closed",
            &stats.connections_closed,
        ),
        (
            "channels_opened_total",
            "Total number of channels opened",
            &stats.channels_opened,
        ),
        (
            "channels_closed_total",
            "Total number of channels closed",
            &stats.channels_closed,
        ),
        (
            "queues_declared_total",
            "Total number of queues declared",
            &stats.queues_declared,
        ),
        (
            "queues_created_total",
            "Total number of queues created",
            &stats.queues_created,
        ),
        (
            "queues_deleted_total",
            "Total number of queues deleted",
            &stats.queues_deleted,
        ),
    ] {
        text.single(name, Kind::Counter, help, value.get());
    }
}

/// Logins by protocol.
pub fn auth(text: &mut Text, state: &MetricsState) {
    let stats = &state.node.stats;
    for (name, help, amqp, http) in [
        (
            "auth_attempts_total",
            "Total number of authorization attempts",
            &stats.auth_attempts,
            &stats.http_auth_attempts,
        ),
        (
            "auth_attempts_succeeded_total",
            "Total number of successful authentication attempts",
            &stats.auth_attempts_succeeded,
            &stats.http_auth_attempts_succeeded,
        ),
        (
            "auth_attempts_failed_total",
            "Total number of failed authentication attempts",
            &stats.auth_attempts_failed,
            &stats.http_auth_attempts_failed,
        ),
    ] {
        text.family(name, Kind::Counter, help);
        text.sample("protocol=\"amqp091\"", amqp.get());
        text.sample("protocol=\"http\"", http.get());
    }
}

/// What RabbitMQ sums up over channels, queues and exchanges. These only rise: they do not fall with a closed channel.
pub fn sums(text: &mut Text, state: &MetricsState) {
    let stats = &state.node.stats;
    for (what, help) in [("channel", "on channels"), ("queue", "from queues")] {
        for (name, value) in [
            ("get_ack_total", stats.get_manual.get()),
            ("get_total", stats.get_auto.get()),
            ("get_empty_total", stats.get_empty.get()),
            ("messages_delivered_ack_total", stats.delivered_manual.get()),
            ("messages_delivered_total", stats.delivered_auto.get()),
            ("messages_redelivered_total", stats.redelivered.get()),
            ("messages_acked_total", stats.acknowledged.get()),
        ] {
            let help = format!("{} {help}", name.replace('_', " "));
            text.single(&format!("{what}_{name}"), Kind::Counter, &help, value);
        }
    }
    for (what, help) in [("channel", "on channels"), ("exchange", "to exchanges")] {
        for (name, value) in [
            ("messages_published_total", stats.received.get()),
            ("messages_confirmed_total", stats.confirmed.get()),
            (
                "messages_unroutable_returned_total",
                stats.unroutable_returned.get(),
            ),
            (
                "messages_unroutable_dropped_total",
                stats.unroutable_dropped.get(),
            ),
        ] {
            let help = format!("{} {help}", name.replace('_', " "));
            text.single(&format!("{what}_{name}"), Kind::Counter, &help, value);
        }
    }
    let consumers = stats.consumers.get();
    let help = "Consumers on channels";
    text.single("channel_consumers", Kind::Gauge, help, consumers);
    let help = "Channels on connections";
    let channels = stats.channels.get();
    text.single("connection_channels", Kind::Gauge, help, channels);
    text.family(
        "global_consumers",
        Kind::Gauge,
        "Current number of consumers",
    );
    text.sample("protocol=\"amqp091\"", consumers);
    // A channel that has published is a publisher.
    let clients = state.node.clients.all();
    let meters = clients.iter().flat_map(|client| client.meters());
    let publishes = |meter: &std::sync::Arc<crate::broker::ChannelMeter>| {
        meter.counts.read().get(crate::broker::Count::Publish) > 0
    };
    let publishers = meters.filter(publishes).count();
    text.family(
        "global_publishers",
        Kind::Gauge,
        "Current number of publishers",
    );
    text.sample("protocol=\"amqp091\"", publishers);
}

/// Memory by part, under RabbitMQ's names. One process without parts has all of it in one.
pub fn memory(text: &mut Text) {
    const PARTS: [&str; 25] = [
        "code_module",
        "client_connection_reader",
        "client_connection_writer",
        "client_connection_channel",
        "client_connection_other",
        "classic_queue_erlang_process",
        "quorum_queue_erlang_process",
        "quorum_queue_dlx_erlang_process",
        "stream_erlang_process",
        "stream_replica_reader_erlang_process",
        "stream_coordinator_erlang_process",
        "plugin",
        "modern_metadata_store",
        "metrics",
        "management_stats_db",
        "classic_metadata_store",
        "quorum_queue_ets_table",
        "modern_metadata_store_ets_table",
        "other_ets_table",
        "binary_heap",
        "message_index",
        "atom_table",
        "other_system",
        "runtime_allocated_unused",
        "runtime_reserved_unallocated",
    ];
    for part in PARTS {
        let name = format!("memory_{part}_bytes");
        text.single(&name, Kind::Gauge, "Not told apart from the rest", 0);
    }
    let used = alarm::resident_bytes().unwrap_or(0);
    let help = "Memory of the process";
    text.single("memory_other_erlang_process_bytes", Kind::Gauge, help, used);
}

/// Open file descriptors.
pub fn open_fds() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}

/// Tasks of the runtime this is called on: what Erlang's processes are to RabbitMQ, so at least one.
pub fn tasks() -> u64 {
    let runtime = tokio::runtime::Handle::try_current();
    runtime.map_or(0, |runtime| runtime.metrics().num_alive_tasks() as u64)
}

/// How many there may be.
pub fn max_fds() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// The shovels that run on this node, by how they are (RabbitMQ's `rabbitmq_shovel_prometheus`); nothing where none is.
pub fn shovels(text: &mut Text, state: &MetricsState) {
    let mut counts = BTreeMap::new();
    for view in state.shovels.all() {
        *counts.entry(view.state.name()).or_insert(0u32) += 1;
    }
    if counts.is_empty() {
        return;
    }
    let help = "Current number of dynamic shovels";
    text.raw_family("rabbitmq_shovel_dynamic", Kind::Gauge, help);
    for (status, count) in counts {
        text.sample(&labels(&[("status", status)]), count);
    }
}
