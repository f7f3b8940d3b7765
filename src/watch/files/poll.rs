//! Polls the files that can't be watched because the system has no watches left
//! (EAGAIN of event ports, ENOSPC of inotify), and arms them as soon as that is
//! possible.
//!
//! A port at its limit also loses exceptions (a file is removed or replaced) of
//! the files that it watches, and reports no error. So while some file can't be
//! watched, and once more after that, all others are armed again, too.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::FileWatcher;
use super::stamp::FileStamp;
use super::tables::{NodeState, Tables, Unwatched};
use crate::faults::Fault;

impl FileWatcher {
    /// Polls what can't be watched, at intervals of `every`, until the watcher
    /// is stopped. Meanwhile arms everything else again at intervals of
    /// `rearm`.
    pub fn poll(&self, every: Duration, rearm: Duration) {
        let mut armed = Instant::now();
        loop {
            let (failed, to_arm) = {
                let mut tables = self.tables.lock();
                while !tables.has_unwatched() && !self.stop.is_set() {
                    self.to_poll.wait(&mut tables);
                }
                if !self.stop.is_set() {
                    self.to_poll.wait_for(&mut tables, every);
                }
                if self.stop.is_set() {
                    return;
                }
                let failed: Vec<u64> = tables.failed.keys().copied().collect();
                (failed, std::mem::take(&mut tables.to_arm))
            };
            for id in failed {
                self.look_at(id);
            }
            for id in to_arm {
                self.try_arm(id);
            }
            self.look_into_appeared();
            let is_over = !self.tables.lock().has_unwatched();
            if is_over || armed.elapsed() >= rearm {
                self.arm_all();
                armed = Instant::now();
            }
        }
    }

    /// Arms again everything that is armed, because events of it may have been
    /// lost.
    fn arm_all(&self) {
        let armed: Vec<u64> = {
            let tables = self.tables.lock();
            let nodes = tables.nodes.iter();
            let armed = nodes.filter(|(_, n)| n.state == NodeState::Armed);
            armed.map(|(id, _)| *id).collect()
        };
        armed.into_iter().for_each(|id| self.look_again(id));
        self.look_into_appeared();
    }

    fn look_at(&self, id: u64) {
        self.try_arm(id);
        let seen: Vec<_> = {
            let tables = self.tables.lock();
            let Some(unwatched) = tables.failed.get(&id) else { return };
            unwatched.files.clone().into_iter().collect()
        };
        for (file, before) in seen {
            let path = self.tables.lock().path(file);
            let now = path.and_then(|path| FileStamp::of(&path));
            if now != before {
                let mut tables = self.tables.lock();
                if let Some(unwatched) = tables.failed.get_mut(&id) {
                    unwatched.files.insert(file, now);
                }
                drop(tables);
                self.report(file);
            }
        }
    }

    /// Notes that a path can't be watched, for the first time or again.
    pub(super) fn note_unwatched(&self, id: u64, error: String) {
        let files = {
            let mut tables = self.tables.lock();
            if let Some(unwatched) = tables.failed.get_mut(&id) {
                unwatched.fault.retries += 1;
                unwatched.fault.error = error;
                return;
            }
            tables.files_of(id)
        };
        // The stamps are taken before the files are read, so that a later write
        // is noticed.
        let stamps = files.into_iter().map(|(id, p)| (id, FileStamp::of(&p)));
        let stamps = stamps.collect();
        log::error!(
            "can't watch {error}; checking it at intervals instead (is \
             process.max-port-events too low?)"
        );
        let unwatched = Unwatched { fault: Fault::new(error), files: stamps };
        let mut tables = self.tables.lock();
        // The path may have been dropped meanwhile.
        if !tables.nodes.contains_key(&id) {
            return;
        }
        let is_first = !tables.has_unwatched();
        tables.failed.insert(id, unwatched);
        if is_first {
            self.to_poll.notify_all();
        }
    }

    /// Notes that a path is watched, or need not be. If it could not be watched
    /// before, its files may have changed since they were last polled, and are
    /// reported. Files below a directory are armed by the next poll, because
    /// this thread still holds the directory.
    pub(super) fn note_watched(&self, id: u64) {
        let (unwatched, path) = {
            let mut tables = self.tables.lock();
            let Some(unwatched) = tables.failed.remove(&id) else { return };
            let below = unwatched.files.keys().filter(|file| **file != id);
            tables.to_arm.extend(below);
            (unwatched, tables.path(id).unwrap_or_default())
        };
        log::info!("{}: this path is watched again", path.display());
        unwatched.files.into_keys().for_each(|file| self.report(file));
    }
}

impl Tables {
    fn has_unwatched(&self) -> bool {
        !self.failed.is_empty() || !self.to_arm.is_empty()
    }

    /// The file itself, or all files below a directory.
    fn files_of(&self, id: u64) -> Vec<(u64, PathBuf)> {
        let mut files = Vec::new();
        let mut ids = vec![id];
        while let Some(id) = ids.pop() {
            let Some(node) = self.nodes.get(&id) else { continue };
            if !node.subjects.is_empty() {
                files.extend(self.path(id).map(|path| (id, path)));
            }
            ids.extend(node.children());
        }
        files
    }
}
