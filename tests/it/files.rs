//! Files that are created, removed and replaced, in every way in which programs
//! do that.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{Daemon, TestHost, text, wait_for, wait_for_member};
use vminfod::vm::json::Json;

fn alias_of(xml: &str, alias: &str) -> String {
    simhost::xml::set_attr(xml, "alias", Some(&simhost::xml::base64(alias)))
}

/// Starts a daemon that never reloads everything by itself: only an event can
/// report a change.
fn start(host: &TestHost) -> Daemon {
    host.start_with(&["--refresh-interval", "100000"])
}

#[test]
fn a_new_config_file_is_noticed() {
    let host = TestHost::with_vms(3);
    let zonename = host.zonenames().unwrap().remove(0);
    let config = host.zone_dir(&zonename).unwrap().join("config");
    fs::remove_file(config.join("tags.json")).unwrap();
    let daemon = start(&host);
    wait_for_member(&daemon, &zonename, "tags", "{}");
    for (file, member, text, value) in [
        ("routes.json", "routes", r#"{"a":"b"}"#, r#"{"a":"b"}"#),
        ("tags.json", "tags", r#"{"c":1}"#, r#"{"c":1}"#),
    ] {
        fs::write(config.join(file), text).unwrap();
        wait_for_member(&daemon, &zonename, member, value);
        fs::remove_file(config.join(file)).unwrap();
        wait_for_member(&daemon, &zonename, member, "{}");
    }
    // The whole directory is removed and made again.
    let aside = config.with_file_name("aside");
    fs::rename(&config, &aside).unwrap();
    wait_for_member(&daemon, &zonename, "customer_metadata", "{}");
    fs::create_dir(&config).unwrap();
    let metadata = r#"{"customer_metadata":{"k":"v"}}"#;
    fs::write(config.join("metadata.json"), metadata).unwrap();
    let member = "customer_metadata";
    wait_for_member(&daemon, &zonename, member, r#"{"k":"v"}"#);
}

#[test]
fn a_replaced_directory_is_noticed_with_all_its_files() {
    let host = TestHost::with_vms(3);
    let daemon = start(&host);
    let names = host.zonenames().unwrap();
    for (zonename, with_routes) in [(&names[0], true), (&names[1], false)] {
        let config = host.zone_dir(zonename).unwrap().join("config");
        if with_routes {
            // With this file, none is missing in the directory.
            host.write_config(zonename, "routes.json", "{}").unwrap();
            daemon.settle(&host);
        }
        let [new, old] = ["new", "old"].map(|n| config.with_file_name(n));
        fs::create_dir(&new).unwrap();
        fs::write(new.join("tags.json"), r#"{"is":"new"}"#).unwrap();
        fs::rename(&config, &old).unwrap();
        fs::rename(&new, &config).unwrap();
        wait_for_member(&daemon, zonename, "tags", r#"{"is":"new"}"#);
        wait_for_member(&daemon, zonename, "customer_metadata", "{}");
        // The new directory is watched from there on.
        fs::write(config.join("tags.json"), r#"{"is":"newer"}"#).unwrap();
        wait_for_member(&daemon, zonename, "tags", r#"{"is":"newer"}"#);
        fs::write(config.join("routes.json"), r#"{"a":"b"}"#).unwrap();
        wait_for_member(&daemon, zonename, "routes", r#"{"a":"b"}"#);
        daemon.settle(&host);
    }
}

#[test]
fn a_directory_replaced_in_a_moment_is_noticed() {
    let host = TestHost::with_vms(1);
    let daemon = start(&host);
    let zonename = host.zonenames().unwrap().remove(0);
    let config = host.zone_dir(&zonename).unwrap().join("config");
    for round in 0..200 {
        let [new, old] = ["new", "old"].map(|n| config.with_file_name(n));
        let tags = format!(r#"{{"n":{round}}}"#);
        fs::create_dir(&new).unwrap();
        fs::write(new.join("tags.json"), &tags).unwrap();
        // First the old directory is there, then none, then the new one.
        fs::rename(&config, &old).unwrap();
        fs::rename(&new, &config).unwrap();
        fs::remove_dir_all(&old).unwrap();
        wait_for_member(&daemon, &zonename, "tags", &tags);
    }
}

#[test]
fn every_replacement_or_edit_of_an_xml_is_noticed() {
    let host = TestHost::with_vms(3);
    let zonename = host.zonenames().unwrap().remove(0);
    let path = host.xml_path(&zonename);
    let daemon = start(&host);
    let mut stream = daemon.events();
    let elsewhere = Path::new("/dev/shm");
    let elsewhere = if elsewhere.is_dir() { elsewhere } else { host.root() };
    let elsewhere =
        elsewhere.join(format!("vminfod-{}.xml", std::process::id()));
    for round in 0..10 {
        let check = |how: &str, replace: &dyn Fn(&str)| {
            let alias = format!("{how}{round}");
            let xml = fs::read_to_string(&path).unwrap();
            replace(&alias_of(&xml, &alias));
            let value = format!("{alias:?}");
            wait_for_member(&daemon, &zonename, "alias", &value);
        };
        check("renamed", &|xml| {
            let temp = path.with_file_name("zonecfg.aTest");
            fs::write(&temp, xml).unwrap();
            fs::rename(&temp, &path).unwrap();
        });
        check("zonecfg", &|xml| host.zonecfg(&zonename, xml).unwrap());
        // From another file system: unlink, create, write.
        check("moved", &|xml| {
            fs::write(&elsewhere, xml).unwrap();
            let mut mv = Command::new("mv");
            let moved = mv.arg("-f").arg(&elsewhere).arg(&path).status();
            assert!(moved.unwrap().success());
        });
        check("edited", &|xml| fs::write(&path, xml).unwrap());
    }
    let vms = daemon.settle(&host);
    let seq = daemon.status().get("seq").unwrap().as_u64().unwrap();
    for event in stream.read_to(seq) {
        assert_eq!(text(&event, "type"), "modify", "{event}");
        assert_eq!(text(&event, "zonename"), zonename);
    }
    assert_eq!(vms.as_array().unwrap().len(), 3);
}

#[test]
fn vms_on_other_pools_and_below_other_datasets_are_followed() {
    for pool in ["tank", "zones/vms"] {
        let host = TestHost::with_vms(2);
        host.zfs_create(pool, None, &[]).unwrap();
        host.zfs_create(&format!("{pool}/cores"), None, &[]).unwrap();
        fs::create_dir_all(host.path(&format!("/{pool}"))).unwrap();
        let mut spec = simhost::Host::spec(40);
        assert!(spec.delegated);
        spec.pool = pool.to_string();
        let uuid = &spec.uuid;
        let daemon = start(&host);
        host.create(&spec).unwrap();
        daemon.settle(&host);
        let vm = daemon.vm(uuid).unwrap();
        assert_eq!(text(&vm, "zfs_filesystem"), format!("{pool}/{uuid}"));
        host.update(uuid, "tags.k", "v").unwrap();
        host.update(uuid, "quota", "7").unwrap();
        host.snapshot(uuid, "one").unwrap();
        let data = format!("{pool}/{uuid}/data");
        host.zfs_snapshot(&data, "indestructible", false).unwrap();
        host.zfs_hold(&format!("{data}@indestructible"), true).unwrap();
        // The load of one VM and a load of all VMs agree.
        daemon.settle(&host);
        let vm = daemon.vm(uuid).unwrap();
        assert_eq!(vm.get("quota"), Some(&Json::Number(7.0)));
        assert_eq!(text(vm.get("tags").unwrap(), "k"), "v");
        let held = vm.get("indestructible_delegated");
        assert_eq!(held, Some(&Json::Bool(true)));
        let snapshots = vm.get("snapshots").unwrap().as_array().unwrap();
        assert_eq!(snapshots.len(), 1);
    }
}

#[test]
fn the_files_of_a_renamed_zone_are_followed() {
    let host = TestHost::with_vms(3);
    let old = host.zonenames().unwrap().remove(2);
    assert!(!host.is_up(&old).unwrap());
    // No event reports the rename here: the periodic reload finds it.
    let daemon = host.start_with(&["--refresh-interval", "0.3"]);
    let xml = fs::read_to_string(host.xml_path(&old)).unwrap();
    let name = format!(" name=\"{old}\"");
    let renamed = xml.replacen(&name, " name=\"web\"", 1);
    fs::write(host.xml_path("web"), renamed).unwrap();
    let index = host.path("/etc/zones/index");
    let text_of = fs::read_to_string(&index).unwrap();
    let entry = format!("\n{old}:");
    fs::write(&index, text_of.replace(&entry, "\nweb:")).unwrap();
    fs::remove_file(host.xml_path(&old)).unwrap();
    wait_for("the zone has its new name", || {
        match (daemon.vm(&old), daemon.vm("web")) {
            (None, Some(_)) => Ok(()),
            (old, new) => Err(format!("{} {}", old.is_some(), new.is_some())),
        }
    });
    for n in 0..3 {
        host.update("web", "tags.n", &n.to_string()).unwrap();
        wait_for("the change is seen by an event", || {
            let log = daemon.log();
            // Checks the log, not the value: a reload may read the change
            // before the job of the event does.
            let of_file = "event: file web tags.json";
            let count = log.iter().filter(|l| l.contains(of_file)).count();
            if count > n { Ok(()) } else { Err(count.to_string()) }
        });
    }
}
