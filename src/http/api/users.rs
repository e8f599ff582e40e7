//! Users: list, make, change, delete.

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::passwords::Passwords;
use super::request::Body;
use super::{Answer, Context, Reply, list, put};
use crate::model::topology::{Hashing, LimitKind, SettingsCommand, TopologyCommand, User};

/// Tags a user may carry.
const TAGS_MAX: usize = 32;

pub async fn answer(context: &Context) -> Answer {
    let path = context.path();
    match (path.as_slice(), context.request.method.as_str()) {
        (["users"], _) => all(context, |_| true).await,
        (["users", "without-permissions"], _) => {
            all(context, |user| user.permissions.is_empty()).await
        }
        (["users", "bulk-delete"], _) => bulk_delete(context).await,
        (["users", name], "GET") => {
            let topology = &context.node().cluster.topology;
            let row = topology.read(|topology| topology.user(name).map(row));
            context.one(row.ok_or_else(ApiError::not_found)?)
        }
        (["users", name], "PUT") => write(context, name).await,
        (["users", name], "DELETE") => delete(context, name).await,
        _ => Err(ApiError::not_found()),
    }
}

async fn all(context: &Context, wanted: impl Fn(&User) -> bool) -> Answer {
    let topology = &context.node().cluster.topology;
    let users: Vec<Value> = topology.read(|topology| {
        let users = topology.users().filter(|user| wanted(user));
        users.map(row).collect()
    });
    let name: fn(&Value) -> (&str, &str) = |row| {
        let name = row.get("name").and_then(Value::as_str);
        ("", name.unwrap_or_default())
    };
    let chosen = list::choose(&context.request, users, name)?;
    let rows = chosen.rest.finish(&context.request, chosen.rows)?;
    Ok(Reply::Json(rows))
}

/// A user's limits, as listings show them.
pub fn limits(user: &User) -> Value {
    let mut limits = Map::new();
    let pairs = [
        ("max-connections", user.max_connections),
        ("max-channels", user.max_channels),
    ];
    for (name, limit) in pairs {
        limits.extend(limit.map(|limit| (name.to_owned(), json!(limit))));
    }
    Value::Object(limits)
}

/// A user as listings and definitions show it.
pub fn row(user: &User) -> Value {
    json!({
        "name": user.name,
        "password_hash": user.password_hash,
        "hashing_algorithm": user.hashing.name(),
        "tags": user.tags,
        "limits": limits(user),
    })
}

/// Hash and algorithm of what a body says of a password.
fn password(rules: &Passwords, body: &Body) -> Result<(String, Hashing), ApiError> {
    let (password, hash) = (body.text("password")?, body.text("password_hash")?);
    match (password, hash) {
        (Some(_), Some(_)) => Err(ApiError::bad_request(
            "both_password_and_password_hash_are_provided",
        )),
        (Some(password), None) => rules.hash(&password),
        (None, Some(hash)) => {
            let hashing = match body.text("hashing_algorithm")? {
                // rabbitmqadmin names none of those it makes.
                None => Hashing::of(&hash).unwrap_or(Hashing::Sha256),
                Some(name) => Hashing::from_name(&name).ok_or_else(|| {
                    ApiError::bad_request(format!("unknown hashing algorithm '{name}'"))
                })?,
            };
            if !hash.is_empty() && !hashing.is_hash(&hash) {
                return Err(ApiError::bad_request(
                    "password_hash is not a hash of this algorithm",
                ));
            }
            Ok((hash, hashing))
        }
        (None, None) => Ok((String::new(), Hashing::Sha256)),
    }
}

/// What makes a user of a body of PUT or of a definition.
pub fn command(rules: &Passwords, name: &str, body: &Body) -> Result<SettingsCommand, ApiError> {
    if name.is_empty() || name.len() > 255 {
        return Err(ApiError::bad_request("user name must be 1 to 255 bytes"));
    }
    let tags = match body.words("tags")? {
        Some(tags) => tags,
        None if body.0.contains_key("administrator") => match body.flag("administrator")? {
            true => vec!["administrator".to_owned()],
            false => Vec::new(),
        },
        None => return Err(ApiError::bad_request("tags_not_present")),
    };
    if tags.len() > TAGS_MAX {
        let reason = format!("too many tags: at most {TAGS_MAX} are allowed");
        return Err(ApiError::bad_request(reason));
    }
    let (password_hash, hashing) = password(rules, body)?;
    Ok(SettingsCommand::PutUser {
        name: name.to_owned(),
        password_hash,
        hashing,
        tags,
    })
}

async fn write(context: &Context, name: &str) -> Answer {
    check_protected(context, name)?;
    let body = context.request.object()?;
    let command = command(&context.api.options.passwords, name, &body)?;
    let limits = set_limits(name, &body)?;
    let topology = &context.node().cluster.topology;
    let existed = topology.read(|topology| topology.user(name).is_some());
    context.change(TopologyCommand::Settings(command)).await?;
    for limit in limits {
        context.change(TopologyCommand::Settings(limit)).await?;
    }
    if let Some(Value::Object(permissions)) = body.get("permissions").filter(|_| !existed) {
        for (vhost, rights) in permissions {
            let rights = Body(rights.as_object().cloned().unwrap_or_default());
            let command = super::permissions::command(context, name, vhost, &rights)?;
            context.change(command).await?;
        }
    }
    put(existed)
}

/// What sets the limits a body names.
pub fn set_limits(name: &str, body: &Body) -> Result<Vec<SettingsCommand>, ApiError> {
    let Some(Value::Object(limits)) = body.get("limits") else {
        return Ok(Vec::new());
    };
    let limits = Body(limits.clone());
    let mut commands = Vec::new();
    let kinds = [
        ("max-connections", LimitKind::Connections),
        ("max-channels", LimitKind::Channels),
    ];
    for (key, limit) in kinds {
        if let Some(value) = limits.integer(key)? {
            commands.push(SettingsCommand::SetUserLimit {
                user: name.to_owned(),
                limit,
                value: Some(value),
            });
        }
    }
    Ok(commands)
}

fn check_protected(context: &Context, name: &str) -> Result<(), ApiError> {
    let topology = &context.node().cluster.topology;
    let protected = topology.read(|topology| {
        let user = topology.user(name);
        user.is_some_and(|user| user.has_tag("protected"))
    });
    match protected && !context.who.operator {
        true => Err(ApiError::bad_request(format!("user '{name}' is protected"))),
        false => Ok(()),
    }
}

async fn delete(context: &Context, name: &str) -> Answer {
    check_protected(context, name)?;
    let topology = &context.node().cluster.topology;
    if topology.read(|topology| topology.user(name).is_none()) {
        return Err(ApiError::not_found());
    }
    let name = name.to_owned();
    context.change(TopologyCommand::DeleteUser { name }).await?;
    Ok(Reply::Done)
}

async fn bulk_delete(context: &Context) -> Answer {
    let body = context.request.object()?;
    body.need(&["users"])?;
    for name in body.words("users")?.unwrap_or_default() {
        check_protected(context, &name)?;
        context.change(TopologyCommand::DeleteUser { name }).await?;
    }
    Ok(Reply::Done)
}
