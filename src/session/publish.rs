//! The checks of basic.publish that need no topology, and what of the content is rewritten (§15.1, §18, §19).
//!
//! A message with two faults is refused for the one RabbitMQ meets first: `immediate` and the size, then the broker's own
//! checks (write permission, exchange exists), then what is wrong with the properties.

use bytes::Bytes;

use super::content::Incoming;
use super::{PublishRequest, core::Core};
use crate::amqp::value::type_name;
use crate::amqp::{AMQPValue, ProtocolError, RawProperties, ReplyCode};
use crate::base::limits::{BODY_SIZE_CEILING_BYTES, TTL_MS_MAX};

/// The pseudo-queue of direct reply-to.
pub(super) const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// Property flags the broker looks at on the way in: headers, reply-to, expiration, user-id.
const LOOKED_AT: u16 = 1 << 13 | 1 << 9 | 1 << 8 | 1 << 4;

fn precondition(text: impl Into<String>) -> ProtocolError {
    ProtocolError::new(ReplyCode::PreconditionFailed, text)
}

/// Why a publish goes nowhere.
pub(super) enum Fault {
    /// Whatever else may be wrong with it.
    First(ProtocolError),
    /// If the broker finds nothing wrong with its exchange and the right to publish there.
    AfterRights(Box<PublishRequest>, ProtocolError),
}

/// Checks a publish; its `confirm` is still to be set.
///
/// # Errors
/// 540, or 406 with RabbitMQ's texts.
pub(super) fn check(
    incoming: Incoming,
    reply_token: Option<&str>,
    core: &Core,
) -> Result<PublishRequest, Fault> {
    if incoming.publish.immediate {
        let error = ProtocolError::new(ReplyCode::NotImplemented, "immediate=true");
        return Err(Fault::First(error));
    }
    let max = core.config.max_message_size;
    if incoming.size > max {
        let word = if max >= BODY_SIZE_CEILING_BYTES {
            ""
        } else {
            "configured "
        };
        return Err(Fault::First(precondition(format!(
            "message size {} is larger than {word}max size {max}",
            incoming.size
        ))));
    }
    let mut request = PublishRequest {
        exchange: incoming.publish.exchange,
        routing_key: incoming.publish.routing_key,
        more_keys: Vec::new(),
        blind: 0,
        mandatory: incoming.publish.mandatory,
        properties: incoming.properties,
        body: incoming.body,
        ttl_ms: None,
        confirm: None,
    };
    if let [high, low, ..] = request.properties.0[..]
        && u16::from_be_bytes([high, low]) & LOOKED_AT != 0
        && let Err(error) = check_properties(&mut request, reply_token, core)
    {
        return Err(Fault::AfterRights(Box::new(request), error));
    }
    let config = &core.config;
    request.properties =
        (config.stamps).on_publish(request.properties, &config.node_name, core.now);
    Ok(request)
}

fn check_properties(
    request: &mut PublishRequest,
    reply_token: Option<&str>,
    core: &Core,
) -> Result<(), ProtocolError> {
    let properties = &request.properties;
    let replied = if properties.reply_to().as_deref() == Some(REPLY_TO.as_bytes()) {
        let token =
            reply_token.ok_or_else(|| precondition("fast reply consumer does not exist"))?;
        Some(properties.with_reply_to(format!("{REPLY_TO}.{token}").as_bytes()))
    } else {
        None
    };
    request.ttl_ms = match properties.expiration() {
        Some(text) => Some(expiration(&text)?),
        None => None,
    };
    if properties.has_headers() {
        (request.more_keys, request.blind) = copy_keys(properties)?;
    }
    if let Some(id) = properties.user_id()
        && !core.impersonator
        && id[..] != *core.user.as_bytes()
    {
        return Err(precondition(format!(
            "user_id property set to '{}' but authenticated user was '{}'",
            String::from_utf8_lossy(&id),
            core.user
        )));
    }
    if let Some(replied) = replied {
        request.properties = replied;
    }
    if request.properties.has_headers() {
        request.properties = request.properties.without_header(b"BCC");
    }
    Ok(())
}

/// The keys of CC and BCC, in order, and how many of them are BCC's.
///
/// # Errors
/// 406 if one of the two is no array.
pub fn copy_keys(properties: &RawProperties) -> Result<(Vec<Bytes>, usize), ProtocolError> {
    let mut all = keys(properties, "CC")?;
    let blind = keys(properties, "BCC")?;
    let count = blind.len();
    all.extend(blind);
    Ok((all, count))
}

/// The routing keys of a CC or BCC header. Elements that are no long strings are skipped, as RabbitMQ does.
fn keys(properties: &RawProperties, name: &str) -> Result<Vec<Bytes>, ProtocolError> {
    match properties.header(name.as_bytes()) {
        None => Ok(Vec::new()),
        Some(AMQPValue::FieldArray(keys)) => Ok(keys
            .as_slice()
            .iter()
            .filter_map(|key| match key {
                AMQPValue::LongString(key) => Some(Bytes::copy_from_slice(key.as_bytes())),
                _ => None,
            })
            .collect()),
        Some(value) => Err(precondition(format!(
            "invalid message: {{unacceptable_type_in_header,\"{name}\",{}}}",
            type_name(&value)
        ))),
    }
}

/// Reads `expiration`: an optional sign and decimal digits, 0 to ten years in milliseconds.
fn expiration(text: &[u8]) -> Result<u64, ProtocolError> {
    let shown = String::from_utf8_lossy(text);
    let invalid = |reason: String| precondition(format!("invalid expiration '{shown}': {reason}"));
    let (negative, unsigned) = match shown.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    let digits = unsigned
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    if digits == 0 {
        return Err(invalid("no_integer".to_owned()));
    }
    let (number, rest) = unsigned.split_at(digits);
    if !rest.is_empty() {
        let rest = String::from_utf8_lossy(rest);
        return Err(invalid(format!("{{leftover_string,\"{rest}\"}}")));
    }
    let number = String::from_utf8_lossy(number);
    let number = match number.trim_start_matches('0') {
        "" => "0",
        significant => significant,
    };
    match number.parse() {
        Ok(0) => Ok(0),
        _ if negative => Err(invalid(format!("{{value_negative,-{number}}}"))),
        Ok(ms) if ms <= TTL_MS_MAX => Ok(ms),
        _ => Err(invalid(format!("{{value_too_large,{number}}}"))),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn expirations_read_as_rabbitmq_reads_them() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("-0", Ok(0)),
            ("+60", Ok(60)),
            ("007", Ok(7)),
            ("315360000000", Ok(315_360_000_000)),
            ("", Err("'': no_integer")),
            ("ms", Err("'ms': no_integer")),
            ("-", Err("'-': no_integer")),
            ("10ms", Err("'10ms': {leftover_string,\"ms\"}")),
            ("1.5", Err("'1.5': {leftover_string,\".5\"}")),
            ("-1", Err("'-1': {value_negative,-1}")),
            (
                "315360000001",
                Err("'315360000001': {value_too_large,315360000001}"),
            ),
            (
                "99999999999999999999999",
                Err("'99999999999999999999999': {value_too_large,99999999999999999999999}"),
            ),
        ] {
            let read = expiration(text.as_bytes()).map_err(|error| error.to_string());
            let expected = expected
                .map_err(|text| format!("406 PRECONDITION_FAILED - invalid expiration {text}"));
            assert_eq!(read, expected);
        }
    }
}
