//! /status: what the daemon reports about itself. Today's clients know most of
//! its members; those from `seq` on are our own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use vminfod_client::EventKind;

use super::Shared;
use super::reloads::{EndedReload, ReloadChanges};
use crate::drift::Healed;
use crate::event::{Cause, Job, Lane, Reload, Trigger};
use crate::faults::Fault;
use crate::http::Host;
use crate::hub::SubscriberInfo;
use crate::load::runs::Overdue;
use crate::metrics::Page;
use crate::os;
use crate::source::{EventSource, Source, Sources};
use crate::sync::Wake;
use crate::sync_requests::SyncRequest;
use crate::vm::json::{Json, Object};
use crate::vm::values::date_text;
use crate::watch::files::FileWatcher;

/// At most this many waiting jobs are listed.
const BACKLOG_MAX: usize = 1000;

/// Answers what the HTTP server asks of the daemon: its status and metrics, its
/// faults, and loads that clients wait for.
#[derive(Clone, Debug)]
pub struct Status {
    shared: Arc<Shared>,
    files: Arc<FileWatcher>,
    workers: usize,
    /// When the daemon started, for measuring.
    started: Instant,
    /// The same, as a date of the clock at that time.
    started_at: SystemTime,
}

impl Host for Status {
    fn status(&self, full: bool) -> Json {
        self.to_json(full)
    }

    fn metrics(&self, page: &mut Page) {
        super::metrics::write(page, &self.shared, &self.files, self.started_at);
    }

    fn request(
        &self,
        zonename: Option<&Arc<str>>,
        wake: Wake,
    ) -> Option<Arc<SyncRequest>> {
        let shared = &self.shared;
        let lane = zonename.map_or(Lane::All, |z| Lane::Vm(Arc::clone(z)));
        let cause = Cause::now(Trigger::Sync, "a client asked");
        let job = Job::new(lane, Sources::ALL, cause);
        let job = Job { reload: Reload::Sync, ..job };
        let push = || shared.queue.push_urgent(job);
        shared.requests.ask(zonename, wake, push)
    }

    fn faults(&self, zonename: Option<&str>) -> Vec<(Source, String)> {
        let faults = self.shared.faults.list().into_iter();
        // Sysinfo is in every VM, so its faults concern every VM.
        let faults = faults.filter(|((of, source), _)| match zonename {
            Some(_) => of.as_deref() == zonename || *source == Source::Sysinfo,
            None => true,
        });
        let faults = faults.map(|((_, source), fault)| (source, fault.error));
        // A command that has not answered yet has not failed, but its value
        // may be old.
        let waits = |overdue: &Overdue| match zonename {
            Some(name) => overdue.waiting.contains(&Lane::Vm(name.into())),
            None => !overdue.waiting.is_empty(),
        };
        let overdue = self.shared.runs.overdue().into_iter().filter(waits);
        let overdue =
            overdue.map(|Overdue { circuit, source, time, .. }| {
                let what =
                    format!("{circuit}: has not answered for {time:.1?}");
                (source, what)
            });
        faults.chain(overdue).collect()
    }
}

impl Status {
    /// The status of a daemon that starts now and has `workers` workers.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        files: Arc<FileWatcher>,
        workers: usize,
    ) -> Self {
        let (started, started_at) = (Instant::now(), SystemTime::now());
        Self { shared, files, workers, started, started_at }
    }

    fn to_json(&self, full: bool) -> Json {
        let shared = &self.shared;
        let mut status = Object::new();
        status.set("pid", std::process::id());
        status.set("uptime", self.started.elapsed().as_secs());
        status.set("memory", memory());
        status.set("state", "running");
        status.set("status", "working");
        status.set("numVms", shared.cache.len());
        status.set("curDate", date_text(SystemTime::now()));
        status.set("curTime", self.clock_text(Instant::now()));
        status.set("queue", self.queue());
        let last = shared.reloads.last().pop_back();
        let last = last.map(|refresh| {
            let ago = seconds_text(refresh.ended.elapsed());
            format!("{ago} ({})", seconds_text(refresh.took))
        });
        status.set("lastRefresh", last);
        status.set("refreshErrors", self.refresh_errors());
        let (listeners, cut_off) = shared.hub.subscribers();
        status.set("eventsListeners", self.listeners(listeners));
        status.set("eventsListenersCutOff", cut_off);
        if full {
            status.set("refreshLog", self.refresh_log());
            status.set("fswatcher", self.fswatcher());
        }
        status.set("seq", shared.cache.seq());
        status.set("epoch", shared.cache.epoch());
        status.set("version", env!("CARGO_PKG_VERSION"));
        status.set("sources", self.sources());
        status.set("commands", self.commands());
        status.set("breakers", self.breakers());
        status.set("drift", healed_json(shared.reloads.drift.healed()));
        status.set("gaps", healed_json(shared.reloads.gaps.healed()));
        status.set("errors", self.errors());
        Json::from(status)
    }

    /// Has our own members, and those that today's `vminfo status -f` reads.
    /// There is no separate process that watches files, and so no command to it
    /// can wait: `watcher_pid` is our own pid, and `pending_actions` is empty.
    fn fswatcher(&self) -> Object {
        let pid = std::process::id();
        let (watched, others) = self.files.paths();
        let shown = |paths: Vec<PathBuf>| -> Vec<Json> {
            let paths = paths.iter().map(|path| path.to_string_lossy());
            paths.map(|path| Json::from(&*path)).collect()
        };
        let mut fswatcher = Object::new();
        fswatcher.set("pid", pid);
        fswatcher.set("watches", self.files.count());
        let mut delays = Object::new();
        for (count, average) in self.shared.numbers.file_delays.averages() {
            delays.set(count.to_string(), average);
        }
        fswatcher.set("message_delays", delays);
        fswatcher.set("watching", shown(watched));
        fswatcher.set("not_yet_watching", shown(others));
        fswatcher.set("pending_actions", Object::new());
        fswatcher.set("watcher_pid", pid);
        fswatcher.set("running", true);
        fswatcher
    }

    /// `vasync_queue` is what today's `vminfo status` reads.
    fn queue(&self) -> Object {
        let status = self.shared.queue.status(BACKLOG_MAX);
        let npending = status.working.len();
        let nqueued = status.waiting_count;
        let working = status.working.iter();
        let channels: Vec<_> =
            working.map(|lane| Json::from(lane.to_string())).collect();
        let backlog = status.waiting.iter().map(|(lane, sources, cause)| {
            let mut job = Object::new();
            job.set("description", format!("{lane}: {sources}"));
            job.set(
                "cause",
                format!("{}: {}", cause.trigger.name(), cause.detail),
            );
            job.set("age", cause.at.elapsed().as_secs_f64());
            Json::from(job)
        });
        let mut vasync = Object::new();
        vasync.set("concurrency", self.workers);
        vasync.set("npending", npending);
        vasync.set("nqueued", nqueued);
        vasync.set("pending", Object::new());
        vasync.set("queued", Vec::new());
        let mut queue = Object::new();
        queue.set("now", self.clock_text(Instant::now()));
        queue.set("paused", false);
        queue.set("working", npending);
        queue.set("max_jobs", self.workers);
        queue.set("channels", channels);
        queue.set("backlog", backlog.collect::<Vec<_>>());
        queue.set("idle", npending == 0 && nqueued == 0);
        queue.set("overflows", status.overflows);
        queue.set("transitionsLost", status.transitions_lost);
        queue.set("later", status.later_count);
        queue.set("stuck", status.stuck);
        queue.set("vasync_queue", vasync);
        queue
    }

    fn refresh_log(&self) -> Vec<Json> {
        self.shared.reloads.last().into_iter().map(reload_json).collect()
    }

    /// A moment by the daemon's own clock, which begins when it starts and is
    /// never set: in seconds.
    fn clock_text(&self, at: Instant) -> String {
        let time = at.saturating_duration_since(self.started);
        let (whole, ns) = (time.as_secs(), time.subsec_nanos());
        format!("{whole}.{ns:09}s ({:.2}s)", time.as_secs_f64())
    }

    fn listeners(&self, listeners: Vec<SubscriberInfo>) -> Object {
        let mut object = Object::new();
        for listener in listeners {
            let mut entry = Object::new();
            if let Some(name) = listener.user_agent {
                entry.set("userAgent", name);
            }
            entry.set("createdTime", self.clock_text(listener.subscribed));
            entry.set("createdDate", date_text(listener.created));
            entry
                .set("createdAgo", seconds_text(listener.subscribed.elapsed()));
            object.set(listener.uuid.to_string(), entry);
        }
        object
    }

    fn refresh_errors(&self) -> Vec<Json> {
        let errors = self.shared.faults.refresh_errors().into_iter();
        let errors = errors.map(|(error, time)| {
            let mut object = Object::new();
            object.set("err", error);
            object.set("time", date_text(time));
            let ago = time.elapsed().unwrap_or_default();
            object.set("ago", seconds_text(ago));
            Json::from(object)
        });
        errors.collect()
    }

    fn sources(&self) -> Object {
        let mut object = Object::new();
        for (source, status) in &self.shared.sources {
            let status = status.lock().clone();
            let age = |at: Instant| at.elapsed().as_secs_f64();
            let mut entry = Object::new();
            entry.set("ready", status.ready);
            entry.set("pid", status.pid);
            entry.set("restarts", status.restarts);
            entry.set("events", status.events);
            entry.set("ignored", status.ignored);
            entry.set("lost", status.lost);
            entry.set("lastEventAge", status.last_event.map(age));
            entry.set("lastError", status.last_error);
            object.set(source.name(), entry);
        }
        object
    }

    /// Commands that have not answered yet, and the lanes that wait for them.
    fn breakers(&self) -> Vec<Json> {
        let open = self.shared.runs.overdue().into_iter().map(|open| {
            let waiting = open.waiting.iter().take(BACKLOG_MAX);
            let waiting = waiting.map(|lane| Json::from(lane.to_string()));
            let mut entry = Object::new();
            entry.set("command", open.circuit);
            entry.set("seconds", open.time.as_secs_f64());
            entry.set("nwaiting", open.waiting.len());
            entry.set("waiting", waiting.collect::<Vec<_>>());
            Json::from(entry)
        });
        open.collect()
    }

    fn commands(&self) -> Object {
        let mut object = Object::new();
        for (name, count) in self.shared.runs.runner().counts().lock().iter() {
            let mut entry = Object::new();
            entry.set("runs", count.runs);
            entry.set("failures", count.failures);
            entry.set("hangs", count.hangs);
            entry.set("seconds", count.time.as_secs_f64());
            object.set(name.clone(), entry);
        }
        object
    }

    fn errors(&self) -> Vec<Json> {
        let mut errors = Vec::new();
        for ((zonename, source), fault) in self.shared.faults.list() {
            let zonename = zonename.as_ref();
            errors.push(fault_json(zonename, source.name(), fault));
        }
        for (source, status) in &self.shared.sources {
            if let Some(fault) = status.lock().fault.clone() {
                let source = format!("{} events", source.name());
                errors.push(fault_json(None, &source, fault));
            }
        }
        for failure in self.files.failures() {
            let zonename = failure.zonename.as_ref();
            errors.push(fault_json(zonename, "watch", failure.fault));
        }
        errors
    }
}

fn fault_json(zonename: Option<&Arc<str>>, source: &str, fault: Fault) -> Json {
    let mut object = Object::new();
    object.set("zonename", zonename.map(Json::from));
    object.set("source", source);
    object.set("error", fault.error);
    object.set("since", date_text(fault.since));
    object.set("retries", fault.retries);
    Json::from(object)
}

fn healed_json(healed: Healed) -> Object {
    let mut properties = Object::new();
    let mut of_property = Object::new();
    let mut last = None;
    for ((property, source), count) in healed.properties {
        if last.as_ref().is_some_and(|last| *last != property) {
            properties.set(last.unwrap_or_default(), of_property);
            of_property = Object::new();
        }
        of_property.set(source.name(), count);
        last = Some(property);
    }
    if let Some(last) = last {
        properties.set(last, of_property);
    }
    let mut object = Object::new();
    object.set("vms", healed.vms);
    object.set("last", healed.last.map(date_text));
    object.set("properties", properties);
    let mut missed = Object::new();
    for (source, of) in EventSource::ALL.into_iter().zip(healed.missed) {
        let mut entry = Object::new();
        entry.set("vms", of.vms);
        entry.set("last", of.last.map(date_text));
        missed.set(source.name(), entry);
    }
    object.set("missed", missed);
    object
}

/// A full reload. Today's `vminfo status -f` reads the members before
/// `numVms`.
fn reload_json(reload: EndedReload) -> Json {
    let ReloadChanges { events, more } = reload.changes;
    let (mut of_cache, mut of_vms) = (Vec::new(), Vec::new());
    for (zonename, event) in events {
        let mut change = Object::new();
        change.set("type", event.kind.name());
        change.set("zonename", &zonename);
        if event.kind != EventKind::Modify {
            of_cache.push(Json::from(change));
            continue;
        }
        let paths = event.paths.into_iter().map(Json::from);
        change.set("paths", paths.collect::<Vec<_>>());
        change.set("morePaths", event.more);
        of_vms.push(Json::from(change));
    }
    let started = reload.date.checked_sub(reload.took);
    let mut object = Object::new();
    object.set("started", date_text(started.unwrap_or(reload.date)));
    object.set("ended", date_text(reload.date));
    object.set("took", seconds_text(reload.took));
    object.set("endedAgo", seconds_text(reload.ended.elapsed()));
    object.set("cacheChanges", of_cache);
    object.set("vmChanges", of_vms);
    object.set("moreChanges", more);
    object.set("numVms", reload.vms);
    object.set("seconds", reload.took.as_secs_f64());
    object.set("cause", &reload.cause);
    Json::from(object)
}

/// In bytes; `null` where the system does not report a value.
fn memory() -> Object {
    let measured = os::memory::measure();
    let mut memory = Object::new();
    memory.set("rss", measured.rss);
    memory.set("heapTotal", measured.heap_total);
    memory.set("heapUsed", measured.heap_used);
    memory
}

/// A time in seconds, as today's daemon writes it: `12.3s`.
fn seconds_text(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}
