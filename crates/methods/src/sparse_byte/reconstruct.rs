//! Layer-wise reconstruction: the weights that are left are fitted so that each layer computes, on calibration pictures,
//! what it computed in the dense network.
//!
//! Layers are taken in order. A layer's inputs are those that it gets in the network pruned so far, its targets what the
//! dense network has there before the activation, so that each layer also mends what those before it lost. Nothing is
//! differentiated: a layer's weights and bias are a least-squares problem that depends on the pictures through second
//! moments only. Masks grow in steps with a fit after each, and scores are taken of the fitted weights, so that
//! of two inputs that say the same one takes over before the other is judged again.

use super::depthwise::{DepthwiseMoments, MAX_TAPS};
use super::forward::Engine;
use super::linear::{LeastSquares, inverse_diagonal};
use super::moments::{Columns, Covariance, Moments, Random, choose_pixels};
use super::options::{Progress, Reconstruction, Score, Stage};
use super::prune::{Mask, scores, taps};
use super::walk::Walk;
use super::{Error, schedule};
use supple_models::convnet::{Conv, ConvNet, NodeId, Op, Pattern};
use supple_tensor::Cpu;

/// Layers with more columns than this are scored by variances alone: inverting a covariance takes the cube of it.
const MAX_INVERTED: usize = 2304;

/// A layer to prune and fit.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its node, the same in both networks.
    pub id: NodeId,
    /// Rows of the dense layer that its outputs are to equal.
    pub rows: Vec<usize>,
    /// Which weights are zero together; [`Pattern::Dense`] prunes nothing and only fits.
    pub pattern: Pattern,
    /// Share of weights to remove.
    pub sparsity: f64,
    /// What the scores of each row are multiplied by.
    pub importance: Option<Vec<f32>>,
}

/// How well a layer does on the calibration pictures, as a share of its outputs' variance.
#[derive(Clone, Copy, Debug)]
pub struct Fitted {
    /// Squared error with the original weights where they are kept.
    pub before: f64,
    /// Squared error with fitted weights.
    pub after: f64,
}

/// The inputs of the method that stay the same from layer to layer.
pub struct Setting<'a> {
    /// What computes here.
    pub cpu: &'a Cpu,
    /// What runs networks.
    pub engine: &'a dyn Engine,
    /// Calibration inputs.
    pub calibration: &'a [Vec<f32>],
    /// What a weight is worth.
    pub score: Score,
    /// How to fit.
    pub fit: Reconstruction,
}

/// What a column's weights are worth when squared, as [`Score`] says; `None` for magnitudes.
pub fn column_worth(cpu: &Cpu, covariance: &Covariance, score: Score, fit: &Reconstruction) -> Option<Vec<f32>> {
    let n = covariance.columns;
    let spreads = covariance.spreads(fit.floor);
    let inverse = match score {
        Score::Magnitude => return None,
        Score::Obs if n <= MAX_INVERTED => {
            let scale: Vec<f64> = spreads.iter().map(|v| 1.0 / v.sqrt()).collect();
            let mut scaled = covariance.gram.clone();
            for (i, row) in scaled.chunks_exact_mut(n).enumerate() {
                row.iter_mut().zip(&scale).for_each(|(value, s)| *value *= scale[i] * s);
            }
            inverse_diagonal(cpu, &scaled, n, fit.ridge)
        }
        Score::Obs | Score::Activation => None,
    };
    Some(match inverse {
        Some(inverse) => spreads.iter().zip(&inverse).map(|(v, d)| (v / d) as f32).collect(),
        None => spreads.iter().map(|&v| v as f32).collect(),
    })
}

/// Prunes and fits the layers of `jobs`, in order, in `network`.
///
/// # Errors
/// If the networks cannot be run, or `progress` says stop.
pub fn reconstruct(
    setting: &Setting<'_>,
    dense: &ConvNet,
    network: &mut ConvNet,
    jobs: &[Job],
    progress: &mut dyn FnMut(Progress<'_>) -> bool,
) -> Result<Vec<Option<Fitted>>, Error> {
    let (dense_shapes, shapes) = (dense.shapes()?, network.shapes()?);
    let pictures = setting.calibration.len();
    let total = (jobs.len() * pictures) as u64;
    let mut dense_walk = Walk::new(setting.engine, setting.calibration, &setting.fit);
    let mut walk = Walk::new(setting.engine, setting.calibration, &setting.fit);
    let mut random = Random::new(setting.fit.seed);
    let mut results = Vec::with_capacity(jobs.len());
    for (number, job) in jobs.iter().enumerate() {
        let name = network.nodes[job.id].name.clone();
        let source = network.nodes[job.id].inputs[0];
        if let (Op::Depthwise(layer), Op::Depthwise(wanted)) = (&network.nodes[job.id].op, &dense.nodes[job.id].op) {
            let mut layer = layer.clone();
            if layer.weights.len() > MAX_TAPS * layer.channels {
                results.push(None);
                continue;
            }
            dense_walk.aim(dense, &dense_shapes, source)?;
            walk.aim(network, &shapes, source)?;
            let mut moments = DepthwiseMoments::new(&layer);
            for picture in 0..pictures {
                let done = (number * pictures + picture) as u64;
                if !progress(Progress { stage: Stage::Reconstruct, name: &name, done, total }) {
                    return Err(Error::Cancelled);
                }
                let (before, now) = (dense_walk.tensor(picture)?, walk.tensor(picture)?);
                let (before, now) = ((&before[..], dense_shapes[source]), (&now[..], shapes[source]));
                // A kernel has few weights: fewer samples settle them.
                let pixels = setting.fit.pixels.div_ceil(4);
                moments.add(&layer, now, wanted, before, &job.rows, shapes[job.id], pixels, &mut random);
            }
            let (before, after) = moments.fit(&mut layer, setting.fit.ridge, setting.fit.floor);
            results.push(Some(Fitted { before, after }));
            network.nodes[job.id].op = Op::Depthwise(layer);
            continue;
        }
        let (Op::Conv(conv), Op::Conv(wanted)) = (&network.nodes[job.id].op, &dense.nodes[job.id].op) else {
            results.push(None);
            continue;
        };
        let (mut conv, wanted) = (conv.clone(), rows_of(wanted, &job.rows));
        if conv.columns().max(wanted.columns()) > setting.fit.max_columns {
            prune_only(&mut conv, job);
            network.nodes[job.id].op = Op::Conv(conv);
            results.push(None);
            continue;
        }
        dense_walk.aim(dense, &dense_shapes, source)?;
        walk.aim(network, &shapes, source)?;
        let mut moments = Moments::new(conv.columns(), conv.out_channels);
        let (mut x, mut original) = (Columns::new(conv.columns()), Columns::new(wanted.columns()));
        let output = shapes[job.id];
        for picture in 0..pictures {
            let done = (number * pictures + picture) as u64;
            if !progress(Progress { stage: Stage::Reconstruct, name: &name, done, total }) {
                return Err(Error::Cancelled);
            }
            let (before, now) = (dense_walk.tensor(picture)?, walk.tensor(picture)?);
            for pixel in choose_pixels(output.pixels(), setting.fit.pixels, &mut random) {
                if x.full() {
                    let y = original.apply(setting.cpu, &wanted.weights, &wanted.bias);
                    moments.add(setting.cpu, &mut x, Some(&y));
                    original.clear();
                }
                x.push(&conv, &now, shapes[source], output.width, pixel);
                original.push(&wanted, &before, dense_shapes[source], output.width, pixel);
            }
        }
        let y = original.apply(setting.cpu, &wanted.weights, &wanted.bias);
        moments.add(setting.cpu, &mut x, Some(&y));
        results.push(Some(fit_layer(setting, &moments.covariance(), &mut conv, job)));
        network.nodes[job.id].op = Op::Conv(conv);
    }
    Ok(results)
}

/// A convolution with only these outputs.
fn rows_of(conv: &Conv, rows: &[usize]) -> Conv {
    let columns = conv.columns();
    Conv {
        out_channels: rows.len(),
        weights: rows.iter().flat_map(|&row| conv.weights[row * columns..][..columns].iter().copied()).collect(),
        bias: rows.iter().map(|&row| conv.bias[row]).collect(),
        ..conv.clone()
    }
}

/// Prunes by magnitude, without a fit.
pub fn prune_only(conv: &mut Conv, job: &Job) {
    if job.pattern != Pattern::Dense {
        let scores = scores(&conv.weights, conv.columns(), None, None);
        Mask::choose(&scores, conv.columns(), taps(conv), job.pattern, job.sparsity).apply(&mut conv.weights);
        conv.pattern = job.pattern;
    }
}

fn fit_layer(setting: &Setting<'_>, covariance: &Covariance, conv: &mut Conv, job: &Job) -> Fitted {
    let (cpu, fit, columns) = (setting.cpu, &setting.fit, conv.columns());
    let equations = LeastSquares::new(cpu, covariance, fit.ridge, fit.floor);
    let original = conv.weights.clone();
    let mut weights = original.clone();
    let mut keep = vec![true; weights.len()];
    equations.solve(cpu, &original, &keep, &mut weights, fit.iterations);
    if job.pattern != Pattern::Dense {
        let worth = column_worth(cpu, covariance, setting.score, fit);
        for step in 1..=fit.steps {
            let sparsity = job.sparsity * schedule::cubic(step as f64 / fit.steps as f64);
            let scores = scores(&weights, columns, worth.as_deref(), job.importance.as_deref());
            keep = Mask::choose(&scores, columns, taps(conv), job.pattern, sparsity).expand();
            equations.solve(cpu, &original, &keep, &mut weights, fit.iterations);
        }
    }
    let masked: Vec<f32> = original.iter().zip(&keep).map(|(&w, &keep)| if keep { w } else { 0.0 }).collect();
    let total: f64 = covariance.yy.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    let shift = |(best, old): (f64, &f32)| (best - f64::from(*old)).powi(2);
    let shifts: f64 = equations.biases(&masked).into_iter().zip(&conv.bias).map(shift).sum();
    let before = (equations.errors(cpu, &masked).iter().sum::<f64>() + shifts) / total;
    let after = equations.errors(cpu, &weights).iter().sum::<f64>() / total;
    let biases = equations.biases(&weights);
    let finite = weights.iter().all(|w| w.is_finite()) && biases.iter().all(|b| b.is_finite());
    conv.weights = if finite { weights } else { masked };
    if finite {
        conv.bias = biases.into_iter().map(|b| b as f32).collect();
    }
    conv.pattern = job.pattern;
    Fitted { before, after: if finite { after } else { before } }
}

#[cfg(test)]
mod tests {
    use super::super::forward::Reference;
    use super::super::testing::{Net, mobile, pictures};
    use super::*;
    use supple_models::convnet::{Activation, reference};
    use supple_tensor::Isa;

    fn jobs(network: &ConvNet, pattern: Pattern, sparsity: f64) -> Vec<Job> {
        let convs: Vec<(NodeId, usize)> = network.convs().map(|(id, conv)| (id, conv.out_channels)).collect();
        let inner = &convs[1..convs.len() - 1];
        inner
            .iter()
            .map(|&(id, rows)| Job { id, rows: (0..rows).collect(), pattern, sparsity, importance: None })
            .collect()
    }

    fn run(network: &ConvNet, jobs: &[Job], score: Score, fit: Reconstruction) -> (ConvNet, Vec<Option<Fitted>>) {
        let cpu = Cpu::new(Isa::detect(), 2);
        let calibration = pictures(network, 24, 1);
        let setting = Setting { cpu: &cpu, engine: &Reference, calibration: &calibration, score, fit };
        let mut pruned = network.clone();
        let fitted = reconstruct(&setting, network, &mut pruned, jobs, &mut |_| true).expect("runs");
        (pruned, fitted)
    }

    /// Mean squared difference of the last layers' outputs before softmax on new pictures, as a share of their variance.
    fn error(a: &ConvNet, b: &ConvNet) -> f64 {
        let last = a.convs().last().expect("has one").0;
        let (mut far, mut size) = (0.0, 0.0);
        let mut all: Vec<Vec<f64>> = Vec::new();
        for picture in pictures(a, 16, 99) {
            let x = reference::run_all(a, &picture).expect("runs").swap_remove(last);
            let y = reference::run_all(b, &picture).expect("runs").swap_remove(last);
            far += x.iter().zip(&y).map(|(x, y)| (x - y).powi(2)).sum::<f64>();
            all.push(x);
        }
        for k in 0..all[0].len() {
            let mean = all.iter().map(|x| x[k]).sum::<f64>() / all.len() as f64;
            size += all.iter().map(|x| (x[k] - mean).powi(2)).sum::<f64>();
        }
        far / size
    }

    #[test]
    fn a_dense_fit_leaves_the_network_as_it_is() {
        let network = mobile();
        let (fitted, results) = run(&network, &jobs(&network, Pattern::Dense, 0.0), Score::Obs, Default::default());
        assert!(error(&network, &fitted) < 1e-6);
        assert!(results.iter().all(|fitted| fitted.expect("fits").after < 1e-5));
    }

    #[test]
    fn a_fit_beats_the_original_weights_under_the_same_pattern() {
        let network = mobile();
        for pattern in [Pattern::Block(1), Pattern::Block(4), Pattern::Block(8)] {
            let jobs = jobs(&network, pattern, 0.5);
            let (fitted, results) = run(&network, &jobs, Score::Obs, Default::default());
            let mut plain = network.clone();
            for job in &jobs {
                if let Op::Conv(conv) = &mut plain.nodes[job.id].op {
                    prune_only(conv, job);
                    assert!((conv.sparsity() - 0.5).abs() < 0.02);
                }
            }
            for (job, result) in jobs.iter().zip(&results) {
                let Op::Conv(conv) = &fitted.nodes[job.id].op else { panic!("is a convolution") };
                assert_eq!(conv.pattern, pattern);
                assert!((conv.sparsity() - 0.5).abs() < 0.02, "{}", conv.sparsity());
                let result = result.expect("fits");
                assert!(result.after < result.before, "{result:?}");
            }
            let (with, without) = (error(&network, &fitted), error(&network, &plain));
            assert!(with < 0.6 * without, "{pattern:?}: {with} {without}");
        }
    }

    #[test]
    fn what_an_earlier_layer_lost_is_mended() {
        // The second layer is not pruned, but its inputs have changed: with its own weights it is wrong, and a fit to
        // what the dense network computes there makes it less so.
        let network = mobile();
        let mut jobs = jobs(&network, Pattern::Block(4), 0.5);
        jobs[1].pattern = Pattern::Dense;
        let (_, results) = run(&network, &jobs[..2], Score::Obs, Default::default());
        let second = results[1].expect("fits");
        assert!(second.before > 1e-3 && second.after < 0.9 * second.before, "{second:?}");
    }

    #[test]
    fn constant_and_missing_inputs_do_no_harm() {
        let mut net = Net::new(2, 6, 6);
        let a = net.conv(0, 6, 1, 1, Activation::Relu);
        let b = net.conv(a, 9, 3, 1, Activation::Relu);
        let c = net.conv(b, 5, 1, 1, Activation::Relu);
        net.conv(c, 3, 1, 1, Activation::None);
        let mut network = net.finish();
        for id in [a, b] {
            if let Op::Conv(conv) = &mut network.nodes[id].op {
                // A channel that is always zero and one that is always 2.
                let columns = conv.columns();
                conv.weights[..2 * columns].fill(0.0);
                (conv.bias[0], conv.bias[1]) = (-1.0, 2.0);
            }
        }
        for score in [Score::Magnitude, Score::Activation, Score::Obs] {
            for pattern in [Pattern::Block(4), Pattern::Kernel(4)] {
                let (fitted, results) = run(&network, &jobs(&network, pattern, 0.3), score, Default::default());
                fitted.shapes().expect("all weights are finite");
                assert!(results.iter().all(|fitted| fitted.expect("fits").after < 1.0));
            }
        }
    }

    #[test]
    fn layers_that_are_too_wide_are_pruned_all_the_same() {
        let network = mobile();
        let fit = Reconstruction { max_columns: 12, ..Default::default() };
        let (pruned, results) = run(&network, &jobs(&network, Pattern::Block(4), 0.5), Score::Obs, fit);
        assert!(results[0].is_some() && results[1].is_none());
        assert!(pruned.convs().skip(1).take(3).all(|(_, conv)| (conv.sparsity() - 0.5).abs() < 0.02));
    }
}
