//! `vmadm update`, with changes given as `property=value`.

use std::fs;

use serde_json::{Map, Value};

use crate::xml;
use crate::{Host, Result};

/// Properties that are attributes in the XML: property, attribute, and whether
/// it is base64.
const ATTRS: &[(&str, &str, bool)] = &[
    ("alias", "alias", true),
    ("billing_id", "billing-id", false),
    ("dns_domain", "dns-domain", false),
    ("do_not_inventory", "do-not-inventory", false),
    ("failed", "failed", false),
    ("firewall_enabled", "firewall-enabled", false),
    ("flexible_disk_size", "flexible-disk-size", false),
    ("hostname", "hostname", false),
    ("owner_uuid", "owner-uuid", false),
    ("ram", "ram", false),
    ("resolvers", "resolvers", false),
    ("tmpfs", "tmpfs", false),
    ("vcpus", "vcpus", false),
    ("vm_autoboot", "vm-autoboot", false),
];

/// Properties that are rctls: property, rctl, and the unit of its limit (a MiB
/// for memory).
const RCTLS: &[(&str, &str, u64)] = &[
    ("cpu_cap", "zone.cpu-cap", 1),
    ("cpu_shares", "zone.cpu-shares", 1),
    ("max_lwps", "zone.max-lwps", 1),
    ("max_physical_memory", "zone.max-physical-memory", 1 << 20),
    ("max_swap", "zone.max-swap", 1 << 20),
    ("zfs_io_priority", "zone.zfs-io-priority", 1),
];

impl Host {
    /// Changes one property; an empty value removes it where it may be
    /// missing.
    ///
    /// ```text
    /// alias=web  cpu_cap=300  quota=20  autoboot=true
    /// tags.role=db  customer_metadata.key=value  routes.10.0.0.0/8=nics[0]
    /// add_nic=MAC  remove_nic=MAC  nics.MAC.ip=10.0.0.9
    /// add_disk=MIB  remove_disk=N
    /// ```
    ///
    /// # Errors
    /// If there is no such zone or property.
    pub fn update(
        &self,
        zonename: &str,
        property: &str,
        value: &str,
    ) -> Result<()> {
        let some = Some(value).filter(|v| !v.is_empty());
        if let Some((_, name, base64)) =
            ATTRS.iter().find(|(p, ..)| *p == property)
        {
            let encoded =
                some.map(|v| if *base64 { xml::base64(v) } else { v.into() });
            return self.edit_xml(zonename, |xml| {
                xml::set_attr(xml, name, encoded.as_deref())
            });
        }
        if let Some((_, name, unit)) =
            RCTLS.iter().find(|(p, ..)| *p == property)
        {
            let limit = value.parse::<u64>()? * unit;
            return self.edit_xml(zonename, |xml| {
                xml::set_rctl(xml, name, &limit.to_string())
            });
        }
        let parts: Vec<_> = property.splitn(2, '.').collect();
        match parts[..] {
            ["autoboot"] => self.edit_xml(zonename, |xml| {
                xml::set_zone_attribute(xml, "autoboot", value)
            }),
            ["quota"] => {
                let bytes = value.parse::<u64>()? << 30;
                let bhyve = self.entry(zonename)?.brand == "bhyve";
                let column = if bhyve { "refquota" } else { "quota" };
                let dataset = self.dataset_of(zonename)?;
                self.zfs_set(&dataset, column, &bytes.to_string())
            }
            ["tags", key] => {
                self.update_json(zonename, "tags.json", None, key, some)
            }
            ["routes", key] => {
                self.update_json(zonename, "routes.json", None, key, some)
            }
            [member @ ("customer_metadata" | "internal_metadata"), key] => {
                let file = "metadata.json";
                self.update_json(zonename, file, Some(member), key, some)
            }
            ["add_nic"] => self.add_nic(zonename, value),
            ["remove_nic"] => self.edit_xml(zonename, |xml| {
                let mark = format!("mac-addr=\"{value}\"");
                xml::remove_element(xml, "network", &mark)
            }),
            ["nics", rest] => {
                let (mac, name) =
                    rest.rsplit_once('.').ok_or("nics.MAC.PROPERTY")?;
                self.edit_xml(zonename, |xml| {
                    let mark = format!("mac-addr=\"{mac}\"");
                    xml::set_net_attr(xml, "network", &mark, name, value)
                })
            }
            ["add_disk"] => self.add_disk(zonename, value.parse()?),
            ["remove_disk"] => self.remove_disk(zonename, value),
            _ => Err(format!("{property}: no such property").into()),
        }
    }

    fn add_nic(&self, zonename: &str, mac: &str) -> Result<()> {
        let text = fs::read_to_string(self.xml_path(zonename))?;
        let n = text.matches("  <network ").count() as u64;
        let element = xml::nic(200, n, mac, None);
        self.edit_xml(zonename, |xml| xml::add_element(xml, &element))
    }

    fn disk_prefix(&self, zonename: &str) -> Result<String> {
        let own = self.dataset_of(zonename)?;
        let bhyve = self.entry(zonename)?.brand == "bhyve";
        Ok(format!("{own}{}disk", if bhyve { '/' } else { '-' }))
    }

    fn add_disk(&self, zonename: &str, mib: u64) -> Result<()> {
        let prefix = self.disk_prefix(zonename)?;
        let state = self.state()?;
        let free = (0..100)
            .map(|n| format!("{prefix}{n}"))
            .find(|name| state.dataset(name).is_none());
        let name = free.ok_or("too many disks")?;
        let refreservation = (mib << 20).to_string();
        let properties = [("refreservation", refreservation.as_str())];
        self.zfs_create(&name, Some(mib), &properties)?;
        let element = xml::disk(&name, mib, false);
        self.edit_xml(zonename, |xml| xml::add_element(xml, &element))
    }

    fn remove_disk(&self, zonename: &str, n: &str) -> Result<()> {
        let name = format!("{}{n}", self.disk_prefix(zonename)?);
        // The volume first: for a moment the disk is missing.
        self.zfs_destroy(&name)?;
        self.edit_xml(zonename, |xml| {
            let mark = format!("/dev/zvol/rdsk/{name}\"");
            xml::remove_element(xml, "device", &mark)
        })
    }

    fn update_json(
        &self,
        zonename: &str,
        file: &str,
        member: Option<&str>,
        key: &str,
        value: Option<&str>,
    ) -> Result<()> {
        let path = self.zone_dir(zonename)?.join("config").join(file);
        let text = fs::read_to_string(path).unwrap_or_else(|_| "{}".into());
        let mut json: Map<String, Value> = serde_json::from_str(&text)?;
        let target = match member {
            None => &mut json,
            Some(member) => json
                .entry(member)
                .or_insert_with(|| Value::Object(Map::new()))
                .as_object_mut()
                .ok_or("not an object")?,
        };
        match value {
            None => drop(target.remove(key)),
            Some(value) => {
                // A value that looks like a number or a boolean becomes one.
                let value = serde_json::from_str::<Value>(value)
                    .ok()
                    .filter(|v| v.is_number() || v.is_boolean())
                    .unwrap_or_else(|| Value::from(value));
                target.insert(key.to_string(), value);
            }
        }
        self.write_config(zonename, file, &Value::Object(json).to_string())
    }

    /// Rewrites the file of sysinfo(8) as that command does, with one member
    /// changed if one is given.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn touch_sysinfo(&self, member: Option<(&str, &str)>) -> Result<()> {
        let path = self.path("/tmp/.sysinfo.json");
        let text = fs::read_to_string(&path).unwrap_or_else(|_| "{}".into());
        let mut json: Map<String, Value> = serde_json::from_str(&text)?;
        if let Some((key, value)) = member {
            json.insert(key.to_string(), Value::from(value));
        }
        let temp = self
            .path("/tmp")
            .join(format!(".sysinfo.json.new.{}", std::process::id()));
        fs::write(&temp, Value::Object(json).to_string())?;
        fs::rename(temp, path)?;
        Ok(())
    }
}
