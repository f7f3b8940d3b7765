//! `lookup`: prints the uuids of the VMs that match, or the VMs themselves.

use vminfod_client::Vms;

use super::{COMMON, find, parse, said};
use crate::cli::args::{CLIENT, Opt, flag, value};
use crate::cli::terminal::text_for_reader;
use crate::cli::verb::{Call, Verb};
use crate::cli::{Failure, all_read, print, print_json};
use crate::vm::filter::{ram_member, type_of};
use crate::vm::json::{Json, Key, Object};
use crate::vm::path::Path;

pub const VERB: Verb = Verb {
    names: &["lookup"],
    operands: "[FIELD=VALUE]...",
    summary: "the uuids of VMs",
    about: "Prints the uuid of each VM for which every FIELD has its VALUE: a \
            text to be equal to, or ~ and a regular expression.",
    options: &[
        &[
            flag('j', &["json"], "print the VMs as a JSON array"),
            Opt {
                short: Some('o'),
                ..value(
                    &["output", "order"],
                    "FIELD,...",
                    "with -j: print only these members",
                )
            },
            flag('1', &["unique"], "fail unless exactly one VM is found"),
        ],
        &COMMON,
        &CLIENT,
    ],
    examples: [
        ("lookup -1 alias=web", "the uuid of the VM with this alias"),
        ("lookup -j tags.role=~^db", "the databases, whole"),
    ],
    status: "0 if it worked; 1 if not, or if there is no such field; 2 if an \
             option is wrong.",
    run,
};

/// Prints the uuids or, with `-j`, the VMs.
fn run(call: Call) -> Result<(), Failure> {
    let args = parse(call)?;
    let fields = args.last("output").map(|o| o.split(',').collect::<Vec<_>>());
    let is_json = args.has("json");
    if fields.is_some() && !is_json {
        return Err(said("Cannot specify -o without -j".to_string()));
    }
    let uuid_alone = [String::from("uuid")];
    let paths = match (is_json, &fields) {
        (false, _) => Some(uuid_alone.to_vec()),
        (true, None) => None,
        (true, Some(fields)) => Some(members_of(fields)),
    };
    let Vms { vms, unreadable, .. } = find(&args, "lookup", paths.as_deref())?;
    let found = vms.len() + unreadable.len();
    if args.has("unique") && found != 1 {
        let error =
            format!("Requested unique lookup but found {found} results.");
        return Err(said(error));
    }
    let vms = vms.iter().filter_map(Json::as_object);
    if is_json {
        let vms = vms.map(|vm| shown(vm, fields.as_deref()));
        let vms = vms.filter(|vm| fields.is_none() || !vm.is_empty());
        print_json(&Json::from(vms.map(Json::from).collect::<Vec<_>>()))?;
        return all_read("vmadm", &unreadable);
    }
    let lines: String = vms
        .filter_map(|vm| vm.get_str("uuid"))
        .map(|uuid| text_for_reader(uuid.to_string()) + "\n")
        .collect();
    print(&lines)?;
    all_read("vmadm", &unreadable)
}

/// The members of a VM object that these fields need.
fn members_of(fields: &[&str]) -> Vec<String> {
    let mut members = Vec::new();
    for field in fields {
        match *field {
            "type" => members.push("brand"),
            "ram" => members.extend(["brand", "ram", "max_physical_memory"]),
            // A field is a whole member. No VM has a field with any other name.
            field if !field.contains('.') && Path::parse(field).is_ok() => {
                members.push(field);
            }
            _ => {}
        }
    }
    if members.is_empty() {
        members.push("uuid");
    }
    members.sort_unstable();
    members.dedup();
    members.into_iter().map(String::from).collect()
}

/// A VM as vmadm prints it: with `type`, and with `ram` if the memory is in
/// another member. With `fields`, only these.
fn shown(vm: &Object, fields: Option<&[&str]>) -> Object {
    let mut shown = vm.clone();
    shown.set("type", type_of(vm));
    let ram = ram_member(vm);
    if ram != "ram"
        && let Some(ram) = vm.get(ram)
    {
        shown.set("ram", ram.clone());
    }
    let Some(fields) = fields else { return shown };
    let wanted = shown.iter().filter(|(name, _)| fields.contains(name));
    let wanted =
        wanted.map(|(name, value)| (Key::Owned(name.into()), value.clone()));
    wanted.collect()
}
