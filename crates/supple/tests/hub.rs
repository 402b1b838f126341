//! Downloading from a hub: a server on this machine that speaks its protocol.
#![cfg(feature = "hub")]

use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use supple::Error;
use supple::hub::{Hub, HubError, Observer};

/// What the server has and does.
#[derive(Default)]
struct State {
    /// Content and ETag by path in the repository `owner/name`.
    files: HashMap<String, (Vec<u8>, String)>,
    /// Bytes after which the next long answers break off, one number an answer.
    breaks: Vec<usize>,
    /// Requests for content: path and the byte they begin with.
    requests: Vec<(String, usize)>,
    /// Requests for the list of files.
    lists: usize,
    /// What `Authorization` said last.
    token: Option<String>,
}

struct Server {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || answer(&stream, &shared));
            }
        });
        Server { address, state }
    }

    fn put(&self, name: &str, content: &[u8], etag: &str) {
        self.state.lock().unwrap().files.insert(name.to_owned(), (content.to_vec(), etag.to_owned()));
    }

    fn hub(&self, folder: &Path) -> Hub {
        Hub::new(folder.to_path_buf(), Some(&self.address), Some("secret".into()), false).unwrap()
    }

    /// Requests for more than the first byte.
    fn downloads(&self) -> Vec<(String, usize)> {
        self.state.lock().unwrap().requests.clone()
    }
}

fn answer(mut stream: &TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let line = lines.next()?.ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut range = None;
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        match name.to_lowercase().as_str() {
            "range" => range = value.strip_prefix("bytes=").map(str::to_owned),
            "authorization" => state.lock().unwrap().token = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut state = state.lock().unwrap();
    if path.starts_with("/api/models/owner/name") {
        state.lists += 1;
        let siblings: Vec<_> = state.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let body = serde_json::json!({ "siblings": siblings, "sha": "c0ffee" }).to_string();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        return stream.write_all(head.as_bytes()).ok();
    }
    let name = path.strip_prefix("/owner/name/resolve/main/").map(str::to_owned);
    let Some((name, (content, etag))) = name.and_then(|name| Some((name.clone(), state.files.get(&name)?.clone())))
    else {
        let head = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return stream.write_all(head.as_bytes()).ok();
    };
    // The hub is asked for the first byte alone where only the size is of interest.
    let (from, to) = match range.as_deref().and_then(|range| range.split_once('-')) {
        Some((from, "")) => (from.parse().ok()?, content.len()),
        Some((from, to)) => (from.parse().ok()?, to.parse::<usize>().ok()? + 1),
        None => (0, content.len()),
    };
    let mut end = to.min(content.len());
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nETag: \"{etag}\"\r\nX-Repo-Commit: c0ffee\r\nContent-Range: bytes {from}-{}/{}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        end.saturating_sub(1),
        content.len(),
        end - from
    );
    if range.as_deref() != Some("0-0") {
        state.requests.push((name, from));
        if !state.breaks.is_empty() {
            end = end.min(from + state.breaks.remove(0));
        }
    }
    drop(state);
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&content[from..end]).ok()
}

/// Remembers what it is told.
#[derive(Default)]
struct Seen {
    begun: Vec<(usize, usize, String, u64)>,
    bytes: u64,
}

impl Observer for Seen {
    fn begin(&mut self, index: usize, files: usize, name: &str, bytes: u64) {
        self.begun.push((index, files, name.to_owned(), bytes));
        self.bytes = 0;
    }

    fn advance(&mut self, bytes: u64) {
        self.bytes += bytes;
    }
}

fn of_hub(error: Error) -> HubError {
    match error {
        Error::Hub(error) => *error,
        error => panic!("{error}"),
    }
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 % 251) as u8).collect()
}

#[test]
fn a_file_is_downloaded_once_and_lies_where_others_look_for_it() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    let bytes = content(300_000);
    server.put("m-Q8_0.gguf", b"other", "e0");
    server.put("m-Q4_K_M.gguf", &bytes, "e1");
    let (hub, source) = (server.hub(folder.path()), "hf:owner/name".parse().unwrap());
    let mut seen = Seen::default();
    let path = hub.fetch(&source, &mut seen).unwrap();
    assert_eq!(path, folder.path().join("models--owner--name/snapshots/c0ffee/m-Q4_K_M.gguf"));
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    seen.begun.dedup();
    assert_eq!(seen.begun, [(0, 1, "m-Q4_K_M.gguf".to_owned(), 300_000)]);
    assert_eq!(seen.bytes, 300_000);
    assert_eq!(server.state.lock().unwrap().token.as_deref(), Some("Bearer secret"));
    assert_eq!(hub.fetch(&source, &mut seen).unwrap(), path);
    assert_eq!(server.downloads(), [("m-Q4_K_M.gguf".to_owned(), 0)], "the second time nothing is downloaded");
}

#[test]
fn a_download_that_was_cut_off_goes_on() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    let bytes = content(100_000);
    server.put("m.gguf", &bytes, "e1");
    // More than the attempts of one call.
    server.state.lock().unwrap().breaks = vec![30_000, 0, 0, 0];
    let (hub, source) = (server.hub(folder.path()), "hf:owner/name".parse().unwrap());
    let error = hub.fetch(&source, &mut Seen::default()).unwrap_err();
    assert!(matches!(of_hub(error), HubError::Unreachable { .. }));
    server.state.lock().unwrap().breaks.clear();
    let before = server.downloads().len();
    let path = hub.fetch(&source, &mut Seen::default()).unwrap();
    assert_eq!(server.downloads()[before..], [("m.gguf".to_owned(), 30_000)]);
    assert_eq!(std::fs::read(path).unwrap(), bytes);
}

#[test]
fn a_damaged_file_is_not_kept() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    let wrong = "0123456789abcdef".repeat(4);
    server.put("m.gguf", b"GGUF", &wrong);
    let (hub, source) = (server.hub(folder.path()), "hf:owner/name".parse().unwrap());
    let error = hub.fetch(&source, &mut Seen::default()).unwrap_err();
    assert!(matches!(of_hub(error), HubError::Damaged { file, .. } if file == "m.gguf"));
    let right: String = Sha256::digest(b"GGUF").iter().map(|byte| format!("{byte:02x}")).collect();
    server.put("m.gguf", b"GGUF", &right);
    assert_eq!(std::fs::read(hub.fetch(&source, &mut Seen::default()).unwrap()).unwrap(), b"GGUF");
}

#[test]
fn without_the_hub_the_cache_serves() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        server.put(name, name.as_bytes(), name);
    }
    let source = "hf:owner/name".parse().unwrap();
    let path = server.hub(folder.path()).fetch(&source, &mut Seen::default()).unwrap();
    assert_eq!(path, folder.path().join("models--owner--name/snapshots/c0ffee"));
    assert_eq!(std::fs::read_to_string(path.join("tokenizer.json")).unwrap(), "tokenizer.json");
    // Nobody listens on port 9 of this machine.
    for offline in [false, true] {
        let hub = Hub::new(folder.path().to_path_buf(), Some("http://127.0.0.1:9"), None, offline).unwrap();
        assert_eq!(hub.fetch(&source, &mut Seen::default()).unwrap(), path);
        let error = hub.fetch(&"hf:owner/other".parse().unwrap(), &mut Seen::default()).unwrap_err();
        assert!(error.hint().is_some());
        let error = of_hub(error);
        let wanted =
            if offline { matches!(error, HubError::Offline(_)) } else { matches!(error, HubError::Unreachable { .. }) };
        assert!(wanted, "{error}");
    }
}

#[test]
fn what_the_hub_does_not_have_is_named() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    server.put("m-Q8_0.gguf", b"GGUF", "e");
    let hub = server.hub(folder.path());
    let error = hub.fetch(&"hf:nobody/nothing".parse().unwrap(), &mut Seen::default()).unwrap_err();
    assert!(matches!(of_hub(error), HubError::NotFound(_)));
    let error = hub.fetch(&"hf:owner/name:Q4_0".parse().unwrap(), &mut Seen::default()).unwrap_err();
    assert_eq!(error.to_string(), "hf:owner/name:Q4_0: there is no Q4_0");
    assert_eq!(error.hint().as_deref(), Some("choose one of q8_0"));
}
