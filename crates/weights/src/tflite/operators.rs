//! Names and options of operators.

use super::flatbuffer::Table;
use crate::Error;

/// How an operator is set, for those that convolutional classifiers are made of.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Options {
    /// `CONV_2D`. Inputs: pixels, weights `[out][height][width][in]`, bias.
    Conv2d {
        /// How it moves.
        window: Window,
        /// Distance between taps, height and width; 1 for neighbours.
        dilation: [i32; 2],
        /// Applied to the result.
        activation: Activation,
    },
    /// `DEPTHWISE_CONV_2D`. Inputs: pixels, weights `[1][height][width][out]`, bias.
    DepthwiseConv2d {
        /// How it moves.
        window: Window,
        /// Output channels for each input channel; 0 in files that leave it to the shapes.
        depth_multiplier: i32,
        /// Distance between taps, height and width; 1 for neighbours.
        dilation: [i32; 2],
        /// Applied to the result.
        activation: Activation,
    },
    /// `AVERAGE_POOL_2D`, `MAX_POOL_2D` and `L2_POOL_2D`.
    Pool2d {
        /// How it moves.
        window: Window,
        /// Height and width of the window.
        size: [i32; 2],
        /// Applied to the result.
        activation: Activation,
    },
    /// `FULLY_CONNECTED`. Inputs: values, weights `[out][in]`, bias.
    FullyConnected {
        /// Applied to the result.
        activation: Activation,
        /// 0: row-major weights; others are shuffled.
        weights_format: u8,
    },
    /// `ADD`.
    Add {
        /// Applied to the result.
        activation: Activation,
    },
    /// `CONCATENATION`.
    Concatenation {
        /// Dimension along which the inputs lie; negative ones count from the last.
        axis: i32,
        /// Applied to the result.
        activation: Activation,
    },
    /// `SOFTMAX`.
    Softmax {
        /// What the inputs are multiplied by.
        beta: f32,
    },
    /// `MEAN` and the other reductions. Inputs: values, axes.
    Reduce {
        /// Whether the reduced dimensions stay, of size 1.
        keep_dims: bool,
    },
    /// `RESHAPE`; newer files give the shape as a second input instead.
    Reshape {
        /// The new shape; one dimension may be −1.
        shape: Vec<i32>,
    },
    /// `SQUEEZE`.
    Squeeze {
        /// The dimensions of size 1 to leave out; none: all of them.
        axes: Vec<i32>,
    },
    /// An operator without options, or whose options are not read here.
    None,
}

/// How a window moves over pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Zeros around the input.
    pub padding: Padding,
    /// Rows and columns between neighbours.
    pub stride: [i32; 2],
}

/// Zeros around the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// As many as give `⌈input / stride⌉` outputs; an odd one goes to the bottom or the right.
    Same,
    /// None.
    Valid,
}

/// What is applied to each element of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// Nothing.
    None,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, −1), 1)`.
    ReluN1To1,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// Hyperbolic tangent.
    Tanh,
    /// The sign bit.
    SignBit,
}

impl Options {
    /// Reads an operator's options from its table of the schema, whose union tag is `kind`.
    pub(super) fn read(
        kind: u8,
        table: Option<Table<'_>>,
        damaged: impl Fn(String) -> Error,
    ) -> Result<Options, Error> {
        let Some(table) = table else { return Ok(Options::None) };
        let window = || -> Result<Window, Error> {
            let padding = match table.number(0, 0i8)? {
                0 => Padding::Same,
                1 => Padding::Valid,
                other => return Err(damaged(format!("padding {other} is neither SAME nor VALID"))),
            };
            // The schema has the width before the height.
            Ok(Window { padding, stride: [table.number(2, 0)?, table.number(1, 0)?] })
        };
        let activation = |field: usize| -> Result<Activation, Error> {
            Ok(match table.number(field, 0i8)? {
                0 => Activation::None,
                1 => Activation::Relu,
                2 => Activation::ReluN1To1,
                3 => Activation::Relu6,
                4 => Activation::Tanh,
                5 => Activation::SignBit,
                other => return Err(damaged(format!("activation {other} is none of the format's"))),
            })
        };
        // The tags of the schema's union `BuiltinOptions`.
        Ok(match kind {
            1 => Options::Conv2d {
                window: window()?,
                dilation: [table.number(5, 1)?, table.number(4, 1)?],
                activation: activation(3)?,
            },
            2 => Options::DepthwiseConv2d {
                window: window()?,
                depth_multiplier: table.number(3, 0)?,
                dilation: [table.number(6, 1)?, table.number(5, 1)?],
                activation: activation(4)?,
            },
            5 => Options::Pool2d {
                window: window()?,
                size: [table.number(4, 0)?, table.number(3, 0)?],
                activation: activation(5)?,
            },
            8 => Options::FullyConnected { activation: activation(0)?, weights_format: table.number(1, 0)? },
            9 => Options::Softmax { beta: table.number(0, 0.0)? },
            10 => Options::Concatenation { axis: table.number(0, 0)?, activation: activation(1)? },
            11 => Options::Add { activation: activation(0)? },
            17 => Options::Reshape { shape: table.numbers(0)? },
            27 => Options::Reduce { keep_dims: table.truth(0)? },
            30 => Options::Squeeze { axes: table.numbers(0)? },
            _ => Options::None,
        })
    }
}

/// The name of a built-in operator, if it is one of the format's.
pub(super) fn name(code: i32) -> Option<&'static str> {
    NAMES.get(usize::try_from(code).ok()?).copied()
}

/// What stands for operators that the file names itself.
pub(super) const CUSTOM: i32 = 32;

/// The schema's `BuiltinOperator`, in its order.
#[rustfmt::skip]
const NAMES: [&str; 210] = [
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE", "DEQUANTIZE",
    "EMBEDDING_LOOKUP", "FLOOR", "FULLY_CONNECTED", "HASHTABLE_LOOKUP", "L2_NORMALIZATION", "L2_POOL_2D",
    "LOCAL_RESPONSE_NORMALIZATION", "LOGISTIC", "LSH_PROJECTION", "LSTM", "MAX_POOL_2D", "MUL", "RELU", "RELU_N1_TO_1",
    "RELU6", "RESHAPE", "RESIZE_BILINEAR", "RNN", "SOFTMAX", "SPACE_TO_DEPTH", "SVDF", "TANH", "CONCAT_EMBEDDINGS",
    "SKIP_GRAM", "CALL", "CUSTOM", "EMBEDDING_LOOKUP_SPARSE", "PAD", "UNIDIRECTIONAL_SEQUENCE_RNN", "GATHER",
    "BATCH_TO_SPACE_ND", "SPACE_TO_BATCH_ND", "TRANSPOSE", "MEAN", "SUB", "DIV", "SQUEEZE",
    "UNIDIRECTIONAL_SEQUENCE_LSTM", "STRIDED_SLICE", "BIDIRECTIONAL_SEQUENCE_RNN", "EXP", "TOPK_V2", "SPLIT",
    "LOG_SOFTMAX", "DELEGATE", "BIDIRECTIONAL_SEQUENCE_LSTM", "CAST", "PRELU", "MAXIMUM", "ARG_MAX", "MINIMUM", "LESS",
    "NEG", "PADV2", "GREATER", "GREATER_EQUAL", "LESS_EQUAL", "SELECT", "SLICE", "SIN", "TRANSPOSE_CONV",
    "SPARSE_TO_DENSE", "TILE", "EXPAND_DIMS", "EQUAL", "NOT_EQUAL", "LOG", "SUM", "SQRT", "RSQRT", "SHAPE", "POW",
    "ARG_MIN", "FAKE_QUANT", "REDUCE_PROD", "REDUCE_MAX", "PACK", "LOGICAL_OR", "ONE_HOT", "LOGICAL_AND", "LOGICAL_NOT",
    "UNPACK", "REDUCE_MIN", "FLOOR_DIV", "REDUCE_ANY", "SQUARE", "ZEROS_LIKE", "FILL", "FLOOR_MOD", "RANGE",
    "RESIZE_NEAREST_NEIGHBOR", "LEAKY_RELU", "SQUARED_DIFFERENCE", "MIRROR_PAD", "ABS", "SPLIT_V", "UNIQUE", "CEIL",
    "REVERSE_V2", "ADD_N", "GATHER_ND", "COS", "WHERE", "RANK", "ELU", "REVERSE_SEQUENCE", "MATRIX_DIAG", "QUANTIZE",
    "MATRIX_SET_DIAG", "ROUND", "HARD_SWISH", "IF", "WHILE", "NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5",
    "SCATTER_ND", "SELECT_V2", "DENSIFY", "SEGMENT_SUM", "BATCH_MATMUL", "PLACEHOLDER_FOR_GREATER_OP_CODES", "CUMSUM",
    "CALL_ONCE", "BROADCAST_TO", "RFFT2D", "CONV_3D", "IMAG", "REAL", "COMPLEX_ABS", "HASHTABLE", "HASHTABLE_FIND",
    "HASHTABLE_IMPORT", "HASHTABLE_SIZE", "REDUCE_ALL", "CONV_3D_TRANSPOSE", "VAR_HANDLE", "READ_VARIABLE",
    "ASSIGN_VARIABLE", "BROADCAST_ARGS", "RANDOM_STANDARD_NORMAL", "BUCKETIZE", "RANDOM_UNIFORM", "MULTINOMIAL", "GELU",
    "DYNAMIC_UPDATE_SLICE", "RELU_0_TO_1", "UNSORTED_SEGMENT_PROD", "UNSORTED_SEGMENT_MAX", "UNSORTED_SEGMENT_SUM",
    "ATAN2", "UNSORTED_SEGMENT_MIN", "SIGN", "BITCAST", "BITWISE_XOR", "RIGHT_SHIFT", "STABLEHLO_LOGISTIC",
    "STABLEHLO_ADD", "STABLEHLO_DIVIDE", "STABLEHLO_MULTIPLY", "STABLEHLO_MAXIMUM", "STABLEHLO_RESHAPE",
    "STABLEHLO_CLAMP", "STABLEHLO_CONCATENATE", "STABLEHLO_BROADCAST_IN_DIM", "STABLEHLO_CONVOLUTION",
    "STABLEHLO_SLICE", "STABLEHLO_CUSTOM_CALL", "STABLEHLO_REDUCE", "STABLEHLO_ABS", "STABLEHLO_AND",
    "STABLEHLO_COSINE", "STABLEHLO_EXPONENTIAL", "STABLEHLO_FLOOR", "STABLEHLO_LOG", "STABLEHLO_MINIMUM",
    "STABLEHLO_NEGATE", "STABLEHLO_OR", "STABLEHLO_POWER", "STABLEHLO_REMAINDER", "STABLEHLO_RSQRT", "STABLEHLO_SELECT",
    "STABLEHLO_SUBTRACT", "STABLEHLO_TANH", "STABLEHLO_SCATTER", "STABLEHLO_COMPARE", "STABLEHLO_CONVERT",
    "STABLEHLO_DYNAMIC_SLICE", "STABLEHLO_DYNAMIC_UPDATE_SLICE", "STABLEHLO_PAD", "STABLEHLO_IOTA",
    "STABLEHLO_DOT_GENERAL", "STABLEHLO_REDUCE_WINDOW", "STABLEHLO_SORT", "STABLEHLO_WHILE", "STABLEHLO_GATHER",
    "STABLEHLO_TRANSPOSE", "DILATE", "STABLEHLO_RNG_BIT_GENERATOR", "REDUCE_WINDOW", "STABLEHLO_COMPOSITE",
    "STABLEHLO_SHIFT_LEFT", "STABLEHLO_CBRT", "STABLEHLO_CASE",
];
