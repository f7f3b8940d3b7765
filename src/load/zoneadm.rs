//! zoneadm(8): which VMs exist, and the state of each.

use std::sync::Arc;

use crate::config::{Paths, is_zonename};
use crate::json::Json;
use crate::load::command::{CommandError, Run, Runner};
use crate::translate;

/// One line of `zoneadm list -p`.
///
/// ```text
/// zoneid:zonename:state:zonepath:uuid:brand:iptype:debugid
/// 5:0aa46416-…:running:/zones/0aa46416-…:0aa46416-…:lx:excl:1006
/// -:66116621-…:installed:/zones/66116621-…:66116621-…:joyent:excl:
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ZoneRow {
    /// The zone's name.
    pub zonename: Arc<str>,
    /// Its id in the kernel, or `null`.
    pub zoneid: Json,
    /// Its state, as zoneadm names it.
    pub zone_state: Arc<str>,
    /// Its directory; may be empty.
    pub zonepath: Arc<str>,
    /// Its uuid: empty and all-zero ones (the first moments of a create)
    /// give way to the name, if that is a UUID.
    pub uuid: Option<Arc<str>>,
    /// Whether `uuid` is zoneadm's, and not a guess from the name.
    pub uuid_is_set: bool,
    /// Its brand.
    pub brand: Arc<str>,
    /// Its debug id: a number, `null`, or 0 where zoneadm prints nothing.
    pub zonedid: Json,
}

impl ZoneRow {
    /// Whether a zone is another one of the same name: this one has been
    /// deleted, and that one made, between two looks.
    #[must_use]
    pub fn is_another_than(&self, new: &Self) -> bool {
        self.has_other_zonedid(new)
            || (self.uuid_is_set && new.uuid_is_set && self.uuid != new.uuid)
    }

    /// Whether it has another debug id, as each zone has.
    #[must_use]
    pub fn has_other_zonedid(&self, new: &Self) -> bool {
        match (self.zonedid.as_f64(), new.zonedid.as_f64()) {
            // zoneadm prints nothing where there is no id: that reads as 0.
            (Some(a), Some(b)) => a != b && a != 0.0 && b != 0.0,
            _ => false,
        }
    }
}

/// What a listing says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// The zones, without the global one, in zoneadm's order.
    pub rows: Vec<ZoneRow>,
    /// What could not be understood.
    pub errors: Vec<String>,
    /// Whether the global zone is there: if not, neither may others be.
    pub has_global: bool,
    /// zoneadm says that there is no zone of the name that was asked for.
    pub no_such_zone: bool,
}

/// The run that lists every zone.
#[must_use]
pub fn list_all(paths: &Paths) -> Run {
    Run::new(paths.zoneadm(), &["list", "-p", "-c"])
}

/// The run that lists one zone.
#[must_use]
pub fn list_one(paths: &Paths, zonename: &str) -> Run {
    Run::new(paths.zoneadm(), &["-z", zonename, "list", "-p"])
}

/// What zoneadm(8) says last of a zone that there is not.
const NO_SUCH_ZONE: &str = ": No such zone configured";

/// Runs a listing.
///
/// # Errors
/// Those of running the command, any failure of it but that there is no such
/// zone, and output that is cut off: a zone that is missed would be taken for
/// one that has gone.
pub fn list(runner: &Runner, run: &Run) -> Result<Listing, CommandError> {
    let output = runner.run(run)?;
    match output.exit {
        Some(0) if is_cut_off(&output.stdout) => {
            Err(run.error("the output is cut off"))
        }
        Some(0) => Ok(parse(&output.stdout)),
        Some(1) if says_no_such_zone(run, &output.stderr) => {
            Ok(Listing { no_such_zone: true, ..Listing::default() })
        }
        _ => Err(run.failed(&output)),
    }
}

/// Whether it is the very zone that was asked for that there is not.
fn says_no_such_zone(run: &Run, stderr: &str) -> bool {
    let said = stderr.trim_end().strip_suffix(NO_SUCH_ZONE);
    let name = said.and_then(|said| said.rsplit(' ').next());
    name.is_some_and(|name| run.has_arg(name))
}

/// Parses the output of `zoneadm list -p`.
#[must_use]
pub fn parse(text: &str) -> Listing {
    let mut listing = Listing::default();
    let mut words = Words::default();
    for line in text.lines().filter(|l| !l.is_empty()) {
        match parse_line(line, &mut words) {
            Ok(Some(row)) => listing.rows.push(row),
            Ok(None) => listing.has_global = true,
            Err(what) => {
                listing.errors.push(format!("zoneadm list: {what}: {line:?}"));
            }
        }
    }
    listing
}

/// Without its line end the last line may be a part of one.
fn is_cut_off(text: &str) -> bool {
    !text.is_empty() && !text.ends_with('\n')
}

/// Words that stand in many lines, each kept once.
#[derive(Default)]
struct Words(Vec<Arc<str>>);

impl Words {
    /// There are a dozen states and brands.
    const MAX: usize = 32;

    fn share(&mut self, word: &str) -> Arc<str> {
        if let Some(known) = self.0.iter().find(|known| ***known == *word) {
            return Arc::clone(known);
        }
        let new: Arc<str> = word.into();
        if self.0.len() < Self::MAX {
            self.0.push(Arc::clone(&new));
        }
        new
    }
}

/// The row of a line; `None` for the global zone.
fn parse_line(
    line: &str,
    words: &mut Words,
) -> Result<Option<ZoneRow>, &'static str> {
    let fields = split_fields(line);
    let Ok([zoneid, zonename, zone_state, zonepath, uuid, brand, _, zonedid]) =
        <[String; 8]>::try_from(fields)
    else {
        return Err("not 8 fields");
    };
    if zonename == "global" {
        return Ok(None);
    }
    if !is_zonename(&zonename) {
        return Err("not a zone's name");
    }
    if zone_state.is_empty() || brand.is_empty() {
        return Err("no state or no brand");
    }
    let uuid_is_set = uuid.len() == 36 && uuid.contains(|c| !"0-".contains(c));
    let zonename: Arc<str> = zonename.into();
    let uuid = match uuid_is_set && *uuid != *zonename {
        true => Some(uuid.into()),
        false => Some(Arc::clone(&zonename)),
    };
    let uuid = uuid.filter(|uuid| uuid_is_set || is_uuid(uuid));
    Ok(Some(ZoneRow {
        zonename,
        zoneid: Some(zoneid.as_str())
            .filter(|id| *id != "-")
            .map_or(Json::Null, translate::number),
        zone_state: words.share(&zone_state),
        zonepath: zonepath.into(),
        uuid,
        uuid_is_set,
        brand: words.share(&brand),
        zonedid: translate::number(&zonedid),
    }))
}

/// Splits at `:`, of which zoneadm escapes those within a zonepath as `\:`.
fn split_fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.peek() == Some(&':') => {
                chars.next();
                if let Some(field) = fields.last_mut() {
                    field.push(':');
                }
            }
            ':' => fields.push(String::new()),
            c => {
                if let Some(field) = fields.last_mut() {
                    field.push(c);
                }
            }
        }
    }
    fields
}

/// Whether `text` is a UUID in lower case.
#[must_use]
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "0aa46416-2c8d-658d-cb21-eba504d46270";

    fn one(line: &str) -> ZoneRow {
        let mut listing = parse(&format!("{line}\n"));
        assert_eq!(listing.errors, [""; 0]);
        listing.rows.pop().unwrap()
    }

    #[test]
    fn a_running_zone() {
        let row = one(&format!(
            "5:lx-zone:running:/zones/lx-zone:{UUID}:lx:excl:1006"
        ));
        assert_eq!(row.zoneid, Json::Number(5.0));
        assert_eq!(row.uuid.as_deref(), Some(UUID));
        assert_eq!(row.zonedid, Json::Number(1006.0));
        assert_eq!(&*row.zone_state, "running");
    }

    #[test]
    fn a_zone_that_is_not_in_the_kernel_has_no_id() {
        let row = one(&format!("-:{UUID}:installed:/z:{UUID}:joyent:excl:"));
        assert_eq!(row.zoneid, Json::Null);
        assert_eq!(row.zonedid, Json::Number(0.0));
    }

    #[test]
    fn an_unset_uuid_gives_way_to_the_name() {
        for uuid in ["", "00000000-0000-0000-0000-000000000000"] {
            let row = one(&format!("-:{UUID}:configured:/z:{uuid}:lx:excl:1"));
            assert_eq!(row.uuid.as_deref(), Some(UUID));
            assert!(!row.uuid_is_set);
            let row = one(&format!("-:web:configured:/z:{uuid}:lx:excl:1"));
            assert_eq!(row.uuid, None);
        }
    }

    #[test]
    fn colons_of_a_zonepath_are_escaped() {
        let row = one(&format!("-:a:installed:/zones/a\\:b:{UUID}:lx:excl:1"));
        assert_eq!(&*row.zonepath, "/zones/a:b");
    }

    #[test]
    fn bad_lines_are_told_and_cost_no_other() {
        let listing = parse(&format!(
            "0:global:running:/::liveimg:shared:0\n\
             rubbish\n\
             -:../etc:installed:/x:{UUID}:lx:excl:1\n\
             -:a:installed:/zones/a:{UUID}:lx:excl:1\n-:b:inst"
        ));
        assert_eq!(listing.rows.len(), 1);
        assert_eq!(listing.errors.len(), 3, "{:?}", listing.errors);
    }
}
