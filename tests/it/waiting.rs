//! `wait=` and `sync=1`: which answer comes when, under storms of events, with
//! slow commands, and for VMs that come and go.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Instant;

use simhost::Host;
use simhost::xml::VmSpec;
use vminfod::vm::json::Json;

use crate::harness::{Daemon, TestHost, runs_of, text, wait_for};
use crate::healing::breakers;

/// Sends a GET from a thread of its own.
fn ask(
    daemon: &Daemon,
    path: String,
) -> std::thread::JoinHandle<crate::harness::Answer> {
    let addr = daemon.addr;
    std::thread::spawn(move || crate::harness::get_at(addr, &path))
}

/// Waits until this many requests wait.
fn wait_for_waiting(daemon: &Daemon, wanted: f64) {
    wait_for_gauge(daemon, "vminfod_http_requests_waiting", wanted);
}

fn wait_for_syncing(daemon: &Daemon, wanted: f64) {
    wait_for_gauge(daemon, "vminfod_http_requests_syncing", wanted);
}

fn wait_for_gauge(daemon: &Daemon, gauge: &str, wanted: f64) {
    wait_for(&format!("{gauge} is {wanted}"), || {
        let value = daemon.metric(gauge);
        if value == wanted { Ok(()) } else { Err(value.to_string()) }
    });
}

#[test]
fn a_wait_is_answered_when_its_conditions_hold() {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    let name = host.zonenames().unwrap().remove(0);
    // Conditions that hold already are answered at once.
    let path = format!("/vms/{name}?wait=state=running&wait=brand=!kvm");
    let answer = daemon.get(&path);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.body, daemon.get(&format!("/vms/{name}")).body);
    assert!(answer.field("ETag").is_some());

    let path = format!("/vms/{name}?wait=alias=x&wait=tags.y=z&fields=alias");
    let both = ask(&daemon, path);
    let gone = ask(&daemon, format!("/vms/{name}?wait=gone"));
    wait_for_waiting(&daemon, 2.0);
    host.update(&name, "alias", "x").unwrap();
    let alias = daemon.get(&format!("/vms/{name}?wait=alias=~^X$"));
    assert_eq!(text(&alias.json(), "alias"), "x");
    wait_for_waiting(&daemon, 2.0);
    host.update(&name, "tags.y", "z").unwrap();
    let both = both.join().unwrap();
    assert_eq!((both.status, &*both.text()), (200, r#"{"alias":"x"}"#));
    host.delete(&name).unwrap();
    let gone = gone.join().unwrap();
    assert_eq!((gone.status, &*gone.text()), (200, "null"));

    // A wait for a VM that does not exist yet.
    let new = simhost::layout::uuid_of(70);
    let path = format!("/vms/{new}?wait=zone_state=installed&fields=uuid");
    let made = ask(&daemon, path);
    wait_for_waiting(&daemon, 1.0);
    host.create(&Host::spec(70)).unwrap();
    assert_eq!(text(&made.join().unwrap().json(), "uuid"), new);
    assert_eq!(daemon.metric("vminfod_http_requests_waiting"), 0.0);
}

#[test]
fn a_wait_that_times_out_returns_the_present_vm() {
    let host = TestHost::with_vms(2);
    let daemon = host.start_with(&["--set", "wait-time=0.2"]);
    let name = host.zonenames().unwrap().remove(0);
    let vm = daemon.get(&format!("/vms/{name}"));
    for query in
        ["wait=alias=no&timeout=0", "wait=gone&timeout=0.05", "wait=alias=no"]
    {
        let answer = daemon.get(&format!("/vms/{name}?{query}"));
        assert_eq!(answer.status, 504, "{query}");
        assert_eq!(answer.body, vm.body, "{query}");
    }
    let answer = daemon.get("/vms/nobody?wait=alias=no");
    assert_eq!((answer.status, &*answer.text()), (504, "null"));
    let answer = daemon.get("/vms/nobody?wait=gone");
    assert_eq!((answer.status, &*answer.text()), (200, "null"));
    for query in
        ["wait=bogus=1", "wait=x", "wait=gone&wait=state=x", "timeout=1"]
    {
        let answer = daemon.get(&format!("/vms/{name}?{query}"));
        assert_eq!(answer.status, 400, "{query}");
    }
}

#[test]
fn a_wait_sees_even_the_shortest_states() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let name = host.zonenames().unwrap().remove(0);
    assert!(host.is_up(&name).unwrap());
    for round in 0..20 {
        // States that the kernel reports.
        let states = ["shutting_down", "ready", "running"];
        let waits = states.map(|state| {
            // `running` holds already; only with the tag does the wait last
            // until the next start.
            let query = match state {
                "running" => {
                    "wait=zone_state=running&wait=tags.round=".to_string()
                        + &format!("r{round}")
                }
                state => format!("wait=zone_state={state}"),
            };
            ask(&daemon, format!("/vms/{name}?{query}"))
        });
        wait_for_waiting(&daemon, 3.0);
        host.stop(&name, 0).unwrap();
        host.host.start(&name).unwrap();
        host.update(&name, "tags.round", &format!("r{round}")).unwrap();
        for (state, wait) in states.iter().zip(waits) {
            let answer = wait.join().unwrap();
            assert_eq!(answer.status, 200, "{round} {state}");
            assert_eq!(text(&answer.json(), "zone_state"), *state);
        }
    }
}

#[test]
fn waiting_requests_are_bounded_and_end_with_their_client() {
    let host = TestHost::with_vms(2);
    let daemon = host.start_with(&["--set", "waiting=3"]);
    let name = host.zonenames().unwrap().remove(0);
    let path = format!("/vms/{name}?wait=alias=never");
    let request = format!("GET {path} HTTP/1.1\r\n\r\n");
    let connect = || {
        use std::io::Write;
        let stream = std::net::TcpStream::connect(daemon.addr).unwrap();
        (&stream).write_all(request.as_bytes()).unwrap();
        stream
    };
    let waiting = [connect(), connect(), connect()];
    wait_for_waiting(&daemon, 3.0);
    let answer = daemon.get(&path);
    assert_eq!(answer.status, 503);
    assert_eq!(answer.field("Retry-After"), Some("1"));
    drop(waiting);
    wait_for_waiting(&daemon, 0.0);
    // They have left nothing behind that would count as a waiting request.
    let answer = daemon.get(&format!("{path}&timeout=0"));
    assert_eq!(answer.status, 504);
}

#[test]
fn a_sync_answers_with_data_loaded_after_the_request() {
    let host = TestHost::with_vms(3);
    // No event reports any change in this test.
    let daemon = host.start_with(&["--set", "refresh-interval=1000"]);
    let name = host.zonenames().unwrap().remove(0);
    for channel in ["sysevent-zone", "sysevent-zfs"] {
        host.hurt(channel, "drop").unwrap();
    }
    let mut stream = daemon.events();
    let dataset = format!("zones/{name}");
    for quota in [11_u64, 12, 13] {
        let bytes = (quota << 30).to_string();
        host.zfs_set(&dataset, "quota", &bytes).unwrap();
        let answer = daemon.get(&format!("/vms/{name}?sync=1"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let quota = Json::from(quota);
        assert_eq!(answer.json().get("quota"), Some(&quota));
        let event = stream.next().unwrap();
        assert_eq!(event.get("vm").unwrap().get("quota"), Some(&quota));
        let cause = event.get("cause").unwrap();
        assert_eq!(text(cause, "source"), "sync");
    }
    // A VM that no event has reported is found, and one that was deleted is
    // gone.
    host.create(&Host::spec(80)).unwrap();
    let new = simhost::layout::uuid_of(80);
    let answer = daemon.get(&format!("/vms/{new}?sync=1&fields=uuid"));
    assert_eq!(answer.text(), format!("{{\"uuid\":\"{new}\"}}"));
    host.delete(&new).unwrap();
    assert_eq!(daemon.get(&format!("/vms/{new}?sync=1")).status, 404);
    assert_eq!(daemon.get("/vms/never-was?sync=1").status, 404);
    assert_eq!(daemon.get("/vms/..%2Fx?sync=1").status, 404);
    // The same for all VMs.
    host.zfs_set(&dataset, "quota", &(14_u64 << 30).to_string()).unwrap();
    host.create(&Host::spec(81)).unwrap();
    let answer = daemon.get("/vms?sync=1&fields=quota&quota=14");
    assert_eq!(answer.text(), r#"[{"quota":14}]"#);
    assert_eq!(daemon.vms().as_array().unwrap().len(), 4);
}

#[test]
fn syncs_of_one_vm_share_a_load() {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    let name = host.zonenames().unwrap().remove(0);
    daemon.settle(&host);
    let words = format!("zoneadm -z {name} ");
    let runs = |words: &str| runs_of(&host, words);
    let before = (runs(&words), runs("zfs list"));
    assert_eq!(daemon.get(&format!("/vms/{name}?sync=1")).status, 200);
    assert!(runs(&words) - before.0 <= 1, "{:?}", host.runs());
    let zfs = runs("zfs list") - before.1;
    assert!((1..=2).contains(&zfs), "{zfs}");
    // While one load runs, all requests that come share the next one.
    host.hurt("zfs", "slow 300").unwrap();
    let before = runs("zfs list");
    let syncs: Vec<_> = (0..40)
        .map(|_| ask(&daemon, format!("/vms/{name}?sync=1&fields=uuid")))
        .collect();
    for sync in syncs {
        assert_eq!(sync.join().unwrap().status, 200);
    }
    let shared = runs("zfs list") - before;
    assert!(shared <= 8 * zfs, "{shared} runs for 40 syncs");
}

#[test]
fn a_sync_is_answered_in_time_during_a_storm_of_events() {
    let host = TestHost::with_vms(30);
    let daemon = host.start();
    let names = host.zonenames().unwrap();
    daemon.settle(&host);
    // Each run of zfs takes a while, and all VMs need one again and again.
    host.hurt("zfs", "slow 400").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let storm = std::thread::spawn({
        let (host, stop) = (host.host.clone(), Arc::clone(&stop));
        let names = names.clone();
        move || {
            let mut n = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let name = &names[(n % 29 + 1) as usize];
                let quota = ((n % 50 + 1) << 30).to_string();
                host.zfs_set(&format!("zones/{name}"), "quota", &quota)
                    .unwrap();
                n += 1;
            }
        }
    });
    let begun = Instant::now();
    for n in 0..5 {
        let path = format!("/vms/{}?sync=1&fields=uuid", names[0]);
        let answer = daemon.get(&path);
        assert_eq!(answer.status, 200, "{n}: {}", answer.text());
    }
    println!("5 syncs under a storm: {:?}", begun.elapsed());
    stop.store(true, Ordering::Relaxed);
    storm.join().unwrap();
    // If the VM cannot be loaded, the answer has its fault, at the time limit.
    host.hurt("zfs", "fail").unwrap();
    let path = format!("/vms/{}?sync=1&timeout=1", names[0]);
    let answer = daemon.get(&path);
    assert_eq!(answer.status, 504);
    let error = text(&answer.json(), "error").to_string();
    assert!(error.contains("1 s") && error.contains("zfs"), "{error}");
    let answer = daemon.get("/vms?sync=1&timeout=1");
    assert_eq!(answer.status, 504, "{}", answer.text());
    // Once it can be loaded, the request succeeds.
    let path = format!("/vms/{}?sync=1&fields=uuid", names[0]);
    let sync = ask(&daemon, path);
    wait_for_syncing(&daemon, 1.0);
    host.hurt("zfs", "heal").unwrap();
    assert_eq!(sync.join().unwrap().status, 200);
    daemon.settle(&host);
}

#[test]
fn waits_and_syncs_of_vms_that_come_and_go_are_all_answered() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let new = simhost::layout::uuid_of(90);
    let both = Arc::new(Barrier::new(2));
    let maker = std::thread::spawn({
        let (host, both) = (host.host.clone(), Arc::clone(&both));
        let new = new.clone();
        move || {
            for _ in 0..8 {
                both.wait();
                host.create(&Host::spec(90)).unwrap();
                // Delete only after the wait: a VM that is gone before it could
                // be loaded is never published, and the wait would be in vain.
                both.wait();
                host.delete(&new).unwrap();
                both.wait();
            }
        }
    });
    for round in 0..8 {
        let made =
            ask(&daemon, format!("/vms/{new}?wait=zone_state=installed"));
        wait_for_waiting(&daemon, 1.0);
        both.wait();
        let syncs: Vec<_> = (0..10)
            .map(|_| ask(&daemon, format!("/vms/{new}?sync=1")))
            .collect();
        assert_eq!(made.join().unwrap().status, 200, "{round}");
        both.wait();
        both.wait();
        for sync in syncs {
            let status = sync.join().unwrap().status;
            assert!(matches!(status, 200 | 404), "{round}: {status}");
        }
        let gone = daemon.get(&format!("/vms/{new}?sync=1&wait=gone"));
        assert_eq!(gone.status, 200, "{round}");
    }
    maker.join().unwrap();
}

#[test]
fn a_sync_succeeds_after_a_failure_that_has_passed() {
    let host = TestHost::with_vms(4);
    let daemon = host.start();
    daemon.settle(&host);
    for command in ["kstat", "zfs", "zoneadm"] {
        for path in ["/vms", &format!("/vms/{}", host.zonenames().unwrap()[1])]
        {
            host.hurt(command, "fail boo times=1").unwrap();
            let answer = daemon.get(&format!("{path}?sync=1"));
            assert_eq!(answer.status, 200, "{command}: {}", answer.text());
        }
    }
}

#[test]
fn a_sync_of_an_unknown_name_gets_404_even_if_the_queue_overflows() {
    let host = TestHost::with_vms(8);
    let daemon = host.start_with(&["--set", "jobs=4"]);
    let names = host.zonenames().unwrap();
    daemon.settle(&host);
    host.hurt("zoneadm", "slow 300").unwrap();
    let syncs: Vec<_> = (0..8)
        .map(|n| ask(&daemon, format!("/vms/nobody-{n}?sync=1")))
        .collect();
    wait_for("something overflows", || {
        for name in &names {
            host.stop(name, 0).ok();
            host.host.start(name).ok();
        }
        let overflows = daemon.metric("vminfod_queue_overflows_total");
        if overflows > 0.0 { Ok(()) } else { Err("none".to_string()) }
    });
    for sync in syncs {
        assert_eq!(sync.join().unwrap().status, 404);
    }
}

#[test]
fn a_sync_does_not_wait_for_another_pool_that_hangs() {
    let host = TestHost::with_vms(2);
    host.zpool_create("tank").unwrap();
    let of_tank = [30, 31, 32, 33].map(|n| {
        let spec = VmSpec { pool: "tank".to_string(), ..Host::spec(n) };
        host.create(&spec).unwrap();
        spec.uuid
    });
    // No command is killed while this test runs.
    let daemon = host.start_with(&["--set", "command-time=1000"]);
    let name = host.zonenames().unwrap().remove(0);
    daemon.settle(&host);
    host.hurt("zfs:tank", "hang").unwrap();
    for name in &of_tank {
        host.zfs_set(&format!("tank/{name}"), "quota", "1073741824").unwrap();
    }
    wait_for("it hangs", || match breakers(&daemon) {
        open if open == ["zfs tank"] => Ok(()),
        open => Err(format!("{open:?}")),
    });
    let answer = daemon.get(&format!("/vms/{name}?sync=1&timeout=20"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let path = format!("/vms/{}?sync=1&timeout=0.1", of_tank[0]);
    assert_eq!(daemon.get(&path).status, 504);
    assert_eq!(breakers(&daemon), ["zfs tank"], "the breaker stays open");
}

#[test]
fn a_sync_has_the_latest_sysinfo() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let name = host.zonenames().unwrap().remove(0);
    for n in 0..30 {
        let value = format!("dc-{n}");
        host.touch_sysinfo(Some(("Datacenter Name", &value))).unwrap();
        let path = format!("/vms/{name}?sync=1&fields=datacenter_name");
        let answer = daemon.get(&path);
        assert_eq!(text(&answer.json(), "datacenter_name"), value);
    }
}

#[test]
fn a_sync_names_the_files_that_could_not_be_read() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let name = host.zonenames().unwrap().remove(0);
    let path = format!("/vms/{name}?sync=1");
    assert_eq!(daemon.get(&path).field("X-Vminfod-Stale"), None);
    host.write_config(&name, "metadata.json", "{\"half").unwrap();
    for path in [&*path, "/vms?sync=1"] {
        let answer = daemon.get(path);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("X-Vminfod-Stale"), Some("metadata.json"));
    }
    std::fs::write(host.path("/tmp/.sysinfo.json"), "{").unwrap();
    let stale = daemon.get(&path).field("X-Vminfod-Stale").map(String::from);
    assert_eq!(stale.as_deref(), Some("metadata.json, sysinfo"));
}

#[test]
fn waiting_requests_do_not_use_up_the_places_of_syncs() {
    let host = TestHost::with_vms(2);
    let set = ["--set", "waiting=2", "--set", "syncs=1"];
    let daemon = host.start_with(&set);
    let name = host.zonenames().unwrap().remove(0);
    let path = format!("/vms/{name}?wait=alias=never&timeout=50");
    let waits = [ask(&daemon, path.clone()), ask(&daemon, path)];
    wait_for_waiting(&daemon, 2.0);
    assert_eq!(daemon.get(&format!("/vms/{name}?wait=gone")).status, 503);
    assert_eq!(daemon.get(&format!("/vms/{name}?sync=1")).status, 200);
    // X-Vminfod-Seq is the latest number, with which a stream can resume,
    // though the last change of this VM is older.
    let other = host.zonenames().unwrap().remove(1);
    let plain = daemon.get(&format!("/vms/{other}"));
    host.update(&name, "alias", "never").unwrap();
    for wait in waits {
        assert_eq!(wait.join().unwrap().status, 200);
    }
    daemon.settle(&host);
    let now = daemon.get("/vms").field("X-Vminfod-Seq").unwrap().to_string();
    for query in ["wait=brand=!x", "wait=brand=x&timeout=0"] {
        let answer = daemon.get(&format!("/vms/{other}?{query}"));
        assert_eq!(answer.field("X-Vminfod-Seq"), Some(&*now));
        assert_eq!(answer.field("ETag"), plain.field("ETag"));
    }
}

#[test]
fn syncs_of_unknown_names_share_runs_of_zoneadm() {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    daemon.settle(&host);
    host.hurt("zoneadm", "slow 100").unwrap();
    let before = runs_of(&host, "zoneadm");
    let syncs: Vec<_> = (0..100)
        .map(|n| ask(&daemon, format!("/vms/nobody-{n}?sync=1")))
        .collect();
    for sync in syncs {
        assert_eq!(sync.join().unwrap().status, 404);
    }
    let runs = runs_of(&host, "zoneadm") - before;
    println!("{runs} runs of zoneadm for 100 names");
    assert!(runs < 60, "{runs}");
}
