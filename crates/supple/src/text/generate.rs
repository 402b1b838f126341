//! [`TextGenerator`]: a language model with its tokeniser, and [`Session`]: one stream of text from it.

use super::place::{Placed, cache_format, place};
use super::sampling::{Sampler, Sampling, likeliest, log_sum};
use super::stop::StopStrings;
use super::template::{ChatTemplate, Message, RenderOptions};
use super::tokenizer::{EncodeOptions, Tokenizer};
use crate::Error;
use crate::compute::DeviceChoice;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
pub use supple_models::llama::{CACHE_FORMATS, Format, Wanted};
use supple_models::llama::{Decoder, Input, Sequence, State, Weights};
use supple_tensor::Cpu;
use supple_weights::checkpoint::Checkpoint;
use supple_weights::gguf::Gguf;

/// Tokens of a prompt that are taken in at a time.
pub const PREFILL: usize = 512;
/// The context that is used if a model allows more and no one says otherwise.
pub const DEFAULT_CONTEXT: usize = 8192;
/// Tokens that a GPU goes on with by itself where the likeliest is always taken.
const AHEAD: usize = 8;

/// How a model is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// Threads; all that the machine offers if not given.
    pub threads: Option<usize>,
    /// Most tokens of prompt and answer together; the model's own length, at most [`DEFAULT_CONTEXT`], if not given.
    pub context: Option<usize>,
    /// How keys and values are kept, one of [`CACHE_FORMATS`]; `F16` if not given, and on a GPU.
    pub cache: Option<Format>,
    /// Where it runs.
    pub device: DeviceChoice,
}

/// A language model with its tokeniser. `Send` and `Sync`; sessions share it.
#[derive(Debug)]
pub struct TextGenerator {
    model: Decoder,
    cpu: Cpu,
    /// Why the CPU stands in for a GPU.
    stand_in: Option<String>,
    /// A GPU's cache for the first session: that there is room for it is known when the model is open.
    spare: Mutex<Option<State>>,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    context: usize,
    format: Format,
    load_time: Duration,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Most tokens to generate; as many as the context allows if not given.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts at which generation stops; they are not part of the answer.
    pub stop: Vec<String>,
    /// How many alternatives to report for each token; the token's own probability comes with any number.
    pub log_probs: Option<usize>,
    /// Whether to go on after tokens that end a text.
    pub ignore_end: bool,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended the text.
    End,
    /// One of the texts to stop at came.
    Stop,
    /// As many tokens as asked for.
    Length,
    /// The context is full.
    Context,
    /// The caller wanted no more.
    Cancelled,
}

impl Finish {
    /// A word for reports.
    pub fn name(self) -> &'static str {
        match self {
            Finish::End => "end",
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Context => "context",
            Finish::Cancelled => "cancelled",
        }
    }
}

/// A token that was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// Its number.
    pub id: u32,
    /// The logarithm of its probability, before penalties and temperature, if asked for.
    pub log_prob: Option<f32>,
    /// The likeliest tokens at its place with the logarithms of their probabilities, as many as asked for.
    pub alternatives: Vec<(u32, f32)>,
}

/// What was generated.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The text.
    pub text: String,
    /// Its tokens, with one that ended it.
    pub tokens: Vec<Chosen>,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were in the cache from before.
    pub cached_tokens: usize,
    /// Time to take in the rest of the prompt, up to the first token.
    pub prefill: Duration,
    /// Time for all tokens after the first.
    pub decode: Duration,
}

impl Generated {
    /// Tokens of the prompt that were taken in, a second.
    pub fn prefill_rate(&self) -> f64 {
        (self.prompt_tokens - self.cached_tokens) as f64 / self.prefill.as_secs_f64()
    }

    /// Tokens generated after the first, a second.
    pub fn decode_rate(&self) -> f64 {
        self.tokens.len().saturating_sub(1) as f64 / self.decode.as_secs_f64()
    }
}

impl TextGenerator {
    /// Opens a GGUF file, a folder with `config.json`, `tokenizer.json` and safetensors, or a llama2.c file beside its
    /// `tokenizer.bin`, and packs it for the device.
    ///
    /// # Errors
    /// If the file cannot be read, is no model known here, or has no tokeniser; if a GPU is asked for and cannot be had, or has no
    /// room.
    pub fn open(path: &Path, options: OpenOptions) -> Result<TextGenerator, Error> {
        let start = Instant::now();
        TextGenerator::of_checkpoint(&Checkpoint::open(path)?, path, options, start)
    }

    /// Opens [the model in the binary](super::bundled).
    ///
    /// # Errors
    /// If none was built in, or a GPU is asked for and cannot be had.
    pub fn bundled(options: OpenOptions) -> Result<TextGenerator, Error> {
        let start = Instant::now();
        let name = super::bundled::NAME;
        let Some(bytes) = super::bundled::bytes() else {
            return Err(Error::UnknownModel { name: name.into(), known: vec![] });
        };
        let checkpoint = Checkpoint::of_gguf(Gguf::from_bytes(name, bytes)?)?;
        TextGenerator::of_checkpoint(&checkpoint, Path::new(name), options, start)
    }

    fn of_checkpoint(
        checkpoint: &Checkpoint,
        path: &Path,
        options: OpenOptions,
        start: Instant,
    ) -> Result<TextGenerator, Error> {
        let cpu = crate::compute::cpu(options.threads)?;
        let words = || words(checkpoint, path);
        let place = || place(&cpu, Weights::File(checkpoint), options);
        // A vocabulary takes one thread about as long as packing takes all, so they are made side by side.
        let (words, placed) = if cpu.threads() == 1 {
            (words(), place())
        } else {
            std::thread::scope(|scope| match std::thread::Builder::new().spawn_scoped(scope, words) {
                Ok(beside) => {
                    let placed = place();
                    (beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), placed)
                }
                Err(_) => (words(), place()),
            })
        };
        let (tokenizer, template) = words?;
        let Placed { decoder, context, state, stand_in } = placed?;
        Ok(TextGenerator {
            model: decoder,
            cpu,
            stand_in,
            spare: Mutex::new(state),
            tokenizer,
            template,
            context,
            format: cache_format(options),
            load_time: start.elapsed(),
        })
    }

    /// The network.
    pub fn model(&self) -> &Decoder {
        &self.model
    }

    /// The CPU, for what is computed there in any case.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// Why the CPU stands in for a GPU that is there, if it does.
    pub fn stand_in(&self) -> Option<&str> {
        self.stand_in.as_deref()
    }

    /// The tokeniser.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The template of conversations, if the model has one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// Most tokens of prompt and answer together.
    pub fn context(&self) -> usize {
        self.context
    }

    /// How long opening took.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// The tokens of a prompt that is plain text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: false })
    }

    /// The tokens of a conversation, up to where the answer begins.
    ///
    /// # Errors
    /// [`Error::Template`] if the template refuses it; models without a template use ChatML.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>, Error> {
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let text = match &self.template {
            Some(template) => template.render(messages, &options)?,
            None => ChatTemplate::chatml().render(messages, &options)?,
        };
        let mut tokens = self.tokenizer.encode(&text, EncodeOptions { add_special: false, parse_special: true })?;
        // Templates of some models write the token that begins a text, those of others leave it to the tokeniser.
        if self.tokenizer.adds_bos()
            && let Some(bos) = self.tokenizer.bos()
            && tokens.first() != Some(&bos)
        {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }

    /// An empty cache for up to `positions` tokens of all sequences together, with the memory of a pass.
    ///
    /// # Errors
    /// If the device's memory does not hold it.
    pub fn state(&self, positions: usize) -> Result<State, Error> {
        Ok(self.model.state(self.format, positions)?)
    }

    /// A stream of text, with a cache of its own.
    pub fn session(&self) -> Session<'_> {
        Session {
            generator: self,
            state: self.spare.lock().unwrap_or_else(PoisonError::into_inner).take(),
            sequence: Sequence::default(),
            tokens: Vec::new(),
        }
    }
}

/// The tokeniser of the checkpoint at `path`, and its chat template.
fn words(checkpoint: &Checkpoint, path: &Path) -> Result<(Tokenizer, Option<ChatTemplate>), Error> {
    Ok(match checkpoint.gguf() {
        Some(file) => (Tokenizer::from_gguf(file)?, ChatTemplate::from_gguf(file)?),
        None if path.is_dir() => (Tokenizer::open(path)?, ChatTemplate::from_folder(path)?),
        None => {
            let beside = |name: &str| path.with_file_name(name);
            let found = ["tokenizer.json", "tokenizer.bin", "tok512.bin"].into_iter().map(beside);
            let found = found.into_iter().find(|path| path.is_file());
            (Tokenizer::open(&found.unwrap_or_else(|| beside("tokenizer.json")))?, None)
        }
    })
}

/// One stream of text. What a prompt has in common with the text before is not taken in again.
#[derive(Debug)]
pub struct Session<'a> {
    generator: &'a TextGenerator,
    /// None as long as nothing was taken in.
    state: Option<State>,
    sequence: Sequence,
    /// Tokens in the cache.
    tokens: Vec<u32>,
}

impl Session<'_> {
    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.keep(0);
    }

    /// Forgets all but what it has in common with the beginning of `tokens`; how many tokens that is.
    pub fn rewind(&mut self, tokens: &[u32]) -> usize {
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        self.keep(common);
        common
    }

    fn keep(&mut self, len: usize) {
        if let Some(state) = &mut self.state {
            state.truncate(&mut self.sequence, len);
        }
        self.tokens.truncate(len);
    }

    /// Takes tokens in; the logits that are wanted.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn take_in(&mut self, tokens: &[u32], wanted: Wanted) -> Result<&[f32], Error> {
        let Session { generator, state, sequence, .. } = self;
        let state = ready(generator, state)?;
        let logits = generator.model.forward(state, &mut [Input { sequence, tokens, wanted }])?;
        self.tokens.extend_from_slice(tokens);
        Ok(logits)
    }

    /// Takes a token in and goes on with the likeliest, `count` times: those, of which all but the last are in the cache.
    ///
    /// # Errors
    /// As [`Decoder::greedy`].
    pub fn take_likeliest(&mut self, token: u32, count: usize) -> Result<Vec<u32>, Error> {
        let Session { generator, state, sequence, .. } = self;
        let state = ready(generator, state)?;
        let next = generator.model.greedy(state, &mut [sequence], &[token], count)?;
        self.tokens.push(token);
        self.tokens.extend_from_slice(&next[..count.saturating_sub(1)]);
        Ok(next)
    }

    /// Generates text after `prompt`. `each` is given text as it comes, in whole characters; generation stops when it returns
    /// false.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::PromptTooLong`], [`Error::BadOption`], and [`Error::NotFiniteLogits`] if the model's
    /// arithmetic went wrong.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        request: &Request,
        each: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Generated, Error> {
        let generator = self.generator;
        let Some(last) = prompt.len().checked_sub(1) else { return Err(Error::EmptyPrompt) };
        if prompt.len() >= generator.context {
            return Err(Error::PromptTooLong { tokens: prompt.len(), context: generator.context });
        }
        let mut sampler = Sampler::new(request.sampling.clone())?;
        let start = Instant::now();
        let common = self.rewind(&prompt[..last]);
        let mut output = Generated {
            text: String::new(),
            tokens: Vec::new(),
            finish: Finish::Length,
            prompt_tokens: prompt.len(),
            cached_tokens: common,
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
        };
        let mut at = common;
        let chunk = generator.model.chunk();
        while prompt.len() - at > chunk {
            self.take_in(&prompt[at..at + chunk], Wanted::Nothing)?;
            at += chunk;
            if !each("") {
                output.finish = Finish::Cancelled;
                output.prefill = start.elapsed();
                return Ok(output);
            }
        }
        let mut next = prompt[at..].to_vec();
        let mut first = None;
        let most = request.max_tokens.unwrap_or(usize::MAX);
        let mut stream = generator.tokenizer.stream();
        let mut stops = StopStrings::new(&request.stop);
        let greedy = generator.model.cpu().is_none() && sampler.takes_likeliest() && request.log_probs.is_none();
        let mut ahead = VecDeque::new();
        output.finish = loop {
            if output.tokens.len() >= most {
                break Finish::Length;
            }
            if ahead.is_empty() && self.tokens.len() + next.len() > generator.context {
                break Finish::Context;
            }
            if ahead.is_empty() && greedy && first.is_some() {
                let room = (generator.context - self.tokens.len()).min(most - output.tokens.len());
                ahead = self.take_likeliest(next[0], room.min(AHEAD))?.into();
            }
            let chosen = match ahead.pop_front() {
                Some(u32::MAX) => return Err(Error::NotFiniteLogits),
                Some(id) => Chosen { id, log_prob: None, alternatives: Vec::new() },
                None => {
                    self.take_in(&next, Wanted::Last)?;
                    let vocabulary = generator.model.config().vocabulary;
                    // The borrow of the session ends with the logits, which lie in its workspace.
                    let Session { state, tokens, .. } = &*self;
                    let logits = state.as_ref().map_or(&[][..], State::logits);
                    let logits = &logits[..vocabulary];
                    let id = sampler.sample(logits, tokens)?;
                    Chosen {
                        id,
                        log_prob: request.log_probs.map(|_| (f64::from(logits[id as usize]) - log_sum(logits)) as f32),
                        alternatives: likeliest(logits, request.log_probs.unwrap_or(0)),
                    }
                }
            };
            let id = chosen.id;
            output.tokens.push(chosen);
            first.get_or_insert_with(|| start.elapsed());
            if generator.tokenizer.ends().contains(&id) && !request.ignore_end {
                break Finish::End;
            }
            let (text, stopped) = stops.push(&stream.push(id));
            output.text.push_str(&text);
            let go_on = each(&text);
            if stopped {
                break Finish::Stop;
            }
            if !go_on {
                break Finish::Cancelled;
            }
            next.clear();
            next.push(id);
        };
        // What was computed and is no part of the answer.
        self.keep(self.tokens.len() - ahead.len());
        let prefill = first.unwrap_or_else(|| start.elapsed());
        (output.prefill, output.decode) = (prefill, start.elapsed() - prefill);
        if output.finish != Finish::Stop {
            let (text, _) = stops.push(&stream.finish());
            let rest = text + &stops.finish();
            each(&rest);
            output.text.push_str(&rest);
        }
        Ok(output)
    }
}

/// The state, made if there is none yet.
fn ready<'s>(generator: &TextGenerator, state: &'s mut Option<State>) -> Result<&'s mut State, Error> {
    if state.is_none() {
        *state = Some(generator.model.state(generator.format, generator.context)?);
    }
    Ok(state.as_mut().expect("set above"))
}
