//! What a session tells of itself to listings; costs nothing until it is asked.

use super::channel::Mode;
use super::connection::Connection;
use crate::base::{ConsumerId, Millis};

/// One channel as it is.
#[derive(Clone, Debug)]
pub struct ChannelState {
    /// Its number.
    pub number: u16,
    /// basic.qos global=false; 0 = unlimited.
    pub prefetch: u16,
    /// basic.qos global=true; 0 = none.
    pub global_prefetch: u16,
    /// Delivered and not settled.
    pub unacked: usize,
    /// Publisher confirms are on.
    pub confirm: bool,
    /// In transaction mode.
    pub transactional: bool,
    /// Its consumers and their tags.
    pub consumers: Vec<(ConsumerId, String)>,
}

impl Connection {
    /// Every channel, by number.
    #[must_use]
    pub fn channel_states(&self) -> Vec<ChannelState> {
        let mut states: Vec<ChannelState> = self
            .channels
            .iter()
            .map(|channel| ChannelState {
                number: channel.id.0,
                prefetch: channel.prefetch,
                global_prefetch: channel.limit,
                unacked: channel.unacked.len(),
                confirm: matches!(channel.mode, Mode::Confirm(_)),
                transactional: matches!(channel.mode, Mode::Tx(_)),
                consumers: channel
                    .tags
                    .iter()
                    .map(|(tag, consumer)| (*consumer, tag.clone()))
                    .collect(),
            })
            .collect();
        states.sort_unstable_by_key(|state| state.number);
        states
    }

    /// Whether an alarm stops this connection.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Heartbeat negotiated, ms; 0 = none.
    #[must_use]
    pub fn heartbeat(&self) -> Millis {
        self.heartbeat
    }

    /// Channels negotiated; 0 = no limit.
    #[must_use]
    pub fn channel_max(&self) -> u16 {
        self.channel_max
    }
}
