//! Rows about the kernel's events, kstat(8) and sysevent(8).

use std::fs;
use std::process::Stdio;

use simhost::emit::{
    Channel, SUBSCRIBERS_MAX, UNDELIVERED_MAX, publish, records, zone_change,
};

use super::{Sim, Subscriber, said, wait_for};

const KSTAT: &str = "kstat -p -m zones -c zone_misc";

/// The value of a statistic of a zone: of `zonename`, `boot_time` and so on.
fn statistic(sim: &Sim, name: &str, statistic: &str) -> Option<String> {
    let output = sim.run(&format!("{KSTAT} -s {statistic}")).output;
    let cut = &name[..name.len().min(30)];
    let own = format!(":{cut}:{statistic}\t");
    let line = output.lines().find(|line| line.contains(&own))?;
    line.split('\t').nth(1).map(String::from)
}

fn names(output: &str) -> Vec<&str> {
    output.lines().map(|line| line.split(':').nth(2).unwrap()).collect()
}

#[test]
fn row_59_the_global_zone_has_a_kstat() {
    let sim = Sim::with_vms(0);
    let said = sim.run(&format!("{KSTAT} -s zonename"));
    said.is("zones:0:global:zonename\tglobal\n", "", 0);
    let lines = sim.run(KSTAT).output.lines().count();
    assert_eq!(lines, 19);
    sim.run(&format!("{KSTAT} -i 7")).is("", "", 1);
}

#[test]
fn row_60_kstats_are_in_the_order_of_ids() {
    let sim = Sim::with_vms(12);
    // After this, VM 0 has the highest id, but not the last name.
    sim.reboot(&sim.names[0]).unwrap();
    let output = sim.run(&format!("{KSTAT} -s boot_time")).output;
    let ids: Vec<i64> = output
        .lines()
        .map(|line| line.split(':').nth(1).unwrap().parse().unwrap())
        .collect();
    assert_eq!(ids[0], 0);
    assert!(ids.len() > 8 && ids.is_sorted(), "{ids:?}");
    assert_eq!(*names(&output).last().unwrap(), &sim.names[0][..30]);
}

#[test]
fn row_61_patterns_are_globs_or_regular_expressions() {
    let sim = Sim::with_vms(2);
    let count = |pattern: &str| {
        sim.run(&format!("kstat -p {pattern}")).output.lines().count()
    };
    assert_eq!(count("-m zones -c zone_misc -i 1"), 19);
    assert_eq!(count("-m zones -s init_*"), 2 * 3);
    assert_eq!(count("-m zo?es -s /^(zonename|boot_time)$/"), 2 * 3);
    assert_eq!(count("-m zones -n /^global$/"), 19);
    assert_eq!(count("-m zone"), 0);
    assert_eq!(count("-c zone_caps"), 0);
    assert_eq!(sim.run("kstat -p -s /(/").status, Some(2));
    assert_eq!(sim.run("kstat -p -x y").status, Some(2));
}

#[test]
fn row_62_and_71_init_ends_before_the_zone_does() {
    let sim = Sim::with_vms(1);
    let name = sim.names[0].clone();
    let pid = |sim: &Sim| statistic(sim, &name, "init_pid");
    assert_eq!(pid(&sim).as_deref(), Some("4000"));
    sim.end_init(&name).unwrap();
    assert_eq!(pid(&sim).as_deref(), Some("4294967295"));
    assert!(sim.listed(0).unwrap().contains(":running:"));
    // Then zoneadmd notes how it ended, and halts the zone.
    let events = sim.events_of(|host| host.halt(&name, 256).unwrap());
    assert_eq!(events[0], "shutting_down<-running");
    let exit = sim.zone_dir(&name).unwrap().join("lastexited");
    assert!(fs::read_to_string(exit).unwrap().ends_with(" 256\n"));
    assert_eq!(pid(&sim), None);
}

#[test]
fn row_63_a_kstat_may_come_after_the_zone_is_ready() {
    let sim = Sim::with_vms(3);
    let name = sim.names[2].clone();
    sim.ready(&name).unwrap();
    assert!(sim.listed(2).unwrap().contains(":ready:"));
    assert_eq!(statistic(&sim, &name, "boot_time"), None);
    sim.halt(&name, -1).unwrap();
    sim.boot_without_time(&name).unwrap();
    assert_eq!(statistic(&sim, &name, "boot_time").as_deref(), Some("0"));
    sim.set_boot_times().unwrap();
    assert_ne!(statistic(&sim, &name, "boot_time").as_deref(), Some("0"));
}

#[test]
fn row_64_a_zone_whose_name_begins_with_kstat_has_no_kstats() {
    let sim = Sim::with_vms(3);
    sim.rename(&sim.names[2], "kstat_zone").unwrap();
    sim.boot("kstat_zone").unwrap();
    assert_eq!(statistic(&sim, "kstat_zone", "boot_time"), None);
}

#[test]
fn row_65_one_reader_that_stops_loses_events_for_all_subscribers() {
    let sim = Sim::with_vms(0);
    let reader = Subscriber::start(&sim, true);
    let mut silent = Subscriber::start(&sim, false);
    let channel = Channel::Zone;
    // The silent one prints some before its pipe is full; the publisher never
    // waits.
    let mut sent = 0;
    let all = UNDELIVERED_MAX + 3000;
    for n in 0..all {
        let record = zone_change("z", "ready", "running", n.cast_signed());
        publish(sim.root(), channel, &[record]).unwrap();
        sent += 1;
    }
    assert_eq!(sent, all);
    let published = sim.published().0;
    assert!(published < all, "{published}");
    assert!(published >= UNDELIVERED_MAX, "{published}");
    // The reader has had all that was published, and no more.
    for _ in 0..published {
        reader.next();
    }
    assert_eq!(records(sim.root(), channel).len() as u64, all);
    silent.child.kill().unwrap();
    silent.child.wait().unwrap();
    let record = zone_change("z", "last", "one", 1);
    publish(sim.root(), channel, &[record]).unwrap();
    assert!(reader.next().contains("\"oldstate\":\"last\""));
}

#[test]
fn row_66_the_subscribers_of_a_channel_are_limited() {
    let sim = Sim::with_vms(0);
    let all: Vec<_> =
        (0..SUBSCRIBERS_MAX).map(|_| Subscriber::start(&sim, true)).collect();
    let one_more = "sysevent -rj -c com.sun:zones:status";
    let text = "sysevent: sysevent_evc_subscribe: Not enough space\n";
    sim.run(one_more).is("", text, 2);
    drop(all);
    drop(Subscriber::start(&sim, true));
    let text = "sysevent: sysevent_evc_bind: No such file or directory\n";
    sim.run("sysevent -rj -c com.sun:nothing").is("", text, 1);
}

#[test]
fn row_67_the_end_of_its_reader_kills_it_at_the_next_event() {
    use std::os::unix::process::ExitStatusExt;
    let sim = Sim::with_vms(0);
    let mut child = sim
        .command("sysevent -rj -c com.sun:zones:status")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut ready = String::new();
    std::io::BufRead::read_line(&mut reader, &mut ready).unwrap();
    drop(reader);
    assert!(child.try_wait().unwrap().is_none());
    sim.zone_ping().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGPIPE));
}

const HALT: [&str; 6] = [
    "shutting_down<-running",
    "shutting_down<-shutting_down",
    "shutting_down<-shutting_down",
    "shutting_down<-shutting_down",
    "uninitialized<-shutting_down",
    "free<-uninitialized",
];

const BOOT: [&str; 4] = [
    "initialized<-uninitialized",
    "ready<-initialized",
    "ready<-ready",
    "running<-ready",
];

#[test]
fn row_68_a_halt_is_six_events() {
    let sim = Sim::with_vms(1);
    let name = sim.names[0].clone();
    let exit = sim.zone_dir(&name).unwrap().join("lastexited");
    let events = sim.events_of(|host| host.halt(&name, -1).unwrap());
    assert_eq!(events, HALT);
    assert!(fs::read_to_string(exit).unwrap().ends_with(" -1\n"));
    assert_eq!(sim.events_of(|host| host.boot(&name).unwrap()), BOOT);
}

#[test]
fn row_69_free_may_come_after_the_next_zone_runs() {
    let sim = Sim::with_vms(1);
    let name = sim.names[0].clone();
    let exit = sim.zone_dir(&name).unwrap().join("lastexited");
    let events =
        sim.events_of(|host| host.reboot_with_late_free(&name).unwrap());
    let wanted = [&HALT[..5], &BOOT, &HALT[5..]].concat();
    assert_eq!(events, wanted);
    let ids: Vec<_> = records(sim.root(), Channel::Zone)
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|record| record["data"]["zoneid"].as_i64().unwrap())
        .collect();
    assert_eq!(ids[0], ids[9]);
    assert_ne!(ids[0], ids[8]);
    assert!(!exit.exists());
}

#[test]
fn row_70_events_of_failed_boots_and_of_the_halt_of_a_ready_zone() {
    let sim = Sim::with_vms(3);
    let name = sim.names[2].clone();
    let exit = sim.zone_dir(&name).unwrap().join("lastexited");
    let before = fs::read_to_string(&exit).unwrap();
    let of_ready = [
        "shutting_down<-ready",
        "shutting_down<-shutting_down",
        "uninitialized<-shutting_down",
        "free<-uninitialized",
    ];
    let events = sim.events_of(|host| host.boot_fails(&name).unwrap());
    assert_eq!(events, [&BOOT[..2], &of_ready].concat());
    let events = sim.events_of(|host| {
        host.ready(&name).unwrap();
        host.halt(&name, -1).unwrap();
    });
    assert_eq!(events, [&BOOT[..2], &of_ready].concat());
    assert_eq!(fs::read_to_string(&exit).unwrap(), before);
    let events = sim.events_of(|host| host.boot_without_init(&name).unwrap());
    let wanted = [&BOOT[..3], &["shutting_down<-ready"], &HALT[1..]].concat();
    assert_eq!(events, wanted);
    assert!(!sim.is_up(&name).unwrap());
}

#[test]
fn row_72_a_halt_that_hangs_stays_down() {
    let sim = Sim::with_vms(2);
    let name = sim.names[0].clone();
    let exit = sim.zone_dir(&name).unwrap().join("lastexited");
    let events = sim.events_of(|host| host.halt_hangs(&name).unwrap());
    assert_eq!(events, HALT[..3]);
    assert!(sim.listed(0).unwrap().contains(":down:"));
    fs::write(&exit, "").unwrap();
    let events = sim.events_of(|host| host.halt(&name, -1).unwrap());
    assert_eq!(events, HALT[3..]);
    assert!(fs::read_to_string(&exit).unwrap().ends_with(" -1\n"));
    // A zone whose release hangs is dead, and keeps its id until it is free.
    let other = sim.names[1].clone();
    let events =
        sim.events_of(|host| host.halt_without_release(&other).unwrap());
    assert_eq!(events, HALT[..5]);
    let line = sim.listed(1).unwrap();
    assert!(line.starts_with("2:") && line.contains(":down:"), "{line}");
    assert!(statistic(&sim, &other, "boot_time").is_some());
    let events = sim.events_of(|host| host.release(&other).unwrap());
    assert_eq!(events, HALT[5..]);
}

#[test]
fn row_73_a_ping_has_no_data() {
    let sim = Sim::with_vms(0);
    let subscriber = Subscriber::start(&sim, true);
    sim.zone_ping().unwrap();
    let line = subscriber.next();
    assert!(line.contains("\"subclass\":\"ping\""), "{line}");
    assert!(!line.contains("\"data\""), "{line}");
}

#[test]
fn the_kernel_publishes_a_state_before_the_zone_has_it() {
    let sim = Sim::with_vms(3);
    let subscriber = Subscriber::start(&sim, true);
    sim.boot(&sim.names[2]).unwrap();
    for _ in 0..4 {
        subscriber.next();
    }
    assert!(sim.listed(2).unwrap().contains(":running:"));
}

#[test]
fn faults_of_operations_reach_the_command_line() {
    let sim = Sim::with_vms(3);
    let name = &sim.names[2];
    let simhost = |words: &[&str]| {
        let mut command = std::process::Command::new(super::SIMHOST);
        said(command.args(words).output().unwrap())
    };
    let root = sim.root().to_str().unwrap();
    simhost(&["hurt", root, "operation", "killed 1"]).is("", "", 0);
    let killed = simhost(&["mark", root, name, "incomplete"]);
    killed.is("", "simhost: killed\n", 1);
    assert!(sim.listed(2).unwrap().contains(":incomplete:"));
    assert_eq!(sim.events(), [""; 0]);
    simhost(&["hurt", root, "operation", "heal"]).is("", "", 0);
    simhost(&["mark", root, name, "installed"]).is("", "", 0);
    simhost(&["halt-hangs", root, &sim.names[0]]).is("", "", 0);
    wait_for("it is down", || sim.listed(0).unwrap().contains(":down:"));
    let usage = simhost(&["mark", root]);
    assert_eq!(usage.status, Some(2));
}
