//! Memory over many generations, and of a single token: what is asked of the system's allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use supple::text::generate::{Format, OpenOptions, Request, TextGenerator};
use supple::text::sampling::{Sampler, Sampling};
use supple::weights::gguf::{Array, BlockType, NewTensor, Value, save};
use supple_models::llama::{Input, Sequence, Wanted};

/// The system's allocator, with a count of what it was asked for by any thread, and of the bytes that are held.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicI64 = AtomicI64::new(0);
/// Tests count one after the other.
static TURN: Mutex<()> = Mutex::new(());

fn count(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes as i64, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        BYTES.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A made-up decoder of one layer over 64 letters.
fn model(folder: &Path) -> PathBuf {
    let path = folder.join("model.gguf");
    let tokens = (0..64u8).map(|i| char::from(b'!' + i).to_string());
    let key = |name: &str, value: u32| (format!("qwen2.{name}"), Value::U32(value));
    let metadata = [
        ("general.architecture".to_owned(), Value::from("qwen2")),
        ("tokenizer.ggml.model".to_owned(), Value::from("gpt2")),
        ("tokenizer.ggml.pre".to_owned(), Value::from("qwen2")),
        ("tokenizer.ggml.tokens".to_owned(), Value::Array(Array::from_strings(tokens))),
        ("tokenizer.ggml.merges".to_owned(), Value::Array(Array::from_strings(Vec::<String>::new()))),
        key("block_count", 1),
        key("context_length", 128),
        key("embedding_length", 32),
        key("feed_forward_length", 32),
        key("attention.head_count", 1),
        ("qwen2.attention.layer_norm_rms_epsilon".to_owned(), Value::F32(1e-5)),
    ];
    let names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    let tensor = |name: String, shape: &[usize], block_type| NewTensor { name, shape: shape.to_vec(), block_type };
    let mut tensors = vec![
        tensor("token_embd.weight".into(), &[64, 32], BlockType::F32),
        tensor("output_norm.weight".into(), &[32], BlockType::F32),
        tensor("blk.0.attn_norm.weight".into(), &[32], BlockType::F32),
        tensor("blk.0.ffn_norm.weight".into(), &[32], BlockType::F32),
    ];
    tensors.extend(names.map(|name| tensor(format!("blk.0.{name}.weight"), &[32, 32], BlockType::Q8_0)));
    let mut state = 7u32;
    let mut byte = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    save(&path, &metadata, &tensors, |index, out| {
        let elements: usize = tensors[index].shape.iter().product();
        if tensors[index].block_type == BlockType::F32 {
            out.extend((0..elements).flat_map(|_| (f32::from(byte()) / 128.0 - 1.0).to_le_bytes()));
        } else {
            for _ in 0..elements / 32 {
                // A scale of 2^-9.
                out.extend([0x00, 0x18]);
                out.extend((0..32).map(|_| byte()));
            }
        }
        Ok::<(), supple::weights::Error>(())
    })
    .unwrap();
    path
}

fn open(threads: usize) -> TextGenerator {
    let folder = tempfile::tempdir().unwrap();
    // Allocations of the CPU are counted.
    let options = OpenOptions { threads: Some(threads), device: supple::DeviceChoice::Cpu, ..OpenOptions::default() };
    TextGenerator::open(&model(folder.path()), options).unwrap()
}

#[test]
fn memory_is_flat_over_ten_thousand_generations() {
    let _turn = TURN.lock().unwrap();
    let generator = open(1);
    let mut session = generator.session();
    let mut other = generator.session();
    let mut run = |range: std::ops::Range<u64>| {
        for seed in range {
            // Prompts of 1 to 40 tokens, some of which begin like the one before.
            let prompt: Vec<u32> = (0..1 + seed * 7 % 40).map(|i| ((i * i + seed / 3) % 64) as u32).collect();
            let sampling = Sampling { seed, repetition_penalty: 1.1, ..Sampling::default() };
            let stop = vec!["AB".to_owned()];
            let request = Request { max_tokens: Some(3), sampling, stop, log_probs: Some(2), ..Request::default() };
            let session = if seed % 5 == 0 { &mut other } else { &mut session };
            let result = session.generate(&prompt, &request, &mut |_| true).unwrap();
            assert!(!result.tokens.is_empty());
        }
    };
    run(0..500);
    let before = BYTES.load(Ordering::Relaxed);
    run(500..10_500);
    assert_eq!(BYTES.load(Ordering::Relaxed), before, "bytes held after 10,000 more generations");
}

#[test]
fn a_token_allocates_nothing() {
    let _turn = TURN.lock().unwrap();
    for threads in [1, 2] {
        for format in [Format::F16, Format::Q8_0, Format::Q4_0] {
            let generator = open(threads);
            let model = generator.model();
            let mut state = model.state(format, 2 * 128).unwrap();
            let mut sequences = [Sequence::default(), Sequence::default()];
            let sampling = Sampling { repetition_penalty: 1.2, presence_penalty: 0.1, ..Sampling::default() };
            let mut sampler = Sampler::new(sampling).unwrap();
            let mut text = Vec::with_capacity(256);
            let mut allocations = Vec::with_capacity(3);
            // The second time round, pages and buffers are there.
            for _ in 0..3 {
                let before = ALLOCATIONS.load(Ordering::Relaxed);
                text.clear();
                text.push(5);
                for _ in 0..100 {
                    let [first, second] = &mut sequences;
                    let tokens = &text[text.len() - 1..];
                    let inputs = &mut [
                        Input { sequence: first, tokens, wanted: Wanted::Last },
                        Input { sequence: second, tokens, wanted: Wanted::Nothing },
                    ];
                    let logits = model.forward(&mut state, inputs).unwrap();
                    let token = sampler.sample(logits, &text).unwrap();
                    text.push(token);
                }
                sequences.iter_mut().for_each(|sequence| state.truncate(sequence, 0));
                allocations.push(ALLOCATIONS.load(Ordering::Relaxed) - before);
            }
            assert!(allocations[0] > 0, "it counts");
            assert_eq!(allocations[1..], [0, 0], "{threads} threads, {format:?}");
        }
    }
}
