//! gRPC's messages on an HTTP/2 body: one byte of flags, four of length, the message.
//!
//! Need: a payload of megabytes goes to the socket as it is, and arrives in a recycled buffer. tonic's own codec copies
//! into a buffer that grows, so framing is done here; connections, flow control and TLS are tonic's.
//! Limits: a message is at most [`MESSAGE_BYTES_MAX`]; longer is an error of the stream.
//! Not here: what messages mean.

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http_body::Frame as BodyFrame;
use http_body_util::{BodyExt, StreamBody};
use tonic::Status;
use tonic::body::Body;

use crate::model::batch::{BufferPool, PooledBuffer};
use crate::raft::Frame;

/// Longest message: an entry of one publish of the largest body to which a batch was added, and a snapshot's chunk.
pub const MESSAGE_BYTES_MAX: usize = 640 * 1024 * 1024;
const PREFIX: usize = 5;
/// A first part up to this size shares its HTTP/2 frame with the prefix.
const JOIN_MAX: usize = 4096;

/// The chunks of one message.
fn chunks(message: Frame) -> Vec<Bytes> {
    let len: usize = message.iter().map(Bytes::len).sum();
    let mut parts = message.into_iter();
    let mut head = BytesMut::with_capacity(PREFIX + 256);
    head.put_u8(0);
    head.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    let mut chunks = Vec::with_capacity(3);
    match parts.next() {
        Some(first) if first.len() <= JOIN_MAX => {
            head.put_slice(&first);
            chunks.push(head.freeze());
        }
        first => {
            chunks.push(head.freeze());
            chunks.extend(first);
        }
    }
    chunks.extend(parts.filter(|part| !part.is_empty()));
    chunks
}

/// A body of messages.
pub fn body<E>(messages: impl Stream<Item = Result<Frame, E>> + Send + 'static) -> Body
where
    E: Into<Status> + Send + 'static,
{
    let frames = messages.flat_map(|message| {
        let frames: Vec<Result<BodyFrame<Bytes>, Status>> = match message {
            Ok(message) => chunks(message)
                .into_iter()
                .map(|chunk| Ok(BodyFrame::data(chunk)))
                .collect(),
            Err(error) => vec![Err(error.into())],
        };
        futures_util::stream::iter(frames)
    });
    Body::new(StreamBody::new(frames))
}

/// The messages of a body.
pub struct Messages {
    body: Body,
    chunk: Bytes,
    pool: BufferPool,
}

impl Messages {
    /// Reads `body` into buffers of `pool`.
    pub fn new(body: Body, pool: BufferPool) -> Self {
        Self {
            body,
            chunk: Bytes::new(),
            pool,
        }
    }

    /// The next message; `None` at the end of the body.
    ///
    /// # Errors
    /// The stream broke, or a message is too long or cut off.
    pub async fn next(&mut self) -> Result<Option<PooledBuffer>, Status> {
        let mut prefix = [0; PREFIX];
        let mut have = 0;
        while have < PREFIX {
            if self.chunk.is_empty() && !self.fill().await? {
                return match have {
                    0 => Ok(None),
                    _ => Err(cut_off()),
                };
            }
            let take = (PREFIX - have).min(self.chunk.len());
            prefix[have..have + take].copy_from_slice(&self.chunk.split_to(take));
            have += take;
        }
        let len = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if prefix[0] != 0 || len > MESSAGE_BYTES_MAX {
            return Err(Status::resource_exhausted("message too long or compressed"));
        }
        // Memory follows what has arrived, not what was announced.
        let mut message = self.pool.lend(len.min(4 << 20));
        while message.as_ref().len() < len {
            if self.chunk.is_empty() && !self.fill().await? {
                return Err(cut_off());
            }
            let take = (len - message.as_ref().len()).min(self.chunk.len());
            message
                .filled()
                .extend_from_slice(&self.chunk.split_to(take));
        }
        Ok(Some(message))
    }

    /// Whether another chunk has come.
    async fn fill(&mut self) -> Result<bool, Status> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame?;
            match frame.into_data() {
                Ok(data) if !data.is_empty() => {
                    self.chunk = data;
                    return Ok(true);
                }
                Ok(_) => {}
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return ended(&trailers).map(|()| false);
                    }
                }
            }
        }
        Ok(false)
    }

    /// The messages as a stream of frozen bytes; it ends at the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, Status>> + Send {
        futures_util::stream::unfold(Some(self), |messages| async move {
            let mut messages = messages?;
            match messages.next().await {
                Ok(Some(message)) => Some((Ok(message.freeze()), Some(messages))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

fn cut_off() -> Status {
    Status::data_loss("the stream ended inside a message")
}

/// What a `grpc-status` header or trailer says; nothing counts as well.
pub fn ended(headers: &http::HeaderMap) -> Result<(), Status> {
    match Status::from_header_map(headers) {
        Some(status) if status.code() != tonic::Code::Ok => Err(status),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use std::convert::Infallible;

    fn sent(messages: Vec<Frame>) -> Messages {
        let stream = futures_util::stream::iter(messages.into_iter().map(Ok::<_, Status>));
        Messages::new(body(stream), BufferPool::default())
    }

    #[tokio::test]
    async fn messages_arrive_as_they_were_sent() {
        let big = Bytes::from(vec![7; 3 << 20]);
        let mut messages = sent(vec![
            vec![Bytes::from_static(b"head"), big.clone(), Bytes::new()],
            vec![],
            vec![big.clone()],
        ]);
        let first = messages.next().await.unwrap().unwrap().freeze();
        assert_eq!(&first[..4], b"head");
        assert_eq!(first[4..], big[..]);
        assert!(messages.next().await.unwrap().unwrap().freeze().is_empty());
        assert_eq!(messages.next().await.unwrap().unwrap().freeze(), big);
        assert!(messages.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn any_chunking_gives_the_same_messages_and_a_cut_one_is_an_error() {
        let whole: Vec<u8> = chunks(vec![
            Bytes::from_static(b"abc"),
            Bytes::from_static(b"defg"),
        ])
        .concat();
        for cut in 0..whole.len() {
            for end in cut..=whole.len() {
                let parts = [&whole[..cut], &whole[cut..end]];
                let frames: Vec<Result<_, Infallible>> = parts
                    .iter()
                    .map(|part| Ok(BodyFrame::data(Bytes::copy_from_slice(part))))
                    .collect();
                let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
                let mut messages = Messages::new(body, BufferPool::default());
                match messages.next().await {
                    Ok(Some(message)) => {
                        assert_eq!((message.as_ref(), end), (&b"abcdefg"[..], whole.len()))
                    }
                    Ok(None) => assert_eq!(end, 0),
                    Err(_) => assert!(end > 0 && end < whole.len()),
                }
            }
        }
    }
}
