//! A request becomes commands: what needs no answer is done at once, the rest in a task of the connection that posts
//! its end back. Checks are in RabbitMQ's order: permission, existence, ownership, rules.

use futures_util::StreamExt;

use crate::amqp::{ProtocolError, ReplyCode};
use crate::base::{ChannelId, QueueId};
use crate::cluster::Refusal;
use crate::model::set::Command;
use crate::model::topology::{
    Bind, DeclareExchange, Destination, QueueRecord, Resource, TopologyCommand, TopologyReply,
};
use crate::session::{self, BindingRequest, ChannelAnswer, ChannelRequest, Request};

use super::connection::{Connection, Posted};
use super::queues::Asker;

/// Deletes of queues that went together, under way at a time.
const DELETES_AT_ONCE: usize = 512;

/// The node stops before the answer came; the connection ends with it.
pub(super) fn stopping() -> ProtocolError {
    let text = "broker forced connection closure with reason 'shutdown'";
    ProtocolError::new(ReplyCode::ConnectionForced, text)
}

impl From<Refusal> for ProtocolError {
    fn from(_: Refusal) -> Self {
        stopping()
    }
}

/// An answer, or the error it becomes.
pub(super) fn answer(result: Result<ChannelAnswer, ProtocolError>) -> ChannelAnswer {
    result.unwrap_or_else(ChannelAnswer::Failed)
}

impl Connection {
    /// Runs a part of a request that must wait, and posts its end.
    pub(super) fn task(&mut self, work: impl Future<Output = Option<Posted>> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        let post = self.post.clone();
        self.tasks.spawn(async move {
            if let Some(posted) = work.await {
                // A connection that ended in the meantime needs no answer.
                drop(post.send(posted));
            }
        });
    }

    /// As [`Self::task`], for a channel's answer.
    pub(super) fn answer_later(
        &mut self,
        channel: ChannelId,
        work: impl Future<Output = Result<ChannelAnswer, ProtocolError>> + Send + 'static,
    ) {
        self.task(async move { Some(Posted::Answer(channel, answer(work.await))) });
    }

    /// Who asks, for what runs apart from the connection.
    pub(super) fn asker(&self) -> Asker {
        Asker {
            node: std::sync::Arc::clone(&self.node),
            session: self.id,
            user: std::sync::Arc::clone(&self.user),
            vhost: std::sync::Arc::clone(&self.vhost),
        }
    }

    /// The one match over requests.
    pub(super) fn handle(&mut self, request: Request) {
        match request {
            Request::Login {
                mechanism,
                credentials,
            } => self.login(mechanism, credentials),
            Request::Open { vhost } => self.open(vhost),
            Request::UpdateSecret { .. } => self.update_secret(),
            Request::CloseConnection => self.close_all(),
            Request::Channel(channel, request) => self.handle_channel(channel, request),
        }
    }

    fn handle_channel(&mut self, channel: ChannelId, request: ChannelRequest) {
        match request {
            ChannelRequest::Publish(publish) => self.publish(channel, &publish),
            ChannelRequest::CheckPublish(publish) => self.check_publish(channel, &publish),
            ChannelRequest::Settle(settlements) => self.settle(settlements),
            ChannelRequest::Open => {
                self.node.stats.channels_opened.inc();
                self.node.stats.channels.inc();
                let answer = match self.count_channel(channel) {
                    Ok(()) => ChannelAnswer::Done,
                    Err(error) => ChannelAnswer::Failed(error),
                };
                self.session.answer_channel(channel, answer);
            }
            ChannelRequest::Close => self.close_channel(channel),
            ChannelRequest::Commit {
                publishes,
                settlements,
            } => {
                self.commit(channel, &publishes, settlements);
            }
            ChannelRequest::LimitChannel { prefetch } => self.limit_channel(channel, prefetch),
            ChannelRequest::Consume(request) => self.consume(channel, &request),
            ChannelRequest::ConsumeReplies { tag } => self.consume_replies(channel, tag),
            ChannelRequest::Cancel { consumer } => self.cancel(channel, consumer),
            ChannelRequest::Get { queue, no_ack } => self.get(channel, &queue, no_ack),
            ChannelRequest::DeclareQueue(request) => self.declare_queue(channel, request),
            ChannelRequest::PurgeQueue { queue } => {
                let asker = self.asker();
                self.answer_later(channel, async move { asker.purge(&queue).await });
            }
            ChannelRequest::DeleteQueue {
                queue,
                if_unused,
                if_empty,
            } => {
                let asker = self.asker();
                let delete = async move { asker.delete_queue(&queue, if_unused, if_empty).await };
                self.answer_later(channel, delete);
            }
            ChannelRequest::DeclareExchange(request) => {
                let asker = self.asker();
                self.answer_later(
                    channel,
                    async move { asker.declare_exchange(request).await },
                );
            }
            ChannelRequest::DeleteExchange {
                exchange,
                if_unused,
            } => {
                let asker = self.asker();
                let delete = async move { asker.delete_exchange(exchange, if_unused).await };
                self.answer_later(channel, delete);
            }
            ChannelRequest::BindQueue(request) => self.bind(channel, request, true, true),
            ChannelRequest::UnbindQueue(request) => self.bind(channel, request, true, false),
            ChannelRequest::BindExchange(request) => self.bind(channel, request, false, true),
            ChannelRequest::UnbindExchange(request) => self.bind(channel, request, false, false),
        }
    }

    fn bind(&mut self, channel: ChannelId, request: BindingRequest, queue: bool, bind: bool) {
        let asker = self.asker();
        self.answer_later(
            channel,
            async move { asker.bind(request, queue, bind).await },
        );
    }

    /// The limit holds per set: a channel that consumes from two sets may hold it twice.
    fn limit_channel(&mut self, channel: ChannelId, prefetch: u16) {
        let limit = Command::LimitChannel {
            session: self.id,
            channel: channel.0,
            limit: u32::from(prefetch),
        };
        let sets: Vec<_> = self.node.cluster.sets().map(|(set, _)| set).collect();
        for set in sets {
            self.push(set, &limit);
        }
        self.session.answer_channel(channel, ChannelAnswer::Done);
    }
}

impl Asker {
    pub(super) async fn declare_exchange(
        &self,
        request: session::DeclareExchange,
    ) -> Result<ChannelAnswer, ProtocolError> {
        let topology = &self.node.cluster.topology;
        if request.passive {
            topology.read(|t| {
                let name = &request.exchange;
                if !name.is_empty() {
                    t.check_any_permission(&self.user, &self.vhost, Resource::Exchange(name))?;
                }
                t.check_exchange_passive(&self.vhost, name).map(drop)
            })?;
            return Ok(ChannelAnswer::Done);
        }
        topology.read(|t| {
            let (name, limit) = (&request.exchange, self.node.options.objects.exchanges);
            t.check_declare_exchange(&self.user, &self.vhost, &request.kind, name)?;
            match limit.filter(|limit| t.exchange_count() >= u64::from(*limit)) {
                Some(limit) if t.check_exchange_passive(&self.vhost, name).is_err() => {
                    let text = format!(
                        "cannot declare exchange '{name}' in vhost '{}': exchange limit of {limit} is reached",
                        self.vhost
                    );
                    Err(ProtocolError::new(ReplyCode::PreconditionFailed, text))
                }
                _ => Ok(()),
            }
        })?;
        let pipe = self.node.cluster.pipe;
        let name = request.exchange.clone();
        let command = TopologyCommand::DeclareExchange(DeclareExchange {
            vhost: self.vhost.to_string(),
            name: request.exchange,
            kind: request.kind,
            durable: request.durable,
            auto_delete: request.auto_delete,
            internal: request.internal,
            arguments: request.arguments,
            user: self.user.to_string(),
            node: pipe.node,
            incarnation: pipe.incarnation,
        });
        self.change(command).await?;
        self.keep_history(&name).await?;
        Ok(ChannelAnswer::Done)
    }

    pub(super) async fn delete_exchange(
        &self,
        name: String,
        if_unused: bool,
    ) -> Result<ChannelAnswer, ProtocolError> {
        self.node
            .cluster
            .topology
            .read(|t| t.check_delete_exchange(&self.user, &self.vhost, &name))?;
        let vhost = self.vhost.to_string();
        self.change(TopologyCommand::DeleteExchange {
            vhost,
            name,
            if_unused,
        })
        .await?;
        Ok(ChannelAnswer::Done)
    }

    pub(super) async fn bind(
        &self,
        request: BindingRequest,
        queue: bool,
        bind: bool,
    ) -> Result<ChannelAnswer, ProtocolError> {
        let destination = if queue {
            Destination::Queue(request.destination)
        } else {
            Destination::Exchange(request.destination)
        };
        let command = Bind {
            vhost: self.vhost.to_string(),
            source: request.source,
            destination,
            routing_key: request.routing_key,
            arguments: request.arguments,
            session: self.session,
        };
        let topology = &self.node.cluster.topology;
        topology.read(|t| t.check_bind(&self.user, &command))?;
        self.change_binding(command, bind).await?;
        Ok(ChannelAnswer::Done)
    }

    /// Changes the topology, and drops the contents of queues that went with the change.
    pub(super) async fn change(
        &self,
        command: TopologyCommand,
    ) -> Result<TopologyReply, ProtocolError> {
        let reply = self.node.cluster.ask_topology(&command).await?;
        match reply {
            TopologyReply::Failed(error) => Err(error),
            TopologyReply::Removed(removed) => {
                self.drop_histories(&removed).await?;
                self.drop_all_contents(&removed.queues).await?;
                Ok(TopologyReply::Removed(removed))
            }
            reply => Ok(reply),
        }
    }

    /// What queues held that are gone from the topology, wherever parts of them are. Many deletes are under way at a time, so
    /// that they go in few entries: one after the other, each would wait for the disk.
    async fn drop_all_contents(&self, gone: &[QueueRecord]) -> Result<(), Refusal> {
        let mut parts = Vec::new();
        for record in gone {
            let local = record.parts.is_empty().then(|| record.set());
            let sets = record.sets().chain(local);
            parts.extend(sets.map(|set| (set, record.id)));
        }
        let deletes = futures_util::stream::iter(parts);
        let mut deletes = deletes
            .map(|(set, queue)| self.drop_contents(set, queue))
            .buffered(DELETES_AT_ONCE);
        while let Some(done) = deletes.next().await {
            done?;
        }
        Ok(())
    }

    pub(super) async fn drop_contents(
        &self,
        set: crate::base::SetId,
        queue: QueueId,
    ) -> Result<(), Refusal> {
        if let Some(handle) = self.node.cluster.set(set) {
            let delete = Command::Delete {
                queue,
                if_unused: false,
                if_empty: false,
            };
            handle.ask(&delete).await?;
        }
        Ok(())
    }
}
