//! Events, from the kernel to a subscriber: how long they take, and what they
//! cost.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

use simhost::emit::{Channel, history, zone_change};
use vminfod::vm::json::Json;

use crate::Result;
use crate::host::{BenchHost, Daemon, Events, Programs, get};
use crate::report::{Figure, Goal, Samples};

/// How many events of one kind each run has.
const FILE_EVENTS: usize = 1000;
/// See [`FILE_EVENTS`].
const ZONE_EVENTS: usize = 200;

/// How many events of zones each run has while commands are slow.
const SLOW_EVENTS: usize = 50;

/// The most bytes of records that are sent at once.
const DATAGRAM: usize = 64 << 10;

/// A running zone.
pub struct Running {
    pub zonename: String,
    zoneid: i64,
    /// The path of its tags.
    tags: std::path::PathBuf,
}

/// The running zones.
pub fn running(host: &BenchHost, daemon: &Daemon) -> Result<Vec<Running>> {
    let path = "/vms?zone_state=running&fields=zonename,zoneid,zonepath";
    let (_, body) = get(daemon.addr, path)?;
    let vms = Json::parse(&String::from_utf8(body)?)?;
    let of = |vm: &Json| {
        let zonepath = vm.get("zonepath")?.as_str()?;
        #[allow(clippy::cast_possible_truncation)]
        let zoneid = vm.get("zoneid")?.as_f64()? as i64;
        Some(Running {
            zonename: vm.get("zonename")?.as_str()?.to_string(),
            zoneid,
            tags: host.path(&format!("{zonepath}/config/tags.json")),
        })
    };
    let vms = vms.as_array().ok_or("/vms is no array")?;
    let found: Vec<_> = vms.iter().filter_map(of).collect();
    match found.is_empty() {
        true => Err("no VM runs".into()),
        false => Ok(found),
    }
}

/// The pipe from which the daemon reads sysevent's records of zones. What is
/// written there is measured without the program that would write it.
pub fn reader_pipe(daemon: &Daemon) -> Result<File> {
    let status = daemon.status()?;
    let zone = status.get("sources").and_then(|sources| sources.get("zone"));
    let pid = zone.and_then(|zone| zone.get("pid")?.as_u64());
    let path = format!("/proc/{}/fd/1", pid.ok_or("no reader of zones")?);
    Ok(File::options().write(true).open(path)?)
}

/// Reports that a zone is shutting down, although it is not. That makes two
/// events: one from the report, and one back again, after the daemon has looked
/// at the system.
pub fn report(pipe: &mut File, zone: &Running) -> Result<()> {
    let record =
        zone_change(&zone.zonename, "running", "shutting_down", zone.zoneid);
    Ok(pipe.write_all(format!("{{{record}\n").as_bytes())?)
}

/// Replaces a zone's tags, as vmadm does.
pub fn tag(zone: &Running, n: usize) -> Result<()> {
    let temp = zone.tags.with_extension("tmp");
    fs::write(&temp, format!("{{\"n\":{n}}}"))?;
    Ok(fs::rename(&temp, &zone.tags)?)
}

/// Waits for both events of [`report`]. Returns when the first came.
pub fn there_and_back(events: &mut Events, name: &str) -> Result<Instant> {
    let zonename = format!("\"zonename\":\"{name}\"");
    events.next_with(&[&zonename, "\"zone_state\":\"shutting_down\""])?;
    let at = Instant::now();
    events.next_with(&[&zonename, "\"zone_state\":\"running\""])?;
    Ok(at)
}

/// The time from a record on the reader's pipe, and from the replacement of a
/// file, to the line in a subscriber's socket.
pub fn latency(programs: &Programs, runs: usize) -> Result<Vec<Figure>> {
    let host = BenchHost::new(programs, 100)?;
    let daemon = host.start(programs, &[])?;
    daemon.settle()?;
    let zones = running(&host, &daemon)?;
    let own = less_slowest(&daemon, &zones, ZONE_EVENTS * runs)?;
    let mut events = daemon.events("?snapshot=none")?;
    let mut of_files = Vec::new();
    for n in 0..FILE_EVENTS * runs {
        let zone = &zones[n % zones.len()];
        let begin = Instant::now();
        tag(zone, n)?;
        events.next_with(&[&zone.zonename, &format!("{{\"n\":{n}}}")])?;
        of_files.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    let [slow, slower] =
        [10, 30].map(|ms| with_slow_commands(programs, runs, ms));
    let (slow, slower, of_files) = (slow?, slower?, Samples(of_files));
    let figure = |name, samples: &Samples, part, goal| {
        Figure::new(3, name, "ms", chunked(samples, runs, part)).goal(goal)
    };
    Ok(vec![
        figure(
            "sysevent to event less its slowest command, p50",
            &own,
            0.5,
            Goal::AtMost(0.3),
        ),
        figure("the same, p99", &own, 0.99, Goal::AtMost(2.0)),
        figure("file to event, p50", &of_files, 0.5, Goal::AtMost(0.5)),
        figure("the same, p99", &of_files, 0.99, Goal::None),
        figure(
            "sysevent to event less its slowest command, each taking 10 ms, p50",
            &slow,
            0.5,
            Goal::AtMost(3.0),
        ),
        figure("the same, each taking 30 ms", &slower, 0.5, Goal::AtMost(3.0)),
    ])
}

/// The times from the record of a zone to the line, less those of the slowest
/// command in between. The commands run side by side, so the daemon waits for
/// the slowest.
fn less_slowest(
    daemon: &Daemon,
    zones: &[Running],
    count: usize,
) -> Result<Samples> {
    let mut events = daemon.events("?snapshot=none")?;
    let mut pipe = reader_pipe(daemon)?;
    let mut own = Vec::new();
    for n in 0..count {
        let zone = &zones[n % zones.len()];
        let before = daemon.command_times()?;
        let begin = Instant::now();
        report(&mut pipe, zone)?;
        let at = there_and_back(&mut events, &zone.zonename)?;
        let after = daemon.command_times()?;
        let took = at.duration_since(begin).as_secs_f64();
        let slowest = (0..3).map(|n| after[n] - before[n]).fold(0.0, f64::max);
        own.push((took - slowest) * 1e3);
    }
    Ok(Samples(own))
}

/// As [`less_slowest`], while each command takes so many milliseconds longer
/// than the simulated one does.
fn with_slow_commands(
    programs: &Programs,
    runs: usize,
    ms: u32,
) -> Result<Samples> {
    let host = BenchHost::new(programs, 100)?;
    let daemon = host.start(programs, &[])?;
    daemon.settle()?;
    for command in ["zoneadm", "kstat", "zfs"] {
        host.hurt(command, &format!("slow {ms}"))?;
    }
    let zones = running(&host, &daemon)?;
    less_slowest(&daemon, &zones, SLOW_EVENTS * runs)
}

/// The quantile of each run's samples.
fn chunked(samples: &Samples, runs: usize, part: f64) -> Vec<f64> {
    let each = samples.0.len().div_ceil(runs.max(1));
    let runs = samples.0.chunks(each.max(1));
    runs.map(|run| Samples(run.to_vec()).quantile(part)).collect()
}

/// CPU time of the daemon for each event, with few VMs and with many.
pub fn cpu(programs: &Programs, runs: usize) -> Result<Vec<Figure>> {
    let few = cpu_at(programs, 100, runs, Duration::ZERO)?;
    let many = cpu_at(programs, 10_000, runs, Duration::ZERO)?;
    // The simulated commands are slower on a large host, and after a longer
    // wait for a command the daemon's CPU caches are colder. So the cost of the
    // number of VMs can only be seen between hosts whose commands take equally
    // long.
    let waiting = cpu_at(programs, 100, runs, many.command)?;
    let figure = |what: &str, values: &[f64]| {
        Figure::new(4, format!("CPU an event {what}"), "ms", values.to_vec())
    };
    let [of_file, of_zone] = ["of a file, ", "of a zone, "];
    let (at_few, at_many) = ("100 VMs", "10,000 VMs");
    Ok(vec![
        figure(&format!("{of_file}{at_few}"), &few.files)
            .goal(Goal::AtMost(0.15)),
        figure(&format!("{of_file}{at_many}"), &many.files)
            .floor("at 100 VMs", few.files)
            .goal(Goal::TimesFloor(1.3)),
        figure(&format!("{of_zone}{at_few}"), &few.zones)
            .goal(Goal::AtMost(0.15)),
        figure(&format!("{of_zone}{at_many}"), &many.zones)
            .floor("at 100 VMs, commands as slow", waiting.zones)
            .goal(Goal::TimesFloor(1.3)),
    ])
}

/// CPU time of an event in each run, in ms.
struct EventCpu {
    files: Vec<f64>,
    zones: Vec<f64>,
    /// How long a command took.
    command: Duration,
}

/// Measures with `vms` VMs, while each command takes `slow` longer.
fn cpu_at(
    programs: &Programs,
    vms: u64,
    runs: usize,
    slow: Duration,
) -> Result<EventCpu> {
    let host = BenchHost::new(programs, vms)?;
    let daemon = host.start(programs, &[])?;
    daemon.settle()?;
    if !slow.is_zero() {
        for command in ["zoneadm", "kstat"] {
            host.hurt(command, &format!("slow {}", slow.as_millis()))?;
        }
    }
    let zones = running(&host, &daemon)?;
    let mut events = daemon.events("?snapshot=none")?;
    let mut pipe = reader_pipe(&daemon)?;
    let (mut of_files, mut of_zones) = (Vec::new(), Vec::new());
    let before = zoneadm_time(&daemon)?;
    for _ in 0..runs {
        of_files.push(cpu_of_file_events(&host, &daemon)? * 1e3);
        let before = daemon.cpu()?;
        for n in 0..ZONE_EVENTS {
            let zone = &zones[n % zones.len()];
            report(&mut pipe, zone)?;
            there_and_back(&mut events, &zone.zonename)?;
        }
        // Each report makes two events.
        let count = 2.0 * ZONE_EVENTS as f64;
        of_zones.push((daemon.cpu()? - before) * 1e3 / count);
    }
    // zoneadm runs once for each report.
    let count = ZONE_EVENTS * runs;
    let command = (zoneadm_time(&daemon)? - before) / count as f64;
    let command = Duration::try_from_secs_f64(command)?;
    Ok(EventCpu { files: of_files, zones: of_zones, command })
}

/// How long zoneadm has run in all, in seconds.
fn zoneadm_time(daemon: &Daemon) -> Result<f64> {
    let status = daemon.status()?;
    let zoneadm = status.get("commands").and_then(|all| all.get("zoneadm"));
    let seconds = zoneadm.and_then(|zoneadm| zoneadm.get("seconds"));
    Ok(seconds.and_then(Json::as_f64).ok_or("no time of zoneadm")?)
}

/// CPU time of the daemon for an event of a file, the mean of many, in seconds.
#[allow(clippy::cast_precision_loss)]
pub fn cpu_of_file_events(host: &BenchHost, daemon: &Daemon) -> Result<f64> {
    let zones = running(host, daemon)?;
    let mut events = daemon.events("?snapshot=none")?;
    let before = daemon.cpu()?;
    // Begin with another number than the last time, so that the tags differ.
    let first = (before * 1e6) as usize;
    for n in first..first + FILE_EVENTS {
        let zone = &zones[n % zones.len()];
        tag(zone, n)?;
        events.next_with(&[&zone.zonename, &format!("{{\"n\":{n}}}")])?;
    }
    Ok((daemon.cpu()? - before) / FILE_EVENTS as f64)
}

/// 1,000 sysevents on 200 VMs, while commands are slow.
pub fn burst(programs: &Programs, runs: usize) -> Result<Vec<Figure>> {
    const VMS: usize = 200;
    let (mut times, mut command_runs) = (Vec::new(), Vec::new());
    let host = BenchHost::new(programs, 300)?;
    let daemon = host.start(programs, &[])?;
    daemon.settle()?;
    let zones = running(&host, &daemon)?;
    let zones = zones.get(..VMS).ok_or("too few VMs run")?;
    for run in 0..runs {
        // Make the changes that are to be found. No sysevent reports them yet.
        host.hurt("sysevent-zfs", "drop")?;
        let value = ((40 + run as u64) << 30).to_string();
        for zone in zones {
            let own = format!("zones/{}", zone.zonename);
            // Which of the two is served depends on the brand.
            host.zfs_set(&own, "quota", &value)?;
            host.zfs_set(&own, "refquota", &value)?;
        }
        host.hurt("sysevent-zfs", "heal")?;
        host.hurt("zoneadm", "slow 30")?;
        host.hurt("zfs", "slow 30")?;
        let mut events = daemon.events("?snapshot=none")?;
        let before = daemon.command_runs()?;
        let begin = Instant::now();
        send_burst(&host, zones)?;
        let mut waiting: HashSet<&str> =
            zones.iter().map(|zone| &*zone.zonename).collect();
        let mut at = begin;
        while !waiting.is_empty() {
            let line = events.next_with(&["\"quota\""])?;
            let event = Json::parse(&line)?;
            let name = event.get("zonename").and_then(Json::as_str);
            let quota = event.get("vm").and_then(|vm| vm.get("quota"));
            let quota = quota.and_then(Json::as_f64);
            if quota == Some(40.0 + run as f64) {
                waiting.remove(name.unwrap_or_default());
            }
            at = Instant::now();
        }
        times.push(at.duration_since(begin).as_secs_f64());
        daemon.settle()?;
        command_runs.push(daemon.command_runs()? - before);
        host.hurt("zoneadm", "heal")?;
        host.hurt("zfs", "heal")?;
    }
    let name = "burst of 1,000 sysevents on 200 VMs settled";
    Ok(vec![
        Figure::new(5, name, "s", times).goal(Goal::AtMost(0.3)),
        Figure::new(5, "command runs of it", "runs", command_runs)
            .goal(Goal::AtMost(10.0)),
    ])
}

/// Sends two changes of each VM's dataset and three of its zone.
fn send_burst(host: &BenchHost, zones: &[Running]) -> Result<()> {
    let (mut of_zones, mut of_zfs) = (Vec::new(), Vec::new());
    for zone in zones {
        let own = format!("zones/{}", zone.zonename);
        for (n, property) in ["quota", "recordsize"].iter().enumerate() {
            of_zfs.push(history(&own, "set", property, n as u64));
        }
        for (from, to) in [
            ("running", "shutting_down"),
            ("shutting_down", "ready"),
            ("ready", "running"),
        ] {
            of_zones.push(zone_change(&zone.zonename, from, to, zone.zoneid));
        }
    }
    for (channel, records) in
        [(Channel::Zone, of_zones), (Channel::Zfs, of_zfs)]
    {
        let mut lines = String::new();
        for record in records {
            lines += &format!("{{{record}\n");
            if lines.len() > DATAGRAM {
                host.raw_sysevent(channel, lines.as_bytes())?;
                lines.clear();
            }
        }
        host.raw_sysevent(channel, lines.as_bytes())?;
    }
    Ok(())
}
