//! The whole topology as bytes, and back.
//!
//! Need: a node that joins, or restarts, starts from a snapshot. Shape: a version byte, then every map in its order, so
//! equal topologies have equal bytes. Routing indices, and what policies mean for each thing, are rebuilt. Version 2 is
//! still read. Invariant: bytes that contradict themselves are refused and leave the machine as it was.

use std::sync::Arc;

use bytes::BufMut;

use super::access::{Permission, Permissions, TopicPermissions, User};
use super::command::{CodecError, get_texts, put_texts};
use super::members::{NodeRecord, SetRecord, get_parts, put_parts};
use super::password::Hashing;
use super::pattern::Pattern;
use super::policy::{Policy, PolicyScope};
use super::record::{DeadLetterTarget, Exchange, ExchangeKind, QueueKind, QueueRecord};
use super::settings::VhostSettings;
use super::settings_codec::{get_int, get_maybe, put_int, put_maybe};
use super::table::{get_table, get_value, put_table, put_value};
use super::{ExchangeState, Target, Topology, Vhost};
use crate::base::coding::{Reader, Writer};
use crate::base::{Digest, NodeId, QueueId, SessionId};

const VERSION: u8 = 3;
/// Without settings, policies and parameters.
const VERSION_BARE: u8 = 2;

impl Topology {
    /// All of it. Equal topologies give equal bytes.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u8(VERSION);
        out.put_varint(self.version);
        out.put_varint(self.next_queue);
        out.put_varint(self.nodes.len() as u64);
        for node in self.nodes.values() {
            node.encode(&mut out);
        }
        out.put_varint(self.last_node.0);
        out.put_u64_le(self.cluster);
        out.put_varint(self.sets.len() as u64);
        for set in self.sets.values() {
            set.encode(&mut out);
        }
        out.put_varint(self.vhosts.len() as u64);
        for vhost in self.vhosts.values() {
            out.put_blob(vhost.name.as_bytes());
            vhost.settings.encode(&mut out);
            put_policies(&mut out, vhost);
            out.put_varint(vhost.exchanges.len() as u64);
            for state in vhost.exchanges.values() {
                put_exchange(&mut out, &state.exchange);
            }
        }
        out.put_varint(self.users.len() as u64);
        for user in self.users.values() {
            put_user(&mut out, user);
        }
        out.put_varint(self.queues.len() as u64);
        for queue in self.queues.values() {
            put_queue(&mut out, queue);
        }
        for state in self
            .vhosts
            .values()
            .flat_map(|vhost| vhost.exchanges.values())
        {
            put_bindings(&mut out, state);
        }
        out.put_varint(self.parameters.len() as u64);
        for ((component, vhost, name), value) in &self.parameters {
            for text in [component, vhost, name] {
                out.put_blob(text.as_bytes());
            }
            put_value(&mut out, value);
        }
        out.put_varint(self.globals.len() as u64);
        for (name, value) in &self.globals {
            out.put_blob(name.as_bytes());
            put_value(&mut out, value);
        }
        out
    }

    /// A number that replicas compare.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::default();
        digest.bytes(&self.snapshot());
        digest.value()
    }

    /// Becomes what `bytes` describe.
    ///
    /// # Errors
    /// [`CodecError`] if they are no snapshot; nothing has changed then.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), CodecError> {
        let mut reader = Reader::new(bytes);
        let topology = Self::read(&mut reader)?;
        if !reader.is_empty() {
            return Err(CodecError::Inconsistent);
        }
        *self = topology;
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let version = reader.u8()?;
        if version != VERSION && version != VERSION_BARE {
            return Err(CodecError::UnknownVersion(version));
        }
        let full = version == VERSION;
        let mut topology = Self::new();
        topology.version = reader.varint()?;
        topology.next_queue = reader.varint()?;
        for _ in 0..reader.varint()? {
            let node = NodeRecord::decode(reader)?;
            topology.nodes.insert(node.id, node);
        }
        topology.last_node = NodeId(reader.varint()?);
        topology.cluster = reader.u64()?;
        for _ in 0..reader.varint()? {
            let set = SetRecord::decode(reader)?;
            topology.sets.insert(set.id, set);
        }
        for _ in 0..reader.varint()? {
            let name = reader.text()?;
            let mut vhost = Vhost::bare(&name);
            if full {
                vhost.settings = VhostSettings::decode(reader)?;
                get_policies(reader, &mut vhost)?;
            } else {
                vhost.settings.default_queue_type = reader.text()?;
            }
            for _ in 0..reader.varint()? {
                let exchange = get_exchange(reader, vhost.name.clone())?;
                let name = exchange.name.to_string();
                vhost.exchanges.insert(name, ExchangeState::new(exchange));
            }
            topology.vhosts.insert(name, vhost);
        }
        for _ in 0..reader.varint()? {
            let user = get_user(reader, full)?;
            topology.users.insert(user.name.clone(), user);
        }
        for _ in 0..reader.varint()? {
            let queue = get_queue(reader, &topology)?;
            topology.insert_queue(queue);
        }
        topology.read_bindings(reader)?;
        if full {
            topology.read_parameters(reader)?;
        }
        let governed = topology
            .vhosts
            .iter()
            .filter(|(_, vhost)| !vhost.policies.is_empty());
        let governed: Vec<String> = governed.map(|(name, _)| name.clone()).collect();
        for vhost in governed {
            topology.apply_policies(&vhost);
        }
        Ok(topology)
    }

    fn read_parameters(&mut self, reader: &mut Reader<'_>) -> Result<(), CodecError> {
        for _ in 0..reader.varint()? {
            let key = (reader.text()?, reader.text()?, reader.text()?);
            self.parameters.insert(key, get_value(reader)?);
        }
        for _ in 0..reader.varint()? {
            let name = reader.text()?;
            self.globals.insert(name, get_value(reader)?);
        }
        Ok(())
    }

    fn read_bindings(&mut self, reader: &mut Reader<'_>) -> Result<(), CodecError> {
        let queues = &self.queues;
        for vhost in self.vhosts.values_mut() {
            let sources: Vec<String> = vhost.exchanges.keys().cloned().collect();
            for source in sources {
                for _ in 0..reader.varint()? {
                    let target = match reader.u8()? {
                        0 => {
                            let id = QueueId(reader.varint()?);
                            let queue = queues.get(&id).filter(|queue| queue.vhost == vhost.name);
                            queue.map(|queue| Target::Queue(queue.id))
                        }
                        1 => {
                            let state = vhost.exchanges.get(&reader.text()?);
                            state.map(|state| Target::Exchange(state.exchange.name.clone()))
                        }
                        other => return Err(CodecError::UnknownTag(other)),
                    };
                    let target = target.ok_or(CodecError::Inconsistent)?;
                    let key = reader.text()?;
                    let arguments = get_table(reader)?;
                    vhost.insert_binding(&source, target, key, arguments);
                }
            }
        }
        Ok(())
    }
}

fn put_policies(out: &mut Vec<u8>, vhost: &Vhost) {
    for scope in [PolicyScope::User, PolicyScope::Operator] {
        let policies = vhost.policies.of(scope);
        out.put_varint(policies.len() as u64);
        for policy in policies.values() {
            policy.encode(out);
        }
    }
}

fn get_policies(reader: &mut Reader<'_>, vhost: &mut Vhost) -> Result<(), CodecError> {
    for scope in [PolicyScope::User, PolicyScope::Operator] {
        for _ in 0..reader.varint()? {
            let policy = Policy::decode(reader)?;
            let policies = vhost.policies.of_mut(scope);
            policies.insert(policy.name.clone(), Arc::new(policy));
        }
    }
    Ok(())
}

fn put_bindings(out: &mut Vec<u8>, state: &ExchangeState) {
    out.put_varint(state.bindings.len() as u64);
    for (key, arguments) in &state.bindings {
        match &key.target {
            Target::Queue(id) => {
                out.put_u8(0);
                out.put_varint(id.0);
            }
            Target::Exchange(name) => {
                out.put_u8(1);
                out.put_blob(name.as_bytes());
            }
        }
        out.put_blob(key.key.as_bytes());
        put_table(out, arguments);
    }
}

fn put_exchange(out: &mut Vec<u8>, exchange: &Exchange) {
    out.put_blob(exchange.name.as_bytes());
    out.put_blob(exchange.kind.name().as_bytes());
    out.put_flag(exchange.durable);
    out.put_flag(exchange.auto_delete);
    out.put_flag(exchange.internal);
    put_table(out, &exchange.arguments);
    put_option(out, exchange.alternate.as_deref());
    out.put_varint(exchange.node.0);
    out.put_varint(exchange.incarnation);
}

fn get_exchange(reader: &mut Reader<'_>, vhost: Arc<str>) -> Result<Exchange, CodecError> {
    Ok(Exchange {
        vhost,
        name: Arc::from(reader.text()?),
        kind: ExchangeKind::from_name(&reader.text()?).ok_or(CodecError::Inconsistent)?,
        durable: reader.flag()?,
        auto_delete: reader.flag()?,
        internal: reader.flag()?,
        arguments: get_table(reader)?,
        alternate: get_option(reader)?,
        effective: None,
        node: NodeId(reader.varint()?),
        incarnation: reader.varint()?,
    })
}

fn put_option(out: &mut Vec<u8>, text: Option<&str>) {
    out.put_flag(text.is_some());
    if let Some(text) = text {
        out.put_blob(text.as_bytes());
    }
}

fn get_option(reader: &mut Reader<'_>) -> Result<Option<String>, CodecError> {
    Ok(if reader.flag()? {
        Some(reader.text()?)
    } else {
        None
    })
}

fn put_user(out: &mut Vec<u8>, user: &User) {
    out.put_blob(user.name.as_bytes());
    out.put_blob(user.password_hash.as_bytes());
    put_texts(out, &user.tags);
    out.put_varint(user.permissions.len() as u64);
    for (vhost, permissions) in &user.permissions {
        out.put_blob(vhost.as_bytes());
        for right in [Permission::Configure, Permission::Write, Permission::Read] {
            out.put_blob(permissions.pattern(right).as_bytes());
        }
    }
    out.put_blob(user.hashing.name().as_bytes());
    out.put_varint(user.topic_permissions.len() as u64);
    for ((vhost, exchange), rights) in &user.topic_permissions {
        for text in [vhost, exchange, rights.write.source(), rights.read.source()] {
            out.put_blob(text.as_bytes());
        }
    }
    put_maybe(out, user.max_connections.as_ref(), put_int);
    put_maybe(out, user.max_channels.as_ref(), put_int);
    out.put_varint(user.born);
}

fn get_user(reader: &mut Reader<'_>, full: bool) -> Result<User, CodecError> {
    let mut user = User {
        name: reader.text()?,
        password_hash: reader.text()?,
        tags: get_texts(reader)?,
        ..User::default()
    };
    for _ in 0..reader.varint()? {
        let vhost = reader.text()?;
        let permissions = Permissions::new(reader.text()?, reader.text()?, reader.text()?);
        user.permissions.insert(vhost, permissions);
    }
    if full {
        user.hashing = Hashing::from_name(&reader.text()?).ok_or(CodecError::Inconsistent)?;
        for _ in 0..reader.varint()? {
            let key = (reader.text()?, reader.text()?);
            let rights = TopicPermissions {
                write: Pattern::new(reader.text()?),
                read: Pattern::new(reader.text()?),
            };
            user.topic_permissions.insert(key, rights);
        }
        user.max_connections = get_maybe(reader, get_int)?;
        user.max_channels = get_maybe(reader, get_int)?;
        user.born = reader.varint()?;
    }
    Ok(user)
}

fn put_queue(out: &mut Vec<u8>, queue: &QueueRecord) {
    out.put_varint(queue.id.0);
    out.put_blob(queue.vhost.as_bytes());
    out.put_blob(queue.name.as_bytes());
    out.put_flag(queue.durable);
    out.put_flag(queue.exclusive.is_some());
    out.put_varint(queue.exclusive.unwrap_or_default().0);
    out.put_flag(queue.auto_delete);
    out.put_blob(queue.kind.name().as_bytes());
    put_table(out, &queue.arguments);
    put_parts(out, &queue.parts);
    out.put_varint(queue.node.0);
    out.put_varint(queue.incarnation);
    out.put_flag(queue.dead_letter.is_some());
    if let Some(target) = &queue.dead_letter {
        out.put_blob(target.exchange.as_bytes());
        put_option(out, target.routing_key.as_deref());
    }
}

fn get_queue(reader: &mut Reader<'_>, topology: &Topology) -> Result<QueueRecord, CodecError> {
    let id = QueueId(reader.varint()?);
    let vhost = topology
        .vhosts
        .get(&reader.text()?)
        .ok_or(CodecError::Inconsistent)?;
    let name = reader.text()?;
    let durable = reader.flag()?;
    let exclusive = reader.flag()?;
    let owner = SessionId(reader.varint()?);
    let auto_delete = reader.flag()?;
    let kind = QueueKind::from_name(reader.blob()?).ok_or(CodecError::Inconsistent)?;
    let arguments = get_table(reader)?;
    let parts = get_parts(reader)?;
    let node = NodeId(reader.varint()?);
    let incarnation = reader.varint()?;
    let dead_letter = if reader.flag()? {
        let exchange = reader.text()?;
        Some(DeadLetterTarget {
            exchange,
            routing_key: get_option(reader)?,
        })
    } else {
        None
    };
    if id.0 >= topology.next_queue || parts.is_empty() {
        return Err(CodecError::Inconsistent);
    }
    Ok(QueueRecord {
        id,
        vhost: vhost.name.clone(),
        name,
        durable,
        exclusive: exclusive.then_some(owner),
        auto_delete,
        kind,
        arguments,
        parts,
        node,
        incarnation,
        dead_letter,
        effective: None,
    })
}
