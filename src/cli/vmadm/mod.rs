//! The verbs of vmadm(8) that only read: list, lookup, get (also called json)
//! and events. Called as vmadm, the program has no other verbs except help.

mod fields;
mod list;
mod lookup;
mod order;

use std::time::Duration;

use vminfod_client::{Client, Error, Vms, VmsQuery};

use super::args::{Args, CLIENT, Opt, flag, switch, value};
use super::verb::{Call, STATUS, Verb};
use super::{Failure, complain, events, usage};
use crate::vm::filter::Condition;
use crate::vm::json::Json;
use fields::FilterKey;
use order::number_of;

/// Commands of vmadm that we refuse: they change VMs, or ask something other
/// than the daemon.
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

/// Options that every command of vmadm accepts. They do nothing here, because
/// only the daemon logs.
const COMMON: [Opt; 2] = [
    flag('v', &["verbose"], "does nothing; vmadm has it"),
    flag('d', &["debug"], "does nothing; vmadm has it"),
];

/// How long `get --sync` may take, unless `--timeout` says.
pub const SYNC_TIME: Duration = Duration::from_secs(30);

/// The verbs.
pub const VERBS: [&Verb; 4] = [&list::VERB, &lookup::VERB, &GET, &events::VERB];

const GET: Verb = Verb {
    names: &["get", "json"],
    operands: "UUID",
    summary: "one VM, as JSON",
    about: "Prints the VM with this uuid as JSON.",
    options: &[
        &[
            switch(
                &["sync"],
                "have the daemon load the VM from the system first, so that \
                 the output is not older than the request",
            ),
            value(
                &["timeout"],
                "SECS",
                "how long that may take, in seconds (30)",
            ),
        ],
        &COMMON,
        &CLIENT,
    ],
    examples: [
        ("get UUID", "the VM as the daemon has it"),
        ("get UUID --sync", "the VM as the system has it"),
    ],
    status: STATUS,
    run: get,
};

/// The failure that vmadm has no such verb here.
pub fn no_verb(name: &str) -> Failure {
    let message = match NOT_HERE.contains(&name) {
        true => format!(
            "vmadm: {name} is not here: this is vminfod, which only reads"
        ),
        false => format!("Invalid command: \"{name}\"."),
    };
    usage::of_vmadm(&message)
}

/// An error with exactly vmadm's text, and exit status 1.
fn said(message: String) -> Failure {
    Failure::Said { message, status: 1 }
}

/// Parses a command line. As in vmadm, a last option that lacks its value gets
/// `true`.
fn parse(call: Call) -> Result<Args, Failure> {
    let parsed = Args::parse(call.args, call.verb.options, Some("true"));
    parsed.map_err(|failure| match failure {
        Failure::Usage(said) => Failure::VmadmUsage(said),
        other => other,
    })
}

fn client(args: &Args) -> Result<Client, Failure> {
    args.client_with_deadline("vmadm")
}

fn get(call: Call) -> Result<(), Failure> {
    let name = call.name.clone();
    let args = parse(call)?;
    let uuid = args.operands.first().filter(|uuid| is_uuid(uuid));
    let Some(uuid) = uuid else {
        let error = format!("Invalid or missing UUID for {name}");
        return Err(Failure::VmadmUsage(error));
    };
    let client = client(&args)?;
    let time = args.seconds("timeout")?;
    let failed = |e: Error| said(e.to_string());
    let vm = match (args.has("sync"), time) {
        (true, time) => {
            let look = client.sync(uuid, time.unwrap_or(SYNC_TIME));
            let look = look.map_err(failed)?;
            if let Some(stale) = look.stale {
                complain(&format!(
                    "cannot read {stale}; showing the last good values"
                ));
            }
            look.vm
        }
        (false, None) => client.vm(uuid).map_err(failed)?,
        (false, Some(_)) => {
            let error = "--timeout without --sync".to_string();
            return Err(Failure::VmadmUsage(error));
        }
    };
    match vm {
        Some(vm) => super::print_json(&Json::from(vm.json())),
        // Tools depend on this text.
        None => Err(said(format!("zoneadm: {uuid}: No such zone configured"))),
    }
}

/// Whether vmadm would take a text for a UUID: it has the right length, and
/// dashes in the right places.
pub fn is_uuid(text: &str) -> bool {
    let units: Vec<u16> = text.encode_utf16().collect();
    units.len() == 36 && [8, 13, 18, 23].iter().all(|at| units[*at] == 0x2d)
}

/// Finds the VMs that match all operands `FIELD=VALUE`. Each VM has only what
/// is at `paths`, or is whole if `paths` is `None`.
fn find(
    args: &Args,
    what: &str,
    paths: Option<&[String]>,
) -> Result<Vms<Json>, Failure> {
    let mut query = VmsQuery::new();
    let mut is_none = false;
    let mut conditions: Vec<(&str, &str)> = Vec::new();
    for operand in &args.operands {
        // As in vmadm, an operand that is a number below 2 can't be split. A
        // larger number is a key, and fails below as an unknown one.
        if number_of(operand) < 2.0 {
            let error = format!("Bad arguments: unable to split {operand}");
            return Err(Failure::VmadmUsage(error));
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
                // Check it here, so that the error names a wrong regular
                // expression.
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
    let found = client(args)?.vms_as(query);
    let found = found.map_err(|e| said(e.to_string()))?;
    Ok(if is_none { Vms::default() } else { found })
}
