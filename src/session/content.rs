//! Puts a channel's frames together: a method, or basic.publish with its header and body.
//!
//! Framing errors are found here, when the frame comes, whatever the channel is busy with (§1). A body that will be
//! refused or discarded is counted, not kept. Small body frames are copied together, so that a body sent a byte at a
//! time costs no more memory than one sent at once.

use bytes::{Bytes, BytesMut};

use super::Body;
use crate::amqp::{ContentHeader, Method, ProtocolError, Publish, RawProperties, ReplyCode};
use crate::base::limits::BODY_SIZE_CEILING_BYTES;

/// Body frames below this many bytes are copied together; larger ones stay slices of the input.
const SLICE_BYTES_MIN: usize = 1024;

const BASIC: u16 = 60;

/// A complete method with its content.
#[derive(Debug)]
pub(super) enum Command {
    Method(Method),
    Publish(Incoming),
}

/// basic.publish as it came. The body is empty, though `size` is not 0, if it was not kept.
#[derive(Debug)]
pub(super) struct Incoming {
    pub publish: Publish,
    pub properties: RawProperties,
    pub body: Body,
    pub size: u64,
}

/// A frame of a channel.
#[derive(Debug)]
pub(super) enum Piece {
    Method(Method),
    Header(ContentHeader),
    Body(Bytes),
}

/// What the channel expects next.
#[derive(Debug, Default)]
pub(super) enum Content {
    #[default]
    Method,
    Header(Publish),
    Body(Partial),
}

#[derive(Debug)]
pub(super) struct Partial {
    incoming: Incoming,
    owed: u64,
    keep: bool,
    small: BytesMut,
}

fn unexpected(text: impl Into<String>) -> ProtocolError {
    ProtocolError::new(ReplyCode::UnexpectedFrame, text)
}

impl Content {
    /// Takes one frame; the command it completes, if it does. Bodies above `keep_max` bytes are counted, not kept.
    ///
    /// # Errors
    /// The 505 and 501 of §1, which close the connection.
    pub fn take(&mut self, piece: Piece, keep_max: u64) -> Result<Option<Command>, ProtocolError> {
        match (std::mem::take(self), piece) {
            (Self::Method, Piece::Method(Method::Publish(publish))) => {
                *self = Self::Header(publish);
                Ok(None)
            }
            (Self::Method, Piece::Method(method)) => Ok(Some(Command::Method(method))),
            (Self::Method, _) => Err(unexpected(
                "expected method frame, got non method frame instead",
            )),
            (Self::Header(publish), Piece::Header(header)) => self.begin(publish, header, keep_max),
            (Self::Header(_), _) => Err(unexpected(
                "expected content header for class 60, got non content header frame instead",
            )),
            (Self::Body(partial), Piece::Body(bytes)) => self.go_on(partial, bytes),
            (Self::Body(_), _) => Err(unexpected(
                "expected content body, got non content body frame instead",
            )),
        }
    }

    fn begin(
        &mut self,
        publish: Publish,
        header: ContentHeader,
        keep_max: u64,
    ) -> Result<Option<Command>, ProtocolError> {
        if header.class_id != BASIC {
            return Err(unexpected(format!(
                "expected content header for class 60, got one for class {} instead",
                header.class_id
            )));
        }
        if header.weight != 0 {
            return Err(unexpected(
                "expected content header for class 60, got non content header frame instead",
            ));
        }
        let size = header.body_size;
        if size > BODY_SIZE_CEILING_BYTES {
            return Err(ProtocolError::new(
                ReplyCode::FrameError,
                format!(
                    "content body size {size} exceeds maximum allowed size {BODY_SIZE_CEILING_BYTES}"
                ),
            ));
        }
        let incoming = Incoming {
            publish,
            properties: header.properties,
            body: Body::default(),
            size,
        };
        if size == 0 {
            return Ok(Some(Command::Publish(incoming)));
        }
        *self = Self::Body(Partial {
            incoming,
            owed: size,
            keep: size <= keep_max,
            small: BytesMut::new(),
        });
        Ok(None)
    }

    fn go_on(
        &mut self,
        mut partial: Partial,
        bytes: Bytes,
    ) -> Result<Option<Command>, ProtocolError> {
        let Some(owed) = partial.owed.checked_sub(bytes.len() as u64) else {
            return Err(ProtocolError::new(
                ReplyCode::FrameError,
                "content body frame exceeds remaining content size",
            ));
        };
        partial.owed = owed;
        if partial.keep {
            partial.add(bytes);
        }
        if owed > 0 {
            *self = Self::Body(partial);
            return Ok(None);
        }
        partial.end_small();
        Ok(Some(Command::Publish(partial.incoming)))
    }
}

impl Partial {
    fn add(&mut self, bytes: Bytes) {
        let body = &mut self.incoming.body;
        body.size += bytes.len();
        if self.owed == 0 && body.parts.is_empty() && self.small.is_empty() {
            body.parts = vec![bytes];
        } else if bytes.len() < SLICE_BYTES_MIN {
            self.small.extend_from_slice(&bytes);
        } else {
            self.end_small();
            self.incoming.body.parts.push(bytes);
        }
    }

    fn end_small(&mut self) {
        if !self.small.is_empty() {
            let bytes = self.small.split().freeze();
            self.incoming.body.parts.push(bytes);
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn publish() -> Piece {
        Piece::Method(Method::Publish(Publish {
            exchange: Bytes::new(),
            routing_key: Bytes::from_static(b"q"),
            mandatory: false,
            immediate: false,
        }))
    }

    fn header(body_size: u64) -> ContentHeader {
        ContentHeader {
            class_id: BASIC,
            weight: 0,
            body_size,
            properties: RawProperties(Bytes::from_static(&[0, 0])),
        }
    }

    fn run(pieces: Vec<Piece>) -> Result<Option<Command>, String> {
        let mut content = Content::default();
        let mut last = Ok(None);
        for piece in pieces {
            assert!(matches!(last, Ok(None)), "a frame after the end");
            last = content
                .take(piece, 1 << 20)
                .map_err(|error| error.to_string());
        }
        last
    }

    fn body_of(pieces: Vec<Piece>) -> Vec<usize> {
        match run(pieces) {
            Ok(Some(Command::Publish(incoming))) => {
                assert_eq!(incoming.body.size as u64, incoming.size);
                incoming.body.parts.iter().map(Bytes::len).collect()
            }
            other => panic!("no publish: {other:?}"),
        }
    }

    #[test]
    fn an_empty_body_has_no_body_frame() {
        assert!(body_of(vec![publish(), Piece::Header(header(0))]).is_empty());
    }

    #[test]
    fn body_frames_stay_slices_but_small_ones_are_joined() {
        let mut pieces = vec![publish(), Piece::Header(header(6_000))];
        for size in [2000, 500, 400, 0, 100, 3000] {
            pieces.push(Piece::Body(Bytes::from(vec![7; size])));
        }
        assert_eq!(body_of(pieces), [2000, 1000, 3000]);
    }

    #[test]
    fn framing_errors_have_their_texts() {
        let table: Vec<(Vec<Piece>, &str)> = vec![
            (
                vec![Piece::Header(header(1))],
                "505 UNEXPECTED_FRAME - expected method frame, got non method frame instead",
            ),
            (
                vec![Piece::Body(Bytes::new())],
                "505 UNEXPECTED_FRAME - expected method frame, got non method frame instead",
            ),
            (
                vec![publish(), publish()],
                "505 UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead",
            ),
            (
                vec![
                    publish(),
                    Piece::Header(ContentHeader {
                        weight: 1,
                        ..header(0)
                    }),
                ],
                "505 UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead",
            ),
            (
                vec![
                    publish(),
                    Piece::Header(ContentHeader {
                        class_id: 50,
                        ..header(0)
                    }),
                ],
                "505 UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 instead",
            ),
            (
                vec![publish(), Piece::Header(header(5)), publish()],
                "505 UNEXPECTED_FRAME - expected content body, got non content body frame instead",
            ),
            (
                vec![
                    publish(),
                    Piece::Header(header(2)),
                    Piece::Body(Bytes::from_static(b"abc")),
                ],
                "501 FRAME_ERROR - content body frame exceeds remaining content size",
            ),
            (
                vec![publish(), Piece::Header(header(536_870_913))],
                "501 FRAME_ERROR - content body size 536870913 exceeds maximum allowed size 536870912",
            ),
        ];
        for (pieces, text) in table {
            assert_eq!(run(pieces).unwrap_err(), text);
        }
    }

    #[test]
    fn a_body_too_large_is_read_to_its_end_but_not_kept() {
        let mut content = Content::default();
        content.take(publish(), 10).unwrap();
        content.take(Piece::Header(header(11)), 10).unwrap();
        content
            .take(Piece::Body(Bytes::from_static(b"0123456789")), 10)
            .unwrap();
        match content.take(Piece::Body(Bytes::from_static(b"a")), 10) {
            Ok(Some(Command::Publish(incoming))) => {
                assert_eq!((incoming.size, incoming.body.size), (11, 0));
            }
            other => panic!("no publish: {other:?}"),
        }
    }
}
