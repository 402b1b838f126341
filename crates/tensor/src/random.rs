//! Random numbers that depend on nothing but a seed and a place in the work: the same picture is cropped at the same corner
//! whichever thread does it, and after a restart.
//!
//! Number `i` of a stream is a function of the stream's state and of `i`, so that a GPU fills tensors with the very numbers, bit
//! for bit, that the CPU draws one after the other (`kernels/random.cu` of supple-cuda is the twin). Normal numbers are quantiles,
//! one for each 64 bits, computed by sums, products, quotients and roots alone, which round alike everywhere. (Algorithm: Wichura,
//! AS 241, Applied Statistics 37, 1988.)

#[cfg(feature = "cuda")]
use crate::DType;
use crate::{Device, Error, Layout, Tensor};

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

    /// `len` numbers of the normal distribution around 0.
    pub fn normal(&mut self, len: usize, deviation: f32) -> Vec<f32> {
        (0..len).map(|_| quantile(self.bits()) as f32 * deviation).collect()
    }

    /// Leaves `count` numbers out.
    pub fn skip(&mut self, count: usize) {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(count as u64));
    }
}

/// Coefficients of polynomials above and below the line, the highest power first, for quantiles near the middle.
const CENTRE: [[f64; 8]; 2] = [
    [
        2509.0809287301227,
        33430.57558358813,
        67265.7709270087,
        45921.95393154987,
        13731.69376550946,
        1971.5909503065513,
        133.14166789178438,
        3.3871328727963665,
    ],
    [
        5226.495278852854,
        28729.085735721943,
        39307.89580009271,
        21213.794301586597,
        5394.196021424751,
        687.1870074920579,
        42.31333070160091,
        1.0,
    ],
];
/// As [`CENTRE`], away from the middle.
const TAIL: [[f64; 8]; 2] = [
    [
        0.0007745450142783414,
        0.022723844989269184,
        0.2417807251774506,
        1.2704582524523684,
        3.6478483247632045,
        5.769497221460691,
        4.630337846156546,
        1.4234371107496835,
    ],
    [
        1.0507500716444169e-09,
        0.0005475938084995345,
        0.015198666563616457,
        0.14810397642748008,
        0.6897673349851,
        1.6763848301838038,
        2.053191626637759,
        1.0,
    ],
];
/// As [`CENTRE`], beyond five deviations or so.
const FAR_TAIL: [[f64; 8]; 2] = [
    [
        2.0103343992922881e-07,
        2.7115555687434876e-05,
        0.0012426609473880784,
        0.026532189526576124,
        0.29656057182850487,
        1.7848265399172913,
        5.463784911164114,
        6.657904643501103,
    ],
    [
        2.0442631033899397e-15,
        1.421511758316446e-07,
        1.8463183175100548e-05,
        0.0007868691311456133,
        0.014875361290850615,
        0.1369298809227358,
        0.599832206555888,
        1.0,
    ],
];

fn polynomial(coefficients: &[f64; 8], x: f64) -> f64 {
    coefficients[1..].iter().fold(coefficients[0], |y, c| y * x + c)
}

/// The natural logarithm of a normal number, in operations that round alike everywhere.
fn logarithm(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut e = (bits >> 52) as i32 - 1023;
    let mut m = f64::from_bits((bits & 0xf_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        e += 1;
    }
    let s = (m - 1.0) / (m + 1.0);
    let sum = (0..12).fold(0.0, |sum, i| sum * (s * s) + 1.0 / f64::from(23 - 2 * i));
    f64::from(e) * std::f64::consts::LN_2 + 2.0 * s * sum
}

/// The number below which a normal number lies with the probability that `bits` stand for.
fn quantile(bits: u64) -> f64 {
    let p = ((bits >> 11) as f64 + 0.5) * (1.0 / (1u64 << 53) as f64);
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180625 - q * q;
        return polynomial(&CENTRE[0], r) * q / polynomial(&CENTRE[1], r);
    }
    let r = (-logarithm(if q < 0.0 { p } else { 1.0 - p })).sqrt();
    let (at, [above, below]) = if r > 5.0 { (r - 5.0, &FAR_TAIL) } else { (r - 1.6, &TAIL) };
    (polynomial(above, at) / polynomial(below, at)).copysign(q)
}

impl Tensor {
    /// A tensor of numbers in `-bound..bound`, as [`Random::uniform`] draws them, the same bits on every device. The stream moves
    /// on.
    ///
    /// # Errors
    /// If it does not fit the memory.
    pub fn uniform(device: &Device, shape: &[usize], bound: f32, random: &mut Random) -> Result<Tensor, Error> {
        match device {
            Device::Cpu(_) => {
                Tensor::from_slice(device, &random.uniform(Layout::contiguous(shape)?.elements(), bound), shape)
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => {
                filled(gpu, device, shape, supple_cuda::random::Distribution::Uniform { bound }, random)
            }
        }
    }

    /// A tensor of numbers of the normal distribution around 0, as [`Random::normal`] draws them, the same bits on every device.
    /// The stream moves on.
    ///
    /// # Errors
    /// If it does not fit the memory.
    pub fn normal(device: &Device, shape: &[usize], deviation: f32, random: &mut Random) -> Result<Tensor, Error> {
        match device {
            Device::Cpu(_) => {
                Tensor::from_slice(device, &random.normal(Layout::contiguous(shape)?.elements(), deviation), shape)
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => {
                filled(gpu, device, shape, supple_cuda::random::Distribution::Normal { deviation }, random)
            }
        }
    }
}

#[cfg(feature = "cuda")]
fn filled(
    gpu: &supple_cuda::Gpu,
    device: &Device,
    shape: &[usize],
    how: supple_cuda::random::Distribution,
    random: &mut Random,
) -> Result<Tensor, Error> {
    let tensor = Tensor::unspecified(device, Layout::contiguous(shape)?, DType::F32)?;
    let to = supple_cuda::ElementsMut::new(tensor.memory()?, 0, supple_cuda::DType::F32);
    supple_cuda::random::fill(gpu, random.state, how, tensor.elements(), to)?;
    random.skip(tensor.elements());
    Ok(tensor)
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

    #[test]
    fn skipping_is_drawing_without_looking() {
        let (mut a, mut b) = (Random::new(9), Random::new(9));
        a.uniform(1000, 1.0);
        b.skip(1000);
        assert_eq!(a, b);
    }

    #[test]
    fn quantiles_are_those_of_the_normal_distribution() {
        // Python's statistics.NormalDist().inv_cdf.
        for (p, wanted) in [
            (0.5, 0.0),
            (0.6, 0.2533471031357997),
            (0.9, 1.2815515655446008),
            (0.975, 1.9599639845400538),
            (0.01, -2.3263478740408408),
            (1e-6, -4.753424308822899),
            (1e-12, -7.034483825301131),
        ] {
            // Of 53 bits, the middle of a step: what is next to `p`. The slope of the quantile tells how far that is off.
            let bits = (p * (1u64 << 53) as f64) as u64;
            let next = (bits as f64 + 0.5) / (1u64 << 53) as f64;
            let density = (-0.5 * f64::powi(wanted, 2)).exp() / std::f64::consts::TAU.sqrt();
            let (found, wanted) = (quantile(bits << 11), wanted + (next - p) / density);
            assert!((found - wanted).abs() < 2e-10, "{p}: {found} not {wanted}");
        }
        for x in [0.1, 0.7, 0.99, 1.0, 1.4, 1.5, 1e-300, 3.0e5] {
            assert!((logarithm(x) - x.ln()).abs() <= 4e-16 * x.ln().abs().max(1.0), "{x}");
        }
        assert!(quantile(0) < -8.0 && quantile(u64::MAX) > 8.0 && quantile(u64::MAX).is_finite());
    }

    #[test]
    fn normal_numbers_have_their_moments() {
        let values = Random::new(5).normal(200_000, 2.0);
        let moment = |power: i32| values.iter().map(|&v| f64::from(v).powi(power)).sum::<f64>() / 2e5;
        assert!(moment(1).abs() < 0.02 && (moment(2) - 4.0).abs() < 0.05, "{} {}", moment(1), moment(2));
        assert!(moment(3).abs() < 0.3 && (moment(4) - 48.0).abs() < 2.0, "{} {}", moment(3), moment(4));
    }
}
