//! The checks of the model, during its steps and after them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use simhost::emit::{Channel, records};
use vminfod::vm::json::Json;

use super::Kind;
use super::step::{Step, VMS};
use crate::harness::{Daemon, Stream, TestHost, first_difference, parse};
use crate::harness::{get_at, text, wait_within};

/// How long the daemon may take to recover after the last step.
const SETTLE_TIME: Duration = Duration::from_secs(20);

/// How often [`look`] asks whether the daemon is idle. A zone that is between
/// two states keeps it busy.
const IDLE_LOOKS: usize = 20;

/// A host, the daemon on it, and a subscriber, in the order in which they must
/// be dropped.
pub struct Model {
    stream: Stream,
    daemon: Daemon,
    host: TestHost,
    kind: Kind,
    /// Files that were cut or spoiled, with their good text.
    torn: HashMap<PathBuf, String>,
    debugid: u64,
    /// The zones that have had each uuid.
    zones_of: BTreeMap<String, BTreeSet<String>>,
}

impl Model {
    pub fn new(kind: Kind, args: &[&str]) -> Self {
        let host = TestHost::with_vms(VMS);
        let daemon = host.start_with(args);
        let stream = daemon.events();
        Self {
            stream,
            daemon,
            host,
            kind,
            torn: HashMap::new(),
            debugid: 100_000,
            zones_of: BTreeMap::new(),
        }
    }

    /// Runs a step. A step that the host refuses is skipped.
    pub fn step(&mut self, n: usize, step: &Step) {
        self.debugid += 1;
        self.note_uuids();
        match step {
            Step::Compare => self.compare(&format!("step {n}")),
            Step::Tear(vm, file) => self.tear(*vm, Some(file)),
            Step::TearXml(vm) => self.tear(*vm, None),
            Step::SpoilXml(vm) => self.spoil(*vm),
            Step::IndexLost(lines) => self.lose_index(*lines),
            Step::Slowly(is_asked, step) => {
                let (addr, is_asked) = (self.daemon.addr, *is_asked);
                let host = self.host.slowly(move || look(addr, is_asked));
                let _ = step.run(&host, self.debugid);
            }
            // The host may refuse it, for example an edit of a file that is
            // cut.
            _ => {
                let _ = step.run(&self.host, self.debugid);
            }
        }
    }

    /// Notes which zone has which uuid now.
    fn note_uuids(&mut self) {
        let index = self.host.path("/etc/zones/index");
        for line in fs::read_to_string(index).unwrap_or_default().lines() {
            let fields: Vec<_> = line.split(':').collect();
            if let [name, _, _, uuid, ..] = fields[..] {
                let zones = self.zones_of.entry(uuid.to_string()).or_default();
                zones.insert(name.to_string());
            }
        }
    }

    /// Whether a zone has had only one uuid, which no other zone has had. A
    /// change of the uuid ends the life of a VM, and a uuid that two zones have
    /// keeps one of them from being served; no sysevent reports either.
    fn has_one_uuid(&self, name: &str) -> bool {
        let mut own = self.zones_of.values().filter(|all| all.contains(name));
        let is_alone = own.next().is_none_or(|zones| zones.len() == 1);
        is_alone && own.next().is_none()
    }

    /// Cuts a file in half, in place.
    fn tear(&mut self, vm: usize, file: Option<&str>) {
        let Ok(names) = self.host.zonenames() else { return };
        let Some(name) = names.get(vm % names.len().max(1)) else { return };
        let path = match file {
            None => self.host.xml_path(name),
            Some(file) => {
                let Ok(dir) = self.host.zone_dir(name) else { return };
                dir.join("config").join(file)
            }
        };
        let Ok(text) = fs::read_to_string(&path) else { return };
        if text.len() > 2 && !self.torn.contains_key(&path) {
            fs::write(&path, &text[..text.len() / 2]).unwrap();
            self.torn.insert(path, text);
        }
    }

    /// Makes the XML of a zone invalid by the DTD.
    fn spoil(&mut self, vm: usize) {
        let Ok(names) = self.host.zonenames() else { return };
        let Some(name) = names.get(vm % names.len().max(1)) else { return };
        let path = self.host.xml_path(name);
        let Ok(text) = fs::read_to_string(&path) else { return };
        if simhost::dtd::parse(&text).is_some() {
            let note = "<attr name=\"note\" value=\"x\"/></zone>";
            let spoiled = text.replace("</zone>", note);
            self.host.replace_xml(name, &spoiled).unwrap();
            self.torn.insert(path, text);
        }
    }

    /// Cuts the index to a few lines, has the daemon look at it, and restores
    /// it.
    fn lose_index(&mut self, lines: usize) {
        let path = self.host.path("/etc/zones/index");
        let text = fs::read_to_string(&path).unwrap();
        // Without the line of the global zone, no reader may take these lines
        // for the whole index.
        let kept: String = text
            .split_inclusive('\n')
            .filter(|line| !line.starts_with("global:"))
            .take(lines % 4)
            .collect();
        fs::write(&path, kept).unwrap();
        look(self.daemon.addr, lines.is_multiple_of(2));
        fs::write(&path, text).unwrap();
    }

    /// Checks that a new subscriber gets what the events of the stream add up
    /// to.
    fn compare(&mut self, when: &str) {
        let other = self.daemon.events();
        self.stream.read_to(other.seq);
        let (ours, theirs) = (self.stream.array(), other.array());
        if let Some(difference) = first_difference(&ours, &theirs) {
            panic!("{when}: the stream does not add up: {difference}");
        }
    }

    /// Ends all faults, and waits until the daemon has no faults, is idle, and
    /// serves what a load gives.
    pub fn settle(mut self) {
        Step::Heal.run(&self.host, 0).unwrap();
        // Some zones have begun to run, and their boot times are not set yet.
        self.compare("before the end");
        self.host.set_boot_times().unwrap();
        for (path, text) in std::mem::take(&mut self.torn) {
            // A file that was replaced or removed since then is left alone.
            let is_whole = |now: &String| match path.extension() {
                Some(e) if e == "xml" => simhost::dtd::parse(now).is_some(),
                _ => Json::parse(now).is_ok(),
            };
            if fs::read_to_string(&path).is_ok_and(|now| !is_whole(&now)) {
                fs::write(&path, &text).unwrap();
            }
        }
        // No event reports that init has ended, only what follows from it. For
        // a zone that hangs before that, the pid is right only after another
        // load.
        for zonename in self.host.zones_without_init().unwrap() {
            get_at(self.daemon.addr, &format!("/vms/{zonename}?sync=1"));
        }
        wait_within(SETTLE_TIME, "all is well again", || {
            let status = self.daemon.status();
            let errors = status.get("errors").unwrap();
            let idle = status.get("queue").unwrap().get("idle");
            let is_well = errors.as_array().unwrap().is_empty();
            if !is_well || idle != Some(&Json::Bool(true)) {
                return Err(status.to_string());
            }
            let (served, loaded) = (self.daemon.vms(), self.host.dumped());
            first_difference(&served, &loaded).map_or(Ok(()), Err)
        });
        self.compare("at the end");
        self.note_uuids();
        if self.kind != Kind::Lossy && self.lost() == 0 {
            self.check_transitions();
        }
    }

    /// How many events were lost because a channel was full.
    fn lost(&self) -> u64 {
        let status = self.daemon.status();
        let sources = status.get("sources").unwrap().as_object().unwrap();
        let lost = |s: &Json| s.get("lost").unwrap().as_u64().unwrap();
        sources.iter().map(|(_, source)| lost(source)).sum()
    }

    /// Checks that every transition that was reported has been published, in
    /// order.
    fn check_transitions(&self) {
        let mut published = published(&self.stream);
        for (name, reported) in reported(&self.host, &self.stream) {
            let published = published.remove(&name).unwrap_or_default();
            // A VM may be deleted before it could be loaded, and then that life
            // is not published: the lives can't be matched.
            if published.len() != reported.len() {
                continue;
            }
            if !self.has_one_uuid(&name) {
                continue;
            }
            for (reported, published) in reported.iter().zip(&published) {
                let mut rest = published.iter();
                for state in reported {
                    assert!(
                        rest.any(|s| s == state),
                        "{name}: {state} was not published: reported \
                         {reported:?}, published {published:?}"
                    );
                }
            }
        }
    }
}

/// Has the daemon load everything, or waits until it is idle. While commands
/// fail, it may not become idle, and so the wait is limited.
fn look(addr: SocketAddr, is_asked: bool) {
    if is_asked {
        get_at(addr, "/vms?sync=1");
        return;
    }
    for _ in 0..IDLE_LOOKS {
        let status = parse(&get_at(addr, "/status").body);
        let queue = status.get("queue").unwrap();
        if queue.get("idle") == Some(&Json::Bool(true)) {
            break;
        }
    }
}

/// For each zonename, the states of each life of that zone.
type Lives = BTreeMap<String, Vec<Vec<String>>>;

/// The states that zones have entered, according to the sysevents.
fn reported(host: &TestHost, stream: &Stream) -> Lives {
    let mut lives = begun(stream);
    for record in records(host.root(), Channel::Zone) {
        let record = parse(record.as_bytes());
        let data = record.get("data").unwrap();
        let (old, new) = (text(data, "oldstate"), text(data, "newstate"));
        let lives = lives.entry(text(data, "zonename").to_string());
        let lives = lives.or_default();
        if old.is_empty() {
            lives.push(Vec::new());
        }
        // Only states that zoneadm also shows; a repeated state is no
        // transition.
        let is_told = old != new
            && [
                "configured",
                "incomplete",
                "installed",
                "ready",
                "running",
                "shutting_down",
            ]
            .contains(&new);
        // A halt that is tried again reports the state that the zone is in
        // already.
        if let Some(life) = lives.last_mut().filter(|_| is_told)
            && life.last().is_none_or(|last| last != new)
        {
            life.push(new.to_string());
        }
    }
    lives
}

/// The states that were published to subscribers.
fn published(stream: &Stream) -> Lives {
    let mut lives = begun(stream);
    for event in &stream.events {
        let name = text(event, "zonename").to_string();
        let lives = lives.entry(name).or_default();
        if text(event, "type") == "create" {
            lives.push(Vec::new());
        }
        let state = event.get("vm").map(|vm| text(vm, "zone_state"));
        if let (Some(life), Some(state)) = (lives.last_mut(), state) {
            life.push(state.to_string());
        }
    }
    lives
}

/// One life for each VM that existed when the stream began.
fn begun(stream: &Stream) -> Lives {
    let vms = parse(text(&stream.ready, "vms").as_bytes());
    let names = vms.as_array().unwrap().iter().map(|vm| text(vm, "zonename"));
    names.map(|name| (name.to_string(), vec![Vec::new()])).collect()
}
