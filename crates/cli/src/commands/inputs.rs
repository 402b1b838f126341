//! Which files an invocation means: files as named, folders with everything below them, globs that a shell left alone
//! (quoted, or no shell), and `-` for standard input.
//!
//! A file that is named is always taken; its content decides what it is. In folders and globs only names that end like a
//! picture's count, and names that begin with a dot do not (`.DS_Store`, `._photo.jpg`, `.thumbnails/`).

use crate::report::Problem;
use crate::size;
use anyhow::Context as _;
use globset::GlobBuilder;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use supple::Error;
use supple::picture::{self, Decoded, Limits, PictureFormat};
use walkdir::WalkDir;

/// Where a picture comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

impl Source {
    /// What to call it in messages.
    pub fn name(&self) -> String {
        match self {
            Source::File(path) => path.display().to_string(),
            Source::Stdin => "standard input".into(),
        }
    }

    /// Reads and decodes the picture.
    pub fn read(&self, limits: &Limits) -> anyhow::Result<Decoded> {
        let bytes = match self {
            Source::File(path) => {
                let failed = |source| Error::Io { path: path.clone(), action: "read", source };
                read_up_to(File::open(path).map_err(failed)?, limits.max_memory).map_err(failed)?
            }
            Source::Stdin => read_up_to(io::stdin().lock(), limits.max_memory).context("cannot read standard input")?,
        };
        Ok(picture::decode(&bytes, &self.name(), limits)?)
    }
}

/// Reads all, unless it is more than any picture: pipes and devices may never end.
fn read_up_to(reader: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {}", size::bytes(limit)))),
        false => Ok(bytes),
    }
}

/// One picture to work on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Where it comes from.
    pub source: Source,
    /// Its place in the tree that the argument spans, file name included: `sub/a.jpg` for `photos/sub/a.jpg` in `photos`.
    pub relative: PathBuf,
    /// Whether it was found in a folder or by a glob rather than named.
    pub found: bool,
}

/// All that was found.
#[derive(Debug, Default)]
pub struct Inputs {
    /// Pictures, in the order of the arguments and sorted by path within one.
    pub list: Vec<Input>,
    /// Arguments or folders that could not be read or hold no picture: what, why and what to do.
    pub problems: Vec<Unreadable>,
    /// Whether the arguments may mean more than one picture, in which case the output is a folder.
    pub several: bool,
}

/// An argument or folder without pictures.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// What was looked at.
    pub name: String,
    /// What is wrong with it.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Unreadable {
    /// As an error.
    pub fn error(&self) -> anyhow::Error {
        let problem = Problem::failed(format!("{}: {}", self.name, self.message));
        match &self.hint {
            Some(hint) => problem.hint(hint.clone()).into(),
            None => problem.into(),
        }
    }
}

/// Expands the arguments of a command. Folders do not descend into `out`, the folder that results go to.
pub fn expand(arguments: &[PathBuf], out: Option<&Path>) -> Inputs {
    let folders = arguments.iter().filter(|path| path.is_dir()).count();
    let mut inputs = Inputs { several: arguments.len() > 1 || folders > 0, ..Inputs::default() };
    let out = out.and_then(|path| path.canonicalize().ok());
    for argument in arguments {
        if argument.as_os_str() == "-" {
            inputs.list.push(Input { source: Source::Stdin, relative: "stdin".into(), found: false });
        } else if argument.is_dir() {
            // Several folders keep their names, so that `a/x.png` and `b/x.png` stay apart.
            let prefix = if folders > 1 { folder_name(argument) } else { PathBuf::new() };
            walk(argument, &prefix, out.as_deref(), &mut inputs);
        } else if !argument.exists() && is_pattern(argument) {
            inputs.several = true;
            glob(argument, out.as_deref(), &mut inputs);
        } else {
            // A file that is missing fails when it is its turn, like any that cannot be read.
            let name = argument.file_name().map_or_else(|| "picture".into(), PathBuf::from);
            inputs.list.push(Input { source: Source::File(argument.clone()), relative: name, found: false });
        }
    }
    inputs
}

/// Whether the name ends like a picture's and is not hidden.
pub fn looks_like_picture(path: &Path) -> bool {
    PictureFormat::from_path(path).is_some() && !path.file_name().is_some_and(is_hidden)
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().first() == Some(&b'.')
}

fn is_pattern(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().iter().any(|b| b"*?[{".contains(b))
}

fn folder_name(folder: &Path) -> PathBuf {
    let name = folder.file_name().map(PathBuf::from);
    name.or_else(|| folder.canonicalize().ok()?.file_name().map(PathBuf::from)).unwrap_or_default()
}

/// Pictures below `root` for which `keep` holds, with their paths below `root`.
fn pictures_below(root: &Path, depth: usize, out: Option<&Path>, inputs: &mut Inputs) -> Vec<(PathBuf, PathBuf)> {
    let root_canonical = root.canonicalize().ok();
    let enter = |entry: &walkdir::DirEntry| {
        if entry.depth() == 0 {
            return true;
        }
        let is_out = || {
            entry.file_type().is_dir()
                && out.is_some()
                && root_canonical.as_deref() != out
                && entry.path().canonicalize().ok().as_deref() == out
        };
        !is_hidden(entry.file_name()) && !is_out()
    };
    let mut pictures = Vec::new();
    for entry in
        WalkDir::new(root).max_depth(depth).follow_links(true).sort_by_file_name().into_iter().filter_entry(enter)
    {
        match entry {
            Ok(entry) if entry.file_type().is_file() && looks_like_picture(entry.path()) => {
                let relative = entry.path().strip_prefix(root).unwrap_or(entry.path()).to_path_buf();
                pictures.push((entry.into_path(), relative));
            }
            Ok(_) => {}
            // A link that points at nothing or back at a folder above it holds no picture.
            Err(error) if error.loop_ancestor().is_some() => {}
            Err(error) if error.io_error().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) => {}
            Err(error) => {
                let name = error.path().unwrap_or(root).display().to_string();
                let message =
                    error.io_error().map_or_else(|| error.to_string(), |e| format!("cannot read the folder: {e}"));
                inputs.problems.push(Unreadable { name, message, hint: None });
            }
        }
    }
    pictures
}

fn walk(folder: &Path, prefix: &Path, out: Option<&Path>, inputs: &mut Inputs) {
    let problems = inputs.problems.len();
    let pictures = pictures_below(folder, usize::MAX, out, inputs);
    if pictures.is_empty() && inputs.problems.len() == problems {
        inputs.problems.push(Unreadable {
            name: folder.display().to_string(),
            message: "no pictures in this folder".into(),
            hint: Some("pictures are found by the endings of their names: png, jpg, webp, bmp, tif, gif".into()),
        });
    }
    for (path, relative) in pictures {
        inputs.list.push(Input { source: Source::File(path), relative: prefix.join(relative), found: true });
    }
}

fn glob(pattern: &Path, out: Option<&Path>, inputs: &mut Inputs) {
    let name = pattern.display().to_string();
    // The folder to start in is what stands before the first component with a wildcard.
    let is_plain = |c: &Component<'_>| !is_pattern(Path::new(c.as_os_str()));
    let base: PathBuf = pattern.components().take_while(is_plain).collect();
    let rest: PathBuf = pattern.components().skip_while(is_plain).collect();
    let text = rest.to_string_lossy();
    let matcher = match GlobBuilder::new(&text).literal_separator(true).build() {
        Ok(glob) => glob.compile_matcher(),
        Err(error) => {
            inputs.problems.push(Unreadable {
                name,
                message: format!("not a valid pattern: {}", error.kind()),
                hint: None,
            });
            return;
        }
    };
    // Braces may hold separators, so depth is known only without them.
    let depth = if text.contains("**") || text.contains('{') { usize::MAX } else { rest.components().count() };
    let root = if base.as_os_str().is_empty() { Path::new(".") } else { &base };
    let before = inputs.list.len();
    if root.is_dir() {
        for (path, relative) in pictures_below(root, depth, out, inputs) {
            if matcher.is_match(&relative) {
                let path = if base.as_os_str().is_empty() { relative.clone() } else { path };
                inputs.list.push(Input { source: Source::File(path), relative, found: true });
            }
        }
    }
    if inputs.list.len() == before {
        let hint = "a pattern matches pictures, not folders; `**` crosses folders, as in 'photos/**/*.jpg'";
        inputs.problems.push(Unreadable { name, message: "no picture matches".into(), hint: Some(hint.into()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        dir
    }

    fn relative(inputs: &Inputs) -> Vec<String> {
        inputs.list.iter().map(|input| input.relative.display().to_string()).collect()
    }

    #[test]
    fn folders_are_walked_and_what_is_no_picture_is_skipped() {
        let dir = tree(&["b.JPG", "a.png", "notes.txt", "Thumbs.db", ".DS_Store", "._a.png", "s/c.webp", ".git/d.png"]);
        let inputs = expand(&[dir.path().into()], None);
        assert_eq!(relative(&inputs), ["a.png", "b.JPG", "s/c.webp"]);
        assert!(inputs.several && inputs.list.iter().all(|input| input.found) && inputs.problems.is_empty());
    }

    #[test]
    fn a_folder_for_results_inside_the_folder_of_inputs_is_not_an_input() {
        let dir = tree(&["a.png", "out/a.png", "s/out/b.png"]);
        assert_eq!(relative(&expand(&[dir.path().into()], Some(&dir.path().join("out")))), ["a.png", "s/out/b.png"]);
        assert_eq!(relative(&expand(&[dir.path().into()], Some(dir.path()))).len(), 3);
    }

    #[test]
    fn several_folders_keep_their_names() {
        let dir = tree(&["one/x.png", "two/x.png"]);
        let inputs = expand(&[dir.path().join("one"), dir.path().join("two")], None);
        assert_eq!(relative(&inputs), ["one/x.png", "two/x.png"]);
    }

    #[test]
    fn globs_match_within_and_across_folders() {
        let dir = tree(&["a.jpg", "b.png", "s/c.jpg", "s/t/d.jpg", "s/t/e.txt"]);
        let all = |pattern: &str| relative(&expand(&[dir.path().join(pattern)], None));
        assert_eq!(all("*.jpg"), ["a.jpg"]);
        assert_eq!(all("*/*.jpg"), ["s/c.jpg"]);
        assert_eq!(all("**/*.jpg"), ["a.jpg", "s/c.jpg", "s/t/d.jpg"]);
        assert_eq!(all("s/**/*"), ["c.jpg", "t/d.jpg"]);
        assert_eq!(all("{a,b}.*"), ["a.jpg", "b.png"]);
        let none = expand(&[dir.path().join("*.gif")], None);
        assert!(none.list.is_empty() && none.problems.len() == 1);
    }

    #[test]
    fn a_file_whose_name_looks_like_a_pattern_is_taken_as_named() {
        let dir = tree(&["a[1].png"]);
        let inputs = expand(&[dir.path().join("a[1].png"), dir.path().join("missing.png"), "-".into()], None);
        assert_eq!(relative(&inputs), ["a[1].png", "missing.png", "stdin"]);
        assert!(inputs.list.iter().all(|input| !input.found));
    }

    #[cfg(unix)]
    #[test]
    fn links_in_circles_and_into_nowhere_are_no_problem() {
        let dir = tree(&["a.png"]);
        std::os::unix::fs::symlink(dir.path(), dir.path().join("loop")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("gone.png")).unwrap();
        let inputs = expand(&[dir.path().into()], None);
        assert_eq!(relative(&inputs), ["a.png"]);
        assert_eq!(inputs.problems, []);
    }
}
