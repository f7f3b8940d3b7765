//! Measures vminfod on a simulated host: a real daemon, real sockets, real
//! processes. `make bench` runs it; docs/PERFORMANCE.md explains the rows.

mod floor;
mod host;
mod load;
mod plot;
mod report;
mod rows;
mod scaling;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use host::Programs;
use report::{Figure, table};
use vminfod::vm::json::{Json, Object};

/// Any error, as text.
pub type Result<T> =
    std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const USAGE: &str = "\
usage: bench [--only ROW,...] [--runs N] [--programs DIR] [--out FILE]
             [--plots DIR]

  --only ROW,...   only these rows
  --runs N         how often each is measured (5)
  --programs DIR   where vminfod and simhost are (target/release)
  --out FILE       where the figures go (bench/results.json)
  --plots DIR      plot costs against the number of VMs, too
";

/// What the command line asks for.
struct Options {
    only: Vec<u8>,
    runs: usize,
    programs: PathBuf,
    out: PathBuf,
    plots: Option<PathBuf>,
}

fn options() -> Result<Option<Options>> {
    use lexopt::prelude::{Long, ValueExt};
    let mut options = Options {
        only: Vec::new(),
        runs: 5,
        programs: PathBuf::from("target/release"),
        out: PathBuf::from("bench/results.json"),
        plots: None,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("only") => {
                let list = parser.value()?.string()?;
                let rows = list.split(',').map(str::parse);
                options.only = rows.collect::<std::result::Result<_, _>>()?;
            }
            Long("runs") => options.runs = parser.value()?.parse()?,
            Long("programs") => options.programs = parser.value()?.into(),
            Long("out") => options.out = parser.value()?.into(),
            Long("plots") => options.plots = Some(parser.value()?.into()),
            Long("help") => return Ok(None),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(options))
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, floor::FLOOR, file] => return floor::serve_floor(Path::new(file)),
        [_, floor::TINY, file] => return floor::serve_tiny(Path::new(file)),
        _ => {}
    }
    let Some(options) = options()? else {
        print!("{USAGE}");
        return Ok(());
    };
    let at = std::path::absolute(&options.programs)?;
    let programs =
        Programs { vminfod: at.join("vminfod"), simhost: at.join("simhost") };
    let mut figures: Vec<Figure> = Vec::new();
    for (row, measure) in rows::ALL {
        if options.only.is_empty() || options.only.contains(&row) {
            eprintln!("row {row} ...");
            let measured = measure(&programs, options.runs.max(1))?;
            eprint!("{}", table(&measured));
            figures.extend(measured);
        }
    }
    println!("{}", machine()?);
    print!("{}", table(&figures));
    let mut results = Object::new();
    results.set("machine", machine()?.as_str());
    let list: Vec<_> = figures.iter().map(Figure::to_json).collect();
    results.set("figures", list);
    std::fs::write(&options.out, Json::from(results).to_pretty() + "\n")?;
    if let Some(dir) = &options.plots {
        std::fs::create_dir_all(dir)?;
        scaling::write(&programs, options.runs.clamp(1, 3), dir)?;
    }
    Ok(())
}

/// The machine on which this runs.
fn machine() -> Result<String> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| {
        line.strip_prefix("model name")
            .map(|l| l.trim_matches([' ', '\t', ':']))
    });
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let count = std::thread::available_parallelism()?;
    let model = model.unwrap_or("unknown CPU");
    Ok(format!("{count} × {model}, Linux {}", kernel.trim()))
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e}");
            ExitCode::FAILURE
        }
    }
}
