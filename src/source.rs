//! The sources that the daemon reads about VMs and the host: one row for each.
//!
//! To add a JSON file of a VM, add its [`Source`], its row, and the members
//! that it holds to [`MAPS`].

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// What the daemon reads, and what else can fail. Faults, jobs and counters
/// name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// A zone's line of zoneadm(8).
    Zoneadm,
    /// A zone's kstat(8).
    Kstat,
    /// `/etc/zones/ZONENAME.xml`
    ZoneXml,
    /// When init(8) of a zone last ended, and how: written by zoneadmd(8).
    LastExited,
    /// Metadata of a VM, written by vmadm(8).
    Metadata,
    /// Tags of a VM, written by vmadm(8).
    Tags,
    /// Routes of a VM, written by vmadm(8).
    Routes,
    /// Datasets, by zfs(8).
    Zfs,
    /// What vmadm(8) records of a VM that is being received.
    Receiving,
    /// When a VM's files were modified.
    Mtime,
    /// A VM's uuid.
    Uuid,
    /// The host's sysinfo: `/tmp/.sysinfo.json`
    Sysinfo,
    /// `/etc/zones/index`
    Index,
    /// zoneadm(8), asked for zones that may not exist.
    UnknownZones,
    /// A full reload.
    Refresh,
    /// A worker of the daemon.
    Worker,
    /// Sysevents of zones that did not come.
    ZoneEvents,
    /// Sysevents of ZFS that did not come.
    ZfsEvents,
    /// File events that did not come.
    FileEvents,
}

/// Which of a zone's directories a file is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneDir {
    /// The zonepath.
    Zonepath,
    /// `ZONEPATH/config`
    Config,
}

/// What is known about a source.
struct Row {
    source: Source,
    /// Its name in /status, /metrics, causes and the log; for a file in a
    /// zone's directory, also the name of the file.
    name: &'static str,
    /// The zone's directory that the file is in, if the source is such a file.
    dir: Option<ZoneDir>,
    /// What is read again if it could not be read; `None` means everything.
    again: Option<Sources>,
    /// The events that should report a change of it.
    events: EventSource,
}

#[rustfmt::skip]
const ROWS: &[Row] = {
    use EventSource::{File, Zfs, Zone};
    use ZoneDir::{Config, Zonepath};
    const fn of(source: Source) -> Option<Sources> {
        Some(Sources::of(source))
    }
    &[
        Row { source: Source::Zoneadm, name: "zoneadm", dir: None, again: Some(Sources::STATE), events: Zone },
        Row { source: Source::Kstat, name: "kstat", dir: None, again: of(Source::Kstat), events: Zone },
        Row { source: Source::ZoneXml, name: "zonexml", dir: None, again: of(Source::ZoneXml), events: File },
        Row { source: Source::LastExited, name: "lastexited", dir: Some(Zonepath), again: of(Source::LastExited), events: File },
        Row { source: Source::Metadata, name: "metadata.json", dir: Some(Config), again: of(Source::Metadata), events: File },
        Row { source: Source::Tags, name: "tags.json", dir: Some(Config), again: of(Source::Tags), events: File },
        Row { source: Source::Routes, name: "routes.json", dir: Some(Config), again: of(Source::Routes), events: File },
        Row { source: Source::Zfs, name: "zfs", dir: None, again: of(Source::Zfs), events: Zfs },
        Row { source: Source::Receiving, name: "receiving", dir: None, again: None, events: File },
        Row { source: Source::Mtime, name: "mtime", dir: None, again: None, events: File },
        Row { source: Source::Uuid, name: "uuid", dir: None, again: None, events: Zone },
        Row { source: Source::Sysinfo, name: "sysinfo", dir: None, again: None, events: File },
        Row { source: Source::Index, name: "index", dir: None, again: None, events: File },
        Row { source: Source::UnknownZones, name: "zoneadm of unknown zones", dir: None, again: None, events: Zone },
        Row { source: Source::Refresh, name: "refresh", dir: None, again: None, events: Zone },
        Row { source: Source::Worker, name: "worker", dir: None, again: None, events: Zone },
        Row { source: Source::ZoneEvents, name: "zone events missing", dir: None, again: None, events: Zone },
        Row { source: Source::ZfsEvents, name: "zfs events missing", dir: None, again: None, events: Zfs },
        Row { source: Source::FileEvents, name: "file events missing", dir: None, again: None, events: File },
    ]
};

impl Source {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        ROWS.iter().map(|row| row.source)
    }

    /// The files in a zone's directories.
    pub fn zone_files() -> impl Iterator<Item = (Self, ZoneDir)> {
        ROWS.iter().filter_map(|row| Some((row.source, row.dir?)))
    }

    fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// The name in /status, /metrics, causes and the log; for a file in a
    /// zone's directory, also the name of the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// What must be read again if it could not be read.
    #[must_use]
    pub fn again(self) -> Sources {
        self.row().again.unwrap_or(Sources::ALL)
    }

    /// The events that should report a change of it.
    #[must_use]
    pub fn events(self) -> EventSource {
        self.row().events
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A member of VM objects that is itself an object, whose keys the owner of the
/// VM chooses.
#[derive(Clone, Copy, Debug)]
pub struct MapMember {
    /// The member.
    pub name: &'static str,
    /// The JSON file that it comes from.
    pub file: Source,
    /// The member of that file that it is taken from; `None` if it is the whole
    /// file.
    pub key: Option<&'static str>,
}

/// The members that are maps, in the order in which they are served.
pub const MAPS: &[MapMember] = &[
    map("customer_metadata", Source::Metadata, Some("customer_metadata")),
    map("internal_metadata", Source::Metadata, Some("internal_metadata")),
    map("routes", Source::Routes, None),
    map("tags", Source::Tags, None),
];

const fn map(
    name: &'static str,
    file: Source,
    key: Option<&'static str>,
) -> MapMember {
    MapMember { name, file, key }
}

/// Whether a member of VM objects is one of [`MAPS`].
#[must_use]
pub fn is_map(member: &str) -> bool {
    MAPS.iter().any(|map| map.name == member)
}

/// Where events come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventSource {
    /// The zone status channel.
    Zone,
    /// ZFS history.
    Zfs,
    /// Watched files.
    File,
}

impl EventSource {
    /// All of them, in the order of their values.
    pub const ALL: [Self; Self::COUNT] = [Self::Zone, Self::Zfs, Self::File];

    /// How many there are. `File` stays the last one, so that `ALL` does not
    /// compile if another one is missing there.
    pub const COUNT: usize = Self::File as usize + 1;

    /// Whether its events are sysevents, and come from a sysevent(8).
    #[must_use]
    pub fn is_sysevent(self) -> bool {
        match self {
            Self::Zone | Self::Zfs => true,
            Self::File => false,
        }
    }

    /// The name in /status, in `cause` and in the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Zone => "zone",
            Self::Zfs => "zfs",
            Self::File => "file",
        }
    }

    /// The source that a fault names if these events do not come.
    #[must_use]
    pub fn missing(self) -> Source {
        match self {
            Self::Zone => Source::ZoneEvents,
            Self::Zfs => Source::ZfsEvents,
            Self::File => Source::FileEvents,
        }
    }
}

/// The commands that a load must run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandsNeeded {
    /// None: it reads files, or nothing.
    None,
    /// zoneadm or kstat.
    State,
    /// zfs, and perhaps the others.
    Zfs,
}

/// A set of sources: what must be read again of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Sources(u32);

impl Sources {
    /// Nothing: the object is made again from what is known.
    pub const NONE: Self = Self(0);
    /// The line of zoneadm(8).
    pub const ZONEADM: Self = Self::of(Source::Zoneadm);
    /// The kstat of the zone.
    pub const KSTAT: Self = Self::of(Source::Kstat);
    /// The zone's XML.
    pub const XML: Self = Self::of(Source::ZoneXml);
    /// The lines of zfs(8).
    pub const ZFS: Self = Self::of(Source::Zfs);
    /// Not a source: the watches of the VM's files are armed again first.
    pub const REARM: Self = Self(1 << 31);

    /// What the kernel says of the zone.
    pub const STATE: Self =
        Self::ZONEADM.and(Self::KSTAT).and(Self::of(Source::LastExited));
    /// The files, after their watches were armed again.
    pub const FILES: Self =
        Self::XML.and(Self::of_zone_files()).and(Self::REARM);
    /// Everything.
    pub const ALL: Self = Self::STATE.and(Self::FILES).and(Self::ZFS);

    /// This source alone.
    #[must_use]
    pub const fn of(source: Source) -> Self {
        Self(1 << source as u32)
    }

    const fn of_zone_files() -> Self {
        let (mut all, mut at) = (Self::NONE, 0);
        while at < ROWS.len() {
            if ROWS[at].dir.is_some() {
                all = all.and(Self::of(ROWS[at].source));
            }
            at += 1;
        }
        all
    }

    const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in the set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The commands that must be run.
    #[must_use]
    pub fn commands_needed(self) -> CommandsNeeded {
        if self.has(Source::Zfs) {
            CommandsNeeded::Zfs
        } else if self.has(Source::Zoneadm) || self.has(Source::Kstat) {
            CommandsNeeded::State
        } else {
            CommandsNeeded::None
        }
    }

    /// Whether this source is in the set.
    #[must_use]
    pub fn has(self, source: Source) -> bool {
        self.contains(Self::of(source))
    }
}

impl BitOr for Sources {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.and(other)
    }
}

impl BitOrAssign for Sources {
    fn bitor_assign(&mut self, other: Self) {
        *self = self.and(other);
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.contains(Self::ALL) {
            return f.write_str("all");
        }
        let own = ROWS.iter().filter(|row| self.has(row.source));
        let names: Vec<_> = own.map(|row| row.name).collect();
        f.write_str(&names.join("+"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_the_order_of_their_sources() {
        for (at, row) in ROWS.iter().enumerate() {
            assert_eq!(row.source as usize, at, "{}", row.name);
        }
        let last = Source::FileEvents as usize;
        assert_eq!(ROWS.len(), last + 1);
        assert!(last < 31, "the last bit of a set is that of REARM");
    }

    #[test]
    fn event_sources_are_in_the_order_of_their_values() {
        let places = EventSource::ALL.map(|source| source as usize);
        assert!(places.into_iter().eq(0..EventSource::COUNT), "{places:?}");
    }
}
