//! `supple train`: a network trained as a recipe says.

use crate::commands::progress::clock;
use crate::interrupt;
use crate::report::{Exit, say, show, show_json};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Instant;
use supple::DeviceChoice;
use supple::train::{self, Event, Options, Progress, Recipe, TrainingPrecision, language};

const EXAMPLES: &str = "\
Examples:
  supple train recipes/rlfn_s_x2.toml                 into runs/rlfn_s_x2
  supple train recipes/rlfn_s_x2.toml --resume        go on after Ctrl-C, a kill or a power cut
  supple train my.toml -o /data/runs/mine --threads 8
  supple train my.toml --device cuda --precision bf16 on the first GPU, the network in bf16
  supple launch -n 4 train my.toml --device cuda      on four GPUs of this machine
  supple plot runs/rlfn_s_x2                          the curves so far, as a picture
  supple upscale photo.jpg -m runs/rlfn_s_x2/weights.safetensors -s 2
  supple train recipes/finetune.toml                  a language model, into runs/finetune/model
  supple chat runs/finetune/model

The run's folder holds metrics.jsonl, checkpoint.safetensors and weights.safetensors. Ctrl-C saves a checkpoint and ends the
run; a run that is killed loses what came after its last checkpoint, and is the same afterwards, on a CPU bit for bit, as one
that was not. A run begun on a GPU can go on on the CPU, and the other way round.

Exit status: 0 done, 1 something failed, 2 wrong usage, 130 interrupted (a checkpoint was saved).";

/// Train a network as a recipe says
///
/// A recipe is a TOML file: network, pictures, and stages with their loss, optimiser and learning rates; or, with task =
/// "language", a language model and texts. docs/training.md explains every line.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The recipe
    #[arg(value_name = "RECIPE")]
    pub(super) recipe: PathBuf,

    /// Folder of the run [default: runs/RECIPE]
    #[arg(short, long, value_name = "DIR")]
    pub(super) output: Option<PathBuf>,

    /// Go on with the run in the folder
    #[arg(long)]
    pub(super) resume: bool,

    /// Where to train: auto (an NVIDIA GPU if there is one, and the CPU where that cannot), cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto, hide_default_value = true)]
    pub(super) device: DeviceChoice,

    /// What the network computes in on a GPU: f32, bf16 or f16; weights are kept in f32 [default: as the recipe says]
    #[arg(long, value_name = "TYPE")]
    pub(super) precision: Option<TrainingPrecision>,

    /// Tell the GPU every step kernel by kernel, and not once for all
    #[arg(long)]
    pub(super) no_graph: bool,

    /// Threads to use; 0: all
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = crate::commands::upscale::parse_threads)]
    pub(super) threads: usize,

    /// Print the outcome as JSON
    #[arg(long)]
    pub(super) json: bool,

    /// Print errors only
    #[arg(short, long)]
    pub(super) quiet: bool,
}

impl Args {
    /// How the run is done.
    pub(super) fn options(&self) -> Options {
        Options {
            resume: self.resume,
            threads: Some(self.threads).filter(|&threads| threads > 0),
            device: self.device,
            precision: self.precision,
            without_graph: self.no_graph,
        }
    }
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let text = std::fs::read_to_string(&args.recipe).unwrap_or_default();
    if language::is_language(&text) {
        return super::train_language::run(args);
    }
    let recipe = Recipe::open(&args.recipe).map_err(supple::Error::from)?;
    let stem = args.recipe.file_stem().unwrap_or_default();
    let folder = args.output.clone().unwrap_or_else(|| PathBuf::from("runs").join(stem));
    interrupt::install();
    // Of several processes the first alone shows anything.
    let (rank, _) = train::rank()?;
    let (quiet, json) = (args.quiet || rank > 0, args.json && rank == 0);
    let mut display = Display::new(quiet);
    let options = args.options();
    let mut last_psnr = None;
    let outcome = train::run(&recipe, &folder, options, &mut |event| {
        match event {
            Event::Step(progress, psnr) => {
                last_psnr = psnr.or(last_psnr);
                display.show(progress, psnr.map(|psnr| format!("{psnr:.3} dB")));
            }
            Event::Note(text) => display.note(text),
        }
        !interrupt::asked()
    });
    display.bar.finish_and_clear();
    let outcome = outcome?;
    let loss = Some(outcome.progress.loss).filter(|loss| loss.is_finite());
    if json {
        show_json(&serde_json::json!({
            "finished": outcome.finished,
            "weights": outcome.weights,
            "steps": outcome.progress.done,
            "loss": loss,
            "psnr": last_psnr,
        }))?;
    } else if !quiet {
        let psnr = last_psnr.map(|psnr| format!(", validation {psnr:.2} dB")).unwrap_or_default();
        let loss = loss.map(|loss| format!(", loss {loss:.5}")).unwrap_or_default();
        let (done, total) = (outcome.progress.done, outcome.progress.total);
        show(&format!("{done} of {total} steps{loss}{psnr}: {}\n", outcome.weights.display()))?;
    }
    if outcome.finished {
        return Ok(Exit::Done);
    }
    if rank == 0 {
        say(&format!("interrupted, checkpoint saved: the same command with --resume goes on ({})", folder.display()));
    }
    Ok(Exit::Interrupted)
}

/// Step, loss, steps a second and time left: one line that moves on a terminal, a line now and then elsewhere.
pub(super) struct Display {
    quiet: bool,
    pub(super) bar: ProgressBar,
    /// When the first step of this sitting was finished, and which it was.
    began: Option<(Instant, usize)>,
    said: Instant,
}

impl Display {
    pub(super) fn new(quiet: bool) -> Display {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        if !quiet && std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(4));
        }
        let share = |state: &ProgressState, w: &mut dyn std::fmt::Write| {
            let _ = write!(w, "{:>5.1}%", state.fraction() * 100.0);
        };
        let style = ProgressStyle::with_template("{msg} {wide_bar} {share}");
        bar.set_style(
            style.unwrap_or_else(|_| ProgressStyle::default_bar()).with_key("share", share).progress_chars("━╸ "),
        );
        Display { quiet, bar, began: None, said: Instant::now() }
    }

    pub(super) fn note(&self, text: &str) {
        if !self.quiet {
            self.bar.suspend(|| say(text));
        }
    }

    /// With what validation found, if there was one.
    pub(super) fn show(&mut self, progress: &Progress, found: Option<String>) {
        let Progress { stage, stages, step, steps, done, total, loss } = *progress;
        let (began, first) = *self.began.get_or_insert((Instant::now(), done));
        let seconds = began.elapsed().as_secs_f64();
        let rate = (done - first) as f64 / seconds.max(1e-9);
        let mut line = if stages > 1 { format!("stage {stage}/{stages} ") } else { String::new() };
        line += &format!("step {step}/{steps}");
        if loss.is_finite() {
            line += &format!("  loss {loss:.5}");
        }
        if done > first {
            let left = std::time::Duration::from_secs_f64(((total - done) as f64 / rate).min(1e9));
            line += &format!("  {rate:.2} it/s  {} left", clock(left));
        }
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
        self.bar.set_message(line.clone());
        if let Some(found) = found {
            let stage = if stages > 1 { format!("stage {stage} ") } else { String::new() };
            let what = format!("{stage}step {step}: validation {found}");
            if !self.quiet {
                self.bar.suspend(|| say(&what));
            }
        } else if !self.quiet && self.bar.is_hidden() && self.said.elapsed().as_secs() >= 30 {
            self.said = Instant::now();
            say(&line);
        }
    }
}
