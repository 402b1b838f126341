//! Every method of every vector type of this machine against a plain loop.

use super::{Kernel, MAX_LANES, Simd, bf16_bits, dispatch, dispatch_bf16};
use crate::Isa;
use crate::testing::noise;
use std::fmt::Write;

/// How a multiply-add rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rounding {
    Once,
    Twice,
    /// The host decides.
    Either,
}

/// Numbers whose handling differs most easily: signs of zero, ties, limits, infinities, NaN.
const SPECIAL: [f32; 24] = [
    0.0,
    -0.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    0.499_999_97,
    1.0,
    -1.0,
    8_388_607.5,
    -4_194_304.5,
    16_777_217.0,
    3.0e9,
    -1.0e20,
    f32::MAX,
    f32::MIN,
    f32::MIN_POSITIVE,
    f32::EPSILON,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    -f32::NAN,
    1e-3,
];

/// A vector's worth of numbers, the same for the same `seed`: noise, and on odd seeds special ones.
fn numbers<V: Simd>(seed: usize) -> Vec<f32> {
    let values = noise(V::LANES, seed as u64 + 1);
    let special = |i: usize| SPECIAL[(i * 7 + seed * 5 + seed / 24) % SPECIAL.len()];
    (0..V::LANES).map(|i| if seed % 2 == 1 { special(i) } else { values[i] * 100.0 }).collect()
}

/// A vector of the numbers.
#[inline(always)]
unsafe fn vector<V: Simd>(values: &[f32]) -> V {
    assert_eq!(values.len(), V::LANES);
    // SAFETY: the length was checked; the caller has the instruction set.
    unsafe { V::load(values.as_ptr()) }
}

/// The lanes of a vector; also checks that a store touches nothing else.
#[inline(always)]
unsafe fn lanes<V: Simd>(v: V) -> Vec<f32> {
    let mut room = [77.0; MAX_LANES + 3];
    // SAFETY: there is room for the longest vector from the second element on; the caller has the instruction set.
    unsafe { v.store(room.as_mut_ptr().add(1)) };
    assert!(room[0] == 77.0 && room[V::LANES + 1..].iter().all(|&x| x == 77.0), "store left its bounds");
    room[1..=V::LANES].to_vec()
}

/// Asserts that lanes are equal bit for bit, but for which NaN a NaN is.
#[track_caller]
fn same(what: &str, found: &[f32], wanted: &[f32]) {
    let equal = |f: &f32, w: &f32| f.to_bits() == w.to_bits() || (f.is_nan() && w.is_nan());
    assert_eq!(found.len(), wanted.len(), "{what}");
    assert!(found.iter().zip(wanted).all(|(f, w)| equal(f, w)), "{what}: found {found:?}, wanted {wanted:?}");
}

/// Asserts that lanes are equal bit for bit.
#[track_caller]
fn identical(what: &str, found: &[f32], wanted: impl Iterator<Item = u32>) {
    let bits: Vec<u32> = found.iter().map(|f| f.to_bits()).collect();
    assert_eq!(bits, wanted.collect::<Vec<u32>>(), "{what}");
}

fn map(a: &[f32], f: impl Fn(f32) -> f32) -> Vec<f32> {
    a.iter().map(|&a| f(a)).collect()
}

fn zip(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect()
}

/// Loads and stores of whole vectors at any alignment and of the first lanes.
#[inline(always)]
unsafe fn check_memory<V: Simd>() {
    let values: Vec<f32> = (1..=2 * MAX_LANES).map(|i| i as f32).collect();
    // SAFETY: every pointer is followed by as many floats as are accessed; the caller has the instruction set.
    unsafe {
        same("splat", &lanes(V::splat(-2.5)), &vec![-2.5; V::LANES]);
        for start in 0..MAX_LANES {
            same("load", &lanes(V::load(values.as_ptr().add(start))), &values[start..start + V::LANES]);
        }
        for count in 1..=V::LANES {
            // Exactly as long as what may be read.
            let exact: Box<[f32]> = values[..count].into();
            let wanted: Vec<f32> = (0..V::LANES).map(|i| if i < count { values[i] } else { 0.0 }).collect();
            same(&format!("load_first({count})"), &lanes(V::load_first(exact.as_ptr(), count)), &wanted);

            let mut room = [77.0; MAX_LANES + 2];
            V::load(values.as_ptr()).store_first(room.as_mut_ptr().add(1), count);
            same(&format!("store_first({count})"), &room[1..=count], &values[..count]);
            assert!(room[0] == 77.0 && room[count + 1..].iter().all(|&x| x == 77.0), "store_first({count}): bounds");
        }
    }
}

/// Movements between lanes of two vectors.
#[inline(always)]
unsafe fn check_movements<V: Simd>() {
    let joined: Vec<f32> = (0..2 * V::LANES).map(|i| i as f32 + 0.25).collect();
    let (first, second) = joined.split_at(V::LANES);
    // SAFETY: no memory is involved but by `vector` and `lanes`; the caller has the instruction set.
    unsafe {
        let (a, b) = (vector::<V>(first), vector::<V>(second));
        same("after::<1>", &lanes(a.after::<1>(b)), &joined[1..=V::LANES]);
        same("after::<2>", &lanes(a.after::<2>(b)), &joined[2..V::LANES + 2]);
        same("before::<1>", &lanes(b.before::<1>(a)), &joined[V::LANES - 1..2 * V::LANES - 1]);
        same("before::<2>", &lanes(b.before::<2>(a)), &joined[V::LANES - 2..2 * V::LANES - 2]);
        let alternate = |from: usize| joined.iter().copied().skip(from).step_by(2).collect::<Vec<f32>>();
        same("even", &lanes(a.even(b)), &alternate(0));
        same("odd", &lanes(a.odd(b)), &alternate(1));
    }
}

/// Arithmetic lane by lane, on three vectors.
#[inline(always)]
unsafe fn check_arithmetic<V: Simd>(x: &[f32], y: &[f32], z: &[f32], rounding: Rounding) {
    // SAFETY: no memory is involved but by `vector` and `lanes`; the caller has the instruction set.
    unsafe {
        let (a, b, c) = (vector::<V>(x), vector::<V>(y), vector::<V>(z));
        same("add", &lanes(a.add(b)), &zip(x, y, |x, y| x + y));
        same("sub", &lanes(a.sub(b)), &zip(x, y, |x, y| x - y));
        same("mul", &lanes(a.mul(b)), &zip(x, y, |x, y| x * y));
        same("div", &lanes(a.div(b)), &zip(x, y, |x, y| x / y));
        same("max", &lanes(a.max(b)), &zip(x, y, |x, y| if x > y { x } else { y }));
        same("min", &lanes(a.min(b)), &zip(x, y, |x, y| if x < y { x } else { y }));
        // With constants on either side compilers choose other instructions, not always right ones.
        let (low, high) = (V::splat(-1.0), V::splat(1.0));
        let clamped = map(x, |x| x.clamp(-1.0, 1.0));
        same("clamp that passes NaN", &lanes(high.min(low.max(a))), &clamped);
        let clamped = map(&clamped, |x| if x.is_nan() { -1.0 } else { x });
        same("clamp that stops NaN", &lanes(a.max(low).min(high)), &clamped);
        same("round", &lanes(a.round()), &map(x, f32::round_ties_even));

        let sign = 1 << 31;
        let signed = x.iter().zip(y).map(|(x, y)| (x.to_bits() & !sign) | (y.to_bits() & sign));
        identical("copysign", &lanes(a.copysign(b)), signed);
        let chosen: Vec<f32> = (0..V::LANES).map(|i| if x[i] < y[i] { z[i] } else { x[i] }).collect();
        same("select_lt", &lanes(a.select_lt(b, c, a)), &chosen);

        let (low, high) = a.bf16_pair();
        identical("bf16_pair low", &lanes(low), x.iter().map(|x| x.to_bits() << 16));
        identical("bf16_pair high", &lanes(high), x.iter().map(|x| x.to_bits() & 0xffff_0000));

        let found = lanes(a.mul_add(b, c));
        let once = zip3(x, y, z, f32::mul_add);
        let twice = zip3(x, y, z, |x, y, z| x * y + z);
        match rounding {
            Rounding::Once => same("mul_add", &found, &once),
            Rounding::Twice => same("mul_add", &found, &twice),
            Rounding::Either => {
                let nearest = |i: usize| if found[i].to_bits() == once[i].to_bits() { once[i] } else { twice[i] };
                same("mul_add", &found, &(0..V::LANES).map(nearest).collect::<Vec<f32>>());
            }
        }
    }
}

fn zip3(a: &[f32], b: &[f32], c: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> Vec<f32> {
    (0..a.len()).map(|i| f(a[i], b[i], c[i])).collect()
}

/// Powers of two, sums, and products of bf16, which have conditions on their arguments.
#[inline(always)]
unsafe fn check_conditional<V: Simd>(seed: u64) {
    let (x, y) = (noise(2 * V::LANES, seed), noise(2 * V::LANES, seed + 1000));
    let rounded = |values: &[f32]| values.iter().map(|&v| bf16_bits(v)).collect::<Vec<u16>>();
    let paired = |bits: &[u16]| {
        bits.chunks(2).map(|p| f32::from_bits(u32::from(p[0]) | u32::from(p[1]) << 16)).collect::<Vec<f32>>()
    };
    let (p, q) = (rounded(&x), rounded(&y));
    // SAFETY: every pointer is followed by as many values as are accessed; the caller has the instruction set.
    unsafe {
        let powers: Vec<f32> = (0..V::LANES).map(|i| (i as i32 * 17 + seed as i32 * 5) as f32 % 127.0).collect();
        for powers in [powers.clone(), map(&powers, |n| 1.0 - n), vec![-126.0; V::LANES], vec![127.0; V::LANES]] {
            let wanted: Vec<f32> = powers.iter().map(|&n| 2f64.powi(n as i32) as f32).collect();
            same("exp2_integral", &lanes(vector::<V>(&powers).exp2_integral()), &wanted);
        }

        let wanted: f64 = x[..V::LANES].iter().map(|&x| f64::from(x)).sum();
        let found = f64::from(vector::<V>(&x[..V::LANES]).sum());
        assert!((found - wanted).abs() <= 1e-6 * V::LANES as f64, "sum: found {found}, wanted {wanted}");
        let counted: Vec<f32> = (0..V::LANES).map(|i| (1 << i) as f32).collect();
        assert_eq!(vector::<V>(&counted).sum(), ((1 << V::LANES) - 1) as f32, "sum takes every lane once");

        let start: Vec<f32> = (0..V::LANES).map(|i| i as f32 - 3.0).collect();
        let found = lanes(vector::<V>(&start).dot_bf16(vector::<V>(&paired(&p)), vector::<V>(&paired(&q))));
        let wide = |bits: u16| f64::from(f32::from_bits(u32::from(bits) << 16));
        for (i, &found) in found.iter().enumerate() {
            let products = (2 * i..2 * i + 2).map(|j| wide(p[j]) * wide(q[j])).sum::<f64>();
            let wanted = f64::from(start[i]) + products;
            assert!((f64::from(found) - wanted).abs() <= 4e-6, "dot_bf16: lane {i} found {found}, wanted {wanted}");
        }

        let mut values = x[..V::LANES].to_vec();
        values[0] = [f32::NAN, f32::INFINITY, -0.0, f32::MAX, 1.003_906_3][seed as usize % 5];
        let mut stored = [7u16; MAX_LANES + 1];
        vector::<V>(&values).store_bf16(stored.as_mut_ptr());
        for (i, &value) in values.iter().enumerate() {
            let found = f32::from_bits(u32::from(stored[i]) << 16);
            let equal = stored[i] == bf16_bits(value) || (found.is_nan() && value.is_nan());
            assert!(equal, "store_bf16: lane {i} of {values:?} is {found}");
        }
        assert!(stored[V::LANES..].iter().all(|&bits| bits == 7), "store_bf16 left its bounds");
    }
}

/// Checks one vector type and the shorter one that goes with it, and adds a line to the text.
struct Check<'a> {
    rounding: Rounding,
    checked: &'a mut String,
}

impl Check<'_> {
    #[inline(always)]
    unsafe fn all<V: Simd>(&mut self) {
        assert!(V::LANES <= MAX_LANES && V::LANES.is_power_of_two());
        // SAFETY: the caller has the instruction set.
        unsafe {
            check_memory::<V>();
            check_movements::<V>();
            for seed in 0..200 {
                let (x, y, z) = (numbers::<V>(seed), numbers::<V>(seed / 3), numbers::<V>(seed / 7 + 1));
                check_arithmetic::<V>(&x, &y, &z, self.rounding);
            }
            for seed in 0..20 {
                check_conditional::<V>(seed);
            }
        }
        writeln!(self.checked, "{} with {} lanes", std::any::type_name::<V>(), V::LANES).expect("a string takes all");
    }
}

impl Kernel for Check<'_> {
    type Output = usize;

    #[inline(always)]
    unsafe fn run<V: Simd>(mut self) -> usize {
        assert!(V::Half::LANES <= V::LANES && V::Half::LANES >= V::LANES / 2);
        // SAFETY: the caller has the instruction set of `V`, which includes that of its half.
        unsafe {
            self.all::<V>();
            self.all::<V::Half>();
        }
        V::LANES
    }
}

#[test]
fn vectors_do_what_plain_loops_do() {
    for isa in Isa::available() {
        let rounding = match isa {
            Isa::Scalar | Isa::Simd128 => Rounding::Twice,
            Isa::RelaxedSimd => Rounding::Either,
            _ => Rounding::Once,
        };
        let mut checked = String::new();
        // SAFETY: the CPU has `isa`.
        let found = unsafe { dispatch(isa, Check { rounding, checked: &mut checked }) };
        assert_eq!(found, super::lanes(isa), "{isa}: lanes");
        // SAFETY: as above.
        let found = unsafe { dispatch_bf16(isa, Check { rounding, checked: &mut checked }) };
        assert_eq!(found, super::lanes(isa), "{isa}: lanes of bf16 vectors");
        print!("{isa}:\n{checked}");
    }
}

#[test]
fn levels_have_vectors_of_their_own() {
    struct Name;
    impl Kernel for Name {
        type Output = (&'static str, usize);
        #[inline(always)]
        unsafe fn run<V: Simd>(self) -> (&'static str, usize) {
            (std::any::type_name::<V>(), V::REGISTERS)
        }
    }
    for isa in Isa::available() {
        // SAFETY: the CPU has `isa`.
        let (name, registers) = unsafe { dispatch(isa, Name) };
        assert_eq!(name.ends_with("Portable"), isa == Isa::Scalar, "{isa}: {name}");
        assert_eq!(registers, super::registers(isa), "{isa}: registers");
    }
}
