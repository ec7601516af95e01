use super::client::{Client, Info, RequestError};
use super::environment::Environment;
use super::{HubError, ModelId, Progress, Result, Snapshot};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Tries that bring nothing, in a row, until it is given up.
const TRIES: usize = 5;
/// Before the second try; each further one waits twice as long.
const WAIT: Duration = Duration::from_millis(200);
/// Read and written at a time.
const CHUNK: usize = 1 << 18;

/// A file name without a path: what a server says must not lead out of the cache.
pub fn name(text: &str) -> Option<&str> {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    (plain && !text.is_empty() && !text.starts_with('.')).then_some(text)
}

/// The commit and the files of a model.
pub fn info(client: &Client, url: &str, id: &ModelId, environment: &Environment) -> Result<Info> {
    let (endpoint, token) = (environment.endpoint.clone(), environment.token.as_ref().map(|(_, place)| place.clone()));
    let mut tries = 1;
    loop {
        let error = match client.info(url) {
            Ok(info) => return Ok(info),
            Err(error) => error,
        };
        if matches!(error.status(), Some(401 | 403 | 404)) {
            return Err(HubError::NotFound { id: id.clone(), endpoint, token });
        }
        if tries == TRIES || !error.may_pass() {
            return Err(HubError::Unreachable { id: id.clone(), endpoint, message: error.to_string() });
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

impl Download<'_> {
    /// Fetches it, in as many tries as it takes while each brings something.
    pub fn run(&self) -> Result<()> {
        let (mut idle, mut most, mut anew) = (0, 0, false);
        loop {
            let mut here = 0;
            let error = match self.attempt(&mut here) {
                Ok(()) => return Ok(()),
                Err(Failure::Hub(error)) => return Err(error),
                Err(Failure::Request(error)) => error,
            };
            if error.status() == Some(416) && !anew {
                // A beginning that no answer continues: longer than the file, or whole already.
                anew = true;
                self.remove_beginning()?;
                continue;
            }
            if !error.may_pass() {
                return Err(self.error(error));
            }
            idle = if here > most { 1 } else { idle + 1 };
            most = most.max(here);
            if idle == TRIES {
                let (id, file, message) = (self.snapshot.id.clone(), self.file.to_string(), error.to_string());
                return Err(HubError::Broken { id, file, message, tries: TRIES });
            }
            std::thread::sleep(WAIT * (1 << (idle - 1)));
        }
    }

    /// `here` becomes the number of bytes that are here, where some came.
    fn attempt(&self, here: &mut u64) -> Result<(), Failure> {
        let blob = self.blob()?;
        if !blob.exists() {
            let part = blob.with_extension("part");
            let failed = |source| HubError::Cache { path: part.clone(), source };
            fs::create_dir_all(part.parent().unwrap_or(Path::new("."))).map_err(failed)?;
            let _lock = self.lock(&blob.with_extension("lock"))?;
            self.receive(&part, here)?;
            self.check(&part, &blob)?;
            fs::rename(&part, &blob).map_err(failed)?;
        }
        Ok(self.link(&blob)?)
    }

    /// Where its bytes are to lie, by what they are: another commit may have brought them.
    fn blob(&self) -> Result<PathBuf, Failure> {
        let Snapshot { client, cache, folder, id, .. } = self.snapshot;
        let metadata = client.metadata(&self.snapshot.url(self.file))?;
        if name(&metadata.commit).is_none_or(|commit| cache.pointer_path(commit) != *folder) {
            return Err(HubError::Moved { id: id.clone() }.into());
        }
        let etag = name(&metadata.etag).ok_or_else(|| HubError::answer(id, &metadata.etag))?;
        let repository = folder.ancestors().nth(2).unwrap_or(folder);
        Ok(repository.join("blobs").join(etag))
    }

    /// Keeps other processes from the file until it is dropped. Waits a little for one that is about to end.
    fn lock(&self, path: &Path) -> Result<File> {
        let failed = |source| HubError::Cache { path: path.into(), source };
        let file = File::create(path).map_err(failed)?;
        for _ in 0..TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_secs(1)),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
        Err(HubError::Busy { id: self.snapshot.id.clone(), file: self.file.into(), lock: path.into() })
    }

    /// Adds what is missing to what is there.
    fn receive(&self, part: &Path, here: &mut u64) -> Result<(), RequestError> {
        let mut file = OpenOptions::new().create(true).append(true).open(part).map_err(RequestError::Disk)?;
        let begin = file.metadata().map_err(RequestError::Disk)?.len();
        let client = &self.snapshot.client;
        let response = client.open(&self.snapshot.url(self.file), begin)?;
        *here = begin;
        if response.status() == 200 {
            // Ranges are not for this server: all of it comes.
            file.set_len(0).map_err(RequestError::Disk)?;
            *here = 0;
        }
        let total = response.body().content_length().map(|length| *here + length);
        let mut body = response.into_body().into_reader();
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = body.read(&mut chunk).map_err(|e| client.read_error(e))?;
            if read == 0 {
                break;
            }
            file.write_all(&chunk[..read]).map_err(RequestError::Disk)?;
            *here += read as u64;
            (self.progress)(self.file, *here, total.unwrap_or(*here));
        }
        match total {
            Some(total) if *here < total => {
                Err(RequestError::Connection(format!("it ended after {here} of {total} bytes")))
            }
            _ => Ok(()),
        }
    }

    fn link(&self, blob: &Path) -> Result<()> {
        let path = self.snapshot.folder.join(self.file);
        let failed = |source| HubError::Cache { path: path.clone(), source };
        fs::create_dir_all(&self.snapshot.folder).map_err(failed)?;
        let blob = blob.file_name().unwrap_or_default();
        symlink(Path::new("../../blobs").join(blob), &path).map_err(failed)
    }

    /// Large files are named by their SHA-256.
    fn check(&self, part: &Path, blob: &Path) -> Result<()> {
        let failed = |source| HubError::Cache { path: part.into(), source };
        let announced = blob.file_name().unwrap_or_default().to_string_lossy();
        if announced.len() != 64 {
            return Ok(());
        }
        let mut hash = Sha256::new();
        File::open(part).and_then(|mut file| io::copy(&mut file, &mut hash)).map_err(failed)?;
        if format!("{:x}", hash.finalize()) == announced.to_lowercase() {
            return Ok(());
        }
        fs::remove_file(part).map_err(failed)?;
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

    fn error(&self, error: RequestError) -> HubError {
        let Snapshot { id, environment, .. } = self.snapshot;
        let (id, file) = (id.clone(), self.file.to_string());
        let token = environment.token.as_ref().map(|(_, place)| place.clone());
        match error {
            RequestError::Status(code @ (401 | 403)) => {
                HubError::Gated { id, endpoint: environment.endpoint.clone(), token, known: code == 403 }
            }
            other => HubError::Answer { id, file, message: other.to_string() },
        }
    }
}

/// Why a try came to nothing.
enum Failure {
    Hub(HubError),
    Request(RequestError),
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Failure {
        Failure::Hub(error)
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Failure {
        Failure::Request(error)
    }
}
