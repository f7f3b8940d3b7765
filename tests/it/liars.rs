//! Situations that could make a tool say something false: late events, odd
//! names, VMs that can't be loaded, outputs that are not read, servers that
//! hang.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use simhost::emit::{Channel, records};
use vminfod::vm::json::Json;
use vminfod_client::{Address, Client, Error, Event, EventsQuery, Watcher};

use crate::harness::programs::needs;
use crate::harness::{
    DEADLINE, TestHost, VMINFOD, free_address, parse, simhost_program, text,
    wait_for, wait_for_errors,
};
use crate::tools::Events;

fn status_of(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

#[test]
fn an_output_that_is_not_read_does_not_change_the_verdict() {
    let host = TestHost::with_vms(2);
    let daemon = host.start_with(&["--refresh-interval", "100000"]);
    let zonename = host.zonenames().unwrap().remove(0);
    host.hurt("sysevent-zfs", "drop").unwrap();
    host.update(&zonename, "quota", "77").unwrap();
    let root = host.root().display();
    for (words, status) in [
        // First, because `wait` has the VM loaded, which ends the difference.
        (format!("diagnose --root {root}"), 1),
        (format!("wait {zonename} state=x --timeout 0.1"), 3),
    ] {
        for output in ["| true", "> /dev/full"] {
            // The tool's own status, not that of the reader.
            let script =
                format!("\"$V\" {words} {output}; exit ${{PIPESTATUS[0]}}");
            let output = Command::new("bash")
                .args(["-c", &script])
                .env("V", VMINFOD)
                .env("VMINFOD_SERVER", daemon.addr.to_string())
                .output()
                .unwrap();
            let said = status_of(&output);
            // A difference that can't be printed is an error.
            let is_full = script.contains("full") && script.contains("diag");
            let wanted = if is_full { 2 } else { status };
            assert_eq!(said, wanted, "{script}: {output:?}");
        }
    }
}

#[test]
fn wait_gone_also_finds_a_vm_by_a_uuid_that_is_not_its_zonename() {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR"));
    let recorded = recorded.join("tests/fixtures/objects-edge/host");
    let host = TestHost::recorded(&recorded);
    let daemon = host.start();
    let vm = daemon.vm("lx-zone").unwrap();
    let uuid = text(&vm, "uuid");
    for since in [&[][..], &["--since", "0"]] {
        for command in [&[][..], &["--", "true"]] {
            let mut args = vec!["wait", uuid, "--gone", "--timeout", "1"];
            args.extend(since);
            args.extend(command);
            let output = daemon.tool(&args);
            assert_eq!(status_of(&output), 3, "{args:?}: {output:?}");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("the VM still exists"), "{said}");
        }
    }
    for args in [
        &["wait", uuid, "brand=lx", "--since", "0"][..],
        &["get", uuid],
        &["get", "--sync", uuid],
        &["json", uuid],
        &["vm", uuid],
        &["vm", "lx-zone"],
    ] {
        let output = daemon.tool(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        assert_eq!(text(&parse(&output.stdout), "zonename"), "lx-zone");
    }
    for query in ["fields=uuid", "sync=1", "wait=brand=lx", "wait=uuid=!x"] {
        let answer = daemon.get(&format!("/vms/{uuid}?{query}"));
        assert_eq!(text(&answer.json(), "uuid"), uuid, "{query}");
    }
    // Without a query, a uuid is not found, as today's clients know it.
    assert_eq!(daemon.get(&format!("/vms/{uuid}")).status, 404);
}

#[test]
fn a_vm_that_cannot_be_loaded_does_not_count_as_gone() {
    let host = TestHost::with_vms(2);
    let zonename = host.zonenames().unwrap().remove(0);
    let xml = host.path(&format!("/etc/zones/{zonename}.xml"));
    let good = fs::read_to_string(&xml).unwrap();
    fs::write(&xml, "<zone").unwrap();
    let daemon = host.start();
    assert_eq!(daemon.vms().as_array().unwrap().len(), 1);
    let answer = daemon.get(&format!("/vms/{zonename}?sync=1"));
    assert_eq!(answer.status, 504);
    let error = text(&answer.json(), "error").to_string();
    assert!(error.contains("can't be loaded: zonexml: "), "{error}");
    for command in [&[][..], &["--", "true"]] {
        let mut args = vec!["wait", &zonename, "--gone", "--timeout", "1"];
        args.extend(command);
        let output = daemon.tool(&args);
        assert_eq!(status_of(&output), 3, "{args:?}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("can't be loaded"), "{said}");
    }
    let query = format!("/vms/{zonename}?wait=gone&timeout=0.2");
    assert_eq!(daemon.get(&query).status, 504);
    let root = host.root().to_str().unwrap();
    let output = daemon.tool(&["diagnose", "--root", root]);
    assert_eq!(status_of(&output), 2, "{output:?}");
    fs::write(&xml, good).unwrap();
    let output = daemon.tool(&["wait", &zonename, "state=running"]);
    assert!(output.status.success(), "{output:?}");
    // A VM that the next daemon can't load is not gone, either.
    drop(daemon);
    let addr = free_address();
    let first = host.start_with(&["--listen", &addr]);
    let args = ["wait", &zonename, "--gone", "--timeout", "4"];
    let mut waiting = Command::new(VMINFOD)
        .args(args)
        .args(["--", "echo", "the stream has begun"])
        .env("VMINFOD_SERVER", &addr)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(waiting.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "the stream has begun\n");
    drop(first);
    fs::write(&xml, "<zone").unwrap();
    let _second = host.start_with(&["--listen", &addr]);
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(status_of(&output), 3, "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("stream started over (another epoch)"), "{said}");
}

#[test]
fn wait_gone_ends_when_a_vm_with_a_fault_is_deleted() {
    let host = TestHost::with_vms(1);
    let broken = simhost::Host::spec(20);
    host.create(&broken).unwrap();
    let xml = host.path(&format!("/etc/zones/{}.xml", broken.uuid));
    fs::write(&xml, "<zone").unwrap();
    let daemon = host.start();
    let gone = |uuid: &str| {
        let (addr, uuid) = (daemon.addr, uuid.to_string());
        let client = Client::new(addr);
        let waiting =
            std::thread::spawn(move || client.wait_gone(&uuid, DEADLINE));
        wait_for("it waits", || {
            match daemon.metric("vminfod_http_requests_waiting") {
                1.0 => Ok(()),
                n => Err(n.to_string()),
            }
        });
        waiting
    };
    // A VM that was never served.
    let args = ["wait", &broken.uuid, "--gone", "--timeout", "0"];
    assert_eq!(status_of(&daemon.tool(&args)), 3);
    let waiting = gone(&broken.uuid);
    host.zonecfg_delete(&broken.uuid).unwrap();
    waiting.join().unwrap().unwrap();
    assert_eq!(status_of(&daemon.tool(&args)), 0);
    // VMs that are served in their last good version.
    for number in 21..27 {
        let spec = simhost::Host::spec(number);
        host.create(&spec).unwrap();
        let path = format!("/vms/{0}?wait=uuid={0}", spec.uuid);
        assert_eq!(daemon.get(&path).status, 200);
        let dir = format!("/zones/{}/config/metadata.json", spec.uuid);
        fs::write(host.path(&dir), "{bad").unwrap();
        let fault = format!("{} metadata.json", spec.uuid);
        wait_for_errors(&daemon, &[fault]);
        let waiting = gone(&spec.uuid);
        host.delete(&spec.uuid).unwrap();
        waiting.join().unwrap().unwrap();
        wait_for_errors(&daemon, &[]);
    }
}

#[test]
fn the_uuid_of_an_unloadable_zone_does_not_count_as_gone() {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR"));
    let recorded = recorded.join("tests/fixtures/objects-edge/host");
    let host = TestHost::recorded(&recorded);
    let vms = host.dumped();
    let vms = vms.as_array().unwrap().iter();
    let uuid = vms
        .filter(|vm| text(vm, "zonename") == "lx-zone")
        .map(|vm| text(vm, "uuid").to_string())
        .next()
        .unwrap();
    fs::write(host.path("/etc/zones/lx-zone.xml"), "<zone").unwrap();
    let daemon = host.start();
    for name in ["lx-zone", &uuid] {
        for time in ["0", "1"] {
            let args = ["wait", name, "--gone", "--timeout", time];
            let output = daemon.tool(&args);
            assert_eq!(status_of(&output), 3, "{args:?}: {output:?}");
            let said = String::from_utf8_lossy(&output.stderr);
            let wanted =
                "state of the VM is not known (lx-zone can't be loaded: ";
            assert!(said.contains(wanted), "{said}");
        }
    }
}

#[test]
fn wait_since_ignores_states_from_before_that_event() {
    let host = TestHost::with_vms(1);
    let daemon = host.start();
    let zonename = host.zonenames().unwrap().remove(0);
    let seq = daemon.status().get("seq").unwrap().to_string();
    // The event of this update says that the VM is running, as it was before.
    host.update(&zonename, "alias", "other").unwrap();
    let path = format!("/vms/{zonename}?wait=alias=other");
    assert_eq!(daemon.get(&path).status, 200);
    host.stop(&zonename, 0).unwrap();
    let path = format!("/vms/{zonename}?wait=state=stopped");
    assert_eq!(daemon.get(&path).status, 200);
    let since = ["--since", &seq, "--timeout", "1"];
    for (wanted, status) in
        [("state=running", 3), ("alias=other", 0), ("state=!running", 0)]
    {
        let args = [&["wait", &zonename, wanted][..], &since].concat();
        let output = daemon.tool(&args);
        assert_eq!(status_of(&output), status, "{wanted}: {output:?}");
    }
    // A value that came and went before the command is not its effect.
    host.update(&zonename, "alias", "third").unwrap();
    let path = format!("/vms/{zonename}?wait=alias=third");
    assert_eq!(daemon.get(&path).status, 200);
    for (command, status) in [(&["--", "true"][..], 3), (&[], 0)] {
        let args = ["wait", &zonename, "alias=other"];
        let output = daemon.tool(&[&args[..], &since, command].concat());
        assert_eq!(status_of(&output), status, "{command:?}: {output:?}");
    }
}

#[test]
fn wait_sees_events_although_the_clock_was_set_back() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let zonename = host.zonenames().unwrap().remove(0);
    // The events have times of a clock that is decades behind.
    host.hurt("sysevent-zone", "drop").unwrap();
    let seq = daemon.status().get("seq").unwrap().to_string();
    let root = host.root().to_path_buf();
    let (name, dir) = (zonename.clone(), root.clone());
    let stop = std::thread::spawn(move || {
        let host = simhost::Host::new(&dir);
        wait_for("it waits", || match host.path("/begin").exists() {
            true => Ok(()),
            false => Err("no".to_string()),
        });
        host.halt(&name, 0).unwrap();
        for record in records(host.root(), Channel::Zone) {
            let (before, when) = record.split_once("\"when\":").unwrap();
            let (_, after) = when.split_once('}').unwrap();
            let line = format!("{before}\"when\":7}}{after}\n");
            host.raw_sysevent(Channel::Zone, line.as_bytes()).unwrap();
        }
    });
    let begin = format!("touch {}/begin", root.display());
    // The VM is shutting down only for a moment: only an event can show it.
    let args = ["wait", &zonename, "state=shutting_down", "--timeout", "30"];
    let args = [&args[..], &["--", "sh", "-c", &begin]].concat();
    let output = daemon.tool(&args);
    assert!(output.status.success(), "{output:?}");
    let args = ["wait", &zonename, "state=shutting_down", "--since", &seq];
    let output = daemon.tool(&args);
    assert!(output.status.success(), "{output:?}");
    stop.join().unwrap();
}

#[test]
fn events_since_a_seq_miss_nothing_across_a_restart() {
    let host = TestHost::with_vms(2);
    let addr = free_address();
    let zonename = host.zonenames().unwrap().remove(0);
    let daemon = host.start_with(&["--listen", &addr]);
    let seq = daemon.status().get("seq").unwrap().to_string();
    host.update(&zonename, "alias", "first").unwrap();
    let path = format!("/vms/{zonename}?wait=alias=first");
    assert_eq!(daemon.get(&path).status, 200);
    let events = Events::start(&addr, &["--since", &seq, "--path", "alias"]);
    let next = || loop {
        // The time of the file may have changed as well.
        let line = events.line();
        if line.contains(" alias changed ") {
            return line;
        }
    };
    assert!(next().ends_with(":: \"vm0\" -> \"first\""));
    drop(daemon);
    host.update(&zonename, "alias", "second").unwrap();
    let _daemon = host.start_with(&["--listen", &addr]);
    assert!(next().ends_with(":: \"first\" -> \"second\""));
}

#[test]
fn events_of_an_unknown_vm_are_refused_with_any_options() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let zonename = host.zonenames().unwrap().remove(0);
    for besides in [&["--since", "0"][..], &["--uuid", &zonename]] {
        let args = [&["events", "nobody"][..], besides].concat();
        let output = daemon.tool(&args);
        assert_eq!(status_of(&output), 1, "{output:?}");
        assert_eq!(output.stderr, b"VM nobody not found\n");
    }
}

#[test]
fn wait_says_when_the_state_of_a_vm_is_not_known() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    host.hurt("zoneadm", "block").unwrap();
    let new = simhost::layout::uuid_of(40);
    let args =
        ["wait", &new, "state=running", "--timeout", "0.5", "--", "true"];
    let output = daemon.tool(&args);
    assert_eq!(status_of(&output), 3);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("state of the VM is not known"), "{said}");
    host.hurt("zoneadm", "heal").unwrap();
    // On a timeout, the VM is printed as it has become by then.
    let zonename = host.zonenames().unwrap().remove(0);
    let root = host.root().to_str().unwrap();
    let script =
        format!("'{}' stop {root} {zonename} &", simhost_program().display());
    let args = [
        "wait",
        &zonename,
        "state=bogus",
        "--timeout",
        "3",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let output = daemon.tool(&args);
    assert_eq!(text(&parse(&output.stdout), "state"), "stopped");
}

/// A server that answers its first connection with `first`, and takes all
/// others without an answer. Returns its address, and the count of connections.
fn silent_server(first: &'static str) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let count: Arc<AtomicU32> = Arc::default();
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for client in listener.incoming() {
            use std::io::Write;
            let mut client = client.unwrap();
            if counted.fetch_add(1, Ordering::SeqCst) == 0 {
                let _ = client.read(&mut [0; 4096]);
                let _ = client.write_all(first.as_bytes());
                continue;
            }
            kept.push(client);
        }
    });
    (addr, count)
}

const READY: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
    49\r\n{\"type\":\"ready\",\"date\":\"2026\",\"uuid\":\"u\",\"seq\":5,\
    \"epoch\":\"e\",\"vms\":[]}\r\n\n\r\n";

#[test]
fn a_watcher_can_be_dropped_while_a_server_hangs() {
    let (addr, count) = silent_server(READY);
    let client =
        Client::new(addr.parse::<Address>().unwrap()).time_limit(DEADLINE * 10);
    let watcher = Watcher::start(&client, EventsQuery::new(), |_| {}).unwrap();
    wait_for("it tries again", || match count.load(Ordering::SeqCst) {
        2.. => Ok(()),
        n => Err(n.to_string()),
    });
    // By itself, it would wait for ten times the deadline.
    drop(watcher);
}

#[test]
fn next_within_returns_in_time_while_a_server_hangs() {
    let (addr, count) = silent_server(READY);
    let client =
        Client::new(addr.parse::<Address>().unwrap()).time_limit(DEADLINE * 10);
    let query = EventsQuery::new().heartbeat(Duration::MAX);
    let mut stream = client.events(query).unwrap();
    let mut items = 0;
    // Each connection could take ten times the deadline.
    while count.load(Ordering::SeqCst) < 2 {
        let item = stream.next_within(Duration::from_millis(20)).unwrap();
        items += u32::from(item.is_some());
    }
    for _ in 0..5 {
        let item = stream.next_within(Duration::from_millis(20)).unwrap();
        assert!(item.is_none(), "{item:?}");
    }
    assert_eq!(items, 2);
    // It does not retry for longer than `retry_for` allows.
    let mut stream = stream.retry_for(Duration::from_millis(50));
    let given_up = loop {
        if let Err(error) = stream.next().unwrap() {
            break error;
        }
    };
    assert!(!matches!(given_up, Error::Stopped), "{given_up}");
}

#[test]
fn a_late_reader_still_gets_the_events_that_have_come() {
    let host = TestHost::with_vms(1);
    let daemon = host.start();
    let zonename = host.zonenames().unwrap().remove(0);
    let client = Client::new(daemon.addr);
    let query = EventsQuery::new().heartbeat(Duration::ZERO);
    let mut stream = client.events(query).unwrap();
    let ready = stream.next_within(DEADLINE).unwrap();
    assert!(matches!(ready, Some(Event::Ready(_))), "{ready:?}");
    host.update(&zonename, "alias", "late").unwrap();
    let path = format!("/vms/{zonename}?wait=alias=late");
    assert_eq!(daemon.get(&path).status, 200);
    // Time passes, in which more than three heartbeats come: after three
    // without one, a client takes its stream for broken.
    let beats = daemon.events_of("?heartbeat=0.1");
    let mut beats = beats;
    for _ in 0..5 {
        assert_eq!(text(&beats.next().unwrap(), "type"), "heartbeat");
    }
    let item = wait_for("what is there", || {
        let item = stream.next_within(Duration::ZERO).unwrap();
        item.ok_or_else(|| "nothing".to_string())
    });
    assert!(item.kind().is_some(), "{item:?}");
}

#[test]
fn an_unknown_name_is_gone_though_another_zone_has_a_fault() {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR"));
    let recorded = recorded.join("tests/fixtures/objects-edge/host");
    let host = TestHost::recorded(&recorded);
    fs::write(host.path("/etc/zones/lx-zone.xml"), "<zone").unwrap();
    let daemon = host.start();
    let args = ["wait", "nobody", "--gone", "--timeout", "5"];
    assert_eq!(status_of(&daemon.tool(&args)), 0);
}

#[test]
fn a_listener_that_panics_ends_the_watcher_and_says_so() {
    let host = TestHost::with_vms(1);
    let daemon = host.start();
    let zonename = host.zonenames().unwrap().remove(0);
    let client = Client::new(daemon.addr);
    let listener = |event: Result<&Event, &Error>| {
        if let Ok(Event::Modify { header, .. }) = event {
            panic!("on purpose: {}", header.seq);
        }
    };
    let watcher = Watcher::start(&client, EventsQuery::new(), listener);
    let watcher = watcher.unwrap();
    host.update(&zonename, "alias", "x").unwrap();
    let never = watcher.wait_for(&zonename, |_| false, Duration::MAX);
    assert!(matches!(never, Err(Error::Ended { .. })), "{never:?}");
    assert!(watcher.trouble().unwrap().contains("panicked"));
}

#[test]
fn searches_in_long_texts_find_the_match_or_are_refused() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let zonename = host.zonenames().unwrap().remove(0);
    let find = |length: usize, pattern: &str| {
        let script = format!("{} NEEDLE", "x".repeat(length));
        host.update(&zonename, "customer_metadata.script", &script).unwrap();
        let path =
            format!("/vms/{zonename}?sync=1&fields=customer_metadata.script");
        assert!(daemon.get(&path).body.len() > length);
        let filter = format!("customer_metadata.script=~{pattern}");
        let output = daemon.tool(&["lookup", &filter]);
        let said = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said, error)
    };
    let found = (Some(0), format!("{zonename}\n"), String::new());
    assert_eq!(find(20_000, "needle"), found);
    assert_eq!(find(200_000, "needle$"), found);
    let too_long =
        "a value is too long to be searched to its end\n".to_string();
    let refused = (Some(1), String::new(), too_long);
    assert_eq!(find(400_000, "needle"), refused);
    assert_eq!(find(400_000, "^xx"), found);
    let wanted = "customer_metadata.script=~needle";
    let output = daemon.tool(&["wait", &zonename, wanted]);
    let said = String::from_utf8(output.stderr).unwrap();
    let why = "vminfod: wait: a value is too long to be searched to its end\n";
    assert_eq!((output.status.code(), &*said), (Some(1), why));
}

#[test]
fn wait_runs_its_command_although_sigchld_is_ignored() {
    needs!["python3"];
    let host = TestHost::with_vms(1);
    let daemon = host.start();
    let zonename = host.zonenames().unwrap().remove(0);
    let python = "import signal,os,sys\n\
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n\
        os.execv(sys.argv[1], sys.argv[1:])";
    let output = Command::new("python3")
        .args(["-c", python, VMINFOD, "wait", &zonename, "state=running"])
        .args(["--", "true"])
        .env("VMINFOD_SERVER", daemon.addr.to_string())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let file: PathBuf = host.path("/no-program");
    fs::write(&file, "x").unwrap();
    let args = ["wait", &zonename, "state=running", "--"];
    let args = [&args[..], &[file.to_str().unwrap()]].concat();
    assert_eq!(status_of(&daemon.tool(&args)), 126);
}

#[test]
fn json_on_a_terminal_has_control_characters_escaped() {
    needs!["tmux"];
    use crate::terminal::Terminal;
    let host = TestHost::with_vms(1);
    let daemon = host.start();
    let zonename = host.zonenames().unwrap().remove(0);
    host.update(&zonename, "alias", "a\u{9b}31mb\u{202e}c").unwrap();
    let path = format!("/vms/{zonename}?wait=alias=~31mb");
    assert_eq!(daemon.get(&path).status, 200);
    let file = host.path("/typescript");
    // script(1) gives it a session of its own, and so it does not end with this
    // terminal.
    let events = format!("timeout --foreground 60 '$V' events -jr {zonename}");
    let script =
        format!("script -qefc \"{events}\" {} > /dev/null", file.display());
    let _terminal = Terminal::run(&script, &daemon.addr.to_string());
    let written = wait_for("it is written", || {
        let written = fs::read(&file).unwrap_or_default();
        let text = String::from_utf8_lossy(&written).into_owned();
        if text.contains("31mb") { Ok(text) } else { Err(text) }
    });
    assert!(written.contains("a\\u009b31mb\\u202ec"), "{written}");
    let is_order = |c: char| matches!(c, '\u{9b}' | '\u{202e}');
    assert!(!written.contains(is_order));
    let vm: Option<Json> = daemon.vm(&zonename);
    assert_eq!(text(&vm.unwrap(), "alias"), "a\u{9b}31mb\u{202e}c");
}

#[test]
fn control_characters_in_an_alias_cannot_forge_a_row() {
    needs!["tmux"];
    use crate::terminal::Terminal;
    let host = TestHost::with_vms(1);
    let daemon = host.start();
    let zonename = host.zonenames().unwrap().remove(0);
    let alias = "a\nforged-uuid  OS  512  running\tb";
    host.update(&zonename, "alias", alias).unwrap();
    let path = format!("/vms/{zonename}?wait=alias=~forged");
    assert_eq!(daemon.get(&path).status, 200);
    let script = "\"$V\" list -o alias,state; \"$V\" list -p -o alias,state";
    let terminal = Terminal::run(script, &daemon.addr.to_string());
    terminal.wait_for("two lines of one row each", |screen| {
        let rows = screen.lines().filter(|l| l.contains("forged-uuid"));
        let rows: Vec<_> = rows.collect();
        let escaped = "a\\u000aforged-uuid  OS  512  running\\u0009b";
        rows.len() == 2 && rows.iter().all(|row| row.starts_with(escaped))
    });
    // In a pipe, the alias is printed as vmadm prints it.
    let output = daemon.tool(&["list", "-p", "-o", "alias,state"]);
    assert_eq!(output.stdout, format!("{alias}:running\n").into_bytes());
}
