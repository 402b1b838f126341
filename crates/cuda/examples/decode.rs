//! How close the kernels of decoders come to what memory allows: whole steps of a network of the shape of Llama 3.1 8B, with random
//! weights, in a CUDA graph.
//!
//! `cargo run --release -p supple-cuda --example decode [bf16|f16|q4_k|q4_0|q8_0|q6_k|q4_1] [layers] [step|wide|prefill]`. Prints for some
//! batches and contexts milliseconds, bytes of weights and of keys and values, and the share of the bound: those bytes at the speed
//! of a copy on the device, measured in the same run. Medians of five rounds.

use std::error::Error;
use supple_cuda::low_bit::{Gate, Outcome, PackedMatrix, Scratch, WeightFormat, padded, project};
use supple_cuda::paged_attention::{
    Heads, Masking, PAGE, Pages, Placement, QkNorm, Tables, attend, attend_chunk, attend_scratch, place,
};
use supple_cuda::{DType, Elements, ElementsMut, Gpu, Memory, copy, decoder};

type Checked<T = ()> = Result<T, Box<dyn Error>>;
type Done = Result<(), supple_cuda::Error>;

const HIDDEN: usize = 4096;
const INTERMEDIATE: usize = 14336;
const HEADS: Heads = Heads { heads: 32, kv_heads: 8, head_dim: 128 };
const WIDTH: usize = 48 * 128;
const VOCABULARY: usize = 128_256;
/// Bytes of keys and values at most; longer caches use pages again.
const CACHE: usize = 24 << 30;

struct Layer {
    qkv: PackedMatrix,
    o: PackedMatrix,
    gate_up: PackedMatrix,
    down: PackedMatrix,
    pages: Pages,
}

struct Network {
    gpu: Gpu,
    dtype: DType,
    layers: Vec<Layer>,
    head: PackedMatrix,
    /// Ones: weights of normalisations, cosines and sines.
    ones: Memory,
    scratch: Scratch,
}

/// Bytes of rows as a file has them, that repeat after 64.
fn file(format: WeightFormat, rows: usize, k: usize) -> Vec<u8> {
    let row = format.row_bytes(k).expect("whole blocks");
    let mut state = 1u64;
    let mut bytes: Vec<u8> = (0..64 * row)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect();
    let (_, size) = format.block();
    for block in bytes.chunks_exact_mut(size) {
        match format {
            // Floats of about a hundredth.
            WeightFormat::F16 => block[1] = block[1] & 0x83 | 0x20,
            WeightFormat::Bf16 => block[1] = block[1] & 0x80 | 0x3c,
            WeightFormat::Q6_K => block[208..210].copy_from_slice(&[0, 1]),
            WeightFormat::Q4_K | WeightFormat::Q4_1 => block[..4].copy_from_slice(&[0, 4, 0, 4]),
            _ => block[..2].copy_from_slice(&[0, 16]),
        }
    }
    bytes.repeat(rows.div_ceil(64))[..rows * row].to_vec()
}

impl Network {
    fn new(gpu: &Gpu, format: WeightFormat, layers: usize, pages: usize) -> Checked<Network> {
        let matrix = |rows, k| PackedMatrix::pack(gpu, format, rows, k, &file(format, rows, k));
        let half = file(format, INTERMEDIATE, HIDDEN);
        let gate_up = PackedMatrix::pack_gated(gpu, format, INTERMEDIATE, HIDDEN, [&half, &half])?;
        let kinds = [matrix(WIDTH, HIDDEN)?, matrix(HIDDEN, HIDDEN)?, gate_up, matrix(HIDDEN, INTERMEDIATE)?];
        let mut all = vec![];
        for _ in 0..layers {
            let twin = |of: &PackedMatrix| -> Result<PackedMatrix, supple_cuda::Error> {
                let memory = gpu.allocate(of.bytes())?;
                gpu.copy(of.memory(), &memory, of.bytes())?;
                PackedMatrix::from_packed(of.format(), of.rows(), of.k(), of.is_gated(), memory)
            };
            let [qkv, o, gate_up, down] = [&kinds[0], &kinds[1], &kinds[2], &kinds[3]].map(twin);
            all.push(Layer { qkv: qkv?, o: o?, gate_up: gate_up?, down: down?, pages: Pages::new(gpu, HEADS, pages)? });
        }
        let ones = gpu.upload(&1f32.to_ne_bytes().repeat(1 << 20))?;
        let head = matrix(VOCABULARY, HIDDEN)?;
        let scratch = Scratch::new(gpu, 512 << 20)?;
        Ok(Network { gpu: gpu.clone(), dtype: format.input(), layers: all, head, ones, scratch })
    }

    fn bytes(&self) -> usize {
        let layer = |l: &Layer| l.qkv.bytes() + l.o.bytes() + l.gate_up.bytes() + l.down.bytes();
        self.layers.iter().map(layer).sum::<usize>() + self.head.bytes()
    }
}

/// Memory of a step, and what it works on.
struct Step<'a> {
    net: &'a Network,
    tokens: usize,
    context: usize,
    x: Memory,
    normed: Memory,
    qkv: Memory,
    queries: Memory,
    attended: Memory,
    gated: Memory,
    logits: Memory,
    parts: Memory,
    ids: Memory,
    best: Memory,
    table: Memory,
    row: usize,
    positions: Memory,
    lengths: Memory,
    /// Cosines and sines.
    angles: Memory,
}

fn numbers(gpu: &Gpu, values: impl Iterator<Item = u32>) -> Result<Memory, supple_cuda::Error> {
    gpu.upload(&values.flat_map(u32::to_ne_bytes).collect::<Vec<_>>())
}

impl<'a> Step<'a> {
    /// A step of `tokens` sequences of `context` positions; or, of a chunk, `tokens` tokens of one sequence.
    fn new(net: &'a Network, tokens: usize, context: usize, chunk: bool) -> Checked<Step<'a>> {
        let gpu = &net.gpu;
        let row = context.div_ceil(PAGE);
        let pages = net.layers[0].pages.pages();
        let table = (0..tokens * row).map(|i| ((if chunk { i % row } else { i }) % pages) as u32);
        let heads = if chunk { 1 } else { tokens };
        let last = context as u32 - 1;
        let positions = |add: u32| (0..tokens as u32).map(move |i| if chunk { i + add } else { last + add });
        let cleared = |bytes: usize| -> Result<Memory, supple_cuda::Error> {
            let memory = gpu.allocate(bytes)?;
            gpu.clear(&memory, 0, bytes)?;
            Ok(memory)
        };
        Ok(Step {
            net,
            tokens,
            context,
            x: cleared(4 * tokens * HIDDEN)?,
            normed: cleared(2 * tokens * HIDDEN)?,
            qkv: cleared(4 * tokens * WIDTH)?,
            queries: cleared(2 * tokens * HIDDEN)?,
            attended: cleared(2 * tokens * HIDDEN)?,
            gated: cleared(2 * tokens * padded(INTERMEDIATE))?,
            logits: cleared(4 * heads * VOCABULARY)?,
            parts: cleared((4 * attend_scratch(HEADS, heads, context)).max(decoder::argmax_scratch(tokens)))?,
            ids: numbers(gpu, (0..tokens as u32).map(|i| i * 17))?,
            best: cleared(4 * tokens)?,
            table: numbers(gpu, table)?,
            row,
            positions: numbers(gpu, positions(0))?,
            lengths: numbers(gpu, positions(1))?,
            angles: gpu.upload(&std::f32::consts::FRAC_1_SQRT_2.to_ne_bytes().repeat(context * 64))?,
        })
    }

    fn input(&self, of: &'a Memory) -> Elements<'a> {
        Elements::new(of, 0, self.net.dtype)
    }

    fn norm(&'a self) -> Done {
        let weight = (Some(Elements::new(&self.net.ones, 0, DType::F32)), 1e-5);
        let x = Elements::new(&self.x, 0, DType::F32);
        let y = ElementsMut::new(&self.normed, 0, self.net.dtype);
        decoder::norm(&self.net.gpu, [self.tokens, HIDDEN], x, weight, None, y)
    }

    fn product(&'a self, matrix: &PackedMatrix, tokens: usize, input: &'a Memory, outcome: Outcome<'_>) -> Done {
        project(&self.net.gpu, Some(&self.net.scratch), matrix, tokens, self.input(input), outcome)
    }

    fn qkv(&'a self, layer: &Layer) -> Done {
        let out = ElementsMut::new(&self.qkv, 0, DType::F32);
        self.product(&layer.qkv, self.tokens, &self.normed, Outcome::Store { out, row: WIDTH, cap: None })
    }

    fn tables(&self, positions: &'a Memory) -> Tables<'_> {
        let pages = Elements::new(&self.table, 0, DType::U32);
        Tables { pages, row: self.row, positions: Elements::new(positions, 0, DType::U32) }
    }

    fn place(&'a self, layer: &Layer) -> Done {
        let how = Placement {
            bias: None,
            norm: QkNorm::None,
            epsilon: 1e-5,
            angles: [Elements::new(&self.angles, 0, DType::F32); 2],
            angles_of_head: 64,
            query_scale: 0.0884,
        };
        let queries = ElementsMut::new(&self.queries, 0, DType::F16);
        let input = Elements::new(&self.qkv, 0, DType::F32);
        place(&self.net.gpu, &layer.pages, &how, self.tokens, input, self.tables(&self.positions), queries)
    }

    fn attend(&'a self, layer: &Layer) -> Done {
        let queries = Elements::new(&self.queries, 0, DType::F16);
        let scratch = ElementsMut::new(&self.parts, 0, DType::F32);
        let out = ElementsMut::new(&self.attended, 0, self.net.dtype);
        let sizes = [self.tokens, self.context];
        attend(
            &self.net.gpu,
            &layer.pages,
            Masking::default(),
            sizes,
            queries,
            self.tables(&self.lengths),
            scratch,
            out,
        )
    }

    fn o(&'a self, layer: &Layer) -> Done {
        let out = ElementsMut::new(&self.x, 0, DType::F32);
        self.product(&layer.o, self.tokens, &self.attended, Outcome::Add { out, row: HIDDEN })
    }

    fn gate_up(&'a self, layer: &Layer) -> Done {
        let out = ElementsMut::new(&self.gated, 0, self.net.dtype);
        self.product(&layer.gate_up, self.tokens, &self.normed, Outcome::Gated { out, gate: Gate::Silu })
    }

    fn down(&'a self, layer: &Layer) -> Done {
        let out = ElementsMut::new(&self.x, 0, DType::F32);
        self.product(&layer.down, self.tokens, &self.gated, Outcome::Add { out, row: HIDDEN })
    }

    fn head(&'a self, tokens: usize) -> Done {
        let out = ElementsMut::new(&self.logits, 0, DType::F32);
        self.product(&self.net.head, tokens, &self.normed, Outcome::Store { out, row: VOCABULARY, cap: None })
    }

    fn argmax(&'a self) -> Done {
        let logits = Elements::new(&self.logits, 0, DType::F32);
        let scratch = ElementsMut::new(&self.parts, 0, DType::U32);
        let best = ElementsMut::new(&self.best, 0, DType::U32);
        decoder::argmax(&self.net.gpu, [self.tokens, VOCABULARY], logits, scratch, best)
    }

    fn embed(&'a self) -> Done {
        let ids = Elements::new(&self.ids, 0, DType::U32);
        let x = ElementsMut::new(&self.x, 0, DType::F32);
        self.net.head.embed(&self.net.gpu, self.tokens, ids, 1.0, x)
    }

    fn whole(&'a self) -> Done {
        self.embed()?;
        for layer in &self.net.layers {
            self.norm()?;
            self.qkv(layer)?;
            self.place(layer)?;
            self.attend(layer)?;
            self.o(layer)?;
            self.norm()?;
            self.gate_up(layer)?;
            self.down(layer)?;
        }
        self.norm()?;
        self.head(self.tokens)?;
        self.argmax()
    }

    fn attend_chunk(&'a self, layer: &Layer) -> Done {
        let queries = Elements::new(&self.queries, 0, DType::F16);
        let table = Elements::new(&self.table, 0, DType::U32);
        let out = ElementsMut::new(&self.attended, 0, DType::F16);
        attend_chunk(&self.net.gpu, &layer.pages, [self.tokens; 2], queries, table, out)
    }

    /// A chunk of a prompt of one sequence.
    fn chunk(&'a self) -> Done {
        let gpu = &self.net.gpu;
        self.embed()?;
        for layer in &self.net.layers {
            self.norm()?;
            self.qkv(layer)?;
            self.place(layer)?;
            self.attend_chunk(layer)?;
            if self.net.dtype != DType::F16 {
                let from = Elements::new(&self.attended, 0, DType::F16);
                copy::convert(gpu, self.tokens * HIDDEN, from, ElementsMut::new(&self.normed, 0, self.net.dtype))?;
                let out = ElementsMut::new(&self.x, 0, DType::F32);
                self.product(&layer.o, self.tokens, &self.normed, Outcome::Add { out, row: HIDDEN })?;
            } else {
                self.o(layer)?;
            }
            self.norm()?;
            self.gate_up(layer)?;
            self.down(layer)?;
        }
        self.norm()?;
        self.head(1)
    }
}

/// Milliseconds of `work`: the median of five rounds of `times`.
fn time(gpu: &Gpu, times: usize, mut work: impl FnMut() -> Done) -> Checked<f64> {
    work()?;
    let mut rounds = Vec::new();
    for _ in 0..5 {
        let (done, elapsed) = gpu.time(|| (0..times).try_for_each(|_| work()))?;
        done?;
        rounds.push(f64::from(elapsed) / times as f64);
    }
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[2])
}

/// As [`time`], of a graph of `work`.
fn time_graph(gpu: &Gpu, times: usize, mut work: impl FnMut() -> Done) -> Checked<f64> {
    work()?;
    let ((), mut graph) = gpu.capture(work)?;
    time(gpu, times, || graph.replay())
}

fn steps(net: &Network, speed: f64, cases: &[(usize, usize)]) -> Checked {
    let gpu = &net.gpu;
    for &(tokens, context) in cases {
        let step = Step::new(net, tokens, context, false)?;
        let cache = net.layers.len() * tokens * context * 4 * HEADS.kv_heads * HEADS.head_dim;
        let report = |name: &str, bytes: usize, milliseconds: f64| {
            let bound = bytes as f64 / speed * 1e3;
            println!(
                "  {name:<8} {milliseconds:>8.4} ms {:>8.1} MB {:>5.0} GB/s {:>4.0} % of the bound",
                bytes as f64 * 1e-6,
                bytes as f64 / milliseconds * 1e-6,
                100.0 * bound / milliseconds
            );
        };
        println!("batch {tokens}, context {context}:");
        report("step", net.bytes() + cache, time_graph(gpu, 10, || step.whole())?);
        let layers = net.layers.len();
        type Part<'a> = (&'a str, fn(&Layer) -> usize, &'a dyn Fn(&Layer) -> Done);
        let parts: [Part<'_>; 7] = [
            ("norm", |_| 0, &|_| step.norm()),
            ("qkv", |l| l.qkv.bytes(), &|l| step.qkv(l)),
            ("place", |_| 0, &|l| step.place(l)),
            ("attend", |_| 0, &|l| step.attend(l)),
            ("o", |l| l.o.bytes(), &|l| step.o(l)),
            ("gate_up", |l| l.gate_up.bytes(), &|l| step.gate_up(l)),
            ("down", |l| l.down.bytes(), &|l| step.down(l)),
        ];
        for (name, bytes, work) in parts {
            let ms = time_graph(gpu, 5, || net.layers.iter().try_for_each(work))? / layers as f64;
            let bytes = if name == "attend" { cache / layers } else { bytes(&net.layers[0]) };
            report(name, bytes, ms);
        }
        report("head", net.head.bytes(), time_graph(gpu, 10, || step.head(tokens))?);
        report("argmax", 0, time_graph(gpu, 10, || step.argmax())?);
    }
    Ok(())
}

fn prefill(net: &Network) -> Checked {
    use supple_cuda::attention::{AttentionShape, Way, attention};
    use supple_cuda::gemm::{self, After, Matrices, gemm};
    let gpu = &net.gpu;
    for tokens in [2048, 8192] {
        let step = Step::new(net, tokens, tokens, true)?;
        let milliseconds = time(gpu, 1, || step.chunk())?;
        println!("  milliseconds a layer of {tokens} tokens:");
        type Part<'a> = (&'a str, &'a dyn Fn(&Layer) -> Done);
        let parts: [Part<'_>; 7] = [
            ("norm", &|_| step.norm()),
            ("qkv", &|l| step.qkv(l)),
            ("place", &|l| step.place(l)),
            ("attend", &|l| step.attend_chunk(l)),
            ("o", &|l| step.o(l)),
            ("gate_up", &|l| step.gate_up(l)),
            ("down", &|l| step.down(l)),
        ];
        for (name, work) in parts {
            let ms = time(gpu, 3, || net.layers.iter().try_for_each(work))? / net.layers.len() as f64;
            println!("  {name:<8} {ms:>8.4} ms");
        }
        // The bound: products of 16-bit matrices that are there already, and attention.
        let a = gpu.allocate(2 * tokens * INTERMEDIATE)?;
        let (b, d) = (gpu.allocate(2 * 28672 * HIDDEN)?, gpu.allocate(2 * tokens * 28672)?);
        // Random operands: with constant ones a GPU draws less power, and is faster than it ever is with weights.
        let mut state = 1u32;
        let random = (0..1 << 20).flat_map(|_| {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (f32::from_bits(0x3f80_0000 | state >> 9) - 1.5).to_ne_bytes()
        });
        let random = gpu.upload(&random.collect::<Vec<u8>>())?;
        for memory in [&a, &b] {
            let count = memory.bytes() / 2;
            for at in (0..count).step_by(1 << 20) {
                let to = ElementsMut::new(memory, at, DType::F16);
                copy::convert(gpu, (count - at).min(1 << 20), Elements::new(&random, 0, DType::F32), to)?;
            }
        }
        let of = |memory| Elements::new(memory, 0, DType::F16);
        let mut bound = 0.0;
        let mut parts = String::new();
        for (rows, k) in [(WIDTH, HIDDEN), (HIDDEN, HIDDEN), (2 * INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)] {
            let left = Matrices::dense(of(&a), [tokens, k]);
            let right = Matrices::dense(of(&b), [rows, k]).turn();
            let to = (ElementsMut::new(&d, 0, DType::F16), rows, 0);
            let ms = time(gpu, 3, || gemm(gpu, gemm::Way::Best, [1, tokens, k, rows], left, right, After::NONE, to))?;
            bound += ms;
            parts += &format!(" {ms:.3}");
        }
        let Heads { heads, kv_heads, head_dim } = HEADS;
        let shape = AttentionShape {
            batch: 1,
            q_len: tokens,
            k_len: tokens,
            q_heads: heads,
            kv_heads,
            head: head_dim,
            scale: 0.1,
            causal: true,
        };
        let q = (of(&a), shape.dense(tokens, heads));
        let k = (of(&b), shape.dense(tokens, kv_heads));
        let o = (ElementsMut::new(&d, 0, DType::F16), shape.dense(tokens, heads));
        let ms = time(gpu, 3, || attention(gpu, Way::Best, &shape, [q, k, k], o, None))?;
        bound = (bound + ms) * net.layers.len() as f64;
        println!(
            "prefill of {tokens}: {milliseconds:.1} ms, {:.0} tokens/s; products{parts} and attention {ms:.3} ms a layer \
             alone {bound:.1} ms: {:.0} % of the bound",
            tokens as f64 / milliseconds * 1e3,
            100.0 * bound / milliseconds
        );
    }
    Ok(())
}

fn main() -> Checked {
    let mut arguments = std::env::args().skip(1);
    let format = match arguments.next().as_deref() {
        None | Some("q4_k") => WeightFormat::Q4_K,
        Some("bf16") => WeightFormat::Bf16,
        Some("f16") => WeightFormat::F16,
        Some("q4_0") => WeightFormat::Q4_0,
        Some("q4_1") => WeightFormat::Q4_1,
        Some("q8_0") => WeightFormat::Q8_0,
        Some("q6_k") => WeightFormat::Q6_K,
        Some(other) => return Err(format!("no format {other:?}").into()),
    };
    let layers: usize = arguments.next().map_or(Ok(32), |text| text.parse())?;
    let what = arguments.next();
    let gpu = Gpu::new(0)?;
    let pages = CACHE / Pages::page_bytes(HEADS) / layers.max(1);
    let net = Network::new(&gpu, format, layers, pages)?;
    let (a, b) = (gpu.allocate(2 << 30)?, gpu.allocate(2 << 30)?);
    let speed = 4.0 * (1u64 << 30) as f64 / time(&gpu, 5, || gpu.copy(&a, &b, 2 << 30))? * 1e3;
    drop((a, b));
    println!(
        "{}: {layers} layers of {format:?}, {:.2} GB; a copy on the device: {:.0} GB/s read and written",
        gpu.name(),
        net.bytes() as f64 * 1e-9,
        speed * 1e-9
    );
    let what = what.as_deref();
    if what.is_none_or(|what| what == "step") {
        steps(&net, speed, &[(1, 512), (1, 8192), (8, 512), (8, 8192), (64, 512), (64, 8192)])?;
    }
    if what == Some("wide") {
        steps(&net, speed, &[(16, 512), (32, 512), (64, 512)])?;
    }
    if what.is_none_or(|what| what == "prefill") {
        prefill(&net)?;
    }
    Ok(())
}
