use std::sync::Arc;

use bytes::BytesMut;

use super::{Answer, ChannelAnswer, Request, SessionConfig};
use crate::amqp::{FieldTable, ProtocolError};
use crate::base::{ChannelId, ConsumerId, Millis};

/// One client connection's protocol machine.
#[derive(Debug)]
#[expect(dead_code)]
pub struct Connection {
    config: Arc<SessionConfig>,
    output: BytesMut,
    client_properties: FieldTable,
}

#[expect(unused_variables, clippy::unused_self, reason = "signatures first")]
impl Connection {
    /// A connection just accepted, waiting for the protocol header.
    #[must_use]
    pub fn new(config: Arc<SessionConfig>, now: Millis) -> Self {
        Self {
            config,
            output: BytesMut::new(),
            client_properties: FieldTable::default(),
        }
    }
    /// Consumes what it can of `input`.
    pub fn handle_input(&mut self, input: &mut BytesMut, now: Millis) {}
    /// Whether more input would be taken.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        true
    }
    /// Raises (`Some`: why) or clears (`None`) the resource alarm.
    pub fn set_blocked(&mut self, reason: Option<&str>) {}
    /// The next thing to do.
    pub fn poll_request(&mut self) -> Option<Request> {
        None
    }
    /// Answers a connection-level request.
    pub fn answer(&mut self, answer: Answer) {}
    /// Answers a channel's request.
    pub fn answer_channel(&mut self, channel: ChannelId, answer: ChannelAnswer) {}
    /// Sends one message to a consumer; false if the consumer or its channel is gone.
    #[expect(clippy::too_many_arguments)]
    #[must_use]
    pub fn deliver(
        &mut self,
        channel: ChannelId,
        consumer: ConsumerId,
        lease_no: u64,
        redelivered: bool,
        exchange: &[u8],
        routing_key: &[u8],
        properties: &[u8],
        body: &[u8],
    ) -> bool {
        false
    }
    /// All publishes of the channel with numbers up to `number` (or just it) are safe.
    pub fn confirm(&mut self, channel: ChannelId, number: u64, multiple: bool) {}
    /// The publish with this number was refused.
    pub fn refuse(&mut self, channel: ChannelId, number: u64) {}
    /// Writes the acks and nacks of all confirms since the last flush.
    pub fn flush_confirms(&mut self) {}
    /// Sends basic.return.
    #[expect(clippy::too_many_arguments)]
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
    }
    /// The consumer is gone by the broker's doing: sends basic.cancel to clients that can take it.
    pub fn cancel_consumer(&mut self, channel: ChannelId, consumer: ConsumerId) {}
    /// An error found later than its method.
    pub fn fail_channel(
        &mut self,
        channel: ChannelId,
        error: ProtocolError,
        class_method: (u16, u16),
    ) {
    }
    /// Closes the connection with an error not tied to a method.
    pub fn fail_connection(&mut self, error: ProtocolError) {}
    /// Closes the connection with 320 CONNECTION_FORCED.
    pub fn shutdown(&mut self, text: &str) {}
    /// Bytes to send; the shell takes from its front.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }
    /// Bytes were written to the socket.
    pub fn note_sent(&mut self, now: Millis) {}
    /// Bytes were read from the socket.
    pub fn note_received(&mut self, now: Millis) {}
    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Millis) {}
    /// When `handle_timeout` is to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        None
    }
    /// Whether the shell closes the socket once the output is flushed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        false
    }
    /// Why, for the log.
    #[must_use]
    pub fn close_reason(&self) -> Option<&str> {
        None
    }
    /// The client's `connection_name`.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        None
    }
    /// The client's properties, as sent.
    #[must_use]
    pub fn client_properties(&self) -> &FieldTable {
        &self.client_properties
    }
    /// The user, once logged in.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        None
    }
    /// The vhost, once asked for.
    #[must_use]
    pub fn vhost(&self) -> Option<&str> {
        None
    }
    /// Bytes of a frame, negotiated; 0 = no limit.
    #[must_use]
    pub fn frame_max(&self) -> u32 {
        0
    }
    /// Open channels.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        0
    }
}
