//! What a vhost is given when it is made: `default_limits.*`, `default_policies.*` and `default_users.*`.
//!
//! Shape: commands for the topology, told after the vhost's own by whoever makes it: the API, an import, or the node that
//! finds an empty store. As in RabbitMQ (rabbit_db_vhost_defaults.erl) the first limits whose pattern fits count, and every
//! operator policy and user; a user that is there keeps its password and tags, and gets permissions.
//! Not here: vhosts that are there already. A crash between a vhost and these leaves it without them, as in RabbitMQ.

use std::sync::Arc;

use super::error::ApiError;
use super::policies::framed;
use crate::amqp::{AMQPValue, FieldTable};
use crate::broker::{Direct, Node};
use crate::model::topology::{
    ApplyTo, Hashing, LimitKind, Pattern, Policy, PolicyScope, SettingsCommand, Topology,
    TopologyCommand, hash_password,
};

/// See the module's head.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VhostDefaults {
    /// In the order in which they are tried.
    pub limits: Vec<DefaultLimits>,
    /// Operator policies.
    pub policies: Vec<DefaultPolicy>,
    /// Users.
    pub users: Vec<DefaultUser>,
}

/// Limits of the vhosts whose name fits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DefaultLimits {
    /// Which vhosts.
    pub vhosts: Pattern,
    /// Connections, if limited.
    pub max_connections: Option<u32>,
    /// Queues, if limited.
    pub max_queues: Option<u32>,
}

/// An operator policy of the vhosts whose name fits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DefaultPolicy {
    /// Its name.
    pub name: String,
    /// In which vhosts.
    pub vhosts: Pattern,
    /// For which queues.
    pub queues: Pattern,
    /// For what of them.
    pub apply_to: ApplyTo,
    /// Keys of policies, and their values.
    pub definition: Vec<(&'static str, i64)>,
}

/// A user of the vhosts whose name fits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DefaultUser {
    /// Its name.
    pub name: String,
    /// In which vhosts.
    pub vhosts: Pattern,
    /// Its password; without one it cannot log in by a password.
    pub password: Option<String>,
    /// What it may configure, write and read there.
    pub permissions: [String; 3],
    /// Its tags.
    pub tags: Vec<String>,
}

impl VhostDefaults {
    /// What is told of a new vhost, in order.
    fn commands(&self, vhost: &str, topology: &Topology) -> Vec<TopologyCommand> {
        let limits = self.limits.iter().find(|one| one.vhosts.search(vhost));
        let limits = limits.map_or([None, None], |one| [one.max_connections, one.max_queues]);
        let limits = [LimitKind::Connections, LimitKind::Queues]
            .into_iter()
            .zip(limits)
            .filter_map(|(limit, value)| {
                value.map(|value| SettingsCommand::SetVhostLimit {
                    vhost: vhost.to_owned(),
                    limit,
                    value: Some(value.into()),
                })
            });
        let policies = self.policies.iter().filter(|one| one.vhosts.search(vhost));
        let policies = policies.map(|one| SettingsCommand::PutPolicy {
            scope: PolicyScope::Operator,
            policy: one.policy(vhost),
        });
        let mut all: Vec<TopologyCommand> = limits
            .chain(policies)
            .map(TopologyCommand::Settings)
            .collect();
        for user in self.users.iter().filter(|one| one.vhosts.search(vhost)) {
            if topology.user(&user.name).is_none() {
                all.push(TopologyCommand::Settings(user.put()));
            }
            all.push(user.rights(vhost));
        }
        all
    }

    /// Gives a vhost that was just made what is configured for it.
    ///
    /// # Errors
    /// The topology refused, or cannot be reached.
    pub(super) async fn give(&self, node: &Arc<Node>, vhost: &str) -> Result<(), ApiError> {
        let topology = &node.cluster.topology;
        let commands = topology.read(|topology| self.commands(vhost, topology));
        if commands.is_empty() {
            return Ok(());
        }
        let direct = Direct::new(node, "", "");
        for command in commands {
            let told = direct.change(command).await;
            told.map_err(|error| framed(error.into()))?;
        }
        tracing::info!(vhost, "the new vhost has what is configured for it");
        Ok(())
    }
}

impl DefaultPolicy {
    fn policy(&self, vhost: &str) -> Policy {
        let mut definition = FieldTable::default();
        for (key, value) in &self.definition {
            definition.insert((*key).into(), AMQPValue::LongLongInt(*value));
        }
        Policy {
            vhost: vhost.to_owned(),
            name: self.name.clone(),
            pattern: self.queues.clone(),
            apply_to: self.apply_to,
            priority: 0,
            definition,
        }
    }
}

impl DefaultUser {
    fn put(&self) -> SettingsCommand {
        let password = self.password.as_deref();
        let hash =
            password.map(|password| hash_password(Hashing::Sha256, rand::random(), password));
        SettingsCommand::PutUser {
            name: self.name.clone(),
            password_hash: hash.unwrap_or_default(),
            hashing: Hashing::Sha256,
            tags: self.tags.clone(),
        }
    }

    fn rights(&self, vhost: &str) -> TopologyCommand {
        let [configure, write, read] = self.permissions.clone();
        TopologyCommand::SetPermissions {
            user: self.name.clone(),
            vhost: vhost.to_owned(),
            configure,
            write,
            read,
        }
    }
}
