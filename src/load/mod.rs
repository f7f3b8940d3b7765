//! Loading: from the names of VMs to what the system says of them now.
//!
//! Many VMs are loaded together: one `zoneadm list`, one `kstat`, one
//! `zfs list` a pool for all of them, side by side. What fails costs the VM that it is about and
//! that source alone: the last good value stays, and the fault is told.
//!
//! No lock is held here, and nothing here knows what is served.

pub mod assemble;
pub mod command;
mod draft;
mod dtd;
pub mod files;
pub mod index;
pub mod kstat;
mod pools;
pub mod properties;
pub mod zfs;
mod zone_files;
pub mod zoneadm;
mod zones;
pub mod zonexml;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use crate::config::{LoadLimits, Paths};
use crate::event::{Kind, Sources};
use assemble::Parts;
use command::{CommandError, Run, RunCounts, Runner};
use draft::Draft;
use files::Sysinfo;
use kstat::Kstats;
use pools::{Pools, Wanted, pool_of};
use zfs::Datasets;
use zones::AllZones;

/// What is wrong where kstat(8) has answered, but without the zone.
const NO_KSTAT: &str = "the zone is running and has no kstat";

/// A VM to load.
#[derive(Clone, Debug)]
pub struct Request {
    /// The VM.
    pub zonename: Arc<str>,
    /// What of it to read.
    pub sources: Sources,
    /// What is known of it.
    pub prior: Option<Arc<Parts>>,
}

/// A VM that has been loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The VM.
    pub zonename: Arc<str>,
    /// What was known of it.
    pub prior: Option<Arc<Parts>>,
    /// What it is now.
    pub found: Found,
    /// Of each source that was read, what is wrong with it, if anything.
    pub faults: Vec<(&'static str, Option<String>)>,
    /// What hung, if a command had to be killed since it took too long.
    pub hung: Option<Kind>,
    /// Whether the zone index has a line of it, though zoneadm by its name
    /// has none.
    pub is_configured: bool,
}

impl Loaded {
    /// Whether zoneadm has said whether there is such a zone, and how it is.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        matches!(self.found, Found::Gone)
            || self.faults.contains(&("zoneadm", None))
    }

    /// Whether every command that was to be run has answered. A file that is
    /// broken has been read, and is as it is.
    #[must_use]
    pub fn has_all_answers(&self) -> bool {
        self.faults.iter().all(|(source, error)| match (*source, error) {
            ("zoneadm" | "zfs", Some(_)) => false,
            ("kstat", Some(error)) => error == NO_KSTAT,
            _ => true,
        })
    }
}

/// What there is of a VM.
#[derive(Clone, Debug)]
pub enum Found {
    /// zoneadm says that there is no such zone.
    Gone,
    /// It exists, but without a good XML it can't be told what it is.
    Unknown,
    /// All of this has to be read, which the load was not meant for.
    Needs(Sources),
    /// All that the sources say.
    Parts(Box<Parts>),
}

/// Every VM, loaded.
#[derive(Debug)]
pub struct LoadedAll {
    /// The VMs, in zoneadm's order.
    pub vms: Vec<Loaded>,
    /// What is wrong with the host as a whole, by source.
    pub faults: Vec<(&'static str, Option<String>)>,
}

/// Is told of each VM's directory before its files are read, so that what is
/// written meanwhile makes an event. `true` asks to arm anew what is armed.
pub type ArmWatches<'a> = &'a dyn Fn(&Arc<str>, Option<&Path>, bool);

/// Reads the system.
#[derive(Clone, Debug)]
pub struct Loader {
    paths: Paths,
    limits: LoadLimits,
    runner: Runner,
}

impl Loader {
    /// A loader of the host at `paths`.
    #[must_use]
    pub fn new(paths: Paths, limits: LoadLimits, runner: Runner) -> Self {
        Self { paths, limits, runner }
    }

    /// How the runs of commands went.
    #[must_use]
    pub fn run_counts(&self) -> &RunCounts {
        self.runner.counts()
    }

    /// Reads what the system says of itself.
    ///
    /// # Errors
    /// As [`files::read_sysinfo`].
    pub fn sysinfo(&self) -> Result<Arc<Sysinfo>, String> {
        files::read_sysinfo(&self.paths, &self.limits)
    }

    /// Loads these VMs.
    #[must_use]
    pub fn load(
        &self,
        requests: Vec<Request>,
        sysinfo: &Arc<Sysinfo>,
        arm: ArmWatches<'_>,
    ) -> Vec<Loaded> {
        let mut drafts: Vec<_> = requests.into_iter().map(Draft::new).collect();
        // A file's event of a VM that is not known.
        for draft in drafts.iter_mut().filter(|d| d.row.is_none()) {
            if !draft.sources.contains(Sources::ZONEADM) {
                draft.need(Sources::ALL);
            }
        }
        let mut pools = Pools::new(self, self.limits.command_time);
        let early = wanted(&drafts, &pools.datasets);
        let run = self.kstat_run(&drafts);
        let kstats = std::thread::scope(|scope| {
            let kstats = run.map(|run| {
                scope.spawn(move || kstat::read(&self.runner, &run))
            });
            let early = scope.spawn(|| pools.ask(early));
            self.read_rows(&mut drafts);
            self.read_files(&mut drafts, arm);
            self.read_changed_rows(&mut drafts, arm);
            joined(early);
            kstats.map(joined)
        });
        for draft in drafts.iter_mut().filter(|d| d.wants_datasets()) {
            draft.need(Sources::ZFS);
            if draft.is_another {
                pools.forget(&draft.names());
            }
        }
        self.set_kstats(&mut drafts, kstats);
        self.read_datasets(&mut drafts, &mut pools);
        drafts.into_iter().map(|draft| draft.finish(sysinfo)).collect()
    }

    /// Loads every VM that zoneadm knows, and those of `known` that it no
    /// longer lists: they are asked for by name before they count as gone.
    /// With `trusts_stamps`, files of `known` that are as they were when they
    /// were read are not read again. A pool is given `list_time` to list all
    /// that is on it.
    ///
    /// # Errors
    /// If zoneadm fails: then nothing is known of any VM.
    pub fn load_all(
        &self,
        known: &[(Arc<str>, Arc<Parts>)],
        trusts_stamps: bool,
        list_time: Duration,
        sysinfo: &Arc<Sysinfo>,
        arm: ArmWatches<'_>,
    ) -> Result<LoadedAll, CommandError> {
        let known: HashMap<_, _> =
            known.iter().map(|(name, parts)| (name, parts)).collect();
        let request = |zonename: &Arc<str>| Request {
            zonename: Arc::clone(zonename),
            sources: Sources::ALL,
            prior: known.get(zonename).map(|parts| Arc::clone(parts)),
        };
        let names = known.keys().map(|name| Arc::clone(name));
        let AllZones { mut drafts, index, error } =
            self.all_zones(request, names)?;
        for draft in &mut drafts {
            draft.trusts_stamps = trusts_stamps;
        }
        let mut pools = Pools::new(self, list_time);
        let all_pools =
            Wanted { pools: pools_of(&drafts), ..Wanted::default() };
        let kstats = std::thread::scope(|scope| {
            let run = kstat::read_run(&self.paths, None);
            let kstats = scope.spawn(move || kstat::read(&self.runner, &run));
            let listed = scope.spawn(|| pools.ask(all_pools));
            self.read_files(&mut drafts, arm);
            joined(listed);
            joined(kstats)
        });
        self.set_kstats(&mut drafts, Some(kstats));
        self.read_datasets(&mut drafts, &mut pools);
        let odd = pools.datasets.odd().map(str::to_string);
        Ok(LoadedAll {
            vms: drafts.into_iter().map(|d| d.finish(sysinfo)).collect(),
            faults: vec![
                ("zoneadm", error),
                ("index", index.err()),
                ("zfs", odd),
            ],
        })
    }

    /// The run of kstat for those that want theirs. The kernel has all zones
    /// at hand: asking for one saves only the reading of the others' lines.
    fn kstat_run(&self, drafts: &[Draft]) -> Option<Run> {
        let mut asked =
            drafts.iter().filter(|d| d.sources.contains(Sources::KSTAT));
        let one = match (asked.next()?, asked.next()) {
            (draft, None) => draft.zoneid(),
            _ => None,
        };
        Some(kstat::read_run(&self.paths, one))
    }

    /// Gives each VM its kstat. Those were read while zoneadm was asked: of a
    /// zone that has come meanwhile, they are read again.
    fn set_kstats(
        &self,
        drafts: &mut [Draft],
        mut kstats: Option<Result<Kstats, CommandError>>,
    ) {
        let mut asked = Vec::new();
        for draft in drafts.iter_mut().filter(|d| d.is_alive()) {
            if draft.sources.contains(Sources::KSTAT) {
                match draft.zoneid() {
                    Some(zoneid) => asked.push((zoneid, draft)),
                    None => {
                        draft.zoneinfo = None;
                        draft.fault("kstat", None);
                    }
                }
            }
        }
        if asked.is_empty() {
            return;
        }
        let has_come = |kstats: &Kstats| {
            let mut asked = asked.iter();
            asked.any(|(id, draft)| !draft.has_kstat(kstats, *id))
        };
        if !matches!(&kstats, Some(Err(_)))
            && kstats.iter().flatten().all(has_come)
        {
            let one = match &asked[..] {
                [(zoneid, _)] => Some(*zoneid),
                _ => None,
            };
            let run = kstat::read_run(&self.paths, one);
            kstats = Some(kstat::read(&self.runner, &run));
        }
        for (_, draft) in asked {
            match &kstats {
                Some(Ok(kstats)) => draft.set_zoneinfo(kstats),
                Some(Err(e)) => draft.failed("kstat", e),
                None => {}
            }
        }
    }

    /// Asks for the datasets of VMs until no name is left that was not asked
    /// for, and gives each VM its own.
    fn read_datasets(&self, drafts: &mut [Draft], pools: &mut Pools<'_>) {
        while pools.ask(wanted(drafts, &pools.datasets)) {}
        for draft in drafts.iter_mut().filter(|d| d.wants_datasets()) {
            draft.set_datasets(&pools.datasets, &pools.hung);
        }
    }
}

/// What zfs has to be asked for besides what it has said.
fn wanted(drafts: &[Draft], datasets: &Datasets) -> Wanted {
    let mut wanted = Wanted::default();
    for draft in drafts.iter().filter(|draft| draft.wants_datasets()) {
        wanted.extend(draft.wanted(datasets));
    }
    wanted
}

/// The pools that VMs are, or were, on.
fn pools_of(drafts: &[Draft]) -> BTreeSet<Arc<str>> {
    let names = drafts.iter().flat_map(|draft| draft.names());
    names.map(|name| pool_of(&name).into()).collect()
}

/// What a thread has returned; its panic goes on in this one.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
