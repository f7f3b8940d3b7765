//! The lines of /events and lists of VMs: their types and parsers.

use std::fmt;
use std::sync::Arc;

use super::EventKind;
use crate::vm::json::{Json, Key, Object, elements_of, members_of};

/// A VM or an event of the daemon that the client can't parse, for example
/// because it is nested too deeply. The rest of the same answer can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The zone, if at least that can be read.
    pub zonename: Option<Arc<str>>,
    /// Why.
    pub why: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.zonename {
            Some(zonename) => write!(f, "VM {zonename}")?,
            None => f.write_str("a VM")?,
        }
        write!(f, " can't be read: {}", self.why)
    }
}

/// A list of VMs.
#[derive(Clone, Debug, Default)]
pub struct Vms {
    /// The VMs that can be read, in the daemon's order.
    pub vms: Vec<Json>,
    /// The VMs that can't be read.
    pub unreadable: Vec<Unreadable>,
}

impl Vms {
    /// Parses a JSON array of VMs, or a JSON string that holds one. The array
    /// is parsed as a whole; if that fails, each VM is parsed by itself.
    ///
    /// # Errors
    /// If the text is neither.
    pub(super) fn parse(text: &str) -> Result<Self, LineError> {
        match Json::parse(text) {
            Ok(Json::Array(vms)) => {
                Ok(Self { vms: vms.to_vec(), ..Self::default() })
            }
            Ok(Json::String(text)) if text.starts_with('[') => {
                Self::parse(&text)
            }
            Ok(_) => Err(LineError::NoArray),
            Err(_) => {
                let mut read = Self::default();
                for vm in elements_of(text).map_err(LineError::NotJson)? {
                    match Json::parse(vm) {
                        Ok(vm) => read.vms.push(vm),
                        Err(e) => {
                            let why = e.to_string();
                            let zonename = string_of(vm, "zonename");
                            let zonename = zonename.map(Arc::from);
                            read.unreadable.push(Unreadable { zonename, why });
                        }
                    }
                }
                Ok(read)
            }
        }
    }
}

/// Finds a string member of an object that can't be parsed as a whole.
fn string_of(object: &str, name: &str) -> Option<String> {
    let member = Json::parse(members_of(object).ok()?.get(name)?).ok()?;
    member.as_str().map(str::to_string)
}

/// An event of a VM.
#[derive(Clone, Debug)]
pub struct Event {
    /// What has happened.
    pub kind: EventKind,
    /// The zone.
    pub zonename: Arc<str>,
    /// The event's number, which only grows within one life of the daemon. It
    /// is 0 if the daemon does not number its events; the vminfod before this
    /// one does not.
    pub seq: u64,
    /// The whole event, as the daemon sent it.
    pub json: Json,
}

impl Event {
    /// The VM after the event; `None` for a `delete`.
    #[must_use]
    pub fn vm(&self) -> Option<&Json> {
        self.json.get("vm")
    }

    /// When it happened, by the daemon's clock: ISO 8601, UTC.
    #[must_use]
    pub fn date(&self) -> &str {
        self.json.get("date").and_then(Json::as_str).unwrap_or_default()
    }

    /// The VM's uuid.
    #[must_use]
    pub fn uuid(&self) -> &str {
        self.json.get("uuid").and_then(Json::as_str).unwrap_or_default()
    }

    /// The changes, each in the form of vminfod-http(7). Only a `modify` has
    /// any.
    #[must_use]
    pub fn changes(&self) -> &[Json] {
        let changes = self.json.get("changes").and_then(Json::as_array);
        changes.unwrap_or_default()
    }
}

/// The first line of a stream: how the stream has begun.
#[derive(Clone, Debug)]
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
    pub vms: Option<Vec<Json>>,
    /// The VMs of the query that can't be read.
    pub unreadable: Vec<Unreadable>,
    /// Whether the stream goes on where an earlier one broke, with nothing
    /// missed.
    pub is_resumed: bool,
    /// Why the stream could not go on, and began again.
    pub reset: Option<String>,
}

/// Why a line, or a list of VMs, is not what vminfod writes.
#[derive(Debug)]
pub(super) enum LineError {
    /// It is not JSON.
    NotJson(serde_json::Error),
    /// The VMs are not an array.
    NoArray,
    /// The line has no `type`.
    NoType,
    /// A line of this type lacks this required member.
    Lacks(String, &'static str),
    /// The `seq` of a line of this type is not a number.
    BadNumber(String),
    /// It has only one of `seq` and `epoch`.
    HalfAPlace,
    /// The first line of a stream is not `ready`.
    NotReady,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson(e) => write!(f, "not JSON: {e}"),
            Self::NoArray => f.write_str("the VMs are not an array"),
            Self::NoType => f.write_str("a line has no type"),
            Self::Lacks(kind, name) => {
                write!(f, "a line of type {kind} has no {name}")
            }
            Self::BadNumber(kind) => {
                write!(
                    f,
                    "a line of type {kind} has a seq that is not a number"
                )
            }
            Self::HalfAPlace => {
                f.write_str("the ready line has only one of seq and epoch")
            }
            Self::NotReady => {
                f.write_str("the first line of the stream is not a ready line")
            }
        }
    }
}

/// A line of a stream.
pub(super) enum StreamLine {
    Ready(Ready),
    Event(Event),
    /// An event that can't be read, with its number.
    Unreadable(u64, Unreadable),
    /// A heartbeat, with the number of the last event.
    Heartbeat(u64),
    /// A line that this client does not know; a later daemon may send it.
    Other,
}

impl StreamLine {
    pub fn parse(text: &str) -> Result<Self, LineError> {
        match Json::parse(text) {
            Ok(json) => Self::of(json, Vec::new(), None),
            Err(why) => Self::of_parts(text, why.to_string()),
        }
    }

    /// Reads what can be read of a line that can't be parsed as a whole. `why`
    /// is the parser's error.
    fn of_parts(text: &str, why: String) -> Result<Self, LineError> {
        let mut unreadable = Vec::new();
        let mut line = Object::new();
        for (name, text) in members_of(text).map_err(LineError::NotJson)? {
            let value = match &*name {
                "vms" => {
                    let read = Vms::parse(text)?;
                    unreadable = read.unreadable;
                    Json::from(read.vms)
                }
                _ => match Json::parse(text) {
                    Ok(value) => value,
                    Err(_) => continue,
                },
            };
            line.set(Key::Owned(name), value);
        }
        Self::of(Json::from(line), unreadable, Some(why))
    }

    /// Finds out what a line is. `why` is set if some of it could not be
    /// parsed.
    fn of(
        json: Json,
        unreadable: Vec<Unreadable>,
        why: Option<String>,
    ) -> Result<Self, LineError> {
        let kind = json.get("type").and_then(Json::as_str);
        let kind = kind.ok_or(LineError::NoType)?.to_string();
        let members = Members { kind: &kind, json: &json };
        let mut kinds = EventKind::ALL.into_iter();
        if let Some(kind) = kinds.find(|known| known.name() == kind) {
            return Self::of_event(kind, &members, why);
        }
        match &*kind {
            "heartbeat" => Ok(Self::Heartbeat(members.seq()?)),
            "ready" => Ok(Self::Ready(members.ready(unreadable)?)),
            _ => Ok(Self::Other),
        }
    }

    fn of_event(
        kind: EventKind,
        members: &Members<'_>,
        why: Option<String>,
    ) -> Result<Self, LineError> {
        let json = members.json;
        let zonename = members.wanted("zonename")?.into();
        let seq = members.seq()?;
        let error = members.word("error").map(str::to_string);
        if let Some(why) = why.or(error) {
            let zonename = Some(zonename);
            return Ok(Self::Unreadable(seq, Unreadable { zonename, why }));
        }
        let has_vm = json.get("vm").and_then(Json::as_object).is_some();
        if kind != EventKind::Delete && !has_vm {
            return Err(members.lacks("vm"));
        }
        let json = json.clone();
        Ok(Self::Event(Event { kind, zonename, seq, json }))
    }
}

/// The members of a line of type `kind`.
struct Members<'a> {
    kind: &'a str,
    json: &'a Json,
}

impl<'a> Members<'a> {
    fn lacks(&self, name: &'static str) -> LineError {
        LineError::Lacks(self.kind.to_string(), name)
    }

    fn word(&self, name: &str) -> Option<&'a str> {
        self.json.get(name).and_then(Json::as_str)
    }

    fn wanted(&self, name: &'static str) -> Result<String, LineError> {
        let word = self.word(name).map(str::to_string);
        word.ok_or_else(|| self.lacks(name))
    }

    /// The number of an event; 0 if the daemon does not number its events.
    fn seq(&self) -> Result<u64, LineError> {
        let Some(seq) = self.json.get("seq") else { return Ok(0) };
        let odd = || LineError::BadNumber(self.kind.to_string());
        seq.as_u64().ok_or_else(odd)
    }

    fn ready(
        &self,
        mut unreadable: Vec<Unreadable>,
    ) -> Result<Ready, LineError> {
        let vms = match self.json.get("vms") {
            None => None,
            Some(Json::Array(vms)) => Some(vms.to_vec()),
            Some(Json::String(text)) => {
                let read = Vms::parse(text)?;
                unreadable.extend(read.unreadable);
                Some(read.vms)
            }
            Some(_) => return Err(LineError::NoArray),
        };
        let epoch = self.word("epoch").unwrap_or_default();
        if self.json.get("seq").is_none() != epoch.is_empty() {
            return Err(LineError::HalfAPlace);
        }
        Ok(Ready {
            date: self.wanted("date")?,
            uuid: self.wanted("uuid")?,
            seq: self.seq()?,
            epoch: epoch.to_string(),
            vms,
            unreadable,
            is_resumed: self.json.get("resumed") == Some(&Json::Bool(true)),
            reset: self.word("reset").map(str::to_string),
        })
    }
}

/// Makes an event that the daemon has not sent: what must have happened while a
/// stream was broken.
pub(super) fn missed(
    kind: EventKind,
    zonename: &str,
    vm: &Json,
    changes: Option<Vec<Json>>,
    ready: &Ready,
) -> Event {
    let mut json = Object::new();
    json.set("type", kind.name());
    json.set("date", ready.date.as_str());
    json.set("zonename", zonename);
    json.set("uuid", vm.get("uuid").cloned());
    if kind != EventKind::Delete {
        json.set("vm", vm.clone());
    }
    if let Some(changes) = changes {
        json.set("changes", changes);
    }
    json.set("seq", ready.seq);
    json.set("epoch", ready.epoch.as_str());
    let mut cause = Object::new();
    cause.set("source", "client");
    cause.set("detail", ready.reset.as_deref().unwrap_or("began again"));
    json.set("cause", cause);
    Event {
        kind,
        zonename: zonename.into(),
        seq: ready.seq,
        json: Json::from(json),
    }
}
