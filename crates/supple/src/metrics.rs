//! Picture quality: luma, PSNR and SSIM exactly as super-resolution papers measure them. All in f64, peak 255.

/// Luma of interleaved 8-bit RGB after BT.601 in studio range, not rounded.
pub fn luma(rgb: &[u8]) -> Vec<f64> {
    rgb.chunks_exact(3)
        .map(|p| (65.481 * f64::from(p[0]) + 128.553 * f64::from(p[1]) + 24.966 * f64::from(p[2])) / 255.0 + 16.0)
        .collect()
}

/// PSNR in dB of two planes `row` values wide, leaving out `rows` rows at top and bottom and `columns` values at either
/// end of a row. 99 if they are equal; NaN if nothing is left.
fn psnr_of(a: &[f64], b: &[f64], row: usize, rows: usize, columns: usize) -> f64 {
    let height = a.len().min(b.len()) / row.max(1);
    let (mut sum, mut count) = (0.0, 0usize);
    for y in rows..height.saturating_sub(rows) {
        let range = y * row + columns..(y * row + row).saturating_sub(columns).max(y * row + columns);
        let (Some(a), Some(b)) = (a.get(range.clone()), b.get(range)) else { continue };
        // Row sums keep the rounding errors of long sums small.
        sum += a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
        count += a.len();
    }
    match (count, sum) {
        (0, _) => f64::NAN,
        (_, 0.0) => 99.0,
        _ => 10.0 * (255.0 * 255.0 / (sum / count as f64)).log10(),
    }
}

/// PSNR in dB of two planes of width `width`, leaving out `shave` pixels on each side.
pub fn psnr(a: &[f64], b: &[f64], width: usize, shave: usize) -> f64 {
    psnr_of(a, b, width, shave, shave)
}

/// PSNR in dB of two interleaved 8-bit RGB pictures of width `width`, leaving out `shave` pixels on each side.
pub fn psnr_rgb(a: &[u8], b: &[u8], width: usize, shave: usize) -> f64 {
    let float = |v: &[u8]| v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    psnr_of(&float(a), &float(b), width * 3, shave, shave * 3)
}

/// SSIM of two planes of width `width`, leaving out `shave` pixels on each side: Gaussian window of 11×11 with σ = 1.5, only
/// where it fits, K1 = 0.01, K2 = 0.03. NaN if the window fits nowhere.
pub fn ssim(a: &[f64], b: &[f64], width: usize, shave: usize) -> f64 {
    let height = a.len().min(b.len()) / width.max(1);
    let (w, h) = (width.saturating_sub(2 * shave), height.saturating_sub(2 * shave));
    if w < WINDOW || h < WINDOW {
        return f64::NAN;
    }
    let plane = |f: &dyn Fn(f64, f64) -> f64| {
        let rows = (shave..shave + h).flat_map(|y| y * width + shave..y * width + shave + w);
        blur(&rows.map(|i| f(a[i], b[i])).collect::<Vec<_>>(), w, h)
    };
    let (mean_a, mean_b) = (plane(&|a, _| a), plane(&|_, b| b));
    let (aa, bb, ab) = (plane(&|a, _| a * a), plane(&|_, b| b * b), plane(&|a, b| a * b));
    let (c1, c2) = ((0.01f64 * 255.0).powi(2), (0.03f64 * 255.0).powi(2));
    let sum: f64 = (0..mean_a.len())
        .map(|i| {
            let (m1, m2) = (mean_a[i], mean_b[i]);
            let (s1, s2, s12) = (aa[i] - m1 * m1, bb[i] - m2 * m2, ab[i] - m1 * m2);
            (2.0 * m1 * m2 + c1) * (2.0 * s12 + c2) / ((m1 * m1 + m2 * m2 + c1) * (s1 + s2 + c2))
        })
        .sum();
    sum / mean_a.len() as f64
}

const WINDOW: usize = 11;

/// Gaussian blur, only where the window fits: `w - 10` × `h - 10` values.
fn blur(plane: &[f64], w: usize, h: usize) -> Vec<f64> {
    let mut kernel: [f64; WINDOW] = std::array::from_fn(|i| (-(i as f64 - 5.0).powi(2) / (2.0 * 1.5 * 1.5)).exp());
    let sum: f64 = kernel.iter().sum();
    kernel.iter_mut().for_each(|k| *k /= sum);
    let out_w = w - WINDOW + 1;
    let mut across = vec![0.0; out_w * h];
    for (out, row) in across.chunks_exact_mut(out_w).zip(plane.chunks_exact(w)) {
        for (o, window) in out.iter_mut().zip(row.windows(WINDOW)) {
            *o = window.iter().zip(&kernel).map(|(v, k)| v * k).sum();
        }
    }
    let mut out = vec![0.0; out_w * (h - WINDOW + 1)];
    for (y, out) in out.chunks_exact_mut(out_w).enumerate() {
        for (k, weight) in kernel.iter().enumerate() {
            for (o, v) in out.iter_mut().zip(&across[(y + k) * out_w..][..out_w]) {
                *o += weight * v;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luma_of_black_and_white_is_the_studio_range() {
        let y = luma(&[0, 0, 0, 255, 255, 255]);
        assert!((y[0] - 16.0).abs() < 1e-9 && (y[1] - 235.0).abs() < 1e-9);
    }

    #[test]
    fn psnr_of_one_level_is_known_and_borders_do_not_count() {
        let a = vec![10u8; 8 * 8 * 3];
        let mut b: Vec<u8> = a.iter().map(|v| v + 1).collect();
        assert!((psnr_rgb(&a, &b, 8, 2) - 48.1308).abs() < 1e-3);
        b[0] = 200;
        b[8 * 8 * 3 - 1] = 0;
        assert!((psnr_rgb(&a, &b, 8, 1) - 48.1308).abs() < 1e-3);
        assert_eq!(psnr_rgb(&a, &a, 8, 0), 99.0);
        assert!(psnr_rgb(&a, &a, 8, 4).is_nan());
    }

    #[test]
    fn ssim_is_one_for_equal_planes_and_less_for_others() {
        let a: Vec<f64> = (0..400).map(|i| f64::from((i * 37) % 256)).collect();
        let b: Vec<f64> = a.iter().map(|v| 255.0 - v).collect();
        assert!((ssim(&a, &a, 20, 0) - 1.0).abs() < 1e-12);
        assert!(ssim(&a, &b, 20, 2) < 0.0);
        assert!(ssim(&a, &a, 20, 5).is_nan());
    }
}
