//! Raft's messages between members as bytes.
//!
//! Shape: a request is version, kind, fields; an answer is version, a status, fields. The payloads of an append's
//! entries follow its fields as parts of their own, so they are neither copied to be sent nor when they arrive.
//! Invariants: decoding never panics and never reserves more than the input holds.
//! Not here: who sends what when ([`super::network`], [`super::answer`]).

use bytes::{BufMut, Bytes};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::Frame;
use super::codec::{self, CodecError};
use super::mend::Given;
use super::types::{Types, Vote};
use crate::base::coding::{Reader, Writer};
use crate::log::Record;

const VOTE: u8 = 1;
const PRE_VOTE: u8 = 2;
const TRANSFER: u8 = 3;
const RECORDS: u8 = 4;

const OK: u8 = 0;
const REFUSED: u8 = 1;
const OUTVOTED: u8 = 2;
const FAILED: u8 = 3;

/// Fixed bytes of an entry in an append's fields: term, kind byte of its head and the length of its payload.
const ENTRY_FIELDS_MIN: usize = 11;

/// A request as it arrives.
#[derive(Debug)]
pub(super) enum Request {
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Transfer(TransferLeaderRequest<Types>),
    /// Applied entries, from the first to before the second index.
    Records(u64, u64),
}

fn head(kind: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    codec::put_version(&mut out);
    out.put_u8(kind);
    out
}

/// A request for a vote, or for the promise of one.
pub(super) fn put_vote_request(request: &VoteRequest<Types>, pre: bool) -> Frame {
    let mut out = head(if pre { PRE_VOTE } else { VOTE });
    codec::put_vote(&mut out, &request.vote);
    codec::put_log_id(&mut out, request.last_log_id.as_ref());
    out.put_flag(request.leadership_transfer);
    vec![out.into()]
}

/// The wish that a member takes over.
pub(super) fn put_transfer(request: &TransferLeaderRequest<Types>) -> Frame {
    let mut out = head(TRANSFER);
    codec::put_vote(&mut out, request.from_leader());
    out.put_u64_le(*request.to_node_id());
    codec::put_log_id(&mut out, request.last_log_id());
    vec![out.into()]
}

/// Reads any request but an append.
pub(super) fn request(frame: &Bytes) -> Result<Request, CodecError> {
    let mut reader = Reader::new(frame);
    codec::version(&mut reader)?;
    match reader.u8()? {
        kind @ (VOTE | PRE_VOTE) => {
            let vote = codec::vote(&mut reader)?;
            let mut request = VoteRequest::new(vote, codec::opt_log_id(&mut reader)?);
            request.leadership_transfer = reader.flag()?;
            Ok(if kind == VOTE {
                Request::Vote(request)
            } else {
                Request::PreVote(request)
            })
        }
        TRANSFER => {
            let from = codec::vote(&mut reader)?;
            let to = reader.u64()?;
            let last = codec::opt_log_id(&mut reader)?;
            Ok(Request::Transfer(TransferLeaderRequest::new(
                from, to, last,
            )))
        }
        RECORDS => Ok(Request::Records(reader.u64()?, reader.u64()?)),
        other => Err(CodecError::Kind(other)),
    }
}

/// The wish for applied entries from `first` to before `end`.
pub(super) fn put_records_request(first: u64, end: u64) -> Frame {
    let mut out = head(RECORDS);
    out.put_u64_le(first);
    out.put_u64_le(end);
    vec![out.into()]
}

/// The answer to it.
pub(super) fn put_records_answer(given: &Given) -> Bytes {
    let mut out = head(OK);
    out.put_u64_le(given.applied);
    out.put_u64_le(given.next);
    out.put_varint(given.records.len() as u64);
    for record in &given.records {
        out.put_u64_le(record.index);
        out.put_blob(&record.meta);
        out.put_blob(&record.payload);
    }
    out.into()
}

/// Reads it; payloads are parts of `bytes`.
pub(super) fn records_answer(bytes: &Bytes) -> Result<Given, AnswerError> {
    let (_, mut reader) = answer(bytes)?;
    let (applied, next) = (reader.u64()?, reader.u64()?);
    let mut records = Vec::new();
    for _ in 0..reader.varint()? {
        let index = reader.u64()?;
        let meta = bytes.slice_ref(reader.blob()?);
        let payload = bytes.slice_ref(reader.blob()?);
        records.push(Record {
            index,
            meta,
            payload,
        });
    }
    Ok(Given {
        applied,
        next,
        records,
    })
}

/// Entries for a follower.
pub(super) fn put_append(request: AppendEntriesRequest<Types>) -> Frame {
    let mut out = Vec::with_capacity(64 + request.entries.len() * 16);
    codec::put_version(&mut out);
    codec::put_vote(&mut out, &request.vote);
    codec::put_log_id(&mut out, request.prev_log_id.as_ref());
    codec::put_log_id(&mut out, request.leader_commit.as_ref());
    out.put_varint(request.entries.len() as u64);
    let first = request
        .entries
        .first()
        .map_or(0, |entry| entry.log_id.index);
    out.put_u64_le(first);
    let mut frame = vec![Bytes::new()];
    for entry in request.entries {
        let (head, payload) = codec::entry_record(entry);
        out.put_slice(&head);
        out.put_varint(payload.len() as u64);
        if !payload.is_empty() {
            frame.push(payload);
        }
    }
    frame[0] = out.into();
    frame
}

/// Reads entries; their payloads are parts of `frame`.
pub(super) fn append(frame: &Bytes) -> Result<AppendEntriesRequest<Types>, CodecError> {
    let mut reader = Reader::new(frame);
    codec::version(&mut reader)?;
    let vote = codec::vote(&mut reader)?;
    let prev_log_id = codec::opt_log_id(&mut reader)?;
    let leader_commit = codec::opt_log_id(&mut reader)?;
    let count = reader.varint()?;
    let first = reader.u64()?;
    if count > (reader.rest().len() / ENTRY_FIELDS_MIN) as u64 {
        return Err(crate::base::coding::Truncated.into());
    }
    let mut heads = Vec::new();
    for _ in 0..count {
        let head = reader.bytes(codec::HEAD_LEN)?;
        let len = usize::try_from(reader.varint()?).map_err(|_| crate::base::coding::Truncated)?;
        heads.push((head, len));
    }
    let mut entries = Vec::with_capacity(heads.len());
    for (index, (head, len)) in (first..).zip(heads) {
        let payload = frame.slice_ref(reader.bytes(len)?);
        entries.push(codec::record_entry(index, head, payload)?);
    }
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id,
        entries,
        leader_commit,
    })
}

/// The answer to an append.
pub(super) fn put_append_answer(answer: &StreamAppendResult<Types>) -> Bytes {
    let mut out = match answer {
        Ok(id) => {
            let mut out = head(OK);
            codec::put_log_id(&mut out, id.as_ref());
            out
        }
        Err(StreamAppendError::Conflict(id)) => {
            let mut out = head(REFUSED);
            codec::put_log_id(&mut out, Some(id));
            out
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            let mut out = head(OUTVOTED);
            codec::put_vote(&mut out, vote);
            out
        }
    };
    out.shrink_to_fit();
    out.into()
}

/// Reads the answer to an append.
pub(super) fn append_answer(bytes: &[u8]) -> Result<StreamAppendResult<Types>, AnswerError> {
    let (status, mut reader) = answer(bytes)?;
    match status {
        OK => Ok(Ok(codec::opt_log_id(&mut reader)?)),
        REFUSED => {
            let id = codec::opt_log_id(&mut reader)?.ok_or(CodecError::Kind(REFUSED))?;
            Ok(Err(StreamAppendError::Conflict(id)))
        }
        OUTVOTED => Ok(Err(StreamAppendError::HigherVote(codec::vote(
            &mut reader,
        )?))),
        other => Err(CodecError::Kind(other).into()),
    }
}

/// An answer that is not an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    /// The bytes are not what they should be.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The peer could not do it, and says why.
    #[error("the peer says: {0}")]
    Peer(String),
}

impl From<crate::base::coding::Truncated> for AnswerError {
    fn from(error: crate::base::coding::Truncated) -> Self {
        Self::Codec(error.into())
    }
}

fn answer(bytes: &[u8]) -> Result<(u8, Reader<'_>), AnswerError> {
    let mut reader = Reader::new(bytes);
    codec::version(&mut reader)?;
    match reader.u8()? {
        FAILED => Err(AnswerError::Peer(reader.text()?)),
        status => Ok((status, reader)),
    }
}

/// The answer of a peer that could not do it.
pub(super) fn put_failure(reason: &str) -> Bytes {
    let mut out = head(FAILED);
    out.put_blob(reason.as_bytes());
    out.into()
}

/// The answer to a vote request.
pub(super) fn put_vote_answer(answer: &VoteResponse<Types>) -> Bytes {
    let mut out = head(OK);
    codec::put_vote(&mut out, &answer.vote);
    out.put_flag(answer.vote_granted);
    codec::put_log_id(&mut out, answer.last_log_id.as_ref());
    out.into()
}

/// Reads the answer to a vote request.
pub(super) fn vote_answer(bytes: &[u8]) -> Result<VoteResponse<Types>, AnswerError> {
    let (_, mut reader) = answer(bytes)?;
    let vote = codec::vote(&mut reader)?;
    let granted = reader.flag()?;
    let last = codec::opt_log_id(&mut reader)?;
    Ok(VoteResponse::new(vote, last, granted))
}

/// The answer to a snapshot.
pub(super) fn put_snapshot_answer(vote: &Vote) -> Bytes {
    let mut out = head(OK);
    codec::put_vote(&mut out, vote);
    out.into()
}

/// Reads the answer to a snapshot.
pub(super) fn snapshot_answer(bytes: &[u8]) -> Result<Vote, AnswerError> {
    let (_, mut reader) = answer(bytes)?;
    Ok(codec::vote(&mut reader)?)
}

/// The answer to the wish that this member takes over.
pub(super) fn put_transfer_answer(answer: &TransferLeaderResponse<Types>) -> Bytes {
    match answer {
        Ok(()) => head(OK).into(),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            let mut out = head(OUTVOTED);
            codec::put_vote(&mut out, expected);
            codec::put_vote(&mut out, actual);
            out.into()
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            let mut out = head(REFUSED);
            codec::put_log_id(&mut out, expected.as_ref());
            codec::put_log_id(&mut out, actual.as_ref());
            out.into()
        }
    }
}

/// Reads the answer to the wish that a member takes over.
pub(super) fn transfer_answer(bytes: &[u8]) -> Result<TransferLeaderResponse<Types>, AnswerError> {
    let (status, mut reader) = answer(bytes)?;
    match status {
        OK => Ok(Ok(())),
        OUTVOTED => Ok(Err(TransferLeaderError::VoteChanged {
            expected: codec::vote(&mut reader)?,
            actual: codec::vote(&mut reader)?,
        })),
        REFUSED => Ok(Err(TransferLeaderError::LogNotFlushed {
            expected: codec::opt_log_id(&mut reader)?,
            actual: codec::opt_log_id(&mut reader)?,
        })),
        other => Err(CodecError::Kind(other).into()),
    }
}
