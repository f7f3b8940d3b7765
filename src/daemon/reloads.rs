//! Full reloads: how often they are done, when the last ones were, and what
//! they have found changed though no event had said so.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Mutex, RwLock};

use crate::drift::Drift;
use crate::event;

/// Full reloads that are remembered.
const LAST_MAX: usize = 20;

/// A full reload that is over.
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
    /// Why.
    pub cause: Arc<str>,
}

/// All of them.
#[derive(Debug)]
pub struct Reloads {
    interval: RwLock<Duration>,
    last: Mutex<VecDeque<EndedReload>>,
    /// What they had to heal though no event was lost.
    pub drift: Drift,
    /// What they had to heal after a gap in a source.
    pub gaps: Drift,
    /// How often events had been lost by the last one.
    losses: AtomicU64,
}

impl Reloads {
    /// None yet. `interval` is the time between two; an event may be on its
    /// way for `grace`.
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

    /// The pause until the next one: a tenth more or less than the interval,
    /// so that the hypervisors of a fleet, started together, do not all load
    /// at the same moment.
    #[must_use]
    pub fn pause(&self) -> Duration {
        use std::hash::{BuildHasher, RandomState};
        let random = RandomState::new().hash_one(0) % 200;
        let random = f64::from(u32::try_from(random).unwrap_or(0));
        self.interval.read().mul_f64((90.0 + random / 10.0) / 100.0)
    }

    /// Sets the time between two.
    pub fn set_interval(&self, interval: Duration) {
        *self.interval.write() = interval;
    }

    /// Whether none is over yet: the daemon is starting.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.last.lock().is_empty()
    }

    /// The last ones, the newest last.
    #[must_use]
    pub fn last(&self) -> VecDeque<EndedReload> {
        self.last.lock().clone()
    }

    /// Notes one that is over.
    pub fn note(&self, reload: EndedReload) {
        let mut last = self.last.lock();
        if last.len() >= LAST_MAX {
            last.pop_front();
        }
        last.push_back(reload);
    }

    /// An event has said that something may have changed of a VM.
    pub fn heard(&self, zonename: &Arc<str>) {
        self.drift.heard(zonename);
        self.gaps.heard(zonename);
    }

    /// Where to count what a reload finds changed: as drift, if nothing was
    /// lost and no gap asked for it. `losses` is how often events were lost,
    /// here or while a reader was down.
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
