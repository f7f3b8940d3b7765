//! The data that the stages of the daemon pass on: what a source of events saw,
//! what must be loaded because of it, and why.

use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::source::{EventSource, Source, Sources};

/// What a source of events saw: the complete list of what can wake the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// A record of the zone status channel.
    Zone(ZoneChange),
    /// Something of a VM may have changed, and nothing else is known.
    Vm(VmChange),
    /// A ZFS history record of a dataset.
    Dataset(DatasetChange),
    /// A watched file was written, replaced, created or removed.
    File(FileChange),
    /// A sysevent(8) child has subscribed: what happened before is unknown.
    Ready(EventSource),
}

/// A zone's change of state, as published by the kernel or libzonecfg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneChange {
    /// The zone.
    pub zonename: Arc<str>,
    /// The state it left; empty if it did not exist.
    pub oldstate: String,
    /// The state it entered; empty if it no longer exists.
    pub newstate: String,
    /// Its id in the kernel; -1 from libzonecfg.
    pub zoneid: i32,
    /// When it happened, according to the reporter.
    pub when: Option<SystemTime>,
}

/// Something of a VM that may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmChange {
    /// The source that reported it.
    pub source: EventSource,
    /// The zone.
    pub zonename: Arc<str>,
    /// What must be read again.
    pub sources: Sources,
    /// What happened, in a few words: for `cause`, metrics and the log.
    pub what: &'static str,
    /// Whether the event may come before what it reports can be read: then it
    /// is read again a moment later.
    pub is_early: bool,
}

/// One record of a pool's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetChange {
    /// The dataset or snapshot, without leading slash; may contain the hidden
    /// components `%recv` and `%rollback`.
    pub dataset: String,
    /// What was done: `history_internal_name`.
    pub operation: String,
    /// Particulars: `history_internal_str`.
    pub detail: String,
}

/// A change of a watched file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    /// The zone that the file belongs to; `None` for those of the host.
    pub zonename: Option<Arc<str>>,
    /// The file.
    pub file: Source,
}

impl SourceEvent {
    /// The source that it came from.
    #[must_use]
    pub fn source(&self) -> EventSource {
        match self {
            Self::Zone(_) => EventSource::Zone,
            Self::Vm(change) => change.source,
            Self::Dataset(_) => EventSource::Zfs,
            Self::File(_) => EventSource::File,
            Self::Ready(source) => *source,
        }
    }

    /// Its type in metrics.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Zone(change) if change.newstate.is_empty() => "gone",
            Self::Zone(change) => &change.newstate,
            Self::Vm(change) => change.what,
            Self::Dataset(change) => &change.operation,
            Self::File(change) => change.file.name(),
            Self::Ready(_) => "ready",
        }
    }
}

impl fmt::Display for SourceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zone(z) => write!(
                f,
                "zone {} {:?} -> {:?}",
                z.zonename, z.oldstate, z.newstate
            ),
            Self::Vm(v) => {
                write!(f, "{} {} {}", v.source.name(), v.zonename, v.what)
            }
            Self::Dataset(d) => {
                write!(f, "zfs {} {} {}", d.operation, d.dataset, d.detail)
            }
            Self::File(c) => {
                let zonename = c.zonename.as_deref().unwrap_or("-");
                write!(f, "file {zonename} {}", c.file.name())
            }
            Self::Ready(source) => write!(f, "{} ready", source.name()),
        }
    }
}

/// An event with the time at which its source saw it.
#[derive(Clone, Debug)]
pub struct TimedEvent {
    /// What was seen.
    pub event: SourceEvent,
    /// When, for people.
    pub date: SystemTime,
    /// When, for measuring.
    pub at: Instant,
}

impl TimedEvent {
    /// `event`, seen now.
    #[must_use]
    pub fn now(event: SourceEvent) -> Self {
        Self { event, date: SystemTime::now(), at: Instant::now() }
    }
}

/// What caused a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// An event of this source.
    Event(EventSource),
    /// The daemon itself.
    Refresh,
    /// A client that waits for it.
    Sync,
}

impl Trigger {
    /// The name in `cause` and in /metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Event(source) => source.name(),
            Self::Refresh => "refresh",
            Self::Sync => "sync",
        }
    }
}

impl From<EventSource> for Trigger {
    fn from(source: EventSource) -> Self {
        Self::Event(source)
    }
}

/// Why something is loaded, and so why an event is published.
#[derive(Clone, Debug)]
pub struct Cause {
    /// What caused the load.
    pub trigger: Trigger,
    /// What happened, for people.
    pub detail: Arc<str>,
    /// When it was seen.
    pub date: SystemTime,
    /// When it was seen, for measuring.
    pub at: Instant,
}

impl Cause {
    /// A cause that was seen now.
    #[must_use]
    pub fn now(trigger: impl Into<Trigger>, detail: &str) -> Self {
        Self {
            trigger: trigger.into(),
            detail: detail.into(),
            date: SystemTime::now(),
            at: Instant::now(),
        }
    }
}

/// What a job is about. Jobs of one lane are merged while they wait, and never
/// run at the same time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Every VM.
    All,
    /// The host's sysinfo.
    Sysinfo,
    /// The zone index.
    Index,
    /// The VM of this zonename.
    Vm(Arc<str>),
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("refresh"),
            Self::Sysinfo => f.write_str("sysinfo"),
            Self::Index => f.write_str("zone index"),
            Self::Vm(zonename) => f.write_str(zonename),
        }
    }
}

/// Why everything is loaded. When jobs are merged, the reason that comes last
/// here counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reload {
    /// The interval between two reloads is over. A file with the same stamp as
    /// before is not read again.
    Periodic,
    /// A client asked: everything is read.
    Sync,
    /// Events were lost, or none could be received yet: everything is read.
    Gap,
}

/// Something to load.
#[derive(Clone, Debug)]
pub struct Job {
    /// What it is about.
    pub lane: Lane,
    /// What to read of it.
    pub sources: Sources,
    /// Why. Merged jobs have the cause of the first.
    pub cause: Cause,
    /// Which try this is: 0 for the first.
    pub tries: u32,
    /// Whether a client waits for it: it comes before all others.
    pub is_urgent: bool,
    /// Why everything is loaded, if it is.
    pub reload: Reload,
}

impl Job {
    /// A job that was not tried before.
    #[must_use]
    pub fn new(lane: Lane, sources: Sources, cause: Cause) -> Self {
        let (tries, is_urgent, reload) = (0, false, Reload::Gap);
        Self { lane, sources, cause, tries, is_urgent, reload }
    }

    /// A job that loads everything, and was not tried before.
    #[must_use]
    pub fn of_all(reload: Reload, cause: Cause) -> Self {
        Self { reload, ..Self::new(Lane::All, Sources::ALL, cause) }
    }

    /// Merges another job of the same lane into this one.
    pub fn merge(&mut self, other: &Self) {
        self.sources |= other.sources;
        self.is_urgent |= other.is_urgent;
        self.reload = self.reload.max(other.reload);
    }
}

/// The state of a zone that no longer exists, as libzonecfg publishes it.
pub const GONE: &str = "";

/// A state that a zone was reported to enter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// As zoneadm(8) names it; [`GONE`] where there is no zone any more.
    pub zone_state: &'static str,
    /// The zone's id in the kernel, if it has one.
    pub zoneid: Option<i32>,
    /// Whether there was no such zone before.
    pub is_first: bool,
    /// When it happened, according to the reporter.
    pub when: Option<SystemTime>,
    /// How many transitions before it were lost, because too many waited.
    pub lost: u64,
}

impl Transition {
    /// A transition to this state, of a zone that existed before.
    #[must_use]
    pub fn new(zone_state: &'static str, zoneid: Option<i32>) -> Self {
        Self { zone_state, zoneid, is_first: false, when: None, lost: 0 }
    }
}

/// What must be done because of an event.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What to load.
    pub jobs: Vec<Job>,
    /// A transition that must be published even if the zone has left that state
    /// by the time the VM is loaded.
    pub transition: Option<(Arc<str>, Transition)>,
}
