//! A running hash of a state, fed in canonical order, that replicas compare. Not cryptographic.

/// FNV-1a over words, with a final mix.
#[derive(Clone, Copy, Debug)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// Feeds one number.
    pub fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(23);
    }

    /// Feeds a byte string with its length.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }

    /// The digest of all that was fed.
    #[must_use]
    pub fn value(self) -> u64 {
        let mut word = self.0;
        word = (word ^ word >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        word ^ word >> 33
    }
}
