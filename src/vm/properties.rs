//! Which key of a zone's XML is which property of the VM, and how its text is
//! translated. Keys that are in no table are skipped.
//!
//! To add a property that is in the zone's XML, add its row here. A property
//! that a command reports is set by the module of that command below `load`;
//! only its name is listed here.

use crate::vm::json::Json;
use crate::vm::values::{
    base64_utf8, bool_strict, bytes_to_mib, number, split_commas,
    split_commas_number, text,
};

/// Key in the XML, name in the VM object, translator.
pub type Property = (&'static str, &'static str, fn(&str) -> Json);

/// Finds the row of `key`. The table must be sorted by key.
#[must_use]
pub fn find(
    table: &'static [Property],
    key: &str,
) -> Option<&'static Property> {
    table.binary_search_by(|row| row.0.cmp(key)).ok().map(|i| &table[i])
}

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

/// Keys of the zone: `ATTRIBUTE`, `attr.NAME`, `rctl.NAME.PRIV.ACTION`.
pub const ZONE: &[Property] = &[
    ("attr.alias", "alias", base64_utf8),
    ("attr.app-svc-dependent", "app_svc_dependent", bool_strict),
    ("attr.archive-on-delete", "archive_on_delete", bool_strict),
    ("attr.bhyve-extra-opts", "bhyve_extra_opts", text),
    ("attr.billing-id", "billing_id", text),
    ("attr.boot", "boot", text),
    ("attr.bootrom", "bootrom", text),
    ("attr.com1", "com1", text),
    ("attr.com2", "com2", text),
    ("attr.cpu-type", "cpu_type", text),
    ("attr.create-timestamp", "create_timestamp", text),
    ("attr.dataset-uuid", "image_uuid", text),
    ("attr.default-gateway", "default_gateway", text),
    ("attr.disk-driver", "disk_driver", text),
    ("attr.dns-domain", "dns_domain", text),
    ("attr.do-not-inventory", "do_not_inventory", bool_strict),
    ("attr.docker", "docker", bool_strict),
    ("attr.failed", "failed", text),
    ("attr.firewall-enabled", "firewall_enabled", bool_strict),
    ("attr.flexible-disk-size", "flexible_disk_size", number),
    ("attr.hostname", "hostname", text),
    ("attr.init-name", "init_name", text),
    (
        "attr.internal-metadata-namespaces",
        "internal_metadata_namespaces",
        split_commas,
    ),
    ("attr.kernel-version", "kernel_version", text),
    ("attr.maintain-resolvers", "maintain_resolvers", bool_strict),
    ("attr.nic-driver", "nic_driver", text),
    ("attr.owner-uuid", "owner_uuid", text),
    ("attr.package-name", "package_name", text),
    ("attr.package-version", "package_version", text),
    ("attr.provisioning", "provisioning", bool_strict),
    ("attr.qemu-extra-opts", "qemu_extra_opts", base64_utf8),
    ("attr.qemu-opts", "qemu_opts", base64_utf8),
    ("attr.ram", "ram", number),
    ("attr.resolvers", "resolvers", split_commas),
    ("attr.restart-init", "restart_init", bool_strict),
    ("attr.spice-opts", "spice_opts", base64_utf8),
    ("attr.spice-password", "spice_password", base64_utf8),
    ("attr.spice-port", "spice_port", number),
    ("attr.tmpfs", "tmpfs", number),
    ("attr.transition", "transition", text),
    ("attr.vcpus", "vcpus", number),
    ("attr.vga", "vga", text),
    ("attr.virtio-txburst", "virtio_txburst", number),
    ("attr.virtio-txtimer", "virtio_txtimer", number),
    ("attr.vm-autoboot", "vm_autoboot", bool_strict),
    ("attr.vm-version", "v", number),
    ("attr.vnc-password", "vnc_password", base64_utf8),
    ("attr.vnc-port", "vnc_port", number),
    ("attr.zlog-max-size", "zlog_max_size", number),
    ("attr.zlog-mode", "zlog_mode", text),
    ("attr.zlog-name", "zlog_name", text),
    ("autoboot", "autoboot", bool_strict),
    ("brand", "brand", text),
    ("fs", "filesystems", text),
    ("fs-allowed", "fs_allowed", text),
    ("limitpriv", "limit_priv", text),
    ("name", "zonename", text),
    ("rctl.zone.cpu-cap.privileged.deny", "cpu_cap", number),
    ("rctl.zone.cpu-shares.privileged.none", "cpu_shares", number),
    (
        "rctl.zone.max-locked-memory.privileged.deny",
        "max_locked_memory",
        bytes_to_mib,
    ),
    ("rctl.zone.max-lwps.privileged.deny", "max_lwps", number),
    ("rctl.zone.max-msg-ids.privileged.deny", "max_msg_ids", number),
    (
        "rctl.zone.max-physical-memory.privileged.deny",
        "max_physical_memory",
        bytes_to_mib,
    ),
    ("rctl.zone.max-sem-ids.privileged.deny", "max_sem_ids", number),
    ("rctl.zone.max-shm-ids.privileged.deny", "max_shm_ids", number),
    (
        "rctl.zone.max-shm-memory.privileged.deny",
        "max_shm_memory",
        bytes_to_mib,
    ),
    ("rctl.zone.max-swap.privileged.deny", "max_swap", bytes_to_mib),
    ("rctl.zone.zfs-io-priority.privileged.none", "zfs_io_priority", number),
];

/// Keys of a `<network>`: `ATTRIBUTE`, `net-attr.NAME`.
pub const NETWORK: &[Property] = &[
    ("global-nic", "nic_tag", text),
    ("mac-addr", "mac", text),
    ("net-attr.allow_dhcp_spoofing", "allow_dhcp_spoofing", bool_strict),
    ("net-attr.allow_ip_spoofing", "allow_ip_spoofing", bool_strict),
    ("net-attr.allow_mac_spoofing", "allow_mac_spoofing", bool_strict),
    (
        "net-attr.allow_restricted_traffic",
        "allow_restricted_traffic",
        bool_strict,
    ),
    (
        "net-attr.allow_unfiltered_promisc",
        "allow_unfiltered_promisc",
        bool_strict,
    ),
    ("net-attr.allowed_dhcp_cids", "allowed_dhcp_cids", split_commas),
    ("net-attr.allowed_ips", "allowed_ips", split_commas),
    (
        "net-attr.blocked_outgoing_ports",
        "blocked_outgoing_ports",
        split_commas_number,
    ),
    ("net-attr.dhcp_server", "dhcp_server", bool_strict),
    ("net-attr.gateway", "gateway", text),
    ("net-attr.gateways", "gateways", split_commas),
    ("net-attr.ip", "ip", text),
    ("net-attr.ips", "ips", split_commas),
    ("net-attr.model", "model", text),
    ("net-attr.mtu", "mtu", number),
    ("net-attr.netmask", "netmask", text),
    ("net-attr.network_uuid", "network_uuid", text),
    ("net-attr.primary", "primary", bool_strict),
    ("net-attr.vrrp_primary_ip", "vrrp_primary_ip", text),
    ("net-attr.vrrp_vrid", "vrrp_vrid", number),
    ("physical", "interface", text),
    ("vlan-id", "vlan_id", number),
];

/// Keys of a `<device>`: `ATTRIBUTE`, `net-attr.NAME`.
pub const DEVICE: &[Property] = &[
    ("match", "path", text),
    ("net-attr.boot", "boot", bool_strict),
    ("net-attr.guest-block-size", "guest_block_size", text),
    ("net-attr.image-size", "image_size", number),
    ("net-attr.image-uuid", "image_uuid", text),
    ("net-attr.media", "media", text),
    ("net-attr.model", "model", text),
    ("net-attr.notrim", "notrim", bool_strict),
    ("net-attr.pci-slot", "pci_slot", text),
    ("net-attr.uuid", "uuid", text),
];

/// Attributes of a `<filesystem>`.
pub const FILESYSTEM: &[Property] = &[
    ("directory", "target", text),
    ("raw", "raw", text),
    ("special", "source", text),
    ("type", "type", text),
];

/// Members of the VM object that are not taken from the zone's XML unchanged,
/// and hold one value or an array of values.
pub const OTHERS: &[&str] = &[
    "boot_timestamp",
    "create_timestamp",
    "datacenter_name",
    "datasets",
    "device",
    "exit_status",
    "exit_timestamp",
    "free_space",
    "headnode_id",
    "hvm",
    "indestructible_delegated",
    "indestructible_zoneroot",
    "init_restarts",
    "last_modified",
    "missing",
    "pid",
    "platform_buildstamp",
    "quota",
    "server_uuid",
    "state",
    "transition_expire",
    "transition_to",
    "uuid",
    "zfs_data_compression",
    "zfs_data_recsize",
    "zfs_filesystem",
    "zfs_filesystem_limit",
    "zfs_root_compression",
    "zfs_root_recsize",
    "zfs_snapshot_limit",
    "zone_state",
    "zonedid",
    "zoneid",
    "zonepath",
    "zpool",
];

/// Members of disks that do not come from the zone's XML.
pub const DISK_OTHERS: &[&str] = &[
    "block_size",
    "compression",
    // A device may have it, and vmadm asks for it, but no VM object shows it.
    "image_name",
    "missing",
    "refreservation",
    "size",
    "zfs_filesystem",
    "zpool",
];

/// Members of snapshots.
pub const SNAPSHOT: &[&str] = &["created_at", "name", "size"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_by_key_without_repeats() {
        for table in [ZONE, NETWORK, DEVICE, FILESYSTEM] {
            assert!(table.is_sorted_by(|a, b| a.0 < b.0));
        }
    }
}
