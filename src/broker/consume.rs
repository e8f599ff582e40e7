//! A consumer as its connection sees it: where it is attached, what it still holds, and the window it lives by.

use std::sync::Arc;

use bytes::Bytes;

use crate::amqp::{ProtocolError, ReplyCode};
use crate::base::limits::WINDOW_MESSAGES;
use crate::base::{ChannelId, ConsumerId, QueueId, SetId};
use crate::cluster::Skipped;
use crate::model::set::{Command, ConsumerConfig, Delivery, Held, Outcome, TimedOut};
use crate::model::topology::StreamFilter;
use crate::session::{ChannelAnswer, SettleOutcome, Settlement};

use super::connection::{Connection, Posted, Work};
use super::stats::QueueType;

/// Bytes that may have been sent to a consumer without acks before its set is told.
const SENT_BYTES_MAX: usize = 1024 * 1024;

/// What kind of holder of leases it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// basic.consume, not answered yet: deliveries wait for consume-ok.
    Opening,
    /// basic.consume.
    Open,
    /// Cancelled; its unsettled messages may still be settled.
    Cancelled,
    /// A channel's basic.get on one queue.
    Holder,
    /// Direct reply-to.
    Replies,
    /// Takes what one more part of a queue has for another consumer.
    Part,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Consumer {
    pub channel: ChannelId,
    pub set: SetId,
    pub kind: Kind,
    pub queue: QueueId,
    /// Whose tag its deliveries have: itself, or for a part the consumer.
    pub main: ConsumerId,
    /// Where a consumer is attached, itself included; empty for a part.
    pub parts: Vec<(SetId, ConsumerId)>,
    /// How it is attached to further parts.
    pub config: Option<ConsumerConfig>,
    pub no_ack: bool,
    /// Deliveries carry x-delivery-count and x-acquired-count (quorum queues).
    pub counts: bool,
    /// Its queue is a stream.
    pub stream: bool,
    /// Which messages of a stream it wants.
    pub filter: Option<Arc<StreamFilter>>,
    /// Lives by a window renewed as messages are sent, not by a prefetch.
    pub window: bool,
    /// Sent since the window was last renewed, messages and bytes.
    pub sent: u32,
    /// See `sent`.
    pub sent_bytes: usize,
    /// As basic.qos said; 0 = unlimited.
    pub prefetch: u32,
    /// Arguments of basic.consume.
    pub arguments: crate::amqp::FieldTable,
    /// Delivered and not settled.
    pub unsettled: u64,
    /// The number after those it was given, what waits in the line aside.
    pub next_no: u64,
    /// The number, in the pipe, of the command that attached a part.
    pub since: u64,
    /// Its client cancels it.
    pub leaving: bool,
    /// Came before consume-ok.
    pub early: Vec<(Delivery, Option<Bytes>)>,
}

impl Consumer {
    pub(super) fn queue_type(&self) -> QueueType {
        match (self.stream, self.counts) {
            (true, _) => QueueType::Stream,
            (false, true) => QueueType::Quorum,
            (false, false) => QueueType::Classic,
        }
    }
}

impl Connection {
    /// Settles what the client settled.
    pub(super) fn settle(&mut self, settlements: Vec<Settlement>) {
        for settlement in settlements {
            let Settlement {
                consumer,
                first,
                last,
                outcome,
            } = settlement;
            let Some(entry) = self.consumers.get_mut(&consumer) else {
                continue;
            };
            let count = last - first + 1;
            entry.unsettled = entry.unsettled.saturating_sub(count);
            let set = entry.set;
            let (channel, kind) = (entry.channel, entry.queue_type());
            self.tally.touch(channel);
            let done = entry.kind == Kind::Cancelled && entry.unsettled == 0;
            let outcome = match outcome {
                SettleOutcome::Ack => {
                    self.tally.acked(channel, kind, count);
                    Outcome::Ack
                }
                SettleOutcome::Requeue => Outcome::Requeue { failed: false },
                SettleOutcome::RequeueFailed => Outcome::Requeue { failed: true },
                SettleOutcome::Reject => Outcome::Reject,
            };
            self.push(
                set,
                &Command::Settle {
                    consumer,
                    first,
                    last,
                    outcome,
                },
            );
            if done {
                self.forget_consumer(consumer);
            }
        }
    }

    /// Appends a command to a set; its number in the pipe.
    pub(super) fn push(&mut self, set: SetId, command: &Command) -> u64 {
        let handle = self.node.cluster.set(set);
        let pushed = handle.map_or(0, |handle| handle.push(command).seq);
        self.touch(set);
        pushed
    }

    /// Gives back what was leased to a consumer that is no longer there to take it.
    pub(super) fn hand_back(&mut self, set: SetId, delivery: &Delivery) {
        let last = delivery.first_no + u64::from(delivery.count) - 1;
        let outcome = Outcome::Requeue { failed: false };
        let (consumer, first) = (delivery.consumer, delivery.first_no);
        self.push(
            set,
            &Command::Settle {
                consumer,
                first,
                last,
                outcome,
            },
        );
    }

    /// Counts a sent message against the window, and renews that by quarters.
    pub(super) fn sent(&mut self, consumer: ConsumerId, bytes: usize) {
        let Some(entry) = self.consumers.get_mut(&consumer) else {
            return;
        };
        if !entry.no_ack {
            entry.unsettled += 1;
        }
        if !entry.window {
            return;
        }
        entry.sent += 1;
        entry.sent_bytes += bytes;
        // What was sent without acks is kept until this is said, so it is said by bytes too.
        let large = entry.no_ack && entry.sent_bytes >= SENT_BYTES_MAX;
        if large || entry.sent >= WINDOW_MESSAGES / 4 {
            entry.sent_bytes = 0;
            let add = std::mem::take(&mut entry.sent);
            let set = entry.set;
            self.push(set, &Command::Grant { consumer, add });
        }
    }

    /// A set elsewhere has forgotten this node's consumers: they end, and what they held is visible again.
    pub(super) fn lost(&mut self, set: SetId) {
        let here = self.consumers.iter().filter(|(_, entry)| {
            entry.set == set && !matches!(entry.kind, Kind::Replies | Kind::Opening)
        });
        let gone: Vec<ConsumerId> = here.map(|(consumer, _)| *consumer).collect();
        if gone.is_empty() {
            return;
        }
        let close = Command::CloseSession {
            session: self.id,
            channel: None,
        };
        self.push(set, &close);
        for consumer in gone {
            self.cancelled(consumer);
        }
    }

    /// This node's replica of a set was brought up to date at once. What it gave to this connection's consumers meanwhile
    /// is delivered now, and those it ended meanwhile end.
    pub(super) fn skipped(&mut self, set: SetId, skipped: &Skipped) {
        let here = self.consumers.iter().filter(|(_, entry)| entry.set == set);
        let mut here: Vec<ConsumerId> = here.map(|(consumer, _)| *consumer).collect();
        here.sort_unstable();
        for consumer in here {
            let Some(entry) = self.consumers.get(&consumer) else {
                continue;
            };
            let (kind, stream, main) = (entry.kind, entry.stream, entry.main);
            let applied = entry.since <= skipped.applied;
            let live = matches!(kind, Kind::Opening | Kind::Open | Kind::Part);
            match skipped.held(self.id, consumer) {
                Some(held) if live && held.attached && !stream => {
                    let unseen = self.unseen(consumer, held);
                    let unseen = unseen.map(|delivery| Work::Deliver(set, delivery, None));
                    self.work.extend(unseen.collect::<Vec<_>>());
                }
                Some(held) if live && held.attached => self.begin_anew(set, consumer, held.next_no),
                // Detached: by its client, who hears of it, or because it was too slow.
                Some(held) => {
                    let leaves = entry.leaving || !live;
                    let unseen: Vec<Delivery> = self.unseen(consumer, held).collect();
                    for delivery in unseen {
                        self.hand_back(set, &delivery);
                    }
                    if !leaves {
                        self.stop_consumer(main);
                    }
                }
                // A part, or one that is being opened, may not have come there yet.
                None if kind == Kind::Open || (kind == Kind::Part && applied) => {
                    self.cancelled(consumer);
                }
                None => {}
            }
        }
        for (consumer, held) in skipped.of(self.id) {
            if !self.consumers.contains_key(&consumer) {
                for delivery in &held.deliveries {
                    self.hand_back(set, delivery);
                }
            }
        }
    }

    /// Of a stream it is not kept which offsets a consumer was given: it begins again where its client asked for, if that does
    /// not know of it yet, and ends otherwise.
    fn begin_anew(&mut self, set: SetId, consumer: ConsumerId, next_no: u64) {
        self.push(set, &Command::Unsubscribe { consumer });
        let settle = Command::Settle {
            consumer,
            first: 1,
            // What came since the snapshot is within its credit.
            last: next_no + u64::from(u16::MAX),
            outcome: Outcome::Requeue { failed: false },
        };
        self.push(set, &settle);
        let Some(entry) = self.consumers.get_mut(&consumer) else {
            return;
        };
        if entry.kind == Kind::Opening
            && let Some(config) = entry.config
        {
            entry.early.clear();
            let queue = entry.queue;
            let subscribe = Command::Subscribe {
                consumer,
                queue,
                config,
            };
            self.push(set, &subscribe);
        } else {
            self.cancelled(consumer);
        }
    }

    /// Of what a consumer holds, that which has not been handed to this connection.
    fn unseen<'h>(
        &self,
        consumer: ConsumerId,
        held: &'h Held,
    ) -> impl Iterator<Item = Delivery> + use<'h> {
        let end = |delivery: &Delivery| delivery.first_no + u64::from(delivery.count);
        let entry = self.consumers.get(&consumer);
        let mut next = entry.map_or(1, |entry| entry.next_no);
        for work in &self.work {
            match work {
                Work::Deliver(_, delivery, _) if delivery.consumer == consumer => {
                    next = next.max(end(delivery));
                }
                Work::Posted(Posted::Got(
                    _,
                    _,
                    ChannelAnswer::Got {
                        lease: Some(got), ..
                    },
                )) if got.consumer == consumer => {
                    next = next.max(got.no + 1);
                }
                _ => {}
            }
        }
        for (delivery, _) in entry.iter().flat_map(|entry| &entry.early) {
            next = next.max(end(delivery));
        }
        let all = held.deliveries.iter();
        all.filter_map(move |delivery| delivery.from_no(next))
    }

    /// The set has ended a consumer.
    pub(super) fn cancelled(&mut self, consumer: ConsumerId) {
        let Some(entry) = self.consumers.get(&consumer) else {
            return;
        };
        let (channel, main) = (entry.channel, entry.main);
        if entry.kind == Kind::Holder {
            self.holders.retain(|_, holder| *holder != consumer);
        } else if self.leaves_parts(main, consumer) {
            // The queue lives on elsewhere.
            if consumer != main {
                self.forget_consumer(consumer);
            }
            return;
        } else {
            self.session.cancel_consumer(channel, main);
            self.forget_consumer(main);
        }
        self.forget_consumer(consumer);
    }

    /// A consumer was too slow: it is cancelled if its client can take that, otherwise its channel closes.
    pub(super) fn timed_out(&mut self, late: TimedOut) {
        let Some(entry) = self.consumers.get(&late.consumer) else {
            return;
        };
        let (channel, main) = (entry.channel, entry.main);
        tracing::info!(%channel, timeout_ms = late.timeout.0, close = late.close, "consumer timed out");
        if !late.close && self.session.takes_cancel() {
            return self.stop_consumer(main);
        }
        let text = format!(
            "delivery acknowledgement on channel {channel} timed out. Timeout value used: {} ms. This timeout value can \
             be configured, see consumers doc guide to learn more",
            late.timeout.0
        );
        let error = ProtocolError::new(ReplyCode::PreconditionFailed, text);
        self.session.fail_channel(channel, error, (0, 0));
    }

    /// Ends a consumer by the broker's wish, in every part of its queue; what it holds may still be settled.
    pub(super) fn stop_consumer(&mut self, main: ConsumerId) {
        let Some(entry) = self.consumers.get(&main) else {
            return;
        };
        let channel = entry.channel;
        for (set, consumer) in entry.parts.clone() {
            self.push(set, &Command::Unsubscribe { consumer });
        }
        self.session.cancel_consumer(channel, main);
        for one in self.attached(main) {
            self.detached(one);
        }
    }

    /// Nothing of this consumer is left.
    pub(super) fn forget_consumer(&mut self, consumer: ConsumerId) {
        self.node.cluster.registry.forget(consumer);
        if let Some(entry) = self.consumers.remove(&consumer)
            && matches!(entry.kind, Kind::Open | Kind::Opening | Kind::Replies)
        {
            self.node.stats.consumers.dec();
        }
        if let Some(token) = self.reply_tokens.remove(&consumer) {
            self.node.replies.close(&token);
        }
    }
}
