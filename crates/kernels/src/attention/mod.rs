//! Attention over image features, and the steps around it in transformers for images.
//!
//! * [`channel_attention`] – the channels of a patch attend to each other;
//! * [`Normalisation`] – what a layer does to its input first;
//! * [`GatedDepthwise`] – the middle of a gated feed-forward layer;
//! * [`for_each_patch`] and [`for_each_tile`] – run a chain of such steps on a piece of an image that fits the cache.

mod channel;
mod gate;
mod normalise;
mod pieces;

pub use channel::{channel_attention, channel_attention_reference, channel_attention_scratch};
pub use gate::GatedDepthwise;
pub use normalise::{Normalisation, multiply};
pub use pieces::{TileTask, for_each_patch, for_each_tile};
