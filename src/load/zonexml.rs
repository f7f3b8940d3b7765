//! A zone's XML, as zonecfg(8) keeps it in `/etc/zones`: most properties of a
//! VM, its nics, disks and filesystems.
//!
//! The order of the document is kept, because it is the order of the VM
//! object's members.

use std::sync::Arc;

use roxmltree::{Document, Node, ParsingOptions};

use crate::load::dtd::{self, Refusal};
use crate::load::error::XmlError;
use crate::vm::json::{Json, Object};
use crate::vm::properties::{Holder, IGNORED, of_key};
use crate::vm::values::number;

/// The most elements, attributes and texts of a document.
const NODES_MAX: u32 = 100_000;

/// The most attributes of a document, counted by their `=`. If the document has
/// entities, which may repeat attributes, a tenth of this is the limit.
const ATTRIBUTES_MAX: usize = 10_000;

/// What a zone's XML says.
#[derive(Clone, Debug, PartialEq)]
pub struct ZoneXml {
    /// The members of the VM object that come from here, in order.
    pub members: Object,
    /// Datasets that are delegated to the zone.
    pub datasets: Vec<Arc<str>>,
    /// The paths of its disks.
    pub disk_paths: Vec<Arc<str>>,
    /// Whether libzonecfg refuses it.
    pub is_refused: bool,
}

/// A zone's XML as it was read, together with what is needed only during the
/// load.
#[derive(Clone, Debug)]
pub struct ParsedXml {
    /// What is kept.
    pub xml: ZoneXml,
    /// The zone's brand.
    pub brand: String,
    /// The zone's directory.
    pub zonepath: String,
    /// The zone's name. zoneadm takes it, the IP type and the debug id from the
    /// XML, too.
    pub name: String,
    /// The zone's `ip-type`; empty if the document has none, which means
    /// `shared`.
    pub iptype: String,
    /// The zone's `debugid`; empty if the document has none.
    pub debugid: String,
    /// Keys that are in no table: they are skipped.
    pub unknown: Vec<String>,
    /// What libzonecfg refuses in the document, unless its DTD is a later one.
    pub refused: Vec<Refusal>,
}

impl ZoneXml {
    /// Whether this is the XML of another VM than `new`: the two were created
    /// at different times.
    #[must_use]
    pub fn is_another_than(&self, new: &Self) -> bool {
        let [old, new] =
            [self, new].map(|xml| xml.members.get_str("create_timestamp"));
        matches!((old, new), (Some(old), Some(new)) if old != new)
    }

    /// Whether vmadm(8) is receiving the VM.
    #[must_use]
    pub fn is_receiving(&self) -> bool {
        self.members.get_str("state") == Some("receiving")
    }
}

/// What a brand changes in a VM object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrandRules {
    /// Whether the VM runs in hardware virtualisation, and has disks.
    pub hvm: bool,
    /// Whether the VM's `autoboot` comes from the attribute `vm-autoboot`.
    pub use_vm_autoboot: bool,
    /// Whether the quota comes from the column `refquota`.
    pub use_refquota: bool,
}

/// The rules of a brand. An unknown brand has the rules of `joyent`.
#[must_use]
pub fn brand_rules(brand: &str) -> BrandRules {
    BrandRules {
        hvm: matches!(brand, "bhyve" | "kvm"),
        use_vm_autoboot: brand == "kvm",
        use_refquota: brand == "bhyve",
    }
}

/// Parses the XML of a zone.
///
/// # Errors
/// If the document is malformed, or is not that of a zone with a brand.
pub fn parse(text: &str) -> Result<ParsedXml, XmlError> {
    // The parser compares each attribute of an element with each other one.
    let most = if text.contains("<!ENTITY") {
        ATTRIBUTES_MAX / 10
    } else {
        ATTRIBUTES_MAX
    };
    if text.bytes().filter(|b| *b == b'=').count() > most {
        return Err(XmlError::Attributes(most));
    }
    let options = ParsingOptions {
        allow_dtd: true,
        nodes_limit: NODES_MAX,
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(text, options)
        .map_err(|e| XmlError::Malformed(e.to_string()))?;
    let zone = document.root_element();
    if zone.tag_name().name() != "zone" {
        return Err(XmlError::Root(zone.tag_name().name().to_string()));
    }
    let Some(brand) = zone.attribute("brand").filter(|b| !b.is_empty()) else {
        return Err(XmlError::NoBrand);
    };
    let mut reader = Reader::default();
    reader.zone(zone);
    let zonepath = zone.attribute("zonepath").unwrap_or_default();
    let refused = dtd::refusals(&document);
    let mut parsed = reader.finish(brand, zonepath);
    parsed.xml.is_refused = !refused.is_empty();
    let text = |name| attribute(zone, name).to_string();
    let (name, iptype, debugid) =
        (text("name"), text("ip-type"), text("debugid"));
    Ok(ParsedXml { refused, name, iptype, debugid, ..parsed })
}

/// Collects members while walking the document.
#[derive(Default)]
struct Reader {
    vm: Object,
    nics: Vec<Object>,
    disks: Vec<Object>,
    pci_devices: Vec<Object>,
    filesystems: Vec<Object>,
    datasets: Vec<Arc<str>>,
    unknown: Vec<String>,
}

impl Reader {
    fn zone(&mut self, zone: Node<'_, '_>) {
        for attribute in zone.attributes() {
            self.zone_key(attribute.name(), attribute.value());
        }
        let mut key = String::new();
        for child in zone.children().filter(Node::is_element) {
            match child.tag_name().name() {
                "attr" => {
                    set_key(&mut key, &["attr", attribute(child, "name")]);
                    self.zone_key(&key, attribute(child, "value"));
                }
                "rctl" => self.rctl(child),
                "network" => {
                    let nic = self.element(child, "network", Holder::Nic);
                    self.append("nics", |r| &mut r.nics, nic);
                }
                "device" => self.device(child),
                "filesystem" => {
                    let filesystem = self.filesystem(child);
                    self.append(
                        "filesystems",
                        |r| &mut r.filesystems,
                        filesystem,
                    );
                }
                "dataset" => {
                    self.vm.set_default("datasets", || Json::Null);
                    self.datasets.push(attribute(child, "name").into());
                }
                other => self.unknown_key(other),
            }
        }
    }

    /// Adds an element to an array. The first element gives the array its place
    /// in the object; the array itself is set at the end.
    fn append(
        &mut self,
        member: &'static str,
        array: impl Fn(&mut Self) -> &mut Vec<Object>,
        element: Object,
    ) {
        self.vm.set_default(member, || Json::Null);
        array(self).push(element);
    }

    fn zone_key(&mut self, key: &str, value: &str) {
        match of_key(Holder::Vm, key) {
            Some(p) => self.vm.set(p.name, p.kind.value(value)),
            None => self.unknown_key(key),
        }
    }

    fn unknown_key(&mut self, key: &str) {
        if !IGNORED.contains(&key) {
            self.unknown.push(key.to_string());
        }
    }

    fn rctl(&mut self, rctl: Node<'_, '_>) {
        let name = attribute(rctl, "name");
        let mut key = String::new();
        for value in elements(rctl, "rctl-value") {
            let privilege = attribute(value, "priv");
            let action = attribute(value, "action");
            set_key(&mut key, &["rctl", name, privilege, action]);
            self.zone_key(&key, attribute(value, "limit"));
        }
    }

    /// An element's attributes and its `<net-attr>` children.
    fn element(
        &mut self,
        element: Node<'_, '_>,
        scope: &str,
        holder: Holder,
    ) -> Object {
        let mut object = Object::new();
        let mut set = |key: &str, value: &str| match of_key(holder, key) {
            Some(p) => object.set(p.name, p.kind.value(value)),
            None => self.unknown_key(&format!("{scope}.{key}")),
        };
        for attribute in element.attributes() {
            set(attribute.name(), attribute.value());
        }
        let mut property = String::new();
        for child in elements(element, "net-attr") {
            set_key(&mut property, &["net-attr", attribute(child, "name")]);
            set(&property, attribute(child, "value"));
        }
        object
    }

    fn device(&mut self, device: Node<'_, '_>) {
        // The parser of the reference implementation leaves this member behind,
        // and clients know it.
        self.vm.set_default("device", || Json::Null);
        let object = self.element(device, "device", Holder::Disk);
        if object.get_str("model") == Some("passthru") {
            self.append("pci_devices", |r| &mut r.pci_devices, object);
        } else {
            self.append("disks", |r| &mut r.disks, object);
        }
    }

    fn filesystem(&mut self, filesystem: Node<'_, '_>) -> Object {
        let mut object =
            self.element(filesystem, "filesystem", Holder::Filesystem);
        let options: Vec<_> = elements(filesystem, "fsoption")
            .map(|option| Json::from(attribute(option, "name")))
            .collect();
        if !options.is_empty() {
            object.set("options", options);
        }
        object
    }

    fn finish(mut self, brand: &str, zonepath: &str) -> ParsedXml {
        let rules = brand_rules(brand);
        self.nics.sort_by_key(|nic| {
            numbered(nic.get_str("interface"), |name| name.strip_prefix("net"))
        });
        self.disks.sort_by_key(|disk| {
            numbered(disk.get_str("path"), |path| {
                let (before, number) = path.rsplit_once("disk")?;
                before.ends_with(['-', '/']).then_some(number)
            })
        });
        let disk_paths = self.disks.iter().filter_map(|disk| {
            let Some(Json::String(path)) = disk.get("path") else {
                return None;
            };
            Some(Arc::clone(path))
        });
        let disk_paths = disk_paths.collect();
        let arrays = [
            ("nics", self.nics, true),
            ("disks", self.disks, rules.hvm),
            ("pci_devices", self.pci_devices, false),
            ("filesystems", self.filesystems, false),
        ];
        for (name, array, is_default) in arrays {
            if is_default || !array.is_empty() {
                let array: Vec<_> = array.into_iter().map(Json::from).collect();
                self.vm.set(name, array);
            }
        }
        if !self.datasets.is_empty() {
            let names: Vec<_> = self.datasets.iter().map(Json::from).collect();
            self.vm.set("datasets", names);
        }
        if rules.use_vm_autoboot {
            match self.vm.remove("vm_autoboot") {
                Some(autoboot) => self.vm.set("autoboot", autoboot),
                None => drop(self.vm.remove("autoboot")),
            }
        }
        split_transition(&mut self.vm);
        ParsedXml {
            xml: ZoneXml {
                datasets: self.datasets,
                disk_paths,
                is_refused: false,
                members: self.vm.fitted(),
            },
            brand: brand.to_string(),
            zonepath: zonepath.to_string(),
            name: String::new(),
            iptype: String::new(),
            debugid: String::new(),
            unknown: self.unknown,
            refused: Vec::new(),
        }
    }
}

/// Splits the value `STATE:TO:EXPIRE`, which vmadm notes while it takes a VM
/// from one state to another. Any other value stays as it is.
fn split_transition(vm: &mut Object) {
    let Some(transition) = vm.get_str("transition") else { return };
    let transition = transition.trim_end().to_string();
    let fields: Vec<_> = transition.split(':').collect();
    if let [state, to, expire] = fields[..] {
        vm.remove("transition");
        vm.set("state", state);
        vm.set("transition_to", to);
        vm.set("transition_expire", number(expire));
    }
}

/// The number that a name ends with, for sorting; 0 if it has none.
fn numbered(
    name: Option<&str>,
    number_of: impl Fn(&str) -> Option<&str>,
) -> u64 {
    name.and_then(number_of)
        .filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

/// Sets `key` to these parts, joined by dots. There are some thirty keys in a
/// document, and so one allocation serves many.
fn set_key(key: &mut String, parts: &[&str]) {
    key.clear();
    for (n, part) in parts.iter().enumerate() {
        if n > 0 {
            key.push('.');
        }
        key.push_str(part);
    }
}

fn attribute<'a>(node: Node<'a, '_>, name: &str) -> &'a str {
    node.attribute(name).unwrap_or_default()
}

fn elements<'a, 'i>(
    node: Node<'a, 'i>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(move |child| child.has_tag_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(attributes: &str, children: &str) -> ZoneXml {
        parsed(attributes, children).xml
    }

    fn parsed(attributes: &str, children: &str) -> ParsedXml {
        parse(&format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <!DOCTYPE zone PUBLIC \"-//Sun Microsystems Inc//DTD Zones//EN\" \
             \"file:///usr/share/lib/xml/dtd/zonecfg.dtd.1\">\n\
             <!-- edited -->\n\
             <zone name=\"z\" zonepath=\"/zones/z\" {attributes}>{children}\
             </zone>"
        ))
        .unwrap()
    }

    fn text(xml: &ZoneXml) -> String {
        Json::from(xml.members.clone()).to_string()
    }

    #[test]
    fn members_stand_in_document_order() {
        let ParsedXml { xml, unknown, .. } = parsed(
            "autoboot=\"true\" brand=\"joyent\" ip-type=\"exclusive\"",
            "<attr name=\"b\" value=\"skipped\"/>\
             <attr name=\"transition\" value=\"a:b:17 \"/>\
             <filesystem special=\"/s\" directory=\"/d\" type=\"lofs\">\
             <fsoption name=\"ro\"/></filesystem>\
             <rctl name=\"zone.cpu-cap\"><rctl-value priv=\"privileged\" \
             limit=\"200\" action=\"deny\"/></rctl>\
             <dataset name=\"zones/z/data\"/>",
        );
        assert_eq!(
            text(&xml),
            "{\"zonename\":\"z\",\"autoboot\":true,\"brand\":\"joyent\",\
             \"filesystems\":[{\"source\":\"/s\",\"target\":\"/d\",\
             \"type\":\"lofs\",\"options\":[\"ro\"]}],\"cpu_cap\":200,\
             \"datasets\":[\"zones/z/data\"],\"nics\":[],\"state\":\"a\",\
             \"transition_to\":\"b\",\"transition_expire\":17}"
        );
        assert_eq!(unknown, ["attr.b"]);
    }

    #[test]
    fn disks_are_sorted_and_passthru_devices_listed_separately() {
        let device = |path: &str, model: &str| {
            format!(
                "<device match=\"{path}\"><net-attr name=\"model\" \
                 value=\"{model}\"/></device>"
            )
        };
        let xml = zone(
            "brand=\"bhyve\"",
            &[
                device("/dev/zvol/rdsk/zones/z-disk10", "virtio"),
                device("/dev/ppt0", "passthru"),
                device("/dev/zvol/rdsk/zones/z/disk2", "virtio"),
            ]
            .concat(),
        );
        assert_eq!(
            text(&xml),
            "{\"zonename\":\"z\",\"brand\":\"bhyve\",\"device\":null,\
             \"disks\":[{\"path\":\"/dev/zvol/rdsk/zones/z/disk2\",\
             \"model\":\"virtio\"},{\"path\":\
             \"/dev/zvol/rdsk/zones/z-disk10\",\"model\":\"virtio\"}],\
             \"pci_devices\":[{\"path\":\"/dev/ppt0\",\"model\":\
             \"passthru\"}],\"nics\":[]}"
        );
    }

    #[test]
    fn autoboot_of_a_kvm_zone_comes_from_vm_autoboot() {
        let xml = zone("autoboot=\"true\" brand=\"kvm\"", "");
        assert_eq!(xml.members.get("autoboot"), None);
        let vm_autoboot = "<attr name=\"vm-autoboot\" value=\"false\"/>";
        let xml = zone("autoboot=\"true\" brand=\"kvm\"", vm_autoboot);
        assert_eq!(xml.members.get("autoboot"), Some(&Json::Bool(false)));
        assert_eq!(xml.members.get("vm_autoboot"), None);
        let xml = zone("autoboot=\"true\" brand=\"bhyve\"", vm_autoboot);
        assert_eq!(xml.members.get("autoboot"), Some(&Json::Bool(true)));
    }

    #[test]
    fn attributes_are_bounded() {
        let zone = |count: usize| {
            let all: Vec<_> =
                (0..count).map(|n| format!("a{n}=\"1\"")).collect();
            format!("<zone brand=\"lx\" {}/>", all.join(" "))
        };
        assert!(parse(&zone(1000)).is_ok());
        let error = parse(&zone(10_000)).unwrap_err();
        assert_eq!(error, XmlError::Attributes(10_000));
        let entity = "<!DOCTYPE zone [<!ENTITY a \"x\">]>".to_string();
        assert!(parse(&(entity + &zone(1001))).is_err());
    }

    #[test]
    fn a_document_that_is_not_a_zone_is_an_error() {
        for bad in [
            "",
            "<zone name=\"z\" brand=\"lx\">",
            "<zone name=\"z\"/>",
            "<zone name=\"z\" brand=\"\"/>",
            "<service brand=\"lx\"/>",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let bomb = "<!DOCTYPE zone [<!ENTITY a \"aaaaaaaaaa\">\
                    <!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;\">\
                    <!ENTITY c \"&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;\">\
                    <!ENTITY d \"&c;&c;&c;&c;&c;&c;&c;&c;&c;&c;\">]>\
                    <zone name=\"z\" brand=\"&d;&d;&d;&d;\"/>";
        assert!(parse(bomb).is_err());
    }
}
