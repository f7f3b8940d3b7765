//! Watches the files of VMs. The load of a VM arms the watches of its files
//! before it reads them.
//!
//! A file that exists is watched itself. The directory that holds it is
//! watched, too, because a file may appear in it, and because the directory may
//! be replaced with everything in it. As long as a directory does not exist,
//! the one above it is watched.
//!
//! The order is always: first the directory is watched, then the file is looked
//! for again, so that no file appears unnoticed between the two.
//!
//! The tables are not locked across a system call: they say what to do, then
//! the call is made, then its result is noted in them. Only one thread at a
//! time arms a path, so a file system that hangs delays only the threads that
//! arm that path.

mod poll;
mod stamp;
mod tables;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::config::{CONFIG_DIR, Paths};
use crate::event::{FileChange, SourceEvent};
use crate::faults::Fault;
use crate::os::fswatch::{FsWatch, WatchEvent};
use crate::source::{Source, ZoneDir};
use crate::threads::Stop;
use crate::watch::Sink;
use tables::{NodeState, Tables, ZoneFiles};

/// A path that can't be watched, so that it is polled instead.
#[derive(Clone, Debug)]
pub struct WatchFailure {
    /// The zone that it belongs to; `None` for the files of the host, and for
    /// directories.
    pub zonename: Option<Arc<str>>,
    /// The path and the reason.
    pub fault: Fault,
}

/// The watcher of all files.
#[derive(Debug)]
pub struct FileWatcher {
    watch: FsWatch,
    paths: Paths,
    sink: Sink,
    stop: Stop,
    tables: Mutex<Tables>,
    /// Notified when a thread has finished arming a path.
    done: Condvar,
    /// Notified when some path can't be watched, or when the watcher is
    /// stopped.
    to_poll: Condvar,
}

impl FileWatcher {
    /// A watcher that sends events to `sink`.
    ///
    /// # Errors
    /// If the system provides no event port.
    pub fn new(paths: Paths, sink: Sink, stop: Stop) -> io::Result<Arc<Self>> {
        let watcher = Arc::new(Self {
            watch: FsWatch::new()?,
            paths,
            sink,
            stop: stop.clone(),
            tables: Mutex::default(),
            done: Condvar::new(),
            to_poll: Condvar::new(),
        });
        let stopped = Arc::downgrade(&watcher);
        stop.on_set(move || {
            if let Some(watcher) = stopped.upgrade() {
                watcher.wake();
            }
        });
        Ok(watcher)
    }

    /// Sends events until it is stopped.
    ///
    /// # Errors
    /// If the event port fails: from then on, no change of a file would be
    /// noticed.
    pub fn run(&self) -> io::Result<()> {
        self.sink.status().lock().ready = true;
        while let Some(events) = self.watch.wait()? {
            for event in events {
                self.handle(event);
            }
        }
        Ok(())
    }

    /// Wakes the threads that wait here, so that they see that they must end.
    fn wake(&self) {
        // A thread that looked at `stop` before it was set had this lock, and
        // waits by now.
        drop(self.tables.lock());
        self.to_poll.notify_all();
        if let Err(e) = self.watch.stop() {
            log::error!("can't stop the file watcher: {e}");
        }
    }

    /// Watches the files of the host: sysinfo and the zone index.
    pub fn arm_host(&self) {
        for (path, file) in [
            (self.paths.sysinfo(), Source::Sysinfo),
            (self.paths.zone_index(), Source::Index),
        ] {
            let id = self.tables.lock().node(&path, self.paths.root());
            self.tables.lock().add_subject(id, (None, file));
            self.try_arm(id);
        }
        self.look_into_appeared();
    }

    /// Watches the files of a zone whose directory is `dir`. With `rearm`,
    /// files that are watched already are checked as well, and reported if they
    /// have changed.
    pub fn arm(&self, zonename: &Arc<str>, dir: Option<&Path>, rearm: bool) {
        let (ids, dropped) = self.register(zonename, dir);
        for id in dropped {
            self.watch.remove(id);
        }
        // The directories first: a file that appears after that is reported.
        let mut parents: Vec<_> = {
            let tables = self.tables.lock();
            let node = |id| tables.nodes.get(id);
            ids.iter().filter_map(|id| node(id)?.parent()).collect()
        };
        parents.dedup();
        let mut is_moved = false;
        for parent in parents {
            let is_own = self.tables.lock().is_in(parent, zonename);
            // A directory that other zones share is not armed again: that would
            // take back events that are on their way.
            if rearm && is_own {
                // In a directory that has replaced another, even the same files
                // (hard links) have to be armed again: they are still watched
                // by their names in the old directory.
                is_moved |= self.check(parent) != Some(false);
            } else {
                self.ensure_armed(parent);
            }
        }
        for id in ids {
            let state = self.tables.lock().state(id);
            match state {
                Some(NodeState::Armed) if !rearm => {}
                Some(NodeState::Armed) => {
                    let changed = match is_moved {
                        true => self.try_arm(id),
                        false => self.check(id),
                    };
                    if changed == Some(true) {
                        self.report(id);
                    }
                }
                _ => {
                    self.try_arm(id);
                }
            }
        }
        self.look_into_appeared();
    }

    /// Forgets the files of a zone that is gone.
    pub fn disarm(&self, zonename: &str) {
        let dropped = {
            let mut tables = self.tables.lock();
            match tables.zones.remove(zonename) {
                Some(zone) => {
                    let own = tables.disown(zonename, &zone.files);
                    tables.drop_nodes(&own)
                }
                None => Vec::new(),
            }
        };
        for id in dropped {
            self.watch.remove(id);
        }
    }

    /// How many paths are watched or waited for.
    #[must_use]
    pub fn count(&self) -> usize {
        self.tables.lock().nodes.len()
    }

    /// The paths of the files that are watched, and of those that do not exist
    /// or can't be watched.
    #[must_use]
    pub fn paths(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let tables = self.tables.lock();
        let files = tables.nodes.iter().filter(|(_, n)| !n.subjects.is_empty());
        let (armed, others): (Vec<_>, Vec<_>) =
            files.partition(|(_, node)| node.state == NodeState::Armed);
        let path = |(id, _): (&u64, _)| tables.path(*id);
        let sorted = |mut paths: Vec<PathBuf>| {
            paths.sort();
            paths
        };
        (
            sorted(armed.into_iter().filter_map(path).collect()),
            sorted(others.into_iter().filter_map(path).collect()),
        )
    }

    /// The paths that can't be watched.
    #[must_use]
    pub fn failures(&self) -> Vec<WatchFailure> {
        let tables = self.tables.lock();
        let failed = tables.failed.iter().map(|(id, error)| {
            let node = tables.nodes.get(id);
            let subject = node.and_then(|node| node.subjects.first());
            let zonename = subject.and_then(|(zonename, _)| zonename.clone());
            WatchFailure { zonename, fault: error.fault.clone() }
        });
        failed.collect()
    }

    /// Notes which files a zone has. Returns all of them, and the paths that no
    /// longer have to be watched.
    fn register(
        &self,
        zonename: &Arc<str>,
        dir: Option<&Path>,
    ) -> (Vec<u64>, Vec<u64>) {
        let mut tables = self.tables.lock();
        if let Some(zone) = tables.zones.get(zonename)
            && zone.dir.and_then(|id| tables.path(id)).as_deref() == dir
            && zone.files.iter().all(|id| tables.nodes.contains_key(id))
        {
            return (zone.files.to_vec(), Vec::new());
        }
        let root = self.paths.root();
        let xml = tables.node(&self.paths.zone_xml(zonename), root);
        let mut files = vec![(xml, Source::ZoneXml)];
        let dir = dir.map(|dir| tables.node(dir, root));
        if let Some(dir) = dir {
            let config = tables.child(dir, CONFIG_DIR);
            for (file, of) in Source::zone_files() {
                let dir = match of {
                    ZoneDir::Zonepath => dir,
                    ZoneDir::Config => config,
                };
                files.push((tables.child(dir, file.name()), file));
            }
        }
        for (id, file) in &files {
            tables.add_subject(*id, (Some(Arc::clone(zonename)), *file));
        }
        let ids: Vec<_> = files.into_iter().map(|(id, _)| id).collect();
        let zone = ZoneFiles { dir, files: ids.clone().into_boxed_slice() };
        let before = tables.zones.insert(Arc::clone(zonename), zone);
        let old: Vec<_> = before
            .map(|zone| zone.files.into_vec())
            .unwrap_or_default()
            .into_iter()
            .filter(|id| !ids.contains(id))
            .collect();
        let old = tables.disown(zonename, &old);
        let dropped = tables.drop_nodes(&old);
        (ids, dropped)
    }

    /// Handles an event of one path.
    fn handle(&self, event: WatchEvent) {
        let id = event.id;
        let Some(is_dir) = self.tables.lock().is_dir(id) else { return };
        if event.gone {
            self.set_state(id, NodeState::Idle);
            self.try_arm(id);
        }
        if !is_dir {
            self.report(id);
            return;
        }
        // A directory that was replaced has other files in it. Otherwise, only
        // files that were missing can have appeared.
        if event.gone || event.exchanged {
            let children = self.tables.lock().children(id);
            for child in children {
                self.look_again(child);
            }
            self.rest(id);
        } else {
            self.look_for_missing(id);
        }
        self.look_into_appeared();
    }

    /// Looks for the paths that were missing in a directory.
    fn look_for_missing(&self, id: u64) {
        let missing = self.tables.lock().missing(id);
        for child in missing {
            self.look_again(child);
        }
        self.rest(id);
    }

    /// Arms a path again after its directory has changed, and reports the files
    /// that are new, gone or different.
    fn look_again(&self, id: u64) {
        let before = self.tables.lock().state(id);
        let changed = self.try_arm(id);
        let now = self.tables.lock().state(id);
        if before == now && changed != Some(true) {
            return;
        }
        let children: Vec<u64> = {
            let tables = self.tables.lock();
            let Some(node) = tables.nodes.get(&id) else { return };
            if !node.subjects.is_empty() {
                drop(tables);
                self.report(id);
                return;
            }
            node.children().to_vec()
        };
        for child in children {
            self.look_again(child);
        }
        self.rest(id);
    }

    /// Watches a path unless it is watched already. Arming it again would take
    /// back an event that is on its way.
    fn ensure_armed(&self, id: u64) {
        self.try_arm_if(id, |state| state != NodeState::Armed, FsWatch::add);
    }

    /// As [`Self::try_arm`], but leaves a watch alone if its path leads to the
    /// same file, unchanged.
    fn check(&self, id: u64) -> Option<bool> {
        self.try_arm_if(id, |_| true, FsWatch::check)
    }

    /// Watches a path, or its directory if there is no such path. Returns
    /// whether the path was watched before and has changed since; `None` if it
    /// is not watched now.
    fn try_arm(&self, id: u64) -> Option<bool> {
        self.try_arm_if(id, |_| true, FsWatch::add)
    }

    fn try_arm_if(
        &self,
        id: u64,
        wanted: impl FnOnce(NodeState) -> bool,
        add: fn(&FsWatch, u64, &Path) -> io::Result<bool>,
    ) -> Option<bool> {
        let _arming = self.take(id);
        let (path, parent, state, is_awaited) = {
            let tables = self.tables.lock();
            let node = tables.nodes.get(&id)?;
            if !wanted(node.state) {
                return Some(false);
            }
            let is_armed = |id| tables.state(id) == Some(NodeState::Armed);
            let is_awaited = node.state == NodeState::Missing
                && node.parent().is_some_and(is_armed);
            (tables.path(id)?, node.parent(), node.state, is_awaited)
        };
        let armed = match add(&self.watch, id, &path) {
            // An event of the directory will tell when it appears.
            Err(e) if is_missing(&e) && is_awaited => None,
            Err(e) if is_missing(&e) => {
                // From here on, an event of the directory makes the event
                // thread look for this path. The second try below finds what
                // appeared before that.
                self.set_state(id, NodeState::Missing);
                if let Some(parent) = parent {
                    self.ensure_armed(parent);
                }
                // A file that is there now appeared after the first try. So it
                // counts as changed, whatever was watched before.
                let added = self.watch.add(id, &path).map(|_| true);
                self.note(id, &path, added)
            }
            added => self.note(id, &path, added),
        };
        if state == NodeState::Missing && armed.is_some() {
            self.tables.lock().appeared.insert(id);
        }
        armed
    }

    /// Looks into directories that have appeared. The caller must have finished
    /// arming, so that it holds no path.
    fn look_into_appeared(&self) {
        loop {
            let Some(id) = self.tables.lock().appeared.pop_first() else {
                return;
            };
            self.look_for_missing(id);
        }
    }

    /// Notes the result of a try to watch a path.
    fn note(
        &self,
        id: u64,
        path: &Path,
        added: io::Result<bool>,
    ) -> Option<bool> {
        match added {
            Ok(changed) => {
                if !self.set_state(id, NodeState::Armed) {
                    // The path was dropped meanwhile.
                    self.watch.remove(id);
                    return None;
                }
                self.note_watched(id);
                Some(changed)
            }
            Err(e) if is_missing(&e) => {
                self.note_watched(id);
                None
            }
            Err(e) => {
                if self.set_state(id, NodeState::Idle) {
                    self.note_unwatched(id, format!("{}: {e}", path.display()));
                }
                None
            }
        }
    }

    fn set_state(&self, id: u64, state: NodeState) -> bool {
        self.tables.lock().set_state(id, state)
    }

    /// Stops watching a directory that holds no watched files and in which
    /// nothing is missing.
    fn rest(&self, id: u64) {
        let rested = {
            let _arming = self.take(id);
            let mut tables = self.tables.lock();
            let rests = tables.may_rest(id);
            if rests {
                tables.set_state(id, NodeState::Idle);
                drop(tables);
                self.watch.remove(id);
            }
            rests
        };
        // A directory in it may have gone missing before the watch ended, and
        // have come back.
        if rested && !self.tables.lock().missing(id).is_empty() {
            self.ensure_armed(id);
            self.look_for_missing(id);
        }
    }

    /// Takes a path for arming, as soon as no other thread has it.
    fn take(&self, id: u64) -> Arming<'_> {
        let mut tables = self.tables.lock();
        while !tables.arming.insert(id) {
            self.done.wait(&mut tables);
        }
        Arming { files: self, id }
    }

    /// Reports that a file has changed, once for each of its subjects.
    fn report(&self, id: u64) {
        let subjects = {
            let tables = self.tables.lock();
            tables.nodes.get(&id).map(|node| node.subjects.clone())
        };
        for (zonename, file) in subjects.into_iter().flatten() {
            self.sink.send(SourceEvent::File(FileChange { zonename, file }));
        }
    }
}

/// A path that a thread is arming. Dropping this gives it back.
struct Arming<'a> {
    files: &'a FileWatcher,
    id: u64,
}

impl Drop for Arming<'_> {
    fn drop(&mut self) {
        self.files.tables.lock().arming.remove(&self.id);
        self.files.done.notify_all();
    }
}

fn is_missing(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests;
