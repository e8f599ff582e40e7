//! A request taken apart: path segments decoded one by one, parameters, and the typed reading of JSON bodies.

use std::collections::HashMap;

use axum::http::{HeaderMap, Method, StatusCode};
use serde_json::{Map, Value};

use super::error::ApiError;
use super::json;
use crate::amqp::FieldTable;

/// UTF-8's byte order mark.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// See the module's head.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method; HEAD has become GET.
    pub method: Method,
    /// What follows `/api/`, each decoded.
    pub path: Vec<String>,
    /// Query parameters, the last of each name.
    pub query: HashMap<String, String>,
    /// Headers.
    pub headers: HeaderMap,
    /// The body as sent.
    pub body: Vec<u8>,
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// Percent-decoding; `plus` turns `+` into a space. `None` if it is malformed or no UTF-8.
pub fn decode(text: &str, plus: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => out.push(hex(bytes.next()?)? << 4 | hex(bytes.next()?)?),
            b'+' if plus => out.push(b' '),
            other => out.push(other),
        }
    }
    String::from_utf8(out).ok()
}

/// `quote_plus`: all but letters, digits and `-._` is escaped, `~` too.
pub fn quote(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// Decoded segments of a raw path; empty ones at the end are ignored.
pub fn segments(path: &str) -> Option<Vec<String>> {
    let path = path.trim_end_matches('/');
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split('/')
        .map(|segment| decode(segment, false))
        .collect()
}

/// Decoded parameters of a raw query, in order.
pub fn pairs(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.filter_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decode(key, true)?, decode(value, true)?))
    })
}

/// Decoded parameters of a raw query.
pub fn parameters(query: &str) -> HashMap<String, String> {
    pairs(query).collect()
}

impl Request {
    /// A parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// Whether a parameter says `true`.
    pub fn is_set(&self, name: &str) -> bool {
        self.parameter(name) == Some("true")
    }

    /// The body as an object; empty, `null` and `undefined` are one without keys.
    ///
    /// # Errors
    /// 400 `not_json`, or for anything but an object.
    pub fn object(&self) -> Result<Body, ApiError> {
        // Editors of some systems write a mark of their encoding first.
        let body = self.body.strip_prefix(MARK).unwrap_or(&self.body);
        let trimmed = body.trim_ascii();
        if trimmed.is_empty() || trimmed == b"undefined" {
            return Ok(Body(Map::new()));
        }
        match serde_json::from_slice(trimmed) {
            Ok(Value::Object(object)) => Ok(Body(object)),
            Ok(Value::Null) => Ok(Body(Map::new())),
            Ok(Value::String(_)) => Err(ApiError::bad_request(
                "invalid payload: the request body JSON-decoded to a string. Is the input doubly-JSON-encoded?",
            )),
            Ok(_) | Err(_) => Err(ApiError::bad_request("not_json")),
        }
    }

    /// Whether the body is JSON as far as its type says; none says nothing.
    ///
    /// # Errors
    /// 415.
    pub fn says_json(&self) -> Result<(), ApiError> {
        let kind = self.header("content-type").unwrap_or("*/*");
        match kind.starts_with("application/json") || kind.starts_with("*/*") {
            true => Ok(()),
            false => Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "application/json is expected",
            )),
        }
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A JSON object that was sent.
#[derive(Debug, Default)]
pub struct Body(pub Map<String, Value>);

fn not_of(kind: &str, value: &Value) -> ApiError {
    ApiError::bad_request(format!("[{{not_{kind},{}}}]", shown(value)))
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("<<\"{text}\">>"),
        other => other.to_string(),
    }
}

impl Body {
    /// A value that is there and not null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// 400 unless all of these are there.
    ///
    /// # Errors
    /// 400 with the missing ones.
    pub fn need(&self, keys: &[&str]) -> Result<(), ApiError> {
        let missing: Vec<&str> = keys
            .iter()
            .copied()
            .filter(|key| self.0.get(*key).is_none())
            .collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(ApiError::keys_missing(&missing)),
        }
    }

    /// Text.
    ///
    /// # Errors
    /// 400 if it is something else.
    pub fn text(&self, key: &str) -> Result<Option<String>, ApiError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(not_of("string", other)),
        }
    }

    /// A switch; text will do. `false` if it is not there.
    ///
    /// # Errors
    /// 400 if it is something else.
    pub fn flag(&self, key: &str) -> Result<bool, ApiError> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::String(text)) if text == "true" => Ok(true),
            Some(Value::String(text)) if text == "false" => Ok(false),
            Some(other) => Err(not_of("boolean", other)),
        }
    }

    /// An integer; text will do.
    ///
    /// # Errors
    /// 400 if it is something else.
    pub fn integer(&self, key: &str) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let number = match value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        match number {
            Some(number) => Ok(Some(number)),
            None => Err(not_of("integer", value)),
        }
    }

    /// A table of arguments; none if it is not there. RabbitMQ's clients send `[]` for an empty one.
    ///
    /// # Errors
    /// 400 if it is something else.
    pub fn table(&self, key: &str) -> Result<FieldTable, ApiError> {
        match self.get(key) {
            None => Ok(FieldTable::default()),
            Some(Value::Object(object)) => json::to_table(object),
            Some(Value::Array(items)) if items.is_empty() => Ok(FieldTable::default()),
            Some(other) => Err(not_of("object", other)),
        }
    }

    /// Words, as a list or separated by commas.
    ///
    /// # Errors
    /// 400 if it is something else.
    pub fn words(&self, key: &str) -> Result<Option<Vec<String>>, ApiError> {
        let words = |text: &str| {
            let words = text.split([',', ' ']).map(str::trim);
            words
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect()
        };
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(words(text))),
            Some(Value::Array(items)) => {
                let texts = items.iter().map(|item| {
                    let text = item.as_str().ok_or_else(|| not_of("string", item))?;
                    Ok(text.to_owned())
                });
                texts.collect::<Result<_, ApiError>>().map(Some)
            }
            Some(other) => Err(not_of("string", other)),
        }
    }
}
