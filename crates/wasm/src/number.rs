//! Numbers from JavaScript, where a count may be fractional, negative or no number at all.

use crate::error;
use wasm_bindgen::JsValue;

/// `value` as a whole number in `1..=most`; `what` names it in the error.
pub(crate) fn count(what: &str, value: f64, most: usize) -> Result<usize, JsValue> {
    if value.fract() == 0.0 && (1.0..=most as f64).contains(&value) {
        return Ok(value as usize);
    }
    Err(error::new(&format!("{what} is {value}, wanted a whole number from 1 to {most}"), None))
}

/// `value` as a whole number in `0..end`; `what` names it in the error.
pub(crate) fn index(what: &str, value: f64, end: usize) -> Result<usize, JsValue> {
    if value.fract() == 0.0 && (0.0..end as f64).contains(&value) {
        return Ok(value as usize);
    }
    Err(error::new(&format!("{what} is {value}, wanted a whole number from 0 to below {end}"), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Errors are JavaScript objects, so that only what is accepted can be tested outside of it.
    #[test]
    fn whole_numbers_in_range_are_accepted() {
        assert_eq!(count("width", 1.0, 9), Ok(1));
        assert_eq!(count("width", 9.0, 9), Ok(9));
        assert_eq!(index("from", 0.0, 9), Ok(0));
        assert_eq!(index("from", 8.0, 9), Ok(8));
    }
}
