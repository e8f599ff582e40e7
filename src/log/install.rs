//! A log that comes from a peer: written beside the present one, then put in its place, whole or not at all.
//!
//! Need: a replica too far behind gets a snapshot and the bodies it leans on; both must be there, or neither.
//! Shape: [`Install`] writes records into compacted segments under names that end in `.staged`. [`Log::install`] adds the
//! snapshot and an active segment with hard state and purge mark, then writes `install.commit`; from that moment the
//! old files go and the staged ones get their names, now or when the log is next opened.
//!
//! | found when a log is opened | means | done |
//! | --- | --- | --- |
//! | staged files, no `install.commit` | the transfer or the install broke off | staged files removed: the old log |
//! | `install.commit` that checks out | all staged files were durable before it | carried out: the new log |
//! | `install.commit` that does not | damage | refuse |
//!
//! `install.commit` is framed as a snapshot is, magic "LVRTINS" and version 1; its content is the number of the first
//! staged segment (8, all before it go) and the name of the snapshot (8).
//!
//! Limits: one install at a time; old and new log are on the disk together; memory is one write buffer and four bytes
//! per index of the segment being written.
//! Not here: what is sent, and whether it may be installed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

use bytes::Bytes;

use super::LogError;
use super::appender::Appender;
use super::disk::{Disk, DiskFile, OpenMode, or_poison, read_full, write_aside};
use super::reading::parse;
use super::record::{Frame, HEADER_SIZE, Header, Kind, META_SIZE_MAX, Record};
use super::segment::{Segment, index_path, segment_path};
use super::segment_file::{DAMAGED, GONE, IndexHead, START, SegmentHead};
use super::snapshot_file::{self, seal, unseal};
use super::wal::{Done, Log, Shared};
use super::writer::{Job, Writer, hurry_from};

const MAGIC: &[u8; 8] = b"LVRTINS\x01";
const SUFFIX: &str = ".staged";
/// Indexes one staged segment spans at most, so that its offsets stay small.
const RANGE_MAX: u64 = 1 << 20;
/// Segments the present log may begin while the staged ones are written.
const NUMBERS_AHEAD: u64 = 4096;

fn staged(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SUFFIX);
    name.into()
}

fn commit_path(dir: &Path) -> PathBuf {
    dir.join("install.commit")
}

/// A segment being written.
struct Open {
    head: SegmentHead,
    nonce: u32,
    offsets: Vec<u32>,
    file: Arc<dyn DiskFile>,
    out: Appender,
}

/// A log on its way: records go in, ascending. Dropped before [`Log::install`] it leaves nothing behind.
pub struct Install {
    log: Log,
    base: u64,
    open: Option<Open>,
    sealed: Vec<IndexHead>,
    next: u64,
    /// The writer has it: whether the staged files are the log now is for `install.commit` to say.
    handed_over: bool,
}

/// What the writer needs for the change.
pub(super) struct Plan {
    base: u64,
    sealed: Vec<IndexHead>,
    upto: u64,
    meta: Bytes,
    snapshot: u64,
}

impl Install {
    /// Adds a record. Durable with [`Log::install`]. Blocks.
    ///
    /// # Errors
    /// [`LogError::NotContiguous`] if it does not come after the last one; [`LogError::TooLarge`]; [`LogError::DiskFull`],
    /// [`LogError::Io`].
    pub fn push(&mut self, record: &Record) -> Result<(), LogError> {
        let index = record.index;
        if index < self.next {
            return Err(LogError::NotContiguous {
                index,
                expected: self.next,
            });
        }
        if record.meta.len() > META_SIZE_MAX || u32::try_from(record.payload.len()).is_err() {
            return Err(LogError::TooLarge { index });
        }
        let size = (HEADER_SIZE + record.meta.len() + record.payload.len()) as u64;
        let limit = self.log.shared().options.segment_size_bytes;
        let full =
            |open: &Open| open.out.end() + size > limit || index - open.head.first >= RANGE_MAX;
        if self.open.as_ref().is_some_and(full) {
            self.seal()?;
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin(index)?,
        };
        let put = open.put(record);
        let number = open.head.number;
        self.open = Some(open);
        put.map_err(|error| LogError::io(&self.path(number), error))?;
        self.next = index + 1;
        Ok(())
    }

    fn path(&self, number: u64) -> PathBuf {
        staged(&segment_path(&self.log.shared().dir, number))
    }

    fn begin(&self, first: u64) -> Result<Open, LogError> {
        let number = self.base + self.sealed.len() as u64;
        let head = SegmentHead {
            number,
            salt: rand::random(),
            compacted: true,
            previous_end: self.sealed.last().map_or(START, |last| last.end),
            first,
            count: 0,
            end: 0,
        };
        let path = self.path(number);
        let failed = |error| LogError::io(&path, error);
        let disk = &self.log.shared().disk;
        let file = disk.open(&path, OpenMode::Write).map_err(failed)?;
        let mut open = Open {
            head,
            nonce: rand::random(),
            offsets: Vec::new(),
            out: Appender::new(Arc::clone(&file)),
            file,
        };
        open.begin().map_err(failed)?;
        Ok(open)
    }

    /// Makes the open segment durable.
    fn seal(&mut self) -> Result<(), LogError> {
        let Some(mut open) = self.open.take() else {
            return Ok(());
        };
        let shared = self.log.shared();
        let path = self.path(open.head.number);
        let failed = |error| LogError::io(&path, error);
        or_poison(open.finish(), &shared.poisoned).map_err(failed)?;
        let head = IndexHead {
            number: open.head.number,
            salt: open.head.salt,
            first: open.head.first,
            count: open.head.count,
            end: open.head.end,
            cut: None,
        };
        // Not synced: it can be made again.
        let side = staged(&index_path(&shared.dir, head.number));
        let file = shared.disk.open(&side, OpenMode::Write);
        file.and_then(|file| file.write_at(&head.encode(&open.offsets), 0))
            .map_err(|error| LogError::io(&side, error))?;
        self.sealed.push(head);
        Ok(())
    }
}

impl Open {
    fn begin(&mut self) -> std::io::Result<()> {
        self.out.put(&self.head.encode())?;
        let frame = Frame {
            nonce: self.nonce,
            durable: START,
        };
        self.out.put(&frame.encode(self.head.salt, START))
    }

    fn put(&mut self, record: &Record) -> std::io::Result<()> {
        let at = u32::try_from(self.out.end()).map_err(std::io::Error::other)?;
        let (index, salt) = (record.index, self.head.salt);
        let (meta, payload) = (&record.meta, &record.payload);
        let header = Header::encode(Kind::Entry, index, meta, payload, self.nonce, salt);
        for part in [&header[..], meta, payload] {
            self.out.put(part)?;
        }
        // The range of a segment is bounded by `RANGE_MAX`.
        self.offsets
            .resize((index - self.head.first) as usize, GONE);
        self.offsets.push(at);
        Ok(())
    }

    fn finish(&mut self) -> std::io::Result<()> {
        self.out.commit()?;
        self.head.end = self.out.end();
        self.head.count = self.offsets.len() as u64;
        self.file.write_at(&self.head.encode(), 0)?;
        self.file.sync()
    }
}

impl Drop for Install {
    fn drop(&mut self) {
        let shared = self.log.shared();
        if !self.handed_over
            && let Err(error) = remove_staged(&*shared.disk, &shared.dir)
        {
            tracing::warn!(dir = %shared.dir.display(), %error, "a broken transfer left files behind");
        }
        self.log.installing().store(false, Ordering::Release);
    }
}

impl Log {
    /// Begins to take over a peer's log, beside this one. Blocks.
    ///
    /// # Errors
    /// [`LogError::Installing`] if another is on its way; [`LogError::Poisoned`]; [`LogError::Io`].
    pub fn begin_install(&self) -> Result<Install, LogError> {
        if self.poisoned() {
            return Err(LogError::Poisoned);
        }
        if self.installing().swap(true, Ordering::AcqRel) {
            return Err(LogError::Installing);
        }
        let number = self.shared().segments.lock().active.number;
        let install = Install {
            log: self.clone(),
            base: number + NUMBERS_AHEAD,
            open: None,
            sealed: Vec::new(),
            next: 0,
            handed_over: false,
        };
        let shared = self.shared();
        remove_staged(&*shared.disk, &shared.dir)?;
        Ok(install)
    }

    /// Replaces all that this log holds by what was staged, and makes the snapshot `name` durable with it: after a crash
    /// both are there or neither. The purge mark becomes (`upto`, `meta`), the next record `upto + 1`; the hard state
    /// stays. Blocks until it is durable.
    ///
    /// # Errors
    /// [`LogError::NotContiguous`] if a staged record is past `upto`; else a failed write or sync, after which the log is
    /// poisoned and opening it again gives the old content or the new.
    pub fn install(
        &self,
        mut staged: Install,
        upto: u64,
        meta: Bytes,
        name: u64,
        snapshot: &[u8],
    ) -> Result<(), LogError> {
        let shared = self.shared();
        let _alone = shared.upkeep.lock();
        if staged.next > upto + 1 {
            return Err(LogError::NotContiguous {
                index: staged.next - 1,
                expected: upto + 1,
            });
        }
        if meta.len() > META_SIZE_MAX {
            return Err(LogError::TooLarge { index: upto });
        }
        staged.seal()?;
        let path = self::staged(&snapshot_file::path(&shared.dir, name));
        let written = shared.disk.open(&path, OpenMode::Write).and_then(|file| {
            file.write_at(&seal(snapshot_file::MAGIC, snapshot), 0)?;
            or_poison(file.sync(), &shared.poisoned)
        });
        written.map_err(|error| LogError::io(&path, error))?;
        let plan = Plan {
            base: staged.base,
            sealed: std::mem::take(&mut staged.sealed),
            upto,
            meta,
            snapshot: name,
        };
        let (tx, rx) = channel();
        let done: Done = Box::new(move |result| drop(tx.send(result)));
        staged.handed_over = true;
        self.hand_over(plan, done)?;
        self.answer(&rx)
    }

    /// Memory forgets the old records at once; the writer changes the files in its turn.
    fn hand_over(&self, plan: Plan, done: Done) -> Result<(), LogError> {
        let mut tail = self.shared().tail.write();
        let queue = self.queue().ok_or(LogError::Closed)?;
        tail.restart(plan.upto, plan.meta.clone());
        self.shared().cache.lock().clear();
        self.send(&queue, Job::Install(Box::new(plan), done));
        Ok(())
    }

    /// Records from `from` to before `end` that the files still hold, ascending, without those that were dropped: about
    /// `bytes` of them; none if there are no more. Does not see what is not durable yet. Blocks.
    ///
    /// # Errors
    /// [`LogError::Damaged`] for the first record that does not check out; [`LogError::Io`].
    pub fn survivors(&self, from: u64, end: u64, bytes: usize) -> Result<Vec<Record>, LogError> {
        let mut from = from;
        loop {
            let Some((segment, offsets)) = self.run(from, end)? else {
                return Ok(Vec::new());
            };
            from = from.max(segment.first);
            let first = offsets.iter().position(|offset| *offset != GONE);
            let Some(first) = first else {
                from += offsets.len() as u64;
                continue;
            };
            let path = segment_path(&self.shared().dir, segment.number);
            from += first as u64;
            let at = offsets[first];
            if at == DAMAGED {
                return Err(LogError::Damaged {
                    path,
                    offset: 0,
                    first: from,
                    last: from,
                });
            }
            let len = usize::try_from(segment.end.saturating_sub(u64::from(at)));
            let mut buffer = vec![0; len.unwrap_or(bytes).min(bytes)];
            let read = read_full(&*segment.file, &mut buffer, u64::from(at));
            buffer.truncate(read.map_err(|error| LogError::io(&path, error))?);
            let buffer = Bytes::from(buffer);
            let mut found = Vec::new();
            for (index, offset) in (from..).zip(&offsets[first..]) {
                if *offset == GONE {
                    continue;
                }
                let Some(skip) = offset.checked_sub(at) else {
                    break;
                };
                match parse(&buffer, skip as usize, index, segment.salt) {
                    Ok(record) => found.push(record),
                    Err(()) => break,
                }
            }
            if found.is_empty() {
                // Longer than the buffer, or damaged: the way of a single read knows.
                found.push(self.load(from)?);
            }
            return Ok(found);
        }
    }

    /// The segment that holds the first index at or after `from` and before `end`, and offsets from there on.
    fn run(&self, from: u64, end: u64) -> Result<Option<(Segment, Vec<u32>)>, LogError> {
        const OFFSETS_MAX: usize = 1 << 16;
        let mut segments = self.shared().segments.lock();
        let at = segments
            .sealed
            .partition_point(|one| one.first + one.count <= from);
        let (segment, all) = match segments.sealed.get(at).cloned() {
            Some(segment) => (segment, segments.offsets(at)?),
            None => {
                let active = &segments.active;
                let past = active.first + active.count <= from;
                if active.count == 0 || past {
                    return Ok(None);
                }
                (active.clone(), Arc::new(segments.active_offsets.clone()))
            }
        };
        let start = from.max(segment.first);
        if start >= end {
            return Ok(None);
        }
        let skip = (start - segment.first) as usize;
        let room = usize::try_from(end - start).unwrap_or(OFFSETS_MAX);
        let offsets = all.iter().skip(skip).take(room.min(OFFSETS_MAX));
        let offsets = offsets.copied().collect();
        Ok(Some((segment, offsets)))
    }
}

impl Writer {
    /// Puts the staged log in the place of the present one.
    pub(super) fn install(&mut self, plan: &Plan) -> Result<(), LogError> {
        self.commit()?;
        let shared = Arc::clone(&self.shared);
        let (disk, dir) = (&*shared.disk, &shared.dir);
        if self.number >= plan.base {
            return Err(LogError::SegmentInUse { first: plan.base });
        }
        self.purged = Some((plan.upto, plan.meta.clone()));
        let (head, end) = self.stage_active(plan)?;
        or_poison(disk.sync_dir(dir), &shared.poisoned)
            .map_err(|error| LogError::io(dir, error))?;
        let mut content = plan.base.to_le_bytes().to_vec();
        content.extend_from_slice(&plan.snapshot.to_le_bytes());
        let path = commit_path(dir);
        let committed = write_aside(disk, &path, &seal(MAGIC, &content), Some(&*shared.poisoned));
        committed.map_err(|error| LogError::io(&path, error))?;
        carry_out(disk, dir, plan.base, plan.snapshot)?;
        self.adopt(plan, &head, end, &shared)
    }

    /// The segment the log goes on in, which begins with hard state and purge mark.
    fn stage_active(&self, plan: &Plan) -> Result<(SegmentHead, u64), LogError> {
        let shared = &self.shared;
        let head = SegmentHead {
            number: plan.base + plan.sealed.len() as u64,
            salt: rand::random(),
            compacted: false,
            previous_end: plan.sealed.last().map_or(START, |last| last.end),
            first: 0,
            count: 0,
            end: 0,
        };
        let path = staged(&segment_path(&shared.dir, head.number));
        let write = || {
            let mut out = Appender::new(shared.disk.open(&path, OpenMode::Write)?);
            out.put(&head.encode())?;
            let frame = Frame {
                nonce: self.nonce,
                durable: START,
            };
            out.put(&frame.encode(head.salt, START))?;
            let (nonce, salt) = (self.nonce, head.salt);
            if let Some(state) = &self.hard_state {
                out.put(&Header::encode(Kind::HardState, 0, &[], state, nonce, salt))?;
                out.put(state)?;
            }
            let (upto, meta) = (plan.upto, &plan.meta);
            out.put(&Header::encode(Kind::Purge, upto, meta, &[], nonce, salt))?;
            out.put(meta)?;
            or_poison(out.commit(), &shared.poisoned)?;
            Ok(out.end())
        };
        let end = write().map_err(|error| LogError::io(&path, error))?;
        Ok((head, end))
    }

    /// Goes on with the new files.
    fn adopt(
        &mut self,
        plan: &Plan,
        head: &SegmentHead,
        end: u64,
        shared: &Arc<Shared>,
    ) -> Result<(), LogError> {
        let open = |number, mode| {
            let path = segment_path(&shared.dir, number);
            let file = shared.disk.open(&path, mode);
            file.map_err(|error| LogError::io(&path, error))
        };
        let mut sealed = Vec::with_capacity(plan.sealed.len());
        for one in &plan.sealed {
            sealed.push(Segment {
                number: one.number,
                salt: one.salt,
                first: one.first,
                count: one.count,
                end: one.end,
                cut: None,
                file: open(one.number, OpenMode::Read)?,
            });
        }
        let reader = open(head.number, OpenMode::Read)?;
        let mode = match shared.options.direct {
            true => OpenMode::Direct,
            false => OpenMode::Write,
        };
        let file = open(head.number, mode)?;
        let resumed = self.appender.resume(file, &*reader, end);
        resumed.map_err(|error| LogError::io(&segment_path(&shared.dir, head.number), error))?;
        let mut segments = shared.segments.lock();
        segments.sealed = sealed;
        segments.active = Segment {
            number: head.number,
            salt: head.salt,
            first: 0,
            count: 0,
            end,
            cut: None,
            file: reader,
        };
        segments.active_offsets.clear();
        segments.loaded.clear();
        drop(segments);
        shared.cache.lock().clear();
        (self.number, self.salt) = (head.number, head.salt);
        self.durable = end;
        self.next = Some(plan.upto + 1);
        self.growing = self.appender.grows(shared.options.segment_size_bytes);
        self.hurry = hurry_from(shared);
        Ok(())
    }
}

/// What an install left that was broken off, or had begun to change names. To be called before the log is read.
pub(super) fn resume(disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
    let path = commit_path(dir);
    let content = match unseal(disk, &path, MAGIC) {
        Ok(content) => content,
        Err(LogError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return remove_staged(disk, dir);
        }
        Err(error) => return Err(error),
    };
    let words = content.as_chunks::<8>();
    match words.0 {
        [base, name] if words.1.is_empty() => {
            let (base, name) = (u64::from_le_bytes(*base), u64::from_le_bytes(*name));
            carry_out(disk, dir, base, name)
        }
        _ => Err(LogError::Format { path }),
    }
}

/// The old files go, the staged ones get their names. May be repeated.
fn carry_out(disk: &dyn Disk, dir: &Path, base: u64, snapshot: u64) -> Result<(), LogError> {
    let failed = |error| LogError::io(dir, error);
    let below = |name: &str, kind: &str, bound: u64| {
        let number = name.strip_suffix(kind).and_then(|stem| stem.parse().ok());
        number.is_some_and(|number: u64| number < bound)
    };
    for name in disk.list(dir).map_err(failed)? {
        let path = dir.join(&name);
        if let Some(stem) = name.strip_suffix(SUFFIX) {
            disk.rename(&path, &dir.join(stem)).map_err(failed)?;
        } else if below(&name, ".seg", base)
            || below(&name, ".idx", base)
            || below(&name, ".snap", snapshot)
        {
            disk.remove(&path).map_err(failed)?;
        }
    }
    disk.sync_dir(dir).map_err(failed)?;
    disk.remove(&commit_path(dir)).map_err(failed)?;
    disk.sync_dir(dir).map_err(failed)
}

fn remove_staged(disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
    let failed = |error| LogError::io(dir, error);
    for name in disk.list(dir).map_err(failed)? {
        if name.ends_with(SUFFIX) {
            disk.remove(&dir.join(&name)).map_err(failed)?;
        }
    }
    Ok(())
}
