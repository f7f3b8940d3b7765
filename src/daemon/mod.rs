//! The daemon: the one module that knows all stages.
//!
//! ```text
//! watch::{zone, zfs, files} -> Events -> planner -> Queue -> workers
//!     -> Cache.apply -> Hub -> http
//! ```
//!
//! The main thread waits for the signal that ends the daemon.
//! docs/ARCHITECTURE.md lists the other threads.

pub mod dump;
mod after_load;
mod event_sources;
mod listen;
mod metrics;
mod planner;
mod reloads;
mod retry;
mod shared;
mod status;
mod sysinfo;
mod worker;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::http::{ListenError, Server};
use crate::load::Loader;
use crate::load::command::Runner;
use crate::load::runs::Runs;
use crate::os::net::Bound;
use crate::os::signals::{Signal, Signals, is_ignored};
use crate::settings::{self, Settings, SettingsError};
use crate::source::EventSource;
use crate::threads::{Stop, Threads, exit, spawn};
use crate::watch;
use after_load::AfterLoad;
use event_sources::start_sources;
pub use listen::OWN_DESCRIPTORS;
use listen::{bind, start_http, within_descriptors};
use planner::Planner;
pub use shared::Shared;
use status::Status;
use worker::Worker;

/// The daemon exits at most this long after the signal. Threads that have not
/// ended by then are abandoned.
const END_TIME: Duration = Duration::from_millis(900);

/// Reads the settings again.
pub type Reread<'a> = &'a dyn Fn() -> Result<Settings, SettingsError>;

/// Why the daemon can't start.
#[derive(Debug)]
pub enum StartError {
    /// Signals can't be caught.
    Signals(io::Error),
    /// The daemon can't listen on an address.
    Listen(ListenError),
    /// Files can't be watched, or a thread can't be started.
    Threads(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signals(e) => write!(f, "can't catch signals: {e}"),
            Self::Listen(error) => error.fmt(f),
            Self::Threads(e) => write!(f, "can't start: {e}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Runs the daemon until a signal ends it. On SIGHUP it reads its settings
/// again with `reread`. Without `reread`, SIGHUP means that its terminal has
/// gone, and ends it.
///
/// # Errors
/// If it can't start.
pub fn run(
    mut settings: Settings,
    reread: Option<Reread<'_>>,
) -> Result<(), StartError> {
    let mut caught = vec![Signal::Terminate, Signal::Interrupt];
    // An ignored SIGHUP comes from nohup(1): then the daemon must go on.
    if reread.is_some() || !is_ignored(Signal::Hangup) {
        caught.push(Signal::Hangup);
    }
    let signals = Signals::catch(&caught).map_err(StartError::Signals)?;
    // Bind before anything else: a second daemon must fail here, before it
    // disturbs anything.
    let bound = bind(&settings).map_err(StartError::Listen)?;
    let daemon = Daemon::start(&within_descriptors(settings.clone()), bound)
        .map_err(StartError::Threads)?;
    let signal = loop {
        match (signals.wait(), reread) {
            (Signal::Hangup, Some(reread)) => match reread() {
                Ok(new) => daemon.set(&mut settings, new),
                Err(e) => log::error!(
                    "can't read the settings again: {e}; keeping the present \
                     ones"
                ),
            },
            (signal, _) => break signal,
        }
    };
    // Nothing that hangs may delay the end, not even the log.
    let watchdog = spawn("watchdog", || {
        std::thread::sleep(END_TIME);
        exit(0);
    });
    log::info!("got signal {signal:?}; stopping");
    daemon.end();
    drop(watchdog);
    Ok(())
}

/// All threads of the daemon, and the stop that ends them.
struct Daemon {
    shared: Arc<Shared>,
    server: Arc<Server>,
    threads: Threads,
    stop: Stop,
}

impl Daemon {
    fn start(settings: &Settings, bound: Vec<Bound>) -> io::Result<Self> {
        let stop = Stop::default();
        let threads = Threads::new(stop.clone());
        let (sinks, events) = watch::channel(settings.queues.events, &stop);
        let sources = std::array::from_fn(|i| {
            (EventSource::ALL[i], Arc::clone(sinks[i].status()))
        });
        let loader = new_loader(settings, stop.clone());
        let runs = loader.runs().clone();
        let shared = Arc::new(Shared::new(settings, sources, runs));
        shared.redo_late_jobs(&settings.sources);
        let queue = Arc::downgrade(&shared);
        stop.on_set(move || {
            if let Some(shared) = queue.upgrade() {
                shared.queue.close();
            }
        });
        let files = start_sources(settings, sinks, &threads, &stop)?;
        threads.spawn("planner", {
            let shared = Arc::clone(&shared);
            let times = settings.sources.clone();
            move || Planner { shared, times }.run(&events)
        })?;
        let status = Status::new(
            Arc::clone(&shared),
            Arc::clone(&files),
            settings.queues.workers,
        );
        let (loaded, when_loaded) = bounded(1);
        let worker = Worker {
            shared: Arc::clone(&shared),
            loader,
            after: AfterLoad {
                shared: Arc::clone(&shared),
                files,
                times: settings.sources.clone(),
            },
            limits: settings.load.clone(),
            loaded,
        };
        // The queue lets only some of these workers work at a time. While those
        // hang, others take their places.
        for n in 0..settings.queues.all_workers() {
            let worker = worker.clone();
            threads.spawn(&format!("worker-{n}"), move || worker.run())?;
        }
        let server = Arc::new(Server::new(
            settings.http.clone(),
            Arc::clone(&shared.cache),
            Arc::clone(&shared.hub),
            Box::new(status),
            &stop,
        )?);
        threads.spawn("http-start", {
            let (server, stop) = (Arc::clone(&server), stop.clone());
            move || start_http(&server, bound, &when_loaded, &stop)
        })?;
        Ok(Self { shared, server, threads, stop })
    }

    /// Applies the new settings that a running daemon can change: `log-level`
    /// and `refresh-interval`. The others take effect at the next start.
    fn set(&self, settings: &mut Settings, new: Settings) {
        log::set_max_level(new.log_level);
        let differing = settings::differing(settings, &new);
        if differing.is_empty() {
            log::info!("settings read again: nothing has changed");
        }
        for (name, value) in differing {
            match name {
                "log-level" | "refresh-interval" => {
                    log::info!("{name} is now {value}");
                }
                _ => log::warn!(
                    "{name} can't change while the daemon runs; it will be \
                     {value} after a restart"
                ),
            }
        }
        let interval = new.refresh_interval;
        if interval != settings.refresh_interval {
            self.shared.reloads.set_interval(interval);
            let pause = self.shared.reloads.pause();
            self.shared.queue.reschedule_periodic(pause);
        }
        // The settings that were not applied stay as they are, and differ from
        // the file until the next start.
        settings.log_level = new.log_level;
        settings.refresh_interval = interval;
    }

    /// Ends every thread. What they leave in memory is not freed: the process
    /// ends, and to free every VM and every watch takes a while.
    fn end(self) {
        self.stop.set();
        self.server.end();
        self.threads.join();
        self.shared.runs.wait_for_end();
        log::info!("stopped");
        log::logger().flush();
        std::mem::forget(self);
    }
}

/// A loader with these settings.
#[must_use]
pub fn new_loader(settings: &Settings, stop: Stop) -> Loader {
    let limits = settings.load.clone();
    let runner = Runner::new(limits.command_output, stop);
    let queues = &settings.queues;
    let runs = Runs::new(runner, queues.stuck_time, queues.jobs);
    Loader::new(settings.paths.clone(), limits, runs)
}

#[cfg(test)]
mod tests;
