//! Reading the files of VMs, their watches armed first.

use std::cell::LazyCell;
use std::path::Path;
use std::sync::Arc;

use super::draft::Draft;
use super::files::{self, Dated, Folder, Place};
use super::{ArmWatches, Loader};
use crate::config::{CONFIG_DIR, LASTEXITED, METADATA, ROUTES, TAGS};
use crate::event::Sources;
use crate::json::Json;

impl Loader {
    pub(super) fn read_files(&self, drafts: &mut [Draft], arm: ArmWatches<'_>) {
        for draft in drafts.iter_mut().filter(|d| d.is_alive()) {
            let dir = draft.dir(&self.paths);
            if draft.needs_watches() {
                let anew = draft.sources.contains(Sources::REARM);
                arm(&draft.zonename, dir.as_deref(), anew);
            }
            self.read_files_of(draft, dir.as_deref());
        }
    }

    fn read_files_of(&self, draft: &mut Draft, dir: Option<&Path>) {
        let sources = draft.sources;
        let path = self.paths.zone_xml(&draft.zonename);
        let place = Place::At(&path);
        if sources.contains(Sources::XML)
            && draft.has_to_read("zonexml", place, |known| known.xml)
        {
            let read = files::read_zonexml(place, self.limits.xml_bytes);
            if let Ok(Dated { value: xml, .. }) = &read
                && !xml.unknown.is_empty()
            {
                let (zonename, unknown) = (&draft.zonename, &xml.unknown);
                log::debug!("{zonename}: its XML has unknown {unknown:?}");
            }
            draft.xml_changed = true;
            draft.store("zonexml", read, |d, read| {
                d.stamps.xml = read.stamp;
                d.xml = Some(Arc::new(read.value));
            });
        }
        self.read_config_of(draft, dir);
        self.read_receiving(draft);
    }

    /// Reads what is in the zone's own directory.
    fn read_config_of(&self, draft: &mut Draft, dir: Option<&Path>) {
        let sources = draft.sources;
        let in_dir = [
            Sources::LASTEXITED,
            Sources::METADATA,
            Sources::TAGS,
            Sources::ROUTES,
        ];
        if !in_dir.iter().any(|file| sources.contains(*file)) {
            return;
        }
        let dir = Folder::open(dir);
        let config = LazyCell::new(|| dir.open_below(CONFIG_DIR));
        if sources.contains(Sources::LASTEXITED)
            && let place = Place::In(&dir, LASTEXITED)
            && draft.has_to_read(LASTEXITED, place, |known| known.lastexited)
        {
            let limit = self.limits.lastexited_bytes;
            let read = files::read_lastexited(place, limit);
            draft.store(LASTEXITED, read, |d, read| {
                d.stamps.lastexited = read.stamp;
                d.lastexited = Some(read.value);
            });
        }
        let limit = self.limits.json_bytes;
        if sources.contains(Sources::METADATA)
            && let place = Place::In(&config, METADATA)
            && draft.has_to_read(METADATA, place, |known| known.metadata)
        {
            let read = files::read_metadata(place, limit);
            draft.store(METADATA, read, |d, read| {
                d.stamps.metadata = read.stamp;
                d.metadata = Some(read.value);
            });
        }
        if sources.contains(Sources::TAGS)
            && let place = Place::In(&config, TAGS)
            && draft.has_to_read(TAGS, place, |known| known.tags)
        {
            let read = files::read_json(place, limit);
            draft.store(TAGS, read, |d, read| {
                d.stamps.tags = read.stamp;
                d.tags = Some(read.value);
            });
        }
        if sources.contains(Sources::ROUTES)
            && let place = Place::In(&config, ROUTES)
            && draft.has_to_read(ROUTES, place, |known| known.routes)
        {
            let read = files::read_json(place, limit);
            draft.store(ROUTES, read, |d, read| {
                d.stamps.routes = read.stamp;
                d.routes = Some(read.value);
            });
        }
    }

    /// A VM that is being received may say which dataset it will have.
    fn read_receiving(&self, draft: &mut Draft) {
        draft.fault("receiving", None);
        let state = draft.xml.as_ref().and_then(|xml| xml.vm.get_str("state"));
        let uuid = draft.row.as_ref().and_then(|row| row.uuid.as_ref());
        let (Some("receiving"), Some(uuid)) = (state, uuid) else {
            draft.receiving = None;
            return;
        };
        let path = self.paths.receiving(uuid);
        match files::read_json(Place::At(&path), self.limits.json_bytes) {
            Ok(json) => {
                draft.receiving = json
                    .value
                    .get("zfs_filesystem")
                    .and_then(Json::as_str)
                    .map(Arc::from);
            }
            Err(e) => draft.fault("receiving", Some(e)),
        }
    }
}
