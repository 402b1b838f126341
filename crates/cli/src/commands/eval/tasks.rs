//! `supple eval tasks`: what share of a test's questions a language model gets right.

use super::progress;
use crate::commands::language_model::Compute;
use crate::interrupt;
use crate::report::{Exit, Problem, show, show_json, table};
use serde_json::json;
use std::path::PathBuf;
use supple::text::tasks::{ModelScorer, Task, ask};

const EXAMPLES: &str = "\
Examples:
  supple eval tasks model.gguf hellaswag=hellaswag_val.jsonl
  supple eval tasks model.gguf arc=ARC-Challenge-Test.jsonl piqa=valid.jsonl --limit 200
  supple eval tasks model.gguf mmlu=mmlu_test.jsonl --json

Files have one JSON object a line, with the fields that the test's authors gave them:
  hellaswag   activity_label, ctx_a, ctx_b, endings, label
  arc         question, choices {text, label}, answerKey
  piqa        goal, sol1, sol2, label
  boolq       passage, question, answer (or label)
  winogrande  sentence, option1, option2, answer
  lambada     text
  mmlu        question, choices, answer, subject

Prompts and scores are those of EleutherAI's evaluation harness without examples in the prompt; \"normalised\" is its acc_norm.";

/// Measure a language model on tests with questions and answers
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// GGUF file, Hugging Face folder, or hf:owner/name
    model: PathBuf,

    /// Tests and their files, as NAME=FILE
    #[arg(required = true, value_name = "TEST=FILE")]
    tests: Vec<String>,

    /// Only the first N questions of each
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    #[command(flatten)]
    compute: Compute,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    // Files first: what is wrong with them shows before a model is loaded.
    let limit = args.limit.map(|limit| limit as usize);
    let tests = args.tests.iter().map(|test| {
        let (name, file) = test.split_once('=').ok_or_else(|| {
            Problem::usage(format!("{test:?} is not NAME=FILE")).hint("hellaswag=hellaswag_val.jsonl")
        })?;
        let task = Task::named(name).ok_or_else(|| {
            let known = Task::ALL.map(Task::name).join(", ");
            Problem::usage(format!("no test called {name:?}")).hint(format!("known are {known}"))
        })?;
        Ok((task, task.read(file.as_ref(), limit)?))
    });
    let tests = tests.collect::<anyhow::Result<Vec<_>>>()?;
    let generator = args.compute.open(&args.model)?;
    interrupt::install();
    let mut scorer = ModelScorer::new(&generator)?;
    let mut rows = vec![["test", "questions", "accuracy", "normalised", "perplexity"].map(String::from)];
    let mut list = Vec::new();
    for (task, questions) in &tests {
        let result = ask(questions, &mut scorer, &mut |done, all, accuracy| {
            progress(done, all, &format!("{} {:.1} %", task.name(), 100.0 * accuracy));
            !interrupt::asked()
        })?;
        let percent = |share: f64, error: f64| format!("{:.1} ± {:.1} %", 100.0 * share, 100.0 * error);
        let normalized = result.normalized.map_or_else(|| "-".into(), |(share, error)| percent(share, error));
        rows.push([
            task.name().into(),
            result.questions.to_string(),
            percent(result.accuracy, result.accuracy_error),
            normalized,
            result.perplexity.map_or_else(|| "-".into(), |perplexity| format!("{perplexity:.2}")),
        ]);
        list.push(json!({
            "test": task.name(),
            "questions": result.questions,
            "accuracy": result.accuracy,
            "accuracy_error": result.accuracy_error,
            "normalized": result.normalized.map(|(share, _)| share),
            "normalized_error": result.normalized.map(|(_, error)| error),
            "perplexity": result.perplexity,
        }));
    }
    if args.json {
        show_json(&json!({ "model": args.model.display().to_string(), "tests": list }))?;
    } else {
        show(&table(&rows))?;
    }
    Ok(Exit::Done)
}
