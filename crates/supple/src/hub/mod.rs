//! Models from the Hugging Face hub, or from a server that speaks its protocol.
//!
//! `hf:owner/name` names a repository; `hf:owner/name@revision` a branch, tag or commit of it, and `hf:owner/name:choice` a
//! quantisation such as `Q4_K_M`, or a file. Files go into the cache that other programs share (`HF_HUB_CACHE`, or `hub` in
//! `HF_HOME`, or `~/.cache/huggingface/hub`), where a download that was cut off goes on. `HF_ENDPOINT`, `HF_TOKEN` and
//! `HF_HUB_OFFLINE` mean what they mean elsewhere.

mod choice;
mod source;

pub use choice::choose;
pub use source::Source;

use crate::Error;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong between here and the hub.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name that is none.
    #[error("{0:?} does not name a model on the hub")]
    Source(String),
    /// The repository, its revision or the file does not exist, or not for everybody.
    #[error("{0}: the hub has no such model, or does not show it to everybody")]
    NotFound(Source),
    /// The hub cannot be reached, or answers nonsense.
    #[error("{model}: {detail}")]
    Unreachable {
        /// The model.
        model: Source,
        /// What happened.
        detail: String,
    },
    /// The hub may not be asked, and the cache does not have the model.
    #[error("{0} is not in the cache, and HF_HUB_OFFLINE is set")]
    Offline(Source),
    /// No file of the repository is of use.
    #[error("{model}: {detail}")]
    NoChoice {
        /// The model.
        model: Source,
        /// What was looked for and not found.
        detail: String,
        /// What could be asked for.
        choices: Vec<String>,
    },
    /// What arrived is not what the hub has.
    #[error("{model}: {file} arrived damaged ({detail})")]
    Damaged {
        /// The model.
        model: Source,
        /// The file.
        file: String,
        /// How it differs.
        detail: String,
    },
    /// Another program downloads the same file.
    #[error("{0}: another program is downloading it")]
    Busy(Source),
}

impl HubError {
    /// What a person may try.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            HubError::Source(_) => "hf:owner/name, hf:owner/name:Q4_K_M or hf:owner/name@revision".into(),
            HubError::NotFound(_) => "check the name; for a model behind a licence set HF_TOKEN".into(),
            HubError::Unreachable { .. } => "check the connection and call again: what has arrived is kept".into(),
            HubError::Offline(_) => "unset HF_HUB_OFFLINE to download it".into(),
            HubError::NoChoice { choices, .. } if choices.is_empty() => return None,
            HubError::NoChoice { choices, .. } => format!("choose one of {}", choices.join(", ")),
            HubError::Damaged { .. } => "call again: it was removed and will be downloaded anew".into(),
            HubError::Busy(_) => "wait for it and call again".into(),
        })
    }
}

impl From<HubError> for Error {
    fn from(error: HubError) -> Error {
        Error::Hub(Box::new(error))
    }
}

/// Who watches a download.
pub trait Observer {
    /// File number `index` (from 0) of `files`, `bytes` long, begins; or begins anew to be counted from 0, with what is here
    /// already first, after the connection broke.
    fn begin(&mut self, index: usize, files: usize, name: &str, bytes: u64);

    /// So many more bytes are here.
    fn advance(&mut self, bytes: u64);
}

/// A connection to the hub, and the cache.
pub struct Hub {
    api: Api,
    cache: Cache,
    offline: bool,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("cache", self.cache.path()).field("offline", &self.offline).finish_non_exhaustive()
    }
}

impl Hub {
    /// The hub and the cache that the environment names.
    ///
    /// # Errors
    /// If there is no folder for the cache, or the token is none.
    pub fn from_env() -> Result<Hub, Error> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let cache = match (set("HF_HUB_CACHE"), set("HF_HOME")) {
            (Some(folder), _) => PathBuf::from(folder),
            (None, Some(home)) => PathBuf::from(home).join("hub"),
            (None, None) => {
                let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
                let none = || Error::BadOption("no home folder for the cache of models: set HF_HUB_CACHE".into());
                home.ok_or_else(none)?.join(".cache/huggingface/hub")
            }
        };
        let offline = set("HF_HUB_OFFLINE").is_some_and(|value| !matches!(value.to_str(), Some("0" | "false" | "off")));
        let endpoint = set("HF_ENDPOINT").and_then(|value| value.into_string().ok());
        let token = set("HF_TOKEN").and_then(|value| value.into_string().ok());
        Hub::new(cache, endpoint.as_deref(), token, offline)
    }

    /// The hub at `endpoint` (the public one if `None`), and a cache in `folder`.
    ///
    /// # Errors
    /// If the token cannot stand in a request.
    pub fn new(folder: PathBuf, endpoint: Option<&str>, token: Option<String>, offline: bool) -> Result<Hub, Error> {
        let cache = Cache::new(folder);
        let mut builder = ApiBuilder::from_cache(cache.clone()).with_progress(false).with_retries(2);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        if token.is_some() {
            builder = builder.with_token(token);
        }
        let api = builder.build().map_err(|error| Error::BadOption(format!("HF_TOKEN cannot be used: {error}")))?;
        Ok(Hub { api, cache, offline })
    }

    /// The model as a file (GGUF) or a folder (`config.json`, safetensors and the tokenizer's files) in the cache, downloaded
    /// as far as it is not there. What is there whole is used without asking the hub for it again; where the hub cannot
    /// be reached, so is what there is of an earlier time.
    ///
    /// # Errors
    /// If the model is not there and cannot be had.
    pub fn fetch(&self, source: &Source, observer: &mut dyn Observer) -> Result<PathBuf, Error> {
        let (local, remote) = (self.cache.repo(source.repo()), self.api.repo(source.repo()));
        if self.offline {
            return cached(source, &local).ok_or_else(|| HubError::Offline(source.clone()).into());
        }
        let names: Vec<String> = match remote.info() {
            Ok(info) => info.siblings.into_iter().map(|sibling| sibling.rfilename).collect(),
            Err(error) => {
                let error = refusal(source, error);
                let unreachable =
                    matches!(&error, Error::Hub(error) if matches!(**error, HubError::Unreachable { .. }));
                return unreachable.then(|| cached(source, &local)).flatten().ok_or(error);
            }
        };
        let files = choose(source, &names)?;
        let mut first = None;
        for (index, name) in files.iter().enumerate() {
            let path = match local.get(name) {
                Some(path) => path,
                None => download(source, &remote, name, &mut Relay { observer, index, files: files.len() })?,
            };
            first.get_or_insert((path, name));
        }
        let (path, name) = first.expect("a choice has a file at least");
        Ok(model(path, name))
    }
}

/// What is loaded: the first part of a GGUF file, or the folder of everything else.
fn model(first: PathBuf, name: &str) -> PathBuf {
    if name.ends_with(".gguf") {
        return first;
    }
    let depth = Path::new(name).components().count();
    first.ancestors().nth(depth).map_or_else(|| first.clone(), Path::to_path_buf)
}

/// The model as the cache has it, if it is whole as far as names tell.
fn cached(source: &Source, local: &CacheRepo) -> Option<PathBuf> {
    let any =
        ["config.json", "README.md", ".gitattributes"].iter().find_map(|name| local.get(name).map(|path| (path, 1)));
    let snapshot = match any {
        Some((path, depth)) => path.ancestors().nth(depth)?.to_path_buf(),
        None => local.get("")?,
    };
    let mut names = Vec::new();
    let mut folders = vec![snapshot.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).ok()?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                names.push(path.strip_prefix(&snapshot).ok()?.to_str()?.to_owned());
            }
        }
    }
    names.sort();
    let files = choose(source, &names).ok()?;
    let (first, name) = (local.get(files.first()?)?, files.first()?);
    choice::is_whole(&files, &snapshot).then(|| model(first, name))
}

/// Passes a download's progress on.
struct Relay<'a> {
    observer: &'a mut dyn Observer,
    index: usize,
    files: usize,
}

impl hf_hub::api::Progress for &mut Relay<'_> {
    fn init(&mut self, size: usize, name: &str) {
        self.observer.begin(self.index, self.files, name, size as u64);
    }

    fn update(&mut self, size: usize) {
        self.observer.advance(size as u64);
    }

    fn finish(&mut self) {}
}

/// Downloads a file and compares it with what the hub said of it.
fn download(source: &Source, remote: &ApiRepo, name: &str, relay: &mut Relay<'_>) -> Result<PathBuf, Error> {
    let path = match remote.download_with_progress(name, relay) {
        Err(ApiError::InvalidResume) => {
            let detail = "the part in the cache is longer than the whole".to_owned();
            return Err(HubError::Damaged { model: source.clone(), file: name.to_owned(), detail }.into());
        }
        other => other.map_err(|error| refusal(source, error))?,
    };
    // Large files are known by their SHA-256, which the cache has for their name.
    let blob = path.canonicalize().map_err(Error::io(&path, "find"))?;
    let wanted = blob.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if wanted.len() == 64 && wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let found = sum(&blob).map_err(Error::io(&blob, "read"))?;
        if !found.eq_ignore_ascii_case(wanted) {
            for file in [&path, &blob] {
                let _ = std::fs::remove_file(file);
            }
            let detail = "its SHA-256 is another".to_owned();
            return Err(HubError::Damaged { model: source.clone(), file: name.to_owned(), detail }.into());
        }
    }
    Ok(path)
}

fn sum(path: &Path) -> io::Result<String> {
    let mut digest = Sha256::new();
    io::copy(&mut File::open(path)?, &mut digest)?;
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The library's error in our words.
fn refusal(source: &Source, error: ApiError) -> Error {
    let model = source.clone();
    match error {
        ApiError::RequestError(error) => match *error {
            ureq::Error::StatusCode(401 | 403 | 404) => HubError::NotFound(model).into(),
            error => HubError::Unreachable { model, detail: format!("cannot ask the hub: {error}") }.into(),
        },
        ApiError::TooManyRetries(error) => refusal(source, *error),
        ApiError::LockAcquisition(_) => HubError::Busy(model).into(),
        ApiError::IoError(error) if error.kind() == io::ErrorKind::StorageFull => Error::Write(error),
        error => HubError::Unreachable { model, detail: format!("the hub broke off: {error}") }.into(),
    }
}
