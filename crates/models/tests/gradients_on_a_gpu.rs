//! Gradients of whole networks on a GPU against those of the CPU. They run with `SUPPLE_TEST_DEVICE=cuda` and `--features cuda`.
#![cfg(feature = "cuda")]

use supple_models::{Network, Parameters, ditn, rlfn};
use supple_tensor::{Cpu, DType, Device, Isa, Random, Tensor, ops};

fn wants_gpu() -> bool {
    std::env::var("SUPPLE_TEST_DEVICE").is_ok_and(|device| device == "cuda")
}

/// The loss and the gradients of all parameters, by name; the network computes in `dtype`.
fn gradients(
    network: &dyn Network,
    start: &Parameters,
    device: &Device,
    dtype: DType,
) -> (f32, Vec<(String, Vec<f32>)>) {
    let mut parameters = Parameters::default();
    for (name, tensor) in start.iter() {
        parameters.insert(name, tensor.to_device(device).unwrap().variable());
    }
    let noise = |seed, shape: &[usize]| {
        let values = Random::new(seed).uniform(shape.iter().product(), 1.0);
        Tensor::from_slice(device, &values, shape).unwrap()
    };
    let x = noise(1, &[2, 32, 24, 3]).to_dtype(dtype).unwrap();
    let y = network.forward(&parameters, &x).unwrap().to_dtype(DType::F32).unwrap();
    let difference = ops::sub(&y, &noise(2, &[2, 64, 48, 3])).unwrap();
    let loss = ops::mean(&ops::mul(&difference, &difference).unwrap()).unwrap();
    let gradients = loss.backward().unwrap();
    let of = |(name, parameter): (&str, &Tensor)| {
        let gradient = gradients.of(parameter).unwrap_or_else(|| panic!("{name} has no gradient"));
        assert_eq!((gradient.dtype(), gradient.shape()), (DType::F32, parameter.shape()), "{name}");
        (name.to_owned(), gradient.to_vec::<f32>().unwrap())
    };
    let of_all = parameters.iter().map(of).collect();
    (loss.to_vec::<f32>().unwrap()[0], of_all)
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

/// All gradients together, as one vector, must be those of the CPU up to this share of their length.
fn check(network: &dyn Network) {
    if !wants_gpu() {
        return;
    }
    let cpu = Device::cpu(Cpu::new(Isa::detect(), 2)).unwrap();
    let gpu = Device::cuda(0).unwrap();
    let start = network.initialise(&cpu, 1).unwrap();
    let (wanted_loss, wanted) = gradients(network, &start, &cpu, DType::F32);
    for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F16, 4e-3), (DType::BF16, 2e-2)] {
        let (loss, found) = gradients(network, &start, &gpu, dtype);
        let size = norm(wanted.iter().flat_map(|(_, values)| values.iter().copied()));
        let pairs = found.iter().zip(&wanted).flat_map(|(a, b)| a.1.iter().zip(&b.1));
        let error = norm(pairs.map(|(a, b)| a - b)) / size;
        println!("{} in {dtype}: gradients are {error:.1e} off, the loss {:.1e}", network.name(), loss - wanted_loss);
        // Written so that NaN fails.
        assert!(error < tolerance, "{} in {dtype}: gradients are {error:.1e} off", network.name());
        assert!(((loss - wanted_loss) / wanted_loss).abs() < tolerance as f32, "{dtype}: {loss} {wanted_loss}");
    }
}

#[test]
fn those_of_rlfn() {
    check(&rlfn::Definition { blocks: 2, ..rlfn::Definition::small(2) });
    check(&rlfn::Definition { blocks: 1, ..rlfn::Definition::base(2) });
}

#[test]
fn those_of_ditn() {
    check(&ditn::Definition { inner: 1, spatial: 1, ..ditn::Definition::tiny(2) });
    check(&ditn::Definition { inner: 1, spatial: 1, ..ditn::Definition::real(2) });
}
