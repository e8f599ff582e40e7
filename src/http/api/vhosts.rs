//! Vhosts.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::history::{self, Ranges};
use super::samples::{self, BYTES, LENGTHS, MESSAGES, Object};
use super::{Answer, Api, Context, Reply, list, peers, put};
use crate::model::topology::{SettingsCommand, Topology, TopologyCommand, VhostSettings};

/// Types a vhost may have for its queues.
const TYPES: [&str; 3] = ["classic", "quorum", "stream"];

pub async fn answer(context: &Context) -> Answer {
    let path = context.path();
    match (path.as_slice(), context.request.method.as_str()) {
        (["vhosts"], _) => all(context).await,
        (["vhosts", name], "GET") => {
            let topology = &context.node().cluster.topology;
            let known = topology.read(|topology| topology.vhost_settings(name).cloned());
            let settings = known.ok_or_else(ApiError::not_found)?;
            let figures = figures(context, Some(name)).await;
            context.one(row(context, name, &settings, &figures))
        }
        (["vhosts", name], "PUT") => write(context, name).await,
        (["vhosts", name], "DELETE") => delete(context, name).await,
        (["vhosts", name, "deletion", "protection"], method) => {
            if !context.has_vhost(name) {
                return Err(ApiError::not_found());
            }
            let command = SettingsCommand::PutVhost {
                name: (*name).to_owned(),
                description: None,
                tags: None,
                default_queue_type: None,
                tracing: None,
                protected: Some(method == "POST"),
            };
            context.change(TopologyCommand::Settings(command)).await?;
            Ok(Reply::Done)
        }
        (["vhosts", name, "start", node], _) => {
            if !context.has_vhost(name) {
                return Err(ApiError::not_found());
            }
            let nodes = super::queues::node_names(&context.api);
            match nodes.iter().any(|(_, name)| name == node) {
                true => Ok(Reply::Done),
                false => Err(ApiError::bad_request("unknown node")),
            }
        }
        _ => Err(ApiError::not_found()),
    }
}

async fn all(context: &Context) -> Answer {
    let topology = &context.node().cluster.topology;
    let known: Vec<(String, VhostSettings)> = topology.read(|topology| {
        let names = topology.vhosts();
        let settings = |name: &str| topology.vhost_settings(name).cloned().unwrap_or_default();
        names
            .map(|name| (name.to_owned(), settings(name)))
            .collect()
    });
    let seen = known
        .into_iter()
        .filter(|(name, _)| context.sees_vhost(name));
    let name: fn(&(String, VhostSettings)) -> (&str, &str) = |(name, _)| ("", name);
    let chosen = list::choose(&context.request, seen.collect(), name)?;
    let rows = chosen.rows.iter();
    let figures = figures(context, None).await;
    let rows = rows.map(|(name, settings)| row(context, name, settings, &figures));
    let rows = chosen.rest.finish(&context.request, rows.collect())?;
    Ok(Reply::Json(rows))
}

/// What vhosts are set to, as definitions show it too.
pub fn metadata(settings: &VhostSettings) -> Value {
    json!({
        "description": settings.description,
        "tags": settings.tags,
        "default_queue_type": default_type(settings),
    })
}

fn default_type(settings: &VhostSettings) -> &str {
    match settings.default_queue_type.as_str() {
        "" => "classic",
        kind => kind,
    }
}

/// What all nodes know of vhosts, by name.
async fn figures(context: &Context, vhost: Option<&str>) -> Value {
    let mut sum = json!({});
    if context.request.is_set("disable_stats") {
        return sum;
    }
    let question = json!({"what": "vhosts", "vhost": vhost, "ranges": context.ranges.to_json()});
    for (_, _, answer) in peers::all(context, &question).await {
        history::add(&mut sum, &answer);
    }
    sum
}

/// What this node knows of one vhost or of all: messages in queues it leads, and what its connections did.
pub fn own(api: &Api, vhost: Option<&str>, ranges: Ranges) -> Value {
    let wanted = |name: &str| vhost.is_none_or(|vhost| vhost == name);
    let names: Vec<Arc<str>> = api.node.cluster.topology.read(|topology| {
        let names = topology.vhosts().filter(|name| wanted(name));
        names.map(Arc::from).collect()
    });
    let lengths = samples::lengths_by_vhost(api, vhost);
    let mut rows = Map::new();
    for name in names {
        let values = samples::vhost_values(&api.node.meters.vhost(&name));
        let own = lengths.get(&name).copied().unwrap_or_default();
        let object = Object::Vhost(Arc::clone(&name));
        let (messages, bytes) = values.split_at(MESSAGES.len());
        let store = &api.samples;
        let stats = store.table(&object, (&MESSAGES, 0), messages, ranges.msg_rates);
        let mut row = store.table(&object, (&BYTES, 12), bytes, ranges.data_rates);
        row.extend(store.table(&object, (&LENGTHS, 14), &own, ranges.lengths));
        row.insert("message_stats".to_owned(), Value::Object(stats));
        rows.insert(name.to_string(), Value::Object(row));
    }
    Value::Object(rows)
}

fn row(context: &Context, name: &str, settings: &VhostSettings, figures: &Value) -> Value {
    let nodes = super::queues::node_names(&context.api);
    let states = nodes.into_iter().map(|(_, name)| (name, json!("running")));
    let mut row = json!({
        "name": name,
        "description": settings.description,
        "tags": settings.tags,
        "default_queue_type": default_type(settings),
        "tracing": settings.tracing,
        "protected_from_deletion": settings.protected,
        "metadata": metadata(settings),
        "cluster_state": states.collect::<Map<_, _>>(),
    });
    if let (Some(row), Some(Value::Object(figures))) = (row.as_object_mut(), figures.get(name)) {
        row.extend(figures.clone());
    }
    row
}

/// The queue type a body names, checked.
pub fn checked_type(kind: Option<String>) -> Result<Option<String>, ApiError> {
    match kind {
        Some(kind) if kind.is_empty() || kind == "undefined" => Ok(None),
        Some(kind) if !TYPES.contains(&kind.as_str()) => {
            let reason = format!("Unsupported default queue type: '{kind}'");
            Err(ApiError::bad_request(reason))
        }
        other => Ok(other),
    }
}

async fn write(context: &Context, name: &str) -> Answer {
    if name.is_empty() || name.len() > 255 {
        return Err(ApiError::bad_request("vhost name must be 1 to 255 bytes"));
    }
    let body = context.request.object()?;
    let kind = body.text("default_queue_type")?;
    let kind = checked_type(kind.or(body.text("defaultqueuetype")?))?;
    let existed = context.has_vhost(name);
    let tracing = body
        .get("tracing")
        .map(|_| body.flag("tracing"))
        .transpose()?;
    let protected = "protected_from_deletion";
    let protected = body
        .get(protected)
        .map(|_| body.flag(protected))
        .transpose()?;
    check_room(context, name)?;
    let command = SettingsCommand::PutVhost {
        name: name.to_owned(),
        description: body.text("description")?,
        tags: body.words("tags")?,
        default_queue_type: kind.or_else(|| {
            let configured = context.api.names.default_queue_type.clone();
            (!existed).then_some(configured)
        }),
        tracing,
        protected,
    };
    context.change(TopologyCommand::Settings(command)).await?;
    if !existed {
        let defaults = &context.api.options.vhost_defaults;
        defaults.give(context.node(), name).await?;
    }
    if !existed && !context.who.operator {
        give_rights(context, name).await?;
    }
    put(existed)
}

/// Whether a vhost may be made, if it is not there.
///
/// # Errors
/// 400 if there are as many as may be.
pub fn check_room(context: &Context, name: &str) -> Result<(), ApiError> {
    let Some(max) = context.api.options.vhosts_max else {
        return Ok(());
    };
    let topology = &context.node().cluster.topology;
    let count = topology.read(|topology| match topology.has_vhost(name) {
        true => 0,
        false => topology.vhosts().count(),
    });
    match u32::try_from(count).is_ok_and(|count| count < max) || count == 0 {
        true => Ok(()),
        false => Err(ApiError::bad_request(format!(
            "cannot create vhost '{name}': vhost limit of {max} is reached"
        ))),
    }
}

/// Whoever makes a vhost by HTTP has all rights there, as in RabbitMQ.
async fn give_rights(context: &Context, name: &str) -> Result<(), ApiError> {
    let all = || ".*".to_owned();
    let rights = TopologyCommand::SetPermissions {
        user: context.who.name.clone(),
        vhost: name.to_owned(),
        configure: all(),
        write: all(),
        read: all(),
    };
    context.change(rights).await
}

async fn delete(context: &Context, name: &str) -> Answer {
    let topology = &context.node().cluster.topology;
    let known = topology.read(|topology: &Topology| topology.vhost_settings(name).cloned());
    let settings = known.ok_or_else(ApiError::not_found)?;
    if settings.protected {
        let reason = format!(
            "Refusing to delete virtual host '{name}' because it is protected from deletion"
        );
        let status = StatusCode::PRECONDITION_FAILED;
        return Err(ApiError::new(status, "precondition_failed", reason));
    }
    let name = name.to_owned();
    context
        .change(TopologyCommand::DeleteVhost { name })
        .await?;
    Ok(Reply::Done)
}
