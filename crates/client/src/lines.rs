//! Reads the JSON that the daemon writes: lists of VMs, and the lines of
//! /events.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::value::RawValue;

use super::event::{Cause, Change, Event, EventHeader, EventKind, Ready};
use super::value::{FromValue, Plain};
use super::{Unreadable, Vm, Vms};

/// Why an answer, or a line of one, is not what vminfod writes.
#[derive(Debug)]
#[non_exhaustive]
pub enum FormatError {
    /// It is not HTTP.
    NotHttp(io::Error),
    /// It is not JSON, or not the JSON that is expected.
    NotJson(serde_json::Error),
    /// The VMs are not an array.
    NoArray,
    /// The VM is not a JSON object, or nested too deeply to be read.
    BadVm(Unreadable),
    /// The answer to /ping is not `pong`.
    NotPong,
    /// The line has no `type`.
    NoType,
    /// The line is not an event; this is its type.
    OtherType(String),
    /// A line of this type lacks this required member.
    MissingMember(String, &'static str),
    /// The `seq` of a line of this type is not a number.
    BadNumber(String),
    /// It has only one of `seq` and `epoch`.
    SeqWithoutEpoch,
    /// The first line of a stream is not `ready`.
    NotReady,
    /// The number of an event is not the one that is due.
    OutOfOrder {
        /// The number of the event, or of a heartbeat.
        seq: u64,
        /// The number of the last event before it.
        last: u64,
    },
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHttp(e) => e.fmt(f),
            Self::NotJson(e) if e.is_data() => e.fmt(f),
            Self::NotJson(e) => write!(f, "not JSON: {e}"),
            Self::NoArray => f.write_str("the VMs are not an array"),
            Self::BadVm(vm) => vm.fmt(f),
            Self::NotPong => f.write_str("the answer is not pong"),
            Self::NoType => f.write_str("a line has no type"),
            Self::OtherType(kind) => write!(f, "{kind} is not a type of event"),
            Self::MissingMember(kind, name) => {
                write!(f, "a line of type {kind} has no {name}")
            }
            Self::BadNumber(kind) => {
                write!(
                    f,
                    "a line of type {kind} has a seq that is not a number"
                )
            }
            Self::SeqWithoutEpoch => {
                f.write_str("the ready line has only one of seq and epoch")
            }
            Self::NotReady => {
                f.write_str("the first line of the stream is not a ready line")
            }
            Self::OutOfOrder { seq, last } => write!(
                f,
                "event {seq} after event {last}: an event is missing or \
                 repeated"
            ),
        }
    }
}

impl std::error::Error for FormatError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotHttp(e) => Some(e),
            Self::NotJson(e) => Some(e),
            _ => None,
        }
    }
}

impl From<serde_json::Error> for FormatError {
    fn from(e: serde_json::Error) -> Self {
        Self::NotJson(e)
    }
}

/// The members of a JSON object, each as its text: a member that can't be read
/// does not keep the others from being read.
pub(crate) struct Members<'a>(pub BTreeMap<String, &'a RawValue>);

impl<'a> Members<'a> {
    pub fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text).map(Self)
    }

    /// A member, if there is one of this type.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_str(self.0.get(name)?.get()).ok()
    }

    pub fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.0.get(name).copied()
    }

    fn text_of(&self, name: &str) -> Option<&'a str> {
        self.raw(name).map(RawValue::get)
    }
}

/// Reads a JSON array of VMs, or a JSON string that holds one. A VM that can't
/// be read does not hide the others.
///
/// # Errors
/// If the text is neither.
pub(crate) fn vms<T: DeserializeOwned>(
    text: &str,
) -> Result<Vms<T>, FormatError> {
    if text.trim_start().starts_with('"') {
        let text: String = serde_json::from_str(text)?;
        return match text.starts_with('[') {
            true => vms(&text),
            false => Err(FormatError::NoArray),
        };
    }
    let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(text) else {
        serde_json::from_str::<IgnoredAny>(text)?;
        return Err(FormatError::NoArray);
    };
    let mut read = Vms { vms: Vec::new(), unreadable: Vec::new() };
    for vm in elements {
        match serde_json::from_str(vm.get()) {
            Ok(vm) => read.vms.push(vm),
            Err(e) => {
                let members = Members::parse(vm.get()).ok();
                let zonename = members.and_then(|m| m.get("zonename"));
                let why = e.to_string();
                read.unreadable.push(Unreadable { zonename, why });
            }
        }
    }
    Ok(read)
}

/// A line of a stream.
pub(crate) enum Line {
    /// An event of a VM with its number, or `ready`, which has no number here.
    Event(Box<Event>, Option<u64>),
    /// A heartbeat, with the number of the last event.
    Heartbeat(u64),
    /// A line that this client does not know; a later daemon may send it.
    Other(String),
}

impl Line {
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let members = Members::parse(text)?;
        let kind: Option<String> = members.get("type");
        let kind = kind.ok_or(FormatError::NoType)?;
        let mut kinds = EventKind::ALL.into_iter();
        let known = kinds.find(|known| known.name() == kind);
        let line = LineOf { kind, members };
        match (known, &*line.kind) {
            (Some(known), _) => line.event(known, text),
            (None, "heartbeat") => Ok(Self::Heartbeat(line.seq()?)),
            (None, "ready") => {
                let ready = Event::Ready(line.ready()?);
                Ok(Self::Event(Box::new(ready), None))
            }
            (None, _) => Ok(Self::Other(line.kind)),
        }
    }
}

/// The members of a line of type `kind`.
struct LineOf<'a> {
    kind: String,
    members: Members<'a>,
}

impl LineOf<'_> {
    fn missing(&self, name: &'static str) -> FormatError {
        FormatError::MissingMember(self.kind.clone(), name)
    }

    fn required(&self, name: &'static str) -> Result<String, FormatError> {
        self.members.get(name).ok_or_else(|| self.missing(name))
    }

    /// The number of an event; 0 if the daemon does not number its events.
    fn seq(&self) -> Result<u64, FormatError> {
        match self.members.text_of("seq") {
            None => Ok(0),
            Some(text) => serde_json::from_str(text)
                .map_err(|_| FormatError::BadNumber(self.kind.clone())),
        }
    }

    fn event(&self, kind: EventKind, text: &str) -> Result<Line, FormatError> {
        let zonename = self.required("zonename")?;
        let seq = self.seq()?;
        let unreadable = |why: String| {
            let zonename = Some(zonename.clone());
            let vm = Unreadable { zonename, why };
            let event = Box::new(Event::Unreadable(vm));
            Ok(Line::Event(event, Some(seq)))
        };
        // The daemon could not write the VM.
        if let Some(why) = self.members.get("error") {
            return unreadable(why);
        }
        let vm = match (kind, self.members.text_of("vm")) {
            (EventKind::Delete, _) => None,
            (_, None) => return Err(self.missing("vm")),
            (_, Some(vm)) => match vm.parse::<Vm>() {
                Ok(vm) => Some(Arc::new(vm)),
                Err(e) => return unreadable(e.to_string()),
            },
        };
        let changes = self.members.text_of("changes").unwrap_or("[]");
        let changes: Vec<Change> = match serde_json::from_str(changes) {
            Ok(changes) => changes,
            Err(e) => return unreadable(e.to_string()),
        };
        let header = EventHeader {
            uuid: self.members.get("uuid").unwrap_or_default(),
            date: self.members.get("date").unwrap_or_default(),
            seq,
            epoch: self.members.get("epoch").unwrap_or_default(),
            cause: self
                .members
                .get("cause")
                .and_then(|Plain(cause)| Cause::from_value(&cause)),
            json: Some(RawValue::from_string(text.to_string())?),
            zonename,
        };
        let event = match (kind, vm) {
            (EventKind::Create, Some(vm)) => Event::Create { vm, header },
            (EventKind::Modify, Some(vm)) => {
                Event::Modify { vm, changes, before: None, header }
            }
            _ => Event::Delete { before: None, header },
        };
        Ok(Line::Event(Box::new(event), Some(seq)))
    }

    fn ready(&self) -> Result<Ready, FormatError> {
        let list = self.members.text_of("vms").map(vms::<Vm>).transpose()?;
        let (vms, unreadable) = match list {
            None => (None, Vec::new()),
            Some(Vms { vms, unreadable }) => {
                (Some(vms.into_iter().map(Arc::new).collect()), unreadable)
            }
        };
        let epoch: String = self.members.get("epoch").unwrap_or_default();
        if self.members.text_of("seq").is_none() != epoch.is_empty() {
            return Err(FormatError::SeqWithoutEpoch);
        }
        Ok(Ready {
            date: self.required("date")?,
            uuid: self.required("uuid")?,
            seq: self.seq()?,
            vms_seq: self.seq()?,
            epoch,
            vms,
            unreadable,
            is_resumed: self.members.get("resumed") == Some(true),
            reset: self.members.get("reset"),
        })
    }
}
