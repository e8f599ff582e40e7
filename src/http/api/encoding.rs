//! gzip, for clients that take it.
//!
//! Bounds: what is small is sent as it is; a list that is rendered while it is sent is compressed on the way.

use std::io::Write;

use axum::http::{HeaderMap, header};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::StreamExt;
use futures_util::stream;

use super::Rows;

/// Smaller bodies gain nothing.
const BYTES_MIN: usize = 1_024;

/// How a body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Identity,
    /// Compressed.
    Gzip,
}

impl Encoding {
    /// What a request asks for.
    pub fn of(headers: &HeaderMap) -> Self {
        let accepted = headers.get(header::ACCEPT_ENCODING);
        let accepted = accepted.and_then(|value| value.to_str().ok());
        let takes = accepted.unwrap_or_default().split(',').any(|one| {
            let mut parts = one.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let never = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
            matches!(name, "gzip" | "*") && !never
        });
        match takes {
            true => Self::Gzip,
            false => Self::Identity,
        }
    }

    /// A body, and the name of its encoding.
    pub fn encode(self, body: Vec<u8>) -> (Vec<u8>, Option<&'static str>) {
        if self == Self::Identity || body.len() < BYTES_MIN {
            return (body, None);
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        match encoder.write_all(&body).and_then(|()| encoder.finish()) {
            Ok(packed) => (packed, Some("gzip")),
            // Memory does not fail; if it did, the body is still there.
            Err(_) => (body, None),
        }
    }

    /// The same for a list on its way.
    pub fn encode_rows(self, rows: Rows) -> (Rows, Option<&'static str>) {
        if self == Self::Identity {
            return (rows, None);
        }
        let encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
        let packed = stream::unfold((rows, encoder), |(mut rows, encoder)| async move {
            let mut encoder = encoder?;
            let Some(some) = rows.next().await else {
                return Some((encoder.finish().ok()?, (rows, None)));
            };
            encoder.write_all(&some).ok()?;
            let packed = std::mem::take(encoder.get_mut());
            Some((packed, (rows, Some(encoder))))
        });
        let packed = packed.filter(|some| std::future::ready(!some.is_empty()));
        (Box::pin(packed), Some("gzip"))
    }
}

#[cfg(test)]
mod test {
    use std::io::Read;

    use super::*;

    fn of(text: &'static str) -> Encoding {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, text.parse().unwrap());
        Encoding::of(&headers)
    }

    #[test]
    fn only_who_asks_for_gzip_gets_it_and_only_where_it_pays() {
        assert_eq!(of("deflate, gzip;q=0.5"), Encoding::Gzip);
        assert_eq!(of("gzip;q=0, identity"), Encoding::Identity);
        assert_eq!(of("br"), Encoding::Identity);
        assert_eq!(Encoding::of(&HeaderMap::new()), Encoding::Identity);
        assert_eq!(Encoding::Gzip.encode(vec![b'x'; 100]).1, None);
        let (packed, name) = Encoding::Gzip.encode(vec![b'x'; 10_000]);
        assert_eq!(name, Some("gzip"));
        assert!(packed.len() < 200);
    }

    #[test]
    fn a_list_that_is_compressed_on_its_way_comes_out_whole() {
        let parts: Vec<Vec<u8>> = (0..50).map(|at| vec![at as u8; 3_000]).collect();
        let rows: Rows = Box::pin(stream::iter(parts.clone()));
        let (packed, _) = Encoding::Gzip.encode_rows(rows);
        let packed: Vec<Vec<u8>> = futures_util::FutureExt::now_or_never(packed.collect()).unwrap();
        let mut unpacked = Vec::new();
        let packed = packed.concat();
        flate2::read::GzDecoder::new(&packed[..])
            .read_to_end(&mut unpacked)
            .unwrap();
        assert_eq!(unpacked, parts.concat());
    }
}
