//! Questions as prompts, in the harness's words.

use super::{Choice, Question, Task};
use serde_json::Value;

/// The question that a line holds, or `None` if it is none of this test.
pub fn question(task: Task, line: &Value) -> Option<Question> {
    let text = |key: &str| line[key].as_str();
    let several = |context: &str, continuations: Vec<String>, answer: usize| {
        let choice =
            |continuation: String| Choice { context: context.to_owned(), continuation: format!(" {continuation}") };
        let choices: Vec<Choice> = continuations.into_iter().map(choice).collect();
        (answer < choices.len()).then_some(Question { choices, answer })
    };
    match task {
        Task::HellaSwag => {
            let context = format!("{}: {} {}", text("activity_label")?, text("ctx_a")?, capitalized(text("ctx_b")?));
            let endings = strings(&line["endings"])?;
            several(&cleaned(&context), endings.iter().map(|ending| cleaned(ending)).collect(), number(&line["label"])?)
        }
        Task::Arc => {
            let labels = strings(&line["choices"]["label"])?;
            let key = text("answerKey")?;
            let answer = labels.iter().position(|label| *label == key)?;
            let answers = strings(&line["choices"]["text"])?;
            several(&asked(text("question")?), answers.into_iter().map(str::to_owned).collect(), answer)
        }
        Task::Piqa => {
            let answers = vec![text("sol1")?.to_owned(), text("sol2")?.to_owned()];
            several(&asked(text("goal")?), answers, number(&line["label"])?)
        }
        Task::BoolQ => {
            let answer = line["answer"].as_bool().map(usize::from).or_else(|| number(&line["label"]))?;
            let context = format!("{}\nQuestion: {}?\nAnswer:", text("passage")?, text("question")?);
            several(&context, vec!["no".into(), "yes".into()], answer)
        }
        Task::WinoGrande => {
            let (before, after) = text("sentence")?.split_once('_')?;
            let choice = |option: &str| Choice {
                context: format!("{before}{option}"),
                continuation: format!(" {}", after.trim()),
            };
            let choices = vec![choice(text("option1")?), choice(text("option2")?)];
            let answer = number(&line["answer"])?.checked_sub(1).filter(|&answer| answer < 2)?;
            Some(Question { choices, answer })
        }
        Task::Lambada => {
            let (context, word) = text("text")?.rsplit_once(' ')?;
            let choice = Choice { context: context.to_owned(), continuation: format!(" {word}") };
            Some(Question { choices: vec![choice], answer: 0 })
        }
        Task::Mmlu => {
            let answers = strings(&line["choices"])?;
            let letters = ["A", "B", "C", "D"];
            let lines: String =
                letters.iter().zip(&answers).map(|(letter, answer)| format!("{letter}. {answer}\n")).collect();
            let subject = text("subject")?.replace('_', " ");
            let context = format!(
                "The following are multiple choice questions (with answers) about {subject}.\n\n{}\n{lines}Answer:",
                text("question")?.trim()
            );
            let answer = number(&line["answer"])
                .or_else(|| letters.iter().position(|letter| line["answer"].as_str() == Some(letter)))?;
            if answers.len() != letters.len() {
                return None;
            }
            several(&context, letters.map(str::to_owned).to_vec(), answer)
        }
    }
}

fn asked(question: &str) -> String {
    format!("Question: {question}\nAnswer:")
}

fn strings(value: &Value) -> Option<Vec<&str>> {
    value.as_array()?.iter().map(Value::as_str).collect()
}

/// A number, or a string of digits: both occur.
fn number(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok()).or_else(|| value.as_str()?.trim().parse().ok())
}

/// With a capital letter, and all others small, as Python's `capitalize` does.
fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default();
    first + &letters.as_str().to_lowercase()
}

/// Without the traces of the site that HellaSwag was taken from: `[title]` becomes a full stop, other brackets go.
fn cleaned(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    let (mut out, mut rest) = (String::new(), text.as_str());
    while let Some((before, after)) = rest.split_once('[') {
        let Some((_, after)) = after.split_once(']') else { break };
        out.push_str(before);
        rest = after;
    }
    (out + rest).replace("  ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn made(task: Task, line: Value) -> (Vec<(String, String)>, usize) {
        let question = question(task, &line).expect("it is a question");
        (question.choices.into_iter().map(|c| (c.context, c.continuation)).collect(), question.answer)
    }

    fn pairs(context: &str, continuations: &[&str]) -> Vec<(String, String)> {
        continuations.iter().map(|c| (context.to_owned(), (*c).to_owned())).collect()
    }

    #[test]
    fn prompts_are_the_harness_s() {
        let line = json!({"activity_label": "Roof shingle removal", "ctx_a": "A man sits on a roof.", "ctx_b": "he",
            "endings": ["is using wrap.", "[step] rips [title] it  off."], "label": "1"});
        let wanted = pairs("Roof shingle removal: A man sits on a roof. He", &[" is using wrap.", "  rips. it off."]);
        assert_eq!(made(Task::HellaSwag, line), (wanted, 1));

        let line = json!({"question": "Why?", "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answerKey": "3"});
        assert_eq!(made(Task::Arc, line), (pairs("Question: Why?\nAnswer:", &[" x", " y", " z"]), 2));

        let line = json!({"goal": "Cook", "sol1": "heat", "sol2": "cool", "label": 0});
        assert_eq!(made(Task::Piqa, line), (pairs("Question: Cook\nAnswer:", &[" heat", " cool"]), 0));

        let line = json!({"passage": "P.", "question": "is it", "answer": true});
        assert_eq!(made(Task::BoolQ, line), (pairs("P.\nQuestion: is it?\nAnswer:", &[" no", " yes"]), 1));

        let line =
            json!({"sentence": "Ann met Eve, and _ was glad.", "option1": "Ann", "option2": "Eve", "answer": "2"});
        let wanted = ["Ann", "Eve"].map(|who| (format!("Ann met Eve, and {who}"), " was glad.".to_owned())).to_vec();
        assert_eq!(made(Task::WinoGrande, line), (wanted, 1));

        let line = json!({"text": "He took the hat"});
        assert_eq!(made(Task::Lambada, line), (pairs("He took the", &[" hat"]), 0));

        let line =
            json!({"question": " 1+1? ", "choices": ["1", "2", "3", "4"], "answer": 1, "subject": "abstract_algebra"});
        let context = "The following are multiple choice questions (with answers) about abstract algebra.\n\n1+1?\nA. 1\nB. 2\n\
                       C. 3\nD. 4\nAnswer:";
        assert_eq!(made(Task::Mmlu, line), (pairs(context, &[" A", " B", " C", " D"]), 1));
    }

    #[test]
    fn other_lines_are_no_questions() {
        for task in Task::ALL {
            for line in
                [json!({}), json!([]), json!("text"), json!({"question": 1, "text": "word", "sentence": "no gap"})]
            {
                assert_eq!(question(task, &line), None, "{}", task.name());
            }
        }
    }
}
