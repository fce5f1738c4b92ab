//! Whether each stream counts 1, 2, 3 …, in bounded memory.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// Streams known at once, at 17 bytes each. A log with more is read again for the rest of them.
const STREAMS_MAX: usize = 3_600_000;

/// The last sequence of every stream of one share, by a keyed hash of its name.
pub struct Streams {
    keys: RandomState,
    max: usize,
    /// There are 2^bits shares: by the first bits of the hash.
    bits: u32,
    share: u64,
    last: HashMap<u64, u32>,
}

impl Streams {
    pub fn new() -> Self {
        Self::of_at_most(STREAMS_MAX)
    }

    fn of_at_most(max: usize) -> Self {
        Self { keys: RandomState::new(), max, bits: 0, share: 0, last: HashMap::new() }
    }

    /// What is wrong with this place in its stream.
    pub fn look(&mut self, stream: &str, sequence: i64) -> Option<String> {
        let key = self.keys.hash_one(stream);
        if self.share_of(key) != self.share {
            return None;
        }
        while self.share == 0 && self.last.len() >= self.max && !self.last.contains_key(&key) {
            self.bits += 1;
            let bits = self.bits;
            self.last.retain(|key, _| key >> (64 - bits) == 0);
            self.last.shrink_to_fit();
            if self.share_of(key) != 0 {
                return None;
            }
        }
        let last = self.last.entry(key).or_default();
        let before = i64::from(*last);
        *last = u32::try_from(sequence).unwrap_or(u32::MAX).max(*last);
        match sequence - before {
            1 => None,
            ..=0 if sequence == before => Some(format!("sequence {sequence} of {stream} stands twice")),
            ..=0 => Some(format!("sequence {sequence} of {stream} stands behind {before}")),
            2 => Some(format!("sequence {} of {stream} is missing before {sequence}", before + 1)),
            _ => Some(format!("sequences {} to {} of {stream} are missing", before + 1, sequence - 1)),
        }
    }

    /// Turns to the next share, for which the log has to be read once more; `false` when all have been looked at.
    pub fn next_share(&mut self) -> bool {
        self.last.clear();
        self.share += 1;
        self.share < 1 << self.bits
    }

    fn share_of(&self, key: u64) -> u64 {
        key.checked_shr(64 - self.bits).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_counts_on_is_fine_and_whatever_else_it_does_is_named() {
        let mut streams = Streams::new();
        for (stream, sequence) in [("a", 1), ("b", 1), ("a", 2), ("a", 3), ("b", 2)] {
            assert_eq!(streams.look(stream, sequence), None);
        }
        let mut wrong = |stream, sequence| streams.look(stream, sequence).expect("wrong");
        assert_eq!(wrong("a", 3), "sequence 3 of a stands twice");
        assert_eq!(wrong("a", 2), "sequence 2 of a stands behind 3");
        assert_eq!(wrong("a", 5), "sequence 4 of a is missing before 5");
        assert_eq!(wrong("b", 9), "sequences 3 to 8 of b are missing");
        assert_eq!(wrong("c", 2), "sequence 1 of c is missing before 2");
        assert!(!streams.next_share());
    }

    #[test]
    fn more_streams_than_fit_are_looked_at_in_shares_and_none_is_left_out() {
        let names: Vec<String> = (0..1_000).map(|number| format!("unit:{number}")).collect();
        let mut streams = Streams::of_at_most(100);
        let (mut found, mut passes) = (Vec::new(), 0);
        loop {
            passes += 1;
            for sequence in 1..=2 {
                found.extend(names.iter().filter_map(|name| streams.look(name, sequence)));
            }
            // Each stream breaks once.
            found.extend(names.iter().filter_map(|name| streams.look(name, 4)));
            assert!(streams.last.len() <= 200, "{}", streams.last.len());
            if !streams.next_share() {
                break;
            }
        }
        assert!(passes >= 8, "{passes}");
        found.sort();
        found.dedup();
        assert_eq!(found.len(), 1_000);
        assert!(found.iter().all(|wrong| wrong.contains("sequence 3 of")), "{:?}", found[0]);
    }
}
