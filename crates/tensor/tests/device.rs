//! What a GPU does for training beside operators: `SUPPLE_TEST_DEVICE=cuda` runs these on the first one, and they hold on the CPU
//! what can.

use supple_tensor::{Cpu, Device, Isa, Random, Tensor};

/// The GPU, if tests are to run on it.
fn gpu() -> Option<Device> {
    #[cfg(feature = "cuda")]
    if std::env::var("SUPPLE_TEST_DEVICE").is_ok_and(|device| device == "cuda") {
        return Some(Device::cuda(0).expect("SUPPLE_TEST_DEVICE=cuda asks for a GPU"));
    }
    None
}

fn devices() -> Vec<Device> {
    let cpu = Device::cpu(Cpu::new(Isa::detect(), 1)).expect("the best that the CPU offers");
    std::iter::once(cpu).chain(gpu()).collect()
}

#[test]
fn random_tensors_are_the_streams_numbers_to_the_bit_on_every_device() {
    for device in devices() {
        for shape in [&[5usize][..], &[0], &[3, 7, 11], &[1 << 18]] {
            let len = shape.iter().product();
            let (mut stream, mut twin) = (Random::new(11).part(3), Random::new(11).part(3));
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            let found = Tensor::uniform(&device, shape, 0.7, &mut stream).unwrap();
            assert!(bits(&found.to_vec().unwrap()) == bits(&twin.uniform(len, 0.7)), "uniform {shape:?}");
            let found = Tensor::normal(&device, shape, 1.3, &mut stream).unwrap();
            assert!(bits(&found.to_vec().unwrap()) == bits(&twin.normal(len, 1.3)), "normal {shape:?}");
            assert_eq!(stream, twin, "the stream moved on");
        }
    }
}

#[cfg(feature = "cuda")]
mod on_a_gpu {
    use super::*;
    use supple_tensor::group::Group;
    use supple_tensor::masters::{Masters, Rule, Settings, State, Values};
    use supple_tensor::{DType, Error, Gradients, ImageFeed, Replay, ops};

    const SHAPES: [&[usize]; 4] = [&[5, 3, 3, 3], &[5], &[1, 1, 1], &[700, 31]];

    /// Gradients and a loss that stand for a step's, as if a network had been gone through.
    fn gradients(device: &Device, leaves: &[Tensor], step: usize, loss: f32) -> (Tensor, Gradients) {
        let mut all = Gradients::default();
        for (i, leaf) in leaves.iter().enumerate() {
            let values = Random::new(step as u64).part(i as u64).normal(leaf.elements(), 0.1);
            let gradient = Tensor::from_slice(device, &values, leaf.shape()).unwrap();
            all.replace(leaf, if i % 2 == 1 { gradient.to_dtype(DType::F16).unwrap() } else { gradient });
        }
        (Tensor::from_slice(device, &[loss], &[1]).unwrap(), all)
    }

    fn masters(device: &Device, settings: Settings, dtype: DType, rates: &[f64]) -> (Masters, Vec<Tensor>) {
        let shapes: Vec<Vec<usize>> = SHAPES.iter().map(|shape| shape.to_vec()).collect();
        let state = State { step: 0, taken: 0, scale: if settings.scaling { 1024.0 } else { 1.0 }, good: 0 };
        let mut masters = Masters::new(device, &shapes, dtype, settings, rates, state).unwrap();
        for (i, shape) in shapes.iter().enumerate() {
            let weights = Random::new(99).part(i as u64).normal(shape.iter().product(), 1.0);
            masters.import(i, &Values { weights, ..Values::default() }).unwrap();
        }
        let leaves = (0..shapes.len()).map(|i| masters.leaf(i, false).unwrap().variable()).collect();
        (masters, leaves)
    }

    fn settings(rule: Rule) -> Settings {
        Settings { rule, clip: Some(0.5), average: Some(0.99), scaling: false, share: 1.0 }
    }

    /// The formulas of `optimizer.rs` of supple-train, in `f64`.
    fn reference(settings: &Settings, rates: &[f64]) -> Vec<Values> {
        let mut all: Vec<[Vec<f64>; 4]> = SHAPES
            .iter()
            .enumerate()
            .map(|(i, shape)| {
                let w = Random::new(99).part(i as u64).normal(shape.iter().product(), 1.0);
                let w: Vec<f64> = w.into_iter().map(f64::from).collect();
                [w.clone(), vec![0.0; w.len()], vec![0.0; w.len()], w]
            })
            .collect();
        for (step, &rate) in rates.iter().enumerate() {
            let gradients: Vec<Vec<f64>> = SHAPES
                .iter()
                .enumerate()
                .map(|(i, shape)| {
                    let values = Random::new(step as u64).part(i as u64).normal(shape.iter().product(), 0.1);
                    let short = |v: f32| if i % 2 == 1 { half::f16::from_f32(v).to_f64() } else { f64::from(v) };
                    values.into_iter().map(short).collect()
                })
                .collect();
            let norm = gradients.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
            let factor = settings.clip.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0));
            let t = (step + 1) as i32;
            let follow = settings.average.unwrap_or(0.0).min((1 + step) as f64 / (10 + step) as f64);
            for ([w, m, v, a], gradients) in all.iter_mut().zip(&gradients) {
                for i in 0..w.len() {
                    let mut g = gradients[i] * factor;
                    match settings.rule {
                        Rule::Adam { betas: [b1, b2], epsilon, weight_decay } => {
                            m[i] = b1 * m[i] + (1.0 - b1) * g;
                            v[i] = b2 * v[i] + (1.0 - b2) * g * g;
                            let (mh, vh) = (m[i] / (1.0 - b1.powi(t)), v[i] / (1.0 - b2.powi(t)));
                            w[i] = w[i] * (1.0 - rate * weight_decay) - rate * mh / (vh.sqrt() + epsilon);
                        }
                        Rule::Sgd { momentum, weight_decay } => {
                            g += weight_decay * w[i];
                            m[i] = momentum * m[i] + g;
                            w[i] -= rate * m[i];
                        }
                    }
                    a[i] += (1.0 - follow) * (w[i] - a[i]);
                }
            }
        }
        let narrow = |values: &Vec<f64>| values.iter().map(|&v| v as f32).collect::<Vec<f32>>();
        let adam = matches!(settings.rule, Rule::Adam { .. });
        all.iter()
            .map(|[w, m, v, a]| Values {
                weights: narrow(w),
                first: narrow(m),
                second: if adam { narrow(v) } else { Vec::new() },
                average: narrow(a),
            })
            .collect()
    }

    fn close(found: &[f32], wanted: &[f32], what: &str) {
        assert_eq!(found.len(), wanted.len(), "{what}");
        for (found, wanted) in found.iter().zip(wanted) {
            assert!((found - wanted).abs() <= 3e-6 * wanted.abs().max(0.1), "{what}: {found} not {wanted}");
        }
    }

    #[test]
    fn a_group_of_one_gpu_keeps_what_it_has() {
        let Some(device) = gpu() else { return };
        let Some(id) = Group::id().unwrap() else { return println!("skipped: NCCL is not installed") };
        let group = Group::new(&device, 0, 1, id).unwrap();
        let values = Random::new(5).normal(100_003, 1.0);
        let tensor = Tensor::from_slice(&device, &values, &[values.len()]).unwrap();
        group.sum(&tensor).unwrap();
        assert_eq!(tensor.to_vec::<f32>().unwrap(), values);
        let half = tensor.to_dtype(DType::F16).unwrap();
        assert!(matches!(group.sum(&half), Err(Error::DType { .. })), "sums are of f32 alone");
    }

    #[test]
    fn steps_of_all_parameters_at_once_are_those_of_the_formulas() {
        let Some(device) = gpu() else { return };
        let rates: Vec<f64> = (0..12).map(|i| 0.01 / (1 + i) as f64).collect();
        for rule in [
            Rule::Adam { betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 0.0 },
            Rule::Adam { betas: [0.8, 0.95], epsilon: 1e-3, weight_decay: 0.3 },
            Rule::Sgd { momentum: 0.9, weight_decay: 0.1 },
        ] {
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let settings = settings(rule);
                let (mut masters, leaves) = masters(&device, settings, dtype, &rates);
                for step in 0..rates.len() {
                    let (loss, gradients) = gradients(&device, &leaves, step, step as f32);
                    masters.gather(&loss, &gradients, &leaves).unwrap();
                    masters.step(true).unwrap();
                }
                let records = masters.records(true).unwrap();
                assert_eq!(records.len(), rates.len());
                for (i, record) in records.iter().enumerate() {
                    assert!(record.step == i as u64 + 1 && record.loss == i as f32 && record.taken && !record.diverged);
                    assert!(record.norm.is_finite() && record.norm > 1.0, "{record:?}");
                }
                let found = masters.export().unwrap();
                for (i, (found, wanted)) in found.iter().zip(reference(&settings, &rates)).enumerate() {
                    close(&found.weights, &wanted.weights, "weights");
                    close(&found.first, &wanted.first, "first moments");
                    close(&found.second, &wanted.second, "second moments");
                    close(&found.average, &wanted.average, "average");
                    let low = leaves[i].to_dtype(DType::F32).unwrap().to_vec::<f32>().unwrap();
                    let rounded = |value: f32| match dtype {
                        DType::BF16 => half::bf16::from_f32(value).to_f32(),
                        DType::F16 => half::f16::from_f32(value).to_f32(),
                        _ => value,
                    };
                    assert!(
                        low.iter().zip(&found.weights).all(|(low, w)| *low == rounded(*w)),
                        "what the network reads"
                    );
                }
            }
        }
    }

    #[test]
    fn parts_add_up_and_a_replayed_step_is_the_same_step() {
        let Some(device) = gpu() else { return };
        let rates = [0.01; 6];
        let settings = settings(Rule::Adam { betas: [0.9, 0.99], epsilon: 1e-8, weight_decay: 0.0 });
        let ends: Vec<Vec<Values>> = [false, true]
            .into_iter()
            .map(|replays| {
                let (mut masters, leaves) = masters(&device, settings, DType::BF16, &rates);
                let (loss, gradients) = gradients(&device, &leaves, 7, 0.5);
                let work = |masters: &mut Masters| {
                    masters.gather(&loss, &gradients, &leaves)?;
                    masters.gather(&loss, &gradients, &leaves)?;
                    masters.step(false)
                };
                work(&mut masters).unwrap();
                masters.count();
                let mut replay = replays.then(|| {
                    Replay::new(&device, || work(&mut masters).map(|()| Vec::new())).expect("nothing waits for the GPU")
                });
                for _ in 1..rates.len() {
                    match &mut replay {
                        Some(replay) => replay.replay().unwrap(),
                        None => work(&mut masters).unwrap(),
                    }
                    masters.count();
                }
                let records = masters.records(true).unwrap();
                assert!(records.len() == 6 && records.iter().all(|record| record.loss == 1.0 && record.taken));
                masters.export().unwrap()
            })
            .collect();
        assert_eq!(ends[0], ends[1]);
    }

    #[test]
    fn what_overflows_is_left_out_and_what_is_no_number_ends_it() {
        let Some(device) = gpu() else { return };
        let rule = Rule::Adam { betas: [0.9, 0.99], epsilon: 1e-8, weight_decay: 0.0 };
        let losses = [0.5, 0.25, f32::INFINITY, 0.5, f32::NAN, 0.5];
        // With a scale it halves and goes on, up to what no scale could help; without one the first is the end.
        for (scaling, taken, diverged) in [(true, [1, 1, 0, 1, 0, 0], 5), (false, [1, 1, 0, 0, 0, 0], 3)] {
            let settings = Settings { scaling, ..settings(rule) };
            let (mut masters, leaves) = masters(&device, settings, DType::F16, &[0.01; 6]);
            let mut before = Vec::new();
            for (step, &loss) in losses.iter().enumerate() {
                if step + 1 == diverged {
                    before = masters.export().unwrap();
                }
                let (loss, gradients) = gradients(&device, &leaves, step, loss);
                masters.gather(&loss, &gradients, &leaves).unwrap();
                masters.step(true).unwrap();
            }
            let records = masters.records(true).unwrap();
            assert_eq!(records.iter().map(|record| usize::from(record.taken)).collect::<Vec<_>>(), taken);
            assert_eq!(records.iter().position(|record| record.diverged), Some(diverged - 1));
            assert!(masters.export().unwrap() == before, "weights are those before it");
            let state = masters.state().unwrap();
            assert_eq!((state.step, state.taken as usize), (6, taken.iter().sum()));
            assert_eq!(state.scale, if scaling { 512.0 } else { 1.0 });
            assert_eq!(masters.scale().unwrap().to_vec::<f32>().unwrap(), [state.scale]);
        }
    }

    #[test]
    fn samples_arrive_as_images_batch_after_batch() {
        let Some(device) = gpu() else { return };
        let shapes = [[2, 5, 4, 3], [2, 10, 8, 3]];
        let lens = shapes.map(|shape| shape.iter().product::<usize>());
        let mut feed = ImageFeed::new(&device, shapes, [DType::BF16, DType::F32], DType::U8).unwrap();
        for batch in 0..10u8 {
            let samples =
                lens.map(|len| (0..len).map(|i| (i as u8).wrapping_mul(7).wrapping_add(batch)).collect::<Vec<_>>());
            feed.send([&samples[0], &samples[1]]).unwrap();
            let [low, high] = feed.images();
            let wanted: Vec<f32> = samples[1].iter().map(|&v| f32::from(v) / 255.0).collect();
            assert_eq!(high.to_vec::<f32>().unwrap(), wanted);
            let low = low.to_dtype(DType::F32).unwrap().to_vec::<f32>().unwrap();
            let wanted = samples[0].iter().map(|&v| half::bf16::from_f32(f32::from(v) / 255.0).to_f32());
            assert!(low.into_iter().eq(wanted));
        }
        assert!(feed.send([&[0; 3], &[0; 3]]).is_err());
        let mut feed = ImageFeed::new(&device, shapes, [DType::F32; 2], DType::F32).unwrap();
        let samples = lens.map(|len| Random::new(1).uniform(len, 1.0));
        feed.send([bytemuck::cast_slice(&samples[0]), bytemuck::cast_slice(&samples[1])]).unwrap();
        assert_eq!(feed.images()[1].to_vec::<f32>().unwrap(), samples[1]);
    }

    #[test]
    fn what_waits_for_the_gpu_cannot_be_recorded_and_harms_nothing() {
        let Some(device) = gpu() else { return };
        let x = Tensor::from_slice(&device, &[1.0f32, -2.0], &[2]).unwrap();
        let refused = Replay::new(&device, || -> Result<Vec<Tensor>, Error> {
            let y = ops::relu(&x)?;
            y.to_vec::<f32>()?;
            Ok(vec![y])
        });
        assert!(refused.is_err());
        assert_eq!(ops::relu(&x).unwrap().to_vec::<f32>().unwrap(), [1.0, 0.0], "the GPU works as before");
    }
}
