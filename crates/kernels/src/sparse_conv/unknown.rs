//! Addresses in the loops of WebAssembly modules.
//!
//! An instruction that loads may add a constant to its address, if the sum does not wrap. In a loop whose pointers advance
//! evenly LLVM rewrites them, forgets that they do not wrap, and leaves an addition before every load. It does not where it
//! cannot see that they advance evenly.

use std::hint::black_box;

/// A zero that the compiler does not know.
#[derive(Clone, Copy)]
pub(super) struct Unknown(usize);

impl Unknown {
    /// To be made before the loop: this goes through memory.
    #[inline(always)]
    pub fn zero() -> Unknown {
        Unknown(if cfg!(target_arch = "wasm32") { black_box(0) } else { 0 })
    }

    /// `address`, without a trace of where it is from.
    #[inline(always)]
    pub fn hide(self, address: usize) -> usize {
        address ^ self.0
    }
}
