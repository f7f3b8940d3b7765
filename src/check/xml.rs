//! Reads the configuration of zones, for groups that compare with it.

use super::Check;
use crate::load::error::FileError;
use crate::load::files::{self, FilePlace};
use crate::load::index::{IndexLine, IndexPiece, lines_of};
use crate::load::zonexml::ParsedXml;
use crate::vm::json::Json;

/// The text of the zone index.
///
/// # Errors
/// If the index can't be read.
pub(super) fn read_index(check: &Check) -> Result<String, FileError> {
    let path = check.settings.paths.zone_index();
    let place = FilePlace::At(&path);
    Ok(files::read_required(place, check.settings.load.index_bytes)?.text)
}

/// The zones of the index in its order, each with its first line. The global
/// zone is among them.
pub(super) fn zones(index: &str) -> Vec<(&str, IndexLine)> {
    let mut zones: Vec<(&str, IndexLine)> = Vec::new();
    let mut names = std::collections::HashSet::new();
    for line in lines_of(index) {
        if let IndexPiece::Zone(zonename, line) = line
            && names.insert(zonename)
        {
            zones.push((zonename, line));
        }
    }
    zones
}

/// The XML of a zone.
///
/// # Errors
/// If the XML can't be read or parsed.
pub(super) fn read(
    check: &Check,
    zonename: &str,
) -> Result<ParsedXml, FileError> {
    let path = check.settings.paths.zone_xml(zonename);
    let limit = check.settings.load.xml_bytes;
    Ok(files::read_zonexml(FilePlace::At(&path), limit)?.value)
}

/// Whether vmadm is working on a VM, by what it notes in the XML: datasets and
/// files come and go then.
pub(super) fn is_on_its_way(parsed: &ParsedXml) -> bool {
    let members = &parsed.xml.members;
    members.contains("transition_to")
        || members.get("provisioning") == Some(&Json::Bool(true))
}
