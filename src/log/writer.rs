//! The writer: takes all that waits, writes it with one frame, makes it durable once, then answers everybody.
//!
//! Invariants: what is durable is a prefix of what was queued; after a failure nothing is written and all is answered
//! with an error. Limits: a group is at most [`GROUP_BYTES`] and one more job.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::LogError;
use super::appender::Appender;
use super::disk::{Disk, OpenMode};
use super::install::Plan;
use super::record::{FRAME_SIZE, Frame, HEADER_SIZE, Header, Kind, Record};
use super::segment::{Segment, segment_path};
use super::segment_file::{START, SegmentHead};
use super::spare::Spares;
use super::wal::{Done, Shared};

/// Bytes one group takes before it is committed.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// Bytes in a segment at which its successor is made.
const HURRY_BYTES: u64 = 1024 * 1024;

/// How long nothing is asked before the last write is vouched for.
const VOUCH_AFTER: Duration = Duration::from_secs(1);

/// One wish, in the order of its caller.
pub(super) enum Job {
    Append {
        records: Vec<Record>,
        epoch: u64,
        done: Done,
    },
    HardState(Bytes, Done),
    /// The first index that goes, and the epoch that begins.
    Truncate(u64, u64),
    Purge(u64, Bytes),
    Install(Box<Plan>, Done),
    Barrier(Done),
    Close,
}

impl Job {
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Append { records, .. } => records.iter().map(Record::weight).sum(),
            _ => HEADER_SIZE,
        }
    }
}

enum Step {
    Entry(u64, u32),
    Cut(u64),
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) appender: Appender,
    pub(super) nonce: u32,
    pub(super) durable: u64,
    pub(super) next: Option<u64>,
    pub(super) hard_state: Option<Bytes>,
    pub(super) purged: Option<(u64, Bytes)>,
    steps: Vec<Step>,
    written: Option<(u64, u64)>,
    framed: bool,
    /// Whether the last thing on disk is a frame that says that all before it was durable.
    vouched: bool,
    pub(super) number: u64,
    pub(super) salt: u32,
    /// Whether the file had not its full size when it became the active one.
    pub(super) growing: bool,
    /// Offset past which the next segment should be at hand.
    pub(super) hurry: u64,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, appender: Appender) -> Self {
        let durable = appender.end();
        let hurry = hurry_from(&shared);
        let (number, salt) = {
            let segments = shared.segments.lock();
            (segments.active.number, segments.active.salt)
        };
        Self {
            shared,
            appender,
            nonce: rand::random(),
            durable,
            next: None,
            hard_state: None,
            purged: None,
            steps: Vec::new(),
            written: None,
            framed: false,
            vouched: false,
            number,
            salt,
            growing: true,
            hurry,
        }
    }

    /// Works until told to close or nobody is left.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        self.begin();
        let mut answers: Vec<Done> = Vec::new();
        while let Some(first) = self.wait(jobs) {
            if self.group(first, jobs, &mut answers) {
                return;
            }
        }
    }

    pub(super) fn begin(&mut self) {
        self.growing = self.appender.grows(self.shared.options.segment_size_bytes);
    }

    /// Does `first` and what waits behind it, commits once, and answers; whether the log is closed now.
    pub(super) fn group(
        &mut self,
        first: Job,
        jobs: &Receiver<Job>,
        answers: &mut Vec<Done>,
    ) -> bool {
        *self.shared.counters.busy_since.lock() = Some(Instant::now());
        let (mut weight, mut closing) = (0, false);
        let mut result = self.poison_check();
        let mut job = Some(first);
        while let Some(one) = job {
            weight += one.weight();
            closing |= matches!(one, Job::Close);
            if let Err(error) = self.take(one, &result, answers) {
                result = Err(error);
            }
            job = if weight < GROUP_BYTES && !closing {
                jobs.try_recv().ok()
            } else {
                None
            };
        }
        if result.is_ok() {
            result = self.commit();
        }
        if result.is_ok() && closing && !self.vouched {
            result = self.vouch();
        }
        if result.is_err() {
            self.shared.poisoned.store(true, Relaxed);
        }
        *self.shared.counters.busy_since.lock() = None;
        self.shared
            .counters
            .queued_bytes
            .fetch_sub(weight as u64, Relaxed);
        for done in answers.drain(..) {
            done(result.clone());
        }
        closing
    }

    /// The next wish; `None` when nobody is left. While none comes the last write is vouched for, so that only damage
    /// of the last moments before a crash can pass for a torn write.
    fn wait(&mut self, jobs: &Receiver<Job>) -> Option<Job> {
        if !self.vouched && self.poison_check().is_ok() {
            match jobs.recv_timeout(VOUCH_AFTER) {
                Ok(job) => return Some(job),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.idle();
        }
        jobs.recv().ok()
    }

    /// Nothing was asked for [`VOUCH_AFTER`].
    pub(super) fn idle(&mut self) {
        if self.vouched || self.poison_check().is_err() {
            return;
        }
        if let Err(error) = self.vouch() {
            tracing::error!(%error, "the log cannot be written");
            self.shared.poisoned.store(true, Relaxed);
        }
    }

    fn poison_check(&self) -> Result<(), LogError> {
        if self.shared.poisoned.load(Relaxed) {
            return Err(LogError::Poisoned);
        }
        Ok(())
    }

    fn take(
        &mut self,
        job: Job,
        so_far: &Result<(), LogError>,
        answers: &mut Vec<Done>,
    ) -> Result<(), LogError> {
        let sound = so_far.is_ok();
        match job {
            Job::Append {
                records,
                epoch,
                done,
            } => {
                answers.push(done);
                if sound {
                    for record in &records {
                        self.entry(record)?;
                    }
                    if let Some(last) = records.last() {
                        self.written = Some((epoch, last.index + 1));
                    }
                }
            }
            Job::HardState(state, done) => {
                answers.push(done);
                if sound {
                    self.put(Kind::HardState, 0, &[], &state)?;
                    self.hard_state = Some(state);
                }
            }
            Job::Truncate(next, epoch) if sound => {
                self.written = Some((epoch, next));
                self.put(Kind::Truncate, next, &[], &[])?;
                self.steps.push(Step::Cut(next));
                self.next = Some(next);
            }
            Job::Purge(upto, meta) if sound => {
                self.put(Kind::Purge, upto, &meta, &[])?;
                self.purged = Some((upto, meta));
            }
            Job::Install(plan, done) => {
                answers.push(done);
                if sound {
                    self.install(&plan)?;
                }
            }
            Job::Barrier(done) => answers.push(done),
            Job::Truncate(..) | Job::Purge(..) | Job::Close => {}
        }
        Ok(())
    }

    fn entry(&mut self, record: &Record) -> Result<(), LogError> {
        let size = (HEADER_SIZE + record.meta.len() + record.payload.len() + FRAME_SIZE) as u64;
        let spare = &self.shared.spare;
        let end = self.appender.end();
        let full = end + size > self.shared.options.segment_size_bytes;
        // A file that grows costs a journal commit per sync; it is left as soon as a spare is there.
        let full = full || (self.growing && spare.any());
        if end > self.hurry {
            spare.hurry();
            self.hurry = u64::MAX;
        }
        let gap = self.next.is_some_and(|next| next != record.index);
        let used = self.appender.end() > START + FRAME_SIZE as u64;
        if used && (full || gap) {
            self.commit()?;
            if gap || self.shared.segments.lock().active.count > 0 {
                self.roll()?;
            }
        }
        let at = self.put(Kind::Entry, record.index, &record.meta, &record.payload)?;
        self.steps.push(Step::Entry(record.index, at));
        self.next = Some(record.index + 1);
        Ok(())
    }

    fn put(
        &mut self,
        kind: Kind,
        index: u64,
        meta: &[u8],
        payload: &[u8],
    ) -> Result<u32, LogError> {
        let (number, salt) = (self.number, self.salt);
        let failed = |error| LogError::io(&segment_path(&self.shared.dir, number), error);
        if !self.framed {
            let frame = Frame {
                nonce: self.nonce,
                durable: self.durable,
            };
            let bytes = frame.encode(salt, self.appender.end());
            self.appender.put(&bytes).map_err(failed)?;
            self.framed = true;
            self.vouched = false;
        }
        let at = u32::try_from(self.appender.end()).map_err(|_| LogError::TooLarge { index })?;
        let header = Header::encode(kind, index, meta, payload, self.nonce, salt);
        for part in [&header[..], meta, payload] {
            self.appender.put(part).map_err(failed)?;
        }
        Ok(at)
    }

    /// A frame with nothing behind it, for a log that is closed in order or left alone: it says that all before it was
    /// durable, so that no damage can pass for a torn write.
    fn vouch(&mut self) -> Result<(), LogError> {
        let frame = Frame {
            nonce: self.nonce,
            durable: self.durable,
        };
        let bytes = frame.encode(self.salt, self.appender.end());
        let path = || segment_path(&self.shared.dir, self.number);
        let put = self.appender.put(&bytes);
        put.map_err(|error| LogError::io(&path(), error))?;
        self.framed = true;
        self.commit()?;
        self.vouched = true;
        Ok(())
    }

    /// Makes all that was put durable, then readable from disk.
    pub(super) fn commit(&mut self) -> Result<(), LogError> {
        if self.framed {
            let begun = Instant::now();
            let result = self.appender.commit();
            let path = || segment_path(&self.shared.dir, self.number);
            result.map_err(|error| LogError::io(&path(), error))?;
            let counters = &self.shared.counters;
            counters.committed(begun.elapsed());
            counters.writes.store(self.appender.writes, Relaxed);
            counters
                .bytes_written
                .store(self.appender.bytes_written, Relaxed);
            self.durable = self.appender.end();
            self.framed = false;
        }
        let mut segments = self.shared.segments.lock();
        segments.active.end = self.durable;
        for step in self.steps.drain(..) {
            match step {
                Step::Entry(index, at) => {
                    if segments.active.count == 0 {
                        segments.active.first = index;
                    }
                    segments.active.count += 1;
                    segments.active_offsets.push(at);
                }
                Step::Cut(next) => segments.cut(next)?,
            }
        }
        drop(segments);
        if let Some((epoch, next)) = self.written.take() {
            self.shared.tail.write().written(epoch, next);
        }
        Ok(())
    }

    /// Seals the active segment and begins the next one, which repeats hard state and purge mark.
    fn roll(&mut self) -> Result<(), LogError> {
        let shared = Arc::clone(&self.shared);
        let mut segments = shared.segments.lock();
        let number = segments.active.number + 1;
        let (segment, file) = begin(
            &*shared.disk,
            &shared.dir,
            shared.options.direct,
            &shared.spare,
            number,
            self.durable,
        )?;
        (self.number, self.salt) = (segment.number, segment.salt);
        let old = std::mem::replace(&mut segments.active, segment);
        let offsets = std::mem::take(&mut segments.active_offsets);
        if old.count > 0 {
            segments.write_index(&old, &offsets, false)?;
            segments.remember(old.number, Arc::new(offsets));
            segments.sealed.push(old);
        } else {
            segments.active.cut = old.cut;
        }
        let reader = Arc::clone(&segments.active.file);
        drop(segments);
        let path = segment_path(&shared.dir, number);
        let resumed = self.appender.resume(file, &*reader, START);
        resumed.map_err(|error| LogError::io(&path, error))?;
        self.durable = START;
        self.growing = self.appender.grows(shared.options.segment_size_bytes);
        self.hurry = hurry_from(&shared);
        self.marks()
    }

    /// Repeats hard state and purge mark in the active segment, so that older ones are not needed for them.
    pub(super) fn marks(&mut self) -> Result<(), LogError> {
        if let Some(state) = self.hard_state.clone() {
            self.put(Kind::HardState, 0, &[], &state)?;
        }
        if let Some((upto, meta)) = self.purged.clone() {
            self.put(Kind::Purge, upto, &meta, &[])?;
        }
        Ok(())
    }
}

/// A log that is hardly written, as most are, needs no spare.
pub(super) fn hurry_from(shared: &Shared) -> u64 {
    HURRY_BYTES.min(shared.options.segment_size_bytes / 4)
}

/// Makes a new, empty, durable segment, from a spare if there is one; also its file for writing.
pub(super) fn begin(
    disk: &dyn Disk,
    dir: &Path,
    direct: bool,
    spare: &Spares,
    number: u64,
    previous_end: u64,
) -> Result<(Segment, Arc<dyn super::DiskFile>), LogError> {
    let path = segment_path(dir, number);
    let failed = |error| LogError::io(&path, error);
    spare.take(&path).map_err(failed)?;
    let mode = if direct {
        OpenMode::Direct
    } else {
        OpenMode::Write
    };
    let file = disk.open(&path, mode).map_err(failed)?;
    let salt = rand::random();
    let head = SegmentHead {
        number,
        salt,
        compacted: false,
        previous_end,
        first: 0,
        count: 0,
        end: 0,
    };
    let mut first_block = Appender::new(Arc::clone(&file));
    first_block.put(&head.encode()).map_err(failed)?;
    first_block.commit().map_err(failed)?;
    disk.sync_dir(dir).map_err(failed)?;
    let reader = disk.open(&path, OpenMode::Read).map_err(failed)?;
    let segment = Segment {
        number,
        salt,
        first: 0,
        count: 0,
        end: START,
        cut: None,
        file: reader,
    };
    Ok((segment, file))
}
