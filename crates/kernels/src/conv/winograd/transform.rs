//! The one-dimensional transforms of Winograd's F(m, 3), applied to columns and then to rows.
//!
//! A transform is given by its nodes, the points at which polynomials are evaluated, with ∞ as the last one. Row `i` of
//! `Bᵀ` holds the coefficients of `Π (x − other nodes)`, row `i` of `G` is `[1, x, x²] / Π (xᵢ − other nodes)`, and column
//! `i` of `Aᵀ` is `[1, x, x², …]`.
//!
//! Rounding, measured on whole RLFN networks of 22 to 28 layers against `f64` (root mean square, in units of 1/255 of the
//! output's range): direct 2.9e-5; F(4, 3) with nodes 0, ±3/4, ±3/2: 3.5e-5, with the customary 0, ±1, ±2: 5e-5; F(6, 3)
//! with 0, ±1, ±2, ±1/2: 9e-5, and with any others that were tried more. Choice of nodes after Barabasz et al.,
//! arXiv 1803.10986. All constants are exact in binary.

use crate::simd::Simd;

/// F(`OUT`, 3), which reads `IN = OUT + 2` samples.
pub(super) trait Transform<const OUT: usize, const IN: usize> {
    /// Nodes in the order of the transforms' rows, without ∞.
    const NODES: &'static [f64];
    /// Tiles that a thread transforms before it multiplies: enough to use the weights often, few enough for the cache.
    const BLOCK: usize;

    /// `Bᵀ d`.
    ///
    /// # Safety
    /// The CPU must have the instruction set of `V`.
    unsafe fn input<V: Simd>(d: [V; IN]) -> [V; IN];

    /// `Aᵀ m`.
    ///
    /// # Safety
    /// The CPU must have the instruction set of `V`.
    unsafe fn output<V: Simd>(m: [V; IN]) -> [V; OUT];
}

/// `G`: transforms the three weights of a row or column.
pub(super) fn weight_transform<const IN: usize>(nodes: &[f64]) -> [[f64; 3]; IN] {
    let mut g = [[0.0, 0.0, 1.0]; IN];
    for (i, (row, &x)) in g.iter_mut().zip(nodes).enumerate() {
        let others = nodes.iter().enumerate().filter(|&(k, _)| k != i);
        let n: f64 = others.map(|(_, other)| x - other).product();
        *row = [1.0 / n, x / n, x * x / n];
    }
    g
}

const P: f32 = 0.75;
const Q: f32 = 1.5;

/// F(4, 3) at 0, ±3/4, ±3/2, ∞.
pub(super) struct F4;

impl Transform<4, 6> for F4 {
    const NODES: &'static [f64] = &[0.0, P as f64, -P as f64, Q as f64, -Q as f64];
    const BLOCK: usize = 24;

    #[inline(always)]
    unsafe fn input<V: Simd>(d: [V; 6]) -> [V; 6] {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let [d0, d1, d2, d3, d4, d5] = d;
            let (minus_pp, minus_qq) = (V::splat(-P * P), V::splat(-Q * Q));
            let (product, minus_sum) = (V::splat(P * P * Q * Q), V::splat(-(P * P + Q * Q)));
            let even_p = d2.mul_add(minus_qq, d4);
            let odd_p = d1.mul_add(minus_qq, d3);
            let even_q = d2.mul_add(minus_pp, d4);
            let odd_q = d1.mul_add(minus_pp, d3);
            [
                d0.mul_add(product, d2.mul_add(minus_sum, d4)),
                odd_p.mul_add(V::splat(P), even_p),
                odd_p.mul_add(V::splat(-P), even_p),
                odd_q.mul_add(V::splat(Q), even_q),
                odd_q.mul_add(V::splat(-Q), even_q),
                d1.mul_add(product, d3.mul_add(minus_sum, d5)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn output<V: Simd>(m: [V; 6]) -> [V; 4] {
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
}

/// F(6, 3) at 0, ±1, ±2, ±1/2, ∞.
pub(super) struct F6;

impl Transform<6, 8> for F6 {
    const NODES: &'static [f64] = &[0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5];
    const BLOCK: usize = 16;

    #[inline(always)]
    unsafe fn input<V: Simd>(d: [V; 8]) -> [V; 8] {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let [d0, d1, d2, d3, d4, d5, d6, d7] = d;
            let even_1 = d4.mul_add(V::splat(-4.25), d2.add(d6));
            let odd_1 = d3.mul_add(V::splat(-4.25), d1.add(d5));
            let even_2 = d2.mul_add(V::splat(0.25), d4.mul_add(V::splat(-1.25), d6));
            let odd_2 = d1.mul_add(V::splat(0.25), d3.mul_add(V::splat(-1.25), d5));
            let even_half = d2.mul_add(V::splat(4.0), d4.mul_add(V::splat(-5.0), d6));
            let odd_half = d1.mul_add(V::splat(4.0), d3.mul_add(V::splat(-5.0), d5));
            [
                d2.sub(d4).mul_add(V::splat(5.25), d6.sub(d0)),
                even_1.add(odd_1),
                even_1.sub(odd_1),
                odd_2.mul_add(V::splat(2.0), even_2),
                odd_2.mul_add(V::splat(-2.0), even_2),
                odd_half.mul_add(V::splat(0.5), even_half),
                odd_half.mul_add(V::splat(-0.5), even_half),
                d3.sub(d5).mul_add(V::splat(5.25), d7.sub(d1)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn output<V: Simd>(m: [V; 8]) -> [V; 6] {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let [m0, m1, m2, m3, m4, m5, m6, m7] = m;
            let (s1, d1, s2, d2) = (m1.add(m2), m1.sub(m2), m3.add(m4), m3.sub(m4));
            let (s3, d3) = (m5.add(m6), m5.sub(m6));
            [
                m0.add(s1).add(s2.add(s3)),
                d2.mul_add(V::splat(2.0), d3.mul_add(V::splat(0.5), d1)),
                s2.mul_add(V::splat(4.0), s3.mul_add(V::splat(0.25), s1)),
                d2.mul_add(V::splat(8.0), d3.mul_add(V::splat(0.125), d1)),
                s2.mul_add(V::splat(16.0), s3.mul_add(V::splat(0.0625), s1)),
                d2.mul_add(V::splat(32.0), d3.mul_add(V::splat(0.03125), d1.add(m7))),
            ]
        }
    }
}
