//! What a person sees when something goes wrong: one line `error: …`, where possible one line `hint: …`, and an exit
//! status. Also the two ways to print that survive a closed pipe.

use std::fmt;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// How a command ended. The numbers are part of the command's interface and stand in its help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything asked for was done.
    Done = 0,
    /// Something could not be done; the rest was.
    Failed = 1,
    /// The command line asks for something that makes no sense; nothing was started.
    Usage = 2,
    /// Ctrl-C.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// An error of the command itself, as opposed to one of the library.
#[derive(Debug)]
pub struct Problem {
    message: String,
    hint: Option<String>,
    exit: Exit,
}

impl Problem {
    /// Something that went wrong while working.
    pub fn failed(message: impl Into<String>) -> Problem {
        Problem { message: message.into(), hint: None, exit: Exit::Failed }
    }

    /// A command line that makes no sense.
    pub fn usage(message: impl Into<String>) -> Problem {
        Problem { message: message.into(), hint: None, exit: Exit::Usage }
    }

    /// Says what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

/// The error in one line: its message and those of its causes, each said once.
pub fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let part = one_line(&cause.to_string());
        if text.is_empty() {
            text = part;
        } else if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
    }
    text
}

/// What to do about the error, if something is known.
pub fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        let own = cause.downcast_ref::<Problem>().and_then(|problem| problem.hint.clone());
        own.or_else(|| cause.downcast_ref::<supple::Error>().and_then(|error| error.hint()).map(|hint| one_line(&hint)))
    })
}

/// The exit status that the error asks for.
pub fn exit(error: &anyhow::Error) -> Exit {
    let own = |cause: &(dyn std::error::Error + 'static)| match cause.downcast_ref::<supple::Error>() {
        Some(supple::Error::Cancelled) => Some(Exit::Interrupted),
        _ => cause.downcast_ref::<Problem>().map(|problem| problem.exit),
    };
    error.chain().find_map(own).unwrap_or(Exit::Failed)
}

/// Prints the error and its hint.
pub fn print(error: &anyhow::Error) {
    say(&format!("error: {}", message(error)));
    if let Some(hint) = hint(error) {
        say(&format!("hint: {hint}"));
    }
}

/// A bug that a picture brings to light costs that picture, not the batch.
pub fn guard<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let panicked = |_| Err(Problem::failed("internal error").hint("this is a bug in supple, please report it").into());
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(panicked)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Prints a line on standard error; nobody listening there is no reason to stop.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Prints text on standard output. A reader who has seen enough (`supple models | head -1`) is no error.
pub fn show(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(anyhow::Error::new(error).context("cannot write to standard output")),
        Ok(()) => Ok(()),
    }
}

/// Prints a value as JSON on standard output.
pub fn show_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    show(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Rows as text, each column as wide as it has to be.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_and_says_nothing_twice() {
        let error =
            anyhow::anyhow!("disk full\nreally").context("cannot write a.png: disk full really").context("a.jpg");
        assert_eq!(message(&error), "a.jpg: cannot write a.png: disk full really");
    }

    #[test]
    fn hint_and_exit_survive_added_context() {
        let error = anyhow::Error::new(Problem::usage("no").hint("do")).context("outer");
        assert_eq!((hint(&error).as_deref(), exit(&error)), (Some("do"), Exit::Usage));
        assert_eq!(exit(&anyhow::anyhow!("x")), Exit::Failed);
    }
}
