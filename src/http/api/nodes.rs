//! The members of the cluster: each tells of itself; one that does not answer is shown as not running.

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::history::Ranges;
use super::{Answer, Api, Context, overview, peers};
use crate::base::NodeId;
use crate::broker::alarm;
use crate::model::topology::{NodeRecord, NodeState};

/// Parts of memory that tools insist on; one process has one figure.
const MEMORY_PARTS: [&str; 25] = [
    "connection_readers",
    "connection_writers",
    "connection_channels",
    "connection_other",
    "queue_procs",
    "quorum_queue_procs",
    "quorum_queue_dlx_procs",
    "stream_queue_procs",
    "stream_queue_replica_reader_procs",
    "stream_queue_coordinator_procs",
    "plugins",
    "metadata_store",
    "metrics",
    "mgmt_db",
    "mnesia",
    "quorum_ets",
    "metadata_store_ets",
    "other_ets",
    "binary",
    "msg_index",
    "code",
    "atom",
    "other_system",
    "allocated_unused",
    "reserved_unallocated",
];

/// What RabbitMQ has shown since long ago, and shows as nothing since 4.0.
const IO: &[&str] = &[
    "io_read_count",
    "io_read_bytes",
    "io_read_avg_time",
    "io_write_count",
    "io_write_bytes",
    "io_write_avg_time",
    "io_sync_count",
    "io_sync_avg_time",
    "io_seek_count",
    "io_seek_avg_time",
    "io_reopen_count",
    "mnesia_ram_tx_count",
    "mnesia_disk_tx_count",
    "msg_store_read_count",
    "msg_store_write_count",
    "queue_index_read_count",
    "queue_index_write_count",
];

pub async fn answer(context: &Context) -> Answer {
    let path = context.path();
    let cluster = &context.node().cluster;
    let mut records: Vec<NodeRecord> = cluster
        .topology
        .read(|topology| topology.nodes().cloned().collect());
    if let Some(name) = path.get(1) {
        records.retain(|record| record.name == **name);
        if records.is_empty() {
            return Err(ApiError::not_found());
        }
    }
    let memory = path.get(2) == Some(&"memory") || context.request.is_set("memory");
    let rows = rows(context, &records, memory).await;
    match (path.as_slice(), rows.first()) {
        (["nodes"], _) => context.all(rows),
        (["nodes", _], Some(row)) => context.one(row.clone()),
        (["nodes", _, "memory", "ets", ..], Some(_)) => {
            context.one(json!({"ets_tables_memory": {}}))
        }
        (["nodes", _, "memory", rest @ ..], Some(row)) => {
            let parts = &row["memory"];
            let parts = match rest {
                ["relative"] => relative(parts),
                _ => parts.clone(),
            };
            context.one(json!({"memory": parts}))
        }
        _ => Err(ApiError::not_found()),
    }
}

/// Rows of these nodes; one that does not answer is shown as not running.
async fn rows(context: &Context, records: &[NodeRecord], memory: bool) -> Vec<Value> {
    let own = context.node().cluster.node();
    let question = json!({
        "what": "node",
        "memory": memory,
        "ranges": context.ranges.to_json(),
    });
    let others: Vec<NodeId> = records
        .iter()
        .map(|record| record.id)
        .filter(|id| *id != own)
        .collect();
    let answers = match others.is_empty() {
        true => Vec::new(),
        false => peers::others(context, &question, Some(&others)).await,
    };
    let row = |record: &NodeRecord| {
        let known = match record.id == own {
            true => Some(self::own(&context.api, memory, context.ranges)),
            false => {
                let answer = answers.iter().find(|(node, ..)| *node == record.id);
                answer.map(|(_, _, row)| row.clone())
            }
        };
        let running = known.is_some();
        let mut row = json!({
            "name": record.name,
            "type": "disc",
            "running": running,
            "being_drained": record.state != NodeState::Active
                || (record.id == own && context.node().is_suspended()),
        });
        match (row.as_object_mut(), known) {
            (Some(row), Some(Value::Object(more))) => row.extend(more),
            (Some(row), _) => {
                row.insert("partitions".to_owned(), json!([]));
                row.insert("enabled_plugins".to_owned(), json!([]));
                if memory {
                    row.insert("memory".to_owned(), json!("not_available"));
                }
            }
            _ => {}
        }
        row
    };
    records.iter().map(row).collect()
}

fn memory(api: &Api) -> Value {
    let used = alarm::measure(&api.limits.data_dir).memory_bytes;
    let mut parts: Map<String, Value> = MEMORY_PARTS
        .iter()
        .map(|part| ((*part).to_owned(), json!(0)))
        .collect();
    parts.insert("other_proc".to_owned(), json!(used));
    parts.insert("strategy".to_owned(), json!("rss"));
    let total = json!({"erlang": used, "rss": used, "allocated": used});
    parts.insert("total".to_owned(), total);
    Value::Object(parts)
}

/// Percent of all; what is there is at least 1.
fn relative(memory: &Value) -> Value {
    let Some(parts) = memory.as_object() else {
        return memory.clone();
    };
    let total = memory["total"]["rss"].as_u64().unwrap_or(0).max(1);
    let numbers = parts
        .iter()
        .filter_map(|(name, part)| Some((name, part.as_u64()?)));
    let mut shares: Map<String, Value> = numbers
        .map(|(name, bytes)| {
            let share = bytes.saturating_mul(100) / total;
            let share = if bytes > 0 { share.max(1) } else { 0 };
            (name.clone(), json!(share))
        })
        .collect();
    shares.insert("total".to_owned(), json!(100));
    Value::Object(shares)
}

/// This node, for itself and for others.
pub fn own(api: &Api, with_memory: bool, ranges: Ranges) -> Value {
    let mut row = measured(api);
    if let Some(row) = row.as_object_mut() {
        row.extend(constants(api).as_object().cloned().unwrap_or_default());
        row.extend(api.samples.churn(api, ranges));
        row.extend(api.samples.gauges(api, ranges));
        for name in IO {
            row.insert((*name).to_owned(), json!(0));
            row.insert(format!("{name}_details"), json!({"rate": 0.0}));
        }
        if with_memory {
            row.insert("memory".to_owned(), memory(api));
        }
    }
    row
}

fn measured(api: &Api) -> Value {
    let alarms = *api.node.alarm.borrow();
    let uptime = u64::try_from(api.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    json!({
        "os_pid": std::process::id().to_string(),
        "uptime": uptime,
        "run_queue": 0,
        "processors": std::thread::available_parallelism().map_or(1, usize::from),
        "fd_total": super::super::metrics::max_fds(),
        "sockets_total": 0,
        "proc_total": 1_048_576,
        "mem_limit": api.limits.memory_bytes(),
        "mem_alarm": alarms.memory,
        "mem_calculation_strategy": "rss",
        "disk_free_limit": api.limits.disk_free_bytes(),
        "disk_free_alarm": alarms.disk,
    })
}

/// What is served under RabbitMQ's names of plugins.
fn plugins(api: &Api) -> Vec<&'static str> {
    let serves = |end: &str| api.listeners.iter().any(|one| one.protocol.ends_with(end));
    let mut names = Vec::new();
    if serves("http") || serves("https") {
        names.extend(["rabbitmq_management", "rabbitmq_management_agent"]);
    }
    names.extend(serves("prometheus").then_some("rabbitmq_prometheus"));
    names.extend(["rabbitmq_shovel", "rabbitmq_shovel_management"]);
    names
}

fn constants(api: &Api) -> Value {
    let names = &api.names;
    let mechanisms = api.node.access.load().session_tls.mechanisms.clone();
    let mechanisms = mechanisms.split(' ');
    let mechanisms: Vec<Value> = mechanisms
        .map(|name| json!({"name": name, "description": format!("SASL {name}"), "enabled": true}))
        .collect();
    json!({
        "rates_mode": "basic",
        "net_ticktime": 60,
        "db_dir": api.limits.data_dir.display().to_string(),
        "config_files": api.options.config_files,
        "log_files": api.options.log_files,
        "enabled_plugins": plugins(api),
        "applications": [{"name": "rabbit", "description": "RabbitMQ", "version": names.version}],
        "exchange_types": overview::exchange_types(),
        "auth_mechanisms": mechanisms,
        "contexts": overview::contexts(api),
        "partitions": [],
        "cluster_links": [],
        "metrics_gc_queue_length": {},
        "ra_open_file_metrics": {},
        "rabbitmq_version": names.version,
        "erlang_version": "27.0",
        "erlang_full_version": "none: Leveret is written in Rust",
        "crypto_lib_version": "",
    })
}
