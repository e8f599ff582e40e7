//! Any bytes, whole and octet by octet, decode alike and never panic.
//! How it is run: `docs/testing.md`.
#![no_main]

use bytes::BytesMut;
use leveret::amqp::{Frame, FrameDecoder};
use libfuzzer_sys::fuzz_target;

fn frames(data: &[u8], chunk: usize) -> (Vec<Frame>, bool) {
    let mut decoder = FrameDecoder::new(4096);
    let mut input = BytesMut::new();
    let mut frames = Vec::new();
    for part in data.chunks(chunk) {
        input.extend_from_slice(part);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}

fuzz_target!(|data: &[u8]| {
    let (whole, failed) = frames(data, data.len().max(1));
    let (split, split_failed) = frames(data, 1);
    assert_eq!((whole.len(), failed), (split.len(), split_failed));
    for frame in whole {
        if let Frame::Header { header, .. } = frame {
            let edited = header.properties.with_reply_to(b"r").without_header(b"x");
            std::hint::black_box(edited.decode().encode());
        }
    }
});
