//! What a log is opened with.

use std::sync::Arc;

use super::turns::WriterHost;

/// How a log works.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Size at which a segment is sealed, bytes; a multiple of 4096.
    pub segment_size_bytes: u64,
    /// Bytes of durable records kept in memory.
    pub cache_bytes: usize,
    /// Bytes of records read from disk kept in memory.
    pub read_cache_bytes: usize,
    /// Whether to write past the page cache where the file system can.
    pub direct: bool,
    /// Segments filled with zeros ahead.
    pub spare_segments: usize,
    /// Who runs the writer; a thread of its own if nobody.
    pub host: Option<Arc<dyn WriterHost>>,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_size_bytes: 64 << 20,
            cache_bytes: 32 << 20,
            read_cache_bytes: 8 << 20,
            direct: true,
            spare_segments: 1,
            host: None,
        }
    }
}
