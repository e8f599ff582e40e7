//! A disk in memory that fails as disks do, for tests.
//!
//! What is written but not synced lives in pieces of 512 bytes; a power cut keeps any of them and loses the others.
//! Creations, renames and removals of a directory survive as a prefix of their order, as in a journalling file system,
//! and for certain after its sync. A sync can be told to fail, the space to run out, the power to go in the middle of a
//! write, a read of a segment to come back with a flipped bit.
//! Not here: damage to what is durable (tests flip bytes of real files), stalls (whoever gives a writer its turns).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::disk::{Disk, DiskFile, OpenMode};

const SECTOR: usize = 512;
/// Ending of a segment's file name.
const SEGMENT: &str = "seg";

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors of `now` that are not durable.
    dirty: std::collections::BTreeSet<usize>,
}

impl Content {
    fn write(&mut self, bytes: &[u8], at: usize) {
        let end = at + bytes.len();
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        self.now[at..end].copy_from_slice(bytes);
        self.dirty.extend(at / SECTOR..end.div_ceil(SECTOR));
    }

    fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            self.keep(sector);
        }
        self.durable.resize(self.now.len(), 0);
    }

    fn keep(&mut self, sector: usize) {
        let from = sector * SECTOR;
        let to = (from + SECTOR).min(self.now.len());
        if self.durable.len() < to {
            self.durable.resize(to, 0);
        }
        self.durable[from..to].copy_from_slice(&self.now[from..to]);
    }
}

type Node = Arc<Mutex<Content>>;
type Names = BTreeMap<PathBuf, Node>;

#[derive(Debug)]
enum Change {
    Link(PathBuf, Node),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
}

impl Change {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Link(path, node) => {
                names.insert(path.clone(), Arc::clone(node));
            }
            Self::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
            Self::Unlink(path) => {
                names.remove(path);
            }
        }
    }
}

#[derive(Debug)]
struct State {
    names: Names,
    durable: Names,
    pending: Vec<Change>,
    dice: StdRng,
    syncs_until_error: Option<u64>,
    writes_until_full: Option<u64>,
    operations_until_off: Option<u64>,
    reads_until_flip: Option<u64>,
    off: bool,
    writes: u64,
}

impl State {
    fn alive(&self) -> io::Result<()> {
        match self.off {
            true => Err(io::Error::other("the power is off")),
            false => Ok(()),
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    /// Counts one operation; whether the power goes now.
    fn goes_off(&mut self) -> bool {
        match &mut self.operations_until_off {
            Some(0) => {
                self.off = true;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn before_sync(&mut self) -> io::Result<()> {
        self.alive()?;
        if self.goes_off() {
            return self.alive();
        }
        count_down(&mut self.syncs_until_error, libc::EIO)
    }
}

/// Fails when the count is used up, and from then on.
fn count_down(left: &mut Option<u64>, errno: i32) -> io::Result<()> {
    match left {
        Some(0) => Err(io::Error::from_raw_os_error(errno)),
        Some(left) => {
            *left -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct FaultyDisk(Arc<Mutex<State>>);

impl FaultyDisk {
    /// Empty and sound; `seed` decides what a power cut keeps.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with(Names::new(), StdRng::seed_from_u64(seed))
    }

    fn with(names: Names, dice: StdRng) -> Self {
        Self(Arc::new(Mutex::new(State {
            durable: names.clone(),
            names,
            pending: Vec::new(),
            dice,
            syncs_until_error: None,
            writes_until_full: None,
            operations_until_off: None,
            reads_until_flip: None,
            off: false,
            writes: 0,
        })))
    }

    /// Cuts the power: what is left is another disk; on this one nothing works any more.
    #[must_use]
    pub fn crash(&self) -> Self {
        let mut state = self.0.lock();
        state.off = true;
        let pending = std::mem::take(&mut state.pending);
        let kept = state.dice.random_range(0..=pending.len());
        let mut names = std::mem::take(&mut state.durable);
        for change in pending.into_iter().take(kept) {
            change.apply(&mut names);
        }
        let mut left = Names::new();
        for (path, node) in names {
            let mut content = node.lock();
            let survives = [0.0, 0.5, 0.9][state.dice.random_range(0..3_usize)];
            for sector in std::mem::take(&mut content.dirty) {
                if state.dice.random_bool(survives) {
                    content.keep(sector);
                }
            }
            let bytes = content.durable.clone();
            let fresh = Content {
                now: bytes.clone(),
                durable: bytes,
                ..Content::default()
            };
            left.insert(path, Arc::new(Mutex::new(fresh)));
        }
        let seed = state.dice.random();
        Self::with(left, StdRng::seed_from_u64(seed))
    }

    /// Lets this many syncs succeed, and then none.
    pub fn fail_syncs_after(&self, count: u64) {
        self.0.lock().syncs_until_error = Some(count);
    }

    /// Lets this many writes succeed, and then none: the disk is full.
    pub fn fill_after(&self, count: u64) {
        self.0.lock().writes_until_full = Some(count);
    }

    /// There is space again, and syncs succeed.
    pub fn mend(&self) {
        let mut state = self.0.lock();
        state.writes_until_full = None;
        state.syncs_until_error = None;
        state.operations_until_off = None;
        state.reads_until_flip = None;
    }

    /// Lets this many writes and syncs happen; the power goes in the middle of the next.
    pub fn power_off_after(&self, operations: u64) {
        self.0.lock().operations_until_off = Some(operations);
    }

    /// After this many reads of segments one comes back with a flipped bit.
    pub fn flip_read_after(&self, reads: u64) {
        self.0.lock().reads_until_flip = Some(reads);
    }

    /// Whether the power is off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.0.lock().off
    }

    /// Writes that were done so far.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.0.lock().writes
    }
}

struct FaultyFile {
    disk: Arc<Mutex<State>>,
    node: Node,
    direct: bool,
    segment: bool,
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.lock();
        state.alive()?;
        let content = self.node.lock();
        let rest = content.now.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        if self.segment
            && len > 0
            && let Some(left) = state.reads_until_flip
        {
            state.reads_until_flip = left.checked_sub(1);
            if left == 0 {
                let at = state.dice.random_range(0..len);
                buffer[at] ^= 1 << state.dice.random_range(0..8_u32);
            }
        }
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.alive()?;
        count_down(&mut state.writes_until_full, libc::ENOSPC)?;
        if state.goes_off() {
            let sectors = bytes.len().div_ceil(SECTOR);
            let done = state.dice.random_range(0..=sectors) * SECTOR;
            let torn = &bytes[..done.min(bytes.len())];
            self.node.lock().write(torn, offset as usize);
            return state.alive();
        }
        state.writes += 1;
        self.node.lock().write(bytes, offset as usize);
        if self.direct {
            assert!(
                offset.is_multiple_of(4096) && bytes.len().is_multiple_of(4096),
                "unaligned"
            );
            state.before_sync()?;
            self.node.lock().sync();
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.before_sync()?;
        self.node.lock().sync();
        Ok(())
    }

    fn durable_writes(&self) -> bool {
        self.direct
    }

    fn size(&self) -> io::Result<u64> {
        self.disk.lock().alive()?;
        Ok(self.node.lock().now.len() as u64)
    }
}

impl Disk for FaultyDisk {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        self.0.lock().alive()
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.alive()?;
        let node = match state.names.get(path) {
            Some(node) => Arc::clone(node),
            None if mode == OpenMode::Read => return Err(io::ErrorKind::NotFound.into()),
            None => {
                let node = Node::default();
                state.change(Change::Link(path.to_owned(), Arc::clone(&node)));
                node
            }
        };
        Ok(Arc::new(FaultyFile {
            disk: Arc::clone(&self.0),
            node,
            direct: mode == OpenMode::Direct,
            segment: path.extension().is_some_and(|kind| kind == SEGMENT),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.alive()?;
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.alive()?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(Change::Unlink(path.to_owned()));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        state.alive()?;
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        let names = inside.filter_map(|path| path.file_name()?.to_str());
        Ok(names.map(str::to_owned).collect())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.before_sync()?;
        state.pending.clear();
        state.durable = state.names.clone();
        Ok(())
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}
