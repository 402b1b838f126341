//! `supple bench`: how fast models run, and are trained, on this machine.

mod cnn;
mod llm;
mod sr;
mod train;

use crate::report::Exit;

/// Measure speed
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, clap::Subcommand)]
enum Task {
    Sr(sr::Args),
    Cnn(cnn::Args),
    Train(train::Args),
    Llm(llm::Args),
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    match &args.task {
        Task::Sr(args) => sr::run(args),
        Task::Cnn(args) => cnn::run(args),
        Task::Train(args) => train::run(args),
        Task::Llm(args) => llm::run(args),
    }
}

/// The middle of sorted values, or the mean of the two middle ones.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        _ if sorted.is_empty() => f64::NAN,
        1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}
