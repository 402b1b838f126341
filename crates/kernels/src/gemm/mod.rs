//! Matrix product for tall, narrow problems: `C[m][n] = epilogue(Σ_k A[m][k] · B[k][n])`.
//!
//! `A` and `C` are row-major with a stride between rows (`lda`, `ldc`); a row is usually a pixel. `B` is packed once, at
//! load time, into panels: a panel holds `vectors` vectors of columns for every `k`, so that the inner loop reads it
//! from start to end. A tile of `C` stays in registers for the whole of `k`; panels are as wide, and tiles as high, as
//! the registers allow.
//!
//! Operands are `f32` or bf16, sums are always `f32`. In bf16 two values of neighbouring `k` make one 32-bit lane, in `A`
//! as in the packed `B`, and `A` is `m × ⌈k/2⌉` such pairs; only `Product` takes those.
//!
//! | shape | |
//! |---|---|
//! | `A` | `m × k`, row stride `lda ≥ k` |
//! | `B` | packed, `k × n` |
//! | `C` | `m ×` [`PackedMatrix::padded_columns`], row stride `ldc`; columns from `n` on get unspecified finite values |

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
mod reference;

use crate::AlignedBuf;
use crate::Isa;
use crate::simd::{Kernel, Simd, bf16_bits, dispatch, lanes, registers};
pub use reference::gemm_reference;

/// The right-hand matrix, packed for one instruction set.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    data: AlignedBuf,
    isa: Isa,
    k: usize,
    /// Lanes along `k`: `k` in `f32`, half of it in bf16.
    steps: usize,
    n: usize,
    panels: Vec<Panel>,
}

#[derive(Clone, Copy, Debug)]
struct Panel {
    /// Width in vectors, 1 to 4.
    vectors: usize,
    /// First column.
    column: usize,
    /// Where it starts in `data`.
    offset: usize,
}

impl PackedMatrix {
    /// Packs the matrix whose element in row `k`, column `n` is `element(k, n)`.
    pub fn pack(isa: Isa, k: usize, n: usize, element: impl Fn(usize, usize) -> f32) -> PackedMatrix {
        PackedMatrix::pack_lanes(isa, k, k, n, element)
    }

    /// [`pack`](Self::pack) in bf16.
    pub(crate) fn pack_bf16(isa: Isa, k: usize, n: usize, element: impl Fn(usize, usize) -> f32) -> PackedMatrix {
        let value = |i: usize, j: usize| if i < k { u32::from(bf16_bits(element(i, j))) } else { 0 };
        // AMX takes sixteen pairs at a time.
        let pairs = if isa == Isa::Amx { k.div_ceil(2).next_multiple_of(16) } else { k.div_ceil(2) };
        PackedMatrix::pack_lanes(isa, k, pairs, n, |pair, j| {
            f32::from_bits(value(2 * pair, j) | value(2 * pair + 1, j) << 16)
        })
    }

    fn pack_lanes(isa: Isa, k: usize, steps: usize, n: usize, lane: impl Fn(usize, usize) -> f32) -> PackedMatrix {
        let width = lanes(isa);
        let mut panels = Vec::new();
        let (mut column, mut left) = (0, n.div_ceil(width));
        while left > 0 {
            let vectors = panel_width(isa, left);
            panels.push(Panel { vectors, column, offset: column * steps });
            column += vectors * width;
            left -= vectors;
        }
        let mut data = AlignedBuf::zeroed(column * steps);
        for panel in &panels {
            let columns = panel.vectors * width;
            for row in 0..steps {
                let to = &mut data[panel.offset + row * columns..][..columns];
                for (j, to) in to.iter_mut().enumerate().take(n.saturating_sub(panel.column)) {
                    *to = lane(row, panel.column + j);
                }
            }
        }
        PackedMatrix { data, isa, k, steps, n, panels }
    }

    /// Rows: the length of the sum.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The instruction set that it was packed for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Columns that a product writes: `n` rounded up to whole vectors.
    pub fn padded_columns(&self) -> usize {
        self.n.next_multiple_of(lanes(self.isa))
    }
}

/// How many vectors of columns the next panel takes when `left` remain.
fn panel_width(isa: Isa, left: usize) -> usize {
    if registers(isa) < 32 {
        return left.min(2);
    }
    match left {
        1..=4 => left,
        5 | 6 | 9 => 3,
        _ => 4,
    }
}

/// What happens to a product before it is stored: `leaky_relu(sum + bias) + residual`.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// Added to every row; [`PackedMatrix::padded_columns`] floats, or empty for none.
    pub bias: &'a [f32],
    /// Slope for negative values, at most 1; 1 leaves them as they are and 0 is a ReLU.
    pub slope: f32,
    /// Added after the activation: a matrix with row stride `residual_stride`, or empty for none.
    pub residual: &'a [f32],
    /// Floats from one row of `residual` to the next.
    pub residual_stride: usize,
}

impl Epilogue<'_> {
    /// Stores the product as it is.
    pub const NONE: Epilogue<'static> = Epilogue { bias: &[], slope: 1.0, residual: &[], residual_stride: 0 };
}

/// `C = epilogue(A · B)` for `m` rows, on the calling thread.
///
/// # Panics
/// If a slice is shorter than its shape says.
pub fn gemm(m: usize, a: &[f32], lda: usize, b: &PackedMatrix, c: &mut [f32], ldc: usize, epilogue: &Epilogue<'_>) {
    if m == 0 || b.n == 0 {
        return;
    }
    let columns = b.padded_columns();
    assert!(a.len() >= (m - 1) * lda + b.k && lda >= b.k, "gemm: A is {} floats", a.len());
    assert!(c.len() >= (m - 1) * ldc + columns && ldc >= columns, "gemm: C is {} floats", c.len());
    // SAFETY: the sizes were checked just now and in `check`.
    unsafe { gemm_raw(m, a.as_ptr(), lda, b, c.as_mut_ptr(), ldc, epilogue) }
}

/// [`gemm`] on pointers, for kernels whose output rows interleave with those of other threads.
///
/// # Safety
/// `a` must be valid for `m` rows of `b.k()` floats, `c` for `m` rows of `b.padded_columns()` floats that no one else
/// accesses meanwhile.
///
/// # Panics
/// If the epilogue's slices are shorter than their shapes say.
pub(crate) unsafe fn gemm_raw(
    m: usize,
    a: *const f32,
    lda: usize,
    b: &PackedMatrix,
    c: *mut f32,
    ldc: usize,
    epilogue: &Epilogue<'_>,
) {
    let columns = b.padded_columns();
    assert!(epilogue.bias.is_empty() || epilogue.bias.len() >= columns, "gemm: bias is too short");
    assert!(
        epilogue.residual.is_empty()
            || m == 0
            || epilogue.residual.len() >= (m - 1) * epilogue.residual_stride + columns,
        "gemm: residual is too short"
    );
    let tile = Product {
        m,
        a,
        lda,
        b,
        c,
        ldc,
        bias: if epilogue.bias.is_empty() { std::ptr::null() } else { epilogue.bias.as_ptr() },
        slope: epilogue.slope,
        residual: if epilogue.residual.is_empty() { std::ptr::null() } else { epilogue.residual.as_ptr() },
        ldr: epilogue.residual_stride,
    };
    // SAFETY: `b` was packed for this instruction set, which the CPU therefore has; the caller vouches for `a` and `c`
    // and the epilogue was checked above.
    unsafe { dispatch(b.isa, tile) }
}

/// A product on raw pointers. A null `bias` or `residual` means none.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub m: usize,
    pub a: *const f32,
    pub lda: usize,
    pub b: &'a PackedMatrix,
    pub c: *mut f32,
    pub ldc: usize,
    pub bias: *const f32,
    pub slope: f32,
    pub residual: *const f32,
    pub ldr: usize,
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe { self.multiply::<V, false>() }
    }
}

impl Product<'_> {
    /// All panels; with `BF16` both `A` and `B` hold pairs of bf16 and `lda` counts pairs.
    ///
    /// # Safety
    /// As [`gemm_raw`]; with `BF16` on [`Isa::Amx`] also as `multiply_amx`.
    #[inline(always)]
    pub(crate) unsafe fn multiply<V: Simd, const BF16: bool>(&self) {
        #[cfg(target_arch = "x86_64")]
        if BF16 && self.b.isa == Isa::Amx {
            // SAFETY: the caller's promise; that level is offered only where AMX works.
            unsafe {
                self.multiply_amx();
                if self.has_epilogue() {
                    for panel in &self.b.panels {
                        self.finish::<V>(panel.column, panel.vectors, 0, self.m);
                    }
                }
            }
            return;
        }
        for panel in &self.b.panels {
            // SAFETY: the panel lies within `data`; rows and columns are the caller's promise.
            unsafe {
                match (V::REGISTERS >= 32, panel.vectors) {
                    (true, 4) => self.panel::<V, BF16, 6, 4>(panel),
                    (true, 3) => self.panel::<V, BF16, 8, 3>(panel),
                    (true, 2) => self.panel::<V, BF16, 12, 2>(panel),
                    (true, _) => self.panel::<V, BF16, 14, 1>(panel),
                    (false, 2) => self.panel::<V, BF16, 6, 2>(panel),
                    (false, _) => self.panel::<V, BF16, 8, 1>(panel),
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn panel<V: Simd, const BF16: bool, const MR: usize, const NV: usize>(&self, panel: &Panel) {
        let mut row = 0;
        // SAFETY: rows `row..row + height` exist; see `run`.
        unsafe {
            while row + MR <= self.m {
                self.tile::<V, BF16, MR, NV>(panel, row);
                row += MR;
            }
            // What is left, in tiles of halving height.
            if MR > 8 && row + 8 <= self.m {
                self.tile::<V, BF16, 8, NV>(panel, row);
                row += 8;
            }
            if MR > 4 && row + 4 <= self.m {
                self.tile::<V, BF16, 4, NV>(panel, row);
                row += 4;
            }
            if row + 2 <= self.m {
                self.tile::<V, BF16, 2, NV>(panel, row);
                row += 2;
            }
            // Rows can remain more than once where a tile height is no power of two.
            while row < self.m {
                self.tile::<V, BF16, 1, NV>(panel, row);
                row += 1;
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<V: Simd, const BF16: bool, const MR: usize, const NV: usize>(&self, panel: &Panel, row: usize) {
        // SAFETY: the tile lies inside A, B and C by the contract of `gemm_raw`.
        unsafe {
            let mut sums = [[V::splat(0.0); NV]; MR];
            let a = self.a.add(row * self.lda);
            let mut b = self.b.data.as_ptr().add(panel.offset);
            for k in 0..self.b.steps {
                let mut columns = [V::splat(0.0); NV];
                for (j, column) in columns.iter_mut().enumerate() {
                    *column = V::load(b.add(j * V::LANES));
                }
                b = b.add(NV * V::LANES);
                for (i, sums) in sums.iter_mut().enumerate() {
                    let value = V::splat(*a.add(i * self.lda + k));
                    for (sum, &column) in sums.iter_mut().zip(&columns) {
                        *sum = if BF16 { sum.dot_bf16(value, column) } else { value.mul_add(column, *sum) };
                    }
                }
            }
            // Stored as they are first: a loop that branches would keep the sums in memory during the loop over `k` too.
            let c = self.c.add(row * self.ldc + panel.column);
            for (i, sums) in sums.iter().enumerate() {
                for (j, sum) in sums.iter().enumerate() {
                    sum.store(c.add(i * self.ldc + j * V::LANES));
                }
            }
            if self.has_epilogue() {
                self.finish::<V>(panel.column, NV, row, MR);
            }
        }
    }

    fn has_epilogue(&self) -> bool {
        !self.bias.is_null() || self.slope != 1.0 || !self.residual.is_null()
    }

    /// Applies the epilogue to `vectors` columns from `column` on, of `height` rows from `row` on.
    #[inline(always)]
    unsafe fn finish<V: Simd>(&self, column: usize, vectors: usize, row: usize, height: usize) {
        // SAFETY: the tile lies inside C, the bias and the residual by the contract of `gemm_raw`.
        unsafe {
            let slope = V::splat(self.slope);
            for j in 0..vectors {
                let column = column + j * V::LANES;
                let bias = if self.bias.is_null() { V::splat(0.0) } else { V::load(self.bias.add(column)) };
                for i in row..row + height {
                    let c = self.c.add(i * self.ldc + column);
                    let y = V::load(c).add(bias);
                    let mut y = y.max(y.mul(slope));
                    if !self.residual.is_null() {
                        y = y.add(V::load(self.residual.add(i * self.ldr + column)));
                    }
                    y.store(c);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, noise};

    #[test]
    fn every_shape_equals_the_reference() {
        for isa in Isa::available() {
            for m in [1, 2, 3, 5, 7, 8, 13, 14, 23] {
                for k in [1, 3, 17, 48] {
                    for n in [1, 3, 16, 17, 48, 52, 60, 64, 80, 97, 144, 180] {
                        let (a, b) = (noise(m * (k + 2), 1), noise(k * n, 2));
                        let packed = PackedMatrix::pack(isa, k, n, |i, j| b[i * n + j]);
                        let ldc = packed.padded_columns() + 16;
                        let (bias, residual) = (noise(packed.padded_columns(), 3), noise(m * ldc, 4));
                        let epilogue = Epilogue { bias: &bias, slope: 0.05, residual: &residual, residual_stride: ldc };
                        let mut c = vec![f32::NAN; m * ldc];
                        gemm(m, &a, k + 2, &packed, &mut c, ldc, &epilogue);
                        let mut wanted = vec![0.0; m * ldc];
                        gemm_reference(m, k, n, &a, k + 2, &b, &mut wanted, ldc, &epilogue);
                        for row in 0..m {
                            close(&c[row * ldc..][..n], &wanted[row * ldc..][..n], 1e-5, &format!("{isa} {m}x{k}x{n}"));
                        }
                    }
                }
            }
        }
    }
}
