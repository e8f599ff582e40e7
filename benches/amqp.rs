//! F1: reading a publish of 1 KiB, writing a delivery.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion};
use leveret::amqp::{FrameDecoder, Properties, RawProperties, encode};
use leveret::base::ChannelId;

/// Messages in one batch, so that the buffer's own allocation is shared as on a socket.
const MESSAGES: usize = 64;

fn publishes(properties: &RawProperties) -> BytesMut {
    let mut out = BytesMut::new();
    for _ in 0..MESSAGES {
        out.extend_from_slice(b"\x01\0\x01\0\0\0\x0e\0\x3c\0\x28\0\0\0\x06orders\0\xce");
        encode::content(&mut out, ChannelId(1), 131_072, properties, &[7; 1024]);
    }
    out
}

/// The benches of this floor. Figures of `decode` are for 64 messages of 3 frames each.
pub fn bench(c: &mut Criterion) {
    let properties = Properties {
        delivery_mode: Some(2),
        ..Properties::default()
    }
    .encode();
    let input = publishes(&properties);
    c.bench_function("amqp/decode 64 publishes of 1 KiB", |b| {
        b.iter_batched_ref(
            || BytesMut::from(&input[..]),
            |input| {
                let mut decoder = FrameDecoder::new(131_072);
                while let Ok(Some(frame)) = decoder.decode(input) {
                    black_box(frame);
                }
                assert!(input.is_empty());
            },
            BatchSize::SmallInput,
        );
    });
    let mut out = BytesMut::with_capacity(4096);
    c.bench_function("amqp/encode deliver of 1 KiB", |b| {
        b.iter(|| {
            out.clear();
            encode::deliver(&mut out, ChannelId(1), b"ctag", 7, false, b"", b"orders");
            encode::content(&mut out, ChannelId(1), 131_072, &properties, &[7; 1024]);
            black_box(&out);
        });
    });
}
