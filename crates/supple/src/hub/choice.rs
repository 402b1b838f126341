//! Which files of a repository make a model.

use super::{HubError, Source};
use std::collections::BTreeSet;
use std::path::Path;

/// What is taken of GGUF files if nobody says: small enough for most machines and nearly as good as the whole, first.
const PREFERRED: [&str; 7] = ["q4_k_m", "q4_k_s", "q5_k_m", "q4_0", "q6_k", "q8_0", "f16"];

/// Files beside the weights that a model needs or may need.
const BESIDE: [&str; 8] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];

/// The files to download, the one that is opened first: those of a GGUF file, one or many, or `config.json`, the safetensors
/// files and what lies beside them.
///
/// # Errors
/// If nothing fits.
pub fn choose(source: &Source, names: &[String]) -> Result<Vec<String>, HubError> {
    // Names become paths in the cache: whatever would lead out of it is not there.
    let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| is_inside(name)).collect();
    let has = |name: &str| names.contains(&name);
    let gguf: Vec<&str> = names.iter().copied().filter(|name| name.to_lowercase().ends_with(".gguf")).collect();
    // What goes with a model for pictures is no model of its own.
    let models: Vec<&str> = gguf.iter().copied().filter(|name| !name.to_lowercase().contains("mmproj")).collect();
    let refuse = |detail: String| {
        let choices: BTreeSet<String> = models.iter().filter_map(|name| quantization(name)).collect();
        Err(HubError::NoChoice { model: source.clone(), detail, choices: choices.into_iter().collect() })
    };
    if let Some(choice) = &source.choice {
        if has(choice) {
            return Ok(parts(choice, &names));
        }
        let wanted = choice.to_lowercase();
        let found = models.iter().find(|name| quantization(name).is_some_and(|found| found == wanted));
        return match found {
            Some(name) => Ok(parts(name, &names)),
            None => refuse(format!("there is no {choice}")),
        };
    }
    if !models.is_empty() {
        let best = PREFERRED
            .iter()
            .find_map(|wanted| models.iter().find(|name| quantization(name).is_some_and(|found| found == *wanted)));
        return match best.or(if models.len() == 1 { models.first() } else { None }) {
            Some(name) => Ok(parts(name, &names)),
            None => refuse("none of its files is what one would take without being asked".to_owned()),
        };
    }
    let weights: Vec<&str> = names.iter().copied().filter(|name| is_weights(name)).collect();
    if !has("config.json") || weights.is_empty() {
        return refuse("it has neither a GGUF file nor config.json with safetensors".to_owned());
    }
    let index = has("model.safetensors.index.json").then_some("model.safetensors.index.json");
    let beside = BESIDE.iter().copied().filter(|name| has(name));
    Ok(std::iter::once("config.json").chain(index).chain(beside).chain(weights).map(str::to_owned).collect())
}

/// Whether files that were chosen from a folder are all of the model: every part of a GGUF file, every shard of the index.
pub(super) fn is_whole(files: &[String], folder: &Path) -> bool {
    let numbered = |name: &str| part(name).map(|(_, _, of)| of);
    if let Some(of) = files.first().and_then(|name| numbered(name)) {
        return files.len() == of;
    }
    let index = folder.join("model.safetensors.index.json");
    if !index.exists() {
        return true;
    }
    let text = std::fs::read_to_string(index).unwrap_or_default();
    let Ok(index) = serde_json::from_str::<serde_json::Value>(&text) else { return false };
    let map = index["weight_map"].as_object();
    map.is_some_and(|map| {
        map.values().all(|file| file.as_str().is_some_and(|file| files.iter().any(|name| name == file)))
    })
}

/// Whether a name stays inside of a folder.
fn is_inside(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(['\\', '\0'])
        && Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// Weights in the folder itself; those in folders below it are of other kinds.
fn is_weights(name: &str) -> bool {
    !name.contains('/')
        && name.ends_with(".safetensors")
        && (name.starts_with("model") || name.starts_with("pytorch_model"))
}

/// `q4_k_m` of `model-Q4_K_M.gguf` or `model-Q4_K_M-00001-of-00003.gguf`.
fn quantization(name: &str) -> Option<String> {
    let file = name.rsplit('/').next().unwrap_or(name).to_lowercase();
    let stem = file.strip_suffix(".gguf")?;
    let stem = part(name).map_or(stem.to_owned(), |(stem, ..)| stem.rsplit('/').next().unwrap_or("").to_lowercase());
    let last = stem.rsplit(['-', '.']).next()?;
    let kinds = ["q", "iq", "f16", "f32", "bf16", "tq", "mxfp4"];
    kinds.iter().any(|kind| last.starts_with(kind)).then(|| last.to_owned())
}

/// Stem, number and count of `stem-00001-of-00003.gguf`.
fn part(name: &str) -> Option<(&str, usize, usize)> {
    let stem = name.strip_suffix(".gguf")?;
    let (rest, of) = stem.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let (number, of) = (number.parse().ok()?, of.parse().ok()?);
    (1..=of).contains(&number).then_some((stem, number, of))
}

/// All parts of the file that `name` is, or is a part of, the first first.
fn parts(name: &str, names: &[&str]) -> Vec<String> {
    let Some((stem, _, of)) = part(name) else { return vec![name.to_owned()] };
    let mut found: Vec<(usize, &str)> = names
        .iter()
        .filter_map(|name| {
            part(name).filter(|&(other, _, count)| other == stem && count == of).map(|(_, i, _)| (i, *name))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(source: &str, names: &[&str]) -> Result<Vec<String>, HubError> {
        choose(&source.parse().unwrap(), &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_quantisation_is_found_and_a_good_one_taken_unasked() {
        let names = ["README.md", "m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-f16.gguf"];
        assert_eq!(chosen("hf:a/b", &names).unwrap(), ["m-Q4_K_M.gguf"]);
        assert_eq!(chosen("hf:a/b:q8_0", &names).unwrap(), ["m-Q8_0.gguf"]);
        assert_eq!(chosen("hf:a/b:m-Q2_K.gguf", &names).unwrap(), ["m-Q2_K.gguf"]);
        assert_eq!(chosen("hf:a/b", &["only.gguf"]).unwrap(), ["only.gguf"]);
        let Err(HubError::NoChoice { choices, .. }) = chosen("hf:a/b:Q3_K_L", &names) else { panic!("there is none") };
        assert_eq!(choices, ["q2_k", "q4_k_m", "q8_0"]);
    }

    #[test]
    fn files_in_parts_come_in_order() {
        let names =
            ["d/m-Q4_K_M-00002-of-00002.gguf", "d/m-Q4_K_M-00001-of-00002.gguf", "d/m-Q8_0-00001-of-00003.gguf"];
        let wanted = ["d/m-Q4_K_M-00001-of-00002.gguf", "d/m-Q4_K_M-00002-of-00002.gguf"];
        assert_eq!(chosen("hf:a/b:Q4_K_M", &names).unwrap(), wanted);
        assert_eq!(chosen("hf:a/b", &names).unwrap(), wanted);
    }

    #[test]
    fn a_folder_of_safetensors_comes_with_what_it_needs() {
        let names = [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "config.json",
            "model.safetensors.index.json",
            "tokenizer.json",
            "onnx/model.onnx",
            "consolidated.safetensors",
            "pytorch_model.bin",
        ];
        let wanted = [
            "config.json",
            "model.safetensors.index.json",
            "tokenizer.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ];
        assert_eq!(chosen("hf:a/b", &names).unwrap(), wanted);
        assert!(matches!(chosen("hf:a/b", &["pytorch_model.bin", "config.json"]), Err(HubError::NoChoice { .. })));
    }

    #[test]
    fn names_that_lead_out_of_the_cache_are_not_there() {
        for name in ["../../m-Q4_K_M.gguf", "/tmp/m-Q4_K_M.gguf", "a/../../m-Q4_K_M.gguf", "a\\m-Q4_K_M.gguf"] {
            assert!(chosen("hf:a/b", &[name]).is_err(), "{name}");
        }
    }
}
