//! Supple for JavaScript: the classes of the npm package and the page in `web/`.
//!
//! A way in like the command: it checks what comes from JavaScript, calls [`supple`], and turns results into plain
//! objects. Pictures are samples as a canvas has them: 8 bits, red green blue alpha, row after row, alpha straight.
//!
//! `cargo xtask web` compiles this crate twice, with and without relaxed SIMD, and makes the bindings. A panic, which
//! would be a bug, becomes a JavaScript `Error`; the module is not to be used after one. When memory cannot be had, the
//! module stops with a `WebAssembly.RuntimeError`; large pictures are refused before that, as far as can be foreseen.

mod classifier;
mod error;
mod features;
mod number;
mod picture;
mod upscaler;

pub use classifier::Classifier;
pub use features::{features, version};
pub use upscaler::Upscaler;

use wasm_bindgen::prelude::*;

/// Runs once, when the module is loaded.
#[wasm_bindgen(start)]
pub fn start() {
    if cfg!(target_arch = "wasm32") {
        std::panic::set_hook(Box::new(|panic| {
            wasm_bindgen::throw_val(error::new(&format!("internal error: {panic}"), Some("please report this")))
        }));
    }
}
