//! How long RLFN takes on a GPU, without the host's part: `cargo run --release -p supple-models --features cuda --example rlfn_gpu --
//! models/rlfn_s_x4.safetensors 320 180`. Prints one JSON line: median milliseconds of a replayed graph, and of the network
//! launched kernel by kernel; with a further argument also writes the output's first values there, for comparison.

#[cfg(feature = "cuda")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use supple_models::Precision;
    use supple_models::rlfn::{Rlfn, RlfnOnDevice};
    use supple_tensor::{Cpu, DType, Device, Isa, Recorded, Tensor};
    use supple_weights::Weights;

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, width, height, rest @ ..] = &arguments[..] else { return Err("FILE WIDTH HEIGHT [OUT]".into()) };
    let (width, height): (usize, usize) = (width.parse()?, height.parse()?);
    let device = Device::cuda(0)?;
    let Device::Cuda(gpu) = &device else { return Err("no GPU".into()) };
    let weights = Weights::open(std::path::Path::new(file))?;
    let cpu = Cpu::new(Isa::detect(), 1);
    // The same values as the peers' script makes: a hash of the index.
    let values: Vec<f32> = (0..width * height * 3)
        .map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32)
        .collect();
    for dtype in [DType::F16, DType::BF16, DType::F32] {
        let network = RlfnOnDevice::load(Rlfn::load(&cpu, &weights, Precision::F32)?, &device, dtype, &weights, false)?;
        let x = Tensor::from_slice(&device, &values, &[1, height, width, 3])?;
        let mut recorded = Recorded::new(&x, |x| network.forward(x))?;
        let (mut graph, mut eager) = (Vec::new(), Vec::new());
        for round in 0..60 {
            let (done, time) = gpu.time(|| -> Result<(), supple_tensor::Error> {
                for _ in 0..10 {
                    recorded.replay()?;
                }
                Ok(())
            })?;
            done?;
            let (result, single) = gpu.time(|| network.forward(&x))?;
            result?;
            if round >= 10 {
                graph.push(time / 10.0);
                eager.push(single);
            }
        }
        graph.sort_by(f32::total_cmp);
        eager.sort_by(f32::total_cmp);
        println!(
            "{{\"network\": \"{file}\", \"dtype\": \"{dtype}\", \"width\": {width}, \"height\": {height}, \"graph_ms\": {}, \
             \"graph_min_ms\": {}, \"eager_ms\": {}, \"gpu\": \"{}\"}}",
            graph[graph.len() / 2],
            graph[0],
            eager[eager.len() / 2],
            gpu.name()
        );
        if let [out, ..] = rest {
            let result = recorded.run(|to| to.copy_from_slice(&values))?;
            let bytes: Vec<u8> = result.iter().flat_map(|v| v.to_le_bytes()).collect();
            std::fs::write(format!("{out}.{dtype}"), bytes)?;
        }
    }
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn main() {
    println!("built without the feature cuda");
}
