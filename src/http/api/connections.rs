//! Connections: list, look at, close; those of this node, and through [`super::peers`] those of the others.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::error::ApiError;
use super::history::Ranges;
use super::peers::{self, Filter, Key};
use super::samples::{BYTES, Object, bytes};
use super::{Answer, Api, Context, Reply, channels, json as values};
use crate::base::SessionId;
use crate::broker::Client;

pub async fn answer(context: &Context) -> Answer {
    let path = context.path();
    match (path.as_slice(), context.request.method.as_str()) {
        (["connections"], _) => peers::listed(context, "connections", None).await,
        (["connections", "username", user], "GET") => of_user(context, user).await,
        (["connections", "username", user], _) => {
            may_close(context, user)?;
            let filter = Filter {
                user: Some((*user).to_owned()),
                ..Filter::default()
            };
            for key in peers::keys_of(context, "connections", &filter).await {
                close(context, &key).await;
            }
            Ok(Reply::Done)
        }
        (["connections", name], "GET") => {
            let key = peers::named(context, "connections", name).await?;
            let mut rows = peers::rows_of(context, "connections", &[key], true).await;
            context.one(rows.pop().ok_or_else(ApiError::not_found)?)
        }
        (["connections", name], _) => {
            let filter = Filter {
                name: Some((*name).to_owned()),
                ..Filter::default()
            };
            let keys = peers::keys_of(context, "connections", &filter).await;
            let key = keys.first().ok_or_else(ApiError::not_found)?;
            may_close(context, &key.user)?;
            close(context, key).await;
            Ok(Reply::Done)
        }
        (["connections", name, "channels"], _) => {
            let of = peers::named(context, "connections", name).await?;
            let filter = Filter {
                vhost: Some(of.vhost.clone()),
                user: Some(of.user.clone()),
                name: None,
            };
            let mut keys = peers::keys_of(context, "channels", &filter).await;
            keys.retain(|key| key.session == of.session);
            context.all(peers::rows_of(context, "channels", &keys, false).await)
        }
        (["connections", name, "sessions"], _) => {
            peers::named(context, "connections", name).await?;
            context.all(Vec::new())
        }
        (["channels"], _) => peers::listed(context, "channels", None).await,
        (["channels", name], _) => {
            let key = peers::named(context, "channels", name).await?;
            let mut rows = peers::rows_of(context, "channels", &[key], true).await;
            context.one(rows.pop().ok_or_else(ApiError::not_found)?)
        }
        (["consumers"], _) => channels::listed_consumers(context, None).await,
        (["consumers", vhost], _) => channels::listed_consumers(context, Some(vhost)).await,
        _ => Err(ApiError::not_found()),
    }
}

/// This node's connections that are meant.
pub fn clients(api: &Api, filter: &Filter) -> Vec<Arc<Client>> {
    let is =
        |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|wanted| wanted == value);
    let mut all = api.node.clients.all();
    all.retain(|client| is(&filter.vhost, &client.vhost) && is(&filter.user, &client.user));
    all
}

/// Keys of this node's connections that are meant.
pub fn keys(api: &Api, filter: &Filter) -> Vec<Key> {
    let clients = clients(api, filter);
    let keys = clients
        .iter()
        .map(|client| key(api, client, 0, client.name()));
    let wanted = |key: &Key| filter.name.as_ref().is_none_or(|name| *name == key.name);
    keys.filter(wanted).collect()
}

/// Names a connection, or a channel of it.
pub fn key(api: &Api, client: &Client, number: u16, name: String) -> Key {
    Key {
        vhost: client.vhost.to_string(),
        name,
        node: api.node.cluster.node(),
        session: client.session,
        number,
        user: client.user.to_string(),
    }
}

/// Rows of this node's connections, null for one that has gone.
pub fn rows(api: &Api, wanted: &[(SessionId, u16)], ranges: Ranges) -> Vec<Value> {
    let rows = wanted.iter();
    rows.map(|(session, _)| match api.node.clients.get(*session) {
        Some(client) => row(api, &client, ranges),
        None => Value::Null,
    })
    .collect()
}

fn may_close(context: &Context, user: &str) -> Result<(), ApiError> {
    match context.who.is_administrator() || user == context.who.name {
        true => Ok(()),
        false => Err(ApiError::not_authorised(
            "User not authorised to access object",
        )),
    }
}

async fn close(context: &Context, key: &Key) {
    let reason = context.request.header("x-reason");
    let reason = reason.unwrap_or("Closed via management plugin");
    if key.node == context.node().cluster.node() {
        close_here(&context.api, key.session, reason);
        return;
    }
    let question = json!({"what": "close", "session": key.session.0, "reason": reason});
    peers::others(context, &question, Some(&[key.node])).await;
}

/// Closes a connection of this node; whether it was there.
pub fn close_here(api: &Api, session: SessionId, reason: &str) -> bool {
    let client = api.node.clients.get(session);
    if let Some(client) = &client {
        client.close(reason);
    }
    client.is_some()
}

async fn of_user(context: &Context, user: &str) -> Answer {
    if !context.who.is_monitor() && context.who.name != user {
        return Err(ApiError::not_authorised(
            "User not authorised to access object",
        ));
    }
    let filter = Filter {
        user: Some(user.to_owned()),
        ..Filter::default()
    };
    let names = super::queues::node_names(&context.api);
    let keys = peers::keys_of(context, "connections", &filter).await;
    let rows = keys.into_iter().map(|key| {
        let node = names.iter().find(|(id, _)| *id == key.node);
        json!({
            "name": key.name,
            "node": node.map(|(_, name)| name),
            "user": key.user,
            "vhost": key.vhost,
        })
    });
    context.all(rows.collect())
}

fn row(api: &Api, client: &Client, ranges: Ranges) -> Value {
    let blocked = client.blocked.load(Ordering::Relaxed);
    let mut row = json!({
        "name": client.name(),
        "vhost": &*client.vhost,
        "user": &*client.user,
        "user_who_performed_action": &*client.user,
        "node": api.names.node,
        "protocol": if client.inner { "Direct 0-9-1" } else { "AMQP 0-9-1" },
        "type": if client.inner { "direct" } else { "network" },
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
    row["client_properties"] = values::from_table(&client.properties);
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
            "peer_cert_serial_number",
            peer.map(|peer| peer.serial.as_str()),
        ),
        (
            "peer_cert_validity",
            peer.map(|peer| peer.validity.as_str()),
        ),
    ] {
        row[key] = json!(value);
    }
    let more = json!({
        "recv_cnt": client.reads.load(Ordering::Relaxed),
        "send_cnt": client.writes.load(Ordering::Relaxed),
        "send_pend": 0,
        "reductions": 0,
        "reductions_details": {"rate": 0.0},
    });
    let object = Object::Connection(client.session);
    let range = ranges.data_rates;
    let figures = api
        .samples
        .table(&object, (&BYTES, 0), &bytes(client), range);
    if let (Some(row), Value::Object(more)) = (row.as_object_mut(), more) {
        row.extend(more);
        row.extend(figures);
    }
    if let Some(name) = row["client_properties"].get("connection_name").cloned() {
        row["user_provided_name"] = name;
    }
    row
}
