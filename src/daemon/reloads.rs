//! Full reloads: how often they are done, when the last ones were, and the
//! changes they found that no event had reported.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Mutex, RwLock};

use crate::cache::Published;
use crate::drift::Drift;
use crate::event;

/// How many full reloads are remembered.
const LAST_MAX: usize = 20;

/// How many of the events of a full reload are remembered.
const CHANGES_MAX: usize = 100;

/// The events that a full reload has published.
#[derive(Clone, Debug, Default)]
pub struct ReloadChanges {
    /// The zonename and the event, for at most [`CHANGES_MAX`] of them.
    pub events: Vec<(Arc<str>, Published)>,
    /// How many more there were.
    pub more: usize,
}

impl ReloadChanges {
    /// Adds events of one VM.
    pub fn add(&mut self, zonename: &Arc<str>, published: Vec<Published>) {
        for event in published {
            if self.events.len() < CHANGES_MAX {
                self.events.push((Arc::clone(zonename), event));
            } else {
                self.more += 1;
            }
        }
    }
}

/// A full reload that has ended.
#[derive(Clone, Debug)]
pub struct EndedReload {
    /// When it ended, for measuring.
    pub ended: Instant,
    /// When it ended, for people.
    pub date: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// How many VMs were loaded.
    pub vms: usize,
    /// Why everything was loaded.
    pub cause: Arc<str>,
    /// What it changed in the cache.
    pub changes: ReloadChanges,
}

/// The interval of full reloads, the last ones, and what they had to heal.
#[derive(Debug)]
pub struct Reloads {
    interval: RwLock<Duration>,
    last: Mutex<VecDeque<EndedReload>>,
    /// What they had to heal though no event was lost.
    pub drift: Drift,
    /// What they had to heal after a gap in a source.
    pub gaps: Drift,
    /// How often events had been lost when the last reload was counted.
    losses: AtomicU64,
}

impl Reloads {
    /// No reloads yet. `interval` is the time between two reloads. An event may
    /// be on its way for `grace`.
    #[must_use]
    pub fn new(interval: Duration, grace: Duration) -> Self {
        Self {
            interval: RwLock::new(interval),
            last: Mutex::default(),
            drift: Drift::new(grace),
            gaps: Drift::new(grace),
            losses: AtomicU64::new(0),
        }
    }

    /// The pause until the next reload: the interval, and up to a tenth more or
    /// less, so that the hypervisors of a fleet that were started together do
    /// not all load at the same moment.
    #[must_use]
    pub fn pause(&self) -> Duration {
        use std::hash::{BuildHasher, RandomState};
        let random = RandomState::new().hash_one(0) % 200;
        let random = f64::from(u32::try_from(random).unwrap_or(0));
        self.interval.read().mul_f64((90.0 + random / 10.0) / 100.0)
    }

    /// Sets the time between two reloads.
    pub fn set_interval(&self, interval: Duration) {
        *self.interval.write() = interval;
    }

    /// Whether no reload has ended yet: the daemon is starting.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.last.lock().is_empty()
    }

    /// The last reloads, the newest last.
    #[must_use]
    pub fn last(&self) -> VecDeque<EndedReload> {
        self.last.lock().clone()
    }

    /// Notes a reload that has ended.
    pub fn note(&self, reload: EndedReload) {
        let mut last = self.last.lock();
        if last.len() >= LAST_MAX {
            last.pop_front();
        }
        last.push_back(reload);
    }

    /// An event has reported that a VM may have changed.
    pub fn event_received(&self, zonename: &Arc<str>) {
        self.drift.event_received(zonename);
        self.gaps.event_received(zonename);
    }

    /// Where to count the changes that a reload finds: as drift, if no events
    /// were lost and the reload was not caused by a gap; else as healed gaps.
    /// The first load counts nowhere. `losses` is how often events were lost,
    /// in the daemon or while a reader was down.
    #[must_use]
    pub fn heals(&self, kind: event::Reload, losses: u64) -> Option<&Drift> {
        let before = self.losses.swap(losses, Ordering::Relaxed);
        match kind {
            _ if self.is_first() => None,
            event::Reload::Periodic | event::Reload::Sync
                if losses == before =>
            {
                Some(&self.drift)
            }
            _ => Some(&self.gaps),
        }
    }
}
