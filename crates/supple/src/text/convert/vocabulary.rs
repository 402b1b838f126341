//! A folder's tokeniser and chat template as GGUF metadata.

use crate::Error;
use crate::text::template::ChatTemplate;
use crate::text::tokenizer::{EncodeOptions, Tokenizer, words};
use serde_json::Value as Json;
use std::collections::HashMap;
use std::path::Path;
use supple_weights::checkpoint::read_json;
use supple_weights::gguf::{Array, Value};

/// Types of tokens, as GGUF numbers them.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Keys and values of the tokeniser and the template in `folder`, for a model with `rows` rows of embeddings: what the
/// vocabulary lacks of them is filled with tokens that are never used.
pub(super) fn vocabulary(folder: &Path, rows: usize) -> Result<Vec<(String, Value)>, Error> {
    let path = folder.join("tokenizer.json");
    let name = path.display().to_string();
    let wrong = |reason: String| Error::Tokenizer { name: name.clone(), reason };
    // Refuses what is no tokeniser, and knows which tokens begin and end a text.
    let tokenizer = Tokenizer::from_folder(folder)?;
    let json = read_json(&path)?;
    let model = &json["model"];
    let (Some(vocab), "BPE") = (model["vocab"].as_object(), model["type"].as_str().unwrap_or("BPE")) else {
        return Err(wrong(format!("GGUF cannot hold a vocabulary of the kind {}, only BPE", model["type"])));
    };
    let mut tokens: Vec<Option<(&str, i32)>> = vec![None; rows];
    let place = |id: &Json| id.as_u64().map(|id| id as usize).filter(|&id| id < rows);
    let beyond =
        |token: &str, id: &Json| wrong(format!("token {token:?} has the number {id}, the model has {rows} rows"));
    let byte_level = has_type(&json["decoder"], "ByteLevel") || has_type(&json["pre_tokenizer"], "ByteLevel");
    for (token, id) in vocab {
        let kind = match token.as_str() {
            _ if byte_level => NORMAL,
            token if model["unk_token"].as_str() == Some(token) => UNKNOWN,
            token if token.len() == 6 && token.starts_with("<0x") && token.ends_with('>') => BYTE,
            _ => NORMAL,
        };
        tokens[place(id).ok_or_else(|| beyond(token, id))?] = Some((token, kind));
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let Some(token) = added["content"].as_str() else { continue };
        let special = added["special"].as_bool().unwrap_or(false);
        let at = place(&added["id"]).ok_or_else(|| beyond(token, &added["id"]))?;
        let unknown = matches!(tokens[at], Some((_, UNKNOWN)));
        tokens[at] = Some((
            token,
            if unknown {
                UNKNOWN
            } else if special {
                CONTROL
            } else {
                USER_DEFINED
            },
        ));
    }
    let merges = merges(model).ok_or_else(|| wrong("a merge is not two tokens".into()))?;
    let key = |key: &str| format!("tokenizer.ggml.{key}");
    let mut pairs = Vec::new();
    if byte_level {
        let ignore = model["ignore_merges"].as_bool().unwrap_or(false);
        let patterns = patterns(&json["pre_tokenizer"]);
        let pre = words(&patterns, ignore)
            .ok_or_else(|| wrong(format!("GGUF has no name for this way to cut words: {patterns:?}")))?;
        pairs.push((key("model"), Value::from("gpt2")));
        pairs.push((key("pre"), Value::from(pre)));
    } else {
        pairs.push((key("model"), Value::from("llama")));
        pairs.push((key("pre"), Value::from("default")));
        // What merges first has the larger score; what never merges comes last.
        let mut scores: HashMap<String, f32> = HashMap::new();
        for (rank, (left, right)) in merges.iter().enumerate() {
            scores.entry(format!("{left}{right}")).or_insert(-(rank as f32));
        }
        let last = -(merges.len() as f32);
        let score = |(id, token): (usize, &Option<(&str, i32)>)| match token {
            Some((token, NORMAL)) => scores.get(*token).copied().unwrap_or(last - id as f32),
            _ => 0.0,
        };
        let scores: Vec<f32> = tokens.iter().enumerate().map(score).collect();
        pairs.push((key("scores"), Value::Array(Array::from_f32(&scores))));
        pairs.push((key("add_space_prefix"), Value::Bool(puts_space_first(&json))));
    }
    let named = tokens.iter().enumerate().map(|(id, token)| match token {
        Some((token, _)) => token.to_string(),
        None => format!("[PAD{id}]"),
    });
    pairs.push((key("tokens"), Value::Array(Array::from_strings(named))));
    let kinds: Vec<i32> = tokens.iter().map(|token| token.map_or(UNUSED, |token| token.1)).collect();
    pairs.push((key("token_type"), Value::Array(Array::from_i32(&kinds))));
    if byte_level {
        let lines = merges.iter().map(|(left, right)| format!("{left} {right}"));
        pairs.push((key("merges"), Value::Array(Array::from_strings(lines))));
    }
    specials(&tokenizer, model, &mut |name, value| pairs.push((key(name), value)))?;
    let (main, tools) = ChatTemplate::sources(folder)?;
    for (key, source) in [("tokenizer.chat_template", main), ("tokenizer.chat_template.tool_use", tools)] {
        pairs.extend(source.map(|source| (key.to_owned(), Value::from(source.as_str()))));
    }
    Ok(pairs)
}

/// The tokens that begin and end a text, and whether the tokeniser adds them.
fn specials(tokenizer: &Tokenizer, model: &Json, add: &mut dyn FnMut(&str, Value)) -> Result<(), Error> {
    let empty = tokenizer.encode("", EncodeOptions { add_special: true, parse_special: false })?;
    if let Some(bos) = tokenizer.bos() {
        add("bos_token_id", Value::U32(bos));
    }
    if let Some(eos) = tokenizer.eos() {
        add("eos_token_id", Value::U32(eos));
    }
    // An end of a turn beside the end of a text.
    if let Some(&other) = tokenizer.ends().get(1) {
        add("eot_token_id", Value::U32(other));
    }
    if let Some(unknown) = model["unk_token"].as_str().and_then(|token| tokenizer.find(token)) {
        add("unknown_token_id", Value::U32(unknown));
    }
    let begins = tokenizer.bos().is_some() && tokenizer.adds_bos();
    add("add_bos_token", Value::Bool(begins));
    let after = &empty[usize::from(begins).min(empty.len())..];
    add("add_eos_token", Value::Bool(!after.is_empty() && after.last().copied() == tokenizer.eos()));
    Ok(())
}

/// Merges, written as one text or as two.
fn merges(model: &Json) -> Option<Vec<(String, String)>> {
    let list = model["merges"].as_array().map(Vec::as_slice).unwrap_or_default();
    let pair = |merge: &Json| match merge {
        Json::String(text) => text.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())),
        merge => Some((merge[0].as_str()?.to_owned(), merge[1].as_str()?.to_owned())),
    };
    list.iter().map(pair).collect()
}

/// The regular expressions that cut words, one after the other.
fn patterns(pre: &Json) -> Vec<String> {
    match pre["type"].as_str() {
        Some("Sequence") => pre["pretokenizers"].as_array().into_iter().flatten().flat_map(patterns).collect(),
        Some("Split") => pre["pattern"]["Regex"].as_str().map(str::to_owned).into_iter().collect(),
        Some("Digits") if pre["individual_digits"] == true => vec![r"\p{N}".to_owned()],
        Some("Digits") => vec![r"\p{N}+".to_owned()],
        Some("ByteLevel") if pre["use_regex"] != false => {
            vec![r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+".to_owned()]
        }
        _ => Vec::new(),
    }
}

/// Whether text is given a space at its start.
fn puts_space_first(json: &Json) -> bool {
    let metaspace = |part: &Json| {
        part["type"] == "Metaspace"
            && (part["prepend_scheme"].as_str().is_some_and(|scheme| scheme != "never")
                || part["prepend_scheme"].is_null() && part["add_prefix_space"] != false)
    };
    let parts =
        |part: &Json, list: &str| -> Vec<Json> { part[list].as_array().cloned().unwrap_or_else(|| vec![part.clone()]) };
    parts(&json["normalizer"], "normalizers").iter().any(|part| part["type"] == "Prepend")
        || parts(&json["pre_tokenizer"], "pretokenizers").iter().any(metaspace)
}

/// Whether a part of this type is anywhere in `value`.
fn has_type(value: &Json, name: &str) -> bool {
    match value {
        Json::Object(fields) => {
            fields.get("type").is_some_and(|kind| kind == name) || fields.values().any(|field| has_type(field, name))
        }
        Json::Array(values) => values.iter().any(|value| has_type(value, name)),
        _ => false,
    }
}
