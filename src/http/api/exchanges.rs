//! Exchanges: list, declare, delete.

use serde_json::{Value, json};

use super::error::ApiError;
use super::{Answer, Context, Reply, json as values, list, put};
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
            let known = topology.read(|topology| topology.exchange(vhost, named(name)).map(row));
            let mut row = known.ok_or_else(ApiError::not_found)?;
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
    let name = |exchange: &Exchange| (exchange.vhost.to_string(), exchange.name.to_string());
    let chosen = list::choose(&context.request, rows, name)?;
    let rows = chosen.rows.iter().map(row).collect();
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
