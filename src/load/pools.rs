//! The datasets of VMs. zfs(8) is run for each pool separately, for all pools
//! at the same time. So a fault of one pool does not affect another, and zfs is
//! never asked about a pool that no VM is on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::asker::{Asker, NoAnswer};
use super::error::DatasetError;
use super::question::{Question, pool_of};
use super::runs::{PendingRun, Unanswered};
use super::zfs::{self, Datasets, Depth, LIST_DEPTH};

/// When a run leaves something out, zfs does not say what. The run is then
/// repeated for each half of its names, at most this many times in one load. If
/// that is not enough, the names that remain count as failed.
const HALVINGS: u32 = 64;

/// What zfs must be asked for.
#[derive(Debug, Default)]
pub(super) struct DatasetsWanted {
    /// Pools, with all datasets that zones may have on them.
    pub pools: BTreeSet<Arc<str>>,
    /// Zones' own datasets, with their children and snapshots; volumes, which
    /// the same run can list; and snapshots of those children.
    pub trees: BTreeSet<Arc<str>>,
    /// Datasets and snapshots, without what is below them: a tenant decides how
    /// much that is.
    pub alone: BTreeSet<Arc<str>>,
}

impl DatasetsWanted {
    pub(super) fn extend(&mut self, other: Self) {
        self.pools.extend(other.pools);
        self.trees.extend(other.trees);
        self.alone.extend(other.alone);
    }

    fn is_empty(&self) -> bool {
        self.pools.is_empty() && self.trees.is_empty() && self.alone.is_empty()
    }
}

/// What one load learns from zfs. Each thing is asked for at most once.
pub(super) struct Pools<'a> {
    asker: &'a Asker<'a>,
    /// A run that lists a whole pool is killed after this time.
    list_time: Duration,
    pub datasets: Datasets,
    /// Pools that were listed completely.
    listed: BTreeSet<Arc<str>>,
    /// Datasets that were listed with what is below them.
    walked: BTreeSet<Arc<str>>,
    asked: DatasetsWanted,
    /// Questions whose answers have not been taken yet.
    pending: Vec<(Question, Result<PendingRun, NoAnswer>)>,
    halvings: u32,
    /// Pools that have not answered yet.
    pub unanswered: BTreeMap<Arc<str>, Unanswered>,
}

impl<'a> Pools<'a> {
    pub(super) fn new(asker: &'a Asker<'a>, list_time: Duration) -> Self {
        Self {
            asker,
            list_time,
            datasets: Datasets::default(),
            listed: BTreeSet::new(),
            walked: BTreeSet::new(),
            asked: DatasetsWanted::default(),
            pending: Vec::new(),
            halvings: HALVINGS,
            unanswered: BTreeMap::new(),
        }
    }

    /// Asks zfs for that part of `wanted` which it was not asked for yet.
    /// Returns whether there was any.
    pub(super) fn ask(&mut self, wanted: DatasetsWanted) -> bool {
        let wanted = self.unasked(wanted);
        if wanted.is_empty() {
            return false;
        }
        for pool in &wanted.pools {
            self.ask_for(Question::Pool(Arc::clone(pool)));
        }
        for (names, depth) in
            [(&wanted.trees, Depth::Children), (&wanted.alone, Depth::Alone)]
        {
            let mut by_pool: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
            for name in names {
                let of_pool = by_pool.entry(pool_of(name)).or_default();
                of_pool.insert(Arc::clone(name));
            }
            let bytes = self.asker.loader().limits.arguments_bytes;
            for names in by_pool.into_values() {
                for part in zfs::parts(names, bytes) {
                    self.ask_for_names(part, depth);
                }
            }
        }
        self.asked.extend(wanted);
        true
    }

    fn ask_for_names(&mut self, mut names: BTreeSet<Arc<str>>, depth: Depth) {
        // A snapshot can come with its tree, but not with other trees: it would
        // be listed without its dataset.
        if depth == Depth::Children {
            let (apart, rest): (BTreeSet<_>, _) =
                names.iter().cloned().partition(|name| {
                    name.contains('@') && !is_in_tree(name, &names)
                });
            if !apart.is_empty() {
                self.ask_for_names(apart, Depth::Alone);
            }
            names = rest;
        }
        if names.is_empty() {
            return;
        }
        // "does not exist" counts only if the same run lists the pool.
        if depth == Depth::Alone
            && let Some(pool) = names.first().map(|n| Arc::from(pool_of(n)))
        {
            names.insert(pool);
        }
        self.ask_for(Question::Datasets(names, depth));
    }

    fn ask_for(&mut self, question: Question) {
        let limit = match question {
            Question::Pool(_) => self.list_time,
            _ => self.asker.loader().limits.command_time,
        };
        let asked = self.asker.ask(&question, limit);
        self.pending.push((question, asked));
    }

    /// Waits for the answers to all questions.
    pub(super) fn wait(&mut self) {
        while let Some((question, asked)) = self.pending.pop() {
            self.take_answer(&question, asked);
        }
        self.datasets.fail_unmentioned(&self.asked.pools);
        self.datasets.fail_unmentioned(&self.asked.alone);
        self.fail_unwalked_trees();
    }

    /// Notes a dataset as failed if it exists, but the run that should list it
    /// with what is below it has not listed it. Nothing is known of what is
    /// below it then.
    fn fail_unwalked_trees(&mut self) {
        for name in self.asked.trees.difference(&self.walked) {
            let exists = self.datasets.get(name).is_some();
            if exists && !self.datasets.is_volume(name) {
                self.datasets.fail(name, DatasetError::NotWalked);
            }
        }
    }

    fn take_answer(
        &mut self,
        question: &Question,
        asked: Result<PendingRun, NoAnswer>,
    ) {
        let depth = match question {
            Question::Datasets(_, depth) => *depth,
            _ => Depth::Children,
        };
        let is_asked = |name: &str| match question {
            Question::Datasets(names, Depth::Alone) => names.contains(name),
            Question::Datasets(names, Depth::Children) => {
                is_in_trees(name, names)
            }
            _ => true,
        };
        let parse =
            |run: &_, output: &_| zfs::answer(run, output, depth, is_asked);
        match self.asker.answer(asked, parse) {
            Ok(listed) => self.take_listed(question, listed),
            Err(why) => {
                self.fail(
                    question,
                    &DatasetError::Command(why.error().clone()),
                );
                if let NoAnswer::NotYet(unanswered) = why {
                    let pool = question.pool().unwrap_or_default();
                    self.unanswered.insert(pool.into(), unanswered);
                }
            }
        }
    }

    fn fail(&mut self, question: &Question, why: &DatasetError) {
        match question {
            Question::Pool(pool) => self.datasets.fail(pool, why.clone()),
            Question::Datasets(names, _) => {
                for name in names.iter().filter(|n| *pool_of(n) != ***n) {
                    self.datasets.fail(name, why.clone());
                }
            }
            _ => {}
        }
    }

    fn take_listed(&mut self, question: &Question, mut listed: Datasets) {
        let cut = listed.cut().cloned();
        match question {
            // If something was left out, the datasets of zones are asked for by
            // name.
            Question::Pool(pool) if cut.is_none() => {
                self.listed.insert(Arc::clone(pool));
            }
            Question::Datasets(names, depth) => {
                let pool = question.pool().unwrap_or_default();
                let own = || names.iter().filter(|name| ***name != *pool);
                if let Some(cut) = cut {
                    if own().count() > 1 && self.halvings > 0 {
                        self.halvings -= 1;
                        self.ask_for_halves(own().cloned().collect(), *depth);
                        return;
                    }
                    // Nothing below a volume matters.
                    for name in names {
                        if !listed.is_volume(name) {
                            listed.fail(name, cut.clone());
                        }
                    }
                }
                match depth {
                    Depth::Alone => {
                        listed.fail_missing_unless_listed(pool);
                    }
                    Depth::Children => {
                        let is_listed =
                            |name: &&Arc<str>| listed.get(name).is_some();
                        let walked = names.iter().filter(is_listed).cloned();
                        let count = self.walked.len();
                        self.walked.extend(walked);
                        // Nothing shows that the pool is there. What does not
                        // exist is asked for again, together with the pool.
                        if self.walked.len() == count {
                            listed.clear_missing();
                        }
                    }
                }
            }
            _ => {}
        }
        self.datasets.merge(listed);
    }

    fn ask_for_halves(&mut self, names: Vec<Arc<str>>, depth: Depth) {
        let (first, second) = names.split_at(names.len() / 2);
        for half in [first, second] {
            self.ask_for_names(half.iter().cloned().collect(), depth);
        }
    }

    /// Forgets what zfs has said of these names, and of what is directly below
    /// them. They belong to another VM than was thought, and may have been
    /// listed before that VM was created.
    pub(super) fn forget(&mut self, names: &BTreeSet<Arc<str>>) {
        let is_old = |name: &str| {
            let dataset = name.split('@').next().unwrap_or(name);
            let parent = dataset.rsplit_once('/').map(|(parent, _)| parent);
            names.contains(dataset)
                || parent.is_some_and(|parent| names.contains(parent))
        };
        self.datasets.forget(is_old);
        let DatasetsWanted { trees, alone, .. } = &mut self.asked;
        for asked in [trees, alone, &mut self.walked] {
            asked.retain(|name| !is_old(name));
        }
    }

    /// Whether the list of a whole pool has a dataset, and so what is directly
    /// below it.
    pub(super) fn has_walked(&self, name: &str) -> bool {
        depth(name) < LIST_DEPTH
            && self.listed.contains(pool_of(name))
            && self.datasets.get(name).is_some()
    }

    /// The part of `wanted` that zfs was not asked for yet, and has not listed
    /// together with something else. Pools that have failed or not answered are
    /// left out.
    fn unasked(&self, wanted: DatasetsWanted) -> DatasetsWanted {
        let DatasetsWanted { mut pools, mut trees, mut alone } = wanted;
        let is_name = |name: &Arc<str>| zfs::is_dataset_name(name);
        let is_unavailable = |name: &str| {
            let pool = pool_of(name);
            self.unanswered.contains_key(pool)
                || self.datasets.failure(pool).is_some()
        };
        pools.retain(|pool| {
            let is_new = !self.asked.pools.contains(pool);
            is_new && is_name(pool) && !is_unavailable(pool)
        });
        trees.retain(|name| {
            let pool = pool_of(name);
            let is_new = !self.asked.trees.contains(name);
            let is_listed = self.has_walked(name)
                || (depth(name) < LIST_DEPTH && pools.contains(pool));
            is_new && is_name(name) && !is_unavailable(name) && !is_listed
        });
        alone.retain(|name| {
            let is_new = !self.asked.alone.contains(name)
                && !self.datasets.is_answered(name);
            let comes_with_others = is_in_trees(name, &trees)
                || (depth(name) <= LIST_DEPTH && pools.contains(pool_of(name)));
            is_new
                && is_name(name)
                && !is_unavailable(name)
                && !comes_with_others
        });
        // One run can list a tree and a snapshot of a dataset in it. The next
        // time, the snapshot is asked for alone if that has given no answer.
        let (with_tree, alone) =
            alone.into_iter().partition(|name| is_in_tree(name, &trees));
        trees.extend::<BTreeSet<_>>(with_tree);
        DatasetsWanted { pools, trees, alone }
    }
}

/// How many levels a name is below its pool.
fn depth(name: &str) -> usize {
    name.split(['/', '@']).count() - 1
}

/// The name of what a dataset or snapshot is directly below.
fn parent(name: &str) -> Option<&str> {
    name.rsplit_once(['/', '@']).map(|(parent, _)| parent)
}

/// Whether `name` is one of these datasets, or directly below one.
fn is_in_trees(name: &str, trees: &BTreeSet<Arc<str>>) -> bool {
    trees.contains(name) || parent(name).is_some_and(|p| trees.contains(p))
}

/// Whether `name` is a snapshot of a child of one of these datasets.
fn is_in_tree(name: &str, trees: &BTreeSet<Arc<str>>) -> bool {
    let dataset = parent(name).filter(|_| name.contains('@'));
    let tree = dataset.and_then(parent);
    tree.is_some_and(|tree| trees.contains(tree))
}
