//! Supple: small, fast vision models in plain Rust, for those who want to call them.
//!
//! Three nouns come first: a [`Picture`] is pixels in memory, an [`Upscaler`] is a network with its weights, and a
//! [`ScalePlan`] says which networks reach a scale. [`picture`] reads and writes files, [`enlarge`] reaches any scale,
//! [`evaluate`] and [`compare`] tell how good the result is. A [`Classifier`] names what is in a picture.
//!
//! ```
//! # fn main() -> Result<(), supple::Error> {
//! # let folder = tempfile::tempdir().expect("a folder");
//! # std::env::set_current_dir(folder.path()).expect("to enter it");
//! # let dots = (0..24 * 16 * 3).map(|i| (i * 37 % 256) as u8).collect();
//! # supple::Picture::from_rgb8(24, 16, dots)?.save("photo.jpg")?;
//! let picture = supple::picture::open("photo.jpg")?;
//! let big = supple::Upscaler::bundled(4)?.upscale(&picture)?;
//! big.save("photo_x4.png")?;
//! # assert_eq!((big.width(), big.height()), (96, 64));
//! # assert_eq!(supple::picture::open("photo_x4.png")?, big);
//! # Ok(())
//! # }
//! ```
//!
//! Errors are one enum, [`Error`]; [`Error::hint`] says what a person may try. Bad input is an error, never a panic.

pub mod classifier;
pub mod compare;
#[cfg(feature = "files")]
pub mod compress;
pub mod compute;
mod error;
#[cfg(feature = "files")]
pub mod evaluate;
#[cfg(feature = "hub")]
pub mod hub;
pub mod memory;
pub mod metrics;
pub mod models;
pub mod picture;
pub mod resample;
pub mod scale_plan;
#[cfg(feature = "text")]
pub mod text;
#[cfg(feature = "files")]
pub mod train;
pub mod upscaler;

pub use classifier::{Classifier, ClassifierOptions, Prediction};
pub use compute::DeviceChoice;
pub use error::Error;
pub use picture::Picture;
pub use scale_plan::{ScalePlan, enlarge};
pub use supple_models::llama;
pub use supple_models::{Precision, Stages, SuperResolution, convnet, efficientnet_lite, mobilenet};
pub use supple_tensor::kernels::peak;
pub use supple_tensor::{Cpu, Isa};
pub use supple_weights as weights;
pub use upscaler::{Progress, Upscaler, UpscalerOptions};
