//! What a stream of events brings.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::lines::{Line, Members};
use super::value::{FromValue, Plain, take};
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

impl FromStr for EventKind {
    type Err = FormatError;

    fn from_str(name: &str) -> Result<Self, FormatError> {
        let mut kinds = Self::ALL.into_iter();
        let kind = kinds.find(|kind| kind.name() == name);
        kind.ok_or_else(|| FormatError::OtherType(name.to_string()))
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What comes from a stream.
///
/// A line of /events that was kept can be read with `parse`:
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
        /// The VM as a [`Mirror`](crate::Mirror) had it, if the event comes from
        /// one: after the last event of the VM that the query let through.
        before: Option<Arc<Vm>>,
        /// Which VM, when, and why.
        header: EventHeader,
    },
    /// A VM is gone.
    Delete {
        /// As for `Modify`.
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

    /// The VM as a [`Mirror`](crate::Mirror) had it before a `Modify` or
    /// `Delete`.
    #[must_use]
    pub fn before(&self) -> Option<&Arc<Vm>> {
        match self {
            Self::Modify { before, .. } | Self::Delete { before, .. } => {
                before.as_ref()
            }
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
    /// Why the daemon looked. Its source is `client` if a
    /// [`Mirror`](crate::Mirror) has concluded the event.
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

impl FromValue for Cause {
    fn from_value(value: &Value) -> Option<Self> {
        let mut other = Map::from_value(value)?;
        Some(Self {
            source: take(&mut other, "source").unwrap_or_default(),
            detail: take(&mut other, "detail").unwrap_or_default(),
            latency_us: take(&mut other, "latency_us"),
            other,
        })
    }
}

/// One change of a VM.
#[derive(Clone, Debug)]
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
    json: Values,
}

/// The values of a change, as they were written.
#[derive(Clone, Debug, Default)]
struct Values {
    old: Option<Box<RawValue>>,
    new: Option<Box<RawValue>>,
}

impl Change {
    /// [`Change::old_value`] as the daemon wrote it.
    #[must_use]
    pub fn old_json(&self) -> Option<&RawValue> {
        self.json.old.as_deref()
    }

    /// [`Change::new_value`] as the daemon wrote it.
    #[must_use]
    pub fn new_json(&self) -> Option<&RawValue> {
        self.json.new.as_deref()
    }

    /// A change of the VM's own member `name`; `None` if it has not changed.
    pub(crate) fn of_member(
        name: &str,
        old: Option<&RawValue>,
        new: Option<&RawValue>,
    ) -> Option<Self> {
        // Most members are the same, and need not be read.
        if old.map(RawValue::get) == new.map(RawValue::get) {
            return None;
        }
        let (old_value, new_value) = (value(old)?, value(new)?);
        let action = match (&old_value, &new_value) {
            (Some(old), Some(new)) if old == new => return None,
            (Some(_), Some(_)) => Action::Changed,
            (Some(_), None) => Action::Removed,
            (None, Some(_)) => Action::Added,
            (None, None) => return None,
        };
        let json = Values {
            old: old.map(RawValue::to_owned),
            new: new.map(RawValue::to_owned),
        };
        Some(Self {
            path: vec![Some(name.to_string())],
            pretty_path: name.to_string(),
            action,
            old_value,
            new_value,
            ident: None,
            json,
        })
    }
}

/// A value that may be absent; `None` if it can't be read.
#[allow(clippy::option_option)]
fn value(json: Option<&RawValue>) -> Option<Option<Value>> {
    let read = |json: &RawValue| serde_json::from_str(json.get()).ok();
    match json {
        None => Some(None),
        Some(json) => read(json).map(|Plain(value)| Some(value)),
    }
}

/// What happened to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It has another value.
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
    /// Writes what the daemon writes; only as JSON, by serde_json.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut members = to.serialize_map(None)?;
        members.serialize_entry("prettyPath", &self.pretty_path)?;
        members.serialize_entry("path", &self.path)?;
        members.serialize_entry("action", self.action.name())?;
        if let Some(old) = &self.json.old {
            members.serialize_entry("oldValue", old)?;
        }
        if let Some(new) = &self.json.new {
            members.serialize_entry("newValue", new)?;
        }
        if let Some(ident) = &self.ident {
            members.serialize_entry("ident", ident)?;
        }
        members.end()
    }
}

impl<'de> Deserialize<'de> for Change {
    /// Only from JSON, by serde_json.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(from)?;
        let bad = |e: &str| D::Error::custom(e);
        let members = Members::parse(json.get())
            .map_err(|_| bad("a change is not an object"))?;
        let action: Option<String> = members.get("action");
        let actions = [Action::Added, Action::Removed, Action::Changed];
        let action = actions
            .into_iter()
            .find(|known| action.as_deref() == Some(known.name()))
            .ok_or_else(|| bad("a change has no known action"))?;
        let (old, new) = (members.raw("oldValue"), members.raw("newValue"));
        let value =
            |json| value(json).ok_or_else(|| bad("a change has a bad value"));
        Ok(Self {
            path: members.get("path").unwrap_or_default(),
            pretty_path: members.get("prettyPath").unwrap_or_default(),
            action,
            old_value: value(old)?,
            new_value: value(new)?,
            ident: value(members.raw("ident"))?,
            json: Values {
                old: old.map(RawValue::to_owned),
                new: new.map(RawValue::to_owned),
            },
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
    /// The number of the last event in `vms`: they may be newer than the event
    /// after which the stream goes on.
    pub(crate) vms_seq: u64,
}
