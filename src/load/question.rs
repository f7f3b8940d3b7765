//! The questions that loads ask the platform's commands. Each question is one
//! run.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::command::Run;
use super::zfs::{self, Depth};
use super::{kstat, zoneadm};
use crate::config::Paths;
use crate::source::Source;

/// A question to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Every zone, from zoneadm(8).
    Zones,
    /// One zone, from zoneadm(8).
    Zone(Arc<str>),
    /// The kstats of all zones, or of the one with this id.
    Kstats(Option<u64>),
    /// A pool, with all datasets that zones may have on it.
    Pool(Arc<str>),
    /// Datasets and snapshots of one pool.
    Datasets(BTreeSet<Arc<str>>, Depth),
}

/// The pool of a dataset or snapshot.
pub fn pool_of(name: &str) -> &str {
    name.split(['/', '@']).next().unwrap_or(name)
}

impl Question {
    /// The pool that zfs is asked about.
    #[must_use]
    pub fn pool(&self) -> Option<&str> {
        match self {
            Self::Pool(pool) => Some(pool),
            Self::Datasets(names, _) => names.first().map(|n| pool_of(n)),
            Self::Zones | Self::Zone(_) | Self::Kstats(_) => None,
        }
    }

    /// The command, and for zfs also the pool. When one run of a circuit hangs,
    /// its other runs hang, too.
    #[must_use]
    pub fn circuit(&self) -> String {
        match self {
            Self::Zones | Self::Zone(_) => "zoneadm".to_string(),
            Self::Kstats(_) => "kstat".to_string(),
            Self::Pool(_) | Self::Datasets(..) => {
                format!("zfs {}", self.pool().unwrap_or_default())
            }
        }
    }

    /// Questions of one sort take about the same time.
    #[must_use]
    pub fn timing_class(&self) -> &'static str {
        match self {
            Self::Zones => "zones",
            Self::Zone(_) => "zone",
            Self::Kstats(_) => "kstats",
            Self::Pool(_) => "pool",
            Self::Datasets(_, Depth::Children) => "trees",
            Self::Datasets(_, Depth::Alone) => "datasets",
        }
    }

    /// The source of a VM that the answer is about.
    #[must_use]
    pub fn source(&self) -> Source {
        match self {
            Self::Zones | Self::Zone(_) => Source::Zoneadm,
            Self::Kstats(_) => Source::Kstat,
            Self::Pool(_) | Self::Datasets(..) => Source::Zfs,
        }
    }

    /// The run that asks the question.
    #[must_use]
    pub fn run(&self, paths: &Paths) -> Run {
        match self {
            Self::Zones => zoneadm::list_all_run(paths),
            Self::Zone(zonename) => zoneadm::list_one_run(paths, zonename),
            Self::Kstats(zoneid) => kstat::read_run(paths, *zoneid),
            Self::Pool(pool) => zfs::list_pool(paths, pool),
            Self::Datasets(names, depth) => {
                zfs::list_some(paths, names, *depth)
            }
        }
    }
}
