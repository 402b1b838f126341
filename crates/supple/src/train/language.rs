//! Training language models on text files and conversations; see [`supple_train::language`] for how.

use super::Options;
use crate::text::template::{ChatTemplate, Message, RenderOptions};
use crate::text::tokenizer::{EncodeOptions, Tokenizer};
use crate::{Error, compute};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use supple_models::llama::{Config, Definition};
use supple_models::{Network, Placement};
use supple_tensor::Device;
use supple_train::language::{Corpus, Document, LanguageObserver, LanguageTask, NewModel, SaveAdapter, train_language};
pub use supple_train::language::{LanguageRecipe, is_language};
use supple_train::{Precision, Progress};
use supple_weights::DType;
use supple_weights::checkpoint::Checkpoint;

/// What happens while a run goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    /// A step is finished; with the perplexity of the validation text, if it was measured.
    Step(&'a Progress, Option<f64>),
    /// Something that a person should know.
    Note(&'a str),
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether all steps are done.
    pub finished: bool,
    /// The folder of the model, or of the adapter.
    pub model: PathBuf,
    /// Where the run is.
    pub progress: Progress,
    /// The last perplexity that was measured.
    pub perplexity: Option<f64>,
}

/// The files of a tokeniser, which go along with a model.
const TOKENIZER_FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];

/// Trains as `recipe` says, in `folder`; the model is written to `model` in it, or the adapter to `adapter`. `watch` hears of every
/// step; `false` from it saves a checkpoint and ends the run.
///
/// # Errors
/// If the recipe makes no sense, the folder holds a run already (or none to resume), the model, texts or files cannot be read or
/// written, or a GPU was asked for and cannot be had.
pub fn run(
    recipe: &LanguageRecipe,
    folder: &Path,
    options: Options,
    watch: &mut dyn FnMut(Event<'_>) -> bool,
) -> Result<Outcome, Error> {
    let mut recipe = recipe.clone();
    recipe.precision = options.precision.unwrap_or(recipe.precision);
    if super::rank()?.1 > 1 {
        return Err(Error::BadOption("language models are trained by one process".into()));
    }
    let host = Device::cpu(compute::cpu(options.threads)?).map_err(supple_models::Error::from)?;
    let source = Source::open(&recipe, &host)?;
    let corpus = source.corpus(&recipe.data.train, "data.train")?;
    let validate = match recipe.data.validate.is_empty() {
        true => None,
        false => Some(source.corpus(&recipe.data.validate, "data.validate")?),
    };
    let Placement { device, .. } = compute::placement(options.device)?;
    let mut observer = Watch(watch);
    match &device {
        Some(device) => observer.note(&format!("training on {}, {}", device.name(), recipe.precision)),
        None if recipe.precision != Precision::F32 => {
            observer.note("the CPU computes in f32, whatever the precision");
        }
        None => {}
    }
    let Source { definition, parameters, config, tokenizer_folder, .. } = source;
    let task = LanguageTask { recipe: &recipe, definition, parameters, host: host.clone(), corpus, validate };
    let (device, graph) = (device.unwrap_or(host), !options.without_graph);
    let outcome = train_language(task, folder, &device, options.resume, graph, &mut observer)?;

    let adapter_alone = recipe.adapter.as_ref().is_some_and(|adapter| adapter.save == SaveAdapter::Adapter);
    let model = folder.join(if adapter_alone { "adapter" } else { "model" });
    if adapter_alone {
        let base = recipe.model.start.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        outcome.definition.save_adapter(&outcome.parameters, &base, &model)?;
    } else {
        let stored = match recipe.model.save {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::F16 => DType::F16,
        };
        outcome.definition.save(&outcome.parameters, &config, stored, &model)?;
        for name in TOKENIZER_FILES {
            let (from, to) = (tokenizer_folder.join(name), model.join(name));
            if from.is_file() {
                std::fs::copy(&from, &to).map_err(Error::io(&to, "write"))?;
            }
        }
    }
    let (finished, progress, perplexity) = (outcome.finished, outcome.progress, outcome.perplexity);
    Ok(Outcome { finished, model, progress, perplexity })
}

/// What a run begins with.
struct Source {
    definition: Definition,
    parameters: supple_models::Parameters,
    /// The model's `config.json`.
    config: serde_json::Value,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    tokenizer_folder: PathBuf,
}

impl Source {
    fn open(recipe: &LanguageRecipe, host: &Device) -> Result<Source, Error> {
        let model = &recipe.model;
        let folder = match (&model.tokenizer, &model.start) {
            (Some(folder), _) => folder.clone(),
            (None, Some(path)) if path.is_dir() && path.join("tokenizer.json").is_file() => path.clone(),
            (None, path) => {
                let path = path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
                return Err(Error::BadOption(format!(
                    "{path} has no tokenizer.json to save the model with: model.tokenizer in the recipe names a folder that has"
                )));
            }
        };
        let (tokenizer, template) = (Tokenizer::open(&folder)?, ChatTemplate::from_folder(&folder)?);
        let (definition, parameters, config) = match (&model.start, &model.new) {
            (Some(path), _) => {
                let checkpoint = Checkpoint::open(path)?;
                let definition = Definition::of(&checkpoint)?;
                let parameters = definition.read(host, &checkpoint)?;
                (definition, parameters, checkpoint.config().clone())
            }
            (None, Some(new)) => {
                let config = config_of(new, &tokenizer);
                let definition = Definition::new(Config::from_json("model.new", &config)?);
                let parameters = definition.initialise(host, recipe.seed)?;
                (definition, parameters, config)
            }
            (None, None) => return Err(Error::BadOption("a [model] has either start or new".into())),
        };
        Ok(Source { definition, parameters, config, tokenizer, template, tokenizer_folder: folder })
    }

    /// The tokens of files: conversations if they are all JSONL, else one text.
    fn corpus(&self, paths: &[PathBuf], what: &str) -> Result<Corpus, Error> {
        let is_jsonl = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "jsonl");
        let chats = paths.iter().filter(|path| is_jsonl(path)).count();
        if chats != 0 && chats != paths.len() {
            return Err(Error::BadOption(format!("{what}: texts and JSONL files do not go together")));
        }
        let (mut tokens, mut documents) = (Vec::new(), Vec::new());
        for path in paths {
            let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
            if chats == 0 {
                self.text(&text, &mut tokens)?;
                continue;
            }
            for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                let place =
                    |problem: String| Error::BadOption(format!("{}: line {}: {problem}", path.display(), number + 1));
                let chat: Chat = serde_json::from_str(line).map_err(|error| place(error.to_string()))?;
                documents.push(self.conversation(&chat.messages, &place)?);
            }
        }
        Ok(if chats == 0 { Corpus::Text(tokens) } else { Corpus::Documents(documents) })
    }

    /// Appends the tokens of a text. A line of `<|endoftext|>` ends one and begins another, if the tokeniser knows that token.
    fn text(&self, text: &str, tokens: &mut Vec<u32>) -> Result<(), Error> {
        let end = self.tokenizer.eos();
        for part in text.split("<|endoftext|>").map(str::trim).filter(|part| !part.is_empty()) {
            if let Some(bos) = self.tokenizer.bos().filter(|_| self.tokenizer.adds_bos()) {
                tokens.push(bos);
            }
            tokens.extend(self.tokenizer.encode(part, EncodeOptions::default())?);
            tokens.extend(end);
        }
        Ok(())
    }

    /// The tokens of a conversation, of which those of answers count, with what ends them.
    fn conversation(&self, messages: &[Message], place: &dyn Fn(String) -> Error) -> Result<Document, Error> {
        let chatml = ChatTemplate::chatml();
        let template = self.template.as_ref().unwrap_or(&chatml);
        let render = |count: usize, add_generation_prompt: bool| {
            template.render(&messages[..count], &RenderOptions { add_generation_prompt, ..RenderOptions::default() })
        };
        let answers: Vec<usize> = (0..messages.len()).filter(|&i| messages[i].role == "assistant").collect();
        let Some(&last) = answers.last() else { return Err(place("no message of the role assistant".into())) };
        // Each answer, if the template renders beginnings as beginnings of the whole; else the last one.
        let mut spans = Vec::new();
        let whole = render(last + 1, false)?;
        for &answer in &answers {
            let (before, after) = (render(answer, true)?, render(answer + 1, false)?);
            if whole.starts_with(&after) && after.starts_with(&before) {
                spans.push(before.len()..after.len());
            }
        }
        if spans.last().is_none_or(|span| span.end != whole.len()) {
            return Err(place("the chat template does not put an answer behind its question".into()));
        }
        let mut document = Document::default();
        let mut push = |text: &str, counts: bool| -> Result<(), Error> {
            let tokens = self.tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: true })?;
            document.counts.extend(tokens.iter().map(|_| counts));
            document.tokens.extend(tokens);
            Ok(())
        };
        let mut at = 0;
        for span in spans {
            push(&whole[at..span.start], false)?;
            push(&whole[span.clone()], true)?;
            at = span.end;
        }
        if let Some(bos) = self.tokenizer.bos().filter(|_| self.tokenizer.adds_bos())
            && document.tokens.first() != Some(&bos)
        {
            document.tokens.insert(0, bos);
            document.counts.insert(0, false);
        }
        Ok(document)
    }
}

/// A line of a JSONL file.
#[derive(Deserialize)]
struct Chat {
    #[serde(deserialize_with = "messages")]
    messages: Vec<Message>,
}

fn messages<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Message>, D::Error> {
    #[derive(Deserialize)]
    struct Turn {
        role: String,
        content: String,
    }
    let turns = Vec::<Turn>::deserialize(deserializer)?;
    Ok(turns.into_iter().map(|turn| Message::new(turn.role, turn.content)).collect())
}

/// The `config.json` of a new decoder of the Llama family.
fn config_of(new: &NewModel, tokenizer: &Tokenizer) -> serde_json::Value {
    serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": tokenizer.len(),
        "bos_token_id": tokenizer.bos(),
        "eos_token_id": tokenizer.eos(),
        "hidden_size": new.hidden,
        "intermediate_size": new.intermediate,
        "num_hidden_layers": new.layers,
        "num_attention_heads": new.heads,
        "num_key_value_heads": new.kv_heads.unwrap_or(new.heads),
        "max_position_embeddings": new.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": new.theta,
        "hidden_act": "silu",
        "tie_word_embeddings": true,
    })
}

/// Hands steps on.
struct Watch<'a>(&'a mut dyn FnMut(Event<'_>) -> bool);

impl LanguageObserver for Watch<'_> {
    fn step(&mut self, progress: &Progress, perplexity: Option<f64>) -> bool {
        (self.0)(Event::Step(progress, perplexity))
    }

    fn note(&mut self, text: &str) {
        (self.0)(Event::Note(text));
    }
}
