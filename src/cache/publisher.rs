//! The events of one change: decides which there are, and writes them.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use vminfod_client::EventKind;

use super::{Cache, Prepared};
use crate::event::{Cause, GONE, Transition};
use crate::hub::{About, LineDraft, Vm};
use crate::load::assemble::{uninstalled, with_zone_state};
use crate::vm::diff::{Change, diff, pretty_path};
use crate::vm::json::{Json, write_string};
use crate::vm::values::date_text;

/// At most this many changed paths of an event are kept for the daemon itself:
/// for its log, and for drift.
const LOGGED_PATHS: usize = 20;

/// A longer path is cut there, in characters. Tenants choose the names in it.
const LOGGED_PATH_LENGTH: usize = 200;

/// An event that was published.
#[derive(Clone, Debug)]
pub struct Published {
    /// What happened.
    pub kind: EventKind,
    /// For a `modify`: the first paths that have changed.
    pub paths: Vec<String>,
    /// How many more paths have changed.
    pub more: usize,
}

impl Published {
    /// The end of a VM.
    #[must_use]
    pub fn deleted() -> Self {
        Self { kind: EventKind::Delete, paths: Vec::new(), more: 0 }
    }
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        for path in &self.paths {
            write!(f, " {path}")?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, " … ({more} more)"),
        }
    }
}

/// The first [`LOGGED_PATH_LENGTH`] characters of a path.
fn logged_path(path: &str) -> String {
    match path.char_indices().nth(LOGGED_PATH_LENGTH) {
        Some((end, _)) => format!("{}…", &path[..end]),
        None => path.to_string(),
    }
}

/// Writes the events of one change, and publishes them together.
pub struct Publisher<'a> {
    cache: &'a Cache,
    zonename: &'a Arc<str>,
    cause: &'a Cause,
    /// The VM as subscribers know it by then.
    now: Option<Vm>,
    steps: Vec<Step>,
    /// The time of the transition that is being published, if there is one.
    when: Option<SystemTime>,
    /// Transitions that were lost before the next event.
    pub lost: u64,
    /// Whether the hub is silent, so that no lines are wanted.
    is_silent: bool,
}

/// An event whose line is written, except for the end of the line, which holds
/// the event's number.
struct Step {
    about: About,
    vm: Option<Vm>,
    line: LineDraft,
    when: Option<SystemTime>,
    lost: u64,
    published: Published,
}

impl<'a> Publisher<'a> {
    pub fn new(
        cache: &'a Cache,
        zonename: &'a Arc<str>,
        cause: &'a Cause,
        now: Option<Vm>,
        lost: u64,
    ) -> Self {
        let (steps, when) = (Vec::new(), None);
        let is_silent = cache.hub.is_silent();
        Self { cache, zonename, cause, now, steps, when, lost, is_silent }
    }

    /// How many of the events are the end of a VM.
    pub fn ends(&self) -> usize {
        let kinds = self.steps.iter().map(|step| step.published.kind);
        kinds.filter(|kind| *kind == EventKind::Delete).count()
    }

    /// Whether the hub is silent, or not, as it was when this began.
    pub fn is_silence_unchanged(&self) -> bool {
        self.is_silent == self.cache.hub.is_silent()
    }

    /// Publishes the events. The caller holds the lock of the cache.
    pub fn publish(self) -> Vec<Published> {
        let Self { cache, cause, steps, .. } = self;
        let publish = |step: Step| {
            let Step { about, vm, line, when, lost, published } = step;
            cache.hub.publish(about, vm, line, |seq, out| {
                out.extend_from_slice(
                    format!(",\"seq\":{seq},\"epoch\":").as_bytes(),
                );
                write_string(&cache.epoch, out);
                out.extend_from_slice(b",\"cause\":");
                write_cause(cause, when, lost, out);
                out.extend_from_slice(b"}\n");
            });
            published
        };
        steps.into_iter().map(publish).collect()
    }

    /// Adds an event for each reported state, and one for what was loaded.
    pub fn load(&mut self, reported: &[Transition], vm: &Prepared) {
        let (mut steps, mut last_when) = (reported, None);
        // The last reported state is the one that was loaded.
        if let [rest @ .., end] = steps
            && *end.zone_state == *vm.parts.row.zone_state
        {
            steps = rest;
            last_when = end.when;
        }
        self.pass_all(steps, vm);
        if steps.len() < reported.len() {
            self.lost += reported.last().map_or(0, |end| end.lost);
        }
        self.when = last_when;
        self.step(vm.vm.clone());
        self.when = None;
    }

    /// Adds an event for each reported state, and the VM's end. There is no end
    /// if subscribers never knew the VM and nothing was reported of it.
    pub fn delete(&mut self, reported: &[Transition], vm: &Prepared) {
        let (end, passed) = match reported {
            [passed @ .., end] if end.zone_state == GONE => {
                self.lost += end.lost;
                (Some(end), passed)
            }
            passed => (None, passed),
        };
        self.pass_all(passed, vm);
        if self.now.is_none() {
            return;
        }
        self.when = end.and_then(|end| end.when);
        // A zone can be deleted only once it is uninstalled. Clients that
        // delete a VM wait for that state, and for the datasets to go. Both may
        // be faster than a load, so the state is published here. A zone that
        // was renamed was never in it.
        let last = end.and_then(|_| uninstalled(&vm.parts));
        if let Some(last) = last {
            self.step(Vm::new(last));
        }
        if let Some(vm) = self.now.take() {
            self.write(EventKind::Delete, &vm, None);
        }
        self.when = None;
    }

    fn pass_all(&mut self, reported: &[Transition], vm: &Prepared) {
        for step in reported {
            self.lost += step.lost;
            self.when = step.when;
            self.pass(step, &vm.vm);
        }
        self.when = None;
    }

    /// Adds an event for a state that the zone has left, unless subscribers
    /// know the VM in that state.
    fn pass(&mut self, step: &Transition, loaded: &Vm) {
        let now = self.now.as_ref().map(Vm::object);
        let state = now.and_then(|vm| vm.get_str("zone_state"));
        if state != Some(step.zone_state) {
            let base = now.unwrap_or(loaded.object());
            let next = with_zone_state(base, step.zone_state, step.zoneid);
            self.step(Vm::new(next));
        }
    }

    fn step(&mut self, vm: Vm) {
        let Some(from) = self.now.replace(vm.clone()) else {
            self.write(EventKind::Create, &vm, None);
            return;
        };
        if from.is_shared_with(&vm) {
            return;
        }
        let changes = diff(from.object(), vm.object());
        if !changes.is_empty() {
            self.write(EventKind::Modify, &vm, Some(&changes));
        }
    }

    fn write(&mut self, kind: EventKind, vm: &Vm, changes: Option<&[Change]>) {
        let uuid = vm.object().get_str("uuid").unwrap_or_default();
        let zonename = Arc::clone(self.zonename);
        let about = About {
            kind,
            uuid: match uuid == &*zonename {
                true => Arc::clone(&zonename),
                false => uuid.into(),
            },
            zonename,
        };
        let vm = (kind != EventKind::Delete).then(|| vm.clone());
        let line = match self.is_silent {
            true => LineDraft::default(),
            false => self.line(&about, vm.as_ref(), changes),
        };
        let changes = changes.unwrap_or_default();
        let first = changes.iter().take(LOGGED_PATHS);
        let paths = first.map(|c| logged_path(&pretty_path(&c.path))).collect();
        let more = changes.len().saturating_sub(LOGGED_PATHS);
        let published = Published { kind, paths, more };
        let (when, lost) = (self.when, std::mem::take(&mut self.lost));
        self.steps.push(Step { about, vm, line, when, lost, published });
    }

    /// An event's line, except for its number and what comes after that.
    fn line(
        &self,
        about: &About,
        vm: Option<&Vm>,
        changes: Option<&[Change]>,
    ) -> LineDraft {
        let size = vm.map_or(0, |vm| vm.json().len());
        let mut line = LineDraft::new(TAIL_SIZE + size);
        let out = line.out();
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(about.kind.name().as_bytes());
        out.extend_from_slice(b"\",\"date\":");
        write_date(SystemTime::now(), out);
        out.extend_from_slice(b",\"zonename\":");
        write_string(&about.zonename, out);
        out.extend_from_slice(b",\"uuid\":");
        write_string(&about.uuid, out);
        if let Some(vm) = vm {
            out.extend_from_slice(b",\"vm\":");
            out.extend_from_slice(vm.json());
        }
        if let Some(changes) = changes {
            let list: Vec<_> = changes.iter().map(Change::to_json).collect();
            out.extend_from_slice(b",\"changes\":");
            Json::from(list).write(out);
        }
        // The rest is added while other threads wait. It must not have to move
        // the whole line.
        out.reserve(TAIL_SIZE);
        line
    }
}

/// Room for all of a line except its VM and its changes, in bytes.
const TAIL_SIZE: usize = 512;

fn write_cause(
    cause: &Cause,
    when: Option<SystemTime>,
    lost: u64,
    out: &mut Vec<u8>,
) {
    let latency = cause.at.elapsed().as_micros();
    out.extend_from_slice(b"{\"source\":");
    write_string(cause.trigger.name(), out);
    out.extend_from_slice(b",\"detail\":");
    write_string(&cause.detail, out);
    out.extend_from_slice(b",\"seen\":");
    write_date(cause.date, out);
    if let Some(when) = when {
        out.extend_from_slice(b",\"when\":");
        write_date(when, out);
    }
    if lost > 0 {
        let text = format!(",\"lost_transitions\":{lost}");
        out.extend_from_slice(text.as_bytes());
    }
    out.extend_from_slice(format!(",\"latency_us\":{latency}}}").as_bytes());
}

fn write_date(date: SystemTime, out: &mut Vec<u8>) {
    write_string(&date_text(date), out);
}
