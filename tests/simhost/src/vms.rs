//! The operations of vmadm, with their steps in the order of VM.js.

use std::fs;

use crate::emit::{iso_now, now_ns};
use crate::index::IndexEntry;
use crate::state::column;
use crate::xml::{self, VmSpec};
use crate::{Host, Result};

impl Host {
    /// The root dataset of a zone.
    pub(crate) fn dataset_of(&self, zonename: &str) -> Result<String> {
        let zonepath = self.entry(zonename)?.zonepath;
        let state = self.state()?;
        let mountpoint = column("mountpoint");
        let row = state.datasets.iter().find(|r| r[mountpoint] == zonepath);
        Ok(row.map_or_else(
            || zonepath.trim_start_matches('/').to_string(),
            |row| row[0].clone(),
        ))
    }

    /// Writes a file of a VM's config directory as vmadm does.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_config(
        &self,
        zonename: &str,
        name: &str,
        text: &str,
    ) -> Result<()> {
        let dir = self.zone_dir(zonename)?.join("config");
        fs::create_dir_all(&dir)?;
        let temp = dir.join(format!("{name}.new"));
        fs::write(&temp, text)?;
        fs::rename(temp, dir.join(name))?;
        self.done()
    }

    /// `vmadm create`.
    ///
    /// # Errors
    /// If the zone exists.
    pub fn create(&self, spec: &VmSpec) -> Result<()> {
        let uuid = spec.uuid.as_str();
        let has_it = |e: &IndexEntry| e.zonename == uuid || e.uuid == uuid;
        if self.index().iter().any(has_it) {
            return Err(format!("{uuid}: VM exists").into());
        }
        let created = match spec.created.as_str() {
            "" => iso_now(),
            created => created.to_string(),
        };
        let spec = &VmSpec { created, ..spec.clone() };
        let own = format!("{}/{uuid}", spec.pool);
        // The datasets of hardware virtual machines come before the zone.
        if spec.brand == "bhyve" {
            self.zfs_create(&own, None, &[])?;
            self.create_disks(spec)?;
            self.zfs_set(&own, "refquota", "26843545600")?;
        }
        if spec.brand == "kvm" {
            self.create_disks(spec)?;
        }
        let mut document = xml::document(spec);
        document = xml::set_attr(&document, "provisioning", Some("true"));
        if spec.autoboot {
            let value = transition("provisioning", "running");
            document = xml::set_attr(&document, "transition", Some(&value));
        }
        self.zonecfg_create(uuid, &document, false)?;
        self.install(uuid, || {
            match spec.brand.as_str() {
                "bhyve" => {}
                "kvm" => self.zfs_create(&own, None, &[])?,
                _ => self.zfs_clone(&own, &[])?,
            }
            self.zfs_create(&format!("{}/cores/{uuid}", spec.pool), None, &[])?;
            if spec.delegated {
                self.zfs_create(&format!("{own}/data"), None, &[])?;
            }
            Ok(())
        })?;
        if spec.brand != "bhyve" {
            self.zfs_set(&own, "quota", "26843545600")?;
        }
        let cores = format!("{}/cores/{uuid}", spec.pool);
        self.zfs_set(&cores, "quota", "107374182400")?;
        let metadata = format!(
            "{{\"customer_metadata\":{{\"user-script\":\"#!/bin/bash\\n\
             echo {}\"}},\"internal_metadata\":{{\"root_pw\":\"pw{}\"}}}}",
            spec.number, spec.number
        );
        self.write_config(uuid, "metadata.json", &metadata)?;
        let tags = format!("{{\"role\":\"r{}\"}}", spec.number % 5);
        self.write_config(uuid, "tags.json", &tags)?;
        self.write_config(uuid, "routes.json", "{}")?;
        self.edit_xml(uuid, |xml| xml::set_attr(xml, "provisioning", None))?;
        if spec.autoboot {
            self.boot(uuid)?;
            self.edit_xml(uuid, |xml| xml::set_attr(xml, "transition", None))?;
        }
        Ok(())
    }

    fn create_disks(&self, spec: &VmSpec) -> Result<()> {
        for (n, mib) in spec.disks.iter().enumerate() {
            let refreservation = (mib << 20) + (mib << 20) / 64;
            self.zfs_create(
                &spec.disk(n),
                Some(*mib),
                &[("refreservation", &refreservation.to_string())],
            )?;
        }
        Ok(())
    }

    /// `vmadm delete`.
    ///
    /// # Errors
    /// If there is no such zone.
    pub fn delete(&self, zonename: &str) -> Result<()> {
        let own = self.dataset_of(zonename)?;
        let receiving =
            self.path(&format!("/etc/zones/{zonename}-receiving.json"));
        self.edit_xml(zonename, |xml| {
            xml::set_zone_attribute(xml, "autoboot", "false")
        })?;
        if self.is_up(zonename)? {
            self.halt(zonename, -1)?;
        }
        self.uninstall(zonename)?;
        let state = self.state()?;
        for disk in (0..100).map(|n| format!("{own}-disk{n}")) {
            if state.dataset(&disk).is_some() {
                self.zfs_destroy(&disk)?;
            }
        }
        self.zonecfg_delete(zonename)?;
        if receiving.exists() {
            fs::remove_file(receiving)?;
        }
        Ok(())
    }

    /// `vmadm start`.
    ///
    /// # Errors
    /// If there is no such zone, or it is up.
    pub fn start(&self, zonename: &str) -> Result<()> {
        self.boot(zonename)?;
        self.set_autoboot(zonename, true)
    }

    /// `vmadm stop` (a status of -1), or the end of a zone's init with this
    /// wait status.
    ///
    /// # Errors
    /// If the zone is not up.
    pub fn stop(&self, zonename: &str, status: i32) -> Result<()> {
        self.zoneid(zonename)?;
        if status != -1 {
            return self.halt(zonename, status);
        }
        let brand = self.entry(zonename)?.brand;
        let is_graceful = ["kvm", "bhyve"].contains(&brand.as_str());
        if is_graceful {
            let value = transition("stopping", "stopped");
            self.edit_xml(zonename, |xml| {
                xml::set_attr(xml, "transition", Some(&value))
            })?;
        }
        self.halt(zonename, status)?;
        if is_graceful {
            self.edit_xml(zonename, |xml| {
                xml::set_attr(xml, "transition", None)
            })?;
        }
        self.set_autoboot(zonename, false)
    }

    /// `vmadm create-snapshot`.
    ///
    /// # Errors
    /// If there is no such zone, or such a snapshot already.
    pub fn snapshot(&self, zonename: &str, name: &str) -> Result<()> {
        let dataset = self.dataset_of(zonename)?;
        let snapshot = format!("vmsnap-{name}");
        let recursive = self.entry(zonename)?.brand == "bhyve";
        self.save_files(&dataset, &snapshot)?;
        self.zfs_snapshot(&dataset, &snapshot, recursive)?;
        self.touch_xml(zonename)
    }

    /// `vmadm delete-snapshot`.
    ///
    /// # Errors
    /// If there is no such snapshot.
    pub fn delete_snapshot(&self, zonename: &str, name: &str) -> Result<()> {
        let dataset = self.dataset_of(zonename)?;
        self.zfs_destroy(&format!("{dataset}@vmsnap-{name}"))?;
        self.touch_xml(zonename)
    }

    /// `vmadm rollback-snapshot`: a VM that runs is halted, and started again
    /// after the rollback.
    ///
    /// # Errors
    /// If there is no such snapshot.
    pub fn rollback(&self, zonename: &str, name: &str) -> Result<()> {
        let was_up = self.is_up(zonename)?;
        if was_up {
            self.stop(zonename, -1)?;
        }
        let dataset = self.dataset_of(zonename)?;
        self.zfs_rollback(&dataset, &format!("vmsnap-{name}"))?;
        if was_up { self.start(zonename) } else { Ok(()) }
    }
}

/// The attribute `transition`, which vmadm sets while it takes a VM from one
/// state to another.
fn transition(state: &str, to: &str) -> String {
    format!("{state}:{to}:{}", now_ns() / 1_000_000 + 60_000)
}
