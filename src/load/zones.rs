//! Finds out which zones exist: from what zoneadm says of each, and, if zoneadm
//! has no line of a zone, from the zone index.
//!
//! | index has a line | kernel has the zone | verdict |
//! |---|---|---|
//! | yes | any | it exists, whatever its XML is |
//! | no | yes | it exists: it runs |
//! | no | no | it is gone |
//! | can't be read | any | not known: nothing is deleted |

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::asker::Asker;
use super::draft::Draft;
use super::error::{FileError, LoadError, OutputError};
use super::files::{self, FilePlace};
use super::index::{IndexLine, ZoneIndex};
use super::question::Question;
use super::zoneadm::{self, ZoneAnswer, ZoneRow};
use super::{ArmWatches, LoadRequest, Loader, NoAnswer};
use crate::source::{Source, Sources};

/// How many zones a listing may lack before a load no longer asks for all of
/// them by name.
const ABSENT_MAX: usize = 16;

/// Every zone that zoneadm lists, by zonename.
type Rows = HashMap<Arc<str>, ZoneRow>;

/// What one load finds out about zones. The index and the list of all zones are
/// read when they are needed, and only once.
struct ZoneLookup<'a> {
    asker: &'a Asker<'a>,
    index: Option<Result<ZoneIndex, FileError>>,
    listing: Option<Result<Rows, NoAnswer>>,
}

impl<'a> ZoneLookup<'a> {
    fn new(asker: &'a Asker<'a>) -> Self {
        Self { asker, index: None, listing: None }
    }

    fn index(&mut self) -> &Result<ZoneIndex, FileError> {
        let loader = self.asker.loader();
        self.index.get_or_insert_with(|| loader.index())
    }

    /// Whether the index has a line of a zone.
    fn has_line(&mut self, zonename: &str) -> Result<bool, FileError> {
        let index = self.index().as_ref().map_err(Clone::clone)?;
        Ok(index.line(zonename).is_some())
    }

    /// The line of a zone in the listing of all zones.
    fn listed(&mut self, zonename: &str) -> Result<Option<ZoneRow>, NoAnswer> {
        let asker = self.asker;
        let listing = self.listing.get_or_insert_with(|| {
            let listing = asker.get(&Question::Zones, zoneadm::listing)?;
            let mut by_name = HashMap::with_capacity(listing.rows.len());
            for row in listing.rows {
                // If several lines have the same name, the first is that of the
                // zone.
                by_name.entry(Arc::clone(&row.zonename)).or_insert(row);
            }
            Ok(by_name)
        });
        let rows = listing.as_ref().map_err(Clone::clone)?;
        Ok(rows.get(zonename).cloned())
    }

    /// Takes zoneadm's line of a zone. zoneadm has the uuid from the index, and
    /// if it can't read the index, or not all of it, the line of a zone that
    /// runs has no uuid. Then the uuid is read from the index here.
    fn take_row(&mut self, draft: &mut Draft, mut row: ZoneRow) {
        let mut why = None;
        if !row.uuid_is_set {
            match self.index().as_ref().map(|i| i.line(&row.zonename)) {
                Ok(Some(IndexLine { uuid: Some(uuid), .. })) => {
                    row.set_uuid(uuid);
                }
                Ok(_) => {}
                Err(error) => why = Some(error.clone().into()),
            }
        }
        draft.fault(Source::Index, why);
        draft.set_row(row);
    }

    /// Asks for several zones, by one listing of all zones.
    fn ask_all(&mut self, drafts: Vec<&mut Draft>) {
        let mut absent = Vec::new();
        for draft in drafts {
            match self.listed(&draft.zonename) {
                Ok(Some(row)) => self.take_row(draft, row),
                Ok(None) => absent.push(draft),
                Err(e) => draft.no_answer(Source::Zoneadm, &e),
            }
        }
        let unknown = absent.iter().filter(|d| d.prior.is_none()).count();
        for draft in absent {
            // A zone that is neither known nor in the index is not asked for by
            // name: there is nothing to delete, and events of zones that never
            // existed must not cost one run each.
            let is_unknown_zone = unknown > ABSENT_MAX
                && draft.prior.is_none()
                && self.has_line(&draft.zonename) == Ok(false);
            if is_unknown_zone {
                draft.is_gone = true;
            } else {
                self.ask(draft);
            }
        }
    }

    /// Asks for one zone by its name.
    fn ask(&mut self, draft: &mut Draft) {
        let question = Question::Zone(Arc::clone(&draft.zonename));
        let name = &draft.zonename;
        let answer = self
            .asker
            .get(&question, |run, output| zoneadm::answer(run, name, output));
        match answer {
            Ok(ZoneAnswer::Row(row)) => self.take_row(draft, row),
            Ok(ZoneAnswer::NotInKernel) => self.decide_without_row(draft, None),
            Err(why) => self.decide_without_row(draft, Some(why)),
        }
    }

    /// Decides whether a zone exists of which zoneadm, asked for it by name,
    /// gave no line. `why` is zoneadm's error; `None` if zoneadm said that the
    /// kernel does not have the zone.
    fn decide_without_row(&mut self, draft: &mut Draft, why: Option<NoAnswer>) {
        let has_line = self.has_line(&draft.zonename);
        match (has_line, why) {
            (has_line, Some(why @ NoAnswer::NotYet(_))) => {
                draft.is_configured = has_line == Ok(true);
                draft.no_answer(Source::Zoneadm, &why);
            }
            (Ok(false), None) => draft.is_gone = true,
            (Ok(false), Some(e)) => draft.no_answer(Source::Zoneadm, &e),
            (Ok(true), _) => {
                draft.is_configured = true;
                match self.listed(&draft.zonename) {
                    Ok(Some(row)) => {
                        self.take_row(draft, row);
                        // Reading the XML shows what is wrong with it.
                        draft.sources |= Sources::XML;
                    }
                    Ok(None) => {
                        let error = LoadError::NotListed;
                        draft.fault(Source::Zoneadm, Some(error));
                    }
                    Err(e) => draft.no_answer(Source::Zoneadm, &e),
                }
            }
            (Err(why), _) => {
                let error = LoadError::NoIndex(why);
                draft.fault(Source::Zoneadm, Some(error));
            }
        }
    }
}

/// Every zone that a full load has found.
pub(super) struct AllZones {
    /// In zoneadm's order, followed by the zones that it has not listed.
    pub drafts: Vec<Draft>,
    /// The zone index, or why it can't be read.
    pub index: Result<ZoneIndex, FileError>,
    /// What is wrong with zoneadm's listing, if anything.
    pub error: Option<LoadError>,
}

impl Loader {
    /// Reads the zone index.
    ///
    /// # Errors
    /// If it can't be read, or lacks the global zone. Then the index says
    /// nothing about any zone.
    pub fn index(&self) -> Result<ZoneIndex, FileError> {
        let path = self.paths.zone_index();
        let place = FilePlace::At(&path);
        let file = files::read_required(place, self.limits.index_bytes)?;
        ZoneIndex::parse(file.text).map_err(|e| place.error(e))
    }

    /// Asks zoneadm for the zones whose line must be read.
    pub(super) fn read_rows(&self, drafts: &mut [Draft], asker: &Asker<'_>) {
        let mut asked: Vec<_> = drafts
            .iter_mut()
            .filter(|d| d.sources.contains(Sources::ZONEADM))
            .collect();
        let mut zones = ZoneLookup::new(asker);
        for draft in &mut asked {
            draft.zoneadm_was_asked = true;
        }
        match &mut asked[..] {
            [] => {}
            [draft] => zones.ask(draft),
            _ => zones.ask_all(asked),
        }
    }

    /// Asks zoneadm for the zones whose XML, which has just been read, shows
    /// that the known line has changed, is missing, or belongs to another zone.
    pub(super) fn read_changed_rows(
        &self,
        drafts: &mut [Draft],
        asker: &Asker<'_>,
        arm: ArmWatches<'_>,
    ) {
        let mut zones = ZoneLookup::new(asker);
        for draft in drafts.iter_mut().filter(|d| d.is_alive()) {
            let is_wanted = draft.sources.contains(Sources::ZONEADM)
                || draft.row_may_be_outdated();
            if draft.zoneadm_was_asked || !is_wanted {
                continue;
            }
            draft.zoneadm_was_asked = true;
            draft.sources |= Sources::STATE;
            let (dir, sources) = (draft.dir(&self.paths), draft.sources);
            zones.ask(draft);
            let has_changed =
                draft.dir(&self.paths) != dir || draft.sources != sources;
            if draft.is_alive() && has_changed {
                self.read_files(std::slice::from_mut(draft), arm);
            }
        }
    }

    /// Lists every zone. A zone that is not listed, but is known or has a line
    /// in the index, is asked for by name.
    ///
    /// # Errors
    /// If zoneadm fails, or has not answered yet.
    pub(super) fn all_zones(
        &self,
        asker: &Asker<'_>,
        mut request: impl FnMut(&Arc<str>) -> LoadRequest,
        known: impl Iterator<Item = Arc<str>>,
    ) -> Result<AllZones, NoAnswer> {
        // A later change of the index makes an event, and that event has the
        // index read again.
        let index = self.index();
        let mut listing = asker.get(&Question::Zones, zoneadm::listing)?;
        let mut drafts = Vec::with_capacity(listing.rows.len());
        let mut listed = BTreeSet::new();
        let mut zones = ZoneLookup::new(asker);
        for row in std::mem::take(&mut listing.rows) {
            // If several lines have the same name, the first is that of the
            // zone.
            if listed.insert(Arc::clone(&row.zonename)) {
                let mut draft = Draft::new(request(&row.zonename));
                zones.take_row(&mut draft, row);
                drafts.push(draft);
            }
        }
        let known: BTreeSet<_> =
            known.filter(|name| !listed.contains(name)).collect();
        let of_index = index.iter().flat_map(ZoneIndex::zonenames);
        let of_index: BTreeSet<_> =
            of_index.filter(|name| !listed.contains(*name)).cloned().collect();
        // The listing is garbage, or only a part: it is unlikely that so many
        // zones have ended. The known ones are asked for later, each by its
        // name.
        let is_odd = !listing.errors.is_empty() && known.len() > ABSENT_MAX;
        let is_part = is_odd || of_index.len() > ABSENT_MAX;
        if is_part {
            let lacks = OutputError::LacksZones(of_index.len());
            for zonename in &known {
                let mut draft = Draft::new(request(zonename));
                let run = zoneadm::list_all_run(&self.paths);
                let error = run.error(lacks.clone());
                draft.fault(Source::Zoneadm, Some(error.into()));
                drafts.push(draft);
            }
            listing.errors.insert(0, lacks.to_string());
        } else {
            for zonename in known.union(&of_index) {
                let mut draft = Draft::new(request(zonename));
                zones.ask(&mut draft);
                drafts.push(draft);
            }
        }
        listing.errors.truncate(3);
        let is_well = listing.errors.is_empty();
        let error = (!is_well).then_some(LoadError::Lines(listing.errors));
        Ok(AllZones { drafts, index, error })
    }
}
