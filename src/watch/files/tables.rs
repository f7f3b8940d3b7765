//! What is watched, whose it is, and what is missing: without system calls.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::poll::FileStamp;
use crate::event::WatchedFile;
use crate::faults::Fault;

/// Which file of which zone: who wants to know.
pub type Subject = (Option<Arc<str>>, WatchedFile);

/// One path that is watched, or waited for.
#[derive(Debug)]
pub struct Node {
    pub path: Arc<Path>,
    pub parent: Option<u64>,
    /// Whose file it is; nobody's, if it is a directory.
    pub subjects: Vec<Subject>,
    pub children: Vec<u64>,
    /// Children that are not there.
    pub missing: Vec<u64>,
    pub state: NodeState,
    /// Held by who arms it, so that its state is that of the last try. A
    /// child's is taken before its parent's.
    pub arming: Arc<Mutex<()>>,
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

/// The directory of a zone, and its files.
pub type ZoneFiles = (Option<Arc<Path>>, Box<[u64]>);

#[derive(Debug, Default)]
pub struct Tables {
    pub last_id: u64,
    pub nodes: HashMap<u64, Node>,
    pub by_path: HashMap<Arc<Path>, u64>,
    /// The files of each zone, and its directory.
    pub zones: HashMap<Arc<str>, ZoneFiles>,
    /// Paths that can't be watched, why, and what their files looked like.
    pub failed: BTreeMap<u64, Unwatched>,
    /// Directories that were missing and have been found by who looked for
    /// one of their files: others of their files may have come with them.
    pub appeared: BTreeSet<u64>,
    /// Files whose directory could not be watched, and now is.
    pub to_arm: BTreeSet<u64>,
    pub stopping: bool,
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
        if let Some(id) = self.by_path.get(path) {
            return *id;
        }
        let parent = path
            .parent()
            .filter(|_| path != root && path.starts_with(root))
            .map(|parent| self.node(parent, root));
        self.last_id += 1;
        let id = self.last_id;
        if let Some(parent) = parent.and_then(|p| self.nodes.get_mut(&p)) {
            parent.children.push(id);
        }
        let path: Arc<Path> = path.into();
        let node = Node {
            path: Arc::clone(&path),
            parent,
            subjects: Vec::new(),
            children: Vec::new(),
            missing: Vec::new(),
            state: NodeState::Idle,
            arming: Arc::default(),
        };
        self.nodes.insert(id, node);
        self.by_path.insert(path, id);
        id
    }

    /// Notes whose file a path is; by mistake it may be that of several.
    pub fn add_subject(&mut self, id: u64, subject: Subject) {
        if let Some(node) = self.nodes.get_mut(&id)
            && !node.subjects.contains(&subject)
        {
            // Nearly always it is that of one.
            node.subjects.reserve_exact(1);
            node.subjects.push(subject);
        }
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
            && node.missing.is_empty()
            && !node.children.iter().any(is_file)
            && node.subjects.is_empty()
    }

    pub fn children(&self, id: u64) -> Vec<u64> {
        let node = self.nodes.get(&id);
        node.map(|n| n.children.clone()).unwrap_or_default()
    }

    pub fn missing(&self, id: u64) -> Vec<u64> {
        let node = self.nodes.get(&id);
        node.map(|n| n.missing.clone()).unwrap_or_default()
    }

    /// Sets a node's state, and tells its directory; `false` if there is no
    /// such node.
    pub fn set_state(&mut self, id: u64, state: NodeState) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        let before = std::mem::replace(&mut node.state, state);
        let parent = node.parent;
        if let Some(parent) = parent.and_then(|p| self.nodes.get_mut(&p)) {
            match (before, state) {
                (NodeState::Missing, NodeState::Missing) => {}
                (_, NodeState::Missing) => parent.missing.push(id),
                (NodeState::Missing, _) => {
                    parent.missing.retain(|child| *child != id);
                }
                (_, _) => {}
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
            node.subjects.retain(is_other);
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
                    !node.children.is_empty()
                        || (!node.subjects.is_empty() && !ids.contains(&id))
                });
                if is_needed {
                    break;
                }
                let Some(node) = self.nodes.remove(&id) else { break };
                self.by_path.remove(&node.path);
                self.failed.remove(&id);
                dropped.push(id);
                if let Some(parent) =
                    node.parent.and_then(|p| self.nodes.get_mut(&p))
                {
                    parent.children.retain(|child| *child != id);
                    parent.missing.retain(|child| *child != id);
                }
                next = node.parent;
            }
        }
        dropped
    }
}
