//! Paths, and the rules for names that become part of them.
//!
//! No other module holds a path. Every path is below `root`. So a directory
//! with the files and commands of a host, a *simulated host*, is all that the
//! daemon needs to run.

use std::path::{Component, Path, PathBuf};

/// How deep arrays and objects may nest in a JSON file. What the daemon makes
/// of the file nests up to [`JSON_WRAPPED`] deeper, and parsers of JSON, ours
/// and many others, accept no more than 128.
pub const JSON_DEPTH: usize = 100;

/// How much deeper the content of a JSON file nests in an event, or in the VMs
/// at the beginning of a stream: `vms`, VM, `tags`; `changes`, change,
/// `newValue`.
pub const JSON_WRAPPED: usize = 4;

/// The paths of a host.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// The paths below `root`; `/` is the running system.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    /// The directory that all others are below.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// zoneadm(8)
    #[must_use]
    pub fn zoneadm(&self) -> PathBuf {
        self.root.join("usr/sbin/zoneadm")
    }

    /// zfs(8)
    #[must_use]
    pub fn zfs(&self) -> PathBuf {
        self.root.join("usr/sbin/zfs")
    }

    /// kstat(8)
    #[must_use]
    pub fn kstat(&self) -> PathBuf {
        self.root.join("usr/bin/kstat")
    }

    /// sysevent(8)
    #[must_use]
    pub fn sysevent(&self) -> PathBuf {
        self.root.join("usr/sbin/sysevent")
    }

    /// A command of section 1 that describes this process or the system, such
    /// as zonename(1).
    #[must_use]
    pub fn user_command(&self, name: &str) -> PathBuf {
        self.root.join("usr/bin").join(name)
    }

    /// The output of sysinfo(8), kept in a file.
    #[must_use]
    pub fn sysinfo(&self) -> PathBuf {
        self.root.join("tmp/.sysinfo.json")
    }

    /// The zone index: which zones are configured.
    #[must_use]
    pub fn zone_index(&self) -> PathBuf {
        self.root.join("etc/zones/index")
    }

    /// The configuration of a zone, as zonecfg(8) keeps it.
    #[must_use]
    pub fn zone_xml(&self, zonename: &str) -> PathBuf {
        self.root.join("etc/zones").join(format!("{zonename}.xml"))
    }

    /// The file that describes a VM while it is being received.
    #[must_use]
    pub fn receiving(&self, uuid: &str) -> PathBuf {
        self.root.join("etc/zones").join(format!("{uuid}-receiving.json"))
    }

    /// The directory of a zone; `None` if `zonepath` is not absolute or
    /// leads upwards.
    #[must_use]
    pub fn zone_dir(&self, zonepath: &str) -> Option<PathBuf> {
        let below = Path::new(zonepath.strip_prefix('/')?);
        let plain = |c| matches!(c, Component::Normal(_));
        (below.components().count() > 0 && below.components().all(plain))
            .then(|| self.root.join(below))
    }
}

/// The directories in which event ports are tried out, unless others are given.
/// On the platform, one is on ZFS and the other on tmpfs.
pub const SCRATCH: [&str; 2] = ["/var/tmp", "/tmp"];

/// The directory of a VM's metadata, tags and routes, below its zonepath.
pub const CONFIG_DIR: &str = "config";

/// The path of a ZFS volume's raw device is this and the volume's name.
pub const ZVOL_RDSK: &str = "/dev/zvol/rdsk/";
/// The path of a ZFS volume's block device is this and the volume's name.
pub const ZVOL_DSK: &str = "/dev/zvol/dsk/";

/// Whether zonecfg(8) allows `name` as a zone's name: a letter or digit, then
/// letters, digits, `-`, `_` and `.`, at most 63 in all, and not `global` or
/// `SUNW…`. Only such a name becomes part of a path.
#[must_use]
pub fn is_zonename(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    name.len() < 64
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(allowed)
        && name != "global"
        && !name.starts_with("SUNW")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_zonecfg_allows_become_paths() {
        for good in ["lx-zone", "0f0368dc-de82-4cf1-8d08-a0bda024ba38", "a.b"] {
            assert!(is_zonename(good), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", "..", "a/b", "-a", "é", "global", "SUNWx", &long] {
            assert!(!is_zonename(bad), "{bad}");
        }
    }

    #[test]
    fn a_zonepath_stays_below_the_root() {
        let paths = Paths::new(Path::new("/r"));
        assert_eq!(paths.zone_dir("/zones/x"), Some("/r/zones/x".into()));
        for bad in ["", "/", "zones/x", "/zones/../../etc", "/zones/.."] {
            assert_eq!(paths.zone_dir(bad), None, "{bad}");
        }
    }
}
