//! Views of channels-last image rows: a whole image, or a rolling window over one.
//!
//! Row `y` of the image is kept in slot `y % capacity`. A whole image has `capacity == height`, and then the slot is the
//! row itself; a window that rolls down the image keeps only the last `capacity` rows. Each row holds `width` pixels of
//! `stride` floats.

/// Rows to read.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    data: &'a [f32],
    capacity: usize,
    width: usize,
    stride: usize,
}

/// Rows to write.
#[derive(Debug)]
pub struct RowsMut<'a> {
    data: &'a mut [f32],
    capacity: usize,
    width: usize,
    stride: usize,
}

impl<'a> Rows<'a> {
    /// Views `data` as `capacity` rows of `width` pixels of `stride` floats.
    ///
    /// # Panics
    /// If `data` is shorter than that, or `capacity` is zero.
    pub fn new(data: &'a [f32], capacity: usize, width: usize, stride: usize) -> Rows<'a> {
        assert!(capacity > 0 && data.len() >= capacity * width * stride, "rows exceed their buffer");
        Rows { data, capacity, width, stride }
    }

    /// Row `y` of the image: `width * stride` floats.
    pub fn row(&self, y: usize) -> &'a [f32] {
        let len = self.width * self.stride;
        let start = (y % self.capacity) * len;
        &self.data[start..start + len]
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Floats from one pixel to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Rows held.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

impl<'a> RowsMut<'a> {
    /// Views `data` as `capacity` rows of `width` pixels of `stride` floats.
    ///
    /// # Panics
    /// If `data` is shorter than that, or `capacity` is zero.
    pub fn new(data: &'a mut [f32], capacity: usize, width: usize, stride: usize) -> RowsMut<'a> {
        assert!(capacity > 0 && data.len() >= capacity * width * stride, "rows exceed their buffer");
        RowsMut { data, capacity, width, stride }
    }

    /// The same rows, to read.
    pub fn as_rows(&self) -> Rows<'_> {
        Rows { data: self.data, capacity: self.capacity, width: self.width, stride: self.stride }
    }

    /// Row `y` of the image, to write.
    pub fn row_mut(&mut self, y: usize) -> &mut [f32] {
        let len = self.width * self.stride;
        let start = (y % self.capacity) * len;
        &mut self.data[start..start + len]
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Floats from one pixel to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Rows held.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Start of the buffer, for kernels that write disjoint parts from several threads.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.data.as_mut_ptr()
    }

    /// Offset in floats of row `y`.
    pub(crate) fn offset(&self, y: usize) -> usize {
        (y % self.capacity) * self.width * self.stride
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_wraps_around() {
        let mut data = vec![0.0; 3 * 2];
        let mut rows = RowsMut::new(&mut data, 3, 2, 1);
        for y in 0..5 {
            rows.row_mut(y).fill(y as f32);
        }
        let rows = rows.as_rows();
        assert_eq!([rows.row(2)[0], rows.row(3)[1], rows.row(4)[0]], [2.0, 3.0, 4.0]);
    }
}
