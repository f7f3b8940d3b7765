//! What many changes at once cost, counted in runs of commands: it depends on
//! the number of VMs, not on that of the changes.

use std::collections::BTreeSet;

use simhost::emit::{Channel, records};
use vminfod::settings::SourceTimes;
use vminfod::vm::json::Json;

use crate::harness::*;
use crate::healing::{NO_REFRESH, wait_for_rest};

/// Waits until a line of each of these states has come of every VM. A load may
/// find a VM further than what was reported: then its line comes first.
fn wait_for_states(stream: &mut Stream, names: &[String], states: [&str; 2]) {
    let mut waiting: BTreeSet<(String, String)> = names
        .iter()
        .flat_map(|name| states.map(|state| (name.clone(), state.into())))
        .collect();
    while !waiting.is_empty() {
        let event = stream.next().unwrap();
        if let Some(vm) = event.get("vm") {
            let of = ["zonename", "zone_state"].map(|name| text(vm, name));
            waiting.remove(&of.map(String::from).into());
        }
    }
}

#[test]
fn a_storm_of_boots_and_halts_costs_few_runs_and_loses_no_transition() {
    let count = usize::try_from(few_or_many(100, 500)).unwrap();
    let host = TestHost::with_vms(count as u64 * 2);
    // No substitute for a worker starts: it would load a batch of its own.
    let args = [&NO_REFRESH[..], &["--set", "stuck-time=600"]].concat();
    let daemon = host.start_with(&args);
    let served = daemon.vms();
    let is_up = |vm: &&Json| text(vm, "zone_state") == "running";
    let up = served.as_array().unwrap().iter().filter(is_up);
    let names: Vec<String> =
        up.map(|vm| text(vm, "zonename").to_string()).take(count).collect();
    assert_eq!(names.len(), count);
    let commands = ["zoneadm", "kstat", "zfs"];
    let received = "vminfod_events_received_total{source=\"zone\"";
    for (is_boot, wanted) in
        [(false, ["shutting_down", "installed"]), (true, ["ready", "running"])]
    {
        let mut stream = daemon.events_of("?snapshot=none");
        let (before, events) =
            (runs_of(&host, ""), daemon.sum_of_metrics(received));
        let reports = || records(host.root(), Channel::Zone).len();
        let reported = reports();
        // While these commands wait, jobs pile up.
        for command in commands {
            host.hurt(command, "block").unwrap();
        }
        match is_boot {
            true => host.boot_all(&names, || {}).unwrap(),
            false => host.halt_all(&names, || {}).unwrap(),
        }
        let reported = reports() - reported;
        wait_for("all transitions are received", || {
            let new = daemon.sum_of_metrics(received) - events;
            match new >= reported as f64 {
                true => Ok(()),
                false => Err(new.to_string()),
            }
        });
        for command in commands {
            host.hurt(command, "heal").unwrap();
        }
        wait_for_states(&mut stream, &names, wanted);
        wait_for_rest(&daemon);
        let runs = runs_of(&host, "") - before;
        // A few batches; a run of each command for each VM would be three times
        // as many as there are VMs.
        assert!(runs <= count / 2, "{runs} runs for {count} zones");
    }
}

#[test]
fn vms_that_are_created_at_once_cost_few_runs_each() {
    let host = TestHost::with_vms(20);
    let daemon = host.start_with(&NO_REFRESH);
    let before = runs_of(&host, "");
    let count = 10;
    for n in 0..count {
        host.create(&simhost::Host::spec(1000 + n)).unwrap();
    }
    wait_for("all VMs are served", || {
        let served = daemon.vms();
        match served.as_array().unwrap().len() {
            30 => Ok(()),
            n => Err(n.to_string()),
        }
    });
    daemon.settle(&host);
    let runs = runs_of(&host, "") - before;
    // Each makes some thirty changes: of the index, the XML, its datasets, its
    // files and its state. On a busy machine, few of them are loaded together.
    assert!(runs < 40 * 10, "{runs} runs for {count} VMs");
}

#[test]
fn a_zone_that_hangs_while_it_shuts_down_costs_a_run_of_zoneadm_a_minute() {
    // By the usual pauses, an hour has this many looks.
    let pauses = SourceTimes::default().passing;
    let (mut looks, mut at) = (0, 0.0);
    while at < 3600.0 {
        at += pauses.after(looks).as_secs_f64();
        looks += 1;
    }
    assert!(looks <= 70, "{looks}");

    let host = TestHost::with_vms(2);
    let fast = ["passing-first=0.01", "passing-last=0.01"];
    let fast: Vec<_> = fast.iter().flat_map(|set| ["--set", *set]).collect();
    let args = [&NO_REFRESH[..], &fast].concat();
    let daemon = host.start_with(&args);
    let name = host.vm_of("joyent");
    host.halt_hangs(&name).unwrap();
    wait_for("it goes down", || {
        match text(&daemon.vm(&name).unwrap(), "zone_state") {
            "down" => Ok(()),
            state => Err(state.to_string()),
        }
    });
    let runs = || ["zoneadm ", "kstat ", "zfs "].map(|c| runs_of(&host, c));
    // The events of the halt may still cost runs of the others.
    wait_for("twenty looks run zoneadm alone", || {
        let before = runs();
        wait_for("it was looked at twenty times", || {
            match runs()[0] - before[0] {
                20.. => Ok(()),
                n => Err(n.to_string()),
            }
        });
        let after = runs();
        match after[1..] == before[1..] {
            true => Ok(()),
            false => Err(format!("{before:?}, then {after:?}")),
        }
    });
}

#[test]
fn an_event_of_a_dataset_costs_one_run_of_zfs_for_a_vm_of_any_kind() {
    let host = TestHost::with_vms(24);
    let daemon = host.start_with(&NO_REFRESH);
    let vms = daemon.vms();
    let vms = vms.as_array().unwrap();
    for member in ["datasets", "disks", "indestructible_delegated"] {
        assert!(vms.iter().any(|vm| vm.get(member).is_some()), "{member}");
    }
    for vm in vms {
        let name = text(vm, "zonename");
        let before = runs_of(&host, "zfs ");
        let own = format!("zones/{name}");
        host.zfs_set(&own, "compression", "gzip-3").unwrap();
        wait_for_member(&daemon, name, "zfs_root_compression", "\"gzip-3\"");
        wait_for_rest(&daemon);
        assert_eq!(runs_of(&host, "zfs ") - before, 1, "{vm:?}");
    }
    daemon.settle(&host);
}
