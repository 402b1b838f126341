//! Options that commands with language models share.

use super::download;
use crate::report::{Problem, say};
use std::path::{Path, PathBuf};
use supple::DeviceChoice;
use supple::text::bundled;
use supple::text::generate::{CACHE_FORMATS, Format, Generated, OpenOptions, TextGenerator};
use supple::text::sampling::Sampling;

/// A small model that talks, under a licence that lets anyone use it.
const EXAMPLE_MODEL: &str = "hf:HuggingFaceTB/SmolLM2-135M-Instruct";

/// Which model, and what it runs with.
#[derive(Debug, clap::Args)]
pub struct Compute {
    /// Where to run: auto (an NVIDIA GPU if there is one with room, else the CPU), cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto, hide_default_value = true)]
    pub device: DeviceChoice,

    /// Threads [default: all]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// Most tokens of prompt and answer together [default: as long as the model was made for, at most 8192]
    #[arg(short, long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,

    /// Keep keys and values as f32, f16, bf16, q8 (half of f16's memory) or q4 (a quarter); a GPU takes f16
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = cache_type)]
    pub cache_type: Format,
}

impl Compute {
    fn options(&self) -> OpenOptions {
        OpenOptions {
            threads: self.threads.map(usize::from),
            context: self.context.map(|context| context as usize),
            cache: Some(self.cache_type),
            device: self.device,
        }
    }

    /// Opens a model: a file, a folder, one of the hub, or the bundled one by its name.
    pub fn open(&self, model: &Path) -> anyhow::Result<TextGenerator> {
        if bundled::bytes().is_some() && model == Path::new(bundled::NAME) && !model.exists() {
            return Ok(said(TextGenerator::bundled(self.options())?));
        }
        Ok(said(TextGenerator::open(&download::located(model)?, self.options())?))
    }

    /// Opens the model that a command was given, or the bundled one, of which a line says what it `does` and how to get another.
    pub fn open_or_bundled(&self, model: Option<&Path>, command: &str, does: &str) -> anyhow::Result<TextGenerator> {
        if let Some(model) = model {
            return self.open(model);
        }
        let hint = format!("{command} {EXAMPLE_MODEL} downloads a small one (270 MB); or name a GGUF file or a folder");
        if bundled::bytes().is_none() {
            return Err(Problem::usage("no model given, and none is bundled").hint(hint).into());
        }
        let name = bundled::NAME;
        say(&format!("note: no model given, so it is {name}, which is bundled and {does}. {hint}"));
        Ok(said(TextGenerator::bundled(self.options())?))
    }
}

/// The same, after a line on why the CPU stands in for a GPU, if it does.
fn said(generator: TextGenerator) -> TextGenerator {
    if let Some(reason) = generator.stand_in() {
        say(&format!("note: {reason}"));
    }
    generator
}

/// The format of a cache: its name, or that without what follows an underscore.
pub fn cache_type(text: &str) -> Result<Format, String> {
    let known = CACHE_FORMATS.map(|format| (format, format.name().to_lowercase()));
    let short = |name: &str| name.split('_').next() == Some(text);
    let found = known.iter().find(|(_, name)| name.eq_ignore_ascii_case(text) || short(name));
    found.map(|row| row.0).ok_or_else(|| format!("expected one of {}", known.map(|row| row.1).join(", ")))
}

/// How tokens are chosen.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sampling")]
pub struct Choice {
    /// 0: always the likeliest token
    #[arg(short, long, default_value_t = 0.8)]
    pub temperature: f32,

    /// Only the so many likeliest; 0: all
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub top_k: usize,

    /// Only the likeliest that together reach this probability
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub top_p: f32,

    /// Only those at least this times as likely as the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    pub min_p: f32,

    /// Divides positive logits of the last 64 tokens, multiplies negative ones; 1: none
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repetition_penalty: f32,

    /// Subtracted from the logit of a recent token for each time it occurs
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_hyphen_values = true)]
    pub frequency_penalty: f32,

    /// Subtracted from the logit of a recent token
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_hyphen_values = true)]
    pub presence_penalty: f32,

    /// Seed of the draws; the same seed gives the same text
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

impl Choice {
    /// In the library's terms.
    pub fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            seed: self.seed,
            ..Sampling::default()
        }
    }
}

/// What to measure on.
#[derive(Debug, clap::Args)]
pub struct Measured {
    /// Text to measure on
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,

    /// Tokens of a window
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..))]
    pub window: u32,

    /// Tokens from one window to the next [default: the window]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub stride: Option<u32>,

    /// Stop after so many windows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub windows: Option<u32>,
}

/// One line of speeds.
pub fn speeds(generated: &Generated) -> String {
    let cached = match generated.cached_tokens {
        0 => String::new(),
        cached => format!(", {cached} from the cache"),
    };
    format!(
        "prompt {} tokens{cached}, {:.1} tokens/s; answer {} tokens, {:.1} tokens/s; first after {:.2} s",
        generated.prompt_tokens,
        generated.prefill_rate(),
        generated.tokens.len(),
        generated.decode_rate(),
        generated.prefill.as_secs_f64(),
    )
}
