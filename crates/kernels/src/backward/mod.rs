//! What differentiation needs beyond the kernels of the forward pass.
//!
//! | file | |
//! |---|---|
//! | `activation` | slopes of activations |
//! | `reduce` | sums of columns and of everything |
//! | `product` | `Aᵀ · B` over many rows: gradients of weights |
//! | `conv` | gradients of a convolution's weights, and what makes the gradient of its input a convolution again |
//! | `normalize` | softmax, L2 and layer normalisation |
//! | `pooling`, `resize` | gradients handed back to the pixels that a window or a tap saw |
//!
//! Sums are taken in an order that depends on shapes alone, never on the number of threads, so that training is
//! reproducible bit for bit on any number of them.

pub mod activation;
pub mod conv;
pub mod normalize;
pub mod pooling;
pub mod product;
pub mod reduce;
pub mod resize;
