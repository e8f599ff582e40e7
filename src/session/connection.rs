//! The connection as a whole: its state, its input gate, and which part of the session a frame is for.

use std::collections::VecDeque;
use std::sync::Arc;

use amq_protocol::protocol::channel::AMQPMethod as ChannelClass;
use amq_protocol::protocol::connection::{AMQPMethod as Class, Blocked, Unblocked};
use bytes::BytesMut;

use super::channel::{Channel, Stage};
use super::channels::Channels;
use super::content::{Command, Content, Piece};
use super::core::{Core, Failure, IntoClass, error, ids, short};
use super::timers::Timers;
use super::{Request, SessionConfig};
use crate::amqp::{AMQPClass, FieldTable, Frame, FrameDecoder, Method, ReplyCode};
use crate::base::{ChannelId, Millis};

const ZERO: ChannelId = ChannelId(0);

/// Where the connection is in its life (§3.8).
#[derive(Debug)]
pub(super) enum State {
    /// Nothing but bytes of the protocol header yet.
    Header,
    /// connection.start is out.
    Starting,
    /// The broker checks the login.
    LoggingIn,
    /// connection.tune is out.
    Tuning,
    /// Tuned; connection.open is expected.
    Tuned,
    /// The broker opens the vhost.
    Opening,
    Running,
    /// The client has asked to close (`None`), or an error ends the connection: what its channels were told before comes to
    /// its end first.
    Finishing(Option<Failure>),
    /// The broker tidies up; then close goes out (`Some`), or close-ok to the client's close (`None`).
    Closing(Option<Failure>),
    /// connection.close is out.
    AwaitingCloseOk,
    /// Failed before a close frame would be understood: silent until the brake ends.
    Braking,
    /// The socket is to be closed.
    Closed,
}

/// A connection-level request whose answer is to come. Answers come in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Login,
    Open,
    UpdateSecret,
    Close,
}

/// What the client said of itself.
#[derive(Debug, Default)]
pub(super) struct Client {
    pub properties: FieldTable,
    pub name: Option<String>,
    pub blocked_notify: bool,
    pub authentication_failure_close: bool,
}

/// One client connection's protocol machine.
#[derive(Debug)]
pub struct Connection {
    pub(super) core: Core,
    pub(super) channels: Channels,
    pub(super) decoder: FrameDecoder,
    pub(super) state: State,
    pub(super) asked: VecDeque<Asked>,
    pub(super) timers: Timers,
    pub(super) client: Client,
    pub(super) vhost: Option<String>,
    /// By which SASL mechanism the client logs in.
    pub(super) mechanism: String,
    /// Negotiated; 0 = no limit.
    pub(super) channel_max: u16,
    pub(super) heartbeat: Millis,
    /// Frames cannot be told apart any more: input is read and dropped.
    pub(super) deaf: bool,
    /// The broker stops.
    pub(super) stopping: bool,
    pub(super) close_reason: Option<String>,
    /// Channels with confirms to flush.
    pub(super) dirty: Vec<ChannelId>,
    alarm: Option<String>,
    /// The alarm met content of this connection: nothing is read until it ends.
    pub(super) blocked: bool,
}

impl Connection {
    /// A connection just accepted, waiting for the protocol header.
    #[must_use]
    pub fn new(config: Arc<SessionConfig>, now: Millis) -> Self {
        Self {
            timers: Timers::new(now.plus(config.handshake_timeout)),
            decoder: FrameDecoder::new(config.frame_max_initial),
            core: Core::new(config, now),
            channels: Channels::default(),
            state: State::Header,
            asked: VecDeque::new(),
            client: Client::default(),
            vhost: None,
            mechanism: String::new(),
            channel_max: 0,
            heartbeat: Millis(0),
            deaf: false,
            stopping: false,
            close_reason: None,
            dirty: Vec::new(),
            alarm: None,
            blocked: false,
        }
    }

    /// Takes complete frames from the front of `input` while [`Self::wants_input`]; what is left must be given again,
    /// with more behind it, once it does.
    pub fn handle_input(&mut self, input: &mut BytesMut, now: Millis) {
        self.core.now = now;
        while self.wants_input() && !input.is_empty() {
            if self.deaf || matches!(self.state, State::Braking) {
                input.clear();
                return;
            }
            if matches!(self.state, State::Header) {
                if !self.protocol_header(input) {
                    return;
                }
                continue;
            }
            let before = input.len();
            match self.decoder.decode(input) {
                Ok(Some(frame)) => {
                    let bytes = before - input.len();
                    if let Err(failure) = self.frame(frame, bytes) {
                        self.fail(failure);
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    self.deaf = true;
                    self.fail((error, self.decoder.failed_method()));
                }
            }
        }
    }

    /// Whether more input would be taken: not while an answer at connection level is awaited, the alarm blocks a
    /// publisher, busy channels hold too much, or too many requests wait to be polled.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        match self.state {
            State::Header
            | State::Starting
            | State::Tuning
            | State::Tuned
            | State::AwaitingCloseOk
            | State::Braking => true,
            State::Running => !self.blocked && self.asked.is_empty() && self.core.has_room(),
            State::LoggingIn
            | State::Opening
            | State::Finishing(_)
            | State::Closing(_)
            | State::Closed => false,
        }
    }

    /// Raises (`Some`: `low on memory` …) or clears the resource alarm. Only a connection that sends content is
    /// stopped by it, and told if it can take that (§3.6).
    pub fn set_blocked(&mut self, reason: Option<&str>) {
        self.alarm = reason.map(str::to_owned);
        if self.alarm.is_some() || !std::mem::take(&mut self.blocked) {
            return;
        }
        self.timers.received();
        if self.client.blocked_notify && matches!(self.state, State::Running) {
            let unblocked = Class::Unblocked(Unblocked {});
            self.core.send(ZERO, &unblocked.class());
        }
    }

    /// The next thing to do. Poll until `None` after every call that takes input or an answer, then offer the rest
    /// of the input again.
    pub fn poll_request(&mut self) -> Option<Request> {
        self.core.poll()
    }

    fn frame(&mut self, frame: Frame, bytes: usize) -> Result<(), Failure> {
        let (channel, piece) = match frame {
            Frame::Heartbeat { channel: ZERO } => return Ok(()),
            Frame::Heartbeat { channel } => {
                let text = format!("type 8, heartbeat frame on channel {channel}");
                return self.unexpected(&text);
            }
            Frame::Method {
                channel: ZERO,
                method,
            } => return self.connection_method(method),
            Frame::Method { channel, method } => (channel, Piece::Method(method)),
            Frame::Header { channel, header } => (channel, Piece::Header(header)),
            Frame::Body { channel, body } => (channel, Piece::Body(body)),
        };
        if channel == ZERO {
            let kind = match piece {
                Piece::Header(_) => 2,
                _ => 3,
            };
            return self.unexpected(&format!("type {kind}, content frame on channel 0"));
        }
        if !matches!(self.state, State::Running) {
            return self.unexpected("channel frame before connection.open-ok");
        }
        let content = !matches!(piece, Piece::Method(_));
        self.channel_frame(channel, piece, bytes)?;
        if content {
            self.obey_alarm();
        }
        Ok(())
    }

    /// 505; but once close is out any frame may come.
    fn unexpected(&self, text: &str) -> Result<(), Failure> {
        if matches!(self.state, State::AwaitingCloseOk) {
            return Ok(());
        }
        Err((error(ReplyCode::UnexpectedFrame, text), (0, 0)))
    }

    fn obey_alarm(&mut self) {
        let Some(reason) = &self.alarm else { return };
        self.blocked = true;
        if self.client.blocked_notify && matches!(self.state, State::Running) {
            let blocked = Class::Blocked(Blocked {
                reason: short(reason),
            });
            self.core.send(ZERO, &blocked.class());
        }
    }

    fn channel_frame(&mut self, id: ChannelId, piece: Piece, bytes: usize) -> Result<(), Failure> {
        let Some(channel) = self.channels.get(id) else {
            return match piece {
                Piece::Method(method) => self.unopened(id, &method),
                _ => self.unexpected("expected method frame, got non method frame instead"),
            };
        };
        let keep_max = match channel.stage {
            Stage::Open => self.core.config.max_message_size,
            Stage::Failing | Stage::AwaitingCloseOk => 0,
        };
        let ids = match channel.content {
            Content::Method => (0, 0),
            Content::Header(_) | Content::Body(_) => (60, 40),
        };
        match channel.content.take(piece, keep_max) {
            Ok(Some(command)) => self.command(id, command, bytes),
            Ok(None) => Ok(()),
            Err(error) => Err((error, ids)),
        }
    }

    /// A complete command for a channel, open or not.
    pub(super) fn command(
        &mut self,
        id: ChannelId,
        command: Command,
        bytes: usize,
    ) -> Result<(), Failure> {
        let Some(channel) = self.channels.get(id) else {
            return match command {
                Command::Method(method) => self.unopened(id, &method),
                Command::Publish(_) => Err((expected_open(), (60, 40))),
            };
        };
        if channel.stage != Stage::Open {
            if channel.discard(&mut self.core, &command) {
                self.channels.remove(id);
            }
            return Ok(());
        }
        let done = channel.accept(&mut self.core, command, bytes);
        self.soften(id, done)
    }

    /// Only channel.open may come on a number that is not open.
    fn unopened(&mut self, id: ChannelId, method: &Method) -> Result<(), Failure> {
        let open = matches!(method, Method::Other(class)
            if matches!(**class, AMQPClass::Channel(ChannelClass::Open(_))));
        if !open {
            return Err((expected_open(), ids(method)));
        }
        let (count, max) = (self.channels.len(), usize::from(self.channel_max));
        if max != 0 && count >= max {
            let text = format!(
                "number of channels opened ({count}) has reached the negotiated channel_max ({max})"
            );
            return Err((error(ReplyCode::NotAllowed, text), (20, 10)));
        }
        self.channels.insert(Channel::open(id, &mut self.core));
        Ok(())
    }

    /// A channel's error closes the channel, if its code says so; else it is passed on.
    pub(super) fn soften(
        &mut self,
        id: ChannelId,
        result: Result<(), Failure>,
    ) -> Result<(), Failure> {
        match result {
            Err((error, ids)) if !error.code.is_hard() => {
                if let Some(channel) = self.channels.get(id) {
                    channel.fail(&mut self.core, error, ids);
                }
                Ok(())
            }
            Err(hard) => {
                if let Some(channel) = self.channels.get(id) {
                    channel.give_up(&mut self.core);
                }
                Err(hard)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Bytes to send; the shell takes from its front.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.core.output
    }

    /// Whether the shell closes the socket once the output is flushed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Why the connection failed, for the log; `None` if the client closed it.
    #[must_use]
    pub fn close_reason(&self) -> Option<&str> {
        self.close_reason.as_deref()
    }

    /// The client's `connection_name`.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.client.name.as_deref()
    }

    /// The client's properties, as sent.
    #[must_use]
    pub fn client_properties(&self) -> &FieldTable {
        &self.client.properties
    }

    /// The user, once logged in.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        (!self.core.user.is_empty()).then_some(&self.core.user)
    }

    /// The SASL mechanism the client chose, once it did.
    #[must_use]
    pub fn mechanism(&self) -> &str {
        &self.mechanism
    }

    /// The vhost, once open.
    #[must_use]
    pub fn vhost(&self) -> Option<&str> {
        self.vhost.as_deref()
    }

    /// Bytes of a frame, negotiated; 0 = no limit, or not yet tuned.
    #[must_use]
    pub fn frame_max(&self) -> u32 {
        self.core.frame_max
    }

    /// Channels open, or waiting for their close-ok.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        self.channels.len()
    }
}

fn expected_open() -> crate::amqp::ProtocolError {
    error(ReplyCode::ChannelError, "expected 'channel.open'")
}
