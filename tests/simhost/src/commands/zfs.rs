//! zfs(8). Only `list` is simulated. It gathers all rows before it prints
//! anything.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use super::failed;
use crate::hurt::{self, Answer, Fault};
use crate::state::{COLUMNS, Row, State, column, lock};

const SUSPENDED: &str = "pool I/O is currently suspended";

/// The most components that a name may have.
const DEPTH_MAX: usize = 50;

/// The options and operands of a listing.
struct Options<'a> {
    types: Vec<&'a str>,
    columns: Vec<usize>,
    depth: usize,
    operands: Vec<&'a str>,
}

/// Runs zfs.
///
/// # Errors
/// If the host's state can't be read.
pub fn run(root: &Path, args: &[&str]) -> io::Result<Answer> {
    let options = match parse(args) {
        Ok(options) => options,
        Err(what) => return Ok(failed(format!("{what}\n{USAGE}"), 2)),
    };
    let is_walk = options.depth == 1;
    if is_walk && hurt::has(root, "zfs", &Fault::EmptyWalk) {
        return Ok(Answer::default());
    }
    let state = {
        let _lock = lock(root, true)?;
        State::load(root)?
    };
    let mut walk = Walk::new(root, &state, &options);
    if options.operands.is_empty() {
        walk.pools();
    }
    for operand in &options.operands {
        walk.operand(operand);
    }
    Ok(walk.finish())
}

const USAGE: &str = "usage:\n\tlist [-Hp] [-r|-d max] [-o property[,...]] \
    [-t type[,...]] [filesystem|volume|snapshot] ...\n";

fn parse<'a>(args: &[&'a str]) -> Result<Options<'a>, String> {
    let mut rest = args.iter();
    if rest.next() != Some(&"list") {
        return Err("unrecognized command".to_string());
    }
    let (mut types, mut columns) = (None, vec!["name"]);
    let (mut depth, mut operands) = (None, Vec::new());
    while let Some(arg) = rest.next() {
        let mut value = |option: &str| {
            let text = format!("missing argument for '{option}' option");
            rest.next().copied().ok_or(text)
        };
        match *arg {
            "-H" | "-p" | "-Hp" => {}
            "-r" => depth = Some(usize::MAX),
            "-d" => {
                let text = value("d")?;
                let parsed = text.parse();
                depth = Some(parsed.map_err(|_| {
                    format!("({text}) is not a positive number")
                })?);
            }
            "-t" => types = Some(value("t")?.split(',').collect::<Vec<_>>()),
            "-o" => columns = value("o")?.split(',').collect(),
            option if option.starts_with('-') => {
                let option = option.trim_start_matches('-');
                return Err(format!("invalid option '{option}'"));
            }
            operand => operands.push(operand),
        }
    }
    let known = |name: &&str| {
        COLUMNS[..17]
            .iter()
            .position(|c| c == name)
            .ok_or_else(|| format!("bad property list: invalid '{name}'"))
    };
    let columns = columns.iter().map(known).collect::<Result<_, _>>()?;
    let types = types.unwrap_or(vec!["filesystem", "volume"]);
    let is_type =
        |t: &&str| ["filesystem", "volume", "snapshot", "all"].contains(t);
    if let Some(odd) = types.iter().find(|t| !is_type(t)) {
        return Err(format!("invalid type '{odd}'"));
    }
    let depth = match operands.is_empty() {
        true => depth.unwrap_or(usize::MAX),
        false => depth.unwrap_or(0),
    };
    Ok(Options { types, columns, depth, operands })
}

/// The depth of a name: the number of its components, in which a snapshot
/// counts as one more than its dataset.
fn depth_of(name: &str) -> usize {
    name.split(['/', '@']).count()
}

fn pool_of(name: &str) -> &str {
    name.split(['/', '@']).next().unwrap_or(name)
}

struct Walk<'a> {
    root: &'a Path,
    state: &'a State,
    options: &'a Options<'a>,
    place_of: HashMap<&'a str, usize>,
    /// Faults of pools and datasets, by name.
    faults: BTreeMap<String, Fault>,
    chosen: BTreeSet<usize>,
    error: String,
    exit: i32,
}

impl<'a> Walk<'a> {
    fn new(root: &'a Path, state: &'a State, options: &'a Options) -> Self {
        let rows = state.datasets.iter().enumerate();
        let place_of = rows.map(|(i, row)| (row[0].as_str(), i)).collect();
        let mut faults = BTreeMap::new();
        for hurt in hurt::names(root) {
            let Some(name) = hurt.strip_prefix("zfs:") else { continue };
            let is_asked = options.operands.is_empty()
                || options.operands.iter().any(|o| {
                    pool_of(o) == name || *o == name || name.starts_with(*o)
                });
            let fault = is_asked.then(|| hurt::take(root, &hurt)).flatten();
            if let Some(fault) = fault {
                faults.insert(name.to_string(), fault);
            }
        }
        let chosen = BTreeSet::new();
        let (error, exit) = (String::new(), 0);
        Self { root, state, options, place_of, faults, chosen, error, exit }
    }

    /// Lists every pool that is imported and whose root can be opened. Other
    /// pools are left out without a message.
    fn pools(&mut self) {
        let names: BTreeSet<&str> =
            self.state.datasets.iter().map(|row| pool_of(&row[0])).collect();
        for pool in names {
            match self.faults.get(pool) {
                Some(Fault::Suspended | Fault::Exported) => {}
                _ => {
                    if let Some(place) = self.place_of.get(pool) {
                        self.below(*place, self.options.depth);
                    }
                }
            }
        }
    }

    fn operand(&mut self, operand: &str) {
        let why = match self.faults.get(pool_of(operand)) {
            _ if impossible(operand).is_some() => impossible(operand),
            Some(Fault::Suspended) => Some(SUSPENDED.to_string()),
            Some(Fault::Exported) => Some("dataset does not exist".into()),
            _ if self.faults.get(operand) == Some(&Fault::IoError) => {
                Some("I/O error".to_string())
            }
            _ if !self.wants("snapshot") && operand.contains('@') => {
                Some("snapshot delimiter '@' is not expected here".into())
            }
            _ if !self.place_of.contains_key(operand) => {
                Some("dataset does not exist".to_string())
            }
            _ => None,
        };
        match (why, self.place_of.get(operand)) {
            (Some(why), _) => {
                let _ = writeln!(self.error, "cannot open '{operand}': {why}");
                self.exit = 1;
            }
            (None, Some(place)) => self.below(*place, self.options.depth),
            (None, None) => {}
        }
    }

    fn wants(&self, kind: &str) -> bool {
        let types = &self.options.types;
        types.contains(&kind) || types.contains(&"all")
    }

    /// Chooses a row and the rows below it. If the walk fails, it ends there,
    /// and keeps the rows that it has.
    fn below(&mut self, first: usize, depth: usize) {
        let name = &self.state.datasets[first][0];
        self.chosen.insert(first);
        let cut = match self.faults.get(pool_of(name)) {
            Some(Fault::Cut(rows)) => *rows,
            _ => usize::MAX,
        };
        let most = depth_of(name).saturating_add(depth);
        let mut count = 1;
        if depth == 0 {
            return;
        }
        // Rows are sorted by name: those that begin alike follow each other.
        for (place, row) in self.state.datasets.iter().enumerate().skip(first) {
            let Some(below) = row[0].strip_prefix(name.as_str()) else { break };
            if !below.starts_with(['/', '@']) || depth_of(&row[0]) > most {
                continue;
            }
            let is_bad = self.faults.get(&row[0]) == Some(&Fault::IoError);
            if count >= cut || is_bad {
                let text = "cannot iterate filesystems: I/O error\n";
                self.error.push_str(text);
                return;
            }
            count += 1;
            self.chosen.insert(place);
        }
    }

    fn finish(self) -> Answer {
        let mut output = String::new();
        for place in &self.chosen {
            let row: &Row = &self.state.datasets[*place];
            if !self.wants(&row[column("type")]) {
                continue;
            }
            let columns = self.options.columns.iter();
            let fields: Vec<_> = columns.map(|c| row[*c].as_str()).collect();
            let _ = writeln!(output, "{}", fields.join("\t"));
        }
        // A slow pool delays only the output: all rows have been gathered.
        for (name, fault) in &self.faults {
            match fault {
                Fault::Slow(time) => std::thread::sleep(*time),
                Fault::Hang => hurt::hang(),
                Fault::Block => {
                    let name = format!("zfs:{name}");
                    hurt::wait_while(self.root, &name, &Fault::Block);
                }
                _ => {}
            }
        }
        Answer { output, error: self.error, exit: self.exit }
    }
}

/// Why a text can't be the name of a dataset or snapshot; `None` if it can.
fn impossible(name: &str) -> Option<String> {
    let odd =
        |c: &char| !(c.is_ascii_alphanumeric() || "-_.: /@%".contains(*c));
    let (dataset, snapshot) = name.split_once('@').unwrap_or((name, "x"));
    if name.len() >= 256 {
        Some("name is too long".to_string())
    } else if name.ends_with('/') {
        Some("trailing slash in name".to_string())
    } else if snapshot.contains('@') {
        Some("multiple '@' and/or '#' delimiters in name".to_string())
    } else if name.contains('#') {
        Some("bookmark delimiter '#' is not expected here".to_string())
    } else if dataset.split('/').any(str::is_empty) || snapshot.is_empty() {
        Some("empty component in name".to_string())
    } else if dataset.split('/').count() > DEPTH_MAX {
        Some("name is too long".to_string())
    } else {
        let c = name.chars().find(odd)?;
        Some(format!("invalid character '{c}' in name"))
    }
}
