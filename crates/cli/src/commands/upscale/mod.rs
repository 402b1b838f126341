//! `supple upscale`: where results go (`outputs`), the work (`batch`), and what became of each picture (`records`).

mod args;
mod batch;
mod outputs;
mod records;
mod timings;

pub use args::{Args, Compute, parse_threads};
pub use timings::Timings;

use crate::commands::inputs;
use crate::commands::progress::Display;
use crate::report::{Exit, Problem, show, show_json};
use batch::Batch;
use outputs::{Naming, Target};
use records::Record;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Instant;
use supple::picture::{EncodeOptions, Limits};
use supple::{ScalePlan, Stages, Upscaler, UpscalerOptions, models};

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let start = Instant::now();
    let networks = Networks::load(args)?;
    let suffix = args.suffix.clone().unwrap_or_else(|| format!("_x{}", networks.scale));
    let out = args.output.as_deref();
    let found = inputs::expand(&args.inputs, out.filter(|out| *out != Path::new("-")));
    let naming = Naming { out, suffix: &suffix, format: args.format };
    let plan = outputs::plan(&found.list, found.several, &naming)?;
    check_streams(args, &plan)?;
    if args.dry_run {
        return dry_run(&found, &plan);
    }

    crate::interrupt::install();
    let display = Display::of_pixels(plan.jobs.len(), args.quiet || args.json);
    let mut records: Vec<Record> = found.problems.into_iter().map(Record::unreadable).collect();
    let mut limits = Limits::default();
    limits.max_pixels = args.max_pixels.unwrap_or(limits.max_pixels);
    let mut encode = EncodeOptions { strip: args.strip, ..EncodeOptions::default() };
    encode.quality = args.quality.unwrap_or(encode.quality);
    let batch = Batch {
        jobs: &plan.jobs,
        networks: &networks,
        limits,
        encode,
        overwrite: args.overwrite,
        timings: args.timings,
        display: &display,
    };
    records.extend(batch.run());
    display.clear();
    if let Some(reason) = networks.loaded.values().find_map(Upscaler::stand_in) {
        display.note(&format!("note: {reason}"));
    }

    let seconds = start.elapsed().as_secs_f64();
    let interrupted = crate::interrupt::asked() && records.iter().any(|record| record.is_open());
    records::summary(&records, plan.earlier.len(), seconds, interrupted, &display);
    if args.json {
        show_json(&records::json(&records, &networks, seconds, interrupted))?;
    }
    Ok(match (interrupted, records.iter().any(Record::has_failed)) {
        (true, _) => Exit::Interrupted,
        (false, true) => Exit::Failed,
        (false, false) => Exit::Done,
    })
}

/// The networks that reach the scale, loaded.
pub struct Networks {
    /// Scale to reach.
    pub scale: f64,
    /// Scales of the networks to choose from.
    pub available: Vec<usize>,
    /// Networks by scale.
    pub loaded: BTreeMap<usize, Upscaler>,
    /// What they are called.
    pub names: Vec<String>,
}

impl Networks {
    /// Where the time of all pictures so far went on a device.
    pub fn stages(&self) -> Option<Stages> {
        let mut sum = None;
        for stages in self.loaded.values().filter_map(|upscaler| upscaler.network().stages()) {
            sum.get_or_insert(Stages::default()).add(stages);
        }
        sum
    }

    fn load(args: &Args) -> anyhow::Result<Networks> {
        let options = UpscalerOptions {
            tile: Some(args.tile).filter(|&tile| tile > 0),
            tta: args.tta,
            wrap: args.wrap,
            ..args.compute.options()
        };
        if let Some(model) = &args.model {
            let upscaler = models::load(&models::resolve(model)?, options)?;
            let scale = args.scale.unwrap_or(upscaler.scale() as f64);
            let available = vec![upscaler.scale()];
            ScalePlan::new(scale, &available)?;
            let loaded = BTreeMap::from([(upscaler.scale(), upscaler)]);
            return Ok(Networks { scale, available, loaded, names: vec![model.clone()] });
        }
        let scale = args.scale.unwrap_or(4.0);
        let available = models::BUNDLED_SCALES.to_vec();
        let mut networks = Networks { scale, available, loaded: BTreeMap::new(), names: vec![] };
        for step in ScalePlan::new(scale, &networks.available)?.steps {
            if let Entry::Vacant(place) = networks.loaded.entry(step) {
                place.insert(Upscaler::bundled_with(step, options.clone())?);
                networks.names.push(format!("rlfn_s_x{step}"));
            }
        }
        Ok(networks)
    }
}

impl Compute {
    /// As the library wants it.
    pub fn options(&self) -> UpscalerOptions {
        UpscalerOptions {
            device: self.device,
            precision: self.precision.into(),
            threads: Some(self.threads).filter(|&n| n > 0),
            max_memory: self.max_memory,
            ..UpscalerOptions::default()
        }
    }
}

/// Pictures do not go to a terminal, nor come from one, nor share a stream with JSON.
fn check_streams(args: &Args, plan: &outputs::Plan) -> Result<(), Problem> {
    if plan.jobs.iter().any(|job| job.source == inputs::Source::Stdin)
        && std::io::stdin().is_terminal()
        && !args.dry_run
    {
        return Err(Problem::usage("standard input is a terminal").hint("supple upscale - < picture.png > large.png"));
    }
    if plan.jobs.iter().any(|job| job.target == Target::Stdout) {
        if args.json {
            return Err(
                Problem::usage("the picture and --json cannot both go to standard output").hint("name a file with -o")
            );
        }
        if std::io::stdout().is_terminal() && !args.dry_run {
            return Err(Problem::usage("standard output is a terminal")
                .hint("redirect it (> large.png), or name a file with -o"));
        }
    }
    Ok(())
}

fn dry_run(found: &inputs::Inputs, plan: &outputs::Plan) -> anyhow::Result<Exit> {
    let mut text = String::new();
    for job in &plan.jobs {
        text += &format!("{} -> {}\n", job.source.name(), job.target.name());
    }
    show(&text)?;
    for problem in &found.problems {
        crate::report::print(&problem.error());
    }
    Ok(if found.problems.is_empty() { Exit::Done } else { Exit::Failed })
}
