//! What the command line tools cost.

use std::fs;
use std::process::{Command, Stdio};

use crate::Result;
use crate::host::{BenchHost, Programs};
use crate::report::{Figure, Goal};

/// How many times each tool is run.
const TIMES: usize = 100;

/// CPU time of each tool, including the start of its process; and the size of
/// the program.
pub fn cpu(programs: &Programs, runs: usize) -> Result<Vec<Figure>> {
    let host = BenchHost::new(programs, 100)?;
    let daemon = host.start(programs, &[])?;
    daemon.settle()?;
    let name = daemon.zonenames()?.swap_remove(0);
    let addr = daemon.addr.to_string();
    let mut figures = Vec::new();
    let tools: [&[&str]; 3] = [&["ping"], &["vm", &name], &["list"]];
    for args in tools {
        let mut cpu = Vec::new();
        for _ in 0..runs {
            let before = children()?;
            for _ in 0..TIMES {
                let status = Command::new(&programs.vminfod)
                    .args(args)
                    .env("VMINFOD_SERVER", &addr)
                    .stdout(Stdio::null())
                    .status()?;
                if !status.success() {
                    return Err(format!("{args:?}: {status}").into());
                }
            }
            cpu.push((children()? - before) * 1e3 / TIMES as f64);
        }
        let words = args.join(" ").replace(&name, "NAME");
        let name = format!("CPU of `vminfod {words}`");
        figures.push(Figure::new(10, name, "ms", cpu).goal(Goal::AtMost(4.0)));
    }
    let size = fs::metadata(&programs.vminfod)?.len() as f64;
    let size = vec![size / 1024.0 / 1024.0];
    figures.push(
        Figure::new(10, "the program, stripped", "MiB", size)
            .goal(Goal::AtMost(3.0)),
    );
    Ok(figures)
}

/// CPU time of children that have ended, in seconds.
fn children() -> Result<f64> {
    let text = fs::read_to_string("/proc/self/stat")?;
    let fields = text.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(13).take(2);
    let ticks: Vec<f64> =
        ticks.map(str::parse).collect::<std::result::Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}
