//! `supple chat`: a conversation with a language model.

use super::history::History;
use super::language_model::{Choice, Compute, speeds};
use crate::interrupt;
use crate::report::{Exit, message, say, show};
use anyhow::Context;
use rustyline::error::ReadlineError;
use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use supple::text::bundled;
use supple::text::generate::{Finish, Generated, Request, Session, TextGenerator};
use supple::text::template::Message;

const EXAMPLES: &str = "\
Examples:
  supple chat                                               begin a story, and the bundled model goes on
  supple chat SmolLM2-135M-Instruct.gguf
  supple chat model/ --system 'Answer in one sentence.' -t 0
  echo 'Name three rivers.' | supple chat model.gguf        each line of standard input is a turn

While it runs: arrow keys go through what was written before; a line that ends with \\ goes on in the next; Ctrl-C stops an
answer, Ctrl-D ends. /help names the commands. What was written is kept for the next conversation; SUPPLE_HISTORY names
another file, or none if it is empty.";

const HELP: &str = "\
/help            this
/system TEXT     begin anew, with this instruction (none: without one)
/reset           begin anew
/save FILE       write the conversation as Markdown
/stats           speed of the last answer, and what is in the cache
/quit            end (or Ctrl-D)
";

/// Talk with a language model
///
/// MODEL is a GGUF file, or a folder with config.json, tokenizer.json and safetensors. Without one, a tiny model that is bundled goes on
/// with stories that you begin.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// GGUF file, Hugging Face folder, or hf:owner/name [default: tiny_stories, which is bundled]
    model: Option<PathBuf>,

    /// What the model is told first
    #[arg(long, value_name = "TEXT", requires = "model")]
    system: Option<String>,

    /// Most tokens of an answer [default: until the model ends, or the context is full]
    #[arg(short = 'n', long, value_name = "N")]
    max_tokens: Option<usize>,

    #[command(flatten)]
    choice: Choice,

    #[command(flatten)]
    compute: Compute,
}

/// A conversation and what it has come to.
struct Conversation<'a> {
    args: &'a Args,
    generator: &'a TextGenerator,
    session: Session<'a>,
    system: Option<String>,
    messages: Vec<Message>,
    last: Option<Generated>,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    args.choice.sampling().check()?;
    let does = "does not talk, but goes on with stories that you begin";
    let generator = args.compute.open_or_bundled(args.model.as_deref(), "supple chat", does)?;
    let mut conversation = Conversation {
        args,
        generator: &generator,
        session: generator.session(),
        system: args.system.clone(),
        messages: Vec::new(),
        last: None,
    };
    interrupt::install();
    if !std::io::stdin().is_terminal() {
        for line in std::io::stdin().lock().lines() {
            let line = line.context("standard input")?;
            if !line.trim().is_empty() && !conversation.turn(&line)? {
                break;
            }
            if interrupt::asked() {
                return Ok(Exit::Interrupted);
            }
        }
        return Ok(Exit::Done);
    }
    let seconds = generator.load_time().as_secs_f64();
    let name = args.model.as_deref().unwrap_or(Path::new(bundled::NAME)).display();
    say(&format!("{name}, loaded in {seconds:.2} s. /help names the commands, Ctrl-D ends."));
    let mut editor = rustyline::DefaultEditor::new().context("the terminal")?;
    let history = History::of_user();
    for entry in history.entries() {
        let _ = editor.add_history_entry(entry);
    }
    loop {
        match read(&mut editor) {
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) => {
                if editor.add_history_entry(line.as_str()).unwrap_or(false) {
                    history.add(&line);
                }
                match conversation.turn(&line) {
                    Ok(true) => {}
                    Ok(false) => return Ok(Exit::Done),
                    // What one turn cannot do ends the turn, not the conversation.
                    Err(error) => say(&format!("error: {}", message(&error))),
                }
                interrupt::forget();
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => return Ok(Exit::Done),
            Err(error) => return Err(anyhow::Error::new(error).context("the terminal")),
        }
    }
}

/// A line, with those that follow a backslash at its end.
fn read(editor: &mut rustyline::DefaultEditor) -> Result<String, ReadlineError> {
    let mut text = editor.readline("> ")?;
    while text.ends_with('\\') {
        text.pop();
        text.push('\n');
        text.push_str(&editor.readline("  ")?);
    }
    Ok(text)
}

impl Conversation<'_> {
    /// One turn of the user; false if it was the last.
    fn turn(&mut self, line: &str) -> anyhow::Result<bool> {
        let line = line.trim();
        let Some(command) = line.strip_prefix('/') else {
            self.answer(line)?;
            return Ok(true);
        };
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match name {
            "help" => show(HELP)?,
            "system" => {
                self.system = Some(rest.trim().to_owned()).filter(|text| !text.is_empty());
                self.messages.clear();
            }
            "reset" => self.messages.clear(),
            "save" => self.save(Path::new(rest.trim()))?,
            "stats" => {
                let last = self.last.as_ref().map_or_else(|| "nothing was generated yet".to_owned(), speeds);
                let (used, context) = (self.session.len(), self.generator.context());
                show(&format!("{last}\ncache {used} of {context} tokens\n"))?;
            }
            "quit" | "exit" => return Ok(false),
            _ => say(&format!("error: no command /{name}\nhint: /help names the commands")),
        }
        Ok(true)
    }

    fn answer(&mut self, text: &str) -> anyhow::Result<()> {
        self.messages.push(Message::new("user", text));
        let system = self.system.iter().map(|text| Message::new("system", text));
        let messages: Vec<Message> = system.chain(self.messages.iter().cloned()).collect();
        let request =
            Request { max_tokens: self.args.max_tokens, sampling: self.args.choice.sampling(), ..Request::default() };
        let tokens = match &self.args.model {
            Some(_) => self.generator.encode_chat(&messages)?,
            // Each line begins a story of its own.
            None => self.generator.encode(text)?,
        };
        let generated = self.session.generate(&tokens, &request, &mut |text| {
            let shown = text.is_empty() || show(text).is_ok();
            shown && !interrupt::asked()
        });
        let generated = match generated {
            Ok(generated) => generated,
            Err(error) => {
                // The question is forgotten with the failure, so that a shorter one can be asked.
                self.messages.pop();
                return Err(error.into());
            }
        };
        show("\n")?;
        if self.args.model.is_none() && generated.text.trim().is_empty() {
            say("none of its stories goes on like this; try: Once upon a time");
        }
        if generated.finish == Finish::Context {
            say("the context is full; /reset begins anew");
        }
        self.messages.push(Message::new("assistant", &generated.text));
        self.last = Some(generated);
        Ok(())
    }

    fn save(&self, path: &Path) -> anyhow::Result<()> {
        anyhow::ensure!(!path.as_os_str().is_empty(), "/save needs the name of a file");
        let system = self.system.iter().map(|text| format!("**system**\n\n{text}\n\n"));
        let rest = self.messages.iter().map(|m| format!("**{}**\n\n{}\n\n", m.role, m.content));
        let text: String = system.chain(rest).collect();
        let mut file = std::fs::File::create_new(path).with_context(|| path.display().to_string())?;
        std::io::Write::write_all(&mut file, text.as_bytes()).with_context(|| path.display().to_string())?;
        say(&format!("written to {}", path.display()));
        Ok(())
    }
}
