//! Makes the object that is served of a VM from what the sources say of it. It
//! reads nothing: it is pure.
//!
//! Each step below sets members in the order of the reference implementation.
//! Clients print them in this order.

use std::sync::Arc;

use crate::config::{ZVOL_DSK, ZVOL_RDSK};
use crate::load::files::{LastExit, Stamps, Sysinfo};
use crate::load::kstat::ZoneInfo;
use crate::load::zfs::{Dataset, Datasets};
use crate::load::zoneadm::ZoneRow;
use crate::load::zonexml::{ZoneXml, brand_rules};
use crate::source::{MAPS, Source};
use crate::vm::json::{Json, Object};
use crate::vm::values::{MIB, epoch_seconds_to_iso, iso_date};

/// All that the sources say of one VM.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// Its line of zoneadm.
    pub row: ZoneRow,
    /// Its XML.
    pub xml: Arc<ZoneXml>,
    /// Its kstat, if the kernel has the zone.
    pub zoneinfo: Option<ZoneInfo>,
    /// How the zone last ended.
    pub lastexited: Option<LastExit>,
    /// The stamps of its files as they were read.
    pub stamps: Stamps,
    /// The members that are maps: the owner of the VM chooses the names in
    /// them. They are in the order of [`MAPS`].
    pub maps: [Json; MAPS.len()],
    /// The dataset that the VM will have, if it is being received.
    pub receiving: Option<Arc<str>>,
    /// Its datasets.
    pub datasets: VmDatasets,
    /// The host's own description.
    pub sysinfo: Arc<Sysinfo>,
}

impl Parts {
    /// A VM of which only this is known: one without files, kstat and datasets.
    #[must_use]
    pub fn new(row: ZoneRow, xml: Arc<ZoneXml>, sysinfo: Arc<Sysinfo>) -> Self {
        Self {
            row,
            xml,
            zoneinfo: None,
            lastexited: None,
            stamps: Stamps::default(),
            maps: std::array::from_fn(|_| Json::empty()),
            receiving: None,
            datasets: VmDatasets::default(),
            sysinfo,
        }
    }

    /// One of its maps, by the name of its member in the VM object.
    #[must_use]
    pub fn map_mut(&mut self, member: &str) -> Option<&mut Json> {
        let place = MAPS.iter().position(|map| map.name == member)?;
        Some(&mut self.maps[place])
    }

    /// Whether `new` is another VM with the same zonename: one with another
    /// uuid, or created at another time.
    #[must_use]
    pub fn is_another_than(&self, new: &Self) -> bool {
        self.row.is_another_than(&new.row) || self.xml.is_another_than(&new.xml)
    }

    /// Returns the same parts, but those that are equal in `old` share the
    /// memory of `old`. So the copies that the load has just made are freed
    /// together with everything else that it allocated, and what lives long
    /// stays where it is in memory.
    #[must_use]
    pub fn sharing(mut self, old: &Self) -> Self {
        fn share<T: PartialEq + Clone>(new: &mut T, old: &T) {
            if *new == *old {
                new.clone_from(old);
            }
        }
        share(&mut self.row, &old.row);
        share(&mut self.xml, &old.xml);
        for (new, old) in self.maps.iter_mut().zip(&old.maps) {
            share(new, old);
        }
        share(&mut self.receiving, &old.receiving);
        share(&mut self.datasets, &old.datasets);
        self
    }

    /// The sources that do not say the same as in `old`.
    #[must_use]
    pub fn differing(&self, old: &Self) -> Vec<Source> {
        let differs = [
            (Source::Zoneadm, self.row != old.row),
            (Source::Kstat, self.zoneinfo != old.zoneinfo),
            (Source::ZoneXml, self.xml != old.xml),
            (Source::LastExited, self.lastexited != old.lastexited),
            (Source::Mtime, self.stamps != old.stamps),
            (
                Source::Zfs,
                self.datasets != old.datasets
                    || self.receiving != old.receiving,
            ),
            (Source::Sysinfo, self.sysinfo != old.sysinfo),
        ];
        let maps = self.maps.iter().zip(&old.maps).zip(MAPS);
        let maps = maps.map(|((new, old), map)| (map.file, new != old));
        let differs = differs.into_iter().chain(maps);
        let differs = differs.filter(|(_, differs)| *differs);
        let mut sources: Vec<_> = differs.map(|(source, _)| source).collect();
        sources.sort();
        sources.dedup();
        sources
    }
}

/// The datasets of one VM.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VmDatasets {
    /// The dataset that is mounted at its zonepath.
    pub root: Option<Arc<Dataset>>,
    /// The delegated dataset: `ROOT/data`.
    pub delegated: Option<Arc<Dataset>>,
    /// The volumes of its disks, by the path of the disk.
    pub volumes: Vec<(Arc<str>, Arc<Dataset>)>,
    /// The names of datasets that exist, out of those in its XML and the zone's
    /// own.
    pub known: Vec<Arc<str>>,
}

impl VmDatasets {
    /// The names of all of them.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let volumes = self.volumes.iter().map(|(_, volume)| volume);
        let all = self.root.iter().chain(&self.delegated).chain(volumes);
        all.map(|dataset| &dataset.name).chain(&self.known)
    }

    /// Chooses the datasets of a VM.
    #[must_use]
    pub fn select(
        datasets: &Datasets,
        zonepath: &str,
        xml: &ZoneXml,
        receiving: Option<&str>,
    ) -> Self {
        let root = datasets.mounted_at(zonepath).cloned();
        let delegated = root
            .as_ref()
            .and_then(|root| datasets.get(&format!("{}/data", root.name)))
            .cloned();
        let volumes = xml.disk_paths.iter().filter_map(|path| {
            Some((Arc::clone(path), Arc::clone(datasets.mounted_at(path)?)))
        });
        let own = receiving.unwrap_or(zonepath.trim_start_matches('/'));
        let known = xml
            .datasets
            .iter()
            .map(|name| &**name)
            .chain([own])
            .filter_map(|name| datasets.get(name))
            .map(|dataset| Arc::clone(&dataset.name));
        Self {
            volumes: volumes.collect(),
            known: known.collect(),
            root,
            delegated,
        }
    }
}

/// The name of the dataset whose device is at a disk's path.
#[must_use]
pub fn volume_of_path(path: &str) -> Option<&str> {
    path.strip_prefix(ZVOL_RDSK).or_else(|| path.strip_prefix(ZVOL_DSK))
}

/// The object that is served of a VM; `None` if the VM has no uuid yet.
#[must_use]
pub fn assemble(parts: &Parts) -> Option<Object> {
    let uuid = parts.row.uuid.as_ref()?;
    let mut vm = parts.xml.members.clone();
    parts.row.set_members(&mut vm, uuid);
    files(&mut vm, parts);
    vm.set_default("resolvers", || Json::from(Vec::new()));
    vm.set_default("firewall_enabled", || Json::Bool(false));
    vm.extend(&parts.sysinfo);
    state(&mut vm, &parts.row.zone_state);
    if let Some(info) = &parts.zoneinfo {
        info.set_members(&mut vm);
    }
    for (map, value) in MAPS.iter().zip(&parts.maps) {
        vm.set(map.name, value.clone());
    }
    if is_receiving(&vm)
        && let Some(name) = &parts.receiving
    {
        vm.set_default("zfs_filesystem", || Json::from(name));
    }
    datasets(&mut vm, parts);
    Some(vm)
}

fn files(vm: &mut Object, parts: &Parts) {
    // Whole seconds: vmadm waits for a value without milliseconds.
    if let Some(seconds) = parts.stamps.last_mtime() {
        vm.set("last_modified", iso_date(seconds.saturating_mul(1000)));
    }
    if &*parts.row.zone_state != "running"
        && let Some(exit) = &parts.lastexited
    {
        vm.set("exit_status", exit.status);
        vm.set("exit_timestamp", epoch_seconds_to_iso(exit.time));
    }
}

/// `state` follows `zone_state`, unless vmadm has noted a transition or that
/// the VM failed.
fn state(vm: &mut Object, zone_state: &str) {
    if !vm.contains("transition_to") {
        let state = match zone_state {
            "installed" => "stopped",
            other => other,
        };
        vm.set("state", state);
    }
    let is_stopped = vm.get_str("state") == Some("stopped");
    if is_stopped && vm.get("provisioning") == Some(&Json::Bool(true)) {
        vm.set("state", "provisioning");
    }
    if vm.get_str("failed").is_some_and(|failed| !failed.is_empty()) {
        vm.set("state", "failed");
    }
}

/// The object of a VM as it was in `zone_state`: the zone was reported to enter
/// this state, and has left it since.
#[must_use]
pub fn with_zone_state(
    vm: &Object,
    zone_state: &str,
    zoneid: Option<i32>,
) -> Object {
    let mut vm = vm.clone();
    vm.set("zone_state", zone_state);
    if let Some(zoneid) = zoneid {
        vm.set("zoneid", f64::from(zoneid));
    }
    if zone_state == "running" {
        vm.remove("exit_status");
        vm.remove("exit_timestamp");
    }
    state(&mut vm, zone_state);
    vm
}

/// The object of a VM between its uninstallation and its deletion: its datasets
/// are gone, and its files with them.
#[must_use]
pub fn uninstalled(parts: &Parts) -> Option<Object> {
    let mut parts = parts.clone();
    parts.row.zone_state = "configured".into();
    parts.row.zoneid = Json::Null;
    parts.zoneinfo = None;
    parts.lastexited = None;
    let mut stamps = Stamps::default();
    stamps.set(Source::ZoneXml, parts.stamps.get(Source::ZoneXml));
    parts.stamps = stamps;
    parts.maps = std::array::from_fn(|_| Json::empty());
    parts.datasets = VmDatasets::default();
    assemble(&parts)
}

fn is_receiving(vm: &Object) -> bool {
    vm.get_str("state") == Some("receiving")
}

fn datasets(vm: &mut Object, parts: &Parts) {
    if parts.row.zonepath.is_empty() {
        return;
    }
    let datasets = &parts.datasets;
    let root = datasets.root.as_deref();
    let delegated = datasets.delegated.as_deref();
    if root.is_some_and(Dataset::is_indestructible) {
        vm.set("indestructible_zoneroot", true);
    }
    if let Some(root) = root {
        root.set_root_members(vm, brand_rules(&parts.row.brand));
    }
    if delegated.is_some_and(Dataset::is_indestructible) {
        vm.set("indestructible_delegated", true);
    }
    if let Some(delegated) = delegated {
        delegated.set_delegated_members(vm);
    }
    let disks = disks(vm, datasets);
    let all_known = disks.iter().flatten().all(|d| d.get("missing").is_none());
    if let Some(disks) = disks {
        vm.set("disks", disks);
    }
    vm.set("snapshots", root.map_or_else(Vec::new, Dataset::vm_snapshots));
    if brand_rules(&parts.row.brand).use_refquota && all_known {
        free_space(vm, datasets);
    }
    if is_receiving(vm) {
        missing(vm, parts);
    }
}

/// The VM's disks, with the members that come from their volumes.
fn disks(vm: &Object, datasets: &VmDatasets) -> Option<Vec<Json>> {
    let disks = vm.get("disks")?.as_array()?;
    let with_volume = |disk: &Json| {
        let mut disk = disk.as_object().cloned().unwrap_or_default();
        let path = disk.get_str("path").unwrap_or_default();
        let volume = datasets.volumes.iter().find(|(p, _)| &**p == path);
        if let Some((_, volume)) = volume {
            volume.set_disk_members(&mut disk);
        } else {
            disk.set("missing", true);
        }
        Json::from(disk)
    };
    Some(disks.iter().map(with_volume).collect())
}

/// Sets the part of `flexible_disk_size` that no disk uses, in MiB.
fn free_space(vm: &mut Object, datasets: &VmDatasets) {
    let Some(total) = vm.get("flexible_disk_size").and_then(Json::as_f64)
    else {
        return;
    };
    let used: Option<f64> = datasets
        .volumes
        .iter()
        .map(|(_, volume)| {
            Some(volume.volsize.number()? + volume.usedbysnapshots.number()?)
        })
        .sum();
    if let Some(used) = used {
        vm.set("free_space", (total - used / MIB).floor());
    }
}

/// Sets what a VM that is being received does not have yet.
fn missing(vm: &mut Object, parts: &Parts) {
    let root = parts.datasets.root.as_ref().map(|root| &root.name);
    let known = parts.datasets.known.iter().chain(root);
    let is_known = |name: &str| known.clone().any(|known| **known == *name);
    let own = vm
        .get_str("zfs_filesystem")
        .unwrap_or(parts.row.zonepath.trim_start_matches('/'))
        .to_string();
    let names = std::iter::once(own.as_str())
        .chain(parts.xml.datasets.iter().map(|name| &**name));
    let datasets: Vec<_> =
        names.filter(|name| !is_known(name)).map(Json::from).collect();
    let array = |name: &str| vm.get(name).and_then(Json::as_array);
    let disks: Vec<_> = array("disks")
        .unwrap_or_default()
        .iter()
        .filter(|disk| disk.get("missing").is_some())
        .filter_map(|disk| disk.get("path").cloned())
        .collect();
    let filesystems: Vec<_> = array("filesystems")
        .unwrap_or_default()
        .iter()
        .filter_map(|filesystem| filesystem.get("source").cloned())
        .collect();
    let mut missing = Object::new();
    missing.set("datasets", datasets);
    missing.set("disks", disks);
    missing.set("filesystems", filesystems);
    vm.set("missing", missing);
}
