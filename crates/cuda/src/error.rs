//! What can go wrong with a GPU.

/// Why a GPU cannot be used, or what went wrong on it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no NVIDIA driver.
    #[error("no GPU: there is no NVIDIA driver on this machine")]
    NoDriver,
    /// The driver is older than the kernels.
    #[error("no GPU: the NVIDIA driver is of CUDA {found}, supple wants {wanted} or newer")]
    OldDriver {
        /// CUDA version of the driver.
        found: String,
        /// The least that will do.
        wanted: String,
    },
    /// The driver finds no GPU of this number.
    #[error("there is no GPU {ordinal}: the driver finds {count}")]
    NoDevice {
        /// Number of the GPU asked for, from 0.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// This build has no kernels, as there was no CUDA compiler.
    #[error("no GPU: this build of supple has no CUDA kernels, as it was made without nvcc")]
    NoKernels,
    /// None of the kernels runs on this GPU.
    #[error("{gpu} (compute capability {capability}) is not supported; wants 8.0 or newer")]
    Unsupported {
        /// Its name.
        gpu: String,
        /// Its compute capability.
        capability: String,
    },
    /// Memory of the GPU is exhausted.
    #[error("the GPU has no {wanted} bytes left: {free} of {total} are free")]
    OutOfMemory {
        /// Bytes asked for.
        wanted: usize,
        /// Bytes free, those kept for reuse given back.
        free: usize,
        /// Bytes in all.
        total: usize,
    },
    /// A call of the driver failed, or the work before it did.
    #[error("{what}: {message}")]
    Driver {
        /// The call, or the kernel with its shapes.
        what: String,
        /// The driver's own words.
        message: String,
    },
    /// Arguments that a kernel does not take.
    #[error("{kernel}: {detail}")]
    Arguments {
        /// Kernel.
        kernel: &'static str,
        /// What was wanted and found.
        detail: String,
    },
}

/// An [`Error::Arguments`] of `kernel`; the rest is formatted into its detail.
macro_rules! refuse {
    ($kernel:expr, $($detail:tt)*) => {
        Err($crate::Error::Arguments { kernel: $kernel, detail: format!($($detail)*) })
    };
}
pub(crate) use refuse;
