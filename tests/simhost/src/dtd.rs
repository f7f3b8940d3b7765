//! How libzonecfg checks a zone's XML before it uses any of it: the document
//! must be well-formed, and valid by zonecfg.dtd.1.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use roxmltree::{Document, Node, ParsingOptions};

/// The parts of a valid document that are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZoneDocument {
    /// `zone/@name`
    pub name: String,
    /// `zone/@zonepath`
    pub zonepath: String,
    /// `zone/@brand`; empty if there is none.
    pub brand: String,
    /// `zone/@ip-type`
    pub iptype: String,
    /// `zone/@debugid`, if it is a number.
    pub debugid: Option<i64>,
}

/// An element: its name, its required attributes, its optional attributes, and
/// the elements that it may contain.
type Element = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    &'static [&'static str],
);

const ZONE_CHILDREN: &[&str] = &[
    "filesystem",
    "inherited-pkg-dir",
    "network",
    "device",
    "deleted-device",
    "rctl",
    "attr",
    "dataset",
    "package",
    "patch",
    "dev-perm",
    "tmp_pool",
    "pset",
    "mcap",
    "admin",
    "security-flags",
];

const ELEMENTS: &[Element] = &[
    (
        "zone",
        &["name", "zonepath", "autoboot"],
        &[
            "ip-type",
            "hostid",
            "pool",
            "limitpriv",
            "bootargs",
            "brand",
            "debugid",
            "scheduling-class",
            "fs-allowed",
            "version",
        ],
        ZONE_CHILDREN,
    ),
    ("filesystem", &["special", "directory", "type"], &["raw"], &["fsoption"]),
    ("fsoption", &["name"], &[], &[]),
    ("inherited-pkg-dir", &["directory"], &[], &[]),
    (
        "network",
        &["physical"],
        &[
            "address",
            "allowed-address",
            "defrouter",
            "global-nic",
            "mac-addr",
            "vlan-id",
        ],
        &["net-attr"],
    ),
    ("net-attr", &["name", "value"], &[], &[]),
    ("device", &["match"], &[], &["net-attr"]),
    ("deleted-device", &["match"], &[], &[]),
    ("rctl", &["name"], &[], &["rctl-value"]),
    ("rctl-value", &["priv", "limit", "action"], &[], &[]),
    ("attr", &["name", "type", "value"], &[], &[]),
    ("dataset", &["name"], &[], &[]),
    ("package", &["name", "version"], &[], &["patch"]),
    ("patch", &["id"], &[], &[]),
    ("dev-perm", &["name", "uid", "gid", "mode", "acl"], &[], &[]),
    ("tmp_pool", &["importance"], &[], &[]),
    ("pset", &["ncpu_min", "ncpu_max"], &[], &[]),
    ("mcap", &["physcap"], &[], &[]),
    ("admin", &["user", "auths"], &[], &[]),
    ("security-flags", &[], &["default", "lower", "upper"], &[]),
];

/// Attributes that may have only certain values: element, attribute, values.
const VALUES: &[(&str, &str, &[&str])] = &[
    ("zone", "autoboot", &["true", "false"]),
    ("zone", "version", &["1"]),
    ("attr", "type", &["boolean", "int", "string", "uint"]),
];

/// Reads and validates the XML of a zone; `None` if anything is wrong with it.
#[must_use]
pub fn read(root: &Path, zonename: &str) -> Option<ZoneDocument> {
    let path = root.join("etc/zones").join(format!("{zonename}.xml"));
    parse_on(root, &fs::read_to_string(path).ok()?)
}

/// Validates a document by the DTD of a host; `None` if anything is wrong with
/// it.
#[must_use]
pub fn parse_on(root: &Path, text: &str) -> Option<ZoneDocument> {
    let grown = fs::read_to_string(grown_path(root)).unwrap_or_default();
    let grown = grown.lines().filter_map(|line| line.split_once(' '));
    parse_by(&grown.collect::<Vec<_>>(), text)
}

/// Validates a document; `None` if anything is wrong with it.
#[must_use]
pub fn parse(text: &str) -> Option<ZoneDocument> {
    parse_by(&[], text)
}

fn grown_path(root: &Path) -> PathBuf {
    root.join("sim/dtd")
}

/// Makes the DTD of a host allow another attribute of an element, as the DTD of
/// a later platform may.
///
/// # Errors
/// Those of the file system.
pub fn grow(root: &Path, element: &str, attribute: &str) -> io::Result<()> {
    let mut grown = fs::read_to_string(grown_path(root)).unwrap_or_default();
    grown.push_str(&format!("{element} {attribute}\n"));
    fs::create_dir_all(root.join("sim"))?;
    fs::write(grown_path(root), grown)
}

/// Validates a document by a DTD that also allows these attributes.
fn parse_by(grown: Grown<'_>, text: &str) -> Option<ZoneDocument> {
    let options =
        ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).ok()?;
    let zone = document.root_element();
    let has_doctype = has_doctype(&text[..zone.range().start]);
    if !has_doctype || !is_valid(grown, zone, &["zone"]) {
        return None;
    }
    let of = |name| zone.attribute(name).unwrap_or_default().to_string();
    Some(ZoneDocument {
        name: of("name"),
        zonepath: of("zonepath"),
        brand: of("brand"),
        iptype: of("ip-type"),
        debugid: of("debugid").parse().ok(),
    })
}

/// Whether the text before the root element, except comments, names a document
/// type.
fn has_doctype(before: &str) -> bool {
    let mut rest = before;
    while let Some((text, after)) = rest.split_once("<!--") {
        if text.contains("<!DOCTYPE") {
            return true;
        }
        rest = after.split_once("-->").map_or("", |(_, after)| after);
    }
    rest.contains("<!DOCTYPE")
}

/// Attributes that the DTD allows besides its own: pairs of element and
/// attribute.
type Grown<'a> = &'a [(&'a str, &'a str)];

fn is_valid(grown: Grown<'_>, element: Node<'_, '_>, allowed: &[&str]) -> bool {
    let name = element.tag_name().name();
    let known = ELEMENTS.iter().find(|(known, ..)| *known == name);
    let Some((_, required, optional, children)) = known else { return false };
    let is_plain = element.tag_name().namespace().is_none()
        && element.namespaces().len() == 0;
    let has = |name: &&str| element.attribute(*name).is_some();
    let is_allowed = element.attributes().all(|attribute| {
        let own = attribute.name();
        let is_value = |(e, a, values): &(&str, &str, &[&str])| {
            (*e, *a) != (name, own) || values.contains(&attribute.value())
        };
        attribute.namespace().is_none()
            && (required.contains(&own)
                || optional.contains(&own)
                || grown.contains(&(name, own)))
            && VALUES.iter().all(is_value)
    });
    let is_child_valid = |child: Node<'_, '_>| match child.text() {
        _ if child.is_element() => is_valid(grown, child, children),
        Some(text) if child.is_text() => {
            !children.is_empty() && text.trim().is_empty()
        }
        _ => true,
    };
    allowed.contains(&name)
        && is_plain
        && required.iter().all(has)
        && is_allowed
        && element.children().all(is_child_valid)
}
