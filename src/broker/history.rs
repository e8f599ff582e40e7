//! x-recent-history: an exchange whose last messages go to whatever is bound to it later, oldest first.
//!
//! Need: the history is as safe as the exchange, and the same on every node. Shape: a classic queue of its own, with a
//! length limit, made and deleted with the exchange; routing adds it to where a message goes ([`crate::model::route`]). A
//! new binding looks at the queue and publishes what it finds. Limits: a message published while a binding is made may
//! come both ways; readers of one node take turns.

use std::sync::Arc;

use crate::amqp::{AMQPValue, FieldTable, LongString, ProtocolError};
use crate::cluster::Mailbox;
use crate::model::batch::{MessageFlags, MessageParts, PublishOptions};
use crate::model::route::{QueueTarget, RouteInput};
use crate::model::topology::{
    Bind, DeclareQueue, Destination, ExchangeKind, Removed, TopologyCommand, TopologyReply,
    history_queue,
};

use super::direct::{Direct, Got};
use super::queues::Asker;
use super::routes::by_set;

impl Asker {
    /// An exchange was declared: one that keeps a history gets its queue.
    pub(super) async fn keep_history(&self, exchange: &str) -> Result<(), ProtocolError> {
        let cluster = &self.node.cluster;
        let found = cluster.topology.read(|topology| {
            let exchange = topology.exchange(&self.vhost, exchange)?;
            let (name, length) = exchange.history()?;
            let missing = topology.queue(&self.vhost, &name).is_none();
            missing.then_some((name, length, exchange.durable))
        });
        let Some((name, length, durable)) = found else {
            return Ok(());
        };
        let mut arguments = FieldTable::default();
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(length));
        let classic = AMQPValue::LongString(LongString::from("classic"));
        arguments.insert("x-queue-type".into(), classic);
        let sets = match durable {
            true => cluster.place(1),
            false => vec![cluster.local()],
        };
        let declare = TopologyCommand::DeclareQueue(DeclareQueue {
            vhost: self.vhost.to_string(),
            name,
            relaxed: false,
            // No client may take such a name.
            server_named: true,
            durable,
            exclusive: false,
            auto_delete: false,
            arguments,
            session: self.session,
            node: cluster.pipe.node,
            incarnation: cluster.pipe.incarnation,
            sets,
            user: String::new(),
        });
        if let TopologyReply::Queue { record, created } = self.change(declare).await?
            && created
        {
            self.create(&record).await?;
        }
        Ok(())
    }

    /// Exchanges have gone: so do the queues of their histories.
    pub(super) async fn drop_histories(&self, removed: &Removed) -> Result<(), ProtocolError> {
        for gone in &removed.exchanges {
            let name = history_queue(&gone.name);
            let topology = &self.node.cluster.topology;
            let record = topology.read(|topology| topology.queue(&gone.vhost, &name).cloned());
            let Some(record) = record else { continue };
            let delete = TopologyCommand::DeleteQueue { id: record.id };
            self.node.cluster.ask_topology(&delete).await?;
            self.drop_contents(record.set(), record.id).await?;
        }
        Ok(())
    }

    /// Binds or unbinds; a new binding of an exchange with a history gets that first.
    pub(super) async fn change_binding(
        &self,
        binding: Bind,
        bind: bool,
    ) -> Result<(), ProtocolError> {
        if !bind {
            return self
                .change(TopologyCommand::Unbind(binding))
                .await
                .map(drop);
        }
        let topology = &self.node.cluster.topology;
        let new = topology.read(|topology| {
            let source = topology.exchange(&self.vhost, &binding.source);
            let keeps = source.is_some_and(|source| source.kind == ExchangeKind::RecentHistory);
            keeps && !topology.is_bound(&binding)
        });
        let (source, destination) = (binding.source.clone(), binding.destination.clone());
        self.change(TopologyCommand::Bind(binding)).await?;
        if new {
            self.replay(&source, &destination).await?;
        }
        Ok(())
    }

    /// Publishes an exchange's history to what was bound to it.
    async fn replay(&self, source: &str, destination: &Destination) -> Result<(), ProtocolError> {
        let topology = &self.node.cluster.topology;
        let found = topology.read(|topology| {
            let (name, length) = topology.exchange(&self.vhost, source)?.history()?;
            Some((topology.queue(&self.vhost, &name)?.clone(), length))
        });
        let Some((history, length)) = found else {
            return Ok(());
        };
        let direct = Direct::new(&self.node, &self.user, &self.vhost);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let turn = self.node.histories.lock().await;
        let messages = direct.look(&history, length).await?;
        drop(turn);
        let mailbox: Arc<Mailbox> = Arc::default();
        for message in messages {
            let targets = self.targets(destination, &message);
            for (set, queues) in by_set(&targets) {
                let handle = self.set(set)?;
                let parts = MessageParts {
                    flags: MessageFlags::default(),
                    exchange: &message.exchange,
                    routing_key: &message.routing_key,
                    blind_keys: &[],
                    properties: &message.properties.0,
                    body: std::slice::from_ref(&message.body),
                };
                let options = PublishOptions {
                    ttl: None,
                    priority: message.properties.priority(),
                    delay: None,
                };
                handle.publish(&mailbox, &queues, options, &parts);
                handle.kick();
            }
        }
        Ok(())
    }

    fn targets(&self, destination: &Destination, message: &Got) -> Vec<QueueTarget> {
        let mut targets = Vec::new();
        self.node
            .cluster
            .topology
            .read(|topology| match destination {
                Destination::Queue(name) => {
                    let record = topology.queue(&self.vhost, name);
                    targets.extend(record.map(|record| QueueTarget {
                        queue: record.id,
                        set: record.set(),
                    }));
                }
                Destination::Exchange(name) => {
                    let keys: [&[u8]; 1] = [&message.routing_key];
                    let input = RouteInput {
                        vhost: &self.vhost,
                        exchange: name.as_bytes(),
                        keys: &keys,
                        properties: &message.properties,
                        dice: rand::random(),
                    };
                    // One that went in the meantime takes nothing.
                    if topology.route(&input, &mut targets).is_err() {
                        targets.clear();
                    }
                }
            });
        targets
    }
}
