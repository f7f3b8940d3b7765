//! What the daemon does after a load: it changes the cache, notes faults, and
//! has VMs that are not settled loaded again.

use std::sync::Arc;

use super::Shared;
use crate::cache::{Applied, Published, Update};
use crate::event::{Cause, GONE, Job, Lane, Trigger};
use crate::load::assemble::Parts;
use crate::load::{LoadOutcome, Loaded, SourceFaults};
use crate::settings::SourceTimes;
use crate::source::{EventSource, Source, Sources};
use crate::transitions::{Numbered, Position, Reports, due, is_end};
use crate::watch::files::FileWatcher;

/// If a zone has the uuid of another zone that is served but is no longer in
/// the zone index, it is loaded again at most this often before that is a
/// fault.
const TWIN_TRIES: u32 = 4;

/// The number of the last transition that was reported before a batch began.
pub type TransitionNumber = u64;

/// The result of applying a load.
#[derive(Debug, Default)]
pub struct Finished {
    /// The events that were published.
    pub published: Vec<Published>,
    /// Whether the VM is settled. If not, another load follows.
    pub is_settled: bool,
}

/// The transitions of a zone that are due with a load.
struct Due<'a> {
    after: &'a AfterLoad,
    zonename: &'a Arc<str>,
    reach: Reach<'a>,
    noted: TransitionNumber,
}

/// How much of a zone's history a load has seen.
enum Reach<'a> {
    /// Nothing: zoneadm has not answered.
    Nothing,
    /// Everything up to the state in which the zone was found.
    Found(Position<'a>),
    /// Everything up to the end of the zone that is stored, but nothing of the
    /// next zone of that name.
    End,
}

/// A load has found that there is no such zone.
const GONE_NOW: Reach<'static> = Reach::Found(Position {
    zone_state: GONE,
    zoneid: None,
    is_another: false,
});

impl Reports for Due<'_> {
    fn due(&self, stored: Option<&str>) -> Vec<Numbered> {
        let mut reported =
            self.after.shared.queue.transitions_of(self.zonename);
        let earlier = reported.partition_point(|(n, _)| *n <= self.noted);
        let count = match self.reach {
            Reach::Nothing => 0,
            Reach::Found(found) => due(&reported, earlier, stored, found),
            Reach::End => {
                let end = reported[..earlier].iter().rposition(is_end);
                end.map_or(0, |at| at + 1)
            }
        };
        reported.truncate(count);
        reported
    }

    fn take(&self, due: &[Numbered]) -> bool {
        self.after.shared.queue.take_transitions(self.zonename, due)
    }
}

/// Applies what was loaded.
#[derive(Clone)]
pub struct AfterLoad {
    pub shared: Arc<Shared>,
    pub files: Arc<FileWatcher>,
    pub times: SourceTimes,
}

impl AfterLoad {
    /// Stores what was loaded of a VM. What is not settled yet is loaded again
    /// later.
    pub fn finish(
        &self,
        job: &Job,
        loaded: Loaded,
        noted: TransitionNumber,
    ) -> Finished {
        self.reload_when_answered(job, &loaded);
        let mut failed = self.note_failures(&loaded);
        let mut finished = Finished {
            is_settled: loaded.has_all_answers(),
            ..Finished::default()
        };
        let is_answered = loaded.is_answered();
        let is_owed = !loaded.unanswered.is_empty();
        let Loaded { zonename, prior, found, faults, .. } = loaded;
        if is_answered && self.must_await_end_report(&zonename, &found) {
            let again = Job { sources: Sources::ALL, ..job.clone() };
            let queue = &self.shared.queue;
            queue.push_later(again, self.times.end_time);
            return Finished::default();
        }
        if is_answered {
            self.shared.faults.clear_unknown(&zonename);
        }
        let base = prior.as_ref();
        if matches!(found, LoadOutcome::Gone) {
            return self.finish_gone(job, &zonename, base, GONE_NOW, noted);
        }
        let is_whole = base.is_none() || !failed.contains(Sources::XML);
        if !is_whole && self.is_end_reported(&zonename, noted) {
            self.finish_reported_end(job, &zonename, base, noted);
            return Finished::default();
        }
        if let LoadOutcome::Parts(parts) = found {
            let stored = self.store(job, base, *parts, is_answered, noted);
            finished.published = stored.published;
            finished.is_settled &= stored.is_settled;
        } else if base.is_some() && (!is_owed || failed != Sources::NONE) {
            // This zone is not the one that is served. What was read of it is
            // not kept, so all of it is read again.
            failed = Sources::ALL;
        }
        self.clear_faults(&zonename, &faults);
        if failed != Sources::NONE {
            self.retry(job, failed);
        }
        finished
    }

    /// The VM that is served has ended: publishes its end, and has the zone
    /// loaded again. The zone that has its name now has not been read
    /// completely, and must not get any part of the old one.
    fn finish_reported_end(
        &self,
        job: &Job,
        zonename: &Arc<str>,
        base: Option<&Arc<Parts>>,
        noted: TransitionNumber,
    ) {
        self.finish_gone(job, zonename, base, Reach::End, noted);
        let again = Job { sources: Sources::ALL, ..job.clone() };
        self.shared.queue.push(again);
    }

    /// Notes which sources could not be read; returns what must be read again
    /// because of that.
    fn note_failures(&self, loaded: &Loaded) -> Sources {
        let mut failed = Sources::NONE;
        let is_unknown = loaded.prior.is_none()
            && !loaded.is_configured
            && !matches!(loaded.found, LoadOutcome::Parts(_));
        for (source, error) in &loaded.faults {
            self.shared.numbers.loads.add(&[source.name()]);
            let Some(error) = error else { continue };
            self.shared.numbers.load_failures.add(&[source.name()]);
            let zonename = &loaded.zonename;
            if *source == Source::Zoneadm && is_unknown {
                self.shared.faults.add_unknown(zonename, error);
            } else {
                let faults = &self.shared.faults;
                faults.add(Some(zonename), *source, error);
            }
            failed |= source.again();
        }
        failed
    }

    /// Clears the faults of sources that were read. A fault is cleared only
    /// once the data that was read without it is served.
    fn clear_faults(&self, zonename: &Arc<str>, faults: &SourceFaults) {
        let well = faults.iter().filter(|(_, error)| error.is_none());
        for source in well.map(|(source, _)| *source).chain([Source::Worker]) {
            self.shared.faults.clear(Some(zonename), source);
        }
    }

    /// Stores the parts of a VM, together with the transitions that lead to its
    /// state.
    fn store(
        &self,
        job: &Job,
        base: Option<&Arc<Parts>>,
        parts: Parts,
        is_answered: bool,
        noted: TransitionNumber,
    ) -> Finished {
        if let Some(pending) = Pending::of(&parts) {
            self.check_again_later(job, pending);
        }
        let row = parts.row.clone();
        let zonename = &row.zonename;
        #[allow(clippy::cast_possible_truncation)]
        let zoneid = row.zoneid.as_f64().map(|id| id as i32);
        let zone_state = &*row.zone_state;
        let is_another = self.shared.cache.is_another(&parts);
        let found = Position { zone_state, zoneid, is_another };
        let reach = match is_answered {
            true => Reach::Found(found),
            false => Reach::Nothing,
        };
        let due = Due { after: self, zonename, reach, noted };
        let Some(vm) = self.shared.cache.prepare(zonename, base, parts) else {
            let error = "the zone has no uuid yet, so it is not served";
            self.shared.faults.add(Some(zonename), Source::Uuid, &error);
            return Finished { published: Vec::new(), is_settled: true };
        };
        let finished = self.apply(job, zonename, base, Update::Vm(vm), &due);
        if is_answered && finished.is_settled {
            self.shared.queue.forget_end_report(zonename);
        }
        finished
    }

    /// Has a VM loaded again when the missing answers arrive.
    fn reload_when_answered(&self, job: &Job, loaded: &Loaded) {
        // If a VM is not known yet, all of it has to be read.
        let is_part = matches!(loaded.found, LoadOutcome::Unknown)
            || loaded.prior.is_none();
        for unanswered in &loaded.unanswered {
            let sources = match unanswered.source {
                _ if is_part => Sources::ALL,
                Source::Zoneadm => Sources::STATE,
                source => Sources::of(source),
            };
            let again = Job { sources, ..job.clone() };
            self.shared.runs.owe(unanswered, again);
        }
    }

    /// Removes a VM from the cache, with its watches and faults.
    fn finish_gone(
        &self,
        job: &Job,
        zonename: &Arc<str>,
        base: Option<&Arc<Parts>>,
        reach: Reach<'_>,
        noted: TransitionNumber,
    ) -> Finished {
        let due = Due { after: self, zonename, reach, noted };
        let finished = self.apply(job, zonename, base, Update::Gone, &due);
        if finished.is_settled {
            self.shared.queue.forget_end_report(zonename);
            self.files.disarm(zonename);
            self.shared.faults.forget(zonename);
            self.shared.hub.report_gone(zonename);
            self.reload_twins(job);
        }
        finished
    }

    /// Whether a zone's end was reported before a batch began, and is not
    /// published yet.
    fn is_end_reported(&self, zonename: &str, noted: TransitionNumber) -> bool {
        let reported = self.shared.queue.transitions_of(zonename);
        reported.iter().any(|report| report.0 <= noted && is_end(report))
    }

    /// A VM is gone: loads the zones again that were refused because another
    /// zone had their uuid.
    fn reload_twins(&self, job: &Job) {
        for zonename in self.shared.faults.zonenames_with(Source::Uuid) {
            let (lane, sources) = (Lane::Vm(zonename), Sources::ALL);
            let cause = job.cause.clone();
            self.shared.queue.push(Job::new(lane, sources, cause));
        }
    }

    /// Whether a VM has ended and the report of its zone's end has not arrived
    /// yet. A file event may overtake earlier sysevents. These would come too
    /// late to be published, so they get a moment to arrive. Must be called
    /// only if zoneadm has answered.
    pub fn must_await_end_report(
        &self,
        zonename: &Arc<str>,
        found: &LoadOutcome,
    ) -> bool {
        let Shared { cache, queue, .. } = &*self.shared;
        let has_ended = match found {
            LoadOutcome::Gone => cache.contains(zonename),
            LoadOutcome::Unknown => return false,
            LoadOutcome::Parts(parts) => cache.is_another(parts),
        };
        if !has_ended {
            queue.forget_end_report(zonename);
        }
        has_ended && queue.await_end_report(zonename, self.times.end_time)
    }

    /// Applies an update to the cache. A VM that could not be stored is loaded
    /// again.
    fn apply(
        &self,
        job: &Job,
        zonename: &Arc<str>,
        base: Option<&Arc<Parts>>,
        update: Update,
        reports: &Due<'_>,
    ) -> Finished {
        let applied = self
            .shared
            .cache
            .apply(zonename, base, update, reports, &job.cause);
        let faults = &self.shared.faults;
        match applied {
            Applied::Stored { published, has_unreported_end } => {
                if has_unreported_end {
                    self.shared.queue.expect_end(zonename);
                }
                faults.clear(Some(zonename), Source::Uuid);
                self.note_published(job, zonename, &published);
                Finished { published, is_settled: true }
            }
            Applied::Overtaken => {
                let (cause, sources) = (job.cause.clone(), Sources::ALL);
                let lane = Lane::Vm(Arc::clone(zonename));
                let is_urgent = job.is_urgent;
                let again = Job::new(lane, sources, cause);
                self.shared.queue.push(Job { is_urgent, ..again });
                Finished::default()
            }
            Applied::Twin(twin, published) => {
                self.note_published(job, zonename, &published);
                if self.is_configured(&twin) || job.tries >= TWIN_TRIES {
                    let error = format!(
                        "zone {twin} has the same uuid and is served instead \
                         of this one"
                    );
                    faults.add(Some(zonename), Source::Uuid, &error);
                    self.retry(job, Sources::ALL);
                } else {
                    // Perhaps the other zone has just been renamed to this one.
                    let pause = self.times.settle.after(job.tries);
                    let (sources, tries) = (Sources::ALL, job.tries + 1);
                    let again = Job { sources, tries, ..job.clone() };
                    self.shared.queue.push_later(again, pause);
                }
                // Nothing more will change until the other zone goes.
                Finished { published: Vec::new(), is_settled: true }
            }
        }
    }

    /// Whether the zone index has a line for a zone.
    fn is_configured(&self, zonename: &str) -> bool {
        self.shared.index.read().line(zonename).is_some()
    }

    fn note_published(
        &self,
        job: &Job,
        zonename: &str,
        published: &[Published],
    ) {
        let numbers = &self.shared.numbers;
        let cause = &job.cause;
        for event in published {
            log::info!("{zonename}: {event} ({})", cause.detail);
            numbers.published.add(&[event.kind.name(), cause.trigger.name()]);
        }
        if let Trigger::Event(source) = cause.trigger
            && !published.is_empty()
        {
            numbers.latency.add(&[source.name()], cause.at.elapsed());
        }
    }

    /// Tries a job again. The pause before it grows with each failure.
    pub fn retry(&self, job: &Job, sources: Sources) {
        self.shared.retry(&self.times, job, sources);
    }

    /// Has a zone looked at again later. There may be no event when the zone
    /// gets what it lacks, or leaves a state that it should not stay in.
    fn check_again_later(&self, job: &Job, pending: Pending) {
        let times = &self.times;
        let (sources, pauses) = match pending {
            Pending::Settling => (Sources::STATE, times.settle),
            Pending::Passing => (Sources::ZONEADM, times.passing),
            Pending::Appearing => (Sources::STATE, times.passing),
        };
        let pause = pauses.after(job.tries);
        let cause = Cause::now(EventSource::Zone, "looked at again");
        let tries = job.tries.saturating_add(1);
        let lane = job.lane.clone();
        let again = Job { tries, ..Job::new(lane, sources, cause) };
        self.shared.queue.push_later(again, pause);
    }
}

/// Why a zone must be looked at again soon.
#[derive(Clone, Copy)]
enum Pending {
    /// It is in a state that it does not, or should not, stay in. Operators
    /// know zones that hang in one for days.
    Passing,
    /// It is in such a state, and its kstat was read before the kstat existed.
    Appearing,
    /// It lacks something that it will get a moment later, without any event.
    Settling,
}

impl Pending {
    fn of(parts: &Parts) -> Option<Self> {
        let booted = parts.zoneinfo.is_some_and(|info| info.boot_time > 0.0);
        match &*parts.row.zone_state {
            "ready" | "shutting_down" | "down" => match parts.zoneinfo {
                Some(_) => Some(Self::Passing),
                None => Some(Self::Appearing),
            },
            "running" => (!booted).then_some(Self::Settling),
            // zoneadm looks for the id first, then for the state: one with an
            // id, and the state of the index, has ended in between.
            _ if parts.row.zoneid.as_f64().is_some() => Some(Self::Settling),
            _ => (!parts.row.uuid_is_set).then_some(Self::Settling),
        }
    }
}
