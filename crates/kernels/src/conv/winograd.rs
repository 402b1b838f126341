//! Winograd's F(m×m, 3×3): 3×3 convolution with stride 1 by (m + 2)² small matrix products for each m×m tile of output.
//!
//! For a tile, `V = Bᵀ d B` transforms a patch of m + 2 pixels a side of each input channel, `M[p] = V[p] · U[p]` mixes
//! channels at each of the points, and `Y = Aᵀ M A` gives m×m outputs; `U = G w Gᵀ` is made at load time. F(4×4) needs
//! 2.25 multiplications an output and F(6×6) 1.78, where the direct form needs 9; see [`transform`] for their rounding.
//!
//! Scratch of a thread, for `n ≤` [`Transform::BLOCK`] tiles: `V` as `[points][n][in]`, then `M` as `[points][n][out]`.
//! Source: Lavin and Gray, arXiv 1509.09308.

mod transform;

use super::{ConvShape, Job, pad_bias};
use crate::gemm::{PackedMatrix, Product};
use crate::pool::SendPtr;
use crate::simd::{Kernel, MAX_LANES, Simd, dispatch, dispatch_bf16, lanes};
use crate::{AlignedBuf, Cpu, Isa};
use std::mem::MaybeUninit;
use transform::{F4, F6, Transform};

/// Floats between the planes of two points, beyond the plane itself, so that planes do not share cache sets.
const SKEW: usize = 16;

/// How 3×3 convolutions round; sums are `f32` always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numerics {
    /// No worse than the direct form in `f32`: tiles of 4×4.
    #[default]
    Strict,
    /// Three times that, for a fifth fewer multiplications: tiles of 6×6.
    Relaxed,
    /// Tiles of 4×4 whose transformed inputs and weights are rounded to bf16. Worth it where the CPU multiplies bf16 faster
    /// than `f32`, see [`bf16_is_fast`](crate::simd::bf16_is_fast). (Tiles of 6×6 would be a twentieth faster and err twice as much.)
    Bf16,
}

impl Numerics {
    /// Side of a tile of output, in pixels.
    pub fn tile_side(self) -> usize {
        match self {
            Numerics::Strict | Numerics::Bf16 => 4,
            Numerics::Relaxed => 6,
        }
    }
}

/// Transformed weights.
#[derive(Clone, Debug)]
pub(super) struct Winograd {
    isa: Isa,
    numerics: Numerics,
    /// `U`, one matrix `in × out` for each point.
    points: Vec<PackedMatrix>,
    bias: AlignedBuf,
    /// Input and output channels in whole vectors.
    padded_in: usize,
    padded_out: usize,
}

impl Winograd {
    pub(super) fn pack(
        isa: Isa,
        numerics: Numerics,
        shape: &ConvShape,
        weights: &[f32],
        bias: Option<&[f32]>,
    ) -> Winograd {
        match numerics.tile_side() {
            4 => Winograd::pack_with::<F4, 4, 6>(isa, numerics, shape, weights, bias),
            _ => Winograd::pack_with::<F6, 6, 8>(isa, numerics, shape, weights, bias),
        }
    }

    fn pack_with<T: Transform<OUT, IN>, const OUT: usize, const IN: usize>(
        isa: Isa,
        numerics: Numerics,
        shape: &ConvShape,
        weights: &[f32],
        bias: Option<&[f32]>,
    ) -> Winograd {
        let (cin, cout) = (shape.in_channels, shape.out_channels);
        let g = transform::weight_transform::<IN>(T::NODES);
        let mut u = vec![0.0f32; IN * IN * cin * cout];
        for o in 0..cout {
            for c in 0..cin {
                let w = &weights[(o * cin + c) * 9..][..9];
                for i in 0..IN {
                    for j in 0..IN {
                        let mut sum = 0.0;
                        for a in 0..3 {
                            for b in 0..3 {
                                sum += g[i][a] * f64::from(w[a * 3 + b]) * g[j][b];
                            }
                        }
                        u[((i * IN + j) * cin + c) * cout + o] = sum as f32;
                    }
                }
            }
        }
        let points = (0..IN * IN).map(|p| {
            let element = |c: usize, o: usize| u[(p * cin + c) * cout + o];
            match numerics {
                Numerics::Bf16 => PackedMatrix::pack_bf16(isa, cin, cout, element),
                _ => PackedMatrix::pack(isa, cin, cout, element),
            }
        });
        let vector = lanes(isa);
        Winograd {
            isa,
            numerics,
            points: points.collect(),
            bias: pad_bias(isa, cout, bias),
            padded_in: cin.next_multiple_of(vector),
            padded_out: cout.next_multiple_of(vector),
        }
    }

    pub(super) fn isa(&self) -> Isa {
        self.isa
    }

    /// Floats that are read of each input pixel: its channels in whole vectors.
    pub(super) fn padded_in(&self) -> usize {
        self.padded_in
    }

    pub(super) fn numerics(&self) -> Numerics {
        self.numerics
    }

    /// Tiles that a thread transforms before it multiplies.
    fn block(&self) -> usize {
        match self.numerics.tile_side() {
            4 => F4::BLOCK,
            _ => F6::BLOCK,
        }
    }

    pub(super) fn scratch_len(&self) -> usize {
        self.points.len() * (plane_rows(self.block()) * (self.padded_in + self.padded_out) + 2 * SKEW) + MAX_LANES
    }

    pub(super) fn run(&self, cpu: &Cpu, job: &Job<'_>, scratch: &mut [f32]) {
        let (side, block) = (self.numerics.tile_side(), self.block());
        let tiles = job.out.width.div_ceil(side);
        let blocks = tiles.div_ceil(block);
        let first = job.rows.start / side;
        let tile_rows = job.rows.end.div_ceil(side) - first;
        let per_thread = self.scratch_len();
        let scratch = SendPtr(scratch.as_mut_ptr());
        cpu.pool.run(tile_rows * blocks, &|task, worker| {
            let tile = task % blocks * block;
            let work = Block {
                weights: self,
                job,
                y: (first + task / blocks) * side,
                tile,
                tiles: block.min(tiles - tile),
                // SAFETY: `scratch` holds `per_thread` floats for each worker, checked by the caller.
                scratch: unsafe { scratch.get().add(worker * per_thread) },
            };
            // SAFETY: the weights were packed for this instruction set. Blocks write disjoint pixels of the output, and
            // workers use disjoint scratch.
            unsafe {
                match self.numerics {
                    Numerics::Strict => dispatch(self.isa, Strict(work)),
                    Numerics::Relaxed => dispatch(self.isa, Relaxed(work)),
                    Numerics::Bf16 => dispatch_bf16(self.isa, Bf16(work)),
                }
            }
        });
    }
}

/// Rows of a plane for `tiles` tiles: whole AMX tiles, whose surplus rows hold nothing of interest.
fn plane_rows(tiles: usize) -> usize {
    tiles.next_multiple_of(16)
}

/// A block of tiles side by side.
struct Block<'a> {
    weights: &'a Winograd,
    job: &'a Job<'a>,
    /// First output row.
    y: usize,
    /// First tile.
    tile: usize,
    tiles: usize,
    scratch: *mut f32,
}

struct Strict<'a>(Block<'a>);
struct Relaxed<'a>(Block<'a>);
struct Bf16<'a>(Block<'a>);

impl Kernel for Strict<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe { self.0.run::<V, F4, false, 4, 6>() }
    }
}

impl Kernel for Relaxed<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe { self.0.run::<V, F6, false, 6, 8>() }
    }
}

impl Kernel for Bf16<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe { self.0.run::<V, F4, true, 4, 6>() }
    }
}

impl Block<'_> {
    #[inline(always)]
    unsafe fn run<V: Simd, T: Transform<OUT, IN>, const BF16: bool, const OUT: usize, const IN: usize>(self) {
        let w = self.weights;
        // `V` in lanes of 32 bits: values, or pairs of bf16.
        let v_row = if BF16 { w.padded_in.div_ceil(2) } else { w.padded_in };
        let rows = plane_rows(self.tiles);
        let v_plane = rows * v_row + SKEW;
        let m_plane = rows * w.padded_out + SKEW;
        let v = self.scratch;
        // SAFETY: scratch holds both arrays, see `scratch_len`.
        unsafe {
            let m = v.add(IN * IN * v_plane);
            self.transform_input::<V, T, BF16, OUT, IN>(v, v_row, v_plane);
            for (p, matrix) in w.points.iter().enumerate() {
                if BF16 {
                    // Products may read up to a tile of `k` beyond the last row, against weights of zero.
                    v.add(p * v_plane + self.tiles * v_row).write_bytes(0, SKEW);
                }
                let product = Product {
                    m: self.tiles,
                    a: v.add(p * v_plane),
                    lda: v_row,
                    b: matrix,
                    c: m.add(p * m_plane),
                    ldc: w.padded_out,
                    bias: std::ptr::null(),
                    slope: 1.0,
                    residual: std::ptr::null(),
                    ldr: 0,
                };
                product.multiply::<V, BF16>();
            }
            self.transform_output::<V, T, OUT, IN>(m, m_plane);
        }
    }

    /// `V[i·IN + j][tile][c] = (Bᵀ d B)[i][j]`.
    #[inline(always)]
    unsafe fn transform_input<V: Simd, T: Transform<OUT, IN>, const BF16: bool, const OUT: usize, const IN: usize>(
        &self,
        v: *mut f32,
        row_lanes: usize,
        plane: usize,
    ) {
        let input = &self.job.input;
        let (width, stride) = (input.width(), input.stride());
        let zeros = [0.0f32; MAX_LANES];
        // Rows outside the picture read zeros, with a pixel stride of 0.
        let mut rows = [(zeros.as_ptr(), 0); IN];
        for (i, row) in rows.iter_mut().enumerate() {
            if let Some(y) = (self.y + i).checked_sub(1).filter(|&y| y < self.job.height) {
                *row = (input.row(y).as_ptr(), stride);
            }
        }
        let padded_in = self.weights.padded_in;
        for c in (0..padded_in).step_by(V::LANES) {
            // SAFETY: columns are checked here, pixels hold `padded_in` floats, and `zeros` is as long as any vector.
            unsafe {
                let mut channel = rows;
                for (row, step) in &mut channel {
                    *row = row.add(if *step == 0 { 0 } else { c });
                }
                let x = self.tile * OUT;
                // Transformed columns; the last two of a tile are the first two of the next.
                let mut columns = [const { MaybeUninit::<[V; IN]>::uninit() }; IN];
                columns[0].write(column::<V, T, OUT, IN>(&channel, x, width));
                columns[1].write(column::<V, T, OUT, IN>(&channel, x + 1, width));
                for t in 0..self.tiles {
                    for (k, to) in columns.iter_mut().enumerate().skip(2) {
                        to.write(column::<V, T, OUT, IN>(&channel, x + t * OUT + k, width));
                    }
                    let to = v.add(t * row_lanes + if BF16 { c / 2 } else { c });
                    for i in 0..IN {
                        let mut row = [V::splat(0.0); IN];
                        for (value, column) in row.iter_mut().zip(&columns) {
                            *value = column.assume_init_ref()[i];
                        }
                        let row = T::input(row);
                        for (j, value) in row.into_iter().enumerate() {
                            let to = to.add((i * IN + j) * plane);
                            if BF16 { value.store_bf16(to.cast()) } else { value.store(to) }
                        }
                    }
                    columns[0] = columns[IN - 2];
                    columns[1] = columns[IN - 1];
                }
            }
        }
    }

    /// Writes `leaky_relu(Aᵀ M A + bias) + residual`.
    #[inline(always)]
    unsafe fn transform_output<V: Simd, T: Transform<OUT, IN>, const OUT: usize, const IN: usize>(
        &self,
        m: *const f32,
        plane: usize,
    ) {
        let job = self.job;
        let padded_out = self.weights.padded_out;
        let height = job.rows.end.min(self.y + OUT);
        // SAFETY: rows `y..height` and columns below `width` are this block's own pixels of the output, whose pixels
        // are at least `padded_out` floats.
        unsafe {
            let slope = V::splat(job.slope);
            for t in 0..self.tiles {
                let x = (self.tile + t) * OUT;
                let columns = OUT.min(job.out.width - x);
                for o in (0..padded_out).step_by(V::LANES) {
                    let from = m.add(t * padded_out + o);
                    let mut half = [const { MaybeUninit::<[V; OUT]>::uninit() }; IN];
                    for (j, half) in half.iter_mut().enumerate() {
                        let mut column = [V::splat(0.0); IN];
                        for (i, value) in column.iter_mut().enumerate() {
                            *value = V::load(from.add((i * IN + j) * plane));
                        }
                        half.write(T::output(column));
                    }
                    let bias = V::load(self.weights.bias.as_ptr().add(o));
                    for i in 0..OUT {
                        let y = self.y + i;
                        if y < job.rows.start || y >= height {
                            continue;
                        }
                        let mut row = [V::splat(0.0); IN];
                        for (value, half) in row.iter_mut().zip(&half) {
                            *value = half.assume_init_ref()[i];
                        }
                        let to = job.out.pixel(y, x).add(o);
                        let residual =
                            job.residual.as_ref().map(|r| (r.row(y).as_ptr().add(x * r.stride() + o), r.stride()));
                        for (k, value) in T::output(row).into_iter().enumerate().take(columns) {
                            let mut value = value.add(bias);
                            if job.slope != 1.0 {
                                value = value.max(value.mul(slope));
                            }
                            if let Some((from, step)) = residual {
                                value = value.add(V::load(from.add(k * step)));
                            }
                            value.store(to.add(k * job.out.stride));
                        }
                    }
                }
            }
        }
    }
}

/// Column `x - 1` of the patch, transformed; zeros outside the picture. Each row is a pointer and a pixel stride.
#[inline(always)]
unsafe fn column<V: Simd, T: Transform<OUT, IN>, const OUT: usize, const IN: usize>(
    rows: &[(*const f32, usize); IN],
    x: usize,
    width: usize,
) -> [V; IN] {
    // SAFETY: the caller vouches for the rows; columns outside are not read.
    unsafe {
        let mut d = [V::splat(0.0); IN];
        if x == 0 || x > width {
            return d;
        }
        for (d, &(row, step)) in d.iter_mut().zip(rows) {
            *d = V::load(row.add((x - 1) * step));
        }
        T::input(d)
    }
}
