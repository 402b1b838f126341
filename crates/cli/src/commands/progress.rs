//! What a person sees while a batch is worked on: a bar with the time left on a terminal, a line for each picture, and
//! a summary. All of it goes to standard error; standard output belongs to results.

use crate::report::{self, say};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

/// The display of one batch.
pub struct Display {
    quiet: bool,
    bar: ProgressBar,
    /// Number of pictures in the batch.
    total: usize,
}

impl Display {
    /// A display for `total` pictures whose pixels are counted one picture after the other; silent but for errors if
    /// `quiet`.
    pub fn of_pixels(total: usize, quiet: bool) -> Display {
        Display::new(total, quiet, style(1e6, 3, "Mpixel/s"))
    }

    /// A display that counts `total` pictures; silent but for errors if `quiet`.
    pub fn of_pictures(total: usize, quiet: bool) -> Display {
        let display = Display::new(total, quiet, style(1.0, 1, "pictures/s"));
        display.bar.set_length(total as u64);
        display
    }

    fn new(total: usize, quiet: bool, style: ProgressStyle) -> Display {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        if !quiet && std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        }
        bar.set_style(style);
        Display { quiet, bar, total }
    }

    /// The picture number `index` is now in work.
    pub fn begin(&self, index: usize, name: &str) {
        let count = if self.total > 1 { format!("[{}/{}] ", index + 1, self.total) } else { String::new() };
        self.bar.set_length(0);
        self.bar.reset();
        self.bar.set_message(format!("{count}{name}"));
    }

    /// So many of the picture's pixels are done.
    pub fn advance(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// So many pictures are done, `name` the last of them.
    pub fn count(&self, done: usize, name: &str) {
        self.bar.set_message(format!("[{done}/{}] {name}", self.total));
        self.bar.set_position(done as u64);
    }

    /// Does what writes to the terminal itself while the bar is out of its way.
    pub fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    /// Prints failures, and once each what to do about them.
    pub fn failures<'a>(&self, errors: impl Iterator<Item = &'a anyhow::Error>) {
        let mut hints = Vec::new();
        for error in errors {
            self.error(&format!("error: {}", report::message(error)));
            // Most failures of a batch have the same remedy.
            hints.extend(report::hint(error).filter(|hint| !hints.contains(hint)));
        }
        for hint in hints {
            self.error(&format!("hint: {hint}"));
        }
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

/// Progress with its speed in multiples of `unit`.
fn style(unit: f64, digits: usize, name: &'static str) -> ProgressStyle {
    // Means since the work was begun: a network gets through its rows evenly, and short pictures leave no time for
    // a moving estimate to settle.
    let rate = move |state: &ProgressState, w: &mut dyn std::fmt::Write| {
        let per_second = state.pos() as f64 / state.elapsed().as_secs_f64().max(1e-6);
        let _ = write!(w, "{:.digits$} {name}", per_second / unit);
    };
    let left = |state: &ProgressState, w: &mut dyn std::fmt::Write| {
        let part = f64::from(state.fraction());
        let _ = match state.pos() {
            0 => write!(w, "--:--"),
            _ => write!(w, "{}", clock(state.elapsed().mul_f64((1.0 - part) / part.max(1e-6)))),
        };
    };
    ProgressStyle::with_template("{wide_msg} {bar:16} {percent:>3}%  {left} left  {rate}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", rate)
        .with_key("left", left)
        .progress_chars("━╸ ")
}

/// A time as a clock shows it.
pub fn clock(time: Duration) -> String {
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
