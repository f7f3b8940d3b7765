//! Recovery without an operator: from hangs, gaps, drift, floods, and too few
//! file watches.

use std::fs;

use simhost::emit::{Channel, history, zone_change};
use vminfod::vm::json::Json;

use crate::harness::{
    Daemon, TestHost, errors, few_or_many, first_difference, runs_of, text,
    wait_for, wait_for_errors, wait_for_member,
};

/// No periodic reload: only an event can report a change.
pub const NO_REFRESH: [&str; 2] = ["--refresh-interval", "100000"];

/// A number of /status, by its path.
fn count(daemon: &Daemon, path: &[&str]) -> u64 {
    let status = daemon.status();
    let found = path.iter().try_fold(&status, |json, name| json.get(name));
    found.and_then(Json::as_u64).unwrap_or(0)
}

/// Waits until no job is running, waiting, or put off.
pub fn wait_for_rest(daemon: &Daemon) {
    wait_for("the queue is empty", || {
        let status = daemon.status();
        let queue = status.get("queue").unwrap();
        let later = queue.get("later").and_then(Json::as_u64);
        match (queue.get("idle"), later) {
            (Some(Json::Bool(true)), Some(0)) => Ok(()),
            _ => Err(queue.to_string()),
        }
    });
}

/// The commands that have not answered; those of zfs with their pool.
pub fn breakers(daemon: &Daemon) -> Vec<String> {
    let status = daemon.status();
    let open = status.get("breakers").unwrap().as_array().unwrap();
    open.iter().map(|open| text(open, "command").to_string()).collect()
}

/// The VMs that wait for a command that has not answered.
fn waiting_for(daemon: &Daemon, command: &str) -> Vec<String> {
    let status = daemon.status();
    let breakers = status.get("breakers").and_then(Json::as_array).unwrap();
    let own = breakers.iter().find(|b| text(b, "command") == command);
    let waiting = own.and_then(|breaker| breaker.get("waiting")?.as_array());
    let names = waiting.unwrap_or_default().iter().filter_map(Json::as_str);
    names.map(str::to_string).collect()
}

fn wait_for_waiting(daemon: &Daemon, command: &str, names: &[&String]) {
    let mut names: Vec<_> = names.iter().map(ToString::to_string).collect();
    names.sort();
    wait_for(&format!("they wait for {command}"), || {
        let waiting = waiting_for(daemon, command);
        let has_all = names.iter().all(|name| waiting.contains(name));
        if has_all { Ok(()) } else { Err(format!("{waiting:?}")) }
    });
}

#[test]
fn a_command_that_hangs_does_not_delay_other_vms_or_files() {
    let host = TestHost::with_vms(20);
    let names = host.zonenames().unwrap();
    let up: Vec<_> = names.iter().filter(|n| host.is_up(n).unwrap()).collect();
    // No command is killed while this test runs.
    let args = ["--command-timeout", "1000", "--set", "stuck-time=0.3"];
    let mut daemon = host.start_with(&args);
    let mut stream = daemon.events();

    // Many VMs wait for zfs ...
    host.hurt("zfs", "hang").unwrap();
    let before = runs_of(&host, "zfs");
    for zonename in &up[..6] {
        let own = format!("zones/{zonename}");
        host.zfs_set(&own, "quota", "1").unwrap();
    }
    wait_for_waiting(&daemon, "zfs zones", &up[..6]);
    // ... while another VM, and one of them, go through their states and have
    // their files read.
    for other in [up[6], up[0]] {
        host.reboot(other).unwrap();
        let mut states = Vec::new();
        while !states.ends_with(&["ready".to_string(), "running".to_string()]) {
            let event = stream.next().unwrap();
            if text(&event, "zonename") != other.as_str() {
                continue;
            }
            let vm = event.get("vm").unwrap();
            states.push(text(vm, "zone_state").to_string());
            states.dedup();
        }
        assert!(states.contains(&"shutting_down".to_string()), "{states:?}");
        host.write_config(other, "tags.json", "{\"a\":1}").unwrap();
        wait_for_member(&daemon, other, "tags", "{\"a\":1}");
    }
    assert!(runs_of(&host, "zfs") <= before + 2, "zfs was run for each");

    // The same with zoneadm: files are still read.
    host.hurt("zoneadm", "hang").unwrap();
    for zonename in &up[6..9] {
        host.restart_init(zonename).unwrap();
        host.reboot(zonename).unwrap();
    }
    wait_for_waiting(&daemon, "zoneadm", &up[6..9]);
    host.write_config(up[9], "tags.json", "{\"b\":2}").unwrap();
    wait_for_member(&daemon, up[9], "tags", "{\"b\":2}");
    wait_for("no worker waits", || {
        match count(&daemon, &["queue", "working"]) {
            0 => Ok(()),
            working => Err(working.to_string()),
        }
    });

    // A signal still ends the daemon.
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
}

#[test]
fn a_command_that_is_always_slow_is_waited_for() {
    let host = TestHost::with_vms(4);
    let zonename = host.vm_of("joyent");
    let own = format!("zones/{zonename}");
    let args = ["--set", "stuck-time=0.1"];
    let daemon = host.start_with(&[&args[..], &NO_REFRESH].concat());
    for command in ["zfs", "zoneadm", "kstat"] {
        host.hurt(command, "slow 700").unwrap();
    }
    host.zfs_set(&own, "quota", "64424509440").unwrap();
    wait_for_member(&daemon, &zonename, "quota", "60");
    host.halt(&zonename, 0).unwrap();
    wait_for_member(&daemon, &zonename, "state", "\"stopped\"");
    host.boot(&zonename).unwrap();
    wait_for_member(&daemon, &zonename, "state", "\"running\"");
    wait_for_rest(&daemon);
    assert_eq!(count(&daemon, &["commands", "zfs", "hangs"]), 0);
    wait_for_errors(&daemon, &[]);
    wait_for("no breaker is open", || match breakers(&daemon) {
        open if open.is_empty() => Ok(()),
        open => Err(format!("{open:?}")),
    });
    for command in ["zfs", "zoneadm", "kstat"] {
        host.hurt(command, "heal").unwrap();
    }
    assert_eq!(daemon.vms(), host.dumped());
}

#[test]
fn vms_are_loaded_again_after_a_hung_command_is_killed() {
    let host = TestHost::with_vms(8);
    let names = host.zonenames().unwrap();
    let args = [
        "--set",
        "stuck-time=0.1",
        "--set",
        "command-time=0.5",
        "--set",
        "retry-last=0.2",
    ];
    let daemon = host.start_with(&[&args[..], &NO_REFRESH].concat());
    // The first five runs hang, and later ones do not.
    host.hurt("zfs", "hang times=5").unwrap();
    for zonename in &names {
        host.zfs_set(&format!("zones/{zonename}"), "recsize", "65536").unwrap();
    }
    for zonename in &names {
        wait_for_member(&daemon, zonename, "zfs_root_recsize", "65536");
    }
    wait_for_errors(&daemon, &[]);
    assert!(count(&daemon, &["commands", "zfs", "hangs"]) >= 3);
    wait_for("no breaker is open", || match breakers(&daemon) {
        open if open.is_empty() => Ok(()),
        open => Err(format!("{open:?}")),
    });
}

#[test]
fn a_change_without_an_event_is_found_and_counted_as_drift() {
    let host = TestHost::with_vms(4);
    let zonename = host.vm_of("joyent");
    let own = format!("zones/{zonename}");
    let args = ["--refresh-interval", "0.3", "--set", "drift-time=0.2"];
    let daemon = host.start_with(&args);
    host.hurt("sysevent-zfs", "drop").unwrap();
    host.zfs_set(&own, "quota", "64424509440").unwrap();
    wait_for_member(&daemon, &zonename, "quota", "60");
    let path = ["drift", "properties", "quota", "zfs"];
    wait_for("it is counted", || match count(&daemon, &path) {
        1 => Ok(()),
        _ => Err(daemon.status().to_string()),
    });
    assert_eq!(count(&daemon, &["drift", "vms"]), 1);
    // The log is read by a thread of its own.
    wait_for("it is in the log", || {
        let log = daemon.log().join("\n");
        let is_logged =
            log.contains("no event reported the change of quota (zfs)");
        if is_logged { Ok(()) } else { Err(log) }
    });
    // A change that an event reports is not counted.
    host.hurt("sysevent-zfs", "heal").unwrap();
    for quota in ["10737418240", "21474836480"] {
        host.zfs_set(&own, "quota", quota).unwrap();
    }
    wait_for_member(&daemon, &zonename, "quota", "20");
    let reloads = runs_of(&host, "-d 2");
    wait_for("a reload later", || match runs_of(&host, "-d 2") {
        runs if runs > reloads + 2 => Ok(()),
        runs => Err(runs.to_string()),
    });
    assert_eq!(count(&daemon, &["drift", "vms"]), 1);
}

#[test]
fn changes_missed_while_a_source_was_down_are_counted_as_gaps() {
    let host = TestHost::with_vms(4);
    let zonename = host.vm_of("joyent");
    let args = ["--set", "drift-time=0.1", "--set", "restart-first=0.2"];
    let daemon = host.start_with(&[&args[..], &NO_REFRESH].concat());
    host.hurt("sysevent-zfs-start", "fail not now").unwrap();
    host.kill_sysevent(Channel::Zfs).unwrap();
    wait_for_errors(&daemon, &[" zfs events".to_string()]);
    let quota = "64424509440";
    host.zfs_set(&format!("zones/{zonename}"), "quota", quota).unwrap();
    host.hurt("sysevent-zfs-start", "heal").unwrap();
    wait_for_member(&daemon, &zonename, "quota", "60");
    wait_for_errors(&daemon, &[]);
    let path = ["gaps", "properties", "quota", "zfs"];
    wait_for("it is counted", || match count(&daemon, &path) {
        1 => Ok(()),
        _ => Err(daemon.status().to_string()),
    });
    assert_eq!(count(&daemon, &["drift", "vms"]), 0);
}

#[test]
fn the_first_of_two_zones_with_the_same_uuid_is_served() {
    let host = TestHost::with_vms(3);
    let names = host.zonenames().unwrap();
    host.set_uuid(&names[1], &names[0]).unwrap();
    let daemon = host.start_with(&NO_REFRESH);
    wait_for_errors(&daemon, &[format!("{} uuid", names[1])]);
    assert_eq!(daemon.vms().as_array().unwrap().len(), 2);
    assert_eq!(daemon.vms(), host.dumped());
    assert!(daemon.vm(&names[1]).is_none());
    // Once the first is deleted, the second may have the uuid.
    host.delete(&names[0]).unwrap();
    daemon.settle(&host);
    let vm = daemon.vm(&names[1]).unwrap();
    assert_eq!(text(&vm, "uuid"), names[0]);
    wait_for_errors(&daemon, &[]);
}

#[test]
fn a_vm_that_takes_the_uuid_of_another_is_no_longer_served() {
    let host = TestHost::with_vms(3);
    let names = host.zonenames().unwrap();
    let daemon = host.start_with(&NO_REFRESH);
    let mut stream = daemon.events();
    host.set_uuid(&names[1], &names[0]).unwrap();
    let other = host.is_up(&names[1]).unwrap();
    if other {
        host.stop(&names[1], 0).unwrap();
    } else {
        host.host.start(&names[1]).unwrap();
    }
    loop {
        let event = stream.next().unwrap();
        assert_eq!(text(&event, "zonename"), names[1]);
        if text(&event, "type") == "delete" {
            break;
        }
    }
    daemon.settle(&host);
    assert!(daemon.vm(&names[1]).is_none());
    wait_for_errors(&daemon, &[format!("{} uuid", names[1])]);
}

#[test]
fn files_that_cannot_be_watched_are_polled() {
    let host = TestHost::with_vms(5);
    let names = host.zonenames().unwrap();
    // The system lets it watch a few files, and no more.
    let args = ["--set", "poll-time=0.05", "--set", "rearm-time=0.05"];
    let args = [&args[..], &NO_REFRESH].concat();
    let mut daemon =
        host.spawn_with(&args, &[("PROCESS_MAX_PORT_EVENTS", "12")]);
    daemon.addr = daemon.wait_for_address();
    assert!(!errors(&daemon).is_empty());
    assert!(errors(&daemon).iter().all(|e| e.ends_with(" watch")));
    let status = daemon.status();
    let error = &status.get("errors").unwrap().as_array().unwrap()[0];
    assert!(text(error, "since").ends_with('Z'), "{error}");
    for (n, zonename) in names.iter().enumerate() {
        let tags = format!("{{\"n\":{n}}}");
        host.write_config(zonename, "tags.json", &tags).unwrap();
        wait_for_member(&daemon, zonename, "tags", &tags);
        let config = host.zone_dir(zonename).unwrap().join("config");
        host.write_config(zonename, "routes.json", "{\"r\":1}").unwrap();
        wait_for_member(&daemon, zonename, "routes", "{\"r\":1}");
        fs::remove_file(config.join("routes.json")).unwrap();
        wait_for_member(&daemon, zonename, "routes", "{}");
        host.write_config(zonename, "routes.json", &tags).unwrap();
        wait_for_member(&daemon, zonename, "routes", &tags);
        host.update(zonename, "cpu_cap", "777").unwrap();
        wait_for_member(&daemon, zonename, "cpu_cap", "777");
    }
    // Once the other VMs need no watches any more, all files can be watched.
    for zonename in &names[1..] {
        host.delete(zonename).unwrap();
    }
    wait_for_errors(&daemon, &[]);
    daemon.settle(&host);
    let tags = "{\"at\":\"last\"}";
    host.write_config(&names[0], "tags.json", tags).unwrap();
    wait_for_member(&daemon, &names[0], "tags", tags);
}

/// Makes sysevent print records, as many in one write as possible.
fn flood(
    host: &TestHost,
    channel: Channel,
    records: impl Iterator<Item = String>,
) {
    let mut bytes = Vec::new();
    let send = |bytes: &mut Vec<u8>, most: usize| {
        if bytes.len() > most {
            host.raw_sysevent(channel, bytes).unwrap();
            bytes.clear();
        }
    };
    for record in records {
        bytes.extend_from_slice(format!("{{{record}\n").as_bytes());
        send(&mut bytes, 60_000);
    }
    send(&mut bytes, 0);
}

#[test]
fn a_flood_of_events_loses_no_change_and_takes_little_memory() {
    let host = TestHost::with_vms(5);
    let zonename = host.vm_of("joyent");
    let daemon = host.start_with(&NO_REFRESH);
    let rss = || count(&daemon, &["memory", "rss"]);
    let before = rss();
    // Events of zones that never existed.
    let records = (0..100_000).map(|n| {
        zone_change(&format!("nobody{n}"), "ready", "running", n + 10_000)
    });
    flood(&host, Channel::Zone, records);
    host.reboot(&zonename).unwrap();
    wait_for("all is served", || {
        let (served, loaded) = (daemon.vms(), host.dumped());
        first_difference(&served, &loaded).map_or(Ok(()), Err)
    });
    wait_for("all events were read", || {
        match count(&daemon, &["sources", "zone", "events"]) {
            100_000.. => Ok(()),
            events => Err(events.to_string()),
        }
    });
    wait_for_rest(&daemon);
    assert!(rss() < before + (30 << 20), "{before} {}", rss());
    assert_eq!(daemon.vms().as_array().unwrap().len(), 5);
}

#[test]
fn a_storm_of_snapshots_costs_few_runs() {
    let host = TestHost::with_vms(3);
    let zonename = host.vm_of("joyent");
    let daemon = host.start_with(&NO_REFRESH);
    let before = runs_of(&host, "zfs ");
    let records = (0..5000).map(|n| {
        let name = format!("zones/{zonename}@backup{n}");
        history(&name, "snapshot", "", n)
    });
    flood(&host, Channel::Zfs, records);
    host.zfs_set(&format!("zones/{zonename}"), "quota", "64424509440").unwrap();
    wait_for_member(&daemon, &zonename, "quota", "60");
    let runs = runs_of(&host, "zfs ") - before;
    assert!(runs < 100, "{runs} runs for 5001 events");
    // When a later event of another VM has its effect, all of these have, too.
    let other = host.vm_of("lx");
    host.zfs_set(&format!("zones/{other}"), "quota", "64424509440").unwrap();
    wait_for_member(&daemon, &other, "quota", "60");
    wait_for_rest(&daemon);
    // Events of datasets that belong to no VM cause no run.
    let before = runs_of(&host, "zfs ");
    let records = (0..500).map(|n| {
        let names = [
            "zones/01b2c898-945f-11e1-a523-af1afbe22822@final".to_string(),
            format!("zones/cores/{zonename}"),
            format!("zones/{zonename}/data/of/tenant"),
        ];
        history(&names[n % 3], "set", "x=1", 7)
    });
    flood(&host, Channel::Zfs, records);
    wait_for("the events were read", || {
        match count(&daemon, &["sources", "zfs", "events"]) {
            5502.. => Ok(()),
            events => Err(events.to_string()),
        }
    });
    host.write_config(&zonename, "tags.json", "{\"x\":1}").unwrap();
    wait_for_member(&daemon, &zonename, "tags", "{\"x\":1}");
    assert_eq!(runs_of(&host, "zfs ") - before, 0);
}

#[test]
fn a_burst_of_events_is_loaded_in_few_batches() {
    let vms = usize::try_from(few_or_many(80, 200)).unwrap();
    let host = TestHost::with_vms(vms as u64 * 3 / 2);
    // No substitute for a worker starts: it would take the waiting jobs as a
    // batch of its own.
    let args = [&NO_REFRESH[..], &["--set", "stuck-time=600"]].concat();
    let daemon = host.start_with(&args);
    let served = daemon.vms();
    let of_vm = |vm: &Json| {
        let zoneid = vm.get("zoneid")?.as_u64()?;
        let zoneid = i64::try_from(zoneid).ok()?;
        Some((text(vm, "zonename").to_string(), zoneid))
    };
    let zones: Vec<_> =
        served.as_array().unwrap().iter().filter_map(of_vm).take(vms).collect();
    assert_eq!(zones.len(), vms);
    let own = |name: &str| format!("zones/{name}");
    host.hurt("sysevent-zfs", "drop").unwrap();
    for (name, _) in &zones {
        // The brand decides which of them is served.
        host.zfs_set(&own(name), "quota", "64424509440").unwrap();
        host.zfs_set(&own(name), "refquota", "64424509440").unwrap();
    }
    host.hurt("sysevent-zfs", "heal").unwrap();
    // While these commands wait, jobs pile up.
    host.hurt("zoneadm", "block").unwrap();
    host.hurt("zfs", "block").unwrap();
    let before = runs_of(&host, "");
    let ways = [
        ("running", "shutting_down"),
        ("shutting_down", "ready"),
        ("ready", "running"),
    ];
    let changes = zones.iter().flat_map(|(name, zoneid)| {
        ways.map(|(from, to)| zone_change(name, from, to, *zoneid))
    });
    flood(&host, Channel::Zone, changes);
    let sets = zones.iter().flat_map(|(name, _)| {
        ["quota", "refquota"].map(|name_of| {
            history(&own(name), "set", &format!("{name_of}=1"), 7)
        })
    });
    flood(&host, Channel::Zfs, sets);
    // It is not enough that they were read: each has to be a job by then.
    wait_for("all events are planned", || {
        let of_vm = ["zone", "zfs"].map(|source| {
            let name = "vminfod_events_received_total{source=\"";
            daemon.sum_of_metrics(&format!("{name}{source}\"")) / vms as f64
        });
        let is_so = of_vm[0] >= 3.0 && of_vm[1] >= 2.0;
        if is_so { Ok(()) } else { Err(format!("{of_vm:?} for each VM")) }
    });
    host.hurt("zoneadm", "heal").unwrap();
    host.hurt("zfs", "heal").unwrap();
    for (name, _) in &zones {
        wait_for_member(&daemon, name, "quota", "60");
    }
    wait_for_rest(&daemon);
    let runs = runs_of(&host, "") - before;
    // A few batches of up to four commands each: fewer than twenty runs, and
    // some more on a busy machine. A run of each command for each VM would be
    // three times as many as there are VMs.
    assert!(runs <= vms / 2, "{runs} runs for {} events", 5 * vms);
}

#[test]
fn files_that_are_too_large_are_refused_and_reported() {
    let host = TestHost::with_vms(4);
    let names = host.zonenames().unwrap();
    let dir = |n: usize| host.zone_dir(&names[n]).unwrap();
    let args = [
        "--set",
        "json-bytes=1k",
        "--set",
        "xml-bytes=64k",
        "--set",
        "lastexited-bytes=100",
    ];
    let daemon = host.start_with(&[&args[..], &NO_REFRESH].concat());
    let before = daemon.vms();
    let long = format!("{{\"long\":\"{}\"}}", "x".repeat(2000));
    host.write_config(&names[0], "routes.json", &long).unwrap();
    let xml = fs::read_to_string(host.xml_path(&names[1])).unwrap();
    let comment = format!("<!-- {} -->", "x".repeat(70_000));
    host.zonecfg(&names[1], &(xml.clone() + &comment)).unwrap();
    fs::write(dir(2).join("lastexited"), "1".repeat(200)).unwrap();
    // Entities that expand to ever more of each other.
    let mut bomb = "<!DOCTYPE zone [<!ENTITY a0 \"xxxxxxxxxx\">".to_string();
    for n in 1..20 {
        let refs = format!("&a{};", n - 1).repeat(10);
        bomb.push_str(&format!("<!ENTITY a{n} \"{refs}\">"));
    }
    bomb.push_str("]><zone name=\"x\" brand=\"lx\" zonepath=\"/x\">");
    bomb.push_str("<attr name=\"alias\" value=\"&a19;\"/></zone>");
    host.replace_xml(&names[3], &bomb).unwrap();
    let mut wanted = vec![
        format!("{} routes.json", names[0]),
        format!("{} zonexml", names[1]),
        format!("{} lastexited", names[2]),
        format!("{} zonexml", names[3]),
    ];
    wanted.sort();
    wait_for_errors(&daemon, &wanted);
    assert_eq!(daemon.vms(), before);
    for error in daemon.status().get("errors").unwrap().as_array().unwrap() {
        assert!(text(error, "error").contains(host.root().to_str().unwrap()));
    }
}

#[test]
fn a_running_zone_without_kstats_is_served_without_their_members() {
    let host = TestHost::with_vms(3);
    let names = host.zonenames().unwrap();
    let up = names.iter().find(|n| host.is_up(n).unwrap()).unwrap();
    host.hurt("kstat", "empty").unwrap();
    let daemon = host.start_with(&NO_REFRESH);
    let vm = daemon.vm(up).unwrap();
    assert_eq!(text(&vm, "zone_state"), "running");
    assert!(vm.get("pid").is_none() && vm.get("boot_timestamp").is_none());
    assert!(errors(&daemon).contains(&format!("{up} kstat")));
    host.hurt("kstat", "heal").unwrap();
    daemon.settle(&host);
    assert!(daemon.vm(up).unwrap().get("pid").is_some());
    wait_for_errors(&daemon, &[]);
}

#[test]
fn a_sysevent_that_prints_nothing_any_more_is_restarted() {
    let host = TestHost::with_vms(4);
    let names = host.zonenames().unwrap();
    let args = ["--refresh-interval", "0.4", "--set", "drift-time=0.1"];
    let daemon = host.start_with(&args);
    let zfs = |member: &str| {
        let status = daemon.status();
        let zfs = status.get("sources").unwrap().get("zfs").unwrap();
        zfs.get(member).cloned().unwrap_or_default()
    };
    let pid = zfs("pid").to_string();
    host.stall_sysevent(Channel::Zfs).unwrap();
    // Every reload finds a change that no event has reported.
    let mut quota = 100;
    let set = |quota: u64| {
        let (own, bytes) = (format!("zones/{}", names[0]), quota << 30);
        host.zfs_set(&own, "quota", &bytes.to_string()).unwrap();
    };
    set(quota);
    wait_for("it is started again, and told", || {
        let served = daemon.vm(&names[0]).unwrap();
        if served.get("quota") == Some(&Json::from(quota)) {
            quota += 1;
            set(quota);
        }
        let status = daemon.status();
        let said = status.get("errors").unwrap().to_string();
        let is_told = said.contains("zfs events missing")
            && said.contains("its sysevent has been restarted");
        match zfs("restarts").as_u64() {
            Some(1..) if is_told => Ok(()),
            _ => Err(status.to_string()),
        }
    });
    assert_ne!(zfs("pid").to_string(), pid);
    let status = daemon.tool(&["status"]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("zfs events were missing"), "{status}");
    // The new sysevent reports every change, and the fault is over.
    host.zfs_set(&format!("zones/{}", names[1]), "quota", "1073741824")
        .unwrap();
    wait_for_member(&daemon, &names[1], "quota", "1");
    wait_for_errors(&daemon, &[]);
}
