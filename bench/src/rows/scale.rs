//! What grows with the number of VMs: start, memory, a full reload.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use simhost::emit::{Channel, history};
use vminfod::vm::json::Json;

use crate::Result;
use crate::host::{BenchHost, Daemon, Programs, get, request};
use crate::load::one;
use crate::report::{Figure, Goal, Samples};

/// The numbers of VMs for which there are goals.
const VMS: [u64; 2] = [1000, 10_000];

/// How many records the flood has; they make about as many events.
const FLOOD: usize = 1_000_000;

/// How long memory is watched.
const CALM: Duration = Duration::from_secs(3);

/// How long it is quiet after a peak, before memory is watched again.
const LULL: Duration = Duration::from_secs(10);

/// Seconds between periodic reloads: long enough that the next one is not due a
/// moment after one.
const PERIOD: &str = "8";

const MIB: f64 = 1024.0 * 1024.0;

/// The time from the daemon's start to its first answer.
pub fn start(programs: &Programs, runs: usize) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (vms, goal) in VMS.into_iter().zip([100.0, 1000.0]) {
        let host = BenchHost::new(programs, vms)?;
        let (mut own, mut cpu) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            let daemon = host.start(programs, &[])?;
            let commands = daemon.first_commands()?;
            let took = daemon.start_time.as_secs_f64();
            own.push((took - commands) * 1e3);
            cpu.push(daemon.cpu()? * 1e3);
        }
        let name = format!("start with {vms} VMs less the commands' time");
        figures.push(Figure::new(6, name, "ms", own).goal(Goal::AtMost(goal)));
        let name = format!("CPU of the start with {vms} VMs");
        figures.push(Figure::new(6, name, "ms", cpu));
    }
    Ok(figures)
}

/// Memory at rest, after many events, after a peak.
pub fn memory(programs: &Programs, runs: usize) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for vms in VMS {
        let host = BenchHost::new(programs, vms)?;
        let (mut rest, mut limit) = (Vec::new(), Vec::new());
        for _ in 0..runs.min(3) {
            let daemon = host.start(programs, &[])?;
            daemon.settle()?;
            rest.push(calm(&daemon)? / MIB);
            let (_, body) = get(daemon.addr, "/vms")?;
            limit.push(4.0 + 6.0 * body.len() as f64 / MIB);
        }
        let name = format!("memory with {vms} VMs");
        figures.push(
            Figure::new(7, name, "MiB", rest)
                .floor("4 MiB + 6 × JSON", limit)
                .goal(Goal::TimesFloor(1.0)),
        );
    }
    let host = BenchHost::new(programs, VMS[0])?;
    let daemon = host.start(programs, &[])?;
    daemon.settle()?;
    let mut marks = vec![calm(&daemon)? / MIB];
    for _ in 0..4 {
        flood(&host, &daemon, FLOOD / 4)?;
        marks.push(calm(&daemon)? / MIB);
    }
    let first = marks[1];
    let after: Vec<_> = marks[2..].to_vec();
    figures.push(
        Figure::new(
            7,
            "after half a million to a million events",
            "MiB",
            after,
        )
        .floor("after a quarter", vec![first])
        .goal(Goal::TimesFloor(1.05)),
    );
    let before = calm(&daemon)?;
    let peak = peak(&daemon)?;
    // By then the threads that have answered have ended.
    std::thread::sleep(LULL);
    let after = calm(&daemon)?;
    figures.push(Figure::new(7, "at a peak", "MiB", vec![peak / MIB]));
    figures.push(
        Figure::new(7, "after it", "MiB", vec![after / MIB])
            .floor("before it", vec![before / MIB])
            .goal(Goal::TimesFloor(1.1)),
    );
    Ok(figures)
}

/// Memory at rest, in bytes: the least within a while.
pub fn calm(daemon: &Daemon) -> Result<f64> {
    let begin = Instant::now();
    let mut least = f64::INFINITY;
    while begin.elapsed() < CALM {
        least = least.min(daemon.rss()?);
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(least)
}

/// Sends records of all VMs' datasets, and waits until the daemon has seen
/// them.
fn flood(host: &BenchHost, daemon: &Daemon, count: usize) -> Result<()> {
    let names = daemon.zonenames()?;
    let mut lines = String::new();
    for n in 0..count {
        let own = format!("zones/{}", names[n % names.len()]);
        let record = history(&own, "set", "quota", n as u64);
        lines += &format!("{{{record}\n");
        if lines.len() > 64 << 10 || n + 1 == count {
            host.raw_sysevent(Channel::Zfs, lines.as_bytes())?;
            lines.clear();
        }
    }
    daemon.settle()
}

/// Requests reloads and large answers at once, and does not read the answers
/// for a while. Returns the most memory that the daemon had then, in bytes.
fn peak(daemon: &Daemon) -> Result<f64> {
    use std::io::Write;
    let mut clients = Vec::new();
    for path in ["/vms", "/events", "/vms?sync=1", "/vms?fields=uuid,nics"] {
        for _ in 0..25 {
            let mut stream = TcpStream::connect(daemon.addr)?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
            clients.push(stream);
        }
    }
    let begin = Instant::now();
    let mut most: f64 = 0.0;
    while begin.elapsed() < CALM {
        most = most.max(daemon.rss()?);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(most)
}

/// A full reload that finds nothing changed.
pub fn reload(programs: &Programs, runs: usize) -> Result<Vec<Figure>> {
    let host = BenchHost::new(programs, 10_000)?;
    let daemon = host.start(programs, &["--refresh-interval", PERIOD])?;
    daemon.settle()?;
    let name = daemon.zonenames()?.swap_remove(0);
    let (mut cpu, mut asked) = (Vec::new(), Vec::new());
    let (mut readers, mut events) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let seq = daemon.status()?.get("seq").cloned();
        let before = daemon.cpu()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let reader = std::thread::spawn({
            let (is_over, addr) = (Arc::clone(&is_over), daemon.addr);
            let path = format!("/vms/{name}");
            move || -> std::io::Result<Vec<f64>> {
                let mut times = Vec::new();
                let mut one = one(addr, &path)?;
                while !is_over.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    one()?;
                    times.push(begin.elapsed().as_secs_f64() * 1e3);
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(times)
            }
        });
        reload_once(&daemon)?;
        is_over.store(true, Ordering::Relaxed);
        let times = reader.join().map_err(|_| "the reader has panicked")??;
        asked.push(daemon.cpu()? - before);
        readers.push(Samples(times).quantile(0.99));
        let is_same = daemon.status()?.get("seq").cloned() == seq;
        events.push(if is_same { 0.0 } else { 1.0 });
        cpu.push(periodic_reload(&daemon)?);
    }
    Ok(vec![
        Figure::new(8, "CPU of a full reload, 10,000 VMs", "s", cpu)
            .goal(Goal::AtMost(0.85)),
        Figure::new(8, "of one that a client asks for", "s", asked),
        Figure::new(8, "readers' p99 meanwhile", "ms", readers)
            .goal(Goal::AtMost(5.0)),
        Figure::new(8, "events of it", "events", events)
            .goal(Goal::AtMost(0.0)),
    ])
}

/// CPU time of the next reload that no client has asked for, in seconds.
fn periodic_reload(daemon: &Daemon) -> Result<f64> {
    // How long ago the last reload was; when it gets less, there was another.
    let ago = || -> Result<f64> {
        let status = daemon.status()?;
        let last = status.get("lastRefresh").and_then(Json::as_str);
        let ago = last.and_then(|last| last.split('s').next());
        Ok(ago.ok_or("no reload")?.parse()?)
    };
    let (mut last, cpu) = (ago()?, daemon.cpu()?);
    crate::host::until("a reload", Duration::from_millis(100), || {
        let before = std::mem::replace(&mut last, ago()?);
        Ok((last < before).then_some(()))
    })?;
    daemon.settle()?;
    Ok(daemon.cpu()? - cpu)
}

/// Asks for a full reload. With HEAD, the cost of an answer's body does not
/// count.
pub fn reload_once(daemon: &Daemon) -> Result<()> {
    request(daemon.addr, "HEAD", "/vms?sync=1&timeout=30")?;
    Ok(())
}
