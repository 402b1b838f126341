//! `supple classify`: which network (`args`), the work, and what came out (`records`).

mod args;
mod records;

pub use args::{Args, Network, Numbers, precision_name};

use super::inputs::{self, Source};
use super::progress::Display;
use crate::interrupt;
use crate::report::{self, Exit, Problem, guard, show, show_json};
use records::{Record, State};
use std::io::IsTerminal;
use std::path::Path;
use std::time::Instant;
use supple::classifier::READERS;
use supple::picture::Limits;
use supple::{Classifier, Picture};

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let start = Instant::now();
    let model = args.network.model()?;
    let mut classifier = Classifier::open(model, args.network.options())?;
    let found = inputs::expand(&args.inputs, None);
    if found.list.iter().any(|input| input.source == Source::Stdin) && std::io::stdin().is_terminal() {
        let problem = Problem::usage("standard input is a terminal");
        return Err(problem.hint("supple classify - -m FILE < picture.png").into());
    }

    interrupt::install();
    let display = Display::of_pictures(found.list.len(), args.quiet || args.json);
    let mut limits = Limits::default();
    limits.max_pixels = args.max_pixels.unwrap_or(limits.max_pixels);
    limits.max_memory /= READERS.min(found.list.len()).max(1) as u64;
    let read = |i: usize| -> anyhow::Result<Picture> {
        let source = &found.list[i].source;
        let decoded = guard(|| source.read(&limits))?;
        for note in &decoded.notes {
            display.note(&format!("{}: {note}", source.name()));
        }
        Ok(decoded.picture)
    };
    let mut records: Vec<Record> = found.problems.iter().map(Record::unreadable).collect();
    let before = records.len();
    records.extend(found.list.iter().map(|input| Record { input: input.source.name(), state: State::NotStarted }));
    let mut shown = Ok(());
    classifier.classify_many(found.list.len(), args.top as usize, &read, &mut |i, result| {
        let record = &mut records[before + i];
        match result {
            Ok(predictions) => {
                if !args.json {
                    shown = display.suspend(|| show(&records::text(&record.input, &predictions, args.top == 1)));
                }
                record.state = State::Classified(predictions);
            }
            Err(error) => {
                if found.list.len() > 1 {
                    display.note(&format!("failed: {}", report::message(&error)));
                }
                record.state = State::Failed(error);
            }
        }
        display.count(i + 1, &record.input);
        shown.is_ok() && !interrupt::asked()
    });
    display.clear();
    shown?;
    if let Some(reason) = classifier.stand_in() {
        display.note(&format!("note: {reason}"));
    }

    let seconds = start.elapsed().as_secs_f64();
    let interrupted = interrupt::asked() && records.iter().any(|record| matches!(record.state, State::NotStarted));
    records::summary(&records, seconds, interrupted, &display);
    if args.json {
        show_json(&records::json(&records, model, &classifier, seconds, interrupted))?;
    }
    Ok(match (interrupted, records.iter().any(|record| matches!(record.state, State::Failed(_)))) {
        (true, _) => Exit::Interrupted,
        (false, true) => Exit::Failed,
        (false, false) => Exit::Done,
    })
}

impl Network {
    /// The file of the network.
    pub fn model(&self) -> Result<&Path, Problem> {
        self.model.as_deref().ok_or_else(|| {
            let problem = Problem::usage("no classifier is bundled: name one with --model FILE");
            problem.hint(
                "for example a MobileNet as TFLite, from TensorFlow's models at kaggle.com/models/google, or a network \
                 of your own; 'supple classify --help' says what works",
            )
        })
    }
}
