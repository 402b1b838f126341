//! Filters, and their weights along one axis.

use std::ops::Range;

/// A resampling filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The nearest pixel.
    Nearest,
    /// The mean of the area that a pixel covers.
    Area,
    /// A triangle that reaches as far as the neighbours; PIL calls it `BILINEAR`.
    Triangle,
    /// Keys' cubic with a = -0.5 (Catmull-Rom).
    Bicubic,
    /// Windowed sinc of radius 3.
    Lanczos3,
}

impl Filter {
    /// Every filter.
    pub const ALL: [Filter; 5] = [Filter::Nearest, Filter::Area, Filter::Triangle, Filter::Bicubic, Filter::Lanczos3];

    fn radius(self) -> f64 {
        match self {
            Filter::Nearest | Filter::Area => 0.5,
            Filter::Triangle => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos3 => 3.0,
        }
    }

    fn weight(self, t: f64) -> f64 {
        let t = t.abs();
        match self {
            Filter::Nearest | Filter::Area => f64::from(t <= 0.5),
            Filter::Triangle => (1.0 - t).max(0.0),
            Filter::Bicubic => cubic(t),
            Filter::Lanczos3 if t < 1e-9 => 1.0,
            Filter::Lanczos3 if t >= 3.0 => 0.0,
            Filter::Lanczos3 => {
                let x = t * std::f64::consts::PI;
                3.0 * x.sin() * (x / 3.0).sin() / (x * x)
            }
        }
    }
}

/// Keys' cubic kernel with a = -0.5.
pub(super) fn cubic(t: f64) -> f64 {
    let t = t.abs();
    if t <= 1.0 {
        (1.5 * t - 2.5) * t * t + 1.0
    } else if t <= 2.0 {
        ((-0.5 * t + 2.5) * t - 4.0) * t + 2.0
    } else {
        0.0
    }
}

/// For each output pixel of an axis the first input pixel and the weights from there on.
pub(super) struct Taps {
    first: Vec<usize>,
    /// `ends[i]` is where the weights of pixel `i` end.
    ends: Vec<usize>,
    weights: Vec<f32>,
}

impl Taps {
    pub(super) fn new(from: usize, to: usize, filter: Filter) -> Taps {
        let ratio = from as f64 / to as f64;
        let mut taps = Taps { first: Vec::with_capacity(to), ends: Vec::with_capacity(to), weights: Vec::new() };
        let mut row = Vec::new();
        for i in 0..to {
            let center = (i as f64 + 0.5) * ratio;
            row.clear();
            let first = match filter {
                Filter::Nearest => {
                    row.push(1.0);
                    (center as usize).min(from - 1)
                }
                Filter::Area => {
                    // How much of each input pixel lies under the output pixel.
                    let (left, right) = (i as f64 * ratio, (i + 1) as f64 * ratio);
                    let first = ((left + 1e-9) as usize).min(from - 1);
                    let last = ((right - 1e-9).ceil().max(0.0) as usize).clamp(first + 1, from);
                    row.extend((first..last).map(|j| (right.min((j + 1) as f64) - left.max(j as f64)).max(1e-9)));
                    first
                }
                _ => {
                    let stretch = ratio.max(1.0);
                    let radius = filter.radius() * stretch;
                    let first = (center - radius).floor().max(0.0) as usize;
                    let last = ((center + radius).ceil() as usize).min(from);
                    row.extend((first..last).map(|j| filter.weight((j as f64 + 0.5 - center) / stretch)));
                    first
                }
            };
            // Zeros stay: first and last inputs then never go backwards, which the row resampler relies on.
            let sum: f64 = row.iter().sum();
            taps.first.push(first);
            taps.weights.extend(row.iter().map(|w| (w / sum) as f32));
            taps.ends.push(taps.weights.len());
        }
        taps
    }

    /// The first input pixel and the weights for output pixel `i`.
    pub(super) fn at(&self, i: usize) -> (usize, &[f32]) {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        (self.first[i], &self.weights[start..self.ends[i]])
    }

    /// The input pixels for output pixel `i`.
    pub(super) fn span(&self, i: usize) -> Range<usize> {
        let (first, weights) = self.at(i);
        first..first + weights.len()
    }

    /// The longest span.
    pub(super) fn longest(&self) -> usize {
        (0..self.first.len()).map(|i| self.span(i).len()).max().unwrap_or(1)
    }
}
