//! /events with queries: filters, forms of the snapshot, heartbeats, and
//! resuming.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use vminfod::vm::json::Json;

use crate::harness::{
    DEADLINE, Daemon, TestHost, first_difference, text, wait_for,
};

/// Sets a tag of a VM to a value that can be recognised, and waits until it is
/// served; returns the `seq` of that answer.
fn mark(host: &TestHost, daemon: &Daemon, zonename: &str, value: &str) -> u64 {
    host.update(zonename, "tags.mark", value).unwrap();
    let query = format!("/vms/{zonename}?wait=tags.mark={value}");
    let answer = daemon.get(&query);
    assert_eq!(answer.status, 200);
    answer.field("X-Vminfod-Seq").unwrap().parse().unwrap()
}

#[test]
fn streams_get_only_the_events_and_fields_of_their_query() {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    let names = host.zonenames().unwrap();
    let (a, b) = (&names[0], &names[1]);
    let mut of_a = daemon.events_of(&format!("?uuid={a}"));
    let mut of_both = daemon.events_of(&format!("?uuid={a}&uuid={b}"));
    let mut creates = daemon.events_of("?types=create,delete");
    let mut of_alias = daemon.events_of("?paths=alias,quota&types=modify");
    let mut of_fields =
        daemon.events_of("?fields=zonename,alias&snapshot=array");
    assert_eq!(of_a.vms.keys().collect::<Vec<_>>(), [a]);
    assert_eq!(of_both.vms.len(), 2);
    assert_eq!(creates.vms.len(), 3);
    for vm in of_fields.vms.values() {
        assert!(vm.as_object().unwrap().len() <= 2, "{vm}");
    }

    mark(&host, &daemon, b, "one");
    host.update(b, "alias", "new-alias").unwrap();
    let query = format!("/vms/{b}?wait=alias=new-alias");
    assert_eq!(daemon.get(&query).status, 200);
    mark(&host, &daemon, a, "two");
    host.create(&simhost::Host::spec(50)).unwrap();
    let created = simhost::layout::uuid_of(50);
    let query = format!("/vms/{created}?wait=zone_state=installed");
    assert_eq!(daemon.get(&query).status, 200);
    host.delete(&created).unwrap();
    let query = format!("/vms/{created}?wait=gone");
    assert_eq!(daemon.get(&query).text(), "null");

    // The first event of each stream is the first that it asked for.
    let event = of_a.next().unwrap();
    assert_eq!(text(&event, "zonename"), a);
    let marks = event.get("vm").unwrap().get("tags").unwrap();
    assert_eq!(text(marks, "mark"), "two");
    assert_eq!(text(&of_both.next().unwrap(), "zonename"), b);
    let event = of_alias.next().unwrap();
    let changes = event.get("changes").unwrap().as_array().unwrap();
    let paths = changes.iter().map(|change| text(change, "prettyPath"));
    assert!(paths.into_iter().any(|path| path == "alias"), "{event}");
    for kind in ["create", "delete"] {
        let event = creates.next().unwrap();
        assert_eq!(
            (text(&event, "type"), text(&event, "zonename")),
            (kind, &*created)
        );
    }
    let event = of_fields.next().unwrap();
    let vm = event.get("vm").unwrap().as_object().unwrap();
    assert!(vm.iter().all(|(n, _)| ["zonename", "alias"].contains(&n)));
    assert!(event.get("changes").is_some() && event.get("cause").is_some());
}

#[test]
fn a_change_of_any_array_has_no_number_in_its_path() {
    let host = TestHost::with_vms(4);
    let daemon = host.start();
    let mut stream = daemon.events();
    let name = host.vm_of("kvm");
    host.update(&name, "add_nic", "90:b8:d0:00:00:01").unwrap();
    host.update(&name, "nics.90:b8:d0:00:00:01.ip", "10.9.9.9").unwrap();
    host.update(&name, "add_disk", "512").unwrap();
    host.snapshot(&name, "before").unwrap();
    host.update(&name, "resolvers", "10.0.0.53,10.0.0.54").unwrap();
    daemon.settle(&host);
    // The stream checks each path that it reads.
    let seq = daemon.status().get("seq").unwrap().as_u64().unwrap();
    let events = stream.read_to(seq);
    let changes = events.iter().filter_map(|e| e.get("changes")?.as_array());
    let changes: Vec<_> = changes.flatten().collect();
    for member in ["nics", "disks", "snapshots", "resolvers"] {
        let is_of = |change: &&&Json| {
            let path = change.get("path").unwrap().as_array().unwrap();
            path[0].as_str() == Some(member)
        };
        assert!(changes.iter().any(|c| is_of(&c)), "{member}: {changes:?}");
    }
}

#[test]
fn the_snapshot_has_the_requested_form() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let vms = daemon.vms();
    let text_form = daemon.events();
    assert!(matches!(text_form.ready.get("vms"), Some(Json::String(_))));
    let array = daemon.events_of("?snapshot=array");
    assert_eq!(array.ready.get("vms"), Some(&vms));
    let none = daemon.events_of("?snapshot=none");
    assert_eq!(none.ready.get("vms"), None);
    for stream in [&text_form, &array, &none] {
        assert_eq!(text(&stream.ready, "uuid").len(), 36);
        assert_eq!(stream.ready.get("resumed"), None);
        assert_eq!(stream.ready.get("reset"), None);
    }
    for query in ["snapshot=x", "types=boot", "paths=bogus", "fields=bogus"] {
        let answer = daemon.get(&format!("/events?{query}"));
        assert_eq!(answer.status, 400, "{query}");
    }
}

#[test]
fn a_quiet_stream_gets_the_heartbeats_it_asked_for() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let name = host.zonenames().unwrap().remove(0);
    let mut stream = daemon.events_of("?heartbeat=0.1&types=delete");
    for _ in 0..2 {
        assert_eq!(text(&stream.next().unwrap(), "type"), "heartbeat");
    }
    // A heartbeat has the latest `seq`, though no event passed the filter.
    let seq = mark(&host, &daemon, &name, "x");
    wait_for("a heartbeat that knows the event", || {
        let beat = stream.next().unwrap();
        assert_eq!(text(&beat, "type"), "heartbeat");
        assert!(!text(&beat, "date").is_empty());
        let at = beat.get("seq").unwrap().as_u64().unwrap();
        if at >= seq { Ok(()) } else { Err(format!("{at} of {seq}")) }
    });
}

#[test]
fn a_stream_that_cannot_resume_gets_the_reason() {
    let host = TestHost::with_vms(2);
    let daemon = host.start_with(&["--set", "kept-events=3"]);
    let name = host.zonenames().unwrap().remove(0);
    let first = daemon.events();
    let epoch = text(&first.ready, "epoch").to_string();
    let since = |seq: u64, epoch: &str, more: &str| {
        daemon.events_of(&format!("?since={seq}&epoch={epoch}{more}"))
    };
    for n in 0..5 {
        mark(&host, &daemon, &name, &n.to_string());
    }
    let now = daemon.status().get("seq").unwrap().as_u64().unwrap();
    for (stream, reason) in [
        (since(now, "other", ""), "another epoch"),
        (since(1, &epoch, ""), "too old"),
        (since(now + 1, &epoch, ""), "not yet"),
    ] {
        assert_eq!(text(&stream.ready, "reset"), reason);
        assert_eq!(stream.ready.get("seq").unwrap().as_u64(), Some(now));
        assert_eq!(stream.vms.len(), 2);
        let reason = format!("{{reason=\"{reason}\"}}");
        let resets = format!("vminfod_stream_resets_total{reason}");
        assert_eq!(daemon.metric(&resets), 1.0);
    }
    let none = since(1, &epoch, "&snapshot=none");
    assert_eq!((text(&none.ready, "reset"), none.vms.len()), ("too old", 0));
    let mut back = since(now - 3, &epoch, "");
    assert_eq!(back.ready.get("resumed"), Some(&Json::Bool(true)));
    assert_eq!(back.ready.get("vms"), None);
    assert_eq!(back.seq, now - 3);
    for n in [now - 2, now - 1, now] {
        back.next().unwrap();
        assert_eq!(back.seq, n);
    }
    assert_eq!(daemon.metric("vminfod_stream_resumes_total"), 1.0);
    for query in ["since=1", "epoch=x", "since=x&epoch=x"] {
        assert_eq!(daemon.get(&format!("/events?{query}")).status, 400);
    }
}

/// Numbers that look random, the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % below
    }
}

/// A client that keeps all VMs by /events, and is cut off again and again.
struct Mirror {
    vms: BTreeMap<String, Json>,
    since: Option<(u64, String)>,
    resumed: u32,
    resets: u32,
}

impl Mirror {
    /// Listens until `bytes` have come, or event `end`; an incomplete line is
    /// thrown away.
    fn listen(&mut self, daemon: &Daemon, bytes: u64, end: u64) {
        let query = match &self.since {
            None => String::new(),
            Some((seq, epoch)) => format!("?since={seq}&epoch={epoch}"),
        };
        let stream = TcpStream::connect(daemon.addr).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = format!("GET /events{query} HTTP/1.0\r\n\r\n");
        (&stream).write_all(request.as_bytes()).unwrap();
        let mut lines = BufReader::new((&stream).take(bytes));
        let mut line = String::new();
        let mut in_head = true;
        loop {
            line.clear();
            lines.read_line(&mut line).unwrap();
            if !line.ends_with('\n') {
                return;
            }
            if in_head {
                in_head = line != "\r\n";
                continue;
            }
            self.take(&Json::parse(&line).unwrap());
            if self.since.as_ref().is_some_and(|(seq, _)| *seq >= end) {
                return;
            }
        }
    }

    fn take(&mut self, event: &Json) {
        let seq = event.get("seq").unwrap().as_u64().unwrap();
        let name = text(event, "zonename").to_string();
        let vm = || event.get("vm").unwrap().clone();
        match text(event, "type") {
            "ready" if event.get("resumed").is_some() => {
                self.resumed += 1;
                assert_eq!(self.since.as_ref().unwrap().0, seq);
            }
            "ready" => {
                self.resets += u32::from(event.get("reset").is_some());
                assert!(event.get("reset").is_some() || self.since.is_none());
                let vms = Json::parse(text(event, "vms")).unwrap();
                let vms = vms.as_array().unwrap().iter();
                self.vms = vms
                    .map(|vm| (text(vm, "zonename").to_string(), vm.clone()))
                    .collect();
            }
            kind => {
                let before = self.since.as_ref().unwrap().0;
                assert_eq!(seq, before + 1, "no gap, no repeat");
                let known = match kind {
                    "delete" => self.vms.remove(&name).is_some(),
                    _ => self.vms.insert(name, vm()).is_some(),
                };
                assert_eq!(known, kind != "create", "{event}");
            }
        }
        self.since = Some((seq, text(event, "epoch").to_string()));
    }
}

fn cut_at_random(
    cuts: u32,
    set: &[&str],
    seed: u64,
    has_seen: fn(&Mirror) -> bool,
) -> Mirror {
    let host = TestHost::with_vms(4);
    let daemon = host.start_with(set);
    let whole = daemon.events();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (host, stop) = (host.host.clone(), Arc::clone(&stop));
        move || {
            let mut random = Random(seed);
            let names = host.zonenames().unwrap();
            let mut is_there = false;
            while !stop.load(Ordering::Relaxed) {
                let name = &names[random.below(4) as usize];
                let value = random.below(1000).to_string();
                match random.below(10) {
                    0 if host.is_up(name).unwrap() => {
                        host.stop(name, 0).unwrap();
                    }
                    0 => host.start(name).unwrap(),
                    1 if is_there => {
                        host.delete(&simhost::layout::uuid_of(60)).unwrap();
                        is_there = false;
                    }
                    1 => {
                        host.create(&simhost::Host::spec(60)).unwrap();
                        is_there = true;
                    }
                    2 => {
                        let long = "x".repeat(random.below(20_000) as usize);
                        let key = "customer_metadata.long";
                        host.update(name, key, &long).unwrap();
                    }
                    _ => host.update(name, "tags.n", &value).unwrap(),
                }
            }
        }
    });
    let mut random = Random(seed + 1);
    let vms = BTreeMap::new();
    let mut mirror = Mirror { vms, since: None, resumed: 0, resets: 0 };
    let (begun, mut cut) = (Instant::now(), 0);
    while cut < cuts || !has_seen(&mirror) {
        assert!(begun.elapsed() < DEADLINE, "{cut} cuts");
        cut += 1;
        // Cut in the head, in a line, between lines, or after many lines.
        let bytes = match random.below(4) {
            0 => random.below(400),
            1 => random.below(6000),
            _ => random.below(40_000),
        };
        mirror.listen(&daemon, bytes, u64::MAX);
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    let served = daemon.settle(&host);
    let seq = daemon.status().get("seq").unwrap().as_u64().unwrap();
    mirror.listen(&daemon, u64::MAX, seq);
    let mirrored = Json::from(mirror.vms.values().cloned().collect::<Vec<_>>());
    assert_eq!(first_difference(&mirrored, &served), None);
    let mut whole = whole;
    whole.read_to(seq);
    assert_eq!(first_difference(&mirrored, &whole.array()), None);
    mirror
}

#[test]
fn a_thousand_resumed_streams_miss_no_event() {
    let mirror = cut_at_random(1000, &[], 7, |_| true);
    assert_eq!(mirror.resets, 0);
    assert!(mirror.resumed > 500, "{}", mirror.resumed);
}

#[test]
fn streams_that_resume_too_late_get_a_new_snapshot() {
    // How long a cut lasts depends on the machine: go on until there were both
    // resumes and resets.
    let has_both = |mirror: &Mirror| mirror.resets > 0 && mirror.resumed > 0;
    let mirror = cut_at_random(200, &["--set", "kept-events=2"], 9, has_both);
    assert!(has_both(&mirror));
}

#[test]
fn an_event_costs_nothing_for_streams_that_filter_it_out() {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    let names = host.zonenames().unwrap();
    let streams: Vec<_> = (0..200)
        .map(|n| daemon.events_of(&format!("?uuid=other-{n}&snapshot=none")))
        .collect();
    let mut one = daemon.events_of(&format!("?uuid={}", names[0]));
    let looks = || daemon.metric("vminfod_stream_looks_total");
    let before = looks();
    let seq_before = daemon.status().get("seq").unwrap().as_f64().unwrap();
    for n in 0..5 {
        mark(&host, &daemon, &names[0], &format!("mark-{n}"));
        mark(&host, &daemon, &names[1], &format!("mark-{n}"));
    }
    let seq = daemon.status().get("seq").unwrap().as_f64().unwrap();
    let mut mine = 0.0;
    let mut last = String::new();
    while last != "mark-4" {
        let event = one.next().unwrap();
        let tags = event.get("vm").and_then(|vm| vm.get("tags"));
        last = text(tags.unwrap(), "mark").to_string();
        mine += 1.0;
    }
    assert!(seq - seq_before >= 10.0);
    // One look for each event of the VM that a stream asks for, and none for
    // other events.
    wait_for("the fan-out has seen all", || {
        let looked = looks() - before;
        if looked == mine { Ok(()) } else { Err(format!("{looked} {mine}")) }
    });
    assert_eq!(daemon.metric("vminfod_stream_subscribers"), 201.0);
    drop(streams);
}

#[test]
fn http_1_0_clients_get_lines_without_chunks() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let name = host.zonenames().unwrap().remove(0);
    let mut stream = TcpStream::connect(daemon.addr).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"GET /events HTTP/1.0\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let head: Vec<_> =
        lines.by_ref().take_while(|line| !line.is_empty()).collect();
    assert!(head.iter().all(|field| !field.starts_with("Transfer")));
    let ready = Json::parse(&lines.next().unwrap()).unwrap();
    assert_eq!(text(&ready, "type"), "ready");
    host.update(&name, "alias", "x").unwrap();
    let event = Json::parse(&lines.next().unwrap()).unwrap();
    assert_eq!(text(&event, "type"), "modify");
}
