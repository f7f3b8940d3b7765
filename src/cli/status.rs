//! `status`: prints whether the daemon is healthy and, if not, what is wrong,
//! with which VM, and since when.

use std::collections::{BTreeMap, HashMap};

use time::{Date, Month, OffsetDateTime, Time};
use vminfod_client::VmsQuery;

use super::args::{CLIENT, flag};
use super::terminal::{Colour, has_colours, json_for_reader, printable};
use super::verb::{Call, STATUS, Verb};
use super::{Failure, print};
use crate::vm::json::{Json, Object};

/// The most faults that are printed without `-f`, so that the report fits on
/// one screen.
const FAULTS_SHOWN: usize = 4;

pub const VERB: Verb = Verb {
    names: &["status"],
    operands: "",
    summary: "whether the daemon is healthy and, if not, what is wrong",
    about: "Prints one screen: whether the daemon is healthy, and each fault \
            with its VM, since when, and how often it was tried again.",
    options: &[
        &[
            flag('j', &["json"], "print the JSON of /status"),
            flag(
                'f',
                &["full"],
                "print every fault, the last full reloads, and the clients \
                 that follow events",
            ),
        ],
        &CLIENT,
    ],
    examples: [
        ("status", "is it healthy?"),
        ("status -j", "everything that the daemon reports, for a program"),
    ],
    status: STATUS,
    run,
};

/// Prints the report or, with `-j`, /status itself.
fn run(call: Call) -> Result<(), Failure> {
    let args = call.parse(0)?;
    let client = args.client_with_deadline("vminfod")?;
    let is_full = args.has("full");
    let status = Json::from(client.status(is_full)?.json());
    if args.has("json") {
        return print(&json_for_reader(format!("{status}\n")));
    }
    let query = VmsQuery::new().fields("zonename,alias,state");
    let vms = client.vms_as(query)?.vms;
    let at = client.server().to_string();
    print(&Report { status, vms, at, has_colours: has_colours() }.text(is_full))
}

/// Something that is wrong, according to /status.
#[derive(Clone, Debug)]
pub struct ReportedFault {
    /// The zonename of the VM that has the fault; `None` if the host has it.
    pub zonename: Option<String>,
    /// The source that can't be read, the command that does not answer, or
    /// `queue` for stuck workers.
    pub source: String,
    /// What is wrong, in words.
    pub error: String,
    /// Since when, in ISO 8601; empty if /status does not say.
    pub since: String,
    /// How often it was tried again.
    pub retries: u64,
}

/// The faults that /status lists, the workers that are stuck, and the commands
/// that have not answered.
pub fn faults(status: &Json) -> Vec<ReportedFault> {
    let errors = status.get("errors").and_then(Json::as_array);
    let errors = errors.unwrap_or_default().iter().map(|error| ReportedFault {
        zonename: error
            .get("zonename")
            .and_then(Json::as_str)
            .map(str::to_string),
        source: text(error, "source"),
        error: text(error, "error"),
        since: text(error, "since"),
        retries: number(error, "retries"),
    });
    let breakers = status.get("breakers").and_then(Json::as_array);
    let breakers = breakers.unwrap_or_default().iter();
    let mut faults: Vec<_> =
        errors.chain(stuck(status)).chain(breakers.map(overdue)).collect();
    // Faults of the host come first: they may be the cause of those of VMs.
    faults.sort_by_key(|fault| {
        (fault.zonename.is_some(), !fault.since.is_empty())
    });
    faults
}

/// The fault of stuck workers, if there are any.
fn stuck(status: &Json) -> Option<ReportedFault> {
    let queue = status.get("queue")?;
    let stuck = number(queue, "stuck");
    let channels = queue.get("channels").and_then(Json::as_array);
    let channels = channels.unwrap_or_default().iter();
    let at_work: Vec<_> = channels.filter_map(Json::as_str).collect();
    let working = match at_work.is_empty() {
        true => String::new(),
        false => format!(" (working on: {})", at_work.join(", ")),
    };
    (stuck > 0).then(|| ReportedFault {
        zonename: None,
        source: "queue".to_string(),
        error: format!(
            "stuck workers: {stuck}{working}; a command or a file system of \
             the host hangs"
        ),
        since: String::new(),
        retries: 0,
    })
}

/// The fault of a command that has not answered.
fn overdue(breaker: &Json) -> ReportedFault {
    let time = breaker.get("seconds").and_then(Json::as_f64);
    ReportedFault {
        zonename: None,
        source: text(breaker, "command"),
        error: format!(
            "no answer for {:.1} s; loads that wait for it: {} (their VMs keep \
             the last good values)",
            time.unwrap_or(0.0),
            number(breaker, "nwaiting")
        ),
        since: String::new(),
        retries: 0,
    }
}

fn text(json: &Json, name: &str) -> String {
    json.get(name).and_then(Json::as_str).unwrap_or_default().to_string()
}

fn number(json: &Json, name: &str) -> u64 {
    json.get(name).and_then(Json::as_u64).unwrap_or(0)
}

struct Report {
    status: Json,
    /// The zonename, alias and state of each VM.
    vms: Vec<Json>,
    at: String,
    has_colours: bool,
}

impl Report {
    fn text(&self, is_full: bool) -> String {
        let faults = faults(&self.status);
        let version = self.word("version").unwrap_or("?");
        let verdict = match faults.len() {
            0 => Colour::Green.of("healthy", self.has_colours),
            1 => Colour::Red.of("NOT healthy: 1 fault", self.has_colours),
            n => {
                let verdict = format!("NOT healthy: {n} faults");
                Colour::Red.of(&verdict, self.has_colours)
            }
        };
        let mut text = format!(
            "vminfod {} at {}: {verdict}\n",
            printable(version),
            self.at
        );
        let rows = [
            ("vms", self.vms_row()),
            ("daemon", self.daemon_row()),
            ("sources", self.sources_row()),
            ("queue", self.queue_row()),
            ("reload", self.reload_row()),
            ("healed", self.healed_row()),
            ("clients", self.clients_row()),
        ];
        for (name, row) in rows {
            text += &format!("  {name:<8}  {}\n", printable(&row));
        }
        if is_full {
            text += &self.more();
        }
        if !faults.is_empty() {
            text += "\n";
        }
        let shown = if is_full { faults.len() } else { FAULTS_SHOWN };
        for fault in faults.iter().take(shown) {
            text += &self.fault_text(fault);
        }
        let rest = faults.get(shown..).unwrap_or_default();
        if !rest.is_empty() {
            let mut sources: BTreeMap<&str, usize> = BTreeMap::new();
            for fault in rest {
                *sources.entry(&fault.source).or_default() += 1;
            }
            let sources = sources.iter().map(|(s, n)| format!("{n} {s}"));
            let sources = sources.collect::<Vec<_>>().join(", ");
            let sources = printable(&sources);
            text += &format!(
                "and {} more: {sources}; status -f shows all\n",
                rest.len()
            );
        }
        text
    }

    fn word(&self, name: &str) -> Option<&str> {
        self.status.get(name).and_then(Json::as_str)
    }

    fn vms_row(&self) -> String {
        let mut states: BTreeMap<&str, usize> = BTreeMap::new();
        for vm in &self.vms {
            let state = vm.get("state").and_then(Json::as_str);
            *states.entry(state.unwrap_or("unknown")).or_default() += 1;
        }
        let states = states.iter().map(|(state, n)| format!("{n} {state}"));
        let states = states.collect::<Vec<_>>().join(", ");
        match self.vms.len() {
            0 => "none".to_string(),
            n => format!("{n}: {states}"),
        }
    }

    fn daemon_row(&self) -> String {
        let pid = number(&self.status, "pid");
        let up = long_time(number(&self.status, "uptime") as f64);
        let rss =
            self.status.get("memory").and_then(|m| m.get("rss")?.as_f64());
        let rss = rss.map_or(String::new(), |rss| {
            format!(", {:.1} MiB", rss / f64::from(1 << 20))
        });
        let seq = number(&self.status, "seq");
        format!("pid {pid}, up {up}{rss}, {seq} events")
    }

    fn sources_row(&self) -> String {
        let sources = self.status.get("sources").and_then(Json::as_object);
        let texts =
            sources.into_iter().flat_map(|s| s.iter()).map(|(name, source)| {
                let is_ready = source.get("ready") == Some(&Json::Bool(true));
                let state = if is_ready { "ready" } else { "NOT ready" };
                let age = source.get("lastEventAge").and_then(Json::as_f64);
                let age = age.map_or("no event yet".to_string(), |age| {
                    format!("last event {} ago", long_time(age))
                });
                let restarts = match number(source, "restarts") {
                    0 => String::new(),
                    n => format!(", restarted {n} times"),
                };
                format!("{name} {state} ({age}{restarts})")
            });
        texts.collect::<Vec<_>>().join(", ")
    }

    fn queue_row(&self) -> String {
        let Some(queue) = self.status.get("queue") else {
            return String::new();
        };
        let list = |name: &str| {
            let list = queue.get(name).and_then(Json::as_array);
            list.unwrap_or_default().to_vec()
        };
        let (working, waiting) = (list("channels"), list("backlog"));
        if working.is_empty() && waiting.is_empty() {
            return "nothing to do".to_string();
        }
        let oldest = waiting.iter().max_by(|a, b| {
            let age = |job: &Json| job.get("age").and_then(Json::as_f64);
            age(a).partial_cmp(&age(b)).unwrap_or(std::cmp::Ordering::Equal)
        });
        let oldest = oldest.map_or(String::new(), |job| {
            let word = |name: &str| job.get(name).and_then(Json::as_str);
            let age = job.get("age").and_then(Json::as_f64).unwrap_or(0.0);
            format!(
                ", the oldest for {}: {} ({})",
                long_time(age),
                word("description").unwrap_or("?"),
                word("cause").unwrap_or("?"),
            )
        });
        let vasync = queue.get("vasync_queue");
        let waiting = vasync.map_or(0, |queue| number(queue, "nqueued"));
        format!("{} running, {waiting} waiting{oldest}", working.len())
    }

    fn reload_row(&self) -> String {
        match self.word("lastRefresh") {
            // `AGO (TOOK)`
            Some(last) => match last.split_once(" (") {
                Some((ago, took)) => format!(
                    "{} ago, took {}",
                    readable(ago),
                    readable(took.trim_end_matches(')'))
                ),
                None => last.to_string(),
            },
            None => "none yet".to_string(),
        }
    }

    fn healed_row(&self) -> String {
        let of = |name: &str, what: &str| {
            let healed = self.status.get(name)?;
            let vms = number(healed, "vms");
            let properties = healed.get("properties")?.as_object()?;
            let names: Vec<_> = properties.iter().map(|(n, _)| n).collect();
            let last = healed.get("last").and_then(Json::as_str)?;
            let ago = self.ago(last);
            let names = names.join(", ");
            let missed = healed.get("missed").and_then(Json::as_object);
            let missed = missed.into_iter().flat_map(Object::iter);
            let missed = missed.filter(|(_, of)| number(of, "vms") > 0);
            let missed: Vec<_> = missed.map(|(source, _)| source).collect();
            let missed = match missed.is_empty() || name == "gaps" {
                true => String::new(),
                false => {
                    format!(": {} events were missing", missed.join(" and "))
                }
            };
            (vms > 0).then(|| {
                format!("{vms} VMs {what} ({names}), last {ago}{missed}")
            })
        };
        let drift = of("drift", "that changed without an event");
        let gaps = of("gaps", "while a source was down");
        let texts: Vec<_> = drift.into_iter().chain(gaps).collect();
        match texts.is_empty() {
            true => "nothing".to_string(),
            false => texts.join("; "),
        }
    }

    fn clients_row(&self) -> String {
        let listeners = self.status.get("eventsListeners");
        let streams = listeners.and_then(Json::as_object);
        let streams = streams.map_or(0, |streams| streams.len());
        let cut_off = number(&self.status, "eventsListenersCutOff");
        match cut_off {
            0 => format!("{streams} event streams"),
            n => format!(
                "{streams} event streams; {n} were cut off because they were \
                 read too slowly"
            ),
        }
    }

    /// The last reloads, and the clients that follow events.
    fn more(&self) -> String {
        let mut text = String::new();
        let log = self.status.get("refreshLog").and_then(Json::as_array);
        for refresh in log.unwrap_or_default() {
            let word = |n: &str| refresh.get(n).and_then(Json::as_str);
            let took = refresh.get("seconds").and_then(Json::as_f64);
            let row = format!(
                "{}: {} VMs in {:.3} s ({})",
                word("ended").unwrap_or("?"),
                number(refresh, "numVms"),
                took.unwrap_or(0.0),
                word("cause").unwrap_or("?"),
            );
            text += &format!("  reload    {}\n", printable(&row));
        }
        let listeners = self.status.get("eventsListeners");
        let listeners = listeners.and_then(Json::as_object);
        for (_, who) in listeners.into_iter().flat_map(|l| l.iter()) {
            let word = |n: &str| who.get(n).and_then(Json::as_str);
            let row = format!(
                "{}, since {} ago",
                word("userAgent").unwrap_or("-"),
                readable(word("createdAgo").unwrap_or("?")),
            );
            text += &format!("  stream    {}\n", printable(&row));
        }
        text
    }

    fn fault_text(&self, fault: &ReportedFault) -> String {
        let aliases: HashMap<_, _> = self
            .vms
            .iter()
            .filter_map(|vm| {
                Some((
                    vm.get("zonename")?.as_str()?,
                    vm.get("alias")?.as_str()?,
                ))
            })
            .collect();
        let who = match &fault.zonename {
            None => "the host".to_string(),
            Some(zonename) => match aliases.get(zonename.as_str()) {
                Some(alias) => format!("VM {zonename} ({alias})"),
                None => format!("VM {zonename}"),
            },
        };
        let head = format!("{who}: {}", fault.source);
        let since = match fault.since.as_str() {
            "" => String::new(),
            since => format!("since {since} ({})", self.ago(since)),
        };
        let retries = match fault.retries {
            0 => String::new(),
            n => format!(", tried again {n} times"),
        };
        let head = Colour::Red.of(&printable(&head), self.has_colours);
        let mut text = format!("{head}\n");
        if !since.is_empty() {
            text += &format!("    {}{retries}\n", printable(&since));
        }
        text + &format!("    {}\n", printable(&fault.error))
    }

    fn ago(&self, date: &str) -> String {
        let now = self.word("curDate").and_then(moment);
        match (now, moment(date)) {
            (Some(now), Some(then)) => {
                let ago = (now - then).as_seconds_f64();
                format!("{} ago", long_time(ago))
            }
            _ => "?".to_string(),
        }
    }
}

/// Reads a date as the daemon writes it: `2026-01-31T23:59:59.999Z`.
fn moment(date: &str) -> Option<OffsetDateTime> {
    let part = |from: usize, to: usize| date.get(from..to)?.parse::<u16>().ok();
    let small = |from, to| u8::try_from(part(from, to)?).ok();
    let month = Month::try_from(small(5, 7)?).ok()?;
    let day =
        Date::from_calendar_date(part(0, 4)?.into(), month, small(8, 10)?);
    let (hour, minute) = (small(11, 13)?, small(14, 16)?);
    let (second, ms) = (small(17, 19)?, part(20, 23)?);
    let time = Time::from_hms_milli(hour, minute, second, ms);
    Some(day.ok()?.with_time(time.ok()?).assume_utc())
}

/// A time as /status has it, `12.3s`, as people read it.
fn readable(time: &str) -> String {
    match time.strip_suffix('s').and_then(|seconds| seconds.parse().ok()) {
        Some(seconds) => long_time(seconds),
        None => time.to_string(),
    }
}

/// A time as people read it, in one unit or two.
pub fn long_time(seconds: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..10 => format!("{:.1} s", seconds.max(0.0)),
        10..120 => format!("{whole} s"),
        120..7200 => format!("{} min", whole / 60),
        7200..172_800 => {
            format!("{} h {} min", whole / 3600, whole / 60 % 60)
        }
        _ => format!("{} d {} h", whole / 86400, whole / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(status: &str) -> String {
        let vms = r#"[{"zonename":"z1","alias":"web\u001b[2J","state":"running"},
            {"zonename":"z2","state":"stopped"},{"zonename":"z3","state":"running"}]"#;
        let vms = Json::parse(vms).unwrap().as_array().unwrap().to_vec();
        let status = Json::parse(status).unwrap();
        let at = "127.0.0.1:9090".to_string();
        Report { status, vms, at, has_colours: false }.text(false)
    }

    #[test]
    fn the_report_says_that_the_daemon_is_healthy() {
        let text = report(
            r#"{"pid":7,"uptime":11520,"version":"0.1.0","seq":12,
            "memory":{"rss":35651584},"curDate":"2026-01-01T00:10:00.000Z",
            "queue":{"channels":[],"backlog":[],"stuck":0},
            "sources":{"zone":{"ready":true,"restarts":0,"lastEventAge":2.04},
              "zfs":{"ready":true,"restarts":2,"lastEventAge":null}},
            "lastRefresh":"12.3s (0.1s)","eventsListeners":{"u":{}},
            "drift":{"vms":2,"last":"2026-01-01T00:00:00.000Z",
              "properties":{"quota":{"zfs":2}},
              "missed":{"zone":{"vms":0},"zfs":{"vms":2}}},
            "gaps":{"vms":0,"last":null,"properties":{}},"errors":[]}"#,
        );
        let wanted = "\
vminfod 0.1.0 at 127.0.0.1:9090: healthy
  vms       3: 2 running, 1 stopped
  daemon    pid 7, up 3 h 12 min, 34.0 MiB, 12 events
  sources   zone ready (last event 2.0 s ago), \
            zfs ready (no event yet, restarted 2 times)
  queue     nothing to do
  reload    12 s ago, took 0.1 s
  healed    2 VMs that changed without an event (quota), last 10 min ago: \
            zfs events were missing
  clients   1 event streams
";
        assert_eq!(text, wanted);
    }

    #[test]
    fn each_fault_is_reported_with_its_vm_source_and_time() {
        let text = report(
            r#"{"version":"0.1.0","curDate":"2026-01-01T00:10:00.000Z",
            "breakers":[{"command":"zfs tank","seconds":3.25,"nwaiting":2,
              "waiting":["z1","z2"]}],
            "queue":{"channels":["z1"],"stuck":1,
              "backlog":[{"description":"z2: zfs","cause":"zfs: snapshot","age":3.5},
                {"description":"z1: zfs","cause":"zfs: set","age":1}],
              "vasync_queue":{"nqueued":2}},
            "errors":[{"zonename":"z1","source":"metadata","error":"no\nJSON",
              "since":"2026-01-01T00:00:00.000Z","retries":5},
              {"zonename":null,"source":"zfs","error":"exit status 1",
              "since":"2026-01-01T00:09:59.000Z","retries":0}]}"#,
        );
        assert!(text.starts_with(
            "vminfod 0.1.0 at 127.0.0.1:9090: NOT healthy: 4 faults\n"
        ));
        let queue = "  queue     1 running, 2 waiting, the oldest for 3.5 s: \
                     z2: zfs (zfs: snapshot)\n";
        assert!(text.contains(queue), "{text}");
        let faults = "
the host: queue
    stuck workers: 1 (working on: z1); a command or a file system of the \
                      host hangs
the host: zfs tank
    no answer for 3.2 s; loads that wait for it: 2 (their VMs keep the last \
                      good values)
the host: zfs
    since 2026-01-01T00:09:59.000Z (1.0 s ago)
    exit status 1
VM z1 (web\\u001b[2J): metadata
    since 2026-01-01T00:00:00.000Z (10 min ago), tried again 5 times
    no\\u000aJSON
";
        assert!(text.ends_with(faults), "{text}");
    }

    #[test]
    fn a_report_of_many_faults_fits_on_one_screen() {
        let faults = (0..100).map(|n| {
            let source = if n % 10 == 0 { "zfs" } else { "tags.json" };
            format!(
                r#"{{"zonename":"z{n}","source":"{source}","error":"no",
                "since":"2026-01-01T00:00:00.000Z","retries":1}}"#
            )
        });
        let faults = faults.collect::<Vec<_>>().join(",");
        let status = format!(
            r#"{{"curDate":"2026-01-01T00:10:00.000Z","errors":[{faults}]}}"#
        );
        let text = report(&status);
        assert!(text.lines().count() <= 24, "{text}");
        assert!(text.contains("NOT healthy: 100 faults"), "{text}");
        let rest = "and 96 more: 87 tags.json, 9 zfs; status -f shows all\n";
        assert!(text.ends_with(rest), "{text}");
    }
}
