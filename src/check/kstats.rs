//! What kstat(8) reports about zones, with the daemon's own filters.

use super::commands::answered;
use super::{Check, Difference, Fact, Findings, Obstacle, given};
use crate::load::kstat::{self, Kstats};
use crate::load::zoneadm::{self, ZoneRow};

pub(super) static FACTS: [Fact; 4] = [
    Fact {
        id: "kstat.filters",
        why: "only four statistics of zones are read",
        expected: "kstat with these filters exits with 0 and prints only \
            zonename, boot_time, init_pid and init_restarts",
        harm: "no VM has a pid or boot_timestamp, or each load reads far more",
    },
    Fact {
        id: "kstat.global",
        why: "the global zone has a kstat, so that a listing is never empty",
        expected: "the global zone is in the listing, with id 0",
        harm: "no direct harm, but kstat has changed",
    },
    Fact {
        id: "kstat.running",
        why: "pid and boot_timestamp of a running VM come from kstat",
        expected: "every running zone has all four statistics, and the same id \
            as in zoneadm",
        harm: "these VMs have a fault, and lack pid and boot_timestamp",
    },
    Fact {
        id: "kstat.one",
        why: "after an event of one zone only its statistics are read",
        expected: "-i ID prints only the statistics of that zone",
        harm: "the VM lacks pid and boot_timestamp, or gets those of another \
            zone",
    },
];

const STATISTICS: [&str; 4] =
    ["boot_time", "init_pid", "init_restarts", "zonename"];

pub(super) fn look(
    check: &Check,
    findings: &mut Findings,
) -> Result<(), Obstacle> {
    let [filters, global, running, one] = &FACTS;
    let paths = &check.settings.paths;
    let before = running_zones(check);
    let run = kstat::read_run(paths, None);
    let output = check.ask("kstat", &run)?;
    let statistic = |line: &str| {
        let (path, _) = line.split_once('\t')?;
        Some(path.rsplit_once(':')?.1.to_string())
    };
    let is_known = |line: &str| {
        statistic(line).is_some_and(|s| STATISTICS.contains(&s.as_str()))
    };
    let is_well = output.exit == Some(0)
        && output.stderr.is_empty()
        && output.stdout.lines().all(is_known);
    let seen = match is_well {
        true => format!("{} lines", output.stdout.lines().count()),
        false => answered(&output),
    };
    findings.expect(filters, is_well, "the statistics", seen);
    let kstats = kstat::answer(&run, &output).map_err(given)?;
    let is_there = kstats.get("global").is_some_and(|info| info.zoneid == 0.0);
    let seen = if is_there {
        "it is listed with id 0"
    } else {
        "it is not listed with id 0"
    };
    findings.expect(global, is_there, "the global zone", seen);

    look_at_one(check, findings, one)?;
    // Only zones that ran before and after: others have started or stopped
    // meanwhile.
    let (before, after) = (before?, running_zones(check)?);
    let rows: Vec<_> = after
        .iter()
        .filter(|row| {
            before
                .iter()
                .any(|b| b.zonename == row.zonename && b.zoneid == row.zoneid)
        })
        .collect();
    let differences = rows.iter().filter_map(|row| {
        let what = format!("zone {}", given(&row.zonename));
        Some(Difference::new(what, wrong_with(row, &kstats)?))
    });
    let differences = differences.collect();
    match rows.first() {
        None => findings.absent(running, "no zone is running"),
        Some(_) => {
            let seen = format!("{} running zones", rows.len());
            findings.judge(running, seen, differences);
        }
    }
    Ok(())
}

/// What is wrong with the kstat of a running zone, if anything.
fn wrong_with(row: &ZoneRow, kstats: &Kstats) -> Option<String> {
    match kstats.get(&*row.zonename) {
        None => {
            Some("kstat has no statistics of it, or not all four".to_string())
        }
        Some(info) if Some(info.zoneid) != row.zoneid.as_f64() => {
            let ids = [info.zoneid.to_string(), row.zoneid.to_string()];
            let [kstat, zoneadm] = ids.map(|id| given(&id));
            Some(format!("kstat has id {kstat}, zoneadm {zoneadm}"))
        }
        Some(info) if info.boot_time <= 0.0 => {
            Some("kstat does not say when it was booted".to_string())
        }
        Some(_) => None,
    }
}

/// The rows of the zones that are running.
fn running_zones(check: &Check) -> Result<Vec<ZoneRow>, Obstacle> {
    let run = zoneadm::list_all_run(&check.settings.paths);
    let listing = zoneadm::listing(&run, &check.ask("zoneadm", &run)?);
    let mut rows = listing.map_err(given)?.rows;
    rows.retain(|row| &*row.zone_state == "running");
    Ok(rows)
}

/// Asks for the global zone, which always runs, by its id.
fn look_at_one(
    check: &Check,
    findings: &mut Findings,
    fact: &'static Fact,
) -> Result<(), Obstacle> {
    let run = kstat::read_run(&check.settings.paths, Some(0));
    let output = check.ask("kstat", &run)?;
    let found = kstat::answer(&run, &output);
    let is_own = found.is_ok_and(|found| {
        found.len() == 1 && found.values().all(|info| info.zoneid == 0.0)
    });
    findings.expect(fact, is_own, "the global zone", answered(&output));
    Ok(())
}
