//! Login and connection.open. Passwords are checked off the connection's task; secrets never reach the log.

use std::net::IpAddr;
use std::sync::Arc;

use crate::amqp::{ProtocolError, ReplyCode};
use crate::model::topology::{Permission, Resource};
use crate::session::{Answer, Credentials};

use super::connection::{Connection, Posted};
use super::consume::Kind;

impl Connection {
    pub(super) fn login(&mut self, mechanism: String, credentials: Credentials) {
        let node = Arc::clone(&self.node);
        let peer = self.peer;
        self.task(async move {
            node.stats.auth_attempts.inc();
            let user = credentials.user;
            let local = loopback(peer.ip());
            let found = node.cluster.topology.read(|topology| {
                topology
                    .authenticate(&user, &String::from_utf8_lossy(&credentials.password))
                    .map(|user| user.tags.iter().any(|tag| tag == "impersonator"))
            });
            let remote = !local && node.options.loopback_users.contains(&user);
            let answer = match found {
                Some(impersonator) if !remote => {
                    node.stats.auth_attempts_succeeded.inc();
                    Answer::LoggedIn { user, impersonator }
                }
                _ => {
                    node.stats.auth_attempts_failed.inc();
                    let reason = if found.is_some() {
                        "user can only connect via localhost"
                    } else {
                        "invalid credentials"
                    };
                    tracing::warn!(%peer, user, mechanism, reason, "login refused");
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
        let limit = self.node.options.connections_max;
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
            tracing::info!(peer = %self.peer, user, vhost, name = self.session.name(), "connection opened");
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

fn loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback())
        }
    }
}
