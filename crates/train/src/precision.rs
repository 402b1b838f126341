//! What a network computes in while it is trained.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use supple_tensor::DType;

/// What a network computes in while it is trained. Weights are kept in `f32` whatever it is, and losses computed so. The CPU
/// computes in `f32` always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    F32,
    /// The upper 16 bits of an `f32`: its range, with 8 bits of precision.
    Bf16,
    /// 16-bit IEEE floating point: 11 bits of precision, and a loss scaled so that gradients stay in its range.
    F16,
}

impl Precision {
    /// Its element type.
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::F16 => DType::F16,
        }
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Precision, String> {
        match text {
            "f32" => Ok(Precision::F32),
            "bf16" => Ok(Precision::Bf16),
            "f16" => Ok(Precision::F16),
            _ => Err("precisions are f32, bf16 and f16".into()),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.dtype().fmt(f)
    }
}
