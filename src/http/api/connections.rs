//! Connections, channels and consumers of this node.
//!
//! What the table of connections does not have is asked of each connection's task, within [`ASK_LIMIT`]; one that does
//! not say is listed without its channels.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::error::ApiError;
use super::{Answer, Context, Reply, json as values, list};
use crate::base::QueueId;
use crate::broker::{ChannelView, Client, ConsumerView, Described};
use crate::model::topology::QueueRecord;

const ASK_LIMIT: Duration = Duration::from_secs(2);
const ASKED_AT_ONCE: usize = 256;

pub async fn answer(context: &Context) -> Answer {
    let path = context.path();
    match (path.as_slice(), context.request.method.as_str()) {
        (["connections"], _) => list(context, None).await,
        (["connections", "username", user], "GET") => of_user(context, user),
        (["connections", "username", user], _) => {
            for client in clients(context)
                .iter()
                .filter(|client| *client.user == **user)
            {
                close(context, client)?;
            }
            Ok(Reply::Done)
        }
        (["connections", name], "GET") => {
            let client = named(context, name)?;
            context.one(row(context, &client).await)
        }
        (["connections", name], _) => {
            let all = context.node().clients.all();
            let client = all.into_iter().find(|client| client.name() == **name);
            let client = client.ok_or_else(ApiError::not_found)?;
            close(context, &client)?;
            Ok(Reply::Done)
        }
        (["connections", name, "channels"], _) => {
            let client = named(context, name)?;
            let told = client.describe(ASK_LIMIT).await.unwrap_or_default();
            let channels = told.channels.iter();
            context.all(
                channels
                    .map(|channel| channel_row(context, &client, channel))
                    .collect(),
            )
        }
        (["connections", name, "sessions"], _) => {
            named(context, name)?;
            context.all(Vec::new())
        }
        (["channels"], _) => channels(context, None).await,
        (["channels", name], _) => channel(context, name).await,
        (["consumers"], _) => consumers(context, None).await,
        (["consumers", vhost], _) => consumers(context, Some(vhost)).await,
        _ => Err(ApiError::not_found()),
    }
}

/// Those the user may see: their own, or all.
fn clients(context: &Context) -> Vec<Arc<Client>> {
    let mut all = context.node().clients.all();
    if !context.who.is_monitor() {
        all.retain(|client| *client.user == *context.who.name);
    }
    all
}

fn named(context: &Context, name: &str) -> Result<Arc<Client>, ApiError> {
    let all = context.node().clients.all();
    let known = all.into_iter().find(|client| client.name() == name);
    let client = known.ok_or_else(ApiError::not_found)?;
    match context.who.is_monitor() || *client.user == *context.who.name {
        true => Ok(client),
        false => Err(ApiError::not_authorised(
            "User not authorised to access object",
        )),
    }
}

fn close(context: &Context, client: &Client) -> Result<(), ApiError> {
    if !context.who.is_administrator() && *client.user != *context.who.name {
        return Err(ApiError::not_authorised(
            "User not authorised to access object",
        ));
    }
    let reason = context.request.header("x-reason");
    client.close(reason.unwrap_or("Closed via management plugin"));
    Ok(())
}

fn of_user(context: &Context, user: &str) -> Answer {
    if !context.who.is_monitor() && context.who.name != user {
        return Err(ApiError::not_authorised(
            "User not authorised to access object",
        ));
    }
    let own = clients(context);
    let own = own.iter().filter(|client| *client.user == *user);
    context.all(
        own.map(|client| {
            json!({
                "name": client.name(),
                "node": context.api.names.node,
                "user": &*client.user,
                "vhost": &*client.vhost,
            })
        })
        .collect(),
    )
}

/// Connections, of one vhost or of all.
pub async fn list(context: &Context, vhost: Option<&str>) -> Answer {
    let wanted = context.wanted_vhost(vhost);
    let mut clients = clients(context);
    clients.retain(|client| wanted.as_ref().is_none_or(|vhost| **vhost == *client.vhost));
    let name = |client: &Arc<Client>| (client.vhost.to_string(), client.name());
    let chosen = list::choose(&context.request, clients, name)?;
    let mut rows = Vec::with_capacity(chosen.rows.len());
    for chunk in chosen.rows.chunks(ASKED_AT_ONCE) {
        let mut asked = Vec::with_capacity(chunk.len());
        for client in chunk {
            asked.push(row(context, client));
        }
        rows.extend(join_all(asked).await);
    }
    let rows = chosen.rest.finish(&context.request, rows)?;
    Ok(Reply::Json(rows))
}

async fn row(context: &Context, client: &Client) -> Value {
    let told = client.describe(ASK_LIMIT).await;
    let blocked = told.as_ref().is_some_and(|told| told.blocked);
    let properties = values::from_table(&client.properties);
    let (received, sent) = (
        client.bytes_in.load(Ordering::Relaxed),
        client.bytes_out.load(Ordering::Relaxed),
    );
    let [rate_in, rate_out] = context.api.samples.connection(client.session);
    let mut row = json!({
        "name": client.name(),
        "vhost": &*client.vhost,
        "user": &*client.user,
        "user_who_performed_action": &*client.user,
        "node": context.api.names.node,
        "protocol": "AMQP 0-9-1",
        "type": "network",
        "state": if blocked { "blocked" } else { "running" },
        "connected_at": client.connected_at.0,
        "host": client.local.ip().to_string(),
        "port": client.local.port(),
        "peer_host": client.peer.ip().to_string(),
        "peer_port": client.peer.port(),
        "ssl": client.tls.is_some(),
        "auth_mechanism": client.mechanism,
        "timeout": client.heartbeat_s,
        "frame_max": client.frame_max,
        "channel_max": client.channel_max,
        "channels": client.channels.load(Ordering::Relaxed),
    });
    row["client_properties"] = properties;
    let tls = client.tls.as_deref();
    let peer = tls.and_then(|tls| tls.peer.as_ref());
    for (key, value) in [
        ("ssl_protocol", tls.map(|tls| tls.version)),
        ("ssl_key_exchange", tls.map(|tls| tls.suite[0].as_str())),
        ("ssl_cipher", tls.map(|tls| tls.suite[1].as_str())),
        ("ssl_hash", tls.map(|tls| tls.suite[2].as_str())),
        ("peer_cert_subject", peer.map(|peer| peer.subject.as_str())),
        ("peer_cert_issuer", peer.map(|peer| peer.issuer.as_str())),
        (
            "peer_cert_validity",
            peer.map(|peer| peer.validity.as_str()),
        ),
    ] {
        row[key] = json!(value);
    }
    let more = json!({
        "recv_oct": received,
        "recv_oct_details": {"rate": rate_in},
        "send_oct": sent,
        "send_oct_details": {"rate": rate_out},
        "recv_cnt": 0,
        "send_cnt": 0,
        "send_pend": 0,
        "reductions": 0,
        "reductions_details": {"rate": 0.0},
    });
    if let (Some(row), Value::Object(more)) = (row.as_object_mut(), more) {
        row.extend(more);
    }
    if let Some(name) = row["client_properties"].get("connection_name").cloned() {
        row["user_provided_name"] = name;
    }
    row
}

async fn described(clients: Vec<Arc<Client>>) -> Vec<(Arc<Client>, Described)> {
    let mut all = Vec::with_capacity(clients.len());
    for chunk in clients.chunks(ASKED_AT_ONCE) {
        let mut asked = Vec::with_capacity(chunk.len());
        for client in chunk {
            asked.push(client.describe(ASK_LIMIT));
        }
        let told = join_all(asked)
            .await
            .into_iter()
            .map(Option::unwrap_or_default);
        all.extend(chunk.iter().cloned().zip(told));
    }
    all
}

fn channel_row(context: &Context, client: &Client, channel: &ChannelView) -> Value {
    let state = &channel.state;
    json!({
        "name": format!("{} ({})", client.name(), state.number),
        "number": state.number,
        "vhost": &*client.vhost,
        "user": &*client.user,
        "user_who_performed_action": &*client.user,
        "node": context.api.names.node,
        "state": "running",
        "connection_details": {
            "name": client.name(),
            "peer_host": client.peer.ip().to_string(),
            "peer_port": client.peer.port(),
        },
        "consumer_count": channel.consumers.len(),
        "confirm": state.confirm,
        "transactional": state.transactional,
        "prefetch_count": state.prefetch,
        "global_prefetch_count": state.global_prefetch,
        "messages_unacknowledged": state.unacked,
        "messages_unconfirmed": 0,
        "messages_uncommitted": 0,
        "acks_uncommitted": 0,
        "pending_raft_commands": 0,
        "cached_segments": 0,
        "reductions": 0,
        "reductions_details": {"rate": 0.0},
    })
}

/// Channels, of one vhost or of all.
pub async fn channels(context: &Context, vhost: Option<&str>) -> Answer {
    let wanted = context.wanted_vhost(vhost);
    let mut clients = clients(context);
    clients.retain(|client| wanted.as_ref().is_none_or(|vhost| **vhost == *client.vhost));
    let rows: Vec<Value> = described(clients)
        .await
        .iter()
        .flat_map(|(client, told)| {
            told.channels
                .iter()
                .map(move |channel| channel_row(context, client, channel))
        })
        .collect();
    let name = |row: &Value| {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        (text("vhost"), text("name"))
    };
    let chosen = list::choose(&context.request, rows, name)?;
    let rows = chosen.rest.finish(&context.request, chosen.rows)?;
    Ok(Reply::Json(rows))
}

async fn channel(context: &Context, name: &str) -> Answer {
    let (connection, number) = name.rsplit_once(" (").ok_or_else(ApiError::not_found)?;
    let number: u16 = number
        .trim_end_matches(')')
        .parse()
        .map_err(|_| ApiError::not_found())?;
    let client = named(context, connection)?;
    let told = client.describe(ASK_LIMIT).await.unwrap_or_default();
    let mut channels = told.channels.iter();
    let channel = channels.find(|channel| channel.state.number == number);
    let channel = channel.ok_or_else(ApiError::not_found)?;
    let mut row = channel_row(context, &client, channel);
    let consumers = channel.consumers.iter();
    let consumers = consumers.map(|consumer| consumer_row(context, &client, number, consumer));
    row["consumer_details"] = consumers.collect();
    row["publishes"] = json!([]);
    row["deliveries"] = json!([]);
    context.one(row)
}

fn queue_name(context: &Context, id: QueueId) -> (String, String) {
    let topology = &context.node().cluster.topology;
    topology.read(|topology| {
        let record = topology.queue_by_id(id);
        record.map_or_else(Default::default, |record| {
            (record.vhost.to_string(), record.name.clone())
        })
    })
}

fn consumer_row(
    context: &Context,
    client: &Client,
    channel: u16,
    consumer: &ConsumerView,
) -> Value {
    let (vhost, queue) = queue_name(context, consumer.queue);
    let timeout = context.node().options.queue_defaults.consumer_timeout;
    json!({
        "consumer_tag": consumer.tag,
        "active": true,
        "activity_status": "up",
        "ack_required": !consumer.no_ack,
        "exclusive": consumer.exclusive,
        "prefetch_count": consumer.prefetch,
        "arguments": values::from_table(&consumer.arguments),
        "consumer_timeout": consumer.visibility.unwrap_or(timeout).0,
        "queue": {"name": queue, "vhost": vhost},
        "channel_details": {
            "name": format!("{} ({channel})", client.name()),
            "number": channel,
            "user": &*client.user,
            "connection_name": client.name(),
            "peer_host": client.peer.ip().to_string(),
            "peer_port": client.peer.port(),
            "node": context.api.names.node,
        },
    })
}

fn consumer_rows(
    context: &Context,
    told: &[(Arc<Client>, Described)],
    queue: Option<QueueId>,
) -> Vec<Value> {
    let mut rows = Vec::new();
    for (client, told) in told {
        for channel in &told.channels {
            let consumers = channel.consumers.iter();
            let wanted = consumers.filter(|one| queue.is_none_or(|queue| one.queue == queue));
            let number = channel.state.number;
            rows.extend(wanted.map(|one| consumer_row(context, client, number, one)));
        }
    }
    rows
}

async fn consumers(context: &Context, vhost: Option<&str>) -> Answer {
    let wanted = context.wanted_vhost(vhost);
    let mut clients = clients(context);
    clients.retain(|client| wanted.as_ref().is_none_or(|vhost| **vhost == *client.vhost));
    let told = described(clients).await;
    context.all(consumer_rows(context, &told, None))
}

/// Consumers of a queue whose connections are here.
pub async fn consumers_of(context: &Context, record: &QueueRecord) -> Vec<Value> {
    let mut clients = context.node().clients.all();
    clients.retain(|client| client.vhost == record.vhost);
    let told = described(clients).await;
    consumer_rows(context, &told, Some(record.id))
}
