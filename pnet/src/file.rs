//! The table on disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::error::{Problem, TableError};
use crate::rawfs;
use crate::table::Table;

/// Longest file that is read, in bytes.
const MAX_FILE: usize = 1 << 20;

/// How long an edit waits for another one; each takes milliseconds.
const LOCK_DEADLINE: Duration = Duration::from_secs(10);

impl Table {
    /// Reads the table, by raw system calls only. A file that does not exist is an empty table.
    ///
    /// # Errors
    /// If the file cannot be read, is longer than 1 MiB, or one of its lines is not understood:
    /// then the first such line.
    pub fn load(path: &Path) -> Result<Self, TableError> {
        let failed = |errno: Errno| TableError::Io {
            path: path.to_owned(),
            source: errno.into(),
        };
        let in_line = |line, problem| TableError::Line {
            path: Some(path.to_owned()),
            line,
            problem,
        };
        let file = match rawfs::open(path) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(Self::new()),
            Err(errno) => return Err(failed(errno)),
        };
        let length = rustix::fs::fstat(&file).map_err(failed)?.st_size;
        let mut buf = vec![0; usize::try_from(length).map_or(MAX_FILE, |n| n.min(MAX_FILE)) + 1];
        let mut have = rawfs::fill(&file, &mut buf).map_err(failed)?.len();
        if have == buf.len() && have <= MAX_FILE {
            // It grew meanwhile, or is one of those that have no length.
            buf.resize(MAX_FILE + 1, 0);
            have += rawfs::fill(&file, &mut buf[have..]).map_err(failed)?.len();
        }
        if have > MAX_FILE {
            return Err(failed(Errno::FBIG));
        }
        let text = std::str::from_utf8(&buf[..have]).map_err(|e| {
            let good = &buf[..e.valid_up_to()];
            let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
            in_line(line, Problem::NotUtf8)
        })?;
        text.parse().map_err(|error| match error {
            TableError::Line { line, problem, .. } => in_line(line, problem),
            other => other,
        })
    }

    /// Changes the table on disk: reads it, lets `change` work on it, and replaces the file if
    /// that made a difference. Edits by several programs come one after the other, and none is
    /// lost; whoever reads meanwhile, and whatever crashes, sees the old file or the new one.
    /// Owner and permissions of the old one are kept, and symbolic links that lead to it.
    ///
    /// The lock is a file beside the table, `.NAME.lock`, which stays.
    ///
    /// Uses the standard library's files: for tools, not for code inside other programs.
    ///
    /// # Errors
    /// As [`Table::load`]; what `change` returns; [`TableError::Locked`] if another edit takes
    /// more than 10 s; [`TableError::Io`] if the file cannot be written. It is as it was then.
    pub fn edit<T, E: From<TableError>>(
        path: &Path,
        change: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let path = target(path);
        let _lock = lock(&path)?;
        let mut table = Self::load(&path)?;
        let before = table.clone();
        let result = change(&mut table)?;
        if table != before {
            table.save(&path)?;
        }
        Ok(result)
    }

    /// Writes the table, in place of what is there: see [`Table::edit`], which should be used to
    /// change a table that others may change, too.
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
        let path = target(path);
        let old = match fs::metadata(&path) {
            Ok(old) => Some(old),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let directory = directory(&path);
        let guard = RemoveOnDrop(beside(&path, &format!("{}.new", std::process::id()))?);
        // Left over by a process that crashed and had the same id.
        let _ = fs::remove_file(&guard.0);
        // Others may read it only when owner and permissions are right.
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(if old.is_some() { 0o600 } else { 0o644 })
            .open(&guard.0)?;
        if let Some(old) = old {
            let new = file.metadata()?;
            if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
                fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
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

/// Takes the lock that edits of the table at `path` hold.
fn lock(path: &Path) -> Result<File, TableError> {
    let lock = beside(path, "lock");
    let failed = |source| TableError::Io {
        path: path.to_owned(),
        source,
    };
    let lock = lock.map_err(failed)?;
    let failed = |source| TableError::Io {
        path: lock.clone(),
        source,
    };
    // Not readable by others: a lock on the table itself could be held by whoever may read it.
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&lock)
        .map_err(failed)?;
    let start = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if start.elapsed() > LOCK_DEADLINE => {
                return Err(TableError::Locked { path: lock });
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => thread::sleep(Duration::from_millis(2)),
            Err(errno) => return Err(failed(errno.into())),
        }
    }
}

/// Where symbolic links lead, also if there is no file yet.
fn target(path: &Path) -> PathBuf {
    if let Ok(path) = fs::canonicalize(path) {
        return path;
    }
    match fs::read_link(path) {
        Ok(link) => directory(path).join(link),
        Err(_) => path.to_owned(),
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A hidden file in the same directory.
fn beside(path: &Path, ending: &str) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(directory(path).join(format!(".{}.{ending}", name.to_string_lossy())))
}

/// The temporary file, removed where the way to its final name is not finished.
struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
