//! The 14 basic properties, kept as the bytes the client sent and parsed lazily.
//!
//! Need: the broker carries properties unread; it looks at a few, and rewrites fewer. Shape: each reader walks from
//! the first property to the one asked for; each editor copies once. Invariants: bytes from a decoded content header
//! passed [`check`]; readers treat anything else as absent. Words after the first (continuation) and what follows the
//! known properties because of them are carried and not understood.

use bytes::Bytes;

use super::table::{
    Names, RawValue, check_table, decode_table, longstr, put_shortstr, put_table, put_value,
    shortstr, split_value, take,
};
use super::{AMQPValue, FieldTable};

/// Property flags (u16, continuation words included) and the property list, as on the wire. Immutable; checked to
/// be well-formed when the content header was decoded, so readers need not fail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawProperties(pub Bytes);

/// All properties, decoded. Strings are bytes: the broker does not check them.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "AMQP's own names")]
pub struct Properties {
    pub content_type: Option<Bytes>,
    pub content_encoding: Option<Bytes>,
    pub headers: Option<FieldTable>,
    pub delivery_mode: Option<u8>,
    pub priority: Option<u8>,
    pub correlation_id: Option<Bytes>,
    pub reply_to: Option<Bytes>,
    pub expiration: Option<Bytes>,
    pub message_id: Option<Bytes>,
    pub timestamp: Option<u64>,
    pub kind: Option<Bytes>,
    pub user_id: Option<Bytes>,
    pub app_id: Option<Bytes>,
    pub cluster_id: Option<Bytes>,
}

/// Kind of each property from bit 15 down: `s` shortstr, `T` table, `1` octet, `8` u64.
const KINDS: &[u8; 14] = b"ssT11ssss8ssss";
const HEADERS: usize = 2;
const REPLY_TO: usize = 6;
const EXPIRATION: usize = 7;
const TIMESTAMP: usize = 9;

/// The first flags word, whether a continuation says more, and the property list.
fn split_flags(bytes: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (first, mut rest) = bytes.split_first_chunk::<2>()?;
    let first = u16::from_be_bytes(*first);
    let mut word = first;
    let mut more = false;
    while word & 1 != 0 {
        let (next, after) = rest.split_first_chunk::<2>()?;
        word = u16::from_be_bytes(*next);
        more |= word & !1 != 0;
        rest = after;
    }
    Some((first, more, rest))
}

/// One property's value (tables without their length) and what follows.
fn split_property(kind: u8, list: &[u8]) -> Option<(&[u8], &[u8])> {
    match kind {
        b's' => shortstr(list),
        b'T' => longstr(list),
        b'1' => take(list, 1),
        _ => take(list, 8),
    }
}

fn has(flags: u16, index: usize) -> bool {
    flags & (0x8000 >> index) != 0
}

/// Whether flags, list and headers are well-formed. One scan, no allocation.
pub(super) fn check(bytes: &[u8]) -> bool {
    let Some((flags, more, mut list)) = split_flags(bytes) else {
        return false;
    };
    for (index, kind) in KINDS.iter().enumerate() {
        if has(flags, index) {
            let Some((value, rest)) = split_property(*kind, list) else {
                return false;
            };
            if index == HEADERS && !check_table(value, Names::Any, 1) {
                return false;
            }
            list = rest;
        }
    }
    list.is_empty() || more
}

/// Where a property stands.
struct Place {
    flags: u16,
    /// Offset of the property, or of where it would be.
    start: usize,
    /// Offset of what follows it.
    end: usize,
    present: bool,
}

impl RawProperties {
    fn place(&self, index: usize) -> Option<Place> {
        let (flags, _, mut list) = split_flags(&self.0)?;
        for (i, kind) in KINDS.iter().enumerate().take(index) {
            if has(flags, i) {
                list = split_property(*kind, list)?.1;
            }
        }
        let start = self.0.len() - list.len();
        let present = has(flags, index);
        if present {
            list = split_property(KINDS[index], list)?.1;
        }
        Some(Place {
            flags,
            start,
            end: self.0.len() - list.len(),
            present,
        })
    }

    /// A present property's value, tables without their length.
    fn value(&self, index: usize) -> Option<&[u8]> {
        let (flags, _, _) = split_flags(&self.0)?;
        if !has(flags, index) {
            return None;
        }
        let place = self.place(index)?;
        let list = self.0.get(place.start..place.end)?;
        Some(split_property(KINDS[index], list)?.0)
    }

    fn octet(&self, index: usize) -> Option<u8> {
        self.value(index)?.first().copied()
    }

    fn text(&self, index: usize) -> Option<Bytes> {
        self.value(index).map(|text| self.0.slice_ref(text))
    }

    /// 2 = persistent.
    #[must_use]
    pub fn delivery_mode(&self) -> Option<u8> {
        self.octet(3)
    }

    /// Priority as sent, 0 to 255.
    #[must_use]
    pub fn priority(&self) -> Option<u8> {
        self.octet(4)
    }

    /// Correlation id.
    #[must_use]
    pub fn correlation_id(&self) -> Option<Bytes> {
        self.text(5)
    }

    /// Reply-to.
    #[must_use]
    pub fn reply_to(&self) -> Option<Bytes> {
        self.text(REPLY_TO)
    }

    /// Expiration: decimal milliseconds by convention, not checked here.
    #[must_use]
    pub fn expiration(&self) -> Option<Bytes> {
        self.text(EXPIRATION)
    }

    /// Message id.
    #[must_use]
    pub fn message_id(&self) -> Option<Bytes> {
        self.text(8)
    }

    /// Seconds since 1970, by convention.
    #[must_use]
    pub fn timestamp(&self) -> Option<u64> {
        let bytes = self.value(TIMESTAMP)?.try_into().ok()?;
        Some(u64::from_be_bytes(bytes))
    }

    /// User id.
    #[must_use]
    pub fn user_id(&self) -> Option<Bytes> {
        self.text(11)
    }

    /// Whether the headers property is present (an empty table counts).
    #[must_use]
    pub fn has_headers(&self) -> bool {
        split_flags(&self.0).is_some_and(|(flags, _, _)| has(flags, HEADERS))
    }

    /// The headers in the sender's order, duplicates included.
    #[must_use]
    pub fn iter_headers(&self) -> Headers<'_> {
        Headers(self.value(HEADERS).unwrap_or_default())
    }

    /// The first header of this name; decodes no other.
    #[must_use]
    pub fn header(&self, name: &[u8]) -> Option<AMQPValue> {
        let (_, raw) = self.iter_headers().find(|(n, _)| *n == name)?;
        raw.decode()
    }

    /// The headers, decoded; of duplicate names the first, without names that are not UTF-8.
    #[must_use]
    pub fn headers(&self) -> Option<FieldTable> {
        decode_table(self.value(HEADERS)?, 1)
    }

    /// All properties.
    #[must_use]
    pub fn decode(&self) -> Properties {
        Properties {
            content_type: self.text(0),
            content_encoding: self.text(1),
            headers: self.headers(),
            delivery_mode: self.delivery_mode(),
            priority: self.priority(),
            correlation_id: self.correlation_id(),
            reply_to: self.reply_to(),
            expiration: self.expiration(),
            message_id: self.message_id(),
            timestamp: self.timestamp(),
            kind: self.text(10),
            user_id: self.user_id(),
            app_id: self.text(12),
            cluster_id: self.text(13),
        }
    }

    /// These properties with one of them set to `wire` (its length included) or removed.
    fn edited(&self, index: usize, wire: Option<&[u8]>) -> Self {
        let whole = if self.0.is_empty() {
            Self(Bytes::from_static(&[0, 0]))
        } else {
            self.clone()
        };
        let bytes = &whole.0;
        let Some(place) = whole.place(index) else {
            return self.clone();
        };
        if wire.is_none() && !place.present {
            return self.clone();
        }
        let bit = 0x8000 >> index;
        let flags = if wire.is_some() {
            place.flags | bit
        } else {
            place.flags & !bit
        };
        let wire = wire.unwrap_or_default();
        let mut out = Vec::with_capacity(bytes.len() + wire.len());
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&bytes[2..place.start]);
        out.extend_from_slice(wire);
        out.extend_from_slice(&bytes[place.end..]);
        Self(out.into())
    }

    /// With this reply-to, cut at 255 octets.
    #[must_use]
    pub fn with_reply_to(&self, reply_to: &[u8]) -> Self {
        let mut wire = Vec::with_capacity(reply_to.len() + 1);
        put_shortstr(&mut wire, reply_to);
        self.edited(REPLY_TO, Some(&wire))
    }

    /// With this timestamp: seconds since 1970, by convention.
    #[must_use]
    pub fn with_timestamp(&self, seconds: u64) -> Self {
        self.edited(TIMESTAMP, Some(&seconds.to_be_bytes()))
    }

    /// Without expiration.
    #[must_use]
    pub fn without_expiration(&self) -> Self {
        self.edited(EXPIRATION, None)
    }

    /// Without any header of this name. The headers property stays, even if now empty.
    #[must_use]
    pub fn without_header(&self, name: &[u8]) -> Self {
        if !self.iter_headers().any(|(n, _)| n == name) {
            return self.clone();
        }
        let wire = self.headers_without(|n| n == name);
        self.edited(HEADERS, Some(&close(wire)))
    }

    /// With these headers replaced or added, in this order after the others. One whose name passes 255 octets or
    /// whose value nests past the depth limit is left out.
    #[must_use]
    pub fn with_headers_set(&self, headers: &[(&str, AMQPValue)]) -> Self {
        let mut wire = self.headers_without(|n| headers.iter().any(|(h, _)| h.as_bytes() == n));
        for (name, value) in headers {
            let before = wire.len();
            put_shortstr(&mut wire, name.as_bytes());
            if name.len() > 255 || put_value(&mut wire, value, 1).is_none() {
                wire.truncate(before);
            }
        }
        self.edited(HEADERS, Some(&close(wire)))
    }

    /// The headers' wire form, length not filled in yet, without those named.
    fn headers_without(&self, named: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut wire = vec![0; 4];
        let mut headers = self.iter_headers();
        loop {
            let before = headers.0;
            let Some((name, _)) = headers.next() else {
                return wire;
            };
            if !named(name) {
                wire.extend_from_slice(&before[..before.len() - headers.0.len()]);
            }
        }
    }
}

/// Fills in the length of a table that begins the buffer.
fn close(mut wire: Vec<u8>) -> Vec<u8> {
    let n = u32::try_from(wire.len() - 4).unwrap_or(u32::MAX);
    wire[..4].copy_from_slice(&n.to_be_bytes());
    wire
}

/// Iterator of [`RawProperties::iter_headers`]: name and raw value.
#[derive(Clone, Debug)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], RawValue<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = shortstr(self.0)?;
        let (raw, rest) = split_value(rest)?;
        self.0 = rest;
        Some((name, raw))
    }
}

impl Properties {
    /// The wire form. Strings are cut at 255 octets; headers past the depth limit are left out.
    #[must_use]
    pub fn encode(&self) -> RawProperties {
        let mut out = vec![0, 0];
        let mut flags = 0_u16;
        let texts = [
            &self.content_type,
            &self.content_encoding,
            &None,
            &None,
            &None,
            &self.correlation_id,
            &self.reply_to,
            &self.expiration,
            &self.message_id,
            &None,
            &self.kind,
            &self.user_id,
            &self.app_id,
            &self.cluster_id,
        ];
        for (index, text) in texts.into_iter().enumerate() {
            let before = out.len();
            let put = match (index, text) {
                (_, Some(text)) => {
                    put_shortstr(&mut out, text);
                    Some(())
                }
                (2, _) => (self.headers.as_ref()).and_then(|t| put_table(&mut out, t, 1)),
                (3, _) => self.delivery_mode.map(|v| out.push(v)),
                (4, _) => self.priority.map(|v| out.push(v)),
                (9, _) => (self.timestamp).map(|v| out.extend_from_slice(&v.to_be_bytes())),
                _ => None,
            };
            if put.is_some() {
                flags |= 0x8000 >> index;
            } else {
                out.truncate(before);
            }
        }
        out[..2].copy_from_slice(&flags.to_be_bytes());
        RawProperties(out.into())
    }
}

impl AsRef<[u8]> for RawProperties {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::ops::Deref for RawProperties {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
