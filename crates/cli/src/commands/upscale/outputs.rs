//! Where results go, decided for the whole batch before any work starts.
//!
//! * no OUT: `name_x4.png` beside the input; standard input goes to standard output;
//! * OUT is a folder (it exists as one, ends with a slash, or there may be several inputs): `OUT/<tree>/name_x4.png`;
//! * OUT is a file: exactly that; `-` is standard output.
//!
//! Two inputs that would be written to one output are refused here. What an earlier run wrote is not taken as input
//! again when it is found in a folder or by a glob.

use crate::commands::inputs::{Input, Source};
use crate::report::Problem;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use supple::picture::PictureFormat;

/// Where a result goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

impl Target {
    /// What to call it in messages.
    pub fn name(&self) -> String {
        match self {
            Target::File(path) => path.display().to_string(),
            Target::Stdout => "standard output".into(),
        }
    }
}

/// One picture to read, enlarge and write.
#[derive(Clone, Debug)]
pub struct Job {
    /// Where it comes from.
    pub source: Source,
    /// Where it goes.
    pub target: Target,
    /// How it is written.
    pub format: PictureFormat,
}

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// Pictures, in order.
    pub jobs: Vec<Job>,
    /// Files left out because an earlier run wrote them.
    pub earlier: Vec<PathBuf>,
}

/// How results are named.
#[derive(Debug)]
pub struct Naming<'a> {
    /// `-o`.
    pub out: Option<&'a Path>,
    /// What is appended to a name, such as `_x4`.
    pub suffix: &'a str,
    /// `-f`.
    pub format: Option<PictureFormat>,
}

/// Decides where each input goes.
pub fn plan(inputs: &[Input], several: bool, naming: &Naming<'_>) -> Result<Plan, Problem> {
    let mut jobs = Vec::with_capacity(inputs.len());
    for input in inputs {
        jobs.push(job(input, several, naming)?);
    }
    settle(inputs, jobs)
}

fn job(input: &Input, several: bool, naming: &Naming<'_>) -> Result<Job, Problem> {
    let ready = |target, format| Ok(Job { source: input.source.clone(), target, format });
    let any_format = naming.format.unwrap_or(PictureFormat::Png);
    let file_name = || {
        let mut name = OsString::from(input.relative.file_stem().unwrap_or(OsStr::new("picture")));
        name.push(format!("{}.{}", naming.suffix, any_format.extension()));
        name
    };
    match (naming.out, &input.source) {
        (Some(out), _) if out.as_os_str() == "-" => {
            if several {
                return Err(Problem::usage("standard output takes one picture").hint("name a folder with -o"));
            }
            ready(Target::Stdout, any_format)
        }
        (Some(out), _) if several || is_folder(out) => {
            // `x.png` is a picture's name, unless a folder is called that already or a slash says so.
            let picture = PictureFormat::from_path(out).is_some() && !is_folder(out);
            if !several || out.is_dir() || !(out.exists() || picture) {
                return ready(Target::File(out.join(&input.relative).with_file_name(file_name())), any_format);
            }
            let message = format!("{} names a file, and several inputs need a folder", out.display());
            Err(Problem::usage(message).hint("name a folder with -o; one that ends with a slash is made if need be"))
        }
        (Some(out), _) => {
            let format = match (PictureFormat::from_path(out).filter(|f| f.can_write()), naming.format) {
                (Some(named), Some(asked)) if named != asked => {
                    let message = format!("-f {} does not fit the name {}", asked.extension(), out.display());
                    return Err(Problem::usage(message).hint("leave out -f, or change the ending of the name"));
                }
                (_, Some(format)) | (Some(format), None) => format,
                (None, None) => {
                    let message = format!("cannot tell the format of {} from its name", out.display());
                    let folder = out.join("");
                    let hint = format!("give -f png, or write {} if it shall be a folder", folder.display());
                    return Err(Problem::usage(message).hint(hint));
                }
            };
            ready(Target::File(out.to_path_buf()), format)
        }
        (None, Source::File(path)) => ready(Target::File(path.with_file_name(file_name())), any_format),
        (None, Source::Stdin) if several => {
            let message = "standard input among other inputs has no place to go";
            Err(Problem::usage(message).hint("name a folder with -o"))
        }
        (None, Source::Stdin) => ready(Target::Stdout, any_format),
    }
}

fn is_folder(out: &Path) -> bool {
    out.is_dir() || out.as_os_str().as_encoded_bytes().last().is_some_and(|&b| std::path::is_separator(b as char))
}

/// Drops what was given twice and what an earlier run wrote, and refuses collisions.
fn settle(inputs: &[Input], jobs: Vec<Job>) -> Result<Plan, Problem> {
    let mut places = Places::default();
    let sources: Vec<PathBuf> = jobs
        .iter()
        .map(|job| match &job.source {
            Source::File(path) => places.of(path),
            Source::Stdin => PathBuf::from("-"),
        })
        .collect();
    let targets: Vec<Option<PathBuf>> = jobs
        .iter()
        .map(|job| match &job.target {
            Target::File(path) => Some(places.of(path)),
            Target::Stdout => None,
        })
        .collect();
    let written: HashSet<&PathBuf> = targets.iter().flatten().collect();
    let stems: HashSet<PathBuf> = sources.iter().map(|path| path.with_extension("")).collect();
    let is_earlier = |i: usize| {
        let in_place = targets[i].as_ref() == Some(&sources[i]);
        inputs[i].found
            && !in_place
            && (written.contains(&sources[i]) || original(&sources[i]).is_some_and(|o| stems.contains(&o)))
    };

    let mut plan = Plan::default();
    let mut taken: HashMap<&PathBuf, usize> = HashMap::new();
    for (i, job) in jobs.iter().enumerate() {
        if is_earlier(i) {
            plan.earlier.push(sources[i].clone());
            continue;
        }
        if let Some(first) = targets[i].as_ref().and_then(|target| taken.insert(target, i)) {
            if sources[first] == sources[i] {
                continue;
            }
            let (one, two) = (jobs[first].source.name(), job.source.name());
            let message = format!("{one} and {two} would both be written to {}", job.target.name());
            return Err(Problem::usage(message).hint("rename one, or upscale them into different folders with -o"));
        }
        plan.jobs.push(job.clone());
    }
    for (i, job) in jobs.iter().enumerate().filter(|&(i, _)| !is_earlier(i)) {
        if let Some(&writer) = taken.get(&sources[i])
            && sources[writer] != sources[i]
        {
            let (other, input) = (jobs[writer].source.name(), job.source.name());
            let message = format!("{other} would be written to {input}, which is an input as well");
            return Err(Problem::usage(message).hint("write into another folder with -o"));
        }
    }
    Ok(plan)
}

/// For `photo_x4.png` the path without ending of what it was made from, `photo`.
fn original(path: &Path) -> Option<PathBuf> {
    let stem = path.file_stem()?.to_str()?;
    let (original, scale) = stem.rsplit_once("_x")?;
    let is_scale = scale.starts_with(|c: char| c.is_ascii_digit()) && scale.parse::<f64>().is_ok();
    (is_scale && !original.is_empty()).then(|| path.with_file_name(original))
}

/// Paths in a form that can be compared: absolute, the folder's links resolved as far as it exists.
#[derive(Default)]
struct Places {
    folders: HashMap<PathBuf, PathBuf>,
}

impl Places {
    fn of(&mut self, path: &Path) -> PathBuf {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return path };
        if !self.folders.contains_key(folder) {
            let resolved = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
            self.folders.insert(folder.to_path_buf(), resolved);
        }
        self.folders[folder].join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::inputs::expand;

    fn naming<'a>(out: Option<&'a str>, suffix: &'a str, format: Option<PictureFormat>) -> Naming<'a> {
        Naming { out: out.map(Path::new), suffix, format }
    }

    fn named(path: &str) -> Input {
        let path = PathBuf::from(path);
        Input { relative: path.file_name().unwrap().into(), source: Source::File(path), found: false }
    }

    fn one(path: &str, naming: &Naming<'_>) -> Result<String, String> {
        plan(&[named(path)], false, naming).map(|plan| plan.jobs[0].target.name()).map_err(|e| e.to_string())
    }

    fn found(names: &[&str]) -> (tempfile::TempDir, Vec<Input>) {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        let inputs = expand(&[dir.path().into()], None).list;
        (dir, inputs)
    }

    #[test]
    fn names_say_the_scale_and_the_format() {
        assert_eq!(one("p/a.b.jpg", &naming(None, "_x2.5", None)).unwrap(), "p/a.b_x2.5.png");
        assert_eq!(one("a", &naming(None, "_x4", Some(PictureFormat::Tiff))).unwrap(), "a_x4.tif");
        assert_eq!(one("p/a.jpg", &naming(Some("/tmp"), "_x4", None)).unwrap(), "/tmp/a_x4.png");
        assert_eq!(one("p/a.jpg", &naming(Some("new/"), "", Some(PictureFormat::Jpeg))).unwrap(), "new/a.jpg");
        assert_eq!(one("p/a.jpg", &naming(Some("b.WEBP"), "_x4", None)).unwrap(), "b.WEBP");
        assert_eq!(one("p/a.jpg", &naming(Some("b"), "_x4", Some(PictureFormat::Jpeg))).unwrap(), "b");
        assert_eq!(one("p/a.jpg", &naming(Some("-"), "_x4", None)).unwrap(), "standard output");
    }

    #[test]
    fn an_output_name_that_says_too_little_or_too_much_is_refused() {
        assert!(one("a.jpg", &naming(Some("out"), "_x4", None)).unwrap_err().contains("format of out"));
        assert!(one("a.jpg", &naming(Some("b.gif"), "_x4", None)).is_err());
        assert!(one("a.jpg", &naming(Some("b.png"), "_x4", Some(PictureFormat::Jpeg))).unwrap_err().contains("-f jpg"));
    }

    #[test]
    fn two_inputs_for_one_output_are_refused_and_one_given_twice_is_taken_once() {
        let error = plan(&[named("a.jpg"), named("a.png")], true, &naming(None, "_x4", None)).unwrap_err();
        assert!(error.to_string().contains("a.jpg and a.png"), "{error}");
        let twice = plan(&[named("a.jpg"), named("./a.jpg")], true, &naming(None, "_x4", None)).unwrap();
        assert_eq!(twice.jobs.len(), 1);
        let chain = plan(&[named("a.jpg"), named("a_x4.png")], true, &naming(None, "_x4", None)).unwrap_err();
        assert!(chain.to_string().contains("an input as well"), "{chain}");
    }

    #[test]
    fn results_of_earlier_runs_are_not_inputs() {
        let (_dir, inputs) = found(&["a.jpg", "a_x4.png", "a_x2.5.jpg", "a_xl.png", "b_x4.png"]);
        let plan = plan(&inputs, true, &naming(None, "_x4", None)).unwrap();
        let names: Vec<_> =
            plan.jobs.iter().map(|job| job.target.name().rsplit('/').next().unwrap().to_string()).collect();
        assert_eq!(names, ["a_x4.png", "a_xl_x4.png", "b_x4_x4.png"]);
        assert_eq!(plan.earlier.len(), 2);
    }

    #[test]
    fn replacing_in_place_is_no_collision_but_two_endings_are() {
        let (dir, inputs) = found(&["a.png", "b.png"]);
        let out = dir.path().to_str().unwrap();
        assert_eq!(plan(&inputs, true, &naming(Some(out), "", None)).unwrap().jobs.len(), 2);
        let (dir, inputs) = found(&["a.jpg", "a.png"]);
        assert!(plan(&inputs, true, &naming(Some(dir.path().to_str().unwrap()), "", None)).is_err());
    }
}
