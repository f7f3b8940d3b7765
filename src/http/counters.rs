//! The metrics of the HTTP server, and the limits on requests that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use super::engine::EngineStatus;
use crate::cache::Reset;
use crate::metrics::{Counts, Page, Times};

/// Statuses whose counts are shown as 0 from the start: a count that first
/// appears with its first answer never shows an increase.
const STATUSES: [&str; 6] = ["200", "304", "400", "404", "503", "504"];

/// The counts of requests and streams.
#[derive(Debug, Default)]
pub struct HttpCounters {
    requests: Counts,
    times: Times,
    resumed: AtomicU64,
    /// Streams that could not resume and had to begin again, by reason.
    pub resets: Counts,
    waiting: Arc<AtomicUsize>,
    syncing: Arc<AtomicUsize>,
    searching: Arc<AtomicUsize>,
}

/// The most requests that search with regular expressions at the same time.
/// They occupy a few of the many threads that answer.
const SEARCHING_MAX: usize = 4;

/// Permission for a request to wait or search; given back when dropped.
#[derive(Debug)]
pub struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl HttpCounters {
    /// The counters of requests for these routes, all at 0.
    #[must_use]
    pub fn for_routes(routes: &[&str]) -> Self {
        let counters = Self::default();
        for route in routes.iter().chain(&["other"]) {
            for status in STATUSES {
                counters.requests.begin(&[route, status]);
            }
        }
        for reason in Reset::ALL {
            counters.resets.begin(&[reason.reason()]);
        }
        counters
    }

    /// Counts a request that was answered, and the time since `begun`.
    pub fn answered(&self, route: &str, status: u16, begun: Instant) {
        self.requests.add(&[route, &status.to_string()]);
        self.times.add(&[route], begun.elapsed());
    }

    /// Counts a stream that resumed after the last event that its client had.
    pub fn resumed(&self) {
        self.resumed.fetch_add(1, Ordering::Relaxed);
    }

    /// A permit for one more request that waits for a change; `None` if `most`
    /// wait already.
    pub fn wait_permit(&self, most: usize) -> Option<Permit> {
        permit_from(&self.waiting, most)
    }

    /// A permit for one more request that waits for a load; `None` if `most`
    /// wait already.
    pub fn sync_permit(&self, most: usize) -> Option<Permit> {
        permit_from(&self.syncing, most)
    }

    /// A permit for one more request that searches with regular expressions;
    /// `None` if [`SEARCHING_MAX`] search already.
    pub fn search_permit(&self) -> Option<Permit> {
        permit_from(&self.searching, SEARCHING_MAX)
    }

    /// Writes all counters to `page`. `looks` and `queued` are those of
    /// [`super::fanout::Fanout::work`].
    pub fn write(
        &self,
        page: &mut Page,
        engine: Option<EngineStatus>,
        (looks, queued): (u64, u64),
    ) {
        self.write_requests(page, engine);
        page.counter(
            "vminfod_stream_resumes_total",
            "Streams that resumed after the last event that the client had.",
            self.resumed.load(Ordering::Relaxed),
        );
        page.counts(
            "vminfod_stream_resets_total",
            "Streams that could not resume and began again, by reason.",
            &["reason"],
            &self.resets,
        );
        page.counter(
            "vminfod_stream_looks_total",
            "Subscribers that were checked for an event, summed over all \
             events.",
            looks,
        );
        page.counter(
            "vminfod_stream_lines_total",
            "Event lines that were queued for subscribers.",
            queued,
        );
    }

    #[allow(clippy::cast_precision_loss)]
    fn write_requests(&self, page: &mut Page, engine: Option<EngineStatus>) {
        page.counts(
            "vminfod_http_requests_total",
            "Requests by route and status.",
            &["route", "status"],
            &self.requests,
        );
        page.times(
            "vminfod_http_request_duration_seconds",
            "Time from a request's head to its answer being ready, by route.",
            &["route"],
            &self.times,
        );
        if let Some(engine) = engine {
            page.gauge(
                "vminfod_http_connections",
                "Connections that are open.",
                engine.connections as f64,
            );
            page.gauge(
                "vminfod_http_threads",
                "Threads that answer requests.",
                engine.threads as f64,
            );
            page.counter(
                "vminfod_http_connections_refused_total",
                "Connections that were refused because too many were open.",
                engine.refused,
            );
            page.gauge(
                "vminfod_http_unsent_bytes",
                "Bytes held for answers that clients have not read yet.",
                engine.unsent as f64,
            );
        }
        page.gauge(
            "vminfod_http_requests_waiting",
            "Requests that wait for a change.",
            self.waiting.load(Ordering::SeqCst) as f64,
        );
        page.gauge(
            "vminfod_http_requests_syncing",
            "Requests that wait for a load.",
            self.syncing.load(Ordering::SeqCst) as f64,
        );
    }
}

fn permit_from(all: &Arc<AtomicUsize>, most: usize) -> Option<Permit> {
    let permit = Permit(Arc::clone(all));
    // If this is one too many, dropping the permit takes it off the count
    // again.
    let before = all.fetch_add(1, Ordering::SeqCst);
    (before < most).then_some(permit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_limited_and_returned_when_dropped() {
        let counters = HttpCounters::default();
        let one = counters.wait_permit(2);
        let two = counters.wait_permit(2);
        assert!(
            one.is_some() && two.is_some() && counters.wait_permit(2).is_none()
        );
        drop(one);
        assert!(counters.wait_permit(2).is_some());
    }
}
