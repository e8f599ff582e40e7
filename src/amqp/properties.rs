//! The 14 basic properties, kept as the bytes the client sent and parsed lazily.

use bytes::Bytes;

/// Property flags (u16, continuation words included) and the property list, as on the wire. Immutable; checked to
/// be well-formed when the content header was decoded, so readers need not fail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawProperties(pub Bytes);
