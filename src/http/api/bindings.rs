//! Bindings: list, make, and remove by their properties key.
//!
//! The key is the routing key, quoted, and for bindings with arguments a hash of those; clients take it from listings.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::error::ApiError;
use super::exchanges::named;
use super::request::quote;
use super::{Answer, Context, Reply, json as values};
use crate::amqp::FieldTable;
use crate::model::topology::{BindingRef, Destination, Topology};

/// Largest body of a new binding, as in RabbitMQ.
const BODY_BYTES_MAX: usize = 5_000;

/// Names a binding among those of the same two ends.
fn properties_key(routing_key: &str, arguments: &FieldTable) -> String {
    if arguments.inner().is_empty() {
        return match routing_key {
            "" => "~".to_owned(),
            key => quote(key),
        };
    }
    let text = values::from_table(arguments).to_string();
    let hash = crc32fast::hash(text.as_bytes());
    let hash = URL_SAFE_NO_PAD.encode(hash.to_be_bytes());
    format!("{}~{hash}", quote(routing_key))
}

/// A binding as listings show it.
fn row(binding: &BindingRef<'_>) -> Value {
    let none = FieldTable::default();
    let arguments = binding.arguments.unwrap_or(&none);
    json!({
        "source": binding.source,
        "vhost": binding.vhost,
        "destination": binding.destination,
        "destination_type": if binding.to_queue { "queue" } else { "exchange" },
        "routing_key": binding.routing_key,
        "arguments": values::from_table(arguments),
        "properties_key": properties_key(binding.routing_key, arguments),
    })
}

fn rows(context: &Context, wanted: impl Fn(&BindingRef<'_>) -> bool) -> Vec<Value> {
    let topology = &context.node().cluster.topology;
    topology.read(|topology| {
        let bindings = topology.bindings().filter(|binding| wanted(binding));
        bindings.map(|binding| row(&binding)).collect()
    })
}

/// RabbitMQ asks for the vhost alone: what is not there has no bindings.
fn in_vhost(context: &Context, vhost: &str) -> Result<(), ApiError> {
    let topology = &context.node().cluster.topology;
    match topology.read(|topology| topology.vhost_settings(vhost).is_some()) {
        true => Ok(()),
        false => Err(ApiError::not_found()),
    }
}

/// Bindings that start or end at an exchange.
pub fn of_exchange(context: &Context, vhost: &str, exchange: &str, end: &str) -> Answer {
    let name = named(exchange);
    in_vhost(context, vhost)?;
    context.all(match end {
        "source" => rows(context, |binding| {
            binding.vhost == vhost && binding.source == name
        }),
        "destination" => rows(context, |binding| {
            binding.vhost == vhost && !binding.to_queue && binding.destination == name
        }),
        _ => return Err(ApiError::not_found()),
    })
}

/// Bindings that end at a queue.
pub fn of_queue(context: &Context, vhost: &str, queue: &str) -> Answer {
    in_vhost(context, vhost)?;
    context.all(rows(context, |binding| {
        binding.vhost == vhost && binding.to_queue && binding.destination == queue
    }))
}

pub async fn answer(context: &Context) -> Answer {
    let path = context.path();
    match path.as_slice() {
        ["bindings", rest @ ..] if rest.len() < 2 => {
            let wanted = context.wanted_vhost(rest.first().copied());
            let mut rows = rows(context, |binding| {
                wanted.as_ref().is_none_or(|vhost| vhost == binding.vhost)
            });
            rows.retain(|row| {
                row["vhost"]
                    .as_str()
                    .is_some_and(|vhost| context.sees(vhost))
            });
            context.all(rows)
        }
        [
            "bindings",
            vhost,
            "e",
            source,
            kind @ ("q" | "e"),
            destination,
            rest @ ..,
        ] => {
            let ends = Ends {
                vhost,
                source: named(source),
                queue: *kind == "q",
                destination: match *kind {
                    "q" => destination,
                    _ => named(destination),
                },
            };
            ends.answer(context, rest.first().copied()).await
        }
        _ => Err(ApiError::not_found()),
    }
}

struct Ends<'a> {
    vhost: &'a str,
    source: &'a str,
    queue: bool,
    destination: &'a str,
}

impl Ends<'_> {
    fn exist(&self, topology: &Topology) -> bool {
        let destination = match self.queue {
            true => topology.queue(self.vhost, self.destination).is_some(),
            false => topology.exchange(self.vhost, self.destination).is_some(),
        };
        destination && topology.exchange(self.vhost, self.source).is_some()
    }

    fn are(&self, binding: &BindingRef<'_>) -> bool {
        binding.vhost == self.vhost
            && binding.source == self.source
            && binding.to_queue == self.queue
            && binding.destination == self.destination
    }

    fn target(&self) -> Destination {
        match self.queue {
            true => Destination::Queue(self.destination.to_owned()),
            false => Destination::Exchange(self.destination.to_owned()),
        }
    }

    async fn answer(&self, context: &Context, key: Option<&str>) -> Answer {
        let topology = &context.node().cluster.topology;
        if key.is_none() && !context.is("POST") && context.has_vhost(self.vhost) {
            // What is not there has no bindings, as with RabbitMQ.
            return context.all(rows(context, |binding| self.are(binding)));
        }
        if !topology.read(|topology| self.exist(topology)) {
            return Err(match context.is("POST") {
                true => ApiError::missing("no such exchange or queue"),
                false => ApiError::not_found(),
            });
        }
        let Some(key) = key else {
            return self.make(context).await;
        };
        let found = topology.read(|topology| {
            let mut bindings = topology.bindings().filter(|binding| self.are(binding));
            let none = FieldTable::default();
            let binding = bindings.find(|binding| {
                let arguments = binding.arguments.unwrap_or(&none);
                let own = properties_key(binding.routing_key, arguments);
                own == key || own == quote(key)
            })?;
            let arguments = binding.arguments.cloned().unwrap_or_default();
            Some((binding.routing_key.to_owned(), arguments, row(&binding)))
        });
        let (routing_key, arguments, row) = found.ok_or_else(ApiError::not_found)?;
        if context.is("GET") {
            return context.one(row);
        }
        let source = self.source.to_owned();
        let direct = context.direct(self.vhost);
        direct
            .bind(source, self.target(), routing_key, arguments, false)
            .await?;
        Ok(Reply::Done)
    }

    async fn make(&self, context: &Context) -> Answer {
        if context.request.body.len() > BODY_BYTES_MAX {
            return Err(ApiError::bad_request("Payload size limit exceeded"));
        }
        let body = context.request.object()?;
        let routing_key = body.text("routing_key")?.unwrap_or_default();
        if routing_key.len() > 255 {
            return Err(ApiError::bad_request(
                "routing key is longer than 255 bytes",
            ));
        }
        let arguments = body.table("arguments")?;
        let key = properties_key(&routing_key, &arguments);
        let location = format!(
            "{}/{}",
            quote(self.destination),
            quote(&key).replace("%7E", "~")
        );
        let source = self.source.to_owned();
        let direct = context.direct(self.vhost);
        direct
            .bind(source, self.target(), routing_key, arguments, true)
            .await?;
        Ok(Reply::Created(Some(location)))
    }
}
