//! The basic class but for publish and the settlements: qos, consume, cancel, get, recover. And the small classes
//! confirm and access.

use amq_protocol::protocol::access::{AMQPMethod as Access, RequestOk};
use amq_protocol::protocol::basic::{
    AMQPMethod as Basic, Cancel, CancelOk, Consume, QosOk, RecoverOk,
};
use amq_protocol::protocol::confirm::{AMQPMethod as Confirm, SelectOk};

use super::channel::{Channel, Mode, Then, unimplemented};
use super::confirms::Confirms;
use super::core::{Core, IntoClass, error};
use super::publish::REPLY_TO;
use super::{ChannelRequest, ConsumeRequest};
use crate::amqp::{AMQPClass, ProtocolError, ReplyCode};

impl Channel {
    pub(super) fn basic(
        &mut self,
        core: &mut Core,
        method: Basic,
        ids: (u16, u16),
    ) -> Result<(), ProtocolError> {
        match method {
            Basic::Consume(consume) => self.consume(core, consume),
            Basic::Cancel(cancel) => {
                self.cancel(core, cancel);
                Ok(())
            }
            Basic::Recover(m) => {
                self.recover(core, m.requeue)?;
                core.send(self.id, &Basic::RecoverOk(RecoverOk {}).class());
                Ok(())
            }
            Basic::RecoverAsync(m) => self.recover(core, m.requeue),
            // The answer to our own basic.cancel.
            Basic::CancelOk(_) => Ok(()),
            // The codec gives these as variants of their own; here they are what they would be there.
            Basic::Ack(m) => self.ack(core, m.delivery_tag, m.multiple),
            Basic::Nack(m) => self.nack(core, m.delivery_tag, m.multiple, m.requeue),
            Basic::Reject(m) => self.reject(core, m.delivery_tag, m.requeue),
            Basic::Qos(m) => self.qos(core, 0, m.prefetch_count, m.global),
            Basic::Get(m) => self.get(core, m.queue.as_str().as_bytes(), m.no_ack),
            Basic::Publish(_)
            | Basic::QosOk(_)
            | Basic::ConsumeOk(_)
            | Basic::Return(_)
            | Basic::Deliver(_)
            | Basic::GetOk(_)
            | Basic::GetEmpty(_)
            | Basic::RecoverOk(_) => {
                debug_assert_ne!(ids, (60, 40), "publish has a variant of its own");
                Err(unimplemented())
            }
        }
    }

    /// global=false sets what later consumers get and lifts the channel's limit; global=true sets that limit (§17.1).
    ///
    /// # Errors
    /// 540 for any prefetch size.
    pub(super) fn qos(
        &mut self,
        core: &mut Core,
        prefetch_size: u32,
        prefetch_count: u16,
        global: bool,
    ) -> Result<(), ProtocolError> {
        if prefetch_size != 0 {
            let text = format!("prefetch_size!=0 ({prefetch_size})");
            return Err(error(ReplyCode::NotImplemented, text));
        }
        let ok = Basic::QosOk(QosOk {}).class();
        let limit = if global { prefetch_count } else { 0 };
        if !global {
            self.prefetch = prefetch_count;
        }
        if limit == self.limit {
            core.send(self.id, &ok);
        } else {
            self.limit = limit;
            let request = ChannelRequest::LimitChannel { prefetch: limit };
            self.ask(core, request, Then::Reply(Some(ok)), (60, 10));
        }
        Ok(())
    }

    fn consume(&mut self, core: &mut Core, consume: Consume) -> Result<(), ProtocolError> {
        let queue = self.named_queue(consume.queue.into())?;
        let tag = String::from(consume.consumer_tag);
        if !tag.is_empty() && self.tags.contains_key(&tag) {
            return Err(error(
                ReplyCode::NotAllowed,
                format!("attempt to reuse consumer tag '{tag}'"),
            ));
        }
        let then = Then::Consume {
            no_wait: consume.nowait,
        };
        if queue == REPLY_TO {
            if self.reply.is_some() {
                return Err(error(
                    ReplyCode::PreconditionFailed,
                    "reply consumer already set",
                ));
            }
            if !consume.no_ack {
                return Err(error(
                    ReplyCode::PreconditionFailed,
                    "reply consumer cannot acknowledge",
                ));
            }
            self.ask(core, ChannelRequest::ConsumeReplies { tag }, then, (60, 20));
            return Ok(());
        }
        if let Some(max) = core.config.consumer_max_per_channel
            && self.consumers.len() as u64 >= u64::from(max)
        {
            return Err(error(
                ReplyCode::NotAllowed,
                format!("reached maximum ({max}) of consumers per channel"),
            ));
        }
        let request = ConsumeRequest {
            queue,
            tag,
            no_ack: consume.no_ack,
            exclusive: consume.exclusive,
            arguments: consume.arguments,
            prefetch: self.prefetch,
            channel_limited: self.limit != 0,
        };
        self.ask(core, ChannelRequest::Consume(request), then, (60, 20));
        Ok(())
    }

    /// The consumer is gone from here on, so that nothing is delivered after cancel-ok; its leases stay.
    fn cancel(&mut self, core: &mut Core, cancel: Cancel) {
        let consumer = self.tags.remove(cancel.consumer_tag.as_str());
        let ok = (!cancel.nowait).then(|| {
            Basic::CancelOk(CancelOk {
                consumer_tag: cancel.consumer_tag,
            })
            .class()
        });
        let Some(consumer) = consumer else {
            if let Some(ok) = ok {
                core.send(self.id, &ok);
            }
            return;
        };
        self.consumers.remove(&consumer);
        self.reply.take_if(|reply| reply.consumer == consumer);
        let request = ChannelRequest::Cancel { consumer };
        self.ask(core, request, Then::Reply(ok), (60, 30));
    }

    pub(super) fn get(
        &mut self,
        core: &mut Core,
        queue: &[u8],
        no_ack: bool,
    ) -> Result<(), ProtocolError> {
        let queue = std::str::from_utf8(queue)
            .map_err(|_| error(ReplyCode::FrameError, "Malformed UTF-8 in shortstr"))?;
        let queue = self.named_queue(queue.to_owned())?;
        let request = ChannelRequest::Get { queue, no_ack };
        self.ask(core, request, Then::Get, (60, 70));
        Ok(())
    }

    pub(super) fn confirm_class(
        &mut self,
        core: &mut Core,
        method: &Confirm,
    ) -> Result<(), ProtocolError> {
        let Confirm::Select(select) = method else {
            return Err(unimplemented());
        };
        match self.mode {
            Mode::Plain => self.mode = Mode::Confirm(Confirms::default()),
            Mode::Confirm(_) => {}
            Mode::Tx(_) => {
                return Err(error(
                    ReplyCode::PreconditionFailed,
                    "cannot switch from tx to confirm mode",
                ));
            }
        }
        if !select.nowait {
            core.send(self.id, &Confirm::SelectOk(SelectOk {}).class());
        }
        Ok(())
    }

    /// access.request grants everything, as nobody has checked tickets for a long time.
    pub(super) fn access(&mut self, core: &mut Core, method: &Access) -> Result<(), ProtocolError> {
        let Access::Request(_) = method else {
            return Err(unimplemented());
        };
        let ok = AMQPClass::Access(Access::RequestOk(RequestOk {}));
        core.send(self.id, &ok);
        Ok(())
    }
}
