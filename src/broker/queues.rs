//! Queue methods: declare, delete, purge, consume, cancel. Two steps where both worlds change: the topology says
//! what exists, the set holds what is in it. A crash between the two is mended when the node starts.

use std::sync::Arc;

use crate::amqp::{FieldTable, ProtocolError, ReplyCode};
use crate::base::limits::WINDOW_MESSAGES;
use crate::base::{ChannelId, ConsumerId, QueueId, SessionId, SetId};
use crate::cluster::SetHandle;
use crate::model::set::{Command, ConsumerConfig, Credit, Reply};
use crate::model::topology::{
    ConsumerArguments, DeclareQueue, Permission, QueueKind, QueueRecord, Resource, TopologyCommand,
    TopologyReply, check_owner,
};
use crate::session::{self, ChannelAnswer, ConsumeRequest};

use super::connection::{Connection, Posted};
use super::consume::{Consumer, Kind};
use super::node::{Node, random_name};
use super::parts::share;
use super::replies::Replies;
use super::requests::stopping;
use super::stream::{check_consume, no_stream};

const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// Who asks.
#[derive(Clone)]
pub(super) struct Asker {
    pub node: Arc<Node>,
    pub session: SessionId,
    pub user: Arc<str>,
    pub vhost: Arc<str>,
}

pub(super) fn soft(code: ReplyCode, text: String) -> ProtocolError {
    ProtocolError::new(code, text)
}

pub(super) fn no_queue(queue: &str, vhost: &str) -> ProtocolError {
    soft(
        ReplyCode::NotFound,
        format!("no queue '{queue}' in vhost '{vhost}'"),
    )
}

pub(super) fn count(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

impl Asker {
    pub(super) fn set(&self, set: SetId) -> Result<&SetHandle, ProtocolError> {
        self.node.cluster.set(set).ok_or_else(stopping)
    }

    /// The queue, if the user may do this to it and no other connection owns it.
    pub(super) fn find(
        &self,
        queue: &str,
        permission: Permission,
    ) -> Result<QueueRecord, ProtocolError> {
        self.node.cluster.topology.read(|topology| {
            let resource = Resource::Queue(queue);
            topology.check_permission(&self.user, &self.vhost, resource, permission)?;
            let record = topology
                .queue(&self.vhost, queue)
                .ok_or_else(|| no_queue(queue, &self.vhost))?;
            check_owner(record, self.session)?;
            Ok(record.clone())
        })
    }

    /// queue.declare; the record if it is this connection's own.
    async fn declare(
        &self,
        request: session::DeclareQueue,
    ) -> Result<(ChannelAnswer, Option<crate::base::QueueId>), ProtocolError> {
        if request.queue.starts_with(REPLY_TO) {
            return Ok((self.declare_reply_to(request.queue)?, None));
        }
        if request.passive {
            let record = self.node.cluster.topology.read(|topology| {
                let (vhost, queue) = (&self.vhost, &request.queue);
                topology.check_any_permission(&self.user, vhost, Resource::Queue(queue))?;
                topology
                    .check_queue_passive(vhost, queue, self.session)
                    .cloned()
            })?;
            return Ok((self.counts(&record).await?, None));
        }
        let (record, created) = self.declare_record(request).await?;
        let own = record.exclusive.map(|_| record.id);
        if !created {
            return Ok((self.counts(&record).await?, own));
        }
        self.node.stats.queues_created.inc();
        self.create(&record).await?;
        Ok((
            ChannelAnswer::QueueDeclared {
                queue: record.name,
                messages: 0,
                consumers: 0,
            },
            own,
        ))
    }

    pub(super) async fn create(&self, record: &QueueRecord) -> Result<(), ProtocolError> {
        let (queue, defaults) = (record.id, &self.node.options.queue_defaults);
        let config = Box::new(record.config(defaults));
        let create = Command::Create {
            queue,
            config: config.clone(),
        };
        self.ask_parts(record, &create).await?;
        // Policies that changed in between found no queue to tell.
        let now = self.node.cluster.topology.read(|topology| {
            let record = topology.queue_by_id(queue)?;
            Some(Box::new(record.config(defaults)))
        });
        if let Some(now) = now.filter(|now| *now != config) {
            let configure = Command::Configure { queue, config: now };
            self.ask_parts(record, &configure).await?;
        }
        Ok(())
    }

    pub(super) async fn declare_record(
        &self,
        request: session::DeclareQueue,
    ) -> Result<(QueueRecord, bool), ProtocolError> {
        let server_named = request.queue.is_empty();
        let name = if server_named {
            format!("amq.gen-{}", random_name())
        } else {
            request.queue
        };
        self.node.cluster.topology.read(|topology| {
            let resource = Resource::Queue(&name);
            topology.check_permission(&self.user, &self.vhost, resource, Permission::Configure)?;
            let limit = self.node.options.objects.queues;
            match limit.filter(|limit| topology.queue_count() >= u64::from(*limit)) {
                Some(limit) if topology.queue(&self.vhost, &name).is_none() => {
                    let text = format!(
                        "cannot declare queue '{name}': queue limit in cluster ({limit}) is reached"
                    );
                    Err(soft(ReplyCode::PreconditionFailed, text))
                }
                _ => Ok(()),
            }
        })?;
        let cluster = &self.node.cluster;
        let transient = request.exclusive || !request.durable;
        let sets = if transient {
            vec![cluster.local()]
        } else {
            cluster.place(QueueRecord::wanted_parts(&request.arguments))
        };
        let command = TopologyCommand::DeclareQueue(DeclareQueue {
            vhost: self.vhost.to_string(),
            name,
            relaxed: self.node.options.objects.relaxed_redeclaration,
            server_named,
            durable: request.durable,
            exclusive: request.exclusive,
            auto_delete: request.auto_delete,
            arguments: request.arguments,
            session: self.session,
            node: cluster.pipe.node,
            incarnation: cluster.pipe.incarnation,
            sets,
            user: self.user.to_string(),
        });
        self.node.stats.queues_declared.inc();
        match self.change(command).await? {
            TopologyReply::Queue { record, created } => Ok((*record, created)),
            _ => Err(soft(ReplyCode::InternalError, String::new())),
        }
    }

    /// The pseudo-queue of direct reply-to only answers whether somebody waits.
    fn declare_reply_to(&self, queue: String) -> Result<ChannelAnswer, ProtocolError> {
        // Of a requester elsewhere only its node is known.
        let elsewhere = Replies::node_of(queue.as_bytes()).is_some_and(|at| self.node.is_other(at));
        let here = || self.node.replies.is_open(&self.vhost, queue.as_bytes());
        let alive = queue == REPLY_TO || elsewhere || here();
        if alive {
            Ok(ChannelAnswer::QueueDeclared {
                queue,
                messages: 0,
                consumers: 1,
            })
        } else {
            Err(no_queue(&queue, &self.vhost))
        }
    }

    async fn counts(&self, record: &QueueRecord) -> Result<ChannelAnswer, ProtocolError> {
        let inspect = Command::Inspect {
            queue: record.id,
            touch: true,
        };
        let replies = self.ask_parts(record, &inspect).await?;
        if replies.iter().all(|reply| *reply == Reply::NoQueue) {
            // A declare that lost its connection between its two steps: the second is made up for here.
            self.create(record).await?;
        }
        let (mut messages, mut consumers) = (0, 0);
        for reply in replies {
            if let Reply::Counts {
                ready,
                consumers: attached,
                ..
            } = reply
            {
                messages += ready;
                // A consumer is attached to every part.
                consumers = attached.max(consumers);
            }
        }
        if record.kind == QueueKind::Stream {
            consumers = 0;
        }
        let messages = count(messages);
        Ok(ChannelAnswer::QueueDeclared {
            queue: record.name.clone(),
            messages,
            consumers,
        })
    }

    /// queue.purge.
    pub async fn purge(&self, queue: &str) -> Result<ChannelAnswer, ProtocolError> {
        let record = self.find(queue, Permission::Read)?;
        no_stream(&record, "queue.purge")?;
        let purge = Command::Purge { queue: record.id };
        let replies = self.ask_parts(&record, &purge).await?;
        let counts = replies.iter().filter_map(|reply| match reply {
            Reply::Count(messages) => Some(*messages),
            _ => None,
        });
        match counts.reduce(|all, one| all + one) {
            Some(messages) => Ok(ChannelAnswer::Count(count(messages))),
            None => Err(no_queue(queue, &self.vhost)),
        }
    }

    /// queue.delete. A missing queue is success.
    pub async fn delete_queue(
        &self,
        queue: &str,
        if_unused: bool,
        if_empty: bool,
    ) -> Result<ChannelAnswer, ProtocolError> {
        let record = match self.find(queue, Permission::Configure) {
            Ok(record) => record,
            Err(error) if error.code == ReplyCode::NotFound => return Ok(ChannelAnswer::Count(0)),
            Err(error) => return Err(error),
        };
        if record.kind == QueueKind::Quorum && (if_unused || if_empty) {
            let flag = if if_unused { "if-unused" } else { "if-empty" };
            let text = format!(
                "cannot delete {}. queue.delete operations with {flag} flag set are not supported by quorum queues",
                record.title()
            );
            return Err(soft(ReplyCode::NotImplemented, text));
        }
        // A stream goes whatever is in it and whoever reads it.
        let asks = record.kind != QueueKind::Stream;
        let (if_unused, if_empty) = (if_unused && asks, if_empty && asks);
        let messages = match self.delete_parts(&record, if_unused, if_empty).await? {
            Reply::Count(messages) => messages,
            Reply::InUse => {
                let text = format!("{} in use", record.title());
                return Err(soft(ReplyCode::PreconditionFailed, text));
            }
            Reply::NotEmpty => {
                let text = format!("{} not empty", record.title());
                return Err(soft(ReplyCode::PreconditionFailed, text));
            }
            _ => 0,
        };
        self.node.stats.queues_deleted.inc();
        self.change(TopologyCommand::DeleteQueue { id: record.id })
            .await?;
        Ok(ChannelAnswer::Count(count(messages)))
    }
}

impl Connection {
    pub(super) fn declare_queue(&mut self, channel: ChannelId, request: session::DeclareQueue) {
        let asker = self.asker();
        self.task(async move {
            let (answer, exclusive) = match asker.declare(request).await {
                Ok((answer, exclusive)) => (answer, exclusive),
                Err(error) => (ChannelAnswer::Failed(error), None),
            };
            Some(Posted::Declared {
                channel,
                answer,
                exclusive,
            })
        });
    }

    /// A holder of leases on a queue, known to the registry and to this connection.
    pub(super) fn add_consumer(
        &mut self,
        channel: ChannelId,
        record: &QueueRecord,
        set: SetId,
        kind: Kind,
    ) -> ConsumerId {
        let consumer = self.node.cluster.registry.consumer(&self.mailbox);
        let parts = match kind {
            Kind::Opening => vec![(set, consumer)],
            _ => Vec::new(),
        };
        let entry = Consumer {
            channel,
            set,
            kind,
            queue: record.id,
            main: consumer,
            parts,
            config: None,
            no_ack: false,
            counts: record.kind == QueueKind::Quorum,
            stream: record.kind == QueueKind::Stream,
            filter: None,
            window: false,
            sent: 0,
            sent_bytes: 0,
            prefetch: 0,
            arguments: FieldTable::default(),
            unsettled: 0,
            next_no: 1,
            since: 0,
            leaving: false,
            early: Vec::new(),
        };
        self.consumers.insert(consumer, entry);
        consumer
    }

    pub(super) fn consume(&mut self, channel: ChannelId, request: &ConsumeRequest) {
        let checked = self
            .asker()
            .find(&request.queue, Permission::Read)
            .and_then(|record| {
                let arguments = ConsumerArguments::parse(&record, &request.arguments)?;
                check_consume(&record, request)?;
                Ok((record, arguments))
            });
        let (record, arguments) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                return self
                    .session
                    .answer_channel(channel, ChannelAnswer::Failed(error));
            }
        };
        let consumer = self.add_consumer(channel, &record, record.set(), Kind::Opening);
        self.node.stats.consumers.inc();
        let window = request.no_ack || request.prefetch == 0;
        if let Some(entry) = self.consumers.get_mut(&consumer) {
            entry.no_ack = request.no_ack;
            entry.window = window;
            entry.prefetch = u32::from(request.prefetch);
            entry.arguments = request.arguments.clone();
            entry.filter = arguments.filter.map(Arc::new);
        }
        let config = ConsumerConfig {
            session: self.id,
            channel: channel.0,
            no_ack: request.no_ack,
            // A set in memory gives its entries along with deliveries.
            until_sent: request.no_ack && !record.set().is_local(),
            exclusive: request.exclusive && record.kind == QueueKind::Classic,
            priority: arguments.priority,
            credit: if window {
                Credit::Window(WINDOW_MESSAGES)
            } else {
                Credit::Prefetch(share(request.prefetch, record.active_sets().count()))
            },
            visibility: arguments.visibility,
            start: arguments.start,
            overdue: arguments.overdue,
        };
        if let Some(entry) = self.consumers.get_mut(&consumer) {
            entry.config = Some(config);
        }
        let tag = if request.tag.is_empty() {
            format!("amq.ctag-{}", random_name())
        } else {
            request.tag.clone()
        };
        let (set, no_ack) = (record.set(), request.no_ack);
        let Some(handle) = self.node.cluster.set(set) else {
            return;
        };
        let reply = handle.asking(&Command::Subscribe {
            consumer,
            queue: record.id,
            config,
        });
        self.task(async move {
            let answer = match reply.answer().await {
                Ok(Reply::Subscribed) => ChannelAnswer::Consuming {
                    consumer,
                    tag,
                    no_ack,
                    token: None,
                },
                Ok(Reply::ExclusiveUse) => {
                    let text = format!("{} in exclusive use", record.title());
                    ChannelAnswer::Failed(soft(ReplyCode::AccessRefused, text))
                }
                Ok(_) => ChannelAnswer::Failed(no_queue(&record.name, &record.vhost)),
                Err(_) => ChannelAnswer::Failed(stopping()),
            };
            Some(Posted::Consuming {
                channel,
                consumer,
                answer,
            })
        });
    }

    pub(super) fn consume_replies(&mut self, channel: ChannelId, tag: String) {
        let consumer = self.node.cluster.registry.consumer(&self.mailbox);
        let entry = Consumer {
            channel,
            set: self.node.cluster.local(),
            kind: Kind::Replies,
            queue: QueueId(0),
            main: consumer,
            parts: Vec::new(),
            config: None,
            no_ack: true,
            counts: false,
            stream: false,
            filter: None,
            window: false,
            sent: 0,
            sent_bytes: 0,
            prefetch: 0,
            arguments: FieldTable::default(),
            unsettled: 0,
            next_no: 1,
            since: 0,
            leaving: false,
            early: Vec::new(),
        };
        self.consumers.insert(consumer, entry);
        self.node.stats.consumers.inc();
        self.node.expect_replies();
        let token = self.node.replies.open(
            self.node.cluster.node(),
            &self.vhost,
            channel,
            consumer,
            self.post.clone(),
            Arc::clone(&self.reply_bytes),
        );
        self.reply_tokens.insert(consumer, token.clone());
        let tag = if tag.is_empty() {
            format!("amq.ctag-{}", random_name())
        } else {
            tag
        };
        let token = Some(token);
        let answer = ChannelAnswer::Consuming {
            consumer,
            tag,
            no_ack: true,
            token,
        };
        self.session.answer_channel(channel, answer);
    }

    pub(super) fn cancel(&mut self, channel: ChannelId, consumer: ConsumerId) {
        let known = self
            .consumers
            .get(&consumer)
            .filter(|entry| entry.kind != Kind::Replies);
        let parts = known.map(|entry| entry.parts.clone());
        let Some(parts) = parts.filter(|parts| !parts.is_empty()) else {
            self.forget_consumer(consumer);
            return self.session.answer_channel(channel, ChannelAnswer::Done);
        };
        for (_, part) in &parts {
            if let Some(entry) = self.consumers.get_mut(part) {
                entry.leaving = true;
            }
        }
        let replies: Vec<_> = parts
            .into_iter()
            .filter_map(|(set, consumer)| {
                let handle = self.node.cluster.set(set)?;
                Some(handle.asking(&Command::Unsubscribe { consumer }))
            })
            .collect();
        let asker = self.asker();
        self.task(async move {
            let mut gone = None;
            for reply in replies {
                if let Ok(Reply::Unsubscribed { deleted }) = reply.answer().await {
                    gone = gone.or(deleted);
                }
            }
            if let Some(queue) = gone {
                asker.drop_parts(queue);
                let delete = TopologyCommand::DeleteQueue { id: queue };
                if let Err(error) = asker.change(delete).await {
                    return Some(Posted::Answer(channel, ChannelAnswer::Failed(error)));
                }
            }
            Some(Posted::Unsubscribed { channel, consumer })
        });
    }
}
