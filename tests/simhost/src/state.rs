//! The state of a host that is not in its real files: datasets, the kernel's
//! zones, counters. It is kept in text tables below `ROOT/sim`, which are
//! replaced by rename, and are simple enough that commands read them quickly.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The table of the kernel's zones.
const KERNEL: &str = "sim/kernel.tsv";

/// Columns of the dataset table. The last one is not of zfs: it has the
/// properties that are set on the dataset itself and not inherited, separated
/// by commas.
pub const COLUMNS: [&str; 18] = [
    "name",
    "type",
    "mountpoint",
    "zoned",
    "creation",
    "compression",
    "refreservation",
    "usedbysnapshots",
    "volblocksize",
    "volsize",
    "userrefs",
    "refquota",
    "quota",
    "written",
    "recsize",
    "filesystem_limit",
    "snapshot_limit",
    "local",
];

/// The index of a column.
///
/// # Panics
/// If there is no such column: a mistake of the caller.
#[must_use]
pub fn column(name: &str) -> usize {
    COLUMNS
        .iter()
        .position(|c| *c == name)
        .unwrap_or_else(|| panic!("no column {name}"))
}

/// One dataset or snapshot.
pub type Row = [String; COLUMNS.len()];

/// `init_pid` of a zone whose init has ended: -1, printed unsigned.
pub const NO_INIT: u64 = 4_294_967_295;

/// A zone that the kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelZone {
    /// As zoneadm shows it, except that zoneadm does not show `initialized`,
    /// and shows `dead` as `down`.
    pub state: String,
    /// Its id; `-` if zoneadm shows none.
    pub zoneid: String,
    /// Seconds since the epoch; 0 until the zone is booted; empty if it has no
    /// kstat.
    pub boot_time: String,
    /// Process id of init; 0 until there is one; [`NO_INIT`] once it has ended.
    pub init_pid: u64,
    /// How often init was started again.
    pub init_restarts: u64,
}

/// The state of a host.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Datasets and snapshots, in the order of zfs.
    pub datasets: Vec<Row>,
    /// The kernel's zones, without the global one.
    pub kernel: BTreeMap<String, KernelZone>,
    /// The last number that was given to a zone id, a debug id or a txg.
    pub counter: u64,
}

/// Holds a lock until dropped.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] File);

/// Locks the host: shared for a command that only reads, else exclusive.
///
/// # Errors
/// If the lock file can't be opened or locked.
pub fn lock(root: &Path, shared: bool) -> io::Result<Lock> {
    let path = root.join("sim/lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .read(true)
        .open(path)?;
    let how = if shared { libc::LOCK_SH } else { libc::LOCK_EX };
    // SAFETY: the descriptor is open; flock has no memory preconditions.
    if unsafe { libc::flock(file.as_raw_fd(), how) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Lock(file))
}

impl State {
    /// Reads the host's state.
    ///
    /// # Errors
    /// If a table can't be read or is malformed.
    pub fn load(root: &Path) -> io::Result<Self> {
        let counter = fs::read_to_string(root.join("sim/counter"));
        let counter = counter.ok().and_then(|c| c.trim().parse().ok());
        Ok(Self {
            datasets: load_datasets(root)?,
            kernel: load_kernel(root)?,
            counter: counter.unwrap_or(5000),
        })
    }

    /// Reads only the kernel's zones: zoneadm(8) and kstat(8) take no lock.
    ///
    /// # Errors
    /// If the table can't be read or is malformed.
    pub fn load_kernel(
        root: &Path,
    ) -> io::Result<BTreeMap<String, KernelZone>> {
        load_kernel(root)
    }

    /// The inode and time of the table of the kernel's zones, if there is one.
    #[must_use]
    pub fn kernel_stamp(root: &Path) -> Option<(u64, SystemTime)> {
        let metadata = fs::metadata(root.join(KERNEL)).ok()?;
        Some((metadata.ino(), metadata.modified().ok()?))
    }

    /// Writes the parts that differ from `before`.
    ///
    /// # Errors
    /// If a table can't be written.
    pub fn save(&self, root: &Path, before: &Self) -> io::Result<()> {
        if self.datasets != before.datasets {
            let mut text = COLUMNS.join("\t") + "\n";
            for row in &self.datasets {
                let fields: Vec<_> = row.iter().map(|f| escape(f)).collect();
                text.push_str(&fields.join("\t"));
                text.push('\n');
            }
            replace(&root.join("sim/datasets.tsv"), &text)?;
        }
        if self.kernel != before.kernel {
            let mut text = String::new();
            for (zonename, z) in &self.kernel {
                text.push_str(&format!(
                    "{zonename}\t{}\t{}\t{}\t{}\t{}\n",
                    z.state, z.zoneid, z.boot_time, z.init_pid, z.init_restarts
                ));
            }
            replace(&root.join(KERNEL), &text)?;
        }
        replace(&root.join("sim/counter"), &format!("{}\n", self.counter))
    }

    /// The next number.
    pub fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// The row of a dataset or snapshot.
    #[must_use]
    pub fn dataset(&self, name: &str) -> Option<&Row> {
        self.datasets.iter().find(|row| row[0] == name)
    }

    /// The row of a dataset or snapshot, to change it.
    pub fn dataset_mut(&mut self, name: &str) -> Option<&mut Row> {
        self.datasets.iter_mut().find(|row| row[0] == name)
    }

    /// Sorts as zfs prints: by name, a dataset's snapshots after it in the
    /// order of their creation.
    pub fn sort_datasets(&mut self) {
        // A stable sort keeps snapshots in the order in which they came.
        self.datasets.sort_by(|a, b| {
            let key = |row: &Row| {
                let (name, snapshot) =
                    row[0].split_once('@').unwrap_or((&row[0], ""));
                (name.to_string(), !snapshot.is_empty())
            };
            key(a).cmp(&key(b))
        });
    }
}

/// Writes a file by rename.
///
/// # Errors
/// Those of writing and renaming.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut temp = path.as_os_str().to_owned();
    temp.push(format!(".new.{}", std::process::id()));
    let temp = PathBuf::from(temp);
    File::create(&temp)?.write_all(text.as_bytes())?;
    fs::rename(temp, path)
}

fn read_table(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

fn bad(what: &str, line: &str) -> io::Error {
    io::Error::other(format!("{what}: bad line {line:?}"))
}

/// Escapes tabs and line ends, which a mountpoint may have, and the table may
/// not.
fn escape(field: &str) -> String {
    field.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n")
}

fn unescape(field: &str) -> String {
    let mut out = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                other => other.unwrap_or('\\'),
            },
            c => c,
        });
    }
    out
}

fn load_datasets(root: &Path) -> io::Result<Vec<Row>> {
    let text = read_table(&root.join("sim/datasets.tsv"))?;
    text.lines()
        .skip(1)
        .map(|line| {
            let fields: Vec<_> = line.split('\t').map(unescape).collect();
            Row::try_from(fields).map_err(|_| bad("datasets", line))
        })
        .collect()
}

fn load_kernel(root: &Path) -> io::Result<BTreeMap<String, KernelZone>> {
    let text = read_table(&root.join(KERNEL))?;
    text.lines()
        .map(|line| {
            let fields: Vec<_> = line.split('\t').collect();
            let [zonename, state, zoneid, boot_time, pid, restarts] =
                fields[..]
            else {
                return Err(bad("kernel", line));
            };
            let zone = KernelZone {
                state: state.into(),
                zoneid: zoneid.into(),
                boot_time: boot_time.into(),
                init_pid: pid.parse().map_err(|_| bad("kernel", line))?,
                init_restarts: restarts
                    .parse()
                    .map_err(|_| bad("kernel", line))?,
            };
            Ok((zonename.to_string(), zone))
        })
        .collect()
}
