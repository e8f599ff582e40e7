//! The handle of a log.
//!
//! Appends are readable at once from the tail cache; the writer thread makes them durable and calls back. Truncate and
//! purge act on memory at once and on disk with the next commit.
//! Invariant: a record leaves the tail cache only when it is on disk.
//! Limits: `cache_bytes` for records already on disk, plus what waits for the writer, which the caller bounds.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard, RwLock};

use super::appender::Appender;
use super::cache::ReadCache;
use super::disk::{Disk, OpenMode};
use super::options::LogOptions;
use super::read_buffers::ReadBuffers;
use super::record::{META_SIZE_MAX, Record};
use super::recovery::{Recovered, recover};
use super::segment::{SegmentInfo, Segments, segment_path};
use super::segment_file::START;
use super::spare::{Filler, Spares};
use super::stats::{Counters, LogStats};
use super::turns::{Turns, Wake};
use super::writer::{Job, Writer};
use super::{LogError, snapshot_file};

/// Called by the writer thread when a wish is durable, or failed. Must not block.
pub type Done = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// Longest payload, bytes.
const PAYLOAD_SIZE_MAX: usize = 1 << 30;

/// The records in memory, and the bounds of Raft's log.
#[derive(Default)]
pub(super) struct Tail {
    records: VecDeque<Record>,
    bytes: usize,
    bytes_max: usize,
    /// Index after the last record, if there ever was one.
    next: u64,
    last_meta: Option<Bytes>,
    purged: Option<(u64, Bytes)>,
    hard_state: Option<Bytes>,
    /// Counts truncations, so that an old record's write does not free a new record of its index.
    epoch: u64,
    /// Truncations the writer has not come to: the epoch each began, and the first index that goes.
    cutting: VecDeque<(u64, u64)>,
    pub(super) written: u64,
}

impl Tail {
    pub(super) fn get(&self, index: u64) -> Option<&Record> {
        let skip = index.checked_sub(self.records.front()?.index)?;
        self.records.get(usize::try_from(skip).ok()?)
    }

    /// Whether these records may follow.
    fn check(&self, records: &[Record]) -> Result<(), LogError> {
        let base = self.last().map(|(last, _)| last + 1);
        let base = base.or_else(|| self.purged.as_ref().map(|(purged, _)| purged + 1));
        let first = records.first().map(|one| one.index);
        for (expected, record) in (base.or(first).unwrap_or(0)..).zip(records) {
            let index = record.index;
            if record.meta.len() > META_SIZE_MAX || record.payload.len() > PAYLOAD_SIZE_MAX {
                return Err(LogError::TooLarge { index });
            }
            if index != expected {
                return Err(LogError::NotContiguous { index, expected });
            }
        }
        Ok(())
    }

    fn push(&mut self, record: Record) {
        if self
            .records
            .back()
            .is_some_and(|last| last.index + 1 != record.index)
        {
            self.records.clear();
            self.bytes = 0;
        }
        self.bytes += record.weight();
        self.next = record.index + 1;
        self.last_meta = Some(record.meta.clone());
        self.records.push_back(record);
    }

    /// Forgets all records; the log goes on behind `upto`.
    pub(super) fn restart(&mut self, upto: u64, meta: Bytes) {
        self.records.clear();
        self.bytes = 0;
        self.next = upto + 1;
        self.last_meta = None;
        self.purged = Some((upto, meta));
        self.epoch += 1;
        self.written = self.next;
    }

    pub(super) fn written(&mut self, epoch: u64, next: u64) {
        self.cutting.retain(|(began, _)| *began > epoch);
        if epoch == self.epoch {
            self.written = next;
        }
        while self.bytes > self.bytes_max
            && let Some(first) = self.records.front()
            && first.index < self.written
        {
            self.bytes -= first.weight();
            self.records.pop_front();
        }
    }

    fn last(&self) -> Option<(u64, Bytes)> {
        let meta = self.last_meta.clone()?;
        let index = self.next.checked_sub(1)?;
        let purged = self
            .purged
            .as_ref()
            .is_some_and(|(purged, _)| *purged >= index);
        (!purged).then_some((index, meta))
    }
}

pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) options: LogOptions,
    pub(super) tail: RwLock<Tail>,
    pub(super) segments: Mutex<Segments>,
    pub(super) cache: Mutex<ReadCache>,
    pub(super) buffers: ReadBuffers,
    pub(super) counters: Counters,
    pub(super) poisoned: Arc<AtomicBool>,
    pub(super) spare: Arc<Spares>,
    /// Serialises deletion, compaction and the side of a log that changes sealed files.
    pub(super) upkeep: Mutex<()>,
}

struct Handle {
    shared: Arc<Shared>,
    jobs: Mutex<Option<Sender<Job>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// The writer, if it has no thread.
    hosted: Option<(Arc<Turns>, Wake)>,
    /// Whether a peer's log is on its way.
    installing: AtomicBool,
}

/// A broker set's log. Clones are handles of the same log; the last one to go closes it.
#[derive(Clone)]
pub struct Log(Arc<Handle>);

impl Drop for Handle {
    fn drop(&mut self) {
        // The writer ends when it has done all that was asked. It is waited for, so that the log can be opened again at
        // once; but not by itself: its answers may be the last to hold this handle.
        self.jobs.lock().take();
        if let Some(writer) = self.writer.lock().take()
            && writer.thread().id() != std::thread::current().id()
        {
            drop(writer.join());
        }
    }
}

impl Log {
    /// Opens or creates the log in `dir`.
    ///
    /// # Errors
    /// [`LogError::Damaged`] if a record that Raft may need is lost; [`LogError::Io`].
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: impl Into<PathBuf>,
        options: LogOptions,
    ) -> Result<(Self, Recovered), LogError> {
        let dir = dir.into();
        let failed = |error| LogError::io(&dir, error);
        disk.create_dir(&dir).map_err(failed)?;
        super::install::resume(&*disk, &dir)?;
        let found = recover(&*disk, &dir)?;
        let spare = Spares::open(
            Arc::clone(&disk),
            dir.clone(),
            options.segment_size_bytes,
            options.spare_segments,
        );
        let spare = spare.map_err(failed)?;
        super::compaction::open(found, spare, disk, dir, options).and_then(Self::start)
    }

    pub(super) fn start(
        (shared, mut recovered): (Arc<Shared>, Recovered),
    ) -> Result<(Self, Recovered), LogError> {
        let (number, end) = {
            let segments = shared.segments.lock();
            (segments.active.number, segments.active.end)
        };
        let path = segment_path(&shared.dir, number);
        let failed = |error| LogError::io(&path, error);
        let mode = if shared.options.direct {
            OpenMode::Direct
        } else {
            OpenMode::Write
        };
        let file = shared.disk.open(&path, mode).map_err(failed)?;
        let reader = Arc::clone(&shared.segments.lock().active.file);
        let mut appender = Appender::new(Arc::clone(&file));
        appender
            .resume(file, &*reader, end.max(START))
            .map_err(failed)?;
        let mut writer = Writer::new(Arc::clone(&shared), appender);
        {
            let active = &shared.segments.lock().active;
            writer.next = (active.count > 0).then(|| active.first + active.count);
        }
        writer.hard_state.clone_from(&recovered.hard_state);
        writer.purged.clone_from(&recovered.purged);
        // The active segment may have lost its own marks with a torn first write: they go before anything new.
        writer.marks()?;
        let (jobs, queue) = channel();
        let (mut hosted, mut running) = (None, None);
        if let Some(host) = shared.options.host.clone() {
            let turns = Arc::new(Turns::new(writer, queue));
            let wake = host.host(Arc::clone(&turns));
            hosted = Some((turns, wake));
        } else {
            let thread = std::thread::Builder::new().name("log".into());
            let filler = Filler::start(&writer.shared.spare).map_err(failed)?;
            let work = move || {
                writer.run(&queue);
                drop(filler);
            };
            running = Some(thread.spawn(work).map_err(failed)?);
        }
        let log = Self(Arc::new(Handle {
            shared,
            jobs: Mutex::new(Some(jobs)),
            writer: Mutex::new(running),
            hosted,
            installing: AtomicBool::new(false),
        }));
        log.find_last()?;
        recovered.last = log.last_index();
        recovered.first = log.first_index();
        Ok((log, recovered))
    }

    /// Learns the last record's meta from disk.
    fn find_last(&self) -> Result<(), LogError> {
        let Some(last) = self
            .shared()
            .segments
            .lock()
            .infos()
            .last()
            .map(|one| one.last)
        else {
            return Ok(());
        };
        self.shared().tail.write().written = last + 1;
        if self.purged().is_none_or(|(purged, _)| purged < last) {
            let meta = self.load(last)?.meta;
            let mut tail = self.shared().tail.write();
            tail.next = last + 1;
            tail.last_meta = Some(meta);
        }
        Ok(())
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0.shared
    }

    pub(super) fn installing(&self) -> &AtomicBool {
        &self.0.installing
    }

    /// Hands a job to the writer; `None` if the log is closed. The guard keeps the order of a caller that first changes
    /// memory.
    pub(super) fn queue(&self) -> Option<MappedMutexGuard<'_, Sender<Job>>> {
        MutexGuard::try_map(self.0.jobs.lock(), Option::as_mut).ok()
    }

    pub(super) fn send(&self, queue: &Sender<Job>, job: Job) {
        let weight = job.weight() as u64;
        let queued = &self.shared().counters.queued_bytes;
        queued.fetch_add(weight, Relaxed);
        if queue.send(job).is_err() {
            // The writer is gone without having been told to: it panicked.
            self.shared().poisoned.store(true, Relaxed);
        }
        if let Some((_, wake)) = &self.0.hosted {
            wake();
        }
    }

    /// Waits for the writer; one without a thread works meanwhile.
    pub(super) fn answer(&self, answer: &Receiver<Result<(), LogError>>) -> Result<(), LogError> {
        if let Some((turns, _)) = &self.0.hosted {
            turns.all();
        }
        answer.recv().unwrap_or(Err(LogError::Closed))
    }

    /// Whether something may still be written.
    fn sound(&self) -> Result<(), LogError> {
        if self.poisoned() {
            return Err(LogError::Poisoned);
        }
        Ok(())
    }

    /// Appends records, readable when this returns, durable when `done` says so. The first follows the last record, or
    /// the purge mark if that is further.
    pub fn append(&self, records: Vec<Record>, done: Done) {
        if let Err((error, done)) = self.try_append(records, done) {
            done(Err(error));
        }
    }

    /// No lock is held any more when the caller gets `done` back.
    fn try_append(&self, records: Vec<Record>, done: Done) -> Result<(), (LogError, Done)> {
        let mut tail = self.shared().tail.write();
        let checked = self.sound().and_then(|()| tail.check(&records));
        let queue = match checked.and_then(|()| self.queue().ok_or(LogError::Closed)) {
            Ok(queue) => queue,
            Err(error) => return Err((error, done)),
        };
        for record in &records {
            tail.push(record.clone());
        }
        let epoch = tail.epoch;
        // Sent under the lock, so that the queue has the order memory has.
        let job = Job::Append {
            records,
            epoch,
            done,
        };
        self.send(&queue, job);
        Ok(())
    }

    /// Stores a small state (a vote) in the order of the appends; the latest wins.
    pub fn save_hard_state(&self, state: Bytes, done: Done) {
        if let Err((error, done)) = self.try_save(state, done) {
            done(Err(error));
        }
    }

    fn try_save(&self, state: Bytes, done: Done) -> Result<(), (LogError, Done)> {
        let mut tail = self.shared().tail.write();
        let queue = match self
            .sound()
            .and_then(|()| self.queue().ok_or(LogError::Closed))
        {
            Ok(queue) => queue,
            Err(error) => return Err((error, done)),
        };
        tail.hard_state = Some(state.clone());
        self.send(&queue, Job::HardState(state, done));
        Ok(())
    }

    /// The latest hard state.
    #[must_use]
    pub fn hard_state(&self) -> Option<Bytes> {
        self.shared().tail.read().hard_state.clone()
    }

    /// Cuts all records after `index`, or all that are not purged. Durable with the next commit.
    ///
    /// # Errors
    /// [`LogError::Poisoned`], [`LogError::Closed`], or what reading the new last record met.
    pub fn truncate_after(&self, index: Option<u64>) -> Result<(), LogError> {
        self.sound()?;
        let floor = self.purged().map_or(0, |(purged, _)| purged + 1);
        let next = index.map_or(0, |index| index + 1).max(floor);
        if next >= self.shared().tail.read().next {
            return Ok(());
        }
        let rest = next > floor && self.first_index().is_some_and(|first| first < next);
        let meta = if rest {
            Some(self.get(next - 1)?.meta)
        } else {
            None
        };
        let mut tail = self.shared().tail.write();
        let queue = self.queue().ok_or(LogError::Closed)?;
        while tail.records.back().is_some_and(|last| last.index >= next) {
            let weight = tail.records.pop_back().map_or(0, |last| last.weight());
            tail.bytes -= weight;
        }
        tail.next = next;
        tail.last_meta = meta;
        tail.epoch += 1;
        let began = tail.epoch;
        tail.cutting.push_back((began, next));
        tail.written = tail.written.min(next);
        self.shared().cache.lock().clear();
        let epoch = tail.epoch;
        self.send(&queue, Job::Truncate(next, epoch));
        Ok(())
    }

    /// Marks records up to `upto` as no longer Raft's; `meta` is kept with the mark. Durable with the next commit.
    ///
    /// # Errors
    /// [`LogError::Poisoned`], [`LogError::Closed`], [`LogError::TooLarge`] for a meta of more than 255 bytes.
    pub fn purge(&self, upto: u64, meta: Bytes) -> Result<(), LogError> {
        self.sound()?;
        if meta.len() > META_SIZE_MAX {
            return Err(LogError::TooLarge { index: upto });
        }
        let mut tail = self.shared().tail.write();
        let queue = self.queue().ok_or(LogError::Closed)?;
        if tail
            .purged
            .as_ref()
            .is_none_or(|(purged, _)| *purged < upto)
        {
            tail.purged = Some((upto, meta.clone()));
            self.send(&queue, Job::Purge(upto, meta));
        }
        Ok(())
    }

    /// The last record of Raft's log and its meta.
    #[must_use]
    pub fn last(&self) -> Option<(u64, Bytes)> {
        self.shared().tail.read().last()
    }

    /// Index of the last record of Raft's log.
    #[must_use]
    pub fn last_index(&self) -> Option<u64> {
        self.last().map(|(index, _)| index)
    }

    /// Index of the first record of Raft's log that is not purged.
    #[must_use]
    pub fn first_index(&self) -> Option<u64> {
        let tail = self.shared().tail.read();
        let last = tail.last()?.0;
        let after = tail.purged.as_ref().map(|(purged, _)| purged + 1);
        let oldest = tail.records.front().map(|one| one.index);
        drop(tail);
        let on_disk = self
            .shared()
            .segments
            .lock()
            .infos()
            .first()
            .map(|one| one.first);
        after.or(on_disk).or(oldest).map(|first| first.min(last))
    }

    /// The purge mark.
    #[must_use]
    pub fn purged(&self) -> Option<(u64, Bytes)> {
        self.shared().tail.read().purged.clone()
    }

    /// All segments that hold records, oldest first.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        // What a truncation cut does not count, though the writer may not have come to it yet: another record may have its
        // index by the time that the segment is deleted. Both locks, so that nothing is sealed in between.
        let tail = self.shared().tail.read();
        let mut infos = self.shared().segments.lock().infos();
        let cuts = tail.cutting.iter().map(|(_, next)| *next);
        let cut = cuts.min().unwrap_or(u64::MAX);
        drop(tail);
        infos.retain(|one| one.first < cut);
        for one in &mut infos {
            one.last = one.last.min(cut - 1);
        }
        infos
    }

    /// Waits until all that was asked before is durable. Blocks.
    ///
    /// # Errors
    /// [`LogError::Poisoned`], [`LogError::Closed`], or the failure itself.
    pub fn sync_barrier(&self) -> Result<(), LogError> {
        let (tx, rx) = channel();
        let done: Done = Box::new(move |result| drop(tx.send(result)));
        let queue = self.queue().ok_or(LogError::Closed)?;
        self.send(&queue, Job::Barrier(done));
        drop(queue);
        self.answer(&rx)
    }

    /// Figures since the log was opened.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        self.shared().counters.read()
    }

    /// How long the writer has been at what it does, if it does anything. Longer than a few syncs means that the disk
    /// stalls.
    #[must_use]
    pub fn busy_for(&self) -> Option<Duration> {
        let since = *self.shared().counters.busy_since.lock();
        since.map(|since| since.elapsed())
    }

    /// Whether a write or sync has failed, after which nothing is written.
    #[must_use]
    pub fn poisoned(&self) -> bool {
        self.shared().poisoned.load(Relaxed)
    }

    /// Makes everything durable and ends the writer. Blocks. May be repeated.
    ///
    /// # Errors
    /// What the last commit met.
    pub fn close(&self) -> Result<(), LogError> {
        let writer = self.0.writer.lock().take();
        if writer.is_none() && self.0.hosted.is_none() || self.0.jobs.lock().is_none() {
            return Ok(());
        }
        let result = self.sync_barrier();
        // Under one lock, so that nothing is queued behind the end.
        let mut jobs = self.0.jobs.lock();
        if let Some(queue) = jobs.take() {
            self.send(&queue, Job::Close);
        }
        drop(jobs);
        if let Some((turns, _)) = &self.0.hosted {
            turns.all();
        }
        if let Some(writer) = writer {
            writer.join().map_err(|_| LogError::Poisoned)?;
        }
        result
    }

    /// Makes a snapshot durable under `name`; names grow. The one before it is kept until then.
    ///
    /// # Errors
    /// [`LogError::Io`], [`LogError::DiskFull`], [`LogError::Poisoned`].
    pub fn write_snapshot(&self, name: u64, bytes: &[u8]) -> Result<(), LogError> {
        let shared = self.shared();
        snapshot_file::write(&*shared.disk, &shared.dir, name, bytes, &shared.poisoned)
    }

    /// The newest snapshot that checks out.
    ///
    /// # Errors
    /// [`LogError::Damaged`] if there are some and none does.
    pub fn newest_snapshot(&self) -> Result<Option<(u64, Bytes)>, LogError> {
        snapshot_file::newest(&*self.shared().disk, &self.shared().dir)
    }

    /// One snapshot.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::Io`].
    pub fn read_snapshot(&self, name: u64) -> Result<Bytes, LogError> {
        snapshot_file::read(&*self.shared().disk, &self.shared().dir, name)
    }
}

impl Tail {
    pub(super) fn recovered(bytes_max: usize, recovered: &Recovered) -> Self {
        Self {
            bytes_max,
            purged: recovered.purged.clone(),
            hard_state: recovered.hard_state.clone(),
            ..Self::default()
        }
    }
}
