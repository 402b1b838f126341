//! The names of a network's outputs.
//!
//! A labels file has one name a line. Networks of the TensorFlow family have 1,001 outputs, the first of which is the
//! background; files of 1,000 and of 1,001 lines are in use for them, and for networks of 1,000 outputs as well. All
//! four combinations are understood.

use crate::Error;
use std::path::Path;

/// Longest file that is read: labels are short.
const MAX_BYTES: u64 = 16 << 20;
/// Classes of ImageNet, without the background.
pub(super) const IMAGENET: usize = 1000;
/// What the first of 1,001 outputs is called.
pub(super) const BACKGROUND: &str = "background";

/// Reads a labels file.
///
/// # Errors
/// If it cannot be read, is too long, or is no text.
pub fn read(path: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error::Io { path: path.into(), action: "read", source };
    let bytes = match std::fs::metadata(path).map_err(failed)?.len() {
        0..=MAX_BYTES => std::fs::read(path).map_err(failed)?,
        _ => return Err(failed(std::io::ErrorKind::FileTooLarge.into())),
    };
    let no_text = |_| Error::BadOption(format!("{}: labels must be text in UTF-8, one a line", path.display()));
    Ok(parse(&String::from_utf8(bytes).map_err(no_text)?))
}

/// The lines of a labels file, without what editors add.
pub fn parse(text: &str) -> Vec<String> {
    text.trim_start_matches('\u{feff}').trim_end().lines().map(|line| line.trim().to_string()).collect()
}

/// One label for each of `outputs`, adding or dropping the background.
///
/// # Errors
/// If their number does not fit.
pub(super) fn fit(mut labels: Vec<String>, outputs: usize) -> Result<Vec<String>, Error> {
    let found = labels.len();
    let first_is_background = labels.first().is_some_and(|label| label.eq_ignore_ascii_case(BACKGROUND));
    match found {
        _ if found == outputs => {}
        IMAGENET if outputs == IMAGENET + 1 && !first_is_background => labels.insert(0, BACKGROUND.into()),
        _ if found == outputs + 1 && first_is_background => drop(labels.remove(0)),
        _ => return Err(Error::Labels { found, outputs }),
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn lines_are_read_as_editors_write_them() {
        assert_eq!(parse("\u{feff}cat\r\nhot dog \r\n\r\nowl\n\n"), ["cat", "hot dog", "", "owl"]);
        assert!(parse("").is_empty());
    }

    #[test]
    fn the_background_may_be_on_either_side() {
        let (with, without) = (some(&["Background", "cat", "dog"]), some(&["cat", "dog"]));
        assert_eq!(fit(with.clone(), 3).unwrap(), with);
        assert_eq!(fit(without.clone(), 2).unwrap(), without);
        let thousand: Vec<String> = (0..IMAGENET).map(|i| format!("class {i}")).collect();
        let fitted = fit(thousand.clone(), IMAGENET + 1).unwrap();
        assert_eq!((fitted.len(), &fitted[0][..], &fitted[1]), (IMAGENET + 1, BACKGROUND, &thousand[0]));
        // Elsewhere one label too few is a mistake: all names would be off by one.
        assert!(fit(without.clone(), 3).is_err());
        for (labels, outputs) in [(with, 4), (without.clone(), 1), (without, 4), (vec![], 3)] {
            assert!(matches!(fit(labels, outputs), Err(Error::Labels { .. })), "{outputs}");
        }
    }

    #[test]
    fn files_that_are_no_labels_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.txt");
        assert!(matches!(read(&path), Err(Error::Io { .. })));
        std::fs::write(&path, [0xff, 0xfe, 0]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("UTF-8"));
        std::fs::File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
        assert!(matches!(read(&path), Err(Error::Io { .. })));
    }
}
