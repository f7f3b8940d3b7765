//! Reads and parses the files of a VM, and the host's own description.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::error::{FileError, FileProblem};
use crate::config::{JSON_DEPTH, Paths};
use crate::load::zonexml;
use crate::os::{self, Dir, FileText, Stamp};
use crate::settings::LoadLimits;
use crate::source::{MAPS, Source};
use crate::vm::json::{Json, Object};
use crate::vm::values::{epoch_seconds_to_iso, parse_number};

/// How a zone last ended.
#[derive(Clone, Debug, PartialEq)]
pub struct LastExit {
    /// The exit status, as a shell would print it; negative if a signal ended
    /// the zone's init.
    pub status: f64,
    /// Seconds since the epoch.
    pub time: f64,
}

/// The members of VM objects that come from the host's description, each with
/// its name there.
pub const SYSINFO_MEMBERS: [(&str, &str); 4] = [
    ("server_uuid", "UUID"),
    ("datacenter_name", "Datacenter Name"),
    ("platform_buildstamp", "Live Image"),
    ("headnode_id", "Headnode ID"),
];

/// The members that every VM object has about the host, in order.
pub type Sysinfo = Object;

/// A directory of a zone, opened once for all of its files that are read.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// `None` if there is no such directory, and so no file in it.
    dir: Result<Option<Dir>, FileProblem>,
}

impl Folder {
    /// Opens the zone's own directory, which is trusted. If there is no such
    /// directory, or `path` is `None`, all files in it count as missing.
    #[must_use]
    pub fn open(path: Option<&Path>) -> Self {
        let opened = path.map(Dir::open);
        Self::opened(path.unwrap_or(Path::new("")).to_path_buf(), opened)
    }

    /// Opens a directory in this one. A symbolic link is not followed.
    #[must_use]
    pub fn open_below(&self, name: &str) -> Self {
        let path = self.path.join(name);
        match &self.dir {
            Ok(dir) => {
                let opened = dir.as_ref().map(|dir| dir.open_below(name));
                Self::opened(path, opened)
            }
            Err(e) => Self { path, dir: Err(e.clone()) },
        }
    }

    fn opened(path: PathBuf, opened: Option<io::Result<Dir>>) -> Self {
        let dir = match opened.transpose() {
            Err(e) if is_missing(&e) => Ok(None),
            opened => opened.map_err(|e| FileProblem::Io(e.to_string())),
        };
        Self { path, dir }
    }
}

/// Where a file is.
#[derive(Clone, Copy, Debug)]
pub enum FilePlace<'a> {
    /// At this path.
    At(&'a Path),
    /// In a directory, by this name; a symbolic link is not followed.
    In(&'a Folder, &'a str),
}

impl FilePlace<'_> {
    /// An error of this file.
    #[must_use]
    pub fn error(&self, problem: FileProblem) -> FileError {
        let path = match *self {
            Self::At(path) => path.to_path_buf(),
            Self::In(folder, name) => folder.path.join(name),
        };
        FileError { path, problem }
    }

    /// Whether the file has not changed since it was read with the stamp
    /// `known`. If it was missing then, whether it is still missing.
    #[must_use]
    pub fn is_as_read(&self, known: Option<Stamp>) -> bool {
        let stamp = match *self {
            Self::At(path) => os::stamp(path),
            Self::In(folder, name) => match &folder.dir {
                Ok(Some(dir)) => dir.stamp(name),
                Ok(None) => return known.is_none(),
                Err(_) => return false,
            },
        };
        match (known, stamp) {
            (Some(known), Ok(now)) => known.still_holds(&now),
            (None, Err(e)) => is_missing(&e),
            _ => false,
        }
    }
}

/// The content of a file, and the stamp of the file with that content.
#[derive(Clone, Debug)]
pub struct Stamped<T> {
    /// The content.
    pub value: T,
    /// The stamp; `None` if there is no such file.
    pub stamp: Option<Stamp>,
}

/// The stamps of the files that were read. A missing file has no stamp.
#[derive(Clone, Debug, Default)]
pub struct Stamps(Vec<(Source, Stamp)>);

/// Two sets are equal if what is served of them is equal: the times of
/// modification.
impl PartialEq for Stamps {
    fn eq(&self, other: &Self) -> bool {
        let mtime = |stamp: Stamp| stamp.mtime;
        self.0.len() == other.0.len()
            && self.0.iter().all(|(file, stamp)| {
                other.get(*file).map(mtime) == Some(stamp.mtime)
            })
    }
}

impl Stamps {
    /// The stamp of a file.
    #[must_use]
    pub fn get(&self, file: Source) -> Option<Stamp> {
        let found = self.0.iter().find(|(known, _)| *known == file);
        found.map(|(_, stamp)| *stamp)
    }

    /// Sets the stamp of a file.
    pub fn set(&mut self, file: Source, stamp: Option<Stamp>) {
        self.0.retain(|(known, _)| *known != file);
        self.0.extend(stamp.map(|stamp| (file, stamp)));
    }

    /// When the newest of these files was modified, in whole seconds since the
    /// epoch. It is the time of the content that is known, not of a later
    /// write, because a client that waits for the time waits for the content.
    #[must_use]
    pub fn last_mtime(&self) -> Option<i64> {
        self.0.iter().map(|(_, stamp)| stamp.mtime).max()
    }
}

/// Reads a file that need not exist.
///
/// # Errors
/// If it exists and can't be read.
pub fn read_optional(
    place: FilePlace<'_>,
    limit: u64,
) -> Result<Option<FileText>, FileError> {
    let read = match place {
        FilePlace::At(path) => os::read_regular_file(path, limit),
        FilePlace::In(folder, name) => match &folder.dir {
            Ok(Some(dir)) => dir.read(name, limit),
            Ok(None) => return Ok(None),
            Err(problem) => return Err(place.error(problem.clone())),
        },
    };
    match read {
        Ok(file) => Ok(Some(file)),
        Err(e) if is_missing(&e) => Ok(None),
        Err(e) => Err(place.error(FileProblem::Io(e.to_string()))),
    }
}

/// Reads a file that has to exist.
///
/// # Errors
/// If it does not exist, or can't be read.
pub fn read_required(
    place: FilePlace<'_>,
    limit: u64,
) -> Result<FileText, FileError> {
    read_optional(place, limit)?
        .ok_or_else(|| place.error(FileProblem::Missing))
}

/// Whether an error says that there is no such file. If something else is in
/// the place of a directory, that is a fault.
#[must_use]
pub fn is_missing(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound
}

/// Reads a JSON file, `{}` if there is none.
///
/// # Errors
/// If it can't be read, is not JSON, or nests deeper than [`JSON_DEPTH`].
pub fn read_json(
    place: FilePlace<'_>,
    limit: u64,
) -> Result<Stamped<Json>, FileError> {
    let Some(file) = read_optional(place, limit)? else {
        return Ok(Stamped { value: Json::empty(), stamp: None });
    };
    let value = Json::parse(&file.text)
        .map_err(|e| place.error(FileProblem::NotJson(e.to_string())))?;
    if value.depth() > JSON_DEPTH {
        return Err(place.error(FileProblem::TooDeep));
    }
    Ok(Stamped { value, stamp: Some(file.stamp) })
}

/// Reads a JSON file of a VM. Returns the members of VM objects that it holds,
/// each with its index in [`MAPS`].
///
/// # Errors
/// As [`read_json`], and if the file must be a JSON object but is not.
pub fn read_maps(
    place: FilePlace<'_>,
    limit: u64,
    file: Source,
) -> Result<Stamped<Vec<(usize, Json)>>, FileError> {
    let Stamped { value, stamp } = read_json(place, limit)?;
    let maps = MAPS.iter().enumerate().filter(|(_, map)| map.file == file);
    let maps = maps.map(|(at, map)| {
        let Some(key) = map.key else { return Ok((at, value.clone())) };
        let object = value
            .as_object()
            .ok_or_else(|| place.error(FileProblem::NotAnObject))?;
        Ok((at, object.get(key).cloned().unwrap_or_else(Json::empty)))
    });
    let value = maps.collect::<Result<_, FileError>>()?;
    Ok(Stamped { value, stamp })
}

/// Reads a zone's XML.
///
/// # Errors
/// If it is not there, can't be read, or is not the XML of a zone.
pub fn read_zonexml(
    place: FilePlace<'_>,
    limit: u64,
) -> Result<Stamped<zonexml::ParsedXml>, FileError> {
    let file = read_required(place, limit)?;
    let value = zonexml::parse(&file.text)
        .map_err(|e| place.error(FileProblem::Xml(e)))?;
    Ok(Stamped { value, stamp: Some(file.stamp) })
}

/// Reads `lastexited`, `None` if there is none.
///
/// # Errors
/// If it can't be read, or is incomplete at every try: zoneadmd(8) truncates
/// the file before it writes it.
pub fn read_lastexited(
    place: FilePlace<'_>,
    limit: u64,
) -> Result<Stamped<Option<LastExit>>, FileError> {
    let mut tries = 0;
    loop {
        let Some(file) = read_optional(place, limit)? else {
            return Ok(Stamped { value: None, stamp: None });
        };
        if let Some(exit) = parse_lastexited(&file.text) {
            return Ok(Stamped { value: Some(exit), stamp: Some(file.stamp) });
        }
        tries += 1;
        if tries == TORN_TRIES {
            let text = file.text.trim_end().to_string();
            return Err(place.error(FileProblem::NotLastExited(text)));
        }
        std::thread::sleep(TORN_PAUSE);
    }
}

/// An incomplete `lastexited` is read this many times before it counts as bad.
const TORN_TRIES: u32 = 4;

/// The pause between two tries. The file is complete again long before this.
const TORN_PAUSE: Duration = Duration::from_millis(2);

/// Parses `SECONDS.MICROSECONDS STATUS`. The microseconds are not padded with
/// zeros. They are read as a fraction all the same, as they always were.
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
        // A number that is not a date is not a time either.
        time: parse_number(time)
            .filter(|time| epoch_seconds_to_iso(*time).is_some())?,
    })
}

/// Reads the host's description. Early in boot there is none yet.
///
/// # Errors
/// If it can't be read or is not a JSON object.
pub fn read_sysinfo(
    paths: &Paths,
    limits: &LoadLimits,
) -> Result<Arc<Sysinfo>, FileError> {
    let path = paths.sysinfo();
    let place = FilePlace::At(&path);
    let json = read_json(place, limits.json_bytes)?.value;
    let object = json
        .as_object()
        .ok_or_else(|| place.error(FileProblem::NotAnObject))?;
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
    fn an_exit_status_is_shown_as_a_shell_shows_it() {
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
    fn a_lastexited_that_is_being_written_is_read_again() {
        let dir = std::env::temp_dir();
        let path = dir.join(format!("lastexited-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        let read = || read_lastexited(FilePlace::At(&path), 100);
        let torn = read().unwrap_err().problem;
        assert_eq!(torn, FileProblem::NotLastExited(String::new()));
        // Until the file is complete, the only error is that it is not.
        let reader = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                loop {
                    if let Ok(read) = read() {
                        break read.value.unwrap().status;
                    }
                }
            });
            std::fs::write(&path, "1430183276.5 256\n").unwrap();
            reader.join().unwrap()
        });
        std::fs::remove_file(&path).unwrap();
        assert!((reader - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn unpadded_microseconds_are_read_as_a_fraction() {
        let exit = parse_lastexited("1430183276.5 0").unwrap();
        let timestamp = epoch_seconds_to_iso(exit.time);
        assert_eq!(timestamp.as_deref(), Some("2015-04-28T01:07:56.500Z"));
    }
}
