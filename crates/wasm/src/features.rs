//! What this build of the module is, and what it uses.

use crate::error::set;
use wasm_bindgen::prelude::*;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r#"
/** What the loaded module uses of the processor. */
export interface Features {
    /** The vector instructions that it was compiled for; `scalar` where there are none. */
    simd: "relaxed-simd" | "simd128" | "scalar";
    /** Threads that one picture is computed with. */
    threads: number;
}
"#;

/// The version of the package, such as `0.1.0`.
#[wasm_bindgen]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").into()
}

/// What the loaded module uses of the processor.
#[wasm_bindgen(unchecked_return_type = "Features")]
pub fn features() -> JsValue {
    let features = js_sys::Object::new().into();
    set(&features, "simd", &supple::Isa::detect().name().into());
    set(&features, "threads", &1.into());
    features
}
