//! `supple eval`: how good models are.

mod cnn;
mod sr;

use crate::report::Exit;

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
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    match &args.task {
        Task::Sr(args) => sr::run(args),
        Task::Cnn(args) => cnn::run(args),
    }
}
