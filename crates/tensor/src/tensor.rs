//! The tensor: a shared buffer and a layout.

use crate::autograd::View;
use crate::autograd::{self, Node};
use crate::buffer::Storage;
use crate::copy::{convert, copy_strided};
use crate::dtype::with_element;
use crate::error::refuse;
use crate::{ALIGNMENT, DType, Device, Dims, Element, Error, Layout, RowLayout};
use std::fmt;
use std::sync::Arc;

/// An n-dimensional array. Cloning and taking views share the elements; operators return new tensors.
///
/// ```
/// use supple_tensor::{Cpu, Device, Tensor, ops};
/// let device = Device::cpu(Cpu::new(supple_tensor::Isa::detect(), 2))?;
/// let x = Tensor::from_slice(&device, &[1.0f32, -2.0, 3.0, -4.0], &[2, 2])?;
/// let y = ops::relu(&x)?;
/// assert_eq!(y.transpose(0, 1)?.to_vec::<f32>()?, [1.0, 3.0, 0.0, 0.0]);
/// # Ok::<(), supple_tensor::Error>(())
/// ```
#[derive(Clone)]
pub struct Tensor {
    buffer: Storage,
    layout: Layout,
    dtype: DType,
    device: Device,
    /// How it was made, if gradients with respect to what it was made of are wanted.
    history: Option<Arc<Node>>,
}

impl Tensor {
    /// A tensor of `values` in row-major order.
    ///
    /// # Errors
    /// If the shape has another number of elements.
    pub fn from_slice<T: Element>(device: &Device, values: &[T], shape: &[usize]) -> Result<Tensor, Error> {
        let layout = Layout::contiguous(shape)?;
        if layout.elements() != values.len() {
            return refuse!("from_slice", "shape {shape:?} has {} elements, got {}", layout.elements(), values.len());
        }
        let mut tensor = Tensor::unspecified(device, layout, T::DTYPE)?;
        match &tensor.buffer {
            Storage::Host(_) => tensor.write::<T>()[..values.len()].copy_from_slice(values),
            #[cfg(feature = "cuda")]
            Storage::Cuda(memory) => device.gpu()?.write(memory, 0, bytemuck::cast_slice(values))?,
        }
        Ok(tensor)
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// If the shape does not fit the memory.
    pub fn zeros(device: &Device, shape: &[usize], dtype: DType) -> Result<Tensor, Error> {
        let mut tensor = Tensor::unspecified(device, Layout::contiguous(shape)?, dtype)?;
        // All element types have zero bytes for zero.
        match &tensor.buffer {
            Storage::Host(_) => tensor.write::<u32>().fill(0),
            #[cfg(feature = "cuda")]
            Storage::Cuda(memory) => device.gpu()?.clear(memory, 0, memory.bytes())?,
        }
        Ok(tensor)
    }

    /// A tensor of `value`, of a floating-point type.
    ///
    /// # Errors
    /// If the shape does not fit the memory, or the type is none of floating point.
    pub fn filled(device: &Device, shape: &[usize], value: f32, dtype: DType) -> Result<Tensor, Error> {
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::DType { op: "filled", wanted: DType::F32, found: dtype });
        }
        let mut tensor = Tensor::unspecified(device, Layout::contiguous(shape)?, dtype)?;
        #[cfg(feature = "cuda")]
        if let Device::Cuda(gpu) = device {
            crate::cuda::fill(gpu, &tensor, value)?;
            return Ok(tensor);
        }
        with_element!(dtype, T => tensor.write::<T>().fill(T::from_f64(f64::from(value))));
        Ok(tensor)
    }

    /// A tensor whose contents a kernel is about to write. The buffer reaches to the end of the last padded row.
    pub(crate) fn unspecified(device: &Device, layout: Layout, dtype: DType) -> Result<Tensor, Error> {
        let bytes = layout.extent() * dtype.size();
        let buffer = match device {
            Device::Cpu(device) => Storage::Host(device.buffers().take(bytes.div_ceil(4), layout.shape())?),
            // The last row is padded too.
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => Storage::Cuda(gpu.allocate(bytes + ALIGNMENT * dtype.size())?.into()),
        };
        Ok(Tensor { buffer, layout, dtype, device: device.clone(), history: None })
    }

    /// Sizes of the dimensions.
    pub fn shape(&self) -> &Dims {
        self.layout.shape()
    }

    /// How the elements lie in the buffer.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the tensor lives.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.layout.rank()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.layout.elements()
    }

    /// How it was made, if gradients are wanted.
    pub(crate) fn history(&self) -> Option<&Arc<Node>> {
        self.history.as_ref()
    }

    pub(crate) fn with_history(self, history: Option<Arc<Node>>) -> Tensor {
        Tensor { history, ..self }
    }

    fn view(&self, layout: Layout, how: View) -> Tensor {
        let (buffer, device) = (self.buffer.clone(), self.device.clone());
        let view = Tensor { buffer, layout, dtype: self.dtype, device, history: None };
        autograd::recorded_view(self, view, how)
    }

    /// A view with dimensions `a` and `b` exchanged.
    ///
    /// # Errors
    /// If there is no such dimension.
    pub fn transpose(&self, a: usize, b: usize) -> Result<Tensor, Error> {
        Ok(self.view(self.layout.transpose(a, b)?, View::Transpose(a, b)))
    }

    /// A view of `len` indices of dimension `dim`, from `start` on.
    ///
    /// # Errors
    /// If they are not within the shape.
    pub fn narrow(&self, dim: usize, start: usize, len: usize) -> Result<Tensor, Error> {
        Ok(self.view(self.layout.narrow(dim, start, len)?, View::Narrow(dim, start)))
    }

    /// A view that repeats dimensions of size 1, or missing ones, to `shape`.
    ///
    /// # Errors
    /// If another dimension differs.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Tensor, Error> {
        Ok(self.view(self.layout.broadcast_to(shape)?, View::Broadcast))
    }

    /// The same elements in row-major order under another shape: a view where the layout allows it, else a copy.
    ///
    /// # Errors
    /// If the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor, Error> {
        match self.layout.reshape(shape)? {
            Some(layout) => Ok(self.view(layout, View::Reshape)),
            None => self.contiguous()?.reshape(shape),
        }
    }

    /// The tensor itself if its elements follow each other without gaps, else a copy that is so.
    ///
    /// # Errors
    /// If the copy does not fit the memory.
    pub fn contiguous(&self) -> Result<Tensor, Error> {
        if self.layout.is_contiguous() {
            return Ok(self.clone());
        }
        Ok(autograd::recorded_copy(self, self.copied(Layout::contiguous(self.shape())?)?))
    }

    /// A copy whose rows are padded, see [`Layout::padded`], or the tensor itself if it is so already.
    ///
    /// # Errors
    /// If the copy does not fit the memory.
    pub fn padded(&self) -> Result<Tensor, Error> {
        let layout = Layout::padded(self.shape())?;
        let (own, wanted) = (self.layout.rows(), layout.rows());
        let is_padded = match (own, wanted) {
            // The padding of the last row must lie inside the buffer.
            (Some(own), Some(wanted)) => {
                own == wanted && self.reach() >= own.rows * own.len.next_multiple_of(ALIGNMENT)
            }
            _ => false,
        };
        if is_padded { Ok(self.clone()) } else { Ok(autograd::recorded_copy(self, self.copied(layout)?)) }
    }

    /// Elements of the buffer from the first of this tensor on.
    pub(crate) fn reach(&self) -> usize {
        let elements = match &self.buffer {
            Storage::Host(buffer) => with_element!(self.dtype, T => buffer.as_slice::<T>().len()),
            #[cfg(feature = "cuda")]
            Storage::Cuda(memory) => memory.bytes() / self.dtype.size(),
        };
        elements - self.layout.offset()
    }

    pub(crate) fn copied(&self, layout: Layout) -> Result<Tensor, Error> {
        let mut copy = Tensor::unspecified(&self.device, layout, self.dtype)?;
        #[cfg(feature = "cuda")]
        if let Device::Cuda(gpu) = &self.device {
            crate::cuda::copy(gpu, self, &copy, &layout)?;
            return Ok(copy);
        }
        with_element!(self.dtype, T => {
            copy_strided(self.data::<T>(), &self.layout, copy.write::<T>(), &layout);
        });
        Ok(copy)
    }

    /// The same bytes as elements of another type of the same size.
    #[cfg(feature = "cuda")]
    pub(crate) fn reinterpreted(&self, dtype: DType) -> Result<Tensor, Error> {
        if dtype.size() != self.dtype.size() {
            return refuse!("reinterpreted", "{} as {dtype}", self.dtype);
        }
        Ok(Tensor { dtype, ..self.detach() })
    }

    /// The tensor with elements of another type. Floats round to nearest; integers drop fractions and saturate.
    ///
    /// # Errors
    /// If the result does not fit the memory.
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor, Error> {
        if dtype == self.dtype {
            return Ok(self.clone());
        }
        #[cfg(feature = "cuda")]
        if let Device::Cuda(gpu) = &self.device {
            return Ok(autograd::recorded_cast(self, crate::cuda::convert(gpu, self, dtype)?));
        }
        let from = self.contiguous()?;
        let mut to = Tensor::unspecified(&self.device, Layout::contiguous(self.shape())?, dtype)?;
        let len = self.elements();
        with_element!(self.dtype, A => with_element!(dtype, B => {
            convert::<A, B>(&from.data::<A>()[..len], &mut to.write::<B>()[..len]);
        }));
        Ok(autograd::recorded_cast(self, to))
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    /// [`Error::DType`] if they are of another type than `T`.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, Error> {
        self.expect_dtype("to_vec", T::DTYPE)?;
        let layout = Layout::contiguous(self.shape())?;
        let mut values = Vec::new();
        if values.try_reserve_exact(self.elements()).is_err() {
            return Err(Error::TooLarge { what: "to_vec", shape: *self.shape() });
        }
        values.resize(self.elements(), T::zeroed());
        #[cfg(feature = "cuda")]
        if let Device::Cuda(gpu) = &self.device {
            let x = self.contiguous()?;
            let Storage::Cuda(memory) = &x.buffer else { unreachable!("it lives on the GPU") };
            gpu.download(memory, x.layout.offset() * self.dtype.size(), bytemuck::cast_slice_mut(&mut values))?;
            return Ok(values);
        }
        copy_strided(self.data::<T>(), &self.layout, &mut values, &layout);
        Ok(values)
    }

    /// Writes to the elements of a tensor on a GPU where they lie, also for all that share them.
    ///
    /// # Errors
    /// If it lies on the CPU or with gaps, or has another number of elements, or the GPU fails.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "there is nothing but the CPU"))]
    pub fn overwrite(&self, values: &[f32]) -> Result<(), Error> {
        #[cfg(feature = "cuda")]
        if let (Device::Cuda(gpu), true) = (&self.device, self.layout.is_contiguous()) {
            self.expect_dtype("overwrite", DType::F32)?;
            if values.len() != self.elements() {
                return refuse!("overwrite", "{} values for shape {:?}", values.len(), self.shape());
            }
            return Ok(gpu.write(self.memory()?, self.layout.offset() * 4, bytemuck::cast_slice(values))?);
        }
        Err(Error::Device { op: "overwrite", detail: "only what lies on a GPU without gaps is shared to be written" })
    }

    /// The elements where they lie.
    ///
    /// # Errors
    /// If they are of another type than `T` or not contiguous.
    pub fn as_slice<T: Element>(&self) -> Result<&[T], Error> {
        self.expect_dtype("as_slice", T::DTYPE)?;
        self.device.cpu_device("as_slice")?;
        if !self.layout.is_contiguous() {
            return refuse!("as_slice", "{:?} is not contiguous", self.layout);
        }
        Ok(&self.data::<T>()[..self.elements()])
    }

    /// A mutable view of the elements where they lie, copied first if others share them or they are not contiguous. A
    /// leaf stays the leaf that it is; a result forgets how it was made, since its values are no longer that.
    ///
    /// # Errors
    /// If they are of another type than `T`, or a copy does not fit the memory.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T], Error> {
        self.expect_dtype("as_mut_slice", T::DTYPE)?;
        self.device.cpu_device("as_mut_slice")?;
        let layout = Layout::contiguous(self.shape())?;
        if !self.layout.is_contiguous() || self.buffer.host_mut().as_mut_slice::<T>().is_none() {
            *self = self.copied(layout)?.with_history(self.history.take());
        }
        self.history.take_if(|node| !node.is_leaf());
        let (start, len) = (self.layout.offset(), self.elements());
        Ok(&mut self.write::<T>()[start..start + len])
    }

    pub(crate) fn expect_dtype(&self, op: &'static str, wanted: DType) -> Result<(), Error> {
        if self.dtype == wanted { Ok(()) } else { Err(Error::DType { op, wanted, found: self.dtype }) }
    }

    /// The buffer from the first element on, to its end. For tensors on the CPU.
    pub(crate) fn data<T: Element>(&self) -> &[T] {
        debug_assert_eq!(self.dtype, T::DTYPE);
        &self.buffer.host().as_slice()[self.layout.offset()..]
    }

    /// The whole buffer of a tensor on the CPU that was just made and is not shared.
    pub(crate) fn write<T: bytemuck::Pod>(&mut self) -> &mut [T] {
        self.buffer.host_mut().as_mut_slice().expect("a new tensor is not shared")
    }

    /// Its memory on the GPU.
    #[cfg(feature = "cuda")]
    pub(crate) fn memory(&self) -> Result<&supple_cuda::Memory, Error> {
        match &self.buffer {
            Storage::Cuda(memory) => Ok(memory),
            Storage::Host(_) => Err(Error::Device { op: "memory", detail: "the tensor lies on the CPU" }),
        }
    }

    /// The tensor on another device, or itself if it is there.
    ///
    /// # Errors
    /// If the memory there is exhausted, or a GPU fails.
    pub fn to_device(&self, device: &Device) -> Result<Tensor, Error> {
        if self.device.is_same(device) {
            return Ok(self.clone());
        }
        with_element!(self.dtype, T => Tensor::from_slice(device, &self.to_vec::<T>()?, self.shape()))
    }

    /// The tensor, copied if needed, such that it consists of rows of `f32`.
    pub(crate) fn to_rows(&self, op: &'static str) -> Result<(Tensor, RowLayout), Error> {
        self.device.cpu_device(op)?;
        self.expect_dtype(op, DType::F32)?;
        if let Some(rows) = self.layout.rows() {
            return Ok((self.clone(), rows));
        }
        let copy = self.copied(Layout::contiguous(self.shape())?)?;
        let rows = copy.layout.rows().expect("contiguous layouts consist of rows");
        Ok((copy, rows))
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?})", self.dtype, self.shape())
    }
}
