//! Sums over several GPUs, by NVIDIA's NCCL: opened at run time, where it is installed.
//!
//! Only the five functions that are needed are looked up, in `libnccl.so.2`, which is what installations without headers have.

use crate::error::refuse;
use crate::{DType, ElementsMut, Error, Gpu};
use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::sync::OnceLock;

/// Bytes of what processes meet by.
pub const ID_BYTES: usize = 128;

#[repr(C)]
#[derive(Clone, Copy)]
struct Id([c_char; ID_BYTES]);

type Handle = *mut c_void;

/// NCCL's functions, and the library that they are in.
struct Functions {
    id: unsafe extern "C" fn(*mut Id) -> c_int,
    join: unsafe extern "C" fn(*mut Handle, c_int, Id, c_int) -> c_int,
    #[allow(clippy::type_complexity, reason = "it is NCCL's")]
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, *mut c_void) -> c_int,
    abort: unsafe extern "C" fn(Handle) -> c_int,
    text: unsafe extern "C" fn(c_int) -> *const c_char,
    _library: Library,
}

/// NCCL's number for 32-bit floating point, and for sums.
const FLOAT32: c_int = 7;
const SUM: c_int = 0;

impl Functions {
    fn open() -> Result<Functions, String> {
        let names = ["libnccl.so.2", "libnccl.so", "nccl.dll"];
        // SAFETY: opens NCCL's library, whose initialisers are NVIDIA's.
        let mut opened = names.iter().map(|&name| unsafe { Library::new(name) });
        let Some(library) = opened.find_map(Result::ok) else {
            return Err("libnccl.so.2 is not where libraries are looked for".into());
        };
        let missing = |error: libloading::Error| error.to_string();
        // SAFETY: the types are those of nccl.h, which have not changed since version 2.0; the library stays open as long as they
        // are used.
        unsafe {
            Ok(Functions {
                id: *library.get(b"ncclGetUniqueId\0").map_err(missing)?,
                join: *library.get(b"ncclCommInitRank\0").map_err(missing)?,
                all_reduce: *library.get(b"ncclAllReduce\0").map_err(missing)?,
                abort: *library.get(b"ncclCommAbort\0").map_err(missing)?,
                text: *library.get(b"ncclGetErrorString\0").map_err(missing)?,
                _library: library,
            })
        }
    }

    fn get() -> Result<&'static Functions, Error> {
        static OPEN: OnceLock<Result<Functions, String>> = OnceLock::new();
        match OPEN.get_or_init(Functions::open) {
            Ok(functions) => Ok(functions),
            Err(problem) => refuse!("nccl", "{problem}"),
        }
    }

    /// An error where NCCL answers anything but 0.
    fn check(&self, what: &str, answer: c_int) -> Result<(), Error> {
        if answer == 0 {
            return Ok(());
        }
        // SAFETY: NCCL gives a static text for any number.
        let text = unsafe { CStr::from_ptr((self.text)(answer)) }.to_string_lossy().into_owned();
        Err(Error::Driver { what: what.into(), message: format!("NCCL: {text}") })
    }
}

/// One GPU of several, each of its own process, that add up memory between them.
pub struct Nccl {
    gpu: Gpu,
    handle: Handle,
    functions: &'static Functions,
    rank: usize,
    size: usize,
}

// SAFETY: a handle of NCCL may be used from any thread, one at a time, which `&self` methods keep to by the caller's own order.
unsafe impl Send for Nccl {}
// SAFETY: work is queued on the one stream of the GPU, and the caller makes calls in the same order on all processes.
unsafe impl Sync for Nccl {}

impl Nccl {
    /// Whether NCCL is installed.
    pub fn is_present() -> bool {
        Functions::get().is_ok()
    }

    /// What processes meet by: made by one of them, and given to all.
    ///
    /// # Errors
    /// If NCCL is not installed, or fails.
    pub fn id() -> Result<[u8; ID_BYTES], Error> {
        let functions = Functions::get()?;
        let mut id = Id([0; ID_BYTES]);
        // SAFETY: writes an id to a place of its size.
        functions.check("making an id", unsafe { (functions.id)(&mut id) })?;
        Ok(id.0.map(|byte| byte as u8))
    }

    /// GPU `rank` of `size`; waits for the others.
    ///
    /// # Errors
    /// If NCCL is not installed, or fails.
    pub fn new(gpu: &Gpu, rank: usize, size: usize, id: [u8; ID_BYTES]) -> Result<Nccl, Error> {
        let functions = Functions::get()?;
        gpu.bind()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the handle is written to a place of its type, and the context is this thread's.
        let answer =
            unsafe { (functions.join)(&mut handle, size as c_int, Id(id.map(|b| b as c_char)), rank as c_int) };
        functions.check("meeting the other GPUs", answer)?;
        Ok(Nccl { gpu: gpu.clone(), handle, functions, rank, size })
    }

    /// Number of this GPU, and of all.
    pub fn place(&self) -> (usize, usize) {
        (self.rank, self.size)
    }

    /// Queues replacing `len` `f32` elements by their sum over all GPUs.
    ///
    /// # Errors
    /// If they are not there or of another type, or NCCL fails.
    pub fn sum(&self, elements: ElementsMut<'_>, len: usize) -> Result<(), Error> {
        if elements.0.dtype() != DType::F32 {
            return refuse!("nccl", "sums f32 only");
        }
        elements.0.check("nccl", "what is to be summed", Some(len))?;
        self.gpu.bind()?;
        let (pointer, stream) = (elements.0.pointer() as *mut c_void, self.gpu.inner().stream.cu_stream().cast());
        // SAFETY: the elements were checked to be there; the sum is in place and in the order of the GPU's stream.
        let answer = unsafe { (self.functions.all_reduce)(pointer, pointer, len, FLOAT32, SUM, self.handle, stream) };
        self.functions.check("adding up over GPUs", answer)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        let _ = self.gpu.synchronize();
        // SAFETY: the handle is this one's alone, and no work uses it any more. Aborting waits for no process that is gone.
        unsafe { (self.functions.abort)(self.handle) };
    }
}

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nccl({} of {})", self.rank, self.size)
    }
}
