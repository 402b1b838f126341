//! Planes of quads: the layout of 8-bit activations.
//!
//! `[channels / 4][plane][4]` bytes: the four channels of a quad stand together at each pixel, so that instructions that
//! multiply and add four neighbouring bytes take four channels at once. Vectors may read over the end of a plane, and behind
//! the last one there is room for that; what stands there is never used. Where the channels are no multiple of four, the
//! last quad has bytes that no weight but zero meets.

use super::vector::MAX_VECTOR;
use crate::AlignedBuf;

/// Pixels of a plane: single ones lie side by side, others begin on a cache line.
fn plane_pixels(pixels: usize) -> usize {
    if pixels == 1 { 1 } else { pixels.next_multiple_of(16) }
}

/// An 8-bit picture in quads.
#[derive(Clone, Debug)]
pub struct QuadBuf {
    bytes: ByteBuf,
    channels: usize,
    height: usize,
    width: usize,
}

impl QuadBuf {
    /// A picture of zeros.
    ///
    /// # Panics
    /// If it exceeds the address space.
    pub fn new(channels: usize, height: usize, width: usize) -> QuadBuf {
        let bytes = ByteBuf::new(channels.div_ceil(4) * plane_pixels(height * width) * 4);
        QuadBuf { bytes, channels, height, width }
    }

    /// Makes it a picture of this size, whose values are anything; allocates only if no picture before was as large.
    ///
    /// # Panics
    /// If it exceeds the address space.
    pub fn reshape(&mut self, channels: usize, height: usize, width: usize) {
        (self.channels, self.height, self.width) = (channels, height, width);
        let len = self.quads() * self.plane_bytes();
        if self.bytes.len() < len {
            self.bytes = ByteBuf::new(len);
        }
    }

    /// Channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Pixels of the picture.
    pub fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// Planes of quads.
    pub fn quads(&self) -> usize {
        self.channels.div_ceil(4)
    }

    /// Bytes from a plane to the next.
    pub(super) fn plane_bytes(&self) -> usize {
        plane_pixels(self.pixels()) * 4
    }

    /// The planes, one after another, and room for a vector behind them.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// As [`bytes`](Self::bytes), to write.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.as_mut_slice()
    }

    /// The value of a channel at a pixel, counted row by row.
    pub fn get(&self, channel: usize, pixel: usize) -> u8 {
        assert!(channel < self.channels && pixel < self.pixels(), "{channel}, {pixel}");
        self.bytes()[channel / 4 * self.plane_bytes() + pixel * 4 + channel % 4]
    }

    /// Sets the value of a channel at a pixel, counted row by row.
    pub fn set(&mut self, channel: usize, pixel: usize, value: u8) {
        assert!(channel < self.channels && pixel < self.pixels(), "{channel}, {pixel}");
        let at = channel / 4 * self.plane_bytes() + pixel * 4 + channel % 4;
        self.bytes_mut()[at] = value;
    }

    /// Takes a picture with interleaved channels, `[height][width][channels]`, each byte `b` as `map[channel % maps][b]`.
    ///
    /// # Panics
    /// If the length does not fit or there is no map.
    pub fn fill_interleaved(&mut self, picture: &[u8], maps: &[[u8; 256]]) {
        assert_eq!(picture.len(), self.pixels() * self.channels, "interleaved bytes");
        let (channels, plane) = (self.channels, self.plane_bytes());
        let bytes = self.bytes.as_mut_slice();
        for (p, pixel) in picture.chunks_exact(channels.max(1)).enumerate() {
            for (c, &value) in pixel.iter().enumerate() {
                bytes[c / 4 * plane + p * 4 + c % 4] = maps[c % maps.len()][usize::from(value)];
            }
        }
    }

    /// Writes it with interleaved channels, `[height][width][channels]`.
    ///
    /// # Panics
    /// If the length does not fit.
    pub fn copy_interleaved(&self, out: &mut [u8]) {
        assert_eq!(out.len(), self.pixels() * self.channels, "interleaved bytes");
        let (plane, bytes) = (self.plane_bytes(), self.bytes());
        for (p, pixel) in out.chunks_exact_mut(self.channels.max(1)).enumerate() {
            for (c, value) in pixel.iter_mut().enumerate() {
                *value = bytes[c / 4 * plane + p * 4 + c % 4];
            }
        }
    }
}

/// Bytes that start on a cache line, with room for a vector behind them.
#[derive(Clone, Debug)]
pub(super) struct ByteBuf {
    floats: AlignedBuf,
}

impl ByteBuf {
    /// `len` zeros.
    pub(super) fn new(len: usize) -> ByteBuf {
        ByteBuf { floats: AlignedBuf::zeroed(len.div_ceil(4) + MAX_VECTOR / 4) }
    }

    /// Bytes, not counting those behind the end.
    pub(super) fn len(&self) -> usize {
        self.floats.len() * 4 - MAX_VECTOR
    }

    /// All bytes, those behind the end included.
    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: floats are bytes without padding, and any bytes are valid.
        unsafe { std::slice::from_raw_parts(self.floats.as_ptr().cast(), self.floats.len() * 4) }
    }

    /// As [`as_slice`](Self::as_slice), to write.
    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above; any bytes are valid floats.
        unsafe { std::slice::from_raw_parts_mut(self.floats.as_mut_ptr().cast(), self.floats.len() * 4) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_pictures_come_back() {
        for channels in [1, 3, 4, 5, 8] {
            let picture: Vec<u8> = (0..channels * 35).map(|i| (i * 7) as u8).collect();
            let mut quads = QuadBuf::new(channels, 5, 7);
            quads.fill_interleaved(&picture, &[std::array::from_fn(|i| i as u8)]);
            let mut back = vec![0; picture.len()];
            quads.copy_interleaved(&mut back);
            assert_eq!(back, picture);
            assert_eq!(quads.get(channels - 1, 34), picture[channels * 35 - 1]);
            quads.set(0, 3, 9);
            assert_eq!(quads.get(0, 3), 9);
        }
    }
}
