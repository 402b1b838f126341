//! The kernels of decoders against sums in f64, on a GPU. Without one they say so and pass.

use supple_cuda::low_bit::{FEW, Gate, Outcome, PackedMatrix, Scratch, WeightFormat, padded, project};
use supple_cuda::paged_attention::{
    Heads, Masking, PAGE, Pages, Placement, QkNorm, Tables, attend, attend_chunk, attend_scratch, place,
};
use supple_cuda::{DType, Elements, ElementsMut, Error, Gpu, Memory, decoder};

/// The GPU, if there is one.
fn gpu() -> Option<Gpu> {
    match Gpu::new(0) {
        Ok(gpu) => Some(gpu),
        Err(Error::NoDriver | Error::NoKernels | Error::NoDevice { .. }) => {
            eprintln!("SKIPPED: no GPU");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Numbers that look random.
struct Numbers(u64);

impl Numbers {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let x = self.0 ^ self.0 >> 29;
        x.wrapping_mul(0xbf58476d1ce4e5b9) >> 32
    }

    /// From -1 to 1.
    fn real(&mut self) -> f32 {
        self.bits() as f32 / (1u64 << 31) as f32 - 1.0
    }

    fn reals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.real()).collect()
    }
}

fn to_half(x: f32) -> u16 {
    let bits = x.to_bits();
    let (sign, magnitude) = ((bits >> 16 & 0x8000) as u16, bits & 0x7fff_ffff);
    if magnitude < 0x3880_0000 {
        return sign | ((f32::from_bits(magnitude) + 0.5).to_bits() - 0x3f00_0000) as u16;
    }
    sign | ((magnitude - 0x3800_0000 + 0xfff + (magnitude >> 13 & 1)) >> 13) as u16
}

fn of_half(bits: u16) -> f64 {
    let (sign, exponent, mantissa) = (bits >> 15, i32::from(bits >> 10 & 31), f64::from(bits & 0x3ff));
    let magnitude =
        if exponent == 0 { mantissa * 2f64.powi(-24) } else { (1.0 + mantissa / 1024.0) * 2f64.powi(exponent - 15) };
    if sign == 1 { -magnitude } else { magnitude }
}

/// `values` as the bits of a 16-bit type, and what these are worth.
fn narrow(values: &[f32], dtype: DType) -> (Vec<u16>, Vec<f64>) {
    let bits = values.iter().map(|&x| match dtype {
        DType::F16 => to_half(x),
        _ => ((x.to_bits() + 0x7fff + (x.to_bits() >> 16 & 1)) >> 16) as u16,
    });
    let bits: Vec<u16> = bits.collect();
    let worth = bits.iter().map(|&b| match dtype {
        DType::F16 => of_half(b),
        _ => f64::from(f32::from_bits(u32::from(b) << 16)),
    });
    (bits.clone(), worth.collect())
}

fn bytes_of<T: Copy, const N: usize>(values: &[T], to: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| to(value)).collect()
}

fn upload_f32(gpu: &Gpu, values: &[f32]) -> Memory {
    gpu.upload(&bytes_of(values, f32::to_ne_bytes)).unwrap()
}

fn upload_u32(gpu: &Gpu, values: &[u32]) -> Memory {
    gpu.upload(&bytes_of(values, u32::to_ne_bytes)).unwrap()
}

fn download(gpu: &Gpu, memory: &Memory, count: usize) -> Vec<f32> {
    let mut bytes = vec![0; 4 * count];
    gpu.download(memory, 0, &mut bytes).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())).collect()
}

fn download_16(gpu: &Gpu, memory: &Memory, count: usize, dtype: DType) -> Vec<f64> {
    let mut bytes = vec![0; 2 * count];
    gpu.download(memory, 0, &mut bytes).unwrap();
    let bits = bytes.chunks_exact(2).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    bits.map(|b| match dtype {
        DType::F16 => of_half(b),
        _ => f64::from(f32::from_bits(u32::from(b) << 16)),
    })
    .collect()
}

fn f32s(memory: &Memory) -> Elements<'_> {
    Elements::new(memory, 0, DType::F32)
}

fn f32s_mut(memory: &Memory) -> ElementsMut<'_> {
    ElementsMut::new(memory, 0, DType::F32)
}

fn u32s(memory: &Memory) -> Elements<'_> {
    Elements::new(memory, 0, DType::U32)
}

/// The bytes of `count` random weights as a file has them, and their values.
fn weights(format: WeightFormat, count: usize, numbers: &mut Numbers) -> (Vec<u8>, Vec<f64>) {
    if matches!(format, WeightFormat::F16 | WeightFormat::Bf16) {
        let (bits, values) = narrow(&numbers.reals(count), format.input());
        return (bytes_of(&bits, u16::to_le_bytes), values);
    }
    let (weights, size) = format.block();
    let (mut all, mut values) = (vec![], vec![]);
    for _ in 0..count / weights {
        let mut block: Vec<u8> = (0..size).map(|_| numbers.bits() as u8).collect();
        let halves: &[usize] = match format {
            WeightFormat::Q4_1 | WeightFormat::Q4_K => &[0, 2],
            WeightFormat::Q6_K => &[208],
            _ => &[0],
        };
        for &at in halves {
            block[at..at + 2].copy_from_slice(&to_half(numbers.real() * 0.01).to_le_bytes());
        }
        let half = |at: usize| of_half(u16::from_le_bytes([block[at], block[at + 1]]));
        for i in 0..weights {
            values.push(match format {
                WeightFormat::Q8_0 => half(0) * f64::from(block[2 + i] as i8),
                WeightFormat::Q4_0 => half(0) * (f64::from(block[2 + i % 16] >> (i / 16 * 4) & 15) - 8.0),
                WeightFormat::Q4_1 => half(0) * f64::from(block[4 + i % 16] >> (i / 16 * 4) & 15) + half(2),
                WeightFormat::Q4_K => {
                    let (j, packed) = (i / 32, &block[4..16]);
                    let (scale, min) = if j < 4 {
                        (packed[j] & 63, packed[j + 4] & 63)
                    } else {
                        let high = |byte: u8| byte >> 6 << 4;
                        (packed[j + 4] & 15 | high(packed[j - 4]), packed[j + 4] >> 4 | high(packed[j]))
                    };
                    let q = block[16 + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
                    half(0) * f64::from(scale) * f64::from(q) - half(2) * f64::from(min)
                }
                _ => {
                    let (part, run, l) = (i / 128, i / 32 % 4, i % 32);
                    let low = block[part * 64 + run % 2 * 32 + l] >> (run / 2 * 4) & 15;
                    let high = block[128 + part * 32 + l] >> (run * 2) & 3;
                    let scale = f64::from(block[192 + i / 16] as i8);
                    half(208) * scale * (f64::from(low | high << 4) - 32.0)
                }
            });
        }
        all.extend(block);
    }
    (all, values)
}

/// Random inputs of products, with the values that they have.
fn inputs(gpu: &Gpu, tokens: usize, k: usize, dtype: DType, numbers: &mut Numbers) -> (Memory, Vec<f64>) {
    let (bits, values) = narrow(&numbers.reals(tokens * k), dtype);
    let mut rows = vec![0u16; tokens * padded(k)];
    for (row, bits) in rows.chunks_exact_mut(padded(k)).zip(bits.chunks_exact(k)) {
        row[..k].copy_from_slice(bits);
    }
    (gpu.upload(&bytes_of(&rows, u16::to_ne_bytes)).unwrap(), values)
}

/// The product in f64, and for each sum that of magnitudes.
fn product(w: &[f64], x: &[f64], k: usize) -> Vec<(f64, f64)> {
    let rows = |x: &[f64]| {
        let row =
            |w: &[f64]| w.iter().zip(x).fold((0.0, 0.0), |(sum, size), (w, x)| (sum + w * x, size + (w * x).abs()));
        w.chunks_exact(k).map(row).collect::<Vec<_>>()
    };
    x.chunks_exact(k).flat_map(rows).collect()
}

/// Errors of sums, by the sum of magnitudes: those of sums in f32, and for Q6_K of integers beyond 2^11.
fn tolerance(format: WeightFormat, tokens: usize) -> f64 {
    match format {
        // Many rows go by way of weights rounded to 16 bits.
        _ if tokens > FEW => 5e-4,
        WeightFormat::Q6_K => 1e-4,
        _ => 1e-5,
    }
}

#[test]
fn products_are_sums_of_products() {
    let Some(gpu) = gpu() else { return };
    let mut numbers = Numbers(1);
    let scratch = Scratch::new(&gpu, 1 << 20).unwrap();
    for format in WeightFormat::ALL {
        let mut shapes = vec![(64, 2304), (512, 256), (16, 4096)];
        if format.block().0 < 256 {
            shapes.push((23, 96));
        }
        for (rows, k) in shapes {
            let (bytes, w) = weights(format, rows * k, &mut numbers);
            let matrix = PackedMatrix::pack(&gpu, format, rows, k, &bytes).unwrap();
            for tokens in [1, 3, 8, 9, 16, 31, 64, 100] {
                let (x, worth) = inputs(&gpu, tokens, k, format.input(), &mut numbers);
                let before = numbers.reals(tokens * rows);
                let sums = upload_f32(&gpu, &before);
                let stored = gpu.allocate(4 * tokens * rows).unwrap();
                let input = Elements::new(&x, 0, format.input());
                let store = Outcome::Store { out: f32s_mut(&stored), row: rows, cap: None };
                project(&gpu, Some(&scratch), &matrix, tokens, input, store).unwrap();
                let add = Outcome::Add { out: f32s_mut(&sums), row: rows };
                project(&gpu, Some(&scratch), &matrix, tokens, input, add).unwrap();
                let (stored, sums) = (download(&gpu, &stored, tokens * rows), download(&gpu, &sums, tokens * rows));
                for (i, (wanted, size)) in product(&w, &worth, k).into_iter().enumerate() {
                    let error = (f64::from(stored[i]) - wanted).abs();
                    let most = tolerance(format, tokens) * size + 1e-9;
                    assert!(error <= most, "{format:?} {rows} x {k}, {tokens}: {i} is {}, not {wanted}", stored[i]);
                    let (sum, wanted) = (f64::from(sums[i]), wanted + f64::from(before[i]));
                    assert!((sum - wanted).abs() <= most + 1e-6, "{format:?}, added: {i} is {sum}, not {wanted}");
                }
            }
        }
    }
}

/// Many rows and columns: several rounds of the kernels for up to 64 rows of activations, whose parts do not fit into shared memory.
#[test]
fn many_weights_give_few_rows_the_same() {
    let Some(gpu) = gpu() else { return };
    let mut numbers = Numbers(3);
    for format in WeightFormat::ALL {
        for (rows, k) in [(4_200, 9_216), (9_000, 512), (136, 14_336)] {
            // 67 rows again and again: no other distance between rows has the same sums.
            let (some, _) = weights(format, 67 * k, &mut numbers);
            let row = some.len() / 67;
            let bytes: Vec<u8> = some.iter().copied().cycle().take(rows * row).collect();
            let matrix = PackedMatrix::pack(&gpu, format, rows, k, &bytes).unwrap();
            let (x, _) = inputs(&gpu, FEW, k, format.input(), &mut numbers);
            let run = |first: usize, tokens: usize| {
                let out = upload_f32(&gpu, &vec![1.0; tokens * rows]);
                let input = Elements::new(&x, first * padded(k), format.input());
                let outcome = Outcome::Add { out: f32s_mut(&out), row: rows };
                project(&gpu, None, &matrix, tokens, input, outcome).unwrap();
                download(&gpu, &out, tokens * rows).into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let few: Vec<u32> = (0..8).flat_map(|i| run(8 * i, 8)).collect();
            for (first, tokens) in [(0, 64), (3, 33), (8, 32), (40, 19), (11, 16), (50, 9)] {
                let found = run(first, tokens);
                let wanted = &few[first * rows..][..tokens * rows];
                let wrong = found.iter().zip(wanted).position(|(a, b)| a != b);
                assert!(wrong.is_none(), "{format:?} {rows} x {k}: {tokens} from {first}: {wrong:?}");
            }
        }
    }
}

#[test]
fn few_rows_do_not_see_each_other() {
    let Some(gpu) = gpu() else { return };
    let mut numbers = Numbers(2);
    let (rows, k) = (48, 2816);
    for format in WeightFormat::ALL {
        let (bytes, _) = weights(format, rows * k, &mut numbers);
        let matrix = PackedMatrix::pack(&gpu, format, rows, k, &bytes).unwrap();
        let (x, _) = inputs(&gpu, FEW, k, format.input(), &mut numbers);
        let run = |first: usize, tokens: usize| {
            let out = gpu.allocate(4 * tokens * rows).unwrap();
            let input = Elements::new(&x, first * padded(k), format.input());
            let outcome = Outcome::Store { out: f32s_mut(&out), row: rows, cap: None };
            project(&gpu, None, &matrix, tokens, input, outcome).unwrap();
            download(&gpu, &out, tokens * rows).into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let all = run(0, FEW);
        for (first, tokens) in [(0, 1), (5, 1), (63, 1), (7, 9), (3, 32), (0, 8), (20, 17)] {
            assert!(run(first, tokens) == all[first * rows..][..tokens * rows], "{format:?}: {tokens} from {first}");
        }
    }
}

#[test]
fn gates_gate() {
    let Some(gpu) = gpu() else { return };
    let mut numbers = Numbers(3);
    let (n, k) = (40, 512);
    let scratch = Scratch::new(&gpu, 1 << 20).unwrap();
    for format in [WeightFormat::Bf16, WeightFormat::Q4_K, WeightFormat::Q8_0] {
        let parts = [(); 2].map(|()| weights(format, n * k, &mut numbers));
        let matrix = PackedMatrix::pack_gated(&gpu, format, n, k, [&parts[0].0, &parts[1].0]).unwrap();
        for (tokens, gate) in [(1, Gate::Silu), (11, Gate::GeluTanh), (64, Gate::Silu), (70, Gate::GeluTanh)] {
            let dtype = format.input();
            let (x, worth) = inputs(&gpu, tokens, k, dtype, &mut numbers);
            let out = gpu.allocate(2 * tokens * padded(n)).unwrap();
            gpu.clear(&out, 0, out.bytes()).unwrap();
            let outcome = Outcome::Gated { out: ElementsMut::new(&out, 0, dtype), gate };
            project(&gpu, Some(&scratch), &matrix, tokens, Elements::new(&x, 0, dtype), outcome).unwrap();
            let found = download_16(&gpu, &out, tokens * padded(n), dtype);
            let [g, u] = [&parts[0].1, &parts[1].1].map(|w| product(w, &worth, k));
            for token in 0..tokens {
                for row in 0..padded(n) {
                    let wanted = if row < n {
                        let (g, u) = (g[token * n + row].0, u[token * n + row].0);
                        u * match gate {
                            Gate::Silu => g / (1.0 + (-g).exp()),
                            Gate::GeluTanh => 0.5 * g * (1.0 + (0.7978845608 * (g + 0.044715 * g * g * g)).tanh()),
                        }
                    } else {
                        0.0
                    };
                    let size = if row < n { g[token * n + row].1 * u[token * n + row].1 } else { 0.0 };
                    let unit = if dtype == DType::F16 { 1e-3 } else { 8e-3 };
                    // Products of many rows are rounded to 16 bits before the gate.
                    let most = unit * wanted.abs() + size * if tokens > FEW { 2e-3 } else { 1e-5 } + 1e-6;
                    let value = found[token * padded(n) + row];
                    assert!((value - wanted).abs() <= most, "{format:?}, {tokens}: {token} {row} {value} {wanted}");
                }
            }
        }
    }
}

#[test]
fn tables_give_their_rows() {
    let Some(gpu) = gpu() else { return };
    let mut numbers = Numbers(4);
    let (rows, k) = (37, 512);
    for format in WeightFormat::ALL {
        let (bytes, w) = weights(format, rows * k, &mut numbers);
        let matrix = PackedMatrix::pack(&gpu, format, rows, k, &bytes).unwrap();
        let ids = [0u32, 36, 5, 17, 37];
        let (list, x) = (upload_u32(&gpu, &ids), gpu.allocate(4 * ids.len() * k).unwrap());
        matrix.embed(&gpu, ids.len(), u32s(&list), 2.0, f32s_mut(&x)).unwrap();
        let found = download(&gpu, &x, ids.len() * k);
        for (&id, row) in ids.iter().zip(found.chunks_exact(k)) {
            for (i, &value) in row.iter().enumerate() {
                match w.get(id as usize * k + i) {
                    Some(w) => assert!((f64::from(value) - 2.0 * w).abs() <= 1e-6 * w.abs().max(1.0), "{format:?}"),
                    None => assert!(value.is_nan()),
                }
            }
        }
        let out = gpu.allocate(2 * 20 * padded(k)).unwrap();
        matrix.dequantize(&gpu, 16, 20, ElementsMut::new(&out, 0, format.input())).unwrap();
        let found = download_16(&gpu, &out, 20 * k, format.input());
        for (value, w) in found.iter().zip(&w[16 * k..]) {
            assert!((value - w).abs() <= 5e-4 * w.abs() + 1e-6, "{format:?}: {value} {w}");
        }
    }
}

#[test]
fn rows_are_normalised() {
    let Some(gpu) = gpu() else { return };
    let mut numbers = Numbers(5);
    let (tokens, width) = (7, 2880);
    let (x, weight) = (numbers.reals(tokens * width), numbers.reals(width));
    let (x_at, weight_at) = (upload_f32(&gpu, &x), upload_f32(&gpu, &weight));
    let rows = [6u32, 0, 3];
    let list = upload_u32(&gpu, &rows);
    let out = gpu.allocate(2 * rows.len() * padded(width)).unwrap();
    let y = ElementsMut::new(&out, 0, DType::F16);
    decoder::norm(&gpu, [3, width], f32s(&x_at), (Some(f32s(&weight_at)), 1e-5), Some(u32s(&list)), y).unwrap();
    let found = download_16(&gpu, &out, 3 * padded(width), DType::F16);
    let normed = |row: &[f32]| {
        let squares: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let factor = 1.0 / (squares / width as f64 + 1e-5).sqrt();
        row.iter().zip(&weight).map(|(&x, &w)| f64::from(x) * factor * f64::from(w)).collect::<Vec<_>>()
    };
    for (&row, found) in rows.iter().zip(found.chunks_exact(padded(width))) {
        let wanted = normed(&x[row as usize * width..][..width]);
        for (i, value) in found.iter().enumerate() {
            let wanted = wanted.get(i).copied().unwrap_or(0.0);
            assert!((value - wanted).abs() <= 6e-4 * wanted.abs() + 1e-6, "{i}: {value} {wanted}");
        }
    }
    let y = numbers.reals(tokens * width);
    let y_at = upload_f32(&gpu, &y);
    decoder::norm_add(&gpu, [tokens, width], f32s(&y_at), (f32s(&weight_at), 1e-5), f32s_mut(&x_at)).unwrap();
    let found = download(&gpu, &x_at, tokens * width);
    for (token, y) in y.chunks_exact(width).enumerate() {
        for (i, added) in normed(y).into_iter().enumerate() {
            let at = token * width + i;
            assert!((f64::from(found[at]) - f64::from(x[at]) - added).abs() < 1e-5);
        }
    }
}

#[test]
fn the_first_of_the_largest_is_chosen() {
    let Some(gpu) = gpu() else { return };
    let classes = 100_003;
    let mut numbers = Numbers(6);
    let mut logits = numbers.reals(3 * classes);
    for at in [77_777, 5, 99_999] {
        logits[at] = 3.0;
    }
    logits[2 * classes - 1] = 2.0;
    logits[classes + 1] = f32::NAN;
    logits[2 * classes..].iter_mut().for_each(|x| *x = -5.0 - x.abs());
    logits[2 * classes + 4_321] = -4.0;
    let at = upload_f32(&gpu, &logits);
    let scratch = gpu.allocate(decoder::argmax_scratch(3)).unwrap();
    let ids = upload_u32(&gpu, &[0; 3]);
    let [scratch, out] = [&scratch, &ids].map(|memory| ElementsMut::new(memory, 0, DType::U32));
    decoder::argmax(&gpu, [3, classes], f32s(&at), scratch, out).unwrap();
    decoder::advance(&gpu, 2, out).unwrap();
    let found = download(&gpu, &ids, 3).into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert_eq!(found, [6, classes as u32, 4_321]);
}

/// A layer's pages, filled by [`place`] with the keys and values of sequences of these lengths, and what was put in.
struct Filled {
    heads: Heads,
    pages: Pages,
    table: Memory,
    table_row: usize,
    lengths: Vec<usize>,
    /// Rows of each sequence: queries, keys and values as they should be, f64.
    rows: Vec<Vec<f64>>,
    queries: Vec<Memory>,
}

const SCALE: f32 = 0.3;

fn fill(gpu: &Gpu, heads: Heads, lengths: &[usize], norm: u8, numbers: &mut Numbers) -> Filled {
    let Heads { heads: count, kv_heads, head_dim: d } = heads;
    let all = count + 2 * kv_heads;
    let table_row = lengths.iter().max().unwrap().div_ceil(PAGE) + 1;
    let pages_in_all = lengths.len() * table_row;
    let pages = Pages::new(gpu, heads, pages_in_all).unwrap();
    // Pages of sequences are mixed: 7 has no factor in common with few numbers of pages that are used here.
    let ids: Vec<u32> = (0..pages_in_all).map(|i| ((i * 11 + 3) % pages_in_all) as u32).collect();
    let mut seen = ids.clone();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), pages_in_all, "pages are used once");
    let table = upload_u32(gpu, &ids);
    let angles = d / 2 - 4;
    let longest = *lengths.iter().max().unwrap();
    let turns: Vec<f32> = numbers.reals(longest * angles).iter().map(|x| x * 3.0).collect();
    let (cos, sin): (Vec<f32>, Vec<f32>) = turns.iter().map(|x| (x.cos(), x.sin())).unzip();
    let (bias, q_norm, k_norm) = (numbers.reals(all * d), numbers.reals(count * d), numbers.reals(kv_heads * d));
    let [cos_at, sin_at, bias_at, q_at, k_at] = [&cos, &sin, &bias, &q_norm, &k_norm].map(|v| upload_f32(gpu, v));
    let weights = [f32s(&q_at), f32s(&k_at)];
    let how = Placement {
        bias: Some(f32s(&bias_at)),
        norm: [QkNorm::None, QkNorm::Head(weights), QkNorm::All(weights)][usize::from(norm)],
        epsilon: 1e-5,
        angles: [f32s(&cos_at), f32s(&sin_at)],
        angles_of_head: angles,
        query_scale: SCALE,
    };
    let (mut rows, mut queries) = (vec![], vec![]);
    for (sequence, &length) in lengths.iter().enumerate() {
        let input = numbers.reals(length * all * d);
        let input_at = upload_f32(gpu, &input);
        let out = gpu.allocate(2 * length * count * d).unwrap();
        let positions = upload_u32(gpu, &(0..length as u32).collect::<Vec<_>>());
        let own = &ids[sequence * table_row..][..table_row];
        let tables_at = upload_u32(gpu, &own.repeat(length));
        let tables = Tables { pages: u32s(&tables_at), row: table_row, positions: u32s(&positions) };
        place(gpu, &pages, &how, length, f32s(&input_at), tables, ElementsMut::new(&out, 0, DType::F16)).unwrap();
        let mut wanted: Vec<f64> = input.iter().zip(bias.iter().cycle()).map(|(x, b)| f64::from(x + b)).collect();
        for (position, row) in wanted.chunks_exact_mut(all * d).enumerate() {
            let (q, rest) = row.split_at_mut(count * d);
            let (k, _) = rest.split_at_mut(kv_heads * d);
            for (part, weight) in [(&mut *q, &q_norm), (&mut *k, &k_norm)] {
                let width = [0, d, part.len()][usize::from(norm)];
                for part in part.chunks_exact_mut(width.max(1)).filter(|_| norm > 0) {
                    let factor = 1.0 / (part.iter().map(|x| x * x).sum::<f64>() / width as f64 + 1e-5).sqrt();
                    part.iter_mut().zip(weight).for_each(|(x, w)| *x *= factor * f64::from(*w));
                }
                for head in part.chunks_exact_mut(d) {
                    for i in 0..angles {
                        let [cos, sin] = [&cos, &sin].map(|table| f64::from(table[position * angles + i]));
                        let (a, b) = (head[i], head[angles + i]);
                        (head[i], head[angles + i]) = (a * cos - b * sin, b * cos + a * sin);
                    }
                }
            }
            q.iter_mut().for_each(|q| *q *= f64::from(SCALE));
        }
        rows.push(wanted);
        queries.push(out);
    }
    Filled { heads, pages, table, table_row, lengths: lengths.to_vec(), rows, queries }
}

impl Filled {
    /// The attention of one query, f64.
    fn attention(&self, masking: Masking, sequence: usize, position: usize) -> Vec<f64> {
        let Heads { heads, kv_heads, head_dim: d } = self.heads;
        let rows: Vec<&[f64]> = self.rows[sequence].chunks_exact((heads + 2 * kv_heads) * d).collect();
        let first = masking.window.map_or(0, |window| (position + 1).saturating_sub(window));
        (0..heads)
            .flat_map(|head| {
                let kv = head / (heads / kv_heads);
                let q = &rows[position][head * d..][..d];
                let scores: Vec<f64> = (first..=position)
                    .map(|at| {
                        let score = q.iter().zip(&rows[at][(heads + kv) * d..]).map(|(q, k)| q * k).sum::<f64>();
                        masking.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                    })
                    .collect();
                let most = scores.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - most).exp()).sum();
                let mut out = vec![0.0; d];
                for (at, score) in (first..=position).zip(&scores) {
                    let v = &rows[at][(heads + kv_heads + kv) * d..][..d];
                    out.iter_mut().zip(v).for_each(|(o, v)| *o += (score - most).exp() / sum * v);
                }
                out
            })
            .collect()
    }
}

#[test]
fn queries_attend_to_pages() {
    let Some(gpu) = gpu() else { return };
    let mut numbers = Numbers(7);
    let masks = [
        Masking::default(),
        Masking { window: Some(100), soft_cap: None },
        Masking { window: None, soft_cap: Some(1.5) },
        Masking { window: Some(300), soft_cap: Some(5.0) },
    ];
    let cases = [(8, 2, 128), (4, 4, 64), (6, 3, 80), (16, 1, 96), (8, 4, 256), (3, 1, 8)];
    for (case, (heads, kv_heads, head_dim)) in cases.into_iter().enumerate() {
        let heads = Heads { heads, kv_heads, head_dim };
        let filled = fill(&gpu, heads, &[1, 33, 256, 700], (case % 3) as u8, &mut numbers);
        let (q_row, row) = (heads.heads * head_dim, padded(heads.heads * head_dim));
        let (tokens, longest) = (filled.lengths.len(), 704);
        let queries = gpu.allocate(2 * tokens * q_row).unwrap();
        for (sequence, (&length, from)) in filled.lengths.iter().zip(&filled.queries).enumerate() {
            let from = Elements::new(from, (length - 1) * q_row, DType::F16);
            let to = ElementsMut::new(&queries, sequence * q_row, DType::F16);
            supple_cuda::copy::strided(&gpu, &[q_row], (from, &[1]), (to, &[1])).unwrap();
        }
        let lengths = upload_u32(&gpu, &filled.lengths.iter().map(|&n| n as u32).collect::<Vec<_>>());
        for masking in masks {
            let run = |first: usize, tokens: usize, longest: usize| {
                let scratch = gpu.allocate(4 * attend_scratch(heads, tokens, longest)).unwrap();
                let out = gpu.allocate(2 * tokens * row).unwrap();
                let tables = Tables {
                    pages: Elements::new(&filled.table, first * filled.table_row, DType::U32),
                    row: filled.table_row,
                    positions: Elements::new(&lengths, first, DType::U32),
                };
                let from = Elements::new(&queries, first * q_row, DType::F16);
                let to = ElementsMut::new(&out, 0, DType::F16);
                attend(&gpu, &filled.pages, masking, [tokens, longest], from, tables, f32s_mut(&scratch), to).unwrap();
                download_16(&gpu, &out, tokens * row, DType::F16)
            };
            let all = run(0, tokens, longest);
            for (sequence, found) in all.chunks_exact(row).enumerate() {
                let wanted = filled.attention(masking, sequence, filled.lengths[sequence] - 1);
                for (i, &value) in found.iter().enumerate() {
                    let wanted = wanted.get(i).copied().unwrap_or(0.0);
                    assert!((value - wanted).abs() < 4e-3, "{heads:?} {masking:?} {sequence} {i}: {value} {wanted}");
                }
            }
            assert_eq!(run(1, 1, 256), all[row..2 * row], "alone as beside others");
            assert_eq!(run(3, 1, 768), all[3 * row..], "with room for more as without");
        }
        let (count, len) = (130, 700);
        let from = Elements::new(&filled.queries[3], (len - count) * q_row, DType::F16);
        let out = gpu.allocate(2 * count * row).unwrap();
        gpu.clear(&out, 0, out.bytes()).unwrap();
        let table = Elements::new(&filled.table, 3 * filled.table_row, DType::U32);
        let to = ElementsMut::new(&out, 0, DType::F16);
        attend_chunk(&gpu, &filled.pages, [count, len], from, table, to).unwrap();
        let found = download_16(&gpu, &out, count * row, DType::F16);
        for (query, found) in found.chunks_exact(row).enumerate().step_by(43) {
            let wanted = filled.attention(Masking::default(), 3, len - count + query);
            for (i, &value) in found.iter().enumerate() {
                let wanted = wanted.get(i).copied().unwrap_or(0.0);
                assert!((value - wanted).abs() < 4e-3, "chunk of {heads:?}: {query} {i}: {value} {wanted}");
            }
        }
    }
}
