//! Broken files and commands: each affects only what it is about, is reported,
//! and is forgotten as soon as it is mended.

use std::fs;

use simhost::emit::{Channel, records};
use vminfod::vm::json::Json;

use crate::harness::{
    TestHost, errors, runs_of, text, wait_for, wait_for_errors,
};

#[test]
fn broken_files_at_start_affect_only_their_vm() {
    let host = TestHost::with_vms(6);
    let names = host.zonenames().unwrap();
    let [cut, broken, bare, late, ..] = &names[..] else { panic!() };
    let xml = fs::read_to_string(host.xml_path(cut)).unwrap();
    fs::write(host.xml_path(cut), &xml[..xml.len() / 2]).unwrap();
    let metadata = host.zone_dir(broken).unwrap().join("config/metadata.json");
    fs::write(&metadata, "{\"customer_metadata\":").unwrap();
    fs::remove_dir_all(host.zone_dir(bare).unwrap()).unwrap();
    let late_xml = fs::read_to_string(host.xml_path(late)).unwrap();
    fs::remove_file(host.xml_path(late)).unwrap();

    let daemon = host.start();
    let mut wanted = vec![
        format!("{cut} zonexml"),
        format!("{broken} metadata.json"),
        format!("{late} zonexml"),
    ];
    wanted.sort();
    wait_for_errors(&daemon, &wanted);
    let status = daemon.status();
    let errors = status.get("errors").unwrap().as_array().unwrap();
    for error in errors {
        assert!(text(error, "error").contains(host.root().to_str().unwrap()));
        assert!(text(error, "since").ends_with('Z'));
        assert!(error.get("retries").unwrap().as_u64().is_some());
    }
    // The other VMs are served, and of these what could be read.
    assert_eq!(daemon.vms().as_array().unwrap().len(), 4);
    let vm = daemon.vm(broken).unwrap();
    assert_eq!(vm.get("customer_metadata").unwrap().to_string(), "{}");
    assert!(daemon.vm(bare).is_some());
    assert!(daemon.vm(cut).is_none());

    // Once mended, each VM is served again.
    host.zonecfg(cut, &xml).unwrap();
    host.zonecfg(late, &late_xml).unwrap();
    fs::write(&metadata, "{\"customer_metadata\":{\"a\":\"b\"}}").unwrap();
    daemon.settle(&host);
    assert_eq!(daemon.vms().as_array().unwrap().len(), 6);
    wait_for_errors(&daemon, &[]);
}

#[test]
fn the_last_good_value_stays_while_a_file_is_broken() {
    let host = TestHost::with_vms(2);
    let zonename = host.zonenames().unwrap().remove(0);
    let daemon = host.start();
    let before = daemon.settle(&host);
    let mut stream = daemon.events();
    let xml = fs::read_to_string(host.xml_path(&zonename)).unwrap();
    host.replace_xml(&zonename, &xml[..xml.len() / 2]).unwrap();
    let config = host.zone_dir(&zonename).unwrap().join("config");
    let tags = fs::read_to_string(config.join("tags.json")).unwrap();
    host.write_config(&zonename, "tags.json", "{\"x\"").unwrap();
    let names =
        [format!("{zonename} tags.json"), format!("{zonename} zonexml")];
    wait_for_errors(&daemon, &names);
    let strip = |vms: &Json| {
        let vm = vms.as_array().unwrap()[0].as_object().unwrap();
        let mut vm = vm.clone();
        // This may change: the files have been written.
        vm.remove("last_modified");
        Json::from(vm)
    };
    assert_eq!(strip(&daemon.vms()), strip(&before));
    host.zonecfg(&zonename, &xml).unwrap();
    host.write_config(&zonename, "tags.json", &tags).unwrap();
    wait_for_errors(&daemon, &[]);
    daemon.settle(&host);
    let seq = daemon.status().get("seq").unwrap().as_u64().unwrap();
    for event in stream.read_to(seq) {
        for change in event.get("changes").unwrap().as_array().unwrap() {
            assert_eq!(text(change, "prettyPath"), "last_modified");
        }
    }
}

#[test]
fn links_and_fifos_in_place_of_files_are_refused() {
    let host = TestHost::with_vms(3);
    let names = host.zonenames().unwrap();
    let config = |n: usize| host.zone_dir(&names[n]).unwrap().join("config");
    let secret = host.root().join("secret.json");
    fs::write(&secret, "{\"secret\":1}").unwrap();
    std::os::unix::fs::symlink(&secret, config(0).join("routes.json")).unwrap();
    let fifo = std::process::Command::new("mkfifo")
        .arg(config(1).join("routes.json"))
        .status();
    assert!(fifo.unwrap().success());
    // A third VM has a FIFO in place of the directory.
    let third = config(2);
    fs::remove_dir_all(&third).unwrap();
    let fifo = std::process::Command::new("mkfifo").arg(&third).status();
    assert!(fifo.unwrap().success());
    let daemon = host.start();
    let mut wanted: Vec<_> =
        names[..2].iter().map(|name| format!("{name} routes.json")).collect();
    for file in ["metadata.json", "routes.json", "tags.json"] {
        wanted.push(format!("{} {file}", names[2]));
    }
    wanted.sort();
    wait_for_errors(&daemon, &wanted);
    let vm = daemon.vm(&names[0]).unwrap();
    assert_eq!(vm.get("routes").unwrap().to_string(), "{}");
    for n in 0..2 {
        fs::remove_file(config(n).join("routes.json")).unwrap();
    }
    fs::remove_file(&third).unwrap();
    wait_for_errors(&daemon, &[]);
}

#[test]
fn commands_that_fail_at_start_are_retried_until_they_work() {
    for (command, fault) in [
        ("zoneadm", "fail zoneadm is out of order"),
        ("zoneadm", "truncate"),
        ("zoneadm", "hang"),
    ] {
        let host = TestHost::with_vms(3);
        host.hurt(command, fault).unwrap();
        let daemon = host.spawn(&["--command-timeout", "0.3"]);
        wait_for("the fault is logged", || {
            let log = daemon.log().join("\n");
            let told = log.contains("host: refresh: ");
            if told { Ok(()) } else { Err(log) }
        });
        assert!(!daemon.log().iter().any(|l| l.contains("listening on")));
        host.hurt(command, "heal").unwrap();
        let mut daemon = daemon;
        daemon.addr = daemon.wait_for_address();
        daemon.settle(&host);
        wait_for_errors(&daemon, &[]);
    }
}

#[test]
fn a_failed_load_is_retried() {
    let host = TestHost::with_vms(3);
    let zonename = host.vm_of("joyent");
    let daemon = host.start_with(&["--command-timeout", "0.3"]);
    for (command, fault) in [
        ("zfs", "fail out of order"),
        ("zfs", "garbage"),
        ("zfs", "empty"),
        ("zfs", "truncate"),
        ("zfs", "hang"),
        ("zoneadm", "garbage"),
        ("zoneadm", "fail out of order"),
        ("zoneadm", "empty"),
        ("kstat", "fail out of order"),
        ("kstat", "garbage"),
    ] {
        host.hurt(command, fault).unwrap();
        let quota = if fault == "hang" { "33" } else { "44" };
        host.update(&zonename, "quota", quota).unwrap();
        host.reboot(&zonename).unwrap();
        let name = format!("{zonename} {command}");
        wait_for("the fault is told", || {
            let errors = errors(&daemon);
            let told = errors.contains(&name);
            if told { Ok(()) } else { Err(format!("{errors:?}")) }
        });
        // The other VMs are served as before, and this one as it was.
        assert_eq!(daemon.vms().as_array().unwrap().len(), 3);
        host.hurt(command, "heal").unwrap();
        daemon.settle(&host);
        wait_for_errors(&daemon, &[]);
    }
}

#[test]
fn a_dead_sysevent_is_restarted_and_missed_changes_are_loaded() {
    let host = TestHost::with_vms(4);
    let zonename = host.vm_of("joyent");
    let daemon = host.start_with(&["--refresh-interval", "100000"]);
    let restarts = |source: &str| {
        let status = daemon.status();
        let source = status.get("sources").unwrap().get(source).unwrap();
        let ready = source.get("ready") == Some(&Json::Bool(true));
        (source.get("restarts").unwrap().as_u64().unwrap(), ready)
    };
    for (source, channel) in [("zfs", Channel::Zfs), ("zone", Channel::Zone)] {
        host.kill_sysevent(channel).unwrap();
        wait_for("the source has ended", || match restarts(source) {
            (1.., _) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        // No sysevent process listens now.
        host.update(&zonename, "quota", "55").unwrap();
        host.reboot(&zonename).unwrap();
        wait_for("the source is back", || match restarts(source) {
            (_, true) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        wait_for("the gap is healed", || {
            let (served, loaded) = (daemon.vms(), host.dumped());
            if served == loaded { Ok(()) } else { Err("differs".into()) }
        });
        host.update(&zonename, "quota", "66").unwrap();
    }
    // Rubbish from a sysevent has the same effect.
    host.raw_sysevent(Channel::Zfs, b"{]\n").unwrap();
    wait_for("the source was started again", || match restarts("zfs") {
        (2.., true) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Waits until commands that contain `words` have been run more than
/// `more_than` times; returns how often they have.
fn wait_for_run(host: &TestHost, words: &str, more_than: usize) -> usize {
    wait_for(&format!("{words} is run"), || {
        let count = runs_of(host, words);
        if count > more_than { Ok(count) } else { Err(count.to_string()) }
    })
}

/// A part of the command line with which a full reload runs zfs.
const LIST_ALL: &str = "-d 2";

#[test]
fn a_full_reload_does_not_bring_back_a_deleted_vm() {
    let host = TestHost::with_vms(4);
    let zonename = host.vm_of("joyent");
    let daemon = host.start_with(&["--refresh-interval", "0.2"]);
    let mut stream = daemon.events();
    for round in 0..3 {
        let before = runs_of(&host, LIST_ALL);
        host.hurt("zfs", "slow 700").unwrap();
        // A reload already has its list of zones, and waits for zfs.
        let count = wait_for_run(&host, LIST_ALL, before);
        host.delete(&zonename).unwrap();
        wait_for("the VM is gone", || match daemon.vm(&zonename) {
            None => Ok(()),
            Some(vm) => Err(vm.to_string()),
        });
        host.hurt("zfs", "heal").unwrap();
        // That reload is over once the second one after it has begun.
        wait_for_run(&host, LIST_ALL, count + 1);
        assert!(daemon.vm(&zonename).is_none());
        let mut spec = simhost::Host::spec(0);
        spec.debugid = 7000 + round;
        assert_eq!(spec.uuid, zonename);
        host.create(&spec).unwrap();
        daemon.settle(&host);
    }
    let seq = daemon.status().get("seq").unwrap().as_u64().unwrap();
    let kinds: Vec<_> = stream
        .read_to(seq)
        .iter()
        .filter(|e| text(e, "zonename") == zonename)
        .map(|e| text(e, "type").to_string())
        .filter(|kind| kind != "modify")
        .collect();
    assert_eq!(kinds, ["delete", "create"].repeat(3));
}

#[test]
fn sysinfo_that_appears_during_the_first_load_reaches_all_vms() {
    let host = TestHost::with_vms(4);
    let sysinfo = host.path("/tmp/.sysinfo.json");
    let text_of = fs::read_to_string(&sysinfo).unwrap();
    fs::remove_file(&sysinfo).unwrap();
    host.hurt("zfs", "slow 500").unwrap();
    let mut daemon = host.spawn(&["--refresh-interval", "100000"]);
    wait_for_run(&host, LIST_ALL, 0);
    fs::write(&sysinfo, text_of).unwrap();
    host.hurt("zfs", "heal").unwrap();
    daemon.addr = daemon.wait_for_address();
    let vms = daemon.settle(&host);
    for vm in vms.as_array().unwrap() {
        assert_eq!(text(vm, "datacenter_name"), "sim");
    }
}

#[test]
fn a_kstat_fault_ends_when_the_vm_is_stopped() {
    let host = TestHost::with_vms(3);
    let zonename = host.vm_of("joyent");
    let daemon = host.start();
    host.hurt("kstat", "fail out of order").unwrap();
    host.restart_init(&zonename).unwrap();
    wait_for_errors(&daemon, &[format!("{zonename} kstat")]);
    host.stop(&zonename, 0).unwrap();
    wait_for_errors(&daemon, &[]);
    host.hurt("kstat", "heal").unwrap();
    daemon.settle(&host);
}

#[test]
fn a_delete_found_by_a_retry_waits_for_the_late_transitions() {
    let host = TestHost::with_vms(3);
    let zonename = host.vm_of("joyent");
    host.stop(&zonename, 0).unwrap();
    let daemon = host.start_with(&[
        "--set",
        "retry-first=0.02",
        "--set",
        "retry-last=0.05",
        "--set",
        "end-time=60",
    ]);
    let mut stream = daemon.events();
    let before = records(host.root(), Channel::Zone).len();
    host.hurt("zoneadm", "fail out of order").unwrap();
    host.hurt("sysevent-zone", "drop").unwrap();
    host.delete(&zonename).unwrap();
    // The load that its files have caused has failed, and is being retried.
    wait_for_run(&host, "zoneadm", runs_of(&host, "zoneadm") + 5);
    host.hurt("zoneadm", "heal").unwrap();
    // zoneadm is run twenty times a second until it has answered, and then no
    // more.
    let mut seen = (0, 0);
    wait_for("zoneadm has answered", || {
        let runs = runs_of(&host, "zoneadm");
        seen = if runs == seen.0 { (runs, seen.1 + 1) } else { (runs, 0) };
        if seen.1 > 60 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    wait_for("that load is over", || {
        let status = daemon.status();
        match status.get("queue").unwrap().get("working") {
            Some(working) if working.as_u64() == Some(0) => Ok(()),
            _ => Err(status.to_string()),
        }
    });
    host.hurt("sysevent-zone", "heal").unwrap();
    for record in records(host.root(), Channel::Zone).split_off(before) {
        let line = record + "\n";
        host.raw_sysevent(Channel::Zone, line.as_bytes()).unwrap();
    }
    let mut states = Vec::new();
    while let Some(event) = stream.next() {
        match event.get("vm") {
            Some(vm) => states.push(text(vm, "zone_state").to_string()),
            None => break,
        }
    }
    states.dedup();
    assert_eq!(states, ["installed", "incomplete", "configured"]);
}

#[test]
fn a_new_zone_of_the_same_name_gets_nothing_of_the_old_one() {
    let host = TestHost::with_vms(2);
    let daemon = host.start_with(&["--refresh-interval", "100000"]);
    let zonename = host.zonenames().unwrap().remove(0);
    let secret = "{\"customer_metadata\":{\"secret\":\"of tenant 1\"}}";
    host.write_config(&zonename, "metadata.json", secret).unwrap();
    let path = format!("/vms/{zonename}?wait=customer_metadata.secret=*");
    let path = path.replace("=*", "=of%20tenant%201");
    assert_eq!(daemon.get(&path).status, 200);
    // Another zone has its name now, with metadata that can't be read.
    host.hurt("sysevent-zone", "drop").unwrap();
    host.write_config(&zonename, "metadata.json", "{\"customer_").unwrap();
    let index = host.path("/etc/zones/index");
    let before = fs::read_to_string(&index).unwrap();
    let new = "aaaaaaaa-1111-4111-8111-111111111111";
    let of = |line: &str| {
        let mut fields: Vec<_> = line.split(':').collect();
        if fields[0] == zonename {
            fields[3] = new;
        }
        fields.join(":")
    };
    let lines: Vec<_> = before.lines().map(of).collect();
    fs::write(&index, lines.join("\n") + "\n").unwrap();
    assert_eq!(daemon.get("/vms?sync=1").status, 200);
    wait_for("it is another VM", || {
        let uuid = daemon.vm(&zonename).map(|vm| text(&vm, "uuid").to_string());
        if uuid.as_deref() == Some(new) {
            Ok(())
        } else {
            Err(format!("{uuid:?}"))
        }
    });
    let vm = daemon.vm(&zonename).unwrap();
    assert_eq!(vm.get("customer_metadata").unwrap().to_string(), "{}");
    wait_for_errors(&daemon, &[format!("{zonename} metadata.json")]);
    // A third zone takes the name, and its XML can't be read either. It is
    // served as itself as soon as the XML can be read.
    let xml = host.path(&format!("/etc/zones/{zonename}.xml"));
    let good = fs::read_to_string(&xml).unwrap();
    fs::write(&xml, "<zone").unwrap();
    let newer = "bbbbbbbb-1111-4111-8111-111111111111";
    let lines = fs::read_to_string(&index).unwrap().replace(new, newer);
    fs::write(&index, lines).unwrap();
    let metadata = format!("{zonename} metadata.json");
    let both = [metadata.clone(), format!("{zonename} zonexml")];
    assert_eq!(daemon.get("/vms?sync=1").status, 200);
    wait_for_errors(&daemon, &both);
    fs::write(&xml, good).unwrap();
    wait_for("it is another VM again", || {
        let uuid = daemon.vm(&zonename).map(|vm| text(&vm, "uuid").to_string());
        if uuid.as_deref() == Some(newer) {
            Ok(())
        } else {
            Err(format!("{uuid:?}"))
        }
    });
}
