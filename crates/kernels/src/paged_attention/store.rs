//! Writing keys and values into pages.

use super::PAGE;
use super::page::{BLOCK, Shape};
use crate::low_bit::{Format, f16_to_f32, f32_to_f16};
use crate::simd::bf16_bits;

/// Largest half-precision float: beyond is infinity, which would make every later sum with a weight of zero NaN.
const LARGEST: f32 = 65504.0;

/// A position of a page of keys or of values.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Key(usize),
    Value(usize),
}

impl Place {
    /// The number of its element `d`, of rows of `wide` elements.
    pub(super) fn index(self, d: usize, wide: usize) -> usize {
        match self {
            Place::Key(slot) => d * PAGE + slot,
            Place::Value(slot) => slot * wide + d,
        }
    }

    fn slot(self) -> usize {
        match self {
            Place::Key(slot) | Place::Value(slot) => slot,
        }
    }
}

impl Shape {
    /// Stores the elements of one head for one position.
    ///
    /// # Safety
    /// `to` is the head's part of a page, and nobody else uses it meanwhile.
    pub(super) unsafe fn store(self, to: *mut u8, place: Place, from: &[f32]) {
        let wide = self.wide;
        // SAFETY: positions and elements lie within the head's part, whose size `Shape::bytes` gives.
        unsafe {
            match self.format {
                Format::F16 => {
                    for (d, &value) in from.iter().enumerate() {
                        let half = f32_to_f16(value.clamp(-LARGEST, LARGEST));
                        to.cast::<u16>().add(place.index(d, wide)).write(half);
                    }
                }
                Format::Bf16 => {
                    for (d, &value) in from.iter().enumerate() {
                        let brain = bf16_bits(value.clamp(-3e38, 3e38));
                        to.cast::<u16>().add(place.index(d, wide)).write(brain);
                    }
                }
                Format::Q8_0 | Format::Q4_0 => {
                    let scales = to.add(self.integer_bytes()).cast::<u16>();
                    for (block, from) in from.chunks(BLOCK).enumerate() {
                        let mut values = [0.0f32; BLOCK];
                        values[..from.len()].copy_from_slice(from);
                        let scale = if self.format == Format::Q8_0 {
                            let (scale, integers) = eight_bits(&values);
                            for (i, &q) in integers.iter().enumerate() {
                                to.add(place.index(block * BLOCK + i, wide)).write(q);
                            }
                            scale
                        } else {
                            let (scale, integers) = four_bits(&values);
                            let (low, high) = integers.split_at(BLOCK / 2);
                            for (i, (&low, &high)) in low.iter().zip(high).enumerate() {
                                to.add(place.index(block * (BLOCK / 2) + i, wide / 2)).write(low | high << 4);
                            }
                            scale
                        };
                        scales.add(block * PAGE + place.slot()).write(scale);
                    }
                }
                _ => {
                    for (d, &value) in from.iter().enumerate() {
                        to.cast::<f32>().add(place.index(d, wide)).write(value);
                    }
                }
            }
        }
    }
}

/// One over the half-precision `scale`, zero of zero.
fn inverse(scale: u16) -> f32 {
    let scale = f16_to_f32(scale);
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// `max |x| / 127`, and integers from −127 to 127.
fn eight_bits(values: &[f32; BLOCK]) -> (u16, [u8; BLOCK]) {
    let largest = values.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    let scale = f32_to_f16((largest / 127.0).min(LARGEST));
    let inverse = inverse(scale);
    // Where floats are this large, their last bit is 1: adding rounds, and the lowest byte is the integer.
    let integer = |v: f32| ((v * inverse).clamp(-127.0, 127.0) + 12_582_912.0).to_bits() as u8;
    (scale, values.map(integer))
}

/// The scale that makes the value farthest from zero `−8`, and integers from 0 to 15, 8 added.
fn four_bits(values: &[f32; BLOCK]) -> (u16, [u8; BLOCK]) {
    let farthest = values.iter().fold(0.0f32, |most, &v| if v.abs() > most.abs() { v } else { most });
    let scale = f32_to_f16((farthest / -8.0).clamp(-LARGEST, LARGEST));
    let inverse = inverse(scale);
    (scale, values.map(|v| (v * inverse + 8.5).clamp(0.0, 15.0) as u8))
}
