//! VM objects.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::value::{FromValue, from_members, members, take};

/// A VM, as the daemon describes it.
///
/// A field is `None` if the VM does not have the member, or if the member's
/// value is of another type. [`Vm::other`] has every member that has no field,
/// or whose value is of another type.
///
/// [`Vm::json`] is the object as the daemon wrote it, with the order of its
/// members and the text of its numbers. serde_json writes the same text. Two
/// VMs are equal if their texts are. Changing a field does not change the text.
///
/// docs/openapi.yaml of vminfod lists all members and says what they mean.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Vm {
    /// The zone's name; usually the same as the uuid.
    pub zonename: String,
    /// The VM's uuid; the zonename, if the VM has none.
    pub uuid: String,
    /// The name that the owner gave the VM.
    pub alias: Option<String>,
    /// The uuid of the owner.
    pub owner_uuid: Option<String>,
    /// The zone's brand: `joyent`, `lx`, `kvm`, `bhyve`, ...
    pub brand: Option<String>,
    /// The state of the VM: `running`, `stopped`, `provisioning`, ...
    pub state: Option<String>,
    /// The state of the zone, as zoneadm(8) names it, with underscores.
    pub zone_state: Option<String>,
    /// The state that a transition leads to, while there is one.
    pub transition_to: Option<String>,
    /// Whether the VM boots with the host.
    pub autoboot: Option<bool>,
    /// The process id of the zone's init, while the zone runs.
    pub pid: Option<u64>,
    /// The number of the zone in the kernel, while the kernel has the zone.
    pub zoneid: Option<u64>,
    /// When the zone was booted: ISO 8601, UTC.
    pub boot_timestamp: Option<String>,
    /// When the VM was created: ISO 8601, UTC.
    pub create_timestamp: Option<String>,
    /// When the newest of the VM's files was changed: ISO 8601, UTC.
    pub last_modified: Option<String>,
    /// When the zone last ended, unless it runs: ISO 8601, UTC.
    pub exit_timestamp: Option<String>,
    /// How the zone last ended, unless it runs: 0 if it was halted, else the
    /// exit code of init, or minus the wait status if a signal ended it.
    pub exit_status: Option<i64>,
    /// The image that the VM was made from.
    pub image_uuid: Option<String>,
    /// What the VM is billed as; usually a package's uuid.
    pub billing_id: Option<String>,
    /// The package's name.
    pub package_name: Option<String>,
    /// The host name.
    pub hostname: Option<String>,
    /// The DNS domain.
    pub dns_domain: Option<String>,
    /// DNS servers.
    pub resolvers: Option<Vec<String>>,
    /// The memory of a guest of bhyve or KVM, in MiB.
    pub ram: Option<f64>,
    /// The most physical memory, in MiB.
    pub max_physical_memory: Option<f64>,
    /// The most virtual memory, in MiB.
    pub max_swap: Option<f64>,
    /// The processors of a guest of bhyve or KVM.
    pub vcpus: Option<u64>,
    /// The most CPU time, in percent of one processor.
    pub cpu_cap: Option<u64>,
    /// The share of the CPU time beside that of other VMs.
    pub cpu_shares: Option<u64>,
    /// The quota of the zone's own dataset, in GiB; 0 for none.
    pub quota: Option<f64>,
    /// The zone's directory.
    pub zonepath: Option<String>,
    /// The zone's own dataset.
    pub zfs_filesystem: Option<String>,
    /// The pool of that dataset.
    pub zpool: Option<String>,
    /// Network interfaces.
    pub nics: Option<Vec<Nic>>,
    /// The disks of a guest of bhyve or KVM.
    pub disks: Option<Vec<Disk>>,
    /// The snapshots that vmadm(8) has made.
    pub snapshots: Option<Vec<Snapshot>>,
    /// Tags. The owner chooses names and values.
    pub tags: Option<Map<String, Value>>,
    /// Metadata that the VM can change itself.
    pub customer_metadata: Option<Map<String, Value>>,
    /// Metadata that the VM can't change.
    pub internal_metadata: Option<Map<String, Value>>,
    /// All other members.
    pub other: Map<String, Value>,
    json: Box<RawValue>,
}

/// A network interface of a VM.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Nic {
    /// The name of the interface in the VM.
    pub interface: Option<String>,
    /// The MAC address.
    pub mac: Option<String>,
    /// The tag of the host's interface that it uses.
    pub nic_tag: Option<String>,
    /// The VLAN; 0 or `None` for none.
    pub vlan_id: Option<u64>,
    /// The IPv4 address, or `dhcp`.
    pub ip: Option<String>,
    /// The addresses with their prefix lengths, or `dhcp` or `addrconf`.
    pub ips: Option<Vec<String>>,
    /// The netmask of `ip`.
    pub netmask: Option<String>,
    /// The default gateway.
    pub gateway: Option<String>,
    /// The default gateways.
    pub gateways: Option<Vec<String>>,
    /// Whether the VM takes its default gateway and resolvers from this nic.
    pub primary: Option<bool>,
    /// The model that a guest sees.
    pub model: Option<String>,
    /// The MTU, in bytes.
    pub mtu: Option<u64>,
    /// The network of NAPI that the address is from.
    pub network_uuid: Option<String>,
    /// All other members.
    pub other: Map<String, Value>,
}

/// A disk of a guest of bhyve or KVM.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Disk {
    /// The path of its device.
    pub path: Option<String>,
    /// The size of its volume, in MiB.
    pub size: Option<f64>,
    /// What it is: `disk` or `cdrom`.
    pub media: Option<String>,
    /// The model that the guest sees.
    pub model: Option<String>,
    /// Whether the guest boots from it.
    pub boot: Option<bool>,
    /// The image that it was made from.
    pub image_uuid: Option<String>,
    /// Its volume.
    pub zfs_filesystem: Option<String>,
    /// The pool of its volume.
    pub zpool: Option<String>,
    /// True if its volume does not exist.
    pub missing: Option<bool>,
    /// All other members.
    pub other: Map<String, Value>,
}

/// A snapshot that vmadm(8) has made of a VM.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Its name, without the prefix of vmadm.
    pub name: Option<String>,
    /// When it was made: ISO 8601, UTC.
    pub created_at: Option<String>,
    /// What was written since the snapshot before it, in MiB.
    pub size: Option<f64>,
    /// All other members.
    pub other: Map<String, Value>,
}

impl TryFrom<Box<RawValue>> for Vm {
    type Error = serde_json::Error;

    /// # Errors
    /// If this is not a JSON object with a `zonename`.
    fn try_from(json: Box<RawValue>) -> Result<Self, serde_json::Error> {
        let mut other = members(json.get())?;
        let zonename: Option<String> = take(&mut other, "zonename");
        let zonename = zonename.ok_or_else(|| {
            serde_json::Error::custom("the VM has no zonename")
        })?;
        // A VM that has no uuid of its own is known by its zonename.
        let uuid = take(&mut other, "uuid").unwrap_or_else(|| zonename.clone());
        Ok(from_members!(other:
            alias owner_uuid brand state zone_state transition_to autoboot pid
            zoneid boot_timestamp create_timestamp last_modified exit_timestamp
            exit_status image_uuid billing_id package_name hostname dns_domain
            resolvers ram max_physical_memory max_swap vcpus cpu_cap cpu_shares
            quota zonepath zfs_filesystem zpool nics disks snapshots tags
            customer_metadata internal_metadata;
            zonename uuid json))
    }
}

impl Vm {
    /// The object as the daemon wrote it.
    #[must_use]
    pub fn json(&self) -> &RawValue {
        &self.json
    }
}

impl FromStr for Vm {
    type Err = serde_json::Error;

    /// Reads a VM object, for example one that was kept in a file.
    fn from_str(json: &str) -> Result<Self, serde_json::Error> {
        Self::try_from(serde_json::from_str::<Box<RawValue>>(json)?)
    }
}

impl fmt::Display for Vm {
    /// Writes [`Vm::json`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.json.fmt(f)
    }
}

impl PartialEq for Vm {
    fn eq(&self, other: &Self) -> bool {
        self.json.get() == other.json.get()
    }
}

impl<'de> Deserialize<'de> for Vm {
    /// Only from JSON, by serde_json.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(from)?;
        Self::try_from(json).map_err(D::Error::custom)
    }
}

impl Serialize for Vm {
    /// Writes [`Vm::json`]; only as JSON, by serde_json.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.json.serialize(to)
    }
}

impl FromValue for Nic {
    fn from_value(value: &Value) -> Option<Self> {
        let mut other = Map::from_value(value)?;
        Some(from_members!(other:
            interface mac nic_tag vlan_id ip ips netmask gateway gateways
            primary model mtu network_uuid;))
    }
}

impl FromValue for Disk {
    fn from_value(value: &Value) -> Option<Self> {
        let mut other = Map::from_value(value)?;
        Some(from_members!(other:
            path size media model boot image_uuid zfs_filesystem zpool
            missing;))
    }
}

impl FromValue for Snapshot {
    fn from_value(value: &Value) -> Option<Self> {
        let mut other = Map::from_value(value)?;
        Some(from_members!(other: name created_at size;))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"zonename":"z","b":1.50,"a":12345678901234567890123,"quota":"much","ram":256,"nics":[{"mac":"m","x":null}],"disks":{}}"#;

    #[test]
    fn nothing_of_a_vm_is_lost() {
        let vm: Vm = TEXT.parse().unwrap();
        assert_eq!((&*vm.zonename, &*vm.uuid), ("z", "z"));
        assert_eq!(vm.ram, Some(256.0));
        let nics = vm.nics.as_ref().unwrap();
        assert_eq!(nics[0].mac.as_deref(), Some("m"));
        assert_eq!(nics[0].other["x"], Value::Null);
        // Values of another type than they should have.
        assert_eq!((vm.quota, vm.disks.as_ref()), (None, None));
        let names: Vec<_> = vm.other.keys().map(String::as_str).collect();
        assert_eq!(names, ["a", "b", "disks", "quota"]);
        // The text is as it was, however it is written.
        assert_eq!(vm.to_string(), TEXT);
        assert_eq!(serde_json::to_string(&vm).unwrap(), TEXT);
        let list = format!("[{TEXT},{TEXT}]");
        let vms: Vec<Vm> = serde_json::from_str(&list).unwrap();
        assert_eq!(serde_json::to_string(&vms).unwrap(), list);
        assert!(vms.iter().all(|other| *other == vm));
    }

    /// serde_json takes an object with this key for its `RawValue`.
    #[test]
    fn a_tenant_can_choose_any_key() {
        let key = "$serde_json::private::RawValue";
        for value in ["not json", "[1,2]"] {
            let text = format!(
                r#"{{"zonename":"z","tags":{{"{key}":"{value}"}},"nics":[{{"x":{{"{key}":"{value}"}}}}],"x":{{"{key}":"{value}"}}}}"#
            );
            let vm: Vm = text.parse().unwrap();
            let wanted = Value::from(value);
            assert_eq!(vm.tags.as_ref().unwrap()[key], wanted);
            assert_eq!(vm.nics.as_ref().unwrap()[0].other["x"][key], wanted);
            assert_eq!(vm.other["x"][key], wanted);
            assert_eq!(vm.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_vm_is_refused() {
        for text in ["", "[]", "null", "{}", r#"{"zonename":1}"#, "{\"a\":"] {
            assert!(text.parse::<Vm>().is_err(), "{text}");
        }
    }
}
