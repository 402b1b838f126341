//! Tokenisers from Hugging Face folders: `tokenizer.json`, with what `tokenizer_config.json` and `generation_config.json`
//! say of special tokens.

use super::spm::SPACE;
use super::vocabulary::{Kind, Vocabulary};
use super::{Algorithm, HuggingFace, Tokenizer, byte_level, ends};
use crate::Error;
use serde_json::Value;
use std::path::Path;
use supple_weights::checkpoint::read_json;

/// Most bytes of a `tokenizer.json`.
const MAX_BYTES: usize = 256 << 20;
/// Largest number of a token.
const MAX_ID: u32 = 1 << 24;

impl Tokenizer {
    /// The tokeniser of a folder that has a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::Tokenizer`] as [`Tokenizer::from_json`], [`Error::Weights`] for damaged files beside it.
    pub fn from_folder(folder: &Path) -> Result<Tokenizer, Error> {
        let path = folder.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), action: "read", source })?;
        let optional = |name: &str| -> Result<Value, Error> {
            let path = folder.join(name);
            if path.is_file() { Ok(read_json(&path)?) } else { Ok(Value::Null) }
        };
        let settings =
            [optional("tokenizer_config.json")?, optional("generation_config.json")?, optional("config.json")?];
        Tokenizer::from_json(&path.display().to_string(), &bytes, &settings)
    }

    /// The tokeniser in the bytes of a `tokenizer.json`; `name` is what errors call it. `settings` are other files of the
    /// model, looked at for `bos_token`, `eos_token` and their numbers.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`].
    pub fn from_json(name: &str, bytes: &[u8], settings: &[Value]) -> Result<Tokenizer, Error> {
        let wrong = |reason: String| Error::Tokenizer { name: name.to_string(), reason };
        if bytes.len() > MAX_BYTES {
            return Err(wrong(format!("{} bytes, the limit is {MAX_BYTES}", bytes.len())));
        }
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| wrong(error.to_string()))?;
        // What a file asks for in batches is not wanted for one text.
        tokenizer.with_truncation(None).map_err(|error| wrong(error.to_string()))?;
        tokenizer.with_padding(None);

        let decoder = serde_json::to_value(tokenizer.get_decoder()).unwrap_or_default();
        let byte_level = has_type(&decoder, "ByteLevel");
        let added = tokenizer.get_added_tokens_decoder();
        let mut spelled: Vec<(u32, String)> =
            tokenizer.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
        spelled.sort_unstable();
        if spelled.last().is_none_or(|&(id, _)| id > MAX_ID) {
            return Err(wrong("an empty vocabulary, or numbers of tokens that are absurd".into()));
        }
        let mut vocabulary = Vocabulary::default();
        for (id, token) in spelled {
            while (vocabulary.len() as u32) < id {
                vocabulary.push([], Kind::Unused);
            }
            if vocabulary.len() as u32 > id {
                continue; // two names for one number: the first stands
            }
            match added.get(&id) {
                Some(special) if special.special => vocabulary.push(&token, Kind::Control),
                Some(_) => vocabulary.push(&token, Kind::UserDefined),
                None if byte_level => {
                    vocabulary
                        .push(byte_level::bytes(&token).unwrap_or_else(|| token.clone().into_bytes()), Kind::Normal);
                }
                None => match byte_of(&token) {
                    Some(byte) => vocabulary.push([byte], Kind::Byte),
                    None => vocabulary.push(token.replace(SPACE, " "), Kind::Normal),
                },
            }
        }
        let named = |key: &str| -> Vec<u32> {
            let ids = settings.iter().map(|file| &file[format!("{key}_token_id")]).flat_map(numbers);
            let names = settings.iter().map(|file| &file[format!("{key}_token")]);
            let names = names.filter_map(|token| token.as_str().or(token["content"].as_str()));
            let names = names.filter_map(|token| tokenizer.token_to_id(token));
            names.chain(ids).filter(|&id| (id as usize) < vocabulary.len()).collect()
        };
        let (bos, eos) = (named("bos").first().copied(), named("eos"));
        let strip_first_space = has_type(&decoder, "Strip") || has_type(&decoder, "Metaspace");
        let ends = ends(&vocabulary, eos);
        Ok(Tokenizer {
            name: name.to_string(),
            algorithm: Algorithm::HuggingFace(Box::new(HuggingFace::new(tokenizer, true))),
            vocabulary,
            bos,
            ends,
            add_bos: false,
            add_eos: false,
            strip_first_space: strip_first_space && !byte_level,
        })
    }
}

fn numbers(value: &Value) -> Vec<u32> {
    let number = |value: &Value| value.as_u64().and_then(|id| id.try_into().ok());
    match value {
        Value::Array(values) => values.iter().filter_map(number).collect(),
        value => number(value).into_iter().collect(),
    }
}

/// Whether a part of this type is anywhere in `value`.
fn has_type(value: &Value, name: &str) -> bool {
    match value {
        Value::Object(fields) => {
            fields.get("type").is_some_and(|kind| kind == name) || fields.values().any(|field| has_type(field, name))
        }
        Value::Array(values) => values.iter().any(|value| has_type(value, name)),
        _ => false,
    }
}

fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
}
