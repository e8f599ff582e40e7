//! Login and connection.open. Passwords are checked off the connection's task; secrets never reach the log.
//!
//! A login that fails is answered after a pause once its source has failed more than [`FAILURES_FREE`] times without a
//! rest, so guessing costs time; good logins from there are not held up. Clients that cannot be told of a refusal wait
//! anyway (the session's brake).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::amqp::{ProtocolError, ReplyCode};
use crate::base::{Clock, SystemClock};
use crate::model::topology::{OPERATOR, Permission, Resource, user_shown};
use crate::session::{Answer, Credentials};

use super::connection::{Connection, Posted};
use super::consume::Kind;
use super::node::{Access, Node};
use super::wire::TlsView;

/// Failures of one source that are answered at once.
pub const FAILURES_FREE: u32 = 10;
const FAILURE_PAUSE: Duration = Duration::from_secs(3);

/// A login that is good, or why it is not: for the log, never for the client.
type Verdict = Result<Answer, &'static str>;

impl Connection {
    pub(super) fn login(&mut self, mechanism: String, credentials: Credentials) {
        if self.trusted {
            return self.session.answer(Answer::LoggedIn {
                user: OPERATOR.to_owned(),
                impersonator: true,
            });
        }
        let node = Arc::clone(&self.node);
        let (peer, tls) = (self.peer, self.tls.clone());
        self.task(async move {
            node.stats.auth_attempts.inc();
            let access = node.access.load_full();
            let claim = claimed(credentials, &access, tls.as_deref());
            let verdict = match &claim {
                Ok(claim) => check(&node, claim, access.loopback_users.contains(&claim.user), peer.ip()),
                Err(reason) => Err(*reason),
            };
            let answer = match verdict {
                Ok(answer) => {
                    node.stats.auth_attempts_succeeded.inc();
                    answer
                }
                Err(reason) => {
                    node.stats.auth_attempts_failed.inc();
                    let user = claim.map_or_else(|_| String::new(), |claim| claim.user);
                    tracing::warn!(%peer, "{mechanism} login refused: user '{}' - {reason}", shown(&user));
                    let now = SystemClock.now();
                    node.failures.failed(peer.ip(), now);
                    if node.failures.count(peer.ip(), now) > FAILURES_FREE {
                        tokio::select! {
                            () = tokio::time::sleep(FAILURE_PAUSE) => {}
                            () = node.supervisor.stopping() => {}
                        }
                    }
                    Answer::LoginRefused
                }
            };
            Some(Posted::Connection(answer))
        });
    }

    /// The checks of spec/amqp-behaviour.md §3.5, in their order.
    pub(super) fn open(&mut self, vhost: String) {
        let user = self.session.user().unwrap_or_default().to_owned();
        let refuse = |text: String| Answer::Failed(ProtocolError::new(ReplyCode::NotAllowed, text));
        let limit = self.node.access.load().connections_max;
        let answer = if limit.is_some_and(|limit| self.node.connection_count() > limit) {
            let limit = limit.unwrap_or_default();
            refuse(format!(
                "connection refused: node connection limit ({limit}) is reached"
            ))
        } else {
            match self.register(&user, &vhost) {
                Ok(()) => Answer::Opened,
                Err(text) => refuse(text),
            }
        };
        if matches!(answer, Answer::Opened) {
            let user_shown = user_shown(&user);
            let (peer, local) = (self.peer, self.local);
            if let Some(name) = self.session.name() {
                tracing::info!("connection {peer} -> {local} has a client-provided name: {name}");
            }
            tracing::info!(
                "connection {peer} -> {local}: user '{user_shown}' authenticated and granted access to vhost '{vhost}'"
            );
            self.user = Arc::from(user);
            self.vhost = Arc::from(vhost);
        }
        self.session.answer(answer);
    }

    /// connection.update-secret. Users of the broker's own keep theirs; but who may no longer be here, or no longer read what
    /// it consumes, is told so now (RabbitMQ 4.3).
    pub(super) fn update_secret(&mut self) {
        let topology = Arc::clone(&self.node.cluster.topology);
        let lost = topology.read(|topology| {
            if !topology.vhost_access(&self.user, &self.vhost) {
                return None;
            }
            let open = self.consumers.iter().filter(|(_, c)| c.kind == Kind::Open);
            let lost = open.filter(|(_, consumer)| {
                topology.queue_by_id(consumer.queue).is_some_and(|record| {
                    let queue = Resource::Queue(&record.name);
                    let read = Permission::Read;
                    let may = topology.check_permission(&self.user, &self.vhost, queue, read);
                    may.is_err()
                })
            });
            Some(lost.map(|(id, _)| *id).collect::<Vec<_>>())
        });
        let Some(lost) = lost else {
            let (vhost, user) = (&self.vhost, &self.user);
            let text = format!("access to vhost '{vhost}' refused for user '{user}'");
            let error = ProtocolError::new(ReplyCode::NotAllowed, text);
            return self.session.answer(Answer::Failed(error));
        };
        for consumer in lost {
            self.stop_consumer(consumer);
        }
        self.session.answer(Answer::Done);
    }

    pub(super) fn connection_answer(&mut self, answer: Answer) {
        self.session.answer(answer);
    }
}

/// Who a client says it is.
struct Claim {
    user: String,
    /// `None`: its certificate stands for it.
    password: Option<String>,
}

fn claimed(
    credentials: Credentials,
    access: &Access,
    tls: Option<&TlsView>,
) -> Result<Claim, &'static str> {
    match credentials {
        Credentials::Password { user, password } => Ok(Claim {
            user,
            password: Some(String::from_utf8_lossy(&password).into_owned()),
        }),
        Credentials::Certificate => {
            let peer = tls.and_then(|tls| tls.peer.as_ref());
            let peer = peer.ok_or("the client has shown no certificate")?;
            let user = peer.user.clone();
            let user = user.ok_or("the certificate has no name of the configured kind")?;
            let password = None;
            Ok(Claim { user, password })
        }
        Credentials::Nothing => {
            let anonymous = access.anonymous.clone();
            let (user, password) = anonymous.ok_or("there is no anonymous user")?;
            let password = Some(password);
            Ok(Claim { user, password })
        }
    }
}

fn check(node: &Node, claim: &Claim, only_local: bool, peer: IpAddr) -> Verdict {
    let found = node.cluster.topology.read(|topology| {
        let user = match &claim.password {
            Some(password) => topology.authenticate(&claim.user, password),
            None => topology.user(&claim.user),
        };
        user.map(|user| user.tags.iter().any(|tag| tag == "impersonator"))
    });
    let impersonator = found.ok_or("invalid credentials")?;
    if only_local && !peer.to_canonical().is_loopback() {
        return Err("user can only connect via localhost");
    }
    Ok(Answer::LoggedIn {
        user: claim.user.clone(),
        impersonator,
    })
}

/// A name from outside, short enough for the log.
fn shown(user: &str) -> String {
    user.chars().take(64).collect()
}
