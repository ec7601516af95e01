//! Output that is whole or absent.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::{NamedTempFile, TempDir};

/// How the names of files and folders in the making end; they begin with a dot.
const TEMPORARY: &str = ".tmp";

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
        let prefix = prefix(path);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(TEMPORARY);
        // The usual permissions of a new file, less the umask; a temporary file's are for its owner alone.
        builder.permissions(Permissions::from_mode(0o666));
        let temporary = builder.tempfile_in(folder_of(path)).map_err(OutputError::at(path))?;
        Ok(NewFile { path: path.into(), out: BufWriter::with_capacity(1 << 20, temporary) })
    }

    /// Gives the file its name once its bytes are on the disk.
    pub fn commit(self) -> Result<(), OutputError> {
        let at = |source| OutputError::Write { path: self.path.clone(), source };
        let temporary = self.out.into_inner().map_err(|e| at(e.into_error()))?;
        temporary.as_file().sync_all().map_err(at)?;
        temporary.persist(&self.path).map_err(|e| at(e.error))?;
        sync_folder(folder_of(&self.path))
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

/// A folder in the making: it has a temporary name beside its own until [`commit`](NewFolder::commit), and is removed
/// when it is dropped before. What is there is whole, for a run that is killed in between, too.
pub struct NewFolder {
    path: PathBuf,
    temporary: TempDir,
}

impl NewFolder {
    /// Starts the folder that will be at `path`, where there is none yet, or an empty one.
    pub fn create(path: &Path) -> Result<NewFolder, OutputError> {
        check_new(path)?;
        let parent = folder_of(path);
        fs::create_dir_all(parent).map_err(OutputError::at(parent))?;
        let prefix = prefix(path);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(TEMPORARY).permissions(Permissions::from_mode(0o777));
        let temporary = builder.tempdir_in(parent).map_err(OutputError::at(path))?;
        Ok(NewFolder { path: path.into(), temporary })
    }

    /// Where its files are written.
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Gives the folder its name. Its files are on the disk by then: each is synced where it is written.
    pub fn commit(mut self) -> Result<(), OutputError> {
        sync_folder(self.temporary.path())?;
        fs::rename(self.temporary.path(), &self.path).map_err(OutputError::at(&self.path))?;
        self.temporary.disable_cleanup(true);
        sync_folder(folder_of(&self.path))
    }
}

/// Removes a folder, if it is there, without a moment at which half of it has its name.
pub fn remove_folder(path: &Path) -> Result<(), OutputError> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let away = tempfile::Builder::new().prefix(&prefix(path)).suffix(TEMPORARY).tempdir_in(folder_of(path));
    let away = away.map_err(OutputError::at(path))?;
    // An empty folder gives way to the one that is renamed.
    fs::rename(path, away.path()).map_err(OutputError::at(path))?;
    away.close().map_err(OutputError::at(path))
}

/// Removes what a killed run was making in a folder.
pub fn remove_temporaries(folder: &Path) -> Result<(), OutputError> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    for entry in entries.map_err(OutputError::at(folder))? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !(name.starts_with('.') && name.ends_with(TEMPORARY)) {
            continue;
        }
        let path = entry.path();
        let is_folder = entry.file_type().map_err(OutputError::at(&path))?.is_dir();
        let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(OutputError::at(&path))?;
    }
    Ok(())
}

/// Of the temporary name of `path`.
fn prefix(path: &Path) -> String {
    format!(".{}.", path.file_name().unwrap_or_default().to_string_lossy())
}

/// A name is on the disk only when its folder is.
fn sync_folder(folder: &Path) -> Result<(), OutputError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(OutputError::at(folder))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
