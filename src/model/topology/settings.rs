//! What is set apart from what is declared: users in full, vhosts' own settings, limits, topic permissions, policies,
//! parameters.
//!
//! Need: everything the management API can change is a command of the topology. Shape: one enum beside
//! [`super::command`], its bytes in [`super::settings_codec`]. Invariant: a failed command changes nothing; a change of
//! policies reaches every queue and exchange of its vhost in the same step. Not here: who may change what, JSON.

use super::Topology;
use super::access::TopicPermissions;
use super::command::TopologyReply;
use super::password::Hashing;
use super::pattern::Pattern;
use super::policy::{Matcher, Policy, PolicyScope, Subject, validate_policy};
use super::table::text;
use super::{no_vhost, precondition};
use crate::amqp::{AMQPValue, ProtocolError, ReplyCode};

/// What a vhost is set to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VhostSettings {
    /// For people.
    pub description: String,
    /// For people.
    pub tags: Vec<String>,
    /// Type of queues declared without one; empty: classic.
    pub default_queue_type: String,
    /// Whether its messages are traced; kept, and shown.
    pub tracing: bool,
    /// Whether it is refused to delete it.
    pub protected: bool,
    /// Connections it may have; `None` or negative: any number.
    pub max_connections: Option<i64>,
    /// Queues it may have; `None` or negative: any number.
    pub max_queues: Option<i64>,
    /// The topology's version when it was made: tells it from an older one of its name.
    pub born: u64,
}

/// A runtime parameter's value.
pub type Parameter = AMQPValue;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// `max-connections`, of vhosts and users.
    Connections,
    /// `max-queues`, of vhosts.
    Queues,
    /// `max-channels`, of users.
    Channels,
}

/// One such change. Answers are `Done` or `Failed`.
#[derive(Clone, Debug, PartialEq)]
pub enum SettingsCommand {
    /// Makes or replaces a user, keeping permissions and limits.
    PutUser {
        name: String,
        password_hash: String,
        hashing: Hashing,
        tags: Vec<String>,
    },
    /// 404 without the user, 530 without the vhost.
    SetTopicPermissions {
        user: String,
        vhost: String,
        exchange: String,
        write: String,
        read: String,
    },
    /// Of one exchange, or of all; `Done` also if there are none.
    ClearTopicPermissions {
        user: String,
        vhost: String,
        exchange: Option<String>,
    },
    /// `None` lifts it. 404 without the user.
    SetUserLimit {
        user: String,
        limit: LimitKind,
        value: Option<i64>,
    },
    /// Makes a vhost, or changes what is `Some`.
    PutVhost {
        name: String,
        description: Option<String>,
        tags: Option<Vec<String>>,
        default_queue_type: Option<String>,
        tracing: Option<bool>,
        protected: Option<bool>,
    },
    /// `None` lifts it. 530 without the vhost.
    SetVhostLimit {
        vhost: String,
        limit: LimitKind,
        value: Option<i64>,
    },
    /// 406 in RabbitMQ's words if it is not valid.
    PutPolicy { scope: PolicyScope, policy: Policy },
    /// `Done` also if there is none.
    DeletePolicy {
        scope: PolicyScope,
        vhost: String,
        name: String,
    },
    /// 530 without the vhost.
    PutParameter {
        component: String,
        vhost: String,
        name: String,
        value: Parameter,
    },
    /// `Done` also if there is none.
    DeleteParameter {
        component: String,
        vhost: String,
        name: String,
    },
    /// A parameter of the whole cluster.
    PutGlobal { name: String, value: AMQPValue },
    /// `Done` also if there is none.
    DeleteGlobal { name: String },
}

impl Topology {
    pub(super) fn change_settings(
        &mut self,
        command: SettingsCommand,
    ) -> Result<TopologyReply, ProtocolError> {
        match command {
            SettingsCommand::PutUser {
                name,
                password_hash,
                hashing,
                tags,
            } => self.put_user(name, password_hash, hashing, tags),
            SettingsCommand::SetTopicPermissions {
                user,
                vhost,
                exchange,
                write,
                read,
            } => {
                self.vhosts.get(&vhost).ok_or_else(|| no_vhost(&vhost))?;
                let rights = TopicPermissions {
                    write: Pattern::new(write),
                    read: Pattern::new(read),
                };
                let user = self.user_mut(&user)?;
                user.topic_permissions.insert((vhost, exchange), rights);
            }
            SettingsCommand::ClearTopicPermissions {
                user,
                vhost,
                exchange,
            } => {
                if let Some(user) = self.users.get_mut(&user) {
                    user.topic_permissions.retain(|(in_vhost, of), _| {
                        *in_vhost != vhost || exchange.as_ref().is_some_and(|name| name != of)
                    });
                }
            }
            SettingsCommand::SetUserLimit { user, limit, value } => {
                let user = self.user_mut(&user)?;
                match limit {
                    LimitKind::Connections => user.max_connections = value,
                    LimitKind::Channels => user.max_channels = value,
                    LimitKind::Queues => return Err(no_limit()),
                }
            }
            SettingsCommand::SetVhostLimit {
                vhost,
                limit,
                value,
            } => {
                let known = self.vhosts.get_mut(&vhost);
                let settings = &mut known.ok_or_else(|| no_vhost(&vhost))?.settings;
                match limit {
                    LimitKind::Connections => settings.max_connections = value,
                    LimitKind::Queues => settings.max_queues = value,
                    LimitKind::Channels => return Err(no_limit()),
                }
            }
            put @ SettingsCommand::PutVhost { .. } => self.put_vhost(put),
            SettingsCommand::PutPolicy { scope, policy } => self.put_policy(scope, policy)?,
            SettingsCommand::DeletePolicy { scope, vhost, name } => {
                let known = self.vhosts.get_mut(&vhost);
                if known.is_some_and(|known| known.policies.of_mut(scope).remove(&name).is_some()) {
                    self.apply_policies(&vhost);
                }
            }
            SettingsCommand::PutParameter {
                component,
                vhost,
                name,
                value,
            } => {
                self.vhosts.get(&vhost).ok_or_else(|| no_vhost(&vhost))?;
                self.parameters.insert((component, vhost, name), value);
            }
            SettingsCommand::DeleteParameter {
                component,
                vhost,
                name,
            } => {
                self.parameters.remove(&(component, vhost, name));
            }
            SettingsCommand::PutGlobal { name, value } => {
                self.globals.insert(name, value);
            }
            SettingsCommand::DeleteGlobal { name } => {
                self.globals.remove(&name);
            }
        }
        self.changed();
        Ok(TopologyReply::Done)
    }

    fn user_mut(&mut self, name: &str) -> Result<&mut super::User, ProtocolError> {
        let user = self.users.get_mut(name);
        user.ok_or_else(|| {
            let text = format!("no such user: '{name}'");
            ProtocolError::new(ReplyCode::NotFound, text)
        })
    }

    fn put_vhost(&mut self, put: SettingsCommand) {
        let SettingsCommand::PutVhost {
            name,
            description,
            tags,
            default_queue_type,
            tracing,
            protected,
        } = put
        else {
            return;
        };
        if !self.vhosts.contains_key(&name) {
            self.add_vhost(&name, String::new());
        }
        let Some(vhost) = self.vhosts.get_mut(&name) else {
            return;
        };
        let settings = &mut vhost.settings;
        settings.description = description.unwrap_or_else(|| settings.description.clone());
        settings.tags = tags.unwrap_or_else(|| settings.tags.clone());
        if let Some(kind) = default_queue_type {
            settings.default_queue_type = kind;
        }
        settings.tracing = tracing.unwrap_or(settings.tracing);
        settings.protected = protected.unwrap_or(settings.protected);
    }

    fn put_policy(&mut self, scope: PolicyScope, policy: Policy) -> Result<(), ProtocolError> {
        let name = policy.vhost.clone();
        let vhost = self.vhosts.get_mut(&name).ok_or_else(|| no_vhost(&name))?;
        validate_policy(scope, &policy).map_err(precondition)?;
        let policies = vhost.policies.of_mut(scope);
        policies.insert(policy.name.clone(), policy.into());
        self.apply_policies(&name);
        Ok(())
    }

    /// Lets a vhost's policies act on all that is in it.
    pub(super) fn apply_policies(&mut self, name: &str) {
        let Some(vhost) = self.vhosts.get_mut(name) else {
            return;
        };
        self.policies_version = self.policies_version.wrapping_add(1);
        let mut matcher = Matcher::default();
        for state in vhost.exchanges.values_mut() {
            let exchange = &mut state.exchange;
            let found = matcher.effective(&vhost.policies, Subject::Exchange, &exchange.name);
            exchange.set_effective(found);
        }
        for queue in self.queues.values_mut() {
            if queue.vhost == vhost.name {
                let subject = Subject::Queue(queue.kind);
                queue.set_effective(matcher.effective(&vhost.policies, subject, &queue.name));
            }
        }
    }

    /// The global parameter that names the cluster.
    pub const CLUSTER_NAME: &'static str = "cluster_name";

    /// The cluster's name, if it was set.
    #[must_use]
    pub fn cluster_name(&self) -> Option<String> {
        let name = text(self.globals.get(Self::CLUSTER_NAME)?)?;
        Some(String::from_utf8_lossy(name).into_owned())
    }

    /// What a vhost is set to.
    #[must_use]
    pub fn vhost_settings(&self, vhost: &str) -> Option<&VhostSettings> {
        self.vhosts.get(vhost).map(|vhost| &vhost.settings)
    }

    /// How many queues a vhost has.
    #[must_use]
    pub fn queues_of(&self, vhost: &str) -> usize {
        self.vhosts.get(vhost).map_or(0, |vhost| vhost.names.len())
    }

    /// Policies of one scope, by vhost and name.
    pub fn policies(&self, scope: PolicyScope) -> impl Iterator<Item = &Policy> {
        let vhosts = self.vhosts.values();
        vhosts.flat_map(move |vhost| vhost.policies.of(scope).values().map(|policy| &**policy))
    }

    /// A policy.
    #[must_use]
    pub fn policy(&self, scope: PolicyScope, vhost: &str, name: &str) -> Option<&Policy> {
        let policies = self.vhosts.get(vhost)?.policies.of(scope);
        policies.get(name).map(|policy| &**policy)
    }

    /// Runtime parameters: (component, vhost, name), value.
    pub fn parameters(&self) -> impl Iterator<Item = (&(String, String, String), &Parameter)> {
        self.parameters.iter()
    }

    /// Those of one component, by vhost and name.
    pub fn parameters_of(
        &self,
        component: &'static str,
    ) -> impl Iterator<Item = (&(String, String, String), &Parameter)> {
        let first = (component.to_owned(), String::new(), String::new());
        let from = self.parameters.range(first..);
        from.take_while(move |((of, ..), _)| of == component)
    }

    /// A runtime parameter.
    #[must_use]
    pub fn parameter(&self, component: &str, vhost: &str, name: &str) -> Option<&Parameter> {
        let key = (component.to_owned(), vhost.to_owned(), name.to_owned());
        self.parameters.get(&key)
    }

    /// Global parameters.
    pub fn globals(&self) -> impl Iterator<Item = (&str, &AMQPValue)> {
        self.globals.iter().map(|(name, value)| (&**name, value))
    }

    /// A global parameter.
    #[must_use]
    pub fn global(&self, name: &str) -> Option<&AMQPValue> {
        self.globals.get(name)
    }
}

fn no_limit() -> ProtocolError {
    precondition("no such limit".to_owned())
}
