//! Random numbers that can be had again.

/// xorshift64*: the same seed gives the same numbers.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From `NETVALE_SEED`, or another one each time; the seed is printed.
    #[must_use]
    pub fn announced(what: &str) -> Self {
        let given = std::env::var("NETVALE_SEED").ok();
        let seed = given.and_then(|s| s.parse().ok()).unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |d| u64::from(d.subsec_nanos()) ^ d.as_secs() << 8)
        });
        eprintln!("{what}: NETVALE_SEED={seed}");
        Self::new(seed)
    }

    /// The next one.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.word() >> 33).unwrap_or(0) % n.max(1)
    }

    /// One of these.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// True that often.
    pub fn percent(&mut self, n: usize) -> bool {
        self.below(100) < n
    }
}
