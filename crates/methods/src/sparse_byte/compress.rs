//! The whole method: measure, rearrange, prune, fit, report.

use super::forward::Engine;
use super::importance::row_importance;
use super::moments::{Columns, Moments, Random, choose_pixels};
use super::options::{Allocation, Options, Progress, Reconstruction, Shape as Removed, Stage};
use super::rearrange::{Layer, best_order};
use super::reconstruct::{Job, Setting, column_worth, reconstruct};
use super::report::{LayerReport, Report, pattern_name};
use super::{Error, Score, Spaces, filters, prune};
use supple_models::convnet::{Conv, ConvNet, NodeId, Op, Pattern, Shape};
use supple_tensor::Cpu;

/// Makes `network` sparse. `calibration` are planar inputs as the network takes them, of pictures like those that it is
/// for; some hundreds are enough, and none are needed if `options` neither score by activations nor reconstruct.
/// `progress` hears what is going on, and stops it by returning `false`.
///
/// # Errors
/// If an option makes no sense, the network or an input does not fit, or `progress` says stop.
pub fn compress(
    cpu: &Cpu,
    engine: &dyn Engine,
    network: &ConvNet,
    options: &Options,
    calibration: &[Vec<f32>],
    progress: &mut dyn FnMut(Progress<'_>) -> bool,
) -> Result<(ConvNet, Report), Error> {
    options.check()?;
    let shapes = network.shapes()?;
    check_calibration(shapes[0], options, calibration)?;
    let prunable = prunable(network, &shapes, options.classifier);
    if prunable.is_empty() {
        return Err(Error::NothingToPrune { network: network.name.clone() });
    }

    let mut layers = measure(cpu, engine, network, &shapes, &prunable, options, calibration, progress)?;
    let spaces = Spaces::of(network)?;
    let blocks = matches!(options.shape, Removed::Block(_));
    let identity = spaces.identity();
    let selection = match &options.rearrangement {
        _ if !blocks => filters::choose(network, &spaces, &layers, options.sparsity),
        Some(rearrangement) => best_order(cpu, network, &spaces, &layers, rearrangement, progress)?,
        None => identity.clone(),
    };
    let rows = |layer: &Layer| spaces.channels(layer.id, &selection);
    if blocks && options.allocation != Allocation::Uniform {
        allocate(&mut layers, &shapes, &rows, options.allocation, options.sparsity);
    }
    let kept_by = |selection: &[Vec<usize>]| -> Vec<f64> {
        let share = |layer: &Layer| {
            let rows = spaces.channels(layer.id, selection);
            if blocks { layer.kept(&rows) } else { layer.kept_rows(&rows) }
        };
        layers.iter().map(share).collect()
    };
    // Filters go wherever they stand: there is no order that would keep more.
    let (kept_before, kept) = (kept_by(if blocks { &identity } else { &selection }), kept_by(&selection));

    // Rearranged, the network still computes the same, and is what the pruned one is compared with.
    let mut pruned = spaces.select(network, &selection);
    let dense = if blocks { pruned.clone() } else { network.clone() };
    let job = |id: NodeId, pattern: Pattern, sparsity: f64| {
        let channels = spaces.channels(id, &selection);
        let layer = layers.iter().find(|layer| layer.id == id);
        let importance = layer.and_then(|layer| layer.importance.as_ref());
        let importance = importance.map(|all| channels.iter().map(|&channel| all[channel]).collect());
        Job { id, rows: if blocks { (0..channels.len()).collect() } else { channels }, pattern, sparsity, importance }
    };
    let jobs: Vec<Job> = layers.iter().map(|layer| job(layer.id, layer.pattern, layer.sparsity)).collect();
    let fitted = match options.reconstruction {
        Some(fit) => {
            let setting = Setting { cpu, engine, calibration, score: options.score, fit };
            let mut all = jobs.clone();
            all.extend(others(network, &layers, &fit).map(|id| job(id, Pattern::Dense, 0.0)));
            all.sort_by_key(|job| job.id);
            let fitted = reconstruct(&setting, &dense, &mut pruned, &all, progress)?;
            let of = |job: &Job| all.iter().position(|other| other.id == job.id).and_then(|i| fitted[i]);
            jobs.iter().map(of).collect()
        }
        None => {
            for (job, layer) in jobs.iter().zip(&layers) {
                if let Op::Conv(conv) = &mut pruned.nodes[job.id].op {
                    prune_scored(conv, job, &layer.ordered(&rows(layer)), &spaces, network, &selection);
                }
            }
            vec![None; jobs.len()]
        }
    };
    pruned.shapes()?;

    let report = |(i, layer): (usize, &Layer)| {
        let (dense, now) = (conv_of(network, layer.id), conv_of(&pruned, layer.id));
        let [height, width] = dense.window.kernel;
        LayerReport {
            name: network.nodes[layer.id].name.clone(),
            shape: [dense.out_channels, dense.in_channels, height, width],
            pattern: pattern_name(now.pattern),
            sparsity: 1.0 - left(now) as f64 / dense.weights.len().max(1) as f64,
            kept_before_rearrangement: kept_before[i],
            kept: kept[i],
            error_before: fitted[i].map(|fitted| fitted.before),
            error_after: fitted[i].map(|fitted| fitted.after),
        }
    };
    let reports: Vec<LayerReport> = layers.iter().enumerate().map(report).collect();
    // Zeros that the network came with count as weights that it had.
    let share = |left: usize, all: usize| 1.0 - left as f64 / all.max(1) as f64;
    let weights = layers.iter().map(|layer| left(conv_of(&pruned, layer.id))).sum();
    let report = Report {
        network: network.name.clone(),
        pattern: match options.shape {
            Removed::Filters => "filters".into(),
            Removed::Block(block) => pattern_name(Pattern::Block(block)),
        },
        sparsity: share(weights, layers.iter().map(|layer| layer.scores.len()).sum()),
        saved_multiplications: share(
            multiplications(&pruned, &shapes, &left),
            multiplications(network, &shapes, &|conv| conv.weights.len()),
        ),
        rearranged: blocks && options.rearrangement.is_some(),
        calibration: calibration.len(),
        layers: reports,
    };
    Ok((pruned, report))
}

fn conv_of(network: &ConvNet, id: NodeId) -> &Conv {
    match &network.nodes[id].op {
        Op::Conv(conv) => conv,
        _ => unreachable!("only convolutions are pruned"),
    }
}

/// Layers that are not pruned but fitted to what those before them have become.
fn others<'a>(network: &'a ConvNet, layers: &'a [Layer], fit: &'a Reconstruction) -> impl Iterator<Item = NodeId> + 'a {
    let first = layers.iter().map(|layer| layer.id).min().unwrap_or(0);
    (first + 1..network.nodes.len()).filter(move |&id| match &network.nodes[id].op {
        Op::Depthwise(_) => fit.depthwise,
        Op::Conv(_) => fit.dense && layers.iter().all(|layer| layer.id != id),
        _ => false,
    })
}

/// Weights that are not zero.
fn left(conv: &Conv) -> usize {
    conv.weights.iter().filter(|&&w| w != 0.0).count()
}

/// Multiplications for one input, if `weights` of a convolution take part.
fn multiplications(network: &ConvNet, shapes: &[Shape], weights: &dyn Fn(&Conv) -> usize) -> usize {
    let of = |(node, shape): (&supple_models::convnet::Node, &Shape)| match &node.op {
        Op::Conv(conv) => weights(conv) * shape.pixels(),
        Op::Depthwise(depthwise) => depthwise.weights.len() * shape.pixels(),
        _ => 0,
    };
    network.nodes.iter().zip(shapes).map(of).sum()
}

fn check_calibration(input: Shape, options: &Options, calibration: &[Vec<f32>]) -> Result<(), Error> {
    if let (Some(needed_by), true) = (options.needs_calibration(), calibration.is_empty()) {
        return Err(Error::NoCalibration { needed_by });
    }
    for (index, values) in calibration.iter().enumerate() {
        let bad = |problem| Err(Error::BadCalibration { index, problem });
        if values.len() != input.len() {
            return bad(format!("has {} values, the network takes {input}", values.len()));
        }
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return bad(format!("has a value that is {value}"));
        }
    }
    Ok(())
}

/// The convolutions that are pruned: all over all channels but the first and, unless asked for, the classifier, which is
/// the last one if it has one pixel.
fn prunable(network: &ConvNet, shapes: &[Shape], classifier: bool) -> Vec<NodeId> {
    let mut all: Vec<NodeId> = network.convs().map(|(id, _)| id).skip(1).collect();
    if !classifier && all.last().is_some_and(|&id| shapes[id].pixels() == 1) {
        all.pop();
    }
    all
}

/// Scores the weights of all layers, with the activations of the dense network where the score asks for them.
#[expect(clippy::too_many_arguments, reason = "private, and each is one thing")]
fn measure(
    cpu: &Cpu,
    engine: &dyn Engine,
    network: &ConvNet,
    shapes: &[Shape],
    prunable: &[NodeId],
    options: &Options,
    calibration: &[Vec<f32>],
    progress: &mut dyn FnMut(Progress<'_>) -> bool,
) -> Result<Vec<Layer>, Error> {
    let fit = options.reconstruction.unwrap_or_default();
    let measured =
        |id: &&NodeId| options.score != Score::Magnitude && conv_of(network, **id).columns() <= fit.max_columns;
    let ids: Vec<NodeId> = prunable.iter().filter(measured).copied().collect();
    let mut worth: Vec<Option<Vec<f32>>> = vec![None; network.nodes.len()];
    if !ids.is_empty() {
        let mut sources: Vec<NodeId> = ids.iter().map(|&id| network.nodes[id].inputs[0]).collect();
        sources.sort_unstable();
        sources.dedup();
        let mut run = engine.load(network, &sources)?;
        let mut random = Random::new(fit.seed);
        let columns = |id: NodeId| conv_of(network, id).columns();
        let mut sums: Vec<(Columns, Moments)> =
            ids.iter().map(|&id| (Columns::new(columns(id)), Moments::new(columns(id), 0))).collect();
        let total = calibration.len() as u64;
        for (picture, input) in calibration.iter().enumerate() {
            if !progress(Progress { stage: Stage::Measure, name: &network.name, done: picture as u64, total }) {
                return Err(Error::Cancelled);
            }
            let tensors = run.run(input)?;
            for (&id, (x, moments)) in ids.iter().zip(&mut sums) {
                let source = network.nodes[id].inputs[0];
                let Ok(at) = sources.binary_search(&source) else { continue };
                for pixel in choose_pixels(shapes[id].pixels(), fit.pixels, &mut random) {
                    if x.full() {
                        moments.add(cpu, x, None);
                    }
                    x.push(conv_of(network, id), &tensors[at], shapes[source], shapes[id].width, pixel);
                }
            }
        }
        for (&id, (mut x, mut moments)) in ids.iter().zip(sums) {
            moments.add(cpu, &mut x, None);
            worth[id] = column_worth(cpu, &moments.covariance(), options.score, &fit);
        }
    }
    let mut importance: Vec<Option<Vec<f32>>> = vec![None; network.nodes.len()];
    if let Some(how) = &options.importance {
        let rows = row_importance(cpu, engine, network, prunable, calibration, how, fit.seed, progress)?;
        for (&id, rows) in prunable.iter().zip(rows) {
            importance[id] = Some(rows);
        }
    }
    let layer = |&id: &NodeId| {
        let conv = conv_of(network, id);
        let taps = prune::taps(conv);
        Layer {
            id,
            pattern: options.pattern(taps),
            sparsity: options.sparsity,
            columns: conv.columns(),
            taps,
            scores: prune::scores(&conv.weights, conv.columns(), worth[id].as_deref(), importance[id].as_deref()),
            importance: importance[id].clone(),
        }
    };
    Ok(prunable.iter().map(layer).collect())
}

/// Prunes by scores taken of the original network, without a fit. The scores' rows are in the new order already and
/// their columns are not.
fn prune_scored(
    conv: &mut Conv,
    job: &Job,
    scores: &[f32],
    spaces: &Spaces,
    network: &ConvNet,
    selection: &[Vec<usize>],
) {
    if job.pattern == Pattern::Dense {
        return;
    }
    let taps = prune::taps(conv);
    let columns = conv.columns();
    let inputs = spaces.channels(network.nodes[job.id].inputs[0], selection);
    let row = |row: &[f32]| inputs.iter().flat_map(|&i| row[i * taps..][..taps].to_vec()).collect::<Vec<f32>>();
    let scores: Vec<f32> = scores.chunks_exact(columns).flat_map(row).collect();
    prune::Mask::choose(&scores, columns, taps, job.pattern, job.sparsity).apply(&mut conv.weights);
    conv.pattern = job.pattern;
}

/// Spreads the sparsity over the layers so that `1 − sparsity` of their multiplications remain, as `allocation` says.
fn allocate(
    layers: &mut [Layer],
    shapes: &[Shape],
    rows: &dyn Fn(&Layer) -> Vec<usize>,
    allocation: Allocation,
    sparsity: f64,
) {
    // What each layer keeps at so many sparsities.
    const STEPS: usize = 64;
    let curves: Vec<Vec<f64>> = layers
        .iter_mut()
        .map(|layer| {
            let order = rows(layer);
            let mut at = |step: usize| {
                layer.sparsity = step as f64 / STEPS as f64;
                layer.kept(&order)
            };
            (0..STEPS).map(&mut at).collect()
        })
        .collect();
    let work: Vec<f64> = layers.iter().map(|layer| (layer.scores.len() * shapes[layer.id].pixels()) as f64).collect();
    let total = work.iter().sum::<f64>().max(1.0);
    // Both ways have a number that lowers all sparsities as it rises: the share to keep, or how much of a share a part of all
    // multiplications must be worth to be spared.
    let at = |curve: &[f64], work: f64, level: f64| match allocation {
        Allocation::Uniform => sparsity,
        Allocation::Energy => last_above(curve, level) / STEPS as f64,
        Allocation::Marginal => {
            let price = (1.0 / level.max(1e-9) - 1.0) * work / total / STEPS as f64;
            let losses: Vec<f64> = curve.windows(2).map(|pair| pair[0] - pair[1]).collect();
            // Losses rise along the curve but for rounding, so that the first too large one ends it.
            losses.iter().position(|&loss| loss > price).unwrap_or(losses.len()) as f64 / STEPS as f64
        }
    };
    let (mut low, mut high) = (0.0, 1.0);
    let gone = |level: f64| -> f64 {
        curves.iter().zip(&work).map(|(curve, &work)| at(curve, work, level) * work).sum::<f64>() / total
    };
    for _ in 0..60 {
        let level = (low + high) / 2.0;
        if gone(level) > sparsity { low = level } else { high = level }
    }
    // Where the curves are steps, the two sides of the answer differ: what lies between is shared by all.
    let (more, less) = (gone(low), gone(high));
    let part = if more > less { ((sparsity - less) / (more - less)).clamp(0.0, 1.0) } else { 0.0 };
    for ((layer, curve), &work) in layers.iter_mut().zip(&curves).zip(&work) {
        layer.sparsity = at(curve, work, high) + part * (at(curve, work, low) - at(curve, work, high));
    }
}

/// The last place on a falling curve, in steps and between two by interpolation, that is not below `level`.
fn last_above(curve: &[f64], level: f64) -> f64 {
    match curve.iter().position(|&kept| kept < level) {
        None => (curve.len() - 1) as f64,
        Some(0) => 0.0,
        Some(step) => {
            let (high, low) = (curve[step - 1], curve[step]);
            step as f64 - 1.0 + (high - level) / (high - low).max(f64::MIN_POSITIVE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::forward::Reference;
    use super::super::testing::{Net, mobile, pictures};
    use super::super::{Rearrangement, Taps};
    use super::*;
    use crate::sparse_byte::Importance;
    use supple_models::convnet::{Activation, reference};
    use supple_tensor::Isa;

    fn run(network: &ConvNet, options: &Options) -> Result<(ConvNet, Report), Error> {
        let calibration = pictures(network, 24, 1);
        compress(&Cpu::new(Isa::detect(), 2), &Reference, network, options, &calibration, &mut |_| true)
    }

    fn error(a: &ConvNet, b: &ConvNet) -> f64 {
        let mut sum = 0.0;
        for picture in pictures(a, 16, 99) {
            let (x, y) = (reference::run(a, &picture).expect("runs"), reference::run(b, &picture).expect("runs"));
            sum += x.iter().zip(&y).map(|(x, y)| (x - y).powi(2)).sum::<f64>();
        }
        sum
    }

    #[test]
    fn every_shape_reaches_its_sparsity_and_says_so() {
        let network = mobile();
        for shape in [1, 2, 4, 8, 16, 32].map(Removed::Block).into_iter().chain([Removed::Filters]) {
            let options = Options { shape, sparsity: 0.4, allocation: Allocation::Uniform, ..Default::default() };
            let (pruned, report) = run(&network, &options).expect("runs");
            assert!((report.sparsity - 0.4).abs() < 0.05, "{shape:?}: {}", report.sparsity);
            assert_eq!(report.layers.len(), 3);
            assert!(report.saved_multiplications > 0.1 && report.saved_multiplications < report.sparsity);
            for layer in &report.layers {
                assert!(layer.kept >= layer.kept_before_rearrangement, "{layer:?}");
                assert!(layer.error_after <= layer.error_before, "{layer:?}");
            }
            let dense: Vec<&Conv> = network.convs().map(|(_, conv)| conv).collect();
            let now: Vec<&Conv> = pruned.convs().map(|(_, conv)| conv).collect();
            assert_eq!(now[0].sparsity(), 0.0);
            assert_eq!(now[4].sparsity(), 0.0);
            let smaller = now[2].out_channels < dense[2].out_channels;
            assert_eq!(smaller, shape == Removed::Filters);
            serde_json::to_string(&report).expect("has only numbers");
        }
    }

    #[test]
    fn nothing_happens_at_zero() {
        let network = mobile();
        let (pruned, report) = run(&network, &Options { sparsity: 0.0, ..Default::default() }).expect("runs");
        assert_eq!(report.sparsity, 0.0);
        super::super::testing::assert_same_function(&network, &pruned, 1e-4);
    }

    #[test]
    fn rearrangement_and_reconstruction_pay() {
        let network = mobile();
        let options = Options { sparsity: 0.5, ..Default::default() };
        let both = error(&network, &run(&network, &options).expect("runs").0);
        let unordered = Options { rearrangement: None, ..options.clone() };
        let unordered = error(&network, &run(&network, &unordered).expect("runs").0);
        let unfitted = Options { reconstruction: None, ..options.clone() };
        let unfitted = error(&network, &run(&network, &unfitted).expect("runs").0);
        assert!(both < unordered && both < unfitted, "{both} {unordered} {unfitted}");
    }

    #[test]
    fn what_nothing_reads_is_pruned_first() {
        let mut network = mobile();
        let ids: Vec<NodeId> = network.convs().map(|(id, _)| id).collect();
        // The classifier reads the last 16 channels of 32 only.
        if let Op::Conv(conv) = &mut network.nodes[ids[4]].op {
            conv.weights.chunks_exact_mut(32).for_each(|row| row[..16].fill(0.0));
        }
        let options = Options {
            allocation: Allocation::Uniform,
            rearrangement: None,
            importance: Some(Importance { exponent: 1.0, ..Default::default() }),
            ..Default::default()
        };
        let gone = |options: &Options| -> [f64; 2] {
            let (pruned, _) = run(&network, options).expect("runs");
            let weights = &conv_of(&pruned, ids[3]).weights;
            let share = |half: &[f32]| half.iter().filter(|&&w| w == 0.0).count() as f64 / half.len() as f64;
            [share(&weights[..weights.len() / 2]), share(&weights[weights.len() / 2..])]
        };
        let [unread, read] = gone(&options);
        assert!(unread > 0.55 && read < 0.05, "{unread} {read}");
        let [unread, read] = gone(&Options { importance: None, ..options });
        assert!((unread - read).abs() < 0.3, "{unread} {read}");
    }

    #[test]
    fn a_marginal_allocation_removes_that_share_of_multiplications_and_spares_what_matters() {
        let network = mobile();
        let inner = |network: &ConvNet| -> f64 {
            let shapes = network.shapes().expect("consistent");
            let convs = network.convs().skip(1).take(3);
            convs.map(|(id, conv)| (left(conv) * shapes[id].pixels()) as f64).sum()
        };
        let marginal = Options { sparsity: 0.4, ..Default::default() };
        let (pruned, report) = run(&network, &marginal).expect("runs");
        assert!((1.0 - inner(&pruned) / inner(&network) - 0.4).abs() < 0.03);
        let uniform = Options { allocation: Allocation::Uniform, ..marginal };
        let (_, even) = run(&network, &uniform).expect("runs");
        let kept = |report: &Report| report.layers.iter().map(|layer| layer.kept).sum::<f64>();
        assert!(kept(&report) >= kept(&even), "{} {}", kept(&report), kept(&even));
    }

    #[test]
    fn magnitudes_need_no_pictures() {
        let network = mobile();
        let cpu = Cpu::new(Isa::detect(), 1);
        let options = Options {
            score: Score::Magnitude,
            allocation: Allocation::Uniform,
            importance: None,
            reconstruction: None,
            ..Default::default()
        };
        let (pruned, report) = compress(&cpu, &Reference, &network, &options, &[], &mut |_| true).expect("runs");
        assert!((report.sparsity - 0.3).abs() < 0.02);
        assert!(pruned.convs().skip(1).take(3).all(|(_, conv)| conv.pattern == Pattern::Block(4)));
        let scored = Options { score: Score::Obs, ..options.clone() };
        let weighed = Options { importance: Some(Importance::default()), ..options };
        for more in [scored, weighed] {
            let refused = compress(&cpu, &Reference, &network, &more, &[], &mut |_| true);
            assert!(matches!(refused, Err(Error::NoCalibration { .. })));
        }
    }

    #[test]
    fn larger_kernels_residuals_and_concatenations_are_compressed() {
        let mut net = Net::new(3, 10, 10);
        let a = net.conv(0, 12, 3, 2, Activation::Relu);
        let b = net.conv(a, 12, 3, 1, Activation::None);
        let c = net.add(a, b);
        let d = net.conv(c, 11, 1, 1, Activation::Relu6);
        let e = net.concat(&[c, d]);
        let e = net.depthwise(e, 2, 3, 1, Activation::Relu);
        let f = net.conv(e, 9, 3, 2, Activation::Relu);
        net.whole(f, 6);
        let network = net.finish();
        for taps in [Taps::Each, Taps::Together] {
            for allocation in [Allocation::Uniform, Allocation::Energy, Allocation::Marginal] {
                let options = Options { taps, allocation, classifier: true, ..Default::default() };
                let (pruned, report) = run(&network, &options).expect("runs");
                let found =
                    if allocation == Allocation::Uniform { report.sparsity } else { report.saved_multiplications };
                assert!((found - 0.3).abs() < 0.12, "{taps:?} {allocation:?}: {found}");
                let kernels = pruned.convs().filter(|(_, conv)| conv.pattern == Pattern::Kernel(4)).count();
                assert_eq!(kernels, if taps == Taps::Together { 3 } else { 0 });
                assert!(error(&network, &pruned) < error(&network, &zeroed(&network)) * 0.5);
            }
        }
        let (smaller, _) = run(&network, &Options { shape: Removed::Filters, ..Default::default() }).expect("runs");
        assert!(smaller.parameters() < network.parameters());
    }

    /// The network without its inner convolutions' weights.
    fn zeroed(network: &ConvNet) -> ConvNet {
        let mut other = network.clone();
        let inner: Vec<NodeId> = network.convs().map(|(id, _)| id).skip(1).collect();
        for id in inner {
            if let Op::Conv(conv) = &mut other.nodes[id].op {
                conv.weights.fill(0.0);
            }
        }
        other
    }

    #[test]
    fn bad_requests_are_refused() {
        let network = mobile();
        let refuse = |options: Options| run(&network, &options).expect_err("makes no sense").to_string();
        for sparsity in [-0.1, 1.0, f64::NAN] {
            assert!(refuse(Options { sparsity, ..Default::default() }).contains("sparsity"));
        }
        assert!(refuse(Options { shape: Removed::Block(0), ..Default::default() }).contains("block"));
        for importance in [Importance { pictures: 0, exponent: 1.0 }, Importance { pictures: 1, exponent: f64::NAN }] {
            assert!(refuse(Options { importance: Some(importance), ..Default::default() }).contains("importance"));
        }
        let cpu = Cpu::new(Isa::detect(), 1);
        let mut inputs = pictures(&network, 2, 1);
        inputs[1][5] = f32::NAN;
        let go = |inputs: &[Vec<f32>], stop: bool| {
            compress(&cpu, &Reference, &network, &Options::default(), inputs, &mut |_| !stop)
        };
        assert!(matches!(go(&inputs, false), Err(Error::BadCalibration { index: 1, .. })));
        assert!(matches!(go(&[vec![0.0; 5]], false), Err(Error::BadCalibration { index: 0, .. })));
        assert!(matches!(go(&inputs[..1], true), Err(Error::Cancelled)));
        let mut small = Net::new(1, 2, 2);
        small.conv(0, 2, 1, 1, Activation::None);
        let small = small.finish();
        assert!(matches!(run(&small, &Options::default()), Err(Error::NothingToPrune { .. })));
    }

    #[test]
    fn rearrangement_can_be_stopped() {
        let network = mobile();
        let options = Options {
            score: Score::Magnitude,
            importance: None,
            reconstruction: None,
            rearrangement: Some(Rearrangement::default()),
            ..Default::default()
        };
        let cpu = Cpu::new(Isa::detect(), 1);
        let stopped = compress(&cpu, &Reference, &network, &options, &[], &mut |_| false);
        assert!(matches!(stopped, Err(Error::Cancelled)));
    }
}
