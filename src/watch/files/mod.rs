//! The files of VMs: armed by whoever loads a VM, before it reads them.
//!
//! A file that is there is watched itself, and so is the directory that holds
//! it, since a file may appear, and a directory may be exchanged with all that
//! is in it. Of a directory that is not there, the one above is watched for as
//! long as that is so.
//!
//! The order is always: the directory first, then another look for the file,
//! so that none appears unseen between the two.
//!
//! The tables are not locked across a system call: they say what is to be
//! done, then it is done, then they are told. Who arms a path has it for
//! himself meanwhile: a file system that hangs holds up whoever arms that one.

mod poll;
mod stamp;
mod tables;

use std::collections::BTreeSet;
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

/// A file that can't be watched: it is looked at from time to time instead.
#[derive(Clone, Debug)]
pub struct WatchFailure {
    /// Whose it is; `None` for the host's, and for directories.
    pub zonename: Option<Arc<str>>,
    /// The path, and why.
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
    /// Somebody is done with arming a path.
    done: Condvar,
    /// Some path can't be watched, or the watcher is being stopped.
    to_poll: Condvar,
}

impl FileWatcher {
    /// A watcher that hands events to `sink`.
    ///
    /// # Errors
    /// If the system gives no event port.
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

    /// Hands events on until it is stopped.
    ///
    /// # Errors
    /// If the event port fails: then nothing would tell of files any more.
    pub fn run(&self) -> io::Result<()> {
        self.sink.status().lock().ready = true;
        while let Some(events) = self.watch.wait()? {
            for event in events {
                self.handle(event);
            }
        }
        Ok(())
    }

    /// Wakes the threads that wait here, so that they see that they are to
    /// end.
    fn wake(&self) {
        // A thread that has looked already waits by now.
        drop(self.tables.lock());
        self.to_poll.notify_all();
        if let Err(e) = self.watch.stop() {
            log::error!("file events can't be stopped: {e}");
        }
    }

    /// Watches the files of the host: its description, and the zone index.
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

    /// Watches the files of a zone whose directory is `dir`; with `rearm` looks
    /// also at those that are watched already, whose change is told then.
    pub fn arm(&self, zonename: &Arc<str>, dir: Option<&Path>, rearm: bool) {
        let (ids, dropped) = self.register(zonename, dir);
        for id in dropped {
            self.watch.remove(id);
        }
        // The directories first: what appears after that is told.
        let parents: BTreeSet<_> = {
            let tables = self.tables.lock();
            let node = |id| tables.nodes.get(id);
            ids.iter().filter_map(|id| node(id)?.parent()).collect()
        };
        let mut is_moved = false;
        for parent in parents {
            let is_own = self.tables.lock().is_in(parent, zonename);
            // What other zones share keeps its news.
            if rearm && is_own {
                // In another directory, the same files are watched again: by
                // their names they are still in the one before.
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

    /// The paths of files that are watched, and of those that are not there or
    /// can't be watched.
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

    /// The files that can't be watched.
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

    /// Notes which files a zone has; returns all of them, and those that it no
    /// longer has.
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

    /// Handles news of one path.
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
        // A directory that was exchanged has other files in it; otherwise
        // only those that were missing can have come.
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

    /// Looks for what was missing in a directory.
    fn look_for_missing(&self, id: u64) {
        let missing = self.tables.lock().missing(id);
        for child in missing {
            self.look_again(child);
        }
        self.rest(id);
    }

    /// Looks for a path after its directory has changed.
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

    /// Watches a path unless that is done already: to arm it again would take
    /// back news that is on its way.
    fn ensure_armed(&self, id: u64) {
        self.try_arm_if(id, |state| state != NodeState::Armed, FsWatch::add);
    }

    /// As [`Self::try_arm`], but what is watched and as it was is left alone.
    fn check(&self, id: u64) -> Option<bool> {
        self.try_arm_if(id, |_| true, FsWatch::check)
    }

    /// Watches a path, or its directory if there is no such path. Returns
    /// whether it was watched before and has changed since; `None` if it is
    /// not watched now.
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
        let (path, parent, state) = {
            let tables = self.tables.lock();
            let node = tables.nodes.get(&id)?;
            if !wanted(node.state) {
                return Some(false);
            }
            (tables.path(id)?, node.parent(), node.state)
        };
        let armed = match add(&self.watch, id, &path) {
            Err(e) if is_missing(&e) => {
                // From here on, news of the directory makes its reader look
                // for the file; what came before, the second look finds.
                self.set_state(id, NodeState::Missing);
                if let Some(parent) = parent {
                    self.ensure_armed(parent);
                }
                // What is there now came after the first look: whatever was
                // watched before, this is another.
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

    /// Looks into directories that have been found. To be called by who is
    /// done with what it looked for: it holds no path's lock then.
    fn look_into_appeared(&self) {
        loop {
            let Some(id) = self.tables.lock().appeared.pop_first() else {
                return;
            };
            self.look_for_missing(id);
        }
    }

    /// Notes how watching a path went.
    fn note(
        &self,
        id: u64,
        path: &Path,
        added: io::Result<bool>,
    ) -> Option<bool> {
        match added {
            Ok(changed) => {
                if !self.set_state(id, NodeState::Armed) {
                    // Forgotten meanwhile.
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

    /// Stops watching a directory that holds no files and lacks nothing.
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
        // One may have gone missing before the watch ended, and come back.
        if rested && !self.tables.lock().missing(id).is_empty() {
            self.ensure_armed(id);
            self.look_for_missing(id);
        }
    }

    /// Takes a path to arm it, as soon as nobody else does.
    fn take(&self, id: u64) -> Arming<'_> {
        let mut tables = self.tables.lock();
        while !tables.arming.insert(id) {
            self.done.wait(&mut tables);
        }
        Arming { files: self, id }
    }

    /// Tells that a file has changed.
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

/// A path that somebody arms.
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
