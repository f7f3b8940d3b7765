//! Rows about what zonecfg(8) and zoneadm(8) write, and in which order.

use std::fs;
use std::os::unix::fs::MetadataExt;

use simhost::{Host, index};

use super::Sim;

/// What a process sees of a zone: whether it has a valid XML, its state in the
/// index, and whether its uuid is set; and how many zone events there have
/// been.
fn look(name: &str) -> impl Fn(&Host) -> (bool, String, bool, usize) + use<> {
    let name = name.to_string();
    move |host| {
        let has_xml = simhost::dtd::read(host.root(), &name).is_some();
        let entries = index::read(host.root()).unwrap();
        let entry = entries.into_iter().find(|e| e.zonename == name);
        let state = entry.as_ref().map_or("", |e| &e.state).to_string();
        let has_uuid = entry.is_some_and(|e| !e.uuid.is_empty());
        let zone = simhost::emit::Channel::Zone;
        let events = simhost::emit::records(host.root(), zone).len();
        (has_xml, state, has_uuid, events)
    }
}

fn state(name: &str, host: &Host) -> String {
    look(name)(host).1
}

#[test]
fn row_30_a_create_can_be_seen_half_done_three_times() {
    let sim = Sim::with_vms(1);
    let name = "11111111-2222-4333-8444-555555555555";
    let xml = fs::read_to_string(sim.xml(0)).unwrap();
    let xml = xml.replace(&sim.names[0], name);
    let seen = sim.steps(look(name), |host| {
        host.zonecfg_create(name, &xml, false).unwrap();
    });
    let configured =
        |has_uuid, events| (true, "configured".to_string(), has_uuid, events);
    let wanted = vec![
        (true, String::new(), false, 0),
        configured(false, 0),
        configured(false, 1),
        configured(true, 1),
    ];
    assert_eq!(seen, wanted);
    assert_eq!(sim.events(), ["configured<-"]);
}

#[test]
fn row_31_a_delete_can_be_seen_or_left_half_done_twice() {
    let gone = |has_xml, events| (has_xml, String::new(), false, events);
    let all = [gone(true, 0), gone(false, 0), gone(false, 1)];
    let sim = Sim::with_vms(3);
    let name = sim.names[2].clone();
    let seen = sim.steps(look(&name), |host| {
        host.zonecfg_delete(&name).unwrap();
    });
    assert_eq!(seen, all);
    assert_eq!(sim.events(), ["<-configured"]);
    for steps in 1..3 {
        let sim = Sim::with_vms(3);
        let killed = sim.killed_after(steps).zonecfg_delete(&name);
        assert!(killed.is_err());
        assert_eq!(look(&name)(&sim), all[steps - 1]);
    }
}

#[test]
fn row_32_a_mark_can_be_seen_or_left_half_done() {
    let sim = Sim::with_vms(3);
    let name = sim.names[2].clone();
    assert!(sim.killed_after(1).mark(&name, "incomplete").is_err());
    assert_eq!(state(&name, &sim), "incomplete");
    assert_eq!(sim.events(), [""; 0]);
    let seen =
        sim.steps(look(&name), |host| host.mark(&name, "installed").unwrap());
    let seen: Vec<_> =
        seen.iter().map(|(_, state, _, n)| (&**state, *n)).collect();
    assert_eq!(seen, [("installed", 0), ("installed", 1)]);
}

#[test]
fn row_33_every_commit_replaces_the_index() {
    let sim = Sim::with_vms(1);
    let name = sim.names[0].clone();
    let index = sim.path("/etc/zones/index");
    let before = (fs::metadata(&index).unwrap().ino(), sim.index_text());
    // Keep the old file open, so that its inode number is not used again.
    let _old = fs::File::open(&index).unwrap();
    sim.edit_xml(&name, ToString::to_string).unwrap();
    let after = (fs::metadata(&index).unwrap().ino(), sim.index_text());
    assert_ne!(after.0, before.0);
    assert_eq!(after.1, before.1);
    assert_eq!(sim.events(), [""; 0]);
}

#[test]
fn row_34_a_rename_makes_no_event() {
    let sim = Sim::with_vms(3);
    let old = sim.names[2].clone();
    let (seen_old, seen_new) = (look(&old), look("new"));
    let seen = sim.steps(
        move |host| (seen_old(host), seen_new(host)),
        |host| host.rename(&old, "new").unwrap(),
    );
    let there = |has_xml, is_listed| {
        let state = if is_listed { "installed" } else { "" };
        (has_xml, state.to_string(), is_listed, 0)
    };
    let wanted = vec![
        (there(true, true), there(true, false)),
        (there(true, false), there(true, true)),
        (there(false, false), there(true, true)),
    ];
    assert_eq!(seen, wanted);
    assert!(sim.rename(&sim.names[0], "other").is_err());
}

#[test]
fn row_35_create_f_reconfigures_a_zone_without_an_end_event() {
    let sim = Sim::with_vms(3);
    let name = sim.names[2].clone();
    let xml = fs::read_to_string(sim.xml(2)).unwrap();
    assert!(sim.zonecfg_create(&name, &xml, false).is_err());
    sim.zonecfg_create(&name, &xml, true).unwrap();
    assert_eq!(sim.events(), ["configured<-"]);
    assert_eq!(state(&name, &sim), "configured");
    assert_eq!(sim.zonenames().unwrap().len(), 3);
}

#[test]
fn row_36_an_xml_that_cannot_be_unlinked_makes_no_event() {
    let sim = Sim::with_vms(3);
    let name = sim.names[2].clone();
    fs::remove_file(sim.xml(2)).unwrap();
    fs::create_dir(sim.xml(2)).unwrap();
    assert!(sim.zonecfg_delete(&name).is_err());
    assert_eq!(state(&name, &sim), "");
    assert_eq!(sim.events(), [""; 0]);
}

#[test]
fn row_37_events_of_attach_detach_mark_move_and_clone() {
    let sim = Sim::with_vms(3);
    let name = sim.names[2].clone();
    let events = sim.events_of(|host| {
        host.detach(&name).unwrap();
        assert_eq!(state(&name, host), "configured");
        host.attach(&name).unwrap();
    });
    assert_eq!(events, ["configured<-installed", "installed<-configured"]);
    let events = sim.events_of(|host| {
        host.mark(&name, "incomplete").unwrap();
        host.mark(&name, "incomplete").unwrap();
        host.mark(&name, "installed").unwrap();
    });
    let wanted = [
        "incomplete<-installed",
        "incomplete<-incomplete",
        "installed<-incomplete",
    ];
    assert_eq!(events, wanted);
    let events = sim.events_of(|host| {
        host.move_zone(&name, "/zones/elsewhere").unwrap();
    });
    assert_eq!(events, [""; 0]);
    let line = sim.listed(2).unwrap();
    assert!(line.contains(":/zones/elsewhere:"), "{line}");
    assert!(sim.path("/zones/elsewhere/config").is_dir());
    let xml = fs::read_to_string(sim.xml(2)).unwrap();
    let xml = xml.replace(&name, "copy").replace("elsewhere", "copy");
    let events = sim.events_of(|host| {
        host.zonecfg_create("copy", &xml, false).unwrap();
        host.clone_zone("copy").unwrap();
    });
    let wanted =
        ["configured<-", "incomplete<-configured", "installed<-incomplete"];
    assert_eq!(events, wanted);
    // The zone had no valid uuid, and got one when it became more than
    // configured.
    assert!(look("copy")(&sim).2);
}

#[test]
fn row_38_an_unknown_old_state_is_published_as_unknown() {
    let sim = Sim::with_vms(3);
    sim.mark_from_unknown(&sim.names[2], "installed").unwrap();
    assert_eq!(sim.events(), ["installed<-unknown"]);
}

#[test]
fn comments_malformed_lines_and_their_order_stay() {
    let sim = Sim::with_vms(3);
    let name = sim.names[1].clone();
    let text = sim.index_text().replacen('\n', "\n# mine\nodd line\n", 1);
    sim.set_index(&text);
    sim.halt(&name, -1).unwrap();
    sim.mark(&name, "incomplete").unwrap();
    let wanted = text
        .replace(&format!("{name}:installed"), &format!("{name}:incomplete"));
    assert_eq!(sim.index_text(), wanted);
    sim.set_uuid(&name, "11111111-2222-4333-8444-555555555555").unwrap();
    let line = sim.listed(1).unwrap();
    assert!(line.contains(":11111111-2222-4333-8444-555555555555:"));
    // A path with a colon is in double quotes.
    sim.edit_index(&name, |e| e.zonepath = "/enc:tank/x".into()).unwrap();
    assert!(sim.index_text().contains(":\"/enc:tank/x\":"));
    assert!(sim.listed(1).unwrap().contains(":/enc\\:tank/x:"));
}
