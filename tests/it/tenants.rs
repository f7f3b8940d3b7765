//! Tenants that change the datasets that are delegated to them. What they write
//! there must not affect the VMs of others.

use vminfod::vm::json::Json;

use crate::harness::{Daemon, TestHost, errors, text, wait_for_errors};
use crate::zones::{NO_REFRESH, ZONE, host_with_zone, wait_for_vm};

/// A line that zfs would print of a dataset or snapshot.
fn row(name: &str, kind: &str, userrefs: &str, mountpoint: &str) -> String {
    let columns = [
        "gzip-9",
        "1700000000",
        "0",
        name,
        "0",
        "512",
        "0",
        "0",
        "0",
        kind,
        "0",
        userrefs,
        "-",
        "-",
        "0",
        "off",
        mountpoint,
    ];
    columns.join("\t")
}

/// A tenant sets the mountpoint of its delegated dataset to several lines.
fn set_mountpoint(host: &TestHost, tenant: &str, lines: &[String]) {
    let mountpoint = format!("/a\n{}", lines.join("\n"));
    let data = format!("zones/{tenant}/data");
    host.zfs_set(&data, "mountpoint", &mountpoint).unwrap();
}

/// What vmadm does first when it provisions a VM again: the datasets get other
/// names.
fn move_datasets_away(host: &TestHost, zonename: &str) {
    let own = format!("zones/{zonename}");
    let away = |what| format!("{own}-reprovisioning-{what}");
    host.zfs_rename(&format!("{own}/data"), &away("data")).unwrap();
    host.zfs_rename(&own, &away("root")).unwrap();
}

fn wait_until_without_dataset(daemon: &Daemon, zonename: &str) {
    wait_for_vm(daemon, zonename, |vm| vm.get("zpool").is_none());
}

#[test]
fn a_forged_line_makes_no_vm_of_others_indestructible() {
    let host = TestHost::with_vms(8);
    let tenant = host.vm_of("joyent");
    let daemon = host.start_with(&NO_REFRESH);
    let before = daemon.vms();
    let others = || {
        let vms = daemon.vms();
        let vms = vms.as_array().unwrap().iter();
        let others = vms.filter(|vm| text(vm, "zonename") != tenant);
        others.map(Json::to_string).collect::<Vec<_>>()
    };
    let begun = others();
    let victims = before.as_array().unwrap().iter();
    let victims = victims.filter(|vm| vm.get("datasets").is_none());
    let victims: Vec<_> = victims.map(|vm| text(vm, "zonename")).collect();
    assert!(!victims.is_empty());
    for victim in victims {
        let data = format!("zones/{victim}/data");
        let hold = format!("{data}@indestructible");
        set_mountpoint(
            &host,
            &tenant,
            &[
                row(&data, "filesystem", "-", "/b"),
                row(&hold, "snapshot", "1", "-"),
            ],
        );
        assert_eq!(daemon.get("/vms?sync=1").status, 200);
        assert_eq!(errors(&daemon), [" zfs"]);
        assert_eq!(others(), begun);
    }
    set_mountpoint(&host, &tenant, &[]);
    assert_eq!(daemon.get("/vms?sync=1").status, 200);
    wait_for_errors(&daemon, &[]);
    assert_eq!(daemon.vms(), host.dumped());
}

#[test]
fn a_forged_line_does_not_stand_in_for_a_dataset_that_is_gone() {
    let host = host_with_zone(false);
    let tenant = host.vm_of("joyent");
    let daemon = host.start_with(&NO_REFRESH);
    let own = format!("zones/{ZONE}");
    let forged = row(&own, "filesystem", "-", &format!("/{own}"));
    set_mountpoint(&host, &tenant, &[forged]);
    move_datasets_away(&host, ZONE);
    wait_until_without_dataset(&daemon, ZONE);
}

#[test]
fn a_newline_in_a_mountpoint_does_not_hide_that_datasets_of_others_are_gone() {
    let host = host_with_zone(false);
    let tenant = host.vm_of("joyent");
    let daemon = host.start_with(&NO_REFRESH);
    set_mountpoint(&host, &tenant, &["b".to_string()]);
    move_datasets_away(&host, ZONE);
    wait_until_without_dataset(&daemon, ZONE);
    wait_for_errors(&daemon, &[]);
    assert_eq!(daemon.get("/vms?sync=1").status, 200);
    assert_eq!(daemon.vms(), host.dumped());
}
