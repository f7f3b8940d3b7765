//! Loads everything once, as the daemon does at its start.

use std::time::{Duration, Instant};

use super::{
    Check, Difference, Fact, Finding, Findings, Found, Obstacle, Verdict, given,
};
use crate::daemon::dump::{DumpFault, Dumped, dump};
use crate::source::Source;

/// If something could not be read, it is read again after this time: the fault
/// may have passed.
const AGAIN_TIME: Duration = Duration::from_secs(1);

/// How many unread things are shown, of those that other facts explain.
const SHOWN_MAX: usize = 20;

pub(super) static FACTS: [Fact; 3] = [
    Fact {
        id: "load.whole",
        why: "the daemon serves nothing before everything is loaded once",
        expected: "a load of everything succeeds, and everything that it \
            cannot read is explained by other facts",
        harm: "these VMs are not served, or lack what could not be read",
    },
    Fact {
        id: "load.commands",
        why: "a command that takes at least half of its time limit counts as \
            hanging",
        expected: "every command takes less than half of its time limit",
        harm: "what it prints is served late, and with faults",
    },
    Fact {
        id: "load.start",
        why: "SMF gives the service 300 s to start, and list-time is the share \
            of it that a listing may take",
        expected: "a load of everything takes less than half of list-time",
        harm: "the service goes to maintenance when it is started",
    },
];

/// The groups whose facts explain why a source can't be read.
fn groups_of(source: Source) -> &'static [&'static str] {
    match source {
        Source::Zoneadm => &["zoneadm"],
        Source::Kstat => &["kstat"],
        Source::Zfs => &["zfs"],
        Source::Sysinfo => &["host"],
        Source::Uuid | Source::Receiving => &[],
        _ => &["files"],
    }
}

pub(super) fn look(
    check: &Check,
    findings: &mut Findings,
) -> Result<(), Obstacle> {
    let [whole, commands, start] = &FACTS;
    let list_time = check.settings.load.list_time;
    let load = || dump(&check.settings, list_time).map_err(given);
    let begin = Instant::now();
    // If nothing can be loaded, other facts show why.
    let Dumped { vms, mut faults, runs, .. } = load()?;
    let took = begin.elapsed();
    if !faults.is_empty() {
        std::thread::sleep(AGAIN_TIME);
        let again = load()?.faults;
        let is_same = |a: &DumpFault, b: &DumpFault| {
            a.zonename == b.zonename && a.source == b.source
        };
        faults.retain(|fault| again.iter().any(|f| is_same(f, fault)));
    }
    *check.unread.lock() = faults;
    let seen = format!("{} VMs in {took:.2?}", vms.len());
    findings.judge(whole, seen, Vec::new());
    let mut seen = Vec::new();
    let mut differences = Vec::new();
    let mut killed = Vec::new();
    for (command, count) in &runs {
        let Some((time, limit)) = count.longest else { continue };
        let text =
            format!("{} runs, the longest {time:.1?} of {limit:?}", count.runs);
        if count.hangs > 0 {
            killed.push(command.as_str());
        } else if count.is_slow() {
            differences.push(Difference::new(command.clone(), text.clone()));
        }
        seen.push(format!("{command}: {text}"));
    }
    if killed.is_empty() {
        findings.judge(commands, seen.join("; "), differences);
        let is_quick = took < list_time / 2;
        findings.expect(start, is_quick, "the load", format!("{took:.2?}"));
    } else {
        let why = format!("killed at the time limit: {}", killed.join(" and "));
        findings.untried(commands, why.clone());
        findings.untried(start, why);
    }
    Ok(())
}

/// Something that could not be read is a difference, unless a fact of another
/// group explains it.
pub(super) fn judge(check: &Check, found: &mut Found) {
    let faults = std::mem::take(&mut *check.unread.lock());
    let is_explained = |fault: &DumpFault| {
        let groups = groups_of(fault.source).iter();
        let mut findings = groups.filter_map(|name| found.get(name)).flatten();
        findings.any(Finding::is_doubtful)
    };
    let (explained, others): (Vec<_>, Vec<_>) =
        faults.iter().partition(|f| is_explained(f));
    let differences = others.iter().map(|fault| {
        let DumpFault { zonename, source, error } = fault;
        let what = format!("{}, {source}", given(zonename));
        Difference::new(what, given(error))
    });
    let differences: Vec<_> = differences.collect();
    let whole = found.get_mut("load").and_then(|load| load.first_mut());
    let Some(whole) = whole.filter(|w| w.verdict == Verdict::Holds) else {
        return;
    };
    if !explained.is_empty() {
        let shown: Vec<_> =
            explained.iter().take(SHOWN_MAX).map(|f| shown(f)).collect();
        let count = explained.len();
        whole.seen += &format!(
            "; {count} sources could not be read: {}",
            shown.join("; ")
        );
    }
    if !differences.is_empty() {
        whole.verdict = Verdict::Differs(differences);
    }
}

fn shown(fault: &DumpFault) -> String {
    let DumpFault { zonename, source, error } = fault;
    format!("{}, {source}: {}", given(zonename), given(error))
}
