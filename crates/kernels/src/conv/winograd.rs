//! Winograd's F(4×4, 3×3): 3×3 convolution with stride 1 by 36 small matrix products for each 4×4 tile of output.
//!
//! For a tile, `V = Bᵀ d B` transforms a 6×6 patch of each input channel, `M[p] = V[p] · U[p]` mixes channels at each of
//! the 36 points, and `Y = Aᵀ M A` gives 4×4 outputs; `U = G w Gᵀ` is made at load time. 36 multiplications give 16
//! outputs where the direct form needs 144.
//!
//! The interpolation points are 0, ±3/4, ±3/2, ∞: measured on whole networks the rounding error is that of the direct
//! form, where the customary 0, ±1, ±2, ∞ triple it. All constants are exact in binary.
//!
//! Scratch of a thread, for `n ≤ BLOCK` tiles: `V` as `[36][n][in]`, then `M` as `[36][n][out]`.
//! Source: Lavin and Gray, arXiv 1509.09308; points after Barabasz et al., arXiv 1803.10986.

use super::{ConvShape, Job, pad_bias};
use crate::gemm::{PackedMatrix, Product};
use crate::pool::SendPtr;
use crate::simd::{Kernel, Simd, dispatch, lanes};
use crate::{AlignedBuf, Cpu, Isa};

/// Side of a tile of output.
pub(super) const OUT: usize = 4;
/// Side of a tile of input, and of the transformed tile.
const IN: usize = 6;
const POINTS: usize = IN * IN;
/// Tiles that a thread transforms before it multiplies; a multiple of the products' tile heights 6 and 8.
const BLOCK: usize = 24;
/// Floats between the planes of two points, beyond the plane itself, so that planes do not share cache sets.
const SKEW: usize = 16;
/// Longest vector.
const MAX_LANES: usize = 16;

const P: f32 = 0.75;
const Q: f32 = 1.5;

/// Transformed weights.
#[derive(Clone, Debug)]
pub(super) struct Winograd {
    isa: Isa,
    /// `U`, one matrix `in × out` for each point.
    points: Vec<PackedMatrix>,
    bias: AlignedBuf,
    /// Input and output channels in whole vectors.
    padded_in: usize,
    padded_out: usize,
}

impl Winograd {
    pub(super) fn pack(isa: Isa, shape: &ConvShape, weights: &[f32], bias: Option<&[f32]>) -> Winograd {
        let (cin, cout) = (shape.in_channels, shape.out_channels);
        let g = weight_transform();
        let mut u = vec![0.0f32; POINTS * cin * cout];
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
        let points = (0..POINTS)
            .map(|p| PackedMatrix::pack(isa, cin, cout, |c, o| u[(p * cin + c) * cout + o]))
            .collect();
        let vector = lanes(isa);
        Winograd {
            isa,
            points,
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

    pub(super) fn scratch_len(&self) -> usize {
        POINTS * (BLOCK * (self.padded_in + self.padded_out) + 2 * SKEW) + MAX_LANES
    }

    pub(super) fn run(&self, cpu: &Cpu, job: &Job<'_>, scratch: &mut [f32]) {
        let tiles = job.out.width.div_ceil(OUT);
        let blocks = tiles.div_ceil(BLOCK);
        let first = job.rows.start / OUT;
        let tile_rows = job.rows.end.div_ceil(OUT) - first;
        let per_thread = self.scratch_len();
        let scratch = SendPtr(scratch.as_mut_ptr());
        cpu.pool.run(tile_rows * blocks, &|task, worker| {
            let (tile_row, block) = (first + task / blocks, task % blocks);
            let tile = block * BLOCK;
            let work = Block {
                weights: self,
                job,
                y: tile_row * OUT,
                tile,
                tiles: BLOCK.min(tiles - tile),
                // SAFETY: `scratch` holds `per_thread` floats for each worker, checked by the caller.
                scratch: unsafe { scratch.get().add(worker * per_thread) },
            };
            // SAFETY: the weights were packed for this instruction set. Blocks write disjoint pixels of the output, and
            // workers use disjoint scratch.
            unsafe { dispatch(self.isa, work) }
        });
    }
}

/// `G`: rows are `[1, x, x²] / Π (x − other points)`, and the leading coefficient for ∞.
fn weight_transform() -> [[f64; 3]; IN] {
    let (p, q) = (f64::from(P), f64::from(Q));
    let x = [0.0, p, -p, q, -q];
    let mut g = [[0.0, 0.0, 1.0]; IN];
    for (i, row) in g.iter_mut().enumerate().take(5) {
        let n: f64 = x.iter().enumerate().filter(|&(k, _)| k != i).map(|(_, other)| x[i] - other).product();
        *row = [1.0 / n, x[i] / n, x[i] * x[i] / n];
    }
    g
}

/// Up to `BLOCK` tiles side by side.
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

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        let w = self.weights;
        let v_plane = self.tiles * w.padded_in + SKEW;
        let m_plane = self.tiles * w.padded_out + SKEW;
        let v = self.scratch;
        // SAFETY: scratch holds both arrays, see `scratch_len`.
        unsafe {
            let m = v.add(POINTS * v_plane);
            self.transform_input::<V>(v, v_plane);
            for (p, matrix) in w.points.iter().enumerate() {
                let product = Product {
                    m: self.tiles,
                    a: v.add(p * v_plane),
                    lda: w.padded_in,
                    b: matrix,
                    c: m.add(p * m_plane),
                    ldc: w.padded_out,
                    bias: std::ptr::null(),
                    slope: 1.0,
                    residual: std::ptr::null(),
                    ldr: 0,
                };
                product.run::<V>();
            }
            self.transform_output::<V>(m, m_plane);
        }
    }
}

impl Block<'_> {
    /// `V[i·6 + j][tile][c] = (Bᵀ d B)[i][j]`.
    #[inline(always)]
    unsafe fn transform_input<V: Simd>(&self, v: *mut f32, plane: usize) {
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
                let column = |x: usize| -> [V; IN] {
                    // `x` is one more than the column, so that it cannot be negative.
                    if x == 0 || x > width {
                        return [V::splat(0.0); IN];
                    }
                    let mut d = [V::splat(0.0); IN];
                    for (d, &(row, step)) in d.iter_mut().zip(&rows) {
                        *d = V::load(row.add((x - 1) * step + if step == 0 { 0 } else { c }));
                    }
                    input_1d(d)
                };
                let x = self.tile * OUT;
                let mut columns = [[V::splat(0.0); IN]; IN];
                columns[0] = column(x);
                columns[1] = column(x + 1);
                for t in 0..self.tiles {
                    for k in 2..IN {
                        columns[k] = column(x + t * OUT + k);
                    }
                    let to = v.add(t * padded_in + c);
                    for i in 0..IN {
                        let row = input_1d(std::array::from_fn::<V, IN, _>(|j| columns[j][i]));
                        for (j, value) in row.into_iter().enumerate() {
                            value.store(to.add((i * IN + j) * plane));
                        }
                    }
                    columns[0] = columns[4];
                    columns[1] = columns[5];
                }
            }
        }
    }

    /// Writes `leaky_relu(Aᵀ M A + bias) + residual`.
    #[inline(always)]
    unsafe fn transform_output<V: Simd>(&self, m: *const f32, plane: usize) {
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
                    let mut half = [[V::splat(0.0); IN]; OUT];
                    for j in 0..IN {
                        let mut column = [V::splat(0.0); IN];
                        for (i, value) in column.iter_mut().enumerate() {
                            *value = V::load(from.add((i * IN + j) * plane));
                        }
                        let column = output_1d(column);
                        for (half, value) in half.iter_mut().zip(column) {
                            half[j] = value;
                        }
                    }
                    let bias = V::load(self.weights.bias.as_ptr().add(o));
                    for (i, half) in half.iter().enumerate() {
                        let y = self.y + i;
                        if y < job.rows.start || y >= height {
                            continue;
                        }
                        let to = job.out.pixel(y, x).add(o);
                        let residual = job.residual.as_ref().map(|r| (r.row(y).as_ptr().add(x * r.stride() + o), r.stride()));
                        for (k, value) in output_1d(*half).into_iter().enumerate().take(columns) {
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

/// `Bᵀ d`.
#[inline(always)]
unsafe fn input_1d<V: Simd>(d: [V; IN]) -> [V; IN] {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let [d0, d1, d2, d3, d4, d5] = d;
        let (p, q) = (V::splat(P), V::splat(Q));
        let (minus_pp, minus_qq) = (V::splat(-P * P), V::splat(-Q * Q));
        let (product, minus_sum) = (V::splat(P * P * Q * Q), V::splat(-(P * P + Q * Q)));
        let even_p = d2.mul_add(minus_qq, d4);
        let odd_p = d1.mul_add(minus_qq, d3);
        let even_q = d2.mul_add(minus_pp, d4);
        let odd_q = d1.mul_add(minus_pp, d3);
        let (minus_p, minus_q) = (V::splat(-P), V::splat(-Q));
        [
            d0.mul_add(product, d2.mul_add(minus_sum, d4)),
            odd_p.mul_add(p, even_p),
            odd_p.mul_add(minus_p, even_p),
            odd_q.mul_add(q, even_q),
            odd_q.mul_add(minus_q, even_q),
            d1.mul_add(product, d3.mul_add(minus_sum, d5)),
        ]
    }
}

/// `Aᵀ m`.
#[inline(always)]
unsafe fn output_1d<V: Simd>(m: [V; IN]) -> [V; OUT] {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let [m0, m1, m2, m3, m4, m5] = m;
        let (s1, d1, s2, d2) = (m1.add(m2), m1.sub(m2), m3.add(m4), m3.sub(m4));
        [
            m0.add(s1).add(s2),
            d1.mul_add(V::splat(P), d2.mul(V::splat(Q))),
            s1.mul_add(V::splat(P * P), s2.mul(V::splat(Q * Q))),
            d1.mul_add(V::splat(P * P * P), d2.mul_add(V::splat(Q * Q * Q), m5)),
        ]
    }
}
