//! How long a training step of RLFN_S ×2 takes on a GPU, without optimiser: `cargo run --release -p supple-models --features cuda
//! --example rlfn_step_gpu -- 64 64` for a batch of 64 pictures of 64×64. Prints a line of JSON for bf16 and, if a third
//! argument is given, f32: median milliseconds of forward, of forward and backward launched kernel by kernel, and of the same
//! replayed as a graph; then milliseconds of each kind of operator of the step on its own.

#[cfg(feature = "cuda")]
type Error = Box<dyn std::error::Error>;

#[cfg(feature = "cuda")]
fn main() -> Result<(), Error> {
    use supple_models::Network;
    use supple_models::rlfn::Definition;
    use supple_tensor::ops::{self, Activation, ConvShape, ResizeMode, conv2d_backward_input, conv2d_backward_weight};
    use supple_tensor::{DType, Device, Tensor, no_grad};

    let arguments: Vec<usize> = std::env::args().skip(1).map(|a| a.parse()).collect::<Result<_, _>>()?;
    let [batch, side, rest @ ..] = &arguments[..] else { return Err("BATCH SIDE [1 for f32 too]".into()) };
    let (batch, side) = (*batch, *side);
    let device = Device::cuda(0)?;
    let Device::Cuda(gpu) = &device else { return Err("no GPU".into()) };
    let network = Definition::small(2);
    let parameters = network.initialise(&device, 1)?.variables();
    let noise = |shape: &[usize], seed| {
        Tensor::from_slice(&device, &supple_tensor::Random::new(seed).uniform(shape.iter().product(), 1.0), shape)
    };
    let (x, hr) = (noise(&[batch, side, side, 3], 1)?, noise(&[batch, 2 * side, 2 * side, 3], 2)?);
    let median = |work: &mut dyn FnMut() -> Result<(), Error>, rounds: usize| -> Result<f32, Error> {
        let mut times = Vec::new();
        for round in 0..rounds + 3 {
            let (done, time) = gpu.time(&mut *work)?;
            done?;
            if round >= 3 {
                times.push(time);
            }
        }
        times.sort_by(f32::total_cmp);
        Ok(times[times.len() / 2])
    };
    for dtype in [DType::BF16, DType::F32] {
        if dtype == DType::F32 && rest.is_empty() {
            continue;
        }
        // Convolutions take f32 weights and pack them in the type of their input.
        let forward = || -> Result<Tensor, Error> {
            let y = network.forward(&parameters, &x.to_dtype(dtype)?)?.to_dtype(DType::F32)?;
            Ok(ops::mean(&ops::abs(&ops::sub(&y, &hr)?)?)?)
        };
        let step = || Ok::<_, Error>(forward()?.backward()?);
        let inference = median(&mut || no_grad(|| forward().map(drop)), 10)?;
        let eager = median(&mut || step().map(drop), 10)?;
        let mut kept = None;
        let ((), mut graph) = gpu.capture(|| {
            kept = Some(step().map_err(|e| e.to_string()));
            Ok::<_, supple_tensor::GpuError>(())
        })?;
        let gradients = kept.expect("set above")?;
        let replayed = median(&mut || Ok(graph.replay()?), 20)?;
        drop((gradients, graph));
        println!(
            "{{\"network\": \"rlfn_s_x2\", \"dtype\": \"{dtype}\", \"batch\": {batch}, \"side\": {side}, \"forward_ms\": {inference:.3}, \
             \"eager_ms\": {eager:.3}, \"graph_ms\": {replayed:.3}, \"gpu\": \"{}\"}}",
            gpu.name()
        );
        // Each kind of operator on its own, ten calls a graph.
        let image =
            |h: usize, c: usize, seed| Ok::<_, Error>(noise(&[batch, h, h, c], seed)?.padded()?.to_dtype(dtype)?);
        let (wide, narrow, grad) = (image(side, 48, 3)?, image(side, 16, 4)?, image(side, 48, 5)?);
        let weight = |o: usize, i: usize, k: usize| noise(&[o, i, k, k], 6);
        let (w3, w1, reduce, mix) = (weight(48, 48, 3)?, weight(48, 48, 1)?, weight(16, 48, 1)?, weight(48, 16, 1)?);
        let (bias, tail, head) = (noise(&[48], 7)?, weight(12, 48, 3)?, weight(48, 3, 3)?);
        let same = ConvShape::same;
        let (three, point) = (same(48, 48, 3), same(48, 48, 1));
        let half = ConvShape { stride: [2; 2], padding: [0; 2], ..same(16, 16, 3) };
        let coarse = image((side - 3) / 2 + 1, 16, 8)?.variable();
        let pooled = ops::max_pool2d(&coarse, [7; 2], [3; 2], [0; 2])?;
        let pooled_grad = pooled.detach();
        let small = pooled.detach().variable();
        let enlarged = ops::resize(&small, ResizeMode::Bilinear, [side; 2])?;
        let gated = ops::sigmoid_gate(&grad.variable(), &wide.variable())?;
        let output = image(side, 12, 9)?;
        let (leaky, plain) = (Activation::LeakyRelu(0.05), Activation::Identity);
        let backward = conv2d_backward_weight;
        let both = |x: &Tensor, w: &Tensor, shape: ConvShape, g: &Tensor| -> Result<Tensor, supple_tensor::Error> {
            let (w, b) = (w.variable(), noise_of(&device, shape.out_channels)?.variable());
            let y = ops::conv2d(x, &w, Some(&b), shape, plain)?;
            drop(y.backward_with(g)?);
            Ok(y.detach())
        };
        let size = [side; 2];
        let kinds: Vec<(&str, Box<Work<'_>>)> = vec![
            ("conv 3x3 48-48", Box::new(|| ops::conv2d(&wide, &w3, Some(&bias), three, leaky))),
            ("conv 3x3 48-48 of the input", Box::new(|| conv2d_backward_input(&grad, &w3, &three, size))),
            ("conv 3x3 48-48 of the weight", Box::new(|| backward(&grad, &wide, &three))),
            ("conv 3x3 48-48 forward, of weight and bias", Box::new(|| both(&wide, &w3, three, &grad))),
            ("conv 1x1 48-48", Box::new(|| ops::conv2d(&wide, &w1, Some(&bias), point, plain))),
            ("conv 1x1 48-48 of the weight", Box::new(|| backward(&grad, &wide, &point))),
            ("conv 1x1 48-16", Box::new(|| ops::conv2d(&wide, &reduce, None, same(48, 16, 1), plain))),
            (
                "conv 1x1 48-16 of the input",
                Box::new(|| conv2d_backward_input(&narrow, &reduce, &same(48, 16, 1), size)),
            ),
            ("conv 1x1 48-16 of the weight", Box::new(|| backward(&narrow, &wide, &same(48, 16, 1)))),
            (
                "conv 1x1 16-48 sigmoid",
                Box::new(|| ops::conv2d(&narrow, &mix, None, same(16, 48, 1), Activation::Sigmoid)),
            ),
            ("conv 1x1 16-48 of the weight", Box::new(|| backward(&grad, &narrow, &same(16, 48, 1)))),
            ("conv 3x3 by 2 16-16", Box::new(|| ops::conv2d(&narrow, &weight_of(&device, 16)?, None, half, plain))),
            (
                "conv 3x3 by 2 of the input",
                Box::new(|| conv2d_backward_input(&coarse.detach(), &weight_of(&device, 16)?, &half, size)),
            ),
            ("conv 3x3 by 2 of the weight", Box::new(|| backward(&coarse.detach(), &narrow, &half))),
            ("conv 3x3 3-48", Box::new(|| ops::conv2d(&x.to_dtype(dtype)?, &head, None, same(3, 48, 3), plain))),
            ("conv 3x3 3-48 of the weight", Box::new(|| backward(&grad, &x.to_dtype(dtype)?, &same(3, 48, 3)))),
            ("conv 3x3 48-12", Box::new(|| ops::conv2d(&wide, &tail, None, same(48, 12, 3), plain))),
            ("conv 3x3 48-12 of the weight", Box::new(|| backward(&output, &wide, &same(48, 12, 3)))),
            ("activation backward", Box::new(|| ops::activation_backward(&grad, &wide, leaky))),
            ("gate", Box::new(|| ops::sigmoid_gate(&wide, &grad))),
            ("gate backward", Box::new(|| gated.backward_with(&wide).map(|_| wide.clone()))),
            ("add", Box::new(|| ops::add(&wide, &grad))),
            ("max pool", Box::new(|| ops::max_pool2d(&coarse.detach(), [7; 2], [3; 2], [0; 2]))),
            ("max pool backward", Box::new(|| pooled.backward_with(&pooled_grad).map(|_| wide.clone()))),
            ("resize", Box::new(|| ops::resize(&small.detach(), ResizeMode::Bilinear, size))),
            ("resize backward", Box::new(|| enlarged.backward_with(&narrow).map(|_| wide.clone()))),
            ("pixel shuffle", Box::new(|| ops::pixel_shuffle(&output, 2))),
            ("pixel unshuffle", Box::new(|| ops::pixel_unshuffle(&hr, 2))),
            ("l1", Box::new(|| ops::mean(&ops::abs(&ops::sub(&hr, &hr)?)?))),
            ("cast to f32", Box::new(|| wide.to_dtype(DType::F32))),
        ];
        for (name, work) in &kinds {
            work()?;
            let ((), mut graph) = gpu.capture(|| {
                for _ in 0..10 {
                    work().map_err(|e| supple_tensor::GpuError::Driver {
                        what: name.to_string(),
                        message: e.to_string(),
                    })?;
                }
                Ok::<_, supple_tensor::GpuError>(())
            })?;
            let time = median(&mut || Ok(graph.replay()?), 10)? / 10.0;
            println!("{{\"operator\": \"{name}\", \"dtype\": \"{dtype}\", \"ms\": {time:.4}}}");
        }
    }
    Ok(())
}

/// An operator on operands of its own.
#[cfg(feature = "cuda")]
type Work<'a> = dyn Fn() -> Result<supple_tensor::Tensor, supple_tensor::Error> + 'a;

/// Values that a device has at once, so that they may be made while work is recorded.
#[cfg(feature = "cuda")]
fn noise_of(device: &supple_tensor::Device, len: usize) -> Result<supple_tensor::Tensor, supple_tensor::Error> {
    supple_tensor::Tensor::filled(device, &[len], 0.1, supple_tensor::DType::F32)
}

/// A 3×3 weight of as many channels in as out.
#[cfg(feature = "cuda")]
fn weight_of(device: &supple_tensor::Device, channels: usize) -> Result<supple_tensor::Tensor, supple_tensor::Error> {
    supple_tensor::Tensor::filled(device, &[channels, channels, 3, 3], 0.1, supple_tensor::DType::F32)
}

#[cfg(not(feature = "cuda"))]
fn main() {
    println!("built without the feature cuda");
}
