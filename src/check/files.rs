//! The files of zones: the index, each zone's XML, and the files in its
//! directory.

use super::commands::quoted;
use super::{Check, Difference, Fact, Findings, Obstacle, given, xml};
use crate::config::{CONFIG_DIR, is_zonename};
use crate::load::files::{self, FilePlace, Folder};
use crate::load::index::{IndexLine, IndexPiece, lines_of};
use crate::load::zonexml::ParsedXml;
use crate::source::{MAPS, Source};

pub(super) static FACTS: [Fact; 11] = [
    Fact {
        id: "files.index",
        why: "the index says which zones there are",
        expected: "it can be read, and has the global zone",
        harm: "VMs whose zones are gone are still served",
    },
    Fact {
        id: "files.index-lines",
        why: "a zone whose line is ignored disappears as soon as it halts",
        expected: "every line is empty, a comment, or the line of a zone, and \
            no zone has two lines",
        harm: "the zones of such lines are served only while they run",
    },
    Fact {
        id: "files.xml",
        why: "most of a VM object is in the zone's XML",
        expected: "the XML of every zone can be read and parsed",
        harm: "these VMs are not served, or are served with their last good \
            values",
    },
    Fact {
        id: "files.xml-valid",
        why: "zonecfg, and so vmadm, refuses an XML that is not valid",
        expected: "every XML is valid by zonecfg's DTD",
        harm: "these VMs have a fault, and vmadm can't change them",
    },
    Fact {
        id: "files.xml-known",
        why: "vminfod serves only the keys that it knows",
        expected: "every attribute, resource and property is known",
        harm: "a property of a newer platform is not served",
    },
    Fact {
        id: "files.xml-agrees",
        why: "the index and the XML say the same of a zone twice",
        expected: "name, zonepath, brand and debug id of the XML are those of \
            the index",
        harm: "which of the two values is served depends on the event",
    },
    Fact {
        id: "files.directory",
        why: "a VM's own files are found below its zonepath",
        expected: "the zonepath of every installed zone is a directory, and so \
            is its config, if it exists; neither is a link",
        harm: "metadata, tags, routes and the last exit of these VMs are \
            missing",
    },
    Fact {
        id: "files.lastexited",
        why: "the file says when a VM last stopped, and with which status",
        expected: "the file contains a time and an exit status",
        harm: "exit_status and exit_timestamp stay as they were",
    },
    Fact {
        id: "files.metadata",
        why: "it is part of the VM object",
        expected: "a JSON object; customer_metadata and internal_metadata in \
            it, if present, are objects",
        harm: "the VM keeps its last good metadata, or has metadata of a wrong \
            form",
    },
    Fact {
        id: "files.tags",
        why: "they are part of the VM object",
        expected: "a JSON object",
        harm: "the VM keeps its last good tags, or has tags of a wrong form",
    },
    Fact {
        id: "files.routes",
        why: "they are part of the VM object",
        expected: "a JSON object",
        harm: "the VM keeps its last good routes, or has routes of a wrong \
            form",
    },
];

/// What differs, by the index of the fact in [`FACTS`].
struct Found<'a> {
    check: &'a Check,
    /// Each with the name of its zone.
    differences: [Vec<(String, Difference)>; 11],
    /// How many files there were, by the index of the fact.
    counts: [usize; 11],
}

/// Indices into [`FACTS`].
const XML: usize = 2;
const VALID: usize = 3;
const KNOWN: usize = 4;
const AGREES: usize = 5;
const DIRECTORY: usize = 6;
const EXIT: usize = 7;
const META: usize = 8;
const TAG: usize = 9;
const ROUTE: usize = 10;

pub(super) fn look(
    check: &Check,
    findings: &mut Findings,
) -> Result<(), Obstacle> {
    let text = match xml::read_index(check) {
        Ok(text) => text,
        Err(why) => {
            findings.expect(&FACTS[0], false, "the index", given(&why));
            return Err(why.into());
        }
    };
    let zones = xml::zones(&text);
    let has_global = zones.iter().any(|(name, _)| *name == "global");
    let seen = match has_global {
        true => format!("{} zones", zones.len()),
        false => "it lacks the global zone".to_string(),
    };
    findings.expect(&FACTS[0], has_global, "the index", seen);
    look_at_lines(findings, &text);
    let mut found =
        Found { check, differences: Default::default(), counts: [0; 11] };
    for (name, line) in zones.iter().filter(|(name, _)| is_zonename(name)) {
        found.look_at_zone(name, line);
    }
    // A zone that was deleted or changed meanwhile says nothing.
    let again = xml::read_index(check)?;
    let steady = xml::zones(&again);
    let is_steady = |name: &str| {
        let own = zones.iter().find(|(own, _)| *own == name);
        own.is_some_and(|own| steady.contains(own))
    };
    found.retain(is_steady);
    let Found { differences, counts, .. } = found;
    for (at, differences) in differences.into_iter().enumerate().skip(XML) {
        let seen = match at {
            XML..=AGREES => format!("{} documents", counts[at]),
            DIRECTORY => format!("{} installed zones", counts[at]),
            _ => format!("{} files", counts[at]),
        };
        let differences = differences.into_iter().map(|(_, own)| own);
        findings.judge(&FACTS[at], seen, differences.collect());
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    name == "global" || is_zonename(name)
}

fn look_at_lines(findings: &mut Findings, text: &str) {
    let mut names = std::collections::HashSet::new();
    let mut differences = Vec::new();
    let mut count = 0;
    for (at, line) in lines_of(text).enumerate() {
        count += 1;
        let seen = match line {
            IndexPiece::Comment => continue,
            IndexPiece::Zone(name, _) if !is_name(name) => {
                format!("not a valid zone name: {}", quoted(name))
            }
            IndexPiece::Zone(name, _) if names.insert(name) => continue,
            IndexPiece::Zone(name, _) => {
                format!("zone {} has more than one line", given(name))
            }
            IndexPiece::PassedOver(line) => {
                format!("zonecfg ignores this line: {}", quoted(line))
            }
        };
        // A line is identified by its text, because other lines come and go.
        let what = seen.clone();
        let seen = format!("line {}", at + 1);
        differences.push(Difference::new(what, seen));
    }
    findings.judge(&FACTS[1], format!("{count} lines"), differences);
}

/// An unknown key, as a report shows it. A report for other people must say
/// which key it is. But a key that is put together from values, or has an odd
/// form, may contain anything, so it is marked as text of the machine.
fn shown_key(key: &str) -> String {
    let is_plain = |c: char| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c)
    };
    let is_value = key.starts_with("rctl.");
    match key.len() < 64 && key.chars().all(is_plain) && !is_value {
        true => key.to_string(),
        false => given(key),
    }
}

impl Found<'_> {
    fn note(&mut self, at: usize, zonename: &str, seen: Option<String>) {
        self.counts[at] += 1;
        let what = || format!("zone {}", given(zonename));
        let difference = seen
            .map(|seen| (zonename.to_string(), Difference::new(what(), seen)));
        self.differences[at].extend(difference);
    }

    /// Keeps the differences of the zones that are meant.
    fn retain(&mut self, is_meant: impl Fn(&str) -> bool) {
        for differences in &mut self.differences {
            differences.retain(|(zonename, _)| is_meant(zonename));
        }
    }

    fn look_at_zone(&mut self, name: &str, line: &IndexLine) {
        let xml = xml::read(self.check, name);
        self.note(XML, name, xml.as_ref().err().map(given));
        let mut is_on_its_way = false;
        if let Ok(xml) = xml {
            self.look_at_xml(name, line, &xml);
            is_on_its_way = xml::is_on_its_way(&xml);
        }
        let is_installed = &*line.zone_state == "installed" && !is_on_its_way;
        let paths = &self.check.settings.paths;
        let dir = paths.zone_dir(&line.zonepath).filter(|_| is_installed);
        if !is_installed {
            return;
        }
        let Some(dir) = dir else {
            let seen =
                format!("not a valid zonepath: {}", quoted(&line.zonepath));
            return self.note(DIRECTORY, name, Some(seen));
        };
        let is_dir = |path: &std::path::Path| {
            std::fs::symlink_metadata(path).map(|found| found.is_dir())
        };
        let config = dir.join(CONFIG_DIR);
        let odd = match (is_dir(&dir), is_dir(&config)) {
            (Err(e), _) => Some((&dir, e.to_string())),
            (Ok(false), _) => Some((&dir, "not a directory".to_string())),
            (_, Ok(false)) => Some((&config, "not a directory".to_string())),
            (_, Err(e)) if !files::is_missing(&e) => {
                Some((&config, e.to_string()))
            }
            _ => None,
        };
        let odd = odd.map(|(at, why)| {
            format!("{}: {}", given(at.display()), given(&why))
        });
        let is_well = odd.is_none();
        self.note(DIRECTORY, name, odd);
        if is_well {
            self.look_at_config(name, &dir);
        }
    }

    fn look_at_xml(&mut self, name: &str, line: &IndexLine, xml: &ParsedXml) {
        let refused: Vec<_> = xml.refused.iter().map(given).collect();
        let refused = (!refused.is_empty()).then(|| refused.join("; "));
        self.note(VALID, name, refused);
        let unknown = xml.unknown.iter().map(|key| shown_key(key));
        let unknown: Vec<_> = unknown.collect();
        let unknown = (!unknown.is_empty()).then(|| unknown.join(", "));
        self.note(KNOWN, name, unknown);
        let debugid = line.debugid.to_string();
        // A line from before the index had brands has no debug id either.
        let has_brand = !line.brand.is_empty();
        let differing = [
            ("name", xml.name.as_str(), name),
            ("zonepath", &xml.zonepath, &*line.zonepath),
            ("brand", &xml.brand, &*line.brand),
            ("debug id", &xml.debugid, &debugid),
        ]
        .into_iter()
        .filter(|(what, ..)| match *what {
            "brand" => has_brand,
            "debug id" => has_brand && line.debugid != -1,
            _ => true,
        })
        .filter(|(_, xml, index)| xml != index)
        .map(|(what, xml, index)| {
            format!(
                "{what}: the XML has {}, the index {}",
                quoted(xml),
                quoted(index)
            )
        })
        .collect::<Vec<_>>();
        let differing = (!differing.is_empty()).then(|| differing.join("; "));
        self.note(AGREES, name, differing);
    }

    fn look_at_config(&mut self, name: &str, dir: &std::path::Path) {
        let limits = &self.check.settings.load;
        let (bytes, exit_bytes) = (limits.json_bytes, limits.lastexited_bytes);
        let dir = Folder::open(Some(dir));
        let config = dir.open_below(CONFIG_DIR);
        let place = FilePlace::In(&dir, Source::LastExited.name());
        match files::read_lastexited(place, exit_bytes) {
            Ok(read) if read.stamp.is_none() => {}
            read => self.note(EXIT, name, read.err().map(|e| given(&e))),
        }
        for (at, file) in [
            (META, Source::Metadata),
            (TAG, Source::Tags),
            (ROUTE, Source::Routes),
        ] {
            let place = FilePlace::In(&config, file.name());
            let odd = match files::read_json(place, bytes) {
                Ok(read) if read.stamp.is_none() => continue,
                Err(why) => Some(given(&why)),
                Ok(read) => {
                    let maps = MAPS.iter().filter(|map| map.file == file);
                    let mut parts = maps.filter_map(|map| map.key);
                    let is_odd = |part: &&str| {
                        let part = read.value.get(part);
                        part.is_some_and(|part| part.as_object().is_none())
                    };
                    let odd = parts.find(is_odd);
                    match (read.value.as_object(), odd) {
                        (None, _) => Some("not a JSON object".to_string()),
                        (_, Some(part)) => {
                            Some(format!("{part} is not an object"))
                        }
                        _ => None,
                    }
                }
            };
            self.note(at, name, odd);
        }
    }
}
