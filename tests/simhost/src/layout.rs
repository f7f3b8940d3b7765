//! Lays out a host: a new one, or one from a recording.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use crate::index::{self, IndexEntry};
use crate::state::{COLUMNS, KernelZone, Row, State, column};
use crate::xml::VmSpec;
use crate::{Host, Result};

/// Brands in the order in which new VMs get them.
pub const BRANDS: [&str; 5] =
    ["joyent", "lx", "bhyve", "kvm", "joyent-minimal"];

/// The creation time of the VMs that are laid out.
const CREATED: &str = "2026-01-12T04:34:48.243Z";

const INDEX_HEAD: &str = "# DO NOT EDIT: use zonecfg(8)\nglobal:installed:/\n";

const DEFAULT_XML: &str = "<?xml version=\"1.0\"?>\n<!DOCTYPE zone PUBLIC \
    \"-//Sun Microsystems Inc//DTD Zones//EN\" \
    \"file:///usr/share/lib/xml/dtd/zonecfg.dtd.1\">\n<zone name=\"default\" \
    zonepath=\"\" autoboot=\"false\" brand=\"joyent\"/>\n";

const SYSINFO: &str = "{\"Live Image\":\"20260101T000000Z\",\"UUID\":\
    \"44454c4c-4800-1034-804a-b2c04f354d31\",\"Hostname\":\"headnode\",\
    \"Datacenter Name\":\"sim\",\"Headnode ID\":\"1\"}";

impl Host {
    /// Makes the directories, the commands, which are links to `program`, and
    /// the files that libzonecfg and libbrand need.
    fn lay_out(&self, program: &Path, brands: &[&str]) -> Result<()> {
        for dir in
            ["etc/zones", "zones", "tmp", "usr/sbin", "usr/bin", "sim/sub"]
        {
            fs::create_dir_all(self.root.join(dir))?;
        }
        for command in crate::commands::PATHS {
            let link = self.path(command);
            if !link.exists() {
                symlink(program, link)?;
            }
        }
        for brand in brands {
            let dir = self.path(&format!("/usr/lib/brand/{brand}"));
            fs::create_dir_all(&dir)?;
            for file in ["config.xml", "platform.xml"] {
                fs::write(
                    dir.join(file),
                    format!("<brand name=\"{brand}\"/>"),
                )?;
            }
        }
        fs::write(self.path("/etc/zones/SUNWdefault.xml"), DEFAULT_XML)?;
        Ok(())
    }

    fn write_index(&self, entries: &[IndexEntry]) -> Result<()> {
        let mut text = INDEX_HEAD.to_string();
        entries.iter().for_each(|entry| text.push_str(&entry.line()));
        Ok(fs::write(index::path(self.root()), text)?)
    }

    /// Lays out a host with `vms` VMs of all brands; every third is stopped.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn init(&self, program: &Path, vms: u64) -> Result<()> {
        self.lay_out(program, &BRANDS)?;
        fs::write(self.path("/tmp/.sysinfo.json"), SYSINFO)?;
        let mut state = State { counter: 5000, ..State::default() };
        for pool in ["zones", "zones/config", "zones/cores"] {
            state.datasets.push(pool_row(pool));
        }
        let entries = (0..vms).map(|n| self.lay_out_vm(&mut state, n));
        let entries: Vec<_> = entries.collect::<Result<_>>()?;
        self.write_index(&entries)?;
        state.sort_datasets();
        state.save(&self.root, &State::default())?;
        Ok(())
    }

    /// The specification of a new VM of this number.
    #[must_use]
    pub fn spec(number: u64) -> VmSpec {
        let brand = BRANDS[usize::try_from(number).unwrap_or(0) % BRANDS.len()];
        let disks = match brand {
            "kvm" | "bhyve" => vec![10_240, 1024],
            _ => Vec::new(),
        };
        VmSpec {
            uuid: uuid_of(number),
            brand: brand.to_string(),
            alias: format!("vm{number}"),
            number,
            disks,
            delegated: number % 10 < 5 && matches!(brand, "joyent" | "lx"),
            nics: 1 + number % 2,
            debugid: 1000 + number,
            autoboot: number % 3 != 2,
            pool: "zones".to_string(),
            created: String::new(),
        }
    }

    /// As [`Host::create`], but at once and without events.
    fn lay_out_vm(&self, state: &mut State, number: u64) -> Result<IndexEntry> {
        let created = CREATED.to_string();
        let spec = VmSpec { created, ..Self::spec(number) };
        let uuid = &spec.uuid;
        let own = format!("zones/{uuid}");
        fs::write(self.xml_path(uuid), crate::xml::document(&spec))?;
        let dir = self.path(&spec.zonepath());
        fs::create_dir_all(dir.join("config"))?;
        let script = "echo all work and no play\\n".repeat(20);
        fs::write(
            dir.join("config/metadata.json"),
            format!(
                "{{\"customer_metadata\":{{\"root_authorized_keys\":\
                 \"ssh-rsa {}\",\"user-script\":\"#!/bin/bash\\n{script}\"}},\
                 \"internal_metadata\":{{\"root_pw\":\"pw{number}\"}}}}",
                "AAAAB3NzaC1yc2E".repeat(20)
            ),
        )?;
        let tags = format!("{{\"role\":\"r{}\",\"n\":{number}}}", number % 5);
        fs::write(dir.join("config/tags.json"), tags)?;
        let pool = pool_row("zones");
        let row = |name: &str, set: &[(&str, &str)]| {
            let mut row = pool.clone();
            row[0] = name.to_string();
            row[column("mountpoint")] = format!("/{name}");
            row[column("local")] = String::new();
            for (property, value) in set {
                row[column(property)] = (*value).to_string();
            }
            row
        };
        let volume = |name: &str, mib: u64| {
            let size = (mib << 20).to_string();
            row(
                name,
                &[
                    ("type", "volume"),
                    ("mountpoint", "-"),
                    ("zoned", "-"),
                    ("volsize", &size),
                    ("volblocksize", "8192"),
                    ("refreservation", &size),
                    ("quota", "-"),
                    ("refquota", "-"),
                    ("recsize", "-"),
                    ("filesystem_limit", "-"),
                ],
            )
        };
        let snapshot = |name: &str, refs: &str| {
            let mut row: Row = std::array::from_fn(|_| "-".to_string());
            row[0] = name.to_string();
            row[column("type")] = "snapshot".to_string();
            row[column("creation")] = (1_700_001_000 + number).to_string();
            row[column("userrefs")] = refs.to_string();
            row[column("written")] = "2097152".to_string();
            row[column("local")] = String::new();
            row
        };
        state.datasets.push(row(&own, &[("quota", "26843545600")]));
        let cores = format!("{}/cores", spec.zonepath());
        state.datasets.push(row(
            &format!("zones/cores/{uuid}"),
            &[("mountpoint", &cores)],
        ));
        if number.is_multiple_of(4) {
            let name = format!("{own}@vmsnap-backup");
            state.datasets.push(snapshot(&name, "0"));
        }
        if number % 7 == 3 {
            let name = format!("{own}@indestructible");
            state.datasets.push(snapshot(&name, "1"));
        }
        if spec.delegated {
            let name = format!("{own}/data");
            state.datasets.push(row(&name, &[("zoned", "on")]));
            if number.is_multiple_of(20) {
                let name = format!("{name}@indestructible");
                state.datasets.push(snapshot(&name, "1"));
            }
        }
        for (n, mib) in spec.disks.iter().enumerate() {
            state.datasets.push(volume(&spec.disk(n), *mib));
        }
        if spec.autoboot {
            let zone = KernelZone {
                state: "running".to_string(),
                zoneid: (number + 1).to_string(),
                boot_time: (1_700_000_000 + number).to_string(),
                init_pid: 4000 + number,
                init_restarts: 0,
            };
            state.kernel.insert(uuid.clone(), zone);
        } else {
            let text = format!("{} -1\n", 1_700_000_000 + number);
            fs::write(dir.join("lastexited"), text)?;
        }
        Ok(IndexEntry {
            zonename: uuid.clone(),
            state: "installed".to_string(),
            zonepath: spec.zonepath(),
            uuid: uuid.clone(),
            brand: spec.brand.clone(),
            is_exclusive: true,
            debugid: i64::try_from(spec.debugid).ok(),
        })
    }

    /// Lays out a recorded host: the folder `host` of a conformance set.
    ///
    /// # Errors
    /// If a file of the recording is missing or malformed.
    pub fn import(&self, program: &Path, recorded: &Path) -> Result<()> {
        let commands = recorded.join("commands");
        let mut state = State { counter: 5000, ..State::default() };
        let mut entries = Vec::new();
        let listing = fs::read_to_string(commands.join("zoneadm-list-pc.txt"))?;
        let kstats = fs::read_to_string(commands.join("zone-kstats.tsv"))?;
        let kstats: BTreeMap<_, _> = kstats
            .lines()
            .skip(1)
            .map(|line| line.split('\t').collect::<Vec<_>>())
            .map(|fields| (fields[0].to_string(), fields))
            .collect();
        for line in listing.lines() {
            let fields: Vec<_> = line.split(':').collect();
            let [zoneid, zonename, shown, zonepath, uuid, brand, _, debugid] =
                fields[..]
            else {
                return Err(format!("bad line {line}").into());
            };
            if zonename == "global" {
                continue;
            }
            let stored = match shown {
                "configured" | "incomplete" => shown,
                _ => "installed",
            };
            entries.push(IndexEntry {
                zonename: zonename.into(),
                state: stored.into(),
                zonepath: zonepath.into(),
                uuid: uuid.into(),
                brand: brand.into(),
                is_exclusive: true,
                debugid: debugid.parse().ok().or(Some(-1)),
            });
            if shown != stored || kstats.contains_key(zonename) {
                let kstat = kstats.get(zonename);
                let zone = KernelZone {
                    state: shown.into(),
                    zoneid: zoneid.into(),
                    boot_time: kstat.map_or("", |k| k[1]).into(),
                    init_pid: kstat.map_or(Ok(0), |k| k[2].parse())?,
                    init_restarts: 0,
                };
                state.kernel.insert(zonename.into(), zone);
            }
        }
        let brands: Vec<_> = entries.iter().map(|e| e.brand.as_str()).collect();
        self.lay_out(program, &brands)?;
        for dir in ["etc/zones", "zones", "tmp"] {
            copy_files(&recorded.join(dir), &self.root.join(dir))?;
        }
        self.write_index(&entries)?;
        let table = fs::read_to_string(commands.join("zfs-list.tsv"))?;
        let mut lines = table.lines();
        let header: Vec<_> =
            lines.next().unwrap_or_default().split('\t').collect();
        for line in lines {
            let mut row: Row = std::array::from_fn(|_| "-".to_string());
            row[column("local")] = "compression,recsize".to_string();
            for (name, value) in header.iter().zip(line.split('\t')) {
                row[column(name)] = value.to_string();
            }
            state.datasets.push(row);
        }
        // The recording is sorted as text, and not as zfs sorts.
        state.sort_datasets();
        state.save(&self.root, &State::default())?;
        let mtimes = fs::read_to_string(recorded.join("mtimes.tsv"))?;
        for line in mtimes.lines() {
            let (path, seconds) = line.split_once('\t').ok_or("mtimes")?;
            let time = UNIX_EPOCH + Duration::from_secs(seconds.parse()?);
            let path = self.path(path);
            if path.exists() {
                let file = fs::File::options().write(true).open(path)?;
                file.set_modified(time)?;
            }
        }
        Ok(())
    }
}

/// The UUID of VM `number` of a laid out host.
#[must_use]
pub fn uuid_of(number: u64) -> String {
    // Spread, so that names do not all begin alike.
    let spread = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        spread >> 32,
        spread >> 16 & 0xffff,
        spread & 0xfff,
        number & 0xfff,
        number
    )
}

fn pool_row(name: &str) -> Row {
    let value = |column: &str| match column {
        "name" => name.to_string(),
        "type" => "filesystem".to_string(),
        "mountpoint" if name == "zones/config" => "legacy".to_string(),
        "mountpoint" => format!("/{name}"),
        "zoned" => "off".to_string(),
        "creation" => "1700000000".to_string(),
        "compression" => "lz4".to_string(),
        "refreservation" | "usedbysnapshots" | "refquota" | "quota" => {
            "0".to_string()
        }
        "written" => "65536".to_string(),
        "recsize" => "131072".to_string(),
        "filesystem_limit" | "snapshot_limit" => {
            "18446744073709551615".to_string()
        }
        "local" => if name == "zones" { "compression" } else { "" }.to_string(),
        _ => "-".to_string(),
    };
    COLUMNS.map(value)
}

/// Copies a tree, writable even if the original is not.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_files(&entry.path(), &target)?;
        } else {
            fs::write(target, fs::read(entry.path())?)?;
        }
    }
    Ok(())
}
