//! Bindings: bind, unbind, and what goes when one of its ends goes.
//!
//! Need: both ends of every binding exist, and an auto-delete exchange goes with its last outgoing one. Shape: bindings
//! belong to their source, sorted by destination; a count per (destination, source) finds them from the other end.
//! Permissions are checked before existence and so by the asker, with [`Topology::check_bind`].

use std::sync::Arc;

use super::command::{Bind, Destination, Removed, TopologyReply};
use super::record::{ExchangeKind, ExchangeName};
use super::table::put_table;
use super::{
    BindingKey, Permission, Resource, Target, Topology, Vhost, check_owner, default_refused,
    no_exchange, no_queue, no_vhost, precondition, refused,
};
use crate::amqp::{FieldTable, ProtocolError};
use crate::model::route::{check_headers_binding, consistent_hash_weight};

/// The pseudo-queue of direct reply-to, and what addresses of its consumers begin with.
const REPLY_TO: &str = "amq.rabbitmq.reply-to";
/// `#` a topic binding key may use.
const TOPIC_HASHES_MAX: usize = 2;

impl Topology {
    /// Whether the user may bind or unbind these: write where it goes, read where it comes from.
    ///
    /// # Errors
    /// 403 for the pseudo-queue of direct reply-to, without a right, or if one of them is the default exchange.
    pub fn check_bind(&self, user: &str, bind: &Bind) -> Result<(), ProtocolError> {
        let target = match &bind.destination {
            Destination::Queue(name) if name.starts_with(REPLY_TO) => {
                let text = "cannot bind or unbind to a volatile (direct reply-to) queue";
                return Err(refused(text.to_owned()));
            }
            Destination::Queue(name) => Resource::Queue(name),
            Destination::Exchange(name) => Resource::Exchange(name),
        };
        self.check_permission(user, &bind.vhost, target, Permission::Write)?;
        check_no_default(bind)?;
        let source = Resource::Exchange(&bind.source);
        self.check_permission(user, &bind.vhost, source, Permission::Read)?;
        let key = bind.routing_key.as_bytes();
        self.check_topic(user, &bind.vhost, &bind.source, Permission::Read, [key])
    }

    /// Whether this very binding is there.
    #[must_use]
    pub fn is_bound(&self, bind: &Bind) -> bool {
        let Some(vhost) = self.vhosts.get(&bind.vhost) else {
            return false;
        };
        let target = self.target_of(vhost, &bind.destination);
        let state = vhost.exchanges.get(&bind.source);
        target.zip(state).is_some_and(|(target, state)| {
            let key = binding_key(target, bind.routing_key.clone(), &bind.arguments);
            state.bindings.contains_key(&key)
        })
    }

    fn target_of(&self, vhost: &Vhost, destination: &Destination) -> Option<Target> {
        match destination {
            Destination::Queue(name) => vhost
                .queue_named(name.as_bytes())
                .map(|target| Target::Queue(target.queue)),
            Destination::Exchange(name) => {
                let state = vhost.exchanges.get(name)?;
                Some(Target::Exchange(state.exchange.name.clone()))
            }
        }
    }

    pub(super) fn bind(&mut self, bind: Bind) -> Result<TopologyReply, ProtocolError> {
        let vhost = self
            .vhosts
            .get(&bind.vhost)
            .ok_or_else(|| no_vhost(&bind.vhost))?;
        check_no_default(&bind)?;
        let Some(source) = vhost.exchanges.get(&bind.source) else {
            return Err(no_exchange(&bind.vhost, &bind.source));
        };
        let target = self.target_of(vhost, &bind.destination);
        let target = target.ok_or_else(|| match &bind.destination {
            Destination::Queue(name) => no_queue(&bind.vhost, name),
            Destination::Exchange(name) => no_exchange(&bind.vhost, name),
        })?;
        check_binding(source.exchange.routes_as(), &bind)?;
        self.check_target_owner(&target, &bind)?;
        if let Some(vhost) = self.vhosts.get_mut(&bind.vhost)
            && vhost.insert_binding(&bind.source, target, bind.routing_key, bind.arguments)
        {
            self.changed();
        }
        Ok(TopologyReply::Done)
    }

    fn check_target_owner(&self, target: &Target, bind: &Bind) -> Result<(), ProtocolError> {
        match target {
            Target::Queue(id) => {
                let queue = self.queues.get(id);
                queue.map_or(Ok(()), |queue| check_owner(queue, bind.session))
            }
            Target::Exchange(_) => Ok(()),
        }
    }

    pub(super) fn unbind(&mut self, bind: &Bind) -> Result<TopologyReply, ProtocolError> {
        let vhost = self
            .vhosts
            .get(&bind.vhost)
            .ok_or_else(|| no_vhost(&bind.vhost))?;
        check_no_default(bind)?;
        let mut removed = Removed::default();
        if let Some(target) = self.target_of(vhost, &bind.destination) {
            let key = binding_key(target.clone(), bind.routing_key.clone(), &bind.arguments);
            let bound = vhost.exchanges.get(&bind.source);
            if bound.is_some_and(|source| source.bindings.contains_key(&key)) {
                self.check_target_owner(&target, bind)?;
            }
            if let Some(vhost) = self.vhosts.get_mut(&bind.vhost)
                && vhost.remove_binding(&bind.source, &key, &mut removed.exchanges)
            {
                self.changed();
            }
        }
        Ok(TopologyReply::Removed(removed))
    }
}

fn check_no_default(bind: &Bind) -> Result<(), ProtocolError> {
    let to_default = matches!(&bind.destination, Destination::Exchange(name) if name.is_empty());
    if bind.source.is_empty() || to_default {
        return Err(default_refused());
    }
    Ok(())
}

fn check_binding(kind: ExchangeKind, bind: &Bind) -> Result<(), ProtocolError> {
    match kind {
        ExchangeKind::Headers => check_headers_binding(&bind.arguments),
        ExchangeKind::Topic => {
            let key = &bind.routing_key;
            let hashes = key.split('.').filter(|word| *word == "#").count();
            if hashes > TOPIC_HASHES_MAX {
                return Err(precondition(format!(
                    "Topic binding key '{key}' uses {hashes} '#' wildcards, at most \
                     {TOPIC_HASHES_MAX} are allowed"
                )));
            }
            Ok(())
        }
        ExchangeKind::ConsistentHash => consistent_hash_weight(&bind.routing_key).map(|_| ()),
        ExchangeKind::LocalRandom => {
            let to_queue = matches!(bind.destination, Destination::Queue(_));
            if to_queue && bind.routing_key.is_empty() {
                return Ok(());
            }
            Err(precondition(
                "x-local-random takes bindings to queues only, with an empty binding key"
                    .to_owned(),
            ))
        }
        ExchangeKind::Direct
        | ExchangeKind::Fanout
        | ExchangeKind::ModulusHash
        | ExchangeKind::Random
        | ExchangeKind::RecentHistory
        | ExchangeKind::Delayed => Ok(()),
    }
}

fn binding_key(target: Target, key: String, arguments: &FieldTable) -> BindingKey {
    let mut bytes = Vec::new();
    put_table(&mut bytes, arguments);
    BindingKey {
        target,
        key,
        arguments: bytes,
    }
}

impl Vhost {
    /// Whether it is new.
    pub(super) fn insert_binding(
        &mut self,
        source: &str,
        target: Target,
        key: String,
        arguments: FieldTable,
    ) -> bool {
        let Some(state) = self.exchanges.get_mut(source) else {
            return false;
        };
        let key = binding_key(target, key, &arguments);
        if state.bindings.contains_key(&key) {
            return false;
        }
        state
            .index
            .insert(&key.target, &key.key, &arguments, &key.arguments);
        let sources = self.incoming.entry(key.target.clone()).or_default();
        *sources.entry(state.exchange.name.clone()).or_default() += 1;
        state.bindings.insert(key, arguments);
        true
    }

    /// Whether it was there.
    fn remove_binding(
        &mut self,
        source: &str,
        key: &BindingKey,
        removed: &mut Vec<ExchangeName>,
    ) -> bool {
        let Some(state) = self.exchanges.get_mut(source) else {
            return false;
        };
        if state.bindings.remove(key).is_none() {
            return false;
        }
        state.index.remove(&key.target, &key.key, &key.arguments);
        let name = state.exchange.name.clone();
        let dies = state.exchange.auto_delete && state.bindings.is_empty();
        self.forget_incoming(&key.target, &name);
        if dies {
            self.remove_exchange(&name, removed);
        }
        true
    }

    /// One binding of `source` to `target` less.
    pub(super) fn forget_incoming(&mut self, target: &Target, source: &Arc<str>) {
        let Some(sources) = self.incoming.get_mut(target) else {
            return;
        };
        if let Some(count) = sources.get_mut(source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(source);
            }
        }
        if sources.is_empty() {
            self.incoming.remove(target);
        }
    }

    /// Removes every binding to `target`; names the auto-delete exchanges that have none left.
    pub(super) fn detach(&mut self, target: &Target) -> Vec<String> {
        let mut emptied = Vec::new();
        for source in self.incoming.remove(target).unwrap_or_default().into_keys() {
            let Some(state) = self.exchanges.get_mut(&*source) else {
                continue;
            };
            let first = BindingKey {
                target: target.clone(),
                key: String::new(),
                arguments: Vec::new(),
            };
            let ours = state.bindings.range(first..).map(|(key, _)| key);
            let keys: Vec<_> = ours
                .take_while(|key| key.target == *target)
                .cloned()
                .collect();
            for key in keys {
                state.bindings.remove(&key);
                state.index.remove(&key.target, &key.key, &key.arguments);
            }
            if state.exchange.auto_delete && state.bindings.is_empty() {
                emptied.push(source.to_string());
            }
        }
        emptied
    }

    /// Removes every binding to `target`, and the auto-delete exchanges that lived from them.
    pub(super) fn unbind_destination(&mut self, target: &Target, removed: &mut Vec<ExchangeName>) {
        for name in self.detach(target) {
            self.remove_exchange(&name, removed);
        }
    }
}
