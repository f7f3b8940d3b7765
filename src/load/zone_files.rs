//! Reading the files of VMs, their watches armed first.

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

/// The most things that we refuse and the platform is known to accept.
const ACCEPTED_MAX: usize = 256;

/// What is refused here, and valid by the platform's DTD.
#[derive(Clone, Debug, Default)]
pub(super) struct Accepted(Arc<Mutex<BTreeSet<String>>>);

impl Accepted {
    /// The refusals that the platform is not known to share with us, or all if
    /// there may be more than are listed.
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
                log::warn!("the platform's DTD is a later one: {what}");
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
        // What libzonecfg refuses is not believed while there is something
        // better; else it is better than nothing, as the zone is there.
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
                    log::debug!("{zonename}: its XML has unknown {unknown:?}");
                }
                draft.set_xml(Arc::new(xml));
                draft.xml_names = Some((brand, zonepath));
            },
        );
        draft.xml_tried |= is_read;
        draft.refused = refused;
        if let Some(why) = fault {
            draft.fault(Source::ZoneXml, Some(why.into()));
            // Until it is mended, each load looks at it.
            let stamp = draft.stamps.get(Source::ZoneXml);
            let stamp = stamp.map(Stamp::never_holding);
            draft.stamps.set(Source::ZoneXml, stamp);
        }
    }

    /// What is refused here may be valid by the platform's own, later DTD:
    /// then zoneadm, which reads the XML, has a line of the zone.
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

    /// Whether zoneadm has a line of a zone, and its XML is still as it was
    /// when it was read.
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

    /// What zfs will be asked about new zones that are in the index, so that it
    /// need not wait for zoneadm. Their XMLs are read again when they are
    /// watched. For more than a few zones this is not worth it.
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

    /// Reads what is in the zone's own directories.
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

    /// A VM that is being received may say which dataset it will have.
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
