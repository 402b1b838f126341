//! Rolling windows of image rows, for networks that pass down a picture without holding all of it.

use supple_kernels::{AlignedBuf, Rows, RowsMut};

/// Channels are stored in steps of this many floats, so that kernels may use whole vectors.
pub const CHANNEL_STEP: usize = 16;

/// The last `capacity` rows of a channels-last image.
#[derive(Debug)]
pub struct RowBuffer {
    data: AlignedBuf,
    capacity: usize,
    width: usize,
    stride: usize,
}

impl RowBuffer {
    /// Room for `capacity` rows of `width` pixels of `channels` channels, rounded up to [`CHANNEL_STEP`].
    pub fn new(capacity: usize, width: usize, channels: usize) -> RowBuffer {
        RowBuffer::packed(capacity, width, channels.next_multiple_of(CHANNEL_STEP))
    }

    /// The same with exactly `stride` floats a pixel.
    pub fn packed(capacity: usize, width: usize, stride: usize) -> RowBuffer {
        let capacity = capacity.max(1);
        RowBuffer { data: AlignedBuf::zeroed(capacity * width * stride), capacity, width, stride }
    }

    /// Bytes that [`new`](Self::new) allocates.
    pub fn bytes(capacity: usize, width: usize, channels: usize) -> usize {
        capacity.max(1) * width * channels.next_multiple_of(CHANNEL_STEP) * size_of::<f32>()
    }

    /// The rows, to read.
    pub fn rows(&self) -> Rows<'_> {
        Rows::new(&self.data, self.capacity, self.width, self.stride)
    }

    /// The rows, to write.
    pub fn rows_mut(&mut self) -> RowsMut<'_> {
        RowsMut::new(&mut self.data, self.capacity, self.width, self.stride)
    }
}
