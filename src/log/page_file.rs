//! Pages of indexes: `pages/<id>.page`, framed as a snapshot is, magic "LVRTPAG" and version 1.
//!
//! A page is written without a sync; a snapshot that refers to it calls [`PageFiles::snapshot_prepare`] first. What is
//! discarded stays until a snapshot begun later is durable, because the one before it may refer to the page.
//! Pages that come from a peer are staged as `<id>.page.staged` and adopted all at once, or removed when the files are
//! opened.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use parking_lot::Mutex;

use super::disk::{Disk, OpenMode, or_poison};
use super::snapshot_file::{seal, unseal};
use super::{Log, LogError};

const MAGIC: &[u8; 8] = b"LVRTPAG\x01";

#[derive(Debug, Default)]
struct State {
    unsynced: BTreeSet<u64>,
    discarded: BTreeSet<u64>,
    leaving: BTreeSet<u64>,
    staged: BTreeSet<u64>,
}

/// The pages of one set. An id is written once.
#[derive(Debug)]
pub struct PageFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    state: Mutex<State>,
    poisoned: Mutex<Arc<AtomicBool>>,
}

impl PageFiles {
    /// The pages in `dir`.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn open(disk: Arc<dyn Disk>, dir: PathBuf) -> Result<Self, LogError> {
        disk.create_dir(&dir)
            .map_err(|error| LogError::io(&dir, error))?;
        let files = Self {
            disk,
            dir,
            state: Mutex::default(),
            poisoned: Mutex::default(),
        };
        let failed = |error| LogError::io(&files.dir, error);
        for name in files.disk.list(&files.dir).map_err(failed)? {
            if name.ends_with(".staged") {
                let path = files.dir.join(&name);
                let removed = files.disk.remove(&path);
                removed.map_err(|error| LogError::io(&path, error))?;
            }
        }
        Ok(files)
    }

    /// From here on a failed sync of a page poisons `log` too, and a poisoned log stops the pages.
    pub fn bind(&self, log: &Log) {
        *self.poisoned.lock() = Arc::clone(&log.shared().poisoned);
    }

    /// The flag of a failed sync, unless there was one.
    fn sound(&self) -> Result<Arc<AtomicBool>, LogError> {
        let poisoned = Arc::clone(&self.poisoned.lock());
        if poisoned.load(Relaxed) {
            return Err(LogError::Poisoned);
        }
        Ok(poisoned)
    }

    /// Removes the files of all pages but these: after a restart, what no restored state refers to.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn retain(&self, ids: &BTreeSet<u64>) -> Result<(), LogError> {
        let failed = |error| LogError::io(&self.dir, error);
        for name in self.disk.list(&self.dir).map_err(failed)? {
            let id = name
                .strip_suffix(".page")
                .and_then(|stem| stem.parse().ok());
            let kept = id.is_some_and(|id: u64| ids.contains(&id));
            if !kept && (id.is_some() || name.ends_with(".aside")) {
                let path = self.dir.join(&name);
                let removed = self.disk.remove(&path);
                removed.map_err(|error| LogError::io(&path, error))?;
            }
        }
        let mut state = self.state.lock();
        state.unsynced.retain(|id| ids.contains(id));
        state.discarded.retain(|id| ids.contains(id));
        state.leaving.retain(|id| ids.contains(id));
        Ok(())
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.join(format!("{id:020}.page"))
    }

    /// Stores a page; durable after the next [`PageFiles::snapshot_prepare`].
    ///
    /// # Errors
    /// [`LogError::Io`], [`LogError::DiskFull`], [`LogError::Poisoned`].
    pub fn write(&self, id: u64, bytes: &[u8]) -> Result<(), LogError> {
        self.sound()?;
        let path = self.path(id);
        let written = super::disk::write_aside(&*self.disk, &path, &seal(MAGIC, bytes), None);
        written.map_err(|error| LogError::io(&path, error))?;
        let mut state = self.state.lock();
        state.unsynced.insert(id);
        state.discarded.remove(&id);
        state.leaving.remove(&id);
        Ok(())
    }

    fn staged_path(&self, id: u64) -> PathBuf {
        self.dir.join(format!("{id:020}.page.staged"))
    }

    /// Stores a page of a peer beside the others; neither read nor durable before [`PageFiles::adopt`].
    ///
    /// # Errors
    /// [`LogError::Io`], [`LogError::DiskFull`], [`LogError::Poisoned`].
    pub fn stage(&self, id: u64, bytes: &[u8]) -> Result<(), LogError> {
        self.sound()?;
        self.state.lock().staged.insert(id);
        let path = self.staged_path(id);
        let written = self.disk.open(&path, OpenMode::Write);
        written
            .and_then(|file| file.write_at(&seal(MAGIC, bytes), 0))
            .map_err(|error| LogError::io(&path, error))
    }

    /// Gives the staged pages their names, durably. A page that is already there has the same bytes.
    ///
    /// # Errors
    /// [`LogError::Io`], [`LogError::Poisoned`]; some may then be adopted and others not.
    pub fn adopt(&self) -> Result<(), LogError> {
        let poisoned = self.sound()?;
        let ids = self.state.lock().staged.clone();
        for id in &ids {
            let path = self.staged_path(*id);
            let failed = |error| LogError::io(&path, error);
            let file = self.disk.open(&path, OpenMode::Read).map_err(failed)?;
            or_poison(file.sync(), &poisoned).map_err(failed)?;
            self.disk.rename(&path, &self.path(*id)).map_err(failed)?;
            let mut state = self.state.lock();
            state.staged.remove(id);
            state.discarded.remove(id);
            state.leaving.remove(id);
        }
        or_poison(self.disk.sync_dir(&self.dir), &poisoned)
            .map_err(|error| LogError::io(&self.dir, error))
    }

    /// Removes the staged pages: the transfer broke off.
    ///
    /// # Errors
    /// [`LogError::Io`]; what is left goes when the files are next opened.
    pub fn unstage(&self) -> Result<(), LogError> {
        let ids = std::mem::take(&mut self.state.lock().staged);
        for id in ids {
            let path = self.staged_path(id);
            match self.disk.remove(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(LogError::io(&path, error));
                }
                _ => {}
            }
        }
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
    /// [`LogError::Io`], [`LogError::Poisoned`]; nothing may then be published that refers to these pages.
    pub fn snapshot_prepare(&self) -> Result<(), LogError> {
        let poisoned = self.sound()?;
        let unsynced: Vec<u64> = {
            let mut state = self.state.lock();
            std::mem::take(&mut state.unsynced).into_iter().collect()
        };
        let synced = self.sync_all(&unsynced, &poisoned);
        if synced.is_err() {
            self.state.lock().unsynced.extend(unsynced);
        }
        synced
    }

    fn sync_all(&self, ids: &[u64], poisoned: &AtomicBool) -> Result<(), LogError> {
        for id in ids {
            let path = self.path(*id);
            let failed = |error| LogError::io(&path, error);
            let file = self.disk.open(&path, OpenMode::Read).map_err(failed)?;
            or_poison(file.sync(), poisoned).map_err(failed)?;
        }
        or_poison(self.disk.sync_dir(&self.dir), poisoned)
            .map_err(|error| LogError::io(&self.dir, error))
    }

    /// The snapshot is durable: removes what was discarded before it began.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn snapshot_done(&self) -> Result<(), LogError> {
        loop {
            let Some(id) = self.state.lock().leaving.first().copied() else {
                return Ok(());
            };
            let path = self.path(id);
            match self.disk.remove(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(LogError::io(&path, error));
                }
                _ => {}
            }
            let mut state = self.state.lock();
            state.leaving.remove(&id);
            state.unsynced.remove(&id);
        }
    }
}
