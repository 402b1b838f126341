//! How often a classifier is right: top-1 and top-5 over pictures whose classes are known.
//!
//! A class is counted without the background that some networks have before the others.

use super::Classifier;
use super::many::READERS;
use crate::picture::{self, Limits};
use crate::{Error, evaluate};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// How the class of a picture is found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClassRule {
    /// By folders where there are some, by sorted names elsewhere.
    #[default]
    Auto,
    /// One picture a class: the first of the names, sorted, is class 0.
    Sorted,
    /// One folder a class. Its name is the number or the label of the class; else the first of all names, sorted, is
    /// class 0.
    Folders,
    /// A file of lines `PICTURE,CLASS`, the class a number or a label; lines that begin with `#` do not count.
    Csv(PathBuf),
}

/// A picture and its class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The picture.
    pub file: PathBuf,
    /// Its class, from 0, the background not counted.
    pub class: usize,
}

/// What a classifier made of a picture.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Outcome {
    /// The picture.
    pub file: PathBuf,
    /// Its class, from 0, the background not counted.
    pub class: usize,
    /// Output of the network with the highest probability, the background counted.
    pub predicted: usize,
    /// Its name.
    pub name: String,
    /// Its probability.
    pub probability: f32,
    /// Place of the right class among the five most probable, from 0.
    pub place: Option<usize>,
}

/// The share of pictures of which the class was found.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Accuracy {
    /// Pictures that were classified.
    pub pictures: usize,
    /// Of those, the share whose class was the most probable.
    pub top1: f64,
    /// The share whose class was among the five most probable.
    pub top5: f64,
    /// Picture by picture, in order.
    pub outcomes: Vec<Outcome>,
}

/// The pictures below `folder` and their classes, as `classifier` counts them.
///
/// # Errors
/// If there are no pictures, a folder or file cannot be read, or classes and pictures do not fit.
pub fn examples(folder: &Path, rule: &ClassRule, classifier: &Classifier) -> Result<Vec<Example>, Error> {
    let classes = classifier.outputs() - classifier.background();
    let examples = match rule {
        ClassRule::Auto if folders_in(folder)?.is_empty() => sorted(folder, classes)?,
        ClassRule::Sorted => sorted(folder, classes)?,
        ClassRule::Auto | ClassRule::Folders => by_folder(folder, classes, classifier)?,
        ClassRule::Csv(file) => by_table(folder, file, classes, classifier)?,
    };
    match examples.is_empty() {
        true => Err(Error::BadOption(format!("{}: no pictures to measure with", folder.display()))),
        false => Ok(examples),
    }
}

fn sorted(folder: &Path, classes: usize) -> Result<Vec<Example>, Error> {
    let files = evaluate::pictures_in(folder)?;
    if !files.is_empty() && files.len() != classes {
        let (folder, count) = (folder.display(), files.len());
        return Err(Error::BadOption(format!(
            "{folder}: {count} pictures for {classes} classes; sorted names need one a class"
        )));
    }
    Ok(files.into_iter().enumerate().map(|(class, file)| Example { file, class }).collect())
}

fn folders_in(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Io { path: folder.into(), action: "read the folder", source };
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.is_dir() && !hidden {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

fn by_folder(folder: &Path, classes: usize, classifier: &Classifier) -> Result<Vec<Example>, Error> {
    let folders = folders_in(folder)?;
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let names = Names::of(classifier);
    let named: Option<Vec<usize>> = folders.iter().map(|path| names.class(&name(path), classes)).collect();
    let numbers: Vec<usize> = match named {
        Some(numbers) => numbers,
        None if folders.len() == classes => (0..classes).collect(),
        None => {
            return Err(Error::BadOption(format!(
                "{}: {} folders for {classes} classes, and not all of their names are numbers or labels of classes",
                folder.display(),
                folders.len(),
            )));
        }
    };
    let mut examples = Vec::new();
    for (path, class) in folders.iter().zip(numbers) {
        examples.extend(evaluate::pictures_in(path)?.into_iter().map(|file| Example { file, class }));
    }
    Ok(examples)
}

fn by_table(folder: &Path, file: &Path, classes: usize, classifier: &Classifier) -> Result<Vec<Example>, Error> {
    let names = Names::of(classifier);
    let mut examples = Vec::new();
    for (number, line) in super::read_labels(file)?.iter().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |problem: String| Error::BadOption(format!("{}: line {}: {problem}", file.display(), number + 1));
        let (picture, class) = line.split_once(',').ok_or_else(|| bad("wanted PICTURE,CLASS".into()))?;
        // Labels may hold commas themselves, in quotes or not.
        let class = class.trim().trim_matches('"');
        let class = names.class(class, classes).ok_or_else(|| bad(format!("no class is called {class:?}")))?;
        examples.push(Example { file: folder.join(picture.trim().trim_matches('"')), class });
    }
    Ok(examples)
}

/// Which class a number or a label means.
struct Names {
    classes: HashMap<String, usize>,
}

impl Names {
    /// Whole labels, and their first words where they list several (`hotdog, hot dog, red hot`); what means two classes
    /// means none.
    fn of(classifier: &Classifier) -> Names {
        let mut classes: HashMap<String, Option<usize>> = HashMap::new();
        let labels = classifier.labels().iter().skip(classifier.background()).map(|label| label.to_lowercase());
        for (class, label) in labels.enumerate().filter(|(_, label)| !label.is_empty()) {
            let first = label.split(',').next().unwrap_or_default().to_string();
            let keys = if first == label { vec![label] } else { vec![label, first] };
            for key in keys {
                classes.entry(key).and_modify(|known| *known = None).or_insert(Some(class));
            }
        }
        Names { classes: classes.into_iter().filter_map(|(key, class)| Some((key, class?))).collect() }
    }

    fn class(&self, name: &str, classes: usize) -> Option<usize> {
        let number = name.parse().ok().filter(|&class| class < classes);
        number.or_else(|| self.classes.get(&name.to_lowercase()).copied())
    }
}

/// Classifies the examples; `each` is told every outcome as it comes, in order, and its `false` cancels.
///
/// # Errors
/// If a picture cannot be read, the network gives values that are no numbers, or `each` cancels.
pub fn measure(
    classifier: &mut Classifier,
    examples: &[Example],
    each: &mut dyn FnMut(&Outcome) -> bool,
) -> Result<Accuracy, Error> {
    if examples.is_empty() {
        return Err(Error::BadOption("no pictures to measure with".into()));
    }
    let background = classifier.background();
    let mut limits = Limits::default();
    limits.max_memory /= READERS as u64;
    let mut outcomes = Vec::with_capacity(examples.len());
    let mut stopped = None;
    let read = |i: usize| picture::open_with(&examples[i].file, &limits).map(|decoded| decoded.picture);
    classifier.classify_many(examples.len(), 5, &read, &mut |i, result: Result<_, Error>| {
        let Example { file, class } = &examples[i];
        let predictions = match result {
            Ok(predictions) => predictions,
            Err(error) => {
                stopped = Some(error);
                return false;
            }
        };
        let Some(best) = predictions.first() else { return true };
        let outcome = Outcome {
            file: file.clone(),
            class: *class,
            predicted: best.index,
            name: best.name().into_owned(),
            probability: best.probability,
            place: predictions.iter().position(|p| p.index == class + background),
        };
        let go_on = each(&outcome);
        outcomes.push(outcome);
        if !go_on {
            stopped = Some(Error::Cancelled);
        }
        go_on
    });
    if let Some(error) = stopped {
        return Err(error);
    }
    let share = |places: usize| {
        let right = outcomes.iter().filter(|outcome| outcome.place.is_some_and(|place| place < places));
        right.count() as f64 / outcomes.len() as f64
    };
    Ok(Accuracy { pictures: outcomes.len(), top1: share(1), top5: share(5), outcomes })
}
