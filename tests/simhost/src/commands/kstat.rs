//! kstat(8). Only the kstats of zones are simulated.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use regex_lite::Regex;

use super::failed;
use crate::hurt::Answer;
use crate::state::{KernelZone, State};

/// Names of kstats are cut to this many bytes.
const NAME_BYTES: usize = 30;

/// What is asked for: a glob or a regular expression for each part of a kstat's
/// name.
struct Patterns {
    class: Pattern,
    module: Pattern,
    instance: Pattern,
    name: Pattern,
    statistic: Pattern,
}

enum Pattern {
    All,
    Glob(String),
    Regex(Regex),
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        let regex =
            text.strip_prefix('/').and_then(|text| text.strip_suffix('/'));
        match regex {
            Some(regex) => {
                Regex::new(regex).map(Self::Regex).map_err(|e| e.to_string())
            }
            None => Ok(Self::Glob(text.to_string())),
        }
    }

    fn fits(&self, text: &str) -> bool {
        match self {
            Self::All => true,
            Self::Glob(glob) => fits_glob(glob.as_bytes(), text.as_bytes()),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

/// Whether a text matches a glob with `*` and `?`.
fn fits_glob(glob: &[u8], text: &[u8]) -> bool {
    match (glob, text) {
        ([], []) => true,
        ([b'*', glob @ ..], _) => {
            (0..=text.len()).any(|at| fits_glob(glob, &text[at..]))
        }
        ([b'?', glob @ ..], [_, text @ ..]) => fits_glob(glob, text),
        ([a, glob @ ..], [b, text @ ..]) => a == b && fits_glob(glob, text),
        _ => false,
    }
}

/// Runs kstat.
///
/// # Errors
/// If the host's state can't be read.
pub fn run(root: &Path, args: &[&str]) -> io::Result<Answer> {
    let patterns = match parse(args) {
        Ok(patterns) => patterns,
        Err(error) => {
            return Ok(failed(format!("{error}Usage: kstat [-p] …\n"), 2));
        }
    };
    let mut zones: Vec<_> =
        State::load_kernel(root)?.into_iter().filter(has_kstat).collect();
    let global = KernelZone {
        state: "running".into(),
        zoneid: "0".into(),
        boot_time: "1700000000".into(),
        init_pid: 1,
        init_restarts: 0,
    };
    zones.push(("global".to_string(), global));
    zones.sort_by_key(|(_, zone)| zone.zoneid.parse::<i64>().unwrap_or(0));
    let mut output = String::new();
    for (zonename, zone) in &zones {
        let id = &zone.zoneid;
        let name = &zonename[..zonename.len().min(NAME_BYTES)];
        let is_wanted = patterns.module.fits("zones")
            && patterns.class.fits("zone_misc")
            && patterns.instance.fits(id)
            && patterns.name.fits(name);
        if !is_wanted {
            continue;
        }
        for (statistic, value) in statistics(zonename, zone) {
            if patterns.statistic.fits(statistic) {
                let _ =
                    writeln!(output, "zones:{id}:{name}:{statistic}\t{value}");
            }
        }
    }
    let exit = i32::from(output.is_empty());
    Ok(Answer { output, error: String::new(), exit })
}

fn has_kstat((name, zone): &(String, KernelZone)) -> bool {
    // kstat(8) takes such a zone for kstats about kstats.
    !zone.boot_time.is_empty() && !name.starts_with("kstat_")
}

fn parse(args: &[&str]) -> Result<Patterns, String> {
    let all = || Pattern::All;
    let mut patterns = Patterns {
        class: all(),
        module: all(),
        instance: all(),
        name: all(),
        statistic: all(),
    };
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let pattern = match *arg {
            "-p" => continue,
            "-c" => &mut patterns.class,
            "-m" => &mut patterns.module,
            "-i" => &mut patterns.instance,
            "-n" => &mut patterns.name,
            "-s" => &mut patterns.statistic,
            other => return Err(format!("kstat: illegal option {other}\n")),
        };
        let text = rest.next().ok_or("kstat: missing argument\n")?;
        *pattern = Pattern::parse(text).map_err(|e| format!("kstat: {e}\n"))?;
    }
    Ok(patterns)
}

/// The statistics of a zone, in the order of their names.
fn statistics(
    zonename: &str,
    zone: &KernelZone,
) -> [(&'static str, String); 19] {
    let zero = || "0".to_string();
    [
        ("avenrun_15min", "11".to_string()),
        ("avenrun_1min", "7".to_string()),
        ("avenrun_5min", "9".to_string()),
        ("boot_time", zone.boot_time.clone()),
        ("class", "zone_misc".to_string()),
        ("crtime", "5012.662217461".to_string()),
        ("forkfail_cap", zero()),
        ("forkfail_misc", zero()),
        ("forkfail_nomem", zero()),
        ("forkfail_noproc", zero()),
        ("init_pid", zone.init_pid.to_string()),
        ("init_restarts", zone.init_restarts.to_string()),
        ("mapfail_seglim", zero()),
        ("nested_interp", "44".to_string()),
        ("nsec_sys", "3041210554".to_string()),
        ("nsec_user", "2210887101".to_string()),
        ("nsec_waitrq", "120044101".to_string()),
        ("snaptime", "9120.110045120".to_string()),
        ("zonename", zonename.to_string()),
    ]
}
