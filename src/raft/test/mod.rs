//! The replica against a toy machine: alone, restarted, killed, and as one of three.

mod alone;
mod lead;
mod members;
mod mend;
mod restart;
mod ship;
mod suite;
mod three;
mod tidy;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;

use super::{Group, GroupOptions, Machine, MachineError};
use crate::base::coding::{Reader, Writer};
use crate::base::{Digest, NodeId, SetId};
use crate::log::OsDisk;

/// Remembers the order and the content of all it was given.
#[derive(Default)]
pub(super) struct Toy {
    pub(super) digest: u64,
    pub(super) last_index: Option<u64>,
    pub(super) payloads: u64,
    pub(super) applied_here: Vec<u64>,
    pub(super) restores: u64,
    pub(super) terms_led: Vec<u64>,
    pub(super) leading: bool,
    /// Entries up to this index are dead.
    pub(super) dead_upto: u64,
}

impl Toy {
    /// What two replicas, or two lives of one, must agree on.
    pub(super) fn standing(&self) -> (u64, u64) {
        (self.digest, self.payloads)
    }
}

impl Machine for Toy {
    fn apply(&mut self, index: u64, term: u64, payload: &Bytes) {
        assert!(self.last_index.is_none_or(|last| last < index), "order");
        let mut digest = Digest::default();
        digest.word(self.digest);
        digest.word(index);
        digest.word(term);
        digest.bytes(payload);
        self.digest = digest.value();
        self.last_index = Some(index);
        self.payloads += 1;
        self.applied_here.push(index);
    }

    fn snapshot(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_varint(self.digest);
        out.put_varint(self.last_index.map_or(0, |index| index + 1));
        out.put_varint(self.payloads);
        out
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), MachineError> {
        let mut reader = Reader::new(bytes);
        let mut next = || {
            let value = reader.varint();
            value.map_err(|error| MachineError::new(error.to_string()))
        };
        self.digest = next()?;
        self.last_index = next()?.checked_sub(1);
        self.payloads = next()?;
        self.restores += 1;
        Ok(())
    }

    fn live_bytes(&self, _first: u64, last: u64) -> u64 {
        u64::from(last > self.dead_upto)
    }

    fn leadership(&mut self, leading: bool, term: u64) {
        assert_ne!(self.leading, leading, "told twice");
        self.leading = leading;
        if leading {
            self.terms_led.push(term);
        }
    }
}

pub(super) type ToyHandle = Arc<Mutex<Toy>>;

pub(super) fn options(dir: &Path) -> GroupOptions {
    let mut options = GroupOptions::new(SetId(7), NodeId(1), dir.to_path_buf(), Arc::new(OsDisk));
    options.on_fatal = Arc::new(|set, reason| panic!("set {set}: {reason}"));
    options.snapshot_every = std::time::Duration::from_secs(3600);
    options
}

pub(super) async fn start(options: GroupOptions) -> (Group, ToyHandle) {
    let machine = ToyHandle::default();
    let group = Group::start(options, Arc::clone(&machine)).await.unwrap();
    group.ready().await.unwrap();
    (group, machine)
}

/// Ends a replica as a lost process would: nothing is handed over, no snapshot is taken. What the log was already
/// given may still be written.
pub(super) async fn kill(group: Group) {
    let log = group.log().clone();
    let mut core = group.raft().metrics();
    drop(group);
    while core.changed().await.is_ok() {}
    let closed = tokio::task::spawn_blocking(move || log.close());
    closed.await.unwrap().unwrap();
}

pub(super) fn payload(number: u64) -> Bytes {
    Bytes::from(format!("payload {number}").into_bytes())
}
