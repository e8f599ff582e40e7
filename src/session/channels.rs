//! The open channels by number. Numbers may be anything, so they go through a map; but the channel used last is
//! remembered, since frames of one channel come in runs.

use hashbrown::HashMap;

use super::channel::{Channel, Stage};
use crate::base::ChannelId;

#[derive(Debug, Default)]
pub(super) struct Channels {
    slots: Vec<Option<Channel>>,
    free: Vec<usize>,
    by_number: HashMap<ChannelId, usize>,
    last: Option<(ChannelId, usize)>,
}

impl Channels {
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    pub fn get(&mut self, id: ChannelId) -> Option<&mut Channel> {
        let slot = match self.last {
            Some((last, slot)) if last == id => slot,
            _ => {
                let slot = *self.by_number.get(&id)?;
                self.last = Some((id, slot));
                slot
            }
        };
        self.slots.get_mut(slot)?.as_mut()
    }

    /// The channel, unless an error has closed it from our side.
    pub fn open(&mut self, id: ChannelId) -> Option<&mut Channel> {
        self.get(id).filter(|channel| channel.stage == Stage::Open)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Channel> {
        self.slots.iter().flatten()
    }

    pub fn insert(&mut self, channel: Channel) {
        self.remove(channel.id);
        let id = channel.id;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(channel);
        self.by_number.insert(id, slot);
        self.last = Some((id, slot));
    }

    pub fn remove(&mut self, id: ChannelId) -> Option<Channel> {
        let slot = self.by_number.remove(&id)?;
        self.last = None;
        self.free.push(slot);
        self.slots[slot].take()
    }

    /// Whether any channel waits for an answer, and so may hold commands behind it.
    pub fn any_busy(&self) -> bool {
        self.slots
            .iter()
            .flatten()
            .any(|channel| channel.asked.is_some())
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
