//! Which zones exist: the zone index, zones that can't be read, and changes
//! that no sysevent reports.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use simhost::Host;
use simhost::emit::{Channel, records};
use simhost::xml::VmSpec;
use vminfod::vm::json::Json;

use crate::harness::{
    Daemon, Stream, TestHost, runs_of, text, wait_for, wait_for_errors,
};

/// No periodic reload: only an event can report a change.
pub const NO_REFRESH: [&str; 2] = ["--refresh-interval", "100000"];

/// The zone that the recorded cases are about.
pub const ZONE: &str = "0f0368dc-de82-4cf1-8d08-a0bda024ba38";

fn cases(kind: &str) -> Vec<(String, PathBuf)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = dir.join("tests/fixtures/cases").join(kind);
    let mut cases: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|e| (e.file_name().into_string().unwrap(), e.path()))
        .collect();
    cases.sort();
    assert!(!cases.is_empty());
    cases
}

/// A host with [`ZONE`] and two other VMs.
pub fn host_with_zone(autoboot: bool) -> TestHost {
    let host = TestHost::with_vms(2);
    let spec = VmSpec { uuid: ZONE.to_string(), autoboot, ..Host::spec(20) };
    host.create(&spec).unwrap();
    host
}

pub fn wait_for_vm(daemon: &Daemon, name: &str, is_so: impl Fn(&Json) -> bool) {
    wait_for(&format!("{name} is as expected"), || match daemon.vm(name) {
        Some(vm) if is_so(&vm) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

fn wait_until_gone(daemon: &Daemon, name: &str) {
    wait_for(&format!("{name} is gone"), || match daemon.vm(name) {
        None => Ok(()),
        Some(vm) => Err(vm.to_string()),
    });
}

pub fn is_state(state: &'static str) -> impl Fn(&Json) -> bool {
    move |vm| text(vm, "zone_state") == state
}

/// The types of the events that have been published of a VM so far, without
/// repetitions in a row.
pub fn kinds(daemon: &Daemon, stream: &mut Stream, name: &str) -> Vec<String> {
    let seq = daemon.status().get("seq").unwrap().as_u64().unwrap();
    stream.read_to(seq);
    let of_vm = stream.events.iter().filter(|e| text(e, "zonename") == name);
    let mut kinds: Vec<_> =
        of_vm.map(|e| text(e, "type").to_string()).collect();
    kinds.dedup();
    kinds
}

/// The VM of [`ZONE`], without the time of its newest file, which changes when
/// a file is mended.
fn without_time(daemon: &Daemon) -> String {
    let vm = daemon.vm(ZONE).unwrap();
    let mut vm = vm.as_object().unwrap().clone();
    vm.remove("last_modified");
    Json::from(vm).to_string()
}

#[test]
fn a_vm_with_an_invalid_xml_keeps_its_last_good_version() {
    for autoboot in [true, false] {
        let host = host_with_zone(autoboot);
        let daemon = host.start_with(&NO_REFRESH);
        let mut stream = daemon.events();
        let good = fs::read_to_string(host.xml_path(ZONE)).unwrap();
        let before = without_time(&daemon);
        for (case, path) in cases("xml") {
            if ["valid.xml", "two-attrs-of-one-name.xml"].contains(&&*case) {
                continue;
            }
            let bytes = fs::read(path).unwrap();
            fs::write(host.xml_path(ZONE), bytes).unwrap();
            wait_for_errors(&daemon, &[format!("{ZONE} zonexml")]);
            // Neither a sync of this VM nor a full reload changes it.
            daemon.get(&format!("/vms/{ZONE}?sync=1&timeout=20"));
            daemon.get("/vms?sync=1&timeout=20");
            assert_eq!(without_time(&daemon), before, "{case}");
            fs::write(host.xml_path(ZONE), &good).unwrap();
            wait_for_errors(&daemon, &[]);
        }
        let kinds = kinds(&daemon, &mut stream, ZONE);
        assert!(kinds.iter().all(|kind| kind == "modify"), "{kinds:?}");
        for event in &stream.events {
            for change in event.get("changes").unwrap().as_array().unwrap() {
                assert_eq!(text(change, "prettyPath"), "last_modified");
            }
        }
    }
}

#[test]
fn a_vm_with_an_invalid_xml_is_followed_until_it_is_mended() {
    let host = host_with_zone(true);
    let daemon = host.start_with(&NO_REFRESH);
    let mut stream = daemon.events();
    let good = fs::read_to_string(host.xml_path(ZONE)).unwrap();
    let note = "<attr name=\"note\" value=\"x\"/></zone>";
    host.replace_xml(ZONE, &good.replace("</zone>", note)).unwrap();
    wait_for_errors(&daemon, &[format!("{ZONE} zonexml")]);
    // Once it is stopped, zoneadm does not know it by its name.
    host.halt(ZONE, -1).unwrap();
    wait_for_vm(&daemon, ZONE, is_state("installed"));
    wait_for_errors(&daemon, &[format!("{ZONE} zonexml")]);
    let alias = simhost::xml::base64("mended");
    let mended = simhost::xml::set_attr(&good, "alias", Some(&alias));
    let begin = Instant::now();
    host.replace_xml(ZONE, &mended).unwrap();
    wait_for_vm(&daemon, ZONE, |vm| text(vm, "alias") == "mended");
    assert!(begin.elapsed() < Duration::from_secs(30));
    wait_for_errors(&daemon, &[]);
    let kinds = kinds(&daemon, &mut stream, ZONE);
    assert_eq!(kinds, ["modify"]);
    daemon.settle(&host);
}

#[test]
fn at_the_start_an_invalid_xml_is_served_with_a_fault() {
    let host = host_with_zone(false);
    let good = fs::read_to_string(host.xml_path(ZONE)).unwrap();
    let note = "<attr name=\"note\" value=\"x\"/></zone>";
    host.replace_xml(ZONE, &good.replace("</zone>", note)).unwrap();
    let other = host.zonenames().unwrap().remove(0);
    let other_xml = fs::read_to_string(host.xml_path(&other)).unwrap();
    fs::remove_file(host.xml_path(&other)).unwrap();
    let args = ["--refresh-interval", "0.2"];
    let daemon = host.start_with(&args);
    let mut wanted = [format!("{ZONE} zonexml"), format!("{other} zonexml")];
    wanted.sort();
    // A reload that finds the file unchanged does not forget the fault.
    for _ in 0..3 {
        wait_for_errors(&daemon, &wanted);
        let reloads = runs_of(&host, "list -p -c");
        wait_for("a reload", || match runs_of(&host, "list -p -c") {
            runs if runs > reloads + 1 => Ok(()),
            runs => Err(runs.to_string()),
        });
    }
    assert_eq!(text(&daemon.vm(ZONE).unwrap(), "alias"), "vm20");
    assert_eq!(daemon.vm(&other), None);
    let status = daemon.status();
    let errors = status.get("errors").unwrap().as_array().unwrap();
    let of = |name: &str| {
        let found = errors.iter().find(|e| text(e, "zonename") == name);
        text(found.unwrap(), "error").to_string()
    };
    let why = of(ZONE);
    assert!(why.contains("zonecfg refuses it: line "), "{why}");
    assert!(why.contains("<attr> lacks the attribute type"), "{why}");
    assert!(of(&other).contains("no such file"), "{}", of(&other));
    host.replace_xml(ZONE, &good).unwrap();
    host.replace_xml(&other, &other_xml).unwrap();
    wait_for_errors(&daemon, &[]);
    daemon.settle(&host);
}

#[test]
fn a_rename_without_a_sysevent_is_a_delete_and_a_create() {
    let host = host_with_zone(false);
    let daemon = host.start_with(&NO_REFRESH);
    let mut stream = daemon.events();
    host.rename(ZONE, "web").unwrap();
    wait_until_gone(&daemon, ZONE);
    wait_for_vm(&daemon, "web", |vm| text(vm, "uuid") == ZONE);
    wait_for_errors(&daemon, &[]);
    assert_eq!(kinds(&daemon, &mut stream, ZONE), ["delete"]);
    assert_eq!(kinds(&daemon, &mut stream, "web"), ["create"]);
    daemon.settle(&host);
    // The files are watched for the new zonename.
    host.update("web", "alias", "renamed").unwrap();
    wait_for_vm(&daemon, "web", |vm| text(vm, "alias") == "renamed");
    // In between, no fault of a duplicate uuid was logged.
    let log = daemon.log().join("\n");
    assert!(!log.contains("has the same"), "{log}");
}

#[test]
fn a_changed_uuid_without_a_sysevent_is_a_new_vm() {
    let host = host_with_zone(true);
    let daemon = host.start_with(&NO_REFRESH);
    let mut stream = daemon.events();
    let new = "11111111-2222-4333-8444-555555555555";
    host.set_uuid(ZONE, new).unwrap();
    wait_for_vm(&daemon, ZONE, |vm| text(vm, "uuid") == new);
    // zonecfg writes the XML first, so its time may have been published before.
    let mut kinds = kinds(&daemon, &mut stream, ZONE);
    kinds.retain(|kind| kind != "modify");
    assert_eq!(kinds, ["delete", "create"]);
    daemon.settle(&host);
}

#[test]
fn half_done_operations_are_served_as_they_stand() {
    let host = host_with_zone(false);
    let daemon = host.start_with(&NO_REFRESH);
    let mut stream = daemon.events();
    let published = host.published();
    // A zone that is configured, and that no event ever reports.
    let spec = Host::spec(30);
    assert!(host.killed_after(2).create(&spec).is_err());
    wait_for_vm(&daemon, &spec.uuid, is_state("configured"));
    // A zone that is marked.
    assert!(host.killed_after(1).mark(ZONE, "incomplete").is_err());
    wait_for_vm(&daemon, ZONE, is_state("incomplete"));
    assert_eq!(host.published(), published);
    // Two zones that are deleted, one of which still has its XML.
    assert!(host.killed_after(1).zonecfg_delete(ZONE).is_err());
    assert!(host.xml_path(ZONE).exists());
    wait_until_gone(&daemon, ZONE);
    assert!(host.killed_after(2).zonecfg_delete(&spec.uuid).is_err());
    wait_until_gone(&daemon, &spec.uuid);
    assert_eq!(host.published(), published);
    assert_eq!(kinds(&daemon, &mut stream, ZONE), ["modify", "delete"]);
    wait_for_errors(&daemon, &[]);
    daemon.settle(&host);
}

#[test]
fn a_broken_or_missing_index_deletes_no_vm() {
    let host = host_with_zone(false);
    let daemon = host.start_with(&NO_REFRESH);
    let index = host.path("/etc/zones/index");
    let good = fs::read_to_string(&index).unwrap();
    let vms = daemon.vms();
    let mut stream = daemon.events();
    let others: Vec<_> = cases("index")
        .into_iter()
        .filter(|(name, _)| name == "no-global")
        .map(|(_, path)| fs::read_to_string(path).unwrap())
        .collect();
    assert_eq!(others.len(), 1);
    let half = good.lines().skip(2).fold(String::new(), |t, l| t + l + "\n");
    for text in ["", "\n", &half, &others[0]] {
        fs::write(&index, text).unwrap();
        wait_for_errors(&daemon, &[" index".to_string()]);
        daemon.get("/vms?sync=1&timeout=1");
        daemon.get(&format!("/vms/{ZONE}?sync=1&timeout=5"));
        assert_eq!(daemon.vms(), vms);
        fs::write(&index, &good).unwrap();
        wait_for_errors(&daemon, &[]);
    }
    fs::remove_file(&index).unwrap();
    wait_for_errors(&daemon, &[" index".to_string()]);
    assert_eq!(daemon.vms(), vms);
    fs::write(&index, &good).unwrap();
    wait_for_errors(&daemon, &[]);
    assert_eq!(kinds(&daemon, &mut stream, ZONE), [""; 0]);
    daemon.settle(&host);
}

#[test]
fn a_truncated_zone_listing_deletes_no_vm() {
    let host = TestHost::with_vms(30);
    let daemon = host.start_with(&NO_REFRESH);
    let vms = daemon.vms();
    let mut stream = daemon.events();
    let seq = stream.seq;
    for lines in ["short 1", "short 20", "short 30"] {
        host.hurt("zoneadm", lines).unwrap();
        daemon.get("/vms?sync=1&timeout=2");
        assert_eq!(daemon.vms(), vms, "{lines}");
    }
    host.hurt("zoneadm", "heal").unwrap();
    assert_eq!(daemon.get("/vms?sync=1").status, 200);
    wait_for_errors(&daemon, &[]);
    stream.read_to(seq);
    assert_eq!(daemon.status().get("seq").unwrap().as_u64(), Some(seq));
}

#[test]
fn a_running_zone_without_an_index_line_is_still_served() {
    let host = host_with_zone(true);
    let daemon = host.start_with(&NO_REFRESH);
    let mut stream = daemon.events();
    host.edit_index(ZONE, |entry| entry.zonename = "other".into()).unwrap();
    fs::remove_file(host.xml_path(ZONE)).unwrap();
    let [zoneadm, zonexml] =
        ["zoneadm", "zonexml"].map(|source| format!("{ZONE} {source}"));
    wait_for_errors(&daemon, &[zoneadm, zonexml, "other zonexml".to_string()]);
    assert_eq!(kinds(&daemon, &mut stream, ZONE), [""; 0]);
}

#[test]
fn a_rollback_of_the_configuration_reloads_everything() {
    let host = host_with_zone(false);
    host.snapshot_config("zones", "before").unwrap();
    let spec = Host::spec(31);
    host.create(&spec).unwrap();
    host.update(ZONE, "alias", "after").unwrap();
    let daemon = host.start_with(&NO_REFRESH);
    assert!(daemon.vm(&spec.uuid).is_some());
    host.stop(&spec.uuid, -1).unwrap();
    let reloads = || {
        let status = daemon.get("/status?full=true").json();
        let log = status.get("refreshLog").unwrap().as_array().unwrap();
        log.iter().map(Json::to_string).collect::<Vec<_>>()
    };
    host.zfs_rollback("zones/config", "before").unwrap();
    wait_for("everything is reloaded", || {
        let log = reloads();
        let is_so = log.iter().any(|r| r.contains("clone swap zones/config"));
        if is_so { Ok(()) } else { Err(format!("{log:?}")) }
    });
    wait_until_gone(&daemon, &spec.uuid);
    wait_for_vm(&daemon, ZONE, |vm| text(vm, "alias") == "vm20");
    wait_for_errors(&daemon, &[]);
}

#[test]
fn a_debug_id_that_a_boot_changes_does_not_make_a_new_vm() {
    let host = host_with_zone(false);
    let daemon = host.start_with(&NO_REFRESH);
    let taken = daemon.vms();
    let taken = taken.as_array().unwrap()[0].get("zonedid").unwrap();
    let taken = taken.to_string();
    host.edit_xml(ZONE, |xml| {
        simhost::xml::set_zone_attribute(xml, "debugid", &taken)
    })
    .unwrap();
    daemon.settle(&host);
    let mut stream = daemon.events();
    host.boot(ZONE).unwrap();
    let vms = daemon.settle(&host);
    let vms = vms.as_array().unwrap().iter();
    let own = vms.filter(|vm| text(vm, "zonename") == ZONE);
    let own: Vec<_> = own.map(|vm| vm.get("zonedid").unwrap()).collect();
    assert_ne!(own[0].to_string(), taken);
    assert_eq!(kinds(&daemon, &mut stream, ZONE), ["modify"]);
}

#[test]
fn a_zone_that_hangs_in_down_is_polled_with_zoneadm_only() {
    let host = host_with_zone(true);
    let args = ["--set", "passing-first=0.05", "--set", "passing-last=0.1"];
    let daemon = host.start_with(&[&args[..], &NO_REFRESH].concat());
    host.halt_without_release(ZONE).unwrap();
    wait_for_vm(&daemon, ZONE, is_state("down"));
    daemon.settle(&host);
    let runs = |command: &str| runs_of(&host, command);
    // The runs that `settle` itself has caused are over.
    let (zoneadm, others) = (runs("-z "), runs("kstat ") + runs("zfs "));
    wait_for("it is looked at", || match runs("-z ") {
        n if n > zoneadm + 5 => Ok(()),
        n => Err(n.to_string()),
    });
    assert_eq!(runs("kstat ") + runs("zfs "), others);
    // It leaves the kernel, and no event ever says so.
    assert!(host.killed_after(1).release(ZONE).is_err());
    wait_for_vm(&daemon, ZONE, is_state("installed"));
    daemon.settle(&host);
}

#[test]
fn the_zone_id_from_before_a_halt_does_not_stay() {
    let host = host_with_zone(true);
    // With a shorter `stuck-time`, the load would go on without zoneadm, and
    // the zone would be loaded again anyway.
    let args = [
        "--set",
        "passing-first=0.05",
        "--set",
        "passing-last=0.1",
        "--set",
        "stuck-time=20",
    ];
    let daemon = host.start_with(&[&args[..], &NO_REFRESH].concat());
    host.halt_without_release(ZONE).unwrap();
    wait_for_vm(&daemon, ZONE, is_state("down"));
    // zoneadm has read the zone's id, and not its state yet.
    host.hurt("zoneadm", "halfway 2").unwrap();
    let held = host.path("/sim/held");
    wait_for("zoneadm waits", || match held.exists() {
        true => Ok(()),
        false => Err("it does not".to_string()),
    });
    assert!(host.killed_after(1).release(ZONE).is_err());
    host.hurt("zoneadm", "heal").unwrap();
    wait_for_vm(&daemon, ZONE, is_state("installed"));
    daemon.settle(&host);
}

#[test]
fn snapshots_of_pools_and_delegated_datasets_run_no_zfs() {
    let host = host_with_zone(true);
    let daemon = host.start_with(&NO_REFRESH);
    daemon.settle(&host);
    let before = runs_of(&host, "zfs ");
    host.zfs_snapshot("zones", "backup", false).unwrap();
    host.zfs_destroy("zones@backup").unwrap();
    // A tenant works in the delegated dataset.
    for name in ["a", "a/b"] {
        let name = format!("zones/{ZONE}/data/{name}");
        host.zfs_create(&name, None, &[]).unwrap();
        host.zfs_snapshot(&name, "s", false).unwrap();
    }
    wait_for("the events were read", || {
        let status = daemon.status();
        let zfs = status.get("sources").unwrap().get("zfs").unwrap();
        let events = zfs.get("events").and_then(Json::as_u64);
        if events >= Some(6) { Ok(()) } else { Err(format!("{events:?}")) }
    });
    let path = format!("/vms/{ZONE}?wait=tags.x=1");
    host.write_config(ZONE, "tags.json", "{\"x\":1}").unwrap();
    assert_eq!(daemon.get(&path).status, 200);
    assert_eq!(runs_of(&host, "zfs "), before);
}

#[test]
fn a_vm_whose_brand_is_not_installed_is_served() {
    let host = host_with_zone(true);
    let brand = host.path("/usr/lib/brand/joyent/platform.xml");
    fs::remove_file(brand).unwrap();
    let daemon = host.start_with(&NO_REFRESH);
    host.halt(ZONE, -1).unwrap();
    wait_for_vm(&daemon, ZONE, is_state("installed"));
    daemon.settle(&host);
    wait_for_errors(&daemon, &[]);
}

#[test]
fn a_new_zone_with_an_unreadable_xml_gets_nothing_of_the_old() {
    let host = host_with_zone(false);
    let daemon = host.start_with(&NO_REFRESH);
    let before = daemon.vm(ZONE).unwrap();
    let mut events = daemon.events();
    // The zone is deleted and made again while zoneadm does not answer.
    host.hurt("zoneadm", "block").unwrap();
    host.delete(ZONE).unwrap();
    let spec = VmSpec {
        uuid: ZONE.to_string(),
        autoboot: false,
        debugid: 4711,
        ..Host::spec(21)
    };
    host.create(&spec).unwrap();
    let good = fs::read_to_string(host.xml_path(ZONE)).unwrap();
    host.replace_xml(ZONE, "<zone").unwrap();
    let told = records(host.root(), Channel::Zone).len();
    wait_for("the daemon has heard of it", || {
        let status = daemon.status();
        let zone = status.get("sources").unwrap().get("zone").unwrap();
        match zone.get("events").and_then(Json::as_u64) {
            Some(n) if n >= 6 && told >= 6 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    host.hurt("zoneadm", "heal").unwrap();
    wait_until_gone(&daemon, ZONE);
    wait_for_errors(&daemon, &[format!("{ZONE} zonexml")]);
    host.replace_xml(ZONE, &good).unwrap();
    wait_for_vm(&daemon, ZONE, |vm| text(vm, "alias") == "vm21");
    let after = daemon.vm(ZONE).unwrap();
    assert_ne!(after.get("create_timestamp"), before.get("create_timestamp"));
    daemon.settle(&host);
    // The old and the new zone each have their own transitions.
    let seq = daemon.status().get("seq").and_then(Json::as_u64).unwrap();
    let told: Vec<_> = events
        .read_to(seq)
        .iter()
        .map(|event| {
            let vm = event.get("vm");
            let state = vm.and_then(|vm| vm.get("zone_state")?.as_str());
            format!("{} {}", text(event, "type"), state.unwrap_or("-"))
        })
        .collect();
    let end = told.iter().position(|told| told == "delete -").unwrap();
    let begin = &told[end + 1..];
    let wanted = ["create configured", "modify incomplete", "modify installed"];
    assert!(begin.iter().take(3).eq(wanted), "{told:?}");
}

#[test]
fn a_zone_that_boots_again_does_not_keep_its_kstat_while_kstat_fails() {
    let host = host_with_zone(true);
    let daemon = host.start_with(&NO_REFRESH);
    let pid = daemon.vm(ZONE).unwrap().get("pid").cloned();
    // zoneadm is held, so that no state in between is seen.
    host.hurt("kstat", "fail broken").unwrap();
    host.hurt("zoneadm", "block").unwrap();
    host.reboot(ZONE).unwrap();
    host.hurt("zoneadm", "heal").unwrap();
    let zoneid = u64::try_from(host.zoneid(ZONE).unwrap()).unwrap();
    let is_up_again = |vm: &Json| {
        vm.get("zoneid").and_then(Json::as_u64) == Some(zoneid)
            && is_state("running")(vm)
    };
    wait_for_vm(&daemon, ZONE, is_up_again);
    let vm = daemon.vm(ZONE).unwrap();
    assert!(vm.get("pid").is_none_or(|now| Some(now) != pid.as_ref()), "{vm}");
    host.hurt("kstat", "heal").unwrap();
    wait_for_errors(&daemon, &[]);
    assert_eq!(daemon.vms(), host.dumped());
}
