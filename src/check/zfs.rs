//! What zfs(8) reports about datasets, by the daemon's own commands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::commands::{answered, quoted};
use super::{Check, Difference, Fact, Findings, Obstacle, given, xml};
use crate::load::assemble::volume_of_path;
use crate::load::command::{Output, Run};
use crate::load::error::CommandError;
use crate::load::question::{Question, pool_of};
use crate::load::zfs::{self, COLUMNS, Datasets, Depth};
use crate::load::zonexml::ParsedXml;

/// The name of a dataset that does not exist, below its pool.
const NO_DATASET: &str = "vminfod-check-no-such-dataset";

pub(super) static FACTS: [Fact; 9] = [
    Fact {
        id: "zfs.columns",
        why: "one listing gives everything that VM objects contain about \
            datasets",
        expected: "zfs list knows every column that is asked for",
        harm: "every VM lacks quota, snapshots and all other members that come \
            from zfs",
    },
    Fact {
        id: "zfs.list",
        why: "exit status and standard error tell whether rows are missing",
        expected: "listing a pool that has VMs exits with 0 and prints nothing \
            on stderr",
        harm: "the VMs of the pool have a fault, and keep their last good \
            values",
    },
    Fact {
        id: "zfs.fields",
        why: "a row is split at its tabs",
        expected: "every row has 17 columns and ends with a newline",
        harm: "the datasets of such rows are asked for one by one",
    },
    Fact {
        id: "zfs.order",
        why: "a tenant's mountpoint may look like a row; vminfod believes a \
            listing only if its rows are in order",
        expected: "rows are sorted by dataset, a dataset before its snapshots",
        harm: "the datasets of zones are asked for one by one, and some VMs \
            have a fault",
    },
    Fact {
        id: "zfs.numbers",
        why: "sizes and limits are numbers in VM objects",
        expected: "sizes, limits, times and counts are whole numbers, or - in \
            a row whose type has no such value",
        harm: "members of VMs are null or missing",
    },
    Fact {
        id: "zfs.pools",
        why: "each pool is listed by itself, so that one that hangs does not \
            hold up the others",
        expected: "the listing of one pool has the same rows of that pool as \
            the listing of all pools",
        harm: "VMs lack disks or snapshots, and no fault says so",
    },
    Fact {
        id: "zfs.missing",
        why: "a dataset is gone only if zfs says so",
        expected: "for a name that does not exist: cannot open 'NAME': dataset \
            does not exist, exit status 1, and the rows of the other names",
        harm: "datasets that are destroyed stay in VMs, with a fault",
    },
    Fact {
        id: "zfs.depth",
        why: "a zone's dataset is listed with its children and snapshots, and \
            with the snapshots that protect them; others alone",
        expected: "-d 1 lists a dataset with its children and snapshots, -d 0 \
            only the dataset itself, and both only a snapshot itself",
        harm: "VMs lack snapshots, or thousands of a tenant's snapshots are \
            listed for nothing",
    },
    Fact {
        id: "zfs.datasets",
        why: "a zone's own dataset is the one mounted at its zonepath, and its \
            disks are volumes",
        expected: "a dataset is mounted at the zonepath of every installed \
            zone, and the volume of each of its disks is there",
        harm: "these VMs lack quota, snapshots or the size of disks",
    },
];

/// A row, as zfs printed it.
struct Row<'a> {
    name: &'a str,
    fields: Vec<&'a str>,
}

/// The listings of pools: the answers, and why other pools have not answered.
struct Listed {
    answers: BTreeMap<String, Output>,
    failed: Vec<CommandError>,
}

impl Listed {
    fn rows(&self) -> Vec<Row<'_>> {
        let texts = self.answers.values().map(|output| &output.stdout);
        texts.flat_map(|text| rows_of(text)).collect()
    }

    fn failures(&self) -> Obstacle {
        let failed: Vec<_> = self.failed.iter().map(given).collect();
        failed.join("; ").into()
    }

    /// A pool whose listing succeeded, for further questions.
    fn good_pool(&self) -> Option<&str> {
        let is_good = |output: &Output| output.exit == Some(0);
        let mut good = self.answers.iter().filter(|(_, o)| is_good(o));
        good.next().map(|(pool, _)| pool.as_str())
    }
}

pub(super) fn look(
    check: &Check,
    findings: &mut Findings,
) -> Result<(), Obstacle> {
    let [columns, list, fields, order, numbers, all, missing, depth, datasets] =
        &FACTS;
    let index = xml::read_index(check)?;
    let pools = pools(check, &index);
    if pools.is_empty() {
        for fact in &FACTS {
            findings.absent(fact, "no VM is on a pool");
        }
        return Ok(());
    }
    let listed = list_pools(check, &pools);
    if listed.answers.is_empty() {
        return Err(listed.failures());
    }
    let (mut unknown, mut bad) = (Vec::new(), Vec::new());
    for (pool, output) in &listed.answers {
        let is_usage = output.exit == Some(2);
        let is_well = output.exit == Some(0) && output.stderr.is_empty();
        let what = format!("pool {}", given(pool));
        let difference = || Difference::new(what, answered(output));
        if is_usage {
            unknown.push(difference());
        } else if !is_well {
            bad.push(difference());
        }
    }
    let is_known = unknown.is_empty();
    findings.judge(columns, format!("{} columns", COLUMNS.len()), unknown);
    if !is_known {
        return Err("zfs does not know the columns".into());
    }
    let rows = listed.rows();
    if bad.is_empty() && !listed.failed.is_empty() {
        findings.untried(list, listed.failures());
    } else {
        let seen =
            format!("{} pools, {} rows", listed.answers.len(), rows.len());
        findings.judge(list, seen, bad);
    }
    look_at_fields(findings, fields, &listed);
    look_at_order(findings, order, &rows);
    look_at_numbers(findings, numbers, &rows);
    look_at_all(check, findings, all, &listed);
    look_at_missing(check, findings, missing, &listed);
    look_at_depth(check, findings, depth, &rows);
    look_at_datasets(check, findings, datasets, &index, &listed)
}

/// The pools that VMs are on, according to their zonepaths and XMLs.
fn pools(check: &Check, index: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (zonename, line) in xml::zones(index) {
        if zonename == "global" {
            continue;
        }
        if let Some(path) = line.zonepath.strip_prefix('/') {
            names.insert(path.to_string());
        }
        if let Ok(parsed) = xml::read(check, zonename) {
            let disks = parsed.xml.disk_paths.iter();
            let volumes = disks.filter_map(|path| volume_of_path(path));
            names.extend(volumes.map(str::to_string));
            let datasets = parsed.xml.datasets.iter();
            names.extend(datasets.map(ToString::to_string));
        }
    }
    let names = names.iter().filter(|name| zfs::is_dataset_name(name));
    names.map(|name| pool_of(name).to_string()).collect()
}

/// Lists all pools at the same time, because one may hang. Each may take as
/// long as the daemon allows at its start.
fn list_pools(check: &Check, pools: &BTreeSet<String>) -> Listed {
    let answers: Vec<_> = std::thread::scope(|scope| {
        let begin = |pool: &String| {
            let pool = pool.clone();
            scope.spawn(move || {
                let run = zfs::list_pool(&check.settings.paths, &pool);
                let limit = check.settings.load.list_time;
                let output = check.ask_for(limit, &circuit(&pool), &run);
                (pool, output)
            })
        };
        let begun: Vec<_> = pools.iter().map(begin).collect();
        begun.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let (mut listed, mut failed) = (BTreeMap::new(), Vec::new());
    for (pool, answer) in answers {
        match answer {
            Ok(output) => drop(listed.insert(pool, output)),
            Err(why) => failed.push(why),
        }
    }
    Listed { answers: listed, failed }
}

fn circuit(pool: &str) -> String {
    Question::Pool(pool.into()).circuit()
}

/// The rows of a listing that have all columns.
fn rows_of(text: &str) -> impl Iterator<Item = Row<'_>> {
    text.lines().filter_map(|line| {
        let fields: Vec<_> = line.splitn(COLUMNS.len(), '\t').collect();
        let is_whole = fields.len() == COLUMNS.len();
        is_whole.then(|| Row { name: fields[place("name")], fields })
    })
}

/// The index of a column.
fn place(column: &str) -> usize {
    COLUMNS.iter().position(|c| *c == column).unwrap_or(0)
}

fn dataset(name: &str) -> String {
    format!("dataset {}", given(name))
}

/// A tenant may put line ends into the mountpoint of a dataset that is
/// delegated to it. So what follows such a row does not count as a difference.
fn look_at_fields(
    findings: &mut Findings,
    fact: &'static Fact,
    listed: &Listed,
) {
    let mut differences = Vec::new();
    let mut count = 0;
    for (pool, output) in &listed.answers {
        let mut is_tenants = false;
        for line in output.stdout.lines() {
            count += 1;
            let fields: Vec<_> = line.splitn(COLUMNS.len(), '\t').collect();
            if fields.len() == COLUMNS.len() {
                is_tenants = fields[place("zoned")] == "on";
            } else if !is_tenants {
                let what = format!("pool {}, {}", given(pool), quoted(line));
                let seen = format!("{} columns", fields.len());
                differences.push(Difference::new(what, seen));
            }
        }
        if !output.stdout.is_empty() && !output.stdout.ends_with('\n') {
            let what = format!("pool {}, the last row", given(pool));
            differences.push(Difference::new(what, "has no newline"));
        }
    }
    findings.judge(fact, format!("{count} rows"), differences);
}

fn look_at_order(
    findings: &mut Findings,
    fact: &'static Fact,
    rows: &[Row<'_>],
) {
    let mut differences = Vec::new();
    for pair in rows.windows(2) {
        let [before, row] = pair else { continue };
        let of = |row: &Row<'_>| {
            let (dataset, _) =
                row.name.split_once('@').unwrap_or((row.name, ""));
            dataset.to_string()
        };
        let is_snapshot = row.name.contains('@');
        let is_sorted = match is_snapshot {
            true => of(before) == of(row),
            // Each pool has a listing of its own, with an order of its own.
            false => {
                of(before) < of(row)
                    || pool_of(before.name) != pool_of(row.name)
            }
        };
        if !is_sorted {
            let seen = format!("it comes after {}", given(before.name));
            differences.push(Difference::new(dataset(row.name), seen));
        }
    }
    findings.judge(fact, format!("{} rows", rows.len()), differences);
}

/// The columns that must have a number in a row of this type. Any other column
/// may have a number or a dash.
fn numbers_of(kind: &str) -> &'static [&'static str] {
    match kind {
        "filesystem" => &[
            "creation",
            "filesystem_limit",
            "quota",
            "recsize",
            "refquota",
            "refreservation",
            "snapshot_limit",
        ],
        "volume" => &[
            "creation",
            "refreservation",
            "snapshot_limit",
            "volblocksize",
            "volsize",
        ],
        _ => &["creation"],
    }
}

fn look_at_numbers(
    findings: &mut Findings,
    fact: &'static Fact,
    rows: &[Row<'_>],
) {
    // These columns have text, in rows of every type.
    const TEXTS: [&str; 5] =
        ["compression", "name", "type", "zoned", "mountpoint"];
    let mut differences = Vec::new();
    for row in rows {
        let wanted = numbers_of(row.fields[place("type")]);
        for (column, value) in COLUMNS.iter().zip(&row.fields) {
            let is_number = value.parse::<u64>().is_ok();
            let is_right = match wanted.contains(column) {
                true => is_number,
                false => is_number || *value == "-" || TEXTS.contains(column),
            };
            if !is_right {
                let what = format!("{}, {column}", dataset(row.name));
                differences.push(Difference::new(what, quoted(value)));
            }
        }
    }
    findings.judge(fact, format!("{} rows", rows.len()), differences);
}

/// How many components a name has below its pool. A snapshot is one component
/// below its dataset.
fn depth_of(name: &str) -> usize {
    name.split(['/', '@']).count() - 1
}

fn look_at_all(
    check: &Check,
    findings: &mut Findings,
    fact: &'static Fact,
    listed: &Listed,
) {
    let types = "filesystem,snapshot,volume";
    // No deeper than the daemon lists pools: a tenant decides how much there
    // is.
    let args = ["list", "-H", "-p", "-t", types, "-o", "name", "-d", "2"];
    let run = Run::new(check.settings.paths.zfs(), &args);
    let limit = check.settings.load.list_time;
    let output = match check.ask_for(limit, "zfs of all pools", &run) {
        Ok(output) => output,
        Err(why) => return findings.untried(fact, why),
    };
    if output.exit != Some(0) {
        return findings.untried(fact, answered(&output));
    }
    let is_good = |name: &str| {
        let own = listed.answers.get(pool_of(name));
        own.is_some_and(|own| own.exit == Some(0) && own.stderr.is_empty())
    };
    let of_all = output.stdout.lines();
    let of_all: BTreeSet<&str> = of_all.filter(|n| is_good(n)).collect();
    let rows = listed.rows();
    let of_pools = rows.iter().map(|row| row.name).filter(|n| is_good(n));
    let of_pools: BTreeSet<&str> = of_pools.collect();
    let mut differences = Vec::new();
    for name in of_all.symmetric_difference(&of_pools) {
        let seen = match of_all.contains(name) {
            true => "is in the listing of all, and not in that of its pool",
            false => "is in the listing of its pool, and not in that of all",
        };
        differences.push(Difference::new(dataset(name), seen));
    }
    findings.judge(fact, format!("{} names", of_all.len()), differences);
}

fn look_at_missing(
    check: &Check,
    findings: &mut Findings,
    fact: &'static Fact,
    listed: &Listed,
) {
    let Some(pool) = listed.good_pool() else {
        return findings
            .untried(fact, "no pool could be listed without an error");
    };
    let name: Arc<str> = format!("{pool}/{NO_DATASET}").into();
    let names = BTreeSet::from([Arc::from(pool), Arc::clone(&name)]);
    let run = zfs::list_some(&check.settings.paths, &names, Depth::Alone);
    match check.ask(&circuit(pool), &run) {
        Err(why) => findings.untried(fact, why),
        Ok(output) => {
            let answer = zfs::answer(&run, &output, Depth::Alone, |_| true);
            let is_so = answer.is_ok_and(|datasets| {
                datasets.is_missing(&name)
                    && datasets.get(pool).is_some()
                    && datasets.cut().is_none()
            });
            let is_so = is_so && output.exit == Some(1);
            findings.expect(fact, is_so, "the answer", answered(&output));
        }
    }
}

fn look_at_depth(
    check: &Check,
    findings: &mut Findings,
    fact: &'static Fact,
    rows: &[Row<'_>],
) {
    let parent = |name: &str| {
        let (parent, _) = name.rsplit_once(['/', '@'])?;
        Some(parent.to_string())
    };
    // A dataset directly below its pool, with something below it.
    let tried = rows.iter().find_map(|row| {
        let parent = parent(row.name)?;
        (depth_of(&parent) == 1).then_some(parent)
    });
    let Some(tried) = tried else {
        return findings.absent(fact, "no dataset has children or snapshots");
    };
    let below = rows.iter().filter(|row| {
        row.name == tried || parent(row.name).as_ref() == Some(&tried)
    });
    let below: BTreeSet<&str> = below.map(|row| row.name).collect();
    let snapshot = below.iter().find(|name| name.contains('@'));
    let mut cases = vec![
        (tried.as_str(), Depth::Children, below.clone()),
        (tried.as_str(), Depth::Alone, BTreeSet::from([tried.as_str()])),
    ];
    for depth in [Depth::Children, Depth::Alone] {
        cases.extend(snapshot.map(|n| (*n, depth, BTreeSet::from([*n]))));
    }
    let mut differences = Vec::new();
    for (name, depth, wanted) in &cases {
        let names = BTreeSet::from([Arc::from(*name)]);
        let run = zfs::list_some(&check.settings.paths, &names, *depth);
        let output = match check.ask(&circuit(pool_of(name)), &run) {
            Ok(output) => output,
            Err(why) => return findings.untried(fact, why),
        };
        let found: BTreeSet<&str> =
            rows_of(&output.stdout).map(|row| row.name).collect();
        if found != *wanted {
            let depth = if *depth == Depth::Alone { 0 } else { 1 };
            let what = format!("-d {depth} {}", given(name));
            let seen = format!(
                "{} rows where the listing of the pool has {}: {}",
                found.len(),
                wanted.len(),
                answered(&output)
            );
            differences.push(Difference::new(what, seen));
        }
    }
    findings.judge(fact, format!("{} listings", cases.len()), differences);
}

/// The datasets that a zone should have but that do not exist.
fn missing_of(
    check: &Check,
    zonename: &str,
    zonepath: &str,
    parsed: &ParsedXml,
    found: &Datasets,
) -> Result<Vec<Difference>, Obstacle> {
    // A dataset that is not in a listing may be deeper than the listing goes.
    let ask = |name: &str| -> Result<(Datasets, Output), Obstacle> {
        let names = BTreeSet::from([Arc::from(name)]);
        let run = zfs::list_some(&check.settings.paths, &names, Depth::Alone);
        let output = check.ask(&circuit(pool_of(name)), &run)?;
        let answer = zfs::answer(&run, &output, Depth::Alone, |_| true);
        Ok((answer.unwrap_or_default(), output))
    };
    let zone = format!("zone {}", given(zonename));
    let mut missing = Vec::new();
    if found.mounted_at(zonepath).is_none() {
        let (own, _) = ask(zonepath.trim_start_matches('/'))?;
        if own.mounted_at(zonepath).is_none() {
            let seen = format!("no dataset is mounted at {}", given(zonepath));
            missing.push(Difference::new(zone.clone(), seen));
        }
    }
    for path in &parsed.xml.disk_paths {
        let Some(name) = volume_of_path(path) else { continue };
        if !zfs::is_dataset_name(name) || found.get(name).is_some() {
            continue;
        }
        let (own, output) = ask(name)?;
        if own.get(name).is_none() {
            let what = format!("{zone}, {}", dataset(name));
            missing.push(Difference::new(what, answered(&output)));
        }
    }
    Ok(missing)
}

fn look_at_datasets(
    check: &Check,
    findings: &mut Findings,
    fact: &'static Fact,
    index: &str,
    listed: &Listed,
) -> Result<(), Obstacle> {
    let mut found = Datasets::default();
    for output in listed.answers.values() {
        if let Ok(own) = zfs::parse(&output.stdout, Depth::Children, |_| true) {
            found.merge(own);
        }
    }
    let mut differences = Vec::new();
    let mut count = 0;
    for (zonename, line) in xml::zones(index) {
        let is_installed = &*line.zone_state == "installed";
        let parsed = xml::read(check, zonename);
        let Some(parsed) = parsed.ok().filter(|_| is_installed) else {
            continue;
        };
        if zonename == "global" || xml::is_on_its_way(&parsed) {
            continue;
        }
        count += 1;
        let path = &*line.zonepath;
        let missing = missing_of(check, zonename, path, &parsed, &found);
        differences.extend(missing?);
    }
    // A zone that was deleted or changed meanwhile says nothing.
    let again = xml::read_index(check)?;
    let (zones, steady) = (xml::zones(index), xml::zones(&again));
    let is_steady = |difference: &Difference| {
        zones.iter().any(|zone| {
            let what = format!("zone {}", given(zone.0));
            let is_own = difference.what == what
                || difference.what.starts_with(&format!("{what}, "));
            is_own && steady.contains(zone)
        })
    };
    if !differences.is_empty() {
        differences.retain(is_steady);
    }
    findings.judge(fact, format!("{count} zones"), differences);
    Ok(())
}
