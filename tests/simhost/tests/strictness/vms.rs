//! Rows about the order of vmadm's steps.

use std::fs;
use std::sync::Arc;

use simhost::Host;

use super::Sim;

/// Which of the attributes that vmadm sets while it is at work are in a zone's
/// XML, joined by `+`; `-` without an XML.
fn marks(name: &str) -> impl Fn(&Host) -> String + use<> {
    let name = name.to_string();
    move |host| {
        let Ok(xml) = fs::read_to_string(host.xml_path(&name)) else {
            return "-".to_string();
        };
        let mut marks = Vec::new();
        for mark in ["provisioning", "transition"] {
            let start = format!("<attr name=\"{mark}\" ");
            if xml.contains(&start) {
                marks.push(mark);
            }
        }
        if xml.contains("autoboot=\"true\"") {
            marks.push("autoboot");
        }
        marks.join("+")
    }
}

/// The attributes and the state of a zone after each step, without repetitions.
fn course(sim: &Sim, name: &str, act: impl FnOnce(&Host)) -> Vec<String> {
    let marks = Arc::new(marks(name));
    let name = name.to_string();
    let mut seen = sim.steps(
        move |host| {
            let entries = simhost::index::read(host.root()).unwrap();
            let entry = entries.iter().find(|e| e.zonename == name);
            let state = entry.map_or("", |e| &e.state);
            let is_up = host.is_up(&name).unwrap();
            format!("{} {state}{}", marks(host), if is_up { " up" } else { "" })
        },
        act,
    );
    seen.dedup();
    seen
}

#[test]
fn row_39_the_first_xml_says_that_it_is_provisioning() {
    let sim = Sim::with_vms(0);
    let mut spec = Host::spec(0);
    spec.autoboot = true;
    let seen = course(&sim, &spec.uuid, |host| host.create(&spec).unwrap());
    let wanted = [
        "provisioning+transition+autoboot ",
        "provisioning+transition+autoboot configured",
        "provisioning+transition+autoboot incomplete",
        "provisioning+transition+autoboot installed",
        "transition+autoboot installed",
        "transition+autoboot installed up",
        "autoboot installed up",
    ];
    assert_eq!(seen, wanted);
}

#[test]
fn row_40_the_datasets_of_a_bhyve_come_before_its_zone() {
    let sim = Sim::with_vms(0);
    let spec = Host::spec(2);
    assert_eq!(spec.brand, "bhyve");
    let (own, name) = (format!("zones/{}", spec.uuid), spec.uuid.clone());
    let seen = sim.steps(
        move |host| {
            let run = std::process::Command::new(host.path("/usr/sbin/zfs"))
                .args(["list", "-H", "-d", "1", "-o", "name", &own])
                .output()
                .unwrap();
            let datasets = String::from_utf8(run.stdout).unwrap();
            (datasets.lines().count(), host.xml_path(&name).exists())
        },
        |host| host.create(&spec).unwrap(),
    );
    let first = seen.iter().position(|(_, has_xml)| *has_xml).unwrap();
    assert!(first > 0);
    // The zone's own dataset, and two disks.
    assert_eq!(seen[first].0, 3);
    assert_eq!(seen[0], (1, false));
}

#[test]
fn row_41_a_start_notes_no_transition() {
    let sim = Sim::with_vms(5);
    let name = sim.names[4].clone();
    sim.stop(&name, -1).unwrap();
    let seen = course(&sim, &name, |host| host.start(&name).unwrap());
    let wanted = [" installed", " installed up", "autoboot installed up"];
    assert_eq!(seen[seen.len() - 2..], wanted[1..]);
    assert!(seen.iter().all(|s| wanted.contains(&s.as_str())), "{seen:?}");
}

#[test]
fn row_42_a_stop_ends_autoboot_after_the_halt() {
    let sim = Sim::with_vms(5);
    let name = sim.names[0].clone();
    let seen = course(&sim, &name, |host| host.stop(&name, -1).unwrap());
    let wanted = ["autoboot installed up", "autoboot installed", " installed"];
    assert_eq!(seen, wanted);
    // For kvm and bhyve, a transition is noted first.
    let kvm = sim.names[3].clone();
    let seen = course(&sim, &kvm, |host| host.stop(&kvm, -1).unwrap());
    let wanted = ["transition installed up", "transition installed"];
    assert_eq!(seen[..2], wanted);
    assert_eq!(seen.last().unwrap(), " installed");
}

#[test]
fn row_43_the_volume_of_a_disk_goes_before_its_xml() {
    let sim = Sim::with_vms(4);
    let kvm = sim.names[3].clone();
    let disk = format!("zones/{kvm}-disk1");
    let seen = sim.steps(
        {
            let (disk, kvm) = (disk.clone(), kvm.clone());
            move |host| {
                let xml = fs::read_to_string(host.xml_path(&kvm)).unwrap();
                let run =
                    std::process::Command::new(host.path("/usr/sbin/zfs"))
                        .args(["list", &disk])
                        .output()
                        .unwrap();
                (run.status.success(), xml.contains(&disk))
            }
        },
        |host| host.update(&kvm, "remove_disk", "1").unwrap(),
    );
    assert_eq!(seen[0], (false, true));
    assert_eq!(*seen.last().unwrap(), (false, false));
}

#[test]
fn row_44_a_boot_writes_lastbooted_and_gives_nics_addresses() {
    let sim = Sim::with_vms(3);
    let name = sim.names[2].clone();
    let lacks_mac =
        |xml: &str| xml.contains("<network physical=\"net0\" vlan-id");
    sim.edit_xml(&name, |xml| {
        let (before, rest) = xml.split_once(" mac-addr=\"").unwrap();
        let (_, after) = rest.split_once('"').unwrap();
        format!("{before}{after}")
    })
    .unwrap();
    let xml = || fs::read_to_string(sim.xml(2)).unwrap();
    assert!(lacks_mac(&xml()));
    let dir = sim.zone_dir(&name).unwrap();
    assert!(!dir.join("lastbooted").exists());
    sim.boot(&name).unwrap();
    assert!(dir.join("lastbooted").exists());
    assert!(!lacks_mac(&xml()) && xml().contains(" mac-addr=\"2:8:20:"));
}
