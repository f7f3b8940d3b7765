//! The files of a VM besides its XML, and the system's own description.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{
    CONFIG_DIR, LASTEXITED, LoadLimits, METADATA, Paths, ROUTES, TAGS,
};
use crate::json::{Json, Object};
use crate::os;
use crate::translate::{epoch_seconds_to_iso, parse_number};

/// `metadata.json`: what it says to the VM, and of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata {
    /// `customer_metadata`
    pub customer: Json,
    /// `internal_metadata`
    pub internal: Json,
}

impl Default for Metadata {
    fn default() -> Self {
        Self { customer: empty(), internal: empty() }
    }
}

/// How a zone last ended.
#[derive(Clone, Debug, PartialEq)]
pub struct LastExit {
    /// As a shell would print it; negative for a signal.
    pub status: f64,
    /// ISO 8601.
    pub timestamp: String,
}

/// The members of VM objects that the system's description has, by the name
/// they have there.
const SYSINFO_MEMBERS: [(&str, &str); 4] = [
    ("server_uuid", "UUID"),
    ("datacenter_name", "Datacenter Name"),
    ("platform_buildstamp", "Live Image"),
    ("headnode_id", "Headnode ID"),
];

/// What every VM object says of the system: its members, in order.
pub type Sysinfo = Object;

/// An object without members.
#[must_use]
pub fn empty() -> Json {
    Json::from(Object::new())
}

/// The files of a zone whose zonepath is `dir`.
#[must_use]
pub fn config_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(CONFIG_DIR).join(name)
}

/// Every file that counts for `last_modified`.
#[must_use]
pub fn modified_files(
    paths: &Paths,
    zonename: &str,
    dir: Option<&Path>,
) -> Vec<PathBuf> {
    let mut files = vec![paths.zone_xml(zonename)];
    if let Some(dir) = dir {
        files.push(dir.join(LASTEXITED));
        files.extend(
            [METADATA, TAGS, ROUTES].map(|name| config_file(dir, name)),
        );
    }
    files
}

/// The newest modification time of regular files, in whole seconds since the
/// epoch; `None` if there are none.
#[must_use]
pub fn last_modified(files: &[PathBuf]) -> Option<i64> {
    use std::os::unix::fs::MetadataExt;
    let mtime = |path: &PathBuf| {
        let meta = path.symlink_metadata().ok()?;
        meta.is_file().then(|| meta.mtime())
    };
    files.iter().filter_map(mtime).max()
}

/// Reads a file that need not exist.
///
/// # Errors
/// A sentence that names the file, if it exists and can't be read.
pub fn read_optional(
    path: &Path,
    limit: u64,
) -> Result<Option<String>, String> {
    match os::read_regular_file(path, limit) {
        Ok(file) => Ok(Some(file.text)),
        Err(e) if is_missing(&e) => Ok(None),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

/// Whether an error says that there is no such file.
#[must_use]
pub fn is_missing(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Reads a JSON file, `{}` if there is none.
///
/// # Errors
/// A sentence that names the file, if it can't be read or is not JSON.
pub fn read_json(path: &Path, limit: u64) -> Result<Json, String> {
    match read_optional(path, limit)? {
        None => Ok(empty()),
        Some(text) => Json::parse(&text)
            .map_err(|e| format!("{}: not JSON: {e}", path.display())),
    }
}

/// Reads `metadata.json`.
///
/// # Errors
/// As [`read_json`], and if it is JSON but no object.
pub fn read_metadata(path: &Path, limit: u64) -> Result<Metadata, String> {
    let json = read_json(path, limit)?;
    let Some(object) = json.as_object() else {
        return Err(format!("{}: not a JSON object", path.display()));
    };
    let member = |name| object.get(name).cloned().unwrap_or_else(empty);
    Ok(Metadata {
        customer: member("customer_metadata"),
        internal: member("internal_metadata"),
    })
}

/// Reads `lastexited`, `None` if there is none.
///
/// # Errors
/// A sentence, if it can't be read or is not whole: zoneadmd(8) truncates it
/// before it writes.
pub fn read_lastexited(
    path: &Path,
    limit: u64,
) -> Result<Option<LastExit>, String> {
    let Some(text) = read_optional(path, limit)? else { return Ok(None) };
    let exit = parse_lastexited(&text).ok_or_else(|| {
        let path = path.display();
        format!("{path}: not a time and a status: {:?}", text.trim_end())
    })?;
    Ok(Some(exit))
}

/// Parses `SECONDS.MICROSECONDS STATUS`; the microseconds are not padded, and
/// are read as a fraction all the same, as they always were.
///
/// ```text
/// 1430183276.578940 65280
/// ```
#[must_use]
pub fn parse_lastexited(text: &str) -> Option<LastExit> {
    let fields: Vec<_> = text.split_ascii_whitespace().collect();
    let [time, status] = fields[..] else { return None };
    let status = parse_number(status).filter(|s| s.abs() < 2e9)?;
    #[allow(clippy::cast_possible_truncation)]
    let status = status as i32;
    let status = match status {
        -1 => 0,
        s if s & 0xff == 0 => s >> 8,
        s => -(s & 0xff),
    };
    Some(LastExit {
        status: f64::from(status),
        timestamp: epoch_seconds_to_iso(parse_number(time)?)?,
    })
}

/// Reads the system's description; early in boot there is none.
///
/// # Errors
/// A sentence, if it can't be read or is no JSON object.
pub fn read_sysinfo(
    paths: &Paths,
    limits: &LoadLimits,
) -> Result<Arc<Sysinfo>, String> {
    let path = paths.sysinfo();
    let json = read_json(&path, limits.json_bytes)?;
    let Some(object) = json.as_object() else {
        return Err(format!("{}: not a JSON object", path.display()));
    };
    let mut sysinfo = Object::new();
    for (member, key) in SYSINFO_MEMBERS {
        if let Some(value) = object.get(key) {
            sysinfo.set(member, value.clone());
        }
    }
    Ok(Arc::new(sysinfo))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_told_as_a_shell_would() {
        for (text, status) in [
            ("1700000000.5 256\n", Some(1.0)),
            ("1700000000.5 65280\n", Some(255.0)),
            ("1700000000.5 -1\n", Some(0.0)),
            ("1700000000.5 0\n", Some(0.0)),
            ("1700000000.5 9\n", Some(-9.0)),
            ("1700000000.5 139\n", Some(-139.0)),
            ("", None),
            ("1700000000.5", None),
            ("1700000000.5 1 2", None),
            ("now 0", None),
            ("1700000000.5 x", None),
        ] {
            let exit = parse_lastexited(text);
            assert_eq!(exit.map(|e| e.status), status, "{text:?}");
        }
    }

    #[test]
    fn microseconds_are_a_fraction_though_not_padded() {
        let exit = parse_lastexited("1430183276.5 0").unwrap();
        assert_eq!(exit.timestamp, "2015-04-28T01:07:56.500Z");
    }
}
