//! Output that is whole or absent.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Why output could not be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The folder holds something already.
    #[error("{}: not empty (it holds {found}); name a new folder, or empty this one", folder.display())]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
        /// One of its entries.
        found: String,
    },
    /// The file system failed.
    #[error("{}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl OutputError {
    fn at(path: &Path) -> impl FnOnce(io::Error) -> OutputError {
        move |source| OutputError::Write { path: path.into(), source }
    }
}

/// Makes a folder, with its parents. One that exists must be empty, so that nothing is overwritten or mixed.
pub fn create_new(folder: &Path) -> Result<(), OutputError> {
    fs::create_dir_all(folder).map_err(OutputError::at(folder))?;
    check_new(folder)
}

/// An error where a folder exists and holds something, before the work whose result it is to hold.
pub fn check_new(folder: &Path) -> Result<(), OutputError> {
    if !folder.exists() {
        return Ok(());
    }
    let mut entries = fs::read_dir(folder).map_err(OutputError::at(folder))?;
    match entries.next().transpose().map_err(OutputError::at(folder))? {
        None => Ok(()),
        Some(entry) => {
            let found = entry.file_name().to_string_lossy().into_owned();
            Err(OutputError::NotEmpty { folder: folder.into(), found })
        }
    }
}

/// Writes a whole file. See [`NewFile`].
pub fn write_file(path: &Path, contents: impl AsRef<[u8]>) -> Result<(), OutputError> {
    let mut file = NewFile::create(path)?;
    file.write_all(contents.as_ref()).map_err(OutputError::at(path))?;
    file.commit()
}

/// A file in the making: it has a temporary name in its folder until [`commit`](NewFile::commit), and is removed
/// when it is dropped before. A file that was at `path` stays whole until then.
pub struct NewFile {
    path: PathBuf,
    out: BufWriter<NamedTempFile>,
}

impl NewFile {
    /// Starts the file that will be at `path`.
    pub fn create(path: &Path) -> Result<NewFile, OutputError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut builder = tempfile::Builder::new();
        let prefix = format!(".{name}.");
        builder.prefix(&prefix).suffix(".tmp");
        // The usual permissions of a new file, less the umask; a temporary file's are for its owner alone.
        #[cfg(unix)]
        builder.permissions(<Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666));
        let temporary = builder.tempfile_in(folder_of(path)).map_err(OutputError::at(path))?;
        Ok(NewFile { path: path.into(), out: BufWriter::with_capacity(1 << 20, temporary) })
    }

    /// Gives the file its name once its bytes are on the disk.
    pub fn commit(self) -> Result<(), OutputError> {
        let at = |source| OutputError::Write { path: self.path.clone(), source };
        let temporary = self.out.into_inner().map_err(|e| at(e.into_error()))?;
        temporary.as_file().sync_all().map_err(at)?;
        temporary.persist(&self.path).map_err(|e| at(e.error))?;
        // The name is on the disk only when the folder is.
        File::open(folder_of(&self.path)).and_then(|folder| folder.sync_all()).map_err(at)
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
