//! Shows what a check has found: to people, to programs, and to outsiders, who
//! must not see what belongs to the machine.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;
use std::time::Duration;

use super::names::{pieces, plain};
use super::{Fact, Finding, Verdict};
use crate::load::zfs::COLUMNS;
use crate::vm::json::{Json, Object};
use crate::vm::path::is_member_name;

/// All findings.
#[derive(Debug)]
pub struct Report {
    /// The findings by group, in the order of the facts.
    pub groups: Vec<(&'static str, Vec<Finding>)>,
    /// How long the check took.
    pub took: Duration,
}

/// How many facts there are of each verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerdictCounts {
    /// Facts that hold.
    pub hold: usize,
    /// Facts that differ.
    pub differ: usize,
    /// Facts that there was nothing to try with.
    pub absent: usize,
    /// Facts that could not be tried for another reason.
    pub untried: usize,
}

impl VerdictCounts {
    fn of<'a>(findings: impl Iterator<Item = &'a Finding>) -> Self {
        let mut counts = Self::default();
        for finding in findings {
            *match finding.verdict {
                Verdict::Holds => &mut counts.hold,
                Verdict::Differs(_) => &mut counts.differ,
                Verdict::Absent(_) => &mut counts.absent,
                Verdict::Untried(_) => &mut counts.untried,
            } += 1;
        }
        counts
    }

    /// `5 facts hold, 1 differs, 2 could not be tried`
    fn text(self) -> String {
        let Self { hold, differ, absent, untried } = self;
        let untried = untried + absent;
        let parts = [
            (hold, if hold == 1 { "fact holds" } else { "facts hold" }),
            (differ, if differ == 1 { "differs" } else { "differ" }),
            (untried, "could not be tried"),
        ];
        let parts =
            parts.iter().enumerate().filter(|(at, (n, _))| *n > 0 || *at == 0);
        let parts: Vec<_> =
            parts.map(|(_, (n, words))| format!("{n} {words}")).collect();
        parts.join(", ")
    }
}

impl Report {
    /// How many facts hold, and how many do not.
    #[must_use]
    pub fn counts(&self) -> VerdictCounts {
        VerdictCounts::of(self.groups.iter().flat_map(|(_, findings)| findings))
    }

    /// One sentence that sums up the report.
    #[must_use]
    pub fn sentence(&self) -> String {
        let counts = self.counts();
        let verdict = match counts {
            VerdictCounts { differ: 1.., .. } => {
                "this machine is not as vminfod expects"
            }
            VerdictCounts { untried: 1.., .. } => {
                "it is unknown whether this machine is as vminfod expects"
            }
            _ => "this machine is as vminfod expects",
        };
        format!("{verdict}: {}", counts.text())
    }

    /// The report for people: a line for each group, and every fact that
    /// differs or could not be tried. If `is_verbose`, also a line for each
    /// fact that holds.
    #[must_use]
    pub fn lines(&self, is_verbose: bool) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, findings) in &self.groups {
            let counts = VerdictCounts::of(findings.iter());
            lines.push(format!("{name}: {}", counts.text()));
            for Finding { fact, seen, verdict } in findings {
                let Fact { id, why, expected, harm } = fact;
                match verdict {
                    Verdict::Holds if is_verbose => {
                        lines.push(format!("  {id} holds: {seen}"));
                    }
                    Verdict::Holds => {}
                    Verdict::Absent(why) => {
                        lines.push(format!("  {id} could not be tried: {why}"));
                    }
                    Verdict::Untried(why) => {
                        lines.push(format!("  {id} could not be tried: {why}"));
                    }
                    Verdict::Differs(differences) => {
                        lines.push(format!("  {id} differs"));
                        lines.push(format!("    why it matters: {why}"));
                        lines.push(format!("    expected: {expected}"));
                        let each = differences.iter();
                        lines.extend(
                            each.map(|d| format!("    {}: {}", d.what, d.seen)),
                        );
                        lines.push(format!("    consequence: {harm}"));
                    }
                }
            }
        }
        lines.push(self.sentence());
        lines.iter().map(|line| plain(line)).collect()
    }

    /// The report for programs. `show` rewrites each text that was seen.
    #[must_use]
    pub fn json(&self, show: &mut dyn FnMut(&str) -> String) -> Json {
        let mut facts = Vec::new();
        for finding in self.groups.iter().flat_map(|(_, findings)| findings) {
            let Finding { fact, seen, verdict } = finding;
            let mut json = Object::new();
            json.set("id", fact.id);
            json.set("why", fact.why);
            json.set("expected", fact.expected);
            json.set("seen", show(seen));
            match verdict {
                Verdict::Holds => json.set("verdict", "holds"),
                Verdict::Absent(why) => {
                    json.set("verdict", "untried");
                    json.set("reason", show(why));
                    json.set("absent", true);
                }
                Verdict::Untried(why) => {
                    json.set("verdict", "untried");
                    json.set("reason", show(&why.to_string()));
                    json.set("absent", false);
                }
                Verdict::Differs(differences) => {
                    json.set("verdict", "differs");
                    json.set("harm", fact.harm);
                    let differences = differences.iter().map(|difference| {
                        let mut json = Object::new();
                        json.set("what", show(&difference.what));
                        json.set("seen", show(&difference.seen));
                        Json::from(json)
                    });
                    let differences: Vec<_> = differences.collect();
                    json.set("differences", differences);
                }
            }
            facts.push(Json::from(json));
        }
        let VerdictCounts { hold, differ, absent, untried } = self.counts();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut json = Object::new();
        json.set("version", env!("CARGO_PKG_VERSION"));
        json.set("took_ms", self.took.as_secs_f64().mul_add(1e3, 0.5).floor());
        json.set("hold", count(hold));
        json.set("differ", count(differ));
        json.set("untried", count(untried));
        json.set("absent", count(absent));
        json.set("sentence", self.sentence());
        json.set("facts", facts);
        Json::from(json)
    }
}

/// A report without anything that belongs to the machine. Uuids, names,
/// addresses, metadata and paths are replaced by placeholders, the same text by
/// the same placeholder everywhere. Words of the platform and of VM objects
/// stay.
#[must_use]
pub fn anonymous(report: &Report) -> Json {
    let mut placeholders = Placeholders::default();
    report.json(&mut |text| placeholders.replace(text))
}

/// Words that the platform's commands and files, and VM objects, contain on
/// every machine.
const WORDS: &str = "\
zone zones zonename zonepath zoneadm zoneadmd zonecfg zfs zpool kstat \
sysevent prctl ppriv uname id list global config cores data etc usr sbin bin \
var tmp dev zvol rdsk dsk index xml json metadata tags routes lastexited \
sysinfo new configured incomplete installed ready mounted running \
shutting_down down joyent minimal lx kvm bhyve liveimg excl shared exclusive \
filesystem volume snapshot none legacy on off dataset datasets does not exist \
cannot open iterate filesystems I O error pool is currently suspended \
permission denied busy No such configured could get state path brand name \
handle missing or invalid illegal UUID value specified unable to determine \
default failed initialize ZFS library usage exit killed ran for over by a \
signal can t be started printed the output cut true false null nothing \
process max port events file descriptor privileged system basic deny all \
flags E I P L uid gid root Not a JSON object regular too large nests deeper \
than line lines has lacks attribute attributes unknown expected in namespace \
text it document type attr rctl network device value priv limit action match \
physical special directory fsoption sysevent_evc_bind \
sysevent_evc_subscribe enough space directory channel com sun status class \
change oldstate newstate zoneid when EC_zfs ESC_ZFS_history_event date event \
boot_time init_pid init_restarts zone_misc module time status and of read no \
at end host uuid another same served instead this one which that allowed \
before element DOCTYPE SECONDS MICROSECONDS STATUS found levels succeeded but \
so its neither nor an";

#[derive(Default)]
struct Placeholders {
    /// The placeholders, by the text that they replace.
    known: HashMap<String, String>,
    counts: HashMap<&'static str, usize>,
}

impl Placeholders {
    fn replace(&mut self, text: &str) -> String {
        let mut out = String::new();
        for (from_machine, text) in pieces(text) {
            match from_machine {
                false => out.push_str(text),
                true => self.add(text, &mut out),
            }
        }
        out
    }

    /// Replaces every word that is not one of the platform's. Spaces and
    /// punctuation stay, so that the form of a line can still be seen.
    fn add(&mut self, text: &str, out: &mut String) {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let word = match () {
                () if uuid_of(rest).is_some() => uuid_of(rest),
                () => address_of(rest),
            };
            if let Some((kind, word)) = word {
                out.push_str(&self.placeholder(kind, word));
                rest = &rest[word.len()..];
                continue;
            }
            if !is_of_word(c) {
                out.push(c);
                rest = &rest[c.len_utf8()..];
                continue;
            }
            let end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            if is_known(word) {
                out.push_str(word);
            } else {
                let is_number = word.bytes().all(|b| b.is_ascii_digit());
                let kind = if is_number { "NUMBER" } else { "NAME" };
                out.push_str(&self.placeholder(kind, word));
            }
            rest = after;
        }
    }

    fn placeholder(&mut self, kind: &'static str, word: &str) -> String {
        let word = word.to_lowercase();
        if let Some(known) = self.known.get(&word) {
            return known.clone();
        }
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        let new = format!("{kind}-{count}");
        self.known.insert(word, new.clone());
        new
    }
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || !c.is_ascii()
}

fn is_known(word: &str) -> bool {
    static KNOWN: LazyLock<HashSet<&str>> =
        LazyLock::new(|| WORDS.split_whitespace().chain(COLUMNS).collect());
    KNOWN.contains(word) || is_member_name(word)
}

/// The UUID that a text begins with.
fn uuid_of(text: &str) -> Option<(&'static str, &str)> {
    let word = text.get(..36)?;
    let is_uuid = word.bytes().enumerate().all(|(at, b)| match at {
        8 | 13 | 18 | 23 => b == b'-',
        _ => b.is_ascii_hexdigit(),
    });
    is_uuid.then_some(("UUID", word))
}

/// The address that a text begins with: digits, dots and colons of IPv4, IPv6
/// or a network card.
fn address_of(text: &str) -> Option<(&'static str, &str)> {
    let is_part = |c: char| c.is_ascii_hexdigit() || ".:".contains(c);
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    let word = text[..end].trim_end_matches(['.', ':']);
    let dots = word.matches('.').count();
    let colons = word.matches(':').count();
    let begins = word.starts_with(|c: char| c.is_ascii_hexdigit());
    let is_v4 = dots == 3 && colons == 0;
    let is_other = colons >= 3 && (dots == 0 || dots == 3);
    (begins && (is_v4 || is_other)).then_some(("ADDRESS", word))
}

#[cfg(test)]
mod tests {
    use super::super::commands::quoted;
    use super::super::given;
    use super::*;

    #[test]
    fn text_of_the_machine_gets_consistent_placeholders() {
        let uuid = "5595D88C-6e4d-4bda-b58e-97dd02e32bec";
        let mut placeholders = Placeholders::default();
        let mut replace = |own: &str, text: &str| {
            placeholders.replace(&format!("{own}{}", given(text)))
        };
        for (text, wanted) in [
            (uuid, "UUID-1"),
            (
                "/zones/secret-box/config/tags.json",
                "/zones/NAME-1-NAME-2/config/tags.json",
            ),
            (
                "zoneadm: secret: No such zone configured",
                "zoneadm: NAME-1: No such zone configured",
            ),
            ("10.88.88.2/24", "ADDRESS-1/NUMBER-1"),
            ("90:b8:d0:e7:bc:f4", "ADDRESS-2"),
            ("fd00::1:2:3", "ADDRESS-3"),
            (
                "5595d88c-6E4D-4bda-b58e-97dd02e32bec 10.88.88.2",
                "UUID-1 ADDRESS-1",
            ),
            ("q\\z", "NAME-3\\NAME-4"),
            ("größe=7", "NAME-5=NUMBER-2"),
            ("quota", "quota"),
        ] {
            assert_eq!(replace("", text), wanted);
        }
        assert_eq!(replace("secret 7: ", "secret"), "secret 7: NAME-1");
        let shown = placeholders.replace(&quoted("secret\tx\n"));
        assert_eq!(shown, "\"NAME-1\\tNAME-6\\n\"");
    }

    #[test]
    fn the_summary_sentence_counts_verdicts() {
        static FACT: Fact = Fact { id: "a.b", why: "", expected: "", harm: "" };
        let finding =
            |verdict| Finding { fact: &FACT, seen: String::new(), verdict };
        let sentence = |findings: Vec<Finding>| {
            let groups = vec![("a", findings)];
            Report { groups, took: Duration::ZERO }.sentence()
        };
        let absent = || finding(Verdict::Absent(String::new()));
        let untried = || finding(Verdict::Untried("".into()));
        let holds = || finding(Verdict::Holds);
        let differs = || finding(Verdict::Differs(vec![]));
        assert_eq!(
            sentence(vec![holds(), holds(), absent()]),
            "this machine is as vminfod expects: 2 facts hold, 1 could not \
             be tried"
        );
        assert_eq!(
            sentence(vec![holds(), untried()]),
            "it is unknown whether this machine is as vminfod expects: 1 fact \
             holds, 1 could not be tried"
        );
        assert_eq!(
            sentence(vec![differs(), untried()]),
            "this machine is not as vminfod expects: 0 facts hold, 1 differs, \
             1 could not be tried"
        );
    }
}
