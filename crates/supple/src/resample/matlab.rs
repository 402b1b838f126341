//! MATLAB's `imresize(picture, scale, 'bicubic')` on 8-bit pictures, bit for bit: the down-sampling that super-resolution
//! papers evaluate with.
//!
//! Keys' cubic with a = -0.5, stretched when shrinking, borders mirrored, weights normalised. Rows are resampled first and
//! rounded (half up) to 8 bits, then columns. Arithmetic in f64.

use super::taps::cubic;

/// Interleaved 8-bit samples of `width` × `height` × `channels` scaled by `scale`; gives the samples, width and height
/// (rounded up).
pub fn imresize(samples: &[u8], width: usize, height: usize, channels: usize, scale: f64) -> (Vec<u8>, usize, usize) {
    let size = |n: usize| ((n as f64 * scale).ceil() as usize).max(1);
    let (out_width, out_height) = (size(width), size(height));
    let row = width * channels;

    let mut middle = vec![0u8; out_height * row];
    let mut sums = vec![0f64; row];
    for (y, out) in middle.chunks_exact_mut(row).enumerate() {
        sums.fill(0.0);
        for (index, weight) in taps(height, y, scale) {
            for (sum, &v) in sums.iter_mut().zip(&samples[index * row..][..row]) {
                *sum += weight * f64::from(v);
            }
        }
        for (o, &sum) in out.iter_mut().zip(&sums) {
            *o = round(sum);
        }
    }

    let columns: Vec<_> = (0..out_width).map(|x| taps(width, x, scale)).collect();
    let mut out = Vec::with_capacity(out_width * out_height * channels);
    for row in middle.chunks_exact(row) {
        for taps in &columns {
            for c in 0..channels {
                out.push(round(taps.iter().map(|&(i, w)| w * f64::from(row[i * channels + c])).sum()));
            }
        }
    }
    (out, out_width, out_height)
}

fn round(value: f64) -> u8 {
    (value + 0.5).floor() as u8
}

/// Source indices and weights for output sample `i` of an axis of `n` samples.
fn taps(n: usize, i: usize, scale: f64) -> Vec<(usize, f64)> {
    let stretch = scale.min(1.0);
    let half = 2.0 / stretch;
    let center = (i as f64 + 0.5) / scale - 0.5;
    let first = (center - half - 1e-9).ceil() as i64;
    let count = (2.0 * half).ceil() as i64 + 1;
    let mut taps: Vec<(usize, f64)> = (first..first + count)
        .map(|j| {
            let mirrored = j.rem_euclid(2 * n as i64) as usize;
            (if mirrored < n { mirrored } else { 2 * n - 1 - mirrored }, cubic((center - j as f64) * stretch))
        })
        .collect();
    let sum: f64 = taps.iter().map(|t| t.1).sum();
    taps.iter_mut().for_each(|t| t.1 /= sum);
    taps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_stays_flat_and_sizes_round_up() {
        let (out, w, h) = imresize(&[7; 5 * 3 * 3], 5, 3, 3, 0.5);
        assert_eq!((w, h), (3, 2));
        assert!(out.iter().all(|&v| v == 7));
    }

    #[test]
    fn a_ramp_halves_as_the_reference_script_says() {
        // The formulas of srlib.py's `taps` and `im8`, worked out in plain Python.
        let ramp: Vec<u8> = (0..8).map(|v| v * 10).collect();
        let (out, w, _) = imresize(&ramp, 8, 1, 1, 0.5);
        assert_eq!((w, out.len()), (4, 4));
        assert_eq!(out, [4, 25, 45, 66]);
    }
}
