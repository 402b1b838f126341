//! Generation: the same seed the same text, the cache of prompts unnoticed, ends and errors where they belong.

use std::path::{Path, PathBuf};
use supple::Error;
use supple::text::evaluate::{Windows, divergence, perplexity};
use supple::text::generate::{Finish, OpenOptions, Request, TextGenerator};
use supple::text::sampling::Sampling;
use supple::text::tasks::{Choice, ModelScorer, Scorer};
use supple::weights::gguf::{Array, BlockType, NewTensor, Value, save};

/// The letter that stands for a byte in byte-level vocabularies.
fn letter(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        char::from(byte)
    } else {
        char::from_u32(256 + (0..byte).filter(|&other| !printable(other)).count() as u32).unwrap()
    }
}

/// A made-up decoder over bytes; `seed` makes another.
fn model(folder: &Path, seed: u32) -> PathBuf {
    let path = folder.join(format!("model-{seed}.gguf"));
    let tokens = (0..=255).map(|byte| letter(byte).to_string()).chain(["<|end|>".to_owned()]);
    let key = |name: &str, value: u32| (format!("qwen2.{name}"), Value::U32(value));
    let metadata = [
        ("general.architecture".to_owned(), Value::from("qwen2")),
        ("tokenizer.ggml.model".to_owned(), Value::from("gpt2")),
        ("tokenizer.ggml.pre".to_owned(), Value::from("default")),
        ("tokenizer.ggml.tokens".to_owned(), Value::Array(Array::from_strings(tokens))),
        ("tokenizer.ggml.merges".to_owned(), Value::Array(Array::from_strings(Vec::<String>::new()))),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(256)),
        key("block_count", 1),
        key("context_length", 64),
        key("embedding_length", 32),
        key("feed_forward_length", 64),
        key("attention.head_count", 2),
        ("qwen2.attention.layer_norm_rms_epsilon".to_owned(), Value::F32(1e-5)),
    ];
    let tensor =
        |name: &str, shape: &[usize], block_type| NewTensor { name: name.into(), shape: shape.to_vec(), block_type };
    let tensors = [
        tensor("token_embd.weight", &[257, 32], BlockType::F32),
        tensor("output_norm.weight", &[32], BlockType::F32),
        tensor("blk.0.attn_norm.weight", &[32], BlockType::F32),
        tensor("blk.0.ffn_norm.weight", &[32], BlockType::F32),
        tensor("blk.0.attn_q.weight", &[32, 32], BlockType::Q8_0),
        tensor("blk.0.attn_k.weight", &[32, 32], BlockType::Q8_0),
        tensor("blk.0.attn_v.weight", &[32, 32], BlockType::Q8_0),
        tensor("blk.0.attn_output.weight", &[32, 32], BlockType::Q8_0),
        tensor("blk.0.ffn_gate.weight", &[64, 32], BlockType::Q8_0),
        tensor("blk.0.ffn_up.weight", &[64, 32], BlockType::Q8_0),
        tensor("blk.0.ffn_down.weight", &[32, 64], BlockType::Q8_0),
    ];
    let mut state = seed;
    let mut byte = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    save(&path, &metadata, &tensors, |index, out| {
        let tensor = &tensors[index];
        let elements: usize = tensor.shape.iter().product();
        match tensor.block_type {
            BlockType::F32 => out.extend((0..elements).flat_map(|_| (f32::from(byte()) / 128.0 - 1.0).to_le_bytes())),
            _ => {
                for _ in 0..elements / 32 {
                    // A scale of 2^-9.
                    out.extend([0x00, 0x18]);
                    out.extend((0..32).map(|_| byte()));
                }
            }
        }
        Ok::<(), supple::weights::Error>(())
    })
    .unwrap();
    path
}

fn open(folder: &tempfile::TempDir) -> TextGenerator {
    TextGenerator::open(&model(folder.path(), 1), OpenOptions { threads: Some(2), ..OpenOptions::default() }).unwrap()
}

fn request(seed: u64, max_tokens: usize) -> Request {
    let sampling = Sampling { temperature: 1.0, top_k: 0, min_p: 0.0, top_p: 1.0, seed, ..Sampling::default() };
    Request { max_tokens: Some(max_tokens), sampling, ..Request::default() }
}

#[test]
fn the_same_seed_gives_the_same_text_with_and_without_what_was_before() {
    let folder = tempfile::tempdir().unwrap();
    let generator = open(&folder);
    let run = |session: &mut supple::text::generate::Session<'_>, prompt: &str, seed| {
        let mut shown = String::new();
        let tokens = generator.encode(prompt).unwrap();
        let result = session.generate(&tokens, &request(seed, 20), &mut |text| {
            shown += text;
            true
        });
        let result = result.unwrap();
        assert_eq!(shown, result.text, "what was shown is the text");
        let ids: Vec<u32> = result.tokens.iter().map(|token| token.id).collect();
        (ids, result.cached_tokens)
    };
    let (first, cached) = run(&mut generator.session(), "a beginning, one", 5);
    assert_eq!(cached, 0);
    let mut session = generator.session();
    run(&mut session, "a beginning, two and more", 9);
    let (second, cached) = run(&mut session, "a beginning, one", 5);
    assert_eq!((second, cached), (first.clone(), "a beginning, ".len()));
    assert_ne!(run(&mut session, "a beginning, one", 6).0, first);
}

#[test]
fn generation_ends_where_it_should() {
    let folder = tempfile::tempdir().unwrap();
    let generator = open(&folder);
    let prompt = generator.encode("abc").unwrap();
    let run = |request: &Request| generator.session().generate(&prompt, request, &mut |_| true).unwrap();
    let all = run(&Request { ignore_end: true, ..request(3, 30) });
    assert_eq!((all.finish, all.tokens.len()), (Finish::Length, 30));
    // The text up to any character of it that is not at its start.
    let (at, stop) = all.text.char_indices().filter(|c| c.1 != char::REPLACEMENT_CHARACTER).nth(3).unwrap();
    let first = all.text.find(stop).unwrap();
    let stopped = run(&Request { stop: vec![stop.to_string()], ignore_end: true, ..request(3, 30) });
    assert!(first <= at);
    assert_eq!((stopped.finish, stopped.text.as_str()), (Finish::Stop, &all.text[..first]));
    let full = run(&Request { max_tokens: None, ignore_end: true, ..request(3, 0) });
    assert_eq!((full.finish, full.tokens.len()), (Finish::Context, 64 - 3 + 1));
    let none = run(&request(3, 0));
    assert_eq!((none.finish, none.tokens.len(), none.text.as_str()), (Finish::Length, 0, ""));
    let cancelled = generator.session().generate(&prompt, &request(3, 30), &mut |_| false).unwrap();
    assert_eq!((cancelled.finish, cancelled.tokens.len()), (Finish::Cancelled, 1));
}

#[test]
fn probabilities_are_those_of_all_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let generator = open(&folder);
    let prompt = generator.encode("abc").unwrap();
    let request = Request { log_probs: Some(257), sampling: Sampling::greedy(), ..request(0, 4) };
    let result = generator.session().generate(&prompt, &request, &mut |_| true).unwrap();
    for token in &result.tokens {
        let sum: f64 = token.alternatives.iter().map(|(_, log)| f64::from(*log).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-4 && token.alternatives.len() == 257, "{sum}");
        assert_eq!((token.alternatives[0].0, Some(token.alternatives[0].1)), (token.id, token.log_prob));
    }
}

#[test]
fn what_cannot_be_generated_is_an_error_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let generator = open(&folder);
    let mut session = generator.session();
    let mut fails = |prompt: &[u32], request: Request| session.generate(prompt, &request, &mut |_| true).unwrap_err();
    let empty = fails(&[], request(0, 1));
    assert!(matches!(empty, Error::EmptyPrompt) && empty.hint().is_some());
    let long = fails(&[1; 64], request(0, 1));
    assert!(matches!(long, Error::PromptTooLong { tokens: 64, context: 64 }) && long.hint().is_some());
    let hot = Request { sampling: Sampling { temperature: -1.0, ..Sampling::default() }, ..request(0, 1) };
    assert!(matches!(fails(&[1], hot), Error::BadOption(_)));
    assert!(matches!(
        fails(&[9_999], request(0, 1)),
        Error::Network(supple_models::Error::BadToken { token: 9_999, vocabulary: 257 })
    ));
}

#[test]
fn a_text_has_a_perplexity_and_no_divergence_from_itself() {
    let folder = tempfile::tempdir().unwrap();
    let generator = open(&folder);
    let tokens = generator.encode(&"some text, a bit of it. ".repeat(9)).unwrap();
    let windows = Windows::new(48, Some(16));
    let found = perplexity(&generator, &tokens, windows, &mut |_, _, _| true).unwrap();
    // By hand: one window's predictions, one at a time.
    let (mut sum, mut count) = (0.0, 0);
    for start in (0..=tokens.len() - 48).step_by(16) {
        for at in 31..47 {
            let mut session = generator.session();
            let request = Request { log_probs: Some(257), ..request(0, 1) };
            let result = session.generate(&tokens[start..=start + at], &request, &mut |_| true).unwrap();
            let next = tokens[start + at + 1];
            sum -= f64::from(result.tokens[0].alternatives.iter().find(|a| a.0 == next).unwrap().1);
            count += 1;
        }
    }
    assert_eq!(found.predictions, count);
    let wanted = (sum / f64::from(count as u32)).exp();
    assert!((found.perplexity / wanted - 1.0).abs() < 1e-4, "{} for {wanted}", found.perplexity);
    let same = divergence(&generator, &generator, &tokens, windows, &mut |_, _, _| true).unwrap();
    assert!(same.max < 1e-6 && same.agreement == 1.0);
    let options = OpenOptions { threads: Some(1), ..OpenOptions::default() };
    let other = TextGenerator::open(&model(folder.path(), 2), options).unwrap();
    let apart = divergence(&generator, &other, &tokens, windows, &mut |_, _, _| true).unwrap();
    assert!(apart.mean > 0.01 && apart.agreement < 1.0 && apart.predictions == count, "{apart:?}");
    assert!(matches!(perplexity(&generator, &tokens, windows, &mut |_, _, _| false), Err(Error::Cancelled)));
}

#[test]
fn continuations_scored_together_get_what_each_gets_alone() {
    let folder = tempfile::tempdir().unwrap();
    let generator = open(&folder);
    let choice =
        |context: &str, continuation: &str| Choice { context: context.into(), continuation: continuation.into() };
    let mut choices: Vec<Choice> =
        (0..20).map(|i| choice(&"some text. "[i % 3..].repeat(1 + i % 4), &" and its end"[..2 + i % 9])).collect();
    // The same text twice, none at all, and one that is longer than the context.
    choices.push(choices[3].clone());
    choices.push(choice("", "abc"));
    choices.push(choice(&"far too long ".repeat(9), " the end"));
    let together = ModelScorer::new(&generator).unwrap().score(&choices).unwrap();
    let mut scorer = ModelScorer::new(&generator).unwrap();
    for (choice, found) in choices.iter().zip(&together) {
        assert_eq!(scorer.score(std::slice::from_ref(choice)).unwrap(), [*found], "{choice:?}");
    }
    assert_eq!(together[20], together[3]);
    // By hand: one token at a time.
    let of = |choice: &Choice| -> f64 {
        let all = generator.encode(&format!("{}{}", choice.context, choice.continuation)).unwrap();
        let first = choice.context.len().max(1);
        let log_prob = |at: usize| {
            let request = Request { log_probs: Some(257), ..request(0, 1) };
            let result = generator.session().generate(&all[..at], &request, &mut |_| true).unwrap();
            f64::from(result.tokens[0].alternatives.iter().find(|other| other.0 == all[at]).unwrap().1)
        };
        (first..all.len()).map(log_prob).sum()
    };
    for at in [0, 7, 19, 21] {
        let wanted = of(&choices[at]);
        assert!((together[at].log_prob - wanted).abs() < 1e-3, "{:?}: {wanted}", together[at]);
    }
}
