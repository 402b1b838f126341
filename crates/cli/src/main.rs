//! The `supple` command: parse, call one pipeline of the library, show.

mod commands;
mod interrupt;
mod machine;
mod report;
mod size;

use clap::{CommandFactory, Parser, Subcommand};
use commands::{
    bench, chat, classify, compare, completions, compress, convert, doctor, download, eval, generate, inspect, launch,
    models, plot, train, upscale,
};
use report::Exit;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  supple upscale photo.jpg                     write photo_x4.png beside it
  supple upscale photos/ -o large/ -s 2        a folder with all below it, twice as large
  supple classify photo.jpg -m net.tflite      name what is in it
  supple chat model.gguf                       talk with a language model
  supple doctor                                what this machine offers

'supple COMMAND --help' explains a command and shows examples.

Exit status: 0 done, 1 something failed (the rest is done), 2 wrong usage, 130 interrupted.";

/// Make generative and vision models small and fast, and run them
#[derive(Debug, Parser)]
#[command(name = "supple", bin_name = "supple", version, after_help = EXAMPLES, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Upscale(upscale::Args),
    Classify(classify::Args),
    Chat(chat::Args),
    Generate(generate::Args),
    Compress(compress::Args),
    Train(train::Args),
    Launch(launch::Args),
    Plot(plot::Args),
    Compare(compare::Args),
    Models(models::Args),
    Download(download::Args),
    Inspect(inspect::Args),
    Convert(convert::Args),
    Doctor(doctor::Args),
    Eval(eval::Args),
    Bench(bench::Args),
    Completions(completions::Args),
}

fn run(command: &Command) -> anyhow::Result<Exit> {
    match command {
        Command::Upscale(args) => upscale::run(args),
        Command::Classify(args) => classify::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Compress(args) => compress::run(args),
        Command::Train(args) => train::run(args),
        Command::Launch(args) => launch::run(args),
        Command::Plot(args) => plot::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Models(args) => models::run(args),
        Command::Download(args) => download::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Completions(args) => completions::run(args),
    }
}

fn main() -> ExitCode {
    // A panic is a bug. What it leaves on the screen is a line that can be reported.
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("no message").lines().next().unwrap_or_default();
        let place = panic.location().map(|l| format!(" ({}:{})", l.file(), l.line())).unwrap_or_default();
        report::say(&format!("error: internal error: {text}{place}\nhint: this is a bug in supple, please report it"));
    }));
    let cli = Cli::parse();
    let Some(command) = &cli.command else {
        let help = Cli::command().render_help();
        let exit = report::show(&help.to_string()).map_or(Exit::Failed, |()| Exit::Done);
        return exit.into();
    };
    let exit = std::panic::catch_unwind(|| run(command)).unwrap_or(Ok(Exit::Failed));
    exit.unwrap_or_else(|error| {
        report::print(&error);
        report::exit(&error)
    })
    .into()
}
