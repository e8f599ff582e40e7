//! Dice whose throws are the same everywhere and for ever.
//!
//! Need: a seed printed today must name the same program next year, whatever version a crate has then.
//! Shape: `SplitMix64` (Steele, Lea, Flood 2014): one addition and three mixes per throw.

/// A source of throws, all decided by its seed.
pub struct Dice(u64);

impl Dice {
    /// The dice of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub const fn below(&mut self, bound: usize) -> usize {
        #[allow(clippy::cast_possible_truncation)] // the rest is below `bound`, a usize
        let rest = (self.bits() % bound as u64) as usize;
        rest
    }

    /// True in `percent` of 100 throws.
    pub const fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of a list that is not empty.
    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}
