//! Methods that make networks small and fast: one module each, and in it what the method adds to the engine.
//!
//! * [`sparse_byte`] – fine-grained group sparsity for convolutional networks, with the whole network rearranged so that
//!   the groups lose little.

pub mod sparse_byte;
