//! `diagnose`: compares the VMs that the daemon serves with the system,
//! property by property.

use super::args::{CLIENT, ROOT, flag};
use super::daemon::{directory, may_run, settings_of};
use super::terminal::{json_for_reader, printable};
use super::verb::{Call, STATUS_OF_COMPARISON, Verb};
use super::{EXIT_DIFFERENT, Failure, complain, print};
use crate::compare::{
    Differences, Place, SystemDifferences, Values, set_value, shown,
    with_system,
};
use crate::os;
use crate::vm::json::{Json, Object};

pub const VERB: Verb = Verb {
    names: &["diagnose"],
    operands: "",
    summary: "compare what the daemon serves with the system",
    about: "Loads the VMs from the system without the daemon, and prints each \
            property that has another value in the daemon.",
    options: &[
        &[flag('j', &["json"], "print JSON, one object for each line"), ROOT],
        &CLIENT,
    ],
    examples: [
        ("diagnose", "what differs on this host"),
        (
            "diagnose -j --server /var/run/vminfod.sock",
            "the same for a program, of the daemon at a socket",
        ),
    ],
    status: STATUS_OF_COMPARISON,
    run,
};

/// Compares, and prints what differs.
fn run(call: Call) -> Result<(), Failure> {
    let args = call.parse(0)?;
    let root = args.last("root").map(directory).transpose();
    let root = root.map_err(Failure::in_trouble)?;
    may_run(root.as_deref(), os::standing()).map_err(Failure::trouble)?;
    let settings = settings_of(root.as_deref());
    let client = args.client("vminfod")?;
    // First find out whether the daemon answers at all: that is quicker than a
    // load of the system.
    client.ping().map_err(Failure::trouble)?;
    let SystemDifferences { differences, faults, .. } =
        with_system(&settings, &client, Json::clone)
            .map_err(Failure::trouble)?;
    for fault in &faults {
        complain(&format!("vminfod: {fault}"));
    }
    let lines = match args.has("json") {
        true => json_of(&differences),
        false => differences.iter().map(line_of).collect(),
    };
    let printed = print(&lines);
    let message = match (differences.len(), printed) {
        (_, Err(Failure::Failed(e))) => return Err(Failure::trouble(e)),
        // No difference was found, but what could not be loaded was not
        // compared.
        (0, _) if !faults.is_empty() => {
            let n = faults.len();
            return Err(Failure::trouble(format!(
                "could not be compared: {n} (reasons above)"
            )));
        }
        (0, printed) => return printed,
        (1, _) => "vminfod: 1 difference".to_string(),
        (n, _) => format!("vminfod: {n} differences"),
    };
    let message = match faults.len() {
        0 => message,
        n => format!("{message}; could not be compared: {n} (reasons above)"),
    };
    Err(Failure::Said { message, status: EXIT_DIFFERENT })
}

fn json_of(differences: &Differences) -> String {
    let all = differences.iter().map(|(place, (system, daemon))| {
        let mut json = Object::new();
        json.set("zonename", place.zonename.as_str());
        let path = match place.path.is_empty() {
            true => String::new(),
            false => place.name(),
        };
        json.set("path", path);
        set_value(&mut json, "system", system.as_ref());
        set_value(&mut json, "daemon", daemon.as_ref());
        Json::from(json)
    });
    let json = Json::from(all.collect::<Vec<_>>()).to_pretty();
    json_for_reader(json + "\n")
}

fn line_of((place, (system, daemon)): (&Place, &Values)) -> String {
    let (zonename, what) = (&place.zonename, place.name());
    let (system, daemon) = (shown(system.as_ref()), shown(daemon.as_ref()));
    // Tenants choose the names of tags, which may contain any character.
    let line = format!("{zonename} {what}: system {system}, daemon {daemon}");
    printable(&line) + "\n"
}
