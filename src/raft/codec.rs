//! The bytes of everything this floor writes: record heads, hard state, members, log ids.
//!
//! Shape: little-endian integers and varints, a version in front of whatever stands on disk or goes to a peer by
//! itself. A record's head is 10 bytes: version, kind, term; its payload is the proposal's own bytes, or the encoded
//! members.
//! Invariants: decoding never panics and never reserves more than the input holds.
//! Not here: framing and checksums of records, which the log adds.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes};
use openraft::BasicNode;
use openraft::vote::leader_id_std::CommittedLeaderId;

use super::types::{Blob, Entry, LogId, Members, Payload, StoredMembers, Vote};
use crate::base::coding::{Reader, Truncated, Writer};

const VERSION: u8 = 1;

/// Bytes of a record's head.
pub(super) const HEAD_LEN: usize = 10;

const KIND_BLANK: u8 = 0;
const KIND_NORMAL: u8 = 1;
const KIND_MEMBERS: u8 = 2;

/// Bytes that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The input ends inside a value.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// Written by a version this build does not know.
    #[error("version {0} is not known")]
    Version(u8),
    /// A byte that names nothing.
    #[error("{0} names no kind")]
    Kind(u8),
    /// Members that cannot be: an empty or unknown set of voters.
    #[error("impossible members")]
    Members,
}

/// The head of an entry's record, and the part that is its payload.
pub(super) fn entry_record(entry: Entry) -> (Bytes, Bytes) {
    let (kind, payload) = match entry.payload {
        Payload::Blank => (KIND_BLANK, Bytes::new()),
        Payload::Normal(Blob(bytes)) => (KIND_NORMAL, bytes),
        Payload::Members(members) => {
            let mut out = Vec::new();
            put_members(&mut out, &members);
            (KIND_MEMBERS, Bytes::from(out))
        }
    };
    (head(kind, entry.log_id.leader_id.term), payload)
}

/// The head of the record of an entry that is only named: the mark up to which the log is purged.
pub(super) fn id_meta(id: &LogId) -> Bytes {
    head(KIND_BLANK, id.leader_id.term)
}

fn head(kind: u8, term: u64) -> Bytes {
    let mut head = Vec::with_capacity(10);
    head.put_slice(&[VERSION, kind]);
    head.put_u64_le(term);
    Bytes::from(head)
}

/// The kind and the term in a record's head.
pub(super) fn record_term(head: &[u8]) -> Result<(u8, u64), CodecError> {
    let mut reader = Reader::new(head);
    version(&mut reader)?;
    Ok((reader.u8()?, reader.u64()?))
}

/// The entry a record holds. The payload is not copied.
pub(super) fn record_entry(index: u64, head: &[u8], payload: Bytes) -> Result<Entry, CodecError> {
    let (kind, term) = record_term(head)?;
    let payload = match kind {
        KIND_BLANK => Payload::Blank,
        KIND_NORMAL => Payload::Normal(Blob(payload)),
        KIND_MEMBERS => Payload::Members(members(&mut Reader::new(&payload))?),
        other => return Err(CodecError::Kind(other)),
    };
    Ok(Entry {
        log_id: log_id(term, index),
        payload,
    })
}

/// The log id of an entry.
pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// Reads and checks a version byte.
pub(super) fn version(reader: &mut Reader<'_>) -> Result<(), CodecError> {
    match reader.u8()? {
        VERSION => Ok(()),
        other => Err(CodecError::Version(other)),
    }
}

/// Writes the version byte.
pub(super) fn put_version(out: &mut Vec<u8>) {
    out.put_u8(VERSION);
}

/// Writes a vote.
pub(super) fn put_vote(out: &mut Vec<u8>, vote: &Vote) {
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.voted_for);
    out.put_flag(vote.committed);
}

/// Reads a vote.
pub(super) fn vote(reader: &mut Reader<'_>) -> Result<Vote, CodecError> {
    let (term, node) = (reader.u64()?, reader.u64()?);
    Ok(if reader.flag()? {
        Vote::new_committed(term, node)
    } else {
        Vote::new(term, node)
    })
}

/// Writes a log id that may be missing.
pub(super) fn put_log_id(out: &mut Vec<u8>, id: Option<&LogId>) {
    out.put_flag(id.is_some());
    if let Some(id) = id {
        out.put_u64_le(id.leader_id.term);
        out.put_u64_le(id.index);
    }
}

/// Reads a log id that may be missing.
pub(super) fn opt_log_id(reader: &mut Reader<'_>) -> Result<Option<LogId>, CodecError> {
    if !reader.flag()? {
        return Ok(None);
    }
    let (term, index) = (reader.u64()?, reader.u64()?);
    Ok(Some(log_id(term, index)))
}

/// Writes a list of members.
pub(super) fn put_members(out: &mut Vec<u8>, members: &Members) {
    put_version(out);
    let configs = members.get_joint_config();
    out.put_varint(configs.len() as u64);
    for voters in configs {
        out.put_varint(voters.len() as u64);
        for id in voters {
            out.put_varint(*id);
        }
    }
    let nodes: Vec<_> = members.nodes().collect();
    out.put_varint(nodes.len() as u64);
    for (id, node) in nodes {
        out.put_varint(*id);
        out.put_blob(node.addr.as_bytes());
    }
}

/// Reads a list of members.
pub(super) fn members(reader: &mut Reader<'_>) -> Result<Members, CodecError> {
    version(reader)?;
    let mut configs = Vec::new();
    for _ in 0..reader.varint()? {
        let mut voters = BTreeSet::new();
        for _ in 0..reader.varint()? {
            voters.insert(reader.varint()?);
        }
        configs.push(voters);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..reader.varint()? {
        let id = reader.varint()?;
        nodes.insert(id, BasicNode::new(reader.text()?));
    }
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Members::default());
    }
    Members::new(configs, nodes).map_err(|_| CodecError::Members)
}

/// Writes members with the id of the entry that made them so.
pub(super) fn put_stored_members(out: &mut Vec<u8>, members: &StoredMembers) {
    put_log_id(out, members.log_id().as_ref());
    put_members(out, members.membership());
}

/// Reads members with the id of the entry that made them so.
pub(super) fn stored_members(reader: &mut Reader<'_>) -> Result<StoredMembers, CodecError> {
    let id = opt_log_id(reader)?;
    Ok(StoredMembers::new(id, members(reader)?))
}
