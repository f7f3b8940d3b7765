//! zfs(8): datasets, volumes and snapshots.

mod column;
mod dataset;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::config::{Paths, ZVOL_RDSK};
use crate::load::command::{Output, Run};
use crate::load::error::{CommandError, DatasetError, OutputError};
pub use dataset::{COLUMNS, Dataset, DatasetSnapshot, INDESTRUCTIBLE};
use dataset::{Listed, MountPlace};

/// Datasets, by name and by mountpoint.
#[derive(Clone, Debug, Default)]
pub struct Datasets {
    by_name: HashMap<Arc<str>, PlacedDataset>,
    /// The names of filesystems that are mounted elsewhere than where their
    /// name says, by mountpoint.
    elsewhere: HashMap<String, Arc<str>>,
    /// Snapshots that were listed without their dataset.
    snapshots: HashMap<Arc<str>, Vec<DatasetSnapshot>>,
    /// Names that could not be listed, and why.
    failed: HashMap<Arc<str>, DatasetError>,
    /// Names of which zfs says that they do not exist.
    missing: HashSet<Arc<str>>,
    /// A line that could not be parsed, or that is not in its place.
    odd: Option<OutputError>,
    /// Why something is left out.
    cut: Option<DatasetError>,
}

/// A dataset, and where it can be found.
#[derive(Clone, Debug)]
struct PlacedDataset {
    dataset: Arc<Dataset>,
    place: MountPlace,
}

impl Datasets {
    /// The dataset of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Dataset>> {
        self.by_name.get(name).map(|found| &found.dataset)
    }

    /// The dataset that is mounted at `path`, or whose device `path` is.
    /// Datasets that a zone manages do not count. If several have the same
    /// mountpoint, the one that is named like it counts.
    #[must_use]
    pub fn mounted_at(&self, path: &str) -> Option<&Arc<Dataset>> {
        let (name, place) = match path.strip_prefix(ZVOL_RDSK) {
            Some(name) => (name, MountPlace::Device),
            None => (path.strip_prefix('/')?, MountPlace::Home),
        };
        match self.by_name.get(name) {
            Some(found) if found.place == place => Some(&found.dataset),
            _ => self.get(self.elsewhere.get(path)?),
        }
    }

    /// Whether this is a volume that was listed.
    #[must_use]
    pub fn is_volume(&self, name: &str) -> bool {
        let found = self.by_name.get(name);
        found.is_some_and(|found| found.place == MountPlace::Device)
    }

    /// Why a name could not be listed, if it could not.
    #[must_use]
    pub fn failure(&self, name: &str) -> Option<&DatasetError> {
        self.failed.get(name)
    }

    /// Keeps only the datasets, and the snapshots without their dataset, with
    /// these names.
    fn retain(&mut self, is_wanted: impl Fn(&str) -> bool) {
        self.by_name.retain(|name, _| is_wanted(name));
        self.elsewhere.retain(|_, name| is_wanted(name));
        self.snapshots.retain(|dataset, snapshots| {
            snapshots.retain(|snapshot| {
                is_wanted(&format!("{dataset}@{}", snapshot.name))
            });
            !snapshots.is_empty()
        });
    }

    /// Whether zfs says that this name does not exist.
    #[must_use]
    pub fn is_missing(&self, name: &str) -> bool {
        self.missing.contains(name)
    }

    /// Why something is left out: what zfs printed about it, which does not say
    /// what it is, or that lines are forged.
    #[must_use]
    pub fn cut(&self) -> Option<&DatasetError> {
        self.cut.as_ref()
    }

    /// Whether anything that was asked for could not be listed.
    #[must_use]
    pub fn has_failures(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Forgets which names do not exist. They are asked for again, alone.
    pub fn clear_missing(&mut self) {
        self.missing.clear();
    }

    /// Notes the missing names as failed if `pool` itself was not listed.
    /// That there is no such name counts only while its pool is listed.
    pub fn fail_missing_unless_listed(&mut self, pool: &str) {
        if self.get(pool).is_some() {
            return;
        }
        for name in self.missing.drain() {
            self.failed.entry(name).or_insert(DatasetError::PoolNotListed);
        }
    }

    /// Notes that a name could not be listed.
    pub fn fail(&mut self, name: &Arc<str>, why: DatasetError) {
        self.failed.insert(Arc::clone(name), why);
    }

    /// Forgets the names for which `is_old` is true.
    pub fn forget(&mut self, is_old: impl Fn(&str) -> bool) {
        self.retain(|name| !is_old(name));
        self.failed.retain(|name, _| !is_old(name));
        self.missing.retain(|name| !is_old(name));
    }

    /// A line that could not be parsed, or that is not in its place, if there
    /// was one.
    #[must_use]
    pub fn odd(&self) -> Option<&OutputError> {
        self.odd.as_ref()
    }

    /// Checks the answers for these names, all of which were asked for. Each
    /// one must have been listed, or must not exist according to zfs. A name
    /// for which zfs has printed nothing counts as failed.
    pub fn fail_unmentioned(&mut self, names: &BTreeSet<Arc<str>>) {
        for name in names.iter().filter(|name| is_dataset_name(name)) {
            if !self.is_answered(name) {
                let failed = self.failed.entry(Arc::clone(name));
                failed.or_insert(DatasetError::NotListed);
            }
        }
    }

    /// Whether a dataset or snapshot was listed, or does not exist according to
    /// zfs.
    #[must_use]
    pub fn is_answered(&self, name: &str) -> bool {
        self.has(name) || self.missing.contains(name)
    }

    fn has(&self, name: &str) -> bool {
        let Some((dataset, snapshot)) = name.split_once('@') else {
            return self.by_name.contains_key(name);
        };
        let own = self.get(dataset).map(|d| &d.snapshots);
        let apart = self.snapshots.get(dataset);
        let mut all = own.into_iter().chain(apart).flatten();
        all.any(|s| *s.name == *snapshot)
    }

    /// Adds what another run has listed. If one of them says that a name does
    /// not exist, that counts: it is on stderr, where no tenant's text is.
    pub fn merge(&mut self, mut other: Self) {
        self.missing.extend(other.missing);
        if self.by_name.is_empty() && self.snapshots.is_empty() {
            std::mem::swap(&mut self.by_name, &mut other.by_name);
        }
        for (name, mut found) in other.by_name {
            // A run that lists a dataset need not list all its snapshots.
            let old = self.by_name.remove(&name);
            let old = old.iter().flat_map(|old| &old.dataset.snapshots);
            let apart = self.snapshots.remove(&name).into_iter().flatten();
            for snapshot in old.cloned().chain(apart) {
                Arc::make_mut(&mut found.dataset).add(snapshot);
            }
            self.by_name.insert(name, found);
        }
        self.elsewhere.extend(other.elsewhere);
        self.failed.extend(other.failed);
        self.odd = self.odd.take().or(other.odd);
        for (name, snapshots) in other.snapshots {
            for snapshot in snapshots {
                self.add_snapshot(&name, snapshot);
            }
        }
        for name in &self.missing {
            self.by_name.remove(name);
        }
    }

    fn add_snapshot(&mut self, dataset: &str, snapshot: DatasetSnapshot) {
        match self.by_name.get_mut(dataset) {
            Some(found) => Arc::make_mut(&mut found.dataset).add(snapshot),
            None => self.add_lone_snapshot(dataset, snapshot),
        }
    }

    fn add_lone_snapshot(&mut self, dataset: &str, snapshot: DatasetSnapshot) {
        self.snapshots.entry(dataset.into()).or_default().push(snapshot);
    }
}

/// How many levels below the pool the list of a whole pool goes.
pub const LIST_DEPTH: usize = 2;

/// The run that lists the datasets of all zones on a pool, with their children
/// and snapshots. Deeper datasets, and the tenants' own, are asked for by name.
#[must_use]
pub fn list_pool(paths: &Paths, pool: &str) -> Run {
    let mut run = list_run(paths, &LIST_DEPTH.to_string());
    run.arg(pool);
    run
}

/// How much of a dataset is listed with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Nothing. A tenant decides how much there is below a delegated dataset.
    Alone,
    /// Its children and snapshots, though not the snapshots of its children.
    Children,
}

/// The run that lists these datasets or snapshots.
#[must_use]
pub fn list_some(
    paths: &Paths,
    names: &BTreeSet<Arc<str>>,
    depth: Depth,
) -> Run {
    let depth = match depth {
        Depth::Alone => "0",
        Depth::Children => "1",
    };
    let mut run = list_run(paths, depth);
    for name in names {
        run.arg(name);
    }
    run
}

/// Splits `names` into as many parts as it takes to keep the arguments of a run
/// below `arguments_bytes`.
#[must_use]
pub fn parts(
    names: BTreeSet<Arc<str>>,
    arguments_bytes: usize,
) -> Vec<BTreeSet<Arc<str>>> {
    let mut parts: Vec<BTreeSet<_>> = Vec::new();
    let mut room = 0;
    for name in names {
        // Each argument also takes a pointer and a NUL.
        let size = name.len() + 9;
        match parts.last_mut().filter(|_| size <= room) {
            Some(part) => {
                part.insert(name);
                room -= size;
            }
            None => {
                parts.push(BTreeSet::from([name]));
                room = arguments_bytes.saturating_sub(size);
            }
        }
    }
    parts
}

fn list_run(paths: &Paths, depth: &str) -> Run {
    let columns = COLUMNS.join(",");
    let types = "filesystem,snapshot,volume";
    Run::new(
        paths.zfs(),
        &["list", "-H", "-p", "-t", types, "-o", &columns, "-d", depth],
    )
}

/// Whether `name` can be a dataset or snapshot, and can't be an option of
/// zfs(8). Names come from the XML of zones, which any user of zonecfg may
/// write.
#[must_use]
pub fn is_dataset_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.: ".contains(c);
    let is_component = |part: &str| {
        !matches!(part, "" | "." | "..") && part.chars().all(allowed)
    };
    let (dataset, snapshot) = name.split_once('@').unwrap_or((name, "x"));
    name.len() < 256
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && dataset.split('/').all(is_component)
        && is_component(snapshot)
}

/// How zfs's message about a name that does not exist ends.
const MISSING: &str = "does not exist";

/// How zfs's message begins when it can't read what is below a dataset.
const NOT_WALKED: &str = "cannot iterate ";

/// Parses what a run has listed of the datasets and snapshots that it was asked
/// for. Names that do not exist are noted as missing, and other names that
/// can't be listed as failed. zfs may leave out what it can't read and still
/// exit with 0. It then prints the reason on stderr, and the listing counts as
/// cut.
///
/// # Errors
/// If the command failed for a reason that is not about single datasets, or if
/// its output can't be right.
pub fn answer(
    run: &Run,
    output: &Output,
    depth: Depth,
    is_asked: impl Fn(&str) -> bool,
) -> Result<Datasets, CommandError> {
    let mut failed = HashMap::new();
    let mut missing = HashSet::new();
    let mut others = Vec::new();
    for line in output.stderr.lines() {
        let of_name = line.strip_prefix("cannot open '");
        match of_name.and_then(|line| line.split_once("': ")) {
            Some((name, why)) if why.ends_with(MISSING) => {
                match name.contains(['/', '@']) {
                    true => drop(missing.insert(Arc::from(name))),
                    false => {
                        failed.insert(Arc::from(name), DatasetError::NoPool);
                    }
                }
            }
            Some((name, why)) => {
                let why = DatasetError::Said(why.to_string());
                failed.insert(Arc::from(name), why);
            }
            None => others.push(line),
        }
    }
    let is_walked = others.iter().all(|line| line.starts_with(NOT_WALKED));
    let is_partial =
        output.exit == Some(1) && is_walked && !output.stderr.trim().is_empty();
    if output.exit != Some(0) && !is_partial {
        return Err(run.failed(output));
    }
    let mut datasets =
        parse(&output.stdout, depth, is_asked).map_err(|e| run.error(e))?;
    datasets.failed.extend(failed);
    datasets.missing = missing;
    if let Some(line) = others.first() {
        datasets.cut = Some(DatasetError::Said((*line).to_string()));
    }
    Ok(datasets)
}

/// Parses the output of `zfs list -H -p`: one line for each dataset, with
/// columns separated by tabs. Other lines are skipped, because the mountpoint
/// of a dataset that is delegated to a tenant may contain newlines. The text
/// after such a newline may be a line that the tenant has forged. So lines of
/// what was not asked for are skipped, too. zfs sorts the lines by the names of
/// datasets, with snapshots directly after their dataset. If they are not in
/// this order, nothing counts but the first line, which no tenant's text
/// precedes.
///
/// # Errors
/// If no line is a dataset's, or the last line is cut off: a dataset that is
/// overlooked would be published as removed.
pub fn parse(
    text: &str,
    depth: Depth,
    is_asked: impl Fn(&str) -> bool,
) -> Result<Datasets, OutputError> {
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(OutputError::CutOff);
    }
    let mut listing = Listing::new(depth);
    let mut good = 0;
    for line in text.lines().filter(|l| !l.is_empty()) {
        let Some(fields) = columns_of(line) else {
            let line: String = line.chars().take(200).collect();
            let odd = OutputError::NotADataset(line);
            listing.datasets.odd.get_or_insert(odd);
            continue;
        };
        good += 1;
        if !is_asked(fields[3]) {
            continue;
        }
        match fields[3].split_once('@') {
            None => listing.add(Listed::parse(&fields)),
            Some((name, snapshot)) => {
                if let Some(snapshot) =
                    DatasetSnapshot::parse(snapshot, &fields)
                {
                    listing.add_snapshot(name, snapshot);
                }
            }
        }
    }
    match listing.datasets.odd {
        Some(odd) if good == 0 => Err(odd),
        _ => Ok(listing.finish()),
    }
}

/// The columns of a line; `None` if it has too few.
fn columns_of(line: &str) -> Option<[&str; COLUMNS.len()]> {
    let mut columns = [""; COLUMNS.len()];
    let mut found = line.splitn(COLUMNS.len(), '\t');
    for column in &mut columns {
        *column = found.next()?;
    }
    Some(columns)
}

/// A listing while it is read.
struct Listing {
    depth: Depth,
    datasets: Datasets,
    /// The dataset of the first line.
    first: Option<Arc<str>>,
    /// The dataset of the last line, or of the snapshot in it.
    last: Arc<str>,
    /// The first line that is not in its place.
    misplaced: Option<OutputError>,
}

impl Listing {
    fn new(depth: Depth) -> Self {
        Self {
            depth,
            datasets: Datasets::default(),
            first: None,
            last: "".into(),
            misplaced: None,
        }
    }

    fn add(&mut self, listed: Listed) {
        let Listed { dataset, place, mountpoint } = listed;
        let name = Arc::clone(&dataset.name);
        if *name <= *self.last {
            self.note_misplaced(&name);
        }
        if place == MountPlace::Elsewhere {
            let at = self.datasets.elsewhere.entry(mountpoint.to_string());
            at.or_insert_with(|| Arc::clone(&name));
        }
        let placed = PlacedDataset { dataset: Arc::new(dataset), place };
        self.datasets.by_name.entry(Arc::clone(&name)).or_insert(placed);
        self.first.get_or_insert_with(|| Arc::clone(&name));
        self.last = name;
    }

    fn add_snapshot(&mut self, name: &str, snapshot: DatasetSnapshot) {
        // A snapshot may come without its dataset if it was asked for alone.
        let may_be_alone = self.depth == Depth::Alone && *name > *self.last;
        if *name == *self.last {
            self.datasets.add_snapshot(name, snapshot);
        } else if may_be_alone {
            self.datasets.add_lone_snapshot(name, snapshot);
            self.last = name.into();
        } else {
            self.note_misplaced(name);
        }
    }

    fn note_misplaced(&mut self, name: &str) {
        let error = || OutputError::NotInOrder(name.into());
        self.misplaced.get_or_insert_with(error);
    }

    fn finish(mut self) -> Datasets {
        if let Some(misplaced) = self.misplaced {
            let first = self.first.as_ref();
            self.datasets.retain(|name| first.is_some_and(|f| **f == *name));
            let why = DatasetError::Said(misplaced.to_string());
            self.datasets.cut = Some(why);
            self.datasets.odd = Some(misplaced);
        }
        self.datasets
    }
}

#[cfg(test)]
mod tests;
