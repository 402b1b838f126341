//! SparseByteNN (arXiv 2310.19509): fine-grained group sparsity for mobile convolutional networks.
//!
//! Neighbouring output channels of a convolution, `B` at a time, share which input channels they read. Such a block costs
//! a kernel no more index than one weight did, so that it is faster than dense from the first zeros on. What the groups
//! cost in accuracy is won back before pruning, by reordering the channels of the whole network so that channels that need
//! the same inputs become neighbours, and after it, by fitting the weights that are left to what the dense network computed.
//!
//! The paper's body was not available: its abstract names the parts (patterns per operator, rearrangement of the whole
//! network, kernels), and how each works here is a reconstruction. Figures measured here are not the paper's.
//!
//! The parts, in the order in which [`compress`] uses them:
//!
//! * [`Spaces`] – which channels of a network can be reordered, and which only together;
//! * [`cluster`] – balanced clusters of channels by swaps;
//! * [`prune`] – patterns, scores and masks, and how much each layer loses;
//! * [`Importance`] – what errors in each channel do to the network's outputs;
//! * [`reconstruct`] – least squares on calibration pictures, layer after layer;
//! * [`schedule`] – the same pruning spread over the steps of a training;
//! * [`report`] – what was done, in numbers and as a picture.

pub mod cluster;
mod compress;
mod depthwise;
mod error;
mod filters;
pub mod forward;
mod importance;
mod linear;
mod moments;
mod options;
pub mod prune;
mod rearrange;
pub mod reconstruct;
pub mod report;
pub mod schedule;
mod spaces;
#[cfg(test)]
mod testing;
mod walk;

pub use compress::compress;
pub use error::Error;
pub use forward::{Engine, Fast, Forward, Reference};
pub use options::{
    Allocation, Importance, Options, Progress, Rearrangement, Reconstruction, Score, Shape, Stage, Taps,
};
pub use rearrange::rearrange;
pub use report::{LayerReport, Report, masks_picture};
pub use spaces::{Segment, Space, Spaces};
