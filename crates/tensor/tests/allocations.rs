//! In steady state operators allocate nothing: buffers come back from the device's pool and shapes live on the stack.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use supple_kernels::testing::noise;
use supple_tensor::ops::{self, Activation, Conv2d, ConvShape, Linear, ResizeMode};
use supple_tensor::{Cpu, Device, Error, Isa, Tensor};

/// The system's allocator, with a count of what it was asked for by any thread.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Every operator once, on one chain of tensors.
struct Network {
    wide: Conv2d,
    depthwise: Conv2d,
    out: Conv2d,
    linear: Linear,
    weight: Tensor,
    bias: Tensor,
}

impl Network {
    fn new(device: &Device) -> Result<Network, Error> {
        let conv = |shape: ConvShape, seed| {
            let count = shape.weight_len().expect("small");
            Conv2d::new(device, shape, &noise(count, seed), Some(&noise(shape.out_channels, seed)))
        };
        Ok(Network {
            wide: conv(ConvShape::same(3, 48, 3), 1)?,
            depthwise: conv(ConvShape { groups: 48, ..ConvShape::same(48, 48, 5) }, 2)?,
            out: conv(ConvShape::same(48, 12, 3), 3)?,
            linear: Linear::new(device, [48, 48], &noise(48 * 48, 4), Some(&noise(48, 5)))?,
            weight: Tensor::from_slice(device, &noise(48, 6), &[48])?,
            bias: Tensor::from_slice(device, &noise(48, 7), &[48])?,
        })
    }

    fn forward(&self, image: &Tensor) -> Result<Tensor, Error> {
        let x = ops::to_channels_last(image)?;
        let x = self.wide.forward(&x, Activation::LeakyRelu(0.05), None)?;
        let x = self.depthwise.forward(&x, Activation::Gelu, Some(&x))?;
        let x = ops::layer_norm(&x, &self.weight, &self.bias, 1e-5)?;
        let x = self.linear.forward(&x, Activation::Tanh)?;
        let small = ops::max_pool2d(&x, [7, 7], [3, 3], [0, 0])?;
        let small = ops::avg_pool2d(&small, [2, 2], [2, 2], [0, 0])?;
        let &[n, h, w, c] = &**x.shape() else { unreachable!("an image") };
        let mut gate = ops::scale(&ops::relu(&small)?, 0.5)?;
        for mode in [ResizeMode::Nearest, ResizeMode::Bicubic, ResizeMode::Area, ResizeMode::Bilinear] {
            gate = ops::resize(&gate, mode, [h, w])?;
        }
        let x = ops::mul(&x, &ops::sigmoid(&gate)?)?;
        let tokens = x.reshape(&[n, h * w, c])?.narrow(1, 0, 64)?;
        let scores = ops::matmul(&tokens, &tokens.transpose(1, 2)?)?;
        let mixed = ops::matmul(&ops::softmax(&ops::l2_normalize(&scores, 1e-12)?)?, &tokens)?;
        let rest = x.reshape(&[n, h * w, c])?.narrow(1, 64, h * w - 64)?;
        let mixed = ops::concat(&[&mixed, &rest], 1)?;
        let x = ops::add(&x, &mixed.reshape(&[n, h, w, c])?)?;
        let x = ops::leaky_relu(&ops::tanh(&ops::gelu(&x)?)?, 0.1)?;
        ops::to_channels_first(&ops::pixel_shuffle(&self.out.forward(&x, Activation::Identity, None)?, 2)?)
    }
}

#[test]
fn operators_do_not_allocate_in_steady_state() {
    for isa in Isa::available() {
        for threads in [1, 3] {
            let device = Device::cpu(Cpu::new(isa, threads)).unwrap();
            let network = Network::new(&device).unwrap();
            let image = Tensor::from_slice(&device, &noise(2 * 3 * 37 * 41, 8), &[2, 3, 37, 41]).unwrap();
            let first = network.forward(&image).unwrap();
            // Each result lives until the next one is there, in the warm-up as in the loop.
            let mut last = network.forward(&image).unwrap();
            let mut pass = || last = network.forward(&image).unwrap();
            pass();
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            (0..5).for_each(|_| pass());
            let allocated = ALLOCATIONS.load(Ordering::Relaxed) - before;
            assert_eq!(allocated, 0, "allocations in five passes, {isa} on {threads} threads");
            assert_eq!(last.as_slice::<f32>().unwrap(), first.as_slice::<f32>().unwrap(), "every pass is the same");
            assert!(last.as_slice::<f32>().unwrap().iter().all(|v| v.is_finite()));
        }
    }
}
