//! The picture as a network sees it: red, green, blue in 0..1, padded, flipped or transposed, without a copy.

use super::bleed::Bleed;
use crate::picture::Picture;
use std::ops::Range;

/// A flip, and then perhaps a transposition: the eight ways to lay a picture on a square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// Columns run backwards.
    pub flip_columns: bool,
    /// Rows run backwards.
    pub flip_rows: bool,
    /// Columns become rows.
    pub transpose: bool,
}

impl Turn {
    /// All eight, the identity first.
    pub(super) fn all() -> impl Iterator<Item = Turn> {
        (0..8).map(|i| Turn { flip_columns: i & 1 != 0, flip_rows: i & 2 != 0, transpose: i & 4 != 0 })
    }
}

/// A picture with padding around it.
pub(super) struct Canvas<'a> {
    picture: &'a Picture,
    bleed: Option<&'a Bleed>,
    /// For each column of the padded picture the picture's own.
    columns: Vec<usize>,
    rows: Vec<usize>,
    /// Columns of padding at the left, and rows at the top.
    pub left: usize,
    pub top: usize,
}

impl<'a> Canvas<'a> {
    /// Pads `picture` to sides of at least `min_side` by repeating its edges, or on all sides with `margin` pixels of its
    /// opposite edges.
    pub(super) fn new(
        picture: &'a Picture,
        bleed: Option<&'a Bleed>,
        min_side: usize,
        margin: Option<usize>,
    ) -> Canvas<'a> {
        let axis = |n: usize| -> (Vec<usize>, usize) {
            match margin {
                Some(margin) => {
                    let margin = margin.max(min_side.saturating_sub(n).div_ceil(2));
                    let start = n - 1 - (margin + n - 1) % n;
                    ((0..n + 2 * margin).map(|i| (start + i) % n).collect(), margin)
                }
                None => ((0..n.max(min_side)).map(|i| i.min(n - 1)).collect(), 0),
            }
        };
        let ((columns, left), (rows, top)) = (axis(picture.width()), axis(picture.height()));
        Canvas { picture, bleed, columns, rows, left, top }
    }

    /// Width and height before any turn.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.columns.len(), self.rows.len())
    }

    /// Width and height after a turn.
    pub(super) fn turned_size(&self, turn: Turn) -> (usize, usize) {
        let (w, h) = self.size();
        if turn.transpose { (h, w) } else { (w, h) }
    }

    /// Columns of row `y` of the turned picture as red, green, blue.
    pub(super) fn rgb_row(&self, turn: Turn, y: usize, columns: Range<usize>, out: &mut [f32]) {
        // The usual case is a copy of a row.
        if turn == Turn::default() && self.bleed.is_none() && columns.end <= self.picture.width() && self.left == 0 {
            return self.picture.rgb_row(self.rows[y], columns, out);
        }
        for (x, out) in columns.zip(out.chunks_exact_mut(3)) {
            let (x, y) = if turn.transpose { (y, x) } else { (x, y) };
            let x = self.columns[if turn.flip_columns { self.columns.len() - 1 - x } else { x }];
            let y = self.rows[if turn.flip_rows { self.rows.len() - 1 - y } else { y }];
            let color = match self.bleed {
                Some(bleed) => bleed.color(self.picture, x, y),
                None => self.picture.rgb_at(x, y),
            };
            out.copy_from_slice(&color);
        }
    }

    /// Row `y` of the padded picture's alpha.
    pub(super) fn alpha_row(&self, y: usize, out: &mut [f32]) {
        let y = self.rows[y];
        for (o, &x) in out.iter_mut().zip(&self.columns) {
            *o = self.picture.alpha_at(x, y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapping_continues_the_picture_on_all_sides() {
        let p = Picture::from_gray8(3, 1, vec![0, 1, 2]).unwrap();
        for margin in [1, 2, 3, 4, 7] {
            let canvas = Canvas::new(&p, None, 1, Some(margin));
            let expected: Vec<usize> =
                (0..3 + 2 * margin).map(|i| (i as i64 - margin as i64).rem_euclid(3) as usize).collect();
            assert_eq!(canvas.columns, expected, "margin {margin}");
        }
    }

    #[test]
    fn small_pictures_repeat_their_edges() {
        let p = Picture::from_gray8(2, 1, vec![0, 9]).unwrap();
        let canvas = Canvas::new(&p, None, 5, None);
        assert_eq!(canvas.columns, [0, 1, 1, 1, 1]);
        assert_eq!(canvas.size(), (5, 5));
    }
}
