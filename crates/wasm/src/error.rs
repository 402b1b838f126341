//! Errors as JavaScript knows them.

use wasm_bindgen::prelude::*;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r#"
/** What every function of this package throws: one line, and where there is something to try, a hint. */
export interface SuppleError extends Error {
    hint?: string;
}
"#;

/// An `Error` with a line of text and a hint of what to try.
pub(crate) fn new(message: &str, hint: Option<&str>) -> JsValue {
    let error = js_sys::Error::new(message);
    if let Some(hint) = hint {
        set(&error, "hint", &hint.into());
    }
    error.into()
}

/// An error of the library. Hints that name options of the command are left out.
pub(crate) fn of(error: &supple::Error) -> JsValue {
    let hint = error.hint().filter(|hint| !hint.contains("--"));
    new(&error.to_string(), hint.as_deref())
}

/// Sets a property of a plain object.
pub(crate) fn set(object: &JsValue, name: &str, value: &JsValue) {
    // Fails for frozen objects and proxies, neither of which is made here.
    let _ = js_sys::Reflect::set(object, &name.into(), value);
}
