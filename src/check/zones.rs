//! What zoneadm(8) reports about zones, in a listing of all and one by one.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::commands::{answered, quoted};
use super::{Check, Difference, Fact, Findings, Obstacle, given, xml};
use crate::load::command::Output;
use crate::load::error::{CommandError, FileError};
use crate::load::index::IndexLine;
use crate::load::zoneadm::{self, LineFields, ZoneAnswer, split_fields};
use crate::load::zonexml::ParsedXml;

/// How many zones are asked for by name at the same time.
const ASKERS: usize = 4;

/// For how long zones are asked for by name. Zones that are left then are not
/// tried.
const BY_NAME_TIME: Duration = Duration::from_secs(60);

/// A zone that does not exist.
const NO_ZONE: &str = "vminfod-check-no-such-zone";

/// The columns of a line, in their order.
const COLUMNS: [&str; 8] =
    ["ID", "NAME", "STATE", "PATH", "UUID", "BRAND", "IPTYPE", "DID"];

/// Indices into [`COLUMNS`].
const NAME: usize = 1;
const ID: usize = 0;
const STATE: usize = 2;
const PATH: usize = 3;
const UUID: usize = 4;
const BRAND: usize = 5;
const IPTYPE: usize = 6;
const DID: usize = 7;

/// Every state that zoneadm shows.
const STATES: [&str; 8] = [
    "configured",
    "incomplete",
    "installed",
    "ready",
    "mounted",
    "running",
    "shutting_down",
    "down",
];

/// What zoneadm prints in a listing of all zones for a uuid that is not set.
const NO_UUID: &str = "00000000-0000-0000-0000-000000000000";

pub(super) static FACTS: [Fact; 10] = [
    Fact {
        id: "zoneadm.list",
        why: "exit status and standard error tell whether zones were left out",
        expected: "zoneadm list -pc exits with 0 and prints nothing on stderr",
        harm: "VMs whose zones are gone are still served, with a fault",
    },
    Fact {
        id: "zoneadm.global",
        why: "if zoneadm can't read the index, it lists no global zone",
        expected: "the global zone is in the listing of all",
        harm: "vminfod rejects every listing and serves nothing",
    },
    Fact {
        id: "zoneadm.fields",
        why: "a line is split at its colons",
        expected: "every line has 8 fields, a known state and a final newline",
        harm: "the zones of such lines are not served, or served wrongly",
    },
    Fact {
        id: "zoneadm.escaping",
        why: "a zonepath may have a colon",
        expected: "a colon in a zonepath is printed as \\:",
        harm: "such a zone has a wrong zonepath, uuid and brand",
    },
    Fact {
        id: "zoneadm.order",
        why: "VMs are served in the order of zoneadm, and a zone is gone only \
            if the index and zoneadm agree",
        expected: "the listing has the zones of the index, in its order",
        harm: "the order of /vms is not today's; zones that the listing lacks \
            are asked for one by one",
    },
    Fact {
        id: "zoneadm.index",
        why: "some changes of zones send no sysevent, but change the index",
        expected: "zonepath, uuid, brand and debug id are those of the index; \
            so is the state, if the zone is not in the kernel",
        harm: "the zones concerned are loaded again each time that the index \
            changes",
    },
    Fact {
        id: "zoneadm.by-name",
        why: "after an event a zone is asked for by its name",
        expected: "zoneadm -z NAME list -p prints the zone's line and exits \
            with 0; with 1 only if its brand is not installed",
        harm: "after an event, the state of these zones is not updated",
    },
    Fact {
        id: "zoneadm.columns",
        why: "a zone loaded by name and from the listing must be the same VM",
        expected: "the line by name is that of the listing; brand, iptype and \
            debug id may be those of the XML, and an unset uuid empty",
        harm: "the VMs change back and forth, with events for no real change",
    },
    Fact {
        id: "zoneadm.dtd",
        why: "an XML that zonecfg refuses is used only if no better one exists",
        expected: "zoneadm by name prints a line exactly for the zones whose \
            XML is valid by vminfod's DTD",
        harm: "a valid XML is used only after zoneadm was asked, or an invalid \
            XML is used",
    },
    Fact {
        id: "zoneadm.unknown",
        why: "this message says that the kernel does not have the zone",
        expected: "for a zone that does not exist: zoneadm: NAME: No such zone \
            configured, exit status 1, and no line",
        harm: "VMs that are deleted stay, with a fault",
    },
];

pub(super) fn look(
    check: &Check,
    findings: &mut Findings,
) -> Result<(), Obstacle> {
    let [list, global, fields, escaping, order, index, rest @ ..] = &FACTS;
    let run = zoneadm::list_all_run(&check.settings.paths);
    let text = xml::read_index(check);
    let output = check.ask("zoneadm", &run)?;
    look_at_unknown(check, findings);
    let is_well = output.exit == Some(0) && output.stderr.is_empty();
    let count = output.stdout.lines().count();
    let seen = match is_well {
        true => format!("{count} lines"),
        false => answered(&output),
    };
    findings.expect(list, is_well, "the listing", seen);
    let lines = lines_of_listing(&output.stdout);
    let has_global = lines.iter().any(|line| line[NAME] == "global");
    let seen = if has_global { "it is listed" } else { "it is not listed" };
    findings.expect(global, has_global, "the global zone", seen);
    look_at_fields(findings, fields, &output);
    let names: Vec<&str> = lines
        .iter()
        .map(|line| &*line[NAME])
        .filter(|name| *name != "global")
        .collect();
    let asked = ask_by_name(check, &names);

    let again = check.ask("zoneadm", &run)?;
    let text = text?;
    let text_again = xml::read_index(check)?;
    let (zones, zones_again) = (xml::zones(&text), xml::zones(&text_again));
    let lines_again = lines_of_listing(&again.stdout);
    let steady = Steady::of([&lines, &lines_again], [&zones, &zones_again]);
    look_at_escaping(findings, escaping, &steady, &output.stdout);
    look_at_order(findings, order, &steady);
    look_at_index(findings, index, &steady);
    let by_name = ByName::of(check, &names, asked, &steady);
    by_name.report(findings, rest, names.len());
    Ok(())
}

impl ByName {
    /// Compares the answers by name with the listing of all.
    fn of(
        check: &Check,
        names: &[&str],
        asked: Vec<Asked>,
        steady: &Steady<'_>,
    ) -> Self {
        let lines = steady.lines.iter();
        let listed: HashMap<&str, &LineFields<'_>> =
            lines.map(|line| (&*line[NAME], *line)).collect();
        let mut by_name = Self::default();
        for (name, answer) in names.iter().zip(asked) {
            match (answer, listed.get(name)) {
                (_, None) => {}
                (Some(Ok((xml, output))), Some(listed)) => {
                    by_name.look(check, name, listed, &xml, &output);
                }
                (Some(Err(why)), _) => {
                    by_name.untried.get_or_insert(why.into());
                }
                (None, _) => {
                    let time = BY_NAME_TIME;
                    let why = format!(
                        "not every zone could be asked for within {time:?}"
                    );
                    by_name.untried.get_or_insert(why.into());
                }
            }
        }
        by_name
    }
}

/// What was the same before and after the zones were asked for by name.
struct Steady<'a> {
    /// Lines of the listing.
    lines: Vec<&'a LineFields<'a>>,
    /// The names in the second listing.
    listed_again: HashSet<&'a str>,
    /// Zones with an unchanged line in the index, in its order.
    index: Vec<&'a (&'a str, IndexLine)>,
    /// The names in the second reading of the index.
    index_again: HashSet<&'a str>,
}

impl<'a> Steady<'a> {
    /// Compares the listings and the indexes of before and after. Zones come,
    /// go and change meanwhile: a line that is not the same both times says
    /// nothing.
    fn of(
        [lines, lines_again]: [&'a [LineFields<'a>]; 2],
        [zones, zones_again]: [&'a [(&'a str, IndexLine)]; 2],
    ) -> Self {
        let of_again: HashSet<&LineFields<'_>> = lines_again.iter().collect();
        let index_again: HashMap<&str, &IndexLine> =
            zones_again.iter().map(|(name, line)| (*name, line)).collect();
        let is_as_before = |zone: &&(&str, IndexLine)| {
            index_again.get(zone.0).is_some_and(|line| **line == zone.1)
        };
        let lines = lines.iter().filter(|line| of_again.contains(line));
        Self {
            lines: lines.collect(),
            listed_again: lines_again.iter().map(|l| &*l[NAME]).collect(),
            index: zones.iter().filter(is_as_before).collect(),
            index_again: index_again.keys().copied().collect(),
        }
    }
}

/// The lines of a listing that have all fields.
fn lines_of_listing(text: &str) -> Vec<LineFields<'_>> {
    let lines = text.lines().map(split_fields);
    lines.filter(|line| line.len() == COLUMNS.len()).collect()
}

/// Whether the id and the state of a line belong together. zoneadm looks up the
/// id first and the state afterwards, and the zone may change in between.
fn is_of_one_look(line: &[Cow<'_, str>]) -> bool {
    let is_stored =
        ["configured", "incomplete", "installed"].contains(&&*line[STATE]);
    (line[ID] == "-") == is_stored
}

fn look_at_unknown(check: &Check, findings: &mut Findings) {
    let fact = &FACTS[9];
    let run = zoneadm::list_one_run(&check.settings.paths, NO_ZONE);
    match check.ask("zoneadm", &run) {
        Err(why) => findings.untried(fact, why),
        Ok(output) => {
            let answer = zoneadm::answer(&run, NO_ZONE, &output);
            let is_so = matches!(answer, Ok(ZoneAnswer::NotInKernel));
            findings.expect(fact, is_so, "the answer", answered(&output));
        }
    }
}

fn look_at_fields(
    findings: &mut Findings,
    fact: &'static Fact,
    output: &Output,
) {
    let mut differences = Vec::new();
    for line in output.stdout.lines() {
        let fields = split_fields(line);
        let state = fields.get(STATE).map_or("", |state| state);
        let what = || match fields.get(NAME) {
            Some(name) => zone(name),
            None => format!("line {}", quoted(line)),
        };
        if fields.len() != COLUMNS.len() {
            let seen = format!("{} fields: {}", fields.len(), quoted(line));
            differences.push(Difference::new(what(), seen));
        } else if !STATES.contains(&state) {
            let seen = format!("state {}", quoted(state));
            differences.push(Difference::new(what(), seen));
        }
    }
    if !output.stdout.is_empty() && !output.stdout.ends_with('\n') {
        differences.push(Difference::new("the last line", "has no newline"));
    }
    let seen = format!("{} lines", output.stdout.lines().count());
    findings.judge(fact, seen, differences);
}

fn look_at_escaping(
    findings: &mut Findings,
    fact: &'static Fact,
    steady: &Steady<'_>,
    listing: &str,
) {
    let with_colon =
        steady.index.iter().filter(|(_, line)| line.zonepath.contains(':'));
    let with_colon: Vec<_> = with_colon.collect();
    let mut differences = Vec::new();
    for (name, line) in with_colon.iter().map(|zone| (zone.0, &zone.1)) {
        let escaped = line.zonepath.replace(':', "\\:");
        let own =
            listing.lines().find(|l| l.split(':').nth(NAME) == Some(name));
        if !own.is_some_and(|own| own.contains(&format!(":{escaped}:"))) {
            let seen = own.map_or("no line".to_string(), quoted);
            differences.push(Difference::new(zone(name), seen));
        }
    }
    match with_colon.len() {
        0 => findings.absent(fact, "no zonepath has a colon"),
        n => findings.judge(fact, format!("{n} zones"), differences),
    }
}

/// The global zone is left out: that it is listed is a fact of its own.
fn look_at_order(
    findings: &mut Findings,
    fact: &'static Fact,
    steady: &Steady<'_>,
) {
    let mut differences = Vec::new();
    let zones = steady.index.iter().filter(|zone| zone.0 != "global");
    for (name, _) in zones {
        if !steady.listed_again.contains(name) {
            let seen = "is in the index, and not in the listing";
            differences.push(Difference::new(zone(name), seen));
        }
    }
    let places = steady.index.iter().enumerate();
    let places: HashMap<&str, usize> =
        places.map(|(at, zone)| (zone.0, at)).collect();
    let mut last = 0;
    for line in steady.lines.iter().filter(|line| line[NAME] != "global") {
        let name = &*line[NAME];
        match places.get(name) {
            Some(at) if *at < last => {
                let seen =
                    "is listed after a zone that follows it in the index";
                differences.push(Difference::new(zone(name), seen));
            }
            Some(at) => last = *at,
            None if steady.index_again.contains(name) => {}
            None => {
                let seen = "is in the listing, and not in the index";
                differences.push(Difference::new(zone(name), seen));
            }
        }
    }
    findings.judge(fact, format!("{} zones", steady.index.len()), differences);
}

fn look_at_index(
    findings: &mut Findings,
    fact: &'static Fact,
    steady: &Steady<'_>,
) {
    let of_index = steady.index.iter().map(|zone| (zone.0, &zone.1));
    let of_index: HashMap<&str, &IndexLine> = of_index.collect();
    let mut differences = Vec::new();
    for line in steady.lines.iter().filter(|line| line[NAME] != "global") {
        let Some(own) = of_index.get(&*line[NAME]) else { continue };
        let has_brand = !own.brand.is_empty();
        // An old line of the index has no brand; the XML has the missing
        // values.
        let unset = if has_brand { NO_UUID } else { "" };
        let debugid = own.debugid.to_string();
        let columns = [
            (STATE, &*own.zone_state, line[ID] == "-" && is_of_one_look(line)),
            (PATH, &*own.zonepath, true),
            (UUID, own.uuid.as_deref().unwrap_or(unset), true),
            (BRAND, &*own.brand, has_brand),
            // If the index has no debug id, anything may be printed.
            (DID, debugid.as_str(), has_brand && own.debugid != -1),
        ];
        for (at, wanted, _) in columns.into_iter().filter(|column| column.2) {
            if line[at] != wanted {
                let what = format!("{}, {}", zone(&line[NAME]), COLUMNS[at]);
                let seen = format!(
                    "the listing has {}, the index {}",
                    quoted(&line[at]),
                    quoted(wanted)
                );
                differences.push(Difference::new(what, seen));
            }
        }
    }
    findings.judge(fact, format!("{} lines", steady.lines.len()), differences);
}

/// A zone, as a difference names it.
fn zone(name: &str) -> String {
    format!("zone {}", given(name))
}

/// The XML of one zone, and zoneadm's answer by its name; `None` if the time
/// was over before it was asked for.
type Asked =
    Option<Result<(Result<ParsedXml, FileError>, Output), CommandError>>;

/// Asks for zones by name, several at a time.
fn ask_by_name(check: &Check, names: &[&str]) -> Vec<Asked> {
    let begin = Instant::now();
    let next = AtomicUsize::new(0);
    let answers: Vec<Mutex<Asked>> =
        names.iter().map(|_| Mutex::default()).collect();
    std::thread::scope(|scope| {
        for _ in 0..ASKERS {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(name) = names.get(at) else { break };
                    if begin.elapsed() > BY_NAME_TIME {
                        break;
                    }
                    let run =
                        zoneadm::list_one_run(&check.settings.paths, name);
                    let output = check.ask("zoneadm", &run);
                    let xml = xml::read(check, name);
                    *answers[at].lock() = Some(output.map(|out| (xml, out)));
                }
            });
        }
    });
    answers.into_iter().map(Mutex::into_inner).collect()
}

/// The differences that the answers by name have shown, and why some answers
/// are missing.
#[derive(Default)]
struct ByName {
    answers: Vec<Difference>,
    columns: Vec<Difference>,
    dtd: Vec<Difference>,
    untried: Option<Obstacle>,
}

impl ByName {
    fn look(
        &mut self,
        check: &Check,
        name: &str,
        listed: &[Cow<'_, str>],
        xml: &Result<ParsedXml, FileError>,
        output: &Output,
    ) {
        let run = zoneadm::list_one_run(&check.settings.paths, name);
        let answer = zoneadm::answer(&run, name, output);
        let has_line = matches!(answer, Ok(ZoneAnswer::Row(_)));
        let refused = match xml {
            Ok(xml) => xml.refused.first().map(ToString::to_string),
            Err(_) => Some("it can't be read".to_string()),
        };
        let said = output.stderr.trim_end();
        let is_of_xml = matches!(answer, Ok(ZoneAnswer::NotInKernel))
            || said.ends_with(": missing or invalid brand");
        match (&refused, has_line) {
            // An answer that the XML does not explain, whatever the XML is.
            (_, false) if !is_of_xml => {
                self.answers
                    .push(Difference::new(zone(name), answered(output)));
                return;
            }
            (Some(why), true) => {
                let seen = format!(
                    "zoneadm has a line, but vminfod finds its XML invalid: {}",
                    given(why)
                );
                self.dtd.push(Difference::new(zone(name), seen));
            }
            (None, false) => {
                let seen = format!(
                    "vminfod finds its XML valid, but zoneadm has no line: {}",
                    answered(output)
                );
                self.dtd.push(Difference::new(zone(name), seen));
                return;
            }
            // zoneadm has no line because the XML is bad: the facts of `files`
            // say so.
            (Some(_), false) => return,
            (None, true) => {}
        }
        let is_quiet = output.exit == Some(0) && output.stderr.is_empty();
        let is_known = output.exit == Some(1)
            && output.stderr.trim_end().ends_with(": missing or invalid brand");
        let lines: Vec<_> = output.stdout.lines().collect();
        if lines.len() != 1 || !(is_quiet || is_known) {
            self.answers.push(Difference::new(zone(name), answered(output)));
        }
        let own = lines.first().map(|line| split_fields(line));
        let own = own.filter(|own| own.len() == COLUMNS.len());
        if let Some(own) = own {
            self.compare_columns(name, listed, &own, xml.as_ref().ok());
        }
    }

    /// Compares a zone's line of the listing with its line by name.
    fn compare_columns(
        &mut self,
        name: &str,
        listed: &[Cow<'_, str>],
        own: &[Cow<'_, str>],
        xml: Option<&ParsedXml>,
    ) {
        let are_of_one_look = is_of_one_look(listed) && is_of_one_look(own);
        for (at, column) in COLUMNS.iter().enumerate() {
            let is_meant = are_of_one_look || ![ID, STATE].contains(&at);
            // If a zone runs, the kernel says which IP type it has.
            let is_of_kernel = at == IPTYPE && own[ID] != "-";
            if is_meant
                && !is_of_kernel
                && !may_be(at, &listed[at], &own[at], xml)
            {
                let what = format!("{}, {column}", zone(name));
                let seen = format!(
                    "the listing has {}, the line by name {}",
                    quoted(&listed[at]),
                    quoted(&own[at])
                );
                self.columns.push(Difference::new(what, seen));
            }
        }
    }

    fn report(
        self,
        findings: &mut Findings,
        facts: &'static [Fact],
        zones: usize,
    ) {
        let Self { answers, columns, dtd, untried } = self;
        for (fact, differences) in facts.iter().zip([answers, columns, dtd]) {
            match &untried {
                Some(why) if differences.is_empty() => {
                    findings.untried(fact, why.clone());
                }
                _ => {
                    findings.judge(fact, format!("{zones} zones"), differences)
                }
            }
        }
    }
}

/// Whether the line by name may have `own` in a column where the listing has
/// `listed`. The listing takes brand, iptype and debug id from the index, and
/// the line by name takes them from the XML.
fn may_be(at: usize, listed: &str, own: &str, xml: Option<&ParsedXml>) -> bool {
    let of_xml =
        |text: fn(&ParsedXml) -> &str| xml.is_some_and(|x| text(x) == own);
    listed == own
        || match at {
            UUID => listed == NO_UUID && own.is_empty(),
            // The line by name has the path of the XML, or of a snapshot of the
            // XML.
            PATH => listed.is_empty(),
            BRAND => of_xml(|xml| &xml.brand),
            DID => of_xml(|xml| &xml.debugid),
            IPTYPE => of_xml(|xml| match xml.iptype.as_str() {
                "exclusive" => "excl",
                _ => "shared",
            }),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::zonexml;

    #[test]
    fn only_differences_that_the_platform_makes_are_allowed() {
        let xml = zonexml::parse(
            "<!DOCTYPE zone><zone name=\"z\" zonepath=\"/x\" autoboot=\"true\" \
             brand=\"lx\" ip-type=\"exclusive\" debugid=\"7\"/>",
        );
        let xml = xml.unwrap();
        let may =
            |at, listed: &str, own: &str| may_be(at, listed, own, Some(&xml));
        assert!(may(UUID, NO_UUID, "") && !may(UUID, "", NO_UUID));
        assert!(may(BRAND, "joyent", "lx") && !may(BRAND, "lx", "kvm"));
        assert!(may(DID, "5", "7") && !may(DID, "5", "6"));
        assert!(
            may(IPTYPE, "shared", "excl") && !may(IPTYPE, "excl", "shared")
        );
        assert!(may(PATH, "", "/z") && !may(PATH, "/y", "/x"));
        assert!(!may(STATE, "running", "ready") && !may(ID, "1", "2"));
    }
}
