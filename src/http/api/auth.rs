//! Who asks: HTTP Basic against the topology's users, tags, and a brake on guessing.
//!
//! Invariants: a source that guessed too often is refused before its password is looked at; neither passwords nor headers
//! reach the log. Limits: [`SOURCES_MAX`] sources are remembered; past it the oldest guesses are forgotten.

use std::net::IpAddr;

use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::error::ApiError;
use super::request::Request;
use crate::base::{Clock, Millis, SystemClock};
use crate::broker::Node;

/// Wrong passwords one source may give in a row.
const GUESSES_MAX: u32 = 30;
/// A guess is forgotten after this long.
const FORGIVEN_AFTER: Millis = Millis(1_000);
const SOURCES_MAX: usize = 4_096;

/// Guesses by source.
#[derive(Debug, Default)]
pub struct Brake(Mutex<HashMap<IpAddr, (u32, Millis)>>);

impl Brake {
    fn left(&self, source: IpAddr, now: Millis) -> bool {
        let mut sources = self.0.lock();
        let Some((guesses, since)) = sources.get_mut(&source) else {
            return true;
        };
        let forgiven = now.since(*since).0 / FORGIVEN_AFTER.0;
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        if forgiven >= *guesses {
            sources.remove(&source);
            return true;
        }
        *guesses - forgiven < GUESSES_MAX
    }

    fn guessed(&self, source: IpAddr, now: Millis) {
        let mut sources = self.0.lock();
        if sources.len() >= SOURCES_MAX && !sources.contains_key(&source) {
            let oldest = sources.iter().min_by_key(|(_, (_, since))| *since);
            if let Some(oldest) = oldest.map(|(source, _)| *source) {
                sources.remove(&oldest);
            }
        }
        let entry = sources.entry(source).or_insert((0, now));
        let forgiven = now.since(entry.1).0 / FORGIVEN_AFTER.0;
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        *entry = (entry.0.saturating_sub(forgiven) + 1, now);
    }
}

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

fn credentials(request: &Request) -> Option<(String, String)> {
    let header = request.header("authorization")?;
    let (scheme, rest) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let bytes = STANDARD.decode(rest.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn is_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback())
        }
    }
}

/// The user who asks, with any of the management tags.
///
/// # Errors
/// 401, and 429 for a source that guesses.
pub fn who(node: &Node, brake: &Brake, request: &Request, peer: IpAddr) -> Result<Who, ApiError> {
    let Some((user, password)) = credentials(request) else {
        let status = StatusCode::UNAUTHORIZED;
        let mut error = ApiError::new(status, "not_authorized", "Not_Authorized");
        error.challenge = true;
        return Err(error);
    };
    let now = SystemClock.now();
    if !brake.left(peer, now) {
        let reason = "too many failed login attempts";
        let status = StatusCode::TOO_MANY_REQUESTS;
        return Err(ApiError::new(status, "too_many_requests", reason));
    }
    node.stats.auth_attempts.inc();
    let tags = node.cluster.topology.read(|topology| {
        let user = topology.authenticate(&user, &password)?;
        Some(user.tags.clone())
    });
    let Some(tags) = tags else {
        brake.guessed(peer, now);
        node.stats.auth_attempts_failed.inc();
        tracing::warn!(%peer, user, "HTTP login refused");
        let status = StatusCode::UNAUTHORIZED;
        return Err(ApiError::new(status, "not_authorized", "Not_Authorized"));
    };
    node.stats.auth_attempts_succeeded.inc();
    if !is_loopback(peer) && node.options.loopback_users.contains(&user) {
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
