//! Samples of pictures from real numbers: `⌊clamp(value) · max + ½⌋`, values outside 0..1 clipped, NaN to 0.
//!
//! | argument | |
//! |---|---|
//! | `values` | any number of floats |
//! | `out` | as many samples |

/// 8-bit samples, of at most 255.
///
/// # Panics
/// If the lengths differ.
pub fn to_u8(values: &[f32], out: &mut [u8]) {
    assert_eq!(values.len(), out.len(), "samples");
    for (out, &value) in out.iter_mut().zip(values) {
        *out = scaled(value, 255.0) as u8;
    }
}

/// 16-bit samples, of at most 65535.
///
/// # Panics
/// If the lengths differ.
pub fn to_u16(values: &[f32], out: &mut [u16]) {
    assert_eq!(values.len(), out.len(), "samples");
    for (out, &value) in out.iter_mut().zip(values) {
        *out = scaled(value, 65535.0) as u16;
    }
}

/// A conversion that saturates by itself would not become vectors.
#[inline(always)]
#[allow(clippy::manual_clamp, reason = "`clamp` lets NaN through")]
fn scaled(value: f32, max: f32) -> i32 {
    let value = (value * max + 0.5).max(0.0).min(max);
    // SAFETY: between 0 and 65535, and no NaN: `max` gives the other operand for it.
    unsafe { value.to_int_unchecked() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_those_of_saturating_conversions() {
        let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, -1e-9, 1.0, 1.0000001, 2.0, 1e30, -1e30];
        let steps = (0..200_000).map(|i| i as f32 / 190_000.0 - 0.02);
        let halves = (0..=65535).map(|i| (i as f32 - 0.5) / 65535.0);
        let values: Vec<f32> = special.into_iter().chain(steps).chain(halves).collect();
        let (mut narrow, mut wide) = (vec![7; values.len()], vec![7; values.len()]);
        to_u8(&values, &mut narrow);
        to_u16(&values, &mut wide);
        for (i, &value) in values.iter().enumerate() {
            assert_eq!(narrow[i], (value * 255.0 + 0.5) as u8, "{value}");
            assert_eq!(wide[i], (value * 65535.0 + 0.5) as u16, "{value}");
        }
    }
}
