//! Checks on this machine what the daemon relies on, one fact at a time.
//!
//! Each group of facts looks by itself, at the same time as the others, with
//! the daemon's own commands and parsers. A fact that differs is looked at
//! again: only a difference that is seen every time counts, because zones come
//! and go meanwhile.
//!
//! Nothing on the machine is changed: files are written only in directories of
//! our own, below the scratch directories. These are removed at the end.

mod against;
mod commands;
mod files;
mod host;
mod kstats;
mod names;
mod ports;
mod report;
mod scratch;
mod sysevents;
mod whole;
mod xml;
mod zfs;
mod zones;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use parking_lot::Mutex;
use vminfod_client::Client;

use crate::compare::{LOOKS_TIME, PAUSES};
use crate::daemon::dump::DumpFault;
use crate::load::command::{Output, Run};
use crate::load::error::CommandError;
use crate::settings::{LoadLimits, Settings};
use crate::threads;
use commands::Commands;
pub use names::{Obstacle, given, plain};
pub use report::{Report, anonymous};
pub use scratch::remove_all as remove_scratch;

/// Something that the daemon relies on.
#[derive(Debug, PartialEq, Eq)]
pub struct Fact {
    /// Its name: the group, a dot, and what it is about.
    pub id: &'static str,
    /// Why the daemon relies on it.
    pub why: &'static str,
    /// What is true on a machine that is as the daemon expects.
    pub expected: &'static str,
    /// What the daemon gets wrong if it is not true.
    pub harm: &'static str,
}

/// One thing that is not as expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What differs: a zone, a line, a dataset. The same in every look.
    pub what: String,
    /// What was seen there.
    pub seen: String,
}

impl Difference {
    fn new(what: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { what: what.into(), seen: seen.into() }
    }
}

/// Whether a fact holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Holds,
    /// It does not hold for these things.
    Differs(Vec<Difference>),
    /// There is nothing on this machine to try it with, and why.
    Absent(String),
    /// It could not be tried, and why.
    Untried(Obstacle),
}

/// What was found out about a fact.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The fact.
    pub fact: &'static Fact,
    /// What was seen, in a few words.
    pub seen: String,
    /// Whether the fact holds.
    pub verdict: Verdict,
}

/// Facts of one kind, and the function that looks at them.
struct Group {
    name: &'static str,
    facts: &'static [Fact],
    look: fn(&Check, &mut Findings) -> Result<(), Obstacle>,
}

/// Groups that are looked at before the others, one after the other. The time
/// that a load takes is of interest; and prctl(1) stops the process for a
/// moment, which must not happen while there are readers of sysevents.
const FIRST: [&str; 2] = ["host", "load"];

/// The groups, in the order in which they are reported.
static GROUPS: [Group; 8] = [
    Group { name: "host", facts: &host::FACTS, look: host::look },
    Group { name: "zoneadm", facts: &zones::FACTS, look: zones::look },
    Group { name: "files", facts: &files::FACTS, look: files::look },
    Group { name: "zfs", facts: &zfs::FACTS, look: zfs::look },
    Group { name: "kstat", facts: &kstats::FACTS, look: kstats::look },
    Group { name: "sysevent", facts: &sysevents::FACTS, look: sysevents::look },
    Group { name: "ports", facts: &ports::FACTS, look: ports::look },
    Group { name: "load", facts: &whole::FACTS, look: whole::look },
];

/// Looked at only if there is a daemon to compare with.
static AGAINST: Group =
    Group { name: "against", facts: &against::FACTS, look: against::look };

/// What is checked, and with which settings.
#[derive(Debug)]
pub struct Check {
    /// The host, and the limits of commands.
    pub settings: Settings,
    /// A daemon whose VMs are compared with those of the system.
    pub against: Option<Client>,
    /// Directories on the file systems that event ports are tried on.
    pub scratch: Vec<PathBuf>,
    commands: Commands,
    /// What the load could not read.
    unread: Mutex<Vec<DumpFault>>,
}

/// The findings of each group, by its name.
type Found = HashMap<&'static str, Vec<Finding>>;

impl Check {
    /// A check of the host that the settings name.
    #[must_use]
    pub fn new(
        settings: Settings,
        against: Option<Client>,
        scratch: Vec<PathBuf>,
    ) -> Arc<Self> {
        let commands = Commands::new(&settings.load);
        let unread = Mutex::default();
        Arc::new(Self { settings, against, scratch, commands, unread })
    }

    /// Tries every fact. A thread that hangs is left behind: a thread that
    /// looks at a file system of a suspended pool never returns.
    #[must_use]
    pub fn run(self: &Arc<Self>) -> Report {
        let begin = Instant::now();
        let against = self.against.as_ref().map(|_| &AGAINST);
        let groups: Vec<_> = GROUPS.iter().chain(against).collect();
        let mut found = Found::new();
        for name in FIRST {
            let own = groups.iter().filter(|group| group.name == name);
            found.extend(self.try_groups(own.copied()));
        }
        let others = groups.iter().filter(|g| !FIRST.contains(&g.name));
        found.extend(self.try_groups(others.copied()));
        whole::judge(self, &mut found);
        let take = |group: &&Group| {
            let findings = found.remove(group.name).unwrap_or_default();
            (group.name, findings)
        };
        let groups = groups.iter().map(take).collect();
        Report { groups, took: begin.elapsed() }
    }

    /// How long a group may take. Its commands have limits of their own.
    fn group_time(&self) -> Duration {
        let LoadLimits { command_time, list_time, .. } = self.settings.load;
        list_time + command_time * 4 + self.settings.sources.ready_time
    }

    /// Tries several groups at the same time.
    fn try_groups(
        self: &Arc<Self>,
        groups: impl Iterator<Item = &'static Group>,
    ) -> Found {
        let (sender, receiver) = unbounded();
        let until = Instant::now() + self.group_time();
        let mut waiting = Vec::new();
        let mut found = Found::new();
        for group in groups {
            let (check, sender) = (Arc::clone(self), sender.clone());
            let begun = threads::spawn("check", move || {
                let looked = AssertUnwindSafe(|| check.try_group(group));
                let findings = catch_unwind(looked).unwrap_or_else(|panic| {
                    let what = threads::panic_text(panic.as_ref());
                    let bug = "a bug in vminfod, please report it";
                    let bug = Err(format!("{bug}: {what}").into());
                    Findings::default().complete(group, bug)
                });
                let _ = sender.send((group.name, findings));
            });
            match begun {
                Ok(_) => waiting.push(group),
                Err(e) => {
                    let why = "can't start a thread for this group";
                    let why = Err(format!("{why}: {e}").into());
                    let findings = Findings::default().complete(group, why);
                    found.insert(group.name, findings);
                }
            }
        }
        while waiting.iter().any(|group| !found.contains_key(group.name)) {
            let Ok((name, findings)) = receiver.recv_deadline(until) else {
                break;
            };
            found.insert(name, findings);
        }
        for group in waiting {
            found.entry(group.name).or_insert_with(|| {
                let time = self.group_time();
                let why = format!(
                    "this group hangs: it has not finished within {time:?}"
                );
                Findings::default().complete(group, Err(why.into()))
            });
        }
        found
    }

    /// Looks at the facts of a group until each of them holds, or has differed
    /// in every look. There are at least two looks at a fact that differs,
    /// however long they take.
    fn try_group(&self, group: &'static Group) -> Vec<Finding> {
        let begin = Instant::now();
        let look = || {
            let mut findings = Findings::default();
            let result = (group.look)(self, &mut findings);
            findings.complete(group, result)
        };
        let mut found = look();
        for (looks, pause) in (1..).zip(PAUSES) {
            let is_late = looks > 1 && begin.elapsed() > LOOKS_TIME;
            if is_late || !found.iter().any(Finding::is_doubtful) {
                break;
            }
            std::thread::sleep(pause);
            let now = look();
            found = found.into_iter().zip(now).map(lasting).collect();
        }
        found
    }

    /// Runs a command of the platform. Commands with the same `circuit` hang
    /// together: after one has hung, none of them is run again.
    fn ask(&self, circuit: &str, run: &Run) -> Result<Output, CommandError> {
        self.ask_for(self.settings.load.command_time, circuit, run)
    }

    /// Like [`Check::ask`], with a time limit of its own.
    fn ask_for(
        &self,
        limit: Duration,
        circuit: &str,
        run: &Run,
    ) -> Result<Output, CommandError> {
        self.commands.run(circuit, run, limit)
    }
}

impl Finding {
    /// Whether another look may find something else.
    fn is_doubtful(&self) -> bool {
        matches!(self.verdict, Verdict::Differs(_) | Verdict::Untried(_))
    }
}

/// What two looks at one fact agree on.
fn lasting((before, now): (Finding, Finding)) -> Finding {
    let Verdict::Differs(was) = &before.verdict else {
        let is_new = matches!(before.verdict, Verdict::Untried(_));
        return if is_new { now } else { before };
    };
    match now.verdict {
        Verdict::Differs(is) => {
            let was_so = |d: &Difference| was.iter().any(|w| w.what == d.what);
            let lasting: Vec<_> = is.into_iter().filter(was_so).collect();
            let verdict = match lasting.is_empty() {
                true => Verdict::Holds,
                false => Verdict::Differs(lasting),
            };
            Finding { verdict, ..now }
        }
        Verdict::Holds | Verdict::Absent(_) => now,
        Verdict::Untried(why) => {
            let why = format!(
                "the difference could not be checked a second time: {why}"
            );
            Finding { verdict: Verdict::Untried(why.into()), ..now }
        }
    }
}

/// What a look has found so far.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        fact: &'static Fact,
        seen: impl Into<String>,
        verdict: Verdict,
    ) {
        self.0.push(Finding { fact, seen: seen.into(), verdict });
    }

    /// Adds a fact, which holds if there are no differences.
    fn judge(
        &mut self,
        fact: &'static Fact,
        seen: impl Into<String>,
        differences: Vec<Difference>,
    ) {
        let verdict = match differences.is_empty() {
            true => Verdict::Holds,
            false => Verdict::Differs(differences),
        };
        self.add(fact, seen, verdict);
    }

    /// Adds a fact, which holds if `is_so`. Otherwise it has one difference.
    fn expect(
        &mut self,
        fact: &'static Fact,
        is_so: bool,
        what: &str,
        seen: impl Into<String>,
    ) {
        let seen = seen.into();
        let difference = Difference::new(what, seen.clone());
        let differences = if is_so { vec![] } else { vec![difference] };
        self.judge(fact, seen, differences);
    }

    fn untried(&mut self, fact: &'static Fact, why: impl Into<Obstacle>) {
        self.add(fact, "", Verdict::Untried(why.into()));
    }

    fn absent(&mut self, fact: &'static Fact, why: impl Into<String>) {
        self.add(fact, "", Verdict::Absent(why.into()));
    }

    /// All facts of the group, in its order. A fact that was not reached could
    /// not be tried.
    fn complete(
        mut self,
        group: &'static Group,
        result: Result<(), Obstacle>,
    ) -> Vec<Finding> {
        let why = "the group stopped before it came to this fact";
        let why = result.err().unwrap_or(why.into());
        let facts = group.facts.iter().map(|fact| {
            let at = self.0.iter().position(|f| f.fact.id == fact.id);
            match at {
                Some(at) => self.0.swap_remove(at),
                None => Finding {
                    fact,
                    seen: String::new(),
                    verdict: Verdict::Untried(why.clone()),
                },
            }
        });
        facts.collect()
    }
}

/// The ids of all facts, in the order in which they are reported.
#[must_use]
pub fn fact_ids() -> Vec<&'static str> {
    let groups = GROUPS.iter().chain([&AGAINST]);
    groups.flat_map(|group| group.facts).map(|fact| fact.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    static FACT: Fact = Fact { id: "a.b", why: "", expected: "", harm: "" };

    fn differing(what: &[&str]) -> Finding {
        let differences =
            what.iter().map(|what| Difference::new(*what, "x")).collect();
        let verdict = Verdict::Differs(differences);
        Finding { fact: &FACT, seen: String::new(), verdict }
    }

    fn other(verdict: Verdict) -> Finding {
        Finding { fact: &FACT, seen: String::new(), verdict }
    }

    #[test]
    fn only_a_difference_in_every_look_counts() {
        let both = lasting((differing(&["a", "b"]), differing(&["b", "c"])));
        assert_eq!(both.verdict, differing(&["b"]).verdict);
        let none = lasting((differing(&["a"]), differing(&["b"])));
        assert_eq!(none.verdict, Verdict::Holds);
        let well = lasting((differing(&["a"]), other(Verdict::Holds)));
        assert_eq!(well.verdict, Verdict::Holds);
        // One look says nothing about what lasts.
        let hangs = || other(Verdict::Untried("hangs".into()));
        let once = lasting((differing(&["a"]), hangs()));
        assert!(matches!(once.verdict, Verdict::Untried(_)), "{once:?}");
        let first = lasting((hangs(), differing(&["a"])));
        assert_eq!(first.verdict, differing(&["a"]).verdict);
        let held = lasting((other(Verdict::Holds), differing(&["a"])));
        assert_eq!(held.verdict, Verdict::Holds);
    }

    #[test]
    fn fact_ids_are_unique_and_all_texts_are_filled_in() {
        let mut ids = fact_ids();
        let count = ids.len();
        assert!(count > 50, "{count}");
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
        for group in GROUPS.iter().chain([&AGAINST]) {
            for fact in group.facts {
                for text in [fact.why, fact.expected, fact.harm] {
                    assert!(text.len() > 10, "{}", fact.id);
                }
            }
        }
    }

    #[test]
    fn facts_that_are_not_reached_count_as_untried() {
        let mut findings = Findings::default();
        findings.judge(&host::FACTS[1], "seen", vec![]);
        let all = findings.complete(&GROUPS[0], Err("it hangs".into()));
        assert_eq!(all.len(), host::FACTS.len());
        assert_eq!(all[1].verdict, Verdict::Holds);
        let untried = Verdict::Untried("it hangs".into());
        assert_eq!((&all[0].verdict, &all[2].verdict), (&untried, &untried));
    }
}
