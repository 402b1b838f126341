//! Pairs of images that the host sends to a GPU batch after batch, into tensors that stay.

use crate::{ALIGNMENT, DType, Device, Error, Layout, Tensor};
use supple_cuda::{Elements, ElementsMut, Feed, ImageMut, ImageSize};

/// Batches that may be under way at once.
const SLOTS: usize = 3;

/// Two images `[n, h, w, 3]` on a GPU, such as low and high resolution, that [`send`](Self::send) fills. The first goes into a network,
/// so its pixels are padded; the second, which results are compared with, has no gaps.
#[derive(Debug)]
pub struct ImageFeed {
    feed: Feed,
    images: [Tensor; 2],
    /// Type of the samples that the host sends.
    samples: DType,
}

impl ImageFeed {
    /// Images of these shapes and types. Samples come as bytes, which mean `v / 255`, or as `f32`.
    ///
    /// # Errors
    /// If `device` is no GPU or its memory is exhausted.
    pub fn new(
        device: &Device,
        shapes: [[usize; 4]; 2],
        types: [DType; 2],
        samples: DType,
    ) -> Result<ImageFeed, Error> {
        let gpu = device.gpu()?;
        let image = |i: usize| {
            if i > 0 {
                return Tensor::zeros(device, &shapes[i], types[i]);
            }
            let zeros = Tensor::zeros(device, &[Layout::padded(&shapes[i])?.extent() + ALIGNMENT], types[i])?;
            let [n, h, w, c] = shapes[i];
            let padded = c.next_multiple_of(ALIGNMENT);
            zeros.narrow(0, 0, n * h * w * padded)?.reshape(&[n, h, w, padded])?.narrow(3, 0, c)
        };
        let bytes = shapes.iter().map(|shape| shape.iter().product::<usize>()).sum::<usize>() * samples.size();
        Ok(ImageFeed { feed: Feed::new(gpu, SLOTS, bytes)?, images: [image(0)?, image(1)?], samples })
    }

    /// The images. Their values are those sent last, once work queued before is done.
    pub fn images(&self) -> &[Tensor; 2] {
        &self.images
    }

    /// Sends samples of both images, without gaps. Waits only if the GPU is several batches behind.
    ///
    /// # Errors
    /// If their number does not fit, or the GPU fails.
    pub fn send(&mut self, samples: [&[u8]; 2]) -> Result<(), Error> {
        let wanted = self.images.each_ref().map(|image| image.elements() * self.samples.size());
        if samples.map(<[u8]>::len) != wanted {
            return crate::error::refuse!("images", "{:?} bytes of samples, not {wanted:?}", samples.map(<[u8]>::len));
        }
        let dtype = crate::cuda::dtype_of(self.samples);
        let images = &self.images;
        let fill = |slot: &mut [u8]| {
            slot[..wanted[0]].copy_from_slice(samples[0]);
            slot[wanted[0]..].copy_from_slice(samples[1]);
        };
        self.feed.send(fill, |memory| {
            let mut at = 0;
            for image in images {
                let &[n, height, width, channels] = &**image.shape() else { unreachable!("made with four dimensions") };
                let stride = image.layout().strides()[2];
                let to =
                    ElementsMut::new(image.memory()?, image.layout().offset(), crate::cuda::dtype_of(image.dtype()));
                let size = ImageSize { n, height, width, channels, stride };
                let gpu = image.device().gpu()?;
                supple_cuda::examples::unpack(gpu, Elements::new(memory, at, dtype), ImageMut { elements: to, size })?;
                at += image.elements();
            }
            Ok(())
        })
    }
}
