//! openraft's log over the set's log.
//!
//! Shape: an append is handed to the log's writer and returns; the writer's callback completes it after the sync. A
//! vote goes the same way and is waited for. What is committed is kept in memory only: a restart applies again from
//! the snapshot on. Reads are served from the tail cache, else from disk on a blocking thread.
//! Invariants: a read never returns a hole: it ends at the first missing index, and an empty answer to a non-empty
//! range is an error. A write that failed stops the replica for good.
//! Limits: one read holds [`READ_BYTES_MAX`] of payload, except the range openraft's start-up asks for by count.
//! Not here: the files.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

use super::codec;
use super::mend::mend;
use super::shared::Shared;
use super::snapshot::blocking;
use super::types::{Entry, LogId, Types, Vote};
use crate::base::coding::Reader;
use crate::log::{LogError, Record};

/// Payload bytes one read returns at most, but always at least one entry.
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

/// openraft's log, and its readers: both are handles of one log.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

impl Store {
    /// The log of a replica.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Entries from `from` on, before `end`, at most [`READ_BYTES_MAX`] of them and at least one.
    async fn chunk(&self, from: u64, end: u64) -> io::Result<Vec<Entry>> {
        if let Some(records) = cached(&self.0, from, end) {
            return entries(from, records);
        }
        let records = match self.read(from, end).await? {
            // The core stops at a log it cannot read, and would at every start: a peer's record is as good.
            Err(LogError::Damaged { first, .. }) => {
                let mended = mend(&self.0, first).await;
                mended.map_err(|error| io::Error::other(error.to_string()))?;
                self.read(from, end).await?
            }
            read => read,
        };
        entries(from, records.map_err(io::Error::other)?)
    }

    async fn read(&self, from: u64, end: u64) -> io::Result<Result<Vec<Record>, LogError>> {
        let shared = Arc::clone(&self.0);
        blocking(move || Ok(shared.log.read(from, end, READ_BYTES_MAX))).await
    }
}

/// The records from `from` on that the tail cache holds, if it holds the first.
fn cached(shared: &Shared, from: u64, end: u64) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    let mut bytes = 0;
    for index in from..end {
        let Some(record) = shared.log.cached(index) else {
            break;
        };
        bytes += record.payload.len();
        if bytes > READ_BYTES_MAX && !records.is_empty() {
            break;
        }
        records.push(record);
    }
    (!records.is_empty()).then_some(records)
}

fn entries(from: u64, records: Vec<Record>) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::with_capacity(records.len());
    for (expected, record) in (from..).zip(records) {
        if record.index != expected {
            return Err(io::Error::other(format!(
                "the log has a hole at {expected}, before {}",
                record.index
            )));
        }
        let entry = codec::record_entry(record.index, &record.meta, record.payload)
            .map_err(|error| io::Error::other(format!("entry {expected}: {error}")))?;
        entries.push(entry);
    }
    Ok(entries)
}

/// `range` as (first, end).
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(first) => *first,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

/// The part of `range` that the log holds, as (first, end).
fn held(shared: &Shared, range: &impl RangeBounds<u64>) -> (u64, u64) {
    let (start, end) = bounds(range);
    let purged = shared.log.purged().map(|(index, _)| index + 1);
    let first = purged.or_else(|| shared.log.first_index()).unwrap_or(0);
    let next = shared.log.last().map_or(0, |(index, _)| index + 1);
    (start.max(first), end.min(next))
}

struct Walk {
    store: Store,
    next: u64,
    end: u64,
    ready: std::vec::IntoIter<Entry>,
}

async fn step(mut walk: Walk) -> Option<(io::Result<Entry>, Walk)> {
    loop {
        if let Some(entry) = walk.ready.next() {
            return Some((Ok(entry), walk));
        }
        if walk.next >= walk.end {
            return None;
        }
        match walk.store.chunk(walk.next, walk.end).await {
            Ok(chunk) if chunk.is_empty() => {
                let error = format!("entry {} is not in the log", walk.next);
                walk.end = walk.next;
                return Some((Err(io::Error::other(error)), walk));
            }
            Ok(chunk) => {
                walk.next += chunk.len() as u64;
                walk.ready = chunk.into_iter();
            }
            Err(error) => {
                walk.end = walk.next;
                return Some((Err(error), walk));
            }
        }
    }
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<Entry>, io::Error>
    where
        R: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (mut next, end) = held(&self.0, &range);
        let mut entries = Vec::new();
        while next < end {
            let chunk = self.chunk(next, end).await?;
            if chunk.is_empty() {
                return Err(io::Error::other(format!("entry {next} is not in the log")));
            }
            next += chunk.len() as u64;
            entries.extend(chunk);
        }
        Ok(entries)
    }

    async fn entries_stream<R>(
        &mut self,
        range: R,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + Send
    where
        R: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (mut next, mut end) = held(&self.0, &range);
        if self.0.log.poisoned() {
            // The core may apply entries whose append has just failed: they are no end of the log but an error.
            (next, end) = bounds(&range);
        }
        let walk = Walk {
            store: self.clone(),
            next,
            end,
            ready: Vec::new().into_iter(),
        };
        stream::unfold(walk, step)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(*self.0.vote.lock())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        if start >= end {
            return Ok(Vec::new());
        }
        let chunk = self.chunk(start, end).await?;
        if chunk.is_empty() {
            return Err(io::Error::other(format!("entry {start} is not in the log")));
        }
        Ok(chunk)
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let purged = self.0.log.purged().map(id).transpose()?;
        let last = self.0.log.last().map(id).transpose()?;
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: last.or(purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, wait) = oneshot::channel();
        self.0.log.save_hard_state(
            encode_vote(vote),
            Box::new(move |result| drop(done.send(result))),
        );
        let saved = wait.await.map_err(io::Error::other)?;
        if let Err(error) = saved {
            self.0.fail(&error.to_string());
            return Err(io::Error::other(error));
        }
        *self.0.vote.lock() = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        *self.0.committed.lock() = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(*self.0.committed.lock())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let records = entries
            .into_iter()
            .map(|entry| {
                let index = entry.log_id.index;
                let (meta, payload) = codec::entry_record(entry);
                Record {
                    index,
                    meta,
                    payload,
                }
            })
            .collect();
        let shared = Arc::clone(&self.0);
        self.0.log.append(
            records,
            Box::new(move |result: Result<(), LogError>| {
                if let Err(error) = &result {
                    shared.fail(&error.to_string());
                }
                callback.io_completed(result.map_err(io::Error::other));
            }),
        );
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.0
            .log
            .truncate_after(last.map(|id| id.index))
            .map_err(io::Error::other)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.0
            .log
            .purge(upto.index, codec::id_meta(&upto))
            .map_err(io::Error::other)
    }
}

fn id((index, meta): (u64, Bytes)) -> io::Result<LogId> {
    codec::record_term(&meta)
        .map(|(_, term)| codec::log_id(term, index))
        .map_err(|error| io::Error::other(format!("entry {index}: {error}")))
}

/// The hard state: the vote.
pub(super) fn encode_vote(vote: &Vote) -> Bytes {
    let mut out = Vec::with_capacity(18);
    codec::put_version(&mut out);
    codec::put_vote(&mut out, vote);
    Bytes::from(out)
}

/// The vote in a hard state.
pub(super) fn decode_vote(bytes: &[u8]) -> Result<Vote, codec::CodecError> {
    let mut reader = Reader::new(bytes);
    codec::version(&mut reader)?;
    codec::vote(&mut reader)
}
