//! Exchanges: list, declare, delete.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::error::ApiError;
use super::history::{self, Ranges};
use super::samples::{EXCHANGE, Object};
use super::{Answer, Api, Context, Reply, json as values, list, peers, put};
use crate::model::topology::Exchange;

/// `amq.default` in a path is the default exchange.
pub fn named(segment: &str) -> &str {
    match segment {
        "amq.default" => "",
        name => name,
    }
}

pub async fn answer(context: &Context) -> Answer {
    let path = context.path();
    match (path.as_slice(), context.request.method.as_str()) {
        (["exchanges"], _) => all(context, None).await,
        (["exchanges", vhost], _) => all(context, Some(vhost)).await,
        (["exchanges", vhost, name], "GET") => {
            let topology = &context.node().cluster.topology;
            let name = named(name);
            let known = topology.read(|topology| topology.exchange(vhost, name).cloned());
            let exchange = known.ok_or_else(ApiError::not_found)?;
            let mut rows = rendered(context, &[exchange]).await;
            let mut row = rows.pop().ok_or_else(ApiError::not_found)?;
            row["incoming"] = json!([]);
            row["outgoing"] = json!([]);
            context.one(row)
        }
        (["exchanges", vhost, name], "PUT") => declare(context, vhost, named(name)).await,
        (["exchanges", vhost, name], "DELETE") => {
            let name = named(name);
            if !has(context, vhost, name) {
                return Err(ApiError::not_found());
            }
            let if_unused = context.request.is_set("if-unused");
            let direct = context.direct(vhost);
            direct.delete_exchange(name.to_owned(), if_unused).await?;
            Ok(Reply::Done)
        }
        _ => Err(ApiError::not_found()),
    }
}

fn has(context: &Context, vhost: &str, name: &str) -> bool {
    let topology = &context.node().cluster.topology;
    topology.read(|topology| topology.exchange(vhost, name).is_some())
}

fn row(exchange: &Exchange) -> Value {
    let policy = exchange.effective.as_ref();
    let mut row = json!({
        "name": &*exchange.name,
        "vhost": &*exchange.vhost,
        "type": exchange.kind.name(),
        "durable": exchange.durable,
        "auto_delete": exchange.auto_delete,
        "internal": exchange.internal,
        "arguments": values::from_table(&exchange.arguments),
    });
    if let Some(policy) = policy.and_then(|effective| effective.policy.as_ref()) {
        row["policy"] = json!(policy);
    }
    row
}

/// Rows with what all nodes saw go through.
async fn rendered(context: &Context, exchanges: &[Exchange]) -> Vec<Value> {
    let mut rows: Vec<Value> = exchanges.iter().map(row).collect();
    if context.request.is_set("disable_stats") {
        return rows;
    }
    let wanted = exchanges.iter().map(|one| json!([&*one.vhost, &*one.name]));
    let question = json!({
        "what": "exchanges",
        "rows": wanted.collect::<Vec<_>>(),
        "ranges": context.ranges.to_json(),
    });
    for (_, _, answer) in peers::all(context, &question).await {
        for (at, row) in rows.iter_mut().enumerate() {
            let Some(stats) = answer.get(at).filter(|stats| stats.is_object()) else {
                continue;
            };
            match row.get_mut("message_stats") {
                Some(sum) => history::add(sum, stats),
                None => row["message_stats"] = stats.clone(),
            }
        }
    }
    rows
}

/// What went through these exchanges here.
pub fn own(api: &Api, rows: &[Value], ranges: Ranges) -> Value {
    let row = |row: &Value| -> Option<Value> {
        let (vhost, name) = (row.get(0)?.as_str()?, row.get(1)?.as_str()?);
        let meters = &api.node.meters;
        let values = meters.exchange_values(vhost, name.as_bytes());
        let values = values.unwrap_or_default();
        let object = Object::Exchange(Arc::from(vhost), Bytes::copy_from_slice(name.as_bytes()));
        let (names, range) = ((&EXCHANGE[..], 0), ranges.msg_rates);
        let table = api.samples.table(&object, names, &values[..2], range);
        Some(Value::Object(table))
    };
    rows.iter()
        .map(|one| row(one).unwrap_or(Value::Null))
        .collect()
}

async fn all(context: &Context, vhost: Option<&str>) -> Answer {
    let wanted = context.wanted_vhost(vhost);
    let topology = &context.node().cluster.topology;
    let mut rows: Vec<Exchange> = topology.read(|topology| {
        let exchanges = topology.exchanges();
        let exchanges = exchanges.filter(|exchange| {
            wanted
                .as_ref()
                .is_none_or(|vhost| **vhost == *exchange.vhost)
        });
        exchanges.cloned().collect()
    });
    rows.retain(|exchange| context.sees(&exchange.vhost));
    let name: fn(&Exchange) -> (&str, &str) = |exchange| (&exchange.vhost, &exchange.name);
    let chosen = list::choose(&context.request, rows, name)?;
    let rows = rendered(context, &chosen.rows).await;
    let rows = chosen.rest.finish(&context.request, rows)?;
    Ok(Reply::Json(rows))
}

async fn declare(context: &Context, vhost: &str, name: &str) -> Answer {
    if name.len() > 255 {
        return Err(ApiError::bad_request(
            "exchange name is longer than 255 bytes",
        ));
    }
    let body = context.request.object()?;
    let existed = has(context, vhost, name);
    let kind = body.text("type")?.unwrap_or_else(|| "direct".to_owned());
    let flags = [
        body.flag("durable")?,
        body.flag("auto_delete")?,
        body.flag("internal")?,
    ];
    let arguments = body.table("arguments")?;
    let direct = context.direct(vhost);
    direct
        .declare_exchange(name.to_owned(), kind, flags, arguments)
        .await?;
    put(existed)
}
