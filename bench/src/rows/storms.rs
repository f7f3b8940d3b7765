//! Storms: hundreds of VMs change at once.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use simhost::Host;
use simhost::emit::Channel;
use vminfod::vm::json::Json;

use super::events::{reader_pipe, report, running, there_and_back};
use crate::Result;
use crate::host::{BenchHost, Daemon, Events, Programs, get};
use crate::report::{Figure, Goal, Samples};

/// How many VMs the host has, and how many of them change state.
const VMS: u64 = 760;
/// See [`VMS`].
const ZONES: usize = 500;

/// How long each command takes longer than the simulated one does.
const COMMAND: Duration = Duration::from_millis(10);

/// The pause after each step of all zones.
const STEP: Duration = Duration::from_millis(40);

/// How many VMs are created at once.
const CREATED: u64 = 50;

/// After so long without a line, a storm is over.
const CALM: Duration = Duration::from_millis(800);

/// What a storm has cost.
struct Storm {
    /// From the last report to the last line, in seconds.
    rest: f64,
    /// From the first report to the last, in seconds.
    time: f64,
    runs: f64,
    /// How many zones lack the line of a state that was reported.
    lacking: f64,
}

/// Hundreds of zones boot and halt.
pub fn states(programs: &Programs, runs: usize) -> Result<Vec<Figure>> {
    let host = BenchHost::new(programs, VMS)?;
    let daemon = host.start(programs, &[])?;
    daemon.settle()?;
    let up = running(&host, &daemon)?.into_iter().take(ZONES);
    let names: Vec<_> = up.map(|zone| zone.zonename).collect();
    if names.len() < ZONES {
        return Err("too few VMs run".into());
    }
    for command in ["zoneadm", "kstat", "zfs"] {
        host.hurt(command, &format!("slow {}", COMMAND.as_millis()))?;
    }
    let (mut boots, mut halts) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let halt = |after: &dyn Fn()| host.halt_all(&names, after);
        let seen = ["shutting_down", "installed"];
        halts.push(storm(&daemon, &names, &seen, &halt)?);
        let boot = |after: &dyn Fn()| host.boot_all(&names, after);
        let seen = ["ready", "running"];
        boots.push(storm(&daemon, &names, &seen, &boot)?);
    }
    let mut figures = Vec::new();
    for (what, storms) in [("boot", boots), ("halt", halts)] {
        let of = |part: fn(&Storm) -> f64| storms.iter().map(part).collect();
        let figure = |name: &str, unit, part: fn(&Storm) -> f64| {
            Figure::new(11, format!("{what} storm, {name}"), unit, of(part))
        };
        figures.push(
            figure("last line after last report", "s", |s| s.rest)
                .goal(Goal::AtMost(0.15)),
        );
        figures.push(figure("all reports", "s", |s| s.time));
        figures.push(
            figure("command runs", "runs", |s| s.runs).goal(Goal::AtMost(40.0)),
        );
        figures.push(
            figure("zones without a line of each state", "zones", |s| {
                s.lacking
            })
            .goal(Goal::AtMost(0.0)),
        );
    }
    Ok(figures)
}

/// Has all zones take their steps, and waits until no more lines come.
fn storm(
    daemon: &Daemon,
    names: &[String],
    seen: &[&str],
    change: &dyn Fn(&dyn Fn()) -> simhost::Result<()>,
) -> Result<Storm> {
    let events = daemon.events("?snapshot=none")?;
    let lines = std::thread::spawn(move || read_all(events));
    let before = daemon.command_runs()?;
    let begin = Instant::now();
    let reported = Cell::new(begin);
    change(&|| {
        reported.set(Instant::now());
        std::thread::sleep(STEP);
    })?;
    let lines = lines.join().map_err(|_| "the reader has panicked")??;
    let last = lines.last().ok_or("no line came")?.0;
    daemon.settle()?;
    let runs = daemon.command_runs()? - before;
    let mut states: HashMap<String, HashSet<String>> = HashMap::new();
    for (_, line) in &lines {
        let event = Json::parse(line)?;
        let text = |json: Option<&Json>| {
            json.and_then(Json::as_str).unwrap_or_default().to_string()
        };
        let state = text(event.get("vm").and_then(|vm| vm.get("zone_state")));
        states.entry(text(event.get("zonename"))).or_default().insert(state);
    }
    let has_all = |name: &&String| {
        let own = states.get(*name);
        own.is_some_and(|own| seen.iter().all(|state| own.contains(*state)))
    };
    #[allow(clippy::cast_precision_loss)]
    let lacking = (names.len() - names.iter().filter(has_all).count()) as f64;
    let rest = last.saturating_duration_since(reported.get()).as_secs_f64();
    let time = (reported.get() - begin).as_secs_f64();
    Ok(Storm { rest, time, runs, lacking })
}

/// All lines until none comes for a while, and when each came.
fn read_all(mut events: Events) -> Result<Vec<(Instant, String)>> {
    let mut lines = Vec::new();
    events.next()?;
    // The first lines may take a while; then a pause is the end.
    while let Some(line) = events.next_within(match lines.is_empty() {
        true => Duration::from_secs(30),
        false => CALM,
    })? {
        lines.push((Instant::now(), line));
    }
    Ok(lines)
}

/// Many VMs are created at once.
pub fn creations(programs: &Programs, runs: usize) -> Result<Vec<Figure>> {
    let host = BenchHost::new(programs, 100)?;
    let daemon = host.start(programs, &[])?;
    daemon.settle()?;
    for command in ["zoneadm", "kstat", "zfs"] {
        host.hurt(command, &format!("slow {}", COMMAND.as_millis()))?;
    }
    let (mut rests, mut counts) = (Vec::new(), Vec::new());
    for run in 0..runs as u64 {
        let events = daemon.events("?snapshot=none")?;
        let lines = std::thread::spawn(move || read_all(events));
        let before = daemon.command_runs()?;
        let times = daemon.command_times()?;
        for n in 0..CREATED {
            host.create(&Host::spec(1000 + run * CREATED + n))?;
        }
        let at = Instant::now();
        let lines = lines.join().map_err(|_| "the reader has panicked")??;
        let last = lines.last().ok_or("no line came")?.0;
        daemon.settle()?;
        let count = daemon.command_runs()? - before;
        let after = daemon.command_times()?;
        let spent: f64 = (0..3).map(|n| after[n] - times[n]).sum();
        let rest = last.saturating_duration_since(at).as_secs_f64();
        rests.push(rest - spent / count.max(1.0));
        counts.push(count);
    }
    let name = "50 VMs created, last line after the last, less a command";
    Ok(vec![
        Figure::new(12, name, "s", rests).goal(Goal::AtMost(0.15)),
        Figure::new(12, "command runs of it", "runs", counts),
    ])
}

/// How many commands run for one event.
pub fn command_runs(programs: &Programs, runs: usize) -> Result<Vec<Figure>> {
    const EVENTS: usize = 20;
    let host = BenchHost::new(programs, 100)?;
    let daemon = host.start(programs, &[])?;
    daemon.settle()?;
    let zones = running(&host, &daemon)?;
    let mut events = daemon.events("?snapshot=none")?;
    let mut pipe = reader_pipe(&daemon)?;
    let mut counts = [Vec::new(), Vec::new(), Vec::new()];
    for run in 0..runs {
        let mut before = daemon.command_runs()?;
        let mut count = |to: &mut Vec<f64>| -> Result<()> {
            daemon.settle()?;
            let now = daemon.command_runs()?;
            #[allow(clippy::cast_precision_loss)]
            to.push(
                (now - std::mem::replace(&mut before, now)) / EVENTS as f64,
            );
            Ok(())
        };
        for n in 0..EVENTS {
            let zone = &zones[n % zones.len()];
            report(&mut pipe, zone)?;
            there_and_back(&mut events, &zone.zonename)?;
        }
        count(&mut counts[0])?;
        for n in 0..EVENTS {
            let own = format!("zones/{}", zones[n % zones.len()].zonename);
            // Another value than in the run before.
            let value = format!("gzip-{}", 1 + run % 9);
            host.hurt("sysevent-zfs", "drop")?;
            host.zfs_set(&own, "compression", &value)?;
            host.hurt("sysevent-zfs", "heal")?;
            let set = format!("compression={value}");
            let record = simhost::emit::history(&own, "set", &set, n as u64);
            host.raw_sysevent(
                Channel::Zfs,
                format!("{{{record}\n").as_bytes(),
            )?;
            events.next_with(&["\"zfs_root_compression\""])?;
        }
        count(&mut counts[1])?;
        for n in 0..EVENTS {
            let zone = &zones[n % zones.len()];
            super::events::tag(zone, run * EVENTS + n)?;
            events.next_with(&[&zone.zonename, "\"tags"])?;
        }
        count(&mut counts[2])?;
    }
    let figures = ["zone", "zfs", "file"].iter().zip([2.0, 1.0, 0.0]);
    let figures = figures.zip(counts).map(|((what, goal), counts)| {
        let name = format!("commands run for one {what} event");
        Figure::new(13, name, "runs", counts).goal(Goal::AtMost(goal))
    });
    Ok(figures.collect())
}

/// Requests about many VMs.
pub fn queries(programs: &Programs, runs: usize) -> Result<Vec<Figure>> {
    const REQUESTS: usize = 20;
    let host = BenchHost::new(programs, 10_000)?;
    let daemon = host.start(programs, &[])?;
    daemon.settle()?;
    let mut figures = Vec::new();
    for (what, path, goal) in [
        ("a filter by alias over 10,000 VMs", "/vms?alias=vm77", 5.0),
        (
            "fields=uuid,alias,state of them",
            "/vms?fields=uuid,alias,state",
            10.0,
        ),
        ("/metrics", "/metrics", 0.5),
        ("/status", "/status", 0.3),
    ] {
        let mut medians = Vec::new();
        for _ in 0..runs {
            let mut times = Vec::new();
            for _ in 0..REQUESTS {
                let begin = Instant::now();
                get(daemon.addr, path)?;
                times.push(begin.elapsed().as_secs_f64() * 1e3);
            }
            medians.push(Samples(times).median());
        }
        let name = format!("{what}, p50");
        figures.push(
            Figure::new(14, name, "ms", medians).goal(Goal::AtMost(goal)),
        );
    }
    Ok(figures)
}
