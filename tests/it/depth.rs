//! Deeply nested JSON: every client can read what the daemon accepts, and a VM
//! or event that can't be read hides no other.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use vminfod::config::{JSON_DEPTH, JSON_WRAPPED};
use vminfod::vm::json::Json;
use vminfod_client::{
    Address, Client, Error, Event, EventsQuery, Unreadable, Vm, VmsQuery,
    Watcher,
};

use crate::harness::{
    DEADLINE, Daemon, TestHost, VMINFOD, lines_of, parse, wait_for,
};

/// An object with this depth of nesting.
fn nested(depth: usize) -> String {
    let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
    format!("{{\"deep\":{open}{close}}}")
}

/// Waits until the daemon serves tags of this depth, or, if that is too deep,
/// reports a fault.
fn wait_until_read(daemon: &Daemon, zonename: &str, depth: usize) {
    wait_for(&format!("depth {depth} is read"), || {
        let tags = daemon.vm(zonename).and_then(|vm| vm.get("tags").cloned());
        let found = tags.as_ref().map_or(0, Json::depth);
        let errors = daemon.status().get("errors").cloned();
        let errors = errors.unwrap_or_default().to_string();
        let is_refused = errors.contains("nests deeper than 100")
            || errors.contains("recursion limit");
        let is_right = match depth > JSON_DEPTH {
            true => is_refused && found <= JSON_DEPTH,
            false => found == depth && errors == "[]",
        };
        if is_right { Ok(()) } else { Err(format!("{found} {errors}")) }
    });
}

#[test]
fn every_tool_can_read_json_of_the_depth_that_is_accepted() {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    let names = host.zonenames().unwrap();
    let name = names[0].as_str();
    let config = host.path(&format!("/zones/{name}/config"));
    let mut depths = vec![JSON_DEPTH - 1, JSON_DEPTH, JSON_DEPTH + 1];
    // Around the depth that serde_json refuses.
    depths.extend([128, 129]);
    let client = Client::new(daemon.addr);
    let watcher = Watcher::start(&client, EventsQuery::new(), |_| {}).unwrap();
    let mut events = std::process::Command::new(VMINFOD)
        .args(["events", "--json", "--server", &daemon.addr.to_string()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = lines_of(events.stdout.take().unwrap());
    wait_for("it listens", || {
        let status = daemon.status();
        let listeners = status.get("eventsListeners").cloned();
        let listeners = listeners.unwrap_or_default();
        match listeners.as_object().map_or(0, |of| of.len()) {
            2.. => Ok(()),
            n => Err(format!("{n} of 2")),
        }
    });
    for depth in depths {
        let file = nested(depth);
        for name in ["tags.json", "routes.json"] {
            fs::write(config.join(name), &file).unwrap();
        }
        // In this file, both members are one level deeper than in the other
        // files.
        let metadata = nested(depth - 1);
        let metadata = format!(
            "{{\"customer_metadata\":{metadata},\"internal_metadata\":{metadata}}}"
        );
        fs::write(config.join("metadata.json"), metadata).unwrap();
        wait_until_read(&daemon, name, depth);
        let is_refused = depth > JSON_DEPTH;
        for args in [
            &["vms"][..],
            &["vm", name],
            &["list"],
            &["lookup", "-j"],
            &["get", name],
            &["get", name, "--sync"],
            &["status"],
            &["status", "--full"],
            &["top"],
            &["wait", name, "state=running", "--timeout", "30"],
            &["diagnose", "--root", host.root().to_str().unwrap()],
            &["dump", "--root", host.root().to_str().unwrap()],
        ] {
            let output = daemon.tool(args);
            // These tools read the file themselves, and say what is wrong with
            // it.
            let is_of_system = matches!(args[0], "diagnose" | "dump")
                || args.contains(&"--sync");
            if is_refused && is_of_system {
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(said.contains("tags"), "{depth} {args:?}: {said}");
                continue;
            }
            assert!(output.status.success(), "{depth} {args:?}: {output:?}");
            if args[0] == "vms" {
                let vms = parse(&output.stdout);
                assert_eq!(vms.as_array().unwrap().len(), 3);
            }
        }
        let deepest = daemon.vms().depth() + JSON_WRAPPED;
        assert!(deepest < 128, "{depth}: {deepest}");
    }
    // Every client gets the last change, which can be read.
    fs::write(config.join("tags.json"), "{\"end\":true}").unwrap();
    let end = |vm: Option<&Vm>| {
        let tags = vm.and_then(|vm| vm.tags.as_ref());
        tags.is_some_and(|tags| tags.contains_key("end"))
    };
    watcher.wait_for(name, end, DEADLINE).unwrap();
    assert!(watcher.unreadable().is_empty() && watcher.trouble().is_none());
    loop {
        let line = lines.recv_timeout(DEADLINE).unwrap();
        let event: Event = line.parse().unwrap();
        if end(event.vm().map(|vm| &**vm)) {
            break;
        }
    }
    let _ = events.kill();
    let _ = events.wait();
}

/// A server that answers each request by its path.
fn serve(answer: impl Fn(&str) -> String + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut request = vec![0; 4096];
            let n = client.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..n]).into_owned();
            let path = request.split(' ').nth(1).unwrap_or("/").to_string();
            let body = answer(&path);
            let head = match path.starts_with("/events") {
                true => "Transfer-Encoding: chunked".to_string(),
                false => {
                    let length = body.len();
                    format!("X-Vminfod-Seq: 5\r\nContent-Length: {length}")
                }
            };
            let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}");
            let _ = client.write_all(answer.as_bytes());
            // A stream stays open.
            if path.starts_with("/events") {
                kept.push(client);
            }
        }
    });
    addr
}

/// A daemon that serves three VMs, the second of which nests too deep, and four
/// events, the second and third of which can't be read.
fn another_daemon() -> String {
    let vm = |name: &str, tags: &str| {
        format!(
            "{{\"zonename\":\"{name}\",\"uuid\":\"{name}\",\"state\":\"running\",\
             \"tags\":{tags}}}"
        )
    };
    let deep = nested(500);
    let vms =
        format!("[{},{},{}]", vm("a", "{}"), vm("b", &deep), vm("c", "{}"),);
    let chunk = |line: &str| format!("{:x}\r\n{line}\n\r\n", line.len() + 1);
    let event = |seq: u32, rest: &str| {
        chunk(&format!(
            "{{\"type\":\"modify\",\"date\":\"2026\",\"zonename\":\"a\",\
             \"uuid\":\"a\",{rest},\"changes\":[],\"seq\":{seq},\"epoch\":\"e\"}}"
        ))
    };
    let mut stream = chunk(&format!(
        "{{\"type\":\"ready\",\"date\":\"2026\",\"uuid\":\"u\",\"vms\":{vms},\
         \"seq\":5,\"epoch\":\"e\"}}"
    ));
    stream += &event(6, &format!("\"vm\":{}", vm("a", "{\"first\":1}")));
    stream += &event(7, &format!("\"vm\":{}", vm("a", &deep)));
    stream += &event(
        8,
        "\"error\":\"the event can't be parsed to select its fields\"",
    );
    stream += &event(9, &format!("\"vm\":{}", vm("a", "{\"last\":1}")));
    serve(move |path| match path.split('?').next() {
        Some("/events") => stream.clone(),
        Some("/ping") => "{\"ping\":\"pong\"}".to_string(),
        Some("/status") => "{\"errors\":[],\"epoch\":\"e\"}".to_string(),
        Some("/vms/b") => vm("b", &deep),
        Some("/vms") => vms.clone(),
        _ => vm("a", "{}"),
    })
}

#[test]
fn an_unreadable_vm_does_not_hide_other_vms() {
    let addr = another_daemon();
    let client = Client::new(addr.parse::<Address>().unwrap());
    let read = client.vms(VmsQuery::new()).unwrap();
    assert_eq!(read.vms.len(), 2);
    assert_eq!(read.unreadable.len(), 1);
    assert_eq!(read.unreadable[0].zonename.as_deref(), Some("b"));
    assert!(read.unreadable[0].why.contains("recursion"), "{read:?}");
    assert!(matches!(client.vm("b"), Err(Error::BadAnswer { .. })));

    let tool = |args: &[&str]| {
        let mut args = args.to_vec();
        args.extend(["--server", &addr]);
        let output = std::process::Command::new(VMINFOD).args(&args).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), out, said)
    };
    for args in [&["vms"][..], &["list"], &["lookup", "-j"], &["lookup"]] {
        let (status, out, said) = tool(args);
        assert_eq!(status, Some(1), "{args:?} {said}");
        assert!(said.contains("VM b can't be read: "), "{args:?} {said}");
        assert!(out.contains('a') && out.contains('c'), "{args:?} {out}");
    }
    let (status, _, said) = tool(&["lookup", "-1", "uuid=b"]);
    assert_eq!(status, Some(1), "{said}");
    let (_, out, _) = tool(&["top"]);
    assert!(out.contains("can't be read: "), "{out}");

    // A wait lasts until its timeout, and then says why the state of the VM is
    // not known.
    let (status, _, said) = tool(&["wait", "b", "state=x", "--timeout", "0.5"]);
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("gave up after 0.5 s"), "{said}");
    assert!(said.contains("recursion limit"), "{said}");
}

#[test]
fn an_unreadable_event_does_not_hide_other_events() {
    let addr = another_daemon();
    let client = Client::new(addr.parse::<Address>().unwrap());
    let (sender, told) = std::sync::mpsc::channel();
    let listener = move |event: Result<&Event, &Error>| {
        let unreadable = |vm: &Unreadable| {
            let name = vm.zonename.as_deref().unwrap_or("-");
            format!("unreadable {name}")
        };
        let _ = sender.send(match event {
            Ok(Event::Ready(ready)) => {
                format!("ready, {}", unreadable(&ready.unreadable[0]))
            }
            Ok(Event::Unreadable(vm)) => unreadable(vm),
            Ok(event) => format!("event {}", event.header().unwrap().seq),
            Err(error) => error.to_string(),
        });
    };
    let watcher =
        Watcher::start(&client, EventsQuery::new(), listener).unwrap();
    for wanted in [
        "ready, unreadable b",
        "event 6",
        "unreadable a",
        "unreadable a",
        "event 9",
    ] {
        assert_eq!(told.recv_timeout(DEADLINE).unwrap(), wanted);
    }
    // VM a can be read again, by its last event.
    let unreadable = watcher.unreadable();
    assert_eq!(unreadable.len(), 1, "{unreadable:?}");
    assert_eq!(unreadable[0].zonename.as_deref(), Some("b"));
    let is_last = |vm: Option<&Vm>| {
        let tags = vm.and_then(|vm| vm.tags.as_ref());
        tags.is_some_and(|tags| tags.contains_key("last"))
    };
    let time = Duration::from_secs(1);
    let vm = watcher.wait_for("a", is_last, time).unwrap();
    assert_eq!(vm.unwrap().zonename, "a");

    let mut events = std::process::Command::new(VMINFOD)
        .args(["events", "--json", "--server", &addr])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = lines_of(events.stdout.take().unwrap());
    let said = lines_of(events.stderr.take().unwrap());
    let seqs = [6, 9].map(|seq| {
        let line = lines.recv_timeout(DEADLINE).unwrap();
        let event = parse(line.as_bytes());
        assert_eq!(event.get("seq"), Some(&Json::from(seq as u32)), "{line}");
        seq
    });
    assert_eq!(seqs, [6, 9]);
    for name in ["b", "a", "a"] {
        let line = said.recv_timeout(DEADLINE).unwrap();
        let wanted = format!("vminfod: VM {name} can't be read: ");
        assert!(line.starts_with(&wanted), "{line}");
    }
    let _ = events.kill();
    let _ = events.wait();
}

#[test]
fn a_watcher_reports_an_unreadable_vm_and_not_that_it_is_gone() {
    let addr = another_daemon();
    let client = Client::new(addr.parse::<Address>().unwrap());
    let watcher = Watcher::start(&client, EventsQuery::new(), |_| {}).unwrap();
    let time = Duration::from_millis(100);
    // VM b exists, though it can't be read: it is not gone.
    let is_gone = |vm: Option<&Vm>| vm.is_none();
    let error = watcher.wait_for("b", is_gone, time).unwrap_err();
    assert!(error.to_string().contains("VM b can't be read"), "{error}");
    assert_eq!(watcher.wait_for("x", is_gone, time).unwrap(), None);
}
