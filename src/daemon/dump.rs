//! Loading the system once, without a daemon: what the daemon would serve.

use std::collections::HashSet;
use std::sync::Arc;

use super::new_loader;
use crate::config::Settings;
use crate::json::{Json, Object};
use crate::load::Found;
use crate::load::assemble::assemble;

/// What a load without a daemon has found.
#[derive(Debug)]
pub struct Dumped {
    /// The VMs, in zoneadm's order.
    pub vms: Vec<Json>,
    /// A line for each thing that is wrong.
    pub faults: Vec<String>,
    /// The zones that could not be read in whole.
    pub unread: HashSet<Arc<str>>,
}

/// Loads the system once, without a daemon.
///
/// # Errors
/// A sentence, if zoneadm fails.
pub fn dump(settings: &Settings) -> Result<Dumped, String> {
    let loader = new_loader(settings, Arc::default());
    let mut faults = Vec::new();
    let sysinfo = loader.sysinfo().unwrap_or_else(|e| {
        faults.push(format!("sysinfo: {e}"));
        Arc::new(Object::new())
    });
    let all = loader
        .load_all(
            &[],
            false,
            Some(settings.load.command_time),
            &sysinfo,
            &|_, _, _| {},
        )
        .map_err(|e| e.to_string())?;
    let mut note = |name: &str, source: &str, error: Option<String>| {
        faults.extend(error.map(|e| format!("{name}: {source}: {e}")));
    };
    note("host", "index", all.index_error);
    for (source, error) in all.faults {
        note("host", source, error);
    }
    let mut vms = Vec::new();
    let (mut uuids, mut unread) = (HashSet::new(), HashSet::new());
    for loaded in all.vms {
        if loaded.faults.iter().any(|(_, error)| error.is_some()) {
            unread.insert(Arc::clone(&loaded.zonename));
        }
        for (source, error) in loaded.faults {
            note(&loaded.zonename, source, error);
        }
        let Found::Parts(parts) = loaded.found else { continue };
        let Some(vm) = assemble(&parts) else { continue };
        let uuid = parts.row.uuid.clone().unwrap_or_default();
        // As the daemon: of zones with one uuid, the first is kept.
        if uuids.insert(uuid) {
            vms.push(Json::from(vm));
        } else {
            let error = "another zone has the same, and is served".to_string();
            note(&loaded.zonename, "uuid", Some(error));
        }
    }
    Ok(Dumped { vms, faults, unread })
}
