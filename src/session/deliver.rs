//! What the broker does to channels unasked: answers, deliveries, returns, confirms, cancels, late errors.

use amq_protocol::protocol::basic::{AMQPMethod as Basic, Cancel};

use super::answer::Life;
use super::channel::{Mode, Then};
use super::confirms::Confirms;
use super::connection::Connection;
use super::core::{Failure, IntoClass};
use super::{ChannelAnswer, Lease};
use crate::amqp::{ProtocolError, ShortString, encode};
use crate::base::{ChannelId, ConsumerId};

impl Connection {
    /// Answers a channel's request; requests of one channel are answered in their order. An answer for a channel
    /// that is gone is dropped.
    pub fn answer_channel(&mut self, id: ChannelId, answer: ChannelAnswer) {
        if let Err(failure) = self.take_answer(id, answer) {
            self.fail(failure);
        }
        self.finish_channels();
    }

    fn take_answer(&mut self, id: ChannelId, answer: ChannelAnswer) -> Result<(), Failure> {
        let Some(channel) = self.channels.get(id) else {
            return Ok(());
        };
        let done = match channel.answered(&mut self.core, answer) {
            Ok(Life::GoesOn) => channel.run_backlog(&mut self.core),
            Ok(Life::Ended) => {
                let backlog = channel.take_backlog(&mut self.core);
                self.channels.remove(id);
                // What came behind the close is for whatever is opened under the number next.
                for (command, bytes) in backlog {
                    self.command(id, command, bytes)?;
                }
                return Ok(());
            }
            Err(failure) => Err(failure),
        };
        self.soften(id, done)
    }

    /// Sends one message to a consumer, under the channel's next delivery tag, and keeps its lease until it is
    /// settled (not for no-ack). The lease may be held for the consumer by another, of another part of its queue.
    /// False, and nothing done, if the channel or the consumer is gone, or the client has asked to cancel it: the
    /// message must go back.
    #[expect(clippy::too_many_arguments, reason = "basic.deliver's own")]
    #[must_use]
    pub fn deliver(
        &mut self,
        channel: ChannelId,
        consumer: ConsumerId,
        lease: Lease,
        redelivered: bool,
        exchange: &[u8],
        routing_key: &[u8],
        properties: &[u8],
        body: &[u8],
    ) -> bool {
        let sent =
            self.deliver_method(channel, consumer, lease, redelivered, exchange, routing_key);
        if sent {
            let core = &mut self.core;
            let properties = core.config.stamps.on_delivery(properties, core.now);
            encode::content(&mut core.output, channel, core.frame_max, &properties, body);
        }
        sent
    }

    /// As [`Self::deliver`], but for the body: the caller adds exactly `body_size` bytes of it to the output, in body
    /// frames of at most `frame_max() - 8` bytes, before anything else.
    #[expect(clippy::too_many_arguments, reason = "basic.deliver's own")]
    #[must_use]
    pub fn deliver_head(
        &mut self,
        channel: ChannelId,
        consumer: ConsumerId,
        lease: Lease,
        redelivered: bool,
        exchange: &[u8],
        routing_key: &[u8],
        properties: &[u8],
        body_size: u64,
    ) -> bool {
        let sent =
            self.deliver_method(channel, consumer, lease, redelivered, exchange, routing_key);
        if sent {
            let core = &mut self.core;
            let properties = core.config.stamps.on_delivery(properties, core.now);
            encode::content_header(&mut core.output, channel, body_size, &properties);
        }
        sent
    }

    fn deliver_method(
        &mut self,
        channel: ChannelId,
        consumer: ConsumerId,
        lease: Lease,
        redelivered: bool,
        exchange: &[u8],
        routing_key: &[u8],
    ) -> bool {
        let Some(open) = self.channels.get(channel) else {
            return false;
        };
        let Some(found) = open.consumers.get(&consumer) else {
            return false;
        };
        let tag = open.unacked.deliver((!found.no_ack).then_some(lease));
        encode::deliver(
            &mut self.core.output,
            channel,
            &found.tag,
            tag,
            redelivered,
            exchange,
            routing_key,
        );
        true
    }

    /// Sends basic.return; before the confirm of the same publish.
    #[expect(clippy::too_many_arguments, reason = "basic.return's own")]
    pub fn return_message(
        &mut self,
        channel: ChannelId,
        code: u16,
        text: &str,
        exchange: &[u8],
        routing_key: &[u8],
        properties: &[u8],
        body: &[u8],
    ) {
        if self.channels.open(channel).is_none() {
            return;
        }
        let (output, frame_max) = (&mut self.core.output, self.core.frame_max);
        encode::basic_return(
            output,
            channel,
            code,
            text.as_bytes(),
            exchange,
            routing_key,
        );
        encode::content(output, channel, frame_max, properties, body);
    }

    /// The publish with this number, or all up to it, are safe. Goes out with [`Self::flush_confirms`]. Any order;
    /// a number is counted once.
    pub fn confirm(&mut self, channel: ChannelId, number: u64, multiple: bool) {
        self.change_confirms(channel, |confirms| confirms.confirm(number, multiple));
    }

    /// The publish with this number was refused.
    pub fn refuse(&mut self, channel: ChannelId, number: u64) {
        self.change_confirms(channel, |confirms| confirms.refuse(number));
    }

    fn change_confirms(&mut self, id: ChannelId, change: impl FnOnce(&mut Confirms)) {
        if let Some(channel) = self.channels.get(id)
            && let Mode::Confirm(confirms) = &mut channel.mode
        {
            let was_dirty = confirms.is_dirty();
            change(confirms);
            if !was_dirty && confirms.is_dirty() {
                self.dirty.push(id);
            }
        }
    }

    /// Writes the acks and nacks since the last flush, joined; to be called before the output is written.
    pub fn flush_confirms(&mut self) {
        for id in self.dirty.drain(..) {
            if let Some(channel) = self.channels.get(id) {
                channel.flush_confirms(&mut self.core);
            }
        }
    }

    /// A consumer ended by no wish of the client's: sends basic.cancel to clients that can take it.
    pub fn cancel_consumer(&mut self, channel: ChannelId, consumer: ConsumerId) {
        let notify = self.core.cancel_notify;
        let Some(open) = self.channels.open(channel) else {
            return;
        };
        let Some(found) = open.consumers.remove(&consumer) else {
            return;
        };
        open.tags.retain(|_, other| *other != consumer);
        open.reply.take_if(|reply| reply.consumer == consumer);
        if !notify {
            return;
        }
        let tag = String::from_utf8_lossy(&found.tag);
        let cancel = Basic::Cancel(Cancel {
            consumer_tag: ShortString::try_new(tag).unwrap_or_default(),
            nowait: true,
        });
        match open.held_cancels() {
            Some(held) => held.push(cancel.class()),
            None => self.core.send(channel, &cancel.class()),
        }
    }

    /// Whether the client takes basic.cancel.
    #[must_use]
    pub fn takes_cancel(&self) -> bool {
        self.core.cancel_notify
    }

    /// An error found after its method, such as a publish to an exchange that does not exist (class 60, method 40).
    /// Publishes of the channel not yet polled are dropped.
    pub fn fail_channel(
        &mut self,
        channel: ChannelId,
        error: ProtocolError,
        class_method: (u16, u16),
    ) {
        let closing = |asked: &Then| matches!(asked, Then::CloseOk | Then::Close(..));
        let Some(open) = self.channels.open(channel) else {
            return;
        };
        if open
            .asked
            .as_ref()
            .is_some_and(|asked| closing(&asked.then))
        {
            return;
        }
        if error.code.is_hard() {
            open.give_up(&mut self.core);
            self.fail((error, class_method));
        } else {
            open.fail_late(&mut self.core, error, class_method);
        }
    }
}
