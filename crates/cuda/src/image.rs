//! Channels-last images as kernels see them.

use crate::{DType, Elements, ElementsMut, Error};

/// Size of a batch of channels-last images: pixels lie `stride` elements apart, of which the first `channels` count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSize {
    /// Pictures.
    pub n: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// Channels of a pixel.
    pub channels: usize,
    /// Elements from one pixel to the next.
    pub stride: usize,
}

/// [`ImageSize`] as the kernels take it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RawSize {
    pub n: i32,
    pub height: i32,
    pub width: i32,
    pub channels: i32,
    pub stride: i64,
}

impl ImageSize {
    /// Number of pixels; `None` if that overflows.
    pub(crate) fn pixels(&self) -> Option<usize> {
        self.n.checked_mul(self.height)?.checked_mul(self.width)
    }

    /// Elements from the first to the end of the last pixel's channels, rounded up to `round` channels.
    fn extent(&self, round: usize) -> Option<usize> {
        let pixels = self.pixels()?;
        if pixels == 0 || self.channels == 0 {
            return Some(0);
        }
        (pixels - 1).checked_mul(self.stride)?.checked_add(self.channels.next_multiple_of(round))
    }

    pub(crate) fn raw(&self) -> RawSize {
        RawSize {
            n: self.n as i32,
            height: self.height as i32,
            width: self.width as i32,
            channels: self.channels as i32,
            stride: self.stride as i64,
        }
    }

    /// Checks that an image lies within its memory and that kernels can count it.
    pub(crate) fn check(
        &self,
        kernel: &'static str,
        what: &str,
        elements: Elements<'_>,
        round: usize,
    ) -> Result<(), Error> {
        elements.check(kernel, what, self.extent(round))?;
        let countable = [self.n, self.height, self.width, self.channels].iter().all(|&n| n <= i32::MAX as usize);
        if !countable || self.stride < self.channels {
            return crate::error::refuse!(kernel, "{what}: {self:?} is not sensible");
        }
        Ok(())
    }
}

/// An image to read.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// Its elements.
    pub elements: Elements<'a>,
    /// Its size.
    pub size: ImageSize,
}

/// An image to write.
#[derive(Clone, Copy, Debug)]
pub struct ImageMut<'a> {
    /// Its elements.
    pub elements: ElementsMut<'a>,
    /// Its size.
    pub size: ImageSize,
}

impl Image<'_> {
    pub(crate) fn check(&self, kernel: &'static str, what: &str, round: usize) -> Result<(), Error> {
        self.size.check(kernel, what, self.elements, round)
    }

    pub(crate) fn dtype(&self) -> DType {
        self.elements.dtype()
    }
}

impl ImageMut<'_> {
    pub(crate) fn check(&self, kernel: &'static str, what: &str, round: usize) -> Result<(), Error> {
        self.size.check(kernel, what, self.elements.0, round)
    }

    pub(crate) fn dtype(&self) -> DType {
        self.elements.0.dtype()
    }
}
