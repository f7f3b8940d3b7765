//! Loads the system once, without a daemon. The result is what the daemon would
//! serve.

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

/// The result of a load without a daemon.
#[derive(Debug)]
pub struct Dumped {
    /// The VMs, in zoneadm's order.
    pub vms: Vec<Json>,
    /// Everything that is wrong.
    pub faults: Vec<DumpFault>,
    /// The counts of runs, by command.
    pub runs: BTreeMap<String, RunCount>,
    /// The zones of which something could not be read.
    pub unread: HashSet<Arc<str>>,
}

/// Why a load without a daemon lacks something of a VM, or the whole VM.
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
            Self::Twin => f.write_str(
                "another zone has the same uuid and is served instead of this \
                 one",
            ),
        }
    }
}

impl From<FileError> for DumpError {
    fn from(error: FileError) -> Self {
        Self::Load(error.into())
    }
}

/// Loads the system once, without a daemon. Each pool may take up to
/// `list_time` to list all that is on it.
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
        // Like the daemon, keep only the first of several zones with the same
        // uuid.
        if uuids.insert(uuid) {
            vms.push(Json::from(vm));
        } else {
            note(&loaded.zonename, Source::Uuid, Some(DumpError::Twin));
        }
    }
    let runs = loader.runs().runner().counts().lock().clone();
    Ok(Dumped { vms, faults, runs, unread })
}
