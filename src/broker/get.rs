//! basic.get: asks the parts of a queue in turn, and reads what was got.

use crate::amqp::{ProtocolError, ReplyCode};
use crate::base::{ChannelId, ConsumerId, SetId};
use crate::cluster::SetHandle;
use crate::model::batch;
use crate::model::set::{Command, Reply};
use crate::model::topology::{Permission, QueueKind, QueueRecord};
use crate::session::{ChannelAnswer, Lease};

use super::connection::{Connection, Posted};
use super::consume::Kind;
use super::deliver::with_counts;
use super::queues::{Asker, count, no_queue, soft};
use super::requests::{answer, stopping};
use super::stats::QueueType;
use super::stream::no_stream;

impl Connection {
    pub(super) fn get(&mut self, channel: ChannelId, queue: &str, no_ack: bool) {
        let found = self.asker().find(queue, Permission::Read);
        let found = found.and_then(|record| {
            no_stream(&record, "basic.get")?;
            Ok(record)
        });
        let record = match found {
            Ok(record) => record,
            Err(error) => {
                return self
                    .session
                    .answer_channel(channel, ChannelAnswer::Failed(error));
            }
        };
        if record.kind == QueueKind::Quorum
            && record
                .config(&self.node.options.queue_defaults)
                .single_active
        {
            let text = format!(
                "cannot obtain access to locked {}. basic.get operations are not supported by quorum queues with single active consumer",
                record.title()
            );
            let error = soft(ReplyCode::ResourceLocked, text);
            return self
                .session
                .answer_channel(channel, ChannelAnswer::Failed(error));
        }
        // Whichever part is asked first is drained first.
        self.rotation += 1;
        let mut sets: Vec<SetId> = record.sets().collect();
        let turn = self.rotation as usize % sets.len().max(1);
        sets.rotate_left(turn);
        let mut asks = Vec::new();
        for set in sets {
            let Some(handle) = self.node.cluster.set(set).cloned() else {
                continue;
            };
            let holder = self.holder(channel, &record, set);
            let (session, queue) = (self.id, record.id);
            let get = Command::Get {
                queue,
                holder,
                session,
                channel: channel.0,
                no_ack,
            };
            asks.push((handle, get));
        }
        // Sent before anything else of this channel; further parts only if the first has nothing.
        let first = asks.first().map(|(handle, get)| handle.asking(get));
        let asker = self.asker();
        let queue = record.id;
        self.task(async move {
            let mut reply = match first {
                // Without acks a second one would take a second message.
                Some(first) if no_ack => first.answer_once().await.ok(),
                Some(first) => first.answer().await.ok(),
                None => None,
            };
            let mut from = asks.first().map(|(handle, _)| handle.clone());
            for (handle, get) in asks.iter().skip(1) {
                if reply != Some(Reply::GotNothing) {
                    break;
                }
                let next = handle.asking(get);
                reply = match no_ack {
                    true => next.answer_once().await.ok(),
                    false => next.answer().await.ok(),
                };
                from = Some(handle.clone());
            }
            let got = match from {
                Some(handle) => asker.got(reply, &handle, &record, no_ack).await,
                None => Err(stopping()),
            };
            Some(Posted::Got(channel, queue, answer(got)))
        });
    }

    fn holder(&mut self, channel: ChannelId, record: &QueueRecord, set: SetId) -> ConsumerId {
        let key = (channel, record.id, set);
        if let Some(holder) = self.holders.get(&key) {
            return *holder;
        }
        let holder = self.add_consumer(channel, record, set, Kind::Holder);
        self.holders.insert(key, holder);
        holder
    }
}

impl Asker {
    pub(super) async fn got(
        &self,
        reply: Option<Reply>,
        handle: &SetHandle,
        record: &QueueRecord,
        no_ack: bool,
    ) -> Result<ChannelAnswer, ProtocolError> {
        let stats = &self.node.stats;
        let (delivery, ready) = match reply {
            Some(Reply::Got { delivery, ready }) => (delivery, ready),
            Some(Reply::GotNothing) => {
                stats.get_empty.add(QueueType::of(record.kind), 1);
                return Ok(ChannelAnswer::GotNothing);
            }
            Some(_) => return Err(no_queue(&record.name, &record.vhost)),
            None => return Err(stopping()),
        };
        let position = delivery.first;
        let unreadable = |error: &dyn std::fmt::Display| {
            tracing::error!(?position, %error, "a message cannot be read");
            stats.unreadable.inc();
            let text = format!("failed to read a message of {}", record.title());
            soft(ReplyCode::InternalError, text)
        };
        let payload = handle
            .load(position)
            .await
            .map_err(|error| unreadable(&error))?;
        let message =
            batch::message(&payload, position.slot()).map_err(|error| unreadable(&error))?;
        stats.got(QueueType::of(record.kind), no_ack, delivery.redelivered);
        let counts = record.kind == QueueKind::Quorum;
        let properties = crate::amqp::RawProperties(with_counts(&message, counts, &delivery));
        let lease = Lease {
            consumer: delivery.consumer,
            no: delivery.first_no,
        };
        Ok(ChannelAnswer::Got {
            lease: (!no_ack).then_some(lease),
            redelivered: delivery.redelivered,
            exchange: message.exchange,
            routing_key: message.routing_key,
            properties,
            body: message.body,
            messages: count(ready),
        })
    }
}
