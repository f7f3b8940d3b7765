//! Rows about zfs(8).

use std::fs;
use std::process::Stdio;

use simhost::emit::{Channel, records};

use super::{Sim, wait_for};

/// The names in the rows: their first column.
fn names(output: &str) -> Vec<&str> {
    output.lines().map(|l| l.split('\t').next().unwrap()).collect()
}

const LIST: &str = "zfs list -Hp -o name -t filesystem,snapshot,volume";

fn two_pools() -> Sim {
    let sim = Sim::with_vms(1);
    for name in ["tank", "tank/a", "tank/b", "tank/c"] {
        sim.zfs_create(name, None, &[]).unwrap();
    }
    sim
}

#[test]
fn row_45_a_pool_that_is_suspended_is_not_listed() {
    let sim = two_pools();
    let all = sim.run(LIST);
    assert!(all.output.contains("tank/a\n"));
    sim.hurt("zfs:tank", "suspended").unwrap();
    let said = sim.run(LIST);
    let rest: String = all
        .output
        .lines()
        .filter(|line| !line.starts_with("tank"))
        .map(|line| format!("{line}\n"))
        .collect();
    said.is(&rest, "", 0);
}

#[test]
fn row_46_a_walk_that_fails_shortens_the_listing() {
    let sim = two_pools();
    sim.hurt("zfs:tank", "cut 3").unwrap();
    let error = "cannot iterate filesystems: I/O error\n";
    sim.run(&format!("{LIST} -r tank")).is("tank\ntank/a\ntank/b\n", error, 0);
    let said = sim.run(LIST);
    assert_eq!((said.error.as_str(), said.status), (error, Some(0)));
    assert!(said.output.contains("zones\n"));
    assert!(!said.output.contains("tank/c"));
    // So does a dataset that can't be read.
    sim.hurt("zfs:tank", "heal").unwrap();
    sim.hurt("zfs:tank/b", "io-error").unwrap();
    sim.run(&format!("{LIST} -r tank")).is("tank\ntank/a\n", error, 0);
    // A listing that needs no walk has no error.
    sim.run(&format!("{LIST} -d 0 tank/c")).is("tank/c\n", "", 0);
}

#[test]
fn row_47_an_operand_that_cannot_be_read_affects_no_other() {
    let sim = two_pools();
    let zones = "zones/config";
    sim.hurt("zfs:tank/b", "io-error").unwrap();
    let said = sim.run(&format!("{LIST} -d 0 tank/b {zones}"));
    said.is("zones/config\n", "cannot open 'tank/b': I/O error\n", 1);
    sim.hurt("zfs:tank", "suspended").unwrap();
    let said = sim.run(&format!("{LIST} -d 0 tank/b {zones}"));
    let error = "cannot open 'tank/b': pool I/O is currently suspended\n";
    said.is("zones/config\n", error, 1);
}

#[test]
fn row_48_datasets_on_an_exported_pool_do_not_exist() {
    let sim = two_pools();
    let before = sim.run(LIST);
    sim.zpool_export("tank").unwrap();
    let said = sim.run(&format!("{LIST} -d 0 tank/a zones/config"));
    let error = "cannot open 'tank/a': dataset does not exist\n";
    said.is("zones/config\n", error, 1);
    let said = sim.run(LIST);
    assert!(!said.output.contains("tank"));
    assert_eq!((said.error.as_str(), said.status), ("", Some(0)));
    sim.zpool_import("tank").unwrap();
    assert_eq!(sim.run(LIST), before);
    let last = records(sim.root(), Channel::Zfs).pop().unwrap();
    assert!(last.contains("\"history_internal_name\":\"import\""));
    assert!(!last.contains("history_dsname"));
}

#[test]
fn row_49_an_unknown_error_aborts() {
    let sim = Sim::with_vms(1);
    sim.hurt("zfs", "abort").unwrap();
    let said = sim.run(LIST);
    assert_eq!(said.error, "internal error: Unknown error\n");
    assert_eq!((said.output.as_str(), said.status), ("", None));
}

#[test]
fn row_50_without_the_list_of_pools_zfs_fails() {
    let sim = Sim::with_vms(1);
    sim.hurt("zfs", "no-pools").unwrap();
    let error = "failed to read pool configuration: I/O error\n";
    sim.run(LIST).is("", error, 255);
}

#[test]
fn row_51_impossible_names_are_refused() {
    let sim = Sim::with_vms(1);
    let long = format!("zones/{}", "x".repeat(256));
    for (name, why) in [
        ("zones//a", "empty component in name"),
        ("zones/", "trailing slash in name"),
        ("zones/a@", "empty component in name"),
        ("zones/a@b@c", "multiple '@' and/or '#' delimiters in name"),
        ("zones/a&b", "invalid character '&' in name"),
        (&long, "name is too long"),
    ] {
        let said = sim.run(&format!("{LIST} -d 0 {name}"));
        said.is("", &format!("cannot open '{name}': {why}\n"), 1);
    }
}

#[test]
fn row_52_a_snapshot_is_not_expected_unless_it_is_asked_for() {
    let sim = Sim::with_vms(1);
    let name = format!("zones/{}@vmsnap-backup", sim.names[0]);
    let said =
        sim.run(&format!("zfs list -H -o name -t filesystem -d 0 {name}"));
    let why = "snapshot delimiter '@' is not expected here";
    said.is("", &format!("cannot open '{name}': {why}\n"), 1);
    sim.run(&format!("{LIST} -d 0 {name}")).is(&format!("{name}\n"), "", 0);
}

#[test]
fn row_53_a_volume_has_a_snapshot_limit() {
    let sim = Sim::with_vms(4);
    let name = format!("zones/{}-disk0", sim.names[3]);
    let columns = "snapshot_limit,filesystem_limit";
    let said = sim.run(&format!("zfs list -Hp -o {columns} {name}"));
    said.is("18446744073709551615\t-\n", "", 0);
    sim.zfs_create("zones/v", Some(10), &[]).unwrap();
    let said = sim.run(&format!("zfs list -Hp -o {columns} zones/v"));
    said.is("18446744073709551615\t-\n", "", 0);
}

#[test]
fn row_54_a_volume_that_is_being_received_has_no_size() {
    let sim = Sim::with_vms(0);
    sim.zfs_receive_begins("zones/v").unwrap();
    let list = "zfs list -Hp -o type,volsize,volblocksize zones/v";
    sim.run(list).is("volume\t0\t8192\n", "", 0);
    sim.zfs_receive_ends("zones/v", 10).unwrap();
    sim.run(list).is("volume\t10485760\t8192\n", "", 0);
}

#[test]
fn row_55_a_mountpoint_is_printed_as_it_is() {
    let sim = Sim::with_vms(0);
    sim.zfs_create("zones/a", None, &[]).unwrap();
    sim.zfs_set("zones/a", "mountpoint", "/a\tb\nc\\n").unwrap();
    let said = sim.run("zfs list -Hp -o name,mountpoint zones/a");
    said.is("zones/a\t/a\tb\nc\\n\n", "", 0);
    // The host can still be changed and read.
    sim.zfs_create("zones/b", None, &[]).unwrap();
    let said = sim.run("zfs list -Hp -o mountpoint zones/a zones/b");
    said.is("/a\tb\nc\\n\n/zones/b\n", "", 0);
}

#[test]
fn row_56_mountpoints_of_the_configuration_and_of_cores() {
    let sim = Sim::with_vms(1);
    let own = &sim.names[0];
    let said = sim.run(&format!(
        "zfs list -Hp -o name,mountpoint zones/config zones/cores/{own}"
    ));
    let wanted = format!(
        "zones/config\tlegacy\nzones/cores/{own}\t/zones/{own}/cores\n"
    );
    said.is(&wanted, "", 0);
}

#[test]
fn row_57_a_rollback_of_the_configuration_is_one_operation() {
    let sim = Sim::with_vms(3);
    let (index, name) = (sim.index_text(), sim.names[2].clone());
    let xml = fs::read_to_string(sim.xml(2)).unwrap();
    sim.snapshot_config("zones", "before").unwrap();
    sim.mark(&name, "incomplete").unwrap();
    sim.edit_xml(&name, |xml| xml.replace("host2", "other")).unwrap();
    let before = records(sim.root(), Channel::Zfs).len();
    sim.zfs_rollback("zones/config", "before").unwrap();
    assert_eq!(sim.index_text(), index);
    assert_eq!(fs::read_to_string(sim.xml(2)).unwrap(), xml);
    let told = records(sim.root(), Channel::Zfs).split_off(before);
    assert!(told[0].contains("\"history_internal_name\":\"clone swap\""));
    assert!(told[0].contains("\"history_dsname\":\"zones/config/%rollback\""));
    assert_eq!(told.len(), 2);
}

#[test]
fn row_58_nothing_is_printed_before_all_is_gathered() {
    let sim = two_pools();
    sim.hurt("zfs:tank", "block").unwrap();
    let runs = sim.runs().len();
    let mut child = sim.command(LIST).stdout(Stdio::piped()).spawn().unwrap();
    wait_for("it runs", || sim.runs().len() > runs);
    wait_for("it waits", || super::is_asleep(child.id()));
    assert!(child.try_wait().unwrap().is_none());
    sim.hurt("zfs:tank", "heal").unwrap();
    let said = super::said(child.wait_with_output().unwrap());
    assert_eq!(said, sim.run(LIST));
}

#[test]
fn the_rows_of_all_operands_are_one_list_by_name() {
    let sim = two_pools();
    sim.zfs_create("tank/a-b", None, &[]).unwrap();
    sim.zfs_create("tank/a/x", None, &[]).unwrap();
    for snapshot in ["z", "a"] {
        sim.zfs_snapshot("tank/a", snapshot, false).unwrap();
    }
    let said = sim.run(&format!("{LIST} -r tank/c tank tank/a"));
    let wanted = [
        "tank", "tank/a", "tank/a@z", "tank/a@a", "tank/a-b", "tank/a/x",
        "tank/b", "tank/c",
    ];
    assert_eq!(names(&said.output), wanted);
}
