//! Where rows of a network end up: in the picture at once, or in sums that are averaged at the end.

use super::canvas::{Canvas, Turn};
use crate::picture::{Color, Depth, Picture, Sample, Samples, luma_to_depth};
use crate::resample::{Filter, RowResampler};
use std::ops::Range;

/// The picture in the making. Rows come in columns of the padded, enlarged canvas and are cropped here.
pub(super) struct Output<'a> {
    canvas: &'a Canvas<'a>,
    scale: usize,
    /// First column of the enlarged canvas that is kept, and how many.
    left: usize,
    width: usize,
    height: usize,
    color: Color,
    /// Enlarges alpha, if there is any; one for each window, as rows start anew.
    alpha: Option<RowResampler>,
    alpha_row: Vec<f32>,
    with_alpha: bool,
    pub samples: Samples,
}

impl<'a> Output<'a> {
    /// Room for some columns of `picture`, enlarged.
    pub(super) fn new(canvas: &'a Canvas<'a>, picture: &Picture, columns: Range<usize>, scale: usize) -> Output<'a> {
        let (width, height) = (columns.len() * scale, picture.height() * scale);
        Output {
            canvas,
            scale,
            left: (canvas.left + columns.start) * scale,
            width,
            height,
            color: picture.color(),
            alpha: None,
            alpha_row: vec![1.0; canvas.size().0 * scale],
            with_alpha: picture.has_alpha(),
            samples: Samples::zeroed(picture.depth(), width * height * picture.channels()),
        }
    }

    /// To be called before the first row of each window.
    pub(super) fn start_window(&mut self) {
        if self.with_alpha {
            let (w, h) = self.canvas.size();
            self.alpha = Some(RowResampler::new((w, h), (w * self.scale, h * self.scale), 1, Filter::Lanczos3));
        }
    }

    /// Takes red, green, blue of columns from `x` on of canvas row `y`.
    pub(super) fn put(&mut self, y: usize, x: usize, rgb: &[f32]) {
        let (left, top) = (self.left, self.canvas.top * self.scale);
        if y < top || y >= top + self.height {
            return;
        }
        let begin = x.max(left);
        let end = (x + rgb.len() / 3).min(left + self.width);
        if begin >= end {
            return;
        }
        if let Some(alpha) = &mut self.alpha {
            let canvas = self.canvas;
            alpha.row(y, &mut |y, row| canvas.alpha_row(y, row), &mut self.alpha_row);
        }
        let rgb = &rgb[(begin - x) * 3..(end - x) * 3];
        let alpha = &self.alpha_row[begin..end];
        let at = (y - top) * self.width + begin - left;
        match (&mut self.samples, self.color, self.with_alpha) {
            (Samples::Eight(v), color, with_alpha) => write(v, at, rgb, alpha, color, with_alpha),
            (Samples::Sixteen(v), color, with_alpha) => write(v, at, rgb, alpha, color, with_alpha),
        }
    }
}

fn write<T: Sample>(out: &mut [T], at: usize, rgb: &[f32], alpha: &[f32], color: Color, with_alpha: bool) {
    let channels = color.channels() + usize::from(with_alpha);
    let out = &mut out[at * channels..][..rgb.len() / 3 * channels];
    if channels == 3 {
        return T::from_units(rgb, out);
    }
    for ((out, rgb), alpha) in out.chunks_exact_mut(channels).zip(rgb.chunks_exact(3)).zip(alpha) {
        match color {
            Color::Gray => out[0] = luma_to_depth(rgb),
            Color::Rgb => out.iter_mut().zip(rgb).for_each(|(o, v)| *o = T::from_unit(*v)),
        }
        if with_alpha {
            out[channels - 1] = T::from_unit(*alpha);
        }
    }
}

/// Sums of several passes over turned canvases. Values are rounded to whole numbers first, so that the order of the
/// passes does not matter: to 13 bits for 8-bit pictures (eight of them fit into 16 bits), to 16 for others.
pub(super) struct Sums {
    width: usize,
    height: usize,
    sums: Store,
}

enum Store {
    Narrow(Vec<u16>),
    Wide(Vec<u32>),
}

const NARROW_ONE: f32 = 8191.0;
const WIDE_ONE: f32 = 65535.0;

impl Sums {
    /// For a canvas of `size`, enlarged by `scale`.
    pub(super) fn new(size: (usize, usize), scale: usize, depth: Depth) -> Sums {
        let (width, height) = (size.0 * scale, size.1 * scale);
        let len = width * height * 3;
        let sums = match depth {
            Depth::Eight => Store::Narrow(vec![0; len]),
            Depth::Sixteen => Store::Wide(vec![0; len]),
        };
        Sums { width, height, sums }
    }

    /// Adds columns from `x` on of row `y` of a turned canvas.
    pub(super) fn add(&mut self, turn: Turn, y: usize, x: usize, rgb: &[f32]) {
        for (x, rgb) in (x..).zip(rgb.chunks_exact(3)) {
            let (x, y) = if turn.transpose { (y, x) } else { (x, y) };
            let x = if turn.flip_columns { self.width - 1 - x } else { x };
            let y = if turn.flip_rows { self.height - 1 - y } else { y };
            let at = (y * self.width + x) * 3;
            for (i, v) in rgb.iter().enumerate() {
                let v = v.clamp(0.0, 1.0);
                match &mut self.sums {
                    Store::Narrow(s) => s[at + i] += (v * NARROW_ONE + 0.5) as u16,
                    Store::Wide(s) => s[at + i] += (v * WIDE_ONE + 0.5) as u32,
                }
            }
        }
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.height
    }

    /// The means of row `y` over `count` passes.
    pub(super) fn mean_row(&self, y: usize, count: usize, out: &mut Vec<f32>) {
        let row = y * self.width * 3..(y + 1) * self.width * 3;
        out.clear();
        match &self.sums {
            Store::Narrow(s) => out.extend(s[row].iter().map(|&v| f32::from(v) / (NARROW_ONE * count as f32))),
            Store::Wide(s) => out.extend(s[row].iter().map(|&v| v as f32 / (WIDE_ONE * count as f32))),
        }
    }
}
