//! Recordings of the reference daemon: whole hosts with the VM objects that it
//! serves for them, and pairs of objects with the changes that it reports.

use std::path::{Path, PathBuf};

use vminfod::vm::diff::{Change, diff};
use vminfod::vm::json::Json;

use crate::harness::{TestHost, text};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn read_json(path: &Path) -> Json {
    let text = std::fs::read_to_string(path).unwrap();
    Json::parse(&text).unwrap()
}

/// Compares VM by VM, and member by member. A zone whose name is no UUID may
/// have members from its kstats that the reference lacks: its reader of kstats
/// passes over such zones.
fn assert_conforms(vms: &Json, expected: &Json) {
    let (vms, expected) =
        (vms.as_array().unwrap(), expected.as_array().unwrap());
    assert_eq!(vms.len(), expected.len());
    for wanted in expected {
        let zonename = text(wanted, "zonename");
        let vm = vms.iter().find(|vm| text(vm, "zonename") == zonename);
        let vm = vm.unwrap_or_else(|| panic!("{zonename} is missing"));
        let (vm, wanted) =
            (vm.as_object().unwrap(), wanted.as_object().unwrap());
        for (name, value) in wanted.iter() {
            assert_eq!(vm.get(name), Some(value), "{zonename} {name}");
        }
        for (name, value) in vm.iter().filter(|(n, _)| !wanted.contains(n)) {
            let allowed = ["pid", "boot_timestamp", "init_restarts"];
            let odd = zonename == "lx-zone" && allowed.contains(&name);
            assert!(odd, "{zonename} has {name}: {value}");
        }
    }
}

fn hosts_conform(set: &str) {
    let recorded = fixture(set);
    let expected = read_json(&recorded.join("expected-vms.json"));
    let host = TestHost::recorded(&recorded.join("host"));
    let dumped = host.dumped();
    assert_conforms(&dumped, &expected);
    let daemon = host.start();
    let served = daemon.vms();
    assert_conforms(&served, &expected);
    // In the order of zoneadm, and byte for byte what a load without a daemon
    // gives.
    assert_eq!(served.to_string(), dumped.to_string());
}

#[test]
fn the_basic_host_is_served_as_recorded() {
    hosts_conform("objects-basic");
}

#[test]
fn the_host_of_edge_cases_is_served_as_recorded() {
    hosts_conform("objects-edge");
}

#[test]
fn all_recorded_changes_are_reported() {
    let cases = read_json(&fixture("diff.json"));
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 220);
    for case in cases {
        let object = |name: &str| case.get(name).unwrap().as_object().unwrap();
        let changes = diff(object("from"), object("to"));
        let mut told: Vec<Json> = changes.iter().map(Change::to_json).collect();
        for wanted in case.get("changes").unwrap().as_array().unwrap() {
            let at = told.iter().position(|t| t == wanted);
            let at = at.unwrap_or_else(|| {
                panic!("{case}\nlacks {wanted}\nhas {told:?}")
            });
            told.remove(at);
        }
        assert!(told.is_empty(), "{case}\nhas besides {told:?}");
    }
}
