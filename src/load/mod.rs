//! Loading: from the names of VMs to what the system says of them now.
//!
//! Many VMs are loaded together: one `zoneadm list`, one `kstat`, one
//! `zfs list` for all of them. What fails costs the VM that it is about and
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
pub mod properties;
pub mod zfs;
mod zone_files;
pub mod zoneadm;
mod zones;
pub mod zonexml;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use crate::config::{LoadLimits, Paths};
use crate::event::{Kind, Sources};
use assemble::Parts;
use command::{CommandError, RunCounts, Runner};
use draft::Draft;
use files::Sysinfo;
use index::ZoneIndex;
use zfs::{Datasets, Depth, INDESTRUCTIBLE};
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
    /// The zone index, if it could be read.
    pub index: Option<Arc<ZoneIndex>>,
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
        self.read_rows(&mut drafts);
        self.read_files(&mut drafts, arm);
        self.read_changed_rows(&mut drafts, arm);
        for draft in drafts.iter_mut().filter(|d| d.wants_datasets()) {
            draft.need(Sources::ZFS);
        }
        self.read_kstats(&mut drafts);
        self.read_datasets(&mut drafts);
        drafts.into_iter().map(|draft| draft.finish(sysinfo)).collect()
    }

    /// Loads every VM that zoneadm knows, and those of `known` that it no
    /// longer lists: they are asked for by name before they count as gone.
    /// With `trusts_stamps`, files of `known` that are as they were when they
    /// were read are not read again.
    ///
    /// # Errors
    /// If zoneadm or zfs fails: then nothing is known of any VM.
    pub fn load_all(
        &self,
        known: &[(Arc<str>, Arc<Parts>)],
        trusts_stamps: bool,
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
        self.read_files(&mut drafts, arm);
        self.read_kstats(&mut drafts);
        let odd = self.read_all_datasets(&mut drafts)?;
        let (index, index_error) = match index {
            Ok(index) => (Some(Arc::new(index)), None),
            Err(e) => (None, Some(e)),
        };
        Ok(LoadedAll {
            vms: drafts.into_iter().map(|d| d.finish(sysinfo)).collect(),
            index,
            faults: vec![
                ("zoneadm", error),
                ("index", index_error),
                ("zfs", odd),
            ],
        })
    }

    fn read_kstats(&self, drafts: &mut [Draft]) {
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
        // The kernel has all of them at hand: asking for one saves only the
        // reading of the others' lines.
        let one = match &asked[..] {
            [] => return,
            [(zoneid, _)] => Some(*zoneid),
            _ => None,
        };
        let zones =
            kstat::read(&self.runner, &kstat::read_run(&self.paths, one));
        for (_, draft) in asked {
            match &zones {
                Ok(zones) => draft.set_zoneinfo(zones),
                Err(e) => draft.failed("kstat", e),
            }
        }
    }

    fn read_datasets(&self, drafts: &mut [Draft]) {
        let mut datasets = Datasets::default();
        let listed = self
            .list_datasets(&names(drafts, Draft::roots), &mut datasets)
            .and_then(|()| self.list_lost_roots(drafts, &mut datasets))
            .and_then(|()| self.list_others(drafts, &mut datasets));
        select_datasets(drafts, &datasets, listed);
    }

    /// As [`Self::read_datasets`], but by a list of everything. Returns what
    /// was odd in it.
    fn read_all_datasets(
        &self,
        drafts: &mut [Draft],
    ) -> Result<Option<String>, CommandError> {
        let all = zfs::list_all(&self.paths);
        let mut datasets = zfs::list(&self.runner, &all, Depth::Children)?;
        // Zones that are deeper than a pool's children.
        let mut deep = names(drafts, Draft::roots);
        deep.retain(|name| name.split('/').count() > 2);
        let listed = self
            .list_datasets(&deep, &mut datasets)
            .and_then(|()| self.list_others(drafts, &mut datasets));
        select_datasets(drafts, &datasets, listed);
        Ok(datasets.faults())
    }

    /// Zones' own datasets, with children and snapshots.
    fn list_datasets(
        &self,
        names: &BTreeSet<Arc<str>>,
        datasets: &mut Datasets,
    ) -> Result<(), CommandError> {
        let bytes = self.limits.arguments_bytes;
        for run in zfs::list_some(&self.paths, names, Depth::Children, bytes) {
            let listed = zfs::list(&self.runner, &run, Depth::Children)?;
            datasets.merge(listed);
        }
        datasets.expect(names);
        Ok(())
    }

    /// A zone's directory may be another dataset's than its name says: only a
    /// list of everything finds that.
    fn list_lost_roots(
        &self,
        drafts: &[Draft],
        datasets: &mut Datasets,
    ) -> Result<(), CommandError> {
        let is_lost = |draft: &Draft| {
            let root = draft.zonepath().and_then(|p| datasets.mounted_at(p));
            draft.wants_datasets() && draft.is_installed() && root.is_none()
        };
        if drafts.iter().any(is_lost) {
            let all = zfs::list_all(&self.paths);
            datasets.merge(zfs::list(&self.runner, &all, Depth::Children)?);
        }
        Ok(())
    }

    /// Disks, and what matters of what is delegated: each by its name, since
    /// a tenant decides how much there is besides.
    fn list_others(
        &self,
        drafts: &[Draft],
        datasets: &mut Datasets,
    ) -> Result<(), CommandError> {
        let mut more = names(drafts, Draft::other_datasets);
        more.retain(|name| datasets.get(name).is_none());
        for draft in drafts.iter().filter(|draft| draft.wants_datasets()) {
            let root = draft.zonepath().and_then(|p| datasets.mounted_at(p));
            let data = root.map(|root| format!("{}/data", root.name));
            let data = data.and_then(|name| datasets.get(&name));
            let held =
                data.map(|data| format!("{}@{INDESTRUCTIBLE}", data.name));
            more.extend(held.map(Arc::from));
        }
        // A dataset is gone when zfs says so, not when it is not listed.
        let had = names(drafts, |draft| draft.datasets.names());
        more.extend(
            had.into_iter().filter(|name| datasets.get(name).is_none()),
        );
        let bytes = self.limits.arguments_bytes;
        for run in zfs::list_some(&self.paths, &more, Depth::Alone, bytes) {
            let mut listed = zfs::list(&self.runner, &run, Depth::Alone)?;
            listed.retain(&more);
            datasets.merge(listed);
        }
        datasets.expect(&more);
        Ok(())
    }
}

/// Names of datasets of the VMs that want theirs.
fn names<I: IntoIterator<Item = Arc<str>>>(
    drafts: &[Draft],
    of: impl Fn(&Draft) -> I,
) -> BTreeSet<Arc<str>> {
    let wanting = drafts.iter().filter(|draft| draft.wants_datasets());
    wanting.flat_map(of).collect()
}

/// Gives each VM its datasets, unless they could not be listed.
fn select_datasets(
    drafts: &mut [Draft],
    datasets: &Datasets,
    listed: Result<(), CommandError>,
) {
    let is_hang = listed.as_ref().is_err_and(CommandError::is_hang);
    let error = listed.err().map(|e| e.to_string());
    for draft in drafts.iter_mut().filter(|d| d.wants_datasets()) {
        let failure = draft
            .failure(datasets)
            .or_else(|| draft.loss(datasets))
            .or_else(|| error.clone());
        // Of what was known the last good value stays; else a part is better
        // than nothing.
        let is_new = draft.prior.is_none() && error.is_none();
        if failure.is_none() || is_new {
            draft.select_datasets(datasets);
        }
        if is_hang && draft.hung.is_none() {
            draft.hung = Some(Kind::Datasets);
        }
        draft.fault("zfs", failure);
    }
}
