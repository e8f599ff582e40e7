//! Shovels: how each is, wherever it runs; their end, and their start anew.

use serde_json::{Value, json};

use super::error::ApiError;
use super::{Answer, Api, Context, Reply, peers};
use crate::base::date_and_time;
use crate::model::topology::{SettingsCommand, TopologyCommand};
use crate::shovel::{COMPONENT, State, View};

pub async fn answer(context: &Context) -> Answer {
    let path = context.path();
    match (path.as_slice(), context.request.method.as_str()) {
        (["shovels"], _) => listed(context, None).await,
        (["shovels", vhost], _) => listed(context, Some(vhost)).await,
        // As RabbitMQ: what defines it, not how it is.
        (["shovels", "vhost", vhost, name], "GET") => {
            let topology = &context.node().cluster.topology;
            let value = topology.read(|topology| {
                let value = topology.parameter(COMPONENT, vhost, name);
                value.map(super::json::from_amqp)
            });
            context.one(json!({
                "component": COMPONENT,
                "vhost": vhost,
                "name": name,
                "value": value.ok_or_else(ApiError::not_found)?,
            }))
        }
        (["shovels", "vhost", vhost, name], _) => {
            known(context, vhost, name)?;
            let delete = SettingsCommand::DeleteParameter {
                component: COMPONENT.to_owned(),
                vhost: (*vhost).to_owned(),
                name: (*name).to_owned(),
            };
            context.change(TopologyCommand::Settings(delete)).await?;
            Ok(Reply::Done)
        }
        (["shovels", "vhost", vhost, name, "restart"], _) => {
            known(context, vhost, name)?;
            let question = json!({"what": "restart shovel", "vhost": vhost, "name": name});
            let told = peers::all(context, &question).await;
            match told.iter().any(|(.., restarted)| restarted == true) {
                true => Ok(Reply::Done),
                false => Err(ApiError::not_found()),
            }
        }
        _ => Err(ApiError::not_found()),
    }
}

fn known(context: &Context, vhost: &str, name: &str) -> Result<(), ApiError> {
    let topology = &context.node().cluster.topology;
    let known = topology.read(|topology| topology.parameter(COMPONENT, vhost, name).is_some());
    known.then_some(()).ok_or_else(ApiError::not_found)
}

async fn listed(context: &Context, vhost: Option<&str>) -> Answer {
    let wanted = context.wanted_vhost(vhost);
    let told = peers::all(context, &json!({"what": "shovels"})).await;
    let rows = told.into_iter().flat_map(|(.., rows)| match rows {
        Value::Array(rows) => rows,
        _ => Vec::new(),
    });
    let seen = |row: &Value| {
        let vhost = row["vhost"].as_str().unwrap_or_default();
        wanted.as_ref().is_none_or(|wanted| wanted == vhost) && context.sees(vhost)
    };
    context.all(rows.filter(seen).collect())
}

/// Rows of those that run on this node.
pub fn own(api: &Api) -> Value {
    let views = api.shovels.all();
    views.iter().map(|view| row(api, view)).collect()
}

/// Restarts one if it runs on this node.
pub fn restart(api: &Api, question: &Value) -> Value {
    let text = |key: &str| question[key].as_str().unwrap_or_default();
    json!(api.shovels.restart(text("vhost"), text("name")))
}

fn row(api: &Api, view: &View) -> Value {
    let mut row = json!({
        "node": api.names.node,
        "timestamp": date_and_time(view.since.0 / 1000),
        "name": view.name,
        "vhost": view.vhost,
        "type": "dynamic",
        "state": view.state.name(),
    });
    match &view.state {
        State::Starting => {}
        State::Terminated { reason } => row["reason"] = json!(reason),
        State::Running {
            source,
            destination,
            definition,
        } => {
            let remaining = view.progress.remaining;
            row["src_uri"] = json!(source);
            row["dest_uri"] = json!(destination);
            row["src_protocol"] = json!("amqp091");
            row["dest_protocol"] = json!("amqp091");
            for (key, value) in definition.places() {
                row[key.replace('-', "_")] = json!(value);
            }
            row["blocked_status"] = json!(if view.blocked { "blocked" } else { "running" });
            row["remaining"] = remaining.map_or_else(|| json!("unlimited"), |count| json!(count));
            row["pending"] = json!(view.progress.pending);
            row["forwarded"] = json!(view.progress.forwarded);
        }
    }
    row
}
