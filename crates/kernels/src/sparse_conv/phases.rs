//! Rows of a plane with zeros around them, split by column phase, so that every tap of a strided kernel reads
//! neighbouring floats for neighbouring outputs.
//!
//! For output rows from `y0` on, scratch row `r` holds input row `y0 · stride + r − top`, or zeros where there is none. In it
//! phase `p` lies at `p · phase_len`, and its float `i` is input column `i · stride + p − left`, or zero. So tap `(ky, kx)`
//! of output `(y0 + y, x)` is the float at `offset(ky, kx) + y · output_row() + x`.

use super::PADDING;
use crate::Isa;
use crate::simd::{Kernel, MAX_LANES, Simd, dispatch};
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
    /// The first two phases, so that no row has to work them out.
    parts: [Part; 2],
}

/// What a phase of a row takes from the input: `count` columns from `column` on, a stride apart, after `before` zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    before: usize,
    column: usize,
    count: usize,
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
        let part = |phase: usize| {
            let (stride, left) = (stride[1], padding[1]);
            let before = left.saturating_sub(phase).div_ceil(stride).min(phase_len);
            let column = (before * stride + phase).saturating_sub(left);
            let count = input[1].saturating_sub(column).div_ceil(stride).min(phase_len - before);
            Part { before, column, count }
        };
        let parts = [part(0), part(1)];
        Phases { kernel, stride, padding, height: input[0], width: input[1], out_width, phase_len, parts }
    }

    /// Height and width of the kernel.
    pub fn kernel(&self) -> [usize; 2] {
        self.kernel
    }

    /// Rows and columns between neighbouring outputs.
    pub fn stride(&self) -> [usize; 2] {
        self.stride
    }

    /// Zeros above and left of the input.
    pub fn padding(&self) -> [usize; 2] {
        self.padding
    }

    /// Height and width of the input.
    pub fn size(&self) -> [usize; 2] {
        [self.height, self.width]
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

    /// Floats of scratch for `rows` output rows of one plane, without the padding after them.
    pub fn scratch_len(&self, rows: usize) -> usize {
        self.rows(rows) * self.row()
    }

    /// The same, and a vector more, since rows are filled by whole vectors.
    pub fn plane_len(&self, rows: usize) -> usize {
        self.scratch_len(rows) + MAX_LANES
    }

    /// Where tap `(ky, kx)` of the first output pixel lies.
    pub fn offset(&self, ky: usize, kx: usize) -> usize {
        ky * self.row() + kx % self.stride[1] * self.phase_len + kx / self.stride[1]
    }

    /// Floats of a plane, and what may be read after them.
    pub(super) fn read_len(&self) -> usize {
        self.height * self.width + PADDING
    }

    /// Fills `scratch` for the output rows `rows` of the plane `[height][width]` at `plane`.
    ///
    /// # Safety
    /// The CPU must have the instruction set of `V`. [`read_len`](Self::read_len) floats must be readable at `plane`, and
    /// [`scratch_len`](Self::scratch_len) and a vector after them writable at `scratch`.
    #[inline(always)]
    pub(super) unsafe fn fill<V: Simd>(&self, plane: *const f32, rows: Range<usize>, scratch: *mut f32) {
        let first = rows.start * self.stride[0];
        // SAFETY: rows of the plane are read, with up to two vectors after them, and rows of scratch written, with up to
        // one vector after them: into what is written next, or what the caller allows.
        unsafe {
            for r in 0..self.rows(rows.len()) {
                let out = scratch.add(r * self.row());
                let y = (first + r).wrapping_sub(self.padding[0]);
                if y >= self.height {
                    zeros::<V>(out, 0, self.row());
                    continue;
                }
                let input = plane.add(y * self.width);
                match self.stride[1] {
                    1 => self.copy::<V>(input, out),
                    2 => self.split::<V>(input, out),
                    _ => self.pick(input, out),
                }
            }
        }
    }

    /// A row of stride 1.
    #[inline(always)]
    unsafe fn copy<V: Simd>(&self, input: *const f32, out: *mut f32) {
        let Part { before, column, count } = self.parts[0];
        // SAFETY: as for `fill`.
        unsafe {
            zeros::<V>(out, 0, before);
            let (input, to) = (input.add(column), out.add(before));
            let mut i = 0;
            while i < count {
                V::load(input.add(i)).store(to.add(i));
                i += V::LANES;
            }
            zeros::<V>(out, before + count, self.phase_len);
        }
    }

    /// A row of stride 2.
    #[inline(always)]
    unsafe fn split<V: Simd>(&self, input: *const f32, out: *mut f32) {
        for (phase, part) in self.parts.iter().enumerate() {
            let &Part { before, column, count } = part;
            // SAFETY: as for `fill`.
            unsafe {
                let out = out.add(phase * self.phase_len);
                zeros::<V>(out, 0, before);
                let (input, to) = (input.add(column), out.add(before));
                let mut i = 0;
                while i < count {
                    let from = input.add(2 * i);
                    V::load(from).even(V::load(from.add(V::LANES))).store(to.add(i));
                    i += V::LANES;
                }
                zeros::<V>(out, before + count, self.phase_len);
            }
        }
    }

    /// A row of a larger stride.
    #[inline(always)]
    unsafe fn pick(&self, input: *const f32, out: *mut f32) {
        let (stride, left) = (self.stride[1], self.padding[1]);
        for phase in 0..stride {
            for i in 0..self.phase_len {
                let column = (i * stride + phase).wrapping_sub(left);
                // SAFETY: as for `fill`, within the rows.
                unsafe {
                    *out.add(phase * self.phase_len + i) = if column < self.width { *input.add(column) } else { 0.0 };
                }
            }
        }
    }

    /// Fills scratch for `planes` planes of `input`, `input_plane` floats apart; those of scratch are `scratch_plane` floats
    /// apart, at least [`plane_len`](Self::plane_len). After the last of the input [`PADDING`] floats must follow.
    ///
    /// # Panics
    /// If a buffer is too short.
    #[allow(clippy::too_many_arguments)]
    pub fn fill_planes(
        &self,
        isa: Isa,
        input: &[f32],
        input_plane: usize,
        rows: Range<usize>,
        scratch: &mut [f32],
        scratch_plane: usize,
        planes: usize,
    ) {
        struct Fill<'a> {
            phases: Phases,
            input: &'a [f32],
            input_plane: usize,
            rows: Range<usize>,
            scratch: &'a mut [f32],
            scratch_plane: usize,
            planes: usize,
        }
        impl Kernel for Fill<'_> {
            type Output = ();
            #[inline(always)]
            unsafe fn run<V: Simd>(self) {
                for c in 0..self.planes {
                    // SAFETY: `fill_planes` checked the planes of input and scratch; a plane's last vector ends in the next
                    // plane or in the padding.
                    unsafe {
                        let plane = self.input.as_ptr().add(c * self.input_plane);
                        let scratch = self.scratch.as_mut_ptr().add(c * self.scratch_plane);
                        self.phases.fill::<V>(plane, self.rows.clone(), scratch);
                    }
                }
            }
        }
        let Some(last) = planes.checked_sub(1) else { return };
        assert!(input.len() >= last * input_plane + self.read_len(), "{planes} planes of input");
        let needed = self.plane_len(rows.len());
        assert!(scratch_plane >= needed && scratch.len() >= last * scratch_plane + needed, "scratch");
        let fill = Fill { phases: *self, input, input_plane, rows, scratch, scratch_plane, planes };
        // SAFETY: `Isa` values come from detection; lengths were checked just now.
        unsafe { dispatch(isa, fill) }
    }
}

/// Zeros `from..to` and up to a vector after that.
///
/// # Safety
/// That memory must be writable, and the CPU must have the instruction set of `V`.
#[inline(always)]
unsafe fn zeros<V: Simd>(row: *mut f32, from: usize, to: usize) {
    let mut i = from;
    while i < to {
        // SAFETY: the caller's promise.
        unsafe { V::splat(0.0).store(row.add(i)) };
        i += V::LANES;
    }
}
