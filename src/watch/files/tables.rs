//! What is watched, whose it is, and what is missing: without system calls.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::stamp::FileStamp;
use crate::config::CONFIG_DIR;
use crate::faults::Fault;
use crate::source::Source;

/// Which file of which zone: who wants to know.
pub type Subject = (Option<Arc<str>>, Source);

/// In place of a directory's number: there is none above.
const NO_PARENT: u64 = 0;

/// One path that is watched, or waited for.
#[derive(Debug)]
pub struct Node {
    /// In its directory; the whole path, if there is none above.
    name: Arc<OsStr>,
    parent: u64,
    /// Whose file it is; nobody's, if it is a directory.
    pub subjects: Box<[Subject]>,
    /// What is in it, if it is a directory.
    pub entries: Option<Box<Entries>>,
    pub state: NodeState,
}

/// What is watched, or waited for, in a directory.
#[derive(Debug, Default)]
pub struct Entries {
    /// By their names, so that one can be found.
    pub all: Vec<u64>,
    /// Those that are not there.
    pub missing: Vec<u64>,
}

impl Node {
    pub fn parent(&self) -> Option<u64> {
        Some(self.parent).filter(|parent| *parent != NO_PARENT)
    }

    /// What is in it.
    pub fn children(&self) -> &[u64] {
        self.entries.as_ref().map_or(&[], |entries| &entries.all)
    }

    /// What is in it and not there.
    pub fn missing(&self) -> &[u64] {
        self.entries.as_ref().map_or(&[], |entries| &entries.missing)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Not looked at.
    Idle,
    /// Watched.
    Armed,
    /// There is no such path: its directory is watched.
    Missing,
}

/// Spreads numbers that are given out one after the other. Nobody outside has
/// a say in them, so that chance need not be defended.
#[derive(Debug, Default)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn write_u64(&mut self, number: u64) {
        // 2^64 divided by the golden ratio.
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(self.0 ^ u64::from(*b)));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The files of a zone, and its directory.
#[derive(Clone, Debug)]
pub struct ZoneFiles {
    pub dir: Option<u64>,
    pub files: Box<[u64]>,
}

#[derive(Debug, Default)]
pub struct Tables {
    pub last_id: u64,
    pub nodes: HashMap<u64, Box<Node>, BuildHasherDefault<NumberHasher>>,
    /// Those that have no directory above them, by their names.
    roots: Vec<u64>,
    /// Names that many have.
    names: HashSet<Arc<OsStr>>,
    /// Those that somebody arms just now, so that the state of each is that
    /// of the last try. A child is taken before its parent.
    pub arming: HashSet<u64>,
    /// The files of each zone.
    pub zones: HashMap<Arc<str>, ZoneFiles>,
    /// Paths that can't be watched, why, and what their files looked like.
    pub failed: BTreeMap<u64, Unwatched>,
    /// Directories that were missing and have been found by who looked for
    /// one of their files: others of their files may have come with them.
    pub appeared: BTreeSet<u64>,
    /// Files whose directory could not be watched, and now is.
    pub to_arm: BTreeSet<u64>,
}

/// A path that can't be watched.
#[derive(Debug)]
pub struct Unwatched {
    pub fault: Fault,
    /// The files that its news would be about, as they were last seen.
    pub files: BTreeMap<u64, Option<FileStamp>>,
}

impl Tables {
    /// The node of a path; it and the directories above it, up to `root`, are
    /// made if need be.
    pub fn node(&mut self, path: &Path, root: &Path) -> u64 {
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name))
                if path != root && path.starts_with(root) =>
            {
                let parent = self.node(parent, root);
                self.child(parent, name)
            }
            _ => self.child(NO_PARENT, path.as_os_str()),
        }
    }

    /// The node of a name in a directory that there is, or in none; it is made
    /// if need be.
    pub fn child(&mut self, parent: u64, name: impl AsRef<OsStr>) -> u64 {
        let name = name.as_ref();
        let siblings = match self.nodes.get(&parent) {
            Some(parent) => parent.children(),
            None => &self.roots,
        };
        debug_assert!(parent == NO_PARENT || self.nodes.contains_key(&parent));
        let by_name = |id: &u64| match self.nodes.get(id) {
            Some(node) => (*node.name).cmp(name),
            None => Ordering::Less,
        };
        let place = match siblings.binary_search_by(by_name) {
            Ok(place) => return siblings[place],
            Err(place) => place,
        };
        self.last_id += 1;
        let id = self.last_id;
        let siblings = match self.nodes.get_mut(&parent) {
            Some(parent) => &mut parent.entries.get_or_insert_default().all,
            None => &mut self.roots,
        };
        siblings.insert(place, id);
        let node = Node {
            name: self.name(name),
            parent,
            subjects: Box::default(),
            entries: None,
            state: NodeState::Idle,
        };
        self.nodes.insert(id, Box::new(node));
        id
    }

    /// A name, kept once if every zone has a file of that name.
    fn name(&mut self, name: &OsStr) -> Arc<OsStr> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let new: Arc<OsStr> = name.into();
        let files = Source::zone_files().map(|(file, _)| file.name());
        if files.chain([CONFIG_DIR]).any(|shared| name == OsStr::new(shared)) {
            self.names.insert(Arc::clone(&new));
        }
        new
    }

    /// The path of a node.
    pub fn path(&self, id: u64) -> Option<PathBuf> {
        let node = self.nodes.get(&id)?;
        match node.parent() {
            None => Some(PathBuf::from(&*node.name)),
            Some(parent) => Some(self.path(parent)?.join(&*node.name)),
        }
    }

    /// Notes whose file a path is; by mistake it may be that of several.
    pub fn add_subject(&mut self, id: u64, subject: Subject) {
        if let Some(node) = self.nodes.get_mut(&id)
            && !node.subjects.contains(&subject)
        {
            let subjects = std::mem::take(&mut node.subjects);
            node.subjects = subjects.into_iter().chain([subject]).collect();
        }
    }

    /// Whether a path is the directory of a zone, or in it.
    pub fn is_in(&self, id: u64, zonename: &str) -> bool {
        let dir = self.zones.get(zonename).and_then(|zone| zone.dir);
        let mut id = Some(id);
        while let Some(own) = id {
            if dir == Some(own) {
                return true;
            }
            id = self.nodes.get(&own).and_then(|node| node.parent());
        }
        false
    }

    pub fn state(&self, id: u64) -> Option<NodeState> {
        self.nodes.get(&id).map(|node| node.state)
    }

    pub fn is_dir(&self, id: u64) -> Option<bool> {
        self.nodes.get(&id).map(|node| node.subjects.is_empty())
    }

    pub fn may_rest(&self, id: u64) -> bool {
        let Some(node) = self.nodes.get(&id) else { return false };
        let is_file = |child: &u64| self.is_dir(*child) == Some(false);
        node.state == NodeState::Armed
            && node.missing().is_empty()
            && !node.children().iter().any(is_file)
            && node.subjects.is_empty()
    }

    pub fn children(&self, id: u64) -> Vec<u64> {
        let node = self.nodes.get(&id);
        node.map(|n| n.children().to_vec()).unwrap_or_default()
    }

    pub fn missing(&self, id: u64) -> Vec<u64> {
        let node = self.nodes.get(&id);
        node.map(|n| n.missing().to_vec()).unwrap_or_default()
    }

    /// Sets a node's state, and tells its directory; `false` if there is no
    /// such node.
    pub fn set_state(&mut self, id: u64, state: NodeState) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        let before = std::mem::replace(&mut node.state, state);
        let parent = node.parent;
        let is_missing = |state| state == NodeState::Missing;
        if is_missing(before) != is_missing(state)
            && let Some(parent) = self.nodes.get_mut(&parent)
        {
            let missing = &mut parent.entries.get_or_insert_default().missing;
            match is_missing(state) {
                true => missing.push(id),
                false => missing.retain(|child| *child != id),
            }
        }
        true
    }

    /// Forgets that these files are this zone's; returns those that are
    /// nobody's now: after a rename, they are that of a zone of another name.
    pub fn disown(&mut self, zonename: &str, ids: &[u64]) -> Vec<u64> {
        let mut nobodys = Vec::new();
        for id in ids {
            let Some(node) = self.nodes.get_mut(id) else { continue };
            let is_other = |(owner, _): &Subject| {
                owner.as_deref().is_none_or(|owner| *owner != *zonename)
            };
            let subjects = std::mem::take(&mut node.subjects);
            node.subjects = subjects.into_iter().filter(is_other).collect();
            if node.subjects.is_empty() {
                nobodys.push(*id);
            }
        }
        nobodys
    }

    /// Removes files, and directories that nothing is watched in any more;
    /// returns what no longer has to be watched.
    pub fn drop_nodes(&mut self, ids: &[u64]) -> Vec<u64> {
        let mut dropped = Vec::new();
        for id in ids {
            let mut next = Some(*id);
            while let Some(id) = next {
                let is_needed = self.nodes.get(&id).is_none_or(|node| {
                    !node.children().is_empty()
                        || (!node.subjects.is_empty() && !ids.contains(&id))
                });
                if is_needed {
                    break;
                }
                let Some(node) = self.nodes.remove(&id) else { break };
                self.failed.remove(&id);
                dropped.push(id);
                match self.nodes.get_mut(&node.parent) {
                    Some(parent) => {
                        if let Some(entries) = &mut parent.entries {
                            entries.all.retain(|child| *child != id);
                            entries.missing.retain(|child| *child != id);
                        }
                    }
                    None => self.roots.retain(|root| *root != id),
                }
                next = node.parent();
            }
        }
        dropped
    }
}
