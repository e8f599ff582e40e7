//! Spare segments: files of full size, filled with zeros ahead of need, so that the writer neither grows a file nor
//! waits.
//!
//! A thread makes them, when the writer says that the active segment has taken its first bytes: a fresh or an idle log
//! costs nothing. A segment that was deleted becomes a spare as it is, with its old bytes: its next life has another
//! salt.
//! Invariants: at most `wanted` spares are kept; a spare that could not be made is only missing, never an error.
//! Not here: when the writer leaves one segment for the next.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use super::disk::{Disk, OpenMode, aside};

const CHUNK: usize = 1024 * 1024;
/// Chunks between syncs: the disk is shared with the writer, and must not owe much.
const CHUNKS_PER_SYNC: usize = 8;

#[derive(Debug, Default)]
struct Wish {
    hurry: bool,
    stop: bool,
}

pub(super) struct Spares {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    size: u64,
    wanted: usize,
    ready: Mutex<Vec<PathBuf>>,
    ready_count: AtomicUsize,
    minted: Mutex<u64>,
    wish: Mutex<Wish>,
    wished: Condvar,
}

impl Spares {
    /// Takes over the spares in `dir`, and removes what was begun and not finished.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        size: u64,
        wanted: usize,
    ) -> io::Result<Self> {
        let mut ready = Vec::new();
        let mut minted = 0;
        for name in disk.list(&dir)? {
            let path = dir.join(&name);
            if name.ends_with(".aside") {
                disk.remove(&path)?;
            } else if let Some(stem) = name.strip_suffix(".spare") {
                minted = minted.max(stem.parse().unwrap_or(0));
                if ready.len() < wanted {
                    ready.push(path);
                } else {
                    disk.remove(&path)?;
                }
            }
        }
        Ok(Self {
            disk,
            dir,
            size,
            wanted,
            ready_count: AtomicUsize::new(ready.len()),
            ready: Mutex::new(ready),
            minted: Mutex::new(minted),
            wish: Mutex::default(),
            wished: Condvar::new(),
        })
    }

    fn name(&self) -> PathBuf {
        let mut minted = self.minted.lock();
        *minted += 1;
        self.dir.join(format!("{:020}.spare", *minted))
    }

    /// Whether there is a spare.
    pub(super) fn any(&self) -> bool {
        self.ready_count.load(Relaxed) > 0
    }

    /// Renames a spare to `path`, if there is one.
    pub(super) fn take(&self, path: &Path) -> io::Result<()> {
        let mut ready = self.ready.lock();
        let spare = ready.pop();
        self.ready_count.store(ready.len(), Relaxed);
        drop(ready);
        spare.map_or(Ok(()), |spare| self.disk.rename(&spare, path))
    }

    /// Makes a spare of a dead segment, or removes it if there are enough.
    pub(super) fn give(&self, path: &Path) -> io::Result<()> {
        let mut ready = self.ready.lock();
        if ready.len() >= self.wanted {
            return self.disk.remove(path);
        }
        let spare = self.name();
        self.disk.rename(path, &spare)?;
        ready.push(spare);
        self.ready_count.store(ready.len(), Relaxed);
        Ok(())
    }

    /// Makes one spare, if one is missing.
    pub(super) fn fill(&self) -> io::Result<()> {
        if self.ready.lock().len() >= self.wanted {
            return Ok(());
        }
        let spare = self.name();
        let aside = aside(&spare);
        let made = self.zeros(&aside);
        if !matches!(made, Ok(true)) {
            self.disk.remove(&aside)?;
            return made.map(drop);
        }
        let mut ready = self.ready.lock();
        if ready.len() >= self.wanted {
            return self.disk.remove(&aside);
        }
        self.disk.rename(&aside, &spare)?;
        ready.push(spare);
        self.ready_count.store(ready.len(), Relaxed);
        Ok(())
    }

    /// Says whether the file was finished; not if the log is closed meanwhile.
    fn zeros(&self, path: &Path) -> io::Result<bool> {
        let file = self.disk.open(path, OpenMode::Write)?;
        let zeros = vec![0; CHUNK];
        let mut at = 0;
        let mut chunks = 0;
        while at < self.size {
            if self.wish.lock().stop {
                return Ok(false);
            }
            let len = (self.size - at).min(CHUNK as u64);
            file.write_at(&zeros[..len as usize], at)?;
            at += len;
            chunks += 1;
            if chunks % CHUNKS_PER_SYNC == 0 {
                file.sync()?;
            }
        }
        file.sync()?;
        Ok(true)
    }

    /// Has the thread make what is missing.
    pub(super) fn hurry(&self) {
        self.wish.lock().hurry = true;
        self.wished.notify_one();
    }

    fn work(&self) {
        loop {
            let mut wish = self.wish.lock();
            while !wish.hurry && !wish.stop {
                self.wished.wait(&mut wish);
            }
            if wish.stop {
                return;
            }
            wish.hurry = false;
            drop(wish);
            while self.ready.lock().len() < self.wanted && !self.wish.lock().stop {
                if let Err(error) = self.fill() {
                    tracing::warn!(dir = %self.dir.display(), %error, "no spare segment");
                    break;
                }
            }
        }
    }
}

/// The thread that makes spares; ends with this.
pub(super) struct Filler {
    spares: Arc<Spares>,
    thread: Option<JoinHandle<()>>,
}

impl Filler {
    /// Starts it, if any spares are wanted.
    pub(super) fn start(spares: &Arc<Spares>) -> io::Result<Self> {
        let mut thread = None;
        if spares.wanted > 0 {
            let spares = Arc::clone(spares);
            let builder = std::thread::Builder::new().name("log-spare".into());
            thread = Some(builder.spawn(move || spares.work())?);
        }
        Ok(Self {
            spares: Arc::clone(spares),
            thread,
        })
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.spares.wish.lock().stop = true;
        self.spares.wished.notify_one();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
