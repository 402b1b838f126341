//! Times passes of a network: `time_rlfn FILE WIDTH HEIGHT THREADS ROUNDS`.
use std::time::Instant;
use supple_models::{Precision, Window, load};
use supple_tensor::{Cpu, Isa};
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let n = |i: usize| a[i].parse::<usize>().unwrap();
    let (w, h, threads, rounds) = (n(2), n(3), n(4), n(5));
    let cpu = Cpu::new(Isa::from_env().unwrap(), threads);
    let weights = supple_weights::Weights::open(a[1].as_ref()).unwrap();
    let net = load(&cpu, &weights, if a.len() > 6 { Precision::Fast } else { Precision::F32 }).unwrap();
    let mut times = Vec::new();
    for _ in 0..rounds {
        let t = Instant::now();
        let mut sum = 0.0;
        net.run(&cpu, &Window::whole(w, h), &mut |y, row| {
            for (x, v) in row.iter_mut().enumerate() { *v = ((x * 7 + y * 13) % 255) as f32 / 255.0; }
        }, &mut |_, row| { sum += row[0]; true }).unwrap();
        times.push(t.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let g = 2.0 * net.macs(w, h) as f64 / 1e9;
    println!("{} {w}x{h} {threads} threads {}: min {:.1} ms, median {:.1} ms, {:.0} GFLOP/s direct at min, {:.0} MiB", net.name(), cpu.isa, times[0], times[rounds / 2], g / times[0] * 1e3, net.working_memory(&cpu, &Window::whole(w, h)) as f64 / 1048576.0);
}
