//! Permissions and topic permissions.

use serde_json::{Value, json};

use super::error::ApiError;
use super::request::Body;
use super::{Answer, Context, Reply, put};
use crate::model::topology::{
    Pattern, Permission, Permissions, SettingsCommand, TopicPermissions, Topology, TopologyCommand,
    User,
};

pub async fn answer(context: &Context) -> Answer {
    let path = context.path();
    let method = context.request.method.as_str();
    match (path.as_slice(), method) {
        (["permissions"], _) => context.all(list(context, |_, _| true)),
        (["topic-permissions"], _) => context.all(topics(context, |_, _| true)),
        (["vhosts", vhost, kind], _) => {
            if !context.has_vhost(vhost) {
                return Err(ApiError::not_found());
            }
            let of = |_: &str, in_vhost: &str| in_vhost == *vhost;
            context.all(match *kind {
                "permissions" => list(context, of),
                _ => topics(context, of),
            })
        }
        (["users", user, kind], _) => {
            if !has_user(context, user) {
                return Err(ApiError::not_found());
            }
            let of = |name: &str, _: &str| name == *user;
            context.all(match *kind {
                "permissions" => list(context, of),
                _ => topics(context, of),
            })
        }
        ([kind, vhost, user], "GET") => one(context, kind, vhost, user),
        (["permissions", vhost, user], "PUT") => {
            let existed = known(context, user, |user| user.permissions.contains_key(*vhost));
            let body = context.request.object()?;
            let command = command(context, user, vhost, &body)?;
            context.change(command).await?;
            put(existed)
        }
        (["permissions", vhost, user], _) => {
            if !known(context, user, |user| user.permissions.contains_key(*vhost)) {
                return Err(ApiError::not_found());
            }
            let (user, vhost) = ((*user).to_owned(), (*vhost).to_owned());
            let clear = TopologyCommand::ClearPermissions { user, vhost };
            context.change(clear).await?;
            Ok(Reply::Done)
        }
        (["topic-permissions", vhost, user], "PUT") => {
            let existed = known(context, user, |user| has_topics(user, vhost, None));
            let body = context.request.object()?;
            let command = topic_command(context, user, vhost, &body)?;
            context.change(TopologyCommand::Settings(command)).await?;
            put(existed)
        }
        (["topic-permissions", vhost, user, rest @ ..], "DELETE") => {
            let exchange = rest.first().map(|exchange| named(exchange).to_owned());
            if !known(context, user, |user| {
                has_topics(user, vhost, exchange.as_deref())
            }) {
                return Err(ApiError::not_found());
            }
            let clear = SettingsCommand::ClearTopicPermissions {
                user: (*user).to_owned(),
                vhost: (*vhost).to_owned(),
                exchange,
            };
            context.change(TopologyCommand::Settings(clear)).await?;
            Ok(Reply::Done)
        }
        _ => Err(ApiError::not_found()),
    }
}

fn named(exchange: &str) -> &str {
    match exchange {
        "amq.default" => "",
        name => name,
    }
}

fn has_topics(user: &User, vhost: &str, exchange: Option<&str>) -> bool {
    let mut keys = user.topic_permissions.keys();
    keys.any(|(of, name)| of == vhost && exchange.is_none_or(|exchange| exchange == name))
}

fn known(context: &Context, user: &str, fact: impl Fn(&User) -> bool) -> bool {
    let topology = &context.node().cluster.topology;
    topology.read(|topology| topology.user(user).is_some_and(fact))
}

fn has_user(context: &Context, user: &str) -> bool {
    known(context, user, |_| true)
}

/// A user's rights in a vhost, as listings and definitions show them.
pub fn row(user: &str, vhost: &str, rights: &Permissions) -> Value {
    json!({
        "user": user,
        "vhost": vhost,
        "configure": rights.pattern(Permission::Configure),
        "write": rights.pattern(Permission::Write),
        "read": rights.pattern(Permission::Read),
    })
}

/// A user's rights on a topic exchange, likewise.
pub fn topic_row(
    user: &str,
    (vhost, exchange): &(String, String),
    rights: &TopicPermissions,
) -> Value {
    json!({
        "user": user,
        "vhost": vhost,
        "exchange": exchange,
        "write": rights.write.source(),
        "read": rights.read.source(),
    })
}

fn list(context: &Context, wanted: impl Fn(&str, &str) -> bool) -> Vec<Value> {
    let collect = |topology: &Topology| {
        let mut rows = Vec::new();
        for user in topology.users() {
            let own = user.permissions.iter();
            let own = own.filter(|(vhost, _)| wanted(&user.name, vhost));
            rows.extend(own.map(|(vhost, rights)| row(&user.name, vhost, rights)));
        }
        rows
    };
    context.node().cluster.topology.read(collect)
}

fn topics(context: &Context, wanted: impl Fn(&str, &str) -> bool) -> Vec<Value> {
    let collect = |topology: &Topology| {
        let mut rows = Vec::new();
        for user in topology.users() {
            let own = user.topic_permissions.iter();
            let own = own.filter(|((vhost, _), _)| wanted(&user.name, vhost));
            rows.extend(own.map(|(key, rights)| topic_row(&user.name, key, rights)));
        }
        rows
    };
    context.node().cluster.topology.read(collect)
}

fn one(context: &Context, kind: &str, vhost: &str, user: &str) -> Answer {
    if !has_user(context, user) || !context.has_vhost(vhost) {
        return Err(ApiError::not_found());
    }
    let of = |name: &str, in_vhost: &str| name == user && in_vhost == vhost;
    if kind == "topic-permissions" {
        let rows = topics(context, of);
        return match rows.is_empty() {
            true => Err(ApiError::not_found()),
            false => context.all(rows),
        };
    }
    match list(context, of).pop() {
        Some(row) => context.one(row),
        None => Err(ApiError::not_found()),
    }
}

fn check_ends(context: &Context, user: &str, vhost: &str) -> Result<(), ApiError> {
    match has_user(context, user) && context.has_vhost(vhost) {
        true => Ok(()),
        false => Err(ApiError::bad_request("vhost_or_user_not_found")),
    }
}

fn patterns<const N: usize>(body: &Body, keys: [&str; N]) -> Result<[String; N], ApiError> {
    body.need(&keys)?;
    let mut patterns = [const { String::new() }; N];
    for (pattern, key) in patterns.iter_mut().zip(keys) {
        *pattern = body.text(key)?.unwrap_or_default();
        if let Err(error) = Pattern::check(pattern) {
            let reason = format!("invalid regular expression '{pattern}' for '{key}': {error}");
            return Err(ApiError::bad_request(reason));
        }
    }
    Ok(patterns)
}

/// What sets the permissions a body names.
pub fn command(
    context: &Context,
    user: &str,
    vhost: &str,
    body: &Body,
) -> Result<TopologyCommand, ApiError> {
    check_ends(context, user, vhost)?;
    let [configure, write, read] = patterns(body, ["configure", "write", "read"])?;
    Ok(TopologyCommand::SetPermissions {
        user: user.to_owned(),
        vhost: vhost.to_owned(),
        configure,
        write,
        read,
    })
}

/// What sets the topic permissions a body names.
pub fn topic_command(
    context: &Context,
    user: &str,
    vhost: &str,
    body: &Body,
) -> Result<SettingsCommand, ApiError> {
    check_ends(context, user, vhost)?;
    body.need(&["exchange", "write", "read"])?;
    let [write, read] = patterns(body, ["write", "read"])?;
    let exchange = body.text("exchange")?.unwrap_or_default();
    Ok(SettingsCommand::SetTopicPermissions {
        user: user.to_owned(),
        vhost: vhost.to_owned(),
        exchange: named(&exchange).to_owned(),
        write,
        read,
    })
}
