//! Networks: one file each, one definition for training and inference.

pub mod convnet;
#[cfg(feature = "ditn")]
pub mod ditn;
pub mod efficientnet_lite;
pub mod llama;
pub mod mobilenet;
pub mod rlfn;
pub mod super_resolution;

mod error;
mod load;
mod on_device;
mod parameters;
#[cfg(test)]
mod testing;

pub use error::Error;
pub use load::{Placement, load, load_on};
pub use on_device::{DeviceError, Enlarged, OnDevice, PictureDevice, Rgb, RgbMut, Stages};
pub use parameters::{Network, Parameters};
pub use super_resolution::{Sink, Source, SuperResolution, Window};

/// How exact the arithmetic of a network has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// The fastest path that stays within 0.02 dB of `F32`.
    #[default]
    Auto,
    /// 32-bit floating point throughout.
    F32,
    /// Reduced precision where the CPU has fast instructions for it, within 0.02 dB of `F32`.
    Fast,
}
