//! Elementary functions on vectors.

use crate::simd::Simd;

/// `e^x`, within 2 units in the last place; 0 below -87, and capped near the largest `f32` above 88.
///
/// Reduction to `2^n · e^r` with `|r| ≤ ln 2 / 2`, then a polynomial of degree 6 (coefficients by minimax fit, as in
/// Cephes' `expf`).
///
/// # Safety
/// The CPU must have the instruction set of `V`.
#[inline(always)]
pub unsafe fn exp<V: Simd>(x: V) -> V {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let x = x.max(V::splat(-87.336_54)).min(V::splat(88.02));
        let n = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
        let r = n.mul_add(V::splat(-0.693_359_4), x);
        let r = n.mul_add(V::splat(2.121_944_4e-4), r);
        let mut p = V::splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
            p = p.mul_add(r, V::splat(c));
        }
        let y = p.mul_add(r.mul(r), r.add(V::splat(1.0)));
        y.mul(n.exp2_integral())
    }
}

/// The logistic function `1 / (1 + e^-x)`.
///
/// # Safety
/// The CPU must have the instruction set of `V`.
#[inline(always)]
pub unsafe fn sigmoid<V: Simd>(x: V) -> V {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let one = V::splat(1.0);
        let e = exp(V::splat(0.0).sub(x));
        one.div(one.add(e))
    }
}

/// The hyperbolic tangent, within 3e-7 (4e-7 without fused multiply-add); NaN stays NaN.
///
/// An odd rational function of degree 11 over 8, fitted to the least relative error on -9..9 (Lawson iteration), beyond
/// which the nearest `f32` is 1 or -1.
///
/// # Safety
/// The CPU must have the instruction set of `V`.
#[inline(always)]
pub unsafe fn tanh<V: Simd>(x: V) -> V {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        // In this order, `max` and `min` hand a NaN on.
        let x = V::splat(9.0).min(V::splat(-9.0).max(x));
        let u = x.mul(x);
        let p = polynomial(u, [-1.224_641_4e-11, 3.064_276_7e-8, 2.803_141_4e-5, 3.869_513_3e-3, 1.368_086e-1, 1.0]);
        let q = polynomial(u, [1.289_042_2e-6, 3.940_722_4e-4, 2.725_017_6e-2, 4.701_419_2e-1, 1.0]);
        x.mul(p).div(q)
    }
}

/// The Gaussian error linear unit in its exact form, `x/2 · (1 + erf(x/√2))`, within `3e-7 · max(1, |x|)`; NaN stays NaN.
///
/// `erf(x/√2)` is an odd rational function of degree 11 over 10, fitted like that of [`tanh`] on -5.5..5.5, beyond which
/// it is 1 or -1 within 4e-8.
///
/// # Safety
/// The CPU must have the instruction set of `V`.
#[inline(always)]
pub unsafe fn gelu<V: Simd>(x: V) -> V {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let erf = erf_of_scaled(x);
        let half = x.mul(V::splat(0.5));
        half.mul_add(erf, half)
    }
}

/// `erf(x/√2)`, see [`gelu`].
#[inline(always)]
unsafe fn erf_of_scaled<V: Simd>(x: V) -> V {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let t = V::splat(5.5).min(V::splat(-5.5).max(x));
        let u = t.mul(t);
        let p = polynomial(u, [4.586_353_4e-8, 1.260_303_5e-5, 3.291_290_8e-4, 9.302_851e-3, 6.691_6e-2, 7.978_845e-1]);
        let q = polynomial(u, [1.199_041e-6, 7.216_404_6e-5, 1.860_593_4e-3, 2.841_561_3e-2, 2.505_331_6e-1, 1.0]);
        t.mul(p).div(q)
    }
}

/// The slope of [`gelu`]: `Φ(x) + x · φ(x)`, within 1e-6.
///
/// # Safety
/// The CPU must have the instruction set of `V`.
#[inline(always)]
pub unsafe fn gelu_slope<V: Simd>(x: V) -> V {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let half = V::splat(0.5);
        let cdf = half.mul_add(erf_of_scaled(x), half);
        let density = exp(x.mul(x).mul(V::splat(-0.5))).mul(V::splat(0.398_942_3));
        x.mul_add(density, cdf)
    }
}

/// A polynomial in `u`, highest coefficient first.
#[inline(always)]
unsafe fn polynomial<V: Simd, const N: usize>(u: V, coefficients: [f32; N]) -> V {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let mut sum = V::splat(coefficients[0]);
        for &c in &coefficients[1..] {
            sum = sum.mul_add(u, V::splat(c));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::simd::{Kernel, dispatch};

    /// Applies tanh (`false`) or GELU (`true`) to whole vectors.
    struct Apply<'a>(&'a mut [f32], bool);

    impl Kernel for Apply<'_> {
        type Output = ();
        #[inline(always)]
        unsafe fn run<V: Simd>(self) {
            for chunk in self.0.chunks_exact_mut(V::LANES) {
                // SAFETY: a chunk is one vector.
                unsafe {
                    let x = V::load(chunk.as_ptr());
                    (if self.1 { gelu(x) } else { tanh(x) }).store(chunk.as_mut_ptr());
                }
            }
        }
    }

    /// `erfc` by its continued fraction or its series, for the GELU of a negative number without cancellation.
    fn gelu_f64(x: f64) -> f64 {
        let z = x.abs() / std::f64::consts::SQRT_2;
        let erfc = if z < 3.0 {
            // erf z = 2/√π Σ (-1)^n z^(2n+1) / (n! (2n+1)), as z e^(-z²) Σ (2z²)^n / (2n+1)!! for positive terms only.
            let (mut term, mut sum, mut n) = (1.0, 1.0, 1.0);
            while term > 1e-18 * sum {
                term *= 2.0 * z * z / (2.0 * n + 1.0);
                sum += term;
                n += 1.0;
            }
            1.0 - 2.0 / std::f64::consts::PI.sqrt() * z * (-z * z).exp() * sum
        } else {
            let mut fraction = 0.0;
            for n in (1..100).rev() {
                fraction = f64::from(n) / 2.0 / (z + fraction);
            }
            (-z * z).exp() / std::f64::consts::PI.sqrt() / (z + fraction)
        };
        0.5 * x * if x > 0.0 { 2.0 - erfc } else { erfc }
    }

    #[test]
    fn tanh_and_gelu_are_exact_to_rounding() {
        let mut inputs: Vec<f32> = (-160_000..=160_000).map(|i| i as f32 * 1e-4).collect();
        for exponent in -149..=127 {
            let v = 2f64.powi(exponent) as f32;
            inputs.extend([v, -v, v * 1.3, v * -1.7]);
        }
        inputs.extend([0.0, -0.0, f32::MAX, f32::MIN]);
        inputs.resize(inputs.len().next_multiple_of(16), 0.5);
        for isa in Isa::available() {
            for is_gelu in [false, true] {
                // WebAssembly's relaxed multiply-add is fused on some hosts only.
                let fused = !matches!(isa, Isa::Scalar | Isa::Simd128 | Isa::RelaxedSimd);
                let tolerance = if fused || is_gelu { 3e-7 } else { 4e-7 };
                let mut found = inputs.clone();
                // SAFETY: the CPU has `isa`.
                unsafe { dispatch(isa, Apply(&mut found, is_gelu)) };
                for (&x, &y) in inputs.iter().zip(&found) {
                    let d = f64::from(x);
                    let (wanted, size) = if is_gelu { (gelu_f64(d), d.abs().max(1.0)) } else { (d.tanh(), 1.0) };
                    let error = (f64::from(y) - wanted).abs();
                    assert!(error <= tolerance * size, "{isa} gelu={is_gelu} at {x:e}: found {y:e}, wanted {wanted:e}");
                    if x.abs() < 1e-3 {
                        assert!(
                            error <= tolerance * wanted.abs() + 1e-44,
                            "{isa} gelu={is_gelu} at {x:e}: found {y:e}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn nan_stays_nan() {
        for isa in Isa::available() {
            for is_gelu in [false, true] {
                let mut values = [f32::NAN; 16];
                // SAFETY: the CPU has `isa`.
                unsafe { dispatch(isa, Apply(&mut values, is_gelu)) };
                assert!(values.iter().all(|v| v.is_nan()), "{isa} gelu={is_gelu}");
            }
        }
    }
}
