//! `diagnose`: what the daemon has otherwise than the system, property by
//! property.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use super::args::{flag, value};
use super::daemon::{directory, may_run, settings_of};
use super::terminal::{json_for_reader, printable};
use super::{Failure, complain, print, with_options};
use crate::client::{Client, VmsQuery};
use crate::config::Settings;
use crate::diff::{Action, diff, pretty_path};
use crate::json::{Json, Object};
use crate::os;

/// How often is looked: what differs once is on its way, what differs every
/// time is wrong.
const LOOKS: usize = 3;

/// The exit status of differences, as diff(1) has it.
const EXIT_DIFFERENT: u8 = 1;

/// The exit status if it could not be found out.
const EXIT_TROUBLE: u8 = 2;

/// What differs, by zonename, path, and which of those of one path: elements
/// of an array have the same. With it what system and daemon have.
type Differences =
    BTreeMap<(String, String, usize), (Option<Json>, Option<Json>)>;

/// Compares, and prints what differs.
pub fn run(args: Vec<OsString>) -> Result<(), Failure> {
    let options = [flag('j', &["json"]), value(&["root"])];
    let args = with_options(args, &options, 0)?;
    let root = args.last("root").map(directory).transpose();
    let root = root.map_err(|e| match e {
        Failure::Failed(e) => trouble(e),
        other => other,
    })?;
    may_run(root.as_deref(), os::standing()).map_err(trouble)?;
    let settings = settings_of(root.as_deref());
    let client = args.client("vminfod")?;
    let mut told = BTreeSet::new();
    let mut lasting: Option<Differences> = None;
    for _ in 0..LOOKS {
        let now = look(&settings, &client, &mut told).map_err(trouble)?;
        let lasts = |(key, values): (_, _)| {
            let before = lasting.as_ref();
            let is_old = before.is_none_or(|old| old.contains_key(&key));
            is_old.then_some((key, values))
        };
        let now: Differences = now.into_iter().filter_map(lasts).collect();
        let is_empty = now.is_empty();
        lasting = Some(now);
        if is_empty {
            break;
        }
    }
    let differences = lasting.unwrap_or_default();
    let lines = match args.has("json") {
        true => {
            let told =
                differences.iter().map(|((zonename, path, _), values)| {
                    let mut json = Object::new();
                    json.set("zonename", zonename.as_str());
                    json.set("path", path.as_str());
                    if let Some(system) = &values.0 {
                        json.set("system", system.clone());
                    }
                    if let Some(daemon) = &values.1 {
                        json.set("daemon", daemon.clone());
                    }
                    Json::from(json)
                });
            let json = Json::from(told.collect::<Vec<_>>()).to_pretty();
            json_for_reader(json + "\n")
        }
        false => {
            let told =
                differences.iter().map(|((zonename, path, _), values)| {
                    let text = |value: &Option<Json>| match value {
                        Some(value) => value.to_string(),
                        None => "nothing".to_string(),
                    };
                    let (system, daemon) = (text(&values.0), text(&values.1));
                    let what = if path.is_empty() { "the VM" } else { path };
                    // Names of tags are up to a tenant, and may have any
                    // character.
                    let line = printable(&format!(
                        "{zonename} {what}: system {system}, daemon {daemon}"
                    ));
                    line + "\n"
                });
            told.collect()
        }
    };
    let printed = print(&lines);
    let message = match (differences.len(), printed) {
        (_, Err(Failure::Failed(e))) => return Err(trouble(e)),
        // What could not be loaded could not be compared.
        (0, _) if !told.is_empty() => {
            let n = told.len();
            return Err(trouble(format!("{n} things can't be compared")));
        }
        (0, printed) => return printed,
        (1, _) => "vminfod: 1 difference".to_string(),
        (n, _) => format!("vminfod: {n} differences"),
    };
    let message = match told.len() {
        0 => message,
        n => format!("{message}, and {n} things can't be compared"),
    };
    Err(Failure::Said { message, status: EXIT_DIFFERENT })
}

fn trouble(message: String) -> Failure {
    let message = format!("vminfod: {message}");
    Failure::Said { message, status: EXIT_TROUBLE }
}

/// What differs now. Faults of the load itself are told once.
fn look(
    settings: &Settings,
    client: &Client,
    told: &mut BTreeSet<String>,
) -> Result<Differences, String> {
    // The daemon may not be there at all: that is quicker to find out.
    client.ping().map_err(|e| e.to_string())?;
    let dumped = crate::daemon::dump::dump(settings)?;
    for fault in dumped.faults {
        if told.insert(fault.clone()) {
            complain(&format!("vminfod: {fault}"));
        }
    }
    let served = client.vms(&VmsQuery::new()).map_err(|e| e.to_string())?;
    for vm in &served.unreadable {
        let fault = vm.to_string();
        if told.insert(fault.clone()) {
            complain(&format!("vminfod: {fault}"));
        }
    }
    let mut differences = compare(&dumped.vms, &served.vms);
    let names = served.unreadable.iter().filter_map(|vm| vm.zonename.as_ref());
    let names: BTreeSet<_> = names.map(|name| &**name).collect();
    differences.retain(|(zonename, ..), _| !names.contains(&**zonename));
    // The daemon has what was last good of it.
    differences
        .retain(|(zonename, ..), _| !dumped.unread.contains(zonename.as_str()));
    Ok(differences)
}

fn compare(system: &[Json], daemon: &[Json]) -> Differences {
    let named = |vms: &[Json]| -> BTreeMap<String, Json> {
        let named = vms.iter().filter_map(|vm| {
            let zonename = vm.get("zonename")?.as_str()?;
            Some((zonename.to_string(), vm.clone()))
        });
        named.collect()
    };
    let (system, daemon) = (named(system), named(daemon));
    let names: BTreeSet<_> = system.keys().chain(daemon.keys()).collect();
    let mut differences = Differences::new();
    for name in names {
        let (real, known) = (system.get(name), daemon.get(name));
        let objects =
            (real.and_then(Json::as_object), known.and_then(Json::as_object));
        let (Some(a), Some(b)) = objects else {
            // There, or not: not all that it is.
            let is_there = |vm: Option<&Json>| vm.map(|_| Json::from(true));
            let values = (is_there(real), is_there(known));
            differences.insert((name.clone(), String::new(), 0), values);
            continue;
        };
        for change in diff(a, b) {
            let mut path = pretty_path(&change.path);
            if let Some(ident) = change.ident.as_ref().and_then(Json::as_str) {
                path = format!("{path} ({ident})");
            }
            let values = match change.action {
                Action::Added(daemon) => (None, Some(daemon)),
                Action::Removed(system) => (Some(system), None),
                Action::Changed(a, b) => (Some(a), Some(b)),
            };
            let mut key = (name.clone(), path, 0);
            while differences.contains_key(&key) {
                key.2 += 1;
            }
            differences.insert(key, values);
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told_by_property() {
        let vms = |text: &str| {
            Json::parse(text).unwrap().as_array().unwrap().to_vec()
        };
        let system = vms(r#"[{"zonename":"a","quota":1,"tags":{"x":1}},
            {"zonename":"b"},{"zonename":"c","snapshots":[{"n":1},{"n":2}]}]"#);
        let daemon = vms(r#"[{"zonename":"a","quota":2,"tags":{"x":1,"y":2}},
            {"zonename":"d"},{"zonename":"c","snapshots":[]}]"#);
        let told: Vec<_> = compare(&system, &daemon)
            .into_iter()
            .map(|((name, path, at), _)| format!("{name} {path} {at}"))
            .collect();
        let wanted = [
            "a quota 0",
            "a tags.y 0",
            "b  0",
            "c snapshots.* 0",
            "c snapshots.* 1",
            "d  0",
        ];
        assert_eq!(told, wanted);
        assert!(compare(&system, &system).is_empty());
    }
}
