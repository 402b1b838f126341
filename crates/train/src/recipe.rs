//! Recipes: a TOML file that says what is trained on what and how.

use crate::Error;
use crate::loss::LossRecipe;
use crate::optimizer::OptimizerRecipe;
use crate::precision::Precision;
use crate::schedule::Schedule;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What every random choice is drawn from.
    #[serde(default = "one")]
    pub seed: u64,
    /// What the network computes in, on a GPU; a stage may say otherwise.
    #[serde(default, skip_serializing_if = "is_default")]
    pub precision: Precision,
    /// What is trained.
    pub network: NetworkRecipe,
    /// On what.
    pub data: Data,
    /// How often what is done.
    #[serde(default)]
    pub every: Every,
    /// One after the other; each begins with the weights of the one before and a new optimiser: a *warm start*.
    #[serde(rename = "stage")]
    pub stages: Vec<Stage>,
}

/// What is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkRecipe {
    /// `rlfn_s`, `rlfn`, `rlfn_challenge` (before its pruning stage), `rlfn_tiny` (for trials), `ditn_tiny` (layer norm), `ditn_real` (tanh), `ditn`.
    pub kind: String,
    /// Output pixels along a side of an input pixel.
    pub scale: usize,
    /// Weights to begin with. Those of another scale serve too: the tail is then made anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
}

/// Pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Files and folders of high-resolution pictures; relative ones are relative to the recipe.
    pub train: Vec<PathBuf>,
    /// Pictures to validate with.
    #[serde(default)]
    pub validate: Vec<PathBuf>,
    /// Pictures are made so many times smaller first, by averaging: that takes compression's traces out of photographs.
    #[serde(default = "one_usize")]
    pub shrink: usize,
    /// Memory for decoded pictures, in MiB.
    #[serde(default = "cache_mib")]
    pub cache_mib: usize,
}

/// Steps from one time to the next; 0 is never.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Every {
    /// Writing the loss to `metrics.jsonl`.
    pub log: usize,
    /// Writing a checkpoint: what a sudden end may cost.
    pub checkpoint: usize,
    /// Enlarging the validation pictures.
    pub validate: usize,
}

impl Default for Every {
    fn default() -> Self {
        Every { log: 10, checkpoint: 500, validate: 1000 }
    }
}

/// A part of a run with its own loss and schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Steps of the optimiser.
    pub steps: usize,
    /// Examples in a step.
    pub batch: usize,
    /// Parts that a batch is split into, whose gradients are added: for large batches in little memory.
    #[serde(default = "one_usize")]
    pub accumulate: usize,
    /// Side of an example in high-resolution pixels.
    pub patch: usize,
    /// The largest learning rate.
    pub learning_rate: f64,
    /// Steps until the learning rate is reached.
    #[serde(default)]
    pub warm_up: usize,
    /// Largest norm of gradients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// Decay of the moving average of weights, which is what the stage results in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average: Option<f64>,
    /// Channels that are left of an RLFN, pruned before the stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune_channels: Option<usize>,
    /// Whether the layer norms of a DITN become hyperbolic tangents before the stage.
    #[serde(default)]
    pub substitute_tanh: bool,
    /// How the learning rate goes down.
    #[serde(default)]
    pub schedule: Schedule,
    /// What the network computes in, on a GPU, if that differs from the recipe's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// Which optimiser.
    #[serde(default)]
    pub optimizer: OptimizerRecipe,
    /// What is minimised: the sum of these.
    pub loss: Vec<LossRecipe>,
}

fn one() -> u64 {
    1
}

fn is_default(precision: &Precision) -> bool {
    *precision == Precision::default()
}

fn one_usize() -> usize {
    1
}

fn cache_mib() -> usize {
    1024
}

impl Recipe {
    /// Reads a recipe; relative paths in it become relative to its folder.
    ///
    /// # Errors
    /// If the file cannot be read or says what makes no sense.
    pub fn open(path: &Path) -> Result<Recipe, Error> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
        let mut recipe = Recipe::parse(&path.display().to_string(), &text)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let paths = recipe.data.train.iter_mut().chain(&mut recipe.data.validate).chain(&mut recipe.network.start);
        for path in paths {
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
    pub fn parse(name: &str, text: &str) -> Result<Recipe, Error> {
        let problem = |problem: String| Error::Recipe { recipe: name.to_owned(), problem };
        let recipe: Recipe = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start].lines().count().max(1));
            let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            problem(format!("{line}{}", error.message()))
        })?;
        match recipe.problem() {
            Some(what) => Err(problem(what)),
            None => Ok(recipe),
        }
    }

    /// What the network computes in during `stage`, on a GPU.
    pub fn precision_of(&self, stage: &Stage) -> Precision {
        stage.precision.unwrap_or(self.precision)
    }

    /// The same recipe in another precision throughout.
    pub fn with_precision(mut self, precision: Precision) -> Recipe {
        self.precision = precision;
        self.stages.iter_mut().for_each(|stage| stage.precision = None);
        self
    }

    /// Whether a run of this recipe goes on as one of `other`: what is watched and kept in memory may differ, and what the network
    /// computes in.
    pub(crate) fn continues(&self, other: &Recipe) -> bool {
        let essence = |recipe: &Recipe| {
            let mut recipe = recipe.clone().with_precision(Precision::default());
            (recipe.every, recipe.data.cache_mib, recipe.data.validate) = (Every::default(), 0, Vec::new());
            recipe
        };
        essence(self) == essence(other)
    }

    /// The recipe as TOML.
    ///
    /// # Errors
    /// If a number in it cannot be written, such as one beyond 2^63.
    pub fn to_toml(&self) -> Result<String, Error> {
        let problem = |error: toml::ser::Error| Error::Recipe { recipe: "recipe".into(), problem: error.to_string() };
        toml::to_string(self).map_err(problem)
    }

    /// What makes no sense, if anything does.
    fn problem(&self) -> Option<String> {
        let scale = self.network.scale;
        if !(1..=8).contains(&scale) {
            return Some(format!("scale is {scale}, wanted 1 to 8"));
        }
        if self.stages.is_empty() || self.data.train.is_empty() {
            return Some("at least one [[stage]] and one path in data.train are wanted".into());
        }
        if !(1..=16).contains(&self.data.shrink) {
            return Some(format!("data.shrink is {}, wanted 1 to 16", self.data.shrink));
        }
        for (i, stage) in self.stages.iter().enumerate() {
            let problem = |text: String| Some(format!("stage {}: {text}", i + 1));
            if [stage.steps, stage.batch, stage.accumulate].contains(&0) {
                return problem("steps, batch and accumulate are at least 1".into());
            }
            if !stage.batch.is_multiple_of(stage.accumulate) {
                return problem(format!("a batch of {} is not {} equal parts", stage.batch, stage.accumulate));
            }
            // RLFN's attention needs fifteen pixels, DITN whole patches of eight.
            let unit = if self.network.kind.starts_with("ditn") { 8 * scale } else { scale };
            if stage.patch < 16 * scale || stage.patch > 4096 || !stage.patch.is_multiple_of(unit) {
                return problem(format!(
                    "patch is {}, wanted a multiple of {unit} from {} to 4096",
                    stage.patch,
                    16 * scale
                ));
            }
            // Three gigabytes of samples; what a network makes of them is many times as much.
            if (stage.batch / stage.accumulate).saturating_mul(stage.patch * stage.patch) > 1 << 28 {
                return problem(format!("{} patches of {} do not fit any memory", stage.batch, stage.patch));
            }
            if !(stage.learning_rate.is_finite() && stage.learning_rate > 0.0) {
                return problem(format!("learning_rate is {}", stage.learning_rate));
            }
            if stage.average.is_some_and(|decay| !(0.0..1.0).contains(&decay)) {
                return problem("average is a decay from 0 to below 1".into());
            }
            if stage.clip.is_some_and(|limit| limit.is_nan() || limit <= 0.0) {
                return problem("clip is a norm above 0".into());
            }
            if stage.loss.is_empty() {
                return problem("at least one loss is wanted, such as loss = [{ kind = \"l1\" }]".into());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [network]
        kind = "rlfn_s"
        scale = 2
        [data]
        train = ["pictures"]
        [[stage]]
        steps = 10
        batch = 4
        patch = 64
        learning_rate = 5e-4
        schedule = { kind = "cosine", end = 1e-6 }
        loss = [{ kind = "l1" }, { kind = "contrastive", weight = 0.1 }]
    "#;

    #[test]
    fn a_recipe_survives_being_written() {
        let recipe = Recipe::parse("test", TEXT).unwrap();
        assert_eq!((recipe.seed, recipe.every, recipe.stages[0].accumulate), (1, Every::default(), 1));
        assert_eq!(Recipe::parse("again", &recipe.to_toml().unwrap()).unwrap(), recipe);
        let mut other = recipe.clone();
        other.every.checkpoint = 7;
        assert!(other.continues(&recipe));
        other.stages[0].batch = 8;
        assert!(!other.continues(&recipe));
    }

    #[test]
    fn a_stage_has_the_precision_of_the_recipe_or_its_own() {
        let recipe = Recipe::parse("test", TEXT).unwrap();
        assert_eq!(recipe.precision_of(&recipe.stages[0]), Precision::F32);
        assert!(!recipe.to_toml().unwrap().contains("precision"), "as before there were any");
        let text = format!("precision = 'bf16'\n{TEXT}\nprecision = 'f16'");
        let own = Recipe::parse("test", &text).unwrap();
        assert_eq!((own.precision, own.precision_of(&own.stages[0])), (Precision::Bf16, Precision::F16));
        assert_eq!(Recipe::parse("again", &own.to_toml().unwrap()).unwrap(), own);
        assert!(own.continues(&recipe) && recipe.continues(&own), "a run may go on elsewhere");
        assert!(Recipe::parse("test", &format!("precision = 'f8'\n{TEXT}")).is_err());
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (from, to, wanted) in [
            ("batch = 4", "batch = 0", "stage 1: steps, batch"),
            ("batch = 4", "batch = 4_000_000_000", "do not fit"),
            ("patch = 64", "patch = 31", "stage 1: patch is 31"),
            ("patch = 64", "patch = 65", "stage 1: patch is 65"),
            ("scale = 2", "scale = 0", "scale is 0"),
            ("batch = 4", "batch = 4\naccumulate = 3", "4 is not 3 equal parts"),
            ("steps = 10", "stepz = 10", "line 8"),
            ("kind = \"l1\"", "kind = \"l7\"", "l7"),
            ("5e-4", "-1.0", "learning_rate is -1"),
            ("[\"pictures\"]", "[]", "data.train"),
        ] {
            let error = Recipe::parse("my.toml", &TEXT.replace(from, to)).unwrap_err().to_string();
            assert!(error.starts_with("my.toml: ") && error.contains(wanted), "{error}, wanted {wanted}");
        }
    }
}
