//! Every limit and time-out by a name, so that an operator can set it: behind
//! `--set NAME=VALUE` and `vminfod settings`.

mod table;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use log::LevelFilter;

use crate::address::Address;
use crate::config::Paths;
use crate::os;
use table::{Field, Setting, TABLE};
pub use table::{HttpLimits, LoadLimits, QueueLimits, SourceTimes};

/// The longest time that can be given, some thirty years.
const SECONDS_MAX: f64 = 1e9;

/// The longest time that can be set.
const TIME_MAX: Duration = Duration::from_secs(30 * 86_400);

/// The longest file of settings.
const FILE_BYTES: u64 = 64 << 10;

/// The largest size that can be read of a file, in bytes.
const BYTES_MAX: u64 = 1 << 30;

/// The largest size that can be held in memory, in bytes.
const SIZE_MAX: u64 = 64 << 30;

/// The largest count.
const COUNT_MAX: u64 = 1 << 20;

/// The most threads.
const THREADS_MAX: u64 = 256;

/// What an operator can set, and the limits that go with it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Every path and command is below this directory; `/` in production.
    pub paths: Paths,
    /// Addresses to serve HTTP on.
    pub listen: Vec<Address>,
    /// The time between two full reloads.
    pub refresh_interval: Duration,
    /// What is logged.
    pub log_level: LevelFilter,
    /// How much of the system is read at most.
    pub load: LoadLimits,
    /// The bounds of the HTTP server and of its clients.
    pub http: HttpLimits,
    /// The bounds of queues.
    pub queues: QueueLimits,
    /// How sources are started and started again.
    pub sources: SourceTimes,
}

impl Settings {
    /// The defaults, for the host below `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            paths: Paths::new(root),
            listen: Vec::new(),
            refresh_interval: Duration::from_secs(300),
            log_level: LevelFilter::Debug,
            load: LoadLimits::default(),
            http: HttpLimits::default(),
            queues: QueueLimits::default(),
            sources: SourceTimes::default(),
        }
    }
}

impl QueueLimits {
    /// The most workers for urgent jobs, or for the others, including those
    /// that hang.
    #[must_use]
    pub fn threads(&self, is_urgent: bool) -> usize {
        let half = self.workers_max / 2;
        let threads = if is_urgent { half } else { self.workers_max - half };
        threads.max(1)
    }

    /// Workers in all.
    #[must_use]
    pub fn all_workers(&self) -> usize {
        self.threads(false) + self.threads(true)
    }
}

/// All settings.
fn all() -> impl Iterator<Item = &'static Setting> {
    TABLE.iter().copied().flatten()
}

/// Sets one of the settings by its words, `NAME=VALUE`.
///
/// # Errors
/// A sentence, if there is no such setting, or it can't have that value.
pub fn set(settings: &mut Settings, words: &str) -> Result<(), String> {
    let (name, value) = words
        .split_once('=')
        .ok_or_else(|| format!("not NAME=VALUE: {words}"))?;
    let setting = all()
        .find(|setting| setting.name == name)
        .ok_or_else(|| format!("no such setting: {name}"))?;
    let error = |what: String| format!("{name}={value}: {what}");
    let size = |most| {
        let what = || error(format!("not a size of up to {}", size_text(most)));
        size(value).filter(|size| *size <= most).ok_or_else(what)
    };
    let count = |least: u64, most: u64| {
        let what = || error(format!("not a number from {least} to {most}"));
        let number = value.parse().ok();
        number.filter(|n| (least..=most).contains(n)).ok_or_else(what)
    };
    // All that can be set fit into what they are kept in.
    let whole = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    match (setting.field)(settings) {
        Field::Time(time) => {
            let set = seconds(value).filter(|time| *time <= TIME_MAX);
            let days = TIME_MAX.as_secs() / 86_400;
            let what = || format!("not a time in seconds, up to {days} days");
            *time = set.ok_or_else(|| error(what()))?;
        }
        Field::Bytes(bytes) => *bytes = size(BYTES_MAX)?,
        Field::Size(bytes) => *bytes = whole(size(SIZE_MAX)?),
        Field::Count(to) => *to = whole(count(1, COUNT_MAX)?),
        Field::Events(to) => *to = count(1, COUNT_MAX)?,
        Field::Threads(to, least) => {
            *to = whole(count(least as u64, THREADS_MAX)?);
        }
        Field::Level(level) => {
            *level = value
                .parse()
                .ok()
                .filter(|level| *level != LevelFilter::Off)
                .ok_or_else(|| error("not a level of the log".to_string()))?;
        }
    }
    Ok(())
}

/// Sets what a file says: a line `NAME=VALUE` each; `#` begins a remark.
///
/// # Errors
/// A sentence, if it can't be read, or one of its lines can't be set.
pub fn set_by_file(settings: &mut Settings, path: &Path) -> Result<(), String> {
    let error = |line, e: &str| format!("{}:{line}: {e}", path.display());
    let file = os::read_regular_file(path, FILE_BYTES)
        .map_err(|e| format!("{}: {e}", path.display()))?;
    for (line, words) in (1..).zip(file.text.lines()) {
        let words = words.split('#').next().unwrap_or_default().trim();
        if !words.is_empty() {
            set(settings, words).map_err(|e| error(line, &e))?;
        }
    }
    Ok(())
}

/// What is set otherwise in `new` than in `old`: names and new values.
#[must_use]
pub fn differing(
    old: &Settings,
    new: &Settings,
) -> Vec<(&'static str, String)> {
    let (mut old, mut new) = (old.clone(), new.clone());
    let values = all().map(|setting| {
        let was = value_text(&(setting.field)(&mut old));
        (setting.name, was, value_text(&(setting.field)(&mut new)))
    });
    let differing = values.filter(|(_, was, is)| was != is);
    differing.map(|(name, _, is)| (name, is)).collect()
}

/// A time in seconds, more than none.
#[must_use]
pub fn seconds(text: &str) -> Option<Duration> {
    let seconds = text.parse::<f64>().ok()?;
    (seconds > 0.0 && seconds <= SECONDS_MAX)
        .then(|| Duration::try_from_secs_f64(seconds).ok())?
}

fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.to_ascii_lowercase().chars().last()? {
        'k' => (&text[..text.len() - 1], 10),
        'm' => (&text[..text.len() - 1], 20),
        'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number = digits.parse::<u64>().ok().filter(|n| *n > 0);
    number?.checked_mul(1 << shift)
}

/// Every setting with its default and meaning, a line each.
#[must_use]
pub fn table() -> String {
    let mut defaults = Settings::new(Path::new("/"));
    let mut table = String::new();
    for setting in all() {
        let value = value_text(&(setting.field)(&mut defaults));
        let (name, help) = (setting.name, setting.help);
        let _ = writeln!(table, "{name:17} {value:>8}  {help}");
    }
    table
}

fn value_text(field: &Field<'_>) -> String {
    match field {
        Field::Time(time) => format!("{} s", time.as_secs_f64()),
        Field::Bytes(bytes) => size_text(**bytes),
        Field::Size(bytes) => size_text(**bytes as u64),
        Field::Count(count) | Field::Threads(count, _) => count.to_string(),
        Field::Events(count) => count.to_string(),
        Field::Level(level) => level.to_string().to_ascii_lowercase(),
    }
}

fn size_text(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 && b % (1 << 30) == 0 => format!("{}g", b >> 30),
        b if b >= 1 << 20 && b % (1 << 20) == 0 => format!("{}m", b >> 20),
        b if b >= 1 << 10 && b % (1 << 10) == 0 => format!("{}k", b >> 10),
        b => b.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_set_by_its_name() {
        let mut settings = Settings::new(Path::new("/"));
        for words in ["command-time=0.5", "xml-bytes=2M", "jobs=7"] {
            set(&mut settings, words).unwrap();
        }
        assert_eq!(settings.load.command_time, Duration::from_millis(500));
        assert_eq!(settings.load.xml_bytes, 2 << 20);
        assert_eq!(settings.queues.jobs, 7);
    }

    #[test]
    fn what_no_setting_can_be_is_told() {
        let mut settings = Settings::new(Path::new("/"));
        for words in [
            "jobs",
            "jobs=0",
            "jobs=-1",
            "jobs=",
            "jobs=é",
            "xml-bytes=1x",
            "xml-bytes=é",
            "xml-bytes=99999999999g",
            "xml-bytes=2g",
            "held-bytes=65g",
            "jobs=1048577",
            "workers=0",
            "workers=257",
            "workers-max=1",
            "lag-events=0",
            "refresh-interval=2592001",
            "command-time=0",
            "command-time=inf",
            "command-time=NaN",
            "bogus=1",
        ] {
            let error = set(&mut settings, words).unwrap_err();
            let name = words.split('=').next().unwrap();
            assert!(error.contains(name), "{words}: {error}");
        }
    }

    #[test]
    fn the_table_names_each_with_a_default_that_can_be_set() {
        let table = table();
        assert_eq!(table.lines().count(), all().count());
        for line in table.lines() {
            let mut words = line.split_whitespace();
            let (name, value) = (words.next().unwrap(), words.next().unwrap());
            let mut settings = Settings::new(Path::new("/"));
            set(&mut settings, &format!("{name}={value}")).unwrap();
        }
    }
}
