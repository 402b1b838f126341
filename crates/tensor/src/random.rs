//! Random numbers that depend on nothing but a seed and a place in the work: the same picture is cropped at the same corner
//! whichever thread does it, and after a restart.

/// A stream of random numbers. (Algorithm: SplitMix64, Steele et al. 2014.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    /// Another stream, for part `part` of the work. The stream itself stays where it is.
    pub fn part(&self, part: u64) -> Random {
        let mut other = Random { state: self.state ^ part.wrapping_mul(0xd6e8_feb8_6659_fd93) };
        Random { state: other.bits() }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in 0..1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number below `end`, or 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        // The multiplication's bias, `end` in 2^64, is too small to be seen.
        ((u128::from(self.bits()) * end as u128) >> 64) as usize
    }

    /// `len` numbers in `-bound..bound`.
    pub fn uniform(&mut self, len: usize, bound: f32) -> Vec<f32> {
        (0..len).map(|_| (self.unit() * 2.0 - 1.0) as f32 * bound).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_parts_differ() {
        let draw = |mut random: Random| (0..8).map(|_| random.below(1000)).collect::<Vec<_>>();
        assert_eq!(draw(Random::new(7)), draw(Random::new(7)));
        let streams =
            [draw(Random::new(7)), draw(Random::new(8)), draw(Random::new(7).part(0)), draw(Random::new(7).part(1))];
        for (i, a) in streams.iter().enumerate() {
            assert!(streams[..i].iter().all(|b| a != b));
        }
        // The first numbers of SplitMix64 as published.
        let mut random = Random::new(1_234_567);
        assert_eq!([random.bits(), random.bits()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
        let mean = (0..10_000).map(|_| random.unit()).sum::<f64>() / 1e4;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        assert!((0..1000).all(|_| random.below(3) < 3) && random.below(0) == 0);
    }
}
