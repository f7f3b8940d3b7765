//! A VM while it is being loaded. It starts with what was known of the VM
//! before. Each source that is read replaces its part of that; where a source
//! can't be read, the known part stays.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::assemble::{Parts, VmDatasets, volume_of_path};
use super::dtd::Refusal;
use super::error::{DatasetError, FileError, LoadError};
use super::files::{self, FilePlace, Stamped, Stamps, Sysinfo};
use super::kstat::{self, Kstats};
use super::pools::{DatasetsWanted, Pools};
use super::question::pool_of;
use super::runs::Unanswered;
use super::zfs::{Datasets, INDESTRUCTIBLE};
use super::zoneadm::ZoneRow;
use super::zonexml::ZoneXml;
use super::{LoadOutcome, LoadRequest, Loaded, NoAnswer, SourceFaults};
use crate::config::Paths;
use crate::source::{MAPS, Source, Sources};
use crate::vm::json::Json;

/// A VM while it is being loaded: what was known of it, and then what was read.
pub(super) struct Draft {
    pub(super) zonename: Arc<str>,
    pub(super) sources: Sources,
    pub(super) prior: Option<Arc<Parts>>,
    /// Whether a file is skipped if its stamp shows that it has not changed
    /// since it was read.
    pub(super) trusts_stamps: bool,
    pub(super) is_gone: bool,
    /// Whether the zone index has a line of the zone although zoneadm, asked
    /// for it by name, gave none.
    pub(super) is_configured: bool,
    /// Whether zoneadm has no uuid of the zone, so that the known uuid stays.
    keeps_uuid: bool,
    /// Whether this is another zone than the one that was known.
    pub(super) is_other_zone: bool,
    /// Whether zoneadm was asked for the zone.
    pub(super) zoneadm_was_asked: bool,
    /// Whether the load has tried to read the XML, with or without success.
    pub(super) xml_was_read: bool,
    /// What libzonecfg refuses in the XML that was read.
    pub(super) refused: Vec<Refusal>,
    /// The brand and zonepath of the XML that was read.
    pub(super) xml_names: Option<(String, String)>,
    pub(super) row: Option<ZoneRow>,
    pub(super) xml: Option<Arc<ZoneXml>>,
    pub(super) zoneinfo: Option<kstat::ZoneInfo>,
    pub(super) lastexited: Option<files::LastExit>,
    pub(super) stamps: Stamps,
    /// In the order of [`MAPS`].
    pub(super) maps: [Option<Json>; MAPS.len()],
    pub(super) receiving: Option<Arc<str>>,
    pub(super) datasets: VmDatasets,
    pub(super) faults: SourceFaults,
    pub(super) unanswered: Vec<Unanswered>,
}

impl Draft {
    pub(super) fn new(request: LoadRequest) -> Self {
        let LoadRequest { zonename, sources, prior } = request;
        let known = prior.as_deref();
        // If a VM is not known yet, all of it has to be read.
        let sources = if known.is_none() { Sources::ALL } else { sources };
        Self {
            zonename,
            sources,
            trusts_stamps: false,
            is_gone: false,
            is_configured: false,
            keeps_uuid: false,
            is_other_zone: false,
            zoneadm_was_asked: false,
            xml_was_read: false,
            refused: Vec::new(),
            xml_names: None,
            row: known.map(|p| p.row.clone()),
            xml: known.map(|p| Arc::clone(&p.xml)),
            zoneinfo: known.and_then(|p| p.zoneinfo),
            lastexited: known.and_then(|p| p.lastexited.clone()),
            stamps: known.map(|p| p.stamps.clone()).unwrap_or_default(),
            maps: std::array::from_fn(|at| Some(known?.maps[at].clone())),
            receiving: known.and_then(|p| p.receiving.clone()),
            datasets: known.map(|p| p.datasets.clone()).unwrap_or_default(),
            faults: Vec::new(),
            unanswered: Vec::new(),
            prior,
        }
    }

    pub(super) fn set_row(&mut self, mut row: ZoneRow) {
        let prior = self.row.as_ref();
        if prior.is_some_and(|prior| prior.zoneid != row.zoneid) {
            // The known kstat is from another boot.
            self.zoneinfo = None;
            self.sources |= Sources::KSTAT;
        }
        // zoneadm has no uuid of a zone without a line in the index. That does
        // not make it another zone.
        if let Some(prior) = prior.filter(|prior| prior.uuid_is_set)
            && !row.uuid_is_set
        {
            row.uuid.clone_from(&prior.uuid);
            row.uuid_is_set = true;
            self.keeps_uuid = true;
        }
        // What was known belongs to the zone that was there before. If a file
        // of the new zone can't be read, it has no last good value.
        if prior.is_some_and(|prior| prior.is_another_than(&row)) {
            self.forget_what_was_known();
            self.sources = Sources::ALL;
        } else if prior.is_some_and(|prior| prior.may_be_another_than(&row)) {
            // Only the XML shows whether it is.
            self.sources = Sources::ALL;
        }
        let prior = self.row.as_ref();
        // Another zonepath has other files and another dataset.
        if prior.is_some_and(|prior| prior.zonepath != row.zonepath) {
            self.sources |= Sources::FILES | Sources::ZFS;
        }
        self.row = Some(row);
        self.fault(Source::Zoneadm, None);
    }

    fn forget_what_was_known(&mut self) {
        self.is_other_zone = true;
        self.trusts_stamps = false;
        self.stamps = Stamps::default();
        (self.xml, self.zoneinfo, self.receiving) = (None, None, None);
        self.lastexited = None;
        self.maps = Default::default();
        self.datasets = VmDatasets::default();
    }

    /// Takes the XML that was read. If it belongs to another VM, nothing else
    /// that was known belongs to this one, and it is forgotten.
    pub(super) fn set_xml(&mut self, xml: Arc<ZoneXml>) {
        let known = self.xml.as_ref();
        if known.is_some_and(|known| known.is_another_than(&xml)) {
            let stamp = self.stamps.get(Source::ZoneXml);
            self.forget_what_was_known();
            self.stamps.set(Source::ZoneXml, stamp);
            if let Some(row) = self.row.as_mut().filter(|_| self.keeps_uuid) {
                row.guess_uuid();
            }
            self.sources = Sources::ALL;
        }
        self.xml = Some(xml);
    }

    /// Whether these kstats are those of the zone as zoneadm has found it. They
    /// may have been read before zoneadm looked. If the zone is running, its
    /// kstat must have this zoneid, a boot time, and the pid of an init(8).
    pub(super) fn has_kstat(&self, kstats: &Kstats, zoneid: u64) -> bool {
        #[allow(clippy::cast_precision_loss)]
        let is_own = |info: &kstat::ZoneInfo| {
            info.zoneid == zoneid as f64
                && info.boot_time > 0.0
                && info.init_pid > 0.0
        };
        !self.is_running() || kstats.get(&*self.zonename).is_some_and(is_own)
    }

    fn is_running(&self) -> bool {
        self.row.as_ref().is_some_and(|row| &*row.zone_state == "running")
    }

    /// Takes the zone's kstat. A running zone must have one. If it is missing,
    /// the last one of the same boot stays.
    pub(super) fn set_zoneinfo(&mut self, kstats: &Kstats) {
        let found = kstats.get(&*self.zonename).copied();
        if found.is_some() || !self.is_running() {
            self.zoneinfo = found;
            self.fault(Source::Kstat, None);
        } else {
            self.fault(Source::Kstat, Some(LoadError::NoKstat));
        }
    }

    /// Notes that a source was read, and its error if it has one.
    pub(super) fn fault(&mut self, source: Source, error: Option<LoadError>) {
        match self.faults.iter_mut().find(|(s, _)| *s == source) {
            Some(fault) => fault.1 = error,
            None => self.faults.push((source, error)),
        }
    }

    /// Notes that the command for a source has failed, or has not answered yet.
    pub(super) fn no_answer(&mut self, source: Source, why: &NoAnswer) {
        match why {
            NoAnswer::Failed(error) => {
                self.fault(source, Some(error.clone().into()));
            }
            NoAnswer::NotYet(unanswered) => {
                self.unanswered.push(unanswered.clone());
            }
        }
    }

    /// Reads a file, unless stamps are trusted and its stamp shows that it has
    /// not changed. If the file is bad, its last good value stays.
    pub(super) fn read_file<T>(
        &mut self,
        source: Source,
        place: FilePlace<'_>,
        read: impl FnOnce(FilePlace<'_>) -> Result<Stamped<T>, FileError>,
        set: impl FnOnce(&mut Self, T),
    ) {
        let known = self.stamps.get(source);
        let is_known = self.trusts_stamps && self.prior.is_some();
        let mut error = None;
        if !is_known || !place.is_as_read(known) {
            match read(place) {
                Ok(read) => {
                    self.stamps.set(source, read.stamp);
                    set(self, read.value);
                }
                Err(e) => error = Some(e.into()),
            }
        }
        self.fault(source, error);
    }

    /// Whether zoneadm was asked for the zone but has not given its line.
    pub(super) fn lacks_row(&self) -> bool {
        self.zoneadm_was_asked && !self.has_row()
    }

    /// Whether zoneadm has given the line of the zone.
    fn has_row(&self) -> bool {
        self.faults.contains(&(Source::Zoneadm, None))
    }

    /// Whether there is more to read: the zone is not gone, and a line of
    /// zoneadm is known.
    pub(super) fn is_alive(&self) -> bool {
        !self.is_gone && self.row.is_some()
    }

    pub(super) fn zonepath(&self) -> Option<&str> {
        let zonepath = self.row.as_ref().map(|row| &*row.zonepath);
        zonepath.filter(|path| !path.is_empty())
    }

    pub(super) fn dir(&self, paths: &Paths) -> Option<PathBuf> {
        paths.zone_dir(self.zonepath()?)
    }

    pub(super) fn zoneid(&self) -> Option<u64> {
        self.row.as_ref().and_then(|row| row.zoneid.as_u64())
    }

    /// Whether the zone has been installed, and so has a dataset.
    pub(super) fn is_installed(&self) -> bool {
        let state = self.row.as_ref().map_or("", |row| &row.zone_state);
        !matches!(state, "" | "configured" | "incomplete")
    }

    pub(super) fn needs_watches(&self) -> bool {
        self.sources.contains(Sources::REARM)
            || self
                .prior
                .as_ref()
                .is_none_or(|p| Some(&*p.row.zonepath) != self.zonepath())
    }

    /// Whether the known line of zoneadm may be out of date: the XML that was
    /// just read does not match it, or the XML could not be read at all.
    pub(super) fn row_may_be_outdated(&self) -> bool {
        let goes_with = |row: &ZoneRow| match &self.xml_names {
            Some((b, path)) => *b == *row.brand && *path == *row.zonepath,
            None => false,
        };
        self.xml_was_read && !self.row.as_ref().is_some_and(goes_with)
    }

    /// Whether zfs must be asked: the VM is new, the job says so, or the XML or
    /// the zonepath leads to other datasets than before.
    pub(super) fn wants_datasets(&self) -> bool {
        let Some(xml) = self.xml.as_ref().filter(|_| self.is_alive()) else {
            return false;
        };
        self.sources.contains(Sources::ZFS)
            || self.prior.as_ref().is_none_or(|prior| {
                prior.xml.disk_paths != xml.disk_paths
                    || prior.xml.datasets != xml.datasets
                    || Some(&*prior.row.zonepath) != self.zonepath()
            })
    }

    /// The names that the zone's own dataset may have.
    fn own_dataset_names(&self) -> Vec<Arc<str>> {
        let known = self.datasets.root.as_ref().map(|d| &d.name);
        let own = self.zonepath().map(|path| path.trim_start_matches('/'));
        let own = own.filter(|own| known.is_none_or(|known| **known != **own));
        own.map(Arc::from).into_iter().chain(known.cloned()).collect()
    }

    /// The names of the other datasets that this VM may have.
    fn other_datasets(&self) -> impl Iterator<Item = &str> {
        let xml = self.xml.iter();
        let of_xml = xml.flat_map(|xml| {
            xml.datasets.iter().map(|name| &**name).chain(volumes_of(xml))
        });
        self.receiving.iter().map(|name| &**name).chain(of_xml)
    }

    /// The names of all datasets that this VM may have, or had before. Some may
    /// come twice.
    fn names(&self) -> impl Iterator<Item = &str> {
        let own = self.zonepath().map(|path| path.trim_start_matches('/'));
        let had = self.datasets.names().map(|name| &**name);
        own.into_iter().chain(self.other_datasets()).chain(had)
    }

    /// As [`Self::names`], each of them once.
    pub(super) fn all_names(&self) -> BTreeSet<Arc<str>> {
        self.names().map(Arc::from).collect()
    }

    /// The pools that this VM is on, or was on. Some may come twice.
    pub(super) fn pools(&self) -> impl Iterator<Item = &str> {
        self.names().map(pool_of)
    }

    /// The names of the snapshots that make the delegated dataset
    /// indestructible.
    fn hold_snapshots(
        &self,
        datasets: &Datasets,
    ) -> impl Iterator<Item = Arc<str>> {
        let found = self.zonepath().and_then(|at| datasets.mounted_at(at));
        let mut roots = self.own_dataset_names();
        roots.extend(found.map(|root| Arc::clone(&root.name)));
        roots.dedup();
        let delegated = roots.into_iter().map(|root| format!("{root}/data"));
        let had = self.datasets.delegated.as_ref();
        let (xml, had) = (self.xml.as_ref(), had.map(|d| &d.name));
        let may_be = |name: &String| {
            datasets.get(name).is_some()
                || had.is_some_and(|had| **had == **name)
                || xml.is_some_and(|xml| {
                    xml.datasets.iter().any(|d| **d == **name)
                })
        };
        let delegated: BTreeSet<_> = delegated.filter(may_be).collect();
        let hold = |name: String| format!("{name}@{INDESTRUCTIBLE}").into();
        delegated.into_iter().map(hold)
    }

    /// Adds to `wanted` what zfs must be asked for, as far as its answers so far
    /// show.
    pub(super) fn add_wanted(
        &self,
        pools: &Pools<'_>,
        wanted: &mut DatasetsWanted,
    ) {
        let datasets = &pools.datasets;
        let own = self.own_dataset_names();
        let unknown = |name: &Arc<str>| datasets.get(name).is_none();
        let volumes = self.xml.iter().flat_map(|xml| lone_volumes(xml, &own));
        let trees = own.iter().filter(|name| !pools.has_walked(name));
        wanted.trees.extend(trees.cloned());
        wanted.trees.extend(volumes.map(Arc::from).filter(unknown));
        // A dataset is gone only if zfs says so. It is not enough that a list
        // does not have it.
        let other = self.other_datasets().map(Arc::from);
        let alone = own
            .into_iter()
            .chain(other)
            .chain(self.hold_snapshots(datasets))
            .chain(self.datasets.names().cloned());
        wanted.alone.extend(alone.filter(unknown));
        // The dataset of a zone's directory may have another name than the
        // directory. Only a list of the whole pool finds it then.
        let lost = self.unmounted_root(datasets);
        wanted.pools.extend(lost.map(|own| pool_of(&own).into()));
    }

    /// The name that the zone's own dataset should have, if the zone has been
    /// installed and zfs has answered, but has listed no dataset that is
    /// mounted at the zonepath.
    fn unmounted_root(&self, datasets: &Datasets) -> Option<Arc<str>> {
        let path = self.zonepath().filter(|_| self.is_installed())?;
        let own: Arc<str> = path.trim_start_matches('/').into();
        let is_lost = datasets.is_missing(&own) || datasets.get(&own).is_some();
        (is_lost && datasets.mounted_at(path).is_none()).then_some(own)
    }

    /// Why one of the VM's datasets could not be listed; `None` if all of them
    /// could be.
    fn failure(
        &self,
        datasets: &Datasets,
        unanswered: &BTreeMap<Arc<str>, Unanswered>,
    ) -> Option<LoadError> {
        if !datasets.has_failures() && unanswered.is_empty() {
            return None;
        }
        let mut names = self.all_names();
        if let Some(path) = self.zonepath() {
            let own = path.trim_start_matches('/');
            if datasets.mounted_at(path).is_some()
                && datasets.get(own).is_none()
            {
                names.remove(own);
            }
        }
        let data = self
            .own_dataset_names()
            .into_iter()
            .map(|r| format!("{r}/data").into());
        names.extend(data);
        names.extend(self.hold_snapshots(datasets));
        names.into_iter().find_map(|name| {
            let why = self.failure_of(&name, datasets, unanswered)?;
            Some(LoadError::Dataset(name, why))
        })
    }

    /// Why this dataset could not be listed: its own failure, or that of its
    /// pool.
    fn failure_of(
        &self,
        name: &str,
        datasets: &Datasets,
        unanswered: &BTreeMap<Arc<str>, Unanswered>,
    ) -> Option<DatasetError> {
        if let Some(why) = datasets.failure(name) {
            return Some(why.clone());
        }
        if datasets.get(name).is_some() {
            return None;
        }
        let pool = pool_of(name);
        if let Some(why) = datasets.failure(pool)
            && self.should_exist(name)
        {
            return Some(why.clone());
        }
        // The answer of its pool has not come yet.
        let pending =
            unanswered.get(pool).filter(|_| !datasets.is_missing(name));
        pending.map(|pool| DatasetError::Command(pool.error.clone()))
    }

    /// Whether there should be a dataset of this name.
    fn should_exist(&self, name: &str) -> bool {
        let is_own = self
            .zonepath()
            .is_some_and(|path| path.trim_start_matches('/') == name);
        let xml = self.xml.as_ref();
        (is_own && self.is_installed())
            || self.datasets.names().any(|had| **had == *name)
            || xml.is_some_and(|_| {
                self.other_datasets().any(|other| *other == *name)
            })
    }

    /// Takes the VM's datasets. If one of them could not be listed, a VM that
    /// is known keeps its last good datasets. A new VM takes what was listed: a
    /// part is better than nothing.
    pub(super) fn set_datasets(
        &mut self,
        datasets: &Datasets,
        unanswered: &BTreeMap<Arc<str>, Unanswered>,
    ) {
        let is_on = |pool: &str| self.pools().any(|own| *own == *pool);
        let not_yet = unanswered.iter().filter(|(pool, _)| is_on(pool));
        let not_yet: Vec<_> = not_yet.map(|(_, run)| run.clone()).collect();
        let failure = self.failure(datasets, unanswered);
        let failure = failure.or_else(|| self.error_of_lost_dataset(datasets));
        if failure.is_none() || self.prior.is_none() {
            self.select_datasets(datasets);
        }
        match failure {
            Some(_) if !not_yet.is_empty() => self.unanswered.extend(not_yet),
            failure => self.fault(Source::Zfs, failure),
        }
    }

    /// The error of a line that could not be parsed, if the VM lacks a dataset
    /// that it had before, and zfs has not said that it does not exist: the
    /// line may have been that dataset's.
    fn error_of_lost_dataset(&self, datasets: &Datasets) -> Option<LoadError> {
        let odd = datasets.odd()?;
        let had = self.prior.as_ref()?.datasets.names();
        let mut lost = had.filter(|name| !datasets.is_answered(name));
        lost.next().is_some().then(|| odd.clone().into())
    }

    fn select_datasets(&mut self, datasets: &Datasets) {
        let Some(xml) = self.xml.clone() else { return };
        let zonepath = self.zonepath().unwrap_or_default().to_string();
        let receiving = self.receiving.as_deref();
        self.datasets =
            VmDatasets::select(datasets, &zonepath, &xml, receiving);
    }

    pub(super) fn finish(self, sysinfo: &Arc<Sysinfo>) -> Loaded {
        let has_row = self.has_row();
        let (zonename, prior) = (self.zonename, self.prior);
        let is_configured = self.is_configured;
        let (faults, unanswered) = (self.faults, self.unanswered);
        let found = match (self.is_gone, self.row, self.xml) {
            (true, ..) => LoadOutcome::Gone,
            // The line of zoneadm belongs to the zone that was there before.
            _ if self.is_other_zone && !has_row => LoadOutcome::Unknown,
            (false, Some(row), Some(xml)) => {
                LoadOutcome::Parts(Box::new(Parts {
                    row,
                    xml,
                    zoneinfo: self.zoneinfo,
                    lastexited: self.lastexited,
                    stamps: self.stamps,
                    maps: self.maps.map(|map| map.unwrap_or_else(Json::empty)),
                    receiving: self.receiving,
                    datasets: self.datasets,
                    sysinfo: Arc::clone(sysinfo),
                }))
            }
            (false, ..) => LoadOutcome::Unknown,
        };
        Loaded { zonename, prior, found, faults, unanswered, is_configured }
    }
}

/// The volumes of a VM's disks, as its XML names them.
fn volumes_of(xml: &ZoneXml) -> impl Iterator<Item = &str> {
    xml.disk_paths.iter().filter_map(|path| volume_of_path(path))
}

/// Those volumes that are not directly below `own`. The run that lists `own`
/// can list them, too. A disk's path may be any text, but only the name of a
/// dataset below a pool counts.
fn lone_volumes<'a>(
    xml: &'a ZoneXml,
    own: &[Arc<str>],
) -> impl Iterator<Item = &'a str> {
    volumes_of(xml).filter(|name| match name.rsplit_once('/') {
        Some((parent, _)) => {
            !name.contains('@') && own.iter().all(|own| **own != *parent)
        }
        None => false,
    })
}

/// What zfs will probably be asked for, for a VM that is known only from its
/// XML.
pub(super) fn likely(zonepath: &str, xml: &ZoneXml) -> DatasetsWanted {
    let own = [Arc::from(zonepath.trim_start_matches('/'))];
    let data = format!("{}/data", own[0]);
    let is_delegated = xml.datasets.iter().any(|name| **name == *data);
    let hold = is_delegated.then(|| format!("{data}@{INDESTRUCTIBLE}").into());
    let volumes = volumes_of(xml).map(Arc::from);
    let lone = lone_volumes(xml, &own).map(Arc::from);
    DatasetsWanted {
        pools: BTreeSet::new(),
        trees: lone.chain(own.clone()).collect(),
        alone: xml
            .datasets
            .iter()
            .cloned()
            .chain(volumes)
            .chain(hold)
            .collect(),
    }
}
