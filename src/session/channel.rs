//! One channel: its stage, what it waits for, and the order of its commands.
//!
//! A command runs when nothing is awaited; otherwise it waits in the backlog, which the connection's input gate
//! bounds. What each command does is in the sibling files, by verb; what an answer does is in `answer`.

use std::collections::VecDeque;

use amq_protocol::protocol::channel::{AMQPMethod as Class, CloseOk, Flow, FlowOk};
use bytes::Bytes;
use hashbrown::HashMap;

use super::confirms::{Confirmation, Confirms};
use super::content::{Command, Content, Incoming};
use super::core::{Core, Failure, IntoClass, error, ids};
use super::publish::{self, Fault};
use super::tx::Transaction;
use super::unacked::Unacked;
use super::{ChannelRequest, PublishRequest};
use crate::amqp::{AMQPClass, Method, ProtocolError, ReplyCode, encode};
use crate::base::{ChannelId, ConsumerId};

/// What a waiting command is charged beyond its bytes on the wire: decoded tables are larger than sent ones.
const COMMAND_BYTES: usize = 256;

/// Where the channel is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Commands run.
    Open,
    /// An error was found; the broker is asked to tidy up, then channel.close goes out. Commands are discarded.
    Failing,
    /// channel.close is out. Commands but close and close-ok are discarded.
    AwaitingCloseOk,
}

/// What an answer leads to.
#[derive(Debug)]
pub(super) enum Then {
    /// The channel is open.
    Open,
    /// Sends this, if anything.
    Reply(Option<AMQPClass>),
    DeclareQueue {
        no_wait: bool,
    },
    Purge {
        no_wait: bool,
    },
    Delete {
        no_wait: bool,
        /// basic.cancel of the channel's own consumers, which goes out behind delete-ok.
        cancels: Vec<AMQPClass>,
    },
    Consume {
        no_wait: bool,
    },
    Get,
    /// The publish was refused for this, were the broker not to refuse it for something else.
    FailPublish(ProtocolError),
    /// The publish is part of the transaction.
    KeepPublish(Box<PublishRequest>),
    /// close-ok, and the number is free.
    CloseOk,
    /// channel.close.
    Close(ProtocolError, (u16, u16)),
}

#[derive(Debug)]
pub(super) struct Asked {
    pub then: Then,
    pub ids: (u16, u16),
}

#[derive(Debug)]
pub(super) struct Consumer {
    pub tag: Bytes,
    pub no_ack: bool,
}

/// The consumer of `amq.rabbitmq.reply-to`.
#[derive(Debug)]
pub(super) struct ReplyConsumer {
    pub consumer: ConsumerId,
    pub token: String,
}

#[derive(Debug)]
pub(super) enum Mode {
    Plain,
    Confirm(Confirms),
    Tx(Transaction),
}

#[derive(Debug)]
pub(super) struct Channel {
    pub id: ChannelId,
    pub stage: Stage,
    pub content: Content,
    pub asked: Option<Asked>,
    /// Answers still to come to requests nobody waits for any more.
    pub stale_answers: u32,
    backlog: VecDeque<(Command, usize)>,
    pub unacked: Unacked,
    pub consumers: HashMap<ConsumerId, Consumer>,
    pub tags: HashMap<String, ConsumerId>,
    pub reply: Option<ReplyConsumer>,
    pub last_queue: Option<String>,
    /// basic.qos global=false; 0 = unlimited.
    pub prefetch: u16,
    /// basic.qos global=true; 0 = none.
    pub limit: u16,
    pub mode: Mode,
}

impl Channel {
    /// A channel whose channel.open has just come.
    pub fn open(id: ChannelId, core: &mut Core) -> Self {
        core.ask_channel(id, ChannelRequest::Open);
        Self {
            id,
            stage: Stage::Open,
            content: Content::default(),
            asked: Some(Asked {
                then: Then::Open,
                ids: (20, 10),
            }),
            stale_answers: 0,
            backlog: VecDeque::new(),
            unacked: Unacked::default(),
            consumers: HashMap::new(),
            tags: HashMap::new(),
            reply: None,
            last_queue: None,
            prefetch: 0,
            limit: 0,
            mode: Mode::Plain,
        }
    }

    /// Where cancels wait while the channel's own queue.delete is not answered.
    pub fn held_cancels(&mut self) -> Option<&mut Vec<AMQPClass>> {
        match self.asked.as_mut().map(|asked| &mut asked.then) {
            Some(Then::Delete { cancels, .. }) => Some(cancels),
            _ => None,
        }
    }

    /// Runs a command, or keeps it until the channel is free. `bytes` is its size on the wire.
    pub fn accept(
        &mut self,
        core: &mut Core,
        command: Command,
        bytes: usize,
    ) -> Result<(), Failure> {
        if self.asked.is_some() {
            let body = match &command {
                Command::Publish(incoming) => incoming.body.size,
                Command::Method(_) => 0,
            };
            let charge = bytes + body + COMMAND_BYTES;
            core.backlog_bytes += charge;
            self.backlog.push_back((command, charge));
            return Ok(());
        }
        self.run(core, command)
    }

    /// Runs what waited, until something is awaited again.
    pub fn run_backlog(&mut self, core: &mut Core) -> Result<(), Failure> {
        while self.asked.is_none() && self.stage == Stage::Open {
            let Some((command, charge)) = self.backlog.pop_front() else {
                break;
            };
            core.backlog_bytes -= charge;
            self.run(core, command)?;
        }
        Ok(())
    }

    /// Gives up what waited, and its charge.
    pub fn take_backlog(&mut self, core: &mut Core) -> VecDeque<(Command, usize)> {
        core.backlog_bytes -= self.backlog.iter().map(|(_, charge)| charge).sum::<usize>();
        std::mem::take(&mut self.backlog)
    }

    /// Asks the broker, and waits for its answer.
    pub fn ask(&mut self, core: &mut Core, request: ChannelRequest, then: Then, ids: (u16, u16)) {
        debug_assert!(self.asked.is_none());
        self.asked = Some(Asked { then, ids });
        core.ask_channel(self.id, request);
    }

    fn run(&mut self, core: &mut Core, command: Command) -> Result<(), Failure> {
        match command {
            Command::Publish(incoming) => self
                .publish(core, incoming)
                .map_err(|error| (error, (60, 40))),
            Command::Method(method) => {
                let ids = ids(&method);
                self.method(core, method, ids).map_err(|error| (error, ids))
            }
        }
    }

    fn publish(&mut self, core: &mut Core, incoming: Incoming) -> Result<(), ProtocolError> {
        let token = self.reply.as_ref().map(|reply| reply.token.as_str());
        let mut request = match publish::check(incoming, token, core) {
            Ok(request) => request,
            Err(Fault::First(error)) => return Err(error),
            Err(Fault::AfterRights(request, error)) => {
                let then = Then::FailPublish(error);
                self.ask(core, ChannelRequest::CheckPublish(request), then, (60, 40));
                return Ok(());
            }
        };
        match &mut self.mode {
            Mode::Plain => {}
            Mode::Confirm(confirms) => request.confirm = Some(confirms.number()),
            Mode::Tx(transaction) => {
                request.confirm = Some(transaction.next());
                let request = Box::new(request);
                let then = Then::KeepPublish(request.clone());
                self.ask(core, ChannelRequest::CheckPublish(request), then, (60, 40));
                return Ok(());
            }
        }
        core.ask_channel(self.id, ChannelRequest::Publish(request));
        Ok(())
    }

    fn method(
        &mut self,
        core: &mut Core,
        method: Method,
        ids: (u16, u16),
    ) -> Result<(), ProtocolError> {
        match method {
            Method::Ack {
                delivery_tag,
                multiple,
            } => self.ack(core, delivery_tag, multiple),
            Method::Nack {
                delivery_tag,
                multiple,
                requeue,
            } => self.nack(core, delivery_tag, multiple, requeue),
            Method::Reject {
                delivery_tag,
                requeue,
            } => self.reject(core, delivery_tag, requeue),
            Method::Get { queue, no_ack } => self.get(core, &queue, no_ack),
            Method::Qos {
                prefetch_size,
                prefetch_count,
                global,
            } => self.qos(core, prefetch_size, prefetch_count, global),
            Method::Publish(_) => Err(error(ReplyCode::InternalError, "")),
            // RabbitMQ's codec knows basic.credit and what answers it, of AMQP 1.0's days, and nothing handles them.
            Method::Unknown {
                class_id: 60,
                method_id: 200..=202,
            } => Err(unimplemented()),
            Method::Unknown { .. } => Err(error(ReplyCode::CommandInvalid, "unknown method")),
            Method::Other(class) => match *class {
                AMQPClass::Channel(method) => self.own(core, method),
                AMQPClass::Exchange(method) => self.exchange(core, method, ids),
                AMQPClass::Queue(method) => self.queue(core, method, ids),
                AMQPClass::Basic(method) => self.basic(core, method, ids),
                AMQPClass::Confirm(method) => self.confirm_class(core, &method),
                AMQPClass::Tx(method) => self.tx(core, &method),
                AMQPClass::Access(method) => self.access(core, &method),
                AMQPClass::Connection(_) => Err(unimplemented()),
            },
        }
    }

    /// The channel class.
    fn own(&mut self, core: &mut Core, method: Class) -> Result<(), ProtocolError> {
        match method {
            Class::Open(_) => Err(error(ReplyCode::ChannelError, "second 'channel.open' seen")),
            Class::Flow(Flow { active: true }) => {
                core.send(self.id, &Class::FlowOk(FlowOk { active: true }).class());
                Ok(())
            }
            Class::Flow(_) => Err(error(ReplyCode::NotImplemented, "active=false")),
            Class::Close(_) => {
                self.flush_confirms(core);
                self.consumers.clear();
                self.tags.clear();
                self.ask(core, ChannelRequest::Close, Then::CloseOk, (20, 40));
                Ok(())
            }
            Class::OpenOk(_) | Class::FlowOk(_) | Class::CloseOk(_) => Err(unimplemented()),
        }
    }

    /// An error found after its method, while later ones may be on their way: those not begun are dropped.
    pub fn fail_late(&mut self, core: &mut Core, error: ProtocolError, ids: (u16, u16)) {
        let dropped = core.forget(self.id);
        if self.asked.take().is_some() && !dropped {
            self.stale_answers += 1;
        }
        self.fail(core, error, ids);
    }

    /// Its error ends the whole connection: it does nothing more, and nobody waits for it.
    pub fn give_up(&mut self, core: &mut Core) {
        let dropped = core.forget(self.id);
        if self.asked.take().is_some() && !dropped {
            self.stale_answers += 1;
        }
        self.take_backlog(core);
        self.stage = Stage::Failing;
    }

    /// An error closes the channel: the broker tidies up first.
    pub fn fail(&mut self, core: &mut Core, error: ProtocolError, ids: (u16, u16)) {
        self.flush_confirms(core);
        self.take_backlog(core);
        self.stage = Stage::Failing;
        // Bodies under way are counted to their end all the same, but nothing else of the channel matters any more.
        self.unacked = Unacked::default();
        self.consumers = HashMap::new();
        self.tags = HashMap::new();
        self.reply = None;
        self.mode = Mode::Plain;
        self.ask(core, ChannelRequest::Close, Then::Close(error, ids), ids);
    }

    /// A command that came after the channel failed. Whether the channel is now gone.
    pub fn discard(&mut self, core: &mut Core, command: &Command) -> bool {
        let Command::Method(Method::Other(class)) = command else {
            return false;
        };
        match (&**class, self.stage) {
            (AMQPClass::Channel(Class::Close(_)), Stage::AwaitingCloseOk) => {
                core.send(self.id, &Class::CloseOk(CloseOk {}).class());
                false
            }
            (AMQPClass::Channel(Class::Close(_)), _) => {
                // The client gave up before it knew of the error: its close is answered and ours never sent, else it
                // would come for a channel the client has forgotten.
                if let Some(asked) = &mut self.asked {
                    asked.then = Then::CloseOk;
                }
                self.stage = Stage::Open;
                false
            }
            (AMQPClass::Channel(Class::CloseOk(_)), Stage::AwaitingCloseOk) => true,
            _ => false,
        }
    }

    /// Sends the confirms and refusals since the last call.
    pub fn flush_confirms(&mut self, core: &mut Core) {
        if let Mode::Confirm(confirms) = &mut self.mode
            && confirms.is_dirty()
        {
            let (id, output) = (self.id, &mut core.output);
            confirms.flush(|confirmation| match confirmation {
                Confirmation::Ack { number, multiple } => {
                    encode::ack(output, id, number, multiple);
                }
                Confirmation::Nack { number, multiple } => {
                    encode::nack(output, id, number, multiple, true);
                }
            });
        }
    }
}

/// A method the server does not take: one of its own, or one that belongs elsewhere.
pub(super) fn unimplemented() -> ProtocolError {
    error(ReplyCode::CommandInvalid, "unimplemented method")
}
