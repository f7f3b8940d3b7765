//! What a stream of events brings.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::lines::Line;
use super::vm::take;
use super::{Error, FormatError, Unreadable, Vm};

/// What happened to a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// It is new.
    Create,
    /// It has changed.
    Modify,
    /// It is gone.
    Delete,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Create, Self::Modify, Self::Delete];

    /// The `type` of such an event.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Modify => "modify",
            Self::Delete => "delete",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What comes from a stream.
///
/// A line that was kept, for example by `vminfod events -j`, can be read with
/// `parse`:
///
/// ```
/// use vminfod_client::Event;
///
/// let line = r#"{"type":"delete","zonename":"a","uuid":"a","seq":7}"#;
/// let event: Event = line.parse()?;
/// assert!(matches!(event, Event::Delete { .. }));
/// # Ok::<(), vminfod_client::FormatError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The stream has begun, or goes on after a break.
    Ready(Ready),
    /// A VM is new.
    Create {
        /// The VM.
        vm: Arc<Vm>,
        /// Which VM, when, and why.
        header: EventHeader,
    },
    /// A VM has changed.
    Modify {
        /// The VM after the changes.
        vm: Arc<Vm>,
        /// What has changed.
        changes: Vec<Change>,
        /// The VM before the changes, if the event comes from a
        /// [`Mirror`](crate::Mirror) that had it.
        before: Option<Arc<Vm>>,
        /// Which VM, when, and why.
        header: EventHeader,
    },
    /// A VM is gone.
    Delete {
        /// The VM as it was last, if the event comes from a
        /// [`Mirror`](crate::Mirror) that had it.
        before: Option<Arc<Vm>>,
        /// Which VM, when, and why.
        header: EventHeader,
    },
    /// An event of a VM that can't be read.
    Unreadable(Unreadable),
    /// The connection is broken. The stream connects again until that succeeds,
    /// or until the time for retrying is over.
    Broken(Arc<Error>),
}

impl Event {
    /// The kind of an event of a VM; `None` for anything else.
    #[must_use]
    pub fn kind(&self) -> Option<EventKind> {
        match self {
            Self::Create { .. } => Some(EventKind::Create),
            Self::Modify { .. } => Some(EventKind::Modify),
            Self::Delete { .. } => Some(EventKind::Delete),
            Self::Ready(_) | Self::Unreadable(_) | Self::Broken(_) => None,
        }
    }

    /// What every event of a VM has; `None` for anything else.
    #[must_use]
    pub fn header(&self) -> Option<&EventHeader> {
        match self {
            Self::Create { header, .. }
            | Self::Modify { header, .. }
            | Self::Delete { header, .. } => Some(header),
            Self::Ready(_) | Self::Unreadable(_) | Self::Broken(_) => None,
        }
    }

    /// The VM after a `Create` or `Modify`.
    #[must_use]
    pub fn vm(&self) -> Option<&Arc<Vm>> {
        match self {
            Self::Create { vm, .. } | Self::Modify { vm, .. } => Some(vm),
            _ => None,
        }
    }

    /// What has changed; only a `Modify` has any.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        match self {
            Self::Modify { changes, .. } => changes,
            _ => &[],
        }
    }
}

impl FromStr for Event {
    type Err = FormatError;

    /// Reads a line of /events. A heartbeat is not an event.
    fn from_str(line: &str) -> Result<Self, FormatError> {
        match Line::parse(line)? {
            Line::Event(event, _) => Ok(*event),
            Line::Heartbeat(_) => {
                Err(FormatError::OtherType("heartbeat".to_string()))
            }
            Line::Other(kind) => Err(FormatError::OtherType(kind)),
        }
    }
}

/// What every event of a VM has.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EventHeader {
    /// The zone.
    pub zonename: String,
    /// The VM's uuid.
    pub uuid: String,
    /// When it happened, by the daemon's clock: ISO 8601, UTC.
    pub date: String,
    /// The event's number, which only grows within one life of the daemon. It
    /// is 0 if the daemon does not number its events; the vminfod before this
    /// one does not.
    pub seq: u64,
    /// The epoch, which names the daemon's life; empty if events have no
    /// numbers.
    pub epoch: String,
    /// Why the daemon looked.
    pub cause: Option<Cause>,
    pub(crate) json: Option<Box<RawValue>>,
}

impl EventHeader {
    /// The whole event, as the daemon wrote it. `None` if the daemon has not
    /// sent it, but a [`Mirror`](crate::Mirror) has concluded that this must
    /// have happened while the stream was broken.
    #[must_use]
    pub fn json(&self) -> Option<&RawValue> {
        self.json.as_deref()
    }
}

/// Why the daemon looked at a VM.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Cause {
    /// What reported the change: `zone`, `zfs`, `file`, `refresh`, `sync`.
    pub source: String,
    /// Particulars, for people.
    pub detail: String,
    /// The microseconds from the report to the event.
    pub latency_us: Option<u64>,
    /// All other members.
    pub other: Map<String, Value>,
}

impl<'de> Deserialize<'de> for Cause {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut other = Map::deserialize(from)?;
        Ok(Self {
            source: take(&mut other, "source").unwrap_or_default(),
            detail: take(&mut other, "detail").unwrap_or_default(),
            latency_us: take(&mut other, "latency_us"),
            other,
        })
    }
}

/// One change of a VM.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Change {
    /// The names that lead to it; `None` stands for an element of an array.
    pub path: Vec<Option<String>>,
    /// The path for people: `nics.*.ip`.
    pub pretty_path: String,
    /// What happened there.
    pub action: Action,
    /// What was there, unless it was added.
    pub old_value: Option<Value>,
    /// What is there, unless it was removed.
    pub new_value: Option<Value>,
    /// For a change within a nic or disk: which one, by its `mac` or `path`.
    pub ident: Option<Value>,
}

/// What happened to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is another one.
    Changed,
}

impl Action {
    /// The word for it in an event.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

impl Serialize for Change {
    /// Writes what the daemon writes.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut members = to.serialize_map(None)?;
        members.serialize_entry("prettyPath", &self.pretty_path)?;
        members.serialize_entry("path", &self.path)?;
        members.serialize_entry("action", self.action.name())?;
        for (name, value) in [
            ("oldValue", &self.old_value),
            ("newValue", &self.new_value),
            ("ident", &self.ident),
        ] {
            if let Some(value) = value {
                members.serialize_entry(name, value)?;
            }
        }
        members.end()
    }
}

impl<'de> Deserialize<'de> for Change {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut members = Map::deserialize(from)?;
        let action: Option<String> = take(&mut members, "action");
        let actions = [Action::Added, Action::Removed, Action::Changed];
        let action = actions
            .into_iter()
            .find(|known| action.as_deref() == Some(known.name()))
            .ok_or_else(|| D::Error::custom("a change has no known action"))?;
        Ok(Self {
            path: take(&mut members, "path").unwrap_or_default(),
            pretty_path: take(&mut members, "prettyPath").unwrap_or_default(),
            action,
            old_value: members.remove("oldValue"),
            new_value: members.remove("newValue"),
            ident: members.remove("ident"),
        })
    }
}

/// The first line of a stream: how the stream has begun.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Ready {
    /// When, by the daemon's clock: ISO 8601, UTC.
    pub date: String,
    /// The uuid of the subscription, as in /status.
    pub uuid: String,
    /// The number of the last event in the snapshot; 0 if events have no
    /// numbers.
    pub seq: u64,
    /// The epoch, which names the daemon's life; empty if events have no
    /// numbers. A stream without numbers can't be resumed: each connection
    /// begins with a snapshot.
    pub epoch: String,
    /// All VMs of the query. `None` if the query wants no snapshot, or if the
    /// stream was resumed and the caller knows the VMs already.
    pub vms: Option<Vec<Arc<Vm>>>,
    /// The VMs of the query that can't be read.
    pub unreadable: Vec<Unreadable>,
    /// Whether the stream goes on where an earlier one broke, with nothing
    /// missed.
    pub is_resumed: bool,
    /// Why the stream could not go on, and began again.
    pub reset: Option<String>,
}
