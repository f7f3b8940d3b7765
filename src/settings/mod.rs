//! Gives every limit and timeout a name, so that an operator can set it. This
//! is behind `--set NAME=VALUE` and `vminfod settings`.

mod table;

use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;
use vminfod_client::Address;

use crate::config::Paths;
use crate::os;
pub use table::{HttpLimits, LoadLimits, QueueLimits, SourceTimes};
use table::{Setting, SettingField, TABLE};

/// The longest time that a text can give, some thirty years.
const SECONDS_MAX: f64 = 1e9;

/// The longest time that a setting can have.
const TIME_MAX: Duration = Duration::from_secs(30 * 86_400);

/// The largest size of a file of settings, in bytes.
const FILE_BYTES: u64 = 64 << 10;

/// The largest limit that can be set for reading a file, in bytes.
const BYTES_MAX: u64 = 1 << 30;

/// The largest limit that can be set for memory, in bytes.
const SIZE_MAX: u64 = 64 << 30;

/// The largest count that can be set.
const COUNT_MAX: u64 = 1 << 20;

/// The most threads that can be set.
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
    /// The bounds of what is read from the system.
    pub load: LoadLimits,
    /// The bounds of the HTTP server and of its clients.
    pub http: HttpLimits,
    /// The bounds of queues.
    pub queues: QueueLimits,
    /// How event sources are started and restarted.
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
    /// The most workers for urgent jobs, or for the others, including workers
    /// that hang.
    #[must_use]
    pub fn threads(&self, is_urgent: bool) -> usize {
        let half = self.workers_max / 2;
        let threads = if is_urgent { half } else { self.workers_max - half };
        threads.max(1)
    }

    /// The most workers in all.
    #[must_use]
    pub fn all_workers(&self) -> usize {
        self.threads(false) + self.threads(true)
    }
}

/// Why a setting can't be set.
#[derive(Debug)]
pub enum SettingsError {
    /// The text is not `NAME=VALUE`.
    NotNameValue(String),
    /// There is no such setting.
    Unknown(String),
    /// A setting can't have this value.
    Value {
        /// The setting.
        name: &'static str,
        /// The value that was given.
        value: String,
        /// The values that it can have.
        wanted: WantedSetting,
    },
    /// The file of settings can't be read.
    File(PathBuf, io::Error),
    /// A line of the file can't be set.
    Line {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1 on.
        line: usize,
        /// What is wrong with the line.
        error: Box<SettingsError>,
    },
}

/// The values that a setting can have.
#[derive(Debug)]
pub enum WantedSetting {
    /// A number of bytes, up to this one.
    Size(u64),
    /// A number from the first to the second.
    Number(u64, u64),
    /// Seconds, up to [`TIME_MAX`].
    Time,
    /// A log level.
    Level,
}

impl fmt::Display for WantedSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(most) => {
                let most = size_text(*most);
                write!(
                    f,
                    "must be a size of 1 byte to {most} (suffixes k, m, g)"
                )
            }
            Self::Number(least, most) => {
                write!(f, "must be a whole number from {least} to {most}")
            }
            Self::Time => {
                let days = TIME_MAX.as_secs() / 86_400;
                write!(
                    f,
                    "must be seconds, more than 0 and at most {days} days"
                )
            }
            Self::Level => {
                f.write_str("must be error, warn, info, debug or trace")
            }
        }
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNameValue(words) => {
                write!(f, "not NAME=VALUE: {words}")
            }
            Self::Unknown(name) => write!(f, "no such setting: {name}"),
            Self::Value { name, value, wanted } => {
                write!(f, "{name}={value}: {wanted}")
            }
            Self::File(path, error) => {
                write!(f, "{}: {error}", path.display())
            }
            Self::Line { path, line, error } => {
                write!(f, "{}:{line}: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for SettingsError {}

/// All settings.
fn all() -> impl Iterator<Item = &'static Setting> {
    TABLE.iter().copied().flatten()
}

/// Sets one of the settings by a text, `NAME=VALUE`.
///
/// # Errors
/// If there is no such setting, or it can't have that value.
pub fn set(settings: &mut Settings, words: &str) -> Result<(), SettingsError> {
    let (name, value) = words
        .split_once('=')
        .ok_or_else(|| SettingsError::NotNameValue(words.to_string()))?;
    let setting = all()
        .find(|setting| setting.name == name)
        .ok_or_else(|| SettingsError::Unknown(name.to_string()))?;
    let error = |wanted| SettingsError::Value {
        name: setting.name,
        value: value.to_string(),
        wanted,
    };
    let size = |most| {
        let size = size(value).filter(|size| *size <= most);
        size.ok_or_else(|| error(WantedSetting::Size(most)))
    };
    let count = |least: u64, most: u64| {
        let number = value.parse().ok();
        let number = number.filter(|n| (least..=most).contains(n));
        number.ok_or_else(|| error(WantedSetting::Number(least, most)))
    };
    // Every value that can be set fits into its field.
    let whole = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    match (setting.field)(settings) {
        SettingField::Time(time) => {
            let set = seconds(value).filter(|time| *time <= TIME_MAX);
            *time = set.ok_or_else(|| error(WantedSetting::Time))?;
        }
        SettingField::Bytes(bytes) => *bytes = size(BYTES_MAX)?,
        SettingField::Size(bytes) => *bytes = whole(size(SIZE_MAX)?),
        SettingField::Count(to) => *to = whole(count(1, COUNT_MAX)?),
        SettingField::Events(to) => *to = count(1, COUNT_MAX)?,
        SettingField::Threads(to, least) => {
            *to = whole(count(least as u64, THREADS_MAX)?);
        }
        SettingField::Level(level) => {
            *level = value
                .parse()
                .ok()
                .filter(|level| *level != LevelFilter::Off)
                .ok_or_else(|| error(WantedSetting::Level))?;
        }
    }
    Ok(())
}

/// Sets the settings in a file, which has a line `NAME=VALUE` for each; `#`
/// begins a comment.
///
/// # Errors
/// If the file can't be read, or one of its lines can't be set.
pub fn set_by_file(
    settings: &mut Settings,
    path: &Path,
) -> Result<(), SettingsError> {
    let file = os::read_regular_file(path, FILE_BYTES)
        .map_err(|error| SettingsError::File(path.to_path_buf(), error))?;
    for (line, words) in (1..).zip(file.text.lines()) {
        let words = words.split('#').next().unwrap_or_default().trim();
        if !words.is_empty() {
            set(settings, words).map_err(|error| SettingsError::Line {
                path: path.to_path_buf(),
                line,
                error: Box::new(error),
            })?;
        }
    }
    Ok(())
}

/// The settings that differ between `old` and `new`: their names and new
/// values.
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

/// A time in seconds, which must be more than zero.
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

/// Every setting with its default and meaning, one on each line.
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

fn value_text(field: &SettingField<'_>) -> String {
    match field {
        SettingField::Time(time) => format!("{} s", time.as_secs_f64()),
        SettingField::Bytes(bytes) => size_text(**bytes),
        SettingField::Size(bytes) => size_text(**bytes as u64),
        SettingField::Count(count) | SettingField::Threads(count, _) => {
            count.to_string()
        }
        SettingField::Events(count) => count.to_string(),
        SettingField::Level(level) => level.to_string().to_ascii_lowercase(),
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
    fn invalid_settings_are_refused_by_name() {
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
            let error = set(&mut settings, words).unwrap_err().to_string();
            let name = words.split('=').next().unwrap();
            assert!(error.contains(name), "{words}: {error}");
        }
    }

    #[test]
    fn every_default_in_the_table_can_be_set() {
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
