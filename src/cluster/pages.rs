//! A set's cold index pages, in files beside its log, shared by the machine (which writes and reads them) and the
//! snapshot (which makes them durable, and ships them to a replica that is behind).

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::log::{Log, PageFiles};
use crate::model::set::{PageError, Pages};
use crate::raft::{PageStore, SnapshotPages};

/// See the module's head. Clones share the files.
#[derive(Clone)]
pub struct SetPages(Arc<PageFiles>);

impl SetPages {
    /// Over opened page files.
    #[must_use]
    pub fn new(files: PageFiles) -> Self {
        Self(Arc::new(files))
    }

    /// From here on a failed sync of a page stops the set's log too, and the other way round.
    pub fn bind(&self, log: &Log) {
        self.0.bind(log);
    }

    /// What the snapshot just taken leans on.
    #[must_use]
    pub fn snapshot(&self) -> Box<dyn SnapshotPages> {
        self.0.snapshot_begin();
        Box::new(Snapshot(self.clone()))
    }

    /// Removes all pages but these, which the state just restored names.
    pub fn retain(&self, ids: &BTreeSet<u64>) {
        if let Err(error) = self.0.retain(ids) {
            tracing::warn!(%error, "index pages no longer needed stay on disk");
        }
    }
}

impl PageStore for SetPages {
    fn read(&self, id: u64) -> io::Result<Bytes> {
        self.0.read(id).map_err(io::Error::other)
    }

    fn stage(&self, id: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.stage(id, bytes).map_err(io::Error::other)
    }

    fn adopt(&self) -> io::Result<()> {
        self.0.adopt().map_err(io::Error::other)
    }

    fn unstage(&self) {
        if let Err(error) = self.0.unstage() {
            tracing::warn!(%error, "index pages of a broken transfer stay on disk");
        }
    }
}

impl Pages for SetPages {
    fn write(&mut self, id: u64, bytes: &[u8]) {
        if let Err(error) = self.0.write(id, bytes) {
            // The machine cannot go on without the page it just gave away.
            tracing::error!(page = id, %error, "an index page cannot be written");
            std::process::abort();
        }
    }

    fn read(&mut self, id: u64) -> Result<Vec<u8>, PageError> {
        self.0
            .read(id)
            .map(|bytes| bytes.to_vec())
            .map_err(|error| {
                tracing::error!(page = id, %error, "an index page cannot be read");
                PageError::Damaged { id }
            })
    }

    fn discard(&mut self, id: u64) {
        self.0.discard(id);
    }

    fn prefetch(&mut self, id: u64) {
        self.0.prefetch(id);
    }
}

struct Snapshot(SetPages);

impl SnapshotPages for Snapshot {
    fn sync(&mut self) -> io::Result<()> {
        self.0.0.snapshot_prepare().map_err(io::Error::other)
    }

    fn published(self: Box<Self>) {
        if let Err(error) = self.0.0.snapshot_done() {
            tracing::warn!(%error, "index pages no longer needed stay on disk");
        }
    }
}
