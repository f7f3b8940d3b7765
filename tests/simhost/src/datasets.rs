//! The operations of zfs(8) on datasets.

use std::fs;
use std::path::{Path, PathBuf};

use crate::emit::{Channel, history, now, pool_history};
use crate::state::{COLUMNS, Row, State, column};
use crate::{Host, Result};

/// Properties that datasets below inherit.
const INHERITABLE: [&str; 2] = ["compression", "recsize"];

/// A limit that is not set, as zfs prints it.
const UNLIMITED: &str = "18446744073709551615";

impl Host {
    /// `zfs create` of a filesystem, or of a volume of this many MiB.
    ///
    /// # Errors
    /// If there is a dataset of that name.
    pub fn zfs_create(
        &self,
        name: &str,
        volume_mib: Option<u64>,
        properties: &[(&str, &str)],
    ) -> Result<()> {
        self.zfs_make("create", "", name, volume_mib)?;
        for (property, value) in properties {
            self.zfs_set(name, property, value)?;
        }
        Ok(())
    }

    /// `zfs clone` of an image.
    ///
    /// # Errors
    /// If there is a dataset of that name.
    pub fn zfs_clone(
        &self,
        name: &str,
        properties: &[(&str, &str)],
    ) -> Result<()> {
        let origin =
            "origin=zones/01b2c898-945f-11e1-a523-af1afbe22822@final (1301)";
        self.zfs_make("clone", origin, name, None)?;
        for (property, value) in properties {
            self.zfs_set(name, property, value)?;
        }
        Ok(())
    }

    fn zfs_make(
        &self,
        verb: &str,
        detail: &str,
        name: &str,
        volume_mib: Option<u64>,
    ) -> Result<()> {
        self.step(Channel::Zfs, |state| {
            if state.dataset(name).is_some() {
                return Err(format!("{name}: dataset already exists").into());
            }
            let row = new_row(state, name, volume_mib);
            state.datasets.push(row);
            state.sort_datasets();
            let txg = state.next_number();
            Ok(((), vec![history(name, verb, detail, txg)]))
        })
    }

    /// `zfs set`.
    ///
    /// # Errors
    /// If there is no such dataset or property.
    pub fn zfs_set(
        &self,
        name: &str,
        property: &str,
        value: &str,
    ) -> Result<()> {
        self.step(Channel::Zfs, |state| {
            change_property(state, name, property, Some(value))?;
            let txg = state.next_number();
            // There is no record for the size of a volume: it is not in the
            // list of its properties.
            let detail = format!("{property}={value}");
            let record = history(name, "set", &detail, txg);
            Ok(((), if property == "volsize" { vec![] } else { vec![record] }))
        })
    }

    /// `zfs inherit`.
    ///
    /// # Errors
    /// If there is no such dataset or property.
    pub fn zfs_inherit(&self, name: &str, property: &str) -> Result<()> {
        self.step(Channel::Zfs, |state| {
            let value = change_property(state, name, property, None)?;
            let txg = state.next_number();
            let detail = format!("{property}={value}");
            Ok(((), vec![history(name, "inherit", &detail, txg)]))
        })
    }

    /// `zfs rename`: one event, for the old name, though all names below
    /// change.
    ///
    /// # Errors
    /// If there is no such dataset.
    pub fn zfs_rename(&self, from: &str, to: &str) -> Result<()> {
        self.step(Channel::Zfs, |state| {
            if state.dataset(from).is_none() {
                return Err(format!("{from}: dataset does not exist").into());
            }
            let mountpoint = column("mountpoint");
            for row in &mut state.datasets {
                let Some(below) = row[0].strip_prefix(from) else { continue };
                if !below.is_empty() && !below.starts_with(['/', '@']) {
                    continue;
                }
                let old = row[0].clone();
                row[0] = format!("{to}{below}");
                if row[mountpoint] == format!("/{old}") {
                    row[mountpoint] = format!("/{}", row[0]);
                }
            }
            state.sort_datasets();
            let txg = state.next_number();
            let detail = match to.split_once('@') {
                Some((_, snapshot)) => format!("-> @{snapshot}"),
                None => format!("-> {to}"),
            };
            Ok(((), vec![history(from, "rename", &detail, txg)]))
        })
    }

    /// `zfs snapshot [-r]`.
    ///
    /// # Errors
    /// If there is no such dataset, or such a snapshot already.
    pub fn zfs_snapshot(
        &self,
        dataset: &str,
        snapshot: &str,
        recursive: bool,
    ) -> Result<()> {
        self.step(Channel::Zfs, |state| {
            if state.dataset(dataset).is_none() {
                return Err(format!("{dataset}: dataset does not exist").into());
            }
            if state.dataset(&format!("{dataset}@{snapshot}")).is_some() {
                return Err("snapshot already exists".into());
            }
            let below = format!("{dataset}/");
            let names: Vec<_> = state
                .datasets
                .iter()
                .map(|row| row[0].clone())
                .filter(|name| {
                    name == dataset
                        || (recursive
                            && name.starts_with(&below)
                            && !name.contains('@'))
                })
                .map(|name| format!("{name}@{snapshot}"))
                .collect();
            let mut records = Vec::new();
            for name in names {
                let row = snapshot_row(&name);
                state.datasets.push(row);
                let txg = state.next_number();
                records.push(history(&name, "snapshot", "", txg));
            }
            state.sort_datasets();
            Ok(((), records))
        })
    }

    /// `zfs destroy -r`: one event for each dataset and snapshot.
    ///
    /// # Errors
    /// If there is no such dataset.
    pub fn zfs_destroy(&self, name: &str) -> Result<()> {
        self.step(Channel::Zfs, |state| {
            let is_below = |row: &Row| {
                row[0].strip_prefix(name).is_some_and(|below| {
                    below.is_empty() || below.starts_with(['/', '@'])
                })
            };
            let mut doomed: Vec<_> = state
                .datasets
                .iter()
                .filter(|row| is_below(row))
                .map(|row| row[0].clone())
                .collect();
            if doomed.is_empty() {
                return Err(format!("{name}: dataset does not exist").into());
            }
            state.datasets.retain(|row| !is_below(row));
            // Datasets and snapshots below go first.
            doomed.reverse();
            let txg = state.next_number();
            let records = doomed.iter().map(|n| history(n, "destroy", "", txg));
            Ok(((), records.collect()))
        })
    }

    /// `zfs hold` and `zfs release` of a snapshot.
    ///
    /// # Errors
    /// If there is no such snapshot.
    pub fn zfs_hold(&self, snapshot: &str, hold: bool) -> Result<()> {
        self.step(Channel::Zfs, |state| {
            let row = state
                .dataset_mut(snapshot)
                .ok_or_else(|| format!("{snapshot}: does not exist"))?;
            let refs = &mut row[column("userrefs")];
            let n = refs.parse::<u64>().unwrap_or(0);
            let n = if hold { n + 1 } else { n.saturating_sub(1) };
            *refs = n.to_string();
            let txg = state.next_number();
            let verb = if hold { "hold" } else { "release" };
            let detail = format!("tag=sim temp=0 refs={n}");
            Ok(((), vec![history(snapshot, verb, &detail, txg)]))
        })
    }

    /// A history record that changes nothing by itself.
    ///
    /// # Errors
    /// If the state can't be written.
    pub fn zfs_record(
        &self,
        name: &str,
        operation: &str,
        detail: &str,
    ) -> Result<()> {
        self.step(Channel::Zfs, |state| {
            let txg = state.next_number();
            Ok(((), vec![history(name, operation, detail, txg)]))
        })
    }

    /// `zfs rollback -r`: newer snapshots are destroyed, and the files get the
    /// contents and times of the snapshot. On the platform, no file event
    /// reports it.
    ///
    /// # Errors
    /// If there is no such snapshot.
    pub fn zfs_rollback(&self, dataset: &str, snapshot: &str) -> Result<()> {
        let name = format!("{dataset}@{snapshot}");
        let state = self.state()?;
        let at = state
            .datasets
            .iter()
            .position(|row| row[0] == name)
            .ok_or_else(|| format!("{name}: does not exist"))?;
        let newer: Vec<_> = state.datasets[at + 1..]
            .iter()
            .map(|row| row[0].clone())
            .take_while(|n| n.starts_with(&format!("{dataset}@")))
            .collect();
        for newer in newer {
            self.zfs_destroy(&newer)?;
        }
        let saved = self.root.join("sim/snap").join(name.replace('/', "_"));
        if saved.is_dir() {
            restore(&saved, &self.files_of(dataset))?;
        }
        let own = dataset.rsplit('/').next().unwrap_or(dataset);
        let hidden = format!("{dataset}/%rollback");
        self.step(Channel::Zfs, |state| {
            let txg = state.next_number();
            let parent = format!("parent={own}");
            Ok((
                (),
                vec![
                    history(&hidden, "clone swap", &parent, txg),
                    history(&hidden, "destroy", "", txg),
                ],
            ))
        })
    }

    /// Begins a `zfs receive` of a volume, which has no size yet.
    ///
    /// # Errors
    /// If there is a dataset of that name.
    pub fn zfs_receive_begins(&self, name: &str) -> Result<()> {
        self.step(Channel::Zfs, |state| {
            let mut row = new_row(state, name, Some(0));
            row[column("volblocksize")] = "8192".to_string();
            state.datasets.push(row);
            state.sort_datasets();
            let txg = state.next_number();
            Ok(((), vec![history(name, "receive", "", txg)]))
        })
    }

    /// Ends a `zfs receive` of a volume.
    ///
    /// # Errors
    /// If there is no such volume.
    pub fn zfs_receive_ends(&self, name: &str, mib: u64) -> Result<()> {
        self.step(Channel::Zfs, |state| {
            let row = state
                .dataset_mut(name)
                .ok_or_else(|| format!("{name}: dataset does not exist"))?;
            row[column("volsize")] = (mib << 20).to_string();
            let txg = state.next_number();
            Ok(((), vec![history(name, "finish receiving", "snap=s", txg)]))
        })
    }

    /// `zpool export`: no event reports it.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn zpool_export(&self, pool: &str) -> Result<()> {
        self.hurt(&format!("zfs:{pool}"), "exported")?;
        self.done()
    }

    /// `zpool import`.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn zpool_import(&self, pool: &str) -> Result<()> {
        self.hurt(&format!("zfs:{pool}"), "heal")?;
        self.step(Channel::Zfs, |state| {
            let txg = state.next_number();
            Ok(((), vec![pool_history(pool, "import", txg)]))
        })
    }

    /// Makes a pool with nothing in it.
    ///
    /// # Errors
    /// If there is such a pool.
    pub fn zpool_create(&self, pool: &str) -> Result<()> {
        self.zfs_create(pool, None, &[])
    }

    /// Keeps the files of a dataset for a later rollback.
    pub(crate) fn save_files(
        &self,
        dataset: &str,
        snapshot: &str,
    ) -> Result<()> {
        let name = format!("{dataset}@{snapshot}").replace('/', "_");
        let saved = self.root.join("sim/snap").join(name);
        let dir = self.files_of(dataset);
        if dir.is_dir() {
            copy_tree(&dir, &saved)?;
        }
        Ok(())
    }

    /// The directory where a dataset is mounted. The dataset of the zones'
    /// configuration is mounted at /etc/zones, by an entry of vfstab.
    fn files_of(&self, dataset: &str) -> PathBuf {
        match dataset.split_once('/') {
            Some((_, "config")) => self.path("/etc/zones"),
            _ => self.path(&format!("/{dataset}")),
        }
    }

    /// Takes a snapshot of the zones' configuration, for a later rollback.
    ///
    /// # Errors
    /// If there is such a snapshot already.
    pub fn snapshot_config(&self, pool: &str, name: &str) -> Result<()> {
        let dataset = format!("{pool}/config");
        self.save_files(&dataset, name)?;
        self.zfs_snapshot(&dataset, name, false)
    }
}

fn new_row(state: &State, name: &str, volume_mib: Option<u64>) -> Row {
    let parent = name.rsplit_once('/').map(|(parent, _)| parent);
    let parent = parent.and_then(|parent| state.dataset(parent));
    let mut row: Row = std::array::from_fn(|_| "-".to_string());
    let mut set = |column_name: &str, value: &str| {
        row[column(column_name)] = value.to_string();
    };
    set("name", name);
    set("creation", &now().to_string());
    set("refreservation", "0");
    set("usedbysnapshots", "0");
    set("written", "65536");
    set("local", "");
    for name in INHERITABLE {
        set(name, parent.map_or("-", |row| &row[column(name)]));
    }
    if let Some(mib) = volume_mib {
        set("type", "volume");
        set("volsize", &(mib << 20).to_string());
        set("volblocksize", "8192");
        set("recsize", "-");
        set("snapshot_limit", UNLIMITED);
    } else {
        set("type", "filesystem");
        let mountpoint = match name.split('/').collect::<Vec<_>>()[..] {
            [pool, "cores", zone] => format!("/{pool}/{zone}/cores"),
            _ => format!("/{name}"),
        };
        set("mountpoint", &mountpoint);
        set("zoned", if name.ends_with("/data") { "on" } else { "off" });
        set("quota", "0");
        set("refquota", "0");
        set("filesystem_limit", UNLIMITED);
        set("snapshot_limit", UNLIMITED);
    }
    row
}

fn snapshot_row(name: &str) -> Row {
    let mut row: Row = std::array::from_fn(|_| "-".to_string());
    row[0] = name.to_string();
    row[column("type")] = "snapshot".to_string();
    row[column("creation")] = now().to_string();
    row[column("userrefs")] = "0".to_string();
    row[column("written")] = "1048576".to_string();
    row[column("local")] = String::new();
    row
}

/// The value that a property inherits: its parent's, or its default.
fn inherited(state: &State, name: &str, property: &str) -> String {
    let parent = name.rsplit_once('/').map(|(parent, _)| parent);
    let value = parent
        .filter(|_| INHERITABLE.contains(&property))
        .and_then(|parent| state.dataset(parent))
        .map(|row| row[column(property)].clone());
    let default = match property {
        "compression" => "off",
        "recsize" => "131072",
        "filesystem_limit" | "snapshot_limit" => UNLIMITED,
        _ => "0",
    };
    value.unwrap_or_else(|| default.to_string())
}

/// Sets a property, or with `None` inherits it, and changes it in the datasets
/// below that inherit it. Returns the new value.
fn change_property(
    state: &mut State,
    name: &str,
    property: &str,
    value: Option<&str>,
) -> Result<String> {
    // People use the long name; the column has the short one.
    let property = if property == "recordsize" { "recsize" } else { property };
    if !COLUMNS.contains(&property) {
        return Err(format!("{property}: no such property").into());
    }
    let effective =
        value.map_or_else(|| inherited(state, name, property), String::from);
    let row = state
        .dataset_mut(name)
        .ok_or_else(|| format!("{name}: dataset does not exist"))?;
    row[column(property)].clone_from(&effective);
    set_local(row, property, value.is_some());
    if INHERITABLE.contains(&property) {
        let below = format!("{name}/");
        let names: Vec<_> = state
            .datasets
            .iter()
            .map(|row| row[0].clone())
            .filter(|n| n.starts_with(&below) && !n.contains('@'))
            .collect();
        // Rows are sorted: a parent comes before the datasets that inherit from
        // it.
        for name in names {
            let value = inherited(state, &name, property);
            if let Some(row) = state.dataset_mut(&name)
                && !is_local(row, property)
                && row[column(property)] != "-"
            {
                row[column(property)] = value;
            }
        }
    }
    Ok(effective)
}

fn is_local(row: &Row, property: &str) -> bool {
    row[column("local")].split(',').any(|p| p == property)
}

fn set_local(row: &mut Row, property: &str, local: bool) {
    let mut set: Vec<_> = row[column("local")]
        .split(',')
        .filter(|p| !p.is_empty() && *p != property)
        .map(String::from)
        .collect();
    if local {
        set.push(property.to_string());
    }
    row[column("local")] = set.join(",");
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if entry.file_type()?.is_file() {
            copy_with_time(&entry.path(), &target)?;
        }
    }
    Ok(())
}

fn copy_with_time(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)?;
    let time = fs::metadata(from)?.modified()?;
    fs::File::options().append(true).open(to)?.set_modified(time)?;
    Ok(())
}

/// Makes `to` a copy of `from`. Files keep their times, and are renamed into
/// place.
fn restore(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if !from.join(entry.file_name()).exists() {
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            restore(&entry.path(), &target)?;
        } else {
            let temp = to.join(".rollback");
            copy_with_time(&entry.path(), &temp)?;
            fs::rename(&temp, &target)?;
        }
    }
    Ok(())
}
