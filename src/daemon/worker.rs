//! A worker: takes a batch of jobs, arms watches, loads, and has the picture
//! changed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Sender;

use crate::cache::{Prepared, Update};
use crate::config::SourceTimes;
use crate::daemon::{Refresh, Shared, panic_text};
use crate::event::{Cause, GONE, Job, Lane, Sources, Transition};
use crate::load::assemble::Parts;
use crate::load::files::Sysinfo;
use crate::load::{Found, Loaded, Loader, Request};
use crate::queue::Batch;
use crate::transition::{Position, due};
use crate::watch::files::FileWatcher;

/// The number of the last transition that was reported before a batch began.
type Noted = u64;

/// How often everything is loaded again because zoneadm's list was odd.
const LISTING_TRIES: u32 = 5;

/// One of the workers.
pub struct Worker {
    pub shared: Arc<Shared>,
    pub loader: Loader,
    pub files: Arc<FileWatcher>,
    pub times: SourceTimes,
    pub refresh_interval: Duration,
    /// Is told when a full load is in.
    pub loaded: Sender<()>,
}

impl Worker {
    /// Works until the queue is closed.
    pub fn run(&self) {
        while let Some(batch) = self.shared.queue.take() {
            let jobs = batch.jobs.clone();
            let work = AssertUnwindSafe(|| self.work(batch));
            match catch_unwind(work) {
                Ok(()) => {
                    self.shared.faults.note(None, "worker", None);
                }
                Err(panic) => {
                    let what = format!("panic: {}", panic_text(panic.as_ref()));
                    self.shared.faults.note(None, "worker", Some(&what));
                    jobs.iter().for_each(|job| self.retry(job, Sources::ALL));
                }
            }
            let lanes: Vec<_> = jobs.into_iter().map(|job| job.lane).collect();
            self.shared.queue.done(&lanes);
        }
    }

    fn work(&self, batch: Batch) {
        let begin = Instant::now();
        let Batch { jobs, noted } = batch;
        let Some(first) = jobs.first().cloned() else { return };
        let count = jobs.len();
        match first.lane {
            Lane::All => self.load_all(&first, noted),
            Lane::Sysinfo => self.load_sysinfo(&first),
            Lane::Vm(_) => self.load_vms(&jobs, noted),
        }
        let ms = begin.elapsed().as_secs_f64() * 1000.0;
        let (lane, cause) = (&first.lane, &first.cause);
        let detail = &cause.detail;
        match count {
            1 => log::debug!("job done: {lane} ({detail}) in {ms:.1} ms"),
            n => log::debug!("{n} jobs done: {lane} and others in {ms:.1} ms"),
        }
    }

    fn load_vms(&self, jobs: &[Job], noted: Noted) {
        let requests = jobs.iter().filter_map(|job| match &job.lane {
            Lane::Vm(zonename) => Some(Request {
                zonename: Arc::clone(zonename),
                sources: job.sources,
                prior: self.shared.cache.parts(zonename),
            }),
            _ => None,
        });
        let sysinfo = Arc::clone(&self.shared.sysinfo.read());
        let loaded =
            self.loader.load(requests.collect(), &sysinfo, &self.arm());
        for (job, loaded) in jobs.iter().zip(loaded) {
            let zonename = [Arc::clone(&loaded.zonename)];
            self.finish(job, loaded, noted);
            self.rebuild_if_stale(&zonename, &sysinfo, &job.cause);
        }
    }

    fn arm(&self) -> impl Fn(&Arc<str>, Option<&Path>, bool) {
        |zonename: &Arc<str>, dir: Option<&Path>, anew: bool| {
            self.files.arm(zonename, dir, anew);
        }
    }

    fn load_all(&self, job: &Job, noted: Noted) {
        let begin = Instant::now();
        self.files.arm_sysinfo();
        let has_new_sysinfo = self.read_sysinfo();
        let known = self.shared.cache.begin_reload();
        let sysinfo = Arc::clone(&self.shared.sysinfo.read());
        let faults = &self.shared.faults;
        let all = match self.loader.load_all(&known, &sysinfo, &self.arm()) {
            Ok(all) => all,
            Err(e) => {
                let _ = self.shared.cache.end_reload();
                if has_new_sysinfo {
                    self.rebuild_all(&job.cause);
                }
                let error = e.to_string();
                faults.note(None, "refresh", Some(&error));
                faults.note_refresh_error(&error);
                self.retry(job, Sources::ALL);
                return;
            }
        };
        faults.note(None, "refresh", None);
        for (source, error) in &all.faults {
            faults.note(None, source, error.as_deref());
        }
        let count = all.vms.len();
        let mut absent = faults.zonenames();
        let mut all_names = Vec::with_capacity(count);
        for loaded in all.vms {
            all_names.push(Arc::clone(&loaded.zonename));
            absent.retain(|zonename| *zonename != loaded.zonename);
            let lane = Lane::Vm(Arc::clone(&loaded.zonename));
            let of_vm = Job { lane, ..job.clone() };
            self.finish(&of_vm, loaded, noted);
        }
        if !self.shared.cache.end_reload() {
            // More have gone than were remembered: some may be back.
            self.shared.queue.push(Job { tries: 0, ..job.clone() });
        }
        // What was wrong with a VM that is gone is no longer wrong.
        for zonename in absent {
            if !self.shared.cache.contains(&zonename) {
                self.files.disarm(&zonename);
                faults.forget(&zonename);
            }
        }
        let took = begin.elapsed();
        self.shared.note_refresh(Refresh {
            ended: Instant::now(),
            date: SystemTime::now(),
            took,
            vms: count,
            cause: Arc::clone(&job.cause.detail),
        });
        log::info!(
            "loaded {count} VMs in {:.1} ms ({})",
            took.as_secs_f64() * 1000.0,
            job.cause.detail
        );
        // Nobody may be waiting any more.
        let _ = self.loaded.try_send(());
        self.rebuild_if_stale(&all_names, &sysinfo, &job.cause);
        let missed = |(source, error): &(&str, Option<String>)| {
            *source == "zoneadm" && error.is_some()
        };
        if all.faults.iter().any(missed) && job.tries < LISTING_TRIES {
            // A VM may be missing. What lasts is no reason to load everything
            // again and again; an odd line of zfs, that of a tenant, is none.
            self.retry(job, Sources::ALL);
        } else {
            let cause = Cause::now("refresh", "periodic");
            let next = Job { cause, tries: 0, ..job.clone() };
            let pause = jittered(self.refresh_interval);
            self.shared.queue.push_later(next, pause);
        }
    }

    /// The system's description has changed while VMs were loaded with it.
    fn rebuild_if_stale(
        &self,
        zonenames: &[Arc<str>],
        used: &Arc<Sysinfo>,
        cause: &Cause,
    ) {
        if Arc::ptr_eq(used, &self.shared.sysinfo.read()) {
            return;
        }
        for zonename in zonenames {
            let lane = Lane::Vm(Arc::clone(zonename));
            let (cause, sources) = (cause.clone(), Sources::NONE);
            self.shared.queue.push(Job { lane, sources, cause, tries: 0 });
        }
    }

    /// The system's description is in every VM: each is made anew.
    fn load_sysinfo(&self, job: &Job) {
        if self.read_sysinfo() {
            self.rebuild_all(&job.cause);
        }
    }

    /// Makes every VM anew of what is known.
    fn rebuild_all(&self, cause: &Cause) {
        for (zonename, _) in self.shared.cache.all_parts() {
            let lane = Lane::Vm(zonename);
            let (cause, sources) = (cause.clone(), Sources::NONE);
            self.shared.queue.push(Job { lane, sources, cause, tries: 0 });
        }
    }

    /// Returns whether it has changed.
    fn read_sysinfo(&self) -> bool {
        // Of two workers that read at once, the later to begin is right.
        let reads = &self.shared.sysinfo_reads;
        let ticket = reads.fetch_add(1, Ordering::SeqCst) + 1;
        match self.loader.sysinfo() {
            Ok(sysinfo) => {
                self.shared.faults.note(None, "sysinfo", None);
                let mut stored = self.shared.sysinfo.write();
                let changed = *stored != sysinfo
                    && reads.load(Ordering::SeqCst) == ticket;
                if changed {
                    *stored = sysinfo;
                }
                changed
            }
            Err(e) => {
                self.shared.faults.note(None, "sysinfo", Some(&e));
                let lane = Lane::Sysinfo;
                let cause = Cause::now("refresh", "sysinfo again");
                let sources = Sources::NONE;
                let job = Job { lane, sources, cause, tries: 0 };
                self.shared.queue.push_later(job, self.times.retry_last);
                false
            }
        }
    }

    /// Stores what was loaded of a VM, and sees to what is left to do.
    fn finish(&self, job: &Job, loaded: Loaded, noted: Noted) {
        let Loaded { zonename, prior, found, faults } = loaded;
        let base = prior.as_ref();
        let mut failed = Sources::NONE;
        for (source, error) in &faults {
            let error = error.as_deref();
            self.shared.faults.note(Some(&zonename), source, error);
            if error.is_some() {
                failed |= sources_of(source);
            }
        }
        if self.is_end_unheard(job, &zonename, &found) {
            let again = Job { tries: 1, sources: Sources::ALL, ..job.clone() };
            let queue = &self.shared.queue;
            queue.push_later(again, self.times.settle_first);
            return;
        }
        let row_is_new = faults.contains(&("zoneadm", None));
        match found {
            Found::Gone => {
                let update = Update::Gone;
                let found = Position {
                    zone_state: GONE,
                    zoneid: None,
                    is_another: false,
                };
                let due = |stored: Option<&str>| {
                    self.take_due(&zonename, stored, found, noted)
                };
                if self.apply(job, &zonename, base, update, due) {
                    self.files.disarm(&zonename);
                    self.shared.faults.forget(&zonename);
                }
                return;
            }
            Found::Unknown => {}
            Found::Parts(parts) => {
                if is_passing(&parts) {
                    self.look_again(job);
                }
                let row = parts.row.clone();
                #[allow(clippy::cast_possible_truncation)]
                let zoneid = row.zoneid.as_f64().map(|id| id as i32);
                let zone_state = &*row.zone_state;
                let is_another = self.shared.cache.is_another(&row);
                let due = |stored: Option<&str>| match row_is_new {
                    true => {
                        let found = Position { zone_state, zoneid, is_another };
                        self.take_due(&zonename, stored, found, noted)
                    }
                    false => Vec::new(),
                };
                let error = match Prepared::new(*parts) {
                    None => Some("the zone has no uuid yet"),
                    Some(vm) => {
                        let update = Update::Vm(vm);
                        self.apply(job, &zonename, base, update, due);
                        None
                    }
                };
                self.shared.faults.note(Some(&zonename), "uuid", error);
            }
        }
        if failed != Sources::NONE {
            self.retry(job, failed);
        }
    }

    /// Whether a VM has ended without that its zone's end has been reported.
    /// A file's event may overtake the sysevents of what came before it,
    /// which would then come too late to be told: they get a moment.
    fn is_end_unheard(&self, job: &Job, zonename: &str, found: &Found) -> bool {
        let cache = &self.shared.cache;
        let has_ended = match found {
            Found::Gone => cache.contains(zonename),
            Found::Unknown => false,
            Found::Parts(parts) => cache.is_another(&parts.row),
        };
        has_ended && job.tries == 0 && !self.shared.queue.has_ended(zonename)
    }

    /// Has the picture changed; `false` if another load was quicker, and the
    /// VM has to be loaded again.
    fn apply(
        &self,
        job: &Job,
        zonename: &Arc<str>,
        base: Option<&Arc<Parts>>,
        update: Update,
        transitions: impl FnOnce(Option<&str>) -> Vec<Transition>,
    ) -> bool {
        let queue = &self.shared.queue;
        let applied = self.shared.cache.apply(
            zonename,
            base,
            update,
            transitions,
            &job.cause,
        );
        for line in applied.published {
            log::info!("{zonename}: {line} ({})", job.cause.detail);
        }
        if applied.overtaken {
            let cause = job.cause.clone();
            let lane = Lane::Vm(Arc::clone(zonename));
            queue.push(Job { lane, sources: Sources::ALL, cause, tries: 0 });
        }
        !applied.overtaken
    }

    /// The transitions up to the state that zoneadm has shown.
    fn take_due(
        &self,
        zonename: &str,
        stored: Option<&str>,
        found: Position<'_>,
        noted: Noted,
    ) -> Vec<Transition> {
        let queue = &self.shared.queue;
        queue.take_transitions(zonename, noted, |reported, earlier| {
            due(reported, earlier, stored, found)
        })
    }

    /// Tries a job again, later the more often it has failed.
    fn retry(&self, job: &Job, sources: Sources) {
        let SourceTimes { retry_first, retry_last, .. } = self.times;
        let pause = doubled(retry_first, job.tries).min(retry_last);
        let tries = job.tries.saturating_add(1);
        let again = Job { sources, tries, ..job.clone() };
        self.shared.queue.push_later(again, pause);
    }

    /// The zone is on its way from one state to another, and no event may
    /// mark its arrival.
    fn look_again(&self, job: &Job) {
        if job.tries < self.times.settle_tries {
            let pause = doubled(self.times.settle_first, job.tries);
            let cause = Cause::now("zone", "looked at again");
            let (lane, tries) = (job.lane.clone(), job.tries + 1);
            let again = Job { lane, sources: Sources::STATE, cause, tries };
            self.shared.queue.push_later(again, pause);
        }
    }
}

/// Whether a zone's state is one that it does not stay in, or that the kernel
/// has not told all of.
fn is_passing(parts: &Parts) -> bool {
    let booted = parts.zoneinfo.is_some_and(|info| info.boot_time > 0.0);
    match &*parts.row.zone_state {
        "ready" | "shutting_down" | "down" => true,
        "running" => !booted,
        _ => !parts.row.uuid_is_set,
    }
}

/// What has to be read again after a source failed.
fn sources_of(source: &str) -> Sources {
    use crate::config::{LASTEXITED, METADATA, ROUTES, TAGS};
    match source {
        "zoneadm" => Sources::STATE,
        "kstat" => Sources::KSTAT,
        "zonexml" => Sources::XML,
        "zfs" => Sources::ZFS,
        LASTEXITED => Sources::LASTEXITED,
        METADATA => Sources::METADATA,
        TAGS => Sources::TAGS,
        ROUTES => Sources::ROUTES,
        _ => Sources::ALL,
    }
}

fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX))
}

/// A tenth more or less, so that the hypervisors of a fleet, started
/// together, do not all load at the same moment.
fn jittered(interval: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(0) % 200;
    let percent = 90.0 + f64::from(u32::try_from(random).unwrap_or(0)) / 10.0;
    interval.mul_f64(percent / 100.0)
}
