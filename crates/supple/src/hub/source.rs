//! Names of models on the hub.

use super::HubError;
use hf_hub::{Repo, RepoType};
use std::fmt;
use std::str::FromStr;

/// Where a model is on the hub: `hf:owner/name[@revision][:choice]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// `owner/name`.
    pub repository: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// A quantisation such as `Q4_K_M`, or a file; what is best for most if `None`.
    pub choice: Option<String>,
}

impl Source {
    /// Whether a name is meant to be one of the hub.
    pub fn is_meant(name: &str) -> bool {
        name.starts_with("hf:")
    }

    pub(super) fn repo(&self) -> Repo {
        Repo::with_revision(self.repository.clone(), RepoType::Model, self.revision.clone())
    }
}

/// Whether a word may stand in a path and a URL as it is.
fn is_plain(word: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !word.is_empty() && word.bytes().all(known) && !word.starts_with('.') && !word.contains("..")
}

impl FromStr for Source {
    type Err = HubError;

    fn from_str(name: &str) -> Result<Source, HubError> {
        let refused = || HubError::Source(name.to_owned());
        let rest = name.strip_prefix("hf:").unwrap_or(name);
        let (rest, choice) = match rest.split_once(':') {
            Some((rest, choice)) => (rest, Some(choice)),
            None => (rest, None),
        };
        let (repository, revision) = rest.split_once('@').unwrap_or((rest, "main"));
        let whole = repository.split_once('/').is_some_and(|(owner, name)| is_plain(owner) && is_plain(name));
        let paths = |text: &str| text.split('/').all(is_plain);
        if !whole || !paths(revision) || !choice.is_none_or(paths) {
            return Err(refused());
        }
        let (repository, revision) = (repository.to_owned(), revision.to_owned());
        Ok(Source { repository, revision, choice: choice.map(str::to_owned) })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}", self.repository)?;
        if self.revision != "main" {
            write!(f, "@{}", self.revision)?;
        }
        self.choice.as_ref().map_or(Ok(()), |choice| write!(f, ":{choice}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_and_put_together() {
        for (name, repository, revision, choice) in [
            ("hf:a/b", "a/b", "main", None),
            ("hf:a/b-GGUF:Q4_K_M", "a/b-GGUF", "main", Some("Q4_K_M")),
            ("hf:a/b@v1.0", "a/b", "v1.0", None),
            ("hf:a/b@refs/pr/1:sub/x.gguf", "a/b", "refs/pr/1", Some("sub/x.gguf")),
        ] {
            let source: Source = name.parse().unwrap();
            assert_eq!((source.repository.as_str(), source.revision.as_str()), (repository, revision));
            assert_eq!(source.choice.as_deref(), choice);
            assert_eq!(source.to_string(), name);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for name in [
            "hf:",
            "hf:a",
            "hf:a/",
            "hf:/b",
            "hf:a/b/c",
            "hf:a/..",
            "hf:../b",
            "hf:a/b@",
            "hf:a/b@../x",
            "hf:a/b:",
            "hf:a/b:../../etc/passwd",
            "hf:a b/c",
            "hf:a/b:/x",
            "hf:a/b?x=1",
        ] {
            assert!(name.parse::<Source>().is_err(), "{name}");
        }
    }
}
