use super::HubError;
use std::env::{home_dir, var, var_os};
use std::path::PathBuf;
use std::time::Duration;

/// What the environment says of hubs, in the words of `huggingface_hub`.
pub struct Environment {
    /// The address of the hub.
    pub endpoint: String,
    /// The folder of the cache.
    pub cache: PathBuf,
    /// Who asks, and where that is written.
    pub token: Option<(String, String)>,
    /// No network.
    pub offline: bool,
    /// How long a hub may be silent.
    pub silence: Duration,
}

/// As `huggingface_hub` has it.
const SILENCE: Duration = Duration::from_secs(10);

impl Environment {
    pub fn read() -> Result<Environment, HubError> {
        let path = |name| var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let general = || path("XDG_CACHE_HOME").or_else(|| home_dir().map(|home| home.join(".cache")));
        let home = path("HF_HOME").or_else(|| general().map(|cache| cache.join("huggingface")));
        let cache = path("HF_HUB_CACHE").or_else(|| home.as_ref().map(|home| home.join("hub")));
        let text = |name| var(name).ok().map(|value| value.trim().to_string()).filter(|value| !value.is_empty());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let from_file = || {
            let path = home.as_ref()?.join("token");
            let token = std::fs::read_to_string(&path).ok()?.trim().to_string();
            (!token.is_empty()).then(|| (token, path.display().to_string()))
        };
        let silence = match text("HF_HUB_DOWNLOAD_TIMEOUT") {
            None => SILENCE,
            Some(word) => seconds(&word).ok_or(HubError::Timeout(word))?,
        };
        Ok(Environment {
            endpoint: endpoint.trim_end_matches('/').into(),
            cache: cache.ok_or(HubError::NoHome)?,
            token: text("HF_TOKEN").map(|token| (token, "HF_TOKEN".to_string())).or_else(from_file),
            offline: text("HF_HUB_OFFLINE").is_some_and(|word| is_yes(&word)),
            silence,
        })
    }
}

fn is_yes(word: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&word.to_uppercase().as_str())
}

fn seconds(word: &str) -> Option<Duration> {
    word.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).filter(|limit| !limit.is_zero())
}
