//! A made-up language model over bytes, whose text is known: after a line break it says a few characters of two to four
//! bytes, over and over.

use std::path::Path;
use supple::weights::gguf::{Array, BlockType, NewTensor, Value, save};

/// What it says.
pub const SAYS: &str = "\u{e9}\u{1f680}\u{6f22}\n";
const HIDDEN: usize = 64;
const END: usize = 256;

/// What is wrong with it.
#[derive(Clone, Copy, PartialEq)]
pub enum Flaw {
    None,
    /// A token is no UTF-8.
    Vocabulary,
    /// A matrix of integers that are no weights.
    TensorType,
    /// A matrix of another shape.
    TensorShape,
    /// It ends a text where it would begin anew.
    Ends,
}

/// The letter that stands for a byte in byte-level vocabularies.
fn letter(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        char::from(byte)
    } else {
        char::from_u32(256 + (0..byte).filter(|&other| !printable(other)).count() as u32).unwrap()
    }
}

/// Writes the model.
pub fn model(path: &Path, flaw: Flaw) {
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| letter(byte).to_string().into_bytes()).collect();
    tokens.push(b"<|im_end|>".to_vec());
    if flaw == Flaw::Vocabulary {
        tokens[65] = vec![0xff, 0xfe];
    }
    let mut kinds = vec![1; 257];
    kinds[END] = 3;
    let key = |name: &str, value: u32| (format!("qwen2.{name}"), Value::U32(value));
    let metadata = [
        ("general.architecture".to_owned(), Value::from("qwen2")),
        ("tokenizer.ggml.model".to_owned(), Value::from("gpt2")),
        ("tokenizer.ggml.pre".to_owned(), Value::from("qwen2")),
        ("tokenizer.ggml.tokens".to_owned(), Value::Array(Array::from_strings(tokens))),
        ("tokenizer.ggml.token_type".to_owned(), Value::Array(Array::from_i32(&kinds))),
        ("tokenizer.ggml.merges".to_owned(), Value::Array(Array::from_strings(Vec::<String>::new()))),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(END as u32)),
        key("block_count", 1),
        key("context_length", 1 << 20),
        key("embedding_length", HIDDEN as u32),
        key("feed_forward_length", 64),
        key("attention.head_count", 2),
        ("qwen2.attention.layer_norm_rms_epsilon".to_owned(), Value::F32(1e-5)),
    ];
    let square = [HIDDEN, HIDDEN];
    let mut tensors: Vec<NewTensor> = [
        ("token_embd.weight", &[257, HIDDEN][..]),
        ("output.weight", &[257, HIDDEN]),
        ("output_norm.weight", &[HIDDEN]),
        ("blk.0.attn_norm.weight", &[HIDDEN]),
        ("blk.0.ffn_norm.weight", &[HIDDEN]),
        ("blk.0.attn_q.weight", &square),
        ("blk.0.attn_k.weight", &square),
        ("blk.0.attn_v.weight", &square),
        ("blk.0.attn_output.weight", &square),
        ("blk.0.ffn_gate.weight", &square),
        ("blk.0.ffn_up.weight", &square),
        ("blk.0.ffn_down.weight", &square),
    ]
    .into_iter()
    .map(|(name, shape)| NewTensor { name: name.into(), shape: shape.to_vec(), block_type: BlockType::F32 })
    .collect();
    match flaw {
        Flaw::TensorType => tensors[9].block_type = BlockType::I32,
        Flaw::TensorShape => tensors[9].shape = vec![HIDDEN, 32],
        _ => {}
    }
    // Each token has a direction of its own; the last product finds what comes after it. Layers add nothing.
    let sign = |token: usize, i: usize| {
        let mixed = ((token * HIDDEN + i) as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 63 == 1 { 1.0f32 } else { -1.0 }
    };
    let text = SAYS.as_bytes();
    let before = |token: usize| -> Option<usize> {
        let at = text.iter().position(|&byte| usize::from(byte) == token)?;
        Some(usize::from(text[(at + text.len() - 1) % text.len()]))
    };
    let before = |token: usize| match (flaw, token) {
        (Flaw::Ends, END) => Some(usize::from(b'\n')),
        // After the prompt's question mark it begins.
        (Flaw::Ends, 0xc3) => Some(usize::from(b'?')),
        _ => before(token),
    };
    save(path, &metadata, &tensors, |index, out| {
        let elements: usize = tensors[index].shape.iter().product();
        let value = |at: usize| match index {
            0 => sign(at / HIDDEN, at % HIDDEN),
            1 => before(at / HIDDEN).map_or(0.0, |token| sign(token, at % HIDDEN)),
            2..=4 => 1.0,
            _ => 0.0,
        };
        out.extend((0..elements).flat_map(|at| value(at).to_le_bytes()));
        Ok::<(), supple::weights::Error>(())
    })
    .unwrap();
}
