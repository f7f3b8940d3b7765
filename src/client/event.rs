//! What the lines of /events say, and lists of VMs.

use std::fmt;
use std::sync::Arc;

use super::EventKind;
use crate::vm::json::{Json, Key, Object, elements_of, members_of};

/// A VM or an event of the daemon that this side can't read, since it nests too
/// deep, say. The others of the same answer can be read.
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
    /// Those that can be read, in the daemon's order.
    pub vms: Vec<Json>,
    /// The others.
    pub unreadable: Vec<Unreadable>,
}

impl Vms {
    /// Reads a JSON array of VMs, or a string that holds one: all at once, or
    /// one by one if that fails.
    ///
    /// # Errors
    /// If it is neither.
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

/// A string among the members of an object that can't be read as a whole.
fn string_of(object: &str, name: &str) -> Option<String> {
    let member = Json::parse(members_of(object).ok()?.get(name)?).ok()?;
    member.as_str().map(str::to_string)
}

/// Something that has happened to a VM.
#[derive(Clone, Debug)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// The zone.
    pub zonename: Arc<str>,
    /// Its number, which only grows within a daemon's life; 0 of a daemon that
    /// does not number its events, as that of before this one.
    pub seq: u64,
    /// The whole event, as the daemon has told it.
    pub json: Json,
}

impl Event {
    /// The VM as it is now; of `delete` there is none.
    #[must_use]
    pub fn vm(&self) -> Option<&Json> {
        self.json.get("vm")
    }

    /// When, by the daemon's clock: ISO 8601, UTC.
    #[must_use]
    pub fn date(&self) -> &str {
        self.json.get("date").and_then(Json::as_str).unwrap_or_default()
    }

    /// The VM's uuid.
    #[must_use]
    pub fn uuid(&self) -> &str {
        self.json.get("uuid").and_then(Json::as_str).unwrap_or_default()
    }

    /// What has changed, each as vminfod-http(7) has it; of `modify` alone.
    #[must_use]
    pub fn changes(&self) -> &[Json] {
        let changes = self.json.get("changes").and_then(Json::as_array);
        changes.unwrap_or_default()
    }
}

/// How a stream has begun.
#[derive(Clone, Debug)]
pub struct Ready {
    /// When, by the daemon's clock: ISO 8601, UTC.
    pub date: String,
    /// The subscription, as /status has it.
    pub uuid: String,
    /// The last event that is in the snapshot; 0 if events have no numbers.
    pub seq: u64,
    /// The daemon's life; empty if events have no numbers. Such a stream can't
    /// be resumed: each connection begins with a snapshot.
    pub epoch: String,
    /// All VMs that are asked for, unless none are wanted, or they are known
    /// since the stream goes on.
    pub vms: Option<Vec<Json>>,
    /// VMs that are asked for, but can't be read.
    pub unreadable: Vec<Unreadable>,
    /// Whether it goes on where an earlier one broke, with nothing missed.
    pub is_resumed: bool,
    /// Why it could not go on, and began again.
    pub reset: Option<String>,
}

/// Why a line, or a list of VMs, is none of vminfod's.
#[derive(Debug)]
pub(super) enum LineError {
    /// It is not JSON.
    NotJson(serde_json::Error),
    /// The VMs are no array.
    NoArray,
    /// It does not say what it is.
    NoType,
    /// A line of this type has to have this member.
    Lacks(String, &'static str),
    /// The `seq` of a line of this type is no number.
    BadNumber(String),
    /// It has only one of `seq` and `epoch`.
    HalfAPlace,
    /// It is not the first line of a stream.
    NotReady,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson(e) => write!(f, "not JSON: {e}"),
            Self::NoArray => f.write_str("the VMs are no array"),
            Self::NoType => f.write_str("a line without type"),
            Self::Lacks(kind, name) => write!(f, "{kind} without {name}"),
            Self::BadNumber(kind) => {
                write!(f, "{kind} with a seq that is no number")
            }
            Self::HalfAPlace => f.write_str("ready with one of seq and epoch"),
            Self::NotReady => f.write_str("it is not ready"),
        }
    }
}

/// A line of a stream.
pub(super) enum StreamLine {
    Ready(Ready),
    Event(Event),
    /// An event that can't be read, by its number.
    Unreadable(u64, Unreadable),
    /// The number of the last event.
    Heartbeat(u64),
    /// Something that a later daemon may say.
    Other,
}

impl StreamLine {
    pub fn parse(text: &str) -> Result<Self, LineError> {
        match Json::parse(text) {
            Ok(json) => Self::of(json, Vec::new(), None),
            Err(why) => Self::of_parts(text, why.to_string()),
        }
    }

    /// Reads what can be read of a line that can't be read as a whole, which
    /// is why.
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

    /// What a line is; `why` not all of it could be read.
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

/// The members of a line of this type.
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

    /// The number of an event; 0 of a daemon that does not number its events.
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

/// An event that nobody has sent: what must have happened while a stream was
/// broken.
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
