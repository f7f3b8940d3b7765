//! Every limit and time-out by a name, so that an operator can set it: the
//! table behind `--set NAME=VALUE` and `vminfod settings`.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use log::LevelFilter;

use crate::config::Settings;
use crate::os;

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

/// Where a setting is kept, by its kind.
enum Field<'a> {
    /// A time, in seconds.
    Time(&'a mut Duration),
    /// Bytes; `k`, `m` and `g` stand for powers of 1024.
    Bytes(&'a mut u64),
    /// Bytes, of what is held in memory.
    Size(&'a mut usize),
    /// How many.
    Count(&'a mut usize),
    /// How many threads, and at least so many.
    Threads(&'a mut usize, usize),
    /// How many events.
    Events(&'a mut u64),
    /// What is logged.
    Level(&'a mut LevelFilter),
}

/// One setting.
struct Setting {
    name: &'static str,
    help: &'static str,
    field: fn(&mut Settings) -> Field<'_>,
}

macro_rules! settings {
    ($($name:literal $kind:ident $(($least:literal))? $($field:ident).+,
        $help:literal;)+) => {
        &[$(Setting {
            name: $name,
            help: $help,
            field: |s| Field::$kind(&mut s.$($field).+ $(, $least)?),
        }),+]
    };
}

/// All of them, in the order in which they are listed.
const SETTINGS: &[Setting] = settings! {
    "refresh-interval" Time refresh_interval,
        "between two full reloads, a tenth more or less; as long again if \
         there is always something to do";
    "log-level" Level log_level, "error, warn, info, debug or trace";
    "drift-time" Time sources.drift_time,
        "what a full reload finds changed is drift, if no event tells of it \
         for this long";
    "command-time" Time load.command_time,
        "a command that runs longer is killed, with its children";
    "list-time" Time load.list_time,
        "the same of a list of all that is on a pool, at the start";
    "index-bytes" Bytes load.index_bytes,
        "a zone index that is longer is refused";
    "command-output" Size load.command_output,
        "a command that prints more is killed";
    "arguments-bytes" Size load.arguments_bytes,
        "arguments of one run of a command";
    "xml-bytes" Bytes load.xml_bytes, "a zone's XML that is longer is refused";
    "json-bytes" Bytes load.json_bytes,
        "a JSON file that is longer is refused";
    "lastexited-bytes" Bytes load.lastexited_bytes,
        "a lastexited that is longer is refused";
    "workers" Threads(1) queues.workers, "batches that are loaded at once";
    "stuck-time" Time queues.stuck_time,
        "a load goes on without a command that takes longer, and a worker \
         that is at one batch for longer gets a substitute";
    "gather-time" Time queues.gather_time,
        "jobs that need commands wait so long for others at work, to go together";
    "workers-max" Threads(2) queues.workers_max,
        "workers, stuck ones included; half of them for jobs that a client \
         waits for";
    "jobs" Count queues.jobs,
        "VMs that wait to be loaded; past it, all are loaded";
    "urgent-jobs" Count queues.urgent_jobs,
        "VMs that wait to be loaded since a client asked for it";
    "batch" Count queues.batch, "VMs that are loaded together";
    "events" Count queues.events,
        "events that wait to be looked at; past it, all VMs are loaded";
    "transitions" Count queues.transitions,
        "transitions of one zone that wait to be published";
    "unknown-zones" Count queues.unknown_zones,
        "zones that are no VMs, or not yet, of which transitions wait";
    "kept-events" Count queues.kept_events,
        "events kept for subscribers that come back";
    "kept-bytes" Size queues.kept_bytes, "bytes of events kept";
    "sights" Count queues.sights,
        "events of its VM that a request may be behind that waits";
    "ready-time" Time sources.ready_time,
        "a sysevent that is not ready by then is killed";
    "restart-first" Time sources.restart_first,
        "before a sysevent is started again; doubles";
    "restart-last" Time sources.restart_last, "the longest such pause";
    "line-bytes" Size sources.line_bytes,
        "a sysevent that prints a longer line is killed";
    "retry-first" Time sources.retry_first,
        "before a load that failed is tried again; doubles";
    "retry-last" Time sources.retry_last, "the longest such pause";
    "settle-first" Time sources.settle_first,
        "before a zone without boot time or uuid is looked at again; doubles";
    "settle-last" Time sources.settle_last, "the longest such pause";
    "passing-first" Time sources.passing_first,
        "before a zone that is ready, shutting down or down is looked at \
         again; doubles";
    "passing-last" Time sources.passing_last, "the longest such pause";
    "end-time" Time sources.end_time,
        "a VM's end that the kernel has not reported by then is believed";
    "index-time" Time sources.index_time,
        "the zone index is looked at so long after it has changed";
    "pace-first" Time sources.pace_first,
        "between two loads of a VM whose datasets change on and on; doubles";
    "pace-last" Time sources.pace_last, "the longest such pause";
    "poll-time" Time sources.poll_time,
        "between two looks at files that can't be watched";
    "rearm-time" Time sources.rearm_time,
        "while some files can't be watched, all others are armed again so \
         often";
    "connections" Count http.connections, "HTTP connections at once";
    "http-threads" Threads(1) http.threads, "threads that answer requests";
    "patience" Time http.patience,
        "such a thread stays with a connection on which nothing goes on";
    "subscribers" Count http.subscribers, "subscribers of /events at once";
    "waiting" Count http.waiting,
        "requests at once that wait for a change";
    "syncs" Count http.syncs, "requests at once that wait for a load";
    "sync-time" Time http.sync_time, "sync=1 takes no longer";
    "wait-time" Time http.wait_time, "wait= waits no longer";
    "search-time" Time http.search_time,
        "a filter that searches for longer is refused";
    "timeout-max" Time http.timeout_max, "the longest timeout= or heartbeat=";
    "idle-time" Time http.idle_time,
        "a connection without a request is closed after it";
    "head-time" Time http.head_time, "a request's head has to be whole by then";
    "write-stall-time" Time http.write_stall_time,
        "a client that takes nothing for longer is left";
    "answer-time" Time http.answer_time,
        "a client that has not taken an answer in whole by then is left";
    "head-bytes" Size http.head_bytes, "a request's head";
    "target-bytes" Size http.target_bytes, "a request's target";
    "body-bytes" Size http.body_bytes,
        "a request's body, which is read and dropped";
    "lag-events" Events http.lag_events,
        "a subscriber that is more events behind is cut off";
    "lag-bytes" Bytes http.lag_bytes,
        "a subscriber that is more bytes behind is cut off";
    "held-bytes" Size http.held_bytes,
        "events and what waits for subscribers; past it, who is most behind \
         is cut off";
    "unsent-bytes" Size http.unsent_bytes,
        "answers that clients do not take; past it, the largest are given up";
    "send-buffer" Size http.send_buffer, "a connection's send buffer";
};

/// Sets one of the settings by its words, `NAME=VALUE`.
///
/// # Errors
/// A sentence, if there is no such setting, or it can't have that value.
pub fn set(settings: &mut Settings, words: &str) -> Result<(), String> {
    let (name, value) = words
        .split_once('=')
        .ok_or_else(|| format!("not NAME=VALUE: {words}"))?;
    let setting = SETTINGS
        .iter()
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
    let values = SETTINGS.iter().map(|setting| {
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
    for setting in SETTINGS {
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
        assert_eq!(table.lines().count(), SETTINGS.len());
        for line in table.lines() {
            let mut words = line.split_whitespace();
            let (name, value) = (words.next().unwrap(), words.next().unwrap());
            let mut settings = Settings::new(Path::new("/"));
            set(&mut settings, &format!("{name}={value}")).unwrap();
        }
    }
}
