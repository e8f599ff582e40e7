//! Limits of vhosts and of users.

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::{Answer, Context, Reply, users};
use crate::model::topology::{LimitKind, SettingsCommand, TopologyCommand, VhostSettings};

pub async fn answer(context: &Context) -> Answer {
    let path = context.path();
    match path.as_slice() {
        ["vhost-limits", rest @ ..] if rest.len() < 2 => of_vhosts(context, rest.first().copied()),
        ["user-limits", rest @ ..] if rest.len() < 2 => of_users(context, rest.first().copied()),
        ["vhost-limits", vhost, name] => {
            if !context.has_vhost(vhost) {
                return Err(ApiError::missing("vhost_not_found"));
            }
            let limit = match *name {
                "max-connections" => LimitKind::Connections,
                "max-queues" => LimitKind::Queues,
                _ => return Err(unknown(name)),
            };
            let command = SettingsCommand::SetVhostLimit {
                vhost: (*vhost).to_owned(),
                limit,
                value: value(context)?,
            };
            context.change(TopologyCommand::Settings(command)).await?;
            Ok(Reply::Done)
        }
        ["user-limits", user, name] => {
            let topology = &context.node().cluster.topology;
            if topology.read(|topology| topology.user(user).is_none()) {
                return Err(ApiError::not_found());
            }
            let limit = match *name {
                "max-connections" => LimitKind::Connections,
                "max-channels" => LimitKind::Channels,
                _ => return Err(unknown(name)),
            };
            let command = SettingsCommand::SetUserLimit {
                user: (*user).to_owned(),
                limit,
                value: value(context)?,
            };
            context.change(TopologyCommand::Settings(command)).await?;
            Ok(Reply::Done)
        }
        _ => Err(ApiError::not_found()),
    }
}

fn unknown(name: &str) -> ApiError {
    ApiError::bad_request(format!("Unrecognised terms [{{<<\"{name}\">>}}] in limits"))
}

fn value(context: &Context) -> Result<Option<i64>, ApiError> {
    if context.is("DELETE") {
        return Ok(None);
    }
    context.request.says_json()?;
    let body = context.request.object()?;
    body.need(&["value"])?;
    body.integer("value")
}

/// A vhost's limits, as listings and definitions show them.
pub fn value_of(settings: &VhostSettings) -> Map<String, Value> {
    let mut limits = Map::new();
    let pairs = [
        ("max-connections", settings.max_connections),
        ("max-queues", settings.max_queues),
    ];
    for (name, limit) in pairs {
        limits.extend(limit.map(|limit| (name.to_owned(), json!(limit))));
    }
    limits
}

fn of_vhosts(context: &Context, wanted: Option<&str>) -> Answer {
    let topology = &context.node().cluster.topology;
    let rows: Vec<(String, Map<String, Value>)> = topology.read(|topology| {
        let names = topology.vhosts();
        let names = names.filter(|name| wanted.is_none_or(|wanted| wanted == *name));
        let limits = names.filter_map(|name| {
            let limits = value_of(topology.vhost_settings(name)?);
            (!limits.is_empty()).then(|| (name.to_owned(), limits))
        });
        limits.collect()
    });
    let seen = rows
        .into_iter()
        .filter(|(vhost, _)| context.sees_vhost(vhost));
    context.all(
        seen.map(|(vhost, value)| json!({"vhost": vhost, "value": value}))
            .collect(),
    )
}

fn of_users(context: &Context, wanted: Option<&str>) -> Answer {
    let own = wanted.is_some_and(|wanted| wanted == context.who.name);
    if !own && !context.who.is_administrator() {
        return Err(ApiError::not_authorised("Not administrator user"));
    }
    let topology = &context.node().cluster.topology;
    let known = |user| topology.read(|topology| topology.user(user).is_some());
    if !wanted.is_none_or(known) {
        return Err(ApiError::not_found());
    }
    let rows = topology.read(|topology| {
        let users = topology.users();
        let users = users.filter(|user| wanted.is_none_or(|wanted| wanted == user.name));
        let limits = users.map(|user| json!({"user": user.name, "value": users::limits(user)}));
        let set = |row: &Value| {
            row["value"]
                .as_object()
                .is_some_and(|value| !value.is_empty())
        };
        limits.filter(set).collect()
    });
    context.all(rows)
}
