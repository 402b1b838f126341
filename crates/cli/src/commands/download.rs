//! `supple download`: models from the Hugging Face hub, into the cache that other programs share.

use crate::report::{Exit, Problem, show, show_json};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use supple::hub::{Hub, Observer, Source};

const EXAMPLES: &str = "\
Examples:
  supple download hf:owner/name              what most would take: a GGUF file of 4 bits, or the safetensors folder
  supple download hf:owner/name:Q8_0         the GGUF file of another quantisation
  supple download hf:owner/name@v1.0 --json  a tag, branch or commit

Where the connection breaks, call again: what has arrived is kept. Files lie in the cache that other programs share:
HF_HUB_CACHE, or hub/ in HF_HOME, or ~/.cache/huggingface/hub. HF_TOKEN opens models behind a licence, HF_ENDPOINT names
another server, and with HF_HUB_OFFLINE=1 only the cache is looked at.";

/// Download a model from the Hugging Face hub and print where it lies
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Models such as hf:owner/name, hf:owner/name:Q4_K_M or hf:owner/name@revision
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let sources = args.models.iter().map(|name| source(name)).collect::<anyhow::Result<Vec<_>>>()?;
    let hub = Hub::from_env()?;
    let mut found = Vec::new();
    for source in sources {
        let path = fetch(&hub, &source, args.quiet)?;
        if !args.json {
            show(&format!("{}\n", path.display()))?;
        }
        found.push(json!({ "model": source.to_string(), "path": path }));
    }
    if args.json {
        show_json(&json!({ "models": found }))?;
    }
    Ok(Exit::Done)
}

fn source(name: &str) -> anyhow::Result<Source> {
    name.parse().map_err(|error: supple::hub::HubError| {
        let problem = Problem::usage(error.to_string());
        match error.hint() {
            Some(hint) => problem.hint(hint).into(),
            None => problem.into(),
        }
    })
}

/// Where a model lies: as it was named, or in the cache if it is one of the hub.
pub fn located(model: &Path) -> anyhow::Result<PathBuf> {
    match model.to_str().filter(|name| Source::is_meant(name)) {
        Some(name) => fetch(&Hub::from_env()?, &source(name)?, false),
        None => Ok(model.to_path_buf()),
    }
}

/// The file or folder of a model, downloaded if it is not in the cache, with a bar on a terminal.
fn fetch(hub: &Hub, source: &Source, quiet: bool) -> anyhow::Result<PathBuf> {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
    if !quiet && std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    }
    let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is right"));
    let path = hub.fetch(source, &mut Bar(&bar))?;
    bar.finish_and_clear();
    Ok(path)
}

struct Bar<'a>(&'a ProgressBar);

impl Observer for Bar<'_> {
    fn begin(&mut self, index: usize, files: usize, name: &str, bytes: u64) {
        let count = if files > 1 { format!("[{}/{files}] ", index + 1) } else { String::new() };
        self.0.set_message(format!("{count}{name}"));
        self.0.set_length(bytes);
        self.0.set_position(0);
        self.0.reset_eta();
    }

    fn advance(&mut self, bytes: u64) {
        self.0.inc(bytes);
    }
}
