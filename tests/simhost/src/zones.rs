//! What zonecfg and zoneadm write: the XML of a zone, its line of the index,
//! and the events that libzonecfg publishes, each a step of its own.

use std::fs;
use std::path::PathBuf;

use crate::dtd::{self, ZoneDocument};
use crate::emit::{now_ns, ping, zone_change};
use crate::index::IndexEntry;
use crate::{Host, Result, xml};

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
    /// None at present: an index that can't be read has no zones.
    pub fn zonenames(&self) -> Result<Vec<String>> {
        let entries = self.index().into_iter();
        let names = entries.map(|e| e.zonename);
        Ok(names.filter(|name| name != "global").collect())
    }

    /// The first line of the index about a zone.
    pub(crate) fn entry(&self, zonename: &str) -> Result<IndexEntry> {
        let mut entries = self.index().into_iter();
        let entry = entries.find(|e| e.zonename == zonename);
        Ok(entry.ok_or_else(|| format!("{zonename}: no such zone"))?)
    }

    fn document(&self, zonename: &str) -> Result<ZoneDocument> {
        let read = dtd::read(self.root(), zonename);
        Ok(read
            .ok_or_else(|| format!("zonecfg: {zonename}: Invalid document"))?)
    }

    /// Fails if the zone is up. Such a zone can't be uninstalled, marked,
    /// renamed or deleted.
    fn must_be_down(&self, zonename: &str) -> Result<()> {
        match self.is_up(zonename)? {
            true => Err(format!("{zonename}: is running").into()),
            false => Ok(()),
        }
    }

    /// Replaces a zone's XML by hand: it is not validated, and the index stays
    /// as it is.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn replace_xml(&self, zonename: &str, xml: &str) -> Result<()> {
        let temp = self.path("/etc/zones").join(format!("{zonename}.xml.new"));
        fs::write(&temp, xml)?;
        fs::rename(&temp, self.xml_path(zonename))?;
        self.done()
    }

    /// Commits a zone's XML as libzonecfg does: the old file gets a second
    /// link, a temporary file is renamed over it, the zone's line of the index
    /// is written again, and the link is removed. No event reports it.
    ///
    /// # Errors
    /// If the document is not valid, and those of the file system.
    pub fn zonecfg(&self, zonename: &str, xml: &str) -> Result<()> {
        let document = dtd::parse_on(self.root(), xml);
        let document = document
            .ok_or_else(|| format!("zonecfg: {zonename}: Invalid document"))?;
        let path = self.xml_path(zonename);
        let dir = self.path("/etc/zones");
        let pid = std::process::id();
        let temp = dir.join(format!("zonecfg.a{:05x}", now_ns() & 0xf_ffff));
        let backup = dir.join(format!(".backup.{pid}.{zonename}.xml"));
        fs::write(&temp, xml)?;
        let existed = path.exists();
        if existed {
            fs::hard_link(&path, &backup)?;
        }
        fs::rename(&temp, &path)?;
        self.done()?;
        self.rewrite_index(
            |entry| {
                let mut entry = entry.clone();
                if entry.zonename == zonename {
                    refresh(&mut entry, &document);
                }
                Some(entry)
            },
            None,
        )?;
        if existed {
            fs::remove_file(&backup)?;
        }
        Ok(())
    }

    /// Edits a zone's XML with zonecfg.
    ///
    /// # Errors
    /// If there is none, or it is not valid.
    pub fn edit_xml(
        &self,
        zonename: &str,
        edit: impl FnOnce(&str) -> String,
    ) -> Result<()> {
        self.document(zonename)?;
        let text = fs::read_to_string(self.xml_path(zonename))?;
        self.zonecfg(zonename, &edit(&text))
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
        self.done()
    }

    /// Changes the line of a zone in the index, and nothing else.
    ///
    /// # Errors
    /// If the index can't be written.
    pub fn edit_index(
        &self,
        zonename: &str,
        edit: impl Fn(&mut IndexEntry),
    ) -> Result<()> {
        self.rewrite_index(
            |entry| {
                let mut entry = entry.clone();
                if entry.zonename == zonename {
                    edit(&mut entry);
                }
                Some(entry)
            },
            None,
        )
    }

    /// `zonecfg set uuid=`: no event reports it.
    ///
    /// # Errors
    /// If there is no such zone.
    pub fn set_uuid(&self, zonename: &str, uuid: &str) -> Result<()> {
        self.edit_xml(zonename, ToString::to_string)?;
        self.edit_index(zonename, |entry| entry.uuid = uuid.to_string())
    }

    /// `zonecfg create`, and its commit with a uuid. With `is_forced` (`create
    /// -F`), an existing zone is configured again, and no event reports the end
    /// of the old one.
    ///
    /// # Errors
    /// If the zone exists and it is not forced.
    pub fn zonecfg_create(
        &self,
        zonename: &str,
        xml: &str,
        is_forced: bool,
    ) -> Result<()> {
        let exists = self.entry(zonename).is_ok();
        if exists && !is_forced {
            return Err(format!("{zonename}: zone exists").into());
        }
        let document = dtd::parse_on(self.root(), xml);
        let document = document.ok_or("Invalid document")?;
        self.replace_xml(zonename, xml)?;
        let mut added = IndexEntry {
            zonename: zonename.to_string(),
            state: "configured".to_string(),
            zonepath: String::new(),
            uuid: String::new(),
            brand: String::new(),
            is_exclusive: true,
            debugid: None,
        };
        refresh(&mut added, &document);
        let is_own = |entry: &IndexEntry| entry.zonename == zonename;
        let edit = |entry: &IndexEntry| match is_own(entry) {
            true => Some(added.clone()),
            false => Some(entry.clone()),
        };
        self.rewrite_index(edit, (!exists).then_some(&added))?;
        self.publish(zone_change(zonename, "", "configured", -1))?;
        let uuid = zonename.to_string();
        self.edit_index(zonename, |entry| entry.uuid.clone_from(&uuid))
    }

    /// `zonecfg delete -F`: the event says that the zone was `configured`,
    /// whatever its state was.
    ///
    /// # Errors
    /// If it runs, or its XML can't be unlinked: then no event reports the
    /// deletion.
    pub fn zonecfg_delete(&self, zonename: &str) -> Result<()> {
        self.must_be_down(zonename)?;
        self.rewrite_index(
            |entry| (entry.zonename != zonename).then(|| entry.clone()),
            None,
        )?;
        match fs::remove_file(self.xml_path(zonename)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e.into());
            }
            _ => self.done()?,
        }
        self.publish(zone_change(zonename, "configured", "", -1))
    }

    /// `zonecfg set zonename=`: no event reports it.
    ///
    /// # Errors
    /// If there is no such zone, or it runs.
    pub fn rename(&self, zonename: &str, new: &str) -> Result<()> {
        self.must_be_down(zonename)?;
        self.document(zonename)?;
        let text = fs::read_to_string(self.xml_path(zonename))?;
        let text = xml::set_zone_attribute(&text, "name", new);
        self.replace_xml(new, &text)?;
        self.edit_index(zonename, |entry| entry.zonename = new.to_string())?;
        fs::remove_file(self.xml_path(zonename))?;
        self.done()
    }

    /// `zoneadm mark`, and every other change of the state in the index: first
    /// the index is written, then the event is published.
    ///
    /// # Errors
    /// If there is no such zone.
    pub fn mark(&self, zonename: &str, newstate: &str) -> Result<()> {
        let oldstate = self.entry(zonename)?.state;
        self.mark_from(zonename, &oldstate, newstate)
    }

    /// As [`Host::mark`], but the old state could not be found out.
    ///
    /// # Errors
    /// If there is no such zone.
    pub fn mark_from_unknown(&self, zonename: &str, new: &str) -> Result<()> {
        self.entry(zonename)?;
        self.mark_from(zonename, "unknown", new)
    }

    fn mark_from(&self, zonename: &str, old: &str, new: &str) -> Result<()> {
        self.edit_index(zonename, |entry| {
            entry.state = new.to_string();
            // A zone that becomes more than configured gets a uuid, if only a
            // random one.
            if entry.uuid.is_empty() && new != "configured" {
                entry.uuid = random_uuid();
            }
        })?;
        self.publish(zone_change(zonename, old, new, -1))
    }

    /// `zoneadm install`; `make_dataset` does what the brand does.
    ///
    /// # Errors
    /// If there is no such zone; those of the brand.
    pub fn install(
        &self,
        zonename: &str,
        make_dataset: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.mark(zonename, "incomplete")?;
        make_dataset()?;
        fs::create_dir_all(self.zone_dir(zonename)?.join("config"))?;
        self.mark(zonename, "installed")
    }

    /// `zoneadm clone`: as an installation, but from the dataset of another
    /// zone.
    ///
    /// # Errors
    /// If there is no such zone.
    pub fn clone_zone(&self, zonename: &str) -> Result<()> {
        let zonepath = self.entry(zonename)?.zonepath;
        let own = zonepath.trim_start_matches('/').to_string();
        self.install(zonename, || self.zfs_clone(&own, &[]))
    }

    /// `zoneadm uninstall -F`.
    ///
    /// # Errors
    /// If there is no such zone, or it runs.
    pub fn uninstall(&self, zonename: &str) -> Result<()> {
        self.must_be_down(zonename)?;
        let dir = self.zone_dir(zonename)?;
        let own = self.dataset_of(zonename)?;
        self.mark(zonename, "incomplete")?;
        let state = self.state()?;
        let pool = own.split('/').next().unwrap_or_default();
        let cores = format!("{pool}/cores/{zonename}");
        for name in [cores, own] {
            if state.dataset(&name).is_some() {
                self.zfs_destroy(&name)?;
            }
        }
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        self.mark(zonename, "configured")
    }

    /// `zoneadm detach`.
    ///
    /// # Errors
    /// If there is no such zone, or it runs.
    pub fn detach(&self, zonename: &str) -> Result<()> {
        self.must_be_down(zonename)?;
        self.mark(zonename, "configured")
    }

    /// `zoneadm attach`.
    ///
    /// # Errors
    /// If there is no such zone.
    pub fn attach(&self, zonename: &str) -> Result<()> {
        self.mark(zonename, "installed")
    }

    /// `zoneadm move`: the dataset, the XML and the index get a new path, and
    /// no zone event reports it.
    ///
    /// # Errors
    /// If there is no such zone, or it runs.
    pub fn move_zone(&self, zonename: &str, zonepath: &str) -> Result<()> {
        self.must_be_down(zonename)?;
        let (from, old) =
            (self.dataset_of(zonename)?, self.zone_dir(zonename)?);
        self.zfs_rename(&from, zonepath.trim_start_matches('/'))?;
        fs::rename(old, self.path(zonepath))?;
        self.edit_xml(zonename, |xml| {
            xml::set_zone_attribute(xml, "zonepath", zonepath)
        })
    }

    /// A record without data, as libzonecfg's helper publishes it.
    ///
    /// # Errors
    /// If it can't be published.
    pub fn zone_ping(&self) -> Result<()> {
        self.publish(ping())
    }

    /// Gives a zone a new debug id, as zoneadm does when it boots one whose id
    /// is missing or is also that of another zone.
    pub(crate) fn fix_debugid(&self, zonename: &str) -> Result<()> {
        let own = self.document(zonename)?.debugid;
        let others = self.index().into_iter();
        let mut others = others.filter(|e| e.zonename != zonename);
        let is_taken = others.any(|e| e.debugid == own);
        if own.is_some() && !is_taken {
            return Ok(());
        }
        let new = self.next_number()?.to_string();
        self.edit_xml(zonename, |xml| {
            xml::set_zone_attribute(xml, "debugid", &new)
        })
    }
}

/// Copies the values of the XML into the line of the index.
fn refresh(entry: &mut IndexEntry, document: &ZoneDocument) {
    entry.zonepath.clone_from(&document.zonepath);
    entry.brand.clone_from(&document.brand);
    entry.is_exclusive = document.iptype == "exclusive";
    entry.debugid = document.debugid.or(Some(-1));
}

fn random_uuid() -> String {
    let bits = now_ns().wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let hex = format!("{bits:032x}");
    format!(
        "{}-{}-4{}-8{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..]
    )
}
