//! The body of a message says which message it is, and is checked to the last byte.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 4 | publisher |
//! | 4 | 8 | number |
//! | 12 | 2 | queue |
//! | 14 | n | filler, made of the fields before |

use super::Message;

const HEAD: usize = 14;

fn filler(seed: u64, at: usize) -> u8 {
    let mixed = (seed ^ at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed.to_le_bytes()[7]
}

fn seed(message: Message, queue: u16) -> u64 {
    message
        .number
        .wrapping_mul(0xD6E8_FEB8_6659_FD93)
        .wrapping_add((u64::from(message.publisher) << 16) | u64::from(queue))
}

/// A body of `size` bytes, or 14 if that is more.
#[must_use]
pub fn body(message: Message, queue: u16, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size.max(HEAD));
    bytes.extend(message.publisher.to_le_bytes());
    bytes.extend(message.number.to_le_bytes());
    bytes.extend(queue.to_le_bytes());
    let seed = seed(message, queue);
    bytes.extend((HEAD..size).map(|at| filler(seed, at)));
    bytes
}

/// The message and queue a body names; `None` if it is not, byte for byte, what was published.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<(Message, u16)> {
    let publisher = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    let number = u64::from_le_bytes(bytes.get(4..12)?.try_into().ok()?);
    let queue = u16::from_le_bytes(bytes.get(12..14)?.try_into().ok()?);
    let message = Message { publisher, number };
    let seed = seed(message, queue);
    let whole = (HEAD..)
        .zip(&bytes[HEAD..])
        .all(|(at, byte)| *byte == filler(seed, at));
    whole.then_some((message, queue))
}
