//! Single active consumer: who it is, and when it hands over.
//!
//! The first to come is active until it goes. Where priority decides (quorum queues), a consumer with a higher one than the
//! active becomes its heir: the active gets nothing more, and hands over once it holds nothing of the queue.
//!
//! Invariant: `heir` is set only where priority decides, and is then attached. Cost: O(consumers) when one comes or goes.

use super::queue::{Ground, Queue};

impl Queue {
    /// Whoever came or went: who is active, and who is to be.
    pub(super) fn elect(&mut self, ground: &Ground) {
        self.heir = None;
        if self.config.single_active && self.config.active_by_priority {
            let priority = |id| ground.consumers.get(id).map_or(0, |c| c.priority);
            // Of equals the first to come; `max_by_key` would take the last.
            self.heir = self
                .attached
                .iter()
                .rev()
                .max_by_key(|id| priority(id))
                .copied();
            if let (Some(active), Some(heir)) = (self.active, self.heir)
                && priority(&active) == priority(&heir)
            {
                self.heir = Some(active);
            }
        }
        if self.active.is_none() {
            self.active = self.heir.or(self.attached.first().copied());
        }
    }

    /// Lets the heir take over if the active consumer holds nothing any more.
    pub(super) fn hand_over(&mut self, ground: &Ground) {
        let Some(heir) = self.heir.filter(|heir| self.active != Some(*heir)) else {
            return;
        };
        let active = self.active.and_then(|id| ground.consumers.get(&id));
        if active.is_none_or(|active| active.unsettled == 0) {
            self.active = Some(heir);
        }
    }
}
