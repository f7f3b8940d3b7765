//! Does jobs again that failed, or whose command answered too late.

use std::fmt;
use std::sync::Arc;

use super::Shared;
use crate::event::{Job, Lane};
use crate::load::runs::LateJob;
use crate::settings::SourceTimes;
use crate::source::{Source, Sources};

impl Shared {
    /// Has jobs done again when a run ends that they did not wait for.
    pub fn redo_late_jobs(self: &Arc<Self>, times: &SourceTimes) {
        // `Shared` holds the runs, so they must not hold `Shared`.
        let (shared, times) = (Arc::downgrade(self), times.clone());
        self.runs.set_redo(Box::new(move |again| {
            if let Some(shared) = shared.upgrade() {
                again.into_iter().for_each(|job| shared.redo(&times, job));
            }
        }));
    }

    /// Tries a job again. The pause before it grows with each failure.
    pub fn retry(&self, times: &SourceTimes, job: &Job, sources: Sources) {
        let pause = times.retry.after(job.tries);
        let tries = job.tries.saturating_add(1);
        let again = Job { sources, tries, ..job.clone() };
        self.queue.push_later(self.with_present_urgency(again), pause);
    }

    /// Does a job again whose run ended too late for it: at once, or after a
    /// pause if the run failed.
    fn redo(&self, times: &SourceTimes, again: LateJob) {
        let LateJob { job, source, error } = again;
        let Some(error) = error else {
            self.queue.push(self.with_present_urgency(job));
            return;
        };
        match zonename_of(&job.lane) {
            None => self.note_refresh_error(&error),
            Some(zonename)
                if self.cache.contains(zonename)
                    || self.index.read().line(zonename).is_some() =>
            {
                self.faults.add(Some(zonename), source, &error);
            }
            Some(zonename) => self.faults.add_unknown(zonename, &error),
        }
        self.retry(times, &job, job.sources);
    }

    /// A job stays urgent only while a client waits for it. Then it reads
    /// everything.
    fn with_present_urgency(&self, job: Job) -> Job {
        let is_urgent = job.is_urgent && self.is_requested(&job.lane);
        let sources = if is_urgent { Sources::ALL } else { job.sources };
        Job { sources, is_urgent, ..job }
    }

    fn is_requested(&self, lane: &Lane) -> bool {
        match lane {
            Lane::Vm(zonename) => self.requests.is_awaited(Some(zonename)),
            Lane::All => self.requests.is_awaited(None),
            Lane::Sysinfo | Lane::Index => false,
        }
    }

    /// Notes that a full reload has failed.
    pub fn note_refresh_error(&self, error: &dyn fmt::Display) {
        self.faults.add(None, Source::Refresh, error);
        self.faults.note_refresh_error(error);
    }

    /// Whether a VM is being loaded, or is about to be.
    pub fn is_at(&self, zonename: &Arc<str>) -> bool {
        let owed = || self.runs.owed(&Lane::Vm(Arc::clone(zonename)));
        self.queue.is_at(zonename) || owed() != Sources::NONE
    }
}

/// The zonename of a VM's lane.
pub fn zonename_of(lane: &Lane) -> Option<&Arc<str>> {
    match lane {
        Lane::Vm(zonename) => Some(zonename),
        Lane::All | Lane::Sysinfo | Lane::Index => None,
    }
}
