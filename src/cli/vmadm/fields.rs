//! The fields of a VM that can be listed, and the keys that VMs can be filtered
//! by. They are those of vmadm(8), which are fewer than the properties that the
//! daemon knows.

use std::borrow::Cow;

use crate::source::is_map;
use crate::vm::filter::{ram_member, type_of};
use crate::vm::json::{Json, Object};
use crate::vm::path::Path;

/// Name, header and width of each field that can be listed by its name alone.
const LISTED: &[(&str, &str, usize)] = &[
    ("alias", "ALIAS", 10),
    ("autoboot", "AUTOBOOT", 8),
    ("billing_id", "BILLING_ID", 36),
    ("boot_timestamp", "BOOT_TIMESTAMP", 24),
    ("brand", "BRAND", 14),
    ("cpu_cap", "CPU_CAP", 7),
    ("cpu_shares", "CPU_SHARE", 9),
    ("cpu_type", "CPU_TYPE", 8),
    ("create_timestamp", "CREATE_TIMESTAMP", 24),
    ("dns_domain", "DOMAIN", 32),
    ("do_not_inventory", "DNI", 5),
    ("docker", "DOCKER", 6),
    ("exit_status", "EXIT", 4),
    ("exit_timestamp", "EXIT_TIMESTAMP", 24),
    ("firewall_enabled", "FIREWALL_ENABLED", 16),
    ("flexible_disk_size", "FLEX_DISK_SIZE", 14),
    ("free_space", "FREE_SPACE", 14),
    ("hostname", "HOSTNAME", 32),
    ("hvm", "HVM", 5),
    ("image_uuid", "IMAGE_UUID", 36),
    ("indestructible_delegated", "INDESTR_DATA", 12),
    ("indestructible_zoneroot", "INDESTR_ROOT", 12),
    ("max_locked_memory", "MAX_LOCKED", 10),
    ("max_lwps", "MAX_LWP", 7),
    ("max_physical_memory", "MAX_PHYS", 8),
    ("max_swap", "MAX_SWAP", 8),
    ("owner_uuid", "OWNER_UUID", 36),
    ("package_name", "PACKAGE_NAME", 32),
    ("package_version", "PACKAGE_VER", 11),
    ("pid", "PID", 6),
    ("qemu_extra_opts", "QEMU_EXTRA_OPTS", 15),
    ("quota", "QUOTA", 5),
    ("ram", "RAM", 7),
    ("state", "STATE", 16),
    ("tmpfs", "TMPFS", 5),
    ("type", "TYPE", 4),
    ("uuid", "UUID", 36),
    ("vcpus", "VCPUS", 5),
    ("zfs_io_priority", "IO_PRIORITY", 11),
    ("zone_state", "ZONE_STATE", 10),
    ("zoneid", "ZONEID", 6),
    ("zonename", "ZONENAME", 12),
    ("zonepath", "ZONEPATH", 40),
    ("zpool", "ZPOOL", 12),
];

/// The width of every other column.
const OTHER_WIDTH: usize = 20;

/// Arrays whose elements can be listed.
const ARRAYS: [&str; 3] = ["disks", "nics", "pci_devices"];

/// The members of a disk that VMs can be filtered by.
const OF_DISK: [&str; 8] = [
    "boot",
    "image_name",
    "image_size",
    "image_uuid",
    "size",
    "media",
    "model",
    "zpool",
];

/// The members of a nic that VMs can be filtered by.
const OF_NIC: [&str; 9] = [
    "dhcp_server",
    "gateway",
    "interface",
    "ip",
    "mac",
    "model",
    "netmask",
    "nic_tag",
    "vlan_id",
];

/// A field of a VM that can be listed.
#[derive(Clone, Debug)]
pub struct ListField {
    what: What,
    /// The header of its column.
    pub header: String,
    /// The least width of its column.
    pub width: usize,
}

#[derive(Clone, Debug)]
enum What {
    /// The VM's type, which follows from its brand.
    Type,
    /// The VM's memory, which for most brands is the member
    /// `max_physical_memory`.
    Ram,
    /// A member of the VM object.
    Member(String),
    /// Array, index, and a member of the element at that index.
    OfElement(String, usize, String),
    /// Map, such as `tags`, and a key in it.
    OfMap(String, String),
}

impl ListField {
    /// Parses the name of a field; `None` if it can't be listed.
    pub fn parse(name: &str) -> Option<Self> {
        let listed = LISTED.iter().find(|row| row.0 == name);
        let what = match (name, listed) {
            ("type", _) => What::Type,
            ("ram", _) => What::Ram,
            (_, Some(_)) => What::Member(name.to_string()),
            (_, None) => match name.split('.').collect::<Vec<_>>()[..] {
                [map, key] if is_map(map) && !key.is_empty() => {
                    What::OfMap(map.to_string(), key.to_string())
                }
                [array, place, key]
                    if ARRAYS.contains(&array)
                        && is_number(place)
                        && !key.is_empty() =>
                {
                    // An index too large for a `usize` is beyond the end of any
                    // array.
                    let place = place.parse().unwrap_or(usize::MAX);
                    What::OfElement(array.to_string(), place, key.to_string())
                }
                _ => return None,
            },
        };
        let (header, width) = match listed {
            Some((_, header, width)) => ((*header).to_string(), *width),
            None => (name.to_uppercase(), OTHER_WIDTH),
        };
        Some(Self { what, header, width })
    }

    /// Adds the paths to ask the daemon for. A path that no VM can have is not
    /// added.
    pub fn ask(&self, paths: &mut Vec<String>) {
        let mut ask = |path: String| {
            if Path::parse(&path).is_ok() && !paths.contains(&path) {
                paths.push(path);
            }
        };
        match &self.what {
            What::Type => ask("brand".to_string()),
            What::Ram => {
                for member in ["brand", "ram", "max_physical_memory"] {
                    ask(member.to_string());
                }
            }
            What::Member(name) => ask(name.clone()),
            // Ask for all elements, so that each keeps its index.
            What::OfElement(array, _, key) => ask(format!("{array}.*.{key}")),
            What::OfMap(map, key) => ask(format!("{map}.{key}")),
        }
    }

    /// The value of this field in a VM, if it has one.
    pub fn of<'a>(&self, vm: &'a Object) -> Option<Cow<'a, Json>> {
        let own = match &self.what {
            What::Type => return Some(Cow::Owned(Json::from(type_of(vm)))),
            What::Ram => vm.get(ram_member(vm)),
            What::Member(name) => vm.get(name),
            What::OfElement(array, place, key) => {
                vm.get(array)?.as_array()?.get(*place)?.get(key)
            }
            What::OfMap(map, key) => vm.get(map)?.get(key),
        };
        own.map(Cow::Borrowed)
    }

    /// Whether its values are timestamps. These have `:` in the same places, so
    /// `list -p` does not escape it.
    pub fn is_time(&self) -> bool {
        matches!(&self.what, What::Member(name) if name.ends_with("_timestamp"))
    }
}

/// What a filter's key means.
#[derive(Debug, PartialEq, Eq)]
pub enum FilterKey {
    /// A path that the daemon knows.
    Path,
    /// vmadm(8) accepts the key, but no VM can have it.
    Nothing,
}

impl FilterKey {
    /// Parses a key; `None` if VMs can't be filtered by it.
    pub fn parse(key: &str) -> Option<Self> {
        if LISTED.iter().any(|row| row.0 == key) {
            return Some(Self::Path);
        }
        let (member, rest) = key.split_once('.')?;
        // vmadm(8) can list routes, but not filter by them.
        if is_map(member) && member != "routes" {
            // A name with a dot would be taken for two names.
            return (!rest.is_empty()).then_some(match rest.contains('.') {
                true => Self::Nothing,
                false => Self::Path,
            });
        }
        let (place, name) = rest.split_once('.')?;
        if place != "*" && !is_number(place) {
            return None;
        }
        let is_known = Path::parse(key).is_ok();
        let is_place = place == "0" || !place.starts_with('0');
        let is_path = is_known && is_place;
        let is_nic = member.ends_with("nics") && OF_NIC.contains(&name);
        let is_disk = member == "disks" && OF_DISK.contains(&name);
        (is_nic || is_disk).then_some(match is_path {
            true => Self::Path,
            false => Self::Nothing,
        })
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_field_has_a_path_and_a_filter_key() {
        for (name, _, _) in LISTED {
            let field = ListField::parse(name).unwrap();
            let mut paths = Vec::new();
            field.ask(&mut paths);
            assert!(!paths.is_empty(), "{name}");
            assert_eq!(FilterKey::parse(name), Some(FilterKey::Path));
        }
    }

    #[test]
    fn filter_keys_are_those_of_vmadm() {
        use FilterKey::{Nothing, Path};
        for (key, wanted) in [
            ("nics.*.ip", Some(Path)),
            ("nics.0.vlan_id", Some(Path)),
            ("foonics.0.ip", Some(Nothing)),
            ("nics.01.ip", Some(Nothing)),
            ("nics.*.primary", None),
            ("nics.x.ip", None),
            ("nics.ip", None),
            ("disks.*.image_name", Some(Path)),
            ("disks.1.zpool", Some(Path)),
            ("disks.1.path", None),
            ("xdisks.1.size", None),
            ("tags.role", Some(Path)),
            ("tags.a.b", Some(Nothing)),
            ("tags.", None),
            ("tags", None),
            ("routes.x", None),
            ("resolvers.0", None),
            ("snapshots", None),
            ("state!", None),
            ("", None),
        ] {
            assert_eq!(FilterKey::parse(key), wanted, "{key}");
        }
    }

    #[test]
    fn list_fields_are_those_of_vmadm() {
        for name in
            ["nics.0.ip", "pci_devices.1.x", "tags.role", "routes.a", "tags.*"]
        {
            let field = ListField::parse(name).unwrap();
            assert_eq!((field.header, field.width), (name.to_uppercase(), 20));
        }
        for name in [
            "",
            "bogus",
            "nics",
            "nics.ip",
            "nics.x.ip",
            "tags",
            "tags.",
            "tags.a.b",
            "nics.0.",
            "nics.0.ip.x",
            "snapshots.0.name",
        ] {
            assert!(ListField::parse(name).is_none(), "{name}");
        }
    }
}
