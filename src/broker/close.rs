//! What a channel or a connection leaves behind, and its end: consumers detached, leases released at once, auto-delete
//! and exclusive queues deleted, all before close-ok goes out.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::base::{ChannelId, QueueId, SetId};
use crate::model::set::{Command, Reply};
use crate::model::topology::TopologyCommand;

use super::clients::Client;
use super::connection::{Connection, Posted, Work};
use super::consume::Kind;
use super::queues::Asker;

impl Connection {
    /// The sets that know a consumer or holder of this channel (or of any).
    fn sets_of(&self, channel: Option<ChannelId>) -> Vec<SetId> {
        let mut sets: Vec<SetId> = self
            .consumers
            .values()
            .filter(|entry| entry.kind != Kind::Replies)
            .filter(|entry| channel.is_none_or(|channel| entry.channel == channel))
            .map(|entry| entry.set)
            .collect();
        sets.sort_unstable();
        sets.dedup();
        sets
    }

    pub(super) fn close_channel(&mut self, channel: ChannelId) {
        self.confirms.forget(channel);
        self.tx_refused.remove(&channel);
        self.tx_routes.remove(&channel);
        let close = Command::CloseSession {
            session: self.id,
            channel: Some(channel.0),
        };
        let answers: Vec<_> = self
            .sets_of(Some(channel))
            .into_iter()
            .filter_map(|set| self.node.cluster.set(set))
            .map(|handle| handle.asking(&close))
            .collect();
        if answers.is_empty() {
            return self.channel_closed(channel);
        }
        let asker = self.asker();
        self.task(async move {
            for answer in answers {
                let Ok(Reply::Closed { deleted }) = answer.answer().await else {
                    continue;
                };
                asker.forget_queues(deleted).await;
            }
            Some(Posted::ChannelClosed(channel))
        });
    }

    /// Nothing of the channel is left: the number may be used again.
    pub(super) fn channel_closed(&mut self, channel: ChannelId) {
        let gone: Vec<_> = self
            .consumers
            .iter()
            .filter(|(_, entry)| entry.channel == channel)
            .map(|(consumer, _)| *consumer)
            .collect();
        for consumer in &gone {
            self.forget_consumer(*consumer);
        }
        self.holders.retain(|(of, ..), _| *of != channel);
        self.work.retain(
            |work| !matches!(work, Work::Deliver(_, delivery, _) if gone.contains(&delivery.consumer)),
        );
        self.node.stats.channels.dec();
        self.node.stats.channels_closed.inc();
        self.forget_channel(channel);
        self.session
            .answer_channel(channel, crate::session::ChannelAnswer::Done);
    }

    /// The session wants everything gone; its close or close-ok goes out after it.
    pub(super) fn close_all(&mut self) {
        let release = self.release();
        self.task(async move {
            release.await;
            Some(Posted::AllClosed)
        });
    }

    /// Sends what ends the session in each set, now; the rest when the returned future is awaited.
    fn release(&mut self) -> impl Future<Output = ()> + Send + 'static {
        let close = Command::CloseSession {
            session: self.id,
            channel: None,
        };
        let answers: Vec<_> = self
            .sets_of(None)
            .into_iter()
            .filter_map(|set| self.node.cluster.set(set))
            .map(|handle| handle.asking(&close))
            .collect();
        let exclusive: Vec<QueueId> = self.exclusive.drain().collect();
        let asker = self.asker();
        async move {
            for answer in answers {
                if let Ok(Reply::Closed { deleted }) = answer.answer().await {
                    asker.forget_queues(deleted).await;
                }
            }
            for queue in exclusive {
                if asker
                    .drop_contents(asker.node.cluster.local(), queue)
                    .await
                    .is_ok()
                {
                    asker.forget_queues(vec![queue]).await;
                }
            }
        }
    }

    /// The socket is gone: requests under way come to their end, then everything is released.
    pub(super) async fn clean_up(mut self) {
        while self.tasks.join_next().await.is_some() {}
        while let Ok(posted) = self.posted_now() {
            if let Posted::Declared {
                exclusive: Some(queue),
                ..
            } = posted
            {
                self.exclusive.insert(queue);
            }
        }
        self.kick();
        self.release().await;
        self.leave();
        self.over = true;
        let node = Arc::clone(&self.node);
        drop(self);
        node.connection_closed();
    }

    /// Nobody on this node knows of it any more.
    fn leave(&mut self) {
        // Those that did not close by themselves, whoever closed the connection.
        let open = |client: &Arc<Client>| client.channels.swap(0, Ordering::Relaxed);
        let channels = self.client.as_ref().map_or(0, open);
        self.node.stats.channels.sub(i64::from(channels));
        self.node.stats.channels_closed.inc_by(u64::from(channels));
        let consumers: Vec<_> = self.consumers.keys().copied().collect();
        for consumer in consumers {
            self.forget_consumer(consumer);
        }
        self.report();
        self.tally.end(&self.node.stats);
        if let Some(client) = self.client.take() {
            self.node.clients.remove(&client);
        }
    }
}

/// A connection whose task panicked: what it held would stay held for as long as the node lives.
impl Drop for Connection {
    fn drop(&mut self) {
        // A node that stops drops what did not end in time.
        if self.over || self.node.supervisor.is_stopping() {
            return;
        }
        tracing::error!(peer = %self.peer, "a connection ended by a fault of the broker");
        let release = self.release();
        self.node.supervisor.spawn("release", release);
        self.leave();
        self.node.connection_closed();
    }
}

impl Asker {
    /// Queues that ended with their last consumer leave the topology too.
    async fn forget_queues(&self, queues: Vec<QueueId>) {
        for id in queues {
            self.node.stats.queues_deleted.inc();
            self.drop_parts(id);
            if let Err(error) = self.change(TopologyCommand::DeleteQueue { id }).await {
                tracing::warn!(queue = %id, %error, "a deleted queue stays in the topology");
            }
        }
    }
}
