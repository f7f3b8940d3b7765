//! What the server counts of itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use super::engine::EngineStatus;
use crate::cache::Reset;
use crate::metrics::{Counts, Page, Times};

/// Statuses of answers that are counted from the start: a count that appears
/// with its first answer never shows an increase.
const STATUSES: [&str; 6] = ["200", "304", "400", "404", "503", "504"];

/// The counts.
#[derive(Debug, Default)]
pub struct HttpCounters {
    requests: Counts,
    times: Times,
    resumed: AtomicU64,
    /// Streams that had to begin again, by reason.
    pub resets: Counts,
    waiting: Arc<AtomicUsize>,
    syncing: Arc<AtomicUsize>,
    searching: Arc<AtomicUsize>,
}

/// Requests at once that search for regular expressions: a few threads of
/// many.
const SEARCHING_MAX: usize = 4;

/// The place of a request that waits, until dropped.
#[derive(Debug)]
pub struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl HttpCounters {
    /// Of requests for these routes.
    #[must_use]
    pub fn of(routes: &[&str]) -> Self {
        let numbers = Self::default();
        for route in routes.iter().chain(&["other"]) {
            for status in STATUSES {
                numbers.requests.begin(&[route, status]);
            }
        }
        for reason in Reset::ALL {
            numbers.resets.begin(&[reason.reason()]);
        }
        numbers
    }

    /// A request was answered.
    pub fn answered(&self, route: &str, status: u16, begun: Instant) {
        self.requests.add(&[route, &status.to_string()]);
        self.times.add(&[route], begun.elapsed());
    }

    /// A stream was taken up where it had ended.
    pub fn resumed(&self) {
        self.resumed.fetch_add(1, Ordering::Relaxed);
    }

    /// A place for one more request that waits for a change, if there may be
    /// one.
    pub fn wait(&self, most: usize) -> Option<Permit> {
        place_in(&self.waiting, most)
    }

    /// A place for one more request that waits for a load.
    pub fn sync(&self, most: usize) -> Option<Permit> {
        place_in(&self.syncing, most)
    }

    /// A place for one more request that searches.
    pub fn search(&self) -> Option<Permit> {
        place_in(&self.searching, SEARCHING_MAX)
    }

    /// Writes all of them.
    pub fn write(
        &self,
        page: &mut Page,
        engine: Option<EngineStatus>,
        (looks, queued): (u64, u64),
    ) {
        self.write_requests(page, engine);
        page.counter(
            "vminfod_stream_resumes_total",
            "Streams that were taken up where they had ended.",
            self.resumed.load(Ordering::Relaxed),
        );
        page.counts(
            "vminfod_stream_resets_total",
            "Streams that could not be taken up and began again, by reason.",
            &["reason"],
            &self.resets,
        );
        page.counter(
            "vminfod_stream_looks_total",
            "Subscribers that were looked at because of an event.",
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
                "Connections that were one too many.",
                engine.refused,
            );
            page.gauge(
                "vminfod_http_unsent_bytes",
                "Bytes of answers that clients do not take.",
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

fn place_in(all: &Arc<AtomicUsize>, most: usize) -> Option<Permit> {
    let place = Permit(Arc::clone(all));
    // The place gives itself back if it is one too many.
    let before = all.fetch_add(1, Ordering::SeqCst);
    (before < most).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let numbers = HttpCounters::default();
        let one = numbers.wait(2);
        let two = numbers.wait(2);
        assert!(one.is_some() && two.is_some() && numbers.wait(2).is_none());
        drop(one);
        assert!(numbers.wait(2).is_some());
    }
}
