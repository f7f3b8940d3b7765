//! Sysevents: a record goes to every `sysevent` process that has subscribed,
//! by a datagram to its socket. As on the platform, a subscriber that does not
//! read holds the publisher up.

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
    /// The name in file names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Zone => "zone",
            Self::Zfs => "zfs",
        }
    }
}

/// A datagram that ends a `sysevent` process.
pub const DIE: &[u8] = b"\0die";

/// A datagram that begins so is printed as it is, and not as a record.
pub const RAW: u8 = 1;

fn subscribers(root: &Path, channel: Channel) -> Vec<PathBuf> {
    let suffix = format!(".{}", channel.name());
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

/// Sends a datagram to every subscriber.
///
/// # Errors
/// If no socket can be made. That a subscriber is gone is none.
pub fn send(root: &Path, channel: Channel, message: &[u8]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    for path in subscribers(root, channel) {
        if let Err(e) = socket.send_to(message, &path)
            && e.kind() == io::ErrorKind::ConnectionRefused
        {
            let _ = fs::remove_file(&path);
        }
    }
    Ok(())
}

/// Publishes records, subject to what hurts the channel, and counts them.
///
/// # Errors
/// As [`send`].
pub fn publish(
    root: &Path,
    channel: Channel,
    records: &[String],
) -> io::Result<()> {
    log_records(root, channel, records)?;
    for record in hurt::distort(root, channel, records)? {
        count(root, channel)?;
        send(root, channel, record.as_bytes())?;
    }
    Ok(())
}

/// Keeps records as they were meant, whatever hurts the channel.
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

/// Every record that was to be published, a line of JSON each.
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

/// One byte a record: appending needs no lock.
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

/// A record of an init that was started again.
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

/// A record of a pool's history.
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
