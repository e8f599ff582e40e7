//! How a connection ends (§3.8), by whichever side, and what ends it by itself.

use amq_protocol::protocol::connection::{AMQPMethod as Class, Close, CloseOk};

use super::Request;
use super::connection::{Asked, Connection, State};
use super::core::{Failure, IntoClass, error, short};
use super::timers::Due;
use crate::amqp::{ProtocolError, ReplyCode, encode};
use crate::base::{ChannelId, Millis};

const ZERO: ChannelId = ChannelId(0);

/// How long a client is kept waiting after a failed handshake, how long after framing was lost, and how long a broker that
/// stops waits for a client.
const BRAKE: Millis = Millis(3_000);

/// Longest wait for close-ok.
const CLOSE_WAIT_MAX: Millis = Millis(30_000);

impl Connection {
    /// Closes the connection with an error not tied to a method.
    pub fn fail_connection(&mut self, error: ProtocolError) {
        self.fail_at_once((error, (0, 0)));
    }

    /// Closes the connection with 320 CONNECTION_FORCED and this explanation; at once if it is not open yet.
    pub fn shutdown(&mut self, text: &str) {
        self.fail_at_once((error(ReplyCode::ConnectionForced, text), (0, 0)));
        if matches!(self.state, State::Braking) {
            self.closed(None);
        }
    }

    /// [`Self::shutdown`] because the broker stops: it does not wait long for a client that does not answer.
    // RabbitMQ: rabbit_reader.erl, handle_other 'EXIT' of the parent does not wait at all.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.shutdown("broker forced connection closure with reason 'shutdown'");
    }

    /// An error of the connection, by the fault of its client. The first one counts. What other channels were told before
    /// is done all the same, as when the client closes.
    pub(super) fn fail(&mut self, failure: Failure) {
        if matches!(self.state, State::Running) {
            self.close_reason = Some(failure.0.to_string());
            self.begin_finish(Some(failure));
        } else {
            self.fail_at_once(failure);
        }
    }

    fn fail_at_once(&mut self, failure: Failure) {
        match &mut self.state {
            State::Header | State::Starting | State::LoggingIn | State::Tuning => {
                self.close_reason = Some(failure.0.to_string());
                self.state = State::Braking;
                self.timers.close(Some(self.core.now.plus(BRAKE)));
            }
            State::Tuned | State::Opening | State::Running => {
                self.close_reason = Some(failure.0.to_string());
                self.begin_close(Some(failure));
            }
            // The client waits for its close-ok and would not know what to do with a close.
            State::Finishing(None) => {
                self.close_reason = Some(failure.0.to_string());
                self.begin_close(None);
            }
            State::Finishing(first) => {
                let first = first.take();
                self.begin_close(first);
            }
            State::Closing(_) | State::AwaitingCloseOk | State::Braking | State::Closed => {}
        }
    }

    /// The connection is about to close. Publishes and acks sent before count, so busy channels work off what waits, for as
    /// long as close-ok would be awaited.
    pub(super) fn begin_finish(&mut self, failure: Option<Failure>) {
        self.timers.close(Some(self.core.now.plus(CLOSE_WAIT_MAX)));
        self.state = State::Finishing(failure);
        self.finish_channels();
    }

    /// Goes on to close once no channel waits for anything.
    pub(super) fn finish_channels(&mut self) {
        if let State::Finishing(failure) = &mut self.state
            && !self.channels.any_busy()
        {
            let failure = failure.take();
            self.begin_close(failure);
        }
    }

    /// Channels and their business are dropped; the frame goes out when the broker has tidied up.
    pub(super) fn begin_close(&mut self, failure: Option<Failure>) {
        self.flush_confirms();
        self.channels.clear();
        self.core.backlog_bytes = 0;
        self.timers.close(None);
        self.state = State::Closing(failure);
        self.ask(Asked::Close, Request::CloseConnection);
    }

    /// The broker has tidied up.
    pub(super) fn finish_close(&mut self) {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Closing(None) => {
                self.core.send(ZERO, &Class::CloseOk(CloseOk {}).class());
                self.closed(None);
            }
            State::Closing(Some((error, ids))) => {
                self.send_close(&error, ids);
                let wait = match self.heartbeat {
                    _ if self.deaf || self.stopping => BRAKE,
                    Millis(0) => CLOSE_WAIT_MAX,
                    heartbeat => heartbeat.min(CLOSE_WAIT_MAX),
                };
                self.await_close_ok(wait);
            }
            state => self.state = state,
        }
    }

    /// Told to clients that understand it; the others find out by themselves.
    pub(super) fn refuse_login(&mut self) {
        let mechanism = &self.mechanism;
        let refused = error(
            ReplyCode::AccessRefused,
            format!(
                "Login was refused using authentication mechanism {mechanism}. For details see the broker logfile."
            ),
        );
        if self.client.authentication_failure_close {
            self.close_reason = Some(refused.to_string());
            self.send_close(&refused, (0, 0));
            self.await_close_ok(BRAKE);
        } else {
            self.fail((refused, (0, 0)));
        }
    }

    fn send_close(&mut self, error: &ProtocolError, ids: (u16, u16)) {
        let close = Class::Close(Close {
            reply_code: error.code.code(),
            reply_text: short(&error.reply_text()),
            class_id: ids.0,
            method_id: ids.1,
        });
        self.core.send(ZERO, &close.class());
    }

    fn await_close_ok(&mut self, wait: Millis) {
        self.state = State::AwaitingCloseOk;
        self.timers.close(Some(self.core.now.plus(wait)));
    }

    /// The end.
    pub(super) fn closed(&mut self, reason: Option<String>) {
        self.state = State::Closed;
        self.timers.close(None);
        if self.close_reason.is_none() {
            self.close_reason = reason;
        }
    }

    fn give_up_waiting(&mut self) {
        if let State::Finishing(failure) = &mut self.state {
            let failure = failure.take();
            self.begin_close(failure);
        }
    }

    /// Bytes were written to the socket.
    pub fn note_sent(&mut self, now: Millis) {
        self.core.now = now;
        self.timers.sent(now);
    }

    /// Before deliveries, for the clients whose deliveries say when they were sent; the clock is asked only then.
    pub fn note_time(&mut self, clock: impl FnOnce() -> Millis) {
        if self.core.config.stamps.sent {
            self.core.now = clock();
        }
    }

    /// Bytes were read from the socket.
    pub fn note_received(&mut self, now: Millis) {
        self.core.now = now;
        self.timers.received();
    }

    /// When [`Self::handle_timeout`] is to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        self.timers.next()
    }

    /// Does what is due. Harmless when nothing is.
    pub fn handle_timeout(&mut self, now: Millis) {
        self.core.now = now;
        while let Some(due) = self.timers.due(now, self.wants_input()) {
            match due {
                Due::SendHeartbeat => encode::heartbeat(&mut self.core.output),
                Due::HandshakeOver => self.closed(Some("handshake timeout".to_owned())),
                Due::Close if matches!(self.state, State::Finishing(_)) => self.give_up_waiting(),
                Due::Close => self.closed(None),
                Due::ClientDead => {
                    let seconds = self.heartbeat.0 / 1000;
                    self.closed(Some(format!(
                        "missed heartbeats from client, timeout: {seconds}s"
                    )));
                }
            }
        }
    }
}
