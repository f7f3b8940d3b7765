//! Loading: given the zonenames of VMs, finds out what the system says of them
//! now.
//!
//! Many VMs are loaded together: one `zoneadm list` and one `kstat` for all of
//! them, and one `zfs list` for each pool. These commands run side by side. A
//! failure affects only the VM and the source that it is about: the last good
//! value stays, and the fault is reported. The last good value also stays while
//! a command has not answered yet.
//!
//! No lock is held here, and this module does not know what the daemon serves.

mod asker;
pub mod assemble;
pub mod command;
mod draft;
mod dtd;
pub mod error;
pub mod files;
pub mod index;
pub mod kstat;
mod pools;
pub mod question;
pub mod runs;
pub mod zfs;
mod zone_files;
pub mod zoneadm;
mod zones;
pub mod zonexml;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Paths;
use crate::settings::LoadLimits;
use crate::source::{Source, Sources};
use asker::Asker;
pub use asker::NoAnswer;
use assemble::Parts;
use draft::Draft;
use error::{FileError, LoadError};
use files::Sysinfo;
use kstat::Kstats;
use pools::{DatasetsWanted, Pools};
use question::Question;
use runs::{Runs, Unanswered};
use zone_files::Accepted;
use zones::AllZones;

/// A VM to load.
#[derive(Clone, Debug)]
pub struct LoadRequest {
    /// The VM.
    pub zonename: Arc<str>,
    /// The sources to read.
    pub sources: Sources,
    /// What was known of the VM before; `None` if it is not known yet.
    pub prior: Option<Arc<Parts>>,
}

/// The sources that were read, each with its error if it has one.
pub type SourceFaults = Vec<(Source, Option<LoadError>)>;

/// A VM that has been loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The VM.
    pub zonename: Arc<str>,
    /// What was known of the VM before this load.
    pub prior: Option<Arc<Parts>>,
    /// What the load found.
    pub found: LoadOutcome,
    /// The sources that were read, each with its error if it has one.
    pub faults: SourceFaults,
    /// The answers that did not come in time.
    pub unanswered: Vec<Unanswered>,
    /// Whether the zone index has a line of the zone although zoneadm, asked
    /// for it by name, gave none.
    pub is_configured: bool,
}

impl Loaded {
    /// Whether zoneadm has answered whether the zone exists and what state it
    /// is in.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        matches!(self.found, LoadOutcome::Gone)
            || self.faults.contains(&(Source::Zoneadm, None))
    }

    /// Whether every command that had to run has answered. A broken file counts
    /// as an answer, because it was read.
    #[must_use]
    pub fn has_all_answers(&self) -> bool {
        let has_answer =
            |(source, error): &(_, Option<LoadError>)| match (*source, error) {
                (Source::Zoneadm | Source::Index | Source::Zfs, Some(_)) => {
                    false
                }
                (Source::Kstat, Some(error)) => *error == LoadError::NoKstat,
                _ => true,
            };
        self.unanswered.is_empty() && self.faults.iter().all(has_answer)
    }
}

/// What a load found of a VM.
#[derive(Clone, Debug)]
pub enum LoadOutcome {
    /// There is no such zone: neither zoneadm nor the zone index has it.
    Gone,
    /// It may exist, but its object can't be made, because there is no good XML
    /// or no line of zoneadm.
    Unknown,
    /// What the sources say of it.
    Parts(Box<Parts>),
}

/// The result of a load of every VM.
#[derive(Debug)]
pub struct LoadedAll {
    /// The VMs, in zoneadm's order.
    pub vms: Vec<Loaded>,
    /// What is wrong with the host as a whole, by source.
    pub faults: SourceFaults,
    /// Why the zone index could not be read, if it could not.
    pub index_error: Option<FileError>,
}

/// Called with a zonename and the zone's directory before the files of the VM
/// are read. It arms the watches, so that a write during the reading makes an
/// event. `true` asks it to arm again the watches that are armed already.
pub type ArmWatches<'a> = &'a dyn Fn(&Arc<str>, Option<&Path>, bool);

/// Loads VMs from the host.
#[derive(Clone, Debug)]
pub struct Loader {
    paths: Paths,
    limits: LoadLimits,
    runs: Runs,
    accepted: Accepted,
}

impl Loader {
    /// A loader of the host at `paths`.
    #[must_use]
    pub fn new(paths: Paths, limits: LoadLimits, runs: Runs) -> Self {
        Self { paths, limits, runs, accepted: Accepted::default() }
    }

    /// The runs of commands.
    #[must_use]
    pub fn runs(&self) -> &Runs {
        &self.runs
    }

    /// Reads the host's own description, `/tmp/.sysinfo.json`.
    ///
    /// # Errors
    /// As [`files::read_sysinfo`].
    pub fn sysinfo(&self) -> Result<Arc<Sysinfo>, FileError> {
        files::read_sysinfo(&self.paths, &self.limits)
    }

    /// Loads these VMs. If a command does not answer in time, the load goes on
    /// without its answer.
    #[must_use]
    pub fn load(
        &self,
        requests: Vec<LoadRequest>,
        sysinfo: &Arc<Sysinfo>,
        arm: ArmWatches<'_>,
    ) -> Vec<Loaded> {
        let mut drafts: Vec<_> = requests.into_iter().map(Draft::new).collect();
        let asker = Asker::new(self, false);
        let mut pools = Pools::new(&asker, self.limits.command_time);
        let mut early = wanted(&drafts, &pools);
        let unknown: Vec<_> =
            drafts.iter().filter(|draft| draft.row.is_none()).collect();
        early.extend(self.likely(&unknown));
        pools.ask(early);
        let kstats = self
            .kstat_question(&drafts)
            .map(|question| asker.ask(&question, self.limits.command_time));
        self.read_rows(&mut drafts, &asker);
        self.read_files(&mut drafts, arm);
        self.ask_of_refused(&mut drafts, &asker, arm);
        self.read_changed_rows(&mut drafts, &asker, arm);
        let kstats = kstats.map(|kstats| asker.answer(kstats, kstat::answer));
        pools.wait();
        for draft in drafts.iter().filter(|draft| draft.is_other_zone) {
            pools.forget(&draft.all_names());
        }
        self.set_kstats(&mut drafts, &asker, kstats);
        read_datasets(&mut drafts, &mut pools);
        drafts.into_iter().map(|draft| draft.finish(sysinfo)).collect()
    }

    /// Loads every VM that zoneadm knows. VMs of `known` that it no longer
    /// lists are asked for by name before they count as gone. With
    /// `trusts_stamps`, a file of a `known` VM that has not changed since it
    /// was read is not read again. With `list_time`, the load waits for every
    /// command until the command ends or is killed, and the list of a whole
    /// pool may take this long.
    ///
    /// # Errors
    /// If zoneadm fails or has not answered yet. Nothing is known of any VM
    /// then.
    pub fn load_all(
        &self,
        known: &[(Arc<str>, Arc<Parts>)],
        trusts_stamps: bool,
        list_time: Option<Duration>,
        sysinfo: &Arc<Sysinfo>,
        arm: ArmWatches<'_>,
    ) -> Result<LoadedAll, NoAnswer> {
        let known: HashMap<_, _> =
            known.iter().map(|(name, parts)| (name, parts)).collect();
        let request = |zonename: &Arc<str>| LoadRequest {
            zonename: Arc::clone(zonename),
            sources: Sources::ALL,
            prior: known.get(zonename).map(|parts| Arc::clone(parts)),
        };
        let names = known.keys().map(|name| Arc::clone(name));
        let asker = Asker::new(self, list_time.is_some());
        let AllZones { mut drafts, index, error } =
            self.all_zones(&asker, request, names)?;
        for draft in &mut drafts {
            draft.trusts_stamps = trusts_stamps;
        }
        let list_time = list_time.unwrap_or(self.limits.command_time);
        let mut pools = Pools::new(&asker, list_time);
        let all_pools = DatasetsWanted {
            pools: pools_of(&drafts),
            ..DatasetsWanted::default()
        };
        pools.ask(all_pools);
        let kstats =
            asker.ask(&Question::Kstats(None), self.limits.command_time);
        self.read_files(&mut drafts, arm);
        self.ask_of_refused(&mut drafts, &asker, arm);
        let kstats = asker.answer(kstats, kstat::answer);
        pools.wait();
        self.set_kstats(&mut drafts, &asker, Some(kstats));
        read_datasets(&mut drafts, &mut pools);
        let odd = pools.datasets.odd().cloned().map(LoadError::from);
        Ok(LoadedAll {
            vms: drafts.into_iter().map(|d| d.finish(sysinfo)).collect(),
            faults: vec![(Source::Zoneadm, error), (Source::Zfs, odd)],
            index_error: index.err(),
        })
    }

    /// The question to kstat for the VMs whose kstat must be read. The kernel
    /// has the kstats of all zones at hand: asking for one zone saves only the
    /// reading of the other zones' lines.
    fn kstat_question(&self, drafts: &[Draft]) -> Option<Question> {
        let mut asked =
            drafts.iter().filter(|d| d.sources.contains(Sources::KSTAT));
        let one = match (asked.next()?, asked.next()) {
            (draft, None) => draft.zoneid(),
            _ => None,
        };
        Some(Question::Kstats(one))
    }

    /// Gives each VM its kstat. `kstats` was read while zoneadm was asked. If
    /// it lacks a zone that has started in the meantime, the kstats are read
    /// again.
    fn set_kstats(
        &self,
        drafts: &mut [Draft],
        asker: &Asker<'_>,
        kstats: Option<Result<Kstats, NoAnswer>>,
    ) {
        let mut asked = Vec::new();
        for draft in drafts.iter_mut().filter(|d| d.is_alive()) {
            // Without zoneadm's line, the kstat may be from another boot.
            if draft.sources.contains(Sources::KSTAT) && !draft.lacks_row() {
                match draft.zoneid() {
                    Some(zoneid) => asked.push((zoneid, draft)),
                    None => {
                        draft.zoneinfo = None;
                        draft.fault(Source::Kstat, None);
                    }
                }
            }
        }
        if asked.is_empty() {
            return;
        }
        let has_all = |kstats: &Result<Kstats, NoAnswer>| match kstats {
            Ok(kstats) => {
                let mut asked = asked.iter();
                asked.all(|(id, draft)| draft.has_kstat(kstats, *id))
            }
            Err(_) => true,
        };
        let kstats = kstats.filter(has_all).unwrap_or_else(|| {
            let one = match &asked[..] {
                [(zoneid, _)] => Some(*zoneid),
                _ => None,
            };
            asker.get(&Question::Kstats(one), kstat::answer)
        });
        for (_, draft) in asked {
            match &kstats {
                Ok(kstats) => draft.set_zoneinfo(kstats),
                Err(e) => draft.no_answer(Source::Kstat, e),
            }
        }
    }
}

/// Asks zfs for the datasets of these VMs until every name has been asked for,
/// and gives each VM its own datasets.
fn read_datasets(drafts: &mut [Draft], pools: &mut Pools<'_>) {
    while pools.ask(wanted(drafts, pools)) {
        pools.wait();
    }
    for draft in drafts.iter_mut().filter(|d| d.wants_datasets()) {
        draft.set_datasets(&pools.datasets, &pools.unanswered);
    }
}

/// What zfs must be asked for, given what it has answered so far.
fn wanted(drafts: &[Draft], pools: &Pools<'_>) -> DatasetsWanted {
    let mut wanted = DatasetsWanted::default();
    for draft in drafts.iter().filter(|draft| draft.wants_datasets()) {
        draft.add_wanted(pools, &mut wanted);
    }
    wanted
}

/// The pools that these VMs are on, or were on.
fn pools_of(drafts: &[Draft]) -> BTreeSet<Arc<str>> {
    let mut pools: BTreeSet<Arc<str>> = BTreeSet::new();
    for pool in drafts.iter().flat_map(Draft::pools) {
        if !pools.contains(pool) {
            pools.insert(pool.into());
        }
    }
    pools
}
