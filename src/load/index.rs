//! The zone index, `/etc/zones/index`: which zones are configured, as
//! libzonecfg sees it.
//!
//! `zoneadm -z NAME` says "No such zone configured" of every zone whose XML it
//! can't read. Only the index shows whether there is such a zone. Its lines are
//! read as libzonecfg reads them: lines that libzonecfg skips silently are
//! skipped here, too.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::is_zonename;
use crate::load::error::FileProblem;
use crate::load::zoneadm::{ZoneRow, is_uuid};

/// libzonecfg reads a line into a buffer of this many bytes, NUL included. It
/// reads the rest of a longer line as a line of its own.
const LINE_BYTES: usize = 1140;

/// The bytes of the longest zonepath, plus one (MAXPATHLEN).
const PATH_BYTES: usize = 1024;

/// The bytes of the longest brand name, plus one.
const BRAND_BYTES: usize = 64;

/// A zone's line. It has four fields in the old format, and seven in the one
/// that has the brand:
///
/// ```text
/// NAME:STATE:PATH:UUID[:BRAND:IPTYPE:DID]
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexLine {
    /// `configured`, `incomplete` or `installed`: the state of the zone while
    /// the kernel does not have it.
    pub zone_state: Box<str>,
    /// Its directory; may be empty.
    pub zonepath: Box<str>,
    /// Its uuid, in lower case; `None` if it is not set or not a UUID.
    pub uuid: Option<Box<str>>,
    /// Its brand; empty if only the XML has it.
    pub brand: Box<str>,
    /// Its debug id; −1 if it has none or only the XML has it.
    pub debugid: i64,
}

/// The index at one moment.
#[derive(Clone, Debug, Default)]
pub struct ZoneIndex {
    text: Box<str>,
    lines: HashMap<Arc<str>, IndexLine>,
}

impl ZoneIndex {
    /// Parses the text of `/etc/zones/index`.
    ///
    /// # Errors
    /// If the global zone is not in it. The index always has the global zone,
    /// so this is only a part of the index, or not the index.
    pub fn parse(text: String) -> Result<Self, FileProblem> {
        let mut has_global = false;
        let mut lines = HashMap::new();
        for piece in lines_of(&text) {
            let IndexPiece::Zone(zonename, line) = piece else { continue };
            has_global |= zonename == "global";
            if is_zonename(zonename) {
                // If several lines have the same name, libzonecfg finds the
                // first.
                lines.entry(Arc::from(zonename)).or_insert(line);
            }
        }
        match has_global {
            true => Ok(Self { text: text.into_boxed_str(), lines }),
            false => Err(FileProblem::NoGlobalZone),
        }
    }

    /// The line of a zone.
    #[must_use]
    pub fn line(&self, zonename: &str) -> Option<&IndexLine> {
        self.lines.get(zonename)
    }

    /// The zones that have a line.
    pub fn zonenames(&self) -> impl Iterator<Item = &Arc<str>> {
        self.lines.keys()
    }

    /// Whether the index agrees with `row`, zoneadm's line of a zone, in the
    /// fields that the line of the index has; a line without brand has no debug
    /// id either. Of a zone that is in the kernel, the index must say that it
    /// is installed. Without a `row`, whether the index has no line either.
    #[must_use]
    pub fn agrees_with(&self, zonename: &str, row: Option<&ZoneRow>) -> bool {
        let (Some(line), Some(row)) = (self.line(zonename), row) else {
            return self.line(zonename).is_none() && row.is_none();
        };
        let uuid = row.uuid.as_deref().filter(|_| row.uuid_is_set);
        let zone_state = match row.zoneid.as_f64() {
            Some(_) => "installed",
            None => &*row.zone_state,
        };
        let debugid = row.zonedid.as_f64().unwrap_or(0.0);
        line.uuid.as_deref() == uuid
            && *line.zone_state == *zone_state
            && *line.zonepath == *row.zonepath
            && (line.brand.is_empty()
                || (*line.brand == *row.brand
                    && line.debugid.max(0) as f64 == debugid))
    }

    /// Whether the text is that of `old`.
    #[must_use]
    pub fn is_same_as(&self, old: &Self) -> bool {
        self.text == old.text
    }

    /// The zones whose line differs from that in `old`, or is only in one of
    /// the two.
    #[must_use]
    pub fn changed_since(&self, old: &Self) -> Vec<Arc<str>> {
        // Every commit of zonecfg writes the index, and most of them write what
        // was there before.
        if self.is_same_as(old) {
            return Vec::new();
        }
        let is_new = |(name, line): &(&Arc<str>, &IndexLine)| {
            old.lines.get(*name) != Some(*line)
        };
        let changed = self.lines.iter().filter(is_new).map(|(name, _)| name);
        let is_gone = |name: &&Arc<str>| !self.lines.contains_key(*name);
        let gone = old.lines.keys().filter(is_gone);
        changed.chain(gone).cloned().collect()
    }
}

/// A line of the index, as libzonecfg understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexPiece<'a> {
    /// The line of a zone, with the zonename. The global zone has one, too.
    Zone(&'a str, IndexLine),
    /// A comment, or an empty line.
    Comment,
    /// A line that libzonecfg skips silently: it can't be parsed, or is a last
    /// line without a newline.
    PassedOver(&'a str),
}

/// The lines of the text of an index, in order. The rest of a line that is too
/// long is a line of its own.
pub fn lines_of(text: &str) -> impl Iterator<Item = IndexPiece<'_>> {
    text.split_inclusive('\n').flat_map(pieces).map(|piece| {
        let line = piece.strip_suffix('\n');
        match line.and_then(parse_line) {
            Some((zonename, line)) => IndexPiece::Zone(zonename, line),
            None if piece.starts_with('#') || piece.trim().is_empty() => {
                IndexPiece::Comment
            }
            None => IndexPiece::PassedOver(piece),
        }
    })
}

/// A line as libzonecfg reads it: in pieces, if it is too long.
fn pieces(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest.take()?;
        if line.len() < LINE_BYTES {
            return Some(line);
        }
        let mut end = LINE_BYTES - 1;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, after) = line.split_at(end);
        rest = Some(after);
        Some(piece)
    })
}

/// The zone's name and the rest of its line; `None` for a comment, and for a
/// line that libzonecfg can't parse.
fn parse_line(line: &str) -> Option<(&str, IndexLine)> {
    if line.starts_with('#') {
        return None;
    }
    // A carriage return ends a line, too.
    let mut rest = line.split('\r').next()?;
    let mut field = || {
        // A path with a colon is in double quotes.
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
        };
        rest = after.strip_prefix(':').unwrap_or(after);
        field
    };
    let (zonename, zone_state, zonepath) = (field(), field(), field());
    let (uuid, brand) = (field().to_ascii_lowercase(), field());
    let (_iptype, debugid) = (field(), field());
    let is_state =
        matches!(zone_state, "configured" | "incomplete" | "installed");
    let has_sizes = (1..64).contains(&zonename.len())
        && zonepath.len() < PATH_BYTES
        && brand.len() < BRAND_BYTES;
    let is_set = is_uuid(&uuid) && uuid.contains(|c| !"0-".contains(c));
    (is_state && has_sizes).then(|| {
        let line = IndexLine {
            zone_state: zone_state.into(),
            zonepath: zonepath.into(),
            uuid: is_set.then(|| uuid.into_boxed_str()),
            brand: brand.into(),
            debugid: debugid.parse().unwrap_or(-1),
        };
        (zonename, line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "0f0368dc-de82-4cf1-8d08-a0bda024ba38";

    fn index(lines: &str) -> ZoneIndex {
        ZoneIndex::parse(format!("global:installed:/\n{lines}")).unwrap()
    }

    fn shown(index: &ZoneIndex) -> Vec<String> {
        let mut shown: Vec<_> = index
            .zonenames()
            .map(|name| {
                let line = index.line(name).unwrap();
                let IndexLine { zone_state, zonepath, uuid, brand, .. } = line;
                let uuid = uuid.as_deref().unwrap_or("-");
                format!("{name} {zone_state} {zonepath} {uuid} {brand}")
            })
            .collect();
        shown.sort();
        shown
    }

    #[test]
    fn lines_are_read_as_libzonecfg_reads_them() {
        let long_name = "n".repeat(64);
        let path = "p".repeat(1024);
        let upper = UUID.to_ascii_uppercase();
        let odd = [
            "# a comment".to_string(),
            String::new(),
            format!(" #not a comment:installed:/x:{UUID}"),
            ":installed:/x:".to_string(),
            "odd-state:running:/zones/odd:".to_string(),
            format!("{long_name}:installed:/zones/long:{UUID}:lx:ex:5"),
            format!("path:installed:/{path}:{UUID}:lx:ex:5"),
            format!("full:installed:/zones/full:{UUID}:joyent:ex:1002"),
            "four:configured:/zones/four:".to_string(),
            "short:installed".to_string(),
            format!("quoted:installed:\"/enc:tank/q\":{UUID}:lx:ex:8"),
            format!("extra:installed:/zones/extra:{UUID}:lx:sh:9:more:fields"),
            format!("upper:incomplete:/zones/upper:{upper}:joyent:ex:-1"),
            "zeros:installed:/z:00000000-0000-0000-0000-000000000000:lx".into(),
            "dup:installed:/zones/dup::joyent:ex:3".to_string(),
            "dup:configured:/zones/dup2::joyent:ex:4".to_string(),
            format!("cr:installed:/zones/cr:{UUID}:lx:ex:6\r"),
        ];
        let last = format!("no-end:installed:/zones/l:{UUID}:lx:ex:6");
        let read = index(&(odd.join("\n") + "\n" + &last));
        let wanted = [
            format!("cr installed /zones/cr {UUID} lx"),
            "dup installed /zones/dup - joyent".to_string(),
            format!("extra installed /zones/extra {UUID} lx"),
            "four configured /zones/four - ".to_string(),
            format!("full installed /zones/full {UUID} joyent"),
            format!("quoted installed /enc:tank/q {UUID} lx"),
            "short installed  - ".to_string(),
            format!("upper incomplete /zones/upper {UUID} joyent"),
            "zeros installed /z - lx".to_string(),
        ];
        assert_eq!(shown(&read), wanted);
    }

    #[test]
    fn the_rest_of_an_overlong_line_is_read_as_a_line() {
        let read = index(&format!(
            "{}rest:installed:/r::lx:ex:1\n",
            "x".repeat(LINE_BYTES - 1)
        ));
        assert_eq!(shown(&read), ["rest installed /r - lx"]);
        let read = index(&format!("{}\n", "é".repeat(3000)));
        assert_eq!(shown(&read), [""; 0]);
    }

    #[test]
    fn an_index_without_the_global_zone_is_refused() {
        let line = format!("a:installed:/a:{UUID}:lx:ex:1\n");
        for text in ["", "\n", "global:installed:/", &line] {
            assert!(ZoneIndex::parse(text.to_string()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn zones_with_changed_lines_are_reported() {
        let old = index("a:installed:/a::lx:ex:1\nb:installed:/b::lx:ex:2\n");
        let changed = |lines: &str| {
            let mut changed = index(lines).changed_since(&old);
            changed.sort();
            changed.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let same = "# new\nb:installed:/b::lx:ex:2\na:installed:/a::lx:ex:1\n";
        assert_eq!(changed(same), [""; 0]);
        assert_eq!(changed("b:installed:/b::lx:ex:2\n"), ["a"]);
        let other = "a:configured:/a::lx:ex:1\nc:installed:/b::lx:ex:2\n";
        assert_eq!(changed(other), ["a", "b", "c"]);
    }
}
