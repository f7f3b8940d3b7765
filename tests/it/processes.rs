//! The temporary directory of a test, and the processes that the test has left
//! there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// The ids and command lines of processes that have a host's directory, or
/// something in it, in their command line.
pub fn of(root: &Path) -> Vec<(String, String)> {
    let root = root.to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let processes = processes.filter_map(|process| {
        let line = fs::read(process.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line);
        let is_of = |end: char| line.contains(&format!("{root}{end}"));
        let id = process.file_name().into_string().ok()?;
        (is_of('/') || is_of('\0')).then(|| (id, line.replace('\0', " ")))
    });
    processes.collect()
}

/// Kills the processes that a test has left: the sysevents of a daemon that was
/// killed run until the next event.
pub fn kill_left(root: &Path) {
    let left = of(root);
    if !left.is_empty() {
        for (id, _) in &left {
            kill("KILL", id);
        }
    }
}

/// Sends a signal to a process or, if it has a dash before it, to a process
/// group; returns whether there is one. (A shell has kill built in; the program
/// is not on every machine.)
pub fn kill(signal: &str, process: impl ToString) -> bool {
    let sent = Command::new("sh")
        .args(["-c", "kill -s \"$1\" -- \"$2\" 2> /dev/null", "sh", signal])
        .arg(process.to_string())
        .status();
    sent.unwrap().success()
}

/// A directory that is removed when dropped.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        // Short, because the path of a Unix socket below it has a length limit.
        let name = format!("vmi-{}-{n}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        kill_left(&self.0);
        let _ = fs::remove_dir_all(&self.0);
    }
}
