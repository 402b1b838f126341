//! Colour under transparency.
//!
//! What a file stores where nothing is visible is arbitrary, often black, and a network would smear it over the edge. So
//! pixels with next to no alpha take the alpha-weighted mean of their neighbourhood: of the 5×5 pixels around them, and
//! where all of those are transparent, of coarser and coarser blocks. The network then sees colour that runs smoothly
//! under the edge, alpha is enlarged by itself, and no fringe arises, as nothing is divided by alpha.

use crate::picture::Picture;

/// Side of the blocks of the finest level.
const BLOCK: usize = 8;

/// Pixels with more alpha than this keep their own colour.
const VISIBLE: f32 = 1.0 / 16.0;

/// Means over blocks: sums of premultiplied colour and of alpha, and levels of half the size up to a single block.
pub(super) struct Bleed {
    levels: Vec<Level>,
}

struct Level {
    width: usize,
    height: usize,
    /// Red, green, blue, each times alpha, and alpha.
    sums: Vec<[f32; 4]>,
}

impl Bleed {
    pub(super) fn new(picture: &Picture) -> Bleed {
        let (width, height) = (picture.width().div_ceil(BLOCK), picture.height().div_ceil(BLOCK));
        let mut finest = Level { width, height, sums: vec![[0.0; 4]; width * height] };
        for y in 0..picture.height() {
            for x in 0..picture.width() {
                add(&mut finest.sums[y / BLOCK * width + x / BLOCK], picture.rgb_at(x, y), picture.alpha_at(x, y));
            }
        }
        let mut levels = vec![finest];
        while let Some(fine) = levels.last().filter(|l| l.sums.len() > 1) {
            let (width, height) = (fine.width.div_ceil(2), fine.height.div_ceil(2));
            let mut coarse = Level { width, height, sums: vec![[0.0; 4]; width * height] };
            for (i, sum) in fine.sums.iter().enumerate() {
                let (x, y) = (i % fine.width / 2, i / fine.width / 2);
                for (c, s) in coarse.sums[y * width + x].iter_mut().zip(sum) {
                    *c += s;
                }
            }
            levels.push(coarse);
        }
        Bleed { levels }
    }

    /// The colour that the network is shown at a pixel.
    pub(super) fn color(&self, picture: &Picture, x: usize, y: usize) -> [f32; 3] {
        if picture.alpha_at(x, y) > VISIBLE {
            return picture.rgb_at(x, y);
        }
        let mut sum = [0.0; 4];
        if self.levels[0].any_near(x / BLOCK, y / BLOCK) {
            for ny in y.saturating_sub(2)..(y + 3).min(picture.height()) {
                for nx in x.saturating_sub(2)..(x + 3).min(picture.width()) {
                    let distance = (nx.abs_diff(x).pow(2) + ny.abs_diff(y).pow(2)) as f32;
                    add(&mut sum, picture.rgb_at(nx, ny), picture.alpha_at(nx, ny) / (1.0 + distance * distance));
                }
            }
        }
        let mut block = BLOCK;
        for level in &self.levels {
            if sum[3] > 1e-3 {
                break;
            }
            sum = level.smooth(x as f32 / block as f32 - 0.5, y as f32 / block as f32 - 0.5);
            block *= 2;
        }
        if sum[3] > 0.0 { [sum[0] / sum[3], sum[1] / sum[3], sum[2] / sum[3]] } else { [0.0; 3] }
    }
}

fn add(sum: &mut [f32; 4], color: [f32; 3], alpha: f32) {
    for (s, c) in sum.iter_mut().zip(color) {
        *s += c * alpha;
    }
    sum[3] += alpha;
}

impl Level {
    /// Whether the block or one beside it holds anything visible.
    fn any_near(&self, x: usize, y: usize) -> bool {
        (y.saturating_sub(1)..(y + 2).min(self.height))
            .any(|y| (x.saturating_sub(1)..(x + 2).min(self.width)).any(|x| self.sums[y * self.width + x][3] > 0.0))
    }

    /// The sums at a point between blocks, bilinearly.
    fn smooth(&self, x: f32, y: f32) -> [f32; 4] {
        let (x, y) = (x.clamp(0.0, (self.width - 1) as f32), y.clamp(0.0, (self.height - 1) as f32));
        let (x0, y0) = (x as usize, y as usize);
        let (fx, fy) = (x - x0 as f32, y - y0 as f32);
        let (x1, y1) = ((x0 + 1).min(self.width - 1), (y0 + 1).min(self.height - 1));
        let at = |x: usize, y: usize| self.sums[y * self.width + x];
        let (a, b, c, d) = (at(x0, y0), at(x1, y0), at(x0, y1), at(x1, y1));
        std::array::from_fn(|i| (a[i] * (1.0 - fx) + b[i] * fx) * (1.0 - fy) + (c[i] * (1.0 - fx) + d[i] * fx) * fy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_runs_on_under_transparency_and_visible_pixels_keep_theirs() {
        // One red opaque pixel, the rest black and transparent.
        let mut samples = vec![0; 40 * 30 * 4];
        samples[(10 * 40 + 10) * 4..][..4].copy_from_slice(&[255, 0, 0, 255]);
        let p = Picture::from_rgba8(40, 30, samples).unwrap();
        let bleed = Bleed::new(&p);
        for (x, y) in [(10, 10), (11, 10), (12, 12), (30, 10), (39, 29), (0, 0)] {
            let [r, g, b] = bleed.color(&p, x, y);
            assert!(r > 0.999 && g == 0.0 && b == 0.0, "{x},{y}: {r} {g} {b}");
        }
        let empty = Picture::from_rgba8(9, 9, vec![0; 9 * 9 * 4]).unwrap();
        assert_eq!(Bleed::new(&empty).color(&empty, 4, 4), [0.0; 3]);
    }
}
