//! Queues: list, look at, declare, delete, purge.
//!
//! Figures come from the machines of the sets this node has; of a queue elsewhere they are asked for, within
//! [`ASK_LIMIT`] and for at most [`ASKED_MAX`] queues of one answer.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::error::ApiError;
use super::{Answer, Context, Reply, connections, json as values, list, put};
use crate::base::{NodeId, SetId};
use crate::broker::Direct;
use crate::model::set::{Flow, QueueStats};
use crate::model::topology::{QueueKind, QueueRecord};

const ASK_LIMIT: Duration = Duration::from_secs(2);
const ASKED_MAX: usize = 500;

pub async fn answer(context: &Context) -> Answer {
    let path = context.path();
    match (path.as_slice(), context.request.method.as_str()) {
        (["queues"] | ["queues", "detailed"], _) => all(context, None).await,
        (["queues", vhost], _) => all(context, Some(vhost)).await,
        (["queues", vhost, name], "GET") => one(context, vhost, name).await,
        (["queues", vhost, name], "PUT") => declare(context, vhost, name).await,
        (["queues", vhost, name], "DELETE") => {
            check(context, vhost, name)?;
            let request = &context.request;
            let (unused, empty) = (request.is_set("if-unused"), request.is_set("if-empty"));
            let direct = context.direct(vhost);
            direct.delete_queue(name, unused, empty).await?;
            Ok(Reply::Done)
        }
        (["queues", vhost, name, "contents"], _) => {
            check(context, vhost, name)?;
            context.direct(vhost).purge(name).await?;
            Ok(Reply::Done)
        }
        (["queues", vhost, name, "actions"], _) => {
            check(context, vhost, name)?;
            let body = context.request.object()?;
            body.need(&["action"])?;
            let action = body.text("action")?.unwrap_or_default();
            Err(ApiError::bad_request(format!(
                "{{unknown,<<\"{action}\">>}}"
            )))
        }
        _ => Err(ApiError::not_found()),
    }
}

fn record(context: &Context, vhost: &str, name: &str) -> Option<QueueRecord> {
    let topology = &context.node().cluster.topology;
    topology.read(|topology| topology.queue(vhost, name).cloned())
}

fn check(context: &Context, vhost: &str, name: &str) -> Result<(), ApiError> {
    let known = record(context, vhost, name);
    known.map(drop).ok_or_else(ApiError::not_found)
}

async fn all(context: &Context, vhost: Option<&str>) -> Answer {
    let wanted = context.wanted_vhost(vhost);
    let topology = &context.node().cluster.topology;
    let names: Vec<(String, String)> = topology.read(|topology| {
        let queues = topology.queues();
        let queues =
            queues.filter(|queue| wanted.as_ref().is_none_or(|vhost| **vhost == *queue.vhost));
        queues
            .map(|queue| (queue.vhost.to_string(), queue.name.clone()))
            .collect()
    });
    let mut seen = hashbrown::HashMap::new();
    let names: Vec<_> = names
        .into_iter()
        .filter(|(vhost, _)| match seen.get(vhost) {
            Some(known) => *known,
            None => {
                let sees = context.sees(vhost);
                seen.insert(vhost.clone(), sees);
                sees
            }
        })
        .collect();
    let chosen = list::choose(&context.request, names, Clone::clone)?;
    let rows = rendered(context, &chosen.rows).await;
    let rows = chosen.rest.finish(&context.request, rows)?;
    Ok(Reply::Json(rows))
}

async fn rendered(context: &Context, names: &[(String, String)]) -> Vec<Value> {
    let topology = &context.node().cluster.topology;
    let records: Vec<QueueRecord> = topology.read(|topology| {
        let records = names.iter();
        let records = records.filter_map(|(vhost, name)| topology.queue(vhost, name));
        records.cloned().collect()
    });
    let bare = context.request.is_set("disable_stats");
    let totals = !bare || context.request.is_set("enable_queue_totals");
    let mut figures: Vec<Option<QueueStats>> = match totals {
        true => records.iter().map(|record| here(context, record)).collect(),
        false => records
            .iter()
            .map(|_| Some(QueueStats::default()))
            .collect(),
    };
    let mut asked = Vec::new();
    for (at, record) in records.iter().enumerate() {
        if figures[at].is_none() && asked.len() < ASKED_MAX {
            asked.push(async move { (at, elsewhere(context, record).await) });
        }
    }
    for (at, stats) in join_all(asked).await {
        figures[at] = stats;
    }
    for (record, stats) in records.iter().zip(&mut figures) {
        if let (QueueKind::Stream, Some(stats)) = (record.kind, stats) {
            // What a stream's consumers hold is still in the stream.
            (stats.unsettled, stats.unsettled_bytes) = (0, 0);
        }
    }
    let names = node_names(context);
    let rows = records.iter().zip(figures);
    rows.map(|(record, stats)| {
        let mut row = declared(context, &names, record, stats.is_some());
        if totals {
            counts(&mut row, &stats.unwrap_or_default());
        }
        if !bare {
            details(context, &mut row, record, &stats.unwrap_or_default());
        }
        row
    })
    .collect()
}

/// Figures of a queue all of whose parts are on this node.
fn here(context: &Context, record: &QueueRecord) -> Option<QueueStats> {
    let mut all = QueueStats::default();
    for set in record.sets() {
        let handle = context.node().cluster.sets().find(|(id, _)| *id == set)?.1;
        let stats = handle.with(|replica| replica.machine().queue_stats(record.id))?;
        let stats = stats.unwrap_or_default();
        all.ready += stats.ready;
        all.ready_bytes += stats.ready_bytes;
        all.unsettled += stats.unsettled;
        all.unsettled_bytes += stats.unsettled_bytes;
        all.delayed += stats.delayed;
        all.dead_letters += stats.dead_letters;
        all.consumers = all.consumers.max(stats.consumers);
        all.active = all.active.or(stats.active);
    }
    Some(all)
}

/// What went through the parts of a queue that are on this node.
fn flow(context: &Context, record: &QueueRecord) -> Flow {
    let mut all = Flow::default();
    let cluster = &context.node().cluster;
    for (_, handle) in cluster.sets().filter(|(set, _)| record.lives_in(*set)) {
        let flow = handle.with(|replica| replica.machine().flow(record.id));
        let flow = flow.flatten().unwrap_or_default();
        all.published += flow.published;
        all.delivered += flow.delivered;
        all.delivered_auto += flow.delivered_auto;
        all.got += flow.got;
        all.got_auto += flow.got_auto;
        all.redelivered += flow.redelivered;
        all.acked += flow.acked;
    }
    all
}

async fn elsewhere(context: &Context, record: &QueueRecord) -> Option<QueueStats> {
    let direct = Direct::new(context.node(), "", &record.vhost);
    let asked = tokio::time::timeout(ASK_LIMIT, direct.counts(record)).await;
    let [ready, unsettled, consumers] = asked.ok()?.ok()?;
    Some(QueueStats {
        ready,
        unsettled,
        consumers: u32::try_from(consumers).unwrap_or(u32::MAX),
        ..QueueStats::default()
    })
}

/// Node names by id.
pub fn node_names(context: &Context) -> Vec<(NodeId, String)> {
    let topology = &context.node().cluster.topology;
    topology.read(|topology| {
        let nodes = topology.nodes();
        nodes.map(|node| (node.id, node.name.clone())).collect()
    })
}

fn name_of(names: &[(NodeId, String)], id: NodeId) -> String {
    let known = names.iter().find(|(known, _)| *known == id);
    known.map_or_else(|| format!("node-{id}"), |(_, name)| name.clone())
}

/// Who leads a set and who has it; a leader this node does not know is the one that should lead.
fn members(
    context: &Context,
    names: &[(NodeId, String)],
    set: SetId,
) -> (Option<String>, Vec<String>) {
    if let Some(node) = set.local_node() {
        let name = name_of(names, node);
        return (Some(name.clone()), vec![name]);
    }
    let cluster = &context.node().cluster;
    let handle = cluster.sets().find(|(id, _)| *id == set);
    let known = handle.and_then(|(_, handle)| handle.group().map(|group| group.metrics().leader));
    let record = cluster.topology.read(|topology| topology.set(set).cloned());
    let members = record.iter().flat_map(|record| &record.members);
    let members = members.map(|id| name_of(names, *id)).collect();
    let leader = match known {
        Some(leader) => leader,
        None => record.map(|record| record.leader),
    };
    (leader.map(|id| name_of(names, id)), members)
}

fn declared(
    context: &Context,
    names: &[(NodeId, String)],
    record: &QueueRecord,
    answered: bool,
) -> Value {
    let (leader, members) = members(context, names, record.set());
    let state = match (answered, leader.is_some()) {
        (true, true) => "running",
        (true, false) => "minority",
        (false, _) => "down",
    };
    let effective = record.effective.as_ref();
    let mut row = json!({
        "name": record.name,
        "vhost": &*record.vhost,
        "type": record.kind.name(),
        "durable": record.durable,
        "auto_delete": record.auto_delete,
        "exclusive": record.exclusive.is_some(),
        "arguments": values::from_table(&record.arguments),
        "node": leader.clone().unwrap_or_else(|| name_of(names, record.node)),
        "state": state,
        "internal": false,
        "internal_owner": false,
        "policy": effective.and_then(|effective| effective.policy.clone()),
        "operator_policy": effective.and_then(|effective| effective.operator.clone()),
        "effective_policy_definition": effective
            .map_or_else(|| json!({}), |effective| values::from_table(&effective.definition)),
        "storage_version": 2,
    });
    if record.kind != QueueKind::Classic {
        row["leader"] = json!(leader);
        row["online"] = json!(members);
        row["members"] = json!(members);
    }
    row
}

fn rate_of_nothing() -> Value {
    json!({"rate": 0.0})
}

fn counts(row: &mut Value, stats: &QueueStats) {
    let ready = stats.ready + stats.delayed;
    let pairs = [
        ("messages", ready + stats.unsettled),
        ("messages_ready", ready),
        ("messages_unacknowledged", stats.unsettled),
    ];
    for (name, value) in pairs {
        row[name] = json!(value);
        row[format!("{name}_details")] = rate_of_nothing();
    }
    row["consumers"] = json!(stats.consumers);
}

fn details(context: &Context, row: &mut Value, record: &QueueRecord, stats: &QueueStats) {
    let ready = stats.ready + stats.delayed;
    let all_bytes = stats.ready_bytes + stats.unsettled_bytes;
    let persistent = if record.durable {
        ready + stats.unsettled
    } else {
        0
    };
    let pairs = [
        ("messages_ram", 0),
        ("messages_ready_ram", 0),
        ("messages_unacknowledged_ram", 0),
        ("messages_persistent", persistent),
        ("messages_paged_out", 0),
        ("message_bytes", all_bytes),
        ("message_bytes_ready", stats.ready_bytes),
        ("message_bytes_unacknowledged", stats.unsettled_bytes),
        ("message_bytes_ram", 0),
        (
            "message_bytes_persistent",
            if record.durable { all_bytes } else { 0 },
        ),
        ("message_bytes_paged_out", 0),
        ("messages_dlx", stats.dead_letters),
        ("message_bytes_dlx", 0),
        ("memory", 0),
        ("reductions", 0),
    ];
    for (name, value) in pairs {
        row[name] = json!(value);
    }
    row["reductions_details"] = rate_of_nothing();
    row["message_stats"] = context.api.samples.queue(record.id, flow(context, record));
    let used = if stats.consumers > 0 { 1.0 } else { 0.0 };
    let single = record
        .config(&context.node().options.queue_defaults)
        .single_active;
    let active = match single {
        true => u32::from(stats.active.is_some()),
        false => stats.consumers,
    };
    row["active_consumers"] = json!(active);
    row["consumer_utilisation"] = json!(used);
    row["consumer_capacity"] = json!(used);
    row["exclusive_consumer_tag"] = Value::Null;
    row["single_active_consumer_tag"] = Value::Null;
    row["head_message_timestamp"] = Value::Null;
    if record.kind == QueueKind::Quorum {
        let config = record.config(&context.node().options.queue_defaults);
        row["delivery_limit"] = config
            .delivery_limit
            .map_or_else(|| json!("unlimited"), |limit| json!(limit));
        row["open_files"] = json!({});
    }
}

async fn one(context: &Context, vhost: &str, name: &str) -> Answer {
    let names = [(vhost.to_owned(), name.to_owned())];
    let mut rows = rendered(context, &names).await;
    let mut row = rows.pop().ok_or_else(ApiError::not_found)?;
    if let Some(record) = record(context, vhost, name) {
        row["consumer_details"] = json!(connections::consumers_of(context, &record).await);
    }
    row["incoming"] = json!([]);
    row["deliveries"] = json!([]);
    context.one(row)
}

/// Sums over the queues of a vhost, or over all that live on this node.
pub fn totals_of(context: &Context, vhost: Option<&str>) -> Value {
    let cluster = &context.node().cluster;
    let (mut ready, mut unsettled) = (0, 0);
    match vhost {
        None => {
            for (_, handle) in cluster.sets() {
                handle.with(|replica| {
                    let totals = replica.machine().totals();
                    ready += totals.ready;
                    unsettled += totals.unsettled;
                });
            }
        }
        Some(vhost) => {
            let records: Vec<QueueRecord> = cluster.topology.read(|topology| {
                let queues = topology.queues().filter(|queue| *queue.vhost == *vhost);
                queues.cloned().collect()
            });
            for stats in records.iter().filter_map(|record| here(context, record)) {
                ready += stats.ready + stats.delayed;
                unsettled += stats.unsettled;
            }
        }
    }
    json!({
        "messages": ready + unsettled,
        "messages_details": rate_of_nothing(),
        "messages_ready": ready,
        "messages_ready_details": rate_of_nothing(),
        "messages_unacknowledged": unsettled,
        "messages_unacknowledged_details": rate_of_nothing(),
    })
}

async fn declare(context: &Context, vhost: &str, name: &str) -> Answer {
    if name.len() > 255 {
        return Err(ApiError::bad_request("queue name is longer than 255 bytes"));
    }
    let body = context.request.object()?;
    if let Some(node) = body.text("node")? {
        let names = node_names(context);
        if !names.iter().any(|(_, known)| *known == node) {
            return Err(ApiError::bad_request(format!("no such node: {node}")));
        }
    }
    let existed = record(context, vhost, name).is_some();
    let (durable, auto_delete) = (body.flag("durable")?, body.flag("auto_delete")?);
    let arguments = body.table("arguments")?;
    let direct = context.direct(vhost);
    direct
        .declare_queue(name.to_owned(), durable, auto_delete, arguments)
        .await?;
    put(existed)
}
