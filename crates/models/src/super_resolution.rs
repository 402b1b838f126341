//! What every super-resolution network offers: one pass down an image, row by row.
//!
//! A pass reads rows of a picture from a source, from top to bottom, and hands finished rows to a sink, from top to
//! bottom. It keeps only the rows that later ones still need, so memory grows with the width of the picture and not with
//! its height. The result of a row does not depend on how many rows a pass handles at a time.
//!
//! To bound memory for very wide pictures a pass may be confined to a [`Window`] of columns. A network computes a
//! window as part of the whole picture: columns further than [`SuperResolution::halo`] from an edge of the window that is
//! not an edge of the picture are exactly what a pass over the whole picture gives, bit for bit, provided that the window
//! starts at a multiple of [`SuperResolution::alignment`].

use crate::{Enlarged, Error, Rgb, RgbMut, Stages};
use std::ops::Range;
use supple_tensor::Cpu;

/// A picture's size and the columns of it that a pass sees, in input pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Width of the whole picture.
    pub width: usize,
    /// Height of the whole picture.
    pub height: usize,
    /// Columns that the pass reads and writes.
    pub columns: Range<usize>,
}

impl Window {
    /// All columns of a picture.
    pub fn whole(width: usize, height: usize) -> Window {
        Window { width, height, columns: 0..width }
    }

    /// Number of columns in the window.
    pub fn columns_len(&self) -> usize {
        self.columns.end.saturating_sub(self.columns.start)
    }

    /// Whether `network` can run over this window.
    ///
    /// # Errors
    /// If the picture or the window is smaller than the network's smallest side, or the window does not lie in the
    /// picture or starts at no multiple of the network's alignment.
    pub fn check(&self, network: &dyn SuperResolution) -> Result<(), Error> {
        let (Range { start, end }, alignment, min) = (self.columns.clone(), network.alignment(), network.min_side());
        if end > self.width || start >= end || start % alignment != 0 {
            return Err(Error::BadWindow { start, end, width: self.width, alignment });
        }
        if self.columns_len() < min || self.height < min {
            let (network, width, height) = (network.name().to_owned(), self.columns_len(), self.height);
            return Err(Error::TooSmall { network, min, width, height });
        }
        Ok(())
    }
}

/// Fills a row: `source(y, row)` writes `columns_len * 3` floats, red green blue in 0..1, of input row `y`.
pub type Source<'a> = dyn FnMut(usize, &mut [f32]) + 'a;

/// Takes a finished row: `sink(y, row)` gets `columns_len * scale * 3` floats in 0..1 (not clamped) of output row `y`.
/// Returning `false` stops the pass.
pub type Sink<'a> = dyn FnMut(usize, &[f32]) -> bool + 'a;

/// A network that enlarges pictures by a whole factor.
pub trait SuperResolution: Send + Sync {
    /// Architecture with its size, such as `RLFN_S`.
    fn name(&self) -> &str;

    /// The device that computes, where that is not the CPU, with its element type: such as `NVIDIA H100, f16`.
    fn device(&self) -> Option<String> {
        None
    }

    /// Why the CPU computed something that a device was to compute, in a line, if it did.
    fn stand_in(&self) -> Option<String> {
        None
    }

    /// Where the time of all pictures so far went, on a device that tells.
    fn stages(&self) -> Option<Stages> {
        None
    }

    /// Enlarges a whole picture of `size`, height and width, from samples to samples, on a device that does so without the host's
    /// part in between; `from` and `to` are of one type. None where there is no such device, or it is not to be asked: then
    /// [`run`](Self::run) does it.
    fn enlarge(&self, size: [usize; 2], from: Rgb<'_>, to: RgbMut<'_>) -> Option<Result<Enlarged, Error>> {
        let _ = (size, from, to);
        None
    }

    /// Whether a pass always covers a whole picture: its memory is not the host's, and windows would be computed elsewhere.
    fn holds_whole_pictures(&self) -> bool {
        false
    }

    /// How many output pixels a side of an input pixel becomes.
    fn scale(&self) -> usize;

    /// Parameters in the checkpoint, and parameters left after the exact fusions applied at load time.
    fn parameters(&self) -> (usize, usize);

    /// Multiply-accumulates of the original graph for an input of `width` × `height`, in the direct formulation.
    fn macs(&self, width: usize, height: usize) -> u64;

    /// Smallest side that the network accepts, in pixels; smaller pictures must be padded by the caller.
    fn min_side(&self) -> usize;

    /// Columns next to an inner edge of a window that are not exact, in input pixels.
    fn halo(&self) -> usize;

    /// Windows start at a multiple of this many columns.
    fn alignment(&self) -> usize;

    /// Bytes that a pass over `window` needs beside the source's and the sink's own.
    fn working_memory(&self, cpu: &Cpu, window: &Window) -> usize;

    /// Runs the network over a window. Every input row is asked for once, in order; every output row is delivered once,
    /// in order, unless the sink stops the pass.
    ///
    /// # Errors
    /// If the picture is smaller than [`min_side`](Self::min_side), the window does not fit it or starts at no multiple
    /// of [`alignment`](Self::alignment).
    fn run(&self, cpu: &Cpu, window: &Window, source: &mut Source<'_>, sink: &mut Sink<'_>) -> Result<(), Error>;
}
