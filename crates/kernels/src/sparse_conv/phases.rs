//! Rows of a plane with zeros around them, split by column phase, so that every tap of a strided kernel reads
//! neighbouring floats for neighbouring outputs.
//!
//! For output rows from `y0` on, scratch row `r` holds input row `y0 · stride + r − top`, or zeros where there is none. In it
//! phase `p` lies at `p · phase_len`, and its float `i` is input column `i · stride + p − left`, or zero. So tap `(ky, kx)`
//! of output `(y0 + y, x)` is the float at `offset(ky, kx) + y · output_row() + x`.

use crate::Isa;
use crate::simd::{Kernel, Simd, dispatch};
use std::ops::Range;

/// How the rows of one size of plane are laid out for one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phases {
    kernel: [usize; 2],
    stride: [usize; 2],
    /// Zeros above and left of the input.
    padding: [usize; 2],
    height: usize,
    width: usize,
    out_width: usize,
    phase_len: usize,
}

impl Phases {
    /// For planes of `input` (height, width) of which a `kernel` with `stride` and `padding` (top, left) makes rows of
    /// `out_width` pixels.
    ///
    /// # Panics
    /// If a side of the kernel, the stride or the input is zero.
    pub fn new(
        kernel: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
        input: [usize; 2],
        out_width: usize,
    ) -> Phases {
        assert!(kernel.iter().chain(&stride).chain(&input).all(|&n| n > 0), "kernel, stride and input are not empty");
        let phase_len = ((kernel[1] - 1) / stride[1] + out_width).next_multiple_of(16);
        Phases { kernel, stride, padding, height: input[0], width: input[1], out_width, phase_len }
    }

    /// Height and width of the kernel.
    pub fn kernel(&self) -> [usize; 2] {
        self.kernel
    }

    /// Rows and columns between neighbouring outputs.
    pub fn stride(&self) -> [usize; 2] {
        self.stride
    }

    /// Pixels of an output row.
    pub fn out_width(&self) -> usize {
        self.out_width
    }

    /// Floats of a scratch row.
    pub fn row(&self) -> usize {
        self.stride[1] * self.phase_len
    }

    /// Floats from what one output row reads to what the next reads.
    pub fn output_row(&self) -> usize {
        self.stride[0] * self.row()
    }

    /// Scratch rows for `rows` output rows.
    pub fn rows(&self, rows: usize) -> usize {
        if rows == 0 { 0 } else { (rows - 1) * self.stride[0] + self.kernel[0] }
    }

    /// Floats of scratch for `rows` output rows of one plane, without what [`PADDING`](super::PADDING) asks for.
    pub fn scratch_len(&self, rows: usize) -> usize {
        self.rows(rows) * self.row()
    }

    /// Where tap `(ky, kx)` of the first output pixel lies.
    pub fn offset(&self, ky: usize, kx: usize) -> usize {
        ky * self.row() + kx % self.stride[1] * self.phase_len + kx / self.stride[1]
    }

    /// Fills `scratch` (at least [`scratch_len`](Self::scratch_len)) for the output rows `rows` of `plane`
    /// (`[height][width]`).
    ///
    /// # Safety
    /// The CPU must have the instruction set of `V`.
    #[inline(always)]
    pub(super) unsafe fn fill<V: Simd>(&self, plane: &[f32], rows: Range<usize>, scratch: &mut [f32]) {
        let first = rows.start * self.stride[0];
        for (r, row) in scratch.chunks_exact_mut(self.row()).take(self.rows(rows.len())).enumerate() {
            match (first + r).checked_sub(self.padding[0]).filter(|&y| y < self.height) {
                Some(y) => {
                    let input = &plane[y * self.width..][..self.width];
                    for (phase, out) in row.chunks_exact_mut(self.phase_len).enumerate() {
                        // SAFETY: the caller vouches for the instruction set.
                        unsafe { self.fill_phase::<V>(input, phase, out) }
                    }
                }
                None => row.fill(0.0),
            }
        }
    }

    #[inline(always)]
    unsafe fn fill_phase<V: Simd>(&self, input: &[f32], phase: usize, out: &mut [f32]) {
        let (stride, left) = (self.stride[1], self.padding[1]);
        // The first float that is input, the column it comes from, and how many there are.
        let before = left.saturating_sub(phase).div_ceil(stride).min(out.len());
        let column = (before * stride + phase).saturating_sub(left);
        let count = input.len().saturating_sub(column).div_ceil(stride).min(out.len() - before);
        out[..before].fill(0.0);
        let (middle, after) = out[before..].split_at_mut(count);
        after.fill(0.0);
        let input = input.get(column..).unwrap_or(&[]);
        match stride {
            1 => middle.copy_from_slice(&input[..count]),
            2 => {
                let mut i = 0;
                // SAFETY: two vectors end before the last float that is needed; the caller vouches for the instructions.
                unsafe {
                    while i + V::LANES < count {
                        let from = input.as_ptr().add(2 * i);
                        V::load(from).even(V::load(from.add(V::LANES))).store(middle.as_mut_ptr().add(i));
                        i += V::LANES;
                    }
                }
                for (out, pair) in middle[i..].iter_mut().zip(input[2 * i..].chunks(2)) {
                    *out = pair[0];
                }
            }
            _ => {
                for (out, group) in middle.iter_mut().zip(input.chunks(stride)) {
                    *out = group[0];
                }
            }
        }
    }

    /// Fills scratch for each plane of `input`, `input_plane` floats apart, for as many as `scratch` has room for,
    /// `scratch_plane` floats apart.
    ///
    /// # Panics
    /// If a plane of scratch is too short for the rows, or the input has fewer planes.
    pub fn fill_planes(
        &self,
        isa: Isa,
        input: &[f32],
        input_plane: usize,
        rows: Range<usize>,
        scratch: &mut [f32],
        scratch_plane: usize,
    ) {
        struct Fill<'a> {
            phases: Phases,
            input: &'a [f32],
            input_plane: usize,
            rows: Range<usize>,
            scratch: &'a mut [f32],
            scratch_plane: usize,
        }
        impl Kernel for Fill<'_> {
            type Output = ();
            #[inline(always)]
            unsafe fn run<V: Simd>(self) {
                for (c, scratch) in self.scratch.chunks_exact_mut(self.scratch_plane).enumerate() {
                    let plane = &self.input[c * self.input_plane..];
                    // SAFETY: `dispatch` runs this where the CPU has the instructions.
                    unsafe { self.phases.fill::<V>(plane, self.rows.clone(), scratch) }
                }
            }
        }
        assert!(scratch_plane >= self.scratch_len(rows.len()).max(1), "scratch for {rows:?}");
        let fill = Fill { phases: *self, input, input_plane, rows, scratch, scratch_plane };
        // SAFETY: `Isa` values come from detection; slices are checked as they are cut.
        unsafe { dispatch(isa, fill) }
    }
}
