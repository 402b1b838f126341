//! `supple completions`: completion scripts for shells.

use crate::report::{Exit, show};
use clap::CommandFactory;

const EXAMPLES: &str = "\
Examples:
  supple completions bash > ~/.local/share/bash-completion/completions/supple
  supple completions zsh > \"${fpath[1]}/_supple\"
  supple completions fish > ~/.config/fish/completions/supple.fish";

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: clap_complete::Shell,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "supple", &mut text);
    show(&String::from_utf8_lossy(&text))?;
    Ok(Exit::Done)
}
