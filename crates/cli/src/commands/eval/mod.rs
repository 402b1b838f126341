//! `supple eval`: how good models are.

mod cnn;
mod kl;
mod ppl;
mod sr;
mod tasks;

use crate::commands::language_model::Measured;
use crate::report::{Exit, Problem};
use std::io::{IsTerminal, Write};
use supple::text::evaluate::Windows;
use supple::text::generate::TextGenerator;

/// Measure models
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, clap::Subcommand)]
enum Task {
    Sr(sr::Args),
    Cnn(cnn::Args),
    Ppl(ppl::Args),
    Kl(kl::Args),
    Tasks(tasks::Args),
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    match &args.task {
        Task::Sr(args) => sr::run(args),
        Task::Cnn(args) => cnn::run(args),
        Task::Ppl(args) => ppl::run(args),
        Task::Kl(args) => kl::run(args),
        Task::Tasks(args) => tasks::run(args),
    }
}

/// The text to measure on.
fn text(measured: &Measured) -> anyhow::Result<String> {
    let path = measured.text.display();
    let bytes = std::fs::read(&measured.text)
        .map_err(|error| Problem::failed(format!("{path}: cannot read: {error}")).hint("check the path"))?;
    Ok(String::from_utf8(bytes).map_err(|_| Problem::failed(format!("{path}: not UTF-8 text")))?)
}

/// Its tokens, and the windows; no more tokens than the windows that are wanted.
fn windows(measured: &Measured, generator: &TextGenerator, text: &str) -> anyhow::Result<(Vec<u32>, Windows)> {
    let windows = Windows::new(measured.window as usize, measured.stride.map(|stride| stride as usize));
    if windows.window > generator.context() {
        let most = generator.context();
        return Err(Problem::usage(format!("a window of {} exceeds the context of {most}", windows.window))
            .hint("--context sets another")
            .into());
    }
    let mut tokens = generator.encode(text)?;
    if let Some(count) = measured.windows {
        tokens.truncate(windows.window + (count as usize - 1) * windows.stride);
    }
    Ok((tokens, windows))
}

/// A line on a terminal that says how far it is.
fn progress(done: usize, all: usize, text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let end = if done == all { "\n" } else { "" };
        // Nobody listening is no reason to stop.
        let _ = write!(stderr, "\rwindow {done} of {all}: {text} {end}");
    }
}
