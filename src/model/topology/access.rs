//! Who may do what: users, permissions, topic permissions, limits.
//!
//! Need: every method of every client is checked, in the words RabbitMQ refuses it. Shape: permissions hang on their
//! user, one per vhost, topic permissions one per exchange in it. Invariants: an empty pattern matches only the empty
//! name, a pattern that does not compile matches nothing, and verifying a password takes the same steps whether the
//! user exists or not. Not here: tags' meaning, loopback users.

use std::collections::BTreeMap;

use super::Topology;
use super::password::Hashing;
use super::pattern::Pattern;
use super::record::{Exchange, ExchangeKind, exchange_title, queue_title};
use crate::amqp::{ProtocolError, ReplyCode};

/// Whoever runs the broker, and what it does by itself: every right in every vhost there is. It is nobody's login name:
/// there is never a user of this name.
pub const OPERATOR: &str = "\0none";

/// A user's name for people.
#[must_use]
pub fn user_shown(name: &str) -> &str {
    name.trim_start_matches('\0')
}

/// A user.
#[derive(Clone, Debug, Default)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Base64 of 4 bytes of salt and the hash of salt and password. Empty: no login by password.
    pub password_hash: String,
    /// How it was hashed.
    pub hashing: Hashing,
    /// E.g. `administrator`.
    pub tags: Vec<String>,
    /// By vhost.
    pub permissions: BTreeMap<String, Permissions>,
    /// By vhost and exchange.
    pub topic_permissions: BTreeMap<(String, String), TopicPermissions>,
    /// Connections it may have; `None` or negative: any number.
    pub max_connections: Option<i64>,
    /// Channels it may have; `None` or negative: any number.
    pub max_channels: Option<i64>,
    /// The topology's version when it was made: tells it from an older one of its name.
    pub born: u64,
}

impl User {
    /// Whether it carries the tag.
    #[must_use]
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|known| known == tag)
    }
}

/// One user's rights in one vhost.
#[derive(Clone, Debug, Default)]
pub struct Permissions {
    configure: Pattern,
    write: Pattern,
    read: Pattern,
}

/// One user's rights on the routing keys of one topic exchange.
#[derive(Clone, Debug, Default)]
pub struct TopicPermissions {
    /// Keys it may publish with.
    pub write: Pattern,
    /// Keys it may bind with.
    pub read: Pattern,
}

impl Permissions {
    /// Rights by three patterns.
    #[must_use]
    pub fn new(configure: String, write: String, read: String) -> Self {
        Self {
            configure: Pattern::new(configure),
            write: Pattern::new(write),
            read: Pattern::new(read),
        }
    }

    /// The pattern of one right.
    #[must_use]
    pub fn pattern(&self, permission: Permission) -> &str {
        self.of(permission).source()
    }

    fn of(&self, permission: Permission) -> &Pattern {
        match permission {
            Permission::Configure => &self.configure,
            Permission::Write => &self.write,
            Permission::Read => &self.read,
        }
    }
}

/// A right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Declare, delete.
    Configure,
    /// Publish, bind to.
    Write,
    /// Consume, bind from, purge.
    Read,
}

impl Permission {
    fn name(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// What a right is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource<'a> {
    /// An exchange; empty for the default one, which patterns see as `amq.default`.
    Exchange(&'a str),
    /// A queue.
    Queue(&'a str),
}

impl Topology {
    /// The user, if the password is theirs. Empty passwords and empty hashes never are.
    #[must_use]
    pub fn authenticate(&self, user: &str, password: &str) -> Option<&User> {
        let user = self.users.get(user);
        let hashing = user.map(|user| user.hashing).unwrap_or_default();
        let verified = hashing.verify(user.map(|user| &*user.password_hash), password);
        user.filter(|_| verified)
    }

    /// A user by name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// Whether the user has any permissions in the vhost, which must exist.
    #[must_use]
    pub fn vhost_access(&self, user: &str, vhost: &str) -> bool {
        let known = self.users.get(user);
        let granted = known.is_some_and(|known| known.permissions.contains_key(vhost));
        self.has_vhost(vhost) && (granted || user == OPERATOR)
    }

    /// Whether the user may; in the same way for things that do not exist.
    ///
    /// # Errors
    /// 403 if not.
    pub fn check_permission(
        &self,
        user: &str,
        vhost: &str,
        resource: Resource<'_>,
        permission: Permission,
    ) -> Result<(), ProtocolError> {
        let name = match resource {
            Resource::Exchange("") => "amq.default",
            Resource::Exchange(name) | Resource::Queue(name) => name,
        };
        let rights = self
            .users
            .get(user)
            .and_then(|user| user.permissions.get(vhost));
        if user == OPERATOR || rights.is_some_and(|rights| rights.of(permission).matches(name)) {
            return Ok(());
        }
        let title = match resource {
            Resource::Exchange(_) => exchange_title(vhost, name),
            Resource::Queue(_) => queue_title(vhost, name),
        };
        let text = format!(
            "{} access to {title} refused for user '{user}'",
            permission.name()
        );
        Err(ProtocolError::new(ReplyCode::AccessRefused, text))
    }

    /// A passive declare: any of the three rights will do; the refusal names `configure`.
    ///
    /// # Errors
    /// 403 if there is none.
    pub fn check_any_permission(
        &self,
        user: &str,
        vhost: &str,
        resource: Resource<'_>,
    ) -> Result<(), ProtocolError> {
        self.check_permission(user, vhost, resource, Permission::Write)
            .or_else(|_| self.check_permission(user, vhost, resource, Permission::Read))
            .or_else(|_| self.check_permission(user, vhost, resource, Permission::Configure))
    }
    /// Whether the user may publish (`Write`) or bind (`Read`) with these keys. Only topic exchanges ask, and only those
    /// the user has topic permissions for.
    ///
    /// # Errors
    /// 403 if not.
    pub fn check_topic<'k>(
        &self,
        user: &str,
        vhost: &str,
        exchange: &str,
        permission: Permission,
        keys: impl IntoIterator<Item = &'k [u8]>,
    ) -> Result<(), ProtocolError> {
        let Some(known) = self.users.get(user) else {
            return Ok(());
        };
        if known.topic_permissions.is_empty() {
            return Ok(());
        }
        let name = (vhost.to_owned(), exchange.to_owned());
        let Some(rights) = known.topic_permissions.get(&name) else {
            return Ok(());
        };
        let kind = self.exchange(vhost, exchange).map(Exchange::routes_as);
        if kind != Some(ExchangeKind::Topic) {
            return Ok(());
        }
        let pattern = match permission {
            Permission::Read => &rights.read,
            _ => &rights.write,
        };
        for key in keys {
            let key = String::from_utf8_lossy(key);
            if !pattern.matches_with([user, vhost, ""], &key) {
                let text = format!(
                    "{} access to topic '{key}' in {} refused for user '{user}'",
                    permission.name(),
                    exchange_title(vhost, exchange)
                );
                return Err(ProtocolError::new(ReplyCode::AccessRefused, text));
            }
        }
        Ok(())
    }
}
