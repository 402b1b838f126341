//! Launching kernels.

use crate::gpu::driver;
use crate::{Error, Gpu};
use cudarc::driver::{result, sys};
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

    /// As [`Gpu::launch`], but where the GPU can (since 9.0) the kernel may start before the one in front of it has ended.
    ///
    /// # Safety
    /// As there; and the kernel must call `wait_for_previous` of `dependent.cuh` before it touches what changes.
    pub(crate) unsafe fn launch_early(
        &self,
        kernel: &'static str,
        grid: Grid,
        arguments: &mut [*mut c_void],
        describe: &dyn Fn() -> String,
    ) -> Result<(), Error> {
        if self.capability() < (9, 0) {
            // SAFETY: by this function's own contract.
            return unsafe { self.launch(kernel, grid, arguments, describe) };
        }
        self.bind()?;
        let function = self.function(kernel)?;
        let [x, y, z] = grid.blocks;
        if x > i32::MAX as usize || y > 65535 || z > 65535 {
            return Err(Error::Arguments { kernel, detail: format!("too large: {}", describe()) });
        }
        let mut early = sys::CUlaunchAttribute_st {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue_union { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig_st {
            gridDimX: x as u32,
            gridDimY: y as u32,
            gridDimZ: z as u32,
            blockDimX: grid.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: grid.shared as u32,
            hStream: self.inner().stream.cu_stream(),
            attrs: &mut early,
            numAttrs: 1,
        };
        // SAFETY: by this function's own contract; the configuration outlives the call.
        unsafe { sys::cuLaunchKernelEx(&config, function.0, arguments.as_mut_ptr(), std::ptr::null_mut()) }
            .result()
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
