//! Sysevents: a record is sent to every `sysevent` process that has subscribed,
//! as a datagram to its socket, and waits there until the reader of that
//! process takes it.
//!
//! As on the platform, no publisher waits for a reader. Once one subscriber of
//! the zone channel has [`UNDELIVERED_MAX`] records that it has not delivered,
//! further records are lost, for every subscriber, and without a message.

use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::hurt;

/// A stream of sysevents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// The zone status channel.
    Zone,
    /// ZFS history.
    Zfs,
}

impl Channel {
    /// The name that is used in file names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Zone => "zone",
            Self::Zfs => "zfs",
        }
    }
}

/// Records of the zone channel that may wait for one subscriber.
pub const UNDELIVERED_MAX: u64 = 2000;

/// The most subscribers of the zone channel.
pub const SUBSCRIBERS_MAX: usize = 32;

/// A datagram that ends a `sysevent` process.
pub const DIE: &[u8] = b"\0die";

/// A datagram after which a `sysevent` process prints nothing more, but goes on
/// running.
pub const STALL: &[u8] = b"\0stall";

/// A datagram that begins with this byte is printed as it is, and not as a
/// record.
pub const RAW: u8 = 1;

fn subscribers(root: &Path, channel: Channel) -> Vec<PathBuf> {
    files_of(root, channel.name())
}

fn files_of(root: &Path, kind: &str) -> Vec<PathBuf> {
    let suffix = format!(".{kind}");
    let Ok(entries) = fs::read_dir(root.join("sim/sub")) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.to_string_lossy().ends_with(&suffix))
        .collect();
    paths.sort();
    paths
}

/// How many subscribers of a channel have a running process.
#[must_use]
pub fn subscriber_count(root: &Path, channel: Channel) -> usize {
    subscribers(root, channel).iter().filter(|path| is_live(path)).count()
}

/// Whether a process has the socket at this path.
fn is_live(path: &Path) -> bool {
    UnixDatagram::unbound().is_ok_and(|socket| socket.connect(path).is_ok())
}

/// The socket of a subscriber.
#[must_use]
pub fn socket_path(root: &Path, channel: Channel, pid: u32) -> PathBuf {
    root.join(format!("sim/sub/{pid}.{}", channel.name()))
}

/// The file in which a subscriber of the zone channel writes how many records
/// wait for its reader.
#[must_use]
pub fn undelivered_path(root: &Path, pid: u32) -> PathBuf {
    root.join(format!("sim/sub/{pid}.undelivered"))
}

/// Whether a subscriber has as many records waiting as the channel allows.
fn is_full(root: &Path, channel: Channel) -> bool {
    let waiting = |path: &PathBuf| -> Option<u64> {
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let is_full = |path: &PathBuf| {
        let is_full =
            waiting(path).is_some_and(|waiting| waiting >= UNDELIVERED_MAX);
        // A subscriber that was killed has left its files.
        let is_dead = is_full && !is_live(&path.with_extension("zone"));
        if is_dead {
            let _ = fs::remove_file(path);
        }
        is_full && !is_dead
    };
    channel == Channel::Zone
        && files_of(root, "undelivered").iter().any(is_full)
}

/// Sends a datagram to every subscriber.
///
/// # Errors
/// If no socket can be made. A subscriber that is gone is no error.
pub fn send(root: &Path, channel: Channel, message: &[u8]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    for path in subscribers(root, channel) {
        if let Err(e) = socket.send_to(message, &path)
            && e.kind() == io::ErrorKind::ConnectionRefused
        {
            let _ = fs::remove_file(&path);
            let _ = fs::remove_file(path.with_extension("undelivered"));
        }
    }
    Ok(())
}

/// Publishes records, as the channel's fault lets them through, and counts
/// them.
///
/// # Errors
/// As [`send`].
pub fn publish(
    root: &Path,
    channel: Channel,
    records: &[String],
) -> io::Result<()> {
    log_records(root, channel, records)?;
    for record in hurt::distort(root, channel, records) {
        if is_full(root, channel) {
            continue;
        }
        count(root, channel)?;
        send(root, channel, record.as_bytes())?;
    }
    Ok(())
}

/// Logs records as they were meant, whatever fault the channel has.
fn log_records(
    root: &Path,
    channel: Channel,
    records: &[String],
) -> io::Result<()> {
    use std::io::Write;
    let mut lines = String::new();
    for record in records {
        lines.push('{');
        lines.push_str(record);
        lines.push('\n');
    }
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log(root, channel))?
        .write_all(lines.as_bytes())
}

/// Every record that should have been published, a line of JSON each.
#[must_use]
pub fn records(root: &Path, channel: Channel) -> Vec<String> {
    let text = fs::read_to_string(log(root, channel)).unwrap_or_default();
    text.lines().map(String::from).collect()
}

fn log(root: &Path, channel: Channel) -> PathBuf {
    root.join(format!("sim/records.{}", channel.name()))
}

/// How many records have been published.
#[must_use]
pub fn published(root: &Path, channel: Channel) -> u64 {
    fs::metadata(counter(root, channel)).map_or(0, |m| m.len())
}

fn counter(root: &Path, channel: Channel) -> PathBuf {
    root.join(format!("sim/published.{}", channel.name()))
}

/// Counts a record by appending one byte, which needs no lock.
fn count(root: &Path, channel: Channel) -> io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(counter(root, channel))?
        .write_all(b".")
}

/// Nanoseconds since the epoch.
#[must_use]
pub fn now_ns() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

/// The present time in the format of sysevent(8) and vmadm.
#[must_use]
pub fn iso_now() -> String {
    let ms = now_ns() / 1_000_000;
    let (days, ms_of_day) = (ms / 86_400_000, ms % 86_400_000);
    // Days since 0000-03-01, by the Gregorian cycle of 400 years.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524
        - day_of_era / 146_096)
        / 365;
    let day_of_year =
        day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let mp = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = year_of_era + era * 400 + u128::from(month <= 2);
    let (s, ms) = (ms_of_day / 1000, ms_of_day % 1000);
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
}

/// Seconds since the epoch.
#[must_use]
pub fn now() -> u128 {
    now_ns() / 1_000_000_000
}

fn string(s: &str) -> String {
    serde_json::Value::from(s).to_string()
}

/// A record of the zone status channel.
#[must_use]
pub fn zone_change(
    zonename: &str,
    oldstate: &str,
    newstate: &str,
    zoneid: i64,
) -> String {
    let publisher = if zoneid < 0 { "zonecfg" } else { "kernel" };
    let pid = if zoneid < 0 { std::process::id() } else { 0 };
    format!(
        "\"type\":\"event\",\"vendor\":\"sun.com\",\"publisher\":\
         \"{publisher}\",\"class\":\"status\",\"subclass\":\"change\",\
         \"pid\":{pid},\"data\":{{\"zonename\":{},\"newstate\":{},\
         \"oldstate\":{},\"zoneid\":{zoneid},\"when\":{}}},\"channel\":\
         \"com.sun:zones:status\"}}",
        string(zonename),
        string(newstate),
        string(oldstate),
        now_ns()
    )
}

/// A record without attributes, as libzonecfg's helper publishes it.
#[must_use]
pub fn ping() -> String {
    let pid = std::process::id();
    format!(
        "\"type\":\"event\",\"vendor\":\"solaris\",\"publisher\":\
         \"zone_{pid}_0\",\"class\":\"status\",\"subclass\":\"ping\",\
         \"pid\":{pid},\"channel\":\"com.sun:zones:status\"}}"
    )
}

/// A record that says that init was started again.
#[must_use]
pub fn init_restart(zonename: &str, zoneid: i64, restarts: u64) -> String {
    format!(
        "\"type\":\"event\",\"vendor\":\"sun.com\",\"publisher\":\"kernel\",\
         \"class\":\"init\",\"subclass\":\"restart\",\"pid\":0,\"data\":\
         {{\"restarts\":{restarts},\"zonename\":{},\"zoneid\":{zoneid},\
         \"when\":{}}},\"channel\":\"com.sun:zones:status\"}}",
        string(zonename),
        now_ns()
    )
}

/// A record of a pool's history that names no dataset.
#[must_use]
pub fn pool_history(pool: &str, name: &str, txg: u64) -> String {
    format!(
        "\"type\":\"event\",\"vendor\":\"SUNW\",\"publisher\":\"zfs\",\
         \"class\":\"EC_zfs\",\"subclass\":\"ESC_ZFS_history_event\",\
         \"pid\":0,\"data\":{{\"pool_name\":{},\"pool_guid\":\
         13640178914720412019,\"history_hostname\":\"headnode\",\
         \"history_internal_str\":\"\",\"history_internal_name\":{},\
         \"history_txg\":{txg},\"history_time\":{}}}}}",
        string(pool),
        string(name),
        now()
    )
}

/// A record of a dataset's history.
#[must_use]
pub fn history(dsname: &str, name: &str, detail: &str, txg: u64) -> String {
    let pool = dsname.split(['/', '@']).next().unwrap_or_default();
    format!(
        "\"type\":\"event\",\"vendor\":\"SUNW\",\"publisher\":\"zfs\",\
         \"class\":\"EC_zfs\",\"subclass\":\"ESC_ZFS_history_event\",\
         \"pid\":0,\"data\":{{\"pool_name\":{},\"pool_guid\":\
         13640178914720412019,\"history_hostname\":\"headnode\",\
         \"history_dsname\":{},\"history_internal_str\":{},\
         \"history_internal_name\":{},\"history_dsid\":{txg},\
         \"history_txg\":{txg},\"history_time\":{}}}}}",
        string(pool),
        string(dsname),
        string(detail),
        string(name),
        now()
    )
}
