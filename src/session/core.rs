//! What every channel of a connection shares: the output, the requests waiting to be polled, the login.

use std::collections::VecDeque;
use std::sync::Arc;

use amq_protocol::protocol::{basic, channel, confirm, connection, exchange, queue, tx};
use bytes::BytesMut;

use super::{ChannelRequest, Request, SessionConfig, Settlement};
use crate::amqp::{AMQPClass, Method, ProtocolError, ReplyCode, ShortString, encode};
use crate::base::{ChannelId, Millis};

/// Requests that may wait to be polled before the session wants no more input.
const REQUESTS_MAX: usize = 1024;

/// What a request is charged beyond its body, bytes.
const REQUEST_BYTES: usize = 256;

/// An error with the class and method id of what failed; (0, 0) if it was no method.
pub(super) type Failure = (ProtocolError, (u16, u16));

#[derive(Debug)]
pub(super) struct Core {
    pub config: Arc<SessionConfig>,
    pub output: BytesMut,
    /// The latest time seen.
    pub now: Millis,
    /// Negotiated, bytes; 0 = no limit.
    pub frame_max: u32,
    pub user: String,
    pub impersonator: bool,
    /// The client takes basic.cancel.
    pub cancel_notify: bool,
    /// Bytes of all channels' backlogs.
    pub backlog_bytes: usize,
    requests: VecDeque<Request>,
    request_bytes: usize,
}

impl Core {
    pub fn new(config: Arc<SessionConfig>, now: Millis) -> Self {
        Self {
            config,
            output: BytesMut::new(),
            now,
            frame_max: 0,
            user: String::new(),
            impersonator: false,
            cancel_notify: false,
            backlog_bytes: 0,
            requests: VecDeque::new(),
            request_bytes: 0,
        }
    }

    pub fn send(&mut self, channel: ChannelId, method: &AMQPClass) {
        encode::method(&mut self.output, channel, method);
    }

    pub fn ask(&mut self, request: Request) {
        self.request_bytes += cost(&request);
        self.requests.push_back(request);
    }

    pub fn ask_channel(&mut self, channel: ChannelId, request: ChannelRequest) {
        self.ask(Request::Channel(channel, request));
    }

    pub fn poll(&mut self) -> Option<Request> {
        let request = self.requests.pop_front()?;
        self.request_bytes -= cost(&request);
        Some(request)
    }

    /// Adds a settlement to the last request if that settles on the same channel, so that a burst of acks is one.
    pub fn settle(&mut self, id: ChannelId, settlement: Settlement) {
        if let Some(Request::Channel(last, ChannelRequest::Settle(list))) = self.requests.back_mut()
            && *last == id
        {
            let before = list.len();
            join(list, settlement);
            self.request_bytes += (list.len() - before) * size_of::<Settlement>();
        } else {
            self.ask_channel(id, ChannelRequest::Settle(vec![settlement]));
        }
    }

    /// Drops a failed channel's requests that nobody has polled, but for settlements, which its client meant.
    /// Whether one of them had an answer to come.
    pub fn forget(&mut self, id: ChannelId) -> bool {
        let mut awaited = false;
        let mut bytes = 0;
        self.requests.retain(|request| {
            let Request::Channel(channel, of_channel) = request else {
                return true;
            };
            if *channel != id || matches!(of_channel, ChannelRequest::Settle(_)) {
                return true;
            }
            awaited |= !matches!(of_channel, ChannelRequest::Publish(_));
            bytes += cost(request);
            false
        });
        self.request_bytes -= bytes;
        awaited
    }

    /// Whether another frame may be read.
    pub fn has_room(&self) -> bool {
        let max = self.config.backlog_bytes_max;
        self.requests.len() < REQUESTS_MAX && self.request_bytes <= max && self.backlog_bytes <= max
    }
}

fn cost(request: &Request) -> usize {
    let body = match request {
        Request::Channel(_, ChannelRequest::Publish(publish)) => {
            publish.body.size + publish.properties.0.len()
        }
        Request::Channel(_, ChannelRequest::CheckPublish(publish)) => {
            publish.body.size + publish.properties.0.len()
        }
        Request::Channel(_, ChannelRequest::Settle(list)) => list.len() * size_of::<Settlement>(),
        _ => 0,
    };
    REQUEST_BYTES + body
}

/// Runs a new settlement may be joined to, counted from the end: consumers of one channel take turns.
const JOIN_LOOK_BACK: usize = 8;

/// Adds a settlement to a list, lengthening one of its last runs where it follows on.
pub(super) fn join(list: &mut Vec<Settlement>, new: Settlement) {
    let recent = list.iter_mut().rev().take(JOIN_LOOK_BACK);
    for run in recent {
        if run.consumer == new.consumer {
            if run.outcome == new.outcome && run.last.checked_add(1) == Some(new.first) {
                run.last = new.last;
                return;
            }
            break;
        }
    }
    list.push(new);
}

/// A string of ours, or one echoed, as a short string; cut if it were too long for one.
pub(super) fn short(text: &str) -> ShortString {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    ShortString::try_new(&text[..end]).unwrap_or_default()
}

/// A short error.
pub(super) fn error(code: ReplyCode, text: impl Into<String>) -> ProtocolError {
    ProtocolError::new(code, text)
}

/// Class and method id.
pub(super) fn ids(method: &Method) -> (u16, u16) {
    match method {
        Method::Publish(_) => (60, 40),
        Method::Qos { .. } => (60, 10),
        Method::Get { .. } => (60, 70),
        Method::Ack { .. } => (60, 80),
        Method::Reject { .. } => (60, 90),
        Method::Nack { .. } => (60, 120),
        Method::Other(class) => (class.get_amqp_class_id(), class.get_amqp_method_id()),
        Method::Unknown {
            class_id,
            method_id,
        } => (*class_id, *method_id),
    }
}

macro_rules! wrap {
    ($($module:ident => $class:ident),*) => {$(
        impl IntoClass for $module::AMQPMethod {
            fn class(self) -> AMQPClass {
                AMQPClass::$class(self)
            }
        }
    )*};
}

/// Any class's method as [`AMQPClass`].
pub(super) trait IntoClass {
    fn class(self) -> AMQPClass;
}

wrap!(basic => Basic, connection => Connection, channel => Channel, exchange => Exchange, queue => Queue, tx => Tx,
    confirm => Confirm);

#[cfg(test)]
mod test {
    use super::*;
    use crate::base::ConsumerId;
    use crate::session::SettleOutcome::{Ack, Reject};

    #[test]
    fn neighbours_of_one_consumer_join_even_when_consumers_take_turns() {
        let mut list = Vec::new();
        let one = |consumer, no, outcome| Settlement {
            consumer: ConsumerId(consumer),
            first: no,
            last: no,
            outcome,
        };
        for no in 1..=3 {
            join(&mut list, one(1, no, Ack));
            join(&mut list, one(2, no + 10, Ack));
        }
        join(&mut list, one(1, 4, Reject));
        join(&mut list, one(1, 5, Ack));
        let runs: Vec<_> = list
            .iter()
            .map(|s| (s.consumer.0, s.first, s.last))
            .collect();
        assert_eq!(runs, [(1, 1, 3), (2, 11, 13), (1, 4, 4), (1, 5, 5)]);
    }
}
