//! How the elements of a tensor lie in its buffer: shape, strides, offset.
//!
//! Element `(i, j, ..)` lies at `offset + i * strides[0] + j * strides[1] + ..`, in elements. A view changes the layout
//! and shares the buffer. A *padded* layout is contiguous but for its last dimension, whose rows start at multiples of
//! [`ALIGNMENT`] elements: so vectors need no tails. Images `[n, h, w, c]` are kept that way.

use crate::error::refuse;
use crate::{Dims, Error};

/// Rows of a padded layout start at a multiple of this many elements.
pub const ALIGNMENT: usize = 16;

/// Bytes must fit an `isize`, and no element is wider than four bytes.
const MAX_ELEMENTS: usize = isize::MAX as usize / 4;

/// Shape, strides and offset, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    shape: Dims,
    strides: Dims,
    offset: usize,
}

/// A layout seen as rows of adjacent elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLayout {
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row, adjacent.
    pub len: usize,
    /// Elements from one row to the next.
    pub stride: usize,
}

impl RowLayout {
    /// Elements from the first to the last, gaps included.
    pub fn extent(&self) -> usize {
        if self.rows == 0 || self.len == 0 { 0 } else { (self.rows - 1) * self.stride + self.len }
    }
}

impl Layout {
    /// Row-major and without gaps.
    ///
    /// # Errors
    /// If the shape has too many dimensions or exceeds the address space.
    pub fn contiguous(shape: &[usize]) -> Result<Layout, Error> {
        Self::with_row_stride(shape, shape.last().copied().unwrap_or(1))
    }

    /// Row-major, the last dimension padded to a multiple of [`ALIGNMENT`] elements.
    ///
    /// # Errors
    /// If the shape has too many dimensions or exceeds the address space.
    pub fn padded(shape: &[usize]) -> Result<Layout, Error> {
        let last = shape.last().copied().unwrap_or(1);
        let row = last.checked_next_multiple_of(ALIGNMENT);
        Self::with_row_stride(shape, row.ok_or(Error::TooLarge { what: "layout", shape: Dims::new(shape)? })?)
    }

    fn with_row_stride(shape: &[usize], row: usize) -> Result<Layout, Error> {
        let shape = Dims::new(shape)?;
        let mut strides = shape;
        let mut stride = 1usize;
        for i in (0..shape.len()).rev() {
            strides[i] = stride;
            let factor = if i + 1 == shape.len() { row } else { shape[i] };
            // Zeros do not count, so that no product of sizes can overflow later, whatever is narrowed or merged.
            stride = match stride.checked_mul(factor.max(1)) {
                Some(stride) if stride <= MAX_ELEMENTS => stride,
                _ => return Err(Error::TooLarge { what: "layout", shape }),
            };
        }
        Ok(Layout { shape, strides, offset: 0 })
    }

    /// Sizes of the dimensions.
    pub fn shape(&self) -> &Dims {
        &self.shape
    }

    /// Elements from one index to the next, of each dimension.
    pub fn strides(&self) -> &Dims {
        &self.strides
    }

    /// Where the first element lies.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Elements from the first to the last, gaps included.
    pub fn extent(&self) -> usize {
        if self.shape.contains(&0) {
            return 0;
        }
        1 + self.shape.iter().zip(self.strides.iter()).map(|(d, s)| (d - 1) * s).sum::<usize>()
    }

    /// Whether elements follow each other in row-major order without gaps.
    pub fn is_contiguous(&self) -> bool {
        self.rows().is_some_and(|rows| rows.rows <= 1 || rows.stride == rows.len)
    }

    /// The layout as rows of adjacent elements, if it is that: the last dimension is a row, all others count rows.
    pub fn rows(&self) -> Option<RowLayout> {
        let rank = self.rank();
        let Some((&len, outer)) = self.shape.split_last() else {
            return Some(RowLayout { rows: 1, len: 1, stride: 1 });
        };
        if self.shape.contains(&0) {
            return Some(RowLayout { rows: outer.iter().product(), len, stride: len });
        }
        if len > 1 && self.strides[rank - 1] != 1 {
            return None;
        }
        let (mut rows, mut stride) = (1, 0);
        for (&dim, &step) in outer.iter().zip(self.strides.iter()).rev().filter(|(d, _)| **d > 1) {
            if rows == 1 {
                stride = step;
            } else if step != rows * stride {
                return None;
            }
            rows *= dim;
        }
        Some(RowLayout { rows, len, stride: if rows == 1 { len } else { stride } })
    }

    /// Dimensions `a` and `b` exchanged.
    ///
    /// # Errors
    /// If there is no such dimension.
    pub fn transpose(&self, a: usize, b: usize) -> Result<Layout, Error> {
        if a.max(b) >= self.rank() {
            return refuse!("transpose", "no dimensions {a} and {b} in shape {:?}", self.shape);
        }
        let mut layout = *self;
        layout.shape.swap(a, b);
        layout.strides.swap(a, b);
        Ok(layout)
    }

    /// `len` indices of dimension `dim`, from `start` on.
    ///
    /// # Errors
    /// If they are not within the shape.
    pub fn narrow(&self, dim: usize, start: usize, len: usize) -> Result<Layout, Error> {
        if dim >= self.rank() || start.checked_add(len).is_none_or(|end| end > self.shape[dim]) {
            return refuse!("narrow", "no indices {start}..+{len} of dimension {dim} in shape {:?}", self.shape);
        }
        let mut layout = *self;
        layout.shape[dim] = len;
        // An empty view may start past the last element; it must not point there.
        if len > 0 {
            layout.offset += start * self.strides[dim];
        }
        Ok(layout)
    }

    /// The same elements in row-major order under another shape; `None` if that needs a copy.
    ///
    /// # Errors
    /// If the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Option<Layout>, Error> {
        let mut to = Layout::contiguous(shape)?;
        if to.elements() != self.elements() {
            return refuse!(
                "reshape",
                "shape {:?} has {} elements, {shape:?} has {}",
                self.shape,
                self.elements(),
                to.elements()
            );
        }
        to.offset = self.offset;
        if self.is_contiguous() {
            return Ok(Some(to));
        }
        // Match groups of old and new dimensions with equal products; a group must itself be without gaps.
        let (mut i, mut j) = (0, 0);
        while j < to.rank() || i < self.rank() {
            let (first_old, first_new) = (i, j);
            let (mut old, mut new) = (1, 1);
            loop {
                if old == new && (i > first_old || j > first_new) {
                    break;
                }
                if old <= new && i < self.rank() {
                    old *= self.shape[i];
                    i += 1;
                } else {
                    new *= to.shape[j];
                    j += 1;
                }
            }
            let (mut stride, mut next) = (None, 0);
            for d in (first_old..i).rev().filter(|&d| self.shape[d] > 1) {
                if stride.is_none() {
                    stride = Some(self.strides[d]);
                } else if self.strides[d] != next {
                    return Ok(None);
                }
                next = self.strides[d] * self.shape[d];
            }
            let mut stride = stride.unwrap_or(1);
            for d in (first_new..j).rev() {
                to.strides[d] = stride;
                stride *= to.shape[d];
            }
        }
        Ok(Some(to))
    }

    /// The layout repeated to `shape`: dimensions are matched from the last, those of size 1 or missing repeat.
    ///
    /// # Errors
    /// If another dimension differs.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Layout, Error> {
        let mut to = Layout { shape: Dims::new(shape)?, strides: Dims::new(shape)?, offset: self.offset };
        let Some(missing) = to.rank().checked_sub(self.rank()) else {
            return refuse!("broadcast", "shape {:?} has more dimensions than {shape:?}", self.shape);
        };
        for d in 0..to.rank() {
            to.strides[d] = match d.checked_sub(missing) {
                Some(i) if self.shape[i] == to.shape[d] => self.strides[i],
                None => 0,
                Some(i) if self.shape[i] == 1 => 0,
                _ => return refuse!("broadcast", "shape {:?} does not repeat to {shape:?}", self.shape),
            };
        }
        // Repeated elements take no memory, but their number must still fit.
        Layout::contiguous(shape)?;
        Ok(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padded_rows_start_at_multiples_of_sixteen() {
        let layout = Layout::padded(&[2, 3, 5, 17]).unwrap();
        assert_eq!(**layout.strides(), [480, 160, 32, 1]);
        assert_eq!(layout.rows(), Some(RowLayout { rows: 30, len: 17, stride: 32 }));
        assert!(!layout.is_contiguous());
    }

    #[test]
    fn reshape_keeps_padding_where_rows_stay_whole() {
        let layout = Layout::padded(&[2, 3, 5, 17]).unwrap();
        let merged = layout.reshape(&[6, 5, 17]).unwrap().unwrap();
        assert_eq!(**merged.strides(), [160, 32, 1]);
        assert_eq!(layout.reshape(&[30, 17]).unwrap().unwrap().rows().unwrap().stride, 32);
        assert_eq!(layout.reshape(&[1, 30, 17, 1]).unwrap().unwrap().strides()[1], 32);
        assert!(layout.reshape(&[510]).unwrap().is_none());
        assert!(layout.reshape(&[511]).is_err());
    }

    #[test]
    fn a_transposed_layout_needs_a_copy_to_reshape() {
        let layout = Layout::contiguous(&[4, 6]).unwrap().transpose(0, 1).unwrap();
        assert!(layout.reshape(&[24]).unwrap().is_none());
        assert!(layout.reshape(&[2, 3, 4]).unwrap().is_some());
        assert!(layout.rows().is_none());
    }

    #[test]
    fn broadcasting_repeats_with_stride_zero() {
        let layout = Layout::contiguous(&[3, 1]).unwrap().broadcast_to(&[2, 3, 4]).unwrap();
        assert_eq!(**layout.strides(), [0, 1, 0]);
        assert!(Layout::contiguous(&[3]).unwrap().broadcast_to(&[4]).is_err());
        assert!(Layout::contiguous(&[1]).unwrap().broadcast_to(&[usize::MAX, 2]).is_err());
    }

    #[test]
    fn huge_shapes_are_errors() {
        assert!(Layout::contiguous(&[1 << 40, 1 << 40]).is_err());
        assert!(Layout::padded(&[usize::MAX]).is_err());
        assert!(Layout::contiguous(&[1 << 40, 1 << 40, 0]).is_err());
        assert!(Layout::contiguous(&[1 << 40, 1 << 10, 0]).is_ok());
    }
}
