//! The zone index: changes that only the index shows, and changes of the index
//! during a load.

use std::fs;

use simhost::emit::Channel;
use vminfod::vm::json::Json;

use crate::harness::{
    Daemon, TestHost, errors, runs_of, text, wait_for, wait_for_errors,
};
use crate::zones::{
    NO_REFRESH, ZONE, host_with_zone, is_state, kinds, wait_for_vm,
};

/// Replaces the zone index by rename, as zonecfg does.
fn replace_index(host: &TestHost, edit: impl Fn(&str) -> String) {
    let index = host.path("/etc/zones/index");
    let text = edit(&fs::read_to_string(&index).unwrap());
    let new = index.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, &index).unwrap();
}

/// The index with `state` as the state of [`ZONE`].
fn with_state(text: &str, state: &str) -> String {
    let line = |line: &str| match line.strip_prefix(ZONE) {
        Some(rest) => {
            let (_, rest) = rest[1..].split_once(':').unwrap();
            format!("{ZONE}:{state}:{rest}\n")
        }
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn a_changed_debug_id_in_the_index_does_not_hide_a_state() {
    let host = host_with_zone(true);
    let daemon = host.start_with(&NO_REFRESH);
    host.edit_index(ZONE, |entry| entry.debugid = Some(4711)).unwrap();
    host.replace_xml(ZONE, "<zone").unwrap();
    wait_for_errors(&daemon, &[format!("{ZONE} zonexml")]);
    host.halt(ZONE, 0).unwrap();
    wait_for_vm(&daemon, ZONE, is_state("installed"));
}

#[test]
fn a_running_zone_without_an_index_line_keeps_its_uuid() {
    const UUID: &str = "11111111-2222-4333-8444-555555555555";
    let host = host_with_zone(false);
    let other = host.vm_of("joyent");
    host.set_uuid(ZONE, UUID).unwrap();
    // Another VM has a uuid that is the name of this zone.
    host.stop(&other, 0).unwrap();
    host.set_uuid(&other, ZONE).unwrap();
    host.boot(ZONE).unwrap();
    let daemon = host.start_with(&NO_REFRESH);
    let has_uuid = |vm: &Json| text(vm, "uuid") == UUID;
    wait_for_vm(&daemon, ZONE, has_uuid);
    let mut stream = daemon.events();
    replace_index(&host, |text| {
        let others = text.lines().filter(|line| !line.starts_with(ZONE));
        others.map(|line| format!("{line}\n")).collect()
    });
    let seen = daemon.get(&format!("/vms/{ZONE}?sync=1"));
    assert_eq!(seen.status, 200);
    assert!(has_uuid(&seen.json()), "{}", seen.text());
    assert_eq!(kinds(&daemon, &mut stream, ZONE), [""; 0]);
    assert_eq!(text(&daemon.vm(&other).unwrap(), "uuid"), ZONE);
}

#[test]
fn a_uuid_that_zoneadm_does_not_give_comes_from_the_index() {
    const UUIDS: [&str; 2] = [
        "11111111-2222-4333-8444-555555555555",
        "11111111-2222-4333-8444-666666666666",
    ];
    let host = host_with_zone(true);
    let daemon = host.start_with(&NO_REFRESH);
    // zoneadm reads only the first line of the index. It still lists the zones
    // that run, but without their uuids.
    host.hurt("zoneadm", "short 1").unwrap();
    host.set_uuid(ZONE, UUIDS[0]).unwrap();
    wait_for_vm(&daemon, ZONE, |vm| text(vm, "uuid") == UUIDS[0]);
    host.set_uuid(ZONE, UUIDS[1]).unwrap();
    assert_eq!(daemon.get("/vms?sync=1").status, 200);
    wait_for_vm(&daemon, ZONE, |vm| text(vm, "uuid") == UUIDS[1]);
    drop(daemon);
    let daemon = host.start_with(&NO_REFRESH);
    wait_for_vm(&daemon, ZONE, |vm| text(vm, "uuid") == UUIDS[1]);
    // Without the index it is not known whether the zone has another uuid now.
    // All else that zoneadm says is known.
    let index = host.path("/etc/zones/index");
    let away = index.with_extension("away");
    fs::rename(&index, &away).unwrap();
    let answer = daemon.get(&format!("/vms/{ZONE}?sync=1&timeout=2"));
    assert_eq!(answer.status, 504);
    wait_for_errors(&daemon, &[" index".to_string(), format!("{ZONE} index")]);
    fs::rename(&away, &index).unwrap();
    wait_for_errors(&daemon, &[]);
    assert_eq!(text(&daemon.vm(ZONE).unwrap(), "uuid"), UUIDS[1]);
}

#[test]
fn a_reboot_is_published_in_order_while_nobody_can_read_the_index() {
    let host = host_with_zone(true);
    let args = [&NO_REFRESH[..], &["--set", "index-bytes=10"]].concat();
    let daemon = host.start_with(&args);
    let mut stream = daemon.events();
    host.hurt("zoneadm", "short 1").unwrap();
    host.reboot(ZONE).unwrap();
    let zoneid = u64::try_from(host.zoneid(ZONE).unwrap()).unwrap();
    wait_for_vm(&daemon, ZONE, |vm| {
        vm.get("zoneid").and_then(Json::as_u64) == Some(zoneid)
            && is_state("running")(vm)
    });
    host.hurt("zoneadm", "heal").unwrap();
    wait_for_errors(&daemon, &[" index".to_string()]);
    let vms = wait_for("all reports are published", || {
        let seq = daemon.status().get("seq").unwrap().as_u64().unwrap();
        stream.read_to(seq);
        let own = stream.events.iter().filter(|e| text(e, "zonename") == ZONE);
        let vms: Vec<_> = own.filter_map(|e| e.get("vm").cloned()).collect();
        let mut states = vms.iter().map(|vm| text(vm, "zone_state"));
        let mut reported = ["shutting_down", "ready", "running"].iter();
        match reported.all(|state| states.any(|found| found == *state)) {
            true => Ok(vms),
            false => Err(format!("{vms:?}")),
        }
    });
    // Nothing of the earlier boot comes after the later one has begun.
    let ids = vms.iter().filter_map(|vm| vm.get("zoneid")?.as_u64());
    assert!(ids.is_sorted(), "{vms:?}");
}

#[test]
fn a_running_zone_that_is_down_according_to_the_index_is_looked_at() {
    let host = host_with_zone(true);
    let daemon = host.start_with(&NO_REFRESH);
    wait_for_vm(&daemon, ZONE, is_state("running"));
    host.hurt("sysevent-zone", "drop").unwrap();
    host.halt(ZONE, -1).unwrap();
    host.mark(ZONE, "incomplete").unwrap();
    host.hurt("sysevent-zone", "heal").unwrap();
    wait_for_vm(&daemon, ZONE, is_state("incomplete"));
}

#[test]
fn a_change_of_the_index_during_a_full_reload_is_not_lost() {
    let host = host_with_zone(false);
    let daemon = host.start_with(&NO_REFRESH);
    for state in ["incomplete", "installed"] {
        host.hurt("zoneadm", "block").unwrap();
        let begun = runs_of(&host, "zoneadm list -p -c");
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| daemon.get("/vms?sync=1"));
            wait_for("all is being listed", || {
                let now = runs_of(&host, "zoneadm list -p -c");
                if now > begun { Ok(()) } else { Err(now.to_string()) }
            });
            host.hurt("zoneadm", "heal").unwrap();
            replace_index(&host, |text| with_state(text, state));
            assert_eq!(asked.join().unwrap().status, 200);
        });
        wait_for_vm(&daemon, ZONE, is_state(state));
    }
}

#[test]
fn a_uuid_that_changes_during_a_full_reload_of_a_faulty_vm_is_not_lost() {
    const UUID: &str = "11111111-2222-4333-8444-555555555555";
    let host = host_with_zone(false);
    // The event of the index comes after the reload.
    let late = [&NO_REFRESH[..], &["--set", "index-time=2"]].concat();
    let daemon = host.start_with(&late);
    host.write_config(ZONE, "tags.json", "{").unwrap();
    wait_for_errors(&daemon, &[format!("{ZONE} tags.json")]);
    host.hurt("zfs", "block").unwrap();
    let begun = runs_of(&host, "zfs list");
    host.kill_sysevent(Channel::Zfs).unwrap();
    wait_for("zoneadm has answered", || {
        let now = runs_of(&host, "zfs list");
        if now > begun { Ok(()) } else { Err(now.to_string()) }
    });
    host.edit_index(ZONE, |entry| entry.uuid = UUID.to_string()).unwrap();
    host.hurt("zfs", "heal").unwrap();
    wait_for_vm(&daemon, ZONE, |vm| text(vm, "uuid") == UUID);
}

#[test]
fn a_change_of_the_index_during_the_load_of_its_zone_is_not_lost() {
    let host = host_with_zone(false);
    let daemon = host.start_with(&NO_REFRESH);
    let begun = runs_of(&host, &format!("-z {ZONE} list"));
    host.hurt("zoneadm", "block").unwrap();
    replace_index(&host, |text| with_state(text, "incomplete"));
    wait_for("the zone is being loaded", || {
        let now = runs_of(&host, &format!("-z {ZONE} list"));
        if now > begun { Ok(()) } else { Err(now.to_string()) }
    });
    replace_index(&host, |text| with_state(text, "installed"));
    // The daemon has seen the change: a second job of the zone waits for the
    // first one.
    wait_for("the change is heard", || {
        let status = daemon.status();
        let queue = status.get("queue").unwrap();
        match queue.get("backlog").map(ToString::to_string) {
            Some(backlog) if backlog.contains(ZONE) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    host.hurt("zoneadm", "heal").unwrap();
    daemon.settle(&host);
    assert_eq!(text(&daemon.vm(ZONE).unwrap(), "zone_state"), "installed");
}

#[test]
fn two_zones_that_keep_the_same_uuid_are_a_fault() {
    let host = host_with_zone(true);
    let daemon = host.start_with(&NO_REFRESH);
    let xml = fs::read_to_string(host.xml_path(ZONE)).unwrap();
    fs::write(host.path("/etc/zones/web.xml"), xml).unwrap();
    replace_index(&host, |text| text.replace(&format!("{ZONE}:in"), "web:in"));
    wait_for("the fault is told", || {
        let errors = errors(&daemon);
        match errors.iter().any(|error| error == "web uuid") {
            true => Ok(()),
            false => Err(format!("{errors:?}")),
        }
    });
    assert_eq!(text(&daemon.vm(ZONE).unwrap(), "zone_state"), "running");
}

#[test]
fn the_first_of_two_index_lines_of_a_zone_counts() {
    let host = TestHost::with_vms(12);
    let names = host.zonenames().unwrap();
    for name in &names {
        if host.is_up(name).unwrap() {
            host.stop(name, 0).unwrap();
        }
    }
    let daemon = host.start_with(&NO_REFRESH);
    let uuids = |daemon: &Daemon| {
        let uuid =
            |name: &String| text(&daemon.vm(name).unwrap(), "uuid").to_string();
        names.iter().map(uuid).collect::<Vec<_>>()
    };
    let before = uuids(&daemon);
    // The first lines of all zones change, so many that they are loaded
    // together.
    replace_index(&host, |text| {
        let lines = text.lines().filter(|line| line.contains(":/zones/"));
        let seconds: String = lines
            .clone()
            .enumerate()
            .map(|(n, line)| {
                let mut fields: Vec<_> = line.split(':').collect();
                let other = format!("99999999-2222-4333-8444-{n:012}");
                fields[3] = &other;
                fields.join(":") + "\n"
            })
            .collect();
        text.replace(":installed:/zones", ":incomplete:/zones") + &seconds
    });
    for name in &names {
        wait_for_vm(&daemon, name, is_state("incomplete"));
    }
    assert_eq!(uuids(&daemon), before);
    assert_eq!(daemon.get("/vms?sync=1").status, 200);
    assert_eq!(uuids(&daemon), before);
}

#[test]
fn index_lines_that_zoneadm_omits_do_not_prevent_the_start() {
    let host = TestHost::with_vms(3);
    let good = fs::read_to_string(host.path("/etc/zones/index")).unwrap();
    replace_index(&host, |text| {
        let odd = (0..17).map(|n| format!("odd{n}:installed:/zones/odd{n}:\n"));
        text.to_string() + &odd.collect::<String>()
    });
    let args = [&NO_REFRESH[..], &["--set", "retry-last=1"]].concat();
    let daemon = host.start_with(&args);
    assert_eq!(daemon.vms().as_array().unwrap().len(), 3);
    wait_for_errors(&daemon, &[" zoneadm".to_string()]);
    // Once the index is mended, all is as before.
    replace_index(&host, |_| good.clone());
    wait_for_errors(&daemon, &[]);
    daemon.settle(&host);
}

#[test]
fn an_xml_of_a_later_dtd_is_accepted_once_zoneadm_accepts_it() {
    let host = TestHost::with_vms(6);
    let names = host.zonenames().unwrap();
    let daemon = host.start_with(&NO_REFRESH);
    daemon.settle(&host);
    let alias = |name: &str| {
        let vm = daemon.vm(name);
        vm.map(|vm| text(&vm, "alias").to_string())
    };
    // Adds an attribute that the DTD does not allow, and changes the alias.
    let edit = |name: &str, alias: &str| {
        let xml = fs::read_to_string(host.xml_path(name)).unwrap();
        let xml = xml.replacen("<zone ", "<zone new=\"x\" ", 1);
        let attr = "name=\"alias\" type=\"string\" value=\"";
        let (before, after) = xml.split_once(attr).unwrap();
        let (_, after) = after.split_once('"').unwrap();
        let new = format!("{before}{attr}{alias}\"{after}");
        host.replace_xml(name, &new).unwrap();
    };
    edit(&names[0], "YmFk");
    wait_for_errors(&daemon, &[format!("{} zonexml", names[0])]);
    assert_ne!(alias(&names[0]).as_deref(), Some("bad"));
    simhost::dtd::grow(host.root(), "zone", "new").unwrap();
    // The refused XML is tried again. After that, the same attribute in other
    // XMLs needs no further run of zoneadm.
    wait_for_errors(&daemon, &[]);
    assert_eq!(alias(&names[0]).as_deref(), Some("bad"));
    let runs = runs_of(&host, "zoneadm");
    for name in &names[1..] {
        edit(name, "Z29vZA==");
        wait_for("it is believed", || match alias(name) {
            Some(alias) if alias == "good" => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    assert_eq!(runs_of(&host, "zoneadm"), runs);
    wait_for_errors(&daemon, &[]);
    daemon.settle(&host);
    // The same holds for a daemon that starts now.
    let again = host.start_with(&NO_REFRESH);
    wait_for_errors(&again, &[]);
    assert_eq!(again.vms(), host.dumped());
    // An XML that is not valid by the later DTD either is refused.
    let xml = fs::read_to_string(host.xml_path(&names[1])).unwrap();
    let bad = xml.replacen("<zone ", "<zone newer=\"x\" ", 1);
    host.replace_xml(&names[1], &bad).unwrap();
    for daemon in [&daemon, &again] {
        wait_for_errors(daemon, &[format!("{} zonexml", names[1])]);
    }
}
