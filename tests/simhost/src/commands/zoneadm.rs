//! zoneadm(8). Only `list` is simulated. It takes no lock: the host may change
//! between any two of its looks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use crate::dtd;
use crate::hurt::{self, Answer, Fault};
use crate::index::{self, IndexEntry, is_uuid};
use crate::state::{KernelZone, State};

/// The debug id that zoneadm prints if the index line has none: the real one
/// prints an uninitialised variable.
const UNINITIALISED: i64 = 32_764;

const NO_ZONE: &str = "No such zone configured";

/// The points at which [`Fault::Halfway`] stops it.
const BEFORE_BRAND: u32 = 1;
const BETWEEN_ID_AND_STATE: u32 = 2;
const AFTER_LINE: u32 = 3;

struct Zoneadm<'a> {
    root: &'a Path,
    fault: Option<Fault>,
    output: String,
    error: String,
}

#[derive(Default)]
struct Flags {
    parsable: bool,
    verbose: bool,
    all: bool,
    installed: bool,
    no_global: bool,
}

/// Runs zoneadm.
///
/// # Errors
/// If the host's state can't be read.
pub fn run(root: &Path, args: &[&str]) -> io::Result<Answer> {
    // These faults change the run, and are looked up here, once; the others are
    // looked up when the answer is printed.
    let of_run = |fault: &Fault| {
        matches!(fault, Fault::Halfway(_) | Fault::Short(_) | Fault::NoZfs)
    };
    let fault = match hurt::names(root).contains("zoneadm") {
        true => peek(root).filter(of_run),
        false => None,
    };
    let mut zoneadm =
        Zoneadm { root, fault, output: String::new(), error: String::new() };
    let exit = zoneadm.main(args)?;
    let Zoneadm { output, error, .. } = zoneadm;
    Ok(Answer { output, error, exit })
}

/// The present fault, unless it is limited by `times=`: such a fault is counted
/// down only when the answer is printed.
fn peek(root: &Path) -> Option<Fault> {
    let words = std::fs::read_to_string(root.join("sim/hurt/zoneadm")).ok()?;
    match words.split_once(" times=") {
        None => hurt::take(root, "zoneadm"),
        Some(_) => None,
    }
}

/// The kernel's zones during a listing. Each look sees their present state; the
/// table is read again only if it has changed.
#[derive(Default)]
struct Kernel {
    /// Identifies the file that was read: each change makes a new file.
    stamp: Option<(u64, SystemTime)>,
    zones: BTreeMap<String, KernelZone>,
}

impl Kernel {
    /// The zone of this name, if it is ready or later.
    fn look(
        &mut self,
        root: &Path,
        name: &str,
    ) -> io::Result<Option<KernelZone>> {
        let stamp = State::kernel_stamp(root);
        if self.stamp != stamp {
            self.zones = State::load_kernel(root)?;
            self.stamp = stamp;
        }
        Ok(self.zones.get(name).cloned().and_then(shown))
    }
}

/// A zone as zoneadm shows it: `None` before it is ready.
fn shown(zone: KernelZone) -> Option<KernelZone> {
    match zone.state.as_str() {
        "initialized" => None,
        "dead" => Some(KernelZone { state: "down".to_string(), ..zone }),
        _ => Some(zone),
    }
}

impl Zoneadm<'_> {
    fn halfway(&mut self, point: u32) {
        if self.fault == Some(Fault::Halfway(point)) {
            hurt::wait_while(self.root, "zoneadm", &Fault::Halfway(point));
            self.fault = None;
        }
    }

    fn kernel(&self) -> io::Result<BTreeMap<String, KernelZone>> {
        State::load_kernel(self.root)
    }

    /// The zone of this name, if it is ready or later.
    fn kernel_zone(&self, name: &str) -> io::Result<Option<KernelZone>> {
        Ok(self.kernel()?.remove(name).and_then(shown))
    }

    fn index(&self) -> Option<Vec<IndexEntry>> {
        let mut entries = index::read(self.root)?;
        if let Some(Fault::Short(lines)) = self.fault {
            entries.truncate(lines);
        }
        Some(entries)
    }

    fn entry(&self, name: &str) -> Option<IndexEntry> {
        self.index()?.into_iter().find(|e| e.zonename == name)
    }

    fn say(&mut self, text: &str) -> i32 {
        let _ = writeln!(self.error, "{text}");
        1
    }

    fn usage(&mut self) -> i32 {
        self.say("usage:\tzoneadm help");
        self.say("\tzoneadm [-z <zone>] [-u <uuid>] list [-cinpv]");
        2
    }

    fn main(&mut self, args: &[&str]) -> io::Result<i32> {
        if self.fault == Some(Fault::NoZfs) {
            return Ok(self.say("failed to initialize ZFS library"));
        }
        let (mut target, mut uuid) = (None, None);
        let mut rest = args.iter();
        let verb = loop {
            match rest.next() {
                Some(&"-z") => target = rest.next().map(ToString::to_string),
                Some(&"-u") => uuid = rest.next().copied(),
                Some(&"-R") => drop(rest.next()),
                Some(word) if word.starts_with('-') => return Ok(self.usage()),
                verb => break verb.copied(),
            }
        };
        if let Some(uuid) = uuid.filter(|uuid| !uuid.is_empty()) {
            let uuid = uuid.to_ascii_lowercase();
            if !is_uuid(&uuid) {
                let of = target.map(|t| format!("zone '{t}': "));
                let of = of.unwrap_or_default();
                return Ok(self.say(&format!(
                    "zoneadm: {of}illegal UUID value specified"
                )));
            }
            let named = self.index().unwrap_or_default().into_iter();
            let named = named.filter(|e| !e.uuid.is_empty());
            let mut named = named.filter(|e| e.uuid == uuid);
            if let Some(entry) = named.next() {
                target = Some(entry.zonename);
            }
        }
        if let Some(target) = &target
            && !self.is_there(target)?
        {
            return Ok(self.say(&format!("zoneadm: {target}: {NO_ZONE}")));
        }
        let of = target.as_ref().map(|t| format!("zone '{t}': "));
        let of = of.unwrap_or_default();
        if dtd::read(self.root, "SUNWdefault").is_none() {
            return Ok(self.say(&format!(
                "zoneadm: {of}unable to determine default brand"
            )));
        }
        self.halfway(BEFORE_BRAND);
        if target.as_ref().is_some_and(|t| t != "global" && !self.has_brand(t))
        {
            let text = format!("zoneadm: {of}missing or invalid brand");
            return Ok(self.say(&text));
        }
        let rest: Vec<&str> = rest.copied().collect();
        match (verb, target) {
            (Some("list"), Some(target)) => self.list_one(&target, &rest),
            (Some("list"), None) => self.list(&rest),
            _ => Ok(self.usage()),
        }
    }

    /// Whether there is a zone of this name. The id of any zone of the kernel
    /// counts as a name, too.
    fn is_there(&self, target: &str) -> io::Result<bool> {
        if target == "global" || self.kernel_zone(target)?.is_some() {
            return Ok(true);
        }
        let kernel = self.kernel()?;
        let is_id = number(target).map(|id| id.to_string()).is_some_and(|id| {
            id == "0" || kernel.values().any(|zone| zone.zoneid == id)
        });
        Ok(is_id || dtd::read(self.root, target).is_some())
    }

    fn has_brand(&self, target: &str) -> bool {
        dtd::read(self.root, target).is_some_and(|d| !d.brand.is_empty())
    }

    fn flags(&mut self, words: &[&str], allowed: &str) -> Result<Flags, i32> {
        let mut flags = Flags::default();
        for word in words {
            let Some(letters) = word.strip_prefix('-') else {
                return Err(self.usage());
            };
            for letter in letters.chars() {
                match letter {
                    _ if !allowed.contains(letter) => {
                        return Err(self.usage());
                    }
                    'p' => flags.parsable = true,
                    'v' => flags.verbose = true,
                    'c' => flags.all = true,
                    'i' => flags.installed = true,
                    _ => flags.no_global = true,
                }
            }
        }
        if flags.parsable && flags.verbose {
            let text = "zoneadm: list -p and -v are mutually exclusive.";
            return Err(self.say(text));
        }
        Ok(flags)
    }

    fn list(&mut self, words: &[&str]) -> io::Result<i32> {
        let flags = match self.flags(words, "cinpv") {
            Ok(flags) => flags,
            Err(exit) => return Ok(exit),
        };
        let mut kernel = Kernel::default();
        // An index that can't be opened counts as empty.
        for entry in self.index().unwrap_or_default() {
            let name = entry.zonename.as_str();
            if name == "global" && flags.no_global {
                continue;
            }
            let zone = kernel.look(self.root, name)?;
            let id = zone.map(|zone| zone.zoneid);
            self.halfway(BETWEEN_ID_AND_STATE);
            let state = match name {
                "global" => "running".to_string(),
                _ => {
                    let zone = kernel.look(self.root, name)?;
                    zone.map_or(entry.state.clone(), |zone| zone.state)
                }
            };
            let least = match () {
                () if flags.all => 0,
                () if flags.installed => 2,
                () => 4,
            };
            if rank(&state) < least {
                continue;
            }
            if !flags.parsable {
                let _ = writeln!(self.output, "{name}");
            } else if name == "global" {
                self.output.push_str("0:global:running:/::liveimg:shared:0\n");
            } else if entry.brand.is_empty() {
                self.print_by_xml(name, id, &state);
            } else {
                let mut entry = entry;
                if entry.uuid.is_empty() {
                    entry.uuid = "00000000-0000-0000-0000-000000000000".into();
                }
                let debugid = entry.debugid.unwrap_or(UNINITIALISED);
                entry.debugid = Some(debugid);
                self.print(id, &state, &entry);
            }
        }
        Ok(0)
    }

    fn print(&mut self, id: Option<String>, state: &str, entry: &IndexEntry) {
        let iptype = if entry.is_exclusive { "excl" } else { "shared" };
        let debugid = entry.debugid.filter(|id| *id != -1);
        let _ = writeln!(
            self.output,
            "{}:{}:{state}:{}:{}:{}:{iptype}:{}",
            id.unwrap_or("-".to_string()),
            entry.zonename,
            entry.zonepath.replace(':', "\\:"),
            entry.uuid,
            entry.brand,
            debugid.map_or(String::new(), |id| id.to_string()),
        );
    }

    /// Prints a zone's line from its XML; `false` if that is not possible.
    fn print_by_xml(
        &mut self,
        name: &str,
        id: Option<String>,
        state: &str,
    ) -> bool {
        let entry = self.entry(name);
        let Some(xml) = dtd::read(self.root, name) else {
            let what = match &entry {
                Some(entry) if !entry.zonepath.is_empty() => {
                    "brand name: Operation not permitted".to_string()
                }
                _ => format!("zone path.: {NO_ZONE}"),
            };
            self.say(&format!("zoneadm: {name}: could not get {what}"));
            return false;
        };
        let is_up = id.is_some();
        let is_exclusive = match xml.iptype.as_str() {
            _ if is_up => true,
            "exclusive" => true,
            "" | "shared" => false,
            _ => {
                self.say(&format!("zoneadm: {name}: could not get ip-type"));
                return false;
            }
        };
        let index_path = entry.as_ref().map(|e| e.zonepath.clone());
        let index_path = index_path.filter(|path| !path.is_empty());
        let line = IndexEntry {
            zonename: name.to_string(),
            state: String::new(),
            zonepath: index_path.unwrap_or(xml.zonepath),
            uuid: entry.map(|e| e.uuid).unwrap_or_default(),
            brand: xml.brand,
            is_exclusive,
            debugid: xml.debugid,
        };
        self.print(id, state, &line);
        true
    }

    fn list_one(&mut self, name: &str, words: &[&str]) -> io::Result<i32> {
        let flags = match self.flags(words, "pv") {
            Ok(flags) => flags,
            Err(exit) => return Ok(exit),
        };
        if name == "global" {
            self.output.push_str("0:global:running:/::liveimg:shared:0\n");
            return Ok(0);
        }
        let id = self.kernel_zone(name)?.map(|zone| zone.zoneid);
        self.halfway(BETWEEN_ID_AND_STATE);
        let entry = self.entry(name);
        let state = match (self.kernel_zone(name)?, &entry) {
            (Some(zone), _) => zone.state,
            (None, Some(entry)) => entry.state.clone(),
            (None, None) => {
                return Ok(self.say(&format!(
                    "zoneadm: {name}: could not get state: {NO_ZONE}"
                )));
            }
        };
        if !flags.parsable {
            let _ = writeln!(self.output, "{name}");
        } else if !self.print_by_xml(name, id, &state) {
            return Ok(1);
        }
        self.halfway(AFTER_LINE);
        // The brand's hook does nothing, but zoneadm opens the brand to look
        // for it.
        let Some(xml) = dtd::read(self.root, name) else {
            return Ok(self.say(&format!("zoneadm: list: {NO_ZONE}")));
        };
        let brand = self.root.join("usr/lib/brand").join(&xml.brand);
        let is_there = |file| brand.join(file).is_file();
        if !is_there("config.xml") || !is_there("platform.xml") {
            return Ok(self.say(&format!(
                "zoneadm: zone '{name}': missing or invalid brand"
            )));
        }
        Ok(0)
    }
}

/// The order of states, by which a listing chooses zones.
fn rank(state: &str) -> u32 {
    match state {
        "configured" => 0,
        "incomplete" => 1,
        "installed" => 2,
        "ready" => 3,
        _ => 4,
    }
}

/// A number as strtol(3C) reads one of base 0.
fn number(text: &str) -> Option<i64> {
    if let Some(hex) = text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        return i64::from_str_radix(hex, 16).ok();
    }
    match text.strip_prefix('0').filter(|rest| !rest.is_empty()) {
        Some(octal) => i64::from_str_radix(octal, 8).ok(),
        None => text.parse().ok(),
    }
}
