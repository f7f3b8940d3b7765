//! What the threads of the daemon share besides the data that they hand on.

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
    /// The events of the cache.
    pub hub: Arc<Hub>,
    /// Loads that clients wait for.
    pub requests: SyncRequests,
    /// What is counted.
    pub numbers: Counters,
    /// What is wrong.
    pub faults: Faults,
    /// The runs of commands.
    pub runs: Runs,
    /// Full reloads.
    pub reloads: Reloads,
    /// The zone index, as it was read last.
    pub index: RwLock<Arc<ZoneIndex>>,
    /// What the system says of itself.
    pub sysinfo: StoredSysinfo,
    /// Each source's status.
    pub sources: [(EventSource, SharedStatus); 3],
}

impl Shared {
    /// What they share before they start.
    #[must_use]
    pub fn new(
        settings: &Settings,
        sources: [(EventSource, SharedStatus); 3],
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

    /// How often events were lost: they found no room, or the reader of a
    /// source was started again.
    pub fn losses(&self) -> u64 {
        let of = |status: &SharedStatus| {
            let status = status.lock();
            status.lost + status.restarts
        };
        let sources = self.sources.iter().map(|(_, status)| of(status));
        sources.sum::<u64>() + self.queue.status(0).overflows
    }
}
