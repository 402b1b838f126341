//! Images: channels-last tensors as kernels see them, and the way there from channels-first.

use super::output;
use crate::autograd::record;
use crate::copy::copy_strided;
use crate::error::refuse;
use crate::{ALIGNMENT, DType, Device, Error, Layout, Tensor};
use supple_kernels::backward::pooling::Images;
use supple_kernels::{Rows, RowsMut};

/// A tensor `[n, h, w, c]` whose pixels are padded to whole vectors.
pub(super) struct Image {
    tensor: Tensor,
    /// Number of images, height, width, channels; none is zero.
    pub n: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    /// Floats from one pixel to the next.
    stride: usize,
}

impl Image {
    /// The tensor as an image, copied if its layout requires that.
    pub fn new(op: &'static str, tensor: &Tensor) -> Result<Image, Error> {
        tensor.device().cpu_device(op)?;
        tensor.expect_dtype(op, DType::F32)?;
        let &[n, height, width, channels] = &**tensor.shape() else {
            return refuse!(op, "wants an image [n, h, w, c], got shape {:?}", tensor.shape());
        };
        if tensor.elements() == 0 {
            return refuse!(op, "the image of shape {:?} is empty", tensor.shape());
        }
        let pixels = n * height * width;
        let fits = |stride: usize| {
            stride.is_multiple_of(ALIGNMENT) && stride >= channels && tensor.data::<f32>().len() >= pixels * stride
        };
        let padded = channels.next_multiple_of(ALIGNMENT);
        let stride = tensor.layout().rows().map(|rows| if rows.rows == 1 { padded } else { rows.stride });
        let (tensor, stride) = match stride.filter(|&stride| fits(stride)) {
            Some(stride) => (tensor.clone(), stride),
            None => (tensor.padded()?, padded),
        };
        Ok(Image { tensor, n, height, width, channels, stride })
    }

    /// Where it lives.
    pub fn device(&self) -> &Device {
        self.tensor.device()
    }

    /// Sizes, as backward kernels take them.
    pub fn images(&self) -> Images {
        let Image { n, height, width, channels, stride, .. } = *self;
        Images { n, height, width, channels, stride }
    }

    /// All floats, from the first on.
    pub fn data(&self) -> &[f32] {
        self.tensor.data::<f32>()
    }

    /// The rows of image `i`.
    pub fn rows(&self, i: usize) -> Rows<'_> {
        let len = self.height * self.width * self.stride;
        Rows::new(&self.tensor.data::<f32>()[i * len..][..len], self.height, self.width, self.stride)
    }
}

/// A new image `[n, h, w, c]` with unspecified contents.
pub(super) fn new_image(device: &Device, shape: [usize; 4]) -> Result<Tensor, Error> {
    Ok(output(device, &shape, true)?.0)
}

/// The rows of image `i` of a tensor made by [`new_image`], to write.
pub(super) fn image_mut(tensor: &mut Tensor, i: usize) -> RowsMut<'_> {
    let &[_, height, width, channels] = &**tensor.shape() else { unreachable!("made by new_image") };
    let stride = channels.next_multiple_of(ALIGNMENT);
    let len = height * width * stride;
    RowsMut::new(&mut tensor.write::<f32>()[i * len..][..len], height, width, stride)
}

/// Images `[n, c, h, w]` as `[n, h, w, c]` with padded pixels; the padding is zero.
///
/// # Errors
/// If the tensor does not have four dimensions.
pub fn to_channels_last(x: &Tensor) -> Result<Tensor, Error> {
    let &[n, c, h, w] = &**x.shape() else {
        return refuse!("to_channels_last", "wants [n, c, h, w], got shape {:?}", x.shape());
    };
    let layout = x.layout().transpose(1, 2)?.transpose(2, 3)?;
    #[cfg(feature = "cuda")]
    if let Device::Cuda(_) = x.device() {
        let y = x.detach().transpose(1, 2)?.transpose(2, 3)?.copied(Layout::padded(&[n, h, w, c])?)?;
        return Ok(record("to_channels_last", y, &[x], || {
            |grad: &Tensor, _: &[bool]| Ok(vec![Some(to_channels_first(grad)?)])
        }));
    }
    x.expect_dtype("to_channels_last", DType::F32)?;
    let mut y = new_image(x.device(), [n, h, w, c])?;
    let to = *y.layout();
    if c % ALIGNMENT != 0 {
        y.write::<f32>().fill(0.0);
    }
    copy_strided(x.data::<f32>(), &layout, y.write::<f32>(), &to);
    Ok(record("to_channels_last", y, &[x], || |grad: &Tensor, _: &[bool]| Ok(vec![Some(to_channels_first(grad)?)])))
}

/// Images `[n, h, w, c]` as `[n, c, h, w]` without gaps.
///
/// # Errors
/// If the tensor does not have four dimensions.
pub fn to_channels_first(x: &Tensor) -> Result<Tensor, Error> {
    let &[n, h, w, c] = &**x.shape() else {
        return refuse!("to_channels_first", "wants [n, h, w, c], got shape {:?}", x.shape());
    };
    let layout = x.layout().transpose(2, 3)?.transpose(1, 2)?;
    let to = Layout::contiguous(&[n, c, h, w])?;
    #[cfg(feature = "cuda")]
    if let Device::Cuda(_) = x.device() {
        let y = x.detach().transpose(2, 3)?.transpose(1, 2)?.copied(to)?;
        return Ok(record("to_channels_first", y, &[x], || {
            |grad: &Tensor, _: &[bool]| Ok(vec![Some(to_channels_last(grad)?)])
        }));
    }
    x.expect_dtype("to_channels_first", DType::F32)?;
    let mut y = Tensor::unspecified(x.device(), to, DType::F32)?;
    copy_strided(x.data::<f32>(), &layout, y.write::<f32>(), &to);
    Ok(record("to_channels_first", y, &[x], || |grad: &Tensor, _: &[bool]| Ok(vec![Some(to_channels_last(grad)?)])))
}
