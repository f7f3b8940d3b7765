//! What zonecfg, zoneadm, zoneadmd and the kernel do to zones, and what vmadm
//! does with them.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use crate::emit::{Channel, init_restart, now, now_ns, zone_change};
use crate::state::{IndexEntry, KernelZone};
use crate::xml::{self, VmSpec};
use crate::{Host, Result};

impl Host {
    /// The XML of a zone.
    #[must_use]
    pub fn xml_path(&self, zonename: &str) -> PathBuf {
        self.path(&format!("/etc/zones/{zonename}.xml"))
    }

    /// The directory of a zone.
    ///
    /// # Errors
    /// If there is no such zone.
    pub fn zone_dir(&self, zonename: &str) -> Result<PathBuf> {
        Ok(self.path(&self.entry(zonename)?.zonepath))
    }

    /// The names of all zones, in the order of the index.
    ///
    /// # Errors
    /// If the state can't be read.
    pub fn zonenames(&self) -> Result<Vec<String>> {
        Ok(self.state()?.index.into_iter().map(|e| e.zonename).collect())
    }

    pub(crate) fn entry(&self, zonename: &str) -> Result<IndexEntry> {
        let entries = self.state()?.index;
        let entry = entries.into_iter().find(|e| e.zonename == zonename);
        Ok(entry.ok_or_else(|| format!("{zonename}: no such zone"))?)
    }

    /// The root dataset of a zone.
    pub(crate) fn dataset_of(&self, zonename: &str) -> Result<String> {
        let zonepath = self.entry(zonename)?.zonepath;
        let state = self.state()?;
        let mountpoint = crate::state::column("mountpoint");
        let row = state.datasets.iter().find(|r| r[mountpoint] == zonepath);
        Ok(row.map_or_else(
            || zonepath.trim_start_matches('/').to_string(),
            |row| row[0].clone(),
        ))
    }

    /// Whether the kernel has the zone.
    ///
    /// # Errors
    /// If the state can't be read.
    pub fn is_up(&self, zonename: &str) -> Result<bool> {
        Ok(self.state()?.kernel.contains_key(zonename))
    }

    /// Saves a zone's XML as libzonecfg does: the old one gets a second link,
    /// a temporary file is renamed over it, the link goes.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn zonecfg(&self, zonename: &str, xml: &str) -> Result<()> {
        let path = self.xml_path(zonename);
        let dir = self.path("/etc/zones");
        let pid = std::process::id();
        let temp = dir.join(format!("zonecfg.a{:05x}", now_ns() & 0xfffff));
        let backup = dir.join(format!(".backup.{pid}.{zonename}.xml"));
        fs::write(&temp, xml)?;
        let existed = path.exists();
        if existed {
            fs::hard_link(&path, &backup)?;
        }
        fs::rename(&temp, &path)?;
        if existed {
            fs::remove_file(&backup)?;
        }
        self.done();
        Ok(())
    }

    /// Edits a zone's XML.
    ///
    /// # Errors
    /// If there is none.
    pub fn edit_xml(
        &self,
        zonename: &str,
        edit: impl FnOnce(&str) -> String,
    ) -> Result<()> {
        let text = fs::read_to_string(self.xml_path(zonename))?;
        self.zonecfg(zonename, &edit(&text))
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
        fs::rename(&temp, dir.join(name))?;
        self.done();
        Ok(())
    }

    /// Sets the times of a zone's XML to now, as vmadm does to move
    /// `last_modified`.
    ///
    /// # Errors
    /// If there is no XML.
    pub fn touch_xml(&self, zonename: &str) -> Result<()> {
        let file =
            fs::File::options().append(true).open(self.xml_path(zonename))?;
        file.set_modified(std::time::SystemTime::now())?;
        Ok(())
    }

    /// `zonecfg set uuid`: no sysevent tells of it.
    ///
    /// # Errors
    /// If there is no such zone.
    pub fn set_uuid(&self, zonename: &str, uuid: &str) -> Result<()> {
        self.step(Channel::Zone, |state| {
            let entry = state.entry_mut(zonename);
            let entry = entry.ok_or("no such zone")?;
            entry.uuid = uuid.to_string();
            Ok(((), vec![]))
        })
    }

    fn index_step(
        &self,
        zonename: &str,
        oldstate: &str,
        newstate: &str,
    ) -> Result<()> {
        self.step(Channel::Zone, |state| {
            let entry = state
                .entry_mut(zonename)
                .ok_or_else(|| format!("{zonename}: no such zone"))?;
            entry.state = newstate.to_string();
            let record = zone_change(zonename, oldstate, newstate, -1);
            Ok(((), vec![record]))
        })
    }

    /// `vmadm create`.
    ///
    /// # Errors
    /// If the zone exists.
    pub fn create(&self, spec: &VmSpec) -> Result<()> {
        let uuid = spec.uuid.as_str();
        if self.entry(uuid).is_ok() {
            return Err(format!("{uuid}: zone exists").into());
        }
        // The disks of hardware virtual machines come first, unless they are
        // below the zone's own dataset.
        let own = format!("{}/{uuid}", spec.pool);
        if spec.brand == "kvm" {
            self.create_disks(spec)?;
        }
        self.zonecfg(uuid, &xml::document(spec))?;
        self.step(Channel::Zone, |state| {
            state.index.push(IndexEntry {
                zonename: uuid.to_string(),
                state: "configured".to_string(),
                zonepath: spec.zonepath(),
                uuid: String::new(),
                brand: spec.brand.clone(),
                debugid: spec.debugid.to_string(),
            });
            Ok(((), vec![zone_change(uuid, "", "configured", -1)]))
        })?;
        // zonecfg commits the uuid after it has published the zone.
        self.step(Channel::Zone, |state| {
            if let Some(entry) = state.entry_mut(uuid) {
                entry.uuid = uuid.to_string();
            }
            Ok(((), vec![]))
        })?;
        self.index_step(uuid, "configured", "incomplete")?;
        if spec.is_hvm() {
            self.zfs_create(&own, None, &[("quota", "26843545600")])?;
        } else {
            self.zfs_clone(&own, &[("quota", "26843545600")])?;
        }
        self.zfs_create(
            &format!("{}/cores/{uuid}", spec.pool),
            None,
            &[("quota", "107374182400")],
        )?;
        if spec.brand == "bhyve" {
            self.create_disks(spec)?;
        }
        if spec.delegated {
            self.zfs_create(&format!("{own}/data"), None, &[])?;
        }
        fs::create_dir_all(self.zone_dir(uuid)?.join("config"))?;
        self.index_step(uuid, "incomplete", "installed")?;
        let metadata = format!(
            "{{\"customer_metadata\":{{\"user-script\":\"#!/bin/bash\\n\
             echo {}\"}},\"internal_metadata\":{{\"root_pw\":\"pw{}\"}}}}",
            spec.number, spec.number
        );
        self.write_config(uuid, "metadata.json", &metadata)?;
        let tags = format!("{{\"role\":\"r{}\"}}", spec.number % 5);
        self.write_config(uuid, "tags.json", &tags)?;
        self.write_config(uuid, "routes.json", "{}")?;
        self.edit_xml(uuid, |xml| {
            xml::set_attr(xml, "provisioning", Some("true"))
        })?;
        if spec.autoboot {
            self.boot(uuid)?;
        }
        self.edit_xml(uuid, |xml| xml::set_attr(xml, "provisioning", None))
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
        let dir = self.zone_dir(zonename)?;
        let own = self.dataset_of(zonename)?;
        self.edit_xml(zonename, |xml| {
            xml::set_zone_attribute(xml, "autoboot", "false")
        })?;
        if self.is_up(zonename)? {
            self.stop(zonename, -1)?;
        }
        self.index_step(zonename, "installed", "incomplete")?;
        let state = self.state()?;
        let pool = own.split('/').next().unwrap_or_default();
        let cores = format!("{pool}/cores/{zonename}");
        for name in [cores, own.clone()] {
            if state.dataset(&name).is_some() {
                self.zfs_destroy(&name)?;
            }
        }
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        self.index_step(zonename, "incomplete", "configured")?;
        for disk in (0..100).map(|n| format!("{own}-disk{n}")) {
            if state.dataset(&disk).is_some() {
                self.zfs_destroy(&disk)?;
            }
        }
        // Index entry, XML, event: in this order, and no command between.
        self.step(Channel::Zone, |state| {
            state.index.retain(|e| e.zonename != zonename);
            fs::remove_file(self.xml_path(zonename))?;
            Ok(((), vec![zone_change(zonename, "configured", "", -1)]))
        })
    }

    /// `vmadm start`: vmadm notes the transition while it lasts.
    ///
    /// # Errors
    /// If there is no such zone, or it is up.
    pub fn start(&self, zonename: &str) -> Result<()> {
        if self.is_up(zonename)? {
            return Err(format!("{zonename}: is running").into());
        }
        let expire = now_ns() / 1_000_000 + 60_000;
        self.edit_xml(zonename, |xml| {
            let value = format!("starting:running:{expire}");
            xml::set_attr(xml, "transition", Some(&value))
        })?;
        self.boot(zonename)?;
        self.edit_xml(zonename, |xml| xml::set_attr(xml, "transition", None))
    }

    /// The kernel's part of a start.
    fn boot(&self, zonename: &str) -> Result<()> {
        self.boot_without_time(zonename)?;
        self.set_boot_times()
    }

    /// Notes when zones were booted that are running: this happens a little
    /// after the event that they are, and no event tells of it.
    ///
    /// # Errors
    /// If the state can't be written.
    pub fn set_boot_times(&self) -> Result<()> {
        self.step(Channel::Zone, |state| {
            for zone in state.kernel.values_mut() {
                if zone.state == "running" && zone.boot_time == "0" {
                    zone.boot_time = now().to_string();
                }
            }
            Ok(((), vec![]))
        })
    }

    fn boot_without_time(&self, zonename: &str) -> Result<()> {
        let zoneid = self.step(Channel::Zone, |state| {
            let zoneid = i64::try_from(state.next_number())?;
            let record =
                zone_change(zonename, "uninitialized", "initialized", zoneid);
            Ok((zoneid, vec![record]))
        })?;
        self.kernel_step(zonename, zoneid, "initialized", "ready", "ready")?;
        // Booting is published as ready, and shown as running.
        self.kernel_step(zonename, zoneid, "ready", "ready", "running")?;
        self.step(Channel::Zone, |state| {
            let pid = state.next_number() + 40_000;
            if let Some(zone) = state.kernel.get_mut(zonename) {
                zone.init_pid = pid;
            }
            Ok(((), vec![zone_change(zonename, "ready", "running", zoneid)]))
        })
    }

    fn kernel_step(
        &self,
        zonename: &str,
        zoneid: i64,
        oldstate: &str,
        newstate: &str,
        shown: &str,
    ) -> Result<()> {
        self.step(Channel::Zone, |state| {
            let zone =
                state.kernel.entry(zonename.to_string()).or_insert_with(|| {
                    KernelZone {
                        state: String::new(),
                        zoneid: zoneid.to_string(),
                        boot_time: "0".to_string(),
                        init_pid: 0,
                        init_restarts: 0,
                    }
                });
            zone.state = shown.to_string();
            let record = zone_change(zonename, oldstate, newstate, zoneid);
            Ok(((), vec![record]))
        })
    }

    /// `vmadm stop`: zoneadmd notes how init ended, then the zone goes down.
    ///
    /// # Errors
    /// If the zone is not up.
    pub fn stop(&self, zonename: &str, status: i32) -> Result<()> {
        if !self.is_up(zonename)? {
            return Err(format!("{zonename}: is not running").into());
        }
        let ns = now_ns();
        let (secs, usecs) = (ns / 1_000_000_000, ns / 1000 % 1_000_000);
        // Truncated first, then written: a reader may see it empty.
        let path = self.zone_dir(zonename)?.join("lastexited");
        let mut file = fs::File::create(path)?;
        file.write_all(format!("{secs}.{usecs} {status}\n").as_bytes())?;
        self.halt(zonename)
    }

    /// The kernel's part of a halt.
    fn halt(&self, zonename: &str) -> Result<()> {
        let zoneid = self.kernel_zoneid(zonename)?;
        let down = "shutting_down";
        self.kernel_step(zonename, zoneid, "running", down, down)?;
        self.kernel_step(zonename, zoneid, down, down, "down")?;
        self.kernel_step(zonename, zoneid, down, "uninitialized", "down")?;
        // The zone leaves the kernel's tables: no event marks that moment.
        self.step(Channel::Zone, |state| {
            state.kernel.remove(zonename);
            Ok(((), vec![]))
        })?;
        self.step(Channel::Zone, |_| {
            let record = zone_change(zonename, "uninitialized", "free", zoneid);
            Ok(((), vec![record]))
        })
    }

    fn kernel_zoneid(&self, zonename: &str) -> Result<i64> {
        let state = self.state()?;
        let zone = state.kernel.get(zonename);
        let zone = zone.ok_or_else(|| format!("{zonename}: is not running"))?;
        Ok(zone.zoneid.parse()?)
    }

    /// `vmadm reboot`: `lastexited` is not written.
    ///
    /// # Errors
    /// If the zone is not up.
    pub fn reboot(&self, zonename: &str) -> Result<()> {
        self.halt(zonename)?;
        self.boot(zonename)
    }

    /// As [`Host::reboot`], but the zone's boot time is not there yet: see
    /// [`Host::set_boot_times`].
    ///
    /// # Errors
    /// If the zone is not up.
    pub fn reboot_without_time(&self, zonename: &str) -> Result<()> {
        self.halt(zonename)?;
        self.boot_without_time(zonename)
    }

    /// The kernel starts init of a zone again.
    ///
    /// # Errors
    /// If the zone is not up.
    pub fn restart_init(&self, zonename: &str) -> Result<()> {
        let zoneid = self.kernel_zoneid(zonename)?;
        self.step(Channel::Zone, |state| {
            let zone = state.kernel.get_mut(zonename);
            let zone = zone.ok_or("is not running")?;
            zone.init_restarts += 1;
            let restarts = zone.init_restarts;
            Ok(((), vec![init_restart(zonename, zoneid, restarts)]))
        })
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

    /// `vmadm rollback-snapshot`: halted, rolled back, started again.
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
