//! A worker takes a batch of jobs, arms watches, loads, and applies the result
//! to the cache.

use std::collections::{BTreeSet, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crossbeam_channel::Sender;
use vminfod_client::EventKind;

use super::after_load::{AfterLoad, Finished, TransitionNumber};
use super::reloads::{EndedReload, ReloadChanges};
use super::retry::zonename_of;
use crate::cache::Published;
use crate::daemon::Shared;
use crate::drift::Drift;
use crate::event::{Cause, Job, Lane, Reload, Trigger};
use crate::load::files::Sysinfo;
use crate::load::index::ZoneIndex;
use crate::load::{
    LoadOutcome, LoadRequest, Loaded, LoadedAll, Loader, NoAnswer,
};
use crate::os::memory;
use crate::queue::Batch;
use crate::settings::LoadLimits;
use crate::source::{Source, Sources};
use crate::threads::panic_text;

/// At most this often, everything is loaded again because something was wrong
/// with zoneadm's list.
const LISTING_TRIES: u32 = 5;

/// The sources of a job of the index that follows a full load: all lines are
/// compared with what is known, not only those that have changed.
const ALL_LINES: Sources = Sources::of(Source::Refresh);

/// The result of loading everything.
#[derive(Default)]
struct FinishedAll {
    /// Every zone that was loaded.
    zonenames: Vec<Arc<str>>,
    /// The zones that are not settled: another load of each follows.
    missing: HashSet<Arc<str>>,
    /// Zones that had faults, and were not loaded.
    absent: Vec<Arc<str>>,
    /// The events that were published.
    changes: ReloadChanges,
}

/// One of the workers.
#[derive(Clone)]
pub struct Worker {
    pub shared: Arc<Shared>,
    pub loader: Loader,
    pub after: AfterLoad,
    pub limits: LoadLimits,
    /// Gets a message when a full load is done.
    pub loaded: Sender<()>,
}

impl Worker {
    /// Works until the queue is closed.
    pub fn run(&self) {
        while let Some(batch) = self.shared.queue.take() {
            self.guarded(&batch, |batch| self.work(batch));
            if batch.jobs.iter().any(|job| job.lane == Lane::All) {
                // During a full load, the old and the new data of every VM are
                // in memory together.
                memory::give_back();
            }
        }
    }

    /// Does `work`. A panic costs only the jobs of this batch: they are tried
    /// again.
    pub fn guarded(&self, batch: &Batch, work: impl FnOnce(&Batch)) {
        let work = AssertUnwindSafe(|| work(batch));
        if let Err(panic) = catch_unwind(work) {
            let what = format!("panic: {}", panic_text(panic.as_ref()));
            for job in &batch.jobs {
                let faults = &self.shared.faults;
                faults.add(zonename_of(&job.lane), Source::Worker, &what);
                self.after.retry(job, Sources::ALL | job.sources);
            }
        }
        self.shared.queue.done(&batch.ticket());
    }

    fn work(&self, batch: &Batch) {
        let begin = Instant::now();
        let Batch { jobs, .. } = batch;
        let Some(first) = jobs.first() else { return };
        let count = jobs.len();
        match first.lane {
            Lane::All => self.load_all(first, batch),
            Lane::Sysinfo => self.load_sysinfo(first),
            Lane::Index => self.load_index(first),
            Lane::Vm(_) => self.load_vms(batch),
        }
        let took = begin.elapsed();
        self.shared.numbers.jobs(&first.lane, first.sources, count, took);
        let ms = took.as_secs_f64() * 1000.0;
        let (lane, cause) = (&first.lane, &first.cause);
        let detail = &cause.detail;
        match count {
            1 => log::debug!("job done: {lane} ({detail}) in {ms:.1} ms"),
            n => log::debug!("{n} jobs done: {lane} and others in {ms:.1} ms"),
        }
    }

    fn load_vms(&self, batch: &Batch) {
        let Batch { jobs, noted, number } = batch;
        let requests = jobs.iter().filter_map(|job| match &job.lane {
            Lane::Vm(zonename) => Some(LoadRequest {
                zonename: Arc::clone(zonename),
                sources: job.sources | self.xml_if_in_doubt(&job.lane),
                prior: self.shared.cache.parts(zonename),
            }),
            _ => None,
        });
        // A client that waits wants what is true now. Sysinfo is part of that.
        let is_urgent = jobs.iter().any(|job| job.is_urgent);
        let sysinfo = match is_urgent.then(|| self.read_sysinfo()) {
            Some(Some((sysinfo, true))) => {
                self.rebuild_all(&Cause::now(Trigger::Sync, "sysinfo"));
                sysinfo
            }
            Some(Some((sysinfo, false))) => sysinfo,
            Some(None) | None => self.shared.sysinfo.get(),
        };
        let loaded =
            self.loader.load(requests.collect(), &sysinfo, &self.arm());
        for (job, loaded) in jobs.iter().zip(loaded) {
            let zonename = [Arc::clone(&loaded.zonename)];
            let is_gone = matches!(loaded.found, LoadOutcome::Gone);
            let finished = self.after.finish(job, loaded, *noted);
            // There is nothing more to read of a VM that is gone.
            let is_whole = is_gone || job.sources.contains(Sources::ALL);
            if finished.is_settled && is_whole {
                self.shared.requests.loaded(&zonename[0], *number);
            }
            self.rebuild_if_stale(&zonename, &sysinfo, &job.cause);
        }
    }

    /// Returns the XML if the zone may be a different one and zoneadm has not
    /// said so yet. The new zone's files must not be published together with
    /// what was known of the old zone.
    fn xml_if_in_doubt(&self, lane: &Lane) -> Sources {
        match self.loader.runs().owed(lane).contains(Sources::XML) {
            true => Sources::XML,
            false => Sources::NONE,
        }
    }

    fn arm(&self) -> impl Fn(&Arc<str>, Option<&Path>, bool) {
        |zonename: &Arc<str>, dir: Option<&Path>, again: bool| {
            self.after.files.arm(zonename, dir, again);
        }
    }

    fn load_all(&self, job: &Job, batch: &Batch) {
        let begin = Instant::now();
        self.after.files.arm_host();
        let read = self.read_sysinfo();
        let has_new_sysinfo = matches!(read, Some((_, true)));
        let sysinfo = match read {
            Some((sysinfo, _)) => sysinfo,
            None => self.shared.sysinfo.get(),
        };
        let all = match self.read_all(job, &sysinfo) {
            Ok(all) => all,
            Err(why) => {
                let _ = self.shared.cache.end_reload();
                if has_new_sysinfo {
                    self.rebuild_all(&job.cause);
                }
                self.put_off_reload(job, why);
                return;
            }
        };
        let is_list_faulty = all.faults.iter().any(|(source, error)| {
            *source == Source::Zoneadm && error.is_some()
        });
        let mut finished = self.finish_all(job, batch, all);
        if !self.shared.cache.end_reload() {
            // More VMs went during the load than could be remembered, so it may
            // have brought some of them back. Load everything again.
            self.shared.queue.push(Job { tries: 0, ..job.clone() });
        }
        self.forget_gone(batch.noted, &finished);
        let changes = std::mem::take(&mut finished.changes);
        self.note_refresh(job, begin, finished.zonenames.len(), changes);
        self.shared.cache.speak();
        // If the daemon is starting, HTTP waits for this.
        let _ = self.loaded.try_send(());
        self.rebuild_if_stale(&finished.zonenames, &sysinfo, &job.cause);
        let cause = job.cause.clone();
        let index = Job::new(Lane::Index, ALL_LINES, cause);
        self.shared.queue.push(index);
        if is_list_faulty && job.tries < LISTING_TRIES {
            // A VM may be missing. The tries are limited, because a fault that
            // lasts is no reason to load everything again and again. An odd
            // line of zfs is no reason either: it may be a tenant's.
            self.after.retry(job, Sources::ALL);
        } else {
            let missing = &finished.missing;
            self.shared.requests.all_loaded(batch.number, missing);
            let cause = Cause::now(Trigger::Refresh, "periodic");
            let next = Job::of_all(Reload::Periodic, cause);
            let pause = self.shared.reloads.pause();
            self.shared.queue.set_periodic(next, pause);
        }
    }

    /// Reads everything.
    fn read_all(
        &self,
        job: &Job,
        sysinfo: &Arc<Sysinfo>,
    ) -> Result<LoadedAll, NoAnswer> {
        let known = self.shared.cache.begin_reload();
        // For a client that asks, and after a gap, everything must be read.
        let trusts_stamps = job.reload == Reload::Periodic;
        // No client is served before the first load, so that one waits for slow
        // commands.
        let is_first = self.shared.reloads.is_first();
        let list_time = is_first.then_some(self.limits.list_time);
        let arm = self.arm();
        self.loader.load_all(&known, trusts_stamps, list_time, sysinfo, &arm)
    }

    /// Has everything loaded again later, because it could not be loaded now.
    fn put_off_reload(&self, job: &Job, why: NoAnswer) {
        match why {
            NoAnswer::Failed(e) => {
                self.shared.note_refresh_error(&e);
                self.after.retry(job, Sources::ALL);
            }
            NoAnswer::NotYet(unanswered) => {
                self.loader.runs().owe(&unanswered, job.clone());
            }
        }
    }

    /// Stores every VM that was loaded, and notes what is wrong with the host.
    fn finish_all(
        &self,
        job: &Job,
        batch: &Batch,
        all: LoadedAll,
    ) -> FinishedAll {
        let faults = &self.shared.faults;
        faults.clear_all_unknown();
        for (source, error) in &all.faults {
            if let Some(error) = error {
                faults.add(None, *source, error);
            }
        }
        let losses = self.shared.losses();
        let heals = self.shared.reloads.heals(job.reload, losses);
        let mut finished = FinishedAll {
            absent: faults.zonenames(),
            ..FinishedAll::default()
        };
        for loaded in all.vms {
            let zonename = Arc::clone(&loaded.zonename);
            finished.absent.retain(|absent| *absent != zonename);
            let one = self.finish_one(job, batch, heals, loaded);
            finished.changes.add(&zonename, one.published);
            if !one.is_settled {
                finished.missing.insert(Arc::clone(&zonename));
            }
            finished.zonenames.push(zonename);
        }
        if let Some(drift) = heals {
            drift.end_reload();
        }
        // A fault is cleared only once the data that was read without it is
        // served.
        let well = all.faults.iter().filter(|(_, error)| error.is_none());
        let well = well.map(|(source, _)| *source);
        for source in well.chain([Source::Refresh, Source::Worker]) {
            faults.clear(None, source);
        }
        finished
    }

    /// Stores one VM of a full load.
    fn finish_one(
        &self,
        job: &Job,
        batch: &Batch,
        heals: Option<&Drift>,
        loaded: Loaded,
    ) -> Finished {
        let zonename = Arc::clone(&loaded.zonename);
        let lane = Lane::Vm(Arc::clone(&zonename));
        let of_vm = Job { lane, ..job.clone() };
        let sources = changed_sources(&loaded);
        let is_known = self.shared.is_at(&zonename);
        let has_ended = loaded.is_answered()
            && self.after.must_await_end_report(&zonename, &loaded.found);
        let mut finished = self.after.finish(&of_vm, loaded, batch.noted);
        if finished.is_settled {
            self.shared.requests.loaded(&zonename, batch.number);
        }
        if has_ended {
            // Its end is put off for a moment and published then, so this
            // reload has found it.
            finished.published.push(Published::deleted());
        }
        if let Some(drift) = heals.filter(|_| !is_known) {
            note_drift(drift, &zonename, &finished.published, sources);
        }
        finished
    }

    /// Forgets transitions and faults of zones that were not found.
    fn forget_gone(&self, noted: TransitionNumber, finished: &FinishedAll) {
        let listed: HashSet<&str> =
            finished.zonenames.iter().map(|name| &**name).collect();
        let runs = self.loader.runs();
        self.shared.queue.forget_transitions(noted, |name| {
            let owed = || runs.owed(&Lane::Vm(name.into()));
            listed.contains(name) || owed() != Sources::NONE
        });
        // Faults of a VM end with it.
        for zonename in &finished.absent {
            // A zone that appeared after zoneadm was asked has a load of its
            // own.
            let is_gone = !self.shared.cache.contains(zonename)
                && !self.shared.is_at(zonename);
            if is_gone {
                self.after.files.disarm(zonename);
                self.shared.faults.forget(zonename);
            }
        }
    }

    fn note_refresh(
        &self,
        job: &Job,
        begin: Instant,
        count: usize,
        changes: ReloadChanges,
    ) {
        let took = begin.elapsed();
        self.shared.reloads.note(EndedReload {
            ended: Instant::now(),
            date: SystemTime::now(),
            took,
            vms: count,
            cause: Arc::clone(&job.cause.detail),
            changes,
        });
        log::info!(
            "loaded {count} VMs in {:.1} ms ({})",
            took.as_secs_f64() * 1000.0,
            job.cause.detail
        );
    }

    /// Has VMs built again if sysinfo has changed while they were loaded with
    /// it.
    fn rebuild_if_stale(
        &self,
        zonenames: &[Arc<str>],
        used: &Arc<Sysinfo>,
        cause: &Cause,
    ) {
        if Arc::ptr_eq(used, &self.shared.sysinfo.get()) {
            return;
        }
        for zonename in zonenames {
            let lane = Lane::Vm(Arc::clone(zonename));
            let (cause, sources) = (cause.clone(), Sources::NONE);
            self.shared.queue.push(Job::new(lane, sources, cause));
        }
    }

    /// Reads the sysinfo. If it has changed, every VM is built again, because
    /// every VM contains some of it.
    fn load_sysinfo(&self, job: &Job) {
        if let Some((_, true)) = self.read_sysinfo() {
            self.rebuild_all(&job.cause);
        }
    }

    /// Reads the zone index, and loads the zones whose changed line does not
    /// agree with what is known of them. After a full load, all lines are
    /// compared: a change of the index during that load was compared only with
    /// what was known before.
    fn load_index(&self, job: &Job) {
        let index = match self.loader.index() {
            Ok(index) => Arc::new(index),
            Err(e) => {
                self.shared.faults.add(None, Source::Index, &e);
                return self.after.retry(job, job.sources);
            }
        };
        self.shared.faults.clear(None, Source::Index);
        let old = {
            let mut stored = self.shared.index.write();
            std::mem::replace(&mut *stored, Arc::clone(&index))
        };
        for zonename in index.changed_since(&old) {
            // A load that is under way may have read the zone before the index
            // changed.
            if self.shared.queue.is_at(&zonename)
                || !self.agrees_with(&index, &zonename)
            {
                self.load_again(&zonename, &job.cause);
            }
        }
        if job.sources.contains(ALL_LINES) {
            self.compare_with_index(&index, &job.cause);
        }
        if !index.is_same_as(&old)
            && self.shared.faults.host_has_fault(Source::Zoneadm)
        {
            // The change may have mended what was wrong with zoneadm's list.
            let all = Job::new(Lane::All, Sources::ALL, job.cause.clone());
            self.shared.queue.push_later(all, self.after.times.retry.last);
        }
    }

    fn compare_with_index(&self, index: &ZoneIndex, cause: &Cause) {
        let known = self.shared.cache.all_parts().into_iter();
        let mut names: BTreeSet<_> = known.map(|(name, _)| name).collect();
        names.extend(index.zonenames().cloned());
        // These will be asked for again anyway.
        for zonename in self.shared.faults.zonenames_to_retry(Sources::ZONEADM)
        {
            names.remove(&zonename);
        }
        for zonename in names {
            if !self.agrees_with(index, &zonename) {
                self.load_again(&zonename, cause);
            }
        }
    }

    /// Whether the zone index agrees with what is known of a zone.
    fn agrees_with(&self, index: &ZoneIndex, zonename: &str) -> bool {
        let known = self.shared.cache.parts(zonename);
        let row = known.as_ref().map(|parts| &parts.row);
        index.agrees_with(zonename, row)
    }

    fn load_again(&self, zonename: &Arc<str>, cause: &Cause) {
        let lane = Lane::Vm(Arc::clone(zonename));
        self.shared.queue.push(Job::new(lane, Sources::ALL, cause.clone()));
    }

    /// Builds every VM again from what is known.
    fn rebuild_all(&self, cause: &Cause) {
        for (zonename, _) in self.shared.cache.all_parts() {
            let lane = Lane::Vm(zonename);
            let (cause, sources) = (cause.clone(), Sources::NONE);
            self.shared.queue.push(Job::new(lane, sources, cause));
        }
    }

    /// Reads the sysinfo; returns it, and whether it has changed. Returns
    /// `None` if it can't be read; then it is read again later.
    fn read_sysinfo(&self) -> Option<(Arc<Sysinfo>, bool)> {
        let stored = &self.shared.sysinfo;
        let reading = stored.begin();
        match self.loader.sysinfo() {
            Ok(sysinfo) => {
                self.shared.faults.clear(None, Source::Sysinfo);
                Some(stored.store(reading, sysinfo))
            }
            Err(e) => {
                self.shared.faults.add(None, Source::Sysinfo, &e);
                let lane = Lane::Sysinfo;
                let cause = Cause::now(Trigger::Refresh, "sysinfo again");
                let sources = Sources::NONE;
                let job = Job::new(lane, sources, cause);
                self.shared.queue.push_later(job, self.after.times.retry.last);
                None
            }
        }
    }
}

/// The sources that differ from what was known before the load.
fn changed_sources(loaded: &Loaded) -> Vec<Source> {
    match (&loaded.found, &loaded.prior) {
        (LoadOutcome::Parts(new), Some(old)) => new.differing(old),
        _ => vec![Source::Zoneadm],
    }
}

fn note_drift(
    drift: &Drift,
    zonename: &Arc<str>,
    published: &[Published],
    sources: Vec<Source>,
) {
    let mut properties = BTreeSet::new();
    for event in published {
        match event.kind {
            EventKind::Modify => {
                // `nics.*.ip` belongs to `nics`, `routes[10.0.0.0/8]` to
                // `routes`.
                let member = |path: &String| {
                    path.split(['.', '[']).next().unwrap_or(path).to_string()
                };
                properties.extend(event.paths.iter().map(member));
            }
            kind => {
                properties.insert(format!("({kind})"));
            }
        }
    }
    if !properties.is_empty() {
        let properties = properties.into_iter().collect();
        drift.suspect(zonename, properties, sources);
    }
}
