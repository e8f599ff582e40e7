//! Spare segments: files of full size, filled with zeros ahead of need, so that the writer neither grows a file nor
//! waits. A recycled segment keeps its bytes: its next life has another salt.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::{Disk, OpenMode};

const CHUNK: usize = 1024 * 1024;

pub(super) struct Spares {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    size: u64,
    wanted: usize,
    ready: Mutex<Vec<PathBuf>>,
    minted: Mutex<u64>,
}

impl Spares {
    /// Takes over the spares in `dir`.
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
            ready: Mutex::new(ready),
            minted: Mutex::new(minted),
        })
    }

    fn name(&self) -> PathBuf {
        let mut minted = self.minted.lock();
        *minted += 1;
        self.dir.join(format!("{:020}.spare", *minted))
    }

    /// Renames a spare to `path`, if there is one.
    pub(super) fn take(&self, path: &Path) -> io::Result<()> {
        let spare = self.ready.lock().pop();
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
        Ok(())
    }

    /// Makes one spare, if one is missing.
    pub(super) fn fill(&self) -> io::Result<()> {
        if self.ready.lock().len() >= self.wanted {
            return Ok(());
        }
        let spare = self.name();
        let aside = spare.with_extension("aside");
        let file = self.disk.open(&aside, OpenMode::Write)?;
        let zeros = vec![0; CHUNK];
        let mut at = 0;
        while at < self.size {
            let len = (self.size - at).min(CHUNK as u64);
            file.write_at(&zeros[..len as usize], at)?;
            at += len;
        }
        file.sync()?;
        self.disk.rename(&aside, &spare)?;
        self.ready.lock().push(spare);
        Ok(())
    }
}
