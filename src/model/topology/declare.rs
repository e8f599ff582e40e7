//! queue.declare, and the end of queues.
//!
//! Need: the declare algorithm of AMQP as RabbitMQ runs it, checks in its order. Invariant: a queue that goes takes its
//! bindings with it, and auto-delete exchanges that lived from them. Not here: counts, and the messages.

use super::arguments::{
    check_equivalent, check_like, check_stream, inequivalent, unsupported_type, validate,
};
use super::command::{DeclareQueue, Removed, TopologyReply};
use super::policy::Subject;
use super::record::{Part, PartState, QueueKind, QueueRecord, queue_title};
use super::table::{lookup, show, text};
use super::{
    Permission, QueueTarget, Resource, Target, Topology, Vhost, locked, no_vhost, precondition,
    refused,
};
use crate::amqp::value::type_name;
use crate::amqp::{AMQPValue, FieldTable, LongString, ProtocolError, ReplyCode, ShortString};
use crate::base::{QueueId, SetId};

impl Topology {
    pub(super) fn declare_queue(
        &mut self,
        declare: DeclareQueue,
    ) -> Result<TopologyReply, ProtocolError> {
        let vhost = self
            .vhosts
            .get(&declare.vhost)
            .ok_or_else(|| no_vhost(&declare.vhost))?;
        let vhost_name = vhost.name.clone();
        let type_name = effective_type(&declare, &vhost.settings.default_queue_type);
        let kind = QueueKind::from_name(type_name.as_bytes());
        if let Some(kind) = kind.filter(|kind| declare.server_named && *kind != QueueKind::Classic)
        {
            let module = kind.module();
            let text = format!("Cannot declare a server-named queue for type {module}");
            return Err(precondition(text));
        }
        if !declare.server_named && declare.name.starts_with("amq.") {
            let name = &declare.name;
            let text = format!("queue name '{name}' contains reserved prefix 'amq.*'");
            return Err(refused(text));
        }
        let arguments = with_type(&declare.arguments, &type_name);
        if let Some(queue) = self.queue(&declare.vhost, &declare.name) {
            if declare.relaxed
                && queue.kind == QueueKind::Quorum
                && kind == Some(QueueKind::Classic)
            {
                check_like(queue, &declare.arguments)?;
            } else {
                check_same(queue, &declare, &arguments)?;
            }
            return Ok(TopologyReply::Queue {
                record: Box::new(queue.clone()),
                created: false,
            });
        }
        let effective = kind.and_then(|kind| {
            vhost
                .policies
                .effective(Subject::Queue(kind), &declare.name)
        });
        self.check_dead_letter(&declare)?;
        let title = queue_title(&declare.vhost, &declare.name);
        let Some(kind) = kind else {
            let (vhost, name) = (&declare.vhost, &declare.name);
            return Err(unsupported_type(vhost, name, &arguments, &type_name));
        };
        validate(&declare.vhost, &declare.name, kind, &arguments)?;
        check_queue_limit(vhost, &declare.name)?;
        check_properties(&declare, kind, &title)?;
        let local = declare.exclusive || declare.sets.iter().any(|set| set.is_local());
        let known = self
            .nodes
            .get(&declare.node)
            .map_or(0, |node| node.incarnation);
        if local && declare.incarnation < known {
            let text = "the declaring node has been restarted";
            return Err(ProtocolError::new(ReplyCode::InternalError, text));
        }
        let parts = parts_of(&declare);
        let mut record = QueueRecord {
            id: QueueId(self.next_queue),
            vhost: vhost_name,
            name: declare.name,
            durable: declare.durable && !declare.exclusive,
            exclusive: declare.exclusive.then_some(declare.session),
            auto_delete: declare.auto_delete,
            kind,
            arguments,
            parts,
            node: declare.node,
            incarnation: declare.incarnation,
            dead_letter: None,
            effective: None,
        };
        record.set_effective(effective);
        self.next_queue = self.next_queue.saturating_add(1);
        self.insert_queue(record.clone());
        self.changed();
        Ok(TopologyReply::Queue {
            record: Box::new(record),
            created: true,
        })
    }

    fn check_dead_letter(&self, declare: &DeclareQueue) -> Result<(), ProtocolError> {
        const KEY: &str = "x-dead-letter-exchange";
        let Some(value) = lookup(&declare.arguments, KEY) else {
            return Ok(());
        };
        let title = queue_title(&declare.vhost, &declare.name);
        let Some(exchange) = text(value) else {
            let kind = type_name(value);
            return Err(precondition(format!(
                "invalid type '{kind}' for arg '{KEY}' in {title}"
            )));
        };
        let exchange = String::from_utf8_lossy(exchange).into_owned();
        if !declare.user.is_empty() {
            let (user, vhost) = (&declare.user, &declare.vhost);
            let queue = Resource::Queue(&declare.name);
            self.check_permission(user, vhost, queue, Permission::Read)?;
            let target = Resource::Exchange(&exchange);
            self.check_permission(user, vhost, target, Permission::Write)?;
        }
        Ok(())
    }

    pub(super) fn insert_queue(&mut self, record: QueueRecord) {
        if let Some(before) = self.queues.get(&record.id).map(|old| old.parts.clone()) {
            self.unload(&before);
        }
        for part in &record.parts {
            *self.loads.entry(part.set).or_default() += 1;
        }
        if record
            .parts
            .iter()
            .any(|part| part.state == PartState::Draining)
        {
            self.draining.insert(record.id);
        } else {
            self.draining.remove(&record.id);
        }
        let active: Vec<SetId> = record.active_sets().collect();
        if active.len() > 1 {
            self.spread.insert(record.id, active);
        } else {
            self.spread.remove(&record.id);
        }
        let target = QueueTarget {
            queue: record.id,
            set: record.set(),
        };
        if let Some(vhost) = self.vhosts.get_mut(&*record.vhost) {
            vhost.names.insert(record.name.as_bytes().into(), target);
        }
        self.places.insert(record.id, target.set);
        self.queues.insert(record.id, record);
    }

    fn unload(&mut self, parts: &[Part]) {
        for part in parts {
            if let Some(load) = self.loads.get_mut(&part.set) {
                *load = load.saturating_sub(1);
            }
        }
    }

    pub(super) fn remove_queue(&mut self, id: QueueId, removed: &mut Removed) {
        let Some(record) = self.queues.remove(&id) else {
            return;
        };
        self.places.remove(&id);
        self.spread.remove(&id);
        self.draining.remove(&id);
        self.unload(&record.parts);
        if let Some(vhost) = self.vhosts.get_mut(&*record.vhost) {
            vhost.names.remove(record.name.as_bytes());
            vhost.unbind_destination(&Target::Queue(id), &mut removed.exchanges);
        }
        removed.queues.push(record);
        self.changed();
    }
}

fn check_queue_limit(vhost: &Vhost, name: &str) -> Result<(), ProtocolError> {
    let limit = vhost.settings.max_queues.filter(|limit| *limit >= 0);
    let count = i64::try_from(vhost.names.len()).unwrap_or(i64::MAX);
    match limit.filter(|limit| count >= *limit) {
        Some(limit) => Err(precondition(format!(
            "cannot declare queue '{name}': queue limit in vhost '{}' ({limit}) is reached",
            vhost.name
        ))),
        None => Ok(()),
    }
}

fn effective_type(declare: &DeclareQueue, default: &str) -> String {
    if let Some(value) = lookup(&declare.arguments, "x-queue-type") {
        let given = show(value);
        if !given.is_empty() && given != "undefined" {
            return given;
        }
    }
    let replicated = default == "quorum" || default == "stream";
    let plain = declare.durable && !declare.exclusive && !declare.auto_delete;
    if default.is_empty() || replicated && (!plain || declare.server_named) {
        return "classic".to_owned();
    }
    default.to_owned()
}

fn with_type(arguments: &FieldTable, type_name: &str) -> FieldTable {
    let mut arguments = arguments.clone();
    let given = lookup(&arguments, "x-queue-type");
    let keep = given.is_some_and(|value| text(value).is_none());
    if let (false, Ok(key)) = (keep, ShortString::try_new("x-queue-type")) {
        arguments.insert(key, AMQPValue::LongString(LongString::from(type_name)));
    }
    arguments
}

fn check_same(
    queue: &QueueRecord,
    declare: &DeclareQueue,
    arguments: &FieldTable,
) -> Result<(), ProtocolError> {
    let owner = declare.exclusive.then_some(declare.session);
    if queue.exclusive != owner {
        return Err(locked(queue));
    }
    let durable = declare.durable && !declare.exclusive;
    let flags = [
        ("durable", durable, queue.durable),
        ("auto_delete", declare.auto_delete, queue.auto_delete),
    ];
    for (key, received, current) in flags {
        if received != current {
            let (received, current) = (format!("'{received}'"), format!("'{current}'"));
            return Err(inequivalent(key, &queue.title(), &received, &current));
        }
    }
    check_equivalent(queue, arguments)
}

fn check_properties(
    declare: &DeclareQueue,
    kind: QueueKind,
    title: &str,
) -> Result<(), ProtocolError> {
    if kind == QueueKind::Classic {
        return Ok(());
    }
    let flags = [
        ("auto-delete", declare.auto_delete),
        ("exclusive-owner", declare.exclusive),
        ("non-durable", !declare.durable),
    ];
    match flags.iter().find(|(_, bad)| *bad) {
        Some((property, _)) => Err(precondition(format!(
            "invalid property '{property}' for {title}"
        ))),
        None if kind == QueueKind::Stream => check_stream(&declare.arguments),
        None => Ok(()),
    }
}

fn parts_of(declare: &DeclareQueue) -> Vec<Part> {
    let none = [SetId::local(declare.node)];
    let sets = match declare.sets.is_empty() {
        true => &none[..],
        false => &declare.sets[..],
    };
    let part = |set: &SetId| Part {
        set: *set,
        state: PartState::Active,
    };
    sets.iter().map(part).collect()
}
