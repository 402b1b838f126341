//! What was written in conversations before, kept in a file from one to the next: a line an entry, line breaks as `\n`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Entries that are offered.
const MOST: usize = 1000;
/// Bytes of the file's end that are read, and beyond which it is shortened.
const MAX_BYTES: u64 = 1 << 20;

/// A file of entries. Without one, nothing is kept.
pub struct History {
    path: Option<PathBuf>,
}

impl History {
    /// The user's: `SUPPLE_HISTORY` (empty for none), or `supple/chat_history` where the system keeps such things.
    pub fn of_user() -> History {
        let variable = |name: &str| std::env::var_os(name);
        if let Some(path) = variable("SUPPLE_HISTORY") {
            return History { path: Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty()) };
        }
        let state = if cfg!(windows) { variable("LOCALAPPDATA") } else { variable("XDG_STATE_HOME") };
        let state = state.map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || std::env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(".local/state"));
        History { path: state.or_else(home).map(|folder| folder.join("supple/chat_history")) }
    }

    /// Kept at `path`.
    #[cfg(test)]
    fn at(path: &Path) -> History {
        History { path: Some(path.to_owned()) }
    }

    /// The last entries, oldest first. A file that cannot be read is as good as none.
    pub fn entries(&self) -> Vec<String> {
        let Some(text) = self.path.as_deref().and_then(|path| tail(path).ok()) else { return Vec::new() };
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(MOST)..].iter().map(|line| unescape(line)).collect()
    }

    /// Adds an entry, readable for the user only. That it cannot be kept is no reason to stop.
    pub fn add(&self, entry: &str) {
        if let Some(path) = &self.path {
            let _ = append(path, entry);
        }
    }
}

/// The end of a file, from the start of a line.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let skipped = file.metadata()?.len().saturating_sub(MAX_BYTES);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(match text.split_once('\n') {
        Some((_, rest)) if skipped > 0 => rest.to_owned(),
        _ => text,
    })
}

fn append(path: &Path, entry: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    if file.metadata()?.len() > 2 * MAX_BYTES {
        let kept = tail(path)?;
        file.set_len(0)?;
        file.write_all(kept.as_bytes())?;
    }
    file.write_all(format!("{}\n", escape(entry)).as_bytes())
}

fn escape(entry: &str) -> String {
    entry.replace('\\', r"\\").replace('\n', r"\n").replace('\r', "")
}

fn unescape(line: &str) -> String {
    let (mut text, mut letters) = (String::with_capacity(line.len()), line.chars());
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => text.push(if letters.next() == Some('n') { '\n' } else { '\\' }),
            letter => text.push(letter),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_in_the_next_session() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/history");
        assert!(History::at(&path).entries().is_empty());
        let written = ["one", "two\nlines and a \\n", "ends with \\", "\u{e9}\u{1f680}"];
        for entry in written {
            History::at(&path).add(entry);
        }
        assert_eq!(History::at(&path).entries(), written);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "no one else reads it");
        }
        // A folder in its place is no history, and no error.
        History::at(folder.path()).add("x");
        assert!(History::at(folder.path()).entries().is_empty());
    }

    #[test]
    fn the_file_does_not_grow_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        let long = "x".repeat(3000);
        let history = History::at(&path);
        (0..1500).for_each(|i| history.add(&format!("{i} {long}")));
        assert!(fs::metadata(&path).unwrap().len() < 3 * MAX_BYTES);
        let entries = history.entries();
        assert!(entries.len() > 300 && entries.len() <= MOST);
        assert!(entries.last().unwrap().starts_with("1499 ") && entries[0].ends_with("xxx"));
    }
}
