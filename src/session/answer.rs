//! What the broker's answers become on the wire.

use amq_protocol::protocol::basic::{AMQPMethod as Basic, ConsumeOk, GetEmpty};
use amq_protocol::protocol::channel::{AMQPMethod as Class, Close as CloseMethod, CloseOk, OpenOk};
use amq_protocol::protocol::queue::{AMQPMethod as Queue, DeclareOk, DeleteOk, PurgeOk};
use bytes::Bytes;

use super::ChannelAnswer;
use super::channel::{Channel, Consumer, Mode, ReplyConsumer, Stage, Then};
use super::core::{Core, Failure, IntoClass, error, short};
use crate::amqp::{ProtocolError, ReplyCode, encode};

/// Whether the channel goes on after an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Life {
    GoesOn,
    /// Its number is free.
    Ended,
}

impl Channel {
    /// Takes the answer to what the channel waits for. One that nobody waits for any more is dropped.
    pub(super) fn answered(
        &mut self,
        core: &mut Core,
        answer: ChannelAnswer,
    ) -> Result<Life, Failure> {
        if self.stale_answers > 0 {
            self.stale_answers -= 1;
            return Ok(Life::GoesOn);
        }
        let Some(asked) = self.asked.take() else {
            return Ok(Life::GoesOn);
        };
        let ids = asked.ids;
        match (asked.then, answer) {
            // Closing cannot fail: the channel is gone whatever was answered.
            (Then::CloseOk, _) => {
                core.send(self.id, &Class::CloseOk(CloseOk {}).class());
                return Ok(Life::Ended);
            }
            (Then::Close(error, ids), _) => self.send_close(core, &error, ids),
            (_, ChannelAnswer::Failed(error)) => return Err((error, ids)),
            (then, answer) => self.done(core, then, answer).map_err(|e| (e, ids))?,
        }
        Ok(Life::GoesOn)
    }

    fn send_close(&mut self, core: &mut Core, error: &ProtocolError, ids: (u16, u16)) {
        let close = Class::Close(CloseMethod {
            reply_code: error.code.code(),
            reply_text: short(&error.reply_text()),
            class_id: ids.0,
            method_id: ids.1,
        });
        core.send(self.id, &close.class());
        self.stage = Stage::AwaitingCloseOk;
    }

    fn done(
        &mut self,
        core: &mut Core,
        then: Then,
        answer: ChannelAnswer,
    ) -> Result<(), ProtocolError> {
        match (then, answer) {
            (Then::Open, ChannelAnswer::Done) => {
                core.send(self.id, &Class::OpenOk(OpenOk {}).class());
            }
            (Then::Reply(ok), ChannelAnswer::Done) => {
                if let Some(ok) = ok {
                    core.send(self.id, &ok);
                }
            }
            (
                Then::DeclareQueue { no_wait },
                ChannelAnswer::QueueDeclared {
                    queue,
                    messages,
                    consumers,
                },
            ) => {
                if !no_wait {
                    let ok = Queue::DeclareOk(DeclareOk {
                        queue: short(&queue),
                        message_count: messages,
                        consumer_count: consumers,
                    });
                    core.send(self.id, &ok.class());
                }
                self.last_queue = Some(queue);
            }
            (Then::Purge { no_wait }, ChannelAnswer::Count(message_count)) => {
                if !no_wait {
                    core.send(self.id, &Queue::PurgeOk(PurgeOk { message_count }).class());
                }
            }
            (Then::Delete { no_wait, cancels }, ChannelAnswer::Count(message_count)) => {
                let ok = Queue::DeleteOk(DeleteOk { message_count }).class();
                let ok = (!no_wait).then_some(ok);
                for method in ok.iter().chain(&cancels) {
                    core.send(self.id, method);
                }
            }
            (Then::Consume { no_wait }, answer @ ChannelAnswer::Consuming { .. }) => {
                self.consuming(core, no_wait, answer);
            }
            (Then::Get, answer @ (ChannelAnswer::Got { .. } | ChannelAnswer::GotNothing)) => {
                self.got(core, answer);
            }
            (Then::FailPublish(fault), ChannelAnswer::Done) => return Err(fault),
            (Then::KeepPublish(publish), ChannelAnswer::Done) => {
                if let Mode::Tx(transaction) = &mut self.mode {
                    transaction.publish(*publish)?;
                }
            }
            // The broker answered something else than was asked.
            _ => return Err(error(ReplyCode::InternalError, "")),
        }
        Ok(())
    }

    fn consuming(&mut self, core: &mut Core, no_wait: bool, answer: ChannelAnswer) {
        let ChannelAnswer::Consuming {
            consumer,
            tag,
            no_ack,
            token,
        } = answer
        else {
            return;
        };
        if !no_wait {
            let ok = Basic::ConsumeOk(ConsumeOk {
                consumer_tag: short(&tag),
            });
            core.send(self.id, &ok.class());
        }
        let on_wire = Bytes::copy_from_slice(short(&tag).as_str().as_bytes());
        if let Some(token) = token {
            self.reply = Some(ReplyConsumer { consumer, token });
        }
        self.consumers.insert(
            consumer,
            Consumer {
                tag: on_wire,
                no_ack,
            },
        );
        self.tags.insert(tag, consumer);
    }

    fn got(&mut self, core: &mut Core, answer: ChannelAnswer) {
        let ChannelAnswer::Got {
            lease,
            redelivered,
            exchange,
            routing_key,
            properties,
            body,
            messages,
        } = answer
        else {
            core.send(self.id, &Basic::GetEmpty(GetEmpty {}).class());
            return;
        };
        let tag = self.unacked.deliver(lease);
        let (id, frame_max) = (self.id, core.frame_max);
        encode::get_ok(
            &mut core.output,
            id,
            tag,
            redelivered,
            &exchange,
            &routing_key,
            messages,
        );
        let properties = core.config.stamps.on_delivery(&properties.0, core.now);
        encode::content(&mut core.output, id, frame_max, &properties, &body);
    }
}
