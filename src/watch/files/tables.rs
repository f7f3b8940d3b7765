//! The tables of the file watcher: which paths are watched, which zone each
//! belongs to, and which are missing. They make no system calls.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::stamp::FileStamp;
use crate::config::CONFIG_DIR;
use crate::faults::Fault;
use crate::source::Source;

/// The zone (`None`: the host) and which of its files a path is. A change of
/// the path is reported for each of its subjects.
pub type Subject = (Option<Arc<str>>, Source);

/// Most paths are shorter than this.
const PATH_CAPACITY: usize = 128;

/// The parent of a node that has no directory above it.
const NO_PARENT: u64 = 0;

/// One path that is watched, or waited for.
#[derive(Debug)]
pub struct Node {
    /// The name in its directory; the whole path if it has no parent.
    name: Arc<OsStr>,
    parent: u64,
    /// The zones whose file it is, and which file; none if it is a directory.
    pub subjects: Box<[Subject]>,
    /// The nodes in it, if it is a directory.
    pub entries: Option<Box<Entries>>,
    pub state: NodeState,
}

/// The nodes in a directory.
#[derive(Debug, Default)]
pub struct Entries {
    /// All of them, in the order of their numbers.
    pub all: Vec<u64>,
    /// Those whose path does not exist.
    pub missing: Vec<u64>,
}

impl Node {
    pub fn parent(&self) -> Option<u64> {
        Some(self.parent).filter(|parent| *parent != NO_PARENT)
    }

    /// The nodes in it.
    pub fn children(&self) -> &[u64] {
        self.entries.as_ref().map_or(&[], |entries| &entries.all)
    }

    /// The nodes in it whose path does not exist.
    pub fn missing(&self) -> &[u64] {
        self.entries.as_ref().map_or(&[], |entries| &entries.missing)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Not watched.
    Idle,
    /// Watched.
    Armed,
    /// There is no such path, so its directory is watched.
    Missing,
}

/// A hasher for the numbers of nodes. Their lower halves are given out one after
/// the other, so that it need not resist collisions made on purpose.
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

/// The nodes of a zone's files and of its directory.
#[derive(Clone, Debug)]
pub struct ZoneFiles {
    pub dir: Option<u64>,
    pub files: Box<[u64]>,
}

#[derive(Debug, Default)]
pub struct Tables {
    /// The lower half of the number that was given out last.
    last: u32,
    /// By number. The upper half of a number is a hash of the node's name: in a
    /// directory of many thousand nodes, a name is found without looking at
    /// each node on the way.
    pub nodes: HashMap<u64, Box<Node>, BuildHasherDefault<NumberHasher>>,
    /// The nodes that have no directory above them, in the order of their
    /// numbers.
    roots: Vec<u64>,
    /// The names that many nodes share.
    names: HashSet<Arc<OsStr>>,
    /// The nodes that a thread is arming now. Because only one thread arms a
    /// node at a time, its state is the result of the last try. A thread takes
    /// a child before its parent.
    pub arming: HashSet<u64>,
    /// The files of each zone.
    pub zones: HashMap<Arc<str>, ZoneFiles>,
    /// The paths that can't be watched, the reasons, and the last stamps of
    /// their files.
    pub failed: BTreeMap<u64, Unwatched>,
    /// Paths that were missing and have appeared. If one is a directory, the
    /// thread that found it was looking for one of its files, and others may
    /// have appeared with it.
    pub appeared: BTreeSet<u64>,
    /// Files to be armed: their directory could not be watched, and now is.
    pub to_arm: BTreeSet<u64>,
}

/// A path that can't be watched.
#[derive(Debug)]
pub struct Unwatched {
    pub fault: Fault,
    /// The files that its events would be about, with their stamps when they
    /// were last polled.
    pub files: BTreeMap<u64, Option<FileStamp>>,
}

impl Tables {
    /// The node of a path. Creates it, and the directories above it up to
    /// `root`, if they do not exist.
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

    /// The node of a name in the directory `parent`, which must be a node or
    /// [`NO_PARENT`]. Creates it if it does not exist.
    pub fn child(&mut self, parent: u64, name: impl AsRef<OsStr>) -> u64 {
        let name = name.as_ref();
        let hash = hash_of(name);
        let siblings = match self.nodes.get(&parent) {
            Some(parent) => parent.children(),
            None => &self.roots,
        };
        debug_assert!(parent == NO_PARENT || self.nodes.contains_key(&parent));
        let first = siblings.partition_point(|id| id >> 32 < hash);
        let mut alike =
            siblings[first..].iter().take_while(|id| *id >> 32 == hash);
        let is_named = |id: &&u64| {
            self.nodes.get(id).is_some_and(|node| *node.name == *name)
        };
        if let Some(id) = alike.find(is_named) {
            return *id;
        }
        let id = self.new_id(hash);
        let siblings = match self.nodes.get_mut(&parent) {
            Some(parent) => &mut parent.entries.get_or_insert_default().all,
            None => &mut self.roots,
        };
        siblings.insert(siblings.partition_point(|other| *other < id), id);
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

    /// A number that no node has.
    fn new_id(&mut self, hash: u64) -> u64 {
        loop {
            self.last = self.last.wrapping_add(1);
            let id = hash << 32 | u64::from(self.last);
            if id != NO_PARENT && !self.nodes.contains_key(&id) {
                return id;
            }
        }
    }

    /// A name, stored only once if every zone has a file of that name.
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
        let mut path = PathBuf::with_capacity(PATH_CAPACITY);
        self.add_path(id, &mut path)?;
        Some(path)
    }

    fn add_path(&self, id: u64, path: &mut PathBuf) -> Option<()> {
        let node = self.nodes.get(&id)?;
        if let Some(parent) = node.parent() {
            self.add_path(parent, path)?;
        }
        path.push(&*node.name);
        Some(())
    }

    /// Notes which file of which zone a path is. By mistake, several zones may
    /// have the same file.
    pub fn add_subject(&mut self, id: u64, subject: Subject) {
        if let Some(node) = self.nodes.get_mut(&id)
            && !node.subjects.contains(&subject)
        {
            let subjects = std::mem::take(&mut node.subjects);
            node.subjects = subjects.into_iter().chain([subject]).collect();
        }
    }

    /// Whether a path is the directory of a zone, or below it.
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

    /// Sets a node's state, and updates the missing nodes of its directory.
    /// Returns `false` if there is no such node.
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

    /// Forgets that these files belong to this zone. Returns those that belong
    /// to no zone now: after a rename, they belong to a zone of another name.
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

    /// Removes files, and the directories in which nothing is watched any more.
    /// Returns the nodes that no longer have to be watched.
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

/// The upper half of the number of a node with this name.
fn hash_of(name: &OsStr) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish() >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_hash_have_nodes_of_their_own() {
        let mut names = HashMap::new();
        let mut numbers = 0..;
        let names: [String; 2] = loop {
            let name = format!("zone{}", numbers.next().unwrap());
            let other = names.insert(hash_of(OsStr::new(&name)), name.clone());
            if let Some(other) = other {
                break [other, name];
            }
        };
        let mut tables = Tables::default();
        let dir = tables.child(NO_PARENT, "dir");
        let of = |tables: &mut Tables| {
            names.each_ref().map(|name| tables.child(dir, name))
        };
        let nodes = of(&mut tables);
        assert!(nodes[0] != nodes[1] && nodes[0] >> 32 == nodes[1] >> 32);
        assert_eq!(of(&mut tables), nodes);
        tables.drop_nodes(&nodes[..1]);
        let again = of(&mut tables);
        assert!(again[0] != nodes[0] && again[1] == nodes[1]);
        assert_eq!(
            tables.path(again[0]),
            Some(Path::new("dir").join(&names[0]))
        );
    }
}
