//! What a person sees while pictures are enlarged: a bar with the time left and Mpixel/s on a terminal, a line for each
//! picture, and a summary. All of it goes to standard error; standard output belongs to pictures and JSON.

use crate::report::say;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The display of one batch.
pub struct Display {
    quiet: bool,
    bar: ProgressBar,
    /// Number of pictures in the batch, and of those begun.
    total: usize,
    begun: AtomicUsize,
}

impl Display {
    /// A display for `total` pictures; silent but for errors if `quiet`.
    pub fn new(total: usize, quiet: bool) -> Display {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        if !quiet && std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        }
        bar.set_style(style());
        Display { quiet, bar, total, begun: AtomicUsize::new(0) }
    }

    /// This picture is now in work.
    pub fn begin(&self, name: &str) {
        let begun = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let count = if self.total > 1 { format!("[{begun}/{}] ", self.total) } else { String::new() };
        self.bar.set_length(0);
        self.bar.reset();
        self.bar.set_message(format!("{count}{name}"));
    }

    /// So many of the picture's pixels are done.
    pub fn advance(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// Prints a line that stays, unless the display is quiet.
    pub fn note(&self, line: &str) {
        if !self.quiet {
            self.bar.suspend(|| say(line));
        }
    }

    /// Prints a line that stays even if the display is quiet.
    pub fn error(&self, line: &str) {
        self.bar.suspend(|| say(line));
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn style() -> ProgressStyle {
    let rate = |state: &ProgressState, w: &mut dyn std::fmt::Write| {
        let _ = write!(w, "{:.2} Mpixel/s", state.per_sec() / 1e6);
    };
    let left = |state: &ProgressState, w: &mut dyn std::fmt::Write| {
        // Before the first report there is nothing to estimate from.
        let _ = match state.pos() {
            0 => write!(w, "--:--"),
            _ => write!(w, "{}", clock(state.eta())),
        };
    };
    ProgressStyle::with_template("{wide_msg} {bar:24} {percent:>3}%  {left} left  {rate}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", rate)
        .with_key("left", left)
        .progress_chars("━╸ ")
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let mut text = String::new();
    if seconds >= 3600 {
        let _ = write!(text, "{}:", seconds / 3600);
    }
    let _ = write!(text, "{:02}:{:02}", seconds / 60 % 60, seconds % 60);
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_read_like_a_clock() {
        assert_eq!(super::clock(std::time::Duration::from_secs(75)), "01:15");
        assert_eq!(super::clock(std::time::Duration::from_secs(3 * 3600 + 61)), "3:01:01");
    }
}
