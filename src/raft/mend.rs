//! Records that this replica lost to its disk, had again from its peers.
//!
//! Need: damage in a sealed segment, found when the log is opened or while it is read, must neither end the replica nor
//! shorten its log: what it acknowledged stays acknowledged.
//! Shape: the log says which records it wants ([`Repair`]); a peer gives those that it has applied, which are the same
//! everywhere; the log puts the repaired segment in the damaged one's place.
//! Invariants: nothing is taken from a peer that has not applied all of the segment's range: what is not committed may
//! differ, and a repaired segment is never cut. A record at or below the purge mark may be gone at the peer too.
//! Limits: one segment at a time, whole in memory; an answer is about [`ANSWER_BYTES`].
//! Not here: damage in the newest segment, or of the only replica, which refuses the start.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::shared::Shared;
use super::snapshot::blocking;
use super::transport::{Lane, Peer, Transport};
use super::wire;
use super::{Group, GroupOptions, RaftError};
use crate::base::{NodeId, SetId};
use crate::log::{Log, LogError, Record, Recovered, Repair};

/// Payload bytes of one answer, unless one record is longer.
const ANSWER_BYTES: usize = 1024 * 1024;
/// How long a start waits for a peer that has what is lost.
const START_MAX: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(500);
const ASK_MAX: Duration = Duration::from_secs(10);

/// Who may have what this replica lost.
pub(super) struct Mender {
    set: SetId,
    peers: Vec<(NodeId, String)>,
    transport: Arc<dyn Transport>,
    /// One repair at a time.
    alone: tokio::sync::Mutex<()>,
}

/// Records of a peer, and how far they are complete.
pub(super) struct Given {
    /// The last entry the peer has applied.
    pub(super) applied: u64,
    /// What it has of the entries before this one is all in `records`.
    pub(super) next: u64,
    pub(super) records: Vec<Record>,
}

impl Mender {
    pub(super) fn new(options: &GroupOptions) -> Self {
        let others = options.peers.iter();
        Self {
            set: options.set,
            peers: others
                .filter(|(node, _)| *node != options.node)
                .cloned()
                .collect(),
            transport: Arc::clone(&options.transport),
            alone: tokio::sync::Mutex::default(),
        }
    }

    /// What `repair` wants, from the first of `peers` that has all of it; else what each said.
    async fn fetch(
        &self,
        repair: &Repair,
        peers: &[(NodeId, String)],
    ) -> Result<BTreeMap<u64, Record>, String> {
        let mut reasons = Vec::new();
        for (node, address) in peers {
            let peer = Peer {
                set: self.set,
                node: *node,
                address: address.clone(),
            };
            match self.fetch_from(&peer, repair).await {
                Ok(had) => return Ok(had),
                Err(reason) => reasons.push(format!("node {node}: {reason}")),
            }
        }
        Err(reasons.join("; "))
    }

    async fn fetch_from(
        &self,
        peer: &Peer,
        repair: &Repair,
    ) -> Result<BTreeMap<u64, Record>, String> {
        let mut had = BTreeMap::new();
        let last = repair.range().end.saturating_sub(1);
        for (first, end) in runs(repair.wanted()) {
            let mut from = first;
            while from < end {
                let frame = wire::put_records_request(from, end);
                let answer = self.transport.request(peer, Lane::Snapshot, frame);
                let answer = tokio::time::timeout(ASK_MAX, answer).await;
                let answer = answer.map_err(|_| "no answer in time".to_owned())?;
                let answer = answer.map_err(|error| error.to_string())?;
                let given = wire::records_answer(&answer).map_err(|error| error.to_string())?;
                if given.applied < last || given.next <= from {
                    return Err(format!("has applied {} of {last}", given.applied));
                }
                from = given.next;
                had.extend(given.records.into_iter().map(|one| (one.index, one)));
            }
        }
        let missing = repair
            .wanted()
            .iter()
            .find(|index| repair.must_have(**index) && !had.contains_key(index));
        match missing {
            Some(index) => Err(format!("does not have entry {index} any more")),
            None => Ok(had),
        }
    }
}

/// Neighbouring indexes as one range.
fn runs(wanted: &[u64]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for index in wanted {
        match runs.last_mut() {
            Some((_, end)) if *end == *index => *end += 1,
            _ => runs.push((*index, index + 1)),
        }
    }
    runs
}

/// Opens the log of a replica; a segment that is damaged where Raft needs it is had from a peer first.
pub(super) async fn open_log(
    options: &GroupOptions,
    mender: &Mender,
) -> Result<(Log, Recovered), RaftError> {
    let mut mended = Vec::new();
    loop {
        let (disk, dir) = (Arc::clone(&options.disk), options.dir.clone());
        let log_options = options.log.clone();
        let open = move || Ok(Log::open(disk, dir, log_options));
        let opened = blocking(open).await;
        let error = match opened.map_err(|error| RaftError::Log(error.to_string()))? {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        let refused = || RaftError::Log(error.to_string());
        let segment = segment(&error).filter(|segment| !mended.contains(segment));
        let Some(segment) = segment.filter(|_| !mender.peers.is_empty()) else {
            return Err(refused());
        };
        mended.push(segment);
        tracing::warn!(set = %options.set, %error, "acknowledged entries are lost here; peers are asked for them");
        let (disk, dir) = (Arc::clone(&options.disk), options.dir.clone());
        let look = move || Repair::of(disk, &dir, segment).map_err(io::Error::other);
        let repair = blocking(look).await.map_err(|_| refused())?;
        let repair = Arc::new(repair.ok_or_else(refused)?);
        let until = Instant::now() + START_MAX;
        let had = loop {
            match mender.fetch(&repair, &mender.peers).await {
                Ok(had) => break had,
                Err(reason) if Instant::now() > until => {
                    return Err(RaftError::Log(format!("{error}; no peer helps: {reason}")));
                }
                Err(reason) => {
                    tracing::info!(set = %options.set, reason, "no peer has given the lost entries yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        let count = had.len();
        let (disk, dir) = (Arc::clone(&options.disk), options.dir.clone());
        let put = move || {
            let made = repair.write(&had).map_err(io::Error::other)?;
            made.put(&*disk, &dir).map_err(io::Error::other)
        };
        let put = blocking(put).await;
        put.map_err(|error| RaftError::Log(error.to_string()))?;
        tracing::warn!(set = %options.set, segment, entries = count, "a damaged segment was repaired");
    }
}

/// The segment an error is about, if it is damage.
fn segment(error: &LogError) -> Option<u64> {
    match error {
        LogError::Damaged { path, .. } => path.file_stem()?.to_str()?.parse().ok(),
        _ => None,
    }
}

/// Repairs the sealed segment that holds `index`, if that cannot be read.
pub(super) async fn mend(shared: &Shared, index: u64) -> Result<(), RaftError> {
    let mender = &shared.mender;
    let _alone = mender.alone.lock().await;
    let log = shared.log.clone();
    let look = move || match log.get(index) {
        Ok(_) | Err(LogError::Gone { .. } | LogError::Missing { .. }) => Ok(None),
        Err(error) => {
            let segment = log.sealed_segment(index);
            let segment = segment.ok_or_else(|| io::Error::other(error.clone()))?;
            let (disk, dir) = log.place_on_disk();
            let repair = Repair::of(disk, &dir, segment).map_err(io::Error::other)?;
            repair.map(Some).ok_or_else(|| io::Error::other(error))
        }
    };
    let looked = blocking(look).await;
    let Some(repair) = looked.map_err(|error| RaftError::Log(error.to_string()))? else {
        return Ok(());
    };
    let members = shared.addresses.lock().clone();
    let others = members.into_iter().filter(|(node, _)| *node != shared.node);
    let others: Vec<(NodeId, String)> = others.collect();
    let had = mender.fetch(&repair, &others).await;
    let had = had.map_err(RaftError::Log)?;
    let (count, log) = (had.len(), shared.log.clone());
    let put = move || {
        let made = repair.write(&had).map_err(io::Error::other)?;
        log.put_repaired(made).map_err(io::Error::other)
    };
    let put = blocking(put).await;
    put.map_err(|error| RaftError::Log(error.to_string()))?;
    tracing::warn!(set = %shared.set, index, entries = count, "a damaged segment was repaired");
    Ok(())
}

impl Group {
    /// The entry at `index` cannot be read here: the segment that holds it is soon repaired from a peer.
    pub fn damaged(&self, index: u64) {
        self.shared().note_damage(index);
    }

    /// The applied entries from `first` to before `end` that this replica still has.
    pub(super) async fn give(&self, first: u64, end: u64) -> Result<Given, String> {
        let applied = self.shared().applied_index().unwrap_or(0);
        let end = end.min(applied + 1);
        let log = self.shared().log.clone();
        let read = move || {
            log.survivors(first, end, ANSWER_BYTES)
                .map_err(io::Error::other)
        };
        let records = blocking(read).await.map_err(|error| error.to_string())?;
        let next = records.last().map_or(end, |last| last.index + 1);
        Ok(Given {
            applied,
            next,
            records,
        })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn neighbouring_indexes_are_asked_for_together() {
        assert_eq!(runs(&[3, 4, 5, 9, 11, 12]), [(3, 6), (9, 10), (11, 13)]);
        assert_eq!(runs(&[]), []);
    }
}
