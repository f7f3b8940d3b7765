//! Faults on purpose: commands that are slow, fail, hang, are cut off or
//! print garbage; sysevents that are dropped, duplicated or reordered.
//!
//! A fault is a line in `ROOT/sim/hurt/NAME`: `KIND [ARGUMENT] [times=N]`.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use crate::emit::Channel;

/// What can be wrong with a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It takes this long first.
    Slow(Duration),
    /// It prints this on stderr and exits with 1.
    Fail(String),
    /// It never ends, nor does a child of it.
    Hang,
    /// It prints half of its output.
    Truncate,
    /// It prints what no command prints.
    Garbage,
    /// It prints nothing, and exits with 0.
    Empty,
    /// It waits until it is healed, then answers.
    Block,
    /// Sysevent: each record is dropped.
    Drop,
    /// Sysevent: each record comes twice.
    Duplicate,
    /// Sysevent: the records of one step come in reverse.
    Reorder,
}

fn file(root: &Path, name: &str) -> std::path::PathBuf {
    root.join("sim/hurt").join(name)
}

/// Sets a fault, by its words; `heal` ends it.
///
/// # Errors
/// If the words are no fault, or it can't be written.
pub fn set(root: &Path, name: &str, words: &str) -> io::Result<()> {
    let path = file(root, name);
    if words == "heal" {
        return match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
    }
    parse(words)
        .ok_or_else(|| io::Error::other(format!("not a fault: {words:?}")))?;
    fs::create_dir_all(root.join("sim/hurt"))?;
    fs::write(path, words)
}

fn parse(words: &str) -> Option<Fault> {
    let words = words.split(" times=").next()?;
    let (kind, argument) = words.split_once(' ').unwrap_or((words, ""));
    Some(match kind {
        "slow" => Fault::Slow(Duration::from_millis(argument.parse().ok()?)),
        "fail" => Fault::Fail(argument.to_string()),
        "hang" => Fault::Hang,
        "truncate" => Fault::Truncate,
        "garbage" => Fault::Garbage,
        "empty" => Fault::Empty,
        "block" => Fault::Block,
        "drop" => Fault::Drop,
        "duplicate" => Fault::Duplicate,
        "reorder" => Fault::Reorder,
        _ => return None,
    })
}

/// The present fault of a command or channel; counts down `times=N`.
#[must_use]
pub fn take(root: &Path, name: &str) -> Option<Fault> {
    let path = file(root, name);
    let words = fs::read_to_string(&path).ok()?;
    if let Some((fault, times)) = words.split_once(" times=") {
        match times.trim().parse::<u64>().ok()? {
            0 => return None,
            n => {
                let _ = fs::write(&path, format!("{fault} times={}", n - 1));
            }
        }
    }
    parse(&words)
}

/// Prints a command's output, and exits, as its fault wants.
pub fn print(root: &Path, command: &str, output: &str, exit: i32) -> i32 {
    let mut stdout = io::stdout().lock();
    let mut put = |text: &[u8]| {
        let _ = stdout.write_all(text);
        let _ = stdout.flush();
    };
    match take(root, command) {
        Some(Fault::Slow(time)) => {
            std::thread::sleep(time);
            put(output.as_bytes());
        }
        Some(Fault::Fail(text)) => {
            eprintln!("{command}: {text}");
            return 1;
        }
        Some(Fault::Hang) => loop {
            // The child holds the pipes, too.
            let _ = std::process::Command::new("sleep").arg("1000").status();
        },
        Some(Fault::Truncate) => {
            // Within a line: no reader can tell whole lines that are missing.
            let bytes = output.as_bytes();
            let half = bytes.len() / 2;
            let end = bytes[..half].iter().rposition(|b| *b != b'\n');
            put(&bytes[..end.map_or(half, |end| end + 1)]);
        }
        Some(Fault::Garbage) => {
            put(b"\x00\xff{]garbage\t\t\n\xc3\x28:::::\n");
        }
        Some(Fault::Empty) => return 0,
        Some(Fault::Block) => {
            while take(root, command) == Some(Fault::Block) {
                std::thread::sleep(Duration::from_millis(5));
            }
            put(output.as_bytes());
        }
        _ => put(output.as_bytes()),
    }
    exit
}

/// The records as the channel's fault lets them through.
///
/// # Errors
/// None now; reading a fault may come to fail.
pub fn distort(
    root: &Path,
    channel: Channel,
    records: &[String],
) -> io::Result<Vec<String>> {
    let name = format!("sysevent-{}", channel.name());
    Ok(match take(root, &name) {
        Some(Fault::Drop) => Vec::new(),
        Some(Fault::Duplicate) => {
            records.iter().flat_map(|r| [r.clone(), r.clone()]).collect()
        }
        Some(Fault::Reorder) => records.iter().rev().cloned().collect(),
        _ => records.to_vec(),
    })
}
