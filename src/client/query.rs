//! What to ask of the daemon, in words of Rust; vminfod-http(7) has the words
//! of HTTP.

use std::fmt::Write;
use std::time::Duration;

use super::Event;
use crate::vm::diff::EventKind;
use crate::vm::json::Json;
use crate::vm::path::Path;

/// What a heartbeat is asked for, unless one says: a stream on which nothing
/// comes for three of them is taken for broken.
pub const HEARTBEAT: Duration = Duration::from_secs(10);

/// The shortest time between heartbeats that the daemon takes.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);

/// The longest time that the daemon takes, unless it is set otherwise.
const SECONDS_MAX: Duration = Duration::from_secs(3600);

/// A request's target while it is put together.
#[derive(Clone, Debug)]
pub(super) struct Target(String);

impl Target {
    pub fn new(path: &str) -> Self {
        Self(path.to_string())
    }

    /// `/vms/NAME`
    pub fn of_vm(name: &str) -> Self {
        Self(format!("/vms/{}", encoded(name)))
    }

    pub fn add(&mut self, name: &str, value: &str) {
        let sign = if self.0.contains('?') { '&' } else { '?' };
        // Writing to a string does not fail.
        let _ = write!(self.0, "{sign}{}={}", encoded(name), encoded(value));
    }

    pub fn into_text(self) -> String {
        self.0
    }
}

/// Percent-encodes what is not plainly a part of a target.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'-' | b'_' | b'.' | b'~' | b'*' | b',' => out.push(byte.into()),
            byte if byte.is_ascii_alphanumeric() => out.push(byte.into()),
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// Which VMs, and what of them. Without anything said: all of all.
///
/// ```
/// use vminfod::client::VmsQuery;
/// let query = VmsQuery::new()
///     .equals("state", "running")
///     .matches("alias", "^web")
///     .fields("uuid,alias,nics.*.ip");
/// ```
#[derive(Clone, Debug, Default)]
pub struct VmsQuery {
    conditions: Vec<(String, String)>,
    fields: Option<String>,
    sync: Option<Duration>,
}

impl VmsQuery {
    /// All of all VMs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only VMs of which a property, as text, is this. All that is asked for
    /// has to hold; of a property that is asked for twice, the last.
    #[must_use]
    pub fn equals(self, property: &str, value: &str) -> Self {
        self.condition(property, &format!("\\{value}"))
    }

    /// Only VMs of which a property, as text, matches this regular expression
    /// somewhere; upper and lower case are one.
    #[must_use]
    pub fn matches(self, property: &str, pattern: &str) -> Self {
        self.condition(property, &format!("~{pattern}"))
    }

    /// Only VMs of which this holds, in the daemon's own words: `VALUE`,
    /// `~REGEX`, `!VALUE`, `!~REGEX`.
    #[must_use]
    pub fn condition(mut self, property: &str, words: &str) -> Self {
        self.conditions.push((property.to_string(), words.to_string()));
        self
    }

    /// Of each VM only these properties, joined by commas.
    #[must_use]
    pub fn fields(mut self, fields: &str) -> Self {
        self.fields = Some(fields.to_string());
        self
    }

    /// Load all VMs from the system first, in at most this time.
    #[must_use]
    pub fn sync(mut self, time: Duration) -> Self {
        self.sync = Some(time);
        self
    }

    pub(super) fn sync_time(&self) -> Option<Duration> {
        self.sync
    }

    pub(super) fn target(&self) -> Target {
        let mut target = Target::new("/vms");
        for (property, words) in &self.conditions {
            target.add(property, words);
        }
        if let Some(fields) = &self.fields {
            target.add("fields", fields);
        }
        if let Some(time) = self.sync {
            target.add("sync", "1");
            target.add("timeout", &seconds(time));
        }
        target
    }
}

/// Which events. Without anything said: all of all VMs, with the VMs
/// themselves at the beginning.
#[derive(Clone, Debug)]
pub struct EventsQuery {
    vms: Vec<String>,
    kinds: Vec<EventKind>,
    paths: Vec<String>,
    has_snapshot: bool,
    heartbeat: Duration,
}

impl Default for EventsQuery {
    fn default() -> Self {
        Self {
            vms: Vec::new(),
            kinds: Vec::new(),
            paths: Vec::new(),
            has_snapshot: true,
            heartbeat: HEARTBEAT,
        }
    }
}

impl EventsQuery {
    /// All events of all VMs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only events of this VM, by uuid or zonename, and of others that are
    /// asked for so.
    #[must_use]
    pub fn vm(mut self, name: &str) -> Self {
        self.vms.push(name.to_string());
        self
    }

    /// Only events of this kind, and of others that are asked for so.
    #[must_use]
    pub fn kind(mut self, kind: EventKind) -> Self {
        self.kinds.push(kind);
        self
    }

    /// Of modifications only those at or below this path (`state`,
    /// `nics.*.ip`), and others that are asked for so.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        self.paths.push(path.to_string());
        self
    }

    /// Without the VMs themselves at the beginning.
    #[must_use]
    pub fn without_snapshot(mut self) -> Self {
        self.has_snapshot = false;
        self
    }

    /// How often the daemon shall say that it is there while nothing happens.
    #[must_use]
    pub fn heartbeat(mut self, every: Duration) -> Self {
        self.heartbeat = every.clamp(HEARTBEAT_MIN, SECONDS_MAX);
        self
    }

    /// Whether VMs are wanted to begin with.
    pub(super) fn has_snapshot(&self) -> bool {
        self.has_snapshot
    }

    /// How long a stream may be silent.
    pub(super) fn silence_max(&self) -> Duration {
        self.heartbeat * 3
    }

    /// Whether each event comes.
    pub(super) fn is_whole(&self) -> bool {
        self.vms.is_empty() && self.kinds.is_empty() && self.paths.is_empty()
    }

    /// What of an event that nobody has sent the daemon would have sent.
    pub(super) fn narrow(&self, mut event: Event) -> Option<Event> {
        if !self.kinds.is_empty() && !self.kinds.contains(&event.kind) {
            return None;
        }
        if event.kind != EventKind::Modify || self.paths.is_empty() {
            return Some(event);
        }
        // The daemon knows each of them, or it would not have begun.
        let paths = self.paths.iter().filter_map(|p| Path::parse(p).ok());
        let paths: Vec<_> = paths.collect();
        let is_wanted = |change: &&Json| {
            let at = change.get("path").and_then(Json::as_array);
            paths.iter().any(|path| path.meets(at.unwrap_or_default()))
        };
        let changes = event.changes().iter().filter(is_wanted);
        let changes: Vec<_> = changes.cloned().collect();
        if changes.is_empty() {
            return None;
        }
        let mut json = event.json.as_object()?.clone();
        json.set("changes", changes);
        event.json = Json::from(json);
        Some(event)
    }

    pub(super) fn target(&self, since: Option<(u64, &str)>) -> Target {
        let mut target = Target::new("/events");
        for vm in &self.vms {
            target.add("uuid", vm);
        }
        for kind in &self.kinds {
            target.add("types", kind.name());
        }
        for path in &self.paths {
            target.add("paths", path);
        }
        let snapshot = if self.has_snapshot { "array" } else { "none" };
        target.add("snapshot", snapshot);
        target.add("heartbeat", &seconds(self.heartbeat));
        if let Some((seq, epoch)) = since {
            target.add("since", &seq.to_string());
            target.add("epoch", epoch);
        }
        target
    }
}

/// A time as the daemon reads it, and not longer than it takes.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.3}", time.min(SECONDS_MAX).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_encoded() {
        let query = VmsQuery::new()
            .equals("alias", "!a&b=c é")
            .matches("nics.*.ip", r"^10\.")
            .condition("tags.a/b", "!x")
            .fields("uuid,nics.*.ip")
            .sync(Duration::from_millis(1500));
        assert_eq!(
            query.target().into_text(),
            "/vms?alias=%5C%21a%26b%3Dc%20%C3%A9&nics.*.ip=~%5E10%5C.&\
             tags.a%2Fb=%21x&fields=uuid,nics.*.ip&sync=1&timeout=1.500"
        );
        assert_eq!(Target::of_vm("a b/ü").into_text(), "/vms/a%20b%2F%C3%BC");
        let query = EventsQuery::new()
            .vm("u")
            .kind(EventKind::Delete)
            .path("state")
            .without_snapshot();
        assert_eq!(
            query.target(Some((7, "e"))).into_text(),
            "/events?uuid=u&types=delete&paths=state&snapshot=none&\
             heartbeat=10.000&since=7&epoch=e"
        );
        assert!(!query.is_whole());
    }
}
