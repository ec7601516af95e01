use super::environment::Environment;
use super::{HubError, ModelId, Progress, Result, Snapshot};
use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{ApiError, ApiRepo};
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Tries that bring nothing, in a row, until it is given up.
const TRIES: usize = 5;
/// Before the second try; each further one waits twice as long.
const WAIT: Duration = Duration::from_millis(200);

/// A file name without a path: what a server says must not lead out of the cache.
pub fn name(text: &str) -> Option<&str> {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    (plain && !text.is_empty() && !text.starts_with('.')).then_some(text)
}

/// The commit and the files of a model.
pub fn info(api: &ApiRepo, id: &ModelId, environment: &Environment) -> Result<RepoInfo> {
    let (endpoint, token) = (environment.endpoint.clone(), environment.token.as_ref().map(|(_, place)| place.clone()));
    let mut tries = 1;
    loop {
        let error = match api.info() {
            Ok(info) => return Ok(info),
            Err(error) => error,
        };
        if matches!(status(&error), Some(401 | 403 | 404)) {
            return Err(HubError::NotFound { id: id.clone(), endpoint, token });
        }
        if tries == TRIES || !may_pass(&error) {
            let message = in_words(&error);
            return Err(HubError::Unreachable { id: id.clone(), endpoint, message });
        }
        std::thread::sleep(WAIT * (1 << (tries - 1)));
        tries += 1;
    }
}

/// One file on its way into the cache.
pub struct Download<'a> {
    pub snapshot: &'a Snapshot,
    pub file: &'a str,
    pub progress: Progress<'a>,
}

/// What hf-hub is told to call.
struct Told<'a> {
    file: &'a str,
    done: &'a Cell<u64>,
    total: u64,
    progress: Progress<'a>,
}

impl hf_hub::api::Progress for Told<'_> {
    fn init(&mut self, size: usize, _: &str) {
        (self.total, _) = (size as u64, self.done.set(0));
    }

    fn update(&mut self, bytes: usize) {
        self.done.set(self.done.get() + bytes as u64);
        (self.progress)(self.file, self.done.get(), self.total);
    }

    fn finish(&mut self) {}
}

impl Download<'_> {
    /// Fetches it, in as many tries as it takes while each brings something.
    pub fn run(&self) -> Result<()> {
        let (mut idle, mut most, mut anew) = (0, 0, false);
        let done = Cell::new(0);
        loop {
            let error = match self.attempt(&done) {
                Ok(()) => return Ok(()),
                Err(Failure::Hub(error)) => return Err(error),
                Err(Failure::Api(error)) => error,
            };
            let unusable = matches!(error, ApiError::InvalidResume) || status(&error) == Some(416);
            if unusable && !anew {
                // A beginning that no answer continues: longer than the file, or whole already.
                anew = true;
                self.remove_beginning()?;
                continue;
            }
            if !may_pass(&error) {
                return Err(self.error(&error));
            }
            idle = if done.get() > most { 1 } else { idle + 1 };
            most = most.max(done.get());
            if idle == TRIES {
                let (id, file, message) = (self.snapshot.id.clone(), self.file.to_string(), in_words(&error));
                return Err(HubError::Broken { id, file, message, tries: TRIES });
            }
            std::thread::sleep(WAIT * (1 << (idle - 1)));
        }
    }

    fn attempt(&self, done: &Cell<u64>) -> Result<(), Failure> {
        let blob = self.blob()?;
        if blob.exists() {
            return Ok(self.link(&blob)?);
        }
        let told = Told { file: self.file, done, total: 0, progress: self.progress };
        let path = self.snapshot.api.download_with_progress(self.file, told)?;
        if path.parent() != Some(&self.snapshot.folder) {
            return Err(HubError::Moved { id: self.snapshot.id.clone() }.into());
        }
        Ok(self.check(&path, &blob)?)
    }

    /// Where its bytes lie, by what they are: another commit may have brought them.
    fn blob(&self) -> Result<PathBuf, Failure> {
        let Snapshot { hub, api, cache, folder, id, .. } = self.snapshot;
        let metadata = hub.metadata(&api.url(self.file))?;
        if cache.pointer_path(metadata.commit_hash()) != *folder {
            return Err(HubError::Moved { id: id.clone() }.into());
        }
        let etag = name(metadata.etag()).ok_or_else(|| HubError::answer(id, metadata.etag()))?;
        Ok(cache.blob_path(etag))
    }

    fn link(&self, blob: &Path) -> Result<()> {
        let path = self.snapshot.folder.join(self.file);
        let failed = |source| HubError::Cache { path: path.clone(), source };
        fs::create_dir_all(&self.snapshot.folder).map_err(failed)?;
        let blob = blob.file_name().unwrap_or_default();
        symlink(Path::new("../../blobs").join(blob), &path).map_err(failed)
    }

    /// Large files are named by their SHA-256.
    fn check(&self, path: &Path, blob: &Path) -> Result<()> {
        let failed = |source| HubError::Cache { path: blob.into(), source };
        let announced = blob.file_name().unwrap_or_default().to_string_lossy();
        if announced.len() != 64 {
            return Ok(());
        }
        let mut hash = Sha256::new();
        File::open(blob).and_then(|mut file| io::copy(&mut file, &mut hash)).map_err(failed)?;
        if format!("{:x}", hash.finalize()) == announced.to_lowercase() {
            return Ok(());
        }
        fs::remove_file(path).and_then(|()| fs::remove_file(blob)).map_err(failed)?;
        Err(HubError::Damaged { id: self.snapshot.id.clone(), file: self.file.into() })
    }

    fn remove_beginning(&self) -> Result<()> {
        let Ok(blob) = self.blob() else { return Ok(()) };
        let path = blob.with_extension("part");
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(HubError::Cache { path, source }),
            _ => Ok(()),
        }
    }

    fn error(&self, error: &ApiError) -> HubError {
        let Snapshot { id, environment, .. } = self.snapshot;
        let (id, file) = (id.clone(), self.file.to_string());
        let token = environment.token.as_ref().map(|(_, place)| place.clone());
        match (status(error), error) {
            (Some(code @ (401 | 403)), _) => {
                HubError::Gated { id, endpoint: environment.endpoint.clone(), token, known: code == 403 }
            }
            (_, ApiError::LockAcquisition(lock)) => HubError::Busy { id, file, lock: lock.clone() },
            _ => HubError::Answer { id, file, message: in_words(error) },
        }
    }
}

/// Why a try came to nothing.
enum Failure {
    Hub(HubError),
    Api(ApiError),
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Failure {
        Failure::Hub(error)
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Failure {
        Failure::Api(error)
    }
}

fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(request) => match **request {
            ureq::Error::StatusCode(code) => Some(code),
            _ => None,
        },
        _ => None,
    }
}

/// True for what another try may find gone: a broken connection, a hub that is busy.
fn may_pass(error: &ApiError) -> bool {
    match (status(error), error) {
        (Some(code), _) => code == 429 || code >= 500,
        (None, ApiError::RequestError(_)) => true,
        (None, ApiError::IoError(e)) => !matches!(
            e.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::PermissionDenied | io::ErrorKind::QuotaExceeded
        ),
        _ => false,
    }
}

fn in_words(error: &ApiError) -> String {
    match (status(error), error) {
        (Some(404), _) => "the hub has no such file (status 404)".into(),
        (Some(code), _) => format!("the hub answers with status {code}"),
        (None, ApiError::RequestError(e)) => e.to_string(),
        (None, ApiError::IoError(e)) => e.to_string(),
        (None, other) => other.to_string(),
    }
}
