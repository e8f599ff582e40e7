//! From the protocol header to connection.open-ok, and the connection class while running (§3.1 to §3.6).

use amq_protocol::protocol::connection::{
    AMQPMethod as Class, CloseOk, OpenOk, Start, StartOk, Tune, TuneOk, UpdateSecretOk,
};
use bytes::{Buf, Bytes, BytesMut};

use super::connection::{Asked, Client, Connection, State};
use super::core::{Failure, IntoClass, error, ids};
use super::{Answer, Request, sasl};
use crate::amqp::{AMQPClass, AMQPValue, FieldTable, Method, ReplyCode};
use crate::base::{ChannelId, Millis};

const ZERO: ChannelId = ChannelId(0);

/// The only protocol we speak, and what a client that speaks another is told.
const HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
/// 0-9 as old clients announce it; the same from there on.
const HEADER_OLD: &[u8; 8] = b"AMQP\x01\x01\x00\x09";

/// Smallest frame-max a client may choose, bytes. RabbitMQ asks for 8192 since 4.1, which shuts out clients that
/// never meant harm.
const FRAME_MAX_MIN: u32 = 4096;

fn refused(code: ReplyCode, text: impl Into<String>, method: u16) -> Failure {
    (error(code, text), (10, method))
}

impl Connection {
    /// Takes the protocol header; false while it is not complete.
    pub(super) fn protocol_header(&mut self, input: &mut BytesMut) -> bool {
        let Some(header) = input.first_chunk::<8>() else {
            return false;
        };
        if header != HEADER && header != HEADER_OLD {
            self.core.output.extend_from_slice(HEADER);
            input.clear();
            self.closed(Some("unsupported protocol header".to_owned()));
            return false;
        }
        input.advance(HEADER.len());
        let start = Class::Start(Start {
            version_major: 0,
            version_minor: 9,
            server_properties: self.core.config.server_properties.clone(),
            mechanisms: self.core.config.mechanisms.as_str().into(),
            locales: "en_US".into(),
        });
        self.core.send(ZERO, &start.class());
        self.state = State::Starting;
        true
    }

    /// A method on channel 0.
    pub(super) fn connection_method(&mut self, method: Method) -> Result<(), Failure> {
        let method_ids = ids(&method);
        let class = match method {
            Method::Other(class) => *class,
            Method::Unknown { .. } if matches!(self.state, State::Running) => {
                return Err((
                    error(ReplyCode::CommandInvalid, "unknown method"),
                    method_ids,
                ));
            }
            _ => return self.unexpected_method(method_ids),
        };
        let AMQPClass::Connection(method) = class else {
            return self.unexpected_method(method_ids);
        };
        match (&self.state, method) {
            (State::AwaitingCloseOk, Class::CloseOk(_)) => {
                self.closed(None);
                Ok(())
            }
            (State::AwaitingCloseOk, Class::Close(_)) => {
                self.core.send(ZERO, &Class::CloseOk(CloseOk {}).class());
                Ok(())
            }
            (_, Class::Close(_)) => {
                self.begin_finish(None);
                Ok(())
            }
            (State::Starting, Class::StartOk(start_ok)) => self.start_ok(start_ok),
            (State::Tuning, Class::TuneOk(tune_ok)) => self.tune_ok(&tune_ok),
            (State::Tuned, Class::Open(open)) => {
                let vhost = String::from(open.virtual_host);
                self.vhost = Some(vhost.clone());
                self.state = State::Opening;
                self.ask(Asked::Open, Request::Open { vhost });
                Ok(())
            }
            (State::Running, Class::UpdateSecret(update)) => {
                let secret = Bytes::copy_from_slice(update.new_secret.as_bytes());
                self.ask(Asked::UpdateSecret, Request::UpdateSecret { secret });
                Ok(())
            }
            _ => self.unexpected_method(method_ids),
        }
    }

    fn unexpected_method(&self, ids: (u16, u16)) -> Result<(), Failure> {
        let state = match self.state {
            State::AwaitingCloseOk => return Ok(()),
            State::Starting => "starting",
            State::Tuning => "tuning",
            State::Tuned => "opening",
            _ => "running",
        };
        let text = format!("unexpected method in connection state {state}");
        Err((error(ReplyCode::ChannelError, text), ids))
    }

    pub(super) fn ask(&mut self, asked: Asked, request: Request) {
        self.asked.push_back(asked);
        self.core.ask(request);
    }

    fn start_ok(&mut self, start_ok: StartOk) -> Result<(), Failure> {
        self.client = client(start_ok.client_properties);
        self.core.cancel_notify = capability(&self.client.properties, "consumer_cancel_notify");
        let mechanism = String::from(start_ok.mechanism);
        let mut offered = self.core.config.mechanisms.split(' ');
        if !offered.any(|one| one == mechanism) {
            let text = format!("unknown authentication mechanism '{mechanism}'");
            return Err(refused(ReplyCode::CommandInvalid, text, 11));
        }
        let Some(credentials) = sasl::credentials(&mechanism, start_ok.response.as_bytes()) else {
            let text = format!("response of mechanism {mechanism} is malformed");
            return Err(refused(ReplyCode::SyntaxError, text, 11));
        };
        self.state = State::LoggingIn;
        self.mechanism.clone_from(&mechanism);
        let login = Request::Login {
            mechanism,
            credentials,
        };
        self.ask(Asked::Login, login);
        Ok(())
    }

    fn tune_ok(&mut self, tune_ok: &TuneOk) -> Result<(), Failure> {
        let offered = &self.core.config;
        within(
            "frame_max",
            tune_ok.frame_max,
            FRAME_MAX_MIN,
            offered.frame_max,
        )?;
        within(
            "channel_max",
            u32::from(tune_ok.channel_max),
            1,
            u32::from(offered.channel_max),
        )?;
        self.core.frame_max = tune_ok.frame_max;
        self.channel_max = tune_ok.channel_max;
        self.decoder.set_frame_max(tune_ok.frame_max);
        self.heartbeat = Millis(u64::from(tune_ok.heartbeat) * 1000);
        self.timers.begin_heartbeats(self.heartbeat, self.core.now);
        self.state = State::Tuned;
        Ok(())
    }

    /// Answers a connection-level request. One to a connection that closes meanwhile is dropped.
    pub fn answer(&mut self, answer: Answer) {
        let Some(asked) = self.asked.pop_front() else {
            return;
        };
        match (asked, &self.state, answer) {
            (Asked::Close, _, _) => self.finish_close(),
            (_, State::Closing(_) | State::AwaitingCloseOk | State::Braking | State::Closed, _) => {
            }
            (Asked::Login, _, Answer::LoggedIn { user, impersonator }) => {
                self.core.user = user;
                self.core.impersonator = impersonator;
                self.state = State::Tuning;
                let tune = Class::Tune(Tune {
                    channel_max: self.core.config.channel_max,
                    frame_max: self.core.config.frame_max,
                    heartbeat: self.core.config.heartbeat_s,
                });
                self.core.send(ZERO, &tune.class());
            }
            (Asked::Login, State::LoggingIn, Answer::LoginRefused) => self.refuse_login(),
            (Asked::Open, _, Answer::Opened) => {
                self.state = State::Running;
                self.timers.handshake_done();
                self.core.send(ZERO, &Class::OpenOk(OpenOk {}).class());
            }
            (Asked::UpdateSecret, _, Answer::Done) => {
                let ok = Class::UpdateSecretOk(UpdateSecretOk {});
                self.core.send(ZERO, &ok.class());
            }
            (asked, _, answer) => {
                let ids = match asked {
                    Asked::Login => (10, 11),
                    Asked::Open => (10, 40),
                    Asked::UpdateSecret | Asked::Close => (10, 70),
                };
                let error = match answer {
                    Answer::Failed(error) => error,
                    _ => error(ReplyCode::InternalError, ""),
                };
                self.fail((error, ids));
            }
        }
    }
}

/// The client's choice against our offer; only without a limit of ours may it choose none.
fn within(name: &str, chosen: u32, min: u32, offered: u32) -> Result<(), Failure> {
    let (bound, chosen) = match (chosen, offered) {
        (0, 0) => return Ok(()),
        (0, _) => (
            format!("is higher than the maximum allowed value ({offered})"),
            "0 (no limit)".to_owned(),
        ),
        (chosen, _) if chosen < min => (
            format!("is lower than the minimum allowed value ({min})"),
            chosen.to_string(),
        ),
        (chosen, offered) if offered != 0 && chosen > offered => (
            format!("is higher than the maximum allowed value ({offered})"),
            chosen.to_string(),
        ),
        _ => return Ok(()),
    };
    let text = format!("negotiated {name} = {chosen} {bound}");
    Err(refused(ReplyCode::NotAllowed, text, 31))
}

fn client(properties: FieldTable) -> Client {
    let name = match properties.inner().get("connection_name") {
        Some(AMQPValue::LongString(name)) => Some(name.to_string()),
        _ => None,
    };
    Client {
        name,
        blocked_notify: capability(&properties, "connection.blocked"),
        authentication_failure_close: capability(&properties, "authentication_failure_close"),
        properties,
    }
}

fn capability(properties: &FieldTable, name: &str) -> bool {
    match properties.inner().get("capabilities") {
        Some(AMQPValue::FieldTable(capabilities)) => {
            capabilities.inner().get(name) == Some(&AMQPValue::Boolean(true))
        }
        _ => false,
    }
}
