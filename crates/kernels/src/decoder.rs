//! What happens to a single row of activations between the products of a decoder. Each function works on the calling thread,
//! for tasks that split rows among them.

use crate::low_bit::Activations;
use crate::math;
use crate::pool::SendPtr;
use crate::simd::{Kernel, Simd, dispatch};
use crate::{Cpu, Isa};

/// Rows that a thread takes without asking others: fewer are not worth waking one.
const FEW: usize = 4;

/// Calls `task(row, parts)` for each of `rows` rows, in parallel if there are many; a part is the row of one of the slices, each
/// given with the length of its rows. Where `quantised` is given, what the task leaves in its first part is quantised into
/// the column of this number.
///
/// # Panics
/// If a slice is shorter than its rows, or rows of the first are not as long as columns of `quantised`.
pub fn for_each_row<const N: usize>(
    cpu: &Cpu,
    rows: usize,
    parts: [(&mut [f32], usize); N],
    quantised: Option<&mut Activations>,
    task: &(dyn Fn(usize, [&mut [f32]; N]) + Sync),
) {
    let parts = parts.map(|(slice, width)| {
        assert!(slice.len() >= rows * width, "{} floats are no {rows} rows of {width}", slice.len());
        (SendPtr(slice.as_mut_ptr()), width)
    });
    let columns = quantised.map(Activations::parts);
    let one = |row: usize| {
        // SAFETY: rows lie within their slices and each is given out once; a column belongs to its row.
        unsafe {
            let slices =
                || parts.map(|(base, width)| std::slice::from_raw_parts_mut(base.get().add(row * width), width));
            task(row, slices());
            if let Some(columns) = columns {
                let [first, ..] = &slices()[..] else { return };
                columns.quantise(cpu.isa, row, first);
            }
        }
    };
    if rows < FEW {
        return (0..rows).for_each(one);
    }
    let block = rows.div_ceil(4 * cpu.threads());
    cpu.pool.run(rows.div_ceil(block), &|i, _| (i * block..((i + 1) * block).min(rows)).for_each(one));
}

/// How the first half of a feed-forward layer gates the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// `x · sigmoid(x)`.
    #[default]
    Silu,
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))`.
    GeluTanh,
}

/// `out = x / √(mean(x²) + epsilon) · weight`.
///
/// # Panics
/// If lengths differ.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len(), "rms_norm: {} of {}", weight.len(), x.len());
    // SAFETY: the CPU has the instruction set that its caller found; lengths were checked.
    unsafe { dispatch(isa, RmsNorm { x: x.as_ptr(), weight, epsilon, out: out.as_mut_ptr() }) }
}

/// [`rms_norm`] in place.
///
/// # Panics
/// As there.
pub fn rms_norm_in_place(isa: Isa, x: &mut [f32], weight: &[f32], epsilon: f32) {
    assert_eq!(x.len(), weight.len(), "rms_norm");
    // SAFETY: as above; each element is read before it is written.
    unsafe { dispatch(isa, RmsNorm { x: x.as_ptr(), weight, epsilon, out: x.as_mut_ptr() }) }
}

/// `gate = activation(gate) · up`.
///
/// # Panics
/// If lengths differ.
pub fn gated(isa: Isa, how: Gate, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "gated");
    // SAFETY: the CPU has the instruction set that its caller found; lengths are equal.
    unsafe { dispatch(isa, Gated { how, gate, up }) }
}

/// `x += other`.
///
/// # Panics
/// If lengths differ.
pub fn add(isa: Isa, x: &mut [f32], other: &[f32]) {
    assert_eq!(x.len(), other.len(), "add");
    // SAFETY: as above.
    unsafe { dispatch(isa, Add { x, other }) }
}

/// `x = cap · tanh(x / cap)`.
pub fn soft_cap(isa: Isa, x: &mut [f32], cap: f32) {
    // SAFETY: as above.
    unsafe { dispatch(isa, SoftCap { x, cap }) }
}

/// Rotates each head of `x`: elements `i` and `i + r` by angle `i`, for `r` angles; what lies behind the first `2r` elements
/// of a head stays.
///
/// # Panics
/// If `x` is no whole number of heads, there are more angles than half a head, or not as many sines as cosines.
pub fn rotate(isa: Isa, x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    assert!(head_dim > 0 && x.len().is_multiple_of(head_dim) && cos.len() == sin.len(), "rotate: heads of {head_dim}");
    assert!(2 * cos.len() <= head_dim, "rotate: {} angles for heads of {head_dim}", cos.len());
    // SAFETY: as above.
    unsafe { dispatch(isa, Rotate { x, head_dim, cos, sin }) }
}

struct RmsNorm<'a> {
    x: *const f32,
    weight: &'a [f32],
    epsilon: f32,
    out: *mut f32,
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        let len = self.weight.len();
        let whole = len / V::LANES * V::LANES;
        // SAFETY: all indices are below `len`, and a last part is no longer than what is left.
        unsafe {
            let mut squares = [V::splat(0.0); 4];
            for (i, at) in (0..whole).step_by(V::LANES).enumerate() {
                let x = V::load(self.x.add(at));
                squares[i % 4] = x.mul_add(x, squares[i % 4]);
            }
            if whole < len {
                let x = V::load_first(self.x.add(whole), len - whole);
                squares[0] = x.mul_add(x, squares[0]);
            }
            let sum = squares[0].add(squares[1]).add(squares[2].add(squares[3])).sum();
            let factor = V::splat(1.0 / (sum / len as f32 + self.epsilon).sqrt());
            for at in (0..whole).step_by(V::LANES) {
                let x = V::load(self.x.add(at)).mul(factor);
                x.mul(V::load(self.weight.as_ptr().add(at))).store(self.out.add(at));
            }
            if whole < len {
                let count = len - whole;
                let x = V::load_first(self.x.add(whole), count).mul(factor);
                x.mul(V::load_first(self.weight.as_ptr().add(whole), count)).store_first(self.out.add(whole), count);
            }
        }
    }
}

/// Applies a function to pairs of vectors of two slices of equal length, and stores to the first.
macro_rules! elementwise {
    ($V:ident, $a:expr, $b:expr, $f:expr) => {{
        let (a, b): (*mut f32, *const f32) = ($a.as_mut_ptr(), $b);
        let len = $a.len();
        let whole = len / $V::LANES * $V::LANES;
        // SAFETY: all indices are below the length, and a last part is no longer than what is left.
        unsafe {
            for at in (0..whole).step_by($V::LANES) {
                let result: $V = $f($V::load(a.add(at)), $V::load(b.add(at)));
                result.store(a.add(at));
            }
            if whole < len {
                let count = len - whole;
                let result: $V = $f($V::load_first(a.add(whole), count), $V::load_first(b.add(whole), count));
                result.store_first(a.add(whole), count);
            }
        }
    }};
}

struct Gated<'a> {
    how: Gate,
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        let up = self.up.as_ptr();
        match self.how {
            Gate::Silu => elementwise!(V, self.gate, up, |x: V, up: V| math::sigmoid(x).mul(x).mul(up)),
            Gate::GeluTanh => elementwise!(V, self.gate, up, |x: V, up: V| {
                let cubic = x.mul(x).mul(V::splat(0.044_715)).mul_add(x, x);
                let tanh = math::tanh(cubic.mul(V::splat(0.797_884_6)));
                let half = x.mul(V::splat(0.5));
                half.mul_add(tanh, half).mul(up)
            }),
        }
    }
}

struct Add<'a> {
    x: &'a mut [f32],
    other: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        elementwise!(V, self.x, self.other.as_ptr(), |x: V, y: V| x.add(y))
    }
}

struct SoftCap<'a> {
    x: &'a mut [f32],
    cap: f32,
}

impl Kernel for SoftCap<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        let cap = self.cap;
        elementwise!(V, self.x, self.x.as_ptr(), |x: V, _: V| { math::tanh(x.div(V::splat(cap))).mul(V::splat(cap)) })
    }
}

struct Rotate<'a> {
    x: &'a mut [f32],
    head_dim: usize,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        let half = self.cos.len();
        for head in self.x.chunks_exact_mut(self.head_dim) {
            let (first, second) = head.split_at_mut(half);
            let (first, second) = (first.as_mut_ptr(), second.as_mut_ptr());
            let mut at = 0;
            // SAFETY: `at + count` is at most `half`, and both halves are that long.
            unsafe {
                while at < half {
                    let count = V::LANES.min(half - at);
                    let load = |from: *const f32| {
                        if count == V::LANES { V::load(from) } else { V::load_first(from, count) }
                    };
                    let (a, b) = (load(first.add(at)), load(second.add(at)));
                    let (cos, sin) = (load(self.cos.as_ptr().add(at)), load(self.sin.as_ptr().add(at)));
                    let (x, y) = (a.mul(cos).sub(b.mul(sin)), b.mul(cos).add(a.mul(sin)));
                    if count == V::LANES {
                        x.store(first.add(at));
                        y.store(second.add(at));
                    } else {
                        x.store_first(first.add(at), count);
                        y.store_first(second.add(at), count);
                    }
                    at += count;
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
    fn rows_equal_their_formulas() {
        for isa in Isa::available() {
            for len in [1, 7, 16, 63, 64, 200] {
                let (x, w) = (noise(len, 1), noise(len, 2));
                let wide = |v: f32| f64::from(v);
                let mean = x.iter().map(|&v| wide(v) * wide(v)).sum::<f64>() / len as f64;
                let wanted: Vec<f32> =
                    x.iter().zip(&w).map(|(&x, &w)| (wide(x) / (mean + 1e-5).sqrt() * wide(w)) as f32).collect();
                let mut found = vec![0.0; len];
                rms_norm(isa, &x, &w, 1e-5, &mut found);
                close(&found, &wanted, 2e-6, &format!("rms_norm {isa} {len}"));
                let mut found = x.clone();
                rms_norm_in_place(isa, &mut found, &w, 1e-5);
                close(&found, &wanted, 2e-6, &format!("rms_norm_in_place {isa} {len}"));

                let silu = |x: f64| x / (1.0 + (-x).exp());
                let gelu = |x: f64| 0.5 * x * (1.0 + (0.797_884_560_8 * (x + 0.044715 * x * x * x)).tanh());
                let functions: [(Gate, &dyn Fn(f64) -> f64); 2] = [(Gate::Silu, &silu), (Gate::GeluTanh, &gelu)];
                for (how, f) in functions {
                    let mut found: Vec<f32> = x.iter().map(|v| v * 4.0).collect();
                    let wanted: Vec<f32> = found.iter().zip(&w).map(|(&x, &w)| (f(wide(x)) * wide(w)) as f32).collect();
                    gated(isa, how, &mut found, &w);
                    close(&found, &wanted, 2e-6, &format!("{how:?} {isa} {len}"));
                }
                let mut found = x.clone();
                add(isa, &mut found, &w);
                let wanted: Vec<f32> = x.iter().zip(&w).map(|(x, w)| x + w).collect();
                close(&found, &wanted, 0.0, "add");
                let mut found: Vec<f32> = x.iter().map(|v| v * 90.0).collect();
                let wanted: Vec<f32> = found.iter().map(|&v| (30.0 * (wide(v) / 30.0).tanh()) as f32).collect();
                soft_cap(isa, &mut found, 30.0);
                close(&found, &wanted, 2e-6, "soft_cap");
            }
        }
    }

    #[test]
    fn rotation_turns_pairs_and_leaves_the_rest() {
        for isa in Isa::available() {
            let (heads, head_dim, angles) = (3, 50, 21);
            let x = noise(heads * head_dim, 3);
            let angle: Vec<f32> = (0..angles).map(|i| i as f32 * 0.3).collect();
            let (cos, sin): (Vec<f32>, Vec<f32>) = angle.iter().map(|a| (a.cos(), a.sin())).unzip();
            let mut found = x.clone();
            rotate(isa, &mut found, head_dim, &cos, &sin);
            let mut wanted = x;
            for head in wanted.chunks_exact_mut(head_dim) {
                for i in 0..angles {
                    let (a, b) = (head[i], head[i + angles]);
                    head[i] = a * cos[i] - b * sin[i];
                    head[i + angles] = b * cos[i] + a * sin[i];
                }
            }
            close(&found, &wanted, 1e-6, &format!("rotate {isa}"));
        }
    }
}
