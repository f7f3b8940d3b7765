//! What the threads of the daemon share, besides the data that they pass on.

use std::sync::Arc;

use parking_lot::RwLock;

use super::metrics::Counters;
use super::reloads::Reloads;
use super::sysinfo::StoredSysinfo;
use crate::cache::Cache;
use crate::faults::Faults;
use crate::hub::{Hub, HubLimits};
use crate::load::index::ZoneIndex;
use crate::load::runs::Runs;
use crate::os;
use crate::queue::Queue;
use crate::settings::Settings;
use crate::source::EventSource;
use crate::sync_requests::SyncRequests;
use crate::watch::SharedStatus;

/// What threads share.
#[derive(Debug)]
pub struct Shared {
    /// The queue of jobs.
    pub queue: Queue,
    /// The cache.
    pub cache: Arc<Cache>,
    /// Passes the cache's events on to subscribers.
    pub hub: Arc<Hub>,
    /// Loads that clients wait for.
    pub requests: SyncRequests,
    /// The counters for /metrics.
    pub numbers: Counters,
    /// What is wrong now.
    pub faults: Faults,
    /// The runs of commands.
    pub runs: Runs,
    /// Full reloads.
    pub reloads: Reloads,
    /// The zone index as it was last read.
    pub index: RwLock<Arc<ZoneIndex>>,
    /// The host's sysinfo as it was last read.
    pub sysinfo: StoredSysinfo,
    /// The status of each source of events.
    pub sources: [(EventSource, SharedStatus); EventSource::COUNT],
}

impl Shared {
    /// The shared state before any thread starts.
    #[must_use]
    pub fn new(
        settings: &Settings,
        sources: [(EventSource, SharedStatus); EventSource::COUNT],
        runs: Runs,
    ) -> Self {
        let hub = Arc::new(Hub::silent(HubLimits {
            kept_events: settings.queues.kept_events,
            kept_bytes: settings.queues.kept_bytes,
            subscribers: settings.http.subscribers,
            versions: settings.queues.sights,
            lag_events: settings.http.lag_events,
            lag_bytes: settings.http.lag_bytes,
        }));
        let epoch = os::random_uuid().into();
        Self {
            queue: Queue::new(settings.queues.clone(), &settings.sources),
            cache: Arc::new(Cache::new(epoch, Arc::clone(&hub))),
            hub,
            requests: SyncRequests::default(),
            numbers: Counters::default(),
            faults: Faults::default(),
            runs,
            reloads: Reloads::new(
                settings.refresh_interval,
                settings.sources.drift_time,
            ),
            index: RwLock::default(),
            sysinfo: StoredSysinfo::default(),
            sources,
        }
    }

    /// How often events were lost: because there was no room for them, or
    /// because the reader of a source was restarted.
    pub fn losses(&self) -> u64 {
        let of = |status: &SharedStatus| {
            let status = status.lock();
            status.lost + status.restarts
        };
        let sources = self.sources.iter().map(|(_, status)| of(status));
        sources.sum::<u64>() + self.queue.status(0).overflows
    }
}
