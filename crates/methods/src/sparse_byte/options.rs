//! What a caller can choose, and what it hears meanwhile.

use super::Error;
use supple_models::convnet::Pattern;

/// Widest block of output channels that shares a mask.
pub const MAX_BLOCK: usize = 64;

/// How a network is compressed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which weights are zero together.
    pub shape: Shape,
    /// How blocks lie on kernels larger than 1×1.
    pub taps: Taps,
    /// Share to remove of the prunable layers' weights or, as `allocation` says, of their multiplications; at least 0 and
    /// below 1. Filters are removed by weights.
    pub sparsity: f64,
    /// How that share is spread over the layers.
    pub allocation: Allocation,
    /// What a weight is worth.
    pub score: Score,
    /// Whether the classifier is pruned too.
    pub classifier: bool,
    /// How channels are reordered first; `None` leaves them as they are.
    pub rearrangement: Option<Rearrangement>,
    /// How rows are weighed against one another; `None` takes all as equal.
    pub importance: Option<Importance>,
    /// How the weights that are left are fitted to calibration pictures; `None` leaves them as they are.
    pub reconstruction: Option<Reconstruction>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            shape: Shape::Block(4),
            taps: Taps::Each,
            sparsity: 0.3,
            allocation: Allocation::Marginal,
            score: Score::Obs,
            classifier: false,
            importance: Some(Importance::default()),
            rearrangement: Some(Rearrangement::default()),
            reconstruction: Some(Reconstruction::default()),
        }
    }
}

/// Which weights are zero together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Those of this many neighbouring output channels at one input channel; 1 is unstructured.
    Block(usize),
    /// Whole output channels, and what reads them: the network becomes a smaller dense one.
    Filters,
}

/// How blocks lie on kernels larger than 1×1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Taps {
    /// Each tap has its own zeros.
    #[default]
    Each,
    /// All taps of an input channel are zero together.
    Together,
}

/// How the sparsity is spread over the layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Allocation {
    /// The same share of each layer's weights, and so of its multiplications.
    Uniform,
    /// Each layer keeps the same share of its score, and the network the wanted number of multiplications.
    Energy,
    /// The network keeps the wanted number of multiplications, each where it costs the largest share of its layer's score:
    /// the sum of the shares is the highest possible. Layers of few weights on many pixels lose most, and of all weights
    /// fewer go than of all multiplications.
    #[default]
    Marginal,
}

/// What a weight `w` that multiplies column `j` of its layer's input is worth. `G` is the covariance of the columns, with
/// [`Reconstruction::floor`] and [`Reconstruction::ridge`] added to its diagonal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Score {
    /// `|w|`; needs no calibration.
    Magnitude,
    /// `w² G_jj`: how far the output moves without it (as Wanda, arXiv 2306.11695).
    Activation,
    /// `w² / (G⁻¹)_jj`: how far the output moves without it once all other weights have adapted (optimal brain surgeon; as
    /// SparseGPT, arXiv 2301.00774).
    #[default]
    Obs,
}

/// How a layer's output channels are weighed against one another where masks are chosen: by what an error in them does to the
/// network's outputs before softmax, as gradients say on calibration pictures.
#[derive(Clone, Copy, Debug)]
pub struct Importance {
    /// Most pictures that are looked at.
    pub pictures: usize,
    /// Scores are multiplied by this power of `E Σ_k (∂z_k / ∂y)²`, for channel `y` and outputs `z`. 1 would be right for
    /// errors that do not depend on one another and networks that are linear; 0 is as without.
    pub exponent: f64,
}

impl Default for Importance {
    fn default() -> Self {
        Importance { pictures: 128, exponent: 0.5 }
    }
}

/// How channels are reordered.
#[derive(Clone, Copy, Debug)]
pub struct Rearrangement {
    /// Most sweeps over the channels of a space.
    pub sweeps: usize,
}

impl Default for Rearrangement {
    fn default() -> Self {
        Rearrangement { sweeps: 12 }
    }
}

/// How the weights that are left are fitted.
#[derive(Clone, Copy, Debug)]
pub struct Reconstruction {
    /// Most output pixels that are looked at, for each layer and picture.
    pub pixels: usize,
    /// Pull towards the original weights, in units of the columns' spreads.
    pub ridge: f64,
    /// A column's spread is its variance plus this share of the mean variance: what hardly varies on the calibration
    /// pictures may do so on others, such as pictures of classes that are not among them.
    pub floor: f64,
    /// Whether depthwise convolutions behind a pruned layer are fitted too, as they are.
    pub depthwise: bool,
    /// Whether the classifier and other convolutions that are not pruned are fitted too. There is one sample of a classifier in
    /// each picture, so that this takes many.
    pub dense: bool,
    /// Steps in which a layer's mask grows to its final sparsity, with a fit after each.
    pub steps: usize,
    /// Iterations of conjugate gradients in each fit.
    pub iterations: usize,
    /// Layers with more columns than this are pruned but not fitted: the covariance has the square of it.
    pub max_columns: usize,
    /// Bytes that intermediate tensors of all calibration pictures may take, so that layers need not be computed again.
    pub memory: usize,
    /// For which pixels are looked at.
    pub seed: u64,
}

impl Default for Reconstruction {
    fn default() -> Self {
        Reconstruction {
            pixels: 64,
            ridge: 1e-1,
            floor: 0.3,
            depthwise: false,
            dense: false,
            steps: 8,
            iterations: 40,
            max_columns: 4608,
            memory: 1 << 30,
            seed: 1,
        }
    }
}

impl Options {
    /// Checks every number.
    ///
    /// # Errors
    /// [`Error::BadOption`] for the first that makes no sense.
    pub fn check(&self) -> Result<(), Error> {
        let bad = |option, found: String, wanted| Err(Error::BadOption { option, found, wanted });
        if !(0.0..1.0).contains(&self.sparsity) {
            return bad("sparsity", self.sparsity.to_string(), "at least 0 and below 1");
        }
        if let Shape::Block(block) = self.shape
            && !(1..=MAX_BLOCK).contains(&block)
        {
            return bad("block", block.to_string(), "1 to 64 output channels");
        }
        if let Some(Importance { pictures, exponent }) = self.importance {
            if pictures == 0 {
                return bad("pictures for importance", "0".into(), "at least 1");
            }
            if !(0.0..=4.0).contains(&exponent) {
                return bad("exponent of importance", exponent.to_string(), "0 to 4");
            }
        }
        if let Some(fit) = &self.reconstruction {
            if fit.pixels == 0 || fit.steps == 0 {
                return bad("pixels or steps", "0".into(), "at least 1");
            }
            if !(fit.ridge > 0.0 && fit.ridge.is_finite()) {
                return bad("ridge", fit.ridge.to_string(), "a positive number");
            }
            if !(fit.floor >= 0.0 && fit.floor.is_finite()) {
                return bad("floor", fit.floor.to_string(), "0 or a positive number");
            }
        }
        Ok(())
    }

    /// How a convolution with `taps` taps is stored once it is pruned.
    pub fn pattern(&self, taps: usize) -> Pattern {
        match (self.shape, self.taps) {
            (Shape::Filters, _) => Pattern::Dense,
            (Shape::Block(block), Taps::Together) if taps > 1 => Pattern::Kernel(block),
            (Shape::Block(block), _) => Pattern::Block(block),
        }
    }

    /// What needs calibration pictures, if anything does.
    pub(crate) fn needs_calibration(&self) -> Option<&'static str> {
        match (self.reconstruction.is_some(), self.score) {
            (true, _) => Some("reconstruction"),
            (_, Score::Activation | Score::Obs) => Some("a score that weighs activations"),
            _ => self.importance.map(|_| "the importance of channels"),
        }
    }
}

/// What [`compress`](super::compress) is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Looking at the activations of the original network.
    Measure,
    /// Looking for an order of the channels.
    Rearrange,
    /// Pruning and fitting layer after layer.
    Reconstruct,
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// What it is busy with.
    pub stage: Stage,
    /// The layer or space in hand.
    pub name: &'a str,
    /// Work done in this stage, in units of its own.
    pub done: u64,
    /// All work of this stage.
    pub total: u64,
}
