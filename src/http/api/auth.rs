//! Who asks: HTTP Basic against the topology's users, tags, and a brake on guessing.
//!
//! Invariants: a source that guessed too often is refused before its password is looked at; neither passwords nor headers
//! reach the log.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::error::ApiError;
use crate::base::{Clock, SystemClock};
use crate::broker::{Failures, Node};

/// Wrong passwords one source may give in a row.
const GUESSES_MAX: u32 = 30;

/// Who asks.
#[derive(Clone, Debug, Default)]
pub struct Who {
    /// User name.
    pub name: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Whoever runs the node, over its control socket: no user, and bound by no permission.
    pub operator: bool,
}

impl Who {
    /// Whoever runs the node, under the name RabbitMQ's tools act by.
    pub fn operator() -> Self {
        Self {
            name: "rmq-cli".to_owned(),
            tags: vec!["administrator".to_owned()],
            operator: true,
        }
    }

    fn has(&self, tags: &[&str]) -> bool {
        self.tags.iter().any(|tag| tags.contains(&&**tag))
    }

    /// Whether everything may be changed.
    pub fn is_administrator(&self) -> bool {
        self.has(&["administrator"])
    }

    /// Whether everything may be seen.
    pub fn is_monitor(&self) -> bool {
        self.has(&["administrator", "monitoring"])
    }

    /// Whether policies may be changed.
    pub fn is_policymaker(&self) -> bool {
        self.has(&["administrator", "policymaker"])
    }

    fn is_management(&self) -> bool {
        self.has(&["administrator", "monitoring", "policymaker", "management"])
    }
}

/// What a request says in the scheme Basic.
///
/// # Errors
/// 401 if it says nothing, 400 if it cannot be read.
fn credentials(headers: &HeaderMap) -> Result<(String, String), ApiError> {
    let mut error = ApiError::new(StatusCode::UNAUTHORIZED, "not_authorized", "Not_Authorized");
    let header = headers.get(header::AUTHORIZATION);
    let header = header.and_then(|value| value.to_str().ok());
    let (scheme, rest) = header
        .unwrap_or_default()
        .split_once(' ')
        .unwrap_or_default();
    if !scheme.eq_ignore_ascii_case("basic") {
        error.challenge = !scheme.eq_ignore_ascii_case("bearer");
        return Err(error);
    }
    let text = STANDARD.decode(rest.trim()).ok();
    let text = text.and_then(|bytes| String::from_utf8(bytes).ok());
    match text.as_deref().and_then(|text| text.split_once(':')) {
        Some((user, password)) => Ok((user.to_owned(), password.to_owned())),
        None => Err(ApiError::bad_request("malformed credentials")),
    }
}

/// The user who asks, with any of the management tags.
///
/// # Errors
/// 401, 400 for credentials that cannot be read, and 429 for a source that guesses.
pub fn who(
    node: &Node,
    brake: &Failures,
    headers: &HeaderMap,
    peer: IpAddr,
) -> Result<Who, ApiError> {
    let (user, password) = credentials(headers)?;
    login(node, brake, (user, &password), peer)
}

/// The user with this password, with any of the management tags.
///
/// # Errors
/// As [`who`].
pub fn login(
    node: &Node,
    brake: &Failures,
    (user, password): (String, &str),
    peer: IpAddr,
) -> Result<Who, ApiError> {
    let now = SystemClock.now();
    if brake.count(peer, now) >= GUESSES_MAX {
        let reason = "too many failed login attempts";
        let status = StatusCode::TOO_MANY_REQUESTS;
        return Err(ApiError::new(status, "too_many_requests", reason));
    }
    node.stats.http_auth_attempts.inc();
    let tags = node.cluster.topology.read(|topology| {
        let user = topology.authenticate(&user, password)?;
        Some(user.tags.clone())
    });
    let Some(tags) = tags else {
        brake.failed(peer, now);
        node.stats.http_auth_attempts_failed.inc();
        tracing::warn!(%peer, user, "HTTP login refused");
        let status = StatusCode::UNAUTHORIZED;
        return Err(ApiError::new(status, "not_authorized", "Not_Authorized"));
    };
    node.stats.http_auth_attempts_succeeded.inc();
    if !peer.to_canonical().is_loopback() && node.access.load().loopback_users.contains(&user) {
        return Err(ApiError::not_authorised(
            "User can only log in via localhost",
        ));
    }
    let who = Who {
        name: user,
        tags,
        operator: false,
    };
    match who.is_management() {
        true => Ok(who),
        false => Err(ApiError::not_authorised("Not management user")),
    }
}
