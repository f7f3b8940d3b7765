//! Tests that the simulated host is as strict as the platform: one for each row
//! of a table of facts about the platform, with the number of the row in its
//! name. `README.md` lists the rows that have none, and why.

// A test that can't go on panics, and so it fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

/// zfs(8).
mod datasets;
/// The kernel's events, kstat(8) and sysevent(8).
mod kernel;
/// vmadm's order of writes.
mod vms;
/// zoneadm(8).
mod zoneadm;
/// zonecfg(8), and what zoneadm(8) writes.
mod zonecfg;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use simhost::Host;
use simhost::emit::{Channel, records};

const DEADLINE: Duration = Duration::from_secs(60);

const SIMHOST: &str = env!("CARGO_BIN_EXE_simhost");

/// What a command printed, on standard output and error, and its status.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    output: String,
    error: String,
    status: Option<i32>,
}

impl Said {
    fn is(&self, output: &str, error: &str, status: i32) {
        let wanted = Said {
            output: output.to_string(),
            error: error.to_string(),
            status: Some(status),
        };
        assert_eq!(*self, wanted);
    }
}

/// A host with VMs, in a directory that is removed when dropped.
struct Sim {
    host: Host,
    names: Vec<String>,
    dir: PathBuf,
}

impl std::ops::Deref for Sim {
    type Target = Host;
    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Sim {
    /// A host with this many VMs. VMs 0 and 1 are up, 2 (bhyve) is not; 3 (kvm)
    /// and 4 are as [`Host::init`] lays them out.
    fn with_vms(vms: u64) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sim-{}-{n}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let host = Host::new(&dir);
        host.init(Path::new(SIMHOST), vms).unwrap();
        let names = host.zonenames().unwrap();
        Self { host, names, dir }
    }

    fn command(&self, words: &str) -> Command {
        let mut words = words.split(' ').filter(|word| !word.is_empty());
        let name = words.next().unwrap();
        let dir = if name == "kstat" { "usr/bin" } else { "usr/sbin" };
        let mut command = Command::new(self.dir.join(dir).join(name));
        command.args(words);
        command
    }

    fn run(&self, words: &str) -> Said {
        said(self.command(words).output().unwrap())
    }

    /// Runs a command that `fault` stops halfway, calls `meanwhile`, ends the
    /// fault, and returns what the command said in the end.
    fn run_held(
        &self,
        words: &str,
        fault: &str,
        meanwhile: impl FnOnce(&Self),
    ) -> Said {
        let name = words.split(' ').next().unwrap();
        let runs = self.runs().len();
        self.hurt(name, fault).unwrap();
        let child = self
            .command(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for("it runs", || self.runs().len() > runs);
        // The command has started; it may not have reached the point where it
        // stops.
        wait_for("it waits", || is_asleep(child.id()));
        meanwhile(self);
        self.hurt(name, "heal").unwrap();
        said(child.wait_with_output().unwrap())
    }

    fn xml(&self, n: usize) -> PathBuf {
        self.xml_path(&self.names[n])
    }

    /// Makes the XML of a zone invalid by the DTD.
    fn spoil_xml(&self, n: usize) {
        let text = fs::read_to_string(self.xml(n)).unwrap();
        let text = text
            .replace("</zone>", "  <attr name=\"note\" value=\"x\"/>\n</zone>");
        self.replace_xml(&self.names[n], &text).unwrap();
    }

    fn index_text(&self) -> String {
        fs::read_to_string(self.path("/etc/zones/index")).unwrap()
    }

    fn set_index(&self, text: &str) {
        fs::write(self.path("/etc/zones/index"), text).unwrap();
    }

    /// The line of zone `n`, as `zoneadm list -pc` prints it.
    fn listed(&self, n: usize) -> Option<String> {
        let output = self.run("zoneadm list -pc").output;
        let name = &self.names[n];
        let mut lines = output.lines().map(String::from);
        lines.find(|line| line.split(':').nth(1) == Some(name))
    }

    /// The events of zones so far, as `newstate<-oldstate`.
    fn events(&self) -> Vec<String> {
        let text = |record: &serde_json::Value, name: &str| {
            record["data"][name].as_str().unwrap_or("-").to_string()
        };
        records(self.root(), Channel::Zone)
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .map(|record: serde_json::Value| {
                format!(
                    "{}<-{}",
                    text(&record, "newstate"),
                    text(&record, "oldstate")
                )
            })
            .collect()
    }

    /// Runs `act`, and returns the zone events that it made.
    fn events_of(&self, act: impl FnOnce(&Host)) -> Vec<String> {
        let before = self.events().len();
        act(&self.host);
        self.events().split_off(before)
    }

    /// Runs `act`, and returns what `look` sees after each step of it.
    fn steps<T: Send + 'static>(
        &self,
        look: impl Fn(&Host) -> T + Send + Sync + 'static,
        act: impl FnOnce(&Host),
    ) -> Vec<T> {
        let (sender, receiver) = channel();
        let host = self.host.clone();
        let slow = self.slowly(move || {
            let _ = sender.send(look(&host));
        });
        act(&slow);
        drop(slow);
        receiver.into_iter().collect()
    }
}

fn said(output: std::process::Output) -> Said {
    Said {
        output: String::from_utf8(output.stdout).unwrap(),
        error: String::from_utf8(output.stderr).unwrap(),
        status: output.status.code(),
    }
}

fn is_asleep(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/wchan"));
    let syscall = fs::read_to_string(format!("/proc/{pid}/syscall"));
    // nanosleep(2) or clock_nanosleep(2): only a command that waits for the end
    // of a fault sleeps.
    let sleeps = syscall.is_ok_and(|s| {
        s.starts_with("230 ") || s.starts_with("35 ") || s.starts_with("115 ")
    });
    sleeps || stat.is_ok_and(|s| s.contains("nanosleep"))
}

fn wait_for(what: &str, look: impl Fn() -> bool) {
    let begin = Instant::now();
    while !look() {
        assert!(begin.elapsed() < DEADLINE, "{what}: not in {DEADLINE:?}");
        std::thread::yield_now();
    }
}

/// A sysevent process, and its lines; `None` if they are not read.
struct Subscriber {
    child: Child,
    lines: Option<Receiver<String>>,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Subscriber {
    fn start(sim: &Sim, is_read: bool) -> Self {
        let mut child = sim
            .command("sysevent -rj -c com.sun:zones:status")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let mut ready = String::new();
        reader.read_line(&mut ready).unwrap();
        assert!(ready.contains("\"type\":\"ready\""), "{ready}");
        let (sender, lines) = channel();
        if is_read {
            std::thread::spawn(move || {
                let mut lines = reader.lines().map_while(Result::ok);
                lines.all(|line| sender.send(line).is_ok())
            });
            return Self { child, lines: Some(lines) };
        }
        std::mem::forget(reader);
        Self { child, lines: None }
    }

    fn next(&self) -> String {
        self.lines.as_ref().unwrap().recv_timeout(DEADLINE).unwrap()
    }
}
