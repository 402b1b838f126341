//! Launching kernels.

use crate::gpu::driver;
use crate::{Error, Gpu};
use cudarc::driver::result;
use std::ffi::c_void;

/// Blocks, threads of a block, and bytes of dynamic shared memory of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub blocks: [usize; 3],
    pub threads: u32,
    pub shared: usize,
}

impl Grid {
    /// One thread for each of `elements`, in blocks of 256; kernels go on in steps of the grid, so 2^20 blocks are enough.
    pub(crate) fn flat(elements: usize) -> Grid {
        Grid { blocks: [elements.div_ceil(256).clamp(1, 1 << 20), 1, 1], threads: 256, shared: 0 }
    }
}

impl Gpu {
    /// Queues a kernel. `describe` says what it works on, should it fail to start.
    ///
    /// # Safety
    /// `arguments` must point to values of the types that the kernel takes, in order, and what the kernel does with them must
    /// stay inside memory that is alive until the work is done. (Memory goes back to the pool, not to the driver, so handles
    /// may be dropped once the kernel is queued.)
    pub(crate) unsafe fn launch(
        &self,
        kernel: &'static str,
        grid: Grid,
        arguments: &mut [*mut c_void],
        describe: &dyn Fn() -> String,
    ) -> Result<(), Error> {
        self.bind()?;
        let function = self.function(kernel)?;
        let [x, y, z] = grid.blocks;
        if x > i32::MAX as usize || y > 65535 || z > 65535 {
            return Err(Error::Arguments { kernel, detail: format!("too large: {}", describe()) });
        }
        // SAFETY: by this function's own contract.
        unsafe {
            result::launch_kernel(
                function.0,
                (x as u32, y as u32, z as u32),
                (grid.threads, 1, 1),
                grid.shared as u32,
                self.inner().stream.cu_stream(),
                arguments,
            )
        }
        .map_err(|e| driver(&format!("kernel {kernel} on {}", describe()), e))
    }
}

/// Pointers to the values of expressions, as a kernel's arguments. They live to the end of the statement.
macro_rules! arguments {
    ($($value:expr),* $(,)?) => {
        &mut [$(std::ptr::from_ref(&$value).cast_mut().cast::<std::ffi::c_void>()),*]
    };
}
pub(crate) use arguments;

/// The name of a kernel's variant for an element type, `None` if there is none: `variant!(dtype, "scale", F32, F16, BF16)`
/// gives `scale_f32` and so on.
macro_rules! variant {
    ($dtype:expr, $name:literal) => {
        match $dtype {
            $crate::DType::F32 => Some(concat!($name, "_f32")),
            $crate::DType::F16 => Some(concat!($name, "_f16")),
            $crate::DType::BF16 => Some(concat!($name, "_bf16")),
            _ => None,
        }
    };
}
pub(crate) use variant;
