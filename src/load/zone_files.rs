//! Reads the files of VMs. The watches of the files are armed before that.

use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::asker::Asker;
use super::draft::{Draft, likely};
use super::dtd::{REFUSALS_MAX, Refusal};
use super::error::FileProblem;
use super::files::{self, FilePlace, Folder, Stamped};
use super::pools::DatasetsWanted;
use super::question::Question;
use super::{ArmWatches, Loader};
use super::{zoneadm, zonexml};
use crate::config::CONFIG_DIR;
use crate::os::Stamp;
use crate::source::{Source, Sources, ZoneDir};
use crate::vm::json::Json;

/// The most zones with a refused XML about which zoneadm is asked in one load.
const REFUSED_MAX: usize = 16;

/// The most new zones whose XML is read before zoneadm has answered.
const LIKELY_MAX: usize = 16;

/// How many of the things that are refused here, but accepted by the platform,
/// are remembered.
const ACCEPTED_MAX: usize = 256;

/// The things that are refused here, but valid by the platform's DTD.
#[derive(Clone, Debug, Default)]
pub(super) struct Accepted(Arc<Mutex<BTreeSet<String>>>);

impl Accepted {
    /// The refusals of things that the platform is not known to accept; all
    /// refusals, if there may be more than are listed.
    fn refusals(&self, all: &[Refusal]) -> Vec<Refusal> {
        let accepted = self.0.lock();
        let is_open = |refusal: &&Refusal| {
            all.len() >= REFUSALS_MAX || !accepted.contains(&refusal.what)
        };
        all.iter().filter(is_open).cloned().collect()
    }

    fn accept(&self, refused: &[Refusal]) {
        let mut accepted = self.0.lock();
        for Refusal { what, .. } in refused {
            if accepted.len() < ACCEPTED_MAX && !accepted.contains(what) {
                log::warn!(
                    "zoneadm accepts XML that vminfod refuses, as the \
                     platform's DTD is newer; accepting it from now on: {what}"
                );
                accepted.insert(what.clone());
            }
        }
    }
}

impl Loader {
    pub(super) fn read_files(&self, drafts: &mut [Draft], arm: ArmWatches<'_>) {
        for draft in drafts.iter_mut().filter(|d| d.is_alive()) {
            let dir = draft.dir(&self.paths);
            if draft.needs_watches() {
                let rearm = draft.sources.contains(Sources::REARM);
                arm(&draft.zonename, dir.as_deref(), rearm);
            }
            self.read_files_of(draft, dir.as_deref());
        }
    }

    fn read_files_of(&self, draft: &mut Draft, dir: Option<&Path>) {
        if draft.sources.contains(Sources::XML) {
            self.read_xml_of(draft);
        }
        self.read_config_of(draft, dir);
        self.read_receiving(draft);
    }

    fn read_xml_of(&self, draft: &mut Draft) {
        let path = self.paths.zone_xml(&draft.zonename);
        let mut is_read = false;
        let mut refused = Vec::new();
        let mut fault = None;
        // An XML that libzonecfg refuses is not used while there is a good one.
        // Without a good one it is better than nothing, because the zone
        // exists.
        let has_good = draft.xml.as_ref().is_some_and(|xml| !xml.is_refused);
        let read = |place: FilePlace<'_>| {
            is_read = true;
            let mut dated = files::read_zonexml(place, self.limits.xml_bytes)?;
            refused = self.accepted.refusals(&dated.value.refused);
            dated.value.xml.is_refused = !refused.is_empty();
            let why = refused
                .first()
                .map(|what| place.error(FileProblem::Refused(what.clone())));
            match why {
                Some(why) if has_good => Err(why),
                why => {
                    fault = why;
                    Ok(dated)
                }
            }
        };
        draft.read_file(
            Source::ZoneXml,
            FilePlace::At(&path),
            read,
            |draft, parsed| {
                let zonexml::ParsedXml {
                    xml, brand, zonepath, unknown, ..
                } = parsed;
                if !unknown.is_empty() {
                    let zonename = &draft.zonename;
                    log::debug!(
                        "{zonename}: skipping unknown keys of its XML: \
                         {unknown:?}"
                    );
                }
                draft.set_xml(Arc::new(xml));
                draft.xml_names = Some((brand, zonepath));
            },
        );
        draft.xml_was_read |= is_read;
        draft.refused = refused;
        if let Some(why) = fault {
            draft.fault(Source::ZoneXml, Some(why.into()));
            // Until the XML is repaired, each load reads it again.
            let stamp = draft.stamps.get(Source::ZoneXml);
            let stamp = stamp.map(Stamp::never_holding);
            draft.stamps.set(Source::ZoneXml, stamp);
        }
    }

    /// Asks zoneadm about zones whose XML is refused here. The XML may be valid
    /// by the platform's own, later DTD. Then zoneadm, which reads the XML, has
    /// a line of the zone, and the XML is read again as a good one.
    pub(super) fn ask_of_refused(
        &self,
        drafts: &mut [Draft],
        asker: &Asker<'_>,
        arm: ArmWatches<'_>,
    ) {
        let may_be_good = |draft: &&mut Draft| {
            let count = draft.refused.len();
            draft.is_alive() && (1..REFUSALS_MAX).contains(&count)
        };
        let mut asked = 0;
        for draft in drafts.iter_mut().filter(may_be_good) {
            if !self.accepted.refusals(&draft.refused).is_empty() {
                asked += 1;
                if asked > REFUSED_MAX || !self.is_accepted(draft, asker) {
                    continue;
                }
                self.accepted.accept(&draft.refused);
            }
            draft.sources |= Sources::XML;
            self.read_files(std::slice::from_mut(draft), arm);
        }
    }

    /// Whether zoneadm has a line of a zone, and the same things are still
    /// refused in the zone's XML.
    fn is_accepted(&self, draft: &Draft, asker: &Asker<'_>) -> bool {
        let name = &draft.zonename;
        let answer = asker
            .get(&Question::Zone(Arc::clone(name)), |run, out| {
                zoneadm::answer(run, name, out)
            });
        let has_line = matches!(answer, Ok(zoneadm::ZoneAnswer::Row(_)));
        let path = self.paths.zone_xml(name);
        let place = FilePlace::At(&path);
        let is_same = || {
            let now = files::read_zonexml(place, self.limits.xml_bytes);
            let now = now.map(|now| self.accepted.refusals(&now.value.refused));
            now.is_ok_and(|now| now == draft.refused)
        };
        has_line && is_same()
    }

    /// What zfs will be asked about new zones that are in the index, so that
    /// zfs can be asked before zoneadm has answered. The XMLs of these zones
    /// are read again once they are watched. For more than a few zones this is
    /// not worth it.
    pub(super) fn likely(&self, unknown: &[&Draft]) -> DatasetsWanted {
        let mut wanted = DatasetsWanted::default();
        if !(1..=LIKELY_MAX).contains(&unknown.len()) {
            return wanted;
        }
        let Ok(index) = self.index() else { return wanted };
        let configured =
            unknown.iter().filter(|d| index.line(&d.zonename).is_some());
        for draft in configured {
            let path = self.paths.zone_xml(&draft.zonename);
            let read = files::read_zonexml(
                FilePlace::At(&path),
                self.limits.xml_bytes,
            );
            if let Ok(Stamped { value, .. }) = read {
                wanted.extend(likely(&value.zonepath, &value.xml));
            }
        }
        wanted
    }

    /// Reads the files in the zone's own directories.
    fn read_config_of(&self, draft: &mut Draft, dir: Option<&Path>) {
        let sources = draft.sources;
        let mut files = Source::zone_files()
            .filter(|(file, _)| sources.has(*file))
            .peekable();
        if files.peek().is_none() {
            return;
        }
        let zonepath = Folder::open(dir);
        let config = LazyCell::new(|| zonepath.open_below(CONFIG_DIR));
        for (file, dir) in files {
            let folder = match dir {
                ZoneDir::Zonepath => &zonepath,
                ZoneDir::Config => &*config,
            };
            let place = FilePlace::In(folder, file.name());
            if file == Source::LastExited {
                let limit = self.limits.lastexited_bytes;
                draft.read_file(
                    file,
                    place,
                    |place| files::read_lastexited(place, limit),
                    |draft, exit| draft.lastexited = exit,
                );
                continue;
            }
            let limit = self.limits.json_bytes;
            draft.read_file(
                file,
                place,
                |place| files::read_maps(place, limit, file),
                |draft, maps| {
                    for (at, map) in maps {
                        draft.maps[at] = Some(map);
                    }
                },
            );
        }
    }

    /// Reads which dataset a VM that is being received will have, if vmadm(8)
    /// has noted it.
    fn read_receiving(&self, draft: &mut Draft) {
        draft.fault(Source::Receiving, None);
        let is_receiving = draft.xml.as_ref().map(|xml| xml.is_receiving());
        let uuid = draft.row.as_ref().and_then(|row| row.uuid.as_ref());
        let (Some(true), Some(uuid)) = (is_receiving, uuid) else {
            draft.receiving = None;
            return;
        };
        let path = self.paths.receiving(uuid);
        match files::read_json(FilePlace::At(&path), self.limits.json_bytes) {
            Ok(json) => {
                draft.receiving = json
                    .value
                    .get("zfs_filesystem")
                    .and_then(Json::as_str)
                    .map(Arc::from);
            }
            Err(e) => draft.fault(Source::Receiving, Some(e.into())),
        }
    }
}
