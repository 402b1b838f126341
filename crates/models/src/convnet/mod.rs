//! Convolutional networks for pictures of one size: classifiers such as MobileNet, as a list of operators.
//!
//! A [`ConvNet`] is what a file or a constructor describes and what methods rewrite: each [`Node`] computes one planar
//! tensor (`[channels][height][width]`) from those of earlier nodes, the first node is the input and the last the output.
//! Weights are plain `f32` in the order of PyTorch. Three things are done with it:
//!
//! * [`ConvNet::shapes`] checks it and says how large each tensor is;
//! * [`reference::run`] computes it in `f64`, slowly: the truth that everything else is compared with;
//! * [`Plan`] packs it for one CPU and runs it fast.
//!
//! Batch normalisation is folded into the convolutions when a network is read; padding follows TensorFlow (`Same`) or is
//! explicit, as PyTorch's is.

mod batches;
mod file;
mod graph;
mod import;
mod on_device;
mod plan;
mod plan_i8;
mod quantization;
mod quantize;
pub mod reference;
mod shapes;

pub use batches::BatchDevice;
#[cfg(feature = "cuda")]
pub use batches::GpuBatches;
pub use batches::layers_of;
pub use file::Storage;
pub use graph::{Activation, Conv, ConvNet, Depthwise, Node, NodeId, Op, Padding, Pattern, Preprocessing, Window2d};
pub(crate) use import::layers;
pub use on_device::ConvNetLayers;
pub use plan::{Layer, Plan};
pub use plan_i8::PlanI8;
pub use quantization::{
    IntegerLayer, IntegerType, NodeQuantization, Quantization, TensorQuantization, WeightQuantization,
};
pub use quantize::{Calibration, Quantized, quantize};
pub use shapes::Shape;
