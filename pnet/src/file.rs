//! The table on disk.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::TableError;
use crate::table::Table;

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

impl Table {
    /// Reads the table. A file that does not exist is an empty table.
    ///
    /// # Errors
    /// If the file cannot be read, is longer than 1 MiB, or one of its lines is not understood:
    /// then the first such line.
    pub fn load(path: &Path) -> Result<Self, TableError> {
        let failed = |source| TableError::Io {
            path: path.to_owned(),
            source,
        };
        let mut text = String::new();
        match File::open(path) {
            Ok(file) => file
                .take(MAX_FILE + 1)
                .read_to_string(&mut text)
                .map_err(failed)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::new()),
            Err(e) => return Err(failed(e)),
        };
        if text.len() as u64 > MAX_FILE {
            return Err(failed(io::ErrorKind::FileTooLarge.into()));
        }
        text.parse()
    }

    /// Writes the table: whoever reads meanwhile, and whatever crashes, sees the old file or the
    /// new one. Keeps the permissions of the old one, and symbolic links that lead to it.
    ///
    /// # Errors
    /// If the file cannot be written; the old one is as it was.
    pub fn save(&self, path: &Path) -> Result<(), TableError> {
        self.replace(path).map_err(|source| TableError::Io {
            path: path.to_owned(),
            source,
        })
    }

    fn replace(&self, path: &Path) -> io::Result<()> {
        let (path, old) = match fs::canonicalize(path) {
            Ok(path) => (path.clone(), fs::metadata(path).ok()),
            Err(_) => (path.to_owned(), None),
        };
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let temporary = directory.join(format!(
            ".{}.{}.new",
            name.to_string_lossy(),
            std::process::id()
        ));
        let guard = RemoveOnDrop(temporary);
        // Left over by a process that crashed and had the same id.
        let _ = fs::remove_file(&guard.0);
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&guard.0)?;
        if let Some(old) = old {
            file.set_permissions(old.permissions())?;
        }
        file.write_all(self.to_string().as_bytes())?;
        file.sync_all()?;
        fs::rename(&guard.0, &path)?;
        std::mem::forget(guard);
        // The new name is on disk only when the directory is. The table is in place anyway.
        let _ = File::open(directory).and_then(|directory| directory.sync_all());
        Ok(())
    }
}

/// The temporary file, removed where the way to its final name is not finished.
struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
