//! `supple generate`: text that goes on from a prompt.

use super::language_model::{Choice, Compute, speeds};
use crate::interrupt;
use crate::report::{Exit, Problem, say, show, show_json};
use serde_json::json;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use supple::text::generate::{Finish, Request};
use supple::text::template::Message;

const EXAMPLES: &str = "\
Examples:
  supple generate                                                 a little story, by the bundled model
  supple generate SmolLM2-135M.gguf 'Once upon a time'            go on from a text
  supple generate model.gguf --chat 'Name three rivers.'          answer, by the model's chat template
  supple generate model/ -n 64 -t 0 < prompt.txt                  from standard input, always the likeliest token
  supple generate model.gguf 'a, b, c' --stop '\n' --json --log-probs 3

The text alone goes to standard output.";

/// How a story begins that nobody began.
const BEGINNING: &str = "Once upon a time";

/// Generate text with a language model
///
/// MODEL is a GGUF file, or a folder with config.json, tokenizer.json and safetensors. Without one, a tiny model that is bundled tells
/// a story.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// GGUF file, Hugging Face folder, or hf:owner/name [default: tiny_stories, which is bundled]
    model: Option<PathBuf>,

    /// Text to go on from [default: standard input]
    prompt: Option<String>,

    /// Take the prompt for what a user says, and answer
    #[arg(long, requires = "model")]
    chat: bool,

    /// What the model is told before the user speaks
    #[arg(long, requires = "chat", value_name = "TEXT")]
    system: Option<String>,

    /// Most tokens to generate [default: until the model ends, or the context is full]
    #[arg(short = 'n', long, value_name = "N")]
    max_tokens: Option<usize>,

    /// Stop before this text; can be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,

    #[command(flatten)]
    choice: Choice,

    #[command(flatten)]
    compute: Compute,

    /// Print JSON when done, with tokens and speeds
    #[arg(long)]
    json: bool,

    /// With --json: logarithms of probabilities, of so many alternatives too
    #[arg(long, value_name = "N", requires = "json")]
    log_probs: Option<usize>,

    /// Say on standard error how fast it was
    #[arg(long)]
    stats: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let sampling = args.choice.sampling();
    sampling.check()?;
    let bundled = args.model.is_none();
    let mut prompt = match &args.prompt {
        Some(prompt) => prompt.clone(),
        None if bundled && std::io::stdin().is_terminal() => String::new(),
        None => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes)?;
            String::from_utf8(bytes).map_err(|_| Problem::usage("the prompt on standard input is not UTF-8"))?
        }
    };
    let does = "tells little stories and nothing else";
    let generator = args.compute.open_or_bundled(args.model.as_deref(), "supple generate", does)?;
    if bundled && prompt.trim().is_empty() {
        prompt = BEGINNING.into();
        if !args.json {
            show(&prompt)?;
        }
    }
    let tokens = if args.chat {
        let system = args.system.iter().map(|text| Message::new("system", text));
        generator.encode_chat(&system.chain([Message::new("user", &prompt)]).collect::<Vec<_>>())?
    } else {
        generator.encode(&prompt)?
    };
    let request = Request {
        max_tokens: args.max_tokens,
        sampling,
        stop: args.stop.iter().map(|stop| stop.replace("\\n", "\n")).collect(),
        log_probs: args.log_probs,
        ignore_end: false,
    };
    interrupt::install();
    let mut failed = None;
    let generated = generator.session().generate(&tokens, &request, &mut |text| {
        if !args.json
            && !text.is_empty()
            && let Err(error) = show(text)
        {
            failed = Some(error);
        }
        failed.is_none() && !interrupt::asked()
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    if args.json {
        let tokenizer = generator.tokenizer();
        let text = |id: u32| String::from_utf8_lossy(tokenizer.token(id)).into_owned();
        let tokens: Vec<_> = generated
            .tokens
            .iter()
            .map(|token| {
                let mut value = json!({"id": token.id, "text": text(token.id)});
                if let Some(log_prob) = token.log_prob {
                    let others = token.alternatives.iter();
                    value["log_prob"] = json!(log_prob);
                    value["alternatives"] = others
                        .map(|&(id, log_prob)| json!({"id": id, "text": text(id), "log_prob": log_prob}))
                        .collect();
                }
                value
            })
            .collect();
        show_json(&json!({
            "text": generated.text,
            "finish": generated.finish.name(),
            "tokens": tokens,
            "prompt_tokens": generated.prompt_tokens,
            "load_seconds": generator.load_time().as_secs_f64(),
            "first_token_seconds": generated.prefill.as_secs_f64(),
            "prompt_tokens_per_second": generated.prefill_rate(),
            "tokens_per_second": generated.decode_rate(),
        }))?;
    } else if !generated.text.ends_with('\n') {
        show("\n")?;
    }
    if args.stats {
        say(&format!("load {:.2} s; {}", generator.load_time().as_secs_f64(), speeds(&generated)));
    }
    Ok(if generated.finish == Finish::Cancelled { Exit::Interrupted } else { Exit::Done })
}
