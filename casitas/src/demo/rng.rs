//! The demo's own random numbers: SplitMix64, because its sequence must never change with a crate's version.

use uuid::{Builder, Uuid};

/// What a sequence is for: each thing has its own, so that neither order nor concurrency changes any value.
#[derive(Clone, Copy)]
pub(super) enum Of {
    Property = 1,
    Unit,
    Lease,
    Person,
    Money,
    User,
}

pub(super) struct Rng(u64);

impl Rng {
    pub fn of(seed: u64, what: Of, index: u64) -> Self {
        let mut rng = Self(seed);
        let mixed = rng.next() ^ ((what as u64) << 48) ^ index;
        let mut rng = Self(mixed);
        rng.next();
        rng
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included; `low` when the range is empty.
    pub fn range(&mut self, low: i64, high: i64) -> i64 {
        let width = u64::try_from(high - low).map_or(1, |width| width + 1);
        low + (self.next() % width) as i64
    }

    pub fn chance(&mut self, percent: i64) -> bool {
        self.range(1, 100) <= percent
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[(self.next() % from.len() as u64) as usize]
    }

    /// Of version 4's layout.
    pub fn uuid(&mut self) -> Uuid {
        let bits = (u128::from(self.next()) << 64) | u128::from(self.next());
        Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_splitmix64_for_ever() {
        let mut rng = Rng(1_234_567);
        assert_eq!([rng.next(), rng.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
        assert_eq!(Rng::of(42, Of::Unit, 7).uuid(), Rng::of(42, Of::Unit, 7).uuid());
        assert_ne!(Rng::of(42, Of::Unit, 7).uuid(), Rng::of(42, Of::Lease, 7).uuid());
    }
}
