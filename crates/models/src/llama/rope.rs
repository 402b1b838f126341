//! Positions: rotary embeddings (Su et al., 2021) and the ways to stretch them beyond the length that a model was trained on.

/// Angles of positions: position `p` turns pair `i` of a head by `p · frequency(i)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies: frequency `i` is `theta^(−2i / dim)`.
    pub theta: f32,
    /// Elements of a head that are turned, an even number.
    pub dim: usize,
    /// How positions are stretched.
    pub scaling: Scaling,
}

/// How positions are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All frequencies divided by a factor (Chen et al., 2023).
    Linear {
        /// The factor.
        factor: f32,
    },
    /// A larger base, by the length in use ("NTK-aware", dynamic).
    Ntk {
        /// The factor.
        factor: f32,
        /// Length that the model was trained on.
        original: usize,
    },
    /// Llama 3: low frequencies divided, high ones kept, between them something between.
    Llama3 {
        /// The factor.
        factor: f32,
        /// Wavelengths above `original / low` are divided by the factor.
        low: f32,
        /// Wavelengths below `original / high` stay.
        high: f32,
        /// Length that the model was trained on.
        original: usize,
    },
    /// YaRN (Peng et al., 2023).
    Yarn {
        /// The factor.
        factor: f32,
        /// Length that the model was trained on.
        original: usize,
        /// Cosines and sines are multiplied by this.
        attention: f32,
        /// Frequencies that turn more often than this over the original length stay.
        fast: f32,
        /// Frequencies that turn less often are divided by the factor.
        slow: f32,
        /// Whether the bounds between them are whole numbers.
        truncate: bool,
    },
    /// LongRoPE (Ding et al., 2024): a factor for each frequency, one list up to the original length, one beyond.
    Long {
        /// Factors for contexts up to the original length.
        short: Vec<f32>,
        /// Factors for longer ones.
        long: Vec<f32>,
        /// Length that the model was trained on.
        original: usize,
        /// Cosines and sines are multiplied by this.
        attention: f32,
    },
}

/// Frequencies ready for use.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Frequencies {
    frequencies: Vec<f32>,
    scale: f32,
}

impl Rope {
    /// Frequencies for contexts of `context` tokens; `divisors` are further factors that a file holds, or empty.
    pub(super) fn frequencies(&self, context: usize, divisors: &[f32]) -> Frequencies {
        let dim = self.dim as f64;
        let plain = |theta: f64| -> Vec<f64> { (0..self.dim / 2).map(|i| theta.powf(-2.0 * i as f64 / dim)).collect() };
        let theta = f64::from(self.theta);
        let mut scale = 1.0;
        let mut frequencies = plain(theta);
        match &self.scaling {
            Scaling::None => {}
            Scaling::Linear { factor } => frequencies.iter_mut().for_each(|f| *f /= f64::from(*factor)),
            Scaling::Ntk { factor, original } => {
                if context > *original && self.dim > 2 {
                    let factor = f64::from(*factor);
                    let stretch = factor * context as f64 / *original as f64 - (factor - 1.0);
                    frequencies = plain(theta * stretch.powf(dim / (dim - 2.0)));
                }
            }
            Scaling::Llama3 { factor, low, high, original } => {
                let [factor, low, high] = [*factor, *low, *high].map(f64::from);
                for f in &mut frequencies {
                    let turns = *original as f64 * *f / std::f64::consts::TAU;
                    let smooth = if high > low { ((turns - low) / (high - low)).clamp(0.0, 1.0) } else { 1.0 };
                    *f = (1.0 - smooth) * *f / factor + smooth * *f;
                }
            }
            Scaling::Yarn { factor, original, attention, fast, slow, truncate } => {
                scale = *attention;
                let bound = |turns: f32| {
                    dim * (*original as f64 / (f64::from(turns) * std::f64::consts::TAU)).ln() / (2.0 * theta.ln())
                };
                let (mut low, mut high) = (bound(*fast), bound(*slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, high) = (low.max(0.0), high.min(dim - 1.0));
                let width = if high == low { 0.001 } else { high - low };
                for (i, f) in frequencies.iter_mut().enumerate() {
                    let ramp = ((i as f64 - low) / width).clamp(0.0, 1.0);
                    *f = *f / f64::from(*factor) * ramp + *f * (1.0 - ramp);
                }
            }
            Scaling::Long { short, long, original, attention } => {
                scale = *attention;
                let factors = if context > *original { long } else { short };
                for (f, factor) in frequencies.iter_mut().zip(factors) {
                    *f /= f64::from(*factor);
                }
            }
        }
        for (f, divisor) in frequencies.iter_mut().zip(divisors) {
            *f /= f64::from(*divisor);
        }
        Frequencies { frequencies: frequencies.into_iter().map(|f| f as f32).collect(), scale }
    }
}

impl Frequencies {
    /// Number of angles.
    pub(super) fn len(&self) -> usize {
        self.frequencies.len()
    }

    /// Cosines and sines of position `position`.
    pub(super) fn angles(&self, position: usize, cos: &mut [f32], sin: &mut [f32]) {
        for ((&f, cos), sin) in self.frequencies.iter().zip(cos).zip(sin) {
            // In double precision: single steps of large angles would be lost.
            let (s, c) = (position as f64 * f64::from(f)).sin_cos();
            (*cos, *sin) = (c as f32 * self.scale, s as f32 * self.scale);
        }
    }
}
