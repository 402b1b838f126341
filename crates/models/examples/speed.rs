//! scratch
use std::time::{Duration, Instant};
use supple_models::convnet::*;
use supple_tensor::Cpu;
use supple_tensor::kernels::{Isa, testing::noise};

fn mobilenet(sparsity: f32, block: usize) -> ConvNet {
    let mut nodes = vec![Node {
        name: "input".into(),
        op: Op::Input(Shape { channels: 3, height: 224, width: 224 }),
        inputs: vec![],
        activation: Activation::None,
    }];
    let mut seed = 1;
    let mut conv = |nodes: &mut Vec<Node>, ic: usize, oc: usize, k: usize, s: usize, sparse: bool| {
        seed += 2;
        let mut w = noise(oc * ic * k * k, seed);
        let scale = (2.0 / (ic * k * k) as f32).sqrt() * 1.7;
        let keep = noise(oc * ic, seed + 77);
        for (i, w) in w.iter_mut().enumerate() {
            *w *= scale;
            if sparse && sparsity > 0.0 && (keep[i / ic / block * ic + i % ic] + 1.0) / 2.0 < sparsity {
                *w = 0.0;
            }
        }
        let pattern = if sparse && sparsity > 0.0 { Pattern::Block(block) } else { Pattern::Dense };
        let id = nodes.len();
        nodes.push(Node {
            name: format!("conv{id}"),
            op: Op::Conv(Conv {
                out_channels: oc,
                in_channels: ic,
                window: Window2d::square(k, s, Padding::Same),
                weights: w,
                bias: noise(oc, seed),
                pattern,
            }),
            inputs: vec![id - 1],
            activation: Activation::Relu6,
        });
    };
    conv(&mut nodes, 3, 32, 3, 2, false);
    let mut c = 32;
    for (oc, s) in [
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        (512, 1),
        (512, 1),
        (512, 1),
        (512, 1),
        (512, 1),
        (1024, 2),
        (1024, 1),
    ] {
        let id = nodes.len();
        nodes.push(Node {
            name: format!("dw{id}"),
            op: Op::Depthwise(Depthwise {
                channels: c,
                multiplier: 1,
                window: Window2d::square(3, s, Padding::Same),
                weights: noise(c * 9, 5),
                bias: noise(c, 9),
            }),
            inputs: vec![id - 1],
            activation: Activation::Relu6,
        });
        conv(&mut nodes, c, oc, 1, 1, true);
        c = oc;
    }
    let id = nodes.len();
    nodes.push(Node {
        name: "pool".into(),
        op: Op::GlobalAveragePool,
        inputs: vec![id - 1],
        activation: Activation::None,
    });
    conv(&mut nodes, 1024, 1000, 1, 1, false);
    nodes.last_mut().unwrap().activation = Activation::None;
    ConvNet { name: "mbv1".into(), nodes, preprocessing: Preprocessing::default(), labels: vec![], quantization: None }
}

fn main() {
    let isa = Isa::from_env().unwrap();
    let threads: usize = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(1);
    let cpu = Cpu::new(isa, threads);
    let block: usize = std::env::args().nth(2).and_then(|s| s.parse().ok()).unwrap_or(8);
    let peak = supple_tensor::kernels::peak::fma_gflops(isa, &cpu.pool);
    println!("{isa} threads {threads} peak {peak:.0}");
    let sparsities = [0.0, 0.3, 0.5, 0.7];
    let mut plans: Vec<Plan> = sparsities.iter().map(|&s| Plan::new(&cpu, &mobilenet(s, block)).unwrap()).collect();
    let input = noise(3 * 224 * 224, 3);
    let mut times = vec![vec![]; plans.len()];
    for _ in 0..40 {
        for (plan, times) in plans.iter_mut().zip(&mut times) {
            plan.run(&input).unwrap();
            for _ in 0..2 {
                let t = Instant::now();
                plan.run(&input).unwrap();
                times.push(t.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let mut dense = (0.0, 0.0);
    for (times, s) in times.iter_mut().zip(sparsities) {
        times.sort_by(f64::total_cmp);
        let (min, med) = (times[0], times[times.len() / 2]);
        if s == 0.0 {
            dense = (min, med);
        }
        println!("{s}: min {min:.2} med {med:.2} ms   {:.2}x {:.2}x", dense.0 / min, dense.1 / med);
    }
    let layers = plans[0].layers().to_vec();
    let mut best = vec![Duration::MAX; layers.len()];
    for _ in 0..40 {
        let mut t = vec![Duration::ZERO; layers.len()];
        plans[0].run_timed(&input, &mut t).unwrap();
        for (b, t) in best.iter_mut().zip(t) {
            *b = (*b).min(t);
        }
    }
    for (l, t) in layers.iter().zip(best) {
        let ms = t.as_secs_f64() * 1e3;
        println!(
            "{:30} {:>14} {ms:.3} ms {:6.1} GF/s {:.0}%",
            l.kind,
            l.output.to_string(),
            2e-6 * l.macs as f64 / ms,
            2e-4 * l.macs as f64 / ms / peak
        );
    }
}
