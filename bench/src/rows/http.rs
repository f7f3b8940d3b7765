//! Answers per second, compared with the least that a server can do.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use crate::Result;
use crate::floor::{FLOOR, Server, TINY};
use crate::host::{BenchHost, Programs, get};
use crate::load::{Had, ask};
use crate::report::{Figure, Goal};
use crate::rows::abuse::{beside_unread, open_connections};

/// How long clients send requests, each time.
const TIME: Duration = Duration::from_secs(1);

/// How many VMs the host has for the small answers, and for the large one.
const FEW: u64 = 50;
/// See [`FEW`].
const MANY: u64 = 1000;

/// Measures /ping and /vms/NAME.
pub fn small(programs: &Programs, runs: usize) -> Result<Vec<Figure>> {
    let host = BenchHost::new(programs, FEW)?;
    let daemon = host.start(programs, &[])?;
    daemon.settle()?;
    let name = daemon.zonenames()?.swap_remove(0);
    let mut figures = Vec::new();
    for (what, path) in
        [("/ping", "/ping".to_string()), ("/vms/NAME", format!("/vms/{name}"))]
    {
        let [ours, floor, tiny] = compare(&host, daemon.addr, &path, 8, runs)?;
        let of = |had: Vec<Had>| had.iter().map(|h| h.answers).collect();
        let (ours, floor, tiny): (Vec<_>, Vec<_>, Vec<_>) =
            (of(ours), of(floor), of(tiny));
        let name = format!("{what}, 8 connections");
        figures.push(
            Figure::new(1, name, "answers/s", ours)
                .floor("bare std::net", floor.clone())
                .goal(Goal::OfFloor(0.7)),
        );
        let name = format!("{what}, 8 connections, of tiny_http");
        figures.push(
            Figure::new(1, name, "answers/s", tiny)
                .floor("bare std::net", floor),
        );
    }
    figures.extend(abused(programs, runs)?);
    Ok(figures)
}

/// Measures the daemon and tiny_http with clients that misbehave.
fn abused(programs: &Programs, runs: usize) -> Result<Vec<Figure>> {
    let host = BenchHost::new(programs, MANY)?;
    let daemon = host.start(programs, &[])?;
    daemon.settle()?;
    let tiny = answering(&host, daemon.addr, "/vms", TINY)?;
    let mut open = [Vec::new(), Vec::new()];
    let mut beside = [Vec::new(), Vec::new()];
    for _ in 0..runs {
        // tiny_http gives the same answer to every request.
        for (n, addr) in [daemon.addr, tiny.addr].into_iter().enumerate() {
            open[n].push(open_connections(addr, "/ping")?);
        }
    }
    for _ in 0..runs {
        let own = host.start(programs, &[])?;
        beside[0].push(beside_unread(own.addr, "/vms", "/ping")?);
        let tiny = answering(&host, daemon.addr, "/vms", TINY)?;
        beside[1].push(beside_unread(tiny.addr, "/vms", "/ping")?);
    }
    let [open, of_tiny] = open;
    let [beside, beside_tiny] = beside;
    Ok(vec![
        Figure::new(1, "12 open connections, answered in 2 s", "%", open)
            .floor("tiny_http", of_tiny)
            .goal(Goal::OfFloor(1.0)),
        Figure::new(1, "/ping beside 16 unread /vms", "ms", beside)
            .floor("tiny_http", beside_tiny)
            .goal(Goal::TimesFloor(1.0)),
    ])
}

/// Starts a server that answers as the daemon does to `path`.
fn answering(
    host: &BenchHost,
    ours: SocketAddr,
    path: &str,
    name: &str,
) -> Result<Server> {
    let file = host.path("/answer");
    let (head, body) = get(ours, path)?;
    let head = head.replace("Connection: close\r\n", "");
    fs::write(&file, [head.as_bytes(), &body].concat())?;
    Server::start(name, &file)
}

/// Measures /vms.
pub fn all_vms(programs: &Programs, runs: usize) -> Result<Vec<Figure>> {
    let host = BenchHost::new(programs, MANY)?;
    let daemon = host.start(programs, &[])?;
    daemon.settle()?;
    let [ours, floor, tiny] = compare(&host, daemon.addr, "/vms", 2, runs)?;
    let of = |had: Vec<Had>| had.iter().map(|h| h.bytes / 1e6).collect();
    let (ours, floor, tiny): (Vec<_>, Vec<_>, Vec<_>) =
        (of(ours), of(floor), of(tiny));
    Ok(vec![
        Figure::new(2, "/vms of 1,000 VMs, 2 connections", "MB/s", ours)
            .floor("bare std::net", floor.clone())
            .goal(Goal::OfFloor(0.8)),
        Figure::new(2, "/vms, of tiny_http", "MB/s", tiny)
            .floor("bare std::net", floor),
    ])
}

/// Measures the daemon, the floor and tiny_http in turn, so that other activity
/// on the machine affects all of them alike.
fn compare(
    host: &BenchHost,
    ours: SocketAddr,
    path: &str,
    connections: usize,
    runs: usize,
) -> Result<[Vec<Had>; 3]> {
    let floor = answering(host, ours, path, FLOOR)?;
    let tiny = answering(host, ours, path, TINY)?;
    let mut had: [Vec<Had>; 3] = Default::default();
    for _ in 0..runs {
        for (had, addr) in had.iter_mut().zip([ours, floor.addr, tiny.addr]) {
            had.push(ask(addr, path, connections, TIME)?);
        }
    }
    Ok(had)
}
