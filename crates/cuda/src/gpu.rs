//! A GPU: context, stream, kernels, memory.

use crate::Error;
use crate::blas::Blas;
use crate::memory::Pool;
use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};
use std::collections::HashMap;
use std::ffi::CString;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

#[cfg(cuda_kernels)]
include!(concat!(env!("OUT_DIR"), "/modules.rs"));
#[cfg(not(cuda_kernels))]
pub(crate) static MODULES: &[(&str, &[u8])] = &[];

/// An NVIDIA GPU with one stream of work. Cheap to clone.
#[derive(Clone)]
pub struct Gpu {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) context: Arc<CudaContext>,
    pub(crate) stream: Arc<CudaStream>,
    modules: Vec<Module>,
    functions: Mutex<HashMap<&'static str, Function>>,
    pub(crate) pool: Mutex<Pool>,
    /// cuBLASLt, once asked for; `None` in it where it cannot be opened.
    blas: OnceLock<Option<Blas>>,
    name: String,
    capability: (i32, i32),
    multiprocessors: usize,
    /// Bytes of shared memory that a block may ask for.
    shared: usize,
    /// How many clusters of a kernel run at once, by its name, threads and shared memory.
    clusters: Mutex<HashMap<(&'static str, u32, usize), usize>>,
}

struct Module(sys::CUmodule);

// SAFETY: a module is a handle of the driver, which may be used from any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// A kernel, ready to launch.
#[derive(Clone, Copy)]
pub(crate) struct Function(pub(crate) sys::CUfunction);

// SAFETY: a function is a handle of the driver, which may be used from any thread.
unsafe impl Send for Function {}

/// The least CUDA version of a driver, as drivers count: the kernels' compiler and the functions looked up are of 13.0.
const DRIVER: i32 = 13_000;

impl Gpu {
    /// How many GPUs the driver finds; 0 without a driver.
    pub fn count() -> usize {
        if !driver_is_present() {
            return 0;
        }
        CudaContext::device_count().map_or(0, |count| count.max(0) as usize)
    }

    /// GPU number `ordinal`, from 0, with its kernels loaded.
    ///
    /// # Errors
    /// If there is no driver, no such GPU, no kernel for it, or the driver fails.
    pub fn new(ordinal: usize) -> Result<Gpu, Error> {
        if MODULES.is_empty() {
            return Err(Error::NoKernels);
        }
        if !driver_is_present() {
            return Err(Error::NoDriver);
        }
        let mut version = 0;
        // SAFETY: writes the version; every driver has this function, and answers before anything is initialised.
        unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(|e| driver("asking for the version", e))?;
        if version < DRIVER {
            return Err(Error::OldDriver { found: version_text(version), wanted: version_text(DRIVER) });
        }
        let count = Gpu::count();
        if ordinal >= count {
            return Err(Error::NoDevice { ordinal, count });
        }
        let context = CudaContext::new(ordinal).map_err(|e| driver("opening the GPU", e))?;
        // SAFETY: memory is managed here, on a single stream; none of the tracked types is used.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(|e| driver("making a stream", e))?;
        let name = context.name().map_err(|e| driver("asking for the name", e))?;
        let capability = context.compute_capability().map_err(|e| driver("asking for the capability", e))?;
        if capability < (8, 0) {
            return Err(Error::Unsupported { gpu: name, capability: format!("{}.{}", capability.0, capability.1) });
        }
        let attribute = |which| context.attribute(which).map_err(|e| driver("asking for an attribute", e));
        let multiprocessors =
            attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1) as usize;
        let shared = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let mut modules = Vec::new();
        for (module, image) in MODULES {
            // SAFETY: the image is a fat binary made by nvcc, complete with its length, and static.
            let loaded = unsafe { result::module::load_data(image.as_ptr().cast()) };
            modules.push(Module(loaded.map_err(|e| match e.0 {
                sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => {
                    Error::Unsupported { gpu: name.clone(), capability: format!("{}.{}", capability.0, capability.1) }
                }
                _ => driver(&format!("loading the kernels of {module}"), e),
            })?));
        }
        let inner = Inner {
            context,
            stream,
            modules,
            functions: Mutex::default(),
            pool: Mutex::default(),
            blas: OnceLock::new(),
            name,
            capability,
            multiprocessors,
            shared: shared.max(0) as usize,
            clusters: Mutex::default(),
        };
        Ok(Gpu { inner: Arc::new(inner) })
    }

    /// What the GPU is called, such as `NVIDIA H100 80GB HBM3`.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its compute capability, major and minor.
    pub fn capability(&self) -> (i32, i32) {
        self.inner.capability
    }

    /// Number of its multiprocessors.
    pub fn multiprocessors(&self) -> usize {
        self.inner.multiprocessors
    }

    /// Bytes of shared memory that a block may ask for.
    pub(crate) fn shared_memory(&self) -> usize {
        self.inner.shared
    }

    /// How many clusters of so many blocks (in x and y, as the kernel was compiled for) can run at once; 0 if none can.
    pub(crate) fn clusters(
        &self,
        kernel: &'static str,
        blocks: [usize; 2],
        threads: u32,
        shared: usize,
    ) -> Result<usize, Error> {
        if shared > self.inner.shared {
            return Ok(0);
        }
        let lock = || self.inner.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&known) = lock().get(&(kernel, threads, shared)) {
            return Ok(known);
        }
        self.bind()?;
        let function = self.function(kernel)?;
        let [x, y] = blocks.map(|count| count as u32);
        let mut cluster = sys::CUlaunchAttribute_st {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue_union {
                clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y, z: 1 },
            },
        };
        let config = sys::CUlaunchConfig_st {
            gridDimX: x * self.inner.multiprocessors as u32,
            gridDimY: y,
            gridDimZ: 1,
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared as u32,
            hStream: std::ptr::null_mut(),
            attrs: &mut cluster,
            numAttrs: 1,
        };
        let mut count = 0;
        // SAFETY: writes the count; the function belongs to a loaded module, and the configuration outlives the call.
        unsafe { sys::cuOccupancyMaxActiveClusters(&mut count, function.0, &config) }
            .result()
            .map_err(|e| driver(&format!("asking how many clusters of {kernel} run at once"), e))?;
        let count = count.max(0) as usize;
        lock().insert((kernel, threads, shared), count);
        Ok(count)
    }

    /// Bytes free and bytes in all, as the driver counts.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn memory(&self) -> Result<(usize, usize), Error> {
        self.inner.context.mem_get_info().map_err(|e| driver("asking for free memory", e))
    }

    /// Whether both are the same handle.
    pub fn is_same(&self, other: &Gpu) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Waits until all work queued so far is done.
    ///
    /// # Errors
    /// If that work failed.
    pub fn synchronize(&self) -> Result<(), Error> {
        self.inner.stream.synchronize().map_err(|e| driver("waiting for the GPU", e))
    }

    /// Milliseconds that the GPU takes for the work which `work` queues, and the result of `work`.
    ///
    /// # Errors
    /// If the driver fails, or that work does.
    pub fn time<T>(&self, work: impl FnOnce() -> T) -> Result<(T, f32), Error> {
        let timing = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let record = || self.inner.stream.record_event(timing).map_err(|e| driver("recording an event", e));
        let start = record()?;
        let value = work();
        let end = record()?;
        let elapsed = start.elapsed_ms(&end).map_err(|e| driver("reading a clock", e))?;
        Ok((value, elapsed))
    }

    /// cuBLASLt, opened when first asked for; `None` where it is not.
    pub(crate) fn blas(&self) -> Option<&Blas> {
        self.inner.blas.get_or_init(|| Blas::open(self)).as_ref()
    }

    /// Version of cuBLASLt as people write it; `None` where it cannot be opened, and products of matrices are our own kernels'.
    pub fn blas_version(&self) -> Option<String> {
        self.blas().map(Blas::version)
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Makes the GPU the calling thread's.
    pub(crate) fn bind(&self) -> Result<(), Error> {
        self.inner.context.bind_to_thread().map_err(|e| driver("binding a thread to the GPU", e))
    }

    /// A kernel by its name.
    pub(crate) fn function(&self, name: &'static str) -> Result<Function, Error> {
        let mut functions = self.inner.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&function) = functions.get(name) {
            return Ok(function);
        }
        let symbol = CString::new(name).expect("names of kernels have no zero byte");
        let mut last = DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND);
        for module in &self.inner.modules {
            // SAFETY: the module is loaded, and stays so as long as `self`.
            match unsafe { result::module::get_function(module.0, symbol.clone()) } {
                Ok(function) => {
                    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                    let dynamic = self.inner.shared as i32;
                    // SAFETY: the function belongs to a loaded module. A kernel that refuses needs no more than the default.
                    let _ = unsafe { result::function::set_function_attribute(function, attribute, dynamic) };
                    functions.insert(name, Function(function));
                    return Ok(Function(function));
                }
                Err(error) => last = error,
            }
        }
        Err(driver(&format!("looking for kernel {name}"), last))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = self.context.bind_to_thread();
        let _ = self.stream.synchronize();
        drop(self.blas.take());
        self.pool.get_mut().unwrap_or_else(PoisonError::into_inner).trim();
        for module in &self.modules {
            // SAFETY: no work is left on the stream, and nobody else holds functions of the module.
            let _ = unsafe { result::module::unload(module.0) };
        }
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpu({} {})", self.inner.context.ordinal(), self.inner.name)
    }
}

/// Whether the driver's library can be opened.
fn driver_is_present() -> bool {
    // SAFETY: opens the driver's library, whose initialisers are NVIDIA's.
    unsafe { sys::is_culib_present() }
}

/// A CUDA version as people write it.
fn version_text(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// An [`Error::Driver`].
pub(crate) fn driver(what: &str, error: DriverError) -> Error {
    let text =
        |s: Result<&std::ffi::CStr, DriverError>| s.map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let message = format!("{} ({})", text(error.error_string()), text(error.error_name()));
    Error::Driver { what: what.into(), message }
}

#[cfg(test)]
mod tests {
    use super::version_text;

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!([11_080, 12_040, 13_000].map(version_text), ["11.8", "12.4", "13.0"]);
    }
}
