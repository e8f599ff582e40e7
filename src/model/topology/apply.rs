//! One command at a time: the machine's only way to change.
//!
//! Need: replicas that apply the same commands hold the same topology. Invariant: a failed command changes nothing.

use super::access::{OPERATOR, Permissions, User};
use super::command::{Removed, Seed, TopologyCommand, TopologyReply};
use super::members::{NodeRecord, NodeState};
use super::password::Hashing;
use super::settings::VhostSettings;
use super::{Topology, Vhost, no_vhost};
use crate::amqp::{ProtocolError, ReplyCode};
use crate::base::{NodeId, QueueId};
use crate::model::Meta;

impl Topology {
    /// Applies one command. The entry's time and index do not matter to this machine yet.
    pub fn apply(&mut self, _meta: Meta, command: TopologyCommand) -> TopologyReply {
        self.dispatch(command).unwrap_or_else(TopologyReply::Failed)
    }

    fn dispatch(&mut self, command: TopologyCommand) -> Result<TopologyReply, ProtocolError> {
        match command {
            TopologyCommand::OpenNode {
                node,
                incarnation,
                first,
            } => Ok(self.open_node(node, incarnation, first)),
            TopologyCommand::DeclareExchange(declare) => self.declare_exchange(declare),
            TopologyCommand::DeleteExchange {
                vhost,
                name,
                if_unused,
            } => self.delete_exchange(&vhost, &name, if_unused),
            TopologyCommand::Bind(bind) => self.bind(bind),
            TopologyCommand::Unbind(bind) => self.unbind(&bind),
            TopologyCommand::DeclareQueue(declare) => self.declare_queue(declare),
            TopologyCommand::DeleteQueue { id } => {
                let mut removed = Removed::default();
                self.remove_queue(id, &mut removed);
                Ok(TopologyReply::Removed(removed))
            }
            TopologyCommand::AddVhost {
                name,
                default_queue_type,
            } => {
                self.add_vhost(&name, default_queue_type);
                Ok(TopologyReply::Done)
            }
            TopologyCommand::DeleteVhost { name } => self.delete_vhost(&name),
            TopologyCommand::PutUser {
                name,
                password_hash,
                tags,
            } => {
                self.put_user(name, password_hash, Hashing::Sha256, tags);
                self.changed();
                Ok(TopologyReply::Done)
            }
            TopologyCommand::DeleteUser { name } => {
                if self.users.remove(&name).is_some() {
                    self.access_version = self.access_version.wrapping_add(1);
                    self.changed();
                }
                Ok(TopologyReply::Done)
            }
            TopologyCommand::Settings(command) => self.change_settings(command),
            TopologyCommand::SetPermissions {
                user,
                vhost,
                configure,
                write,
                read,
            } => self.set_permissions(&user, vhost, Permissions::new(configure, write, read)),
            TopologyCommand::Members(command) => self.change_members(command),
            TopologyCommand::ClearPermissions { user, vhost } => {
                let user = self.users.get_mut(&user);
                if user.is_some_and(|user| user.permissions.remove(&vhost).is_some()) {
                    self.changed();
                }
                Ok(TopologyReply::Done)
            }
        }
    }

    fn open_node(&mut self, node: NodeId, incarnation: u64, first: Option<Seed>) -> TopologyReply {
        if let Some(seed) = first.filter(|_| self.vhosts.is_empty() && self.users.is_empty()) {
            self.seed(seed);
        }
        let known = self.nodes.entry(node).or_insert_with(|| NodeRecord {
            id: node,
            name: String::new(),
            address: String::new(),
            token: 0,
            incarnation: 0,
            state: NodeState::Active,
        });
        if known.incarnation >= incarnation {
            return TopologyReply::Removed(Removed::default());
        }
        known.incarnation = incarnation;
        self.last_node = self.last_node.max(node);
        let removed = self.close_node(node, incarnation - 1);
        self.changed();
        TopologyReply::Removed(removed)
    }

    fn seed(&mut self, seed: Seed) {
        self.add_vhost(&seed.vhost, seed.default_queue_type);
        let name = seed.user;
        self.put_user(name.clone(), seed.password_hash, Hashing::Sha256, seed.tags);
        let [configure, write, read] = seed.permissions;
        if let Some(user) = self.users.get_mut(&name) {
            let rights = Permissions::new(configure, write, read);
            user.permissions.insert(seed.vhost, rights);
        }
        self.changed();
    }

    pub(super) fn add_vhost(&mut self, name: &str, default_queue_type: String) {
        if let Some(vhost) = self.vhosts.get_mut(name) {
            vhost.settings.default_queue_type = default_queue_type;
        } else {
            let settings = VhostSettings {
                default_queue_type,
                born: self.version,
                ..VhostSettings::default()
            };
            let vhost = Vhost::new(name, settings);
            self.vhosts.insert(name.to_owned(), vhost);
        }
        self.changed();
    }

    fn delete_vhost(&mut self, name: &str) -> Result<TopologyReply, ProtocolError> {
        let vhost = self.vhosts.get(name).ok_or_else(|| no_vhost(name))?;
        let vhost_name = vhost.name.clone();
        let mut removed = Removed::default();
        let queues = self
            .queues
            .values()
            .filter(|queue| queue.vhost == vhost_name);
        let queues: Vec<QueueId> = queues.map(|queue| queue.id).collect();
        for id in queues {
            self.remove_queue(id, &mut removed);
        }
        if let Some(mut vhost) = self.vhosts.remove(name) {
            let names: Vec<String> = vhost.exchanges.keys().cloned().collect();
            for exchange in names {
                vhost.remove_exchange(&exchange, &mut removed.exchanges);
            }
        }
        for user in self.users.values_mut() {
            user.permissions.remove(name);
            user.topic_permissions.retain(|(vhost, _), _| vhost != name);
        }
        self.parameters.retain(|(_, vhost, _), _| vhost != name);
        self.access_version = self.access_version.wrapping_add(1);
        self.changed();
        Ok(TopologyReply::Removed(removed))
    }

    pub(super) fn put_user(
        &mut self,
        name: String,
        password_hash: String,
        hashing: Hashing,
        tags: Vec<String>,
    ) {
        if name == OPERATOR {
            return;
        }
        let born = self.version;
        let user = self.users.entry(name).or_insert_with_key(|name| User {
            name: name.clone(),
            born,
            ..User::default()
        });
        user.password_hash = password_hash;
        user.hashing = hashing;
        user.tags = tags;
    }

    fn set_permissions(
        &mut self,
        user: &str,
        vhost: String,
        permissions: Permissions,
    ) -> Result<TopologyReply, ProtocolError> {
        if !self.vhosts.contains_key(&vhost) {
            return Err(no_vhost(&vhost));
        }
        let Some(user) = self.users.get_mut(user) else {
            let text = format!("no such user: '{user}'");
            return Err(ProtocolError::new(ReplyCode::NotFound, text));
        };
        user.permissions.insert(vhost, permissions);
        self.changed();
        Ok(TopologyReply::Done)
    }
}
