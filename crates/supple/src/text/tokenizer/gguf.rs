//! Tokenisers from GGUF metadata.

use super::pre::{self, PreTokenizer};
use super::spm::{Merges, SPACE};
use super::vocabulary::{Finder, Kind, Vocabulary};
use super::{Algorithm, HuggingFace, Tokenizer, byte_level, ends};
use crate::Error;
use supple_weights::gguf::Gguf;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

/// Keys of special tokens that end a text.
const END_KEYS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

impl Tokenizer {
    /// The tokeniser in a GGUF file: byte-level BPE with any of the known ways to cut words, or SentencePiece's BPE.
    ///
    /// Text is not normalised (Qwen's `tokenizer.json` composes accents first, which GGUF does not record).
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] when the metadata lack a vocabulary, [`Error::Tokenizer`] for one of an unknown kind or that
    /// contradicts itself.
    pub fn from_gguf(file: &Gguf) -> Result<Tokenizer, Error> {
        let wrong = |reason: String| Error::Tokenizer { name: file.source().to_string(), reason };
        let model = file.get_str("tokenizer.ggml.model")?;
        let array = file.get_array("tokenizer.ggml.tokens")?;
        let tokens: Vec<&[u8]> =
            array.strings().ok_or_else(|| wrong(format!("the vocabulary is {array:?}, not text")))?.collect();
        if tokens.is_empty() || tokens.len() > u32::MAX as usize {
            return Err(wrong(format!("a vocabulary of {} tokens", tokens.len())));
        }
        let kinds = kinds(file, tokens.len()).map_err(wrong)?;
        let pre = file.find_str("tokenizer.ggml.pre")?.unwrap_or_default();
        match model {
            "llama" => spm(file, &tokens, &kinds),
            "gpt2" => {
                let pre = pre::find(pre)
                    .ok_or_else(|| wrong(format!("words are cut in a way that is not known: {pre:?}")))?;
                bpe(file, &tokens, &kinds, pre)
            }
            other => Err(wrong(format!("a vocabulary of the kind {other:?}; gpt2 and llama are read"))),
        }
    }
}

/// The kind of each token; all are pieces of text if the file does not say.
fn kinds(file: &Gguf, count: usize) -> Result<Vec<Kind>, String> {
    let Some(array) = file.find_array("tokenizer.ggml.token_type").map_err(|error| error.to_string())? else {
        return Ok(vec![Kind::Normal; count]);
    };
    let codes = array.integers().ok_or("types of tokens are no whole numbers")?;
    if codes.len() != count {
        return Err(format!("{count} tokens with {} types", codes.len()));
    }
    // Zero, "undefined", and numbers to come: text.
    Ok(codes.into_iter().map(|code| Kind::from_code(code).unwrap_or(Kind::Normal)).collect())
}

/// BOS, and the tokens that end a text, checked against the size of the vocabulary.
fn specials(file: &Gguf, vocabulary: &Vocabulary) -> Result<(Option<u32>, Vec<u32>), Error> {
    let find = |key: &str| -> Result<Option<u32>, Error> {
        let id = file.find_u32(key)?;
        match id.filter(|&id| id as usize >= vocabulary.len()) {
            Some(id) => Err(Error::Tokenizer {
                name: file.source().to_string(),
                reason: format!("{key} is {id}, the vocabulary has {} tokens", vocabulary.len()),
            }),
            None => Ok(id),
        }
    };
    let mut found = Vec::new();
    for key in END_KEYS {
        found.extend(find(key)?);
    }
    Ok((find("tokenizer.ggml.bos_token_id")?, ends(vocabulary, found)))
}

/// The token `<0xNN>` stands for byte NN.
fn byte_of(token: &[u8]) -> Option<u8> {
    let digits = token.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
}

/// Merges of the tokens that `spelled` gives a spelling.
pub(super) fn merges(
    vocabulary: &Vocabulary,
    scores: &[f32],
    spelled: &dyn Fn(usize) -> Option<Vec<u8>>,
    unknown: Option<u32>,
) -> Merges {
    let mut bytes = [None; 256];
    for id in vocabulary.ids().filter(|&id| vocabulary.kind(id) == Kind::Byte) {
        if let [byte] = *vocabulary.bytes(id) {
            bytes[usize::from(byte)] = Some(id);
        }
    }
    let tokens = vocabulary.ids().filter_map(|id| Some((spelled(id as usize)?, id, scores[id as usize])));
    Merges::new(tokens, bytes, unknown)
}

fn spm(file: &Gguf, tokens: &[&[u8]], kinds: &[Kind]) -> Result<Tokenizer, Error> {
    let wrong = |reason: String| Error::Tokenizer { name: file.source().to_string(), reason };
    let scores = file.get_array("tokenizer.ggml.scores")?;
    let scores = scores.floats().filter(|scores| scores.len() == tokens.len());
    let scores = scores.ok_or_else(|| wrong("the vocabulary has no score for each token".into()))?;
    let mut vocabulary = Vocabulary::default();
    for (token, &kind) in tokens.iter().zip(kinds) {
        match (kind, byte_of(token)) {
            (Kind::Byte, Some(byte)) => vocabulary.push([byte], kind),
            (Kind::Normal | Kind::UserDefined | Kind::Unused, _) => vocabulary.push(unescape(token), kind),
            _ => vocabulary.push(token, kind),
        }
    }
    let spelled = |id: usize| matches!(kinds[id], Kind::Normal | Kind::UserDefined).then(|| tokens[id].to_vec());
    let unknown = file.find_u32("tokenizer.ggml.unknown_token_id")?;
    let merges = merges(&vocabulary, &scores, &spelled, unknown);
    let (bos, ends) = specials(file, &vocabulary)?;
    let prefix = file.find_bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    Ok(Tokenizer {
        name: file.source().to_string(),
        algorithm: Algorithm::Spm { merges: Box::new(merges), prefix, space: SPACE, finders: Default::default() },
        vocabulary,
        bos: bos.or(Some(1)).filter(|&id| (id as usize) < tokens.len()),
        ends,
        add_bos: file.find_bool("tokenizer.ggml.add_bos_token")?.unwrap_or(true),
        add_eos: file.find_bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
        strip_first_space: prefix,
    })
}

/// `▁` as a space. Bytes that are no UTF-8 stay as they are.
fn unescape(token: &[u8]) -> Vec<u8> {
    let (mut text, mut rest) = (Vec::with_capacity(token.len()), token);
    while let Some((&first, after)) = rest.split_first() {
        match rest.strip_prefix(SPACE.as_bytes()) {
            Some(after) => {
                text.push(b' ');
                rest = after;
            }
            None => {
                text.push(first);
                rest = after;
            }
        }
    }
    text
}

/// The expressions as cuts, without the step that turns bytes into letters.
pub(super) fn splits(pre: &PreTokenizer) -> tokenizers::Result<Vec<PreTokenizerWrapper>> {
    let split =
        |pattern: &&str| Split::new(SplitPattern::Regex(pattern.to_string()), SplitDelimiterBehavior::Isolated, false);
    pre.patterns.iter().map(|pattern| split(pattern).map(PreTokenizerWrapper::Split)).collect()
}

fn bpe(file: &Gguf, tokens: &[&[u8]], kinds: &[Kind], pre: &PreTokenizer) -> Result<Tokenizer, Error> {
    let wrong = |reason: String| Error::Tokenizer { name: file.source().to_string(), reason };
    let text = |(id, token): (usize, &&[u8])| {
        String::from_utf8(token.to_vec()).map_err(|_| {
            wrong(format!("token {id} is not UTF-8: {:?}", String::from_utf8_lossy(&token[..token.len().min(100)])))
        })
    };
    let tokens: Vec<String> = tokens.iter().enumerate().map(text).collect::<Result<_, _>>()?;
    let mut vocabulary = Vocabulary::default();
    for (token, &kind) in tokens.iter().zip(kinds) {
        let bytes = if kind == Kind::Normal { byte_level::bytes(token) } else { None };
        vocabulary.push(bytes.unwrap_or_else(|| token.as_bytes().to_vec()), kind);
    }
    let array = file.get_array("tokenizer.ggml.merges")?;
    let lines = array.strings().ok_or_else(|| wrong(format!("the merges are {array:?}, not text")))?;
    let merge = |(index, line): (usize, &[u8])| {
        let line = std::str::from_utf8(line).ok();
        // The first letter may be a space of its own right.
        let pair = line.and_then(|line| {
            let first = line.chars().next()?.len_utf8();
            let at = first + line[first..].find(' ')?;
            Some((line[..at].to_string(), line[at + 1..].to_string()))
        });
        pair.ok_or_else(|| wrong(format!("merge {index} is not two tokens")))
    };
    let merges = lines.enumerate().map(merge).collect::<Result<Vec<_>, _>>()?;
    let numbered: Vocab = tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect();
    let describe = |error: tokenizers::Error| wrong(error.to_string());
    let model =
        BPE::builder().vocab_and_merges(numbered, merges).ignore_merges(pre.ignore_merges).build().map_err(describe)?;

    let mut tokenizer = tokenizers::Tokenizer::new(model);
    let mut steps = splits(pre).map_err(describe)?;
    steps.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, false)));
    tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
    let added = |wanted: Kind| {
        let named = tokens.iter().zip(kinds).filter(move |(token, kind)| **kind == wanted && !token.is_empty());
        named.map(move |(token, _)| AddedToken::from(token.clone(), wanted != Kind::UserDefined).normalized(false))
    };
    tokenizer.add_special_tokens(added(Kind::Control).chain(added(Kind::Unknown))).map_err(describe)?;
    tokenizer.add_tokens(added(Kind::UserDefined)).map_err(describe)?;
    let (bos, ends) = specials(file, &vocabulary)?;
    Ok(Tokenizer {
        name: file.source().to_string(),
        algorithm: Algorithm::HuggingFace(Box::new(HuggingFace::new(tokenizer, false))),
        vocabulary,
        bos,
        ends,
        add_bos: file.find_bool("tokenizer.ggml.add_bos_token")?.unwrap_or(pre.add_bos),
        add_eos: file.find_bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
        strip_first_space: false,
    })
}

/// Special tokens of a vocabulary: all markup if `markup`, and text that is always one token.
pub(super) fn finder(vocabulary: &Vocabulary, markup: bool) -> Finder {
    let wanted = |id: &u32| match vocabulary.kind(*id) {
        Kind::UserDefined => true,
        Kind::Control | Kind::Unknown => markup,
        _ => false,
    };
    Finder::new(vocabulary.ids().filter(wanted).map(|id| (vocabulary.bytes(id).to_vec(), id)))
}
