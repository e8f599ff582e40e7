//! Pages of indexes: `pages/<id>.page`, framed as a snapshot is, magic "LVRTPAG" and version 1.
//!
//! A page is written without a sync; a snapshot that refers to it calls [`PageFiles::snapshot_prepare`] first. What is
//! discarded stays until a snapshot begun later is durable, because the one before it may refer to the page.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::LogError;
use super::disk::{Disk, OpenMode};
use super::snapshot_file::{seal, unseal};

const MAGIC: &[u8; 8] = b"LVRTPAG\x01";

#[derive(Debug, Default)]
struct State {
    unsynced: BTreeSet<u64>,
    discarded: BTreeSet<u64>,
    leaving: BTreeSet<u64>,
}

/// The pages of one set. An id is written once.
#[derive(Debug)]
pub struct PageFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    state: Mutex<State>,
}

impl PageFiles {
    /// The pages in `dir`.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn open(disk: Arc<dyn Disk>, dir: PathBuf) -> Result<Self, LogError> {
        disk.create_dir(&dir)
            .map_err(|error| LogError::io(&dir, error))?;
        Ok(Self {
            disk,
            dir,
            state: Mutex::default(),
        })
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.join(format!("{id:020}.page"))
    }

    /// Stores a page; durable after the next [`PageFiles::snapshot_prepare`].
    ///
    /// # Errors
    /// [`LogError::Io`], [`LogError::DiskFull`].
    pub fn write(&self, id: u64, bytes: &[u8]) -> Result<(), LogError> {
        let path = self.path(id);
        let written = super::disk::write_aside(&*self.disk, &path, &seal(MAGIC, bytes), false);
        written.map_err(|error| LogError::io(&path, error))?;
        let mut state = self.state.lock();
        state.unsynced.insert(id);
        state.discarded.remove(&id);
        state.leaving.remove(&id);
        Ok(())
    }

    /// Reads a page.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::Io`].
    pub fn read(&self, id: u64) -> Result<Bytes, LogError> {
        unseal(&*self.disk, &self.path(id), MAGIC)
    }

    /// Gives a page up; its file goes after the next snapshot.
    pub fn discard(&self, id: u64) {
        self.state.lock().discarded.insert(id);
    }

    /// Has the system read a page, so that a later read finds it in the page cache. Blocks.
    pub fn prefetch(&self, id: u64) {
        drop(self.read(id));
    }

    /// A snapshot was just taken of what refers to these pages: what was given up so far is not in it.
    pub fn snapshot_begin(&self) {
        let mut state = self.state.lock();
        let discarded = std::mem::take(&mut state.discarded);
        state.leaving.extend(discarded);
    }

    /// Makes all pages durable, for the snapshot that began last.
    ///
    /// # Errors
    /// [`LogError::Io`]; nothing may then be published that refers to these pages.
    pub fn snapshot_prepare(&self) -> Result<(), LogError> {
        let unsynced: Vec<u64> = {
            let mut state = self.state.lock();
            std::mem::take(&mut state.unsynced).into_iter().collect()
        };
        for id in unsynced {
            let path = self.path(id);
            let failed = |error| LogError::io(&path, error);
            let file = self.disk.open(&path, OpenMode::Read).map_err(failed)?;
            file.sync().map_err(failed)?;
        }
        self.disk
            .sync_dir(&self.dir)
            .map_err(|error| LogError::io(&self.dir, error))
    }

    /// The snapshot is durable: removes what was discarded before it began.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn snapshot_done(&self) -> Result<(), LogError> {
        let leaving = std::mem::take(&mut self.state.lock().leaving);
        for id in leaving {
            let path = self.path(id);
            self.disk
                .remove(&path)
                .map_err(|error| LogError::io(&path, error))?;
        }
        Ok(())
    }
}
