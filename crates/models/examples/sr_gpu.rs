//! How long a super-resolution network takes on a GPU, without the host's part: `cargo run --release -p supple-models --features cuda
//! --example sr_gpu -- models/rlfn_s_x4.safetensors 320 180`. Prints a JSON line a data type: median milliseconds of a replayed
//! graph, and of the network launched kernel by kernel; with a further argument also writes the output's values there, for
//! comparison, and with one more the input's, in place of which a hash of the index is taken otherwise.

#[cfg(feature = "cuda")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use supple_models::{Error, ditn::DitnLayers, rlfn, rlfn::RlfnLayers};
    use supple_tensor::{DType, Device, Recorded, Tensor};
    use supple_weights::Weights;

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, width, height, rest @ ..] = &arguments[..] else { return Err("FILE WIDTH HEIGHT [OUT [IN]]".into()) };
    let (width, height): (usize, usize) = (width.parse()?, height.parse()?);
    let device = Device::cuda(0)?;
    let Device::Cuda(gpu) = &device else { return Err("no GPU".into()) };
    let weights = Weights::open(std::path::Path::new(file))?;
    // The same values as the peers' script makes.
    let values: Vec<f32> = match rest.get(1) {
        Some(input) => {
            std::fs::read(input)?.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        }
        None => (0..width * height * 3)
            .map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32)
            .collect(),
    };
    for dtype in [DType::F16, DType::BF16, DType::F32] {
        let is_rlfn = rlfn::recognises(&weights);
        let rlfn = is_rlfn.then(|| RlfnLayers::load(&device, dtype, &weights)).transpose()?;
        let ditn = (!is_rlfn).then(|| DitnLayers::load(&device, dtype, &weights)).transpose()?;
        let network = |x: &Tensor| -> Result<Tensor, Error> {
            match (&rlfn, &ditn) {
                (Some(layers), _) => layers.forward(x),
                (_, Some(layers)) => layers.forward(x),
                _ => unreachable!("one of both was loaded"),
            }
        };
        let x = Tensor::from_slice(&device, &values, &[1, height, width, 3])?;
        let mut recorded = Recorded::new(&x, network)?;
        let (mut graph, mut eager) = (Vec::new(), Vec::new());
        let slow = dtype == DType::F32;
        for round in 0..if slow { 12 } else { 60 } {
            let (done, time) = gpu.time(|| -> Result<(), supple_tensor::Error> {
                for _ in 0..10 {
                    recorded.replay()?;
                }
                Ok(())
            })?;
            done?;
            let (result, single) = gpu.time(|| network(&x))?;
            result?;
            if round >= if slow { 2 } else { 10 } {
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
