//! `supple bench llm`: how fast a language model runs on this machine.

use crate::commands::download;
use crate::commands::language_model::cache_type;
use crate::interrupt;
use crate::report::{Exit, show, show_json, table};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;
use supple::memory;
use supple::text::generate::{Format, OpenOptions, Session, TextGenerator, Wanted};

const EXAMPLES: &str = "\
Examples:
  supple bench llm model.gguf                        pp512 and tg128 with all threads
  supple bench llm model.gguf --threads 1,2 --json
  supple bench llm model.gguf -p 128,2048 -n 32 -r 10

pp512: 512 tokens of a prompt are taken in at once; tg128: 128 tokens are generated one by one, from an empty context. Tokens
are made up. Medians of the rounds, after one that does not count. GB/s: weights that tokens read, and how much that is of the rate
at which the same threads read 256 MiB of memory.";

/// Measure the speed of language models: tokens a second, of a prompt and of an answer
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// GGUF file, Hugging Face folder, or hf:owner/name
    model: PathBuf,

    /// Tokens of the prompt; several with commas, 0 for none
    #[arg(short, long, value_delimiter = ',', default_value = "512")]
    prompt: Vec<usize>,

    /// Tokens to generate; several with commas, 0 for none
    #[arg(short = 'n', long, value_delimiter = ',', default_value = "128")]
    generate: Vec<usize>,

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

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    interrupt::install();
    let file = download::located(&args.model)?;
    let threads: Vec<Option<usize>> =
        if args.threads.is_empty() { vec![None] } else { args.threads.iter().map(|&t| Some(t.into())).collect() };
    let longest = args.prompt.iter().chain(&args.generate).copied().max().unwrap_or(0).max(1);
    let (mut rows, mut results) = (Vec::new(), Vec::new());
    rows.push(["test", "threads", "tokens/s", "fastest", "GB/s", "of memory", "GMAC/s"].map(str::to_owned));
    for threads in threads {
        let options = OpenOptions { threads, context: Some(longest), cache: Some(args.cache_type) };
        let generator = TextGenerator::open(&file, options)?;
        let model = generator.model();
        let memory_rate = memory::read_rate(model.cpu()) / 1e9;
        let tests = args.prompt.iter().map(|&n| (true, n)).chain(args.generate.iter().map(|&n| (false, n)));
        for (prompt, count) in tests.filter(|test| test.1 > 0) {
            let mut rates = Vec::new();
            let mut session = generator.session();
            for round in 0..=args.rounds {
                if interrupt::asked() {
                    return Ok(Exit::Interrupted);
                }
                let rate = measure(&generator, &mut session, prompt, count)?;
                if round > 0 {
                    rates.push(rate);
                }
            }
            rates.sort_by(f64::total_cmp);
            let (rate, fastest) = (super::median(&rates), rates[rates.len() - 1]);
            let [layers, all] = model.macs_per_token();
            let (gbytes, gmacs) = if prompt {
                (None, rate * (layers as f64 + (all - layers) as f64 / count as f64) / 1e9)
            } else {
                (Some(rate * model.bytes_per_token() as f64 / 1e9), rate * all as f64 / 1e9)
            };
            let name = format!("{}{count}", if prompt { "pp" } else { "tg" });
            let used = model.cpu().threads();
            results.push(json!({
                "test": name, "threads": used, "tokens_per_second": rate, "fastest": fastest, "rounds": args.rounds,
                "weights_gb_per_second": gbytes, "memory_gb_per_second": memory_rate, "gmac_per_second": gmacs,
            }));
            let share = gbytes.map_or_else(|| "-".to_owned(), |rate| format!("{:.0} %", 100.0 * rate / memory_rate));
            let gbytes = gbytes.map_or_else(|| "-".to_owned(), |gbytes| format!("{gbytes:.1}"));
            rows.push([
                name,
                used.to_string(),
                format!("{rate:.1}"),
                format!("{fastest:.1}"),
                gbytes,
                share,
                format!("{gmacs:.1}"),
            ]);
        }
        let config = model.config();
        let head = format!(
            "{}: {}, {:.1} M weights, {:.1} MB read a token, loaded in {:.2} s, {}\n",
            args.model.display(),
            config.family,
            model.parameters() as f64 / 1e6,
            model.bytes_per_token() as f64 / 1e6,
            generator.load_time().as_secs_f64(),
            model.cpu().isa,
        );
        if !args.json {
            show(&head)?;
        }
    }
    if args.json {
        show_json(&json!({
            "model": args.model.display().to_string(),
            "results": results,
            "peak_memory_mib": memory::peak().map(|bytes| bytes as f64 / (1 << 20) as f64),
        }))?;
    } else {
        show(&table(&rows))?;
    }
    Ok(Exit::Done)
}

/// Tokens a second of one round.
fn measure(generator: &TextGenerator, session: &mut Session<'_>, prompt: bool, count: usize) -> anyhow::Result<f64> {
    let vocabulary = generator.model().config().vocabulary as u64;
    let token = |i: usize| ((i as u64).wrapping_mul(2_654_435_761) % vocabulary) as u32;
    session.clear();
    let start = Instant::now();
    if prompt {
        let tokens: Vec<u32> = (0..count).map(token).collect();
        let parts = tokens.chunks(512).enumerate();
        for (i, part) in parts {
            let last = (i + 1) * 512 >= count;
            session.take_in(part, if last { Wanted::Last } else { Wanted::Nothing })?;
        }
    } else {
        for i in 0..count {
            session.take_in(&[token(i)], Wanted::Last)?;
        }
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}
