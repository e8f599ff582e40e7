//! exchange.declare and exchange.delete, and the exchanges every vhost has.
//!
//! Need: RabbitMQ's checks in its order. Invariant: a deleted exchange takes its bindings in both directions with it.
//! Not here: configure permission, which is checked before existence and so by the asker.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::arguments::{equivalent_value, inequivalent};
use super::command::{DeclareExchange, Removed, TopologyReply};
use super::policy::{Policies, Subject};
use super::record::{
    Exchange, ExchangeKind, ExchangeName, HISTORY_LENGTH, delayed_kind, exchange_title,
};
use super::settings::VhostSettings;
use super::table::{integer, lookup, text};
use super::{
    ExchangeState, Index, Permission, Resource, Target, Topology, Vhost, default_refused, no_vhost,
    precondition, refused,
};
use crate::amqp::value::type_name;
use crate::amqp::{FieldTable, ProtocolError};
use crate::base::NodeId;
use crate::model::route::ConsistentHashOf;

const ALTERNATE: &str = "alternate-exchange";

/// Name, type, internal.
const PREDECLARED: [(&str, ExchangeKind, bool); 7] = [
    ("", ExchangeKind::Direct, false),
    ("amq.direct", ExchangeKind::Direct, false),
    ("amq.fanout", ExchangeKind::Fanout, false),
    ("amq.topic", ExchangeKind::Topic, false),
    ("amq.headers", ExchangeKind::Headers, false),
    ("amq.match", ExchangeKind::Headers, false),
    ("amq.rabbitmq.trace", ExchangeKind::Topic, true),
];

impl ExchangeState {
    pub(super) fn new(exchange: Exchange) -> Self {
        Self {
            index: Index::new(&exchange),
            bindings: BTreeMap::new(),
            exchange,
        }
    }
}

impl Vhost {
    /// An empty vhost, without even the default exchange.
    pub(super) fn bare(name: &str) -> Self {
        Self {
            name: Arc::from(name),
            settings: VhostSettings::default(),
            policies: Policies::default(),
            exchanges: BTreeMap::new(),
            names: hashbrown::HashMap::new(),
            incoming: BTreeMap::new(),
        }
    }

    /// A vhost with the exchanges every vhost has.
    pub(super) fn new(name: &str, settings: VhostSettings) -> Self {
        let mut vhost = Self::bare(name);
        vhost.settings = settings;
        for (exchange, kind, internal) in PREDECLARED {
            let record = Exchange {
                vhost: vhost.name.clone(),
                name: Arc::from(exchange),
                kind,
                durable: true,
                auto_delete: false,
                internal,
                arguments: FieldTable::default(),
                alternate: None,
                effective: None,
                node: NodeId(0),
                incarnation: 0,
            };
            vhost
                .exchanges
                .insert(exchange.to_owned(), ExchangeState::new(record));
        }
        vhost
    }

    /// Deletes an exchange, its bindings, and what lived from those.
    pub(super) fn remove_exchange(&mut self, name: &str, removed: &mut Vec<ExchangeName>) {
        let mut waiting = vec![name.to_owned()];
        while let Some(name) = waiting.pop() {
            let Some(state) = self.exchanges.remove(&name) else {
                continue;
            };
            let source = &state.exchange.name;
            for key in state.bindings.keys() {
                self.forget_incoming(&key.target, source);
            }
            removed.push(ExchangeName {
                vhost: self.name.to_string(),
                name,
            });
            waiting.extend(self.detach(&Target::Exchange(source.clone())));
        }
    }
}

fn known_kind(kind: &str) -> Result<ExchangeKind, ProtocolError> {
    ExchangeKind::from_name(kind)
        .ok_or_else(|| precondition(format!("unknown exchange type '{kind}'")))
}

/// What a type asks of the arguments.
fn check_kind(kind: ExchangeKind, arguments: &FieldTable) -> Result<(), ProtocolError> {
    match kind {
        ExchangeKind::ConsistentHash => ConsistentHashOf::of(arguments).map(|_| ()),
        ExchangeKind::RecentHistory => {
            let length = lookup(arguments, HISTORY_LENGTH);
            let bad = length.is_some_and(|length| integer(length).is_none_or(|length| length < 1));
            match bad {
                true => Err(precondition(format!(
                    "Invalid argument, '{HISTORY_LENGTH}' must be a positive integer"
                ))),
                false => Ok(()),
            }
        }
        ExchangeKind::Delayed => match delayed_kind(arguments) {
            Some(behind) => check_kind(behind, arguments),
            None => Err(precondition(
                "Invalid argument, 'x-delayed-type' must be an existing exchange type".to_owned(),
            )),
        },
        _ => Ok(()),
    }
}

fn check_deletable(vhost: &str, name: &str) -> Result<(), ProtocolError> {
    if name.is_empty() {
        return Err(default_refused());
    }
    if name.starts_with("amq.") {
        let title = exchange_title(vhost, name);
        return Err(refused(format!("deletion of system {title} not allowed")));
    }
    Ok(())
}

impl Topology {
    /// Whether the user may declare an exchange of this type and name.
    ///
    /// # Errors
    /// 406 for an unknown type, 403 for the default exchange or without the right, in this order.
    pub fn check_declare_exchange(
        &self,
        user: &str,
        vhost: &str,
        kind: &str,
        name: &str,
    ) -> Result<(), ProtocolError> {
        known_kind(kind)?;
        if name.is_empty() {
            return Err(default_refused());
        }
        self.check_permission(user, vhost, Resource::Exchange(name), Permission::Configure)
    }

    /// Whether the user may delete an exchange of this name.
    ///
    /// # Errors
    /// 403 for one that every vhost has, or without the right, in this order.
    pub fn check_delete_exchange(
        &self,
        user: &str,
        vhost: &str,
        name: &str,
    ) -> Result<(), ProtocolError> {
        check_deletable(vhost, name)?;
        self.check_permission(user, vhost, Resource::Exchange(name), Permission::Configure)
    }

    pub(super) fn declare_exchange(
        &mut self,
        declare: DeclareExchange,
    ) -> Result<TopologyReply, ProtocolError> {
        let vhost = self
            .vhosts
            .get(&declare.vhost)
            .ok_or_else(|| no_vhost(&declare.vhost))?;
        let kind = known_kind(&declare.kind)?;
        if declare.name.is_empty() {
            return Err(default_refused());
        }
        if let Some(state) = vhost.exchanges.get(&declare.name) {
            check_same(&state.exchange, &declare)?;
            return Ok(TopologyReply::Done);
        }
        if declare.name.starts_with("amq.") {
            let name = &declare.name;
            let text = format!("exchange name '{name}' contains reserved prefix 'amq.*'");
            return Err(refused(text));
        }
        self.check_alternate(&declare)?;
        check_kind(kind, &declare.arguments)?;
        let effective = vhost.policies.effective(Subject::Exchange, &declare.name);
        let name: Arc<str> = Arc::from(declare.name.as_str());
        let mut record = Exchange {
            vhost: vhost.name.clone(),
            name,
            kind,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            arguments: declare.arguments,
            alternate: None,
            effective: None,
            node: declare.node,
            incarnation: declare.incarnation,
        };
        record.set_effective(effective);
        if let Some(vhost) = self.vhosts.get_mut(&declare.vhost) {
            vhost
                .exchanges
                .insert(declare.name, ExchangeState::new(record));
        }
        self.changed();
        Ok(TopologyReply::Done)
    }

    fn check_alternate(&self, declare: &DeclareExchange) -> Result<(), ProtocolError> {
        let Some(value) = lookup(&declare.arguments, ALTERNATE) else {
            return Ok(());
        };
        let Some(name) = text(value) else {
            let title = exchange_title(&declare.vhost, &declare.name);
            let kind = type_name(value);
            let text = format!("invalid type '{kind}' for arg '{ALTERNATE}' in {title}");
            return Err(precondition(text));
        };
        let name = String::from_utf8_lossy(name).into_owned();
        if !declare.user.is_empty() {
            let (user, vhost) = (&declare.user, &declare.vhost);
            let exchange = Resource::Exchange(&declare.name);
            self.check_permission(user, vhost, exchange, Permission::Read)?;
            self.check_permission(user, vhost, Resource::Exchange(&name), Permission::Write)?;
        }
        Ok(())
    }

    pub(super) fn delete_exchange(
        &mut self,
        vhost_name: &str,
        name: &str,
        if_unused: bool,
    ) -> Result<TopologyReply, ProtocolError> {
        let vhost = self
            .vhosts
            .get_mut(vhost_name)
            .ok_or_else(|| no_vhost(vhost_name))?;
        check_deletable(vhost_name, name)?;
        let title = exchange_title(vhost_name, name);
        let mut removed = Removed::default();
        if let Some(state) = vhost.exchanges.get(name) {
            if if_unused && !state.bindings.is_empty() {
                return Err(precondition(format!("{title} in use")));
            }
            vhost.remove_exchange(name, &mut removed.exchanges);
            self.changed();
        }
        Ok(TopologyReply::Removed(removed))
    }
}

fn check_same(exchange: &Exchange, declare: &DeclareExchange) -> Result<(), ProtocolError> {
    let title = exchange_title(&exchange.vhost, &exchange.name);
    let current = exchange.kind.name();
    if declare.kind != current {
        let (received, current) = (format!("'{}'", declare.kind), format!("'{current}'"));
        return Err(inequivalent("type", &title, &received, &current));
    }
    let flags = [
        ("durable", declare.durable, exchange.durable),
        ("auto_delete", declare.auto_delete, exchange.auto_delete),
        ("internal", declare.internal, exchange.internal),
    ];
    for (key, received, current) in flags {
        if received != current {
            let (received, current) = (format!("'{received}'"), format!("'{current}'"));
            return Err(inequivalent(key, &title, &received, &current));
        }
    }
    let received = lookup(&declare.arguments, ALTERNATE);
    equivalent_value(
        ALTERNATE,
        &title,
        received,
        lookup(&exchange.arguments, ALTERNATE),
    )
}
