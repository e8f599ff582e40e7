//! What a session tells of itself to listings; costs nothing until it is asked.

use super::channel::Mode;
use super::connection::Connection;
use crate::base::{ChannelId, ConsumerId, Millis};

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
    /// Published and not confirmed.
    pub unconfirmed: u64,
    /// Publishes and settlements waiting for tx.commit.
    pub uncommitted: (usize, usize),
    /// Publisher confirms are on.
    pub confirm: bool,
    /// In transaction mode.
    pub transactional: bool,
    /// Its consumers and their tags.
    pub consumers: Vec<(ConsumerId, String)>,
}

fn unconfirmed(mode: &Mode) -> u64 {
    match mode {
        Mode::Confirm(confirms) => confirms.outstanding(),
        Mode::Plain | Mode::Tx(_) => 0,
    }
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
                unconfirmed: unconfirmed(&channel.mode),
                uncommitted: match &channel.mode {
                    Mode::Tx(transaction) => transaction.sizes(),
                    Mode::Plain | Mode::Confirm(_) => (0, 0),
                },
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

    /// What a channel holds: unsettled and unconfirmed messages.
    #[must_use]
    pub fn load(&mut self, channel: ChannelId) -> Option<[u64; 2]> {
        let channel = self.channels.get(channel)?;
        Some([channel.unacked.len() as u64, unconfirmed(&channel.mode)])
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
