//! Reproducible chance: a test prints its seed, and `TIDEMARK_SEED` repeats it.

use std::time::{SystemTime, UNIX_EPOCH};

/// SplitMix64 (Steele, Lea, Flood 2014): small, and good enough to choose with.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// From `TIDEMARK_SEED`, else from the clock. Prints the seed.
    pub fn new(what: &str) -> Self {
        let given = std::env::var("TIDEMARK_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::from(now.subsec_nanos()) ^ now.as_secs() << 20
        });
        println!("{what}: TIDEMARK_SEED={seed}");
        Self::of(seed)
    }

    /// The same numbers for the same seed.
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to, not including, `n`.
    pub fn below(&mut self, n: usize) -> usize {
        let n = u64::try_from(n).expect("a usize fits");
        usize::try_from(self.next() % n).expect("below a usize")
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// True once in `n`.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// `n` numbers below `end`, in order.
    pub fn moments(&mut self, n: usize, end: usize) -> Vec<usize> {
        let mut moments: Vec<usize> = (0..n).map(|_| self.below(end)).collect();
        moments.sort_unstable();
        moments
    }
}
