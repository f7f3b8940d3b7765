//! The properties of VM objects: `properties.txt` has a row for each, with its
//! meaning, and for those in the zone's XML which key they are and how its text
//! is translated. Keys that are in no row are skipped.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::vm::json::Json;
use crate::vm::values::{
    base64_utf8, bool_strict, bytes_to_mib, number, split_commas,
    split_commas_number, text,
};

/// The rows.
const TABLE: &str = include_str!("properties.txt");

/// Keys and elements that are known and say nothing about the VM object: those
/// of vmadm, and further ones of zonecfg(8). A key that is neither in a table
/// nor here is logged.
pub const IGNORED: &[&str] = &[
    "admin",
    "attr.never-booted",
    "bootargs",
    "debugid",
    "deleted-device",
    "dev-perm",
    "device.net-attr.image-name",
    "device.net-attr.size",
    "hostid",
    "inherited-pkg-dir",
    "ip-type",
    "mcap",
    "network.address",
    "network.allowed-address",
    "network.defrouter",
    "package",
    "pool",
    "pset",
    "scheduling-class",
    "security-flags",
    "tmp_pool",
    "version",
    "zonepath",
];

/// What a property belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The VM itself.
    Vm,
    /// An element of `nics`.
    Nic,
    /// An element of `disks` or `pci_devices`.
    Disk,
    /// An element of `filesystems`.
    Filesystem,
    /// An element of `snapshots`.
    Snapshot,
}

/// The members of the VM that are arrays of objects.
pub const ARRAYS: [(&str, Holder); 5] = [
    ("nics", Holder::Nic),
    ("disks", Holder::Disk),
    ("pci_devices", Holder::Disk),
    ("filesystems", Holder::Filesystem),
    ("snapshots", Holder::Snapshot),
];

/// The type of a property. It decides how a text of the zone's XML is
/// translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A text.
    Text,
    /// A text that the XML has in base64.
    Base64,
    /// A number; null if the XML has none there.
    Number,
    /// A number of MiB that the XML has in bytes.
    Mib,
    /// `true` or `false`; any other text stays a text.
    Bool,
    /// An array of texts that the XML joins by commas.
    List,
    /// An array of numbers that the XML joins by commas.
    Numbers,
    /// An object; the XML has none.
    Object,
    /// Always null; the XML has none.
    Null,
    /// A number of zfs, or the text `-` if the dataset can't have the property;
    /// the XML has none.
    Column,
}

impl Type {
    /// The types with their names in the table.
    const NAMES: [(&str, Type); 10] = [
        ("text", Type::Text),
        ("base64", Type::Base64),
        ("number", Type::Number),
        ("mib", Type::Mib),
        ("bool", Type::Bool),
        ("list", Type::List),
        ("numbers", Type::Numbers),
        ("object", Type::Object),
        ("null", Type::Null),
        ("column", Type::Column),
    ];

    /// The value of a text in the zone's XML.
    #[must_use]
    pub fn value(self, from: &str) -> Json {
        match self {
            Self::Text | Self::Object => text(from),
            Self::Null => Json::Null,
            Self::Base64 => base64_utf8(from),
            Self::Number | Self::Column => number(from),
            Self::Mib => bytes_to_mib(from),
            Self::Bool => bool_strict(from),
            Self::List => split_commas(from),
            Self::Numbers => split_commas_number(from),
        }
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    /// What it belongs to.
    pub holder: Holder,
    /// Where it comes from: `xml`, `zfs`, `kstat`, `zoneadm`, `sysinfo`,
    /// `files`, `computed`.
    pub source: &'static str,
    /// Its key in the zone's XML, if it comes from there.
    pub key: Option<&'static str>,
    /// Its name in the VM object.
    pub name: &'static str,
    /// Its type.
    pub kind: Type,
    /// The brands that have it: `all`, `zones` (all but bhyve and kvm), or their
    /// names.
    pub brands: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

impl Property {
    /// Reads a row: `HOLDER | SOURCE [KEY] | NAME | TYPE | BRANDS | MEANING`.
    fn parse(row: &'static str) -> Option<Self> {
        let cells: Vec<&'static str> = row.split(" | ").collect();
        let [holder, source, name, kind, brands, meaning] = cells[..] else {
            return None;
        };
        let holder = match holder {
            "vm" => Holder::Vm,
            "nic" => Holder::Nic,
            "disk" => Holder::Disk,
            "filesystem" => Holder::Filesystem,
            "snapshot" => Holder::Snapshot,
            _ => return None,
        };
        let (source, key) = match source.split_once(' ') {
            Some((source, key)) => (source, Some(key)),
            None => (source, None),
        };
        let mut types = Type::NAMES.into_iter();
        let (_, kind) = types.find(|(name, _)| *name == kind)?;
        Some(Self { holder, source, key, name, kind, brands, meaning })
    }
}

/// All properties, in the order of the table.
pub static ALL: LazyLock<Vec<Property>> = LazyLock::new(|| {
    let rows = TABLE.lines().filter(|line| !line.starts_with('#'));
    rows.filter_map(Property::parse).collect()
});

/// For each holder, its properties that come from the zone's XML, by key.
static BY_KEY: LazyLock<[HashMap<&'static str, Property>; 5]> =
    LazyLock::new(|| {
        let mut by_key: [HashMap<_, _>; 5] = Default::default();
        for property in ALL.iter() {
            if let Some(key) = property.key {
                by_key[property.holder as usize].insert(key, *property);
            }
        }
        by_key
    });

/// The property of a key in the zone's XML.
#[must_use]
pub fn of_key(holder: Holder, key: &str) -> Option<&'static Property> {
    BY_KEY[holder as usize].get(key)
}

/// The properties of a holder, in the order of the table.
pub fn of(holder: Holder) -> impl Iterator<Item = &'static Property> {
    ALL.iter().filter(move |property| property.holder == holder)
}

/// Whether a holder has a property of this name.
#[must_use]
pub fn has(holder: Holder, name: &str) -> bool {
    of(holder).any(|property| property.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_can_be_read_and_keys_are_sorted() {
        let rows = TABLE.lines().filter(|line| !line.starts_with('#'));
        for row in rows.clone() {
            assert!(Property::parse(row).is_some(), "{row}");
        }
        assert_eq!(rows.count(), ALL.len());
        for holder in
            ARRAYS.map(|(_, holder)| holder).into_iter().chain([Holder::Vm])
        {
            let keys: Vec<_> = of(holder).filter_map(|p| p.key).collect();
            assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
        }
        let sources =
            ["xml", "zfs", "kstat", "zoneadm", "sysinfo", "files", "computed"];
        let brands = ["all", "zones", "bhyve", "kvm", "lx", "joyent-minimal"];
        for property in ALL.iter() {
            assert!(sources.contains(&property.source), "{property:?}");
            let mut named = property.brands.split(", ");
            assert!(named.all(|b| brands.contains(&b)), "{property:?}");
        }
    }
}
