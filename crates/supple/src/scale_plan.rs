//! Any scale from the few that networks have: a chain of networks, and Lanczos for the rest.

use crate::Error;
use crate::picture::Picture;
use crate::resample::{Filter, resize};
use crate::upscaler::{Progress, Upscaler};

/// Smallest scale on offer.
pub const MIN_SCALE: f64 = 1.1;

/// Largest scale on offer.
pub const MAX_SCALE: f64 = 16.0;

/// How to reach a scale.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalePlan {
    /// The scale to reach.
    pub scale: f64,
    /// Scales of the networks to run, one after the other.
    pub steps: Vec<usize>,
}

/// A remainder up to this factor may be left to Lanczos; shrinking costs nothing in sharpness, enlarging does.
const SLACK: f64 = 1.15;

/// As [`SLACK`], where the next longer chain would make more than four times the pixels.
const LARGE_SLACK: f64 = 1.5;

impl ScalePlan {
    /// The shortest chain of `available` scales whose product is the smallest that reaches `scale`, or comes so close
    /// that Lanczos can do the rest unnoticed.
    ///
    /// # Errors
    /// If the scale is not between [`MIN_SCALE`] and [`MAX_SCALE`], or no scales of at least 2 are available.
    pub fn new(scale: f64, available: &[usize]) -> Result<ScalePlan, Error> {
        if !(MIN_SCALE..=MAX_SCALE).contains(&scale) {
            return Err(Error::BadScale { scale });
        }
        let mut scales: Vec<usize> = available.iter().copied().filter(|&s| (2..=16).contains(&s)).collect();
        scales.sort_unstable_by(|a, b| b.cmp(a));
        scales.dedup();
        let mut chains = Vec::new();
        grow(&scales, &mut Vec::new(), scale, &mut chains);
        let product = |chain: &Vec<usize>| chain.iter().product::<usize>() as f64;
        let best = |slack: f64| {
            let enough = chains.iter().filter(|c| product(c) * slack >= scale - 1e-9);
            // Exact is best; then the smallest product; then the shortest chain; then the larger scale first.
            enough.min_by(|a, b| product(a).total_cmp(&product(b)).then(a.len().cmp(&b.len())))
        };
        let exact = chains.iter().filter(|c| (product(c) - scale).abs() < 1e-9).min_by_key(|c| c.len());
        let usual = exact.or_else(|| best(SLACK));
        let steps = match usual {
            Some(chain) if product(chain) > 2.0 * scale => best(LARGE_SLACK).or(usual),
            _ => usual,
        };
        let Some(steps) = steps else {
            return Err(Error::BadOption("no network with a scale between 2 and 16 is available".into()));
        };
        Ok(ScalePlan { scale, steps: steps.clone() })
    }

    /// What the networks alone enlarge by.
    pub fn product(&self) -> usize {
        self.steps.iter().product()
    }

    /// Sides of the result for an input of `width` × `height`.
    pub fn output_size(&self, width: usize, height: usize) -> (usize, usize) {
        let side = |n: usize| ((n as f64 * self.scale).round() as usize).max(1);
        (side(width), side(height))
    }

    /// Input pixels that the networks go through for an input of `width` × `height`.
    pub fn network_pixels(&self, width: usize, height: usize) -> u64 {
        let mut factor = 1u64;
        let mut pixels = 0u64;
        for &step in &self.steps {
            pixels = pixels.saturating_add((width as u64 * height as u64).saturating_mul(factor * factor));
            factor *= step as u64;
        }
        pixels
    }
}

/// All chains in descending order of scales up to the first product that reaches `scale`.
fn grow(scales: &[usize], chain: &mut Vec<usize>, scale: f64, chains: &mut Vec<Vec<usize>>) {
    for (i, &s) in scales.iter().enumerate() {
        chain.push(s);
        chains.push(chain.clone());
        if (chain.iter().product::<usize>() as f64) < scale {
            grow(&scales[i..], chain, scale, chains);
        }
        chain.pop();
    }
}

/// The picture enlarged by any scale. `available` are the scales that `models` has networks for.
///
/// # Errors
/// If the scale is out of range, a network cannot be had, or as [`Upscaler::upscale_with`].
pub fn enlarge(
    picture: &Picture,
    scale: f64,
    available: &[usize],
    models: &dyn Fn(usize) -> Result<Upscaler, Error>,
    progress: &mut dyn FnMut(Progress) -> bool,
) -> Result<Picture, Error> {
    let plan = ScalePlan::new(scale, available)?;
    let (width, height) = plan.output_size(picture.width(), picture.height());
    let total = plan.network_pixels(picture.width(), picture.height());
    let mut before = 0u64;
    let mut current: Option<Picture> = None;
    let mut cpu = None;
    for &step in &plan.steps {
        let upscaler = models(step)?;
        if upscaler.scale() != step {
            return Err(Error::BadOption(format!("asked for a network of scale {step}, got {}", upscaler.scale())));
        }
        let input = current.as_ref().unwrap_or(picture);
        let pixels = (input.width() * input.height()) as u64;
        let enlarged = upscaler.upscale_with(input, &mut |p| {
            let done = before + (pixels as f64 * p.fraction()) as u64;
            progress(Progress { pixels_done: done, pixels_total: total })
        })?;
        before += pixels;
        current = Some(enlarged);
        cpu = Some(upscaler.cpu().clone());
    }
    match (current, cpu) {
        (Some(p), _) if (p.width(), p.height()) == (width, height) => Ok(p),
        (Some(p), Some(cpu)) => Ok(resize(&p, width, height, Filter::Lanczos3, &cpu)),
        _ => Ok(picture.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn steps(scale: f64, available: &[usize]) -> Vec<usize> {
        ScalePlan::new(scale, available).unwrap().steps
    }

    #[test]
    fn chains_are_what_one_would_choose() {
        let bundled = [2, 3, 4];
        for (scale, expected) in [
            (2.0, vec![2]),
            (3.0, vec![3]),
            (4.0, vec![4]),
            (1.1, vec![2]),
            (1.5, vec![2]),
            (2.5, vec![3]),
            (3.5, vec![4]),
            (4.2, vec![4]),
            (6.0, vec![3, 2]),
            (8.0, vec![4, 2]),
            (9.0, vec![3, 3]),
            (12.0, vec![4, 3]),
            (16.0, vec![4, 4]),
        ] {
            assert_eq!(steps(scale, &bundled), expected, "x{scale}");
        }
        assert_eq!(steps(2.0, &[4]), [4]);
        assert_eq!(steps(6.0, &[4]), [4]);
        assert_eq!(steps(8.0, &[4]), [4, 4]);
        assert_eq!(steps(16.0, &[2]), [2, 2, 2, 2]);
    }

    #[test]
    fn scales_out_of_range_are_refused() {
        for scale in [f64::NAN, f64::INFINITY, 0.0, 1.0, 16.5, -2.0] {
            assert!(matches!(ScalePlan::new(scale, &[2]), Err(Error::BadScale { .. })), "{scale}");
        }
        assert!(ScalePlan::new(2.0, &[]).is_err());
        assert!(ScalePlan::new(2.0, &[0, 1]).is_err());
    }

    proptest! {
        #[test]
        fn every_scale_has_a_plan_that_nearly_reaches_it(scale in 1.1f64..=16.0, a in 2usize..9, b in 2usize..9) {
            let plan = ScalePlan::new(scale, &[a, b]).unwrap();
            prop_assert!(!plan.steps.is_empty());
            prop_assert!(plan.product() as f64 * LARGE_SLACK >= scale - 1e-9);
            prop_assert!(plan.steps.iter().all(|s| *s == a || *s == b));
        }
    }
}
