//! Policies, operator policies, runtime parameters and global parameters.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::Names;
use super::error::ApiError;
use super::request::Body;
use super::{Answer, Context, Reply, json as values, limits, put};
use crate::model::topology::{
    ApplyTo, LimitKind, Pattern, Policy, PolicyScope, SettingsCommand, Topology, TopologyCommand,
};
use crate::shovel::{COMPONENT, Definition};

/// Components that may have parameters.
pub const COMPONENTS: [&str; 4] = [
    COMPONENT,
    "federation-upstream",
    "federation-upstream-set",
    "vhost-limits",
];

/// The global parameter that tells one cluster from another.
const CLUSTER_ID: &str = "internal_cluster_id";

pub async fn answer(context: &Context) -> Answer {
    let path = context.path();
    let method = context.request.method.as_str();
    match (path.as_slice(), method) {
        (["policies" | "operator-policies", rest @ ..], "GET") => {
            read(context, scope(path[0]), rest)
        }
        (["policies" | "operator-policies", vhost, name], _) => {
            write(context, scope(path[0]), vhost, name).await
        }
        (["global-parameters", rest @ ..], _) => globals(context, rest).await,
        (["parameters", rest @ ..], "GET") => parameters(context, rest),
        (["parameters", component, vhost, name], _) => {
            parameter(context, component, vhost, name).await
        }
        _ => Err(ApiError::not_found()),
    }
}

fn scope(resource: &str) -> PolicyScope {
    match resource {
        "operator-policies" => PolicyScope::Operator,
        _ => PolicyScope::User,
    }
}

/// A policy as listings and definitions show it.
pub fn row(policy: &Policy) -> Value {
    json!({
        "vhost": policy.vhost,
        "name": policy.name,
        "pattern": policy.pattern.source(),
        "apply-to": policy.apply_to.name(),
        "definition": values::from_table(&policy.definition),
        "priority": policy.priority,
    })
}

fn read(context: &Context, scope: PolicyScope, rest: &[&str]) -> Answer {
    let topology = &context.node().cluster.topology;
    if let [vhost, name] = rest {
        let row = topology.read(|topology| topology.policy(scope, vhost, name).map(row));
        return context.one(row.ok_or_else(ApiError::not_found)?);
    }
    let wanted = context.wanted_vhost(rest.first().copied());
    let mut rows: Vec<Policy> = topology.read(|topology| {
        let policies = topology.policies(scope);
        let policies =
            policies.filter(|policy| wanted.as_ref().is_none_or(|vhost| *vhost == policy.vhost));
        policies.cloned().collect()
    });
    rows.retain(|policy| context.sees(&policy.vhost));
    rows.sort_by_key(|policy| policy.priority);
    context.all(rows.iter().map(row).collect())
}

/// A policy of a body of PUT or of a definition.
pub fn policy(vhost: &str, name: &str, body: &Body) -> Result<Policy, ApiError> {
    body.need(&["pattern", "definition"])?;
    let definition = match body.get("definition") {
        Some(Value::Object(_)) => body.table("definition")?,
        Some(Value::Array(items)) if items.is_empty() => body.table("definition")?,
        _ => return Err(invalid("definition must be a dictionary")),
    };
    let apply_to = match body.text("apply-to")? {
        Some(word) => ApplyTo::from_name(&word).map_err(|error| invalid(&error))?,
        None => ApplyTo::All,
    };
    Ok(Policy {
        vhost: vhost.to_owned(),
        name: name.to_owned(),
        pattern: Pattern::new(body.text("pattern")?.unwrap_or_default()),
        apply_to,
        priority: body.integer("priority")?.unwrap_or(0),
        definition,
    })
}

fn invalid(reason: &str) -> ApiError {
    ApiError::bad_request(format!("Validation failed\n\n{reason}\n"))
}

/// RabbitMQ's frame around what a parameter was refused for.
pub fn framed(error: ApiError) -> ApiError {
    match (error.status.as_u16(), error.reason.as_str()) {
        (400, Some(reason)) => invalid(reason),
        _ => error,
    }
}

async fn write(context: &Context, scope: PolicyScope, vhost: &str, name: &str) -> Answer {
    let topology = &context.node().cluster.topology;
    let existed = topology.read(|topology| topology.policy(scope, vhost, name).is_some());
    let (vhost, name) = (vhost.to_owned(), name.to_owned());
    if context.is("DELETE") {
        if !existed {
            return Err(ApiError::not_found());
        }
        let delete = SettingsCommand::DeletePolicy { scope, vhost, name };
        context.change(TopologyCommand::Settings(delete)).await?;
        return Ok(Reply::Done);
    }
    if scope == PolicyScope::Operator {
        context.request.says_json()?;
    }
    let body = context.request.object()?;
    let policy = policy(&vhost, &name, &body)?;
    let set = SettingsCommand::PutPolicy { scope, policy };
    context
        .change(TopologyCommand::Settings(set))
        .await
        .map_err(framed)?;
    put(existed)
}

/// All runtime parameters, vhost limits among them, as listings show them.
pub fn parameter_rows(topology: &Topology) -> Vec<Value> {
    let stored = topology
        .parameters()
        .map(|((component, vhost, name), value)| {
            json!({
                "component": component,
                "vhost": vhost,
                "name": name,
                "value": values::from_amqp(value),
            })
        });
    let limits = topology.vhosts().filter_map(|vhost| {
        let limits = limits::value_of(topology.vhost_settings(vhost)?);
        (!limits.is_empty()).then(|| {
            json!({
                "component": "vhost-limits",
                "vhost": vhost,
                "name": "limits",
                "value": limits,
            })
        })
    });
    stored.chain(limits).collect()
}

fn parameters(context: &Context, rest: &[&str]) -> Answer {
    let topology = &context.node().cluster.topology;
    let mut rows = topology.read(parameter_rows);
    let keys = ["component", "vhost", "name"];
    rows.retain(|row| {
        let mut pairs = keys.iter().zip(rest);
        pairs.all(|(key, wanted)| row[*key] == **wanted)
            && row["vhost"]
                .as_str()
                .is_some_and(|vhost| context.sees(vhost))
    });
    if rest.len() == 3 {
        return context.one(rows.pop().ok_or_else(ApiError::not_found)?);
    }
    context.all(rows)
}

/// What sets a parameter.
pub fn parameter_commands(
    component: &str,
    vhost: &str,
    name: &str,
    value: &Value,
) -> Result<Vec<SettingsCommand>, ApiError> {
    if !COMPONENTS.contains(&component) {
        return Err(invalid(&format!("component {component} not found")));
    }
    let needed: &[&str] = match component {
        "federation-upstream" => &["uri"],
        _ => &[],
    };
    for key in needed {
        match value.get(key) {
            Some(Value::String(_) | Value::Array(_)) => {}
            Some(other) => {
                return Err(invalid(&format!(
                    "{key} should be list, actually was {other}"
                )));
            }
            None => return Err(invalid(&format!("Key \"{key}\" not found in {name}"))),
        }
    }
    if component == COMPONENT {
        Definition::read(name, &values::to_amqp(value)?).map_err(|why| invalid(&why))?;
    }
    if component != "vhost-limits" {
        return Ok(vec![SettingsCommand::PutParameter {
            component: component.to_owned(),
            vhost: vhost.to_owned(),
            name: name.to_owned(),
            value: values::to_amqp(value)?,
        }]);
    }
    let value = Body(value.as_object().cloned().unwrap_or_default());
    let kinds = [
        ("max-connections", LimitKind::Connections),
        ("max-queues", LimitKind::Queues),
    ];
    let mut commands = Vec::new();
    for (key, limit) in kinds {
        if let Some(limit_value) = value.integer(key)? {
            commands.push(SettingsCommand::SetVhostLimit {
                vhost: vhost.to_owned(),
                limit,
                value: Some(limit_value),
            });
        }
    }
    Ok(commands)
}

async fn parameter(context: &Context, component: &str, vhost: &str, name: &str) -> Answer {
    let topology = &context.node().cluster.topology;
    let rows = topology.read(parameter_rows);
    let existed = rows
        .iter()
        .any(|row| row["component"] == component && row["vhost"] == vhost && row["name"] == name);
    if context.is("DELETE") {
        if !existed {
            return Err(ApiError::not_found());
        }
        let lift = |limit| SettingsCommand::SetVhostLimit {
            vhost: vhost.to_owned(),
            limit,
            value: None,
        };
        let commands = match component {
            "vhost-limits" => vec![lift(LimitKind::Connections), lift(LimitKind::Queues)],
            _ => vec![SettingsCommand::DeleteParameter {
                component: component.to_owned(),
                vhost: vhost.to_owned(),
                name: name.to_owned(),
            }],
        };
        for command in commands {
            context.change(TopologyCommand::Settings(command)).await?;
        }
        return Ok(Reply::Done);
    }
    let body = context.request.object()?;
    body.need(&["value"])?;
    let value = body.0.get("value").unwrap_or(&Value::Null);
    let commands = parameter_commands(component, vhost, name, value)?;
    if component == COMPONENT {
        may_shovel(context, name, value)?;
    }
    for command in commands {
        context.change(TopologyCommand::Settings(command)).await?;
    }
    put(existed)
}

/// A shovel acts in vhosts of this cluster without a user of its own, so who defines it must have access to them.
fn may_shovel(context: &Context, name: &str, value: &Value) -> Result<(), ApiError> {
    let definition = Definition::read(name, &values::to_amqp(value)?);
    let definition = definition.map_err(|why| invalid(&why))?;
    for vhost in definition.own_vhosts() {
        if !context.may_use(vhost) {
            let user = &context.who.name;
            let text = format!("user \"{user}\" may not connect to vhost \"{vhost}\"");
            return Err(invalid(&text));
        }
    }
    Ok(())
}

/// All global parameters, as listings show them; what identifies the cluster is its own, whatever was imported.
pub fn global_rows(topology: &Topology, names: &Names) -> Vec<Value> {
    let globals = topology.globals();
    let stored = globals.filter(|(name, _)| *name != CLUSTER_ID);
    let stored = stored.map(|(name, value)| (name.to_owned(), values::from_amqp(value)));
    let id = (CLUSTER_ID.to_owned(), json!(names.cluster_id));
    let rows: BTreeMap<String, Value> = stored.chain([id]).collect();
    let rows = rows.into_iter();
    rows.map(|(name, value)| json!({"name": name, "value": value}))
        .collect()
}

async fn globals(context: &Context, rest: &[&str]) -> Answer {
    let topology = &context.node().cluster.topology;
    let rows = topology.read(|topology| global_rows(topology, &context.api.names));
    let Some(name) = rest.first() else {
        return context.all(rows);
    };
    let known = rows.into_iter().find(|row| row["name"] == **name);
    let name = (*name).to_owned();
    match context.request.method.as_str() {
        "GET" => context.one(known.ok_or_else(ApiError::not_found)?),
        _ if name == CLUSTER_ID => Err(ApiError::bad_request("it identifies the cluster")),
        "DELETE" if known.is_none() => Err(ApiError::not_found()),
        "DELETE" => {
            let delete = SettingsCommand::DeleteGlobal { name };
            context.change(TopologyCommand::Settings(delete)).await?;
            Ok(Reply::Done)
        }
        _ => {
            let body = context.request.object()?;
            body.need(&["value"])?;
            let value = values::to_amqp(body.0.get("value").unwrap_or(&Value::Null))?;
            let set = SettingsCommand::PutGlobal { name, value };
            context.change(TopologyCommand::Settings(set)).await?;
            put(known.is_some())
        }
    }
}
