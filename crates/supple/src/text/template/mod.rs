//! [`ChatTemplate`]: a conversation as the one text that a model was taught to read.
//!
//! ```
//! use supple::text::template::{ChatTemplate, Message, RenderOptions};
//!
//! # fn main() -> Result<(), supple::Error> {
//! let template = ChatTemplate::chatml();
//! let messages = [Message::new("user", "Hello!")];
//! let text = template.render(&messages, &RenderOptions { add_generation_prompt: true, ..Default::default() })?;
//! assert_eq!(text, "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n");
//! # Ok(())
//! # }
//! ```
//!
//! Templates are Jinja programs that come with a model; they are run as `transformers` runs them (blocks trimmed, loop
//! controls, methods of Python's texts and dictionaries, `raise_exception`, `strftime_now`, `tojson` as Python's `json`
//! writes). They reach nothing but what they are given, and stop after a number of steps.

mod date;
mod json;

use crate::Error;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, ErrorKind};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::SystemTime;
use supple_weights::checkpoint::read_json;
use supple_weights::gguf::Gguf;

/// What is used for a model that brings none: the format of the most families.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
/// Longest template in bytes.
const MAX_TEMPLATE: usize = 1 << 20;
/// Steps of a rendering; a long conversation takes some ten thousand.
const FUEL: u64 = 5_000_000;
/// Special tokens that templates may name.
const TOKENS: [&str; 4] = ["bos_token", "eos_token", "unk_token", "pad_token"];

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, in some families `tool`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

/// What a template is given beside the messages.
#[derive(Clone, Debug, Default)]
pub struct RenderOptions {
    /// End with what begins the model's turn.
    pub add_generation_prompt: bool,
    /// Tools that the model may call: a JSON list, the order of whose keys is kept.
    pub tools: Option<String>,
    /// More variables, such as `enable_thinking`, each a JSON value.
    pub variables: BTreeMap<String, Json>,
    /// What time it is; the system's if none is given. In UTC.
    pub now: Option<SystemTime>,
}

/// A compiled template with the special tokens of its model.
pub struct ChatTemplate {
    name: String,
    environment: Environment<'static>,
    tokens: BTreeMap<&'static str, String>,
}

/// The name of the compiled template.
const MAIN: &str = "chat_template";
/// The template for conversations with tools, if there is one of its own.
const TOOL_USE: &str = "tool_use";
/// The file that a template may have of its own.
const JINJA: &str = "chat_template.jinja";

impl ChatTemplate {
    /// Compiles `source`; `name` is what errors call it. `tokens` are the names of special tokens, by `bos_token`,
    /// `eos_token`, `unk_token` and `pad_token`.
    ///
    /// # Errors
    ///
    /// [`Error::Template`] when it is not Jinja.
    pub fn new(name: &str, source: &str, tokens: &BTreeMap<&'static str, String>) -> Result<ChatTemplate, Error> {
        let mut template = ChatTemplate { name: name.to_string(), environment: environment(), tokens: tokens.clone() };
        template.add(MAIN, source)?;
        Ok(template)
    }

    /// ChatML: `<|im_start|>role`, the content, `<|im_end|>`.
    pub fn chatml() -> ChatTemplate {
        // The source is a constant, which the tests compile.
        ChatTemplate::new("ChatML", CHATML, &BTreeMap::new()).unwrap_or_else(|_| ChatTemplate {
            name: "ChatML".to_string(),
            environment: environment(),
            tokens: BTreeMap::new(),
        })
    }

    /// The template in a GGUF file; `None` if it has none.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] for metadata of a wrong type, [`Error::Template`] as [`ChatTemplate::new`].
    pub fn from_gguf(file: &Gguf) -> Result<Option<ChatTemplate>, Error> {
        let Some(source) = file.find_str("tokenizer.chat_template")? else { return Ok(None) };
        let vocabulary = file.find_array("tokenizer.ggml.tokens")?;
        let mut tokens = BTreeMap::new();
        for (name, key) in TOKENS.iter().zip(["bos", "eos", "unknown", "padding"]) {
            let id = file.find_u32(&format!("tokenizer.ggml.{key}_token_id"))?;
            let token = id.and_then(|id| vocabulary?.strings()?.nth(id as usize));
            if let Some(token) = token {
                tokens.insert(*name, String::from_utf8_lossy(token).into_owned());
            }
        }
        let mut template = ChatTemplate::new(file.source(), source, &tokens)?;
        if let Some(source) = file.find_str("tokenizer.chat_template.tool_use")? {
            template.add(TOOL_USE, source)?;
        }
        Ok(Some(template))
    }

    /// The template of a folder: `chat_template.jinja`, or in `tokenizer_config.json`; `None` if it has none.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::Weights`] for files that cannot be read, [`Error::Template`] as [`ChatTemplate::new`].
    pub fn from_folder(folder: &Path) -> Result<Option<ChatTemplate>, Error> {
        let settings = folder.join("tokenizer_config.json");
        let settings = if settings.is_file() { read_json(&settings)? } else { Json::Null };
        let mut tokens = BTreeMap::new();
        for name in TOKENS {
            let token = &settings[name];
            if let Some(token) = token.as_str().or(token["content"].as_str()) {
                tokens.insert(name, token.to_string());
            }
        }
        let (Some(source), tools) = ChatTemplate::sources(folder)? else { return Ok(None) };
        let jinja = folder.join(JINJA);
        let name = if jinja.is_file() { jinja } else { folder.join("tokenizer_config.json") };
        let mut template = ChatTemplate::new(&name.display().to_string(), &source, &tokens)?;
        if let Some(source) = tools {
            template.add(TOOL_USE, &source)?;
        }
        Ok(Some(template))
    }

    /// The sources of a folder's template and of that for conversations with tools, as [`ChatTemplate::from_folder`] finds
    /// them.
    pub(super) fn sources(folder: &Path) -> Result<(Option<String>, Option<String>), Error> {
        let path = folder.join(JINJA);
        if path.is_file() {
            let source = std::fs::read_to_string(&path);
            let source = source.map_err(|source| Error::Io { path: path.clone(), action: "read", source })?;
            return Ok((Some(source), None));
        }
        let settings = folder.join("tokenizer_config.json");
        let settings = if settings.is_file() { read_json(&settings)? } else { Json::Null };
        Ok(match &settings["chat_template"] {
            Json::String(source) => (Some(source.clone()), None),
            Json::Array(list) => {
                let find = |wanted: &str| {
                    let found = list.iter().find(|entry| entry["name"] == wanted)?;
                    found["template"].as_str().map(str::to_owned)
                };
                let main = find("default");
                let tools = main.as_ref().and_then(|_| find(TOOL_USE));
                (main, tools)
            }
            _ => (None, None),
        })
    }

    fn add(&mut self, key: &'static str, source: &str) -> Result<(), Error> {
        let wrong = |reason: String| Error::Template { name: self.name.clone(), reason };
        if source.len() > MAX_TEMPLATE {
            return Err(wrong(format!("{} bytes, the limit is {MAX_TEMPLATE}", source.len())));
        }
        let added = self.environment.add_template_owned(key, without_generation(source));
        added.map_err(|error| wrong(describe(&error)))
    }

    /// The text of a conversation.
    ///
    /// # Errors
    ///
    /// [`Error::Template`] when the template refuses the conversation (in its own words) or fails.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String, Error> {
        let message = |message: &Message| {
            Value::from_pairs([
                ("role", Value::from(message.role.as_str())),
                ("content", Value::from(message.content.as_str())),
            ])
        };
        self.run(messages.iter().map(message).collect(), options)
    }

    /// The text of a conversation that is a JSON list of messages with whatever keys: calls of tools, pictures.
    ///
    /// # Errors
    ///
    /// As [`ChatTemplate::render`], also when `messages` is no JSON.
    pub fn render_json(&self, messages: &str, options: &RenderOptions) -> Result<String, Error> {
        self.run(self.parse("messages", messages)?, options)
    }

    fn parse(&self, what: &str, text: &str) -> Result<Value, Error> {
        let wrong = |error| Error::Template { name: self.name.clone(), reason: format!("{what}: JSON: {error}") };
        serde_json::from_str(text).map_err(wrong)
    }

    fn run(&self, messages: Value, options: &RenderOptions) -> Result<String, Error> {
        let mut context: BTreeMap<String, Value> = BTreeMap::new();
        context.extend(self.tokens.iter().map(|(name, token)| (name.to_string(), Value::from(token.as_str()))));
        context.extend(
            options.variables.iter().map(|(name, value)| (name.clone(), Value::from(minijinja::value::Serde(value)))),
        );
        context.insert("messages".into(), messages);
        context.insert("add_generation_prompt".into(), options.add_generation_prompt.into());
        let tools = options.tools.as_deref().map(|tools| self.parse("tools", tools)).transpose()?;
        let uses_tools = tools.is_some();
        // Templates ask for them with `is none` as well as with `is defined`: `transformers` passes none.
        context.insert("tools".into(), tools.unwrap_or_else(|| ().into()));
        context.insert("documents".into(), ().into());

        let wrong = |error: minijinja::Error| Error::Template { name: self.name.clone(), reason: describe(&error) };
        let own = uses_tools.then(|| self.environment.get_template(TOOL_USE).ok()).flatten();
        let template = match own {
            Some(template) => template,
            None => self.environment.get_template(MAIN).map_err(wrong)?,
        };
        let now = options.now.unwrap_or_else(SystemTime::now);
        let clock = Value::from_function(move |format: String| date::format(now, &format));
        context.insert("strftime_now".into(), clock);
        template.render(Value::from_pairs(context)).map_err(wrong)
    }
}

/// What every template finds.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // Blocks with the usual delimiters are always a valid syntax.
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", json::tojson);
    environment.add_function("raise_exception", |reason: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("{REFUSED}{reason}")))
    });
    environment
}

/// Marks the words of a template that refuses, against errors of the engine.
const REFUSED: &str = "\u{1}";

/// The error in one line: a template's own words, or the engine's with the line.
fn describe(error: &minijinja::Error) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        let detail = inner.downcast_ref::<minijinja::Error>().and_then(minijinja::Error::detail);
        if let Some(words) = detail.and_then(|detail| detail.strip_prefix(REFUSED)) {
            return words.to_string();
        }
        cause = inner.source();
    }
    let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    format!("{}{detail}{line}", error.kind())
}

/// `{% generation %}` marks what a model is trained on and shows its content: here, as a condition that always holds.
fn without_generation(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        text.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (inner, after) = (&tag[2..end], &tag[end..]);
        let replacement =
            match inner.trim_matches(|letter: char| letter == '-' || letter == '+' || letter.is_whitespace()) {
                "generation" => Some(inner.replace("generation", "if true")),
                "endgeneration" => Some(inner.replace("endgeneration", "endif")),
                _ => None,
            };
        text.push_str("{%");
        text.push_str(replacement.as_deref().unwrap_or(inner));
        text.push_str("%}");
        rest = &after[2..];
    }
    text.push_str(rest);
    text
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ChatTemplate").field("name", &self.name).finish()
    }
}
