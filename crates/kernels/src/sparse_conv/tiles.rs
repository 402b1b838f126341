//! How many vectors of pixels a tile has: what fits the registers, and where several do, what is faster on this machine.
//!
//! Results do not depend on it: every pixel's sum has the same order in any tile.

use super::{Epilogue, PADDING, PackedSparse, Product, multiply};
use crate::simd::{lanes, registers};
use crate::{AlignedBuf, Isa};
use std::sync::Mutex;

/// Vectors in a tile, for vectors of `lanes`, so many registers, and blocks of `block` channels: the usual choice first,
/// then what is better on some machines; 0 stands for none.
///
/// 32 registers of four floats are those of ARM, where machines differ: small cores want smaller tiles. In WebAssembly two
/// vectors are the most: V8 loads all pixels and weights of a column before it multiplies, so that 2·4 sums, 2 vectors of
/// pixels, 4 weights and a product are the 15 registers that it has on x86-64; larger tiles take three times as long.
pub(super) const fn candidates(lanes: usize, registers: usize, block: usize) -> [usize; 3] {
    match (lanes, registers >= 32, block) {
        (_, _, 1) => [8, 0, 0],
        (_, true, 2) => [8, 0, 0],
        (_, false, 2) => [4, 0, 0],
        (4, true, 4) => [6, 4, 0],
        (_, true, 4) => [6, 0, 0],
        (_, false, 4) => [2, 0, 0],
        (_, true, 8) => [3, 0, 0],
        (_, _, _) => [1, 0, 0],
    }
}

/// Whether [`candidates`] has `vectors`.
pub(super) const fn is_candidate(lanes: usize, registers: usize, block: usize, vectors: usize) -> bool {
    let [a, b, c] = candidates(lanes, registers, block);
    a == vectors || b == vectors || c == vectors
}

/// Choices made by measurement: instruction set, block, vectors.
static CHOSEN: Mutex<Vec<(Isa, usize, usize)>> = Mutex::new(Vec::new());

/// Vectors in a tile for `isa` and `block`: as measured, the first time that it is asked for; on WebAssembly, whose clock
/// is not ours to read, the usual ones until [`tune`] has measured.
pub(super) fn vectors(isa: Isa, block: usize) -> usize {
    let all = candidates(lanes(isa), registers(isa), block);
    let mut chosen = CHOSEN.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(choice) = chosen.iter().find(|(of, size, _)| (*of, *size) == (isa, block)) {
        return choice.2;
    }
    if all[1] == 0 || cfg!(target_arch = "wasm32") {
        return all[0];
    }
    let began = std::time::Instant::now();
    let best = measure(isa, block, 100e-6, &|| began.elapsed().as_secs_f64());
    chosen.push((isa, block, best));
    best
}

/// Measures which tiles are fastest with `isa`, by a clock that gives seconds, and uses those from now on for weights that
/// are packed. Takes `3 · seconds` for each candidate.
pub fn tune(isa: Isa, seconds: f64, clock: &dyn Fn() -> f64) {
    for block in super::BLOCKS {
        if candidates(lanes(isa), registers(isa), block)[1] != 0 {
            let best = measure(isa, block, seconds, clock);
            let mut chosen = CHOSEN.lock().unwrap_or_else(|e| e.into_inner());
            chosen.retain(|(of, size, _)| (*of, *size) != (isa, block));
            chosen.push((isa, block, best));
        }
    }
}

/// The fastest candidate on a product like those of MobileNet.
fn measure(isa: Isa, block: usize, seconds: f64, clock: &dyn Fn() -> f64) -> usize {
    const COLUMNS: usize = 128;
    const CHANNELS: usize = 32;
    // As many pixels as all candidates divide.
    let pixels = 12 * lanes(isa);
    let weights: Vec<f32> = (0..CHANNELS * COLUMNS).map(|i| (i % 7) as f32 - 3.5).collect();
    let input = AlignedBuf::zeroed(COLUMNS * pixels + PADDING);
    let mut output = AlignedBuf::zeroed(CHANNELS * pixels);
    let mut contenders: Vec<(usize, PackedSparse, f64)> = candidates(lanes(isa), registers(isa), block)
        .into_iter()
        .filter(|&vectors| vectors != 0)
        .map(|vectors| {
            let mut packed = PackedSparse::with_tile(isa, &weights, &[0.5; CHANNELS], COLUMNS, block, vectors);
            packed.place(|column| column * pixels, true);
            (vectors, packed, f64::INFINITY)
        })
        .collect();
    let product = Product { rows: 1, width: pixels, input_row: 0, output_row: 0, output_plane: pixels };
    // In turns, so that a disturbance does not hit one alone.
    for _ in 0..3 {
        for (_, packed, best) in &mut contenders {
            let (began, mut runs) = (clock(), 0);
            let each = loop {
                let epilogue = Epilogue { range: (0.0, 6.0), residual: None };
                multiply(packed, product, &input, &mut output, epilogue, 0..packed.blocks());
                runs += 1;
                let passed = clock() - began;
                // A clock that stands still must not hold us for ever.
                if passed >= seconds || runs >= 1 << 10 {
                    break passed / f64::from(runs);
                }
            };
            *best = best.min(each);
        }
    }
    contenders.into_iter().min_by(|a, b| a.2.total_cmp(&b.2)).map_or(1, |(vectors, ..)| vectors)
}
