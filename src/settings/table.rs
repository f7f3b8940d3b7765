//! The table of settings: name, kind, default and meaning of each, and the
//! groups in which they are kept. To add one, add its row.

use std::time::Duration;

use log::LevelFilter;

use super::Settings;
use crate::backoff::Backoff;

/// The field that holds a setting, by the setting's kind.
pub enum SettingField<'a> {
    /// A time, in seconds.
    Time(&'a mut Duration),
    /// Bytes; `k`, `m` and `g` stand for powers of 1024.
    Bytes(&'a mut u64),
    /// Bytes of something that is held in memory.
    Size(&'a mut usize),
    /// How many.
    Count(&'a mut usize),
    /// How many threads, and the least that may be set.
    Threads(&'a mut usize, usize),
    /// How many events.
    Events(&'a mut u64),
    /// What is logged.
    Level(&'a mut LevelFilter),
}

/// One setting.
pub struct Setting {
    pub name: &'static str,
    pub help: &'static str,
    pub field: fn(&mut Settings) -> SettingField<'_>,
}

/// The Rust type of a kind of setting.
#[rustfmt::skip]
macro_rules! kept {
    (Time) => { Duration };
    (Bytes) => { u64 };
    (Events) => { u64 };
    (Backoff) => { Backoff };
    ($other:ident) => { usize };
}

/// The settings of a row. A `Backoff` is two settings: the first pause, which
/// doubles with each try, and the longest.
macro_rules! row {
    ($name:literal Backoff $group:ident . $field:ident, $help:literal) => {
        &[
            Setting {
                name: concat!($name, "-first"),
                help: concat!($help, "; doubles each time"),
                field: |s| SettingField::Time(&mut s.$group.$field.first),
            },
            Setting {
                name: concat!($name, "-last"),
                help: "the longest of these pauses",
                field: |s| SettingField::Time(&mut s.$group.$field.last),
            },
        ]
    };
    ($name:literal $kind:ident $(($least:literal))? $group:ident . $field:ident,
        $help:literal) => {
        &[Setting {
            name: $name,
            help: $help,
            field: |s| SettingField::$kind(&mut s.$group.$field $(, $least)?),
        }]
    };
}

macro_rules! settings {
    ($(
        #[doc = $doc:literal]
        $type:ident $group:ident {
            $($name:literal $kind:ident $(($least:literal))? $field:ident
                = $default:expr, $help:literal;)+
            $(+ $other:ident: $other_type:ty = $value:expr, $meaning:literal;)*
        }
    )+) => {
        $(
            #[doc = $doc]
            #[derive(Clone, Debug)]
            pub struct $type {
                $(#[doc = $help] pub $field: kept!($kind),)+
                $(#[doc = $meaning] pub $other: $other_type,)*
            }

            impl Default for $type {
                fn default() -> Self {
                    Self { $($field: $default,)+ $($other: $value,)* }
                }
            }
        )+

        /// All settings, in the order in which they are listed.
        pub const TABLE: &[&[Setting]] = &[
            &[
                Setting {
                    name: "refresh-interval",
                    help: "time between two full reloads, plus or minus a \
                        tenth; up to twice that while the daemon is busy",
                    field: |s| SettingField::Time(&mut s.refresh_interval),
                },
                Setting {
                    name: "log-level",
                    help: "error, warn, info, debug or trace",
                    field: |s| SettingField::Level(&mut s.log_level),
                },
            ],
            $($(
                row!($name $kind $(($least))? $group.$field, $help),
            )+)+
        ];
    };
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

settings! {
    /// The bounds of one load.
    LoadLimits load {
        "command-time" Time command_time = secs(30),
            "a command that runs longer is killed, with its children";
        "list-time" Time list_time = secs(240),
            "like command-time, for the list of a whole pool at the start";
        "index-bytes" Bytes index_bytes = 16 << 20,
            "a zone index that is longer is refused";
        "command-output" Size command_output = 256 << 20,
            "a command that prints more is killed";
        "arguments-bytes" Size arguments_bytes = 512 << 10,
            "the most bytes of arguments for one run of a command";
        "xml-bytes" Bytes xml_bytes = 1 << 20,
            "a zone's XML that is longer is refused";
        "json-bytes" Bytes json_bytes = 16 << 20,
            "a JSON file that is longer is refused";
        "lastexited-bytes" Bytes lastexited_bytes = 4 << 10,
            "a lastexited that is longer is refused";
    }
    /// The bounds of the queues inside the daemon.
    QueueLimits queues {
        "workers" Threads(1) workers = 2,
            "batches that are loaded at once";
        "stuck-time" Time stuck_time = secs(1),
            "a load goes on without a command that takes longer; a worker that \
             spends longer on one batch is replaced by another one";
        "gather-time" Time gather_time = millis(50),
            "how long jobs that need commands wait for loads that run, so that \
             they can share a batch";
        "workers-max" Threads(2) workers_max = 16,
            "workers, stuck ones included; half of them for jobs that a \
             client waits for";
        "jobs" Count jobs = 16_384,
            "VMs that wait to be loaded; past it, all are loaded";
        "urgent-jobs" Count urgent_jobs = 512,
            "VMs that wait to be loaded because a client asked";
        "batch" Count batch = 1024,
            "the most VMs in one batch";
        "events" Count events = 8192,
            "events that wait to be handled; past it, all VMs are loaded";
        "transitions" Count transitions = 1024,
            "transitions of one zone that wait to be published";
        "unknown-zones" Count unknown_zones = 16_384,
            "zones not (yet) known as VMs whose transitions are kept";
        "kept-events" Count kept_events = 4096,
            "events kept for subscribers that come back";
        "kept-bytes" Size kept_bytes = 16 << 20,
            "bytes of events kept";
        "sights" Count sights = 1024,
            "how many events of its VM a waiting request may be behind";
    }
    /// How event sources are started, and when failed work is tried again.
    SourceTimes sources {
        "drift-time" Time drift_time = secs(2),
            "a change that a full reload finds is drift if no event reports it \
             for this long";
        "ready-time" Time ready_time = secs(30),
            "a sysevent that is not ready by then is killed";
        "restart" Backoff restart = Backoff::new(secs(1), secs(60)),
            "pause before a sysevent is restarted";
        "line-bytes" Size line_bytes = 1 << 20,
            "a sysevent that prints a longer line is killed";
        "retry" Backoff retry = Backoff::new(millis(500), secs(30)),
            "pause before a failed load is tried again";
        "settle" Backoff settle = Backoff::new(millis(100), secs(30)),
            "pause before a zone without boot time or uuid is loaded again";
        "passing" Backoff passing = Backoff::new(secs(1), secs(60)),
            "pause before a zone that is ready, shutting down or down is \
             loaded again";
        "end-time" Time end_time = millis(500),
            "how long to wait for the kernel to report that a VM has ended";
        "index-time" Time index_time = millis(50),
            "pause between a change of the zone index and its load";
        "pace" Backoff pace = Backoff::new(millis(20), millis(250)),
            "pause between two loads of a VM whose datasets keep changing";
        "poll-time" Time poll_time = secs(1),
            "how often files that can't be watched are checked";
        "rearm-time" Time rearm_time = secs(10),
            "how often all other files are armed again while some can't be \
             watched";
    }
    /// The bounds of the HTTP server.
    HttpLimits http {
        "connections" Count connections = 1024,
            "HTTP connections at once";
        "http-threads" Threads(1) threads = 32,
            "threads that answer requests";
        "patience" Time patience = millis(10),
            "how long such a thread stays with an idle connection";
        "subscribers" Count subscribers = 512,
            "subscribers of /events at once";
        "waiting" Count waiting = 256,
            "the most requests that wait for a change (wait=)";
        "syncs" Count syncs = 256,
            "the most requests that wait for a load (sync=1)";
        "sync-time" Time sync_time = secs(30),
            "the longest that sync=1 waits";
        "wait-time" Time wait_time = secs(60),
            "the longest that wait= waits";
        "search-time" Time search_time = millis(250),
            "a filter that searches for longer is refused";
        "timeout-max" Time timeout_max = secs(86_400),
            "the longest timeout= or heartbeat=";
        "idle-time" Time idle_time = secs(120),
            "a connection without a request is closed after this long";
        "head-time" Time head_time = secs(10),
            "a request's head must be complete within this time";
        "write-stall-time" Time write_stall_time = secs(30),
            "a client that reads nothing for longer is disconnected";
        "answer-time" Time answer_time = secs(600),
            "a client that has not read a whole answer by then is disconnected";
        "head-bytes" Size head_bytes = 32 << 10,
            "the most bytes of a request's head";
        "target-bytes" Size target_bytes = 8 << 10,
            "the most bytes of a request's target";
        "body-bytes" Size body_bytes = 64 << 10,
            "the most bytes of a request's body, which is read and ignored";
        "lag-events" Events lag_events = 1024,
            "a subscriber that falls more events behind is cut off";
        "lag-bytes" Bytes lag_bytes = 16 << 20,
            "a subscriber that falls more bytes behind is cut off";
        "held-bytes" Size held_bytes = 512 << 20,
            "the most bytes of events that are kept or wait for subscribers; \
             past it, the subscriber that is furthest behind is cut off";
        "unsent-bytes" Size unsent_bytes = 256 << 20,
            "the most bytes of answers that clients have not read; past it, \
             the largest are dropped";
        "send-buffer" Size send_buffer = 128 << 10,
            "a connection's send buffer";
        + hosts: Vec<String> = Vec::new(),
            "names besides `localhost` that a request's Host may have";
    }
}
