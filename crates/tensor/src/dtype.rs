//! Element types.

use bytemuck::Pod;
use half::{bf16, f16};
use std::fmt;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit floating point: what operators compute with.
    F32,
    /// 16-bit IEEE floating point.
    F16,
    /// The upper 16 bits of an `F32`.
    BF16,
    /// Signed byte.
    I8,
    /// Unsigned byte.
    U8,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned 32-bit integer.
    U32,
}

impl DType {
    /// Every element type.
    pub const ALL: [DType; 7] = [DType::F32, DType::F16, DType::BF16, DType::I8, DType::U8, DType::I32, DType::U32];

    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::I8 | DType::U8 => 1,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I8 => "i8",
            DType::U8 => "u8",
            DType::I32 => "i32",
            DType::U32 => "u32",
        })
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that tensors store.
pub trait Element: Pod + Send + Sync + sealed::Sealed {
    /// Its element type.
    const DTYPE: DType;

    /// The value as `f64`, exactly.
    fn to_f64(self) -> f64;

    /// The nearest value: floats round to nearest, integers drop the fraction and saturate, NaN becomes integer 0.
    fn from_f64(value: f64) -> Self;
}

macro_rules! element {
    ($($type:ty, $dtype:ident, $to:expr, $from:expr;)*) => {$(
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: DType = DType::$dtype;
            fn to_f64(self) -> f64 {
                $to(self)
            }
            fn from_f64(value: f64) -> Self {
                $from(value)
            }
        }
    )*};
}

element! {
    f32, F32, f64::from, |v| v as f32;
    f16, F16, f16::to_f64, f16::from_f64;
    bf16, BF16, bf16::to_f64, bf16::from_f64;
    i8, I8, f64::from, |v| v as i8;
    u8, U8, f64::from, |v| v as u8;
    i32, I32, f64::from, |v| v as i32;
    u32, U32, f64::from, |v| v as u32;
}

/// Evaluates an expression with `$element` naming the Rust type of `$dtype`.
macro_rules! with_element {
    ($dtype:expr, $element:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $element = f32;
                $body
            }
            $crate::DType::F16 => {
                type $element = half::f16;
                $body
            }
            $crate::DType::BF16 => {
                type $element = half::bf16;
                $body
            }
            $crate::DType::I8 => {
                type $element = i8;
                $body
            }
            $crate::DType::U8 => {
                type $element = u8;
                $body
            }
            $crate::DType::I32 => {
                type $element = i32;
                $body
            }
            $crate::DType::U32 => {
                type $element = u32;
                $body
            }
        }
    };
}
pub(crate) use with_element;
