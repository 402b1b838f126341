//! From 32-bit sums back to 8 bits, in integers, as TensorFlow Lite's reference kernels do it.
//!
//! `y = clamp(zero_point + round(sum · factor))` with a real factor a channel, stored as `multiplier · 2^(left − right − 31)`:
//!
//! ```text
//! a = (sum << left) · multiplier                   exact, in 64 bits; 2^30 ≤ multiplier < 2^31
//! b = (a + 2^30) >> 31                             rounds half up
//! c = b / 2^right                                  rounds half away from zero
//! ```
//!
//! Both roundings matter: done in one, about one result in a million differs. Sources: gemmlowp's
//! `SaturatingRoundingDoublingHighMul` and `RoundingDivideByPOT`; Jacob et al., arXiv 1712.05877, section 2.2.

use super::PackError;
use super::vector::Vector;

/// A real factor in fixed point: `multiplier · 2^(shift − 31)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    /// 0, or 2^30 to 2^31 − 1.
    pub multiplier: i32,
    /// −31 to 30; positive to the left.
    pub shift: i32,
}

impl Factor {
    /// The nearest factor with 31 bits; 0 for what is below 2^−32 and the largest for what is 2^30 and more.
    pub fn new(real: f64) -> Factor {
        // Numbers below the normal ones become 0 like all small ones.
        if !(real.is_finite() && real >= f64::MIN_POSITIVE) {
            return Factor { multiplier: 0, shift: 0 };
        }
        // `real` as a fraction of 0.5 to 1 and a power of two.
        let bits = real.to_bits();
        let mut shift = ((bits >> 52) & 0x7ff) as i32 - 1022;
        let fraction = f64::from_bits(bits & ((1 << 52) - 1) | 1022 << 52);
        let mut multiplier = (fraction * f64::from(1u32 << 31)).round() as i64;
        if multiplier == 1 << 31 {
            (multiplier, shift) = (multiplier / 2, shift + 1);
        }
        match shift {
            ..-31 => Factor { multiplier: 0, shift: 0 },
            31.. => Factor { multiplier: i32::MAX, shift: 30 },
            _ => Factor { multiplier: multiplier as i32, shift },
        }
    }

    /// `round(value · factor)`, in plain code.
    pub fn apply(self, value: i32) -> i32 {
        let (left, right) = (self.shift.max(0), (-self.shift).max(0));
        let limit = limit(left);
        let value = value.clamp(-limit, limit) << left;
        let high = ((i64::from(value) * i64::from(self.multiplier) + (1 << 30)) >> 31) as i32;
        divide_by_power(high, right)
    }
}

/// `value / 2^exponent`, ties away from zero.
fn divide_by_power(value: i32, exponent: i32) -> i32 {
    let mask = ((1i64 << exponent) - 1) as i32;
    let threshold = (mask >> 1) + i32::from(value < 0);
    (value >> exponent) + i32::from(value & mask > threshold)
}

/// What sums are cut to before they are shifted `left` bits to the left: what is beyond does not fit eight bits by far.
fn limit(left: i32) -> i32 {
    if left == 0 { i32::MAX } else { (1 << 30) >> left }
}

/// What is done to the sums of a layer: one factor for each channel, then the zero point and the range of the output.
#[derive(Clone, Debug)]
pub struct Requantisation {
    /// One for each output channel.
    pub factors: Vec<Factor>,
    /// What stands for real 0 in the output, as an unsigned byte.
    pub zero_point: i32,
    /// Lowest and highest value of the output, as unsigned bytes: the activation.
    pub range: [i32; 2],
}

impl Requantisation {
    /// The byte that a sum of channel `channel` becomes, in plain code.
    pub fn apply(&self, channel: usize, sum: i32) -> u8 {
        let value = self.factors[channel].apply(sum) + self.zero_point;
        value.clamp(self.range[0], self.range[1]) as u8
    }

    /// # Errors
    /// If a factor or the range is impossible.
    fn check(&self) -> Result<(), PackError> {
        let [lowest, highest] = self.range;
        let bytes = 0 <= lowest && lowest <= highest && highest <= 255 && (0..=255).contains(&self.zero_point);
        let possible = |f: &Factor| f.multiplier >= 0 && (-31..=30).contains(&f.shift);
        if bytes && self.factors.iter().all(possible) { Ok(()) } else { Err(PackError::Factor) }
    }
}

/// [`Requantisation`] with biases, as vectors want it: each array has a multiple of four entries.
#[derive(Clone, Debug)]
pub(super) struct PackedFactors {
    bias: Vec<i32>,
    multiplier: Vec<i32>,
    right: Vec<i32>,
    /// Half of `2^right`, and −1 where there is one: what rounding adds, to all and to negative numbers.
    half: Vec<i32>,
    tie: Vec<i32>,
    /// Shifts to the left, and what sums are cut to before; empty if there are none.
    left: Vec<i32>,
    limit: Vec<i32>,
    lowest: Vec<i32>,
    zero_point: i32,
    range: [i32; 2],
}

impl PackedFactors {
    /// Takes biases and, for each channel, a magnitude that sums do not exceed.
    ///
    /// # Errors
    /// If a factor or the range is impossible, or something could overflow on the way.
    pub(super) fn new(
        bias: &[i32],
        bounds: &[i64],
        requantisation: &Requantisation,
    ) -> Result<PackedFactors, PackError> {
        requantisation.check()?;
        assert_eq!(bias.len(), requantisation.factors.len(), "one factor and one bias a channel");
        for (output, (&bound, factor)) in bounds.iter().zip(&requantisation.factors).enumerate() {
            let (left, right) = (factor.shift.max(0), (-factor.shift).max(0));
            let shifted = bound.min(i64::from(limit(left))) << left;
            let rounded = ((shifted * i64::from(factor.multiplier)) >> 31) + 1 + ((1 << right) >> 1) + 255;
            if bound > i64::from(i32::MAX) || rounded > i64::from(i32::MAX) {
                return Err(PackError::Overflow { output });
            }
        }
        let padded = bias.len().next_multiple_of(4);
        let array = |of: &dyn Fn(&Factor) -> i32| {
            let mut values: Vec<i32> = requantisation.factors.iter().map(of).collect();
            values.resize(padded, 0);
            values
        };
        let right = |f: &Factor| (-f.shift).max(0);
        let left = |f: &Factor| f.shift.max(0);
        let any_left = requantisation.factors.iter().any(|f| f.shift > 0);
        let mut bias = bias.to_vec();
        bias.resize(padded, 0);
        Ok(PackedFactors {
            bias,
            multiplier: array(&|f| f.multiplier),
            right: array(&right),
            half: array(&|f| ((1i64 << right(f)) >> 1) as i32),
            tie: array(&|f| -i32::from(right(f) > 0)),
            left: if any_left { array(&left) } else { Vec::new() },
            limit: if any_left { array(&|f| limit(left(f))) } else { Vec::new() },
            lowest: if any_left { array(&|f| -limit(left(f))) } else { Vec::new() },
            zero_point: requantisation.zero_point,
            range: requantisation.range,
        })
    }

    /// What channel `channel` needs, the same in all lanes.
    ///
    /// # Safety
    /// As [`Vector`]; `channel` is one of those packed.
    #[inline(always)]
    pub(super) unsafe fn of_channel<V: Vector>(&self, channel: usize) -> Lanes<V> {
        // SAFETY: all arrays have an entry for each channel; the caller vouches for the instruction set.
        unsafe {
            let at = |values: &Vec<i32>| *values.get_unchecked(channel);
            let any = !self.left.is_empty();
            let (limit, left) = if any { (at(&self.limit), at(&self.left)) } else { (0, 0) };
            Lanes {
                bias: V::splat(at(&self.bias)),
                multiplier: V::splat(at(&self.multiplier)),
                tie: V::splat(at(&self.tie)),
                half: V::splat(at(&self.half)),
                right: V::splat(at(&self.right)),
                count: at(&self.right),
                left: any.then_some([V::splat(-limit), V::splat(limit), V::splat(left)]),
                zero: V::splat(self.zero_point),
            }
        }
    }

    /// What the four channels from `channel` on need, over and over.
    ///
    /// # Safety
    /// As [`Vector`]; `channel` is a multiple of four and one of those packed.
    #[inline(always)]
    pub(super) unsafe fn of_quad<V: Vector>(&self, channel: usize) -> Lanes<V> {
        // SAFETY: all arrays have four entries from `channel` on; the caller vouches for the instruction set.
        unsafe {
            let left = match self.left.is_empty() {
                true => None,
                false => Some([
                    V::repeat4(self.lowest.as_ptr().add(channel)),
                    V::repeat4(self.limit.as_ptr().add(channel)),
                    V::repeat4(self.left.as_ptr().add(channel)),
                ]),
            };
            Lanes {
                bias: V::repeat4(self.bias.as_ptr().add(channel)),
                multiplier: V::repeat4(self.multiplier.as_ptr().add(channel)),
                tie: V::repeat4(self.tie.as_ptr().add(channel)),
                half: V::repeat4(self.half.as_ptr().add(channel)),
                right: V::repeat4(self.right.as_ptr().add(channel)),
                count: 0,
                left,
                zero: V::splat(self.zero_point),
            }
        }
    }

    /// Lowest and highest byte.
    pub(super) fn range(&self) -> [u8; 2] {
        self.range.map(|value| value as u8)
    }
}

/// What the sums of each lane need to become bytes, in registers.
#[derive(Clone, Copy)]
pub(super) struct Lanes<V> {
    bias: V,
    multiplier: V,
    tie: V,
    half: V,
    right: V,
    /// The shift to the right, if it is the same for all lanes.
    count: i32,
    /// Limits and shift to the left.
    left: Option<[V; 3]>,
    zero: V,
}

impl<V: Vector> Lanes<V> {
    /// Scaled sums with the zero point, not yet cut to bytes. `SAME`: from [`PackedFactors::of_channel`].
    ///
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    pub(super) unsafe fn finish<const SAME: bool>(&self, sums: V::Sums) -> V {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let mut sum = V::total(sums).add(self.bias);
            if let Some([lowest, limit, left]) = self.left {
                sum = sum.min(limit).max(lowest).shift_left(left);
            }
            let high = sum.high_mul(self.multiplier);
            let rounded = high.add(high.sign().and(self.tie).add(self.half));
            let scaled = if SAME { rounded.shift_right_all(self.count) } else { rounded.shift_right(self.right) };
            scaled.add(self.zero)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_the_nearest_with_31_bits() {
        assert_eq!(Factor::new(0.5), Factor { multiplier: 1 << 30, shift: 0 });
        assert_eq!(Factor::new(1.0), Factor { multiplier: 1 << 30, shift: 1 });
        assert_eq!(Factor::new(0.999_999_999_999), Factor { multiplier: 1 << 30, shift: 1 });
        assert_eq!(Factor::new(3e-12), Factor { multiplier: 0, shift: 0 });
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Factor::new(bad).multiplier, 0);
        }
        for i in 1..2000 {
            let real = 1.0 / (f64::from(i) * 0.37);
            let Factor { multiplier, shift } = Factor::new(real);
            assert!(multiplier >= 1 << 30);
            let back = f64::from(multiplier) * f64::from(shift - 31).exp2();
            assert!((back / real - 1.0).abs() < 1e-9, "{real} {back}");
        }
    }

    #[test]
    fn rounding_is_half_away_from_zero_after_half_up() {
        let eighth = Factor::new(0.125);
        // 3 becomes 1.5, 2, and then 0.5: both roundings go up.
        assert_eq!([4, -4, 3, -3, 12, -12].map(|v| eighth.apply(v)), [1, -1, 1, 0, 2, -2]);
        assert_eq!(Factor::new(4.0).apply(-7), -28);
        // 2^31 would overflow and is cut, which eight bits cannot tell.
        assert!(Factor::new(1024.0).apply(1 << 29) >= 1 << 29);
    }
}
