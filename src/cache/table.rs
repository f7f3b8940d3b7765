//! The table of VMs, and the indexes by which they are found and counted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use super::{Prepared, Update};
use crate::hub::{Vm, VmVersion};
use crate::load::assemble::{Parts, volume_of_path};
use crate::load::zoneadm::ZoneRow;
use crate::plan::DatasetIndex;

#[derive(Debug, Default)]
pub struct Table {
    pub vms: HashMap<Arc<str>, Entry>,
    /// The order in which VMs are listed.
    pub order: BTreeMap<u64, Arc<str>>,
    /// All VMs in that order, once a client has asked and until a VM changes.
    pub listing: OnceLock<Arc<[Vm]>>,
    pub last_place: u64,
    pub datasets: DatasetIndex,
    /// By uuid, the zonename of the VM that is served.
    pub zone_of: HashMap<Arc<str>, Arc<str>>,
    /// How many VMs there are of each state and brand, and the bytes of JSON of
    /// all VMs.
    pub tally: Tally,
    /// During a full load: the zones that were found gone since it began.
    pub gone: Option<HashSet<Arc<str>>>,
}

/// See [`Table::tally`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// By state and brand.
    pub vms: BTreeMap<[String; 2], usize>,
    /// Bytes of JSON.
    pub bytes: usize,
}

impl Tally {
    fn add(&mut self, vm: &Vm) {
        *self.vms.entry(labels(vm)).or_default() += 1;
        self.bytes += vm.json().len();
    }

    fn remove(&mut self, vm: &Vm) {
        let labels = labels(vm);
        if let Some(count) = self.vms.get_mut(&labels) {
            *count -= 1;
            if *count == 0 {
                self.vms.remove(&labels);
            }
        }
        self.bytes -= vm.json().len();
    }
}

fn labels(vm: &Vm) -> [String; 2] {
    let of = |name| vm.object().get_str(name).unwrap_or_default().to_string();
    ["state", "brand"].map(of)
}

#[derive(Debug)]
pub struct Entry {
    pub place: u64,
    pub vm: Prepared,
    /// The number of the event that made the VM what it is.
    pub seq: u64,
    /// Zone transitions that were lost since its last event.
    pub lost: u64,
}

impl Table {
    /// Whether another load of this VM was stored while this one, which knew
    /// the VM as `base`, was under way. This one may have begun first, and what
    /// it did not read itself may be older than what is stored.
    pub fn check_overtaken(
        &mut self,
        zonename: &Arc<str>,
        base: Option<&Arc<Parts>>,
        update: &Update,
    ) -> bool {
        match (self.vms.get(zonename), base) {
            (Some(entry), Some(base)) => !Arc::ptr_eq(&entry.vm.parts, base),
            (None, None) => match (&mut self.gone, update) {
                // Once: then the VM is looked at by itself.
                (Some(gone), Update::Vm(_)) => gone.remove(zonename),
                _ => false,
            },
            _ => true,
        }
    }

    /// The other zone, if any, that is served with the uuid of this one.
    pub fn twin(&self, zonename: &str, update: &Update) -> Option<Arc<str>> {
        let Update::Vm(vm) = update else { return None };
        let served = self.zone_of.get(vm.parts.row.uuid.as_ref()?)?;
        (**served != *zonename).then(|| Arc::clone(served))
    }

    /// All VMs, in order. The list is shared until a VM changes.
    pub fn listed(&self) -> Arc<[Vm]> {
        let list = || {
            let mut vms = Vec::with_capacity(self.order.len());
            let entries = self.order.values();
            let entries = entries.filter_map(|zone| self.vms.get(zone));
            vms.extend(entries.map(|entry| entry.vm.vm.clone()));
            vms.into()
        };
        Arc::clone(self.listing.get_or_init(list))
    }

    /// The current version of a VM. `seq` is the number of the last event.
    pub fn version(&self, zonename: &str, seq: u64) -> VmVersion {
        match self.vms.get(zonename) {
            Some(Entry { vm, seq, .. }) => {
                VmVersion { vm: Some(vm.vm.clone()), seq: *seq }
            }
            None => VmVersion { vm: None, seq },
        }
    }

    /// Stores a VM that event `seq` has changed. Without `seq`, clients see no
    /// change, and the object that is served stays. Returns the entry that was
    /// there before.
    pub fn store(
        &mut self,
        zonename: &Arc<str>,
        mut vm: Prepared,
        seq: Option<u64>,
        lost: u64,
    ) -> Option<Entry> {
        let old = self.vms.get(zonename);
        match (old, seq) {
            (Some(old), None) => vm.vm = old.vm.vm.clone(),
            _ => drop(self.listing.take()),
        }
        let seq = seq.or(old.map(|old| old.seq)).unwrap_or(0);
        let place = old.map_or(self.last_place + 1, |entry| entry.place);
        let names = dataset_names(&vm.parts);
        let old_names = old.map(|e| dataset_names(&e.vm.parts));
        let delegated = &vm.parts.xml.datasets;
        let old_delegated = old.map(|e| &e.vm.parts.xml.datasets);
        if old_names.as_ref() != Some(&names)
            || old_delegated != Some(delegated)
        {
            for name in old_names.iter().flatten() {
                self.datasets.remove(name, zonename);
            }
            for name in &names {
                let is_delegated = delegated.contains(name);
                self.datasets.insert(name, zonename, is_delegated);
            }
        }
        if let Some(old) = self.vms.get(zonename).and_then(Entry::uuid) {
            self.zone_of.remove(&old);
        }
        if let Some(uuid) = vm.parts.row.uuid.clone() {
            self.zone_of.insert(uuid, Arc::clone(zonename));
        }
        self.last_place = self.last_place.max(place);
        self.order.insert(place, Arc::clone(zonename));
        self.tally.add(&vm.vm);
        let entry = Entry { place, vm, seq, lost };
        let old = self.vms.insert(Arc::clone(zonename), entry);
        if let Some(old) = &old {
            self.tally.remove(&old.vm.vm);
        }
        old
    }

    pub fn remove(&mut self, zonename: &str) -> Option<Entry> {
        let (zonename, entry) = self.vms.remove_entry(zonename)?;
        self.listing.take();
        self.tally.remove(&entry.vm.vm);
        self.order.remove(&entry.place);
        if let Some(uuid) = entry.uuid() {
            self.zone_of.remove(&uuid);
        }
        for name in dataset_names(&entry.vm.parts) {
            self.datasets.remove(&name, &zonename);
        }
        Some(entry)
    }
}

/// The datasets whose changes concern a VM.
fn dataset_names(parts: &Parts) -> Vec<Arc<str>> {
    let own: Arc<str> = parts.row.zonepath.trim_start_matches('/').into();
    let volumes = parts.xml.disk_paths.iter().filter_map(|p| volume_of_path(p));
    // Of equal names, the first is kept: the one that `datasets` holds anyway.
    let listed = parts.datasets.root.iter().chain(&parts.datasets.delegated);
    let mut names: Vec<Arc<str>> = listed
        .map(|dataset| Arc::clone(&dataset.name))
        .chain([own])
        .chain(parts.xml.datasets.iter().cloned())
        .chain(volumes.map(Arc::from))
        .filter(|name| !name.is_empty())
        .collect();
    names.sort();
    names.dedup();
    names
}

impl Entry {
    pub fn row(&self) -> &ZoneRow {
        &self.vm.parts.row
    }

    fn uuid(&self) -> Option<Arc<str>> {
        self.row().uuid.clone()
    }
}
