//! Programs that some tests need besides Rust, gcc and make.
//! `tests/programs.sh` installs them. Where it can't, such a test is skipped,
//! and says so.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where cargo builds.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

/// Where a program is; `None` if it is not installed.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let ours = target().join("programs");
    std::iter::once(ours)
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join(program))
        .find(|file| {
            let mode = file.metadata().map(|found| found.permissions().mode());
            file.is_file() && mode.is_ok_and(|mode| mode & 0o111 != 0)
        })
}

/// A command that runs this program, which [`needs!`] has found.
pub fn command(program: &str) -> Command {
    Command::new(find(program).unwrap_or_else(|| program.into()))
}

/// Whether all of these programs are installed. If not, the test is listed in
/// `skipped-tests` where cargo builds, and on standard error.
pub fn has(programs: &[&str]) -> bool {
    let is_missing = |program: &&&str| find(program).is_none();
    let missing: Vec<_> = programs.iter().filter(is_missing).copied().collect();
    if missing.is_empty() {
        return true;
    }
    let test = std::thread::current();
    let test = test.name().unwrap_or("?");
    let line = format!("skipped: {test} needs {}\n", missing.join(", "));
    // Not eprint!: its output is hidden if the test passes.
    let _ = std::io::stderr().write_all(line.as_bytes());
    let file = target().join("skipped-tests");
    let list = OpenOptions::new().append(true).create(true).open(file);
    list.unwrap().write_all(line.as_bytes()).unwrap();
    false
}

/// Ends a test unless these programs are installed.
macro_rules! needs {
    ($($program:literal),+) => {
        if !$crate::harness::programs::has(&[$($program),+]) {
            return;
        }
    };
}
pub(crate) use needs;
