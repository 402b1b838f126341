//! Top-1 accuracy against sparsity for each pattern, one-shot with reconstruction, as a table and a figure:
//! `cargo run --release -p supple --example sparse_accuracy -- PICTURES OUT MODEL [HEAD] [--only 0.3] [--calibrate 512] [--even] [--threads N] [--at-once N]`.
//!
//! PICTURES is a folder of labelled pictures as `supple eval cnn` takes it (sorted by class, or one folder a class). 512 of
//! them, chosen at random with a fixed seed and without their labels, calibrate; accuracy is given on the others, which
//! nothing has seen, and on all. Sparsity is the share of multiplications that go, spread as [`Allocation::Marginal`] says, or, with
//! `--even` and for filters, the share of each layer's weights. `--only` may be given several times. Writes OUT.csv and OUT.svg; points that OUT.csv
//! has already are not made again. `--at-once` points are made side by side, with `--threads` threads each.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use supple::classifier::{self, ClassRule, Classifier, ClassifierOptions, Example, Input, Precision};
use supple::compress::{self, Allocation, Options, Rearrangement, Shape};
use supple::convnet::ConvNet;

/// A row of curves: name, shape, whether channels are rearranged, colour.
const CURVES: [(&str, Shape, bool, &str); 5] = [
    ("unstructured", Shape::Block(1), false, "#444444"),
    ("1x4 rearranged", Shape::Block(4), true, "#1f77b4"),
    ("1x4", Shape::Block(4), false, "#9ecae1"),
    ("1x8 rearranged", Shape::Block(8), true, "#2ca02c"),
    ("filters", Shape::Filters, false, "#d62728"),
];
const SPARSITIES: [f64; 7] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7];

struct Picture {
    bytes: Vec<u8>,
    output: usize,
    calibrates: bool,
}

/// Share of right answers in percent: on pictures that did not calibrate, and on all.
fn accuracy(network: ConvNet, pictures: &[Picture], threads: Option<usize>) -> Result<[f64; 2], supple::Error> {
    let mut classifier = Classifier::from_network(
        network,
        ClassifierOptions { threads, precision: Precision::F32, ..ClassifierOptions::default() },
    )?;
    let (mut right, mut count) = ([0.0f64; 2], [0.0f64; 2]);
    for picture in pictures {
        let found = classifier.probabilities(&picture.bytes)?;
        let best = (0..found.len()).max_by(|&a, &b| found[a].total_cmp(&found[b]));
        let hit = f64::from(u8::from(best == Some(picture.output)));
        for group in usize::from(picture.calibrates)..2 {
            right[group] += hit;
            count[group] += 1.0;
        }
    }
    Ok([0, 1].map(|group| 100.0 * right[group] / count[group].max(1.0)))
}

/// Which pictures calibrate: `wanted` of `count`, by a shuffle with a fixed seed.
fn choose(count: usize, wanted: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..count).collect();
    let mut state = 12345u64;
    for i in (1..count).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(i, (state >> 33) as usize % (i + 1));
    }
    let mut chosen = vec![false; count];
    order.iter().take(wanted).for_each(|&i| chosen[i] = true);
    chosen
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut places, mut only, mut wanted, mut allocation) = (Vec::new(), Vec::new(), 512, Allocation::Marginal);
    let (mut threads, mut at_once) = (None, 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--only" => only.push(arguments.next().unwrap_or_default().parse::<f64>()?),
            "--threads" => threads = Some(arguments.next().unwrap_or_default().parse()?),
            "--at-once" => at_once = arguments.next().unwrap_or_default().parse::<usize>()?.max(1),
            "--even" => allocation = Allocation::Uniform,
            "--calibrate" => wanted = arguments.next().unwrap_or_default().parse()?,
            _ => places.push(PathBuf::from(argument)),
        }
    }
    let [folder, out, model, head @ ..] = &places[..] else {
        eprintln!(
            "usage: sparse_accuracy PICTURES OUT MODEL [HEAD] [--only SPARSITY] [--calibrate N] [--even] [--threads N] [--at-once N]"
        );
        std::process::exit(2);
    };
    let network = classifier::open_network(model, head.first().map(PathBuf::as_path))?;
    let dense = Classifier::from_network(network.clone(), ClassifierOptions::default())?;
    let examples = classifier::examples(folder, &ClassRule::Auto, &dense)?;
    let input = Input::of(&network)?;
    let chosen = choose(examples.len(), wanted);
    let read = |(example, &calibrates): (&Example, &bool)| -> Result<Picture, supple::Error> {
        let bytes = input.prepare(&supple::picture::open(&example.file)?);
        Ok(Picture { bytes, output: example.class + dense.background(), calibrates })
    };
    let pictures = examples.iter().zip(&chosen).map(read).collect::<Result<Vec<_>, _>>()?;
    let calibration: Vec<Vec<f32>> =
        pictures.iter().filter(|picture| picture.calibrates).map(|picture| input.normalise(&picture.bytes)).collect();

    let base = accuracy(network.clone(), &pictures, threads)?;
    let unseen = pictures.len() - calibration.len();
    println!("{}: {:.2} % of {unseen} unseen, {:.2} % of all {}", network.name, base[0], base[1], pictures.len());
    let table = out.with_extension("csv");
    let mut points = vec![Point {
        curve: "dense".into(),
        wanted: 0.0,
        line: format!("dense,0,0,1,0,{:.2},{:.2}", base[0], base[1]),
    }];
    let known = std::fs::read_to_string(&table).unwrap_or_default();
    points.extend(known.lines().skip(1).filter_map(Point::parse).filter(|point| point.curve != "dense"));
    let mut open = VecDeque::new();
    for &(name, shape, rearranged, _) in &CURVES {
        for sparsity in SPARSITIES {
            let wanted = only.is_empty() || only.iter().any(|only| (only - sparsity).abs() < 1e-9);
            if wanted && !points.iter().any(|point| point.is(name, sparsity)) {
                open.push_back((name, shape, rearranged, sparsity));
            }
        }
    }
    let (open, points) = (Mutex::new(open), Mutex::new(points));
    let work = || -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        loop {
            let next = open.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((name, shape, rearranged, sparsity)) = next else { return Ok(()) };
            let rearrangement = rearranged.then(Rearrangement::default);
            let options = Options { shape, sparsity, allocation, rearrangement, ..Options::default() };
            let (pruned, report) = compress::sparse_byte(&network, &options, &calibration, threads, &mut |_| true)?;
            let found = accuracy(pruned, &pictures, threads)?;
            let layers = report.layers.len().max(1) as f64;
            let kept = report.layers.iter().map(|layer| layer.kept).sum::<f64>() / layers;
            let error = report.layers.iter().filter_map(|layer| layer.error_after).sum::<f64>() / layers;
            println!("{name:<15} {sparsity:.1}: {:.2} % unseen, {:.2} % all; kept {kept:.3}", found[0], found[1]);
            let line = format!(
                "{name},{:.4},{:.4},{kept:.4},{error:.4},{:.2},{:.2}",
                report.sparsity, report.saved_multiplications, found[0], found[1]
            );
            // What is known so far survives an interruption.
            let mut points = points.lock().unwrap_or_else(PoisonError::into_inner);
            points.push(Point { curve: name.into(), wanted: sparsity, line });
            std::fs::write(&table, csv(&mut points))?;
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker panicked"))
    })
    .map_err(|error| error.to_string())?;
    let points = points.into_inner().unwrap_or_else(PoisonError::into_inner);
    let curves: Vec<Curve> = CURVES
        .iter()
        .map(|&(name, _, _, colour)| {
            let own = points.iter().filter(|point| point.curve == name).map(|point| (point.wanted, point.unseen()));
            (name, colour, std::iter::once((0.0, base[0])).chain(own).collect())
        })
        .collect();
    std::fs::write(out.with_extension("svg"), figure(&curves, unseen, calibration.len()))?;
    println!("{}", Path::new(out).with_extension("svg").display());
    Ok(())
}

/// A line of the table.
struct Point {
    curve: String,
    /// The sparsity that was asked for.
    wanted: f64,
    line: String,
}

impl Point {
    fn parse(line: &str) -> Option<Point> {
        let mut cells = line.split(',');
        let curve = cells.next()?.to_owned();
        let wanted = (cells.next()?.parse::<f64>().ok()? * 10.0).round() / 10.0;
        (cells.count() == 5).then(|| Point { curve, wanted, line: line.to_owned() })
    }

    fn is(&self, curve: &str, sparsity: f64) -> bool {
        self.curve == curve && (self.wanted - sparsity).abs() < 1e-9
    }

    /// Top-1 on pictures that did not calibrate, in percent.
    fn unseen(&self) -> f64 {
        self.line.split(',').nth(5).and_then(|cell| cell.parse().ok()).unwrap_or(f64::NAN)
    }
}

/// The table, curve by curve.
fn csv(points: &mut [Point]) -> String {
    let place = |point: &Point| CURVES.iter().position(|curve| curve.0 == point.curve).map_or(0, |at| at + 1);
    points.sort_by(|a, b| place(a).cmp(&place(b)).then(a.wanted.total_cmp(&b.wanted)));
    let mut csv = String::from("pattern,sparsity,saved_multiplications,kept,error,top1_unseen,top1_all\n");
    points.iter().for_each(|point| csv.extend([&point.line, "\n"]));
    csv
}

/// Name, colour, and points (sparsity, accuracy in percent) of a curve.
type Curve = (&'static str, &'static str, Vec<(f64, f64)>);

/// A chart of accuracy against sparsity.
fn figure(curves: &[Curve], unseen: usize, calibrated: usize) -> String {
    let values = || curves.iter().flat_map(|(_, _, points)| points.iter().map(|&(_, y)| y));
    let highest = (values().fold(0.0, f64::max) / 5.0).ceil() * 5.0;
    let lowest = ((values().fold(100.0, f64::min) / 5.0).floor() * 5.0).max(highest - 60.0);
    let x = |sparsity: f64| 60.0 + sparsity / 0.7 * 520.0;
    let y = |value: f64| 40.0 + (highest - value.max(lowest)) / (highest - lowest).max(1.0) * 300.0;
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"400\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"760\" height=\"400\" fill=\"white\"/>\n",
    );
    let _ = writeln!(
        svg,
        "<text x=\"60\" y=\"20\">top-1, % of {unseen} unseen pictures; one-shot with reconstruction on {calibrated} others</text>"
    );
    let mut value = lowest;
    while value <= highest {
        let at = y(value);
        let _ = writeln!(
            svg,
            "<path d=\"M60 {at:.1}H580\" stroke=\"#ddd\"/><text x=\"30\" y=\"{:.1}\">{value}</text>",
            at + 4.0
        );
        value += 5.0;
    }
    for tenth in 0..=7 {
        let sparsity = f64::from(tenth) / 10.0;
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"360\" text-anchor=\"middle\">{}0 %</text>", x(sparsity), tenth);
    }
    let _ = writeln!(
        svg,
        "<text x=\"320\" y=\"385\" text-anchor=\"middle\">share of the inner convolutions removed</text>"
    );
    for (i, (name, colour, points)) in curves.iter().enumerate() {
        let line: Vec<String> = points.iter().map(|&(s, v)| format!("{:.1},{:.1}", x(s), y(v))).collect();
        let points = line.join(" ");
        let _ = writeln!(svg, "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
        let at = 60 + 20 * i;
        let _ = writeln!(svg, "<path d=\"M600 {at}h20\" stroke=\"{colour}\" stroke-width=\"3\"/>");
        let _ = writeln!(svg, "<text x=\"626\" y=\"{}\">{name}</text>", at + 4);
    }
    svg + "</svg>\n"
}
