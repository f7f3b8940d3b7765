//! `diagnose`: what the daemon has otherwise than the system, property by
//! property.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::time::{Duration, Instant};

use super::args::{flag, value};
use super::daemon::{directory, may_run, settings_of};
use super::terminal::{json_for_reader, printable};
use super::{Failure, complain, print, with_options};
use crate::client::{Client, VmsQuery};
use crate::config::Settings;
use crate::diff::{Action, diff, pretty_path};
use crate::json::{Json, Object};
use crate::os;

/// The pauses between one look and the next, while anything is wrong: what
/// differs once is on its way, and a command that fails once may not the next
/// time. What is wrong every time is wrong.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(1600),
];

/// A fault is not looked at again after so long.
const LOOKS_TIME: Duration = Duration::from_secs(5);

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
    // It may not be there at all: that is quicker to find out.
    client.ping().map_err(|e| trouble(e.to_string()))?;
    let begin = Instant::now();
    // What looks have seen alike so far, and the last one, if it failed.
    let mut lasting: Option<Seen> = None;
    let mut looks = 0;
    let mut failure = None;
    for pause in [None].into_iter().chain(PAUSES.map(Some)) {
        std::thread::sleep(pause.unwrap_or_default());
        match look(&settings, &client) {
            Ok(now) => {
                (looks, failure) = (looks + 1, None);
                lasting = Some(match &lasting {
                    Some(before) => now.since(before),
                    None => now,
                });
            }
            Err(why) => failure = Some(why),
        }
        // What took as long as that to fail has not failed in passing.
        let is_late = begin.elapsed() > LOOKS_TIME;
        let is_known = match (&failure, &lasting) {
            (None, Some(Seen { differences, faults })) => {
                differences.is_empty() && (faults.is_empty() || is_late)
            }
            _ => is_late,
        };
        if is_known {
            break;
        }
    }
    let Some(Seen { differences, faults: told }) = lasting else {
        return Err(trouble(failure.unwrap_or_default()));
    };
    // One look tells nothing of what lasts.
    if let Some(why) = failure.filter(|_| looks < 2) {
        return Err(trouble(why));
    }
    if looks < 2 && !differences.is_empty() {
        let why = "what differs could only be looked at once";
        return Err(trouble(why.to_string()));
    }
    for fault in &told {
        complain(&format!("vminfod: {fault}"));
    }
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

/// What one look has found.
struct Seen {
    differences: Differences,
    /// What can't be compared, and why.
    faults: BTreeSet<String>,
}

impl Seen {
    /// What is still so since an earlier look. What the daemon has otherwise
    /// than then is on its way.
    fn since(mut self, before: &Self) -> Self {
        self.differences.retain(|key, (_, daemon)| {
            let before = before.differences.get(key);
            before.is_some_and(|(_, was)| was == daemon)
        });
        self
    }
}

/// What differs now.
fn look(settings: &Settings, client: &Client) -> Result<Seen, String> {
    let dumped = crate::daemon::dump::dump(settings)?;
    let served = client.vms(&VmsQuery::new()).map_err(|e| e.to_string())?;
    let mut faults: BTreeSet<_> = dumped.faults.into_iter().collect();
    faults.extend(served.unreadable.iter().map(ToString::to_string));
    let mut differences = compare(&dumped.vms, &served.vms);
    // Of what the system does not say the daemon has what was last good.
    let names = served.unreadable.iter().filter_map(|vm| vm.zonename.as_ref());
    let names: BTreeSet<_> = names.map(|name| &**name).collect();
    differences.retain(|(zonename, ..), _| {
        let name = zonename.as_str();
        !dumped.unread.contains(name) && !names.contains(name)
    });
    Ok(Seen { differences, faults })
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
    fn only_what_stays_as_it_is_lasts() {
        let seen = |quota: u32, daemon: u32| {
            let vms = |quota: u32| {
                let vm = format!(r#"[{{"zonename":"a","quota":{quota}}}]"#);
                Json::parse(&vm).unwrap().as_array().unwrap().to_vec()
            };
            let differences = compare(&vms(quota), &vms(daemon));
            Seen { differences, faults: BTreeSet::new() }
        };
        let lasting = |before: Seen, now: Seen| {
            now.since(&before).differences.into_values().count()
        };
        assert_eq!(lasting(seen(2, 1), seen(2, 1)), 1);
        // The system goes on, and the daemon does not.
        assert_eq!(lasting(seen(2, 1), seen(3, 1)), 1);
        // The daemon follows.
        assert_eq!(lasting(seen(2, 1), seen(3, 2)), 0);
        assert_eq!(lasting(seen(2, 2), seen(3, 2)), 0);
    }

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
