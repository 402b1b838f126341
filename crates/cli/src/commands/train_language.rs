//! `supple train` with a recipe for a language model.

use super::train::{Args, Display};
use crate::interrupt;
use crate::report::{Exit, say, show, show_json};
use std::path::PathBuf;
use supple::train::language::{self, Event, LanguageRecipe};

/// Runs the command.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let recipe = LanguageRecipe::open(&args.recipe).map_err(supple::Error::from)?;
    let stem = args.recipe.file_stem().unwrap_or_default();
    let folder = args.output.clone().unwrap_or_else(|| PathBuf::from("runs").join(stem));
    interrupt::install();
    let mut display = Display::new(args.quiet);
    let outcome = language::run(&recipe, &folder, args.options(), &mut |event| {
        match event {
            Event::Step(progress, perplexity) => {
                display.show(progress, perplexity.map(|perplexity| format!("perplexity {perplexity:.3}")));
            }
            Event::Note(text) => display.note(text),
        }
        !interrupt::asked()
    });
    display.bar.finish_and_clear();
    let outcome = outcome?;
    let progress = outcome.progress;
    let loss = Some(progress.loss).filter(|loss| loss.is_finite());
    if args.json {
        show_json(&serde_json::json!({
            "finished": outcome.finished,
            "model": outcome.model,
            "steps": progress.done,
            "loss": loss,
            "perplexity": outcome.perplexity,
        }))?;
    } else if !args.quiet {
        let loss = loss.map(|loss| format!(", loss {loss:.4}")).unwrap_or_default();
        let found = outcome.perplexity.map(|p| format!(", validation perplexity {p:.3}")).unwrap_or_default();
        let (done, total) = (progress.done, progress.total);
        show(&format!("{done} of {total} steps{loss}{found}: {}\n", outcome.model.display()))?;
    }
    if outcome.finished {
        return Ok(Exit::Done);
    }
    say(&format!("interrupted, checkpoint saved: the same command with --resume goes on ({})", folder.display()));
    Ok(Exit::Interrupted)
}
