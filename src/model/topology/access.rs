//! Who may do what: users, password hashes, permissions.
//!
//! Need: every method of every client is checked, in the words RabbitMQ refuses it. Shape: permissions hang on their
//! user, one per vhost; a pattern is compiled once, on first use. Invariants: an empty pattern matches only the empty
//! name, a pattern that does not compile matches nothing, and verifying a password takes the same steps whether the
//! user exists or not. Limits: patterns are linear-time, so no backreferences. Not here: tags' meaning, loopback users.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use regex::Regex;
use sha2::{Digest, Sha256};

use super::Topology;
use super::record::{exchange_title, queue_title};
use crate::amqp::{ProtocolError, ReplyCode};

/// A user.
#[derive(Clone, Debug)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Base64 of 4 bytes of salt and SHA-256 of salt and password. Empty: no login by password.
    pub password_hash: String,
    /// E.g. `administrator`.
    pub tags: Vec<String>,
    /// By vhost.
    pub permissions: BTreeMap<String, Permissions>,
}

/// One user's rights in one vhost.
#[derive(Clone, Debug, Default)]
pub struct Permissions {
    configure: Pattern,
    write: Pattern,
    read: Pattern,
}

#[derive(Clone, Debug, Default)]
struct Pattern {
    source: String,
    regex: OnceLock<Option<Regex>>,
}

impl Pattern {
    fn new(source: String) -> Self {
        Self {
            source,
            regex: OnceLock::new(),
        }
    }

    fn matches(&self, name: &str) -> bool {
        if self.source.is_empty() {
            return name.is_empty();
        }
        let regex = self.regex.get_or_init(|| Regex::new(&self.source).ok());
        regex.as_ref().is_some_and(|regex| regex.is_match(name))
    }
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
        &self.of(permission).source
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

/// Base64 of salt and SHA-256 of salt and password: RabbitMQ's `rabbit_password_hashing_sha256`.
#[must_use]
pub fn hash_password(salt: [u8; 4], password: &str) -> String {
    let mut bytes = salt.to_vec();
    bytes.extend_from_slice(&salted(&salt, password));
    STANDARD.encode(bytes)
}

fn salted(salt: &[u8], password: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(salt);
    hash.update(password.as_bytes());
    hash.finalize().into()
}

impl Topology {
    /// The user, if the password is theirs. Empty passwords and empty hashes never are.
    #[must_use]
    pub fn authenticate(&self, user: &str, password: &str) -> Option<&User> {
        let user = self.users.get(user);
        let stored = user.and_then(|user| STANDARD.decode(&user.password_hash).ok());
        let stored = stored.filter(|bytes| bytes.len() == 36);
        let known = stored.is_some();
        let bytes = stored.unwrap_or_else(|| vec![0; 36]);
        let (salt, expected) = bytes.split_at(4);
        let actual = salted(salt, password);
        let differing = (expected.iter().zip(&actual)).fold(0, |bits, (a, b)| bits | (a ^ b));
        user.filter(|_| known && std::hint::black_box(differing) == 0 && !password.is_empty())
    }

    /// A user by name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// Whether the user has any permissions in the vhost, which must exist.
    #[must_use]
    pub fn vhost_access(&self, user: &str, vhost: &str) -> bool {
        let user = self.users.get(user);
        self.has_vhost(vhost) && user.is_some_and(|user| user.permissions.contains_key(vhost))
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
        if rights.is_some_and(|rights| rights.of(permission).matches(name)) {
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
}
