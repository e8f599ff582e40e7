//! Messages: publish one, get some.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::exchanges::named;
use super::request::Body;
use super::{Answer, Context, Reply, json as values};
use crate::amqp::{Properties, RawProperties};
use crate::broker::{Got, Settled};

/// Messages one get may ask for.
const COUNT_MAX: i64 = 100_000;
/// Bytes of bodies after which a get asks for no more.
const BYTES_MAX: usize = 32 * 1024 * 1024;

pub async fn publish(context: &Context, vhost: &str, exchange: &str) -> Answer {
    let exchange = named(exchange);
    let topology = &context.node().cluster.topology;
    if topology.read(|topology| topology.exchange(vhost, exchange).is_none()) {
        return Err(ApiError::missing("exchange_not_found"));
    }
    let body = context.request.object()?;
    body.need(&["properties", "routing_key", "payload", "payload_encoding"])?;
    let routing_key = body.text("routing_key")?.unwrap_or_default();
    if routing_key.len() > 255 {
        return Err(ApiError::bad_request(
            "routing key is longer than 255 bytes",
        ));
    }
    let payload = body.text("payload")?.unwrap_or_default();
    let payload = match body.text("payload_encoding")?.as_deref() {
        Some("string") => payload.into_bytes(),
        Some("base64") => STANDARD
            .decode(payload)
            .map_err(|_| ApiError::bad_request("payload is not base64"))?,
        other => {
            let reason = format!("{{unsupported_encoding,{}}}", other.unwrap_or("none"));
            return Err(ApiError::bad_request(reason));
        }
    };
    let max = context.node().access.load().session.max_message_size;
    if payload.len() as u64 > max {
        return Err(ApiError::bad_request(format!(
            "message size {} is larger than configured max size {max}",
            payload.len()
        )));
    }
    let properties = properties(&body, &context.who.name)?.encode();
    let exchange = Bytes::copy_from_slice(exchange.as_bytes());
    let direct = context.direct(vhost);
    let routed = direct
        .publish(&exchange, &routing_key.into(), &properties, payload.into())
        .await?;
    Ok(Reply::Json(json!({"routed": routed})))
}

fn properties(body: &Body, user: &str) -> Result<Properties, ApiError> {
    let given = match body.get("properties") {
        Some(Value::Object(given)) => Body(given.clone()),
        Some(Value::Array(items)) if items.is_empty() => Body::default(),
        None => Body::default(),
        Some(_) => return Err(ApiError::bad_request("properties must be an object")),
    };
    let text = |key: &str| -> Result<Option<Bytes>, ApiError> {
        let text = given.text(key)?;
        if text.as_ref().is_some_and(|text| text.len() > 255) {
            return Err(ApiError::bad_request(format!(
                "{key} is longer than 255 bytes"
            )));
        }
        Ok(text.map(Bytes::from))
    };
    let small = |key: &str| -> Result<Option<u8>, ApiError> {
        let number = given.integer(key)?;
        let number = number.map(u8::try_from).transpose();
        number.map_err(|_| ApiError::bad_request(format!("{key} is out of range")))
    };
    let expiration = text("expiration")?;
    let valid =
        |text: &Bytes| std::str::from_utf8(text).is_ok_and(|text| text.parse::<u64>().is_ok());
    if expiration.as_ref().is_some_and(|text| !valid(text)) {
        return Err(ApiError::bad_request("invalid expiration"));
    }
    let user_id = text("user_id")?;
    if user_id.as_ref().is_some_and(|id| id != user.as_bytes()) {
        return Err(ApiError::bad_request(format!(
            "user_id property set to another user than the authenticated one, '{user}'"
        )));
    }
    let timestamp = given.integer("timestamp")?;
    let timestamp = timestamp.map(u64::try_from).transpose();
    Ok(Properties {
        content_type: text("content_type")?,
        content_encoding: text("content_encoding")?,
        headers: given
            .get("headers")
            .map(|_| given.table("headers"))
            .transpose()?,
        delivery_mode: small("delivery_mode")?,
        priority: small("priority")?,
        correlation_id: text("correlation_id")?,
        reply_to: text("reply_to")?,
        expiration,
        message_id: text("message_id")?,
        timestamp: timestamp.map_err(|_| ApiError::bad_request("timestamp is negative"))?,
        kind: text("type")?,
        user_id,
        app_id: text("app_id")?,
        cluster_id: text("cluster_id")?,
    })
}

/// Properties as a get shows them: only those that are set.
fn shown(raw: &RawProperties) -> Value {
    let properties = raw.decode();
    let mut shown = Map::new();
    let texts = [
        ("content_type", properties.content_type),
        ("content_encoding", properties.content_encoding),
        ("correlation_id", properties.correlation_id),
        ("reply_to", properties.reply_to),
        ("expiration", properties.expiration),
        ("message_id", properties.message_id),
        ("type", properties.kind),
        ("user_id", properties.user_id),
        ("app_id", properties.app_id),
        ("cluster_id", properties.cluster_id),
    ];
    for (key, text) in texts {
        shown.extend(text.map(|text| (key.to_owned(), values::text_or_base64(&text))));
    }
    let numbers = [
        ("delivery_mode", properties.delivery_mode.map(u64::from)),
        ("priority", properties.priority.map(u64::from)),
        ("timestamp", properties.timestamp),
    ];
    for (key, number) in numbers {
        shown.extend(number.map(|number| (key.to_owned(), json!(number))));
    }
    if let Some(headers) = properties.headers {
        shown.insert("headers".to_owned(), values::from_table(&headers));
    }
    Value::Object(shown)
}

pub async fn get(context: &Context, vhost: &str, queue: &str) -> Answer {
    let body = context.request.object()?;
    body.need(&["ackmode", "count", "encoding"])?;
    let settled = match body.text("ackmode")?.unwrap_or_default().as_str() {
        "ack_requeue_true" | "reject_requeue_true" => Settled::Requeued,
        "ack_requeue_false" => Settled::Consumed,
        "reject_requeue_false" => Settled::Rejected,
        other => {
            let reason = format!("{{unsupported_ackmode,<<\"{other}\">>}}");
            return Err(ApiError::bad_request(reason));
        }
    };
    let encoded = match body.text("encoding")?.as_deref() {
        Some("auto") => false,
        Some("base64") => true,
        other => {
            let reason = format!("{{unsupported_encoding,{}}}", other.unwrap_or("none"));
            return Err(ApiError::bad_request(reason));
        }
    };
    let count = body.integer("count")?.unwrap_or(1).clamp(0, COUNT_MAX);
    let truncate = body
        .integer("truncate")?
        .map(|limit| usize::try_from(limit).unwrap_or(0));
    let direct = context.direct(vhost);
    if direct.queue(queue).is_none() {
        return Err(ApiError::missing("queue_not_found"));
    }
    let count = usize::try_from(count).unwrap_or(0);
    let messages = direct.get(queue, count, settled, BYTES_MAX).await?;
    let rows = messages.iter().map(|got| row(got, encoded, truncate));
    Ok(Reply::Json(rows.collect()))
}

fn row(got: &Got, encoded: bool, truncate: Option<usize>) -> Value {
    let end = truncate.unwrap_or(usize::MAX).min(got.body.len());
    let body = got.body.get(..end).unwrap_or_default();
    let text = std::str::from_utf8(body).ok().filter(|_| !encoded);
    let (payload, encoding) = match text {
        Some(text) => (text.to_owned(), "string"),
        None => (STANDARD.encode(body), "base64"),
    };
    json!({
        "payload_bytes": got.body.len(),
        "redelivered": got.redelivered,
        "exchange": values::text_or_base64(&got.exchange),
        "routing_key": values::text_or_base64(&got.routing_key),
        "message_count": got.left,
        "properties": shown(&got.properties),
        "payload": payload,
        "payload_encoding": encoding,
    })
}
