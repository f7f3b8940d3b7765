//! The platform's commands, which answer from the state of this host.

mod kstat;
pub mod standing;
mod sysevent;
mod zfs;
mod zoneadm;

use std::io::{self, Write};
use std::path::Path;

use crate::hurt::{self, Answer};

/// The paths of the commands, below the host's root.
pub const PATHS: [&str; 9] = [
    "usr/sbin/zoneadm",
    "usr/sbin/zfs",
    "usr/sbin/sysevent",
    "usr/bin/kstat",
    "usr/bin/id",
    "usr/bin/zonename",
    "usr/bin/uname",
    "usr/bin/ppriv",
    "usr/bin/prctl",
];

/// Runs a command of the host at `root`; returns its exit status.
///
/// # Errors
/// If the host's state can't be read.
pub fn run(root: &Path, command: &str, args: &[String]) -> io::Result<i32> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    log_run(root, command, &args);
    let answer = match command {
        "sysevent" => return sysevent::run(root, &args),
        "zoneadm" => zoneadm::run(root, &args)?,
        "zfs" => zfs::run(root, &args)?,
        "kstat" => kstat::run(root, &args)?,
        _ => standing::run(command, &args),
    };
    Ok(hurt::print(root, command, &answer))
}

/// Appends the command line to `ROOT/sim/runs`, for tests that count runs.
fn log_run(root: &Path, command: &str, args: &[&str]) {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(root.join("sim/runs"));
    if let Ok(mut file) = file {
        let _ = file
            .write_all(format!("{command} {}\n", args.join(" ")).as_bytes());
    }
}

/// An answer without output: a message on standard error, and a status.
fn failed(error: String, exit: i32) -> Answer {
    Answer { output: String::new(), error, exit }
}
