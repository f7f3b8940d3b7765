//! Where things are, and every limit and time-out with its default.
//!
//! No other module holds a path. Every path stands below `root`, so that a
//! directory with the files and commands of a host, a *simulated host*, is
//! all the daemon needs to run.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;

use crate::address::Address;

/// The address of today's daemon, which its clients have built in.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:9090";

/// How deep arrays and objects may nest in a JSON file. What is made of it
/// nests up to [`JSON_WRAPPED`] deeper, and readers of JSON, ours and many
/// others, take no more than 128.
pub const JSON_DEPTH: usize = 100;

/// How much deeper what is in a JSON file stands in an event, or in the VMs at
/// the beginning of a stream: `vms`, VM, `tags`; `changes`, change, `newValue`.
pub const JSON_WRAPPED: usize = 4;

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
    /// How much of the system is read at the most.
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

/// The bounds of one load.
#[derive(Clone, Debug)]
pub struct LoadLimits {
    /// A command is killed, with its children, when it runs longer.
    pub command_time: Duration,
    /// At the start, a pool is given so long to list all that is on it. (SMF
    /// gives a start 300 s.)
    pub list_time: Duration,
    /// The most bytes that a command may print.
    pub command_output: usize,
    /// The most bytes of the zone index.
    pub index_bytes: u64,
    /// The most bytes of a zone's XML.
    pub xml_bytes: u64,
    /// The most bytes of a JSON file.
    pub json_bytes: u64,
    /// The most bytes of a `lastexited` file.
    pub lastexited_bytes: u64,
    /// A command's arguments take no more bytes than this; what is over is
    /// asked for by a further run. (ARG_MAX of illumos is 2 MiB.)
    pub arguments_bytes: usize,
}

impl Default for LoadLimits {
    fn default() -> Self {
        Self {
            command_time: Duration::from_secs(30),
            list_time: Duration::from_secs(240),
            command_output: 256 << 20,
            index_bytes: 16 << 20,
            xml_bytes: 1 << 20,
            json_bytes: 16 << 20,
            lastexited_bytes: 4 << 10,
            arguments_bytes: 512 << 10,
        }
    }
}

/// The bounds of the HTTP server.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// Connections that are open at once; further ones are answered 503.
    pub connections: usize,
    /// Threads that answer requests, at the most.
    pub threads: usize,
    /// How long such a thread stays with a connection on which nothing goes
    /// on, if nobody else wants it.
    pub patience: Duration,
    /// Subscribers of /events at once; further ones are answered 503.
    pub subscribers: usize,
    /// Requests at once that wait for a change; further ones are answered
    /// 503.
    pub waiting: usize,
    /// Requests at once that wait for a load; further ones are answered 503.
    pub syncs: usize,
    /// Names besides `localhost` that a request's Host may have.
    pub hosts: Vec<String>,
    /// How long `sync` may take, unless the client says.
    pub sync_time: Duration,
    /// How long `wait` waits, unless the client says.
    pub wait_time: Duration,
    /// A request that searches for regular expressions for longer is refused;
    /// one that waits may for a twentieth of that time besides.
    pub search_time: Duration,
    /// The longest time that a client may say.
    pub timeout_max: Duration,
    /// A connection without a request is closed after this long.
    pub idle_time: Duration,
    /// A request's head must be complete this long after its first byte.
    pub head_time: Duration,
    /// An answer of which the client takes nothing for this long ends the
    /// connection.
    pub write_stall_time: Duration,
    /// An answer that the client has not taken in whole by then ends the
    /// connection.
    pub answer_time: Duration,
    /// The most bytes of a request's head, the request line included.
    pub head_bytes: usize,
    /// The most bytes of a request's target.
    pub target_bytes: usize,
    /// The most bytes of a request's body, which is read and dropped.
    pub body_bytes: usize,
    /// A subscriber that is more events behind is cut off.
    pub lag_events: u64,
    /// A subscriber that is more bytes behind is cut off.
    pub lag_bytes: u64,
    /// What all subscribers together, and the events that are kept, may hold
    /// in bytes; past it, who is most behind is cut off.
    pub held_bytes: usize,
    /// What clients may leave of their answers, in bytes, all together; past
    /// it, the largest are given up.
    pub unsent_bytes: usize,
    /// Send buffer of a connection, in bytes: what a client that does not
    /// read holds in the kernel.
    pub send_buffer: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: 1024,
            threads: 32,
            patience: Duration::from_millis(10),
            subscribers: 512,
            waiting: 256,
            syncs: 256,
            hosts: Vec::new(),
            sync_time: Duration::from_secs(30),
            wait_time: Duration::from_secs(60),
            search_time: Duration::from_millis(250),
            timeout_max: Duration::from_secs(86_400),
            idle_time: Duration::from_secs(120),
            head_time: Duration::from_secs(10),
            write_stall_time: Duration::from_secs(30),
            answer_time: Duration::from_secs(600),
            head_bytes: 32 << 10,
            target_bytes: 8 << 10,
            body_bytes: 64 << 10,
            lag_events: 1024,
            lag_bytes: 16 << 20,
            held_bytes: 512 << 20,
            unsent_bytes: 256 << 20,
            send_buffer: 128 << 10,
        }
    }
}

/// The bounds of what waits inside the daemon.
#[derive(Clone, Debug)]
pub struct QueueLimits {
    /// Workers: as many batches of jobs are loaded at once.
    pub workers: usize,
    /// How long a load waits for a command, unless the last one was slow. A
    /// worker that has been at one batch for longer gets a substitute.
    pub stuck_time: Duration,
    /// So long jobs that need commands gather while a batch of such is worked
    /// at: together they cost as much as one of them.
    pub gather_time: Duration,
    /// Workers, those that hang included. One half is for jobs that a client
    /// waits for, the other for all else, so that neither waits for the other.
    pub workers_max: usize,
    /// VMs that wait for a worker; past it the queue remembers "reload
    /// everything".
    pub jobs: usize,
    /// VMs that somebody waits for who wants them loaded.
    pub urgent_jobs: usize,
    /// VMs that are loaded together.
    pub batch: usize,
    /// Events between the sources and the planner.
    pub events: usize,
    /// Zone transitions of one VM that wait to be published.
    pub transitions: usize,
    /// Zones that are no VMs yet, or never, of which transitions wait.
    pub unknown_zones: usize,
    /// Event lines that are kept for subscribers that come back.
    pub kept_events: usize,
    /// Bytes of event lines that are kept.
    pub kept_bytes: usize,
    /// Events of its VM that a request may be behind that waits for a change.
    pub sights: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            workers: 2,
            stuck_time: Duration::from_secs(1),
            gather_time: Duration::from_millis(50),
            workers_max: 16,
            jobs: 16_384,
            urgent_jobs: 512,
            batch: 1024,
            events: 8192,
            transitions: 1024,
            unknown_zones: 16_384,
            kept_events: 4096,
            kept_bytes: 64 << 20,
            sights: 1024,
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

/// How sources are started and started again.
#[derive(Clone, Debug)]
pub struct SourceTimes {
    /// A sysevent that has not said `ready` by then is killed.
    pub ready_time: Duration,
    /// The first pause before a sysevent is started again; it doubles.
    pub restart_first: Duration,
    /// The longest pause before a sysevent is started again.
    pub restart_last: Duration,
    /// The most bytes of a sysevent's line.
    pub line_bytes: usize,
    /// The first pause before a failed load is tried again; it doubles.
    pub retry_first: Duration,
    /// The longest pause before a failed load is tried again.
    pub retry_last: Duration,
    /// The first pause before a zone is looked at again that lacks what it
    /// gets in a moment: its boot time, or its uuid; it doubles.
    pub settle_first: Duration,
    /// The longest such pause.
    pub settle_last: Duration,
    /// The first pause before zoneadm looks again at a zone that is ready,
    /// shutting down, or down; it doubles.
    pub passing_first: Duration,
    /// The longest such pause.
    pub passing_last: Duration,
    /// A VM that is found gone is published as such after this, if its end has
    /// not been reported by then.
    pub end_time: Duration,
    /// The zone index is looked at so long after it has changed: the sysevent
    /// that tells why is on its way.
    pub index_time: Duration,
    /// A VM whose datasets change again and again is loaded no sooner than
    /// this after the last time; it doubles while that goes on.
    pub pace_first: Duration,
    /// The longest that the load of such a VM is put off.
    pub pace_last: Duration,
    /// Files that can't be watched are looked at this often.
    pub poll_time: Duration,
    /// While some files can't be watched, the others are armed again this
    /// often.
    pub rearm_time: Duration,
    /// What a full reload finds changed is drift if no event tells of it
    /// within this time.
    pub drift_time: Duration,
}

impl Default for SourceTimes {
    fn default() -> Self {
        Self {
            ready_time: Duration::from_secs(30),
            restart_first: Duration::from_secs(1),
            restart_last: Duration::from_secs(60),
            line_bytes: 1 << 20,
            retry_first: Duration::from_millis(500),
            retry_last: Duration::from_secs(30),
            settle_first: Duration::from_millis(100),
            settle_last: Duration::from_secs(30),
            passing_first: Duration::from_secs(1),
            passing_last: Duration::from_secs(60),
            end_time: Duration::from_millis(500),
            index_time: Duration::from_millis(50),
            pace_first: Duration::from_millis(20),
            pace_last: Duration::from_millis(250),
            poll_time: Duration::from_secs(1),
            rearm_time: Duration::from_secs(10),
            drift_time: Duration::from_secs(2),
        }
    }
}

/// The paths of a host.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// The paths below `root`; `/` is the running system.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    /// The directory that all others are below.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// zoneadm(8)
    #[must_use]
    pub fn zoneadm(&self) -> PathBuf {
        self.root.join("usr/sbin/zoneadm")
    }

    /// zfs(8)
    #[must_use]
    pub fn zfs(&self) -> PathBuf {
        self.root.join("usr/sbin/zfs")
    }

    /// kstat(8)
    #[must_use]
    pub fn kstat(&self) -> PathBuf {
        self.root.join("usr/bin/kstat")
    }

    /// sysevent(8)
    #[must_use]
    pub fn sysevent(&self) -> PathBuf {
        self.root.join("usr/sbin/sysevent")
    }

    /// A command of section 1 that says who and where this process is.
    #[must_use]
    pub fn user_command(&self, name: &str) -> PathBuf {
        self.root.join("usr/bin").join(name)
    }

    /// The output of sysinfo(8), kept in a file.
    #[must_use]
    pub fn sysinfo(&self) -> PathBuf {
        self.root.join("tmp/.sysinfo.json")
    }

    /// The zone index: which zones are configured.
    #[must_use]
    pub fn zone_index(&self) -> PathBuf {
        self.root.join("etc/zones/index")
    }

    /// The configuration of a zone, as zonecfg(8) keeps it.
    #[must_use]
    pub fn zone_xml(&self, zonename: &str) -> PathBuf {
        self.root.join("etc/zones").join(format!("{zonename}.xml"))
    }

    /// What a VM that is being received says of itself.
    #[must_use]
    pub fn receiving(&self, uuid: &str) -> PathBuf {
        self.root.join("etc/zones").join(format!("{uuid}-receiving.json"))
    }

    /// The directory of a zone; `None` if `zonepath` is not absolute or
    /// leads upwards.
    #[must_use]
    pub fn zone_dir(&self, zonepath: &str) -> Option<PathBuf> {
        let below = Path::new(zonepath.strip_prefix('/')?);
        let plain = |c| matches!(c, Component::Normal(_));
        (below.components().count() > 0 && below.components().all(plain))
            .then(|| self.root.join(below))
    }
}

/// Where event ports are tried, unless it is said where else: on the platform
/// one is on ZFS, the other on tmpfs.
pub const SCRATCH: [&str; 2] = ["/var/tmp", "/tmp"];

/// The directory of a VM's metadata, tags and routes, below its zonepath.
pub const CONFIG_DIR: &str = "config";

/// The raw device of a ZFS volume is this and the volume's name.
pub const ZVOL_RDSK: &str = "/dev/zvol/rdsk/";
/// The block device of a ZFS volume is this and the volume's name.
pub const ZVOL_DSK: &str = "/dev/zvol/dsk/";

/// Whether zonecfg(8) allows `name` as a zone's name: a letter or digit, then
/// letters, digits, `-`, `_` and `.`, at most 63 in all, and not `global` or
/// `SUNW…`. Only such a name becomes part of a path.
#[must_use]
pub fn is_zonename(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    name.len() < 64
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(allowed)
        && name != "global"
        && !name.starts_with("SUNW")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_zonecfg_allows_become_paths() {
        for good in ["lx-zone", "0f0368dc-de82-4cf1-8d08-a0bda024ba38", "a.b"] {
            assert!(is_zonename(good), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", "..", "a/b", "-a", "é", "global", "SUNWx", &long] {
            assert!(!is_zonename(bad), "{bad}");
        }
    }

    #[test]
    fn a_zonepath_stays_below_the_root() {
        let paths = Paths::new(Path::new("/r"));
        assert_eq!(paths.zone_dir("/zones/x"), Some("/r/zones/x".into()));
        for bad in ["", "/", "zones/x", "/zones/../../etc", "/zones/.."] {
            assert_eq!(paths.zone_dir(bad), None, "{bad}");
        }
    }
}
