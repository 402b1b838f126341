//! `supple bench llm`: how fast a language model runs on this machine.

use crate::commands::download;
use crate::commands::language_model::cache_type;
use crate::interrupt;
use crate::report::{Exit, Problem, say, show, show_json, table};
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use supple::llama::{Decoder, Format, Input, Random, SHAPES, Sequence, State, Wanted, Weights};
use supple::text::generate::OpenOptions;
use supple::text::place::{Placed, place};
use supple::weights::checkpoint::Checkpoint;
use supple::{DeviceChoice, compute, memory};

const EXAMPLES: &str = "\
Examples:
  supple bench llm model.gguf                        pp512 and tg128 with all threads
  supple bench llm model.gguf --device cpu --threads 1,2 --json
  supple bench llm model.gguf -p 128,2048 -n 32 -r 10
  supple bench llm model.gguf --device cuda          pp512, pp2048, pp8192; tg128 of 1, 8 and 64 sequences
  supple bench llm --shape llama-3.1-8b --format q4_k --device cuda    random weights, made as they are loaded

pp512: 512 tokens of a prompt are taken in at once; tg128: 128 tokens are generated one by one, from an empty context; tg128 x8:
by 8 sequences at once. Tokens are made up; on a GPU the likeliest is always taken. Medians of the rounds, after one that does not
count. GB/s: weights that tokens read, and how much that is of the memory's rate: that at which the same threads read 256 MiB, on a
GPU that of a copy, what is read and what is written.";

/// Measure the speed of language models: tokens a second, of a prompt and of an answer
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// GGUF file, Hugging Face folder, or hf:owner/name
    #[arg(required_unless_present = "shape")]
    model: Option<PathBuf>,

    /// Measure random weights of a shape known by name, such as llama-3.1-8b
    #[arg(long, value_name = "NAME", conflicts_with = "model", value_parser = clap::builder::PossibleValuesParser::new(SHAPES))]
    shape: Option<String>,

    /// Format of random weights, such as bf16, q8_0, q4_k or q6_k
    #[arg(long, default_value = "bf16", requires = "shape", value_parser = parse_format)]
    format: Format,

    /// Where to run: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto, hide_default_value = true)]
    device: DeviceChoice,

    /// Tokens of the prompt; several with commas, 0 for none [default: 512, and 2048 and 8192 on a GPU]
    #[arg(short, long, value_delimiter = ',')]
    prompt: Vec<usize>,

    /// Tokens to generate; several with commas, 0 for none
    #[arg(short = 'n', long, value_delimiter = ',', default_value = "128")]
    generate: Vec<usize>,

    /// Sequences that are generated at once; several with commas [default: 1, and 8 and 64 on a GPU]
    #[arg(short, long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=64))]
    batch: Vec<u16>,

    /// Numbers of threads, with commas [default: all]
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Vec<u16>,

    /// Keep keys and values as f32, f16, bf16, q8 or q4
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = cache_type)]
    cache_type: Format,

    /// Rounds that count
    #[arg(short, long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_format(text: &str) -> Result<Format, String> {
    let known = || Format::ALL.map(|format| format.name().to_lowercase()).join(", ");
    let found = Format::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(text));
    found.ok_or_else(|| format!("formats are {}", known()))
}

/// What is measured: a prompt of so many tokens, or so many tokens of so many sequences.
#[derive(Clone, Copy)]
enum Test {
    Prompt(usize),
    Generate(usize, usize),
}

impl Test {
    fn name(self) -> String {
        match self {
            Test::Prompt(count) => format!("pp{count}"),
            Test::Generate(count, 1) => format!("tg{count}"),
            Test::Generate(count, batch) => format!("tg{count} x{batch}"),
        }
    }

    /// Positions of the cache, sequences in whole pages.
    fn positions(self) -> usize {
        match self {
            Test::Prompt(count) => count,
            Test::Generate(count, batch) => batch * count.next_multiple_of(64),
        }
    }
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    interrupt::install();
    let threads: Vec<Option<usize>> =
        if args.threads.is_empty() { vec![None] } else { args.threads.iter().map(|&t| Some(t.into())).collect() };
    let random = args.shape.as_ref().map(|name| Random::new(name, args.format)).transpose();
    let random = random.map_err(supple::Error::from)?;
    let checkpoint = match &args.model {
        Some(model) => Some(Checkpoint::open(&download::located(model)?).map_err(supple::Error::from)?),
        None => None,
    };
    let (weights, name) = match (&random, &checkpoint) {
        (Some(random), _) => (Weights::Random(random), random.name().to_owned()),
        (_, Some(checkpoint)) => (Weights::File(checkpoint), checkpoint.source().to_owned()),
        _ => return Err(Problem::usage("name a model, or a --shape").into()),
    };
    let (mut rows, mut results) = (Vec::new(), Vec::new());
    rows.push(["test", "threads", "tokens/s", "fastest", "GB/s", "of memory", "GMAC/s"].map(str::to_owned));
    for threads in threads {
        let start = Instant::now();
        let cpu = compute::cpu(threads)?;
        // Caches are made for each test.
        let options =
            OpenOptions { threads, context: Some(longest(args)), device: args.device, cache: Some(args.cache_type) };
        let Placed { decoder, stand_in, state, .. } = place(&cpu, weights, options)?;
        drop(state);
        let load_time = start.elapsed();
        if let Some(reason) = stand_in {
            say(&format!("note: {reason}"));
        }
        let bandwidth = match decoder.cpu() {
            Some(cpu) => memory::read_rate(cpu),
            None => decoder.bandwidth().map_err(supple::Error::from)?.unwrap_or(f64::NAN),
        };
        for test in tests(args, decoder.cpu().is_none()) {
            let mut state = decoder.state(args.cache_type, test.positions()).map_err(supple::Error::from)?;
            let mut rates = Vec::new();
            for round in 0..=args.rounds {
                if interrupt::asked() {
                    return Ok(Exit::Interrupted);
                }
                let rate = measure(&decoder, &mut state, test)?;
                if round > 0 {
                    rates.push(rate);
                }
            }
            rates.sort_by(f64::total_cmp);
            let (rate, fastest) = (super::median(&rates), rates[rates.len() - 1]);
            let [layers, all] = decoder.macs_per_token();
            let (gbytes, gmacs, batch) = match test {
                Test::Prompt(count) => (None, rate * (layers as f64 + (all - layers) as f64 / count as f64) / 1e9, 1),
                Test::Generate(_, batch) => {
                    let steps = rate / batch as f64;
                    (Some(steps * decoder.bytes_per_token() as f64 / 1e9), rate * all as f64 / 1e9, batch)
                }
            };
            let share = gbytes.map(|gbytes| gbytes * 1e9 / bandwidth);
            let used = decoder.cpu().map(|cpu| cpu.threads());
            results.push(json!({
                "test": test.name(), "threads": used, "batch": batch, "tokens_per_second": rate, "fastest": fastest,
                "rounds": args.rounds, "weights_gb_per_second": gbytes, "memory_gb_per_second": bandwidth / 1e9,
                "share_of_bandwidth": share, "gmac_per_second": gmacs,
            }));
            let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            rows.push([
                test.name(),
                or_none(used.map(|used| used.to_string())),
                format!("{rate:.1}"),
                format!("{fastest:.1}"),
                or_none(gbytes.map(|gbytes| format!("{gbytes:.1}"))),
                or_none(share.map(|share| format!("{:.0} %", 100.0 * share))),
                format!("{gmacs:.1}"),
            ]);
        }
        if !args.json {
            show(&head(&name, &decoder, load_time, bandwidth))?;
        }
    }
    if args.json {
        show_json(&json!({
            "model": name,
            "results": results,
            "peak_memory_mib": memory::peak().map(|bytes| bytes as f64 / (1 << 20) as f64),
        }))?;
    } else {
        show(&table(&rows))?;
    }
    Ok(Exit::Done)
}

fn head(name: &str, decoder: &Decoder, load_time: Duration, bandwidth: f64) -> String {
    format!(
        "{name}: {}, {:.1} M weights, {:.1} MB read a token, loaded in {:.2} s, {}, memory at {:.1} GB/s\n",
        decoder.config().family,
        decoder.parameters() as f64 / 1e6,
        decoder.bytes_per_token() as f64 / 1e6,
        load_time.as_secs_f64(),
        decoder.device(),
        bandwidth / 1e9,
    )
}

fn prompts(args: &Args, on_gpu: bool) -> &[usize] {
    match (&args.prompt[..], on_gpu) {
        ([], true) => &[512, 2048, 8192],
        ([], false) => &[512],
        (prompts, _) => prompts,
    }
}

fn tests(args: &Args, on_gpu: bool) -> Vec<Test> {
    let batches: &[u16] = match (&args.batch[..], on_gpu) {
        ([], true) => &[1, 8, 64],
        ([], false) => &[1],
        (batches, _) => batches,
    };
    let prompts = prompts(args, on_gpu).iter().filter(|&&count| count > 0).map(|&count| Test::Prompt(count));
    let counts = args.generate.iter().filter(|&&count| count > 0);
    let answers = counts.flat_map(|&count| batches.iter().map(move |&batch| Test::Generate(count, batch.into())));
    prompts.chain(answers).collect()
}

/// The longest context of any test, on whatever device.
fn longest(args: &Args) -> usize {
    prompts(args, args.device != DeviceChoice::Cpu).iter().chain(&args.generate).copied().max().unwrap_or(0).max(1)
}

/// Tokens a second of one round.
fn measure(decoder: &Decoder, state: &mut State, test: Test) -> Result<f64, supple::Error> {
    let vocabulary = decoder.config().vocabulary as u64;
    let token = |i: usize| ((i as u64).wrapping_mul(2_654_435_761) % vocabulary) as u32;
    let (mut sequences, count) = match test {
        Test::Prompt(count) => (vec![Sequence::default()], count),
        Test::Generate(count, batch) => ((0..batch).map(|_| Sequence::default()).collect(), count * batch),
    };
    let start = Instant::now();
    match test {
        Test::Prompt(count) => {
            let tokens: Vec<u32> = (0..count).map(token).collect();
            let parts = tokens.chunks(decoder.chunk());
            let last = parts.len() - 1;
            for (i, tokens) in parts.enumerate() {
                let wanted = if i == last { Wanted::Last } else { Wanted::Nothing };
                decoder.forward(state, &mut [Input { sequence: &mut sequences[0], tokens, wanted }])?;
            }
        }
        Test::Generate(count, batch) if decoder.cpu().is_none() => {
            let first: Vec<u32> = (0..batch).map(token).collect();
            let mut sequences: Vec<&mut Sequence> = sequences.iter_mut().collect();
            decoder.greedy(state, &mut sequences, &first, count)?;
        }
        Test::Generate(count, _) => {
            for i in 0..count {
                let tokens = [token(i)];
                let inputs = sequences.iter_mut();
                let mut inputs: Vec<Input<'_>> =
                    inputs.map(|sequence| Input { sequence, tokens: &tokens, wanted: Wanted::Last }).collect();
                decoder.forward(state, &mut inputs)?;
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    sequences.into_iter().for_each(|sequence| state.release(sequence));
    Ok(count as f64 / seconds)
}
