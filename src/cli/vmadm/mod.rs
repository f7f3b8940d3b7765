//! The verbs of vmadm(8) that only read: list, lookup, get and its other name
//! json, events. Called by the name of vmadm, these are all there is.

mod fields;
mod list;
mod lookup;
mod order;

use std::ffi::OsString;
use std::time::Duration;

use super::args::{Args, CLIENT, Opt, flag, switch, value};
use super::{Failure, complain, print};
use super::{events, usage};
use crate::client::{Client, Error, Vms, VmsQuery};
use crate::vm::filter::Condition;
use fields::FilterKey;
use order::number_of;

/// vmadm's commands that change VMs, or ask others than the daemon.
const NOT_HERE: &[&str] = &[
    "boot",
    "console",
    "create",
    "create-snapshot",
    "delete",
    "delete-snapshot",
    "destroy",
    "halt",
    "info",
    "install",
    "kill",
    "migrate",
    "reboot",
    "receive",
    "recv",
    "reprovision",
    "rollback-snapshot",
    "send",
    "start",
    "stop",
    "sysrq",
    "update",
    "validate",
];

/// What every command of vmadm takes; the log is the daemon's.
const COMMON: [Opt; 2] = [flag('v', &["verbose"]), flag('d', &["debug"])];

/// How long `get --sync` may take, unless one says.
const SYNC_TIME: Duration = Duration::from_secs(30);

/// Runs a command line of vmadm.
pub fn main(verb: &str, args: Vec<OsString>) -> Result<(), Failure> {
    match verb {
        "list" => list::run(args),
        "lookup" => lookup::run(args),
        "get" | "json" => get(verb, args),
        "events" => events::run(args, events::Caller::Vmadm),
        "help" | "-h" | "-?" | "--help" => print(usage::VMADM),
        verb if NOT_HERE.contains(&verb) => Err(usage::of_vmadm(&format!(
            "vmadm: {verb} is not here: this is vminfod, which only reads"
        ))),
        verb => Err(usage::of_vmadm(&format!("Invalid command: \"{verb}\"."))),
    }
}

/// An error in vmadm's own words.
fn said(message: String) -> Failure {
    Failure::Said { message, status: 1 }
}

/// Reads a command line; an option that lacks its value has `true`, as vmadm
/// has it.
fn parse(args: Vec<OsString>, options: &[Opt]) -> Result<Args, Failure> {
    let parsed = Args::parse(args, &[options, &COMMON, &CLIENT], Some("true"));
    parsed.map_err(|e| usage::of_vmadm(&e.to_string()))
}

fn client(args: &Args) -> Result<Client, Failure> {
    args.client_with_deadline("vmadm")
}

fn get(verb: &str, args: Vec<OsString>) -> Result<(), Failure> {
    let args = parse(args, &[switch(&["sync"]), value(&["timeout"])])?;
    let uuid = args.operands.first().filter(|uuid| is_uuid(uuid));
    let Some(uuid) = uuid else {
        return Err(usage::of_vmadm(&format!(
            "Invalid or missing UUID for {verb}"
        )));
    };
    let client = client(&args)?;
    let time = args.seconds("timeout")?;
    let failed = |e: Error| said(e.to_string());
    let vm = match (args.has("sync"), time) {
        (true, time) => {
            let look = client.sync(uuid, time.unwrap_or(SYNC_TIME));
            let look = look.map_err(failed)?;
            if let Some(stale) = look.stale {
                complain(&format!("{stale}: not readable, as it was before"));
            }
            look.vm
        }
        (false, None) => client.vm(uuid).map_err(failed)?,
        (false, Some(_)) => {
            return Err(usage::of_vmadm("--timeout without --sync"));
        }
    };
    match vm {
        Some(vm) => super::print_json(&vm),
        // Tools depend on this text.
        None => Err(said(format!("zoneadm: {uuid}: No such zone configured"))),
    }
}

/// Whether a text has the form of a UUID, as vmadm looks at it.
pub fn is_uuid(text: &str) -> bool {
    let units: Vec<u16> = text.encode_utf16().collect();
    units.len() == 36 && [8, 13, 18, 23].iter().all(|at| units[*at] == 0x2d)
}

/// The VMs that are meant by operands `FIELD=VALUE`, and of each what is at
/// these paths; all of it if there are none.
fn find(
    args: &Args,
    what: &str,
    paths: Option<&[String]>,
) -> Result<Vms, Failure> {
    let mut query = VmsQuery::new();
    let mut is_none = false;
    let mut conditions: Vec<(&str, &str)> = Vec::new();
    for operand in &args.operands {
        // A number alone is a slip, not a key; numbers from 2 on are keys
        // that there are not.
        if number_of(operand) < 2.0 {
            let error = format!("Bad arguments: unable to split {operand}");
            return Err(usage::of_vmadm(&error));
        }
        let (key, value) = operand.split_once('=').unwrap_or((operand, ""));
        match conditions.iter_mut().find(|(known, _)| *known == key) {
            Some(known) => known.1 = value,
            None => conditions.push((key, value)),
        }
    }
    for (key, value) in conditions {
        match FilterKey::parse(key) {
            None => {
                let error = format!("Invalid {what} key: \"{key}\"");
                return Err(said(error));
            }
            Some(FilterKey::Nothing) => is_none = true,
            Some(FilterKey::Path) => {
                // An expression that is none is told by its own name.
                Condition::new(key, value).map_err(|e| said(e.to_string()))?;
                query = match value.strip_prefix('~') {
                    Some(pattern) => query.matches(key, pattern),
                    None => query.equals(key, value),
                };
            }
        }
    }
    if let Some(paths) = paths {
        query = query.fields(&paths.join(","));
    }
    let found = client(args)?.vms(&query);
    let found = found.map_err(|e| said(e.to_string()))?;
    Ok(if is_none { Vms::default() } else { found })
}
