//! Formats of weights, and how the kernels name them.

use crate::DType;

/// A type of stored weights, as GGUF files have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the names of the formats")]
pub enum WeightFormat {
    /// Half-precision floats.
    F16,
    /// Brain floats.
    Bf16,
    /// Blocks of 32: 8-bit integers, one scale.
    Q8_0,
    /// Blocks of 32: 4 bits less 8, one scale.
    Q4_0,
    /// Blocks of 32: 4 bits, scale and minimum.
    Q4_1,
    /// Blocks of 256: 4 bits, eight 6-bit scales and minima.
    Q4_K,
    /// Blocks of 256: 6 bits less 32, sixteen 8-bit scales.
    Q6_K,
}

/// Columns of a row of activations for products of `k` columns: whole tiles.
pub const fn padded(k: usize) -> usize {
    k.next_multiple_of(256)
}

/// The kernels of one format.
pub(super) struct Kernels {
    pub pack: &'static str,
    pub dequantize: &'static str,
    pub embed: &'static str,
    /// For up to 8, 16, 32 and 64 rows of activations.
    pub product: [&'static str; 4],
    /// Those of Hopper for up to 16, 32 and 64 rows.
    pub wide: [&'static str; 3],
}

macro_rules! kernels {
    ($name:literal) => {
        Kernels {
            pack: concat!("pack_", $name),
            dequantize: concat!("dequantize_", $name),
            embed: concat!("embed_", $name),
            product: [
                concat!("product_", $name, "_1"),
                concat!("product_", $name, "_2"),
                concat!("product_", $name, "_4"),
                concat!("product_", $name, "_8"),
            ],
            wide: [concat!("wide_", $name, "_2"), concat!("wide_", $name, "_4"), concat!("wide_", $name, "_8")],
        }
    };
}

impl WeightFormat {
    /// Every format.
    pub const ALL: [WeightFormat; 7] = [
        WeightFormat::F16,
        WeightFormat::Bf16,
        WeightFormat::Q8_0,
        WeightFormat::Q4_0,
        WeightFormat::Q4_1,
        WeightFormat::Q4_K,
        WeightFormat::Q6_K,
    ];

    /// Weights of a block in a file, and its bytes.
    pub const fn block(self) -> (usize, usize) {
        match self {
            WeightFormat::F16 | WeightFormat::Bf16 => (1, 2),
            WeightFormat::Q8_0 => (32, 34),
            WeightFormat::Q4_0 => (32, 18),
            WeightFormat::Q4_1 => (32, 20),
            WeightFormat::Q4_K => (256, 144),
            WeightFormat::Q6_K => (256, 210),
        }
    }

    /// Bytes of a row of `k` weights in a file; `None` if they are no whole blocks.
    pub const fn row_bytes(self, k: usize) -> Option<usize> {
        let (weights, bytes) = self.block();
        if k.is_multiple_of(weights) { (k / weights).checked_mul(bytes) } else { None }
    }

    /// Whether weights are 16-bit floats, which lie as rows.
    pub(super) const fn is_dense(self) -> bool {
        matches!(self, WeightFormat::F16 | WeightFormat::Bf16)
    }

    /// The type of activations that products take: brain floats for brain floats, else half precision.
    pub const fn input(self) -> DType {
        if matches!(self, WeightFormat::Bf16) { DType::BF16 } else { DType::F16 }
    }

    /// Columns and bytes of a packed tile of 16 rows.
    pub(super) const fn tile(self) -> (usize, usize) {
        match self {
            WeightFormat::F16 | WeightFormat::Bf16 => (128, 4096),
            WeightFormat::Q8_0 => (256, 4352),
            WeightFormat::Q4_0 | WeightFormat::Q4_K => (256, 2304),
            WeightFormat::Q4_1 => (256, 2560),
            WeightFormat::Q6_K => (256, 3360),
        }
    }

    pub(super) const fn kernels(self) -> &'static Kernels {
        match self {
            WeightFormat::F16 => &kernels!("f16"),
            WeightFormat::Bf16 => &kernels!("bf16"),
            WeightFormat::Q8_0 => &kernels!("q8_0"),
            WeightFormat::Q4_0 => &kernels!("q4_0"),
            WeightFormat::Q4_1 => &kernels!("q4_1"),
            WeightFormat::Q4_K => &kernels!("q4_k"),
            WeightFormat::Q6_K => &kernels!("q6_k"),
        }
    }
}
