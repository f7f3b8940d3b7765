//! The daemon: the one module that knows all stages.
//!
//! ```text
//! watch::{zone, zfs, files} -> Events -> planner -> Queue -> workers
//!     -> Cache.apply -> Hub -> http
//! ```
//!
//! Threads: `zone-events`, `zfs-events` and `file-events` read, `file-poll`
//! looks at what can't be watched; `planner` turns events into jobs; `worker-N`
//! load, two at a time but for those that hang; `http-…` serve; `log` writes.
//! The main thread waits for the signal that ends them, in that order.

pub mod dump;
mod after_load;
mod metrics;
mod planner;
mod retry;
mod status;
mod worker;

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, bounded};
use parking_lot::{Mutex, RwLock};

use crate::address::Address;
use crate::cache::Cache;
use crate::drift::Drift;
use crate::faults::Faults;
use crate::http::{ListenError, Server};
use crate::hub::{Hub, HubLimits};
use crate::load::Loader;
use crate::load::command::Runner;
use crate::load::files::Sysinfo;
use crate::load::index::ZoneIndex;
use crate::load::runs::Runs;
use crate::os;
use crate::os::net::{self, Bound};
use crate::os::signals::{Signal, Signals, is_ignored};
use crate::queue::Queue;
use crate::settings;
use crate::settings::{Settings, SettingsError};
use crate::source::EventSource;
use crate::sync_requests::Requests;
use crate::threads::{exit, spawn};
use crate::vm::json::Object;
use crate::watch::files::FileWatcher;
use crate::watch::sysevent::{Reader, Stopper};
use crate::watch::{self, SharedStatus};
use after_load::AfterLoad;
use metrics::Numbers;
use status::Status;
use worker::{Worker, jittered};

/// What ends later than this after the signal is left behind.
const END_TIME: Duration = Duration::from_millis(900);

/// Full reloads that are remembered.
const REFRESHES_MAX: usize = 20;

/// A full reload that is over.
#[derive(Clone, Debug)]
pub struct Refresh {
    /// When it ended, for measuring.
    pub ended: Instant,
    /// When it ended, for people.
    pub date: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// How many VMs were loaded.
    pub vms: usize,
    /// Why.
    pub cause: Arc<str>,
}

impl Shared {
    /// Notes a full reload that is over.
    fn note_refresh(&self, refresh: Refresh) {
        let mut refreshes = self.refreshes.lock();
        if refreshes.len() >= REFRESHES_MAX {
            refreshes.pop_front();
        }
        refreshes.push_back(refresh);
    }
}

/// What stages share besides the data that they hand on.
#[derive(Debug)]
pub struct Shared {
    /// The queue of jobs.
    pub queue: Queue,
    /// The cache.
    pub cache: Arc<Cache>,
    /// The events of the cache.
    pub hub: Arc<Hub>,
    /// Loads that clients wait for.
    pub requests: Requests,
    /// What is counted.
    pub numbers: Numbers,
    /// What is wrong.
    pub faults: Faults,
    /// Zones that zoneadm has failed for, and that may not exist.
    pub strangers: Mutex<HashSet<Arc<str>>>,
    /// What periodic reloads had to heal.
    pub drift: Drift,
    /// What reloads after a gap in a source had to heal.
    pub gaps: Drift,
    /// The runs of commands.
    pub runs: Runs,
    /// The time between two full reloads.
    pub refresh_interval: RwLock<Duration>,
    /// The zone index, as it was read last.
    pub index: RwLock<Arc<ZoneIndex>>,
    /// So long after it has changed it is looked at.
    pub index_time: Duration,
    /// When a zone whose init was started again is looked at once more.
    pub settle_time: Duration,
    /// How often is looked whether a source of events is silent: as long as an
    /// event may be on its way.
    pub drift_time: Duration,
    /// What the system says of itself.
    pub sysinfo: RwLock<Arc<Sysinfo>>,
    /// How often that has been read.
    pub sysinfo_reads: AtomicU64,
    /// Which of these reads is stored.
    pub sysinfo_stored: AtomicU64,
    /// The last full reloads, the newest last.
    pub refreshes: Mutex<VecDeque<Refresh>>,
    /// How many workers there are.
    pub workers: usize,
    /// Each source's status.
    pub sources: [(EventSource, SharedStatus); 3],
    /// [`Shared::losses`], as of the last full reload.
    pub losses_healed: AtomicU64,
    /// When the daemon started.
    pub started: Instant,
    /// The same, by the clock as it was then.
    pub started_at: SystemTime,
}

impl Shared {
    /// How often events were lost: they found no room, or the reader of a
    /// source was started again.
    fn losses(&self) -> u64 {
        let of = |status: &SharedStatus| {
            let status = status.lock();
            status.lost + status.restarts
        };
        let sources = self.sources.iter().map(|(_, status)| of(status));
        sources.sum::<u64>() + self.queue.status(0).overflows
    }
}

/// Reads the settings again.
pub type Reread<'a> = &'a dyn Fn() -> Result<Settings, SettingsError>;

/// Why the daemon can't start.
#[derive(Debug)]
pub enum StartError {
    /// Signals can't be caught.
    Signals(io::Error),
    /// An address can't be had.
    Listen(ListenError),
    /// Files can't be watched, or a thread can't be started.
    Threads(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signals(e) => write!(f, "signals: {e}"),
            Self::Listen(error) => error.fmt(f),
            Self::Threads(e) => write!(f, "can't start: {e}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Runs the daemon until a signal ends it; at SIGHUP it reads its settings
/// again, if it is told how: else its terminal has gone, and it ends.
///
/// # Errors
/// If it can't start.
pub fn run(
    mut settings: Settings,
    reread: Option<Reread<'_>>,
) -> Result<(), StartError> {
    let mut caught = vec![Signal::Terminate, Signal::Interrupt];
    // Who started it by nohup(1) wants it to go on.
    if reread.is_some() || !is_ignored(Signal::Hangup) {
        caught.push(Signal::Hangup);
    }
    let signals = Signals::catch(&caught).map_err(StartError::Signals)?;
    // Before anything else: a second daemon must disturb nothing.
    let bound = bind(&settings).map_err(StartError::Listen)?;
    let daemon = Daemon::start(&within_descriptors(settings.clone()), bound)
        .map_err(StartError::Threads)?;
    let signal = loop {
        match (signals.wait(), reread) {
            (Signal::Hangup, Some(reread)) => match reread() {
                Ok(new) => daemon.set(&mut settings, new),
                Err(e) => log::error!("settings stay as they are: {e}"),
            },
            (signal, _) => break signal,
        }
    };
    // Whatever hangs does not hold up the end, not even the log.
    let watchdog = spawn("watchdog", || {
        std::thread::sleep(END_TIME);
        exit(0);
    });
    log::info!("{signal:?}: ending");
    daemon.end();
    drop(watchdog);
    Ok(())
}

/// Clients must not take the descriptors that loading needs.
fn within_descriptors(mut settings: Settings) -> Settings {
    let limit = os::process::raise_descriptor_limit();
    let free = limit.saturating_sub(OWN_DESCRIPTORS).max(1);
    let most = usize::try_from(free).unwrap_or(usize::MAX);
    if settings.http.connections > most {
        log::warn!("only {limit} descriptors: {most} connections are the most");
        settings.http.connections = most;
    }
    settings
}

/// Descriptors that commands, files and sources take.
pub const OWN_DESCRIPTORS: u64 = 128;

/// How long an address that is taken is tried again: a daemon that was killed
/// may have left a child that is not yet the command it is to be, and holds
/// all that the daemon had open.
const BIND_TIME: Duration = Duration::from_secs(1);

/// How often.
const BIND_PAUSE: Duration = Duration::from_millis(20);

fn bind(settings: &Settings) -> Result<Vec<Bound>, ListenError> {
    let until = Instant::now() + BIND_TIME;
    let bind_one = |address: &Address| loop {
        match net::bind(address, settings.http.send_buffer) {
            Ok(bound) => return Ok(bound),
            Err(e)
                if e.kind() == io::ErrorKind::AddrInUse
                    && Instant::now() < until =>
            {
                std::thread::sleep(BIND_PAUSE);
            }
            Err(e) => return Err(ListenError::Address(address.clone(), e)),
        }
    };
    settings.listen.iter().map(bind_one).collect()
}

/// All threads, and what ends them.
struct Daemon {
    shared: Arc<Shared>,
    ending: Arc<AtomicBool>,
    stoppers: Vec<Stopper>,
    files: Arc<FileWatcher>,
    server: Arc<Server>,
    threads: Vec<JoinHandle<()>>,
}

impl Daemon {
    fn start(settings: &Settings, bound: Vec<Bound>) -> io::Result<Self> {
        let ending = Arc::new(AtomicBool::new(false));
        let (sinks, events) = watch::channel(settings.queues.events);
        let sources = std::array::from_fn(|i| {
            (EventSource::ALL[i], Arc::clone(sinks[i].status()))
        });
        let [zone_sink, zfs_sink, file_sink] = sinks;
        let loader = new_loader(settings, Arc::clone(&ending));
        let runs = loader.runs().clone();
        let shared = Arc::new(new_shared(settings, sources, runs.clone()));
        runs.set_redo(Box::new({
            let shared = Arc::downgrade(&shared);
            let times = settings.sources.clone();
            move |again| {
                if let Some(shared) = shared.upgrade() {
                    again.into_iter().for_each(|job| shared.redo(&times, job));
                }
            }
        }));
        let files = FileWatcher::new(settings.paths.clone(), file_sink)
            .map(Arc::new)?;
        let (loaded, when_loaded) = bounded(1);

        let mut threads = Vec::new();
        let mut stoppers = Vec::new();
        for (stream, sink) in [
            (watch::zone::stream(&settings.paths), zone_sink),
            (watch::zfs::stream(&settings.paths), zfs_sink),
        ] {
            let name = format!("{}-events", stream.source.name());
            let reader = Reader::new(stream, sink, settings.sources.clone());
            stoppers.push(reader.stopper());
            threads.push(spawn(&name, move || reader.run())?);
        }
        threads.push(spawn("file-events", {
            let files = Arc::clone(&files);
            move || {
                if let Err(e) = files.run() {
                    // Better started again than serving what is old.
                    panic!("file events have ended: {e}");
                }
            }
        })?);
        threads.push(spawn("file-poll", {
            let files = Arc::clone(&files);
            let times = &settings.sources;
            let (every, rearm) = (times.poll_time, times.rearm_time);
            move || files.poll(every, rearm)
        })?);
        threads.push(spawn("planner", {
            let shared = Arc::clone(&shared);
            let ready_time = settings.sources.ready_time;
            move || planner::run(&events, &shared, ready_time)
        })?);
        // The queue sees to it that only some are at work, and that others
        // take their places while they hang.
        let after = AfterLoad {
            shared: Arc::clone(&shared),
            files: Arc::clone(&files),
            times: settings.sources.clone(),
        };
        let worker = Worker {
            shared: Arc::clone(&shared),
            loader,
            after,
            limits: settings.load.clone(),
            loaded,
        };
        for n in 0..settings.queues.all_workers() {
            let worker = worker.clone();
            threads.push(spawn(&format!("worker-{n}"), move || worker.run())?);
        }
        let status = Status::new(Arc::clone(&shared), &files);
        let server = Arc::new(Server::new(
            settings.http.clone(),
            Arc::clone(&shared.cache),
            Arc::clone(&shared.hub),
            Box::new(status),
        )?);
        threads.push(spawn("http-start", {
            let server = Arc::clone(&server);
            let ending = Arc::clone(&ending);
            move || start_http(&server, bound, &when_loaded, &ending)
        })?);
        Ok(Self { shared, ending, stoppers, files, server, threads })
    }

    /// Exchanges the settings, as far as that can be done while it runs.
    fn set(&self, settings: &mut Settings, new: Settings) {
        log::set_max_level(new.log_level);
        let differing = settings::differing(settings, &new);
        if differing.is_empty() {
            log::info!("settings read again: nothing has changed");
        }
        for (name, value) in differing {
            match name {
                "log-level" | "refresh-interval" => {
                    log::info!("{name} is {value} now");
                }
                _ => log::warn!("{name} will be {value} at the next start"),
            }
        }
        let interval = new.refresh_interval;
        if interval != settings.refresh_interval {
            *self.shared.refresh_interval.write() = interval;
            self.shared.queue.reschedule_periodic(jittered(interval));
        }
        // What was not exchanged differs from the file until then.
        settings.log_level = new.log_level;
        settings.refresh_interval = interval;
    }

    /// Ends every thread. Readers first, so that nothing new comes; the
    /// planner ends when the last of them has dropped its sink.
    fn end(self) {
        self.ending.store(true, Ordering::SeqCst);
        self.server.end();
        for stopper in &self.stoppers {
            stopper.stop();
        }
        self.files.stop();
        self.shared.queue.close();
        let Self { shared, files, server, threads, .. } = self;
        // The file watcher holds a sink.
        drop((files, server));
        for thread in threads {
            let _ = thread.join();
        }
        shared.runs.wait_for_end();
        drop(shared);
        log::info!("ended");
        log::logger().flush();
    }
}

fn new_shared(
    settings: &Settings,
    sources: [(EventSource, SharedStatus); 3],
    runs: Runs,
) -> Shared {
    let hub = Arc::new(Hub::silent(HubLimits {
        kept_events: settings.queues.kept_events,
        kept_bytes: settings.queues.kept_bytes,
        subscribers: settings.http.subscribers,
        sights: settings.queues.sights,
        lag_events: settings.http.lag_events,
        lag_bytes: settings.http.lag_bytes,
    }));
    Shared {
        queue: Queue::new(settings.queues.clone(), &settings.sources),
        cache: Arc::new(Cache::new(os::random_uuid().into(), Arc::clone(&hub))),
        hub,
        requests: Requests::default(),
        numbers: Numbers::default(),
        faults: Faults::default(),
        strangers: Mutex::default(),
        drift: Drift::new(settings.sources.drift_time),
        gaps: Drift::new(settings.sources.drift_time),
        runs,
        refresh_interval: RwLock::new(settings.refresh_interval),
        index: RwLock::default(),
        index_time: settings.sources.index_time,
        settle_time: settings.sources.settle.first,
        drift_time: settings.sources.drift_time,
        sysinfo: RwLock::new(Arc::new(Object::new())),
        sysinfo_reads: AtomicU64::new(0),
        sysinfo_stored: AtomicU64::new(0),
        refreshes: Mutex::default(),
        workers: settings.queues.workers,
        sources,
        losses_healed: AtomicU64::new(0),
        started: Instant::now(),
        started_at: SystemTime::now(),
    }
}

/// A loader by these settings.
#[must_use]
pub fn new_loader(settings: &Settings, ending: Arc<AtomicBool>) -> Loader {
    let limits = settings.load.clone();
    let runner = Runner::new(limits.command_output, ending);
    let queues = &settings.queues;
    let runs = Runs::new(runner, queues.stuck_time, queues.jobs);
    Loader::new(settings.paths.clone(), limits, runs)
}

/// HTTP answers only once the first full load is in.
fn start_http(
    server: &Arc<Server>,
    bound: Vec<Bound>,
    when_loaded: &Receiver<()>,
    ending: &AtomicBool,
) {
    if when_loaded.recv().is_err() || ending.load(Ordering::SeqCst) {
        return;
    }
    if let Err(e) = server.listen(bound) {
        log::error!("{e}");
        log::logger().flush();
        let _ = writeln!(io::stderr(), "vminfod: {e}");
        exit(1);
    }
}

#[cfg(test)]
mod tests;
