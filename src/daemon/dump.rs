//! Loading the system once, without a daemon: what the daemon would serve.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::new_loader;
use crate::load::LoadOutcome;
use crate::load::assemble::assemble;
use crate::load::command::RunCount;
use crate::load::error::{CommandError, FileError, LoadError};
use crate::settings::Settings;
use crate::source::Source;
use crate::threads::Stop;
use crate::vm::json::{Json, Object};

/// Something that could not be read.
#[derive(Clone, Debug)]
pub struct DumpFault {
    /// The zone; `host` for the host as a whole.
    pub zonename: String,
    /// The source that failed: a command, or a file.
    pub source: Source,
    /// Why.
    pub error: DumpError,
}

impl std::fmt::Display for DumpFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { zonename, source, error } = self;
        write!(f, "{zonename}: {source}: {error}")
    }
}

/// What a load without a daemon has found.
#[derive(Debug)]
pub struct Dumped {
    /// The VMs, in zoneadm's order.
    pub vms: Vec<Json>,
    /// Everything that is wrong.
    pub faults: Vec<DumpFault>,
    /// How the commands went.
    pub runs: BTreeMap<String, RunCount>,
    /// The zones that could not be read in whole.
    pub unread: HashSet<Arc<str>>,
}

/// Why something of a VM is not in a load without a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DumpError {
    /// It could not be loaded.
    Load(LoadError),
    /// Another zone has the same uuid.
    Twin,
}

impl std::fmt::Display for DumpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Load(error) => error.fmt(f),
            Self::Twin => {
                f.write_str("another zone has the same, and is served")
            }
        }
    }
}

impl From<FileError> for DumpError {
    fn from(error: FileError) -> Self {
        Self::Load(error.into())
    }
}

/// Loads the system once, without a daemon. A pool may take `list_time` to
/// list all that is on it.
///
/// # Errors
/// If zoneadm fails.
pub fn dump(
    settings: &Settings,
    list_time: Duration,
) -> Result<Dumped, CommandError> {
    let loader = new_loader(settings, Stop::default());
    let mut faults = Vec::new();
    let mut note = |name: &str, source, error: Option<DumpError>| {
        let zonename = name.to_string();
        faults.extend(error.map(|error| DumpFault { zonename, source, error }));
    };
    let sysinfo = loader.sysinfo().unwrap_or_else(|e| {
        note("host", Source::Sysinfo, Some(e.into()));
        Arc::new(Object::new())
    });
    let all = loader
        .load_all(&[], false, Some(list_time), &sysinfo, &|_, _, _| {})
        .map_err(|why| why.error().clone())?;
    note("host", Source::Index, all.index_error.map(DumpError::from));
    for (source, error) in all.faults {
        note("host", source, error.map(DumpError::Load));
    }
    let mut vms = Vec::new();
    let (mut uuids, mut unread) = (HashSet::new(), HashSet::new());
    for loaded in all.vms {
        if loaded.faults.iter().any(|(_, error)| error.is_some()) {
            unread.insert(Arc::clone(&loaded.zonename));
        }
        for (source, error) in loaded.faults {
            note(&loaded.zonename, source, error.map(DumpError::Load));
        }
        let LoadOutcome::Parts(parts) = loaded.found else { continue };
        let Some(vm) = assemble(&parts) else { continue };
        let uuid = parts.row.uuid.clone().unwrap_or_default();
        // As the daemon: of zones with one uuid, the first is kept.
        if uuids.insert(uuid) {
            vms.push(Json::from(vm));
        } else {
            note(&loaded.zonename, Source::Uuid, Some(DumpError::Twin));
        }
    }
    let runs = loader.runs().runner().counts().lock().clone();
    Ok(Dumped { vms, faults, runs, unread })
}
