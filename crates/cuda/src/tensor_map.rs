//! Tensors as the copy engine of Hopper knows them.

use crate::error::refuse;
use crate::gpu::driver;
use crate::{DType, Elements, Error};
use cudarc::driver::sys;

/// A tensor of four dimensions, the innermost first, of which boxes of 64 by `rows` elements are copied, swizzled in pieces of 16
/// bytes. What lies outside is zeros.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TensorMap(#[expect(dead_code, reason = "read by the GPU")] sys::CUtensorMap);

impl TensorMap {
    /// `sizes` of the dimensions, `steps` in elements of all but the first, `rows` of a box along dimension `along`. The caller
    /// checked that the tensor lies in its memory, aligned to 16 bytes.
    pub(crate) fn new(
        kernel: &'static str,
        elements: Elements<'_>,
        sizes: [usize; 4],
        steps: [usize; 3],
        (along, rows): (usize, usize),
    ) -> Result<TensorMap, Error> {
        let kind = match elements.dtype() {
            DType::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            DType::BF16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            found => return refuse!(kernel, "no copies of {found:?} by the copy engine"),
        };
        let size = elements.dtype().size();
        let mut bytes = [0u64; 3];
        for i in 0..3 {
            // The step of a dimension of size 1 does not matter, but must be sensible.
            let inner = if i == 0 { (sizes[0] * size).next_multiple_of(16) as u64 } else { bytes[i - 1] };
            bytes[i] = if sizes[i + 1] == 1 { inner } else { (steps[i] * size) as u64 };
        }
        let counts = sizes.map(|count| count.max(1) as u64);
        let mut boxes = [64, 1, 1, 1];
        boxes[along] = rows as u32;
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        // SAFETY: arrays have as many elements as the rank says; the address is only noted.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                kind,
                4,
                elements.pointer() as *mut std::ffi::c_void,
                counts.as_ptr(),
                bytes.as_ptr(),
                boxes.as_ptr(),
                [1; 4].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
        .result()
        .map_err(|e| driver(&format!("describing a tensor of {sizes:?} to the copy engine"), e))?;
        Ok(TensorMap(map))
    }
}
