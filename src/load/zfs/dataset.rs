//! A dataset: its columns, and the members of a VM object that come from them.

use std::sync::Arc;

use super::column::Column;
use crate::load::zonexml::BrandRules;
use crate::vm::json::{Json, Object};
use crate::vm::values::{GIB, MIB, epoch_seconds_to_iso, parse_number};

/// The columns that are asked for, in this order. A tenant may put a tab into
/// the mountpoint of a delegated dataset, so the mountpoint comes last.
pub const COLUMNS: [&str; 17] = [
    "compression",
    "creation",
    "filesystem_limit",
    "name",
    "quota",
    "recsize",
    "refquota",
    "refreservation",
    "snapshot_limit",
    "type",
    "usedbysnapshots",
    "userrefs",
    "volblocksize",
    "volsize",
    "written",
    "zoned",
    "mountpoint",
];

/// A snapshot whose name begins with this belongs to vmadm. The rest of the
/// name is its name in vmadm.
pub const VM_SNAPSHOT: &str = "vmsnap-";

/// A held snapshot of this name makes a dataset indestructible.
pub const INDESTRUCTIBLE: &str = "indestructible";

/// A dataset: a filesystem or a volume.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// The name, `pool/…`.
    pub name: Arc<str>,
    /// The column `compression`.
    pub compression: Arc<str>,
    /// When it was created.
    pub creation: Column,
    /// The column `filesystem_limit`.
    pub filesystem_limit: Column,
    /// The column `quota`.
    pub quota: Column,
    /// The column `recsize`.
    pub recsize: Column,
    /// The column `refquota`.
    pub refquota: Column,
    /// The column `refreservation`.
    pub refreservation: Column,
    /// The column `snapshot_limit`.
    pub snapshot_limit: Column,
    /// The column `usedbysnapshots`.
    pub usedbysnapshots: Column,
    /// The column `volblocksize`.
    pub volblocksize: Column,
    /// The column `volsize`.
    pub volsize: Column,
    /// Its snapshots that matter to a VM object, in zfs's order.
    pub snapshots: Vec<DatasetSnapshot>,
}

/// A snapshot that vmadm has taken, or one that makes its dataset
/// indestructible.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetSnapshot {
    /// What follows the `@`.
    pub name: Arc<str>,
    /// When it was taken.
    pub creation: Column,
    /// The bytes that were written since the snapshot before it.
    pub written: Column,
    /// Whether a hold keeps it.
    pub held: bool,
}

/// A dataset as it is listed.
pub(super) struct Listed<'a> {
    pub dataset: Dataset,
    pub place: MountPlace,
    /// The column `mountpoint`.
    pub mountpoint: &'a str,
}

/// Where a dataset can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MountPlace {
    /// Nowhere: it is not mounted, or is managed from within a zone.
    Nowhere,
    /// It is a volume: at the raw device of its name.
    Device,
    /// In the directory of its name.
    Home,
    /// In another directory.
    Elsewhere,
}

/// What zfs prints for "no limit": 2^64 - 1, as a double.
const NO_LIMIT: f64 = 18_446_744_073_709_551_615.0;

impl Dataset {
    /// Adds a snapshot, unless it is there already.
    pub(super) fn add(&mut self, snapshot: DatasetSnapshot) {
        if !self.snapshots.contains(&snapshot) {
            if self.snapshots.is_empty() {
                // Most datasets have none or one.
                self.snapshots.reserve_exact(1);
            }
            self.snapshots.push(snapshot);
        }
    }

    /// Whether a held snapshot keeps it from being destroyed.
    #[must_use]
    pub fn is_indestructible(&self) -> bool {
        let mut snapshots = self.snapshots.iter();
        snapshots.any(|s| &*s.name == INDESTRUCTIBLE && s.held)
    }

    /// Sets the members of a VM object that come from its own dataset.
    pub fn set_root_members(&self, vm: &mut Object, rules: BrandRules) {
        let quota = match rules.use_refquota {
            true => self.refquota,
            false => self.quota,
        };
        vm.set("quota", scaled(quota, GIB));
        vm.set_default("create_timestamp", || {
            Json::from(self.creation.number().and_then(epoch_seconds_to_iso))
        });
        self.set_compression(vm, "zfs_root_compression");
        vm.set("zfs_root_recsize", self.recsize.json());
        set_limit(vm, "zfs_filesystem_limit", self.filesystem_limit);
        set_limit(vm, "zfs_snapshot_limit", self.snapshot_limit);
        vm.set("zfs_filesystem", &self.name);
        vm.set("zpool", pool(&self.name));
    }

    /// Sets the members of a VM object that come from the dataset that is
    /// delegated to it.
    pub fn set_delegated_members(&self, vm: &mut Object) {
        self.set_compression(vm, "zfs_data_compression");
        vm.set("zfs_data_recsize", self.recsize.json());
    }

    /// Sets the members of a disk that come from its volume.
    pub fn set_disk_members(&self, disk: &mut Object) {
        disk.set("zfs_filesystem", &self.name);
        disk.set("zpool", pool(&self.name));
        disk.set("size", scaled(self.volsize, MIB));
        disk.set("compression", &self.compression);
        let refreservation = self.refreservation.number();
        disk.set(
            "refreservation",
            refreservation.map(|bytes| (bytes / MIB).ceil()),
        );
        disk.set("block_size", self.volblocksize.json());
    }

    /// vmadm's snapshots of it, the newest first.
    #[must_use]
    pub fn vm_snapshots(&self) -> Vec<Json> {
        let named = |snapshot: &DatasetSnapshot| {
            let name = snapshot.name.strip_prefix(VM_SNAPSHOT)?;
            let created = snapshot.creation.number();
            let mut object = Object::new();
            object.set("name", name);
            object.set("size", scaled(snapshot.written, MIB));
            object.set("created_at", created.and_then(epoch_seconds_to_iso));
            Some(object).filter(|_| !name.is_empty())
        };
        let mut found: Vec<_> =
            self.snapshots.iter().filter_map(named).collect();
        found.sort_by(|a, b| {
            b.get_str("created_at").cmp(&a.get_str("created_at"))
        });
        found.into_iter().map(Json::from).collect()
    }

    fn set_compression(&self, vm: &mut Object, name: &'static str) {
        if &*self.compression != "off" {
            vm.set(name, &self.compression);
        }
    }
}

fn set_limit(vm: &mut Object, name: &'static str, limit: Column) {
    if limit.number().is_none_or(|n| n < NO_LIMIT) {
        vm.set(name, limit.json());
    }
}

fn scaled(bytes: Column, unit: f64) -> Json {
    Json::from(bytes.number().map(|n| n / unit))
}

fn pool(dataset: &str) -> &str {
    dataset.split('/').next().unwrap_or(dataset)
}

impl<'a> Listed<'a> {
    /// Parses the columns of a line of zfs.
    pub fn parse(fields: &[&'a str; COLUMNS.len()]) -> Self {
        let [
            compression,
            creation,
            filesystem_limit,
            name,
            quota,
            recsize,
            refquota,
            refreservation,
            snapshot_limit,
            kind,
            usedbysnapshots,
            _userrefs,
            volblocksize,
            volsize,
            _written,
            zoned,
            mountpoint,
        ] = *fields;
        let is_delegated =
            zoned == "on" || name.split('/').nth(2) == Some("data");
        let is_home = |path: &str| path.strip_prefix('/') == Some(name);
        let place = match (kind, mountpoint) {
            _ if is_delegated => MountPlace::Nowhere,
            ("volume", _) => MountPlace::Device,
            (_, "legacy" | "-") => MountPlace::Home,
            (_, path) if is_home(path) => MountPlace::Home,
            (_, path) if path.starts_with('/') => MountPlace::Elsewhere,
            _ => MountPlace::Nowhere,
        };
        let dataset = Dataset {
            name: name.into(),
            compression: compression.into(),
            creation: Column::parse(creation),
            filesystem_limit: Column::parse(filesystem_limit),
            quota: Column::parse(quota),
            recsize: Column::parse(recsize),
            refquota: Column::parse(refquota),
            refreservation: Column::parse(refreservation),
            snapshot_limit: Column::parse(snapshot_limit),
            usedbysnapshots: Column::parse(usedbysnapshots),
            volblocksize: Column::parse(volblocksize),
            volsize: Column::parse(volsize),
            snapshots: Vec::new(),
        };
        Self { dataset, place, mountpoint }
    }
}

impl DatasetSnapshot {
    /// `None` for a snapshot that does not matter to a VM object. So a flood of
    /// such snapshots, as from `zfs recv`, costs no memory.
    pub(super) fn parse(
        name: &str,
        fields: &[&str; COLUMNS.len()],
    ) -> Option<Self> {
        let (creation, userrefs, written) = (fields[1], fields[11], fields[14]);
        (name == INDESTRUCTIBLE || name.starts_with(VM_SNAPSHOT)).then(|| {
            Self {
                name: name.into(),
                creation: Column::parse(creation),
                written: Column::parse(written),
                held: parse_number(userrefs).is_some_and(|n| n > 0.0),
            }
        })
    }
}
