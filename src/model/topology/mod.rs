//! The topology machine, set 0: vhosts, users, permissions, policies, exchanges, bindings and queue records.
//!
//! Need: every node knows all that exists and routes from its own copy. Shape: ordered maps of records, changed only by
//! [`Topology::apply`]; beside them lookup-only hash maps and routing indices, derived and never walked. Invariants: a
//! binding's two ends exist; every queue id is minted once; [`Topology::version`] rises with every change that can
//! alter an answer. Limits: one vhost's objects are bounded by memory and `max-queues`.
//! Not here: where queues are placed, the loopback rule, how many connections there are.

mod access;
mod apply;
mod arguments;
mod binding;
mod command;
mod consumer_arguments;
mod declare;
#[cfg(test)]
mod declare_test;
mod exchange;
mod members;
mod password;
mod pattern;
mod policy;
mod record;
mod settings;
mod settings_codec;
#[cfg(test)]
mod settings_test;
mod snapshot;
#[cfg(test)]
mod stream_test;
pub(crate) mod table;
#[cfg(test)]
mod test;

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;

pub use access::{OPERATOR, Permission, Permissions, Resource, TopicPermissions, User, user_shown};
pub use command::{
    Bind, CodecError, DeclareExchange, DeclareQueue, Destination, Removed, Seed, TopologyCommand,
    TopologyReply,
};
pub use consumer_arguments::{ConsumerArguments, StreamFilter};
pub use members::{Formation, MembersCommand, NodeRecord, NodeState, SetRecord};
pub use password::{Hashing, hash_password};
pub use pattern::Pattern;
pub use policy::{ApplyTo, Effective, Policy, PolicyScope, max_age_s, validate_policy};
pub(crate) use record::history_queue;
pub use record::{
    BindingRef, DeadLetterTarget, Exchange, ExchangeKind, ExchangeName, Part, PartState,
    QueueDefaults, QueueKind, QueueRecord,
};

pub use settings::{LimitKind, Parameter, SettingsCommand, VhostSettings};

use super::route::{Index, QueueTarget, Target};
use crate::amqp::{AMQPValue, FieldTable, ProtocolError, ReplyCode};
use crate::base::{NodeId, QueueId, SessionId, SetId};
use record::{exchange_title, queue_title};

/// Everything that exists.
#[derive(Debug)]
pub struct Topology {
    version: u64,
    next_queue: u64,
    nodes: BTreeMap<NodeId, NodeRecord>,
    /// Highest id a node ever had.
    last_node: NodeId,
    /// The cluster's id; 0 until it is formed.
    cluster: u64,
    sets: BTreeMap<SetId, SetRecord>,
    users: BTreeMap<String, User>,
    vhosts: BTreeMap<String, Vhost>,
    queues: BTreeMap<QueueId, QueueRecord>,
    /// Where each queue takes messages. Lookup only.
    places: HashMap<QueueId, SetId>,
    /// Queues with several such places. Lookup only.
    spread: HashMap<QueueId, Vec<SetId>>,
    /// Queues with a part in each set. Lookup only.
    loads: HashMap<SetId, u64>,
    /// Queues with a part that drains.
    draining: std::collections::BTreeSet<QueueId>,
    /// Rises with every change of where a queue lives.
    parts_version: u64,
    /// Runtime parameters by component, vhost and name.
    parameters: BTreeMap<(String, String, String), Parameter>,
    /// Global parameters.
    globals: BTreeMap<String, AMQPValue>,
    /// Rises when policies may have come to mean something else for queues that exist.
    policies_version: u64,
    /// Rises when a user or a vhost goes.
    access_version: u64,
}

#[derive(Debug)]
pub(crate) struct Vhost {
    name: Arc<str>,
    settings: VhostSettings,
    policies: policy::Policies,
    exchanges: BTreeMap<String, ExchangeState>,
    /// Queues by name: the default exchange. Lookup only.
    names: HashMap<Box<[u8]>, QueueTarget>,
    /// For every destination, its source exchanges and how many bindings come from each.
    incoming: BTreeMap<Target, BTreeMap<Arc<str>, u32>>,
}

#[derive(Debug)]
pub(crate) struct ExchangeState {
    pub(crate) exchange: Exchange,
    bindings: BTreeMap<BindingKey, FieldTable>,
    pub(crate) index: Index,
}

/// What makes a binding of one source the same binding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct BindingKey {
    target: Target,
    key: String,
    /// Encoded, so that they have an order.
    arguments: Vec<u8>,
}

impl Default for Topology {
    fn default() -> Self {
        Self::new()
    }
}

impl Topology {
    /// Nothing exists.
    #[must_use]
    pub fn new() -> Self {
        Self {
            version: 0,
            next_queue: 1,
            nodes: BTreeMap::new(),
            last_node: NodeId(0),
            cluster: 0,
            sets: BTreeMap::new(),
            users: BTreeMap::new(),
            vhosts: BTreeMap::new(),
            queues: BTreeMap::new(),
            places: HashMap::new(),
            spread: HashMap::new(),
            loads: HashMap::new(),
            draining: std::collections::BTreeSet::new(),
            parts_version: 0,
            parameters: BTreeMap::new(),
            globals: BTreeMap::new(),
            policies_version: 0,
            access_version: 0,
        }
    }

    /// Rises when policies may have come to mean something else for queues that exist; not kept in snapshots.
    #[must_use]
    pub fn policies_version(&self) -> u64 {
        self.policies_version
    }

    /// Rises when a user or a vhost goes; not kept in snapshots.
    #[must_use]
    pub fn access_version(&self) -> u64 {
        self.access_version
    }

    /// Rises with every change; what was cached at another version may be wrong.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Rises with every change of where an existing queue lives; not kept in snapshots.
    #[must_use]
    pub fn parts_version(&self) -> u64 {
        self.parts_version
    }

    /// How many queues have a part in a set.
    #[must_use]
    pub fn queues_in(&self, set: SetId) -> u64 {
        self.loads.get(&set).copied().unwrap_or(0)
    }

    /// Queues with a part that drains.
    pub fn draining(&self) -> impl Iterator<Item = &QueueRecord> {
        self.draining.iter().filter_map(|id| self.queues.get(id))
    }

    /// The sets that take a queue's messages, if they are several.
    #[must_use]
    pub fn spread(&self, queue: QueueId) -> Option<&[SetId]> {
        self.spread.get(&queue).map(Vec::as_slice)
    }

    /// Whether a queue has more than one part: it is spread, or moves.
    #[must_use]
    pub fn has_parts(&self, queue: QueueId) -> bool {
        self.spread.contains_key(&queue) || self.draining.contains(&queue)
    }

    /// Whether the vhost exists.
    #[must_use]
    pub fn has_vhost(&self, vhost: &str) -> bool {
        self.vhosts.contains_key(vhost)
    }

    /// Vhost names in byte order.
    pub fn vhosts(&self) -> impl Iterator<Item = &str> {
        self.vhosts.keys().map(String::as_str)
    }

    /// Users in order of name.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }

    /// Queues in all vhosts.
    #[must_use]
    pub fn queue_count(&self) -> u64 {
        self.queues.len() as u64
    }

    /// A queue by name.
    #[must_use]
    pub fn queue(&self, vhost: &str, name: &str) -> Option<&QueueRecord> {
        let target = self.vhosts.get(vhost)?.names.get(name.as_bytes())?;
        self.queues.get(&target.queue)
    }

    /// A queue by id.
    #[must_use]
    pub fn queue_by_id(&self, id: QueueId) -> Option<&QueueRecord> {
        self.queues.get(&id)
    }

    /// An exchange by name.
    #[must_use]
    pub fn exchange(&self, vhost: &str, name: &str) -> Option<&Exchange> {
        let state = self.vhosts.get(vhost)?.exchanges.get(name)?;
        Some(&state.exchange)
    }

    /// Exchanges in all vhosts, those that every vhost has included.
    #[must_use]
    pub fn exchange_count(&self) -> u64 {
        let all = self.vhosts.values();
        all.map(|vhost| vhost.exchanges.len() as u64).sum()
    }

    /// All queues, by id.
    pub fn queues(&self) -> impl Iterator<Item = &QueueRecord> {
        self.queues.values()
    }

    /// All exchanges, by vhost and name.
    pub fn exchanges(&self) -> impl Iterator<Item = &Exchange> {
        let states = self
            .vhosts
            .values()
            .flat_map(|vhost| vhost.exchanges.values());
        states.map(|state| &state.exchange)
    }

    /// All bindings: those of the default exchange first (one per queue), then by vhost and source.
    pub fn bindings(&self) -> impl Iterator<Item = BindingRef<'_>> {
        let implicit = self.queues.values().map(|queue| BindingRef {
            vhost: &queue.vhost,
            source: "",
            to_queue: true,
            destination: &queue.name,
            routing_key: &queue.name,
            arguments: None,
        });
        let states = self
            .vhosts
            .values()
            .flat_map(|vhost| vhost.exchanges.values());
        implicit.chain(states.flat_map(move |state| {
            state
                .bindings
                .iter()
                .map(move |(key, arguments)| BindingRef {
                    vhost: &state.exchange.vhost,
                    source: &state.exchange.name,
                    to_queue: matches!(key.target, Target::Queue(_)),
                    destination: match &key.target {
                        Target::Queue(id) => self.queues.get(id).map_or("", |queue| &queue.name),
                        Target::Exchange(name) => name,
                    },
                    routing_key: &key.key,
                    arguments: Some(arguments),
                })
        }))
    }

    /// queue.declare passive, and every other use of a queue by name.
    ///
    /// # Errors
    /// 404 if there is none, 405 if another connection owns it.
    pub fn check_queue_passive(
        &self,
        vhost: &str,
        name: &str,
        session: SessionId,
    ) -> Result<&QueueRecord, ProtocolError> {
        let queue = self
            .queue(vhost, name)
            .ok_or_else(|| no_queue(vhost, name))?;
        check_owner(queue, session)?;
        Ok(queue)
    }

    /// exchange.declare passive.
    ///
    /// # Errors
    /// 403 for the default exchange, 404 if there is none.
    pub fn check_exchange_passive(
        &self,
        vhost: &str,
        name: &str,
    ) -> Result<&Exchange, ProtocolError> {
        if name.is_empty() {
            return Err(default_refused());
        }
        self.exchange(vhost, name)
            .ok_or_else(|| no_exchange(vhost, name))
    }

    /// basic.publish to an exchange by name (its permission is checked before).
    ///
    /// # Errors
    /// 404 if there is none, 403 if it is internal.
    pub fn check_publish(&self, vhost: &str, exchange: &[u8]) -> Result<(), ProtocolError> {
        if exchange.is_empty() {
            return Ok(());
        }
        let name = String::from_utf8_lossy(exchange);
        match self.exchange(vhost, &name) {
            None => Err(no_exchange(vhost, &name)),
            Some(exchange) if exchange.internal => {
                let title = exchange_title(vhost, &name);
                let text = format!("cannot publish to internal {title}");
                Err(ProtocolError::new(ReplyCode::AccessRefused, text))
            }
            Some(_) => Ok(()),
        }
    }

    pub(crate) fn vhost(&self, vhost: &str) -> Option<&Vhost> {
        self.vhosts.get(vhost)
    }

    pub(crate) fn place(&self, queue: QueueId) -> Option<QueueTarget> {
        let set = *self.places.get(&queue)?;
        Some(QueueTarget { queue, set })
    }

    fn changed(&mut self) {
        self.version = self.version.wrapping_add(1);
    }
}

impl Vhost {
    /// The queue of this name.
    pub(crate) fn queue_named(&self, name: &[u8]) -> Option<QueueTarget> {
        self.names.get(name).copied()
    }

    /// The exchange of this name.
    pub(crate) fn exchange_named(&self, name: &str) -> Option<&ExchangeState> {
        self.exchanges.get(name)
    }
}

/// Whether `session` may use `queue`.
///
/// # Errors
/// 405 if another connection owns it.
pub fn check_owner(queue: &QueueRecord, session: SessionId) -> Result<(), ProtocolError> {
    if queue.exclusive.is_none_or(|owner| owner == session) {
        return Ok(());
    }
    Err(locked(queue))
}

fn locked(queue: &QueueRecord) -> ProtocolError {
    let text = format!(
        "cannot obtain exclusive access to locked {}. It could be originally declared on another \
         connection or the exclusive property value does not match that of the original declaration.",
        queue.title()
    );
    ProtocolError::new(ReplyCode::ResourceLocked, text)
}

pub(crate) fn no_queue(vhost: &str, name: &str) -> ProtocolError {
    let text = format!("no {}", queue_title(vhost, name));
    ProtocolError::new(ReplyCode::NotFound, text)
}

pub(crate) fn no_exchange(vhost: &str, name: &str) -> ProtocolError {
    let text = format!("no {}", exchange_title(vhost, name));
    ProtocolError::new(ReplyCode::NotFound, text)
}

fn no_vhost(vhost: &str) -> ProtocolError {
    ProtocolError::new(ReplyCode::NotAllowed, format!("vhost {vhost} not found"))
}

fn default_refused() -> ProtocolError {
    let text = "operation not permitted on the default exchange";
    ProtocolError::new(ReplyCode::AccessRefused, text)
}

fn refused(text: String) -> ProtocolError {
    ProtocolError::new(ReplyCode::AccessRefused, text)
}

fn precondition(text: String) -> ProtocolError {
    ProtocolError::new(ReplyCode::PreconditionFailed, text)
}
