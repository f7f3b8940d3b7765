//! Directories of our own, in which files are changed to see which events
//! come. They are removed when they are dropped; if a signal ends the program,
//! by [`remove_all`].

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

/// Those that there are.
static ALL: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A directory that files are still made in is removed again, at most so often.
const REMOVALS: u32 = 100;

/// Names that are tried: one may be left of a process that was killed.
const TRIES: u32 = 100;

#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// A new directory below `dir`.
    ///
    /// # Errors
    /// If none can be made there.
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
        // A signal's end waits for it.
        let mut all = ALL.lock();
        if all.remove(&self.0) {
            remove(&self.0);
        }
    }
}

/// Removes a directory in which others may make files meanwhile. By another
/// name they don't find it any more.
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

/// Removes all of them; none is made any more. To be called before the process
/// ends by a signal.
pub fn remove_all() {
    let mut all = ALL.lock();
    for path in std::mem::take(&mut *all) {
        remove(&path);
    }
    // The lock is never given back.
    std::mem::forget(all);
}
