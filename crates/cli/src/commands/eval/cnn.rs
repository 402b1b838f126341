//! `supple eval cnn`: how often a classifier is right.

use crate::commands::classify::{Network, precision_name};
use crate::commands::progress::Display;
use crate::interrupt;
use crate::report::{Exit, show, show_json};
use std::path::PathBuf;
use supple::Classifier;
use supple::classifier::{self, ClassRule, Outcome};

const EXAMPLES: &str = "\
Examples:
  supple eval cnn --pictures samples/ -m mobilenet.tflite                      sorted names: one picture a class
  supple eval cnn --pictures val/ --classes folders -m net.safetensors         one folder a class
  supple eval cnn --pictures val/ --classes truth.csv -m net.tflite --json     lines of PICTURE,CLASS

Classes count from 0; a background that the network has before them does not count. Folders are called by the number or
the label of their class; if not, their sorted names are classes 0, 1, 2, ...";

/// Measure classification: the share of pictures whose class is the most probable, or among the five most probable
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder of pictures
    #[arg(long, value_name = "DIR")]
    pictures: PathBuf,

    /// How the class of a picture is found: sorted, folders, or a file of lines PICTURE,CLASS [default: folders if there
    /// are some, else sorted]
    #[arg(long, value_name = "sorted|folders|FILE")]
    classes: Option<PathBuf>,

    #[command(flatten)]
    network: Network,

    /// Print JSON, with what became of each picture
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let model = args.network.model()?;
    let mut classifier = Classifier::open(model, args.network.options())?;
    let rule = match args.classes.as_deref() {
        None => ClassRule::Auto,
        Some(path) if path.as_os_str() == "sorted" => ClassRule::Sorted,
        Some(path) if path.as_os_str() == "folders" => ClassRule::Folders,
        Some(path) => ClassRule::Csv(path.into()),
    };
    let examples = classifier::examples(&args.pictures, &rule, &classifier)?;

    interrupt::install();
    let display = Display::of_pictures(examples.len(), args.json);
    let (mut done, mut right) = (0, 0);
    let measured = classifier::measure(&mut classifier, &examples, &mut |outcome: &Outcome| {
        done += 1;
        right += usize::from(outcome.place == Some(0));
        display.count(done, &format!("top-1 {:.1} %", right as f64 / done as f64 * 100.0));
        !interrupt::asked()
    });
    display.clear();
    if let Some(reason) = classifier.stand_in() {
        display.note(&format!("note: {reason}"));
    }
    let accuracy = measured?;
    if args.json {
        let mut json = serde_json::to_value(&accuracy)?;
        json["model"] = serde_json::json!(model);
        json["network"] = classifier.name().into();
        json["precision"] = precision_name(classifier.precision()).into();
        json["device"] = serde_json::json!(classifier.device());
        json["background"] = classifier.background().into();
        show_json(&json)?;
        return Ok(Exit::Done);
    }
    let percent = |share: f64| format!("{:.2} %", share * 100.0);
    let lines = [
        ("network", format!("{} ({})", classifier.name(), model.display())),
        ("precision", precision_name(classifier.precision()).into()),
        ("pictures", accuracy.pictures.to_string()),
        ("top-1", percent(accuracy.top1)),
        ("top-5", percent(accuracy.top5)),
    ];
    show(&lines.map(|(name, value)| format!("{name:<10} {value}\n")).concat())?;
    Ok(Exit::Done)
}
