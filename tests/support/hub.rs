//! A hub on this machine: the part of Hugging Face's API by which models are fetched.

use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The model that it has.
pub const MODEL: &str = "org/tiny";

/// How it behaves, and what was asked of it.
#[derive(Default)]
pub struct State {
    pub files: BTreeMap<String, Vec<u8>>,
    pub commit: String,
    /// The token without which files are refused.
    pub gate: Option<String>,
    /// Large files break off after so many bytes; as often as there are numbers.
    pub breaks: Vec<usize>,
    /// The same, but the connection stays and nothing more is sent.
    pub stalls: Vec<usize>,
    /// No request is answered, and no connection closed.
    pub mute: bool,
    /// Files are sent whole, whatever part of them is asked for.
    pub no_ranges: bool,
    /// The model has another name now: files are found behind a move on the same host.
    pub renamed: bool,
    /// Large files arrive with another first byte.
    pub damaged: bool,
    /// Files and where their bytes began, of requests for more than one byte.
    pub sent: Vec<(String, usize)>,
    pub requests: usize,
}

pub struct Hub {
    pub endpoint: String,
    pub state: Arc<Mutex<State>>,
}

impl Hub {
    /// Serves the files of a folder until the test ends.
    pub fn serve(folder: &Path) -> Hub {
        let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
        let files = entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect();
        let state = Arc::new(Mutex::new(State { files, commit: "c0ffee".repeat(6), ..State::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (shared, address) = (state.clone(), endpoint.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, address) = (shared.clone(), address.clone());
                std::thread::spawn(move || answer(stream, &state, &address));
            }
        });
        Hub { endpoint, state }
    }

    /// What was sent since the last call: files, and where their bytes began.
    pub fn sent(&self) -> Vec<(String, usize)> {
        std::mem::take(&mut self.state.lock().unwrap().sent)
    }
}

struct Answer {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Bytes that are really sent.
    sent: usize,
    /// The connection stays open behind them.
    stalls: bool,
}

fn plain(status: &'static str, body: &str) -> Answer {
    Answer { status, headers: vec![], body: body.into(), sent: body.len(), stalls: false }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>, address: &str) {
    let (mut head, mut byte) = (vec![], [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap_or_default().to_string();
    let field = |name: &str| {
        let line = head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")))?;
        Some(line.split_once(':')?.1.trim().to_string())
    };
    if state.lock().unwrap().mute {
        return std::mem::forget(stream);
    }
    let Answer { status, headers, body, sent, stalls } = route(&path, field, &mut state.lock().unwrap(), address);
    let headers: String = headers.into_iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    // The client may be gone.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..sent]));
    if stalls {
        std::mem::forget(stream);
    }
}

fn route(path: &str, field: impl Fn(&str) -> Option<String>, state: &mut State, address: &str) -> Answer {
    state.requests += 1;
    let token = field("authorization").and_then(|value| value.strip_prefix("Bearer ").map(String::from));
    if path == format!("/api/models/{MODEL}/revision/main") {
        let siblings: Vec<_> = state.files.keys().map(|name| json!({ "rfilename": name })).collect();
        return plain("200 OK", &json!({ "sha": state.commit, "siblings": siblings }).to_string());
    }
    let old = format!("/{MODEL}/resolve/main/");
    if let (Some(file), true) = (path.strip_prefix(&old), state.renamed) {
        let headers = vec![("Location", format!("/new{old}{file}"))];
        return Answer { headers, ..plain("307 Temporary Redirect", "") };
    }
    if let Some(file) = path.strip_prefix("/new").unwrap_or(path).strip_prefix(&old) {
        match (&state.gate, token.as_deref()) {
            (Some(gate), Some("no access")) if gate != "no access" => return plain("403 Forbidden", "ask"),
            (Some(gate), token) if token != Some(gate) => return plain("401 Unauthorized", "log in"),
            _ => {}
        }
        let Some(bytes) = state.files.get(file) else { return plain("404 Not Found", "") };
        let hash = format!("{:x}", Sha256::digest(bytes));
        let commit = ("X-Repo-Commit", state.commit.clone());
        if file.ends_with(".safetensors") {
            let location = ("Location", format!("{address}/cdn/{file}"));
            let headers = vec![commit, ("X-Linked-Etag", format!("\"{hash}\"")), location];
            return Answer { headers, ..plain("302 Found", "") };
        }
        let mut answer = part(state, file, field("range"));
        answer.headers.extend([commit, ("ETag", format!("\"{}\"", &hash[..40]))]);
        return answer;
    }
    match path.strip_prefix("/cdn/") {
        Some(file) => {
            let mut answer = part(state, file, field("range"));
            if answer.body.len() > 1 {
                if state.damaged {
                    answer.body[0] ^= 1;
                }
                if !state.breaks.is_empty() {
                    answer.sent = state.breaks.remove(0).min(answer.body.len());
                }
                if !state.stalls.is_empty() {
                    answer.sent = state.stalls.remove(0).min(answer.body.len());
                    answer.stalls = true;
                }
            }
            answer
        }
        None => plain("404 Not Found", ""),
    }
}

fn part(state: &mut State, file: &str, range: Option<String>) -> Answer {
    let bytes = &state.files[file];
    let asks_for_one_byte = range.as_deref() == Some("bytes=0-0");
    let range = range.filter(|_| !state.no_ranges || asks_for_one_byte).unwrap_or("bytes=0-".into());
    let (from, to) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).unwrap();
    let from: usize = from.parse().unwrap();
    let to = to.parse().map_or(bytes.len(), |to: usize| to + 1).min(bytes.len());
    if from >= to {
        return plain("416 Range Not Satisfiable", "");
    }
    let body = bytes[from..to].to_vec();
    if body.len() > 1 {
        state.sent.push((file.to_string(), from));
    }
    let headers = vec![("Content-Range", format!("bytes {from}-{}/{}", to - 1, bytes.len()))];
    let status = if state.no_ranges && !asks_for_one_byte { "200 OK" } else { "206 Partial Content" };
    Answer { status, headers, sent: body.len(), stalls: false, body }
}
