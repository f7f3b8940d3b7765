//! Which events the daemon's own watcher gets when files change.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use super::scratch::Scratch;
use super::{Check, Difference, Fact, Findings, Obstacle, Verdict, given};
use crate::os::fswatch::{FsWatch, WatchEvent};
use crate::threads;

/// An event that has not arrived after this time will not arrive.
const EVENT_TIME: Duration = Duration::from_secs(2);

/// After this time without an event, no further event is on its way.
const QUIET_TIME: Duration = Duration::from_millis(50);

/// How many events may wait. Each file has at most one at a time.
const EVENTS_MAX: usize = 1024;

pub(super) static FACTS: [Fact; 9] = [
    Fact {
        id: "ports.create",
        why: "a file of a VM that did not exist is noticed by its directory",
        expected: "a new entry is an event of the watched directory",
        harm: "new files are noticed only at the next reload",
    },
    Fact {
        id: "ports.write",
        why: "some files are written in place",
        expected: "a write is an event of the watched file",
        harm: "the new content is noticed only at the next reload",
    },
    Fact {
        id: "ports.truncate",
        why: "zoneadmd truncates lastexited before it writes it",
        expected: "a truncation is an event of the watched file",
        harm: "an emptied file is noticed only at the next reload",
    },
    Fact {
        id: "ports.chmod",
        why: "the daemon does not ask for events of changes that leave the \
            content as it is",
        expected: "a change of mode causes no event of the watched file",
        harm: "VMs are loaded for nothing",
    },
    Fact {
        id: "ports.rename-over",
        why: "zonecfg and vmadm replace files by rename",
        expected: "the watched file is reported as replaced, and from then on \
            the new file is watched",
        harm: "a change of a zone's XML or metadata is noticed only at the \
            next reload",
    },
    Fact {
        id: "ports.rename-away",
        why: "when a zone is renamed, its XML is renamed, too",
        expected: "the watched file is reported as gone",
        harm: "a file that has gone is served until a reload",
    },
    Fact {
        id: "ports.unlink",
        why: "a zone that is deleted loses its files",
        expected: "the watched file is reported as gone",
        harm: "a file that has gone is served until a reload",
    },
    Fact {
        id: "ports.directory",
        why: "the whole directory of a zone may be replaced",
        expected: "the watched directory is reported as replaced or gone",
        harm: "the daemon goes on watching the files of the old directory",
    },
    Fact {
        id: "ports.mount-point",
        why: "a zonepath is the root of a file system",
        expected: "a new entry is an event of a mount point",
        harm: "new files are noticed only at the next reload",
    },
];

/// Indices into [`FACTS`].
const CREATE: usize = 0;
const WRITE: usize = 1;
const TRUNCATE: usize = 2;
const CHMOD: usize = 3;
const OVER: usize = 4;
const AWAY: usize = 5;
const UNLINK: usize = 6;
const DIRECTORY: usize = 7;
const MOUNT: usize = 8;

/// The result for one fact in one scratch directory: what was seen, what is
/// wrong, or why there was nothing to see.
type Tried = Result<String, Wrong>;

enum Wrong {
    Differs(String),
    Absent(String),
    Untried(String),
}

impl From<io::Error> for Wrong {
    fn from(e: io::Error) -> Self {
        Self::Untried(given(e))
    }
}

pub(super) fn look(
    check: &Check,
    findings: &mut Findings,
) -> Result<(), Obstacle> {
    let tried = std::thread::scope(|scope| {
        let begin = |dir| (dir, scope.spawn(move || try_all(dir)));
        let begun: Vec<_> =
            check.scratch.iter().map(|dir| begin(dir.as_path())).collect();
        let ended = begun.into_iter().map(|(dir, thread)| {
            let bug = |_| vec![];
            (dir, thread.join().unwrap_or_else(bug))
        });
        ended.collect::<Vec<_>>()
    });
    for (at, fact) in FACTS.iter().enumerate() {
        let mut seen = Vec::new();
        let mut differences = Vec::new();
        let (mut untried, mut absent) = (Vec::new(), Vec::new());
        for (dir, tried) in &tried {
            let dir = given(dir.display());
            match tried.get(at) {
                Some(Ok(time)) => seen.push(format!("{dir}: {time}")),
                Some(Err(Wrong::Differs(what))) => {
                    seen.push(format!("{dir}: {what}"));
                    differences.push(Difference::new(dir, what.clone()));
                }
                Some(Err(Wrong::Absent(why))) => {
                    absent.push(format!("{dir}: {why}"));
                }
                Some(Err(Wrong::Untried(why))) => {
                    untried.push(format!("{dir}: {why}"));
                }
                None => untried
                    .push(format!("{dir}: a bug in vminfod, please report it")),
            }
        }
        let verdict = match (differences.is_empty(), untried.is_empty()) {
            (false, _) => Verdict::Differs(differences),
            (true, false) => Verdict::Untried(untried.join("; ").into()),
            (true, true) if seen.is_empty() => {
                Verdict::Absent(absent.join("; "))
            }
            (true, true) => Verdict::Holds,
        };
        findings.add(fact, seen.join("; "), verdict);
    }
    Ok(())
}

/// Tries every fact on the file system of `dir`, in the order of the facts.
fn try_all(dir: &Path) -> Vec<Tried> {
    let begin = || -> io::Result<_> {
        let scratch = Scratch::new(dir)?;
        Ok((Watcher::new()?, scratch))
    };
    let (watcher, scratch) = match begin() {
        Ok(begun) => begun,
        Err(e) => {
            let why = given(e);
            let untried = |_| Err(Wrong::Untried(why.clone()));
            return FACTS.iter().map(untried).collect();
        }
    };
    let tries = (0..FACTS.len()).map(|at| match at {
        CREATE => create(&watcher, &scratch),
        WRITE => write(&watcher, &scratch),
        TRUNCATE => truncate(&watcher, &scratch),
        CHMOD => chmod(&watcher, &scratch),
        OVER => rename_over(&watcher, &scratch),
        AWAY => rename_away(&watcher, &scratch),
        UNLINK => unlink(&watcher, &scratch),
        DIRECTORY => directory(&watcher, &scratch),
        MOUNT => mount_point(&watcher, dir),
        _ => Err(Wrong::Untried(
            "a bug in vminfod, please report it".to_string(),
        )),
    });
    tries.collect()
}

/// A watcher, and the thread that waits for its events.
struct Watcher {
    watch: Arc<FsWatch>,
    events: Receiver<WatchEvent>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    fn new() -> io::Result<Self> {
        let watch = Arc::new(FsWatch::new()?);
        let (sender, events) = bounded(EVENTS_MAX);
        let own = Arc::clone(&watch);
        let thread = threads::spawn("check-events", move || {
            while let Ok(Some(events)) = own.wait() {
                if events.into_iter().any(|e| sender.send(e).is_err()) {
                    break;
                }
            }
        })?;
        Ok(Self { watch, events, thread: Some(thread) })
    }

    fn add(&self, id: u64, path: &Path) -> Result<(), Wrong> {
        let failed = |e: io::Error| {
            let why = given(e);
            Wrong::Differs(format!("it can't be watched: {why}"))
        };
        self.watch.add(id, path).map(drop).map_err(failed)
    }

    /// Discards the events that have arrived, until no more arrive.
    fn drain(&self) {
        let until = Instant::now() + EVENT_TIME;
        while Instant::now() < until
            && self.events.recv_timeout(QUIET_TIME).is_ok()
        {}
    }

    /// Watches a path, does something to it, and waits for the event. Returns
    /// the event and how long it took.
    fn event_of(
        &self,
        id: usize,
        path: &Path,
        act: impl FnOnce() -> io::Result<()>,
    ) -> Result<(WatchEvent, Duration), Wrong> {
        let id = id as u64;
        self.add(id, path)?;
        let begin = Instant::now();
        act()?;
        let until = begin + EVENT_TIME;
        loop {
            match self.events.recv_deadline(until) {
                Ok(event) if event.id == id => {
                    return Ok((event, begin.elapsed()));
                }
                Ok(_) => {}
                Err(_) => {
                    let what = format!("no event in {EVENT_TIME:?}");
                    return Err(Wrong::Differs(what));
                }
            }
        }
    }

    /// Like [`Watcher::event_of`]; the event must be as `is_right` says.
    fn expect(
        &self,
        id: usize,
        path: &Path,
        act: impl FnOnce() -> io::Result<()>,
        is_right: fn(&WatchEvent) -> bool,
    ) -> Tried {
        let (event, time) = self.event_of(id, path, act)?;
        self.watch.remove(id as u64);
        let WatchEvent { exchanged, gone, .. } = event;
        match is_right(&event) {
            true => Ok(format!("{time:.1?}")),
            false => {
                let what = format!(
                    "the event says replaced: {exchanged}, gone: {gone}"
                );
                Err(Wrong::Differs(what))
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.watch.stop();
        // The thread may be waiting for room in the channel.
        while self.events.try_recv().is_ok() {}
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn is_change(event: &WatchEvent) -> bool {
    !event.gone && !event.exchanged
}

fn new_file(scratch: &Scratch, name: &str) -> io::Result<std::path::PathBuf> {
    let path = scratch.path(name);
    fs::write(&path, "first\n")?;
    Ok(path)
}

fn create(watcher: &Watcher, scratch: &Scratch) -> Tried {
    let new = scratch.path("new");
    let act = || File::create(&new).map(drop);
    watcher.expect(CREATE, scratch.dir(), act, is_change)
}

fn write(watcher: &Watcher, scratch: &Scratch) -> Tried {
    let path = new_file(scratch, "written")?;
    let act = || {
        let mut file = File::options().append(true).open(&path)?;
        file.write_all(b"second\n")
    };
    watcher.expect(WRITE, &path, act, is_change)
}

/// Truncates in both ways: by opening the file, as zoneadmd does, and by
/// ftruncate(2).
fn truncate(watcher: &Watcher, scratch: &Scratch) -> Tried {
    let path = new_file(scratch, "emptied")?;
    let act = || File::create(&path).map(drop);
    watcher.expect(TRUNCATE, &path, act, is_change)?;
    let path = new_file(scratch, "truncated")?;
    let act = || File::options().write(true).open(&path)?.set_len(0);
    watcher.expect(TRUNCATE, &path, act, is_change)
}

/// Events come in order: an event of the new mode would come before that of a
/// write to another file.
fn chmod(watcher: &Watcher, scratch: &Scratch) -> Tried {
    let path = new_file(scratch, "mode")?;
    let other = new_file(scratch, "after")?;
    watcher.add(CHMOD as u64, &path)?;
    let after = FACTS.len();
    watcher.add(after as u64, &other)?;
    let begin = Instant::now();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    fs::write(&other, "second\n")?;
    let until = begin + EVENT_TIME;
    let result = loop {
        match watcher.events.recv_deadline(until) {
            Ok(event) if event.id == CHMOD as u64 => {
                break Err(Wrong::Differs("an event".to_string()));
            }
            Ok(event) if event.id == after as u64 => {
                break Ok("no event".to_string());
            }
            Ok(_) => {}
            Err(_) => {
                let why = "a later write to another file caused no event, so \
                    nothing can be said";
                break Err(Wrong::Untried(why.to_string()));
            }
        }
    };
    watcher.watch.remove(CHMOD as u64);
    watcher.watch.remove(after as u64);
    result
}

/// Replaces a file as zonecfg does it: the old file has a second name
/// meanwhile.
fn rename_over(watcher: &Watcher, scratch: &Scratch) -> Tried {
    let path = new_file(scratch, "replaced")?;
    let new = new_file(scratch, "replaced.new")?;
    let backup = scratch.path("replaced.backup");
    let act = || {
        fs::hard_link(&path, &backup)?;
        fs::rename(&new, &path)?;
        fs::remove_file(&backup)
    };
    let (mut event, time) = watcher.event_of(OVER, &path, act)?;
    // The second name may have caused an event of its own before.
    while !event.exchanged && !event.gone {
        match watcher.events.recv_timeout(QUIET_TIME) {
            Ok(next) if next.id == OVER as u64 => event = next,
            Ok(_) => {}
            Err(_) => break,
        }
    }
    if event.gone || !event.exchanged {
        let WatchEvent { exchanged, gone, .. } = event;
        let what =
            format!("the event says replaced: {exchanged}, gone: {gone}");
        return Err(Wrong::Differs(what));
    }
    watcher.drain();
    fs::write(&path, "second\n")?;
    let until = Instant::now() + EVENT_TIME;
    let is_seen = loop {
        match watcher.events.recv_deadline(until) {
            Ok(event) if event.id == OVER as u64 => break !event.gone,
            Ok(_) => {}
            Err(_) => break false,
        }
    };
    watcher.watch.remove(OVER as u64);
    match is_seen {
        true => Ok(format!("{time:.1?}")),
        false => {
            let what = "a write to the new file caused no event".to_string();
            Err(Wrong::Differs(what))
        }
    }
}

fn rename_away(watcher: &Watcher, scratch: &Scratch) -> Tried {
    let path = new_file(scratch, "here")?;
    let away = scratch.path("away");
    watcher.expect(AWAY, &path, || fs::rename(&path, &away), |e| e.gone)
}

fn unlink(watcher: &Watcher, scratch: &Scratch) -> Tried {
    let path = new_file(scratch, "unlinked")?;
    watcher.expect(UNLINK, &path, || fs::remove_file(&path), |e| e.gone)
}

fn directory(watcher: &Watcher, scratch: &Scratch) -> Tried {
    let (path, old) = (scratch.path("dir"), scratch.path("dir.old"));
    let new = scratch.path("dir.new");
    fs::create_dir(&path)?;
    fs::create_dir(&new)?;
    let act = || {
        fs::rename(&path, &old)?;
        fs::rename(&new, &path)
    };
    watcher.expect(DIRECTORY, &path, act, |e| e.gone || e.exchanged)
}

/// Nothing is mounted for this: the scratch directory itself may be a mount
/// point, as /tmp is on the platform.
fn mount_point(watcher: &Watcher, dir: &Path) -> Tried {
    let own = fs::metadata(dir)?;
    let parent = fs::metadata(dir.join(".."))?;
    if own.dev() == parent.dev() {
        return Err(Wrong::Absent("it is not a mount point".to_string()));
    }
    // Other programs may be at work there: their events must not count.
    watcher.add(MOUNT as u64, dir)?;
    watcher.drain();
    let mut made = None;
    let act = || {
        made = Some(Scratch::new(dir)?);
        Ok(())
    };
    watcher.expect(MOUNT, dir, act, is_change)
}
