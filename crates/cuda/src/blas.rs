//! cuBLASLt, opened at run time if it is installed.

use crate::gemm::Matrices;
use crate::{DType, Elements, Error, Gpu};
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Workspace of a product, in bytes: what NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

/// The least version that is used: 12.0.
const VERSION: usize = 120_000;

/// A handle of cuBLASLt, and what it said about the shapes seen so far.
pub(crate) struct Blas {
    handle: sys::cublasLtHandle_t,
    version: usize,
    plans: Mutex<HashMap<Key, Option<Plan>>>,
}

// SAFETY: handles and descriptors of cuBLASLt may be used from any thread; plans are changed under their lock.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

/// Element types of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// All of one floating-point type, sums in f32.
    Float(DType),
    /// Operands of a 16-bit type, the result and what is added to it f32.
    Wide(DType),
    /// i8 to i32, sums exact.
    I8,
    /// 8-bit floats with 4 bits of exponent to this type, sums in f32.
    E4m3(DType),
}

impl Kind {
    /// Types of operands and of the result.
    fn types(self) -> [sys::cudaDataType; 2] {
        let float = |dtype| match dtype {
            DType::F16 => sys::cudaDataType::CUDA_R_16F,
            DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
            _ => sys::cudaDataType::CUDA_R_32F,
        };
        match self {
            Kind::Float(dtype) => [float(dtype); 2],
            Kind::Wide(dtype) => [float(dtype), sys::cudaDataType::CUDA_R_32F],
            Kind::I8 => [sys::cudaDataType::CUDA_R_8I, sys::cudaDataType::CUDA_R_32I],
            Kind::E4m3(dtype) => [sys::cudaDataType::CUDA_R_8F_E4M3, float(dtype)],
        }
    }
}

/// A product as [`gemm`](crate::gemm::gemm) checked it.
pub(crate) struct Product<'a> {
    pub kind: Kind,
    pub batch: usize,
    /// m, k, n.
    pub sizes: [usize; 3],
    pub a: Matrices<'a>,
    pub b: Matrices<'a>,
    pub bias: Option<Elements<'a>>,
    pub relu: bool,
    /// Added before the ReLU.
    pub residual: Option<Matrices<'a>>,
    pub d: Matrices<'a>,
    /// What a and b are multiplied with, one f32 each: of [`Kind::E4m3`].
    pub scales: Option<[Elements<'a>; 2]>,
}

/// All that the choice of an algorithm depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    kind: Kind,
    batch: usize,
    sizes: [usize; 3],
    /// Row step, batch step, alignment, and whether it is turned, of a, b, the residual and d.
    operands: [(usize, usize, u32, bool); 4],
    bias: bool,
    relu: bool,
}

/// Descriptors and an algorithm.
struct Plan {
    product: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 4],
    algorithm: sys::cublasLtMatmulAlgo_t,
    workspace: usize,
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: the plan owns its descriptors, and nothing queued refers to them.
        unsafe {
            let _ = result::destroy_matmul_desc(self.product);
            for layout in self.layouts {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

/// An [`Error::Driver`].
fn failed(what: &str, error: CublasError) -> Error {
    Error::Driver { what: format!("cuBLASLt: {what}"), message: format!("{:?}", error.0) }
}

impl Blas {
    /// The library, if it can be opened.
    pub(crate) fn open(gpu: &Gpu) -> Option<Blas> {
        // SAFETY: opens a library of NVIDIA's.
        if !unsafe { sys::is_culib_present() } || gpu.bind().is_err() {
            return None;
        }
        // SAFETY: only asks.
        let version = unsafe { sys::cublasLtGetVersion() };
        if version < VERSION {
            return None;
        }
        let handle = result::create_handle().ok()?;
        Some(Blas { handle, version, plans: Mutex::default() })
    }

    pub(crate) fn version(&self) -> String {
        format!("{}.{}.{}", self.version / 10_000, self.version / 100 % 100, self.version % 100)
    }

    /// Queues a product; `false` if there is no algorithm for it.
    pub(crate) fn run(&self, gpu: &Gpu, p: &Product<'_>) -> Result<bool, Error> {
        let fail = |e| failed("a product", e);
        gpu.bind()?;
        let of = |m: &Matrices<'_>| (m.row, m.batch, alignment(m.elements.pointer()), m.turned);
        let residual = p.residual.unwrap_or(p.d);
        let key = Key {
            kind: p.kind,
            batch: p.batch,
            sizes: p.sizes,
            operands: [of(&p.a), of(&p.b), of(&residual), of(&p.d)],
            bias: p.bias.is_some(),
            relu: p.relu,
        };
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = match plans.entry(key) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(self.plan(&key).map_err(fail)?),
        };
        let Some(plan) = plan else { return Ok(false) };
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let mut pointers = vec![];
        pointers.extend(p.bias.map(|bias| (Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)));
        if let Some([of_a, of_b]) = p.scales {
            pointers.push((Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, of_b));
            pointers.push((Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, of_a));
        }
        for (which, elements) in pointers {
            // SAFETY: the descriptor is alive, and the attribute is a pointer.
            unsafe { set(plan.product, which, &elements.pointer()) }.map_err(fail)?;
        }
        let workspace = gpu.allocate(plan.workspace)?;
        // The bits of factors of the product and of what is added, as f32 or i32.
        let one = if p.kind == Kind::I8 { 1u32 } else { 1.0f32.to_bits() };
        let beta = if p.residual.is_some() { one } else { 0 };
        let pointer = |elements: &Elements<'_>| elements.pointer() as *mut c_void;
        let [layout_a, layout_b, layout_c, layout_d] = plan.layouts;
        // SAFETY: operands were checked to lie in their memory, the plan was made for their layout and alignment, and the workspace
        // goes back to the pool of the stream that the work is queued on.
        unsafe {
            result::matmul(
                self.handle,
                plan.product,
                std::ptr::from_ref(&one).cast(),
                std::ptr::from_ref(&beta).cast(),
                // Column by column, which is how cuBLASLt reads, everything is turned: d' = b' a'.
                pointer(&p.b.elements),
                layout_b,
                pointer(&p.a.elements),
                layout_a,
                pointer(&residual.elements),
                layout_c,
                pointer(&p.d.elements),
                layout_d,
                &plan.algorithm,
                workspace.pointer() as *mut c_void,
                plan.workspace,
                gpu.inner().stream.cu_stream().cast(),
            )
        }
        .map_err(fail)?;
        Ok(true)
    }

    /// The first algorithm that cuBLASLt offers for a shape; `None` if there is none.
    fn plan(&self, key: &Key) -> Result<Option<Plan>, CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        use sys::cublasLtMatmulPreferenceAttributes_t as Wish;
        let [kind, result_kind] = key.kind.types();
        let [m, k, n] = key.sizes;
        let [a, b, residual, d] = key.operands;
        // Rows and columns as cuBLASLt counts them, which is turned.
        let layouts = [
            layout(kind, if a.3 { [m, k] } else { [k, m] }, key.batch, a)?,
            layout(kind, if b.3 { [k, n] } else { [n, k] }, key.batch, b)?,
            layout(result_kind, [n, m], key.batch, residual)?,
            layout(result_kind, [n, m], key.batch, d)?,
        ];
        let product = match key.kind {
            Kind::I8 => {
                result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32I, sys::cudaDataType::CUDA_R_32I)
            }
            _ => {
                result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F)
            }
        }?;
        let mut plan =
            Plan { product, layouts, algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] }, workspace: WORKSPACE };
        let way = |turned: bool| if turned { 1i32 } else { 0 };
        let epilogue = match (key.bias, key.relu) {
            (false, false) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
            (true, false) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            (false, true) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_RELU,
            (true, true) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_RELU_BIAS,
        } as u32;
        let preference = result::create_matmul_pref()?;
        // SAFETY: the descriptors were just made, attributes have the types that they are documented with, and the preference goes
        // when it was used.
        let found = unsafe {
            (|| {
                set(product, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &way(b.3))?;
                set(product, Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &way(a.3))?;
                set(product, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
                let wish = |which, value: &[u8]| {
                    result::set_matmul_pref_attribute(preference, which, value.as_ptr().cast(), value.len())
                };
                wish(Wish::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(WORKSPACE as u64).to_ne_bytes())?;
                let alignments = [
                    (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b.2),
                    (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a.2),
                    (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, residual.2),
                    (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, d.2),
                ];
                for (which, bytes) in alignments {
                    wish(which, &bytes.to_ne_bytes())?;
                }
                let [layout_a, layout_b, layout_c, layout_d] = layouts;
                result::get_matmul_algo_heuristic(
                    self.handle,
                    product,
                    layout_b,
                    layout_a,
                    layout_c,
                    layout_d,
                    preference,
                )
            })()
        };
        // SAFETY: made above, and used.
        let _ = unsafe { result::destroy_matmul_pref(preference) };
        match found {
            Ok(found) => {
                plan.algorithm = found.algo;
                plan.workspace = found.workspaceSize;
                Ok(Some(plan))
            }
            Err(CublasError(
                sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED | sys::cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE,
            )) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        self.plans.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        // SAFETY: the handle is this one's, and the stream is idle.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl fmt::Debug for Blas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blas({})", self.version())
    }
}

/// The largest power of two up to 256 that divides an address.
fn alignment(pointer: u64) -> u32 {
    1 << pointer.trailing_zeros().min(8)
}

/// # Safety
/// The descriptor must be alive, and the attribute be of type `T`.
unsafe fn set<T>(
    product: sys::cublasLtMatmulDesc_t,
    which: sys::cublasLtMatmulDescAttributes_t,
    value: &T,
) -> Result<(), CublasError> {
    // SAFETY: by this function's own contract.
    unsafe { result::set_matmul_desc_attribute(product, which, std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The layout of matrices of which cuBLASLt sees `rows` (adjacent elements) and `columns`.
fn layout(
    kind: sys::cudaDataType,
    [rows, columns]: [usize; 2],
    batch: usize,
    (row, step, ..): (usize, usize, u32, bool),
) -> Result<sys::cublasLtMatrixLayout_t, CublasError> {
    use sys::cublasLtMatrixLayoutAttribute_t as Attribute;
    // A single row may have any step, which cuBLASLt wants to be as long as the row.
    let layout = result::create_matrix_layout(kind, rows as u64, columns as u64, row.max(rows) as i64)?;
    if batch > 1 {
        let (count, step) = (batch as i32, step as i64);
        // SAFETY: the layout was just made; the attributes are an i32 and an i64.
        unsafe {
            let set =
                |which, value: *const c_void, bytes| result::set_matrix_layout_attribute(layout, which, value, bytes);
            set(Attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, std::ptr::from_ref(&count).cast(), 4)?;
            set(Attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, std::ptr::from_ref(&step).cast(), 8)?;
        }
    }
    Ok(layout)
}
