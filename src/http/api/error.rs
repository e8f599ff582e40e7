//! What goes wrong, as RabbitMQ's API says it: a status and `{"error", "reason"}`.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::amqp::{ProtocolError, ReplyCode};
use crate::broker::Refused;

/// An answer that is no success.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{error}: {reason}")]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// Kind, in RabbitMQ's words.
    pub error: String,
    /// What in particular.
    pub reason: Value,
    /// `Allow`, with 405.
    pub allow: Option<String>,
    /// Ask for credentials.
    pub challenge: bool,
    /// The body, if it is not the usual one.
    pub whole: Option<Value>,
}

impl ApiError {
    /// Any.
    pub fn new(status: StatusCode, error: &str, reason: impl Into<Value>) -> Self {
        Self {
            status,
            error: error.to_owned(),
            reason: reason.into(),
            allow: None,
            challenge: false,
            whole: None,
        }
    }

    /// 400.
    pub fn bad_request(reason: impl Into<Value>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", reason)
    }

    /// 404 of an object.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Object Not Found", "Not Found")
    }

    /// 404 of what a write needs.
    pub fn missing(reason: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", reason)
    }

    /// 401 of a user that is known.
    pub fn not_authorised(reason: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "not_authorised", reason)
    }

    /// 400 for keys that are not there.
    pub fn keys_missing(keys: &[&str]) -> Self {
        let keys: Vec<_> = keys
            .iter()
            .map(|key| format!("{{key_missing,{key}}}"))
            .collect();
        Self::bad_request(format!("[{}]", keys.join(",")))
    }

    /// 503.
    pub fn unavailable(reason: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", reason)
    }

    /// The body; empty where RabbitMQ sends none.
    pub fn body(&self) -> Vec<u8> {
        if self.challenge || self.allow.is_some() {
            return Vec::new();
        }
        if let Some(whole) = &self.whole {
            return whole.to_string().into_bytes();
        }
        json!({"error": self.error, "reason": self.reason})
            .to_string()
            .into_bytes()
    }
}

impl From<ProtocolError> for ApiError {
    fn from(error: ProtocolError) -> Self {
        match error.code {
            ReplyCode::NotFound => Self::not_found(),
            ReplyCode::AccessRefused if error.text.contains("refused for user") => {
                Self::not_authorised("Access refused.")
            }
            ReplyCode::AccessRefused => Self::not_authorised(&error.text),
            ReplyCode::ConnectionForced => Self::unavailable("the node stops"),
            _ => Self::bad_request(error.text.to_string()),
        }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Error(error) => error.into(),
            Refused::Nack => {
                Self::bad_request("rejected Unable to publish message. Check queue limits.")
            }
            Refused::Timeout => Self::bad_request("confirmation timeout"),
        }
    }
}
