//! kstat(8): when a zone was booted, the pid of its init, and how often init
//! was started again.

use std::collections::HashMap;

use crate::config::Paths;
use crate::load::command::{Output, Run};
use crate::load::error::{CommandError, OutputError};
use crate::vm::json::Object;
use crate::vm::values::{epoch_seconds_to_iso, parse_number};

/// The kernel's statistics of a running zone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ZoneInfo {
    /// The zone's id in the kernel.
    pub zoneid: f64,
    /// Seconds since the epoch; 0 until the zone has booted.
    pub boot_time: f64,
    /// Process id of init(8).
    pub init_pid: f64,
    /// How often the kernel has started init again.
    pub init_restarts: f64,
}

impl ZoneInfo {
    /// Sets the members of a VM object that come from here.
    pub fn set_members(&self, vm: &mut Object) {
        vm.set("boot_timestamp", epoch_seconds_to_iso(self.boot_time));
        vm.set("init_restarts", self.init_restarts);
        vm.set("pid", self.init_pid);
    }
}

/// The kstats of zones, by zonename.
pub type Kstats = HashMap<String, ZoneInfo>;

/// The statistics that are asked for.
const STATISTICS: &str = "/^(zonename|boot_time|init_pid|init_restarts)$/";

/// The run that reads the kstats of all zones, or of the one with `zoneid`.
#[must_use]
pub fn read_run(paths: &Paths, zoneid: Option<u64>) -> Run {
    let mut run = Run::new(
        paths.kstat(),
        &["-p", "-m", "zones", "-c", "zone_misc", "-s", STATISTICS],
    );
    if let Some(zoneid) = zoneid {
        run.arg("-i");
        run.arg(&zoneid.to_string());
    }
    run
}

/// Parses the kstats that a run has printed. If nothing matches, the answer is
/// empty: kstat exits with 1 and prints no error.
///
/// # Errors
/// Any other failure of the command.
pub fn answer(run: &Run, output: &Output) -> Result<Kstats, CommandError> {
    match output.exit {
        Some(0) => parse(&output.stdout).map_err(|e| run.error(e)),
        Some(1) if output.stderr.trim().is_empty() => Ok(HashMap::new()),
        _ => Err(run.failed(output)),
    }
}

/// Parses the output of `kstat -p`, which cuts the name to 30 bytes:
///
/// ```text
/// zones:3:0aa46416-2c8d-658d-cb21-eba504:boot_time<TAB>1768472564
/// zones:3:0aa46416-2c8d-658d-cb21-eba504:zonename<TAB>0aa46416-2c8d-658d-…
/// ```
///
/// A zone that went away while its kstats were read has only some of its lines,
/// and is left out.
///
/// # Errors
/// If a line is not a statistic, or the last line is cut off.
pub fn parse(text: &str) -> Result<Kstats, OutputError> {
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(OutputError::CutOff);
    }
    let mut instances: HashMap<&str, HashMap<&str, &str>> = HashMap::new();
    for line in text.lines() {
        let parsed = line.split_once('\t').and_then(|(path, value)| {
            let (_module, rest) = path.split_once(':')?;
            let (instance, rest) = rest.split_once(':')?;
            let (_name, statistic) = rest.rsplit_once(':')?;
            Some((instance, statistic, value))
        });
        let Some((instance, statistic, value)) = parsed else {
            return Err(OutputError::NotAStatistic(line.to_string()));
        };
        instances.entry(instance).or_default().insert(statistic, value);
    }
    let complete = |(id, values): (&&str, &HashMap<&str, &str>)| {
        let value = |name| values.get(name).and_then(|v| parse_number(v));
        let info = ZoneInfo {
            zoneid: parse_number(id)?,
            boot_time: value("boot_time")?,
            init_pid: value("init_pid")?,
            init_restarts: value("init_restarts")?,
        };
        Some(((*values.get("zonename")?).to_string(), info))
    };
    Ok(instances.iter().filter_map(complete).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_grouped_by_instance() {
        let text = "\
zones:3:0aa46416-2c8d-658d-cb21-eba504:boot_time\t1768472564
zones:3:0aa46416-2c8d-658d-cb21-eba504:class\tzone_misc
zones:3:0aa46416-2c8d-658d-cb21-eba504:init_pid\t48713
zones:3:0aa46416-2c8d-658d-cb21-eba504:init_restarts\t2
zones:3:0aa46416-2c8d-658d-cb21-eba504:zonename\t\
0aa46416-2c8d-658d-cb21-eba504d46270
zones:4:gone:class\tzone_misc
zones:5:od:d:boot_time\t1
zones:5:od:d:init_pid\t2
zones:5:od:d:init_restarts\t3
zones:5:od:d:zonename\tod:d
";
        let zones = parse(text).unwrap();
        assert!(parse(&text[..text.len() - 1]).is_err());
        assert!(parse("rubbish\n").is_err());
        assert_eq!(zones.len(), 2);
        let zone = zones["0aa46416-2c8d-658d-cb21-eba504d46270"];
        assert_eq!(
            (zone.boot_time, zone.init_pid, zone.init_restarts),
            (1_768_472_564.0, 48713.0, 2.0)
        );
        assert_eq!(zones["od:d"].boot_time.to_string(), "1");
    }
}
