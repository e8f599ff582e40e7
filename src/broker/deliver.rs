//! Deliveries and answers, in the order the replicas gave them: read the body, check it, write it out.
//!
//! Stops when the output is high, when a body must come from the disk, or when this node was silent for so long that its
//! leases may be over; goes on when there is room, the body is there, or the set has been asked. A cancel-ok stands in the
//! same line, so it follows the last delivery of its consumer.

use bytes::Bytes;

use crate::amqp::{AMQPValue, RawProperties};
use crate::base::{Clock, Position, SetId, SystemClock};
use crate::cluster::ReadError;
use crate::model::batch::{self, Message, MessageFlags};
use crate::model::set::Delivery;
use crate::session::{ChannelAnswer, Lease};

use super::connection::{Connection, Loading, Posted, Work};
use super::consume::Kind;
use super::replies::DirectReply;
use super::stats::QueueType;
use super::stream::{wanted, with_offset};

impl Connection {
    /// Works off the line as far as it goes.
    pub(super) fn do_work(&mut self) {
        self.session.note_time(|| SystemClock.now());
        while self.output_low() {
            match self.work.pop_front() {
                None => return,
                Some(Work::Posted(posted)) => self.posted(posted),
                Some(Work::Deliver(set, delivery, body)) => {
                    // Woken when the set has been asked whether the lease still runs.
                    if !self.node.cluster.is_sure(set) {
                        self.work.push_front(Work::Deliver(set, delivery, body));
                        return;
                    }
                    if let Some(rest) = self.deliver(set, delivery, body.as_ref()) {
                        self.work.push_front(Work::Deliver(set, rest, body));
                        return;
                    }
                }
            }
        }
    }

    fn posted(&mut self, posted: Posted) {
        match posted {
            Posted::Answer(channel, answer) => self.session.answer_channel(channel, answer),
            Posted::Got(channel, queue, answer) => {
                match &answer {
                    ChannelAnswer::Got {
                        lease,
                        redelivered,
                        exchange,
                        routing_key,
                        properties,
                        body,
                        ..
                    } => {
                        if self.is_traced() {
                            let message = Message {
                                flags: MessageFlags::default(),
                                exchange: exchange.clone(),
                                routing_key: routing_key.clone(),
                                blind_keys: Vec::new(),
                                properties: properties.0.clone(),
                                body: body.clone(),
                            };
                            self.trace_delivery(channel, queue, *redelivered, &message);
                        }
                        let found = Some((lease.is_none(), *redelivered));
                        self.tally.got(channel, found);
                        if let Some(lease) = lease
                            && let Some(holder) = self.consumers.get_mut(&lease.consumer)
                        {
                            holder.next_no = lease.no + 1;
                        }
                    }
                    ChannelAnswer::GotNothing => self.tally.got(channel, None),
                    _ => {}
                }
                self.session.answer_channel(channel, answer);
            }
            Posted::Declared {
                channel,
                answer,
                exclusive,
            } => {
                self.exclusive.extend(exclusive);
                self.session.answer_channel(channel, answer);
            }
            Posted::Consuming {
                channel,
                consumer,
                answer,
            } => {
                // With a hard error nobody knows whether the set has it; what ends with the connection includes it.
                let refused = match &answer {
                    ChannelAnswer::Failed(error) => Some(error.code.is_hard()),
                    _ => None,
                };
                self.session.answer_channel(channel, answer);
                match refused {
                    None => self.open_consumer(consumer),
                    Some(false) => self.forget_consumer(consumer),
                    Some(true) => {}
                }
            }
            Posted::Unsubscribed { channel, consumer } => {
                self.session.answer_channel(channel, ChannelAnswer::Done);
                for one in self.attached(consumer) {
                    self.detached(one);
                }
            }
            Posted::Committed(channel) => self.committed(channel),
            Posted::ChannelClosed(channel) => self.channel_closed(channel),
            Posted::AllClosed => self.session.answer(crate::session::Answer::Done),
            Posted::Connection(answer) => self.connection_answer(answer),
            Posted::Reply(reply) => self.reply(&reply),
        }
    }

    fn open_consumer(&mut self, consumer: crate::base::ConsumerId) {
        let Some(entry) = self.consumers.get_mut(&consumer) else {
            return;
        };
        entry.kind = Kind::Open;
        let set = entry.set;
        let more = entry.config.is_some();
        for (delivery, body) in std::mem::take(&mut entry.early).into_iter().rev() {
            self.work.push_front(Work::Deliver(set, delivery, body));
        }
        if more {
            self.follow_queue(consumer);
        }
    }

    /// Delivers a run; what is left of it if it must wait.
    fn deliver(
        &mut self,
        set: SetId,
        mut delivery: Delivery,
        body: Option<&Bytes>,
    ) -> Option<Delivery> {
        let Some(entry) = self.consumers.get_mut(&delivery.consumer) else {
            self.hand_back(set, &delivery);
            return None;
        };
        if entry.kind == Kind::Opening {
            entry.early.push((delivery, body.cloned()));
            return None;
        }
        entry.next_no = delivery.first_no + u64::from(delivery.count);
        let (channel, no_ack, counts) = (entry.channel, entry.no_ack, entry.counts);
        let kind = entry.queue_type();
        let (main, filter) = (entry.main, entry.filter.clone());
        let queue = entry.queue;
        let traced = self.is_traced();
        let mut unwanted = 0;
        let known = body.cloned();
        let Some(payload) = known.or_else(|| self.payload(set, delivery.first)) else {
            return Some(delivery);
        };
        while delivery.count > 0 {
            if !self.output_low() {
                self.skip(&delivery, unwanted);
                return Some(delivery);
            }
            let message = self.message(set, &payload, delivery.first);
            let lost = message.is_none() && delivery.offset.is_some();
            let message = message
                .filter(|message| filter.as_ref().is_none_or(|filter| wanted(filter, message)));
            if let Some(message) = message {
                self.skip(&delivery, std::mem::take(&mut unwanted));
                let properties = with_counts(&message, counts, &delivery);
                let sent = self.session.deliver(
                    channel,
                    main,
                    Lease {
                        consumer: delivery.consumer,
                        no: delivery.first_no,
                    },
                    delivery.redelivered,
                    &message.exchange,
                    &message.routing_key,
                    &properties,
                    &message.body,
                );
                if !sent {
                    if !no_ack {
                        self.hand_back(set, &delivery);
                    }
                    return None;
                }
                self.tally
                    .delivered(channel, kind, no_ack, delivery.redelivered);
                if traced {
                    self.trace_delivery(channel, queue, delivery.redelivered, &message);
                }
                self.sent(delivery.consumer, message.body.len());
            } else if lost || filter.is_some() {
                unwanted += 1;
            }
            delivery.count -= 1;
            delivery.first_no += 1;
            if delivery.count > 0 {
                delivery.first = delivery.first.plus(1);
            }
            if let Some(offset) = &mut delivery.offset {
                *offset += 1;
            }
        }
        self.skip(&delivery, unwanted);
        None
    }

    /// The entry, if it is in memory; otherwise it is sent for.
    fn payload(&mut self, set: SetId, position: Position) -> Option<Bytes> {
        let index = position.index();
        if let Some((of, at, payload)) = &self.loaded {
            if (*of, *at) == (set, index) {
                return Some(payload.clone());
            }
            self.loaded = None;
        }
        let handle = self.node.cluster.set(set)?;
        if let Some(payload) = handle.cached(index) {
            return Some(payload);
        }
        if self.loading.is_none() {
            let handle = handle.clone();
            let load = async move { handle.load(position).await };
            let read = self.node.supervisor.spawn("read bodies", load);
            self.loading = Some(Loading { set, index, read });
        }
        None
    }

    /// The entry the head of the line waits for has come, or cannot be had.
    pub(super) fn loading_done(&mut self, set: SetId, index: u64, read: Result<Bytes, ReadError>) {
        match (read, self.work.front()) {
            (Ok(payload), _) => self.loaded = Some((set, index, payload)),
            (Err(error), Some(Work::Deliver(of, delivery, _)))
                if (*of, delivery.first.index()) == (set, index) =>
            {
                // The lease runs: the messages come again when it ends, here or where the bytes are whole.
                tracing::error!(%set, position = ?delivery.first, %error, "messages cannot be read");
                self.node.stats.unreadable.inc_by(u64::from(delivery.count));
                let of_stream = delivery.offset.is_some().then_some(*delivery);
                self.work.pop_front();
                if let Some(delivery) = of_stream {
                    self.hand_back(set, &delivery);
                }
            }
            // Whoever waited for it is gone.
            (Err(_), _) => {}
        }
    }

    fn message(&mut self, set: SetId, payload: &Bytes, position: Position) -> Option<Message> {
        match batch::message(payload, position.slot()) {
            Ok(message) => Some(message),
            Err(error) => {
                tracing::error!(%set, ?position, %error, "a message cannot be read");
                self.node.stats.unreadable.inc();
                None
            }
        }
    }

    fn reply(&mut self, reply: &DirectReply) {
        self.replied(reply.body.len());
        let sent = self.session.deliver(
            reply.channel,
            reply.consumer,
            Lease {
                consumer: reply.consumer,
                no: 0,
            },
            false,
            &reply.exchange,
            &reply.routing_key,
            &reply.properties,
            &reply.body,
        );
        if sent {
            self.tally
                .delivered(reply.channel, QueueType::Classic, true, false);
        }
    }
}

/// The properties, with the counts a quorum queue's consumer sees on a message that came back, or a stream's offset.
pub(super) fn with_counts(message: &Message, counts: bool, delivery: &Delivery) -> Bytes {
    if let Some(offset) = delivery.offset {
        return with_offset(message, offset);
    }
    if !counts || delivery.acquired == 0 {
        return message.properties.clone();
    }
    let mut headers = vec![(
        "x-acquired-count",
        AMQPValue::LongLongInt(i64::from(delivery.acquired)),
    )];
    if delivery.failed > 0 {
        headers.push((
            "x-delivery-count",
            AMQPValue::LongLongInt(i64::from(delivery.failed)),
        ));
    }
    RawProperties(message.properties.clone())
        .with_headers_set(&headers)
        .0
}
