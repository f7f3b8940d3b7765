//! The datasets of VMs: zfs(8) is run for each pool by itself, all at the same
//! time. What is wrong with one pool says nothing of another, and a pool that
//! no VM is on is never asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Loader;
use super::command::CommandError;
use super::zfs::{self, Datasets, Depth};

/// A run that has left something out does not say of what. It is run again for
/// each half of its names, at most this many times; the names that are left
/// then have failed.
const HALVINGS: u32 = 64;

/// What zfs is to be asked for.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Pools, with all datasets that zones may have there.
    pub pools: BTreeSet<Arc<str>>,
    /// Zones' own datasets, with their children and snapshots.
    pub trees: BTreeSet<Arc<str>>,
    /// Datasets and snapshots, without what is below them: a tenant decides
    /// how much there is.
    pub alone: BTreeSet<Arc<str>>,
}

impl Wanted {
    pub(super) fn extend(&mut self, other: Self) {
        self.pools.extend(other.pools);
        self.trees.extend(other.trees);
        self.alone.extend(other.alone);
    }

    fn is_empty(&self) -> bool {
        self.pools.is_empty() && self.trees.is_empty() && self.alone.is_empty()
    }
}

/// The pool of a dataset or snapshot.
pub(super) fn pool_of(name: &str) -> &str {
    name.split(['/', '@']).next().unwrap_or(name)
}

/// One question to zfs, about one pool.
enum Question {
    Pool(Arc<str>),
    Names(BTreeSet<Arc<str>>, Depth),
}

/// What one load learns from zfs, each thing once.
pub(super) struct Pools<'a> {
    loader: &'a Loader,
    /// A list of a whole pool is killed when it takes longer.
    list_time: Duration,
    pub datasets: Datasets,
    /// Pools that were listed in whole.
    listed: BTreeSet<Arc<str>>,
    asked: Wanted,
    /// Pools in which zfs hung: what else is asked of them would hang, too.
    pub hung: BTreeSet<Arc<str>>,
}

impl<'a> Pools<'a> {
    pub(super) fn new(loader: &'a Loader, list_time: Duration) -> Self {
        Self {
            loader,
            list_time,
            datasets: Datasets::default(),
            listed: BTreeSet::new(),
            asked: Wanted::default(),
            hung: BTreeSet::new(),
        }
    }

    /// Asks zfs for what it was not asked for yet. Returns whether there was
    /// anything of that kind.
    pub(super) fn ask(&mut self, wanted: Wanted) -> bool {
        let wanted = self.unasked(wanted);
        if wanted.is_empty() {
            return false;
        }
        let mut trees: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        let mut alone = trees.clone();
        for (by_pool, names) in
            [(&mut trees, &wanted.trees), (&mut alone, &wanted.alone)]
        {
            for name in names {
                let names = by_pool.entry(pool_of(name)).or_default();
                names.insert(Arc::clone(name));
            }
        }
        let children = |names| Question::Names(names, Depth::Children);
        let questions: Vec<_> = wanted
            .pools
            .iter()
            .map(|pool| Question::Pool(Arc::clone(pool)))
            .chain(trees.into_values().map(children))
            .chain(
                alone
                    .into_values()
                    .map(|names| Question::Names(names, Depth::Alone)),
            )
            .collect();
        for answer in self.answers(&questions) {
            self.hung.extend(answer.hung);
            self.listed.extend(answer.listed);
            self.datasets.merge(answer.datasets);
        }
        self.datasets.expect(&wanted.pools);
        self.datasets.expect(&wanted.alone);
        self.asked.extend(wanted);
        true
    }

    /// Forgets what was said of these names, and of what is directly below
    /// them: they are another VM's than was thought, and were perhaps listed
    /// before it came.
    pub(super) fn forget(&mut self, names: &BTreeSet<Arc<str>>) {
        let is_old = |name: &str| {
            let dataset = name.split('@').next().unwrap_or(name);
            let parent = dataset.rsplit_once('/').map(|(parent, _)| parent);
            names.contains(dataset)
                || parent.is_some_and(|parent| names.contains(parent))
        };
        self.datasets.forget(is_old);
        for asked in [&mut self.asked.trees, &mut self.asked.alone] {
            asked.retain(|name| !is_old(name));
        }
    }

    fn answers(&self, questions: &[Question]) -> Vec<Answer> {
        let Some((first, others)) = questions.split_first() else {
            return Vec::new();
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = others
                .iter()
                .map(|question| scope.spawn(|| self.answer(question)))
                .collect();
            let mut answers = vec![self.answer(first)];
            for other in others {
                match other.join() {
                    Ok(answer) => answers.push(answer),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            answers
        })
    }

    fn answer(&self, question: &Question) -> Answer {
        let mut answer = Answer::default();
        match question {
            Question::Pool(pool) => self.list_pool(pool, &mut answer),
            Question::Names(names, depth) => {
                self.list_names(names, *depth, &mut answer, &mut 0);
            }
        }
        answer
    }

    fn list_pool(&self, pool: &Arc<str>, answer: &mut Answer) {
        let Loader { runner, paths, .. } = self.loader;
        let runner = runner.with_limit(self.list_time);
        let run = zfs::list_pool(paths, pool);
        match zfs::list(&runner, &run, Depth::Children) {
            Ok(listed) => {
                // If something is missing, zones are asked for by name.
                if listed.cut().is_none() {
                    answer.listed.insert(Arc::clone(pool));
                }
                answer.datasets.merge(listed);
            }
            Err(e) => answer.fail(pool, pool, &e),
        }
    }

    fn list_names(
        &self,
        names: &BTreeSet<Arc<str>>,
        depth: Depth,
        answer: &mut Answer,
        halvings: &mut u32,
    ) {
        let Loader { runner, paths, limits, .. } = self.loader;
        let bytes = limits.arguments_bytes;
        let pool = names.first().map_or("", |name| pool_of(name));
        let mut operands = names.clone();
        if depth == Depth::Alone {
            operands.insert(pool.into());
        }
        let mut listed = Datasets::default();
        let mut cut = None;
        for run in zfs::list_some(paths, &operands, depth, bytes) {
            match zfs::list(runner, &run, depth) {
                Ok(part) => {
                    cut = cut.or(part.cut().map(str::to_string));
                    listed.merge(part);
                }
                Err(e) => {
                    for name in names {
                        answer.fail(pool, name, &e);
                    }
                    return;
                }
            }
        }
        match cut {
            Some(_) if names.len() > 1 && *halvings < HALVINGS => {
                *halvings += 1;
                let mut first = names.clone();
                let middle = first.iter().nth(first.len() / 2).cloned();
                let second = first.split_off(&middle.unwrap_or_default());
                self.list_names(&first, depth, answer, halvings);
                self.list_names(&second, depth, answer, halvings);
                return;
            }
            Some(cut) => {
                for name in names {
                    listed.fail(name, &cut);
                }
            }
            None => {}
        }
        match depth {
            Depth::Alone => {
                listed.retain(&operands);
                listed.doubt_missing_without(pool);
            }
            // What is not there is asked for by itself.
            Depth::Children => listed.doubt_missing(),
        }
        answer.datasets.merge(listed);
    }

    /// What of this zfs was not asked for yet, and has not been listed with
    /// what it was asked for.
    fn unasked(&self, wanted: Wanted) -> Wanted {
        let Wanted { mut pools, mut trees, mut alone } = wanted;
        let is_name = |name: &Arc<str>| zfs::is_dataset_name(name);
        let is_out = |name: &str| {
            let pool = pool_of(name);
            self.hung.contains(pool)
                || self.datasets.pool_failure(pool).is_some()
        };
        pools.retain(|pool| {
            let is_new = !self.asked.pools.contains(pool);
            is_new && is_name(pool) && !is_out(pool)
        });
        // A whole list goes two components deep below its pool.
        let depth = |name: &str| name.split(['/', '@']).count() - 1;
        trees.retain(|name| {
            let pool = pool_of(name);
            let is_new = !self.asked.trees.contains(name);
            let is_listed = depth(name) < 2
                && (self.listed.contains(pool) || pools.contains(pool));
            is_new && is_name(name) && !is_out(name) && !is_listed
        });
        alone.retain(|name| {
            let parent = name.rsplit_once(['/', '@']).map(|(dir, _)| dir);
            let is_new = !self.asked.alone.contains(name)
                && self.datasets.get(name).is_none();
            let comes_with_others = trees.contains(name)
                || parent.is_some_and(|parent| trees.contains(parent))
                || (depth(name) <= 2 && pools.contains(pool_of(name)));
            is_new && is_name(name) && !is_out(name) && !comes_with_others
        });
        Wanted { pools, trees, alone }
    }
}

/// What has come of one question.
#[derive(Default)]
struct Answer {
    datasets: Datasets,
    listed: BTreeSet<Arc<str>>,
    hung: BTreeSet<Arc<str>>,
}

impl Answer {
    fn fail(&mut self, pool: &str, name: &Arc<str>, error: &CommandError) {
        if error.is_hang() {
            self.hung.insert(pool.into());
        }
        self.datasets.fail(name, &error.to_string());
    }
}
