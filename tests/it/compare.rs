//! `vminfod compare`: two daemons side by side. A lasting difference is
//! reported; one that an event is about to end is not.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;

use vminfod::vm::json::{Json, Object};

use crate::harness::*;
use crate::model::Kind;
use crate::model::step::{Step, Steps};

/// A running `vminfod compare`, and the lines that it prints.
struct Compare {
    child: Child,
    lines: Receiver<String>,
    /// The lines that were read so far.
    seen: Vec<Json>,
}

impl Compare {
    fn start(a: SocketAddr, b: SocketAddr, args: &[&str]) -> Self {
        let mut child = Command::new(VMINFOD)
            .args(["compare", "-j", &a.to_string(), &b.to_string()])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let mut compare = Self { child, lines, seen: Vec::new() };
        compare.wait_for("ready", 2);
        compare
    }

    /// Reads until `count` lines of this type have come; returns the last of
    /// them.
    fn wait_for(&mut self, kind: &str, count: usize) -> &Json {
        while self.of_type(kind).len() < count {
            let line = self.lines.recv_timeout(DEADLINE);
            let line = line.unwrap_or_else(|e| panic!("{e}: {:?}", self.seen));
            self.seen.push(parse(line.as_bytes()));
        }
        self.of_type(kind)[count - 1]
    }

    /// Reads until a line of this type is the one that is meant; returns it.
    fn wait_for_line(
        &mut self,
        kind: &str,
        is_meant: impl Fn(&Json) -> bool,
    ) -> Json {
        let mut count = 1;
        loop {
            let line = self.wait_for(kind, count);
            if is_meant(line) {
                return line.clone();
            }
            count += 1;
        }
    }

    fn of_type(&self, kind: &str) -> Vec<&Json> {
        self.seen.iter().filter(|line| text(line, "type") == kind).collect()
    }

    /// Interrupts it; returns its exit status and its summary.
    fn end(mut self) -> (Option<i32>, Json) {
        assert!(kill("INT", self.child.id()));
        let summary = self.wait_for("summary", 1).clone();
        let status = wait_for("compare ends", || {
            self.child.try_wait().unwrap().ok_or("it runs".to_string())
        });
        (status.code(), summary)
    }
}

fn count(summary: &Json, name: &str) -> u64 {
    summary.get(name).unwrap().as_u64().unwrap()
}

/// How the proxy of [`between`] changes a line of the stream, or a VM; `None`
/// leaves it out.
type Change = fn(Object) -> Option<Object>;

/// A proxy in front of a daemon: it passes on the answers, with each line of
/// the stream and each VM changed.
fn between(real: SocketAddr, event: Change, vm: Change) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || pass_on(&stream, real, event, vm));
        }
    });
    addr
}

fn changed(vms: &Json, vm: Change) -> Json {
    let vms = vms.as_array().unwrap().iter();
    let vms = vms.filter_map(|one| vm(one.as_object().unwrap().clone()));
    Json::from(vms.map(Json::from).collect::<Vec<_>>())
}

fn pass_on(client: &TcpStream, real: SocketAddr, event: Change, vm: Change) {
    let mut head = BufReader::new(client);
    let mut first = String::new();
    let _ = head.read_line(&mut first);
    let mut line = first.clone();
    while !line.trim().is_empty() {
        line.clear();
        let _ = head.read_line(&mut line);
    }
    let path = first.split(' ').nth(1).unwrap_or("/");
    let mut client = client;
    if !path.starts_with("/events") {
        let answer = get_at(real, path);
        let body = match path {
            "/vms" => changed(&answer.json(), vm).to_string(),
            _ => answer.text(),
        };
        let length = body.len();
        let _ = write!(
            client,
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        );
        return;
    }
    let _ = client
        .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    // No query is passed on: today's daemon does not know any.
    let upstream = TcpStream::connect(real).unwrap();
    let request = b"GET /events HTTP/1.1\r\n\r\n";
    (&upstream).write_all(request).unwrap();
    read_chunks(upstream, |line| {
        let line = parse(line.as_bytes()).as_object().unwrap().clone();
        let line = match line.get_str("type") {
            Some("ready") => {
                let mut line = line.clone();
                let vms = parse(line.get_str("vms").unwrap().as_bytes());
                line.set("vms", changed(&vms, vm).to_string());
                Some(line)
            }
            _ => event(line),
        };
        let Some(mut line) = line else { return true };
        for name in ["seq", "epoch", "cause"] {
            line.remove(name);
        }
        let line = Json::from(line).to_string();
        write!(client, "{:x}\r\n{line}\n\r\n", line.len() + 1).is_ok()
    });
}

#[test]
fn two_daemons_agree_after_many_operations() {
    let host = TestHost::with_vms(5);
    // No periodic reload: only events report changes.
    let args = ["--refresh-interval", "100000"];
    let (a, b) = (host.start_with(&args), host.start_with(&args));
    let compare = Compare::start(a.addr, b.addr, &["--settle", "10"]);
    let mut steps = Steps::new(7, Kind::Strict);
    let operations = few_or_many(250, 1000);
    for debugid in 0..operations {
        let step = steps.operation();
        // No event reports that init has ended: a daemon finds out when it
        // loads the VM for another event, and each daemon at another time.
        let is_silent = matches!(step, Step::EndInit(_) | Step::HaltHangs(..));
        if !is_silent {
            // An operation that the host refuses does not count.
            let _ = step.run(&host, 1_000_000 + debugid);
        }
    }
    a.settle(&host);
    b.settle(&host);
    let root = host.root().to_str().unwrap();
    let scratch = host.path("/scratch");
    std::fs::create_dir_all(&scratch).unwrap();
    let output = Command::new(VMINFOD)
        .args(["check", "--root", root, "--against", &a.addr.to_string()])
        .arg("--scratch")
        .arg(&scratch)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("\nagainst: 2 facts hold\n"), "{said}");
    let (status, summary) = compare.end();
    assert_eq!(status, Some(0), "{summary}");
    assert!(count(&summary, "both") > operations / 4, "{summary}");
}

#[test]
fn compare_works_with_a_daemon_that_sends_no_seq() {
    let host = TestHost::with_vms(4);
    let daemon = host.start();
    let reference = between(daemon.addr, Some, Some);
    let args = ["--settle", "1"];
    let mut compare = Compare::start(reference, daemon.addr, &args);
    let kinds = compare.of_type("ready");
    let of = |name: &str| {
        let line = kinds.iter().find(|line| text(line, "daemon") == name);
        text(line.unwrap(), "kind").to_string()
    };
    assert_eq!((&*of("A"), &*of("B")), ("today's daemon", "vminfod"));
    let mut events = daemon.events();
    let name = host.zonenames().unwrap().remove(0);
    host.update(&name, "quota", "33").unwrap();
    host.reboot(&name).unwrap();
    daemon.settle(&host);
    let seq = daemon.events().seq;
    events.read_to(seq);
    // What one subscriber has read was sent to the others, too.
    let changes = |event: &Json| {
        let changes = event.get("changes").and_then(Json::as_array);
        changes.map_or(1, <[_]>::len) as u64
    };
    let wanted: u64 = events.events.iter().map(changes).sum();
    // The end of a stream does not count as a difference.
    drop(daemon);
    compare.wait_for("broken", 1);
    let (_, summary) = compare.end();
    assert_eq!(count(&summary, "lasting"), 0, "{summary}");
    assert_eq!(count(&summary, "both"), wanted, "{summary}");
}

#[test]
fn a_changed_property_is_reported() {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    let vm: Change = |mut vm| {
        vm.set("alias", "another");
        Some(vm)
    };
    let other = between(daemon.addr, Some, vm);
    let mut compare = Compare::start(daemon.addr, other, &["--settle", "0.5"]);
    compare.wait_for("differs", 3);
    for (n, line) in compare.of_type("differs").iter().enumerate() {
        assert_eq!(text(line, "path"), "alias");
        assert_eq!(text(line, "b"), "another");
        assert_ne!(text(line, "a"), "another", "{n}");
    }
    let (status, summary) = compare.end();
    assert_eq!((status, count(&summary, "lasting")), (Some(1), 3));
}

#[test]
fn a_missing_vm_is_reported() {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    let is_meant = |vm: &Object| vm.get_str("alias") == Some("vm1");
    let vm: Change =
        |vm| Some(vm).filter(|vm| vm.get_str("alias") != Some("vm1"));
    let other = between(daemon.addr, Some, vm);
    let mut compare = Compare::start(daemon.addr, other, &["--settle", "0.5"]);
    let line = compare.wait_for("differs", 1);
    let vms = daemon.vms();
    let vms = vms.as_array().unwrap().iter();
    let mut meant = vms.filter(|vm| is_meant(vm.as_object().unwrap()));
    let meant = meant.next().unwrap();
    assert_eq!(line.get("zonename"), meant.get("zonename"));
    assert_eq!(text(line, "path"), "");
    assert_eq!(line.get("a"), Some(&Json::Bool(true)));
    let (status, summary) = compare.end();
    assert_eq!((status, count(&summary, "lasting")), (Some(1), 1));
}

#[test]
fn a_vm_that_cannot_be_compared_is_named_and_changes_the_exit_status() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let vm: Change = |mut vm| {
        if vm.get_str("alias") == Some("vm1") {
            // Deeper than a client of today can read.
            let nest = |inner, _| Json::from(vec![inner]);
            vm.set("deep", (0..500).fold(Json::Null, nest));
        }
        Some(vm)
    };
    let other = between(daemon.addr, Some, vm);
    let mut compare = Compare::start(daemon.addr, other, &[]);
    let line = compare.wait_for("unread", 1);
    assert_eq!(text(line, "daemon"), "B");
    let (status, summary) = compare.end();
    let counts = ["lasting", "unread"].map(|name| count(&summary, name));
    assert_eq!((status, counts), (Some(2), [0, 1]), "{summary}");
}

#[test]
fn a_missing_event_is_reported() {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    let event: Change = |line| {
        let vm = line.get("vm").and_then(Json::as_object);
        let alias = vm.and_then(|vm| vm.get_str("alias"));
        let is_meant = alias == Some("lost");
        Some(line).filter(|_| !is_meant)
    };
    let other = between(daemon.addr, event, Some);
    let args = ["--settle", "0.5"];
    let mut compare = Compare::start(daemon.addr, other, &args);
    let name = host.zonenames().unwrap().remove(0);
    host.update(&name, "alias", "lost").unwrap();
    // B's events differ from what B itself serves, and from A's events.
    let own = compare.wait_for_line("differs", |line| {
        line.get("daemon").is_some() && text(line, "path") == "alias"
    });
    assert_eq!(text(&own, "daemon"), "B");
    assert_eq!((text(&own, "events"), text(&own, "vms")), ("vm0", "lost"));
    let both = compare.wait_for_line("differs", |line| {
        line.get("daemon").is_none() && text(line, "path") == "alias"
    });
    assert_eq!((text(&both, "a"), text(&both, "b")), ("lost", "vm0"));
    // The next event of the VM has the whole VM, which ends the difference.
    host.update(&name, "alias", "found").unwrap();
    compare.wait_for_line("agrees", |line| text(line, "path") == "alias");
    let (status, summary) = compare.end();
    assert_eq!(status, Some(1), "{summary}");
    assert!(count(&summary, "lasting") >= 2, "{summary}");
    assert!(count(&summary, "a_alone") >= 1, "{summary}");
}

#[test]
fn a_restart_does_not_count_as_a_difference() {
    let host = TestHost::with_vms(3);
    let a = host.start();
    let address = free_address();
    let listen = ["--listen", address.as_str()];
    let b = host.start_with(&listen);
    let args = ["--settle", "0.5"];
    let mut compare = Compare::start(a.addr, b.addr, &args);
    drop(b);
    compare.wait_for("broken", 1);
    let name = host.zonenames().unwrap().remove(0);
    host.update(&name, "alias", "meanwhile").unwrap();
    let b = host.start_with(&listen);
    compare.wait_for("ready", 3);
    a.settle(&host);
    b.settle(&host);
    let (status, summary) = compare.end();
    assert_eq!(status, Some(0), "{summary}");
    // A daemon that is not there can't be followed.
    drop(b);
    let output = Command::new(VMINFOD)
        .args(["compare", &a.addr.to_string(), &address])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("vminfod: B: no daemon answers"), "{said}");
}

#[test]
fn compare_ends_at_its_time_limit_with_a_readable_summary() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let addr = daemon.addr.to_string();
    let output = daemon.tool(&["compare", &addr, &addr, "--for", "1"]);
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    let lines: Vec<_> = said.lines().collect();
    let text = |line: &str| line.split_once("] ").unwrap().1.to_string();
    let mut ready = [text(lines[0]), text(lines[1])];
    ready.sort();
    let wanted = ["A is ready: vminfod, 2 VMs", "B is ready: vminfod, 2 VMs"];
    assert_eq!(ready, wanted);
    assert!(text(lines[2]).starts_with("no lasting difference in 1 s; 0 "));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for args in [&["compare", &addr][..], &["compare", "x", "y"]] {
        assert_eq!(daemon.tool(args).status.code(), Some(2));
    }
}
