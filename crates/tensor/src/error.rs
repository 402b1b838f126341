//! What tensors and operators refuse.

use crate::DType;

/// What a tensor or an operator refuses, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Shapes that do not fit the operator.
    #[error("{op}: {detail}")]
    Shape {
        /// Operator.
        op: &'static str,
        /// What was wanted and found, with the shapes.
        detail: String,
    },
    /// An element type that the operator does not take.
    #[error("{op}: wants {wanted} elements, got {found}")]
    DType {
        /// Operator.
        op: &'static str,
        /// Element type that it takes.
        wanted: DType,
        /// Element type that it was given.
        found: DType,
    },
    /// More dimensions than a tensor can have.
    #[error("a tensor has at most {max} dimensions, asked for {found}", max = crate::MAX_RANK)]
    Rank {
        /// Dimensions asked for.
        found: usize,
    },
    /// A shape whose elements do not fit the address space or the memory.
    #[error("{what}: a tensor of shape {shape:?} does not fit into memory")]
    TooLarge {
        /// What asked for it.
        what: &'static str,
        /// Shape asked for.
        shape: crate::Dims,
    },
    /// An operator that the tensor's device does not have.
    #[error("{op}: {detail}")]
    Device {
        /// Operator.
        op: &'static str,
        /// What is missing.
        detail: &'static str,
    },
    /// The GPU refused or failed.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] supple_cuda::Error),
    /// An instruction set that this CPU lacks.
    #[error("this CPU offers {offered}, not {wanted}")]
    Isa {
        /// Instruction set asked for.
        wanted: supple_kernels::Isa,
        /// Best instruction set that the CPU offers.
        offered: supple_kernels::Isa,
    },
}

/// An [`Error::Shape`] of `op`; the rest is formatted into its detail.
macro_rules! refuse {
    ($op:expr, $($detail:tt)*) => {
        Err($crate::Error::Shape { op: $op, detail: format!($($detail)*) })
    };
}
pub(crate) use refuse;
