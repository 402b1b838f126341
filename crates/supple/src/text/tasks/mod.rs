//! Tests with questions and answers, from files on this machine: what share of them a model gets right.
//!
//! A question is scored as EleutherAI's evaluation harness does without examples in the prompt: of several continuations of a
//! text, the one that the model finds likeliest is its answer. *Normalised* accuracy divides the logarithm of a
//! continuation's probability by its length in characters first, so that long answers have a chance.

mod format;
mod score;

pub use score::ModelScorer;

use crate::Error;
use std::path::Path;

/// A test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// How does this go on? Four endings (Zellers et al., 2019).
    HellaSwag,
    /// Questions of school science, easy or hard (Clark et al., 2018).
    Arc,
    /// Which of two ways works? (Bisk et al., 2020)
    Piqa,
    /// Yes or no, about a passage (Clark et al., 2019).
    BoolQ,
    /// Whom does the gap stand for? (Sakaguchi et al., 2019)
    WinoGrande,
    /// The last word of a passage (Paperno et al., 2016).
    Lambada,
    /// Questions of 57 subjects with four answers (Hendrycks et al., 2021).
    Mmlu,
}

/// A question.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Texts and how each may go on.
    pub choices: Vec<Choice>,
    /// The right one.
    pub answer: usize,
}

/// A text and how it may go on.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The text.
    pub context: String,
    /// What follows, with the space that parts the two.
    pub continuation: String,
}

/// How likely a continuation is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likelihood {
    /// The logarithm of its probability.
    pub log_prob: f64,
    /// Whether each of its tokens is the likeliest one.
    pub greedy: bool,
}

/// Who tells how likely a continuation is.
pub trait Scorer {
    /// The likelihood of each continuation.
    ///
    /// # Errors
    /// If a text is longer than the model's context, or the model cannot be run.
    fn score(&mut self, choices: &[Choice]) -> Result<Vec<Likelihood>, Error>;
}

/// What a model achieved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Achieved {
    /// Questions.
    pub questions: usize,
    /// Share of right answers.
    pub accuracy: f64,
    /// Its standard error.
    pub accuracy_error: f64,
    /// Share of right answers by likelihood per character, and its standard error; of tests with several answers.
    pub normalized: Option<(f64, f64)>,
    /// The perplexity of the right words; of tests that ask for one.
    pub perplexity: Option<f64>,
}

impl Task {
    /// All tests.
    pub const ALL: [Task; 7] =
        [Task::HellaSwag, Task::Arc, Task::Piqa, Task::BoolQ, Task::WinoGrande, Task::Lambada, Task::Mmlu];

    /// Its name in commands.
    pub fn name(self) -> &'static str {
        match self {
            Task::HellaSwag => "hellaswag",
            Task::Arc => "arc",
            Task::Piqa => "piqa",
            Task::BoolQ => "boolq",
            Task::WinoGrande => "winogrande",
            Task::Lambada => "lambada",
            Task::Mmlu => "mmlu",
        }
    }

    /// The fields that a line of its file has.
    pub fn fields(self) -> &'static str {
        match self {
            Task::HellaSwag => "activity_label, ctx_a, ctx_b, endings, label",
            Task::Arc => "question, choices {text, label}, answerKey",
            Task::Piqa => "goal, sol1, sol2, label",
            Task::BoolQ => "passage, question, answer (or label)",
            Task::WinoGrande => "sentence, option1, option2, answer",
            Task::Lambada => "text",
            Task::Mmlu => "question, choices, answer, subject",
        }
    }

    /// The test of this name.
    pub fn named(name: &str) -> Option<Task> {
        Task::ALL.into_iter().find(|task| task.name() == name)
    }

    /// Reads questions from a file with one JSON object a line, fields as the test's authors name them. At most `limit`.
    ///
    /// # Errors
    /// If the file cannot be read, a line is no such object, or there is no line.
    pub fn read(self, path: &Path, limit: Option<usize>) -> Result<Vec<Question>, Error> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let questions = lines.take(limit.unwrap_or(usize::MAX)).map(|(number, line)| {
            let refused =
                |detail: String| Error::BadOption(format!("{}, line {}: {detail}", path.display(), number + 1));
            let value = serde_json::from_str(line).map_err(|error| refused(format!("not JSON ({error})")))?;
            format::question(self, &value)
                .ok_or_else(|| refused(format!("not a question of {}, which has {}", self.name(), self.fields())))
        });
        let questions: Vec<Question> = questions.collect::<Result<_, _>>()?;
        if questions.is_empty() {
            return Err(Error::BadOption(format!("{}: there are no questions in it", path.display())));
        }
        Ok(questions)
    }
}

/// Continuations that are scored together.
const TOGETHER: usize = 32;

/// Asks all questions, several at a time. `progress(done, all, accuracy so far)` is asked after each whether to go on.
///
/// # Errors
/// [`Error::Cancelled`], or what the scorer reports.
pub fn ask(
    questions: &[Question],
    scorer: &mut dyn Scorer,
    progress: &mut dyn FnMut(usize, usize, f64) -> bool,
) -> Result<Achieved, Error> {
    let (mut right, mut right_by_length, mut losses) = (0usize, 0usize, 0.0);
    let several = questions.iter().any(|question| question.choices.len() > 1);
    let (mut done, mut rest) = (0, questions);
    while !rest.is_empty() {
        // As many as fit, but one in any case.
        let sizes = rest.iter().scan(0, |sum, question| {
            *sum += question.choices.len();
            Some(*sum)
        });
        let count = sizes.take_while(|&sum| sum <= TOGETHER).count().max(1);
        let (now, later) = rest.split_at(count);
        rest = later;
        let choices: Vec<Choice> = now.iter().flat_map(|question| question.choices.iter().cloned()).collect();
        let all = scorer.score(&choices)?;
        let mut at = 0;
        for question in now {
            let scores = &all[at..at + question.choices.len()];
            at += question.choices.len();
            done += 1;
            if several {
                right += usize::from(best(scores.iter().map(|score| score.log_prob)) == question.answer);
                let lengths =
                    question.choices.iter().map(|choice| choice.continuation.trim_start().chars().count().max(1));
                let by_length = scores.iter().zip(lengths).map(|(score, len)| score.log_prob / len as f64);
                right_by_length += usize::from(best(by_length) == question.answer);
            } else {
                right += usize::from(scores[0].greedy);
                losses -= scores[0].log_prob;
            }
            if !progress(done, questions.len(), right as f64 / done as f64) {
                return Err(Error::Cancelled);
            }
        }
    }
    let n = questions.len() as f64;
    let share = |right: usize| {
        let share = right as f64 / n;
        (share, (share * (1.0 - share) / (n - 1.0).max(1.0)).sqrt())
    };
    let (accuracy, accuracy_error) = share(right);
    Ok(Achieved {
        questions: questions.len(),
        accuracy,
        accuracy_error,
        normalized: several.then(|| share(right_by_length)),
        perplexity: (!several).then(|| (losses / n).exp()),
    })
}

/// The index of the largest value, the first of equal ones.
fn best(values: impl Iterator<Item = f64>) -> usize {
    values.enumerate().fold((0, f64::NEG_INFINITY), |best, (i, v)| if v > best.1 { (i, v) } else { best }).0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Likes letters `a`, and nothing else.
    struct Letters;

    impl Scorer for Letters {
        fn score(&mut self, choices: &[Choice]) -> Result<Vec<Likelihood>, Error> {
            let of = |choice: &Choice| {
                let others = choice.continuation.trim_start().chars().filter(|&c| c != 'a').count();
                Likelihood { log_prob: -(others as f64) - 0.5, greedy: others == 0 }
            };
            Ok(choices.iter().map(of).collect())
        }
    }

    fn question(choices: &[&str], answer: usize) -> Question {
        let choice = |text: &&str| Choice { context: "Q:".into(), continuation: format!(" {text}") };
        Question { choices: choices.iter().map(choice).collect(), answer }
    }

    #[test]
    fn length_matters_only_where_it_should() {
        // "b" has the least to lose, "aaaaaabb" the least a letter.
        let questions = [question(&["b", "aaaaaabb"], 1), question(&["bb", "a"], 1)];
        let achieved = ask(&questions, &mut Letters, &mut |_, _, _| true).unwrap();
        assert_eq!((achieved.questions, achieved.accuracy, achieved.perplexity), (2, 0.5, None));
        assert_eq!(achieved.normalized.unwrap().0, 1.0);
        assert!((achieved.accuracy_error - 0.5).abs() < 1e-12);
    }

    #[test]
    fn a_word_is_right_if_it_would_have_been_chosen() {
        let achieved = ask(&[question(&["aa"], 0), question(&["ab"], 0)], &mut Letters, &mut |_, _, _| true).unwrap();
        assert_eq!((achieved.accuracy, achieved.normalized), (0.5, None));
        assert!((achieved.perplexity.unwrap() - 1f64.exp()).abs() < 1e-12);
        assert!(matches!(ask(&[question(&["a"], 0)], &mut Letters, &mut |_, _, _| false), Err(Error::Cancelled)));
    }

    #[test]
    fn files_that_hold_something_else_are_refused_with_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("piqa.jsonl");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Task::Piqa.read(&file, None).map_err(|error| error.to_string())
        };
        let good = r#"{"goal": "g", "sol1": "x", "sol2": "y", "label": 1}"#;
        assert_eq!(read(&format!("{good}\n\n{good}\n")).unwrap().len(), 2);
        assert!(read(&format!("{good}\nnonsense\n")).unwrap_err().contains("line 2: not JSON"));
        assert!(read(r#"{"goal": "g"}"#).unwrap_err().contains("which has goal, sol1, sol2, label"));
        assert!(read(r#"{"goal": "g", "sol1": "x", "sol2": "y", "label": 2}"#).is_err(), "there is no third answer");
        assert!(read("\n").unwrap_err().contains("no questions"));
        assert_eq!(Task::named("piqa"), Some(Task::Piqa));
        assert_eq!(Task::named("pica"), None);
    }
}
