//! The members of the cluster. This node in full; of the others whether they answer.

use std::sync::atomic::Ordering;

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::{Answer, Context, overview};
use crate::base::NodeId;
use crate::broker::alarm;
use crate::model::topology::NodeState;

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

struct Member {
    id: NodeId,
    name: String,
    draining: bool,
    answers: bool,
}

pub async fn answer(context: &Context) -> Answer {
    let path = context.path();
    let members = members(context).await;
    let Some(name) = path.get(1) else {
        return context.all(members.iter().map(|member| row(context, member)).collect());
    };
    let member = members.iter().find(|member| member.name == **name);
    let member = member.ok_or_else(ApiError::not_found)?;
    if path.get(2) == Some(&"memory") {
        return context.one(json!({"memory": memory(context, member)}));
    }
    let mut row = row(context, member);
    if context.request.is_set("memory") {
        row["memory"] = memory(context, member);
    }
    context.one(row)
}

async fn members(context: &Context) -> Vec<Member> {
    let cluster = &context.node().cluster;
    let answering = cluster.answering().await;
    let records: Vec<_> = cluster
        .topology
        .read(|topology| topology.nodes().cloned().collect());
    let member = |record: crate::model::topology::NodeRecord| Member {
        answers: answering.contains(&record.id),
        draining: record.state != NodeState::Active,
        id: record.id,
        name: record.name,
    };
    records.into_iter().map(member).collect()
}

fn memory(context: &Context, member: &Member) -> Value {
    if member.id != context.node().cluster.node() {
        return json!("not_available");
    }
    let used = alarm::measure(&context.api.limits.data_dir).memory_bytes;
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

fn row(context: &Context, member: &Member) -> Value {
    let mut row = json!({
        "name": member.name,
        "type": "disc",
        "running": member.answers,
        "being_drained": member.draining,
    });
    if member.id != context.node().cluster.node() {
        return row;
    }
    let more = [measured(context), constants(context)];
    if let Some(row) = row.as_object_mut() {
        for more in more {
            row.extend(more.as_object().cloned().unwrap_or_default());
        }
        let churn = context.api.samples.churn(&context.api, None);
        row.extend(churn.as_object().cloned().unwrap_or_default());
        for name in [
            "fd_used",
            "sockets_used",
            "proc_used",
            "mem_used",
            "disk_free",
        ]
        .into_iter()
        .chain(["gc_num", "gc_bytes_reclaimed", "context_switches"])
        {
            row.insert(format!("{name}_details"), json!({"rate": 0.0}));
        }
    }
    row
}

fn measured(context: &Context) -> Value {
    let api = &context.api;
    let usage = alarm::measure(&api.limits.data_dir);
    let alarms = *context.node().alarm.borrow();
    let uptime = u64::try_from(api.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let clients = context.node().clients.all();
    let channels: u32 = clients
        .iter()
        .map(|client| client.channels.load(Ordering::Relaxed))
        .sum();
    json!({
        "os_pid": std::process::id().to_string(),
        "uptime": uptime,
        "run_queue": 0,
        "processors": std::thread::available_parallelism().map_or(1, usize::from),
        "fd_used": super::super::metrics::open_fds(),
        "fd_total": super::super::metrics::max_fds(),
        "sockets_used": 0,
        "sockets_total": 0,
        "proc_used": clients.len() as u64 + u64::from(channels),
        "proc_total": 1_048_576,
        "mem_used": usage.memory_bytes,
        "mem_limit": api.limits.memory_bytes(),
        "mem_alarm": alarms.memory,
        "mem_calculation_strategy": "rss",
        "disk_free": usage.disk_free_bytes,
        "disk_free_limit": api.limits.disk_free_bytes(),
        "disk_free_alarm": alarms.disk,
    })
}

fn constants(context: &Context) -> Value {
    let names = &context.api.names;
    let mechanisms = context.node().access.load().session_tls.mechanisms.clone();
    let mechanisms = mechanisms.split(' ');
    let mechanisms: Vec<Value> = mechanisms
        .map(|name| json!({"name": name, "description": format!("SASL {name}"), "enabled": true}))
        .collect();
    json!({
        "gc_num": 0,
        "gc_bytes_reclaimed": 0,
        "context_switches": 0,
        "rates_mode": "basic",
        "net_ticktime": 60,
        "db_dir": context.api.limits.data_dir.display().to_string(),
        "config_files": [],
        "log_files": ["<stdout>"],
        "enabled_plugins": ["rabbitmq_management", "rabbitmq_management_agent", "rabbitmq_prometheus"],
        "applications": [{"name": "rabbit", "description": "RabbitMQ", "version": names.version}],
        "exchange_types": overview::exchange_types(),
        "auth_mechanisms": mechanisms,
        "contexts": overview::contexts(context),
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
