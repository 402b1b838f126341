//! What became of each picture, for people and for scripts.

use super::precision_name;
use crate::commands::inputs::Unreadable;
use crate::commands::progress::Display;
use crate::{report, size};
use std::path::Path;
use supple::{Classifier, Prediction};

/// What became of one picture.
#[derive(Debug)]
pub struct Record {
    /// Name of the input.
    pub input: String,
    /// How far it came.
    pub state: State,
}

/// How far a picture came.
#[derive(Debug)]
pub enum State {
    /// The batch was interrupted before.
    NotStarted,
    /// Something is wrong with it.
    Failed(anyhow::Error),
    /// Done.
    Classified(Vec<Prediction>),
}

impl Record {
    /// An argument or folder that holds no picture.
    pub fn unreadable(what: &Unreadable) -> Record {
        Record { input: what.name.clone(), state: State::Failed(what.error()) }
    }
}

/// The names of a picture: a line if there is only one, else a block.
pub fn text(input: &str, predictions: &[Prediction], one_line: bool) -> String {
    let percent = |p: &Prediction| format!("{:5.1} %  {}", p.probability * 100.0, p.name());
    match predictions {
        [only] if one_line => format!("{input}  {}\n", percent(only).trim_start()),
        _ => {
            let lines = predictions.iter().map(|p| format!("  {}\n", percent(p)));
            std::iter::once(format!("{input}\n")).chain(lines).collect()
        }
    }
}

/// Prints how the batch went, failures with what to do about them last.
pub fn summary(records: &[Record], seconds: f64, interrupted: bool, display: &Display) {
    let count = |is: fn(&State) -> bool| records.iter().filter(|record| is(&record.state)).count();
    let mut parts = vec![format!("{} classified", count(|state| matches!(state, State::Classified(_))))];
    for (number, what) in [
        (count(|state| matches!(state, State::Failed(_))), "failed"),
        (count(|state| matches!(state, State::NotStarted)), "not started"),
    ] {
        if number > 0 {
            parts.push(format!("{number} {what}"));
        }
    }
    parts.push(size::seconds(seconds));
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
pub fn json(
    records: &[Record],
    model: &Path,
    classifier: &Classifier,
    seconds: f64,
    interrupted: bool,
) -> serde_json::Value {
    let files: Vec<_> = records
        .iter()
        .map(|Record { input, state }| match state {
            State::Classified(predictions) => {
                serde_json::json!({ "input": input, "state": "classified", "predictions": predictions })
            }
            State::Failed(error) => serde_json::json!({
                "input": input, "state": "failed", "error": report::message(error), "hint": report::hint(error),
            }),
            State::NotStarted => serde_json::json!({ "input": input, "state": "not started" }),
        })
        .collect();
    let count = |state: &str| files.iter().filter(|file| file["state"] == state).count();
    serde_json::json!({
        "classified": count("classified"),
        "failed": count("failed"),
        "interrupted": interrupted,
        "seconds": seconds,
        "model": model,
        "network": classifier.name(),
        "classes": classifier.outputs(),
        "precision": precision_name(classifier.precision()),
        "isa": classifier.cpu().isa.name(),
        "threads": classifier.cpu().threads(),
        "files": files,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_is_a_line_and_several_are_a_block() {
        let owl = Prediction { index: 24, label: Some("owl".into()), probability: 0.9312 };
        let other = Prediction { index: 7, label: None, probability: 0.05 };
        assert_eq!(text("a.jpg", std::slice::from_ref(&owl), true), "a.jpg  93.1 %  owl\n");
        assert_eq!(text("a.jpg", &[owl, other], false), "a.jpg\n   93.1 %  owl\n    5.0 %  class 7\n");
    }
}
