//! zoneadm(8): which VMs exist, and the state of each.

use std::borrow::Cow;
use std::sync::Arc;

use crate::config::{Paths, is_zonename};
use crate::load::command::{Output, Run};
use crate::load::error::{CommandError, OutputError};
use crate::load::zonexml::brand_rules;
use crate::vm::json::{Json, Object};
use crate::vm::values;

/// How many fields a line has.
const FIELDS: usize = 8;

/// The fields of a line.
pub type LineFields<'a> = Vec<Cow<'a, str>>;

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
    /// Its uuid. If it is not set (the first moments of a create), this is the
    /// zonename if that is a UUID, and `None` if not.
    pub uuid: Option<Arc<str>>,
    /// Whether `uuid` is from zoneadm or from the zone index, and not guessed
    /// from the name.
    pub uuid_is_set: bool,
    /// Its brand.
    pub brand: Arc<str>,
    /// Its debug id: a number, `null`, or 0 where zoneadm prints nothing.
    pub zonedid: Json,
}

impl ZoneRow {
    /// Whether `new` is the line of another VM: one with another uuid.
    #[must_use]
    pub fn is_another_than(&self, new: &Self) -> bool {
        self.uuid_is_set && new.uuid_is_set && self.uuid != new.uuid
    }

    /// Sets the members of a VM object that come from here.
    pub fn set_members(&self, vm: &mut Object, uuid: &Arc<str>) {
        vm.set("brand", &self.brand);
        vm.set("uuid", uuid);
        vm.set("zone_state", &self.zone_state);
        vm.set("zonename", &self.zonename);
        vm.set("zonepath", &self.zonepath);
        vm.set("hvm", brand_rules(&self.brand).hvm);
        vm.set("zoneid", self.zoneid.clone());
        vm.set("zonedid", self.zonedid.clone());
    }

    /// Sets the uuid, which zoneadm has not given.
    pub fn set_uuid(&mut self, uuid: &str) {
        self.uuid = Some(uuid.into());
        self.uuid_is_set = true;
    }

    /// Guesses the uuid, which zoneadm has not given: it is the zonename, if
    /// that is a UUID.
    pub fn guess_uuid(&mut self) {
        self.uuid_is_set = false;
        let name = Arc::clone(&self.zonename);
        self.uuid = is_uuid(&name).then_some(name);
    }

    /// Whether `new` may be the line of another zone, because its debug id is
    /// another one. It need not be: when zoneadm boots a zone whose debug id
    /// another zone has, too, it gives the zone a new one.
    #[must_use]
    pub fn may_be_another_than(&self, new: &Self) -> bool {
        match (self.zonedid.as_f64(), new.zonedid.as_f64()) {
            // zoneadm prints nothing if there is no id. That is parsed as 0.
            (Some(a), Some(b)) => a != b && a != 0.0 && b != 0.0,
            _ => false,
        }
    }
}

/// What zoneadm has listed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// The zones, without the global one, in zoneadm's order.
    pub rows: Vec<ZoneRow>,
    /// The lines that could not be parsed, and zoneadm's messages about zones
    /// that it has left out.
    pub errors: Vec<String>,
    /// Whether the global zone is listed. If it is not, other zones may be
    /// missing, too.
    pub has_global: bool,
}

/// zoneadm's answer about one zone.
#[derive(Clone, Debug, PartialEq)]
pub enum ZoneAnswer {
    /// Its line.
    Row(ZoneRow),
    /// The kernel does not have the zone, and zoneadm could not get its XML or
    /// its line of the index. zoneadm gives this answer for a zone that is gone
    /// and for one whose XML can't be read. Only the index shows which of the
    /// two it is.
    NotInKernel,
}

/// The run that lists every zone of the index and of the kernel, whatever the
/// zone's XML is.
#[must_use]
pub fn list_all_run(paths: &Paths) -> Run {
    Run::new(paths.zoneadm(), &["list", "-p", "-c"])
}

/// The run that lists one zone; it reads and validates its XML.
#[must_use]
pub fn list_one_run(paths: &Paths, zonename: &str) -> Run {
    Run::new(paths.zoneadm(), &["-z", zonename, "list", "-p"])
}

/// Parses what a run has listed of all zones.
///
/// # Errors
/// If the command failed, its output is cut off, or the list lacks the global
/// zone. If zoneadm can't read the index, it lists no zone at all and still
/// exits with 0.
pub fn listing(run: &Run, output: &Output) -> Result<Listing, CommandError> {
    if output.exit != Some(0) {
        return Err(run.failed(output));
    }
    let mut listing = parse_whole(run, output)?;
    if !listing.has_global {
        return Err(run.error(OutputError::NoGlobalZone));
    }
    // zoneadm prints one line here for each zone that it has left out.
    listing.errors.extend(output.stderr.lines().map(String::from));
    Ok(listing)
}

/// Parses zoneadm's answer about one zone. The zone's line counts even if
/// something fails after it was printed: zoneadm can't open the brand, or the
/// XML has just been removed.
///
/// # Errors
/// If the command failed for another reason than that the kernel does not have
/// the zone, or if it printed no line of the zone.
pub fn answer(
    run: &Run,
    zonename: &str,
    output: &Output,
) -> Result<ZoneAnswer, CommandError> {
    if !matches!(output.exit, Some(0 | 1)) {
        return Err(run.failed(output));
    }
    let Listing { rows, errors, .. } = parse_whole(run, output)?;
    let row = rows.into_iter().find(|row| *row.zonename == *zonename);
    let said = output.stderr.trim_end().strip_prefix("zoneadm: ");
    let said = said.and_then(|said| said.strip_prefix(zonename));
    match (row, output.exit, said) {
        (Some(row), ..) => Ok(ZoneAnswer::Row(row)),
        (None, Some(1), Some(said)) if NOT_IN_KERNEL.contains(&said) => {
            Ok(ZoneAnswer::NotInKernel)
        }
        (None, Some(1), _) => Err(run.failed(output)),
        (None, ..) => {
            let stderr = std::slice::from_ref(&output.stderr);
            let said = [&errors[..], stderr].concat();
            let said = said.join("; ");
            let said = said.trim_end_matches([':', ';', ' ', '\n']);
            Err(run.error(OutputError::NotListed(said.to_string())))
        }
    }
}

/// What zoneadm prints after the name of a zone that the kernel does not have.
/// The first is for a zone without a good XML, the second for one without a
/// line in the index.
const NOT_IN_KERNEL: [&str; 2] = [
    ": No such zone configured",
    ": could not get state: No such zone configured",
];

fn parse_whole(run: &Run, output: &Output) -> Result<Listing, CommandError> {
    match is_cut_off(&output.stdout) {
        true => Err(run.error(OutputError::CutOff)),
        false => Ok(parse(&output.stdout)),
    }
}

/// Parses the output of `zoneadm list -p`.
#[must_use]
pub fn parse(text: &str) -> Listing {
    let mut listing = Listing::default();
    for line in text.lines().filter(|l| !l.is_empty()) {
        match parse_line(line) {
            Ok(Some(row)) => listing.rows.push(row),
            Ok(None) => listing.has_global = true,
            Err(what) => {
                listing.errors.push(format!("zoneadm list: {what}: {line:?}"));
            }
        }
    }
    listing
}

/// Whether the last line has no newline: it may be only a part of a line.
fn is_cut_off(text: &str) -> bool {
    !text.is_empty() && !text.ends_with('\n')
}

/// The row of a line; `None` for the global zone.
fn parse_line(line: &str) -> Result<Option<ZoneRow>, &'static str> {
    let fields = split_fields(line);
    let Ok([zoneid, zonename, zone_state, zonepath, uuid, brand, _, zonedid]) =
        <[Cow<'_, str>; FIELDS]>::try_from(fields)
    else {
        return Err("expected 8 fields separated by colons");
    };
    if zonename == "global" {
        return Ok(None);
    }
    if !is_zonename(&zonename) {
        return Err("invalid zonename");
    }
    if zone_state.is_empty() || brand.is_empty() {
        return Err("no state or no brand");
    }
    let uuid_is_set = uuid.len() == 36 && uuid.contains(|c| !"0-".contains(c));
    let mut row = ZoneRow {
        zonename: zonename.into(),
        zoneid: Some(&*zoneid)
            .filter(|id| *id != "-")
            .map_or(Json::Null, values::number),
        zone_state: zone_state.into(),
        zonepath: zonepath.into(),
        uuid: Some(uuid.into()),
        uuid_is_set,
        brand: brand.into(),
        zonedid: values::number(&zonedid),
    };
    if !uuid_is_set {
        row.guess_uuid();
    }
    Ok(Some(row))
}

/// Splits a line at each `:`. zoneadm escapes a `:` within a zonepath as `\:`.
#[must_use]
pub fn split_fields(line: &str) -> LineFields<'_> {
    let mut fields = Vec::with_capacity(FIELDS);
    let mut from = 0;
    for (at, _) in line.match_indices(':') {
        if !line[from..at].ends_with('\\') {
            fields.push(unescaped(&line[from..at]));
            from = at + 1;
        }
    }
    fields.push(unescaped(&line[from..]));
    fields
}

fn unescaped(field: &str) -> Cow<'_, str> {
    match field.contains("\\:") {
        true => field.replace("\\:", ":").into(),
        false => field.into(),
    }
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
    use std::path::Path;

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
    fn an_unset_uuid_is_replaced_by_the_zonename() {
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

    /// What zoneadm printed in each of the recorded situations, and how that is
    /// parsed.
    #[test]
    fn recorded_answers() {
        let zone = "0f0368dc-de82-4cf1-8d08-a0bda024ba38";
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let dir = dir.join("tests/fixtures/cases/zoneadm");
        let said = |case: &str| {
            let read = |end: &str| {
                std::fs::read_to_string(dir.join(format!("{case}.{end}")))
            };
            let output = Output {
                stdout: read("stdout").unwrap(),
                stderr: read("stderr").unwrap(),
                exit: read("status").unwrap().trim().parse().ok(),
            };
            let run = list_one_run(&Paths::new(Path::new("/")), zone);
            match answer(&run, zone, &output) {
                Ok(ZoneAnswer::Row(row)) => format!(
                    "{} {} {} {}",
                    row.zoneid, row.zone_state, row.zonepath, row.brand
                ),
                Ok(ZoneAnswer::NotInKernel) => "not in the kernel".to_string(),
                Err(e) => e.to_string(),
            }
        };
        let path = format!("/zones/{zone}");
        let failed = format!("zoneadm -z {zone} list -p: exit 1: zoneadm: ");
        let brand = format!("{failed}zone '{zone}': missing or invalid brand");
        let no_path = format!(
            "{failed}{zone}: could not get zone path.: No such zone configured"
        );
        for (case, wanted) in [
            ("booted-in-between", format!("null running {path} joyent")),
            ("ended-in-between", format!("12 installed {path} joyent")),
            ("brand-not-installed", format!("null installed {path} sngl")),
            (
                "xml-unlinked-after-the-line",
                format!("null installed {path} joyent"),
            ),
            (
                "pool-with-colon",
                format!("null installed /enc:tank/{zone} joyent"),
            ),
            ("no-such-zone", "not in the kernel".to_string()),
            ("no-index-line", "not in the kernel".to_string()),
            ("up-with-bad-xml", brand),
            ("no-zone-path", no_path),
        ] {
            assert_eq!(said(case), wanted, "{case}");
        }
        let nothing = said("list-with-unreadable-index");
        let wanted = "succeeded, but printed no line for the zone";
        assert!(nothing.ends_with(wanted), "{nothing}");
    }

    #[test]
    fn bad_lines_are_reported_and_the_others_are_kept() {
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
