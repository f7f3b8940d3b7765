//! Measures costs by the number of VMs, for the plots.

use std::path::Path;

use crate::Result;
use crate::host::{BenchHost, Programs, get};
use crate::plot::plot;
use crate::report::Samples;
use crate::rows::{calm, cpu_of_file_events, reload_once};

const MIB: f64 = 1024.0 * 1024.0;

const VMS: [u64; 4] = [10, 100, 1000, 10_000];

/// Measures each cost at each number of VMs, and writes a plot of each to
/// `dir`.
#[allow(clippy::cast_precision_loss)]
pub fn write(programs: &Programs, runs: usize, dir: &Path) -> Result<()> {
    let mut costs: [Vec<(f64, f64)>; 4] = Default::default();
    // For each number of VMs, the limit of memory in MiB.
    let mut limits: Vec<(f64, f64)> = Vec::new();
    for vms in VMS {
        eprintln!("plots: {vms} VMs ...");
        let host = BenchHost::new(programs, vms)?;
        let mut samples: [Vec<f64>; 4] = Default::default();
        for _ in 0..runs {
            let daemon = host.start(programs, &[])?;
            let commands = daemon.first_commands()?;
            let start = daemon.start_time.as_secs_f64() - commands;
            daemon.settle()?;
            let memory = calm(&daemon)? / MIB;
            let json = get(daemon.addr, "/vms")?.1.len() as f64;
            limits.push((vms as f64, 4.0 + 6.0 * json / MIB));
            let event = cpu_of_file_events(&host, &daemon)? * 1e3;
            // CPU time is reported in hundredths of a second.
            let reloads = (10_000 / vms).clamp(1, 100);
            let before = daemon.cpu()?;
            for _ in 0..reloads {
                reload_once(&daemon)?;
            }
            let reload = (daemon.cpu()? - before) * 1e3 / reloads as f64;
            let values = [event, start * 1e3, memory, reload];
            for (samples, value) in samples.iter_mut().zip(values) {
                samples.push(value);
            }
        }
        for (cost, samples) in costs.iter_mut().zip(samples) {
            cost.push((vms as f64, Samples(samples).median()));
        }
    }
    let json = |vms: f64| {
        let limit = limits.iter().find(|(n, _)| *n == vms);
        limit.map_or(f64::NAN, |(_, limit)| *limit)
    };
    let [event, start, memory, reload] = &costs;
    for (name, svg) in [
        (
            "event",
            plot(
                "CPU of a file's event, ms",
                event,
                Some(("0.15 ms", &|_| 0.15)),
            ),
        ),
        (
            "start",
            plot(
                "start less the commands' time, ms",
                start,
                Some(("60 µs a VM", &|vms| vms * 0.06)),
            ),
        ),
        (
            "memory",
            plot(
                "memory at rest, MiB",
                memory,
                Some(("4 MiB + 6 × JSON", &json)),
            ),
        ),
        (
            "reload",
            plot(
                "CPU of a full reload, ms",
                reload,
                Some(("100 µs a VM", &|vms| vms * 0.1)),
            ),
        ),
    ] {
        std::fs::write(dir.join(format!("{name}.svg")), svg)?;
    }
    Ok(())
}
