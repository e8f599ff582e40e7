//! Queues: list, look at, declare, delete, purge.
//!
//! Need: a page of 20 000 queues costs what the page costs. Shape: a list is ids and names until it is filtered, ordered
//! and cut; only what is shown is rendered, [`ROWS_AT_ONCE`] at a time, and a list without pages while it is sent.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::stream;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::figures::{self, Figures, Where};
use super::samples::{LENGTHS, Object, QUEUE};
use super::{Answer, Api, Context, Reply, Rows, channels, history, json as values, list, put};
use crate::base::{NodeId, QueueId, SetId};
use crate::model::set::QueueStats;
use crate::model::topology::{QueueKind, QueueRecord};

const ROWS_AT_ONCE: usize = 500;

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

/// A queue as a list knows it before it is rendered.
struct Listed {
    id: QueueId,
    vhost: Arc<str>,
    name: String,
}

async fn all(context: &Context, vhost: Option<&str>) -> Answer {
    let wanted = context.wanted_vhost(vhost);
    let topology = &context.node().cluster.topology;
    let mut queues: Vec<Listed> = topology.read(|topology| {
        let queues = topology.queues();
        let queues =
            queues.filter(|queue| wanted.as_ref().is_none_or(|vhost| **vhost == *queue.vhost));
        queues
            .map(|queue| Listed {
                id: queue.id,
                vhost: Arc::clone(&queue.vhost),
                name: queue.name.clone(),
            })
            .collect()
    });
    let mut seen: hashbrown::HashMap<Arc<str>, bool> = hashbrown::HashMap::new();
    queues.retain(|queue| {
        let seen = seen.entry(Arc::clone(&queue.vhost));
        *seen.or_insert_with(|| context.sees(&queue.vhost))
    });
    let name: fn(&Listed) -> (&str, &str) = |queue| (&queue.vhost, &queue.name);
    let mut chosen = list::choose(&context.request, queues, name)?;
    if let Some(key) = chosen.key().map(str::to_owned) {
        let places = places(context, chosen.rows.iter().map(|queue| queue.id));
        let figures = figures::of(context, &places).await;
        if let Some(values) = figures::order_values(&context.api, &key, &places, &figures) {
            chosen = chosen.order(values)?;
        }
    }
    let shown = Shown::of(context);
    if chosen.is_plain() && chosen.rows.len() > ROWS_AT_ONCE {
        let ids = chosen.rows.iter().map(|queue| queue.id).collect();
        return Ok(Reply::Rows(streamed(context.again(), shown, ids)));
    }
    let mut rows = Vec::with_capacity(chosen.rows.len());
    for some in chosen.rows.chunks(ROWS_AT_ONCE) {
        let ids: Vec<QueueId> = some.iter().map(|queue| queue.id).collect();
        rows.extend(rendered(context, &shown, &ids).await);
    }
    let rows = chosen.rest.finish(&context.request, rows)?;
    Ok(Reply::Json(rows))
}

/// A long list, rendered in portions as it is sent.
fn streamed(context: Context, shown: Shown, queues: Vec<QueueId>) -> Rows {
    let portions = queues.chunks(ROWS_AT_ONCE).map(<[QueueId]>::to_vec);
    let portions: VecDeque<Vec<QueueId>> = portions.collect();
    let state = (context, shown, portions, true);
    let rows = stream::unfold(state, |(context, shown, mut portions, first)| async move {
        let some = portions.pop_front()?;
        let mut text = Vec::new();
        for (at, row) in rendered(&context, &shown, &some)
            .await
            .into_iter()
            .enumerate()
        {
            text.push(if first && at == 0 { b'[' } else { b',' });
            let row = list::columns(&context.request, row);
            text.extend_from_slice(row.to_string().as_bytes());
        }
        // All of the first portion may have been deleted meanwhile.
        let first = first && text.is_empty();
        if portions.is_empty() {
            text.extend_from_slice(if first { b"[]" } else { b"]" });
        }
        Some((text, (context, shown, portions, first)))
    });
    Box::pin(rows)
}

/// How much of each queue is shown.
#[derive(Clone, Copy, Debug)]
struct Shown {
    totals: bool,
    details: bool,
}

impl Shown {
    fn of(context: &Context) -> Self {
        let bare = context.request.is_set("disable_stats");
        Self {
            totals: !bare || context.request.is_set("enable_queue_totals"),
            details: !bare,
        }
    }
}

fn places(context: &Context, queues: impl Iterator<Item = QueueId>) -> Vec<Where> {
    let topology = &context.node().cluster.topology;
    topology.read(|topology| {
        queues
            .map(|id| match topology.queue_by_id(id) {
                Some(record) => Where::of(record),
                None => Where {
                    id,
                    sets: Vec::new(),
                },
            })
            .collect()
    })
}

/// Rows of these queues; those that have gone meanwhile are left out.
async fn rendered(context: &Context, shown: &Shown, queues: &[QueueId]) -> Vec<Value> {
    let topology = &context.node().cluster.topology;
    let records: Vec<QueueRecord> = topology.read(|topology| {
        let records = queues.iter().filter_map(|id| topology.queue_by_id(*id));
        records.cloned().collect()
    });
    let mut figures = match shown.totals {
        true => {
            let places: Vec<Where> = records.iter().map(Where::of).collect();
            figures::of(context, &places).await
        }
        false => vec![Figures::default(); records.len()],
    };
    for (record, figures) in records.iter().zip(&mut figures) {
        if record.kind == QueueKind::Stream {
            // What a stream's consumers hold is still in the stream.
            (figures.stats.unsettled, figures.stats.unsettled_bytes) = (0, 0);
        }
    }
    let homes = Homes::of(context);
    let rows = records.iter().zip(figures);
    rows.map(|(record, figures)| {
        let mut row = declared(&homes, record, !figures.silent);
        let object = row.as_object_mut();
        if let (Some(row), true) = (object, shown.totals) {
            counts(context, row, record, &figures, shown.details);
        }
        if shown.details {
            details(context, &mut row, record, &figures.stats);
        }
        row
    })
    .collect()
}

/// Who leads each set and who has it, looked up once per portion.
struct Homes {
    names: Vec<(NodeId, String)>,
    sets: hashbrown::HashMap<SetId, (Option<String>, Vec<String>)>,
}

impl Homes {
    /// A leader this node does not know is the one that should lead.
    fn of(context: &Context) -> Self {
        let names = node_names(&context.api);
        let cluster = &context.node().cluster;
        let records: Vec<_> = cluster
            .topology
            .read(|topology| topology.sets().cloned().collect());
        let sets = records.into_iter().map(|record| {
            let group = cluster.set(record.id).and_then(|handle| handle.group());
            let leader = match group {
                Some(group) => group.metrics().leader,
                None => Some(record.leader),
            };
            let members = record.members.iter().map(|id| name_of(&names, *id));
            let home = (leader.map(|id| name_of(&names, id)), members.collect());
            (record.id, home)
        });
        Self {
            sets: sets.collect(),
            names,
        }
    }

    fn find(&self, set: SetId) -> (Option<String>, Vec<String>) {
        if let Some(node) = set.local_node() {
            let name = name_of(&self.names, node);
            return (Some(name.clone()), vec![name]);
        }
        self.sets.get(&set).cloned().unwrap_or_default()
    }
}

/// Node names by id.
pub fn node_names(api: &Api) -> Vec<(NodeId, String)> {
    let topology = &api.node.cluster.topology;
    topology.read(|topology| {
        let nodes = topology.nodes();
        nodes.map(|node| (node.id, node.name.clone())).collect()
    })
}

fn name_of(names: &[(NodeId, String)], id: NodeId) -> String {
    let known = names.iter().find(|(known, _)| *known == id);
    known.map_or_else(|| format!("node-{id}"), |(_, name)| name.clone())
}

fn declared(homes: &Homes, record: &QueueRecord, answered: bool) -> Value {
    let (leader, members) = homes.find(record.set());
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
        "node": leader.clone().unwrap_or_else(|| name_of(&homes.names, record.node)),
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

fn counts(
    context: &Context,
    row: &mut Map<String, Value>,
    record: &QueueRecord,
    figures: &Figures,
    detailed: bool,
) {
    let values = figures.values();
    let lengths = &values[QUEUE.len()..];
    if !detailed {
        for (name, value) in LENGTHS.iter().zip(lengths) {
            row.insert((*name).to_owned(), json!(value));
        }
        return;
    }
    let (object, samples) = (Object::Queue(record.id), &context.api.samples);
    let range = context.ranges.lengths;
    let mut table = samples.table(&object, (&LENGTHS, QUEUE.len()), lengths, range);
    let flows = &values[..QUEUE.len()];
    let mut stats = samples.table(&object, (&QUEUE, 0), flows, context.ranges.msg_rates);
    for (at, name) in QUEUE.iter().chain(&LENGTHS).enumerate() {
        let Some(more) = figures.rates.get(at) else {
            break;
        };
        let table = if at < QUEUE.len() {
            &mut stats
        } else {
            &mut table
        };
        if let Some(details) = table.get_mut(&format!("{name}_details")) {
            history::add(details, &json!({"rate": more}));
        }
    }
    row.extend(table);
    row.insert("message_stats".to_owned(), Value::Object(stats));
    row.insert("consumers".to_owned(), json!(figures.stats.consumers));
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
    row["reductions_details"] = json!({"rate": 0.0});
    let owner = record
        .exclusive
        .and_then(|owner| context.node().clients.get(owner));
    if let Some(owner) = owner {
        row["owner_pid_details"] = json!({
            "name": owner.name(),
            "peer_host": owner.peer.ip().to_string(),
            "peer_port": owner.peer.port(),
        });
    }
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
    let record = record(context, vhost, name).ok_or_else(ApiError::not_found)?;
    let mut rows = rendered(context, &Shown::of(context), &[record.id]).await;
    let mut row = rows.pop().ok_or_else(ApiError::not_found)?;
    let consumers = channels::consumers_of(context, &record).await;
    let tag = |which: &dyn Fn(&Value) -> bool| {
        let found = consumers.iter().find(|consumer| which(consumer));
        found.map_or(Value::Null, |consumer| consumer["consumer_tag"].clone())
    };
    row["exclusive_consumer_tag"] = tag(&|consumer| consumer["exclusive"] == true);
    row["single_active_consumer_tag"] =
        tag(&|consumer| consumer["activity_status"] == "single_active");
    row["consumer_details"] = json!(consumers);
    row["incoming"] = json!([]);
    row["deliveries"] = json!([]);
    context.one(row)
}

async fn declare(context: &Context, vhost: &str, name: &str) -> Answer {
    if name.len() > 255 {
        return Err(ApiError::bad_request("queue name is longer than 255 bytes"));
    }
    let body = context.request.object()?;
    if let Some(node) = body.text("node")? {
        let names = node_names(&context.api);
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
