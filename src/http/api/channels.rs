//! Channels and consumers of this node, and through [`super::peers`] those of the others.
//!
//! Counters are read where connections leave them; what only a connection's task knows (modes, prefetch, consumers) is
//! asked of the tasks of the rows that are shown, within [`ASK_LIMIT`]. One that does not say is shown without it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use hashbrown::HashMap;
use serde_json::{Value, json};

use super::error::ApiError;
use super::history::Ranges;
use super::peers::{self, Filter, Key};
use super::samples::{MESSAGES, Object, messages};
use super::{Answer, Api, Context, connections, json as values};
use crate::base::{ConsumerId, QueueId, SessionId};
use crate::broker::{ChannelMeter, ChannelView, Client, ConsumerView, Described};
use crate::model::topology::QueueRecord;

const ASK_LIMIT: Duration = Duration::from_secs(2);
const ASKED_AT_ONCE: usize = 256;

fn name(client: &Client, number: u16) -> String {
    format!("{} ({number})", client.name())
}

/// Keys of this node's channels that are meant.
pub fn keys(api: &Api, filter: &Filter) -> Vec<Key> {
    let mut keys = Vec::new();
    for client in connections::clients(api, filter) {
        if let Some(wanted) = &filter.name
            && !wanted.starts_with(&client.name())
        {
            continue;
        }
        for meter in client.meters() {
            let name = name(&client, meter.number);
            if filter.name.as_ref().is_none_or(|wanted| *wanted == name) {
                keys.push(connections::key(api, &client, meter.number, name));
            }
        }
    }
    keys
}

/// Asks the tasks of connections for what only they know.
async fn described(clients: Vec<Arc<Client>>) -> Vec<(Arc<Client>, Described)> {
    let mut all = Vec::with_capacity(clients.len());
    for chunk in clients.chunks(ASKED_AT_ONCE) {
        let asked = chunk.iter().map(|client| client.describe(ASK_LIMIT));
        let told = join_all(asked.collect::<Vec<_>>()).await;
        let told = told.into_iter().map(Option::unwrap_or_default);
        all.extend(chunk.iter().cloned().zip(told));
    }
    all
}

/// Rows of this node's channels, null for one that has gone.
pub async fn rows(
    api: &Api,
    wanted: &[(SessionId, u16)],
    ranges: Ranges,
    detailed: bool,
) -> Vec<Value> {
    let mut clients: HashMap<SessionId, Arc<Client>> = HashMap::new();
    for (session, _) in wanted {
        if let Some(client) = api.node.clients.get(*session) {
            clients.insert(*session, client);
        }
    }
    let told = described(clients.into_values().collect()).await;
    let told: HashMap<SessionId, (Arc<Client>, Described)> = told
        .into_iter()
        .map(|(client, told)| (client.session, (client, told)))
        .collect();
    let rows = wanted.iter().map(|(session, number)| {
        let (client, told) = told.get(session)?;
        let meters = client.meters();
        let meter = meters.iter().find(|meter| meter.number == *number)?;
        let view = told
            .channels
            .iter()
            .find(|view| view.state.number == *number);
        let mut row = row(api, client, meter, view, ranges);
        if detailed {
            let consumers = view.into_iter().flat_map(|view| &view.consumers);
            let consumers = consumers.map(|one| consumer_row(api, client, *number, one));
            row["consumer_details"] = consumers.collect();
            row["publishes"] = json!([]);
            row["deliveries"] = json!([]);
        }
        Some(row)
    });
    rows.map(|row| row.unwrap_or(Value::Null)).collect()
}

fn row(
    api: &Api,
    client: &Client,
    meter: &ChannelMeter,
    view: Option<&ChannelView>,
    ranges: Ranges,
) -> Value {
    let state = view.map(|view| &view.state);
    let uncommitted = state.map_or((0, 0), |state| state.uncommitted);
    let mut row = json!({
        "name": name(client, meter.number),
        "number": meter.number,
        "vhost": &*client.vhost,
        "user": &*client.user,
        "user_who_performed_action": &*client.user,
        "node": api.names.node,
        "state": "running",
        "connection_details": {
            "name": client.name(),
            "peer_host": client.peer.ip().to_string(),
            "peer_port": client.peer.port(),
        },
        "consumer_count": view.map_or(0, |view| view.consumers.len()),
        "confirm": state.is_some_and(|state| state.confirm),
        "transactional": state.is_some_and(|state| state.transactional),
        "prefetch_count": state.map_or(0, |state| state.prefetch),
        "global_prefetch_count": state.map_or(0, |state| state.global_prefetch),
        "messages_unacknowledged": meter.unacked.load(Ordering::Relaxed),
        "messages_unconfirmed": meter.unconfirmed.load(Ordering::Relaxed),
        "messages_uncommitted": uncommitted.0,
        "acks_uncommitted": uncommitted.1,
        "pending_raft_commands": 0,
        "cached_segments": 0,
        "reductions": 0,
        "reductions_details": {"rate": 0.0},
    });
    let object = Object::Channel(client.session, meter.number);
    let counts = messages(&meter.counts.read());
    let table = api
        .samples
        .table(&object, (&MESSAGES, 0), &counts, ranges.msg_rates);
    row["message_stats"] = Value::Object(table);
    row
}

fn record(api: &Api, id: QueueId) -> Option<QueueRecord> {
    let topology = &api.node.cluster.topology;
    topology.read(|topology| topology.queue_by_id(id).cloned())
}

/// Who alone gets messages, where that is so and the queue is on this node.
fn active(api: &Api, record: &QueueRecord) -> Option<ConsumerId> {
    let handle = api.node.cluster.set(record.set())?;
    let stats = handle.with(|replica| replica.machine().queue_stats(record.id));
    stats.flatten()?.active
}

fn consumer_row(api: &Api, client: &Client, channel: u16, consumer: &ConsumerView) -> Value {
    let record = record(api, consumer.queue);
    let defaults = &api.node.options.queue_defaults;
    let single = record
        .as_ref()
        .is_some_and(|record| record.config(defaults).single_active);
    let is_active = match (&record, single) {
        (Some(record), true) => active(api, record).is_none_or(|active| active == consumer.id),
        _ => true,
    };
    let status = match (single, is_active) {
        (false, _) => "up",
        (true, true) => "single_active",
        (true, false) => "waiting",
    };
    let (vhost, queue) = record.map_or_else(Default::default, |record| {
        (record.vhost.to_string(), record.name)
    });
    let timeout = defaults.consumer_timeout;
    json!({
        "consumer_tag": consumer.tag,
        "active": is_active,
        "activity_status": status,
        "ack_required": !consumer.no_ack,
        "exclusive": consumer.exclusive,
        "prefetch_count": consumer.prefetch,
        "arguments": values::from_table(&consumer.arguments),
        "consumer_timeout": consumer.visibility.unwrap_or(timeout).0,
        "queue": {"name": queue, "vhost": vhost},
        "channel_details": {
            "name": name(client, channel),
            "number": channel,
            "user": &*client.user,
            "connection_name": client.name(),
            "peer_host": client.peer.ip().to_string(),
            "peer_port": client.peer.port(),
            "node": api.names.node,
        },
    })
}

/// This node's consumers that are meant, of one queue or of all.
pub async fn consumers(api: &Api, filter: &Filter, queue: Option<u64>) -> Vec<Value> {
    let told = described(connections::clients(api, filter)).await;
    let mut rows = Vec::new();
    for (client, told) in &told {
        for channel in &told.channels {
            let consumers = channel.consumers.iter();
            let wanted = consumers.filter(|one| queue.is_none_or(|queue| one.queue.0 == queue));
            let number = channel.state.number;
            rows.extend(wanted.map(|one| consumer_row(api, client, number, one)));
        }
    }
    rows
}

async fn of_all_nodes(context: &Context, filter: &Filter, queue: Option<QueueId>) -> Vec<Value> {
    let question = json!({
        "what": "consumers",
        "filter": {"vhost": filter.vhost, "user": filter.user},
        "queue": queue.map(|queue| queue.0),
    });
    let mut rows = Vec::new();
    for (_, _, answer) in peers::all(context, &question).await {
        if let Value::Array(more) = answer {
            rows.extend(more);
        }
    }
    rows
}

/// Every consumer the user may see.
pub async fn listed_consumers(context: &Context, vhost: Option<&str>) -> Answer {
    if context.request.is_set("disable_stats") {
        let reason = "Stats in management UI are disabled on this node";
        return Err(ApiError::bad_request(reason));
    }
    let filter = peers::visible(context, context.wanted_vhost(vhost));
    context.all(of_all_nodes(context, &filter, None).await)
}

/// A queue's consumers, wherever their connections are.
pub async fn consumers_of(context: &Context, record: &QueueRecord) -> Vec<Value> {
    let filter = Filter {
        vhost: Some(record.vhost.to_string()),
        ..Filter::default()
    };
    of_all_nodes(context, &filter, Some(record.id)).await
}
