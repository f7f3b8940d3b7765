//! Every operation on a host, from the command to the client: the real daemon
//! learns of it by events alone, and publishes what it changed, and nothing
//! else.

use std::collections::BTreeSet;

use simhost::Host;
use vminfod::vm::json::Json;

use crate::harness::{Daemon, Stream, TestHost, first_difference, text};

/// Members that any operation may change in passing, or not: times are in whole
/// seconds, and a short state of a file may be over before it is read.
const IN_PASSING: [&str; 1] = ["last_modified"];

/// A start or a stop may also change these, depending on the state before.
const BOOTING: [&str; 8] = [
    "autoboot",
    "transition_to",
    "transition_expire",
    "exit_status",
    "exit_timestamp",
    "boot_timestamp",
    "init_restarts",
    "state",
];

/// A host, the daemon on it, and a subscriber, in the order in which they must
/// be dropped.
struct Run {
    stream: Stream,
    daemon: Daemon,
    host: TestHost,
}

impl Run {
    fn new(vms: u64) -> Self {
        let host = TestHost::with_vms(vms);
        // No reload may hide that an event is missing.
        let args = ["--refresh-interval", "100000", "--command-timeout", "600"];
        let daemon = host.start_with(&args);
        let stream = daemon.events();
        daemon.settle(&host);
        Self { stream, daemon, host }
    }

    /// Runs an operation, and checks what must hold after it; returns the
    /// events that it made.
    fn operate(
        &mut self,
        name: &str,
        operation: impl FnOnce(&Host) -> simhost::Result<()>,
    ) -> Vec<Json> {
        operation(&self.host).unwrap_or_else(|e| panic!("{name}: {e}"));
        let served = self.daemon.settle(&self.host);
        let seq = self.daemon.status().get("seq").unwrap().as_u64().unwrap();
        let events = self.stream.read_to(seq);
        if let Some(difference) =
            first_difference(&self.stream.array(), &served)
        {
            panic!("{name}: the stream does not add up: {difference}");
        }
        events
    }

    /// Runs an operation on one VM, which must change the members in `must`,
    /// and may change those in `may` and [`IN_PASSING`].
    fn changes(
        &mut self,
        name: &str,
        zonename: &str,
        must: &[&str],
        may: &[&str],
        operation: impl FnOnce(&Host) -> simhost::Result<()>,
    ) -> Vec<Json> {
        let events = self.operate(name, operation);
        let mut paths = BTreeSet::new();
        for event in &events {
            assert_eq!(text(event, "type"), "modify", "{name}: {event}");
            assert_eq!(text(event, "zonename"), zonename, "{name}: {event}");
            paths.extend(changed(event));
        }
        for path in must {
            assert!(paths.contains(*path), "{name}: no {path} in {paths:?}");
        }
        for path in &paths {
            let known = must.contains(&path.as_str())
                || may.contains(&path.as_str())
                || IN_PASSING.contains(&path.as_str());
            assert!(known, "{name}: {path} changed, too");
        }
        events
    }
}

fn is_modify(event: &Json) -> bool {
    text(event, "type") == "modify"
}

/// The members that an event says have changed.
fn changed(event: &Json) -> Vec<String> {
    let changes = event.get("changes").unwrap().as_array().unwrap();
    changes.iter().map(|c| text(c, "prettyPath").to_string()).collect()
}

/// The states that a VM's zone went through, one after another.
fn zone_states(events: &[Json]) -> Vec<String> {
    let mut states: Vec<String> = Vec::new();
    for vm in events.iter().filter_map(|e| e.get("vm")) {
        let state = text(vm, "zone_state").to_string();
        if states.last() != Some(&state) {
            states.push(state);
        }
    }
    states
}

/// Checks that these states came in this order, with or without others between
/// them.
fn assert_passes(events: &[Json], wanted: &[&str]) {
    let states = zone_states(events);
    let mut rest = states.iter();
    for state in wanted {
        assert!(rest.any(|s| s == state), "{states:?} lacks {wanted:?}");
    }
}

#[test]
fn zones_are_created_booted_halted_and_deleted() {
    let mut run = Run::new(5);
    let booting: Vec<_> = BOOTING
        .iter()
        .chain(&["zone_state", "zoneid", "pid"])
        .copied()
        .collect();
    for (number, brand) in [
        (20, "joyent"),
        (21, "lx"),
        (22, "bhyve"),
        (23, "kvm"),
        (24, "joyent-minimal"),
    ] {
        let mut spec = Host::spec(number);
        assert_eq!(spec.brand, brand);
        spec.autoboot = true;
        let uuid = spec.uuid.clone();
        let events = run.operate("create", |h| h.create(&spec));
        assert_eq!(text(&events[0], "type"), "create", "{:?}", events[0]);
        assert!(events.iter().all(|e| text(e, "zonename") == uuid));
        assert_passes(
            &events,
            &["configured", "incomplete", "installed", "ready", "running"],
        );
        // What vmadm waits for after a create.
        let last = &run.stream.vms[&uuid];
        assert_eq!(text(last, "zfs_filesystem"), format!("zones/{uuid}"));
        assert_eq!(text(last, "state"), "running");

        let stopped: Vec<_> = booting
            .iter()
            .filter(|m| !m.starts_with("transition") && **m != "autoboot")
            .copied()
            .collect();
        let events =
            run.changes("exit", &uuid, &stopped, &[], |h| h.stop(&uuid, 256));
        assert_passes(&events, &["shutting_down", "installed"]);
        let last = &run.stream.vms[&uuid];
        assert_eq!(last.get("exit_status"), Some(&Json::Number(1.0)));

        let must = ["zone_state", "zoneid", "pid", "exit_status"];
        let events =
            run.changes("start", &uuid, &must, &BOOTING, |h| h.start(&uuid));
        assert_passes(&events, &["ready", "running"]);

        let must = ["zone_state", "zoneid", "pid"];
        let events =
            run.changes("reboot", &uuid, &must, &BOOTING, |h| h.reboot(&uuid));
        assert_passes(&events, &["shutting_down", "ready", "running"]);
        run.changes("late free", &uuid, &must, &BOOTING, |h| {
            h.reboot_with_late_free(&uuid)
        });
        assert_eq!(text(&run.stream.vms[&uuid], "state"), "running");

        let must = ["init_restarts"];
        run.changes("restart", &uuid, &must, &[], |h| h.restart_init(&uuid));

        let must = ["zone_state", "zoneid", "autoboot"];
        let events =
            run.changes("stop", &uuid, &must, &booting, |h| h.stop(&uuid, -1));
        assert_passes(&events, &["shutting_down", "installed"]);
        let may = ["pid", "boot_timestamp", "init_restarts", "zoneid"];
        let events = run.changes(
            "boot fails",
            &uuid,
            &["zone_state"],
            &[&may[..], &BOOTING].concat(),
            |h| h.boot_fails(&uuid),
        );
        assert_passes(&events, &["ready", "shutting_down", "installed"]);

        let events = run.operate("delete", |h| h.delete(&uuid));
        // What vmadm waits for when it deletes.
        assert_passes(&events, &["incomplete", "configured"]);
        let all: Vec<_> = events.iter().filter(|e| is_modify(e)).collect();
        for (member, action) in [
            ("zone_state", "changed"),
            ("zfs_filesystem", "removed"),
            ("zpool", "removed"),
        ] {
            let told = all
                .iter()
                .flat_map(|e| e.get("changes").unwrap().as_array().unwrap());
            let told = told.filter(|c| text(c, "prettyPath") == member);
            let mut told = told.filter(|c| text(c, "action") == action);
            assert!(told.next().is_some(), "{member} {action}");
        }
        let last = events.last().unwrap();
        assert_eq!(text(last, "type"), "delete");
        assert!(!run.stream.vms.contains_key(&uuid));
    }
}

#[test]
fn properties_nics_disks_and_files_are_updated() {
    let mut run = Run::new(10);
    let os = run.host.vm_of("joyent");
    let bhyve = run.host.vm_of("bhyve");
    let kvm = run.host.vm_of("kvm");
    let mac = "90:b8:d0:aa:bb:cc";
    let ip = format!("nics.{mac}.ip");
    let disk = ["disks.*"];
    // The volume is destroyed before the disk is removed, and so these may
    // change first.
    let gone = [
        "disks.*.missing",
        "disks.*.zfs_filesystem",
        "disks.*.zpool",
        "disks.*.size",
        "disks.*.compression",
        "disks.*.refreservation",
        "disks.*.block_size",
        "free_space",
    ];
    let all = [
        (&os, "alias", "wéb & \"co\"", &["alias"][..], &[][..]),
        (&os, "cpu_cap", "350", &["cpu_cap"], &[]),
        (&os, "max_physical_memory", "1024", &["max_physical_memory"], &[]),
        (&os, "autoboot", "false", &["autoboot"], &[]),
        (&os, "resolvers", "1.1.1.1,8.8.8.8", &["resolvers.*"], &[]),
        (&os, "failed", "yes", &["failed", "state"], &[]),
        (&os, "failed", "", &["failed", "state"], &[]),
        (&os, "do_not_inventory", "true", &["do_not_inventory"], &[]),
        (&os, "quota", "40", &["quota"], &[]),
        (&os, "tags.colour", "blue", &["tags.colour"], &[]),
        (&os, "tags.colour", "", &["tags.colour"], &[]),
        (&os, "routes.10.0.0.0/8", "nics[0]", &["routes[10.0.0.0/8]"], &[]),
        (&os, "customer_metadata.a.b", "7", &["customer_metadata[a.b]"], &[]),
        (&os, "internal_metadata.k", "v", &["internal_metadata.k"], &[]),
        (&os, "add_nic", mac, &["nics.*"], &[]),
        (&os, &ip, "10.9.9.9", &["nics.*.ip"], &[]),
        (&os, "remove_nic", mac, &["nics.*"], &[]),
        (&bhyve, "quota", "20", &["quota"], &[]),
        (&bhyve, "add_disk", "512", &["disks.*", "free_space"], &[]),
        (&bhyve, "remove_disk", "2", &["disks.*", "free_space"], &gone),
        (&kvm, "vm_autoboot", "false", &["autoboot"], &[]),
        (&kvm, "add_disk", "512", &disk, &[]),
        (&kvm, "remove_disk", "2", &disk, &gone),
        (&kvm, "ram", "2048", &["ram"], &[]),
    ];
    for (zonename, property, value, must, may) in all {
        let name = format!("{property}={value}");
        run.changes(&name, zonename, must, may, |h| {
            h.update(zonename, property, value)
        });
    }
    // The change of an element with an identity says which element it is.
    let nic = run
        .stream
        .events
        .iter()
        .rev()
        .find(|event| changed(event).contains(&"nics.*.ip".to_string()));
    let change = &nic.unwrap().get("changes").unwrap().as_array().unwrap()[0];
    assert_eq!(text(change, "ident"), mac);
}

#[test]
fn datasets_and_snapshots_are_followed() {
    let mut run = Run::new(10);
    let os = run.host.vm_of("joyent");
    let bhyve = run.host.vm_of("bhyve");
    let kvm = run.host.vm_of("kvm");
    let own = format!("zones/{os}");
    let data = format!("{own}/data");

    for zonename in [&os, &bhyve, &kvm] {
        let must = ["snapshots.*"];
        run.changes("snapshot", zonename, &must, &[], |h| {
            h.snapshot(zonename, "one")
        });
        run.changes("tag", zonename, &["tags.later"], &[], |h| {
            h.update(zonename, "tags.later", "1")
        });
        run.changes("snapshot", zonename, &must, &[], |h| {
            h.snapshot(zonename, "two")
        });
        let mut may = BOOTING.to_vec();
        may.extend(["zone_state", "zoneid", "pid"]);
        let must = ["tags.later", "snapshots.*"];
        run.changes("rollback", zonename, &must, &may, |h| {
            h.rollback(zonename, "one")
        });
        let must = ["snapshots.*"];
        run.changes("delete snapshot", zonename, &must, &[], |h| {
            h.delete_snapshot(zonename, "one")
        });
    }

    // Inherited by the delegated dataset, until it has its own.
    let both = ["zfs_root_recsize", "zfs_data_recsize"];
    run.changes("set", &os, &both, &[], |h| {
        h.zfs_set(&own, "recsize", "65536")
    });
    run.changes("set", &os, &["zfs_data_recsize"], &[], |h| {
        h.zfs_set(&data, "recsize", "4096")
    });
    run.changes("inherit", &os, &["zfs_data_recsize"], &[], |h| {
        h.zfs_inherit(&data, "recsize")
    });
    run.changes("limit", &os, &["zfs_snapshot_limit"], &[], |h| {
        h.zfs_set(&own, "snapshot_limit", "10")
    });
    for (dataset, member) in
        [(&own, "indestructible_zoneroot"), (&data, "indestructible_delegated")]
    {
        if run.stream.vms[&os].get(member).is_none() {
            run.operate("snapshot", |h| {
                h.zfs_snapshot(dataset, "indestructible", false)
            });
            let held = format!("{dataset}@indestructible");
            run.changes("hold", &os, &[member], &[], |h| {
                h.zfs_hold(&held, true)
            });
        }
        let held = format!("{dataset}@indestructible");
        run.changes("release", &os, &[member], &[], |h| {
            h.zfs_hold(&held, false)
        });
    }
    let disk = format!("zones/{kvm}-disk0");
    let may = [
        "disks.*.zfs_filesystem",
        "disks.*.zpool",
        "disks.*.size",
        "disks.*.compression",
        "disks.*.refreservation",
        "disks.*.block_size",
    ];
    let gone = ["disks.*.missing"];
    let other = format!("{disk}-old");
    run.changes("rename", &kvm, &gone, &may, |h| h.zfs_rename(&disk, &other));
    run.changes("rename back", &kvm, &gone, &may, |h| {
        h.zfs_rename(&other, &disk)
    });
}

#[test]
fn changes_of_the_pool_and_sysinfo_reach_all_vms() {
    let mut run = Run::new(10);
    let count = run.stream.vms.len();
    let members = |events: &[Json], member: &str| -> usize {
        let is_about = |e: &&Json| changed(e).iter().any(|path| path == member);
        let names: BTreeSet<_> = events
            .iter()
            .filter(is_about)
            .map(|e| text(e, "zonename"))
            .collect();
        names.len()
    };
    let events = run.operate("set compression", |h| {
        h.zfs_set("zones", "compression", "gzip")
    });
    assert_eq!(members(&events, "zfs_root_compression"), count);
    let events =
        run.operate("inherit", |h| h.zfs_inherit("zones", "compression"));
    assert_eq!(members(&events, "zfs_root_compression"), count);
    let events = run.operate("sysinfo", |h| {
        h.touch_sysinfo(Some(("Datacenter Name", "elsewhere")))
    });
    assert_eq!(members(&events, "datacenter_name"), count);
    // A file that is written with the same content makes no event.
    assert!(run.operate("touch", |h| h.touch_sysinfo(None)).is_empty());
    let events = run.operate("image", |h| {
        h.zfs_create("zones/01b2c898-945f-11e1-a523-af1afbe22822", None, &[])
    });
    assert!(events.is_empty(), "{events:?}");
}

#[test]
fn a_zone_created_again_with_its_name_is_a_new_vm() {
    let mut run = Run::new(3);
    let mut spec = Host::spec(30);
    spec.autoboot = false;
    run.operate("create", |h| h.create(&spec));
    let events = run.operate("delete and create", |h| {
        h.delete(&spec.uuid)?;
        spec.debugid += 1;
        h.create(&spec)
    });
    let kinds: Vec<_> = events
        .iter()
        .map(|e| text(e, "type"))
        .filter(|kind| *kind != "modify")
        .collect();
    assert_eq!(kinds, ["delete", "create"]);
}

#[test]
fn a_burst_of_reboots_is_loaded_in_batches() {
    let mut run = Run::new(60);
    let names = run.host.zonenames().unwrap();
    let up: Vec<_> =
        names.iter().filter(|n| run.host.is_up(n).unwrap()).collect();
    assert!(up.len() >= 30, "{}", up.len());
    // While the workers wait for a command, jobs pile up.
    run.host.hurt("zoneadm", "block").unwrap();
    let count = |host: &Host, command: &str| {
        let runs = host.runs();
        runs.iter().filter(|run| run.starts_with(command)).count()
    };
    let before = count(&run.host, "zoneadm ");
    let events = run.operate("reboots", |host| {
        for name in &up {
            host.reboot(name)?;
        }
        host.hurt("zoneadm", "heal")
    });
    let runs = count(&run.host, "zoneadm ") - before;
    // One run for each VM would be twice as many, and one for each event ten
    // times as many.
    assert!(runs < up.len() / 2, "{runs} runs for {} reboots", up.len());
    for name in &up {
        let of_vm: Vec<_> = events
            .iter()
            .filter(|e| text(e, "zonename") == **name)
            .cloned()
            .collect();
        assert_passes(&of_vm, &["shutting_down", "ready", "running"]);
    }
}
