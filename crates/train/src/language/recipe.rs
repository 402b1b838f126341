//! Recipes for language models.

use crate::recipe::Every;
use crate::{Error, OptimizerRecipe, Precision, Schedule};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Whether a recipe's text is one for a language model.
pub fn is_language(text: &str) -> bool {
    let table: Result<toml::Table, _> = toml::from_str(text);
    table.is_ok_and(|table| table.get("task").and_then(toml::Value::as_str) == Some("language"))
}

/// A run that trains a language model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LanguageRecipe {
    /// `language`.
    pub task: String,
    /// What every random choice is drawn from.
    #[serde(default = "one")]
    pub seed: u64,
    /// What the network computes in, on a GPU.
    #[serde(default)]
    pub precision: Precision,
    /// What is trained.
    pub model: ModelRecipe,
    /// What is trained in place of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterRecipe>,
    /// On what.
    pub data: LanguageData,
    /// How often what is done.
    #[serde(default)]
    pub every: Every,
    /// How.
    pub training: Training,
}

/// What is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecipe {
    /// The folder or file of a model to begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// A model to make, if there is none to begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<NewModel>,
    /// The folder with `tokenizer.json`, where that is not the model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// What weights are stored as in the end: `f32`, `bf16` or `f16`.
    #[serde(default = "bf16")]
    pub save: Precision,
}

/// The shape of a new decoder of the Llama family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewModel {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward part.
    pub intermediate: usize,
    /// Number of layers.
    pub layers: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values; as many as of queries if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<usize>,
    /// Most tokens of a text.
    pub context: usize,
    /// Base of the positions' frequencies.
    #[serde(default = "theta")]
    pub theta: f64,
}

/// A low-rank adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterRecipe {
    /// Its rank.
    pub rank: usize,
    /// What it adds is multiplied by `alpha / rank`.
    pub alpha: f32,
    /// Which projections.
    #[serde(default = "targets")]
    pub targets: Vec<String>,
    /// What is written in the end.
    #[serde(default)]
    pub save: SaveAdapter,
}

/// What is written of an adapter in the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaveAdapter {
    /// A whole model, with the adapter in its weights.
    #[default]
    Merged,
    /// The adapter alone, under PEFT's names.
    Adapter,
}

/// Text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LanguageData {
    /// Text files, or JSONL files of conversations; relative paths are relative to the recipe.
    pub train: Vec<PathBuf>,
    /// Those to measure perplexity on.
    #[serde(default)]
    pub validate: Vec<PathBuf>,
}

/// How it is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Steps of the optimiser.
    pub steps: usize,
    /// Rows of a step.
    pub batch: usize,
    /// Parts that a batch is split into, whose gradients are added.
    #[serde(default = "one_usize")]
    pub accumulate: usize,
    /// Tokens of a row.
    pub length: usize,
    /// The largest learning rate.
    pub learning_rate: f64,
    /// Steps until it is reached.
    #[serde(default)]
    pub warm_up: usize,
    /// Largest norm of gradients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// How the learning rate goes down.
    #[serde(default)]
    pub schedule: Schedule,
    /// Which optimiser.
    #[serde(default = "adam_w")]
    pub optimizer: OptimizerRecipe,
    /// Whether what layers compute is computed again on the way back, and not kept.
    #[serde(default)]
    pub recompute: bool,
}

fn one() -> u64 {
    1
}

fn one_usize() -> usize {
    1
}

fn theta() -> f64 {
    1e4
}

fn bf16() -> Precision {
    Precision::Bf16
}

fn targets() -> Vec<String> {
    ["q_proj", "k_proj", "v_proj", "o_proj"].map(str::to_owned).into()
}

fn adam_w() -> OptimizerRecipe {
    OptimizerRecipe::AdamW { betas: [0.9, 0.95], epsilon: 1e-8, weight_decay: 0.1 }
}

impl LanguageRecipe {
    /// Reads a recipe; relative paths in it become relative to its folder.
    ///
    /// # Errors
    /// If the file cannot be read or says what makes no sense.
    pub fn open(path: &Path) -> Result<LanguageRecipe, Error> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
        let mut recipe = LanguageRecipe::parse(&path.display().to_string(), &text)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let model = &mut recipe.model;
        let paths = recipe.data.train.iter_mut().chain(&mut recipe.data.validate);
        for path in paths.chain(&mut model.start).chain(&mut model.tokenizer) {
            let joined = folder.join(&*path);
            // In one form, from wherever the command is called.
            *path = joined.canonicalize().unwrap_or(joined);
        }
        Ok(recipe)
    }

    /// Reads a recipe from text; `name` is what errors call it.
    ///
    /// # Errors
    /// If it says what makes no sense.
    pub fn parse(name: &str, text: &str) -> Result<LanguageRecipe, Error> {
        let problem = |problem: String| Error::Recipe { recipe: name.to_owned(), problem };
        let recipe: LanguageRecipe = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start].lines().count().max(1));
            let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            problem(format!("{line}{}", error.message()))
        })?;
        recipe.problem().map_or(Ok(recipe), |what| Err(problem(what)))
    }

    /// The recipe as TOML.
    ///
    /// # Errors
    /// If a number in it cannot be written, such as one beyond 2^63.
    pub fn to_toml(&self) -> Result<String, Error> {
        let problem = |error: toml::ser::Error| Error::Recipe { recipe: "recipe".into(), problem: error.to_string() };
        toml::to_string(self).map_err(problem)
    }

    /// What a run goes on with, as TOML: how often things are done, what is validated on, and what is computed in may differ.
    pub(super) fn essence(&self) -> Result<String, Error> {
        let mut recipe = self.clone();
        (recipe.every, recipe.precision, recipe.data.validate) = (Every::default(), Precision::default(), Vec::new());
        (recipe.model.save, recipe.training.recompute) = (Precision::default(), false);
        recipe.to_toml()
    }

    /// The learning rate of step `step`, from 0.
    pub(super) fn rate(&self, step: usize) -> f64 {
        let training = &self.training;
        training.schedule.learning_rate(training.learning_rate, training.warm_up, step, training.steps)
    }

    /// What makes no sense, if anything does.
    fn problem(&self) -> Option<String> {
        let Training { steps, batch, accumulate, length, learning_rate, clip, .. } = self.training;
        if self.task != "language" {
            return Some(format!("task is {:?}, wanted \"language\"", self.task));
        }
        if self.model.start.is_some() == self.model.new.is_some() {
            return Some("a [model] has either start or new".into());
        }
        if self.model.new.is_some() && self.model.tokenizer.is_none() {
            return Some("a new model wants model.tokenizer, the folder of a tokenizer.json".into());
        }
        if self.data.train.is_empty() {
            return Some("at least one path in data.train is wanted".into());
        }
        if [steps, batch, accumulate].contains(&0) || !batch.is_multiple_of(accumulate) {
            return Some(format!(
                "{steps} steps, a batch of {batch} in {accumulate} parts: wants equal parts and steps"
            ));
        }
        if !(2..=1 << 17).contains(&length) || (batch / accumulate).saturating_mul(length) > 1 << 24 {
            return Some(format!(
                "rows of {length} tokens, {batch} at a time; wants 2 to 131072, and less than 2^24 in all"
            ));
        }
        if !(learning_rate.is_finite() && learning_rate > 0.0) {
            return Some(format!("learning_rate is {learning_rate}"));
        }
        if clip.is_some_and(|limit| limit.is_nan() || limit <= 0.0) {
            return Some("clip is a norm above 0".into());
        }
        if self.adapter.as_ref().is_some_and(|adapter| adapter.rank == 0 || adapter.targets.is_empty()) {
            return Some("an adapter has a rank above 0 and at least one target".into());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "task = 'language'\n[model]\nstart = 'model'\n[adapter]\nrank = 4\nalpha = 8.0\n[data]\n\
        train = ['a.txt']\n[training]\nsteps = 3\nbatch = 4\nlength = 64\nlearning_rate = 1e-4\n";

    #[test]
    fn a_recipe_survives_being_written() {
        assert!(is_language(TEXT) && !is_language("[network]\nkind = 'rlfn_s'"));
        let recipe = LanguageRecipe::parse("test", TEXT).unwrap();
        assert_eq!(LanguageRecipe::parse("again", &recipe.to_toml().unwrap()).unwrap(), recipe);
        let mut other = recipe.clone();
        (other.every.log, other.precision) = (1, Precision::Bf16);
        assert_eq!(other.essence().unwrap(), recipe.essence().unwrap());
        other.training.batch = 8;
        assert_ne!(other.essence().unwrap(), recipe.essence().unwrap());
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (from, to, wanted) in [
            ("batch = 4", "batch = 4\naccumulate = 3", "3 parts"),
            ("length = 64", "length = 1", "rows of 1"),
            ("1e-4", "-1.0", "learning_rate is -1"),
            ("start = 'model'", "", "either start or new"),
            ("rank = 4", "rank = 0", "rank above 0"),
            ("['a.txt']", "[]", "data.train"),
            ("steps = 3", "stepz = 3", "unknown field `stepz`"),
            ("'language'", "'speech'", "speech"),
        ] {
            let error = LanguageRecipe::parse("my.toml", &TEXT.replace(from, to)).unwrap_err().to_string();
            assert!(error.starts_with("my.toml: ") && error.contains(wanted), "{error}, wanted {wanted}");
        }
    }
}
