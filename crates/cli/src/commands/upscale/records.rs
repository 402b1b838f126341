//! What became of each picture of a batch, for people and for scripts.

use super::Networks;
use super::timings::Timings;
use crate::commands::inputs::Unreadable;
use crate::commands::progress::Display;
use crate::report;
use crate::size;
use serde::Serialize;

/// What became of one picture.
#[derive(Debug)]
pub struct Record {
    /// Name of the input.
    pub input: String,
    /// Name of the output, unless the input is no picture.
    pub output: Option<String>,
    /// How far it came.
    pub state: State,
}

/// How far a picture came.
#[derive(Debug)]
pub enum State {
    /// The batch was interrupted before.
    NotStarted,
    /// Begun when the batch was interrupted.
    Dropped,
    /// Something is wrong with it.
    Failed(anyhow::Error),
    /// Done.
    Written(Written),
}

/// What was written.
#[derive(Debug, Serialize)]
pub struct Written {
    /// Width of the input.
    pub width: usize,
    /// Height of the input.
    pub height: usize,
    /// Width of the output.
    pub output_width: usize,
    /// Height of the output.
    pub output_height: usize,
    /// Time from the decoded input to the written output.
    pub seconds: f64,
    /// Where the time went, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// What a person may want to know.
    pub notes: Vec<String>,
}

impl Record {
    /// An argument or folder that holds no picture.
    pub fn unreadable(what: Unreadable) -> Record {
        Record { state: State::Failed(what.error()), input: what.name, output: None }
    }

    /// Whether it failed.
    pub fn has_failed(&self) -> bool {
        matches!(self.state, State::Failed(_))
    }

    /// Whether it was neither written nor failed.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::NotStarted | State::Dropped)
    }
}

/// Prints how the batch went, failures with what to do about them last.
pub fn summary(records: &[Record], earlier: usize, seconds: f64, interrupted: bool, display: &Display) {
    let count = |is: fn(&Record) -> bool| records.iter().filter(|record| is(record)).count();
    let mut parts = vec![format!("{} written", count(|r| matches!(r.state, State::Written(_))))];
    for (number, what) in [
        (count(Record::has_failed), "failed"),
        (count(|r| matches!(r.state, State::Dropped)), "dropped"),
        (count(|r| matches!(r.state, State::NotStarted)), "not started"),
    ] {
        if number > 0 {
            parts.push(format!("{number} {what}"));
        }
    }
    parts.push(size::seconds(seconds));
    if earlier > 0 {
        let results = if earlier == 1 { "result" } else { "results" };
        display.note(&format!("left out: {earlier} {results} of earlier runs"));
    }
    if interrupted {
        display.error(&format!("interrupted: {}", parts.join(", ")));
    } else if records.len() > 1 {
        display.note(&format!("{} pictures: {}", records.len(), parts.join(", ")));
    }
    display.failures(records.iter().filter_map(|record| match &record.state {
        State::Failed(error) => Some(error),
        _ => None,
    }));
}

/// The batch as JSON.
pub fn json(records: &[Record], networks: &Networks, seconds: f64, interrupted: bool) -> serde_json::Value {
    let files = records.iter().map(|record| {
        let mut file = match &record.state {
            State::Written(written) => serde_json::json!(written),
            State::Failed(error) => {
                serde_json::json!({ "error": report::message(error), "hint": report::hint(error) })
            }
            State::Dropped | State::NotStarted => serde_json::json!({}),
        };
        file["input"] = record.input.clone().into();
        file["output"] = record.output.clone().into();
        file["state"] = match &record.state {
            State::Written(_) => "written",
            State::Failed(_) => "failed",
            State::Dropped => "dropped",
            State::NotStarted => "not started",
        }
        .into();
        file
    });
    let files: Vec<_> = files.collect();
    let count = |state: &str| files.iter().filter(|file| file["state"] == state).count();
    let cpu = networks.loaded.values().next().map(|upscaler| upscaler.cpu());
    serde_json::json!({
        "written": count("written"),
        "failed": count("failed"),
        "interrupted": interrupted,
        "seconds": seconds,
        "scale": networks.scale,
        "models": networks.names,
        "isa": cpu.map(|cpu| cpu.isa.name()),
        "threads": cpu.map(supple::Cpu::threads),
        "files": files,
    })
}
