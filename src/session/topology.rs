//! The exchange and queue classes: names cleaned, the empty queue name resolved, and on to the broker.

use amq_protocol::protocol::exchange::{self, AMQPMethod as Exchange};
use amq_protocol::protocol::queue::{self, AMQPMethod as Queue};

use super::channel::{Channel, Then, unimplemented};
use super::core::{Core, IntoClass, error};
use super::{BindingRequest, ChannelRequest, DeclareExchange, DeclareQueue};
use crate::amqp::{AMQPClass, ProtocolError, ReplyCode, ShortString};

/// CR and LF vanish from names without a word (§7).
fn clean(name: ShortString) -> String {
    let mut name = String::from(name);
    name.retain(|c| !matches!(c, '\r' | '\n'));
    name
}

fn reply(no_wait: bool, ok: impl IntoClass) -> Then {
    Then::Reply((!no_wait).then(|| ok.class()))
}

impl Channel {
    /// A queue named in a method: the channel's last declared one if the name is empty (§6.1).
    pub(super) fn named_queue(&self, name: String) -> Result<String, ProtocolError> {
        if !name.is_empty() {
            return Ok(name);
        }
        self.last_queue
            .clone()
            .ok_or_else(|| error(ReplyCode::NotFound, "no previously declared queue"))
    }

    pub(super) fn exchange(
        &mut self,
        core: &mut Core,
        method: Exchange,
        ids: (u16, u16),
    ) -> Result<(), ProtocolError> {
        let (request, then) = match method {
            Exchange::Declare(m) => (
                ChannelRequest::DeclareExchange(DeclareExchange {
                    exchange: clean(m.exchange),
                    kind: m.kind.into(),
                    passive: m.passive,
                    durable: m.durable,
                    auto_delete: m.auto_delete,
                    internal: m.internal,
                    arguments: m.arguments,
                }),
                reply(m.nowait, Exchange::DeclareOk(exchange::DeclareOk {})),
            ),
            Exchange::Delete(m) => (
                ChannelRequest::DeleteExchange {
                    exchange: clean(m.exchange),
                    if_unused: m.if_unused,
                },
                reply(m.nowait, Exchange::DeleteOk(exchange::DeleteOk {})),
            ),
            Exchange::Bind(m) => (
                ChannelRequest::BindExchange(BindingRequest {
                    source: clean(m.source),
                    destination: clean(m.destination),
                    routing_key: m.routing_key.into(),
                    arguments: m.arguments,
                }),
                reply(m.nowait, Exchange::BindOk(exchange::BindOk {})),
            ),
            Exchange::Unbind(m) => (
                ChannelRequest::UnbindExchange(BindingRequest {
                    source: clean(m.source),
                    destination: clean(m.destination),
                    routing_key: m.routing_key.into(),
                    arguments: m.arguments,
                }),
                reply(m.nowait, Exchange::UnbindOk(exchange::UnbindOk {})),
            ),
            Exchange::DeclareOk(_)
            | Exchange::DeleteOk(_)
            | Exchange::BindOk(_)
            | Exchange::UnbindOk(_) => return Err(unimplemented()),
        };
        self.ask(core, request, then, ids);
        Ok(())
    }

    pub(super) fn queue(
        &mut self,
        core: &mut Core,
        method: Queue,
        ids: (u16, u16),
    ) -> Result<(), ProtocolError> {
        let (request, then) = match method {
            Queue::Declare(m) => (
                ChannelRequest::DeclareQueue(DeclareQueue {
                    queue: clean(m.queue),
                    passive: m.passive,
                    durable: m.durable,
                    exclusive: m.exclusive,
                    auto_delete: m.auto_delete,
                    arguments: m.arguments,
                }),
                Then::DeclareQueue { no_wait: m.nowait },
            ),
            Queue::Bind(m) => (
                ChannelRequest::BindQueue(self.binding(
                    m.queue,
                    m.exchange,
                    m.routing_key,
                    m.arguments,
                )?),
                reply(m.nowait, Queue::BindOk(queue::BindOk {})),
            ),
            Queue::Unbind(m) => (
                ChannelRequest::UnbindQueue(self.binding(
                    m.queue,
                    m.exchange,
                    m.routing_key,
                    m.arguments,
                )?),
                Then::Reply(Some(AMQPClass::Queue(Queue::UnbindOk(queue::UnbindOk {})))),
            ),
            Queue::Purge(m) => (
                ChannelRequest::PurgeQueue {
                    queue: self.named_queue(m.queue.into())?,
                },
                Then::Purge { no_wait: m.nowait },
            ),
            Queue::Delete(m) => (
                ChannelRequest::DeleteQueue {
                    queue: self.named_queue(clean(m.queue))?,
                    if_unused: m.if_unused,
                    if_empty: m.if_empty,
                },
                Then::Delete {
                    no_wait: m.nowait,
                    cancels: Vec::new(),
                },
            ),
            Queue::DeclareOk(_)
            | Queue::BindOk(_)
            | Queue::UnbindOk(_)
            | Queue::PurgeOk(_)
            | Queue::DeleteOk(_) => return Err(unimplemented()),
        };
        self.ask(core, request, then, ids);
        Ok(())
    }

    /// With queue and key both empty the key is the queue's name too; with a queue named, an empty key stays empty.
    fn binding(
        &self,
        queue: ShortString,
        exchange: ShortString,
        routing_key: ShortString,
        arguments: crate::amqp::FieldTable,
    ) -> Result<BindingRequest, ProtocolError> {
        let queue = clean(queue);
        let shortcut = queue.is_empty();
        let destination = self.named_queue(queue)?;
        let mut routing_key = String::from(routing_key);
        if shortcut && routing_key.is_empty() {
            routing_key.clone_from(&destination);
        }
        Ok(BindingRequest {
            source: clean(exchange),
            destination,
            routing_key,
            arguments,
        })
    }
}
