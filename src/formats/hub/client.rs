use super::environment::Environment;
use serde::Deserialize;
use std::io;
use std::time::Duration;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body};

/// Requests to a hub, which may not be silent for longer than a limit.
pub struct Client {
    agent: Agent,
    token: Option<String>,
    silence: Duration,
}

/// The commit and the files of a model.
#[derive(Deserialize)]
pub struct Info {
    pub sha: String,
    pub siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
pub struct Sibling {
    pub rfilename: String,
}

/// What a hub says of a file before it sends it.
pub struct Metadata {
    pub commit: String,
    pub etag: String,
}

/// Why a request came to nothing.
#[derive(Debug)]
pub enum RequestError {
    /// The hub answers with a status that is none of success.
    Status(u16),
    /// It says nothing any more.
    Silent(Duration),
    /// The connection cannot be made, or breaks.
    Connection(String),
    /// It answers something else than its API has.
    Nonsense(String),
    /// What it sends cannot be written.
    Disk(io::Error),
}

pub type Result<T> = std::result::Result<T, RequestError>;

impl Client {
    pub fn new(environment: &Environment) -> Client {
        let silence = Some(environment.silence);
        let config = Agent::config_builder()
            .user_agent(concat!("kiungo/", env!("CARGO_PKG_VERSION")))
            // A token is for the hub, not for where it keeps its files.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_resolve(silence)
            .timeout_connect(silence)
            .timeout_send_request(silence)
            .timeout_recv_response(silence)
            .timeout_per_read(silence);
        let token = environment.token.as_ref().map(|(token, _)| token.clone());
        Client { agent: config.build().into(), token, silence: environment.silence }
    }

    pub fn info(&self, url: &str) -> Result<Info> {
        let mut response = self.get(url, None, true)?;
        let text = response.body_mut().read_to_string().map_err(|e| self.error(e))?;
        serde_json::from_str(&text).map_err(|e| RequestError::Nonsense(format!("{url}: {e}")))
    }

    /// Asks for one byte, and leaves the way to another host ungone: what is said on it is of the hub.
    pub fn metadata(&self, url: &str) -> Result<Metadata> {
        let mut url: Uri = url.parse().map_err(|_| RequestError::Nonsense(format!("{url} is no address")))?;
        let mut response = self.get(&url.to_string(), Some("bytes=0-0"), false)?;
        // A model that was renamed is elsewhere on the same host.
        for _ in 0..MOVES {
            let Some(place) = place_on_host(&url, &response) else { break };
            url = place;
            response = self.get(&url.to_string(), Some("bytes=0-0"), false)?;
        }
        let field = |names: &[&str]| text(response.headers(), names);
        Ok(Metadata { commit: field(&["x-repo-commit"])?, etag: field(&["x-linked-etag", "etag"])?.replace('"', "") })
    }

    /// A file from a byte on, or, where the status is 200, from its first.
    pub fn open(&self, url: &str, from: u64) -> Result<Response<Body>> {
        self.get(url, Some(&format!("bytes={from}-")), true)
    }

    fn get(&self, url: &str, range: Option<&str>, follow: bool) -> Result<Response<Body>> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(range) = range {
            request = request.header("Range", range);
        }
        let config = request.config();
        let request = if follow { config.build() } else { config.max_redirects(0).build() };
        request.call().map_err(|e| self.error(e))
    }

    fn error(&self, error: ureq::Error) -> RequestError {
        match error {
            ureq::Error::StatusCode(code) => RequestError::Status(code),
            ureq::Error::Timeout(_) => RequestError::Silent(self.silence),
            ureq::Error::Io(e) => self.read_error(e),
            ureq::Error::BodyExceedsLimit(_) => RequestError::Nonsense(error.to_string()),
            other => RequestError::Connection(other.to_string()),
        }
    }

    /// Why no more can be read.
    pub fn read_error(&self, error: io::Error) -> RequestError {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
        match inner {
            Some(ureq::Error::Timeout(_)) => RequestError::Silent(self.silence),
            _ => RequestError::Connection(error.to_string()),
        }
    }
}

/// Moves on one host that are followed.
const MOVES: usize = 5;

/// Where a response sends to on the same host, if it does.
fn place_on_host(url: &Uri, response: &Response<Body>) -> Option<Uri> {
    let place: Uri = response.headers().get("location")?.to_str().ok()?.parse().ok()?;
    if !response.status().is_redirection() || place.host().is_some() {
        return None;
    }
    let mut parts = url.clone().into_parts();
    parts.path_and_query = place.into_parts().path_and_query;
    Uri::from_parts(parts).ok()
}

fn text(headers: &HeaderMap, names: &[&str]) -> Result<String> {
    let found = names.iter().find_map(|name| headers.get(*name)?.to_str().ok());
    found.map(String::from).ok_or_else(|| RequestError::Nonsense(format!("the hub's answer has no {}", names[0])))
}

impl RequestError {
    /// True for what another try may find gone: a broken connection, a hub that is busy.
    pub fn may_pass(&self) -> bool {
        match self {
            RequestError::Status(code) => *code == 429 || *code >= 500,
            RequestError::Silent(_) | RequestError::Connection(_) => true,
            RequestError::Nonsense(_) | RequestError::Disk(_) => false,
        }
    }

    /// The status that the hub answers with, where it does.
    pub fn status(&self) -> Option<u16> {
        match self {
            RequestError::Status(code) => Some(*code),
            _ => None,
        }
    }
}

impl std::fmt::Display for RequestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RequestError::Status(404) => f.write_str("the hub has no such file (status 404)"),
            RequestError::Status(code) => write!(f, "the hub answers with status {code}"),
            RequestError::Silent(limit) => write!(f, "the hub has been silent for {} s", limit.as_secs_f64()),
            RequestError::Connection(message) | RequestError::Nonsense(message) => f.write_str(message),
            RequestError::Disk(error) => error.fmt(f),
        }
    }
}
