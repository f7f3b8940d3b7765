//! Directories of our own, in which files are changed to see which events that
//! causes. A directory is removed when its `Scratch` is dropped. If a signal
//! ends the program, [`remove_all`] removes them.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

/// The directories that exist.
static ALL: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// How often the removal of a directory is tried, in case files are still being
/// made in it.
const REMOVALS: u32 = 100;

/// How many names are tried: a process that was killed may have left some.
const TRIES: u32 = 100;

#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// A new directory below `dir`.
    ///
    /// # Errors
    /// If no directory can be made there.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let pid = std::process::id();
        let mut all = ALL.lock();
        for n in 0..TRIES {
            let path = dir.join(format!("vminfod-check.{pid}.{n}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    all.insert(path.clone());
                    return Ok(Self(path));
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::Error::from(io::ErrorKind::AlreadyExists))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The lock is kept, so that `remove_all` waits for this removal.
        let mut all = ALL.lock();
        if all.remove(&self.0) {
            remove(&self.0);
        }
    }
}

/// Removes a directory in which other threads may still be making files. It is
/// renamed first, so that they don't find it any more.
fn remove(path: &Path) {
    let mut away = path.as_os_str().to_os_string();
    away.push(".old");
    let away = PathBuf::from(away);
    let is_away = fs::rename(path, &away).is_ok();
    let path = if is_away { &away } else { path };
    for _ in 0..REMOVALS {
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {}
            _ => break,
        }
    }
}

/// Removes all directories, and keeps new ones from being made. Must be called
/// before a signal ends the process.
pub fn remove_all() {
    let mut all = ALL.lock();
    for path in std::mem::take(&mut *all) {
        remove(&path);
    }
    // The lock is never released, so that no new directory is made.
    std::mem::forget(all);
}
