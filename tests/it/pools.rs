//! Pools: a fault of a pool affects only the VMs that are on it, and only what
//! zfs says of them.

use std::fs;

use simhost::Host;
use simhost::xml::VmSpec;
use vminfod::vm::json::Json;

use crate::harness::{
    Daemon, TestHost, errors, runs_of, text, wait_for, wait_for_errors,
    wait_for_member,
};
use crate::zones::wait_for_vm;

/// No periodic reload: only retries can end a fault.
const NO_REFRESH: [&str; 6] = [
    "--refresh-interval",
    "100000",
    "--command-timeout",
    "1",
    "--set",
    "retry-last=1",
];

/// A load waits for a command however long it takes.
const PATIENT: [&str; 6] = [
    "--refresh-interval",
    "100000",
    "--command-timeout",
    "1000",
    "--set",
    "stuck-time=1000",
];

/// A host with two VMs on `zones`, and two on `tank`; returns the names of
/// those on `tank`, too.
fn two_pools() -> (TestHost, Vec<String>) {
    let host = TestHost::with_vms(2);
    host.zpool_create("tank").unwrap();
    host.zpool_create("backup").unwrap();
    let of_tank = [30, 31].map(|n| {
        let spec = VmSpec { pool: "tank".to_string(), ..Host::spec(n) };
        host.create(&spec).unwrap();
        spec.uuid
    });
    (host, of_tank.to_vec())
}

fn quota(daemon: &Daemon, name: &str) -> Option<f64> {
    daemon.vm(name)?.get("quota").and_then(Json::as_f64)
}

fn wait_for_quota(daemon: &Daemon, name: &str, wanted: f64) {
    wait_for(&format!("the quota of {name}"), || {
        let quota = quota(daemon, name);
        if quota == Some(wanted) { Ok(()) } else { Err(format!("{quota:?}")) }
    });
}

/// Waits until a VM, and no other, waits for a command.
fn wait_for_waiting(daemon: &Daemon, name: &str) {
    wait_for(&format!("{name} waits"), || {
        let status = daemon.status().to_string();
        let waiting = format!("\"waiting\":[\"{name}\"]");
        if status.contains(&waiting) { Ok(()) } else { Err(status) }
    });
}

/// Waits until exactly these VMs have a fault of zfs, and there is no other
/// fault.
fn wait_for_faults_of(daemon: &Daemon, names: &[String]) {
    let mut wanted: Vec<_> =
        names.iter().map(|name| format!("{name} zfs")).collect();
    wanted.sort();
    wait_for_errors(daemon, &wanted);
}

#[test]
fn zfs_never_asks_for_a_pool_without_vms() {
    let (host, of_tank) = two_pools();
    host.hurt("zfs:backup", "hang").unwrap();
    let daemon = host.start_with(&NO_REFRESH);
    host.update(&of_tank[0], "quota", "77").unwrap();
    wait_for_quota(&daemon, &of_tank[0], 77.0);
    wait_for_errors(&daemon, &[]);
    for run in host.runs() {
        assert!(!run.contains("backup"), "{run}");
    }
    assert!(runs_of(&host, "-d 2 tank") > 0);
    assert!(runs_of(&host, "-d 2 zones") > 0);
}

#[test]
fn vms_on_a_broken_pool_are_served_without_datasets_at_start() {
    for fault in ["suspended", "exported", "hang", "cut 1"] {
        let (host, of_tank) = two_pools();
        let whole = host.dumped();
        host.hurt("zfs:tank", fault).unwrap();
        let args = [&NO_REFRESH[..], &["--set", "list-time=0.5"]].concat();
        let daemon = host.start_with(&args);
        wait_for_faults_of(&daemon, &of_tank);
        for vm in whole.as_array().unwrap() {
            let name = text(vm, "zonename");
            let served = daemon.vm(name).unwrap();
            let is_hurt = of_tank.iter().any(|hurt| hurt == name);
            // A list that is cut may still have everything about a VM.
            if !(is_hurt && fault == "cut 1") {
                assert_eq!(served != *vm, is_hurt, "{fault}: {served}");
            }
            assert_eq!(served.get("alias"), vm.get("alias"));
            assert_eq!(served.get("zone_state"), vm.get("zone_state"));
        }
        let status = daemon.status().to_string();
        assert!(!status.contains("\"host"), "{status}");
        if fault != "hang" {
            let dumped = String::from_utf8(host.dump().stderr).unwrap();
            let told = of_tank.iter().all(|name| dumped.contains(&**name));
            assert!(told, "{fault}: {dumped}");
        }
        host.hurt("zfs:tank", "heal").unwrap();
        daemon.settle(&host);
        wait_for_errors(&daemon, &[]);
    }
}

#[test]
fn vms_on_a_broken_pool_keep_their_last_dataset_values() {
    let (host, of_tank) = two_pools();
    let of_zones = host.vm_of("joyent");
    let daemon = host.start_with(&NO_REFRESH);
    let before: Vec<_> =
        of_tank.iter().map(|name| daemon.vm(name).unwrap()).collect();
    for fault in ["suspended", "exported", "hang", "cut 1"] {
        host.hurt("zfs:tank", fault).unwrap();
        for name in &of_tank {
            let seen = daemon.get(&format!("/vms/{name}?sync=1&timeout=0.5"));
            assert!([200, 504].contains(&seen.status), "{}", seen.text());
        }
        wait_for_faults_of(&daemon, &of_tank);
        host.update(&of_zones, "quota", "55").unwrap();
        wait_for_quota(&daemon, &of_zones, 55.0);
        host.update(&of_zones, "quota", "56").unwrap();
        wait_for_quota(&daemon, &of_zones, 56.0);
        for (name, before) in of_tank.iter().zip(&before) {
            assert_eq!(&daemon.vm(name).unwrap(), before, "{fault}");
        }
        host.hurt("zfs:tank", "heal").unwrap();
        wait_for_errors(&daemon, &[]);
        daemon.settle(&host);
    }
}

#[test]
fn a_damaged_dataset_affects_no_other_vm() {
    let host = TestHost::with_vms(9);
    let vms = host.dumped();
    let names: Vec<_> = vms
        .as_array()
        .unwrap()
        .iter()
        .filter(|vm| text(vm, "brand") == "joyent")
        .map(|vm| text(vm, "zonename").to_string())
        .collect();
    let (bad, good) = names.split_first().unwrap();
    host.snapshot(bad, "kept").unwrap();
    let daemon = host.start_with(&NO_REFRESH);
    let before = daemon.vm(bad).unwrap();
    host.hurt(&format!("zfs:zones/{bad}@vmsnap-kept"), "io-error").unwrap();
    // A full reload lists all VMs in one run.
    assert_eq!(daemon.get("/vms?sync=1&timeout=1").status, 504);
    wait_for_faults_of(&daemon, std::slice::from_ref(bad));
    for name in good {
        host.update(name, "quota", "66").unwrap();
    }
    for name in good {
        wait_for_quota(&daemon, name, 66.0);
    }
    assert_eq!(daemon.vm(bad).unwrap(), before);
    assert_eq!(errors(&daemon), [format!("{bad} zfs")]);
    host.hurt(&format!("zfs:zones/{bad}@vmsnap-kept"), "heal").unwrap();
    daemon.settle(&host);
    wait_for_errors(&daemon, &[]);
}

#[test]
fn the_commands_of_one_load_run_side_by_side() {
    let host = TestHost::with_vms(3);
    let name = host.vm_of("joyent");
    let daemon = host.start_with(&PATIENT);
    daemon.settle(&host);
    let ran = |words: &str| runs_of(&host, words);
    let before = (ran("kstat "), ran("zfs list"));
    host.hurt("zoneadm", "block").unwrap();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| daemon.get(&format!("/vms/{name}?sync=1")));
        wait_for("kstat and zfs run while zoneadm has not answered", || {
            let now = (ran("kstat "), ran("zfs list"));
            let both = now.0 > before.0 && now.1 > before.1;
            if both { Ok(()) } else { Err(format!("{now:?}")) }
        });
        host.hurt("zoneadm", "heal").unwrap();
        assert_eq!(asked.join().unwrap().status, 200);
    });
    daemon.settle(&host);
    wait_for_errors(&daemon, &[]);
}

#[test]
fn for_a_new_vm_zfs_runs_before_zoneadm_has_answered() {
    let host = TestHost::with_vms(2);
    let daemon = host.start_with(&PATIENT);
    daemon.settle(&host);
    host.hurt("zoneadm", "block").unwrap();
    let mut specs = (40..50).map(Host::spec);
    let spec = specs.find(|spec| spec.brand == "kvm").unwrap();
    host.create(&spec).unwrap();
    let disk = format!("zones/{}-disk0", spec.uuid);
    for words in [disk, format!("-d 1 zones/{}", spec.uuid)] {
        wait_for(
            "zfs is run while zoneadm has not answered",
            || match runs_of(&host, &words) {
                0 => Err(words.clone()),
                _ => Ok(()),
            },
        );
    }
    assert!(daemon.vm(&spec.uuid).is_none());
    host.hurt("zoneadm", "heal").unwrap();
    wait_for_vm(&daemon, &spec.uuid, |vm| vm.get("quota").is_some());
    daemon.settle(&host);
    wait_for_errors(&daemon, &[]);
}

#[test]
fn a_new_vm_on_a_hanging_pool_gets_its_datasets_later() {
    let (host, of_tank) = two_pools();
    let name = &of_tank[0];
    let args = ["--set", "stuck-time=0.2"];
    let daemon = host.start_with(&[&NO_REFRESH[..], &args].concat());
    daemon.settle(&host);
    host.hurt("zfs:tank", "block").unwrap();
    let new = "11111111-2222-4333-8444-555555555555";
    host.set_uuid(name, new).unwrap();
    wait_for_vm(&daemon, name, |vm| text(vm, "uuid") == new);
    wait_for_waiting(&daemon, name);
    host.hurt("zfs:tank", "heal").unwrap();
    wait_for_vm(&daemon, name, |vm| vm.get("quota").is_some());
    daemon.settle(&host);
    wait_for_errors(&daemon, &[]);
}

#[test]
fn files_of_a_new_zone_are_not_published_for_the_old_one() {
    let host = TestHost::with_vms(3);
    let name = host.vm_of("joyent");
    let args = ["--set", "stuck-time=0.2"];
    let daemon = host.start_with(&[&NO_REFRESH[..], &args].concat());
    let mut stream = daemon.events();
    let old = daemon.vm(&name).unwrap();
    host.hurt("zoneadm", "block").unwrap();
    let xml = fs::read_to_string(host.xml_path(&name)).unwrap();
    let attr = "name=\"create-timestamp\" type=\"string\" value=\"";
    let (before, after) = xml.split_once(attr).unwrap();
    let (_, after) = after.split_once('"').unwrap();
    let time = "2026-01-02T03:04:05.678Z";
    host.replace_xml(&name, &format!("{before}{attr}{time}\"{after}")).unwrap();
    wait_for_waiting(&daemon, &name);
    let jobs =
        || daemon.metric("vminfod_job_duration_seconds_count{kind=\"files\"}");
    let before = jobs();
    host.write_config(&name, "tags.json", "{\"of\":\"new\"}").unwrap();
    wait_for("the tags are looked at", || match jobs() {
        jobs if jobs > before => Ok(()),
        jobs => Err(jobs.to_string()),
    });
    assert_eq!(daemon.vm(&name).unwrap(), old);
    host.hurt("zoneadm", "heal").unwrap();
    wait_for_vm(&daemon, &name, |vm| {
        vm.get("tags").unwrap().to_string() == "{\"of\":\"new\"}"
    });
    let kinds = crate::zones::kinds(&daemon, &mut stream, &name);
    assert_eq!(kinds, ["delete", "create"]);
    daemon.settle(&host);
}

#[test]
fn snapshots_stay_if_their_dataset_was_not_listed() {
    let host = TestHost::with_vms(2);
    let daemon = host.start_with(&NO_REFRESH);
    let names = host.zonenames().unwrap();
    let snapshots = || daemon.vm(&names[0])?.get("snapshots").cloned();
    let before = snapshots();
    let count = before.as_ref().and_then(Json::as_array).map(<[_]>::len);
    assert_eq!(count, Some(1), "{before:?}");
    // The dataset itself is listed by the other run, with its new quota.
    host.hurt("zfs", "empty-walk").unwrap();
    host.update(&names[0], "quota", "77").unwrap();
    wait_for_faults_of(&daemon, &names[..1]);
    assert_eq!(snapshots(), before);
    host.hurt("zfs", "heal").unwrap();
    wait_for_quota(&daemon, &names[0], 77.0);
    assert_eq!(snapshots(), before);
    wait_for_faults_of(&daemon, &[]);
}

#[test]
fn a_vm_that_is_not_installed_keeps_its_datasets_while_its_pool_is_away() {
    let (host, _) = two_pools();
    let pool = "tank".to_string();
    let spec = VmSpec { pool, delegated: false, ..Host::spec(34) };
    assert_eq!(spec.disks.len(), 0);
    host.create(&spec).unwrap();
    let daemon = host.start_with(&NO_REFRESH);
    let name = &spec.uuid;
    host.stop(name, 0).unwrap();
    host.detach(name).unwrap();
    wait_for_member(&daemon, name, "zone_state", "\"configured\"");
    daemon.settle(&host);
    let before = daemon.vm(name).unwrap();
    assert!(before.get("quota").is_some(), "{before}");
    host.hurt("zfs:tank", "exported").unwrap();
    assert_eq!(
        daemon.get(&format!("/vms/{name}?sync=1&timeout=1")).status,
        504
    );
    wait_for_faults_of(&daemon, std::slice::from_ref(name));
    assert_eq!(daemon.vm(name).unwrap(), before);
    host.hurt("zfs:tank", "heal").unwrap();
    daemon.settle(&host);
    wait_for_errors(&daemon, &[]);
}

#[test]
fn a_damaged_dataset_causes_no_fault_of_a_protected_vm() {
    let host = TestHost::with_vms(20);
    let vms = host.dumped();
    let vms = vms.as_array().unwrap();
    let names = || vms.iter().map(|vm| text(vm, "zonename"));
    for vm in vms.iter().filter(|vm| vm.get("datasets").is_some()) {
        let data = format!("zones/{}/data", text(vm, "zonename"));
        if vm.get("indestructible_delegated").is_none() {
            host.zfs_snapshot(&data, "indestructible", false).unwrap();
            host.zfs_hold(&format!("{data}@indestructible"), true).unwrap();
        }
    }
    for bad in names().step_by(3) {
        host.zfs_snapshot(&format!("zones/{bad}"), "kept", false).unwrap();
        let hurt = format!("zfs:zones/{bad}@kept");
        host.hurt(&hurt, "io-error").unwrap();
        let told = String::from_utf8(host.dump().stderr).unwrap();
        host.hurt(&hurt, "heal").unwrap();
        let faulty: Vec<_> =
            names().filter(|name| told.contains(*name)).collect();
        assert_eq!(faulty, [bad], "{told}");
    }
}

#[test]
fn what_is_below_a_volume_does_not_matter() {
    let host = TestHost::with_vms(5);
    let (name, other) = (host.vm_of("kvm"), host.vm_of("lx"));
    let volume = format!("zones/{name}-disk0");
    host.zfs_snapshot(&volume, "vmsnap-a", false).unwrap();
    let daemon = host.start_with(&NO_REFRESH);
    host.hurt(&format!("zfs:{volume}@vmsnap-a"), "io-error").unwrap();
    host.update(&name, "quota", "33").unwrap();
    wait_for_quota(&daemon, &name, 33.0);
    wait_for_errors(&daemon, &[]);
    host.hurt(&format!("zfs:{volume}@vmsnap-a"), "heal").unwrap();
    // A disk's path may be any text. It must not have other VMs' datasets
    // listed in another way.
    let xml = host.path(&format!("/etc/zones/{other}.xml"));
    let text = fs::read_to_string(&xml).unwrap();
    let disks = [format!("{volume}@vmsnap-a"), "zones".to_string()];
    let disks = disks.map(|disk| simhost::xml::disk(&disk, 1, false)).concat();
    let text = text.replacen("</zone>", &format!("{disks}</zone>"), 1);
    let before = runs_of(&host, "-d 1 zones zones/");
    fs::write(xml.with_extension("new"), text).unwrap();
    fs::rename(xml.with_extension("new"), &xml).unwrap();
    host.update(&other, "quota", "44").unwrap();
    wait_for_quota(&daemon, &other, 44.0);
    host.update(&name, "quota", "34").unwrap();
    wait_for_quota(&daemon, &name, 34.0);
    assert_eq!(runs_of(&host, "-d 1 zones zones/"), before);
    let faulty = errors(&daemon);
    assert!(!faulty.iter().any(|fault| fault.contains(&*name)), "{faulty:?}");
}

#[test]
fn a_dataset_that_is_mounted_at_a_zonepath_becomes_that_of_the_zone() {
    let host = TestHost::with_vms(2);
    let zonename = host.zonenames().unwrap().remove(0);
    let daemon = host.start_with(&NO_REFRESH);
    host.zfs_rename(&format!("zones/{zonename}"), "zones/other").unwrap();
    wait_for_vm(&daemon, &zonename, |vm| vm.get("quota").is_none());
    let zonepath = format!("/zones/{zonename}");
    host.zfs_set("zones/other", "mountpoint", &zonepath).unwrap();
    wait_for_vm(&daemon, &zonename, |vm| vm.get("quota").is_some());
    wait_for_errors(&daemon, &[]);
    assert_eq!(daemon.vms(), host.dumped());
}
