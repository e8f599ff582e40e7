//! The frame envelope: type u8, channel u16, size u32, payload, end octet 0xCE.

use bytes::Bytes;

use crate::base::ChannelId;

use super::{method::Method, properties::RawProperties};

/// One frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// Type 1.
    Method { channel: ChannelId, method: Method },
    /// Type 2.
    Header {
        channel: ChannelId,
        header: ContentHeader,
    },
    /// Type 3.
    Body { channel: ChannelId, body: Bytes },
    /// Type 8; the channel must be 0 (505 otherwise, decided by the session).
    Heartbeat { channel: ChannelId },
}

/// Content header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentHeader {
    /// 60 for basic.
    pub class_id: u16,
    /// Must be 0.
    pub weight: u16,
    /// Body bytes that follow in body frames.
    pub body_size: u64,
    /// Property flags and list as sent.
    pub properties: RawProperties,
}
