//! What to ask the daemon for, as Rust types. vminfod-http(7) describes the
//! parameters of the requests.

use std::fmt::Write;
use std::time::Duration;

use super::{Event, EventKind};

/// The time between heartbeats that a stream asks for by default. A stream on
/// which nothing arrives for three times as long counts as broken.
pub const HEARTBEAT: Duration = Duration::from_secs(10);

/// The shortest time between heartbeats that the daemon accepts.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);

/// The longest time that the daemon accepts, unless it is set otherwise: a day.
const SECONDS_MAX: Duration = Duration::from_secs(86_400);

/// The target of a request, while it is being built.
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

/// Percent-encodes all bytes that may mean something else in a target.
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

/// Which VMs, and which of their properties. By default: all properties of all
/// VMs.
///
/// ```
/// use vminfod_client::VmsQuery;
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
    /// All properties of all VMs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only VMs with a property whose text equals `value`. All conditions must
    /// hold; if a property is given twice, the last condition counts.
    #[must_use]
    pub fn equals(self, property: &str, value: &str) -> Self {
        self.condition(property, &format!("\\{value}"))
    }

    /// Only VMs with a property whose text matches this regular expression
    /// anywhere. Upper and lower case are the same.
    #[must_use]
    pub fn matches(self, property: &str, pattern: &str) -> Self {
        self.condition(property, &format!("~{pattern}"))
    }

    /// Only VMs that meet a condition in the daemon's own notation: `VALUE`,
    /// `~REGEX`, `!VALUE`, `!~REGEX`.
    #[must_use]
    pub fn condition(mut self, property: &str, words: &str) -> Self {
        self.conditions.push((property.to_string(), words.to_string()));
        self
    }

    /// Only these properties of each VM, joined by commas. [`Client::vms`]
    /// asks for `zonename` and `uuid` as well; [`Client::vms_as`] does not.
    ///
    /// [`Client::vms`]: crate::Client::vms
    /// [`Client::vms_as`]: crate::Client::vms_as
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

    /// The same, with the properties that each [`Vm`](crate::Vm) must have.
    pub(super) fn with_names(mut self) -> Self {
        self.fields = self.fields.map(|f| format!("zonename,uuid,{f}"));
        self
    }

    /// Whether the answer to another query would be wrong for this one, and not
    /// only longer.
    pub(super) fn selects(&self) -> bool {
        !self.conditions.is_empty() || self.sync.is_some()
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

/// Which events. By default: all events of all VMs, with a snapshot of the VMs
/// at the beginning.
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

    /// Only events of this VM, by uuid or zonename. More VMs can be added by
    /// further calls.
    #[must_use]
    pub fn vm(mut self, name: &str) -> Self {
        self.vms.push(name.to_string());
        self
    }

    /// Only events of this kind. More kinds can be added by further calls.
    #[must_use]
    pub fn kind(mut self, kind: EventKind) -> Self {
        self.kinds.push(kind);
        self
    }

    /// Only modifications at or below one of these paths, joined by commas
    /// (`state,nics.*.ip`); other kinds of events still come. More paths can be
    /// added by further calls.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        self.paths.push(path.to_string());
        self
    }

    /// No snapshot of the VMs at the beginning. A [`Watcher`](crate::Watcher)
    /// has one all the same.
    #[must_use]
    pub fn without_snapshot(mut self) -> Self {
        self.has_snapshot = false;
        self
    }

    /// How often the daemon should send a heartbeat while nothing happens.
    #[must_use]
    pub fn heartbeat(mut self, every: Duration) -> Self {
        self.heartbeat = every.clamp(HEARTBEAT_MIN, SECONDS_MAX);
        self
    }

    /// With a snapshot of the VMs at the beginning.
    pub(super) fn with_snapshot(mut self) -> Self {
        self.has_snapshot = true;
        self
    }

    /// Whether the stream begins with a snapshot of the VMs.
    pub(super) fn has_snapshot(&self) -> bool {
        self.has_snapshot
    }

    /// How long a stream may be silent before it counts as broken.
    pub(super) fn silence_max(&self) -> Duration {
        self.heartbeat * 3
    }

    /// Whether the query asks for all events of all VMs.
    pub(super) fn is_whole(&self) -> bool {
        self.vms.is_empty() && self.kinds.is_empty() && self.paths.is_empty()
    }

    /// Filters an event that a mirror has made itself: by its kind, and its
    /// changes, which are of whole members, by the members that the paths begin
    /// with. `None` if nothing is left.
    pub(super) fn narrow(&self, mut event: Event) -> Option<Event> {
        let kind = event.kind()?;
        if !self.kinds.is_empty() && !self.kinds.contains(&kind) {
            return None;
        }
        if let Event::Modify { changes, .. } = &mut event
            && !self.paths.is_empty()
        {
            let paths = self.paths.iter().flat_map(|path| path.split(','));
            let members = paths.map(|path| path.split('.').next());
            let members: Vec<_> = members.collect();
            changes.retain(|change| {
                members.contains(&Some(change.pretty_path.as_str()))
            });
            if changes.is_empty() {
                return None;
            }
        }
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

/// A time as the daemon reads it, in seconds, cut to the longest that it
/// accepts.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.3}", time.min(SECONDS_MAX).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_percent_encoded() {
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
