//! The sets a node uses, found by id without a lock.
//!
//! A set that was added stays for the life of the process, so references to it live as long as the table.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::base::{NodeId, SetId};
use crate::model::set::Reply;
use crate::model::topology::SetRecord;

use super::outbox::Outbox;
use super::set_handle::SetHandle;

/// See the module's head.
pub struct SetTable {
    broker: Box<[OnceLock<SetHandle>]>,
    local: Box<[OnceLock<SetHandle>]>,
    /// Sets with a replica here, and this node's own, in the order they came.
    list: ArcSwap<Vec<SetId>>,
    adding: Mutex<()>,
}

impl Default for SetTable {
    fn default() -> Self {
        let slots = |count: u64| (0..=count).map(|_| OnceLock::new()).collect();
        Self {
            broker: slots(u64::from(SetRecord::ID_MAX)),
            local: slots(NodeId::MAX.0),
            list: ArcSwap::default(),
            adding: Mutex::default(),
        }
    }
}

impl SetTable {
    fn slot(&self, set: SetId) -> Option<&OnceLock<SetHandle>> {
        match set.local_node() {
            Some(node) => self.local.get(node.0 as usize),
            None => self.broker.get(set.0 as usize),
        }
    }

    /// A set, if it was added.
    pub fn get(&self, set: SetId) -> Option<&SetHandle> {
        self.slot(set)?.get()
    }

    /// Adds a set; the first of an id stays.
    pub fn insert(&self, set: SetId, handle: SetHandle) {
        let here = handle.is_here();
        if self.slot(set).is_some_and(|slot| slot.set(handle).is_ok()) && here {
            self.came_here(set);
        }
    }

    /// A set is on this node from now on.
    pub fn came_here(&self, set: SetId) {
        let _one = self.adding.lock();
        let mut list = Vec::clone(&self.list.load());
        if !list.contains(&set) {
            list.push(set);
            self.list.store(Arc::new(list));
        }
    }

    /// A set, made now if it was not added yet.
    pub fn insert_with(&self, set: SetId, make: impl FnOnce() -> SetHandle) -> Option<&SetHandle> {
        Some(self.slot(set)?.get_or_init(make))
    }

    /// The pipes to all broker sets that this node uses, here or elsewhere.
    pub fn outboxes(&self) -> impl Iterator<Item = (SetId, &Arc<Outbox<Reply>>)> {
        let used = self.broker.iter().filter_map(OnceLock::get);
        used.map(|handle| (handle.outbox().set(), handle.outbox()))
    }

    /// Sets with a replica here, and this node's own.
    pub fn iter(&self) -> impl Iterator<Item = (SetId, &SetHandle)> {
        let list = self.list.load_full();
        (0..list.len()).filter_map(move |at| {
            let set = *list.get(at)?;
            Some((set, self.get(set)?))
        })
    }
}
