//! Faults: what is wrong now, by VM and source, since when, and how often it
//! was tried again. A fault that is over is removed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::source::{Source, Sources};

/// How many full reloads that failed are kept.
const REFRESH_ERRORS: usize = 10;

/// How many zones that may not exist are remembered.
const UNKNOWN_ZONES: usize = 1024;

/// Something that is wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The error.
    pub error: String,
    /// Since when.
    pub since: SystemTime,
    /// How often it was tried again.
    pub retries: u64,
}

impl Fault {
    /// A fault that begins now.
    #[must_use]
    pub fn new(error: String) -> Self {
        Self { error, since: SystemTime::now(), retries: 0 }
    }

    /// Notes that something has gone wrong, for the first time or again.
    pub fn note(present: &mut Option<Self>, error: String) {
        match present {
            None => *present = Some(Self::new(error)),
            Some(fault) => fault.repeat(error),
        }
    }

    fn repeat(&mut self, error: String) {
        self.retries += 1;
        self.error = error;
    }
}

/// The VM, or `None` for the host, and the source.
pub type FaultPlace = (Option<Arc<str>>, Source);

/// All faults.
#[derive(Debug, Default)]
pub struct Faults {
    present: Mutex<BTreeMap<FaultPlace, Fault>>,
    unknown_zones: Mutex<BTreeSet<Arc<str>>>,
    refresh_errors: Mutex<VecDeque<(String, SystemTime)>>,
}

impl Faults {
    /// Notes that a source has failed, or still fails. A fault is logged when
    /// it begins and when its error changes.
    pub fn add(
        &self,
        zonename: Option<&Arc<str>>,
        source: Source,
        error: &dyn fmt::Display,
    ) {
        let error = error.to_string();
        let name = zonename.map_or("host", |z| z);
        let mut present = self.present.lock();
        let fault = present.get_mut(&(zonename.cloned(), source));
        if fault.as_ref().is_none_or(|fault| fault.error != error) {
            log::error!("{name}: {source}: {error}");
        }
        match fault {
            Some(fault) => fault.repeat(error),
            None => {
                let place = (zonename.cloned(), source);
                present.insert(place, Fault::new(error));
            }
        }
    }

    /// Notes that a source is well. The end of a fault is logged.
    pub fn clear(&self, zonename: Option<&Arc<str>>, source: Source) {
        let place = (zonename.cloned(), source);
        if self.present.lock().remove(&place).is_some() {
            let name = zonename.map_or("host", |z| z);
            log::info!("{name}: {source}: the fault is over");
        }
    }

    /// Notes that zoneadm has failed for a zone that may not exist. All such
    /// zones share one fault, which says as much as thousands would.
    pub fn add_unknown(&self, zonename: &Arc<str>, error: &dyn fmt::Display) {
        let mut unknown = self.unknown_zones.lock();
        if unknown.len() < UNKNOWN_ZONES {
            unknown.insert(Arc::clone(zonename));
        }
        self.add(None, Source::UnknownZones, error);
    }

    /// Notes that zoneadm has answered for a zone.
    pub fn clear_unknown(&self, zonename: &Arc<str>) {
        let mut unknown = self.unknown_zones.lock();
        if unknown.remove(zonename) && unknown.is_empty() {
            self.clear(None, Source::UnknownZones);
        }
    }

    /// Notes that zoneadm has listed every zone.
    pub fn clear_all_unknown(&self) {
        let mut unknown = self.unknown_zones.lock();
        unknown.clear();
        self.clear(None, Source::UnknownZones);
    }

    /// Forgets a VM that is gone.
    pub fn forget(&self, zonename: &str) {
        let mut present = self.present.lock();
        present.retain(|(name, _), _| name.as_deref() != Some(zonename));
    }

    /// Whether something is wrong with a source of the host.
    #[must_use]
    pub fn host_has_fault(&self, source: Source) -> bool {
        self.present.lock().contains_key(&(None, source))
    }

    /// The VMs that have faults.
    #[must_use]
    pub fn zonenames(&self) -> Vec<Arc<str>> {
        let present = self.present.lock();
        let mut names: Vec<_> =
            present.keys().filter_map(|(name, _)| name.clone()).collect();
        names.dedup();
        names
    }

    /// The VMs with a fault because of which all of this is read again.
    #[must_use]
    pub fn zonenames_to_retry(&self, sources: Sources) -> Vec<Arc<str>> {
        let present = self.present.lock();
        let is_read = |(_, bad): &&FaultPlace| bad.again().contains(sources);
        let bad = present.keys().filter(is_read);
        bad.filter_map(|(name, _)| name.clone()).collect()
    }

    /// The VMs that have a fault of this source.
    #[must_use]
    pub fn zonenames_with(&self, source: Source) -> Vec<Arc<str>> {
        let present = self.present.lock();
        let bad = present.keys().filter(|(_, bad)| *bad == source);
        bad.filter_map(|(name, _)| name.clone()).collect()
    }

    /// All faults, by VM and the name of the source.
    #[must_use]
    pub fn list(&self) -> Vec<(FaultPlace, Fault)> {
        let present = self.present.lock().clone();
        let mut list: Vec<_> = present.into_iter().collect();
        list.sort_by(|((zone, source), _), ((other_zone, other), _)| {
            (zone, source.name()).cmp(&(other_zone, other.name()))
        });
        list
    }

    /// Notes a full reload that failed.
    pub fn note_refresh_error(&self, error: &dyn fmt::Display) {
        let mut errors = self.refresh_errors.lock();
        if errors.len() >= REFRESH_ERRORS {
            errors.pop_front();
        }
        errors.push_back((error.to_string(), SystemTime::now()));
    }

    /// The last full reloads that failed.
    #[must_use]
    pub fn refresh_errors(&self) -> Vec<(String, SystemTime)> {
        self.refresh_errors.lock().iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_there_until_it_is_mended() {
        let faults = Faults::default();
        let zonename: Arc<str> = "a".into();
        faults.add(Some(&zonename), Source::ZoneXml, &"cut off");
        faults.add(Some(&zonename), Source::ZoneXml, &"cut off");
        faults.add(None, Source::Zfs, &"exit 1");
        let list = faults.list();
        assert_eq!(list.len(), 2);
        assert_eq!(list[1].1.retries, 1);
        assert_eq!(faults.zonenames(), ["a".into()]);
        faults.clear(Some(&zonename), Source::ZoneXml);
        faults.clear(Some(&zonename), Source::Zfs);
        assert_eq!(faults.list().len(), 1);
        faults.add(Some(&zonename), Source::Zfs, &"x");
        faults.forget("a");
        assert_eq!(faults.list().len(), 1);
    }
}
