//! What the daemon counts, for Prometheus.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::Shared;
use crate::cache::Tally;
use crate::drift::Healed;
use crate::event::{Lane, SourceEvent, TimedEvent};
use crate::load::command::RunCount;
use crate::load::runs::Overdue;
use crate::metrics::{Counts, Page, Times};
use crate::os;
use crate::source::{CommandsNeeded, EventSource, Sources};
use crate::watch::files::FileWatcher;

/// What is counted on the way from an event to the cache.
#[derive(Debug, Default)]
pub struct Counters {
    /// Events, by source and type.
    pub events: Counts,
    /// How long jobs took, by kind.
    pub jobs: Times,
    /// The time from an event to the change of the cache, by source.
    pub latency: Times,
    /// Loads of a VM's sources, by source.
    pub loads: Counts,
    /// Loads that failed, by source.
    pub load_failures: Counts,
    /// Events that were published, by type and the source of their cause.
    pub published: Counts,
    /// How long file events waited for the planner.
    pub file_delays: Delays,
}

/// The last [`DELAYS_MAX`] delays.
#[derive(Debug, Default)]
pub struct Delays(Mutex<VecDeque<Duration>>);

/// See [`Delays`].
const DELAYS_MAX: usize = 1000;

impl Delays {
    fn add(&self, delay: Duration) {
        let mut delays = self.0.lock();
        if delays.len() >= DELAYS_MAX {
            delays.pop_back();
        }
        delays.push_front(delay);
    }

    /// The averages of the last 1, 10, 100 and 1,000 delays, each with its
    /// count, in milliseconds. Counts are left out for which there are not
    /// enough delays yet.
    #[must_use]
    pub fn averages(&self) -> Vec<(u32, f64)> {
        let delays = self.0.lock();
        let mut averages = Vec::new();
        let (mut sum, mut wanted) = (Duration::ZERO, 1);
        for (count, delay) in (1_u32..).zip(&*delays) {
            sum += *delay;
            if count == wanted {
                let average = sum.as_secs_f64() * 1000.0 / f64::from(count);
                averages.push((count, average));
                wanted *= 10;
            }
        }
        averages
    }
}

impl Counters {
    /// Counts an event that was received.
    pub fn event(&self, seen: &TimedEvent) {
        let event = &seen.event;
        if matches!(event, SourceEvent::File(_)) {
            self.file_delays.add(seen.at.elapsed());
        }
        self.events.add(&[event.source().name(), event.kind()]);
    }

    /// Counts the jobs of a batch. Each counts with the time of the whole
    /// batch.
    pub fn jobs(
        &self,
        lane: &Lane,
        sources: Sources,
        count: usize,
        time: Duration,
    ) {
        let kind = match lane {
            Lane::All => "refresh",
            Lane::Sysinfo => "sysinfo",
            Lane::Index => "index",
            Lane::Vm(_) => match sources.commands_needed() {
                CommandsNeeded::None => "files",
                CommandsNeeded::State => "state",
                CommandsNeeded::Zfs => "datasets",
            },
        };
        for _ in 0..count {
            self.jobs.add(&[kind], time);
        }
    }
}

type Values = Vec<(Vec<String>, f64)>;

#[allow(clippy::cast_precision_loss)]
fn values<K: ToString>(counts: impl IntoIterator<Item = (K, u64)>) -> Values {
    let labelled = |(k, n): (K, u64)| (vec![k.to_string()], n as f64);
    counts.into_iter().map(labelled).collect()
}

/// Writes all metrics of a daemon that was started at `started_at`.
pub fn write(
    page: &mut Page,
    shared: &Shared,
    files: &FileWatcher,
    started_at: SystemTime,
) {
    let version = env!("CARGO_PKG_VERSION").to_string();
    page.gauges(
        "vminfod_build_info",
        "The version that runs; always 1.",
        &["version"],
        [(vec![version], 1.0)],
    );
    write_process(page, started_at);
    write_cache(page, shared);
    write_events(page, shared);
    write_queue(page, shared);
    write_loads(page, shared);
    write_faults(page, shared, files);
}

#[allow(clippy::cast_precision_loss)]
fn write_process(page: &mut Page, started_at: SystemTime) {
    let started = started_at.duration_since(SystemTime::UNIX_EPOCH);
    page.gauge(
        "process_start_time_seconds",
        "Start time of the daemon, in seconds since 1970-01-01 UTC.",
        started.unwrap_or_default().as_secs_f64(),
    );
    if let Some(rss) = os::memory::rss() {
        page.gauge(
            "process_resident_memory_bytes",
            "Resident memory.",
            rss as f64,
        );
    }
}

#[allow(clippy::cast_precision_loss)]
fn write_cache(page: &mut Page, shared: &Shared) {
    let Tally { vms, bytes } = shared.cache.tally();
    let counts =
        vms.into_iter().map(|(labels, count)| (labels.to_vec(), count as f64));
    page.gauges(
        "vminfod_vms",
        "VMs by state and brand.",
        &["state", "brand"],
        counts,
    );
    page.gauge(
        "vminfod_cache_bytes",
        "Bytes of JSON of all VMs.",
        bytes as f64,
    );
    page.gauge(
        "vminfod_event_seq",
        "Number of the last event on /events since the daemon started.",
        shared.cache.seq() as f64,
    );
    page.counts(
        "vminfod_events_published_total",
        "Events on /events, by type and by the source of their cause.",
        &["type", "source"],
        &shared.numbers.published,
    );
    write_streams(page, shared);
}

#[allow(clippy::cast_precision_loss)]
fn write_streams(page: &mut Page, shared: &Shared) {
    let (lines, bytes, held) = shared.hub.size();
    page.gauge(
        "vminfod_events_kept",
        "Events that are kept for streams that come back.",
        lines as f64,
    );
    page.gauge(
        "vminfod_events_kept_bytes",
        "Bytes of events that are kept.",
        bytes as f64,
    );
    page.gauge(
        "vminfod_events_held_bytes",
        "Bytes of events that are kept or wait for subscribers.",
        held as f64,
    );
    let (listeners, cut_off) = shared.hub.subscribers();
    page.gauge(
        "vminfod_stream_subscribers",
        "Subscribers of /events.",
        listeners.len() as f64,
    );
    page.counter(
        "vminfod_stream_cut_offs_total",
        "Subscribers that were cut off because they read too slowly.",
        cut_off,
    );
}

#[allow(clippy::cast_precision_loss)]
fn write_events(page: &mut Page, shared: &Shared) {
    page.counts(
        "vminfod_events_received_total",
        "Events of the kernel, by source and type.",
        &["source", "type"],
        &shared.numbers.events,
    );
    page.times(
        "vminfod_event_latency_seconds",
        "Time from receiving an event to publishing the change that it caused.",
        &["source"],
        &shared.numbers.latency,
    );
    let sources = shared
        .sources
        .iter()
        .map(|(source, status)| (source.name(), status.lock().clone()));
    let sources: Vec<_> = sources.collect();
    let each = |value: fn(&crate::watch::SourceStatus) -> u64| {
        values(sources.iter().map(|(name, status)| (name, value(status))))
    };
    let names = &["source"];
    page.gauges(
        "vminfod_source_ready",
        "1 if the daemon receives events of a source, else 0.",
        names,
        each(|status| u64::from(status.ready)),
    );
    page.counters(
        "vminfod_source_restarts_total",
        "How often the reader of a source was started again.",
        names,
        each(|status| status.restarts),
    );
    page.counters(
        "vminfod_source_ignored_total",
        "Records of a source that were ignored, because they concern no VM.",
        names,
        each(|status| status.ignored),
    );
    page.counters(
        "vminfod_source_lost_total",
        "Events that were dropped because too many waited; a full reload \
         replaces them.",
        names,
        each(|status| status.lost),
    );
    let ages = sources.iter().filter_map(|(name, status)| {
        let age = status.last_event?.elapsed().as_secs_f64();
        Some((vec![(*name).to_string()], age))
    });
    page.gauges(
        "vminfod_source_last_event_age_seconds",
        "Time since the last event of a source.",
        names,
        ages,
    );
}

#[allow(clippy::cast_precision_loss)]
fn write_queue(page: &mut Page, shared: &Shared) {
    let status = shared.queue.status(0);
    let age =
        status.oldest.map_or(0.0, |at: Instant| at.elapsed().as_secs_f64());
    for (name, help, value) in [
        ("waiting", "Jobs that wait for a worker.", status.waiting_count),
        (
            "later",
            "Jobs that are put off until a later time.",
            status.later_count,
        ),
        ("working", "VMs that are being loaded.", status.working.len()),
        (
            "stuck",
            "Workers that have been busy with one batch for stuck-time or \
             longer.",
            status.stuck,
        ),
    ] {
        page.gauge(&format!("vminfod_queue_{name}"), help, value as f64);
    }
    page.gauge(
        "vminfod_queue_age_seconds",
        "Age of the oldest waiting job: time since the event that caused it.",
        age,
    );
    page.counter(
        "vminfod_queue_overflows_total",
        "How often the queue was full, and a full reload replaced its jobs.",
        status.overflows,
    );
    page.counter(
        "vminfod_transitions_lost_total",
        "Zone transitions that were dropped because too many waited.",
        status.transitions_lost,
    );
    page.times(
        "vminfod_job_duration_seconds",
        "How long jobs took, by kind. Each job counts with the time of its \
         whole batch.",
        &["kind"],
        &shared.numbers.jobs,
    );
}

#[allow(clippy::cast_precision_loss)]
fn write_loads(page: &mut Page, shared: &Shared) {
    let names = &["source"];
    page.counts(
        "vminfod_loads_total",
        "Loads of VMs, by the source that was read.",
        names,
        &shared.numbers.loads,
    );
    page.counts(
        "vminfod_load_failures_total",
        "Loads of VMs that failed, by source.",
        names,
        &shared.numbers.load_failures,
    );
    write_commands(page, shared);
    if let Some(last) = shared.reloads.last().back() {
        page.gauge(
            "vminfod_last_refresh_age_seconds",
            "Time since the last full reload.",
            last.ended.elapsed().as_secs_f64(),
        );
        page.gauge(
            "vminfod_last_refresh_duration_seconds",
            "How long the last full reload took.",
            last.took.as_secs_f64(),
        );
    }
}

#[allow(clippy::cast_precision_loss)]
fn write_commands(page: &mut Page, shared: &Shared) {
    let commands = shared.runs.runner().counts().lock().clone();
    let names = &["command"];
    let each = |value: fn(&RunCount) -> f64| -> Values {
        let labelled =
            |(name, count): (&String, &_)| (vec![name.clone()], value(count));
        commands.iter().map(labelled).collect()
    };
    page.counters(
        "vminfod_command_runs_total",
        "Runs of the platform's commands.",
        names,
        each(|count| count.runs as f64),
    );
    page.counters(
        "vminfod_command_failures_total",
        "Runs that failed.",
        names,
        each(|count| count.failures as f64),
    );
    page.counters(
        "vminfod_command_hangs_total",
        "Runs that were killed because they took too long.",
        names,
        each(|count| count.hangs as f64),
    );
    page.counters(
        "vminfod_command_seconds_total",
        "Time that runs took.",
        names,
        each(|count| count.time.as_secs_f64()),
    );
    let open = shared.runs.overdue();
    let each = |value: fn(&Overdue) -> f64| -> Values {
        let labelled =
            |open: &Overdue| (vec![open.circuit.clone()], value(open));
        open.iter().map(labelled).collect()
    };
    page.gauges(
        "vminfod_breaker_seconds",
        "How long a command (zfs: a pool) has not answered.",
        names,
        each(|open| open.time.as_secs_f64()),
    );
    page.gauges(
        "vminfod_breaker_waiting",
        "Jobs that wait for a command that has not answered.",
        names,
        each(|open| open.waiting.len() as f64),
    );
}

#[allow(clippy::cast_precision_loss)]
fn write_faults(page: &mut Page, shared: &Shared, files: &FileWatcher) {
    let names = &["property", "source"];
    let healed = |healed: Healed| -> Values {
        let all = healed.properties.into_iter();
        all.map(|((property, source), n)| {
            (vec![property, source.to_string()], n as f64)
        })
        .collect()
    };
    page.counters(
        "vminfod_drift_healed_total",
        "Changes that a full reload found and no event had reported.",
        names,
        healed(shared.reloads.drift.healed()),
    );
    let missed = shared.reloads.drift.healed().missed;
    let missed = EventSource::ALL.iter().zip(missed);
    page.counters(
        "vminfod_drift_missed_total",
        "VMs that a full reload had to heal, by the source of events that \
         should have reported the change. Changes that make no event are not \
         counted.",
        &["source"],
        values(missed.map(|(source, missed)| (source.name(), missed.vms))),
    );
    page.counters(
        "vminfod_gap_healed_total",
        "Changes found after a gap in a source.",
        names,
        healed(shared.reloads.gaps.healed()),
    );
    let mut faults: BTreeMap<String, u64> = BTreeMap::new();
    for ((_, source), _) in shared.faults.list() {
        *faults.entry(source.to_string()).or_default() += 1;
    }
    for (source, status) in &shared.sources {
        if status.lock().fault.is_some() {
            *faults.entry(format!("{} events", source.name())).or_default() +=
                1;
        }
    }
    let unwatched = files.failures().len();
    if unwatched > 0 {
        faults.insert("watch".to_string(), unwatched as u64);
    }
    page.gauges(
        "vminfod_faults",
        "Faults that are present now, by source.",
        &["source"],
        values(faults),
    );
}
