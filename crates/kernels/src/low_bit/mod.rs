//! Weights of a few bits.

pub mod iq;
mod iq_grids;
