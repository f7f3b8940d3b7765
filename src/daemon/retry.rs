//! What has failed, or came too late, is done again.

use std::fmt;
use std::sync::Arc;

use super::Shared;
use crate::event::{Job, Lane};
use crate::load::runs::Again;
use crate::settings::SourceTimes;
use crate::source::{Source, Sources};

/// At most so many zones that zoneadm has failed for, and that may not exist,
/// are remembered.
const STRANGERS_MAX: usize = 1024;

impl Shared {
    /// Tries a job again, later the more often it has failed.
    pub fn retry(&self, times: &SourceTimes, job: &Job, sources: Sources) {
        let pause = times.retry.after(job.tries);
        let tries = job.tries.saturating_add(1);
        let again = Job { sources, tries, ..job.clone() };
        self.queue.push_later(self.as_it_is_wanted(again), pause);
    }

    /// Does a job again whose run has ended too late; if the run failed, later.
    pub fn redo(&self, times: &SourceTimes, again: Again) {
        let Again { job, source, error } = again;
        let Some(error) = error else {
            self.queue.push(self.as_it_is_wanted(job));
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
            Some(zonename) => self.note_stranger(zonename, &error),
        }
        self.retry(times, &job, job.sources);
    }

    /// A job is urgent only while a client waits for it; then it reads
    /// everything.
    fn as_it_is_wanted(&self, job: Job) -> Job {
        let is_urgent = job.is_urgent && self.is_requested(&job.lane);
        let sources = if is_urgent { Sources::ALL } else { job.sources };
        Job { sources, is_urgent, ..job }
    }

    fn is_requested(&self, lane: &Lane) -> bool {
        match lane {
            Lane::Vm(zonename) => self.requests.are_there(Some(zonename)),
            Lane::All => self.requests.are_there(None),
            Lane::Sysinfo | Lane::Index => false,
        }
    }

    /// Notes that zoneadm has failed for a zone that may not exist.
    pub fn note_stranger(&self, zonename: &Arc<str>, error: &dyn fmt::Display) {
        let strangers = &mut self.strangers.lock();
        if strangers.len() < STRANGERS_MAX {
            strangers.insert(Arc::clone(zonename));
        }
        self.faults.add(None, Source::UnknownZones, error);
    }

    /// Notes that a full reload has failed.
    pub fn note_refresh_error(&self, error: &dyn fmt::Display) {
        self.faults.add(None, Source::Refresh, error);
        self.faults.note_refresh_error(error);
    }

    /// Whether a VM is about to be loaded.
    pub fn is_at(&self, zonename: &Arc<str>) -> bool {
        let owed = || self.runs.owed(&Lane::Vm(Arc::clone(zonename)));
        self.queue.is_at(zonename) || owed() != Sources::NONE
    }
}

/// The VM that a lane is of.
pub fn zonename_of(lane: &Lane) -> Option<&Arc<str>> {
    match lane {
        Lane::Vm(zonename) => Some(zonename),
        Lane::All | Lane::Sysinfo | Lane::Index => None,
    }
}
