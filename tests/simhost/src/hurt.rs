//! Faults on purpose: commands that are slow, fail, hang, are cut off or
//! print garbage; pools that are suspended, damaged or exported; operations
//! that are killed halfway; sysevents that are dropped, duplicated or
//! reordered.
//!
//! A fault is a line in `ROOT/sim/hurt/NAME`: `KIND [ARGUMENT] [times=N]`.
//! NAME is a command, a channel, `operation`, or `zfs:` and a pool or dataset.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use crate::emit::Channel;

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A command, or a request to a pool, takes this long before it answers.
    Slow(Duration),
    /// The command prints this on stderr and exits with 1.
    Fail(String),
    /// The command never ends, nor does a child of it.
    Hang,
    /// The command ends, and a child of it stays and holds its pipes.
    Linger,
    /// The command prints half of its output.
    Truncate,
    /// The command prints what no real command prints.
    Garbage,
    /// The command prints nothing, and exits with 0.
    Empty,
    /// The command waits until it is healed, then answers.
    Block,
    /// zoneadm waits until it is healed, at this point of its run: 1 before
    /// it looks for the brand, 2 between the id and the state of a zone, 3
    /// after the first line was printed.
    Halfway(u32),
    /// zoneadm: reading the index fails after so many lines.
    Short(usize),
    /// zoneadm: /dev/zfs can't be opened.
    NoZfs,
    /// zfs: the list of pools can't be read.
    NoPools,
    /// zfs: a run that should list what is below datasets lists nothing, and
    /// exits with 0.
    EmptyWalk,
    /// zfs: an error that libzfs does not know, which ends in abort(3C).
    Abort,
    /// A pool: suspended, or faulted.
    Suspended,
    /// A pool: exported.
    Exported,
    /// A pool: walking it fails after so many rows.
    Cut(usize),
    /// A dataset: it can't be read.
    IoError,
    /// `operation`: it is killed after so many steps.
    Killed(usize),
    /// Sysevent: each record is dropped.
    Drop,
    /// Sysevent: each record comes twice.
    Duplicate,
    /// Sysevent: the records of one step come in reverse.
    Reorder,
}

fn file(root: &Path, name: &str) -> std::path::PathBuf {
    root.join("sim/hurt").join(name.replace('/', "%"))
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
        "linger" => Fault::Linger,
        "truncate" => Fault::Truncate,
        "garbage" => Fault::Garbage,
        "empty" => Fault::Empty,
        "block" => Fault::Block,
        "halfway" => Fault::Halfway(argument.parse().ok()?),
        "short" => Fault::Short(argument.parse().ok()?),
        "no-zfs" => Fault::NoZfs,
        "no-pools" => Fault::NoPools,
        "empty-walk" => Fault::EmptyWalk,
        "abort" => Fault::Abort,
        "suspended" => Fault::Suspended,
        "exported" => Fault::Exported,
        "cut" => Fault::Cut(argument.parse().ok()?),
        "io-error" => Fault::IoError,
        "killed" => Fault::Killed(argument.parse().ok()?),
        "drop" => Fault::Drop,
        "duplicate" => Fault::Duplicate,
        "reorder" => Fault::Reorder,
        _ => return None,
    })
}

/// The names of everything that has a fault.
#[must_use]
pub fn names(root: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(root.join("sim/hurt")).into_iter().flatten();
    let names = entries.flatten().map(|entry| entry.file_name());
    names.map(|name| name.to_string_lossy().replace('%', "/")).collect()
}

/// The fault of a command or channel; counts down `times=N`.
#[must_use]
pub fn take(root: &Path, name: &str) -> Option<Fault> {
    let path = file(root, name);
    let words = fs::read_to_string(&path).ok()?;
    if let Some((fault, times)) = words.split_once(" times=") {
        match times.trim().parse::<u64>().ok()? {
            0 => return None,
            n => {
                // By rename, so that no other command reads half of it.
                let new = root.join(format!("sim/hurt.{}", std::process::id()));
                let _ = fs::write(&new, format!("{fault} times={}", n - 1));
                let _ = fs::rename(&new, &path);
            }
        }
    }
    parse(&words)
}

/// Whether something has this fault now; counts nothing down.
#[must_use]
pub fn has(root: &Path, name: &str, fault: &Fault) -> bool {
    let words = fs::read_to_string(file(root, name)).unwrap_or_default();
    !words.ends_with(" times=0") && parse(&words).as_ref() == Some(fault)
}

/// Waits as long as `name` has this fault. It first writes `ROOT/sim/held`,
/// which shows that a command waits.
pub fn wait_while(root: &Path, name: &str, fault: &Fault) {
    let _ = fs::write(root.join("sim/held"), name);
    while has(root, name, fault) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Never returns, and keeps the pipes of the process open.
pub fn hang() -> ! {
    loop {
        // The child holds the pipes, too.
        let _ = std::process::Command::new("sleep").arg("1000").status();
    }
}

/// The answer of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub error: String,
    /// The exit status.
    pub exit: i32,
}

/// Prints a command's answer, as its fault demands; returns the exit status.
pub fn print(root: &Path, command: &str, answer: &Answer) -> i32 {
    let put = |text: &[u8]| {
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(text);
        let _ = stdout.flush();
    };
    let put_all = || {
        eprint!("{}", answer.error);
        put(answer.output.as_bytes());
    };
    match take(root, command) {
        Some(Fault::Slow(time)) => {
            std::thread::sleep(time);
            put_all();
        }
        Some(Fault::Fail(text)) => {
            eprintln!("{command}: {text}");
            return 1;
        }
        Some(Fault::Hang) => hang(),
        Some(Fault::Linger) => {
            put_all();
            // The child is in the process group of the command, and is killed
            // with it.
            let _ = std::process::Command::new("sleep").arg("1000").spawn();
        }
        Some(Fault::Truncate) => {
            // Cut within a line: no reader can notice that whole lines are
            // missing.
            let bytes = answer.output.as_bytes();
            let half = bytes.len() / 2;
            let end = bytes[..half].iter().rposition(|b| *b != b'\n');
            put(&bytes[..end.map_or(half, |end| end + 1)]);
        }
        Some(Fault::Garbage) => {
            put(b"\x00\xff{]garbage\t\t\n\xc3\x28:::::\n");
        }
        Some(Fault::Empty) => return 0,
        Some(Fault::Block) => {
            wait_while(root, command, &Fault::Block);
            put_all();
        }
        Some(Fault::NoPools) => {
            eprintln!("failed to read pool configuration: I/O error");
            return 255;
        }
        Some(Fault::Abort) => {
            eprintln!("internal error: Unknown error");
            std::process::abort();
        }
        _ => put_all(),
    }
    answer.exit
}

/// The records as the channel's fault lets them through.
#[must_use]
pub fn distort(
    root: &Path,
    channel: Channel,
    records: &[String],
) -> Vec<String> {
    let name = format!("sysevent-{}", channel.name());
    match take(root, &name) {
        Some(Fault::Drop) => Vec::new(),
        Some(Fault::Duplicate) => {
            records.iter().flat_map(|r| [r.clone(), r.clone()]).collect()
        }
        Some(Fault::Reorder) => records.iter().rev().cloned().collect(),
        _ => records.to_vec(),
    }
}
