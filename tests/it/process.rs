//! The program as a process: how it ends, other daemons beside it, and its
//! tools.

use std::os::unix::fs::symlink;
use std::process::{Command, Output};

use vminfod::vm::json::Json;

use crate::harness::{
    TestHost, VMINFOD, free_address, kill, parse, text, wait_for,
};

#[test]
fn a_signal_ends_the_daemon_its_children_and_its_streams() {
    for signal in ["TERM", "INT"] {
        let host = TestHost::with_vms(3);
        let mut daemon = host.start();
        let mut stream = daemon.events();
        let status = daemon.status();
        let sources = status.get("sources").unwrap();
        let pids: Vec<_> = ["zone", "zfs"]
            .iter()
            .map(|s| sources.get(s).unwrap().get("pid").unwrap().to_string())
            .collect();
        daemon.signal(signal);
        assert_eq!(daemon.wait(), Some(0));
        assert!(stream.next().is_none());
        for pid in pids {
            assert!(!kill("0", &pid), "{pid} lives");
        }
        let log = daemon.log().join("\n");
        assert!(log.contains("\"stopped\""), "{log}");
    }
}

#[test]
fn streams_end_with_their_last_chunk() {
    use std::io::{Read, Write};
    for _ in 0..5 {
        let host = TestHost::with_vms(2);
        let mut daemon = host.start();
        let streams: Vec<_> = (0..8)
            .map(|_| {
                let mut stream =
                    std::net::TcpStream::connect(daemon.addr).unwrap();
                stream.write_all(b"GET /events HTTP/1.1\r\n\r\n").unwrap();
                // Read up to the first line: the head is sent before the client
                // is subscribed, and the line after that.
                let (mut begin, mut byte) = (Vec::new(), [0]);
                while !begin.ends_with(b"\r\n{") {
                    stream.read_exact(&mut byte).unwrap();
                    begin.push(byte[0]);
                }
                stream
            })
            .collect();
        daemon.signal("TERM");
        for mut stream in streams {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            let end = String::from_utf8_lossy(&bytes[bytes.len() - 20..]);
            assert!(bytes.ends_with(b"\r\n0\r\n\r\n"), "{end:?}");
        }
        assert_eq!(daemon.wait(), Some(0));
    }
}

#[test]
fn a_hangup_ends_the_daemon_unless_it_is_ignored() {
    let host = TestHost::with_vms(2);
    // The caller of the tests may ignore SIGHUP.
    let by = |option: &str| {
        let mut command = Command::new("env");
        command.args([option, VMINFOD]);
        host.start_by(command, &[])
    };
    let mut daemon = by("--default-signal=HUP");
    daemon.signal("HUP");
    assert_eq!(daemon.wait(), Some(0));
    wait_for("it says why", || match daemon.log() {
        log if log.iter().any(|l| l.contains("got signal Hangup")) => Ok(()),
        log => Err(log.join("\n")),
    });
    // It does not end if it was started with the signal ignored.
    let daemon = by("--ignore-signal=HUP");
    daemon.signal("HUP");
    assert_eq!(daemon.get("/ping").status, 200);
}

#[test]
fn a_sysevent_child_can_be_killed_and_is_restarted() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let zone = || {
        let status = daemon.status();
        status.get("sources").unwrap().get("zone").unwrap().clone()
    };
    let pid = zone().get("pid").unwrap().to_string();
    assert!(kill("TERM", pid));
    wait_for("it was started again", || {
        match zone().get("restarts").and_then(Json::as_u64) {
            Some(1..) => Ok(()),
            restarts => Err(format!("{restarts:?}")),
        }
    });
}

#[test]
fn a_second_daemon_is_refused_while_the_first_still_loads() {
    let (host, other) = (TestHost::with_vms(2), TestHost::with_vms(2));
    host.hurt("zoneadm", "block").unwrap();
    let addr = free_address();
    // It has not loaded yet, and so does not listen.
    let mut first = host.spawn(&["--listen", &addr]);
    wait_for("zoneadm is run", || {
        if host.runs().iter().any(|r| r.starts_with("zoneadm")) {
            return Ok(());
        }
        Err("not yet".to_string())
    });
    let mut second = other.spawn(&["--listen", &addr]);
    assert_eq!(second.wait(), Some(1));
    assert!(other.runs().is_empty());
    host.hurt("zoneadm", "heal").unwrap();
    first.addr = first.wait_for_address();
    first.settle(&host);
}

#[test]
fn a_restart_does_not_wait_for_old_connections() {
    let host = TestHost::with_vms(2);
    let addr = free_address();
    for _ in 0..3 {
        let mut daemon = host.start_with(&["--listen", &addr]);
        // The daemon closes first, and so its side of the connection stays in
        // TIME_WAIT for a while.
        assert_eq!(daemon.get("/ping").status, 200);
        daemon.signal("TERM");
        assert_eq!(daemon.wait(), Some(0));
    }
}

#[test]
fn a_log_pipe_that_is_not_read_does_not_block_the_daemon() {
    use std::process::Stdio;
    let host = TestHost::with_vms(3);
    let (reader, writer) = std::io::pipe().unwrap();
    let mut child = Command::new(VMINFOD)
        .args(["daemon", "--listen", "127.0.0.1:0", "--log-level", "trace"])
        .args(["--refresh-interval", "0.001", "--root"])
        .arg(host.root())
        .stdout(Stdio::from(writer))
        .spawn()
        .unwrap();
    // A pipe has room for the lines of some 30 reloads.
    wait_for("it works though its log is full", || match host.runs().len() {
        500.. => Ok(()),
        runs => Err(runs.to_string()),
    });
    assert!(kill("TERM", child.id()));
    let status = wait_for("it ends", || {
        child.try_wait().unwrap().ok_or("it lives".to_string())
    });
    assert_eq!(status.code(), Some(0));
    drop(reader);
}

#[test]
fn a_signal_ends_the_daemon_while_a_command_hangs() {
    let host = TestHost::with_vms(3);
    host.hurt("zfs", "hang").unwrap();
    let mut daemon = host.spawn(&[]);
    wait_for("zfs is run", || {
        let runs = host.runs();
        let runs_zfs = runs.iter().any(|run| run.starts_with("zfs "));
        if runs_zfs { Ok(()) } else { Err(format!("{runs:?}")) }
    });
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
}

#[test]
fn a_second_daemon_on_the_same_port_is_refused() {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    let addr = daemon.addr.to_string();
    let runs = host.runs().len();
    let mut second = host.spawn(&["--listen", &addr]);
    assert_eq!(second.wait(), Some(1));
    let said = wait_for("it says why", || {
        let log = second.log();
        let line = log.iter().find(|l| l.starts_with("vminfod: ")).cloned();
        line.ok_or_else(|| log.join("\n"))
    });
    assert!(said.contains(&addr) && said.contains("in use"), "{said}");
    assert_eq!(host.runs().len(), runs);
    assert_eq!(daemon.get("/ping").status, 200);
}

#[test]
fn the_daemon_answers_only_once_every_vm_is_loaded() {
    let host = TestHost::with_vms(3);
    host.hurt("zoneadm", "fail not yet").unwrap();
    let addr = free_address();
    let daemon = host.spawn(&["--listen", &addr]);
    wait_for("a load has failed", || {
        let log = daemon.log().join("\n");
        if log.contains("not yet") { Ok(()) } else { Err(log) }
    });
    let ping = tool(&["ping", "--server", &addr]);
    assert_eq!(ping.status.code(), Some(1));
    let said = String::from_utf8(ping.stderr).unwrap();
    assert!(said.contains("no daemon answers at"), "{said}");
    host.hurt("zoneadm", "heal").unwrap();
    daemon.wait_for_address();
    let ping = tool(&["ping", "--server", &addr]);
    assert!(ping.status.success());
}

fn tool(args: &[&str]) -> Output {
    Command::new(VMINFOD).args(args).output().unwrap()
}

#[test]
fn the_tools_print_what_the_daemon_says() {
    let host = TestHost::with_vms(3);
    let zonename = host.zonenames().unwrap().remove(0);
    let daemon = host.start();
    let out = |args: &[&str]| {
        let output = daemon.tool(args);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(out(&["ping"]), "{\n  \"ping\": \"pong\"\n}\n");
    assert_eq!(out(&["vms"]).as_bytes(), host.dump().stdout);
    let vm = out(&["vm", &zonename]);
    assert!(vm.starts_with("{\n  \"zonename\": "), "{vm}");
    assert_eq!(text(&parse(vm.as_bytes()), "zonename"), zonename);
    let status = out(&["status"]);
    let healthy = format!(" at {}: healthy\n", daemon.addr);
    assert!(status.contains(&healthy), "{status}");
    assert!(out(&["status", "-f"]).contains("  reload    20"));
    assert_eq!(out(&["status", "-j"]).lines().count(), 1);
    let full = out(&["status", "-jf"]);
    assert!(parse(full.as_bytes()).get("refreshLog").is_some());

    let gone = daemon.tool(&["vm", "nobody"]);
    assert_eq!(gone.status.code(), Some(1));
    assert_eq!(gone.stderr, b"vminfod: VM Not Found: nobody\n");
}

#[test]
fn events_are_printed_as_they_come() {
    use std::io::{BufRead, BufReader};
    let host = TestHost::with_vms(3);
    let zonename = host.zonenames().unwrap().remove(0);
    let daemon = host.start();
    let vminfo = host.root().join("vminfo");
    symlink(VMINFOD, &vminfo).unwrap();
    let server = daemon.addr.to_string();
    let lines = |program: &std::path::Path, args: &[&str]| {
        let mut child = Command::new(program)
            .args(["events", "-r", "--server", &server])
            .args(args)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut ready = String::new();
        out.read_line(&mut ready).unwrap();
        host.update(&zonename, "quota", "31").unwrap();
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        host.update(&zonename, "quota", "32").unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // The next stream must begin with its own event.
        daemon.settle(&host);
        (ready, line)
    };
    let (ready, line) = lines(VMINFOD.as_ref(), &[]);
    assert!(ready.contains("] ready (uuid "), "{ready}");
    let end = format!("Z] {zonename} modify: quota changed :: ");
    assert!(line.starts_with("[20") && line.contains(&end), "{line}");
    let (ready, line) = lines(VMINFOD.as_ref(), &["-f"]);
    assert!(ready.contains("] ready (uuid "), "{ready}");
    let end = format!("Z] {zonename} vm0 modify: quota changed :: ");
    assert!(line.contains(&end), "{line}");
    let (ready, line) = lines(&vminfo, &[]);
    assert!(ready.ends_with("Z] ready\n"), "{ready}");
    let short = zonename.split('-').next().unwrap();
    let end = format!("Z] {short} vm0 modify: quota changed :: 32 -> 31\n");
    assert!(line.ends_with(&end), "{line}");
    let (ready, line) = lines(VMINFOD.as_ref(), &["--short"]);
    assert!(ready.ends_with("Z] ready\n"), "{ready}");
    assert!(line.ends_with(&end), "{line}");
    let (ready, line) = lines(VMINFOD.as_ref(), &["-j"]);
    assert!(parse(ready.as_bytes()).get("vms").is_some());
    assert_eq!(text(&parse(line.as_bytes()), "type"), "modify");

    let pong = Command::new(vminfo)
        .args(["ping", "--server", &server])
        .output()
        .unwrap();
    assert_eq!(pong.stdout, b"pong\n");
}

#[test]
fn a_wrong_command_line_is_reported_in_one_line() {
    for args in [
        &["vm"][..],
        &["vm", "a", "b"],
        &["ping", "--bogus"],
        &["ping", "--server", "nowhere"],
        &["events", "--type", "boot"],
        &["events", "--since", "x"],
        &["events", "--since", "-1"],
        &["events", "--path", "bogus"],
        &["events", "--path", "state,"],
        &["events", "--uuid", ""],
        &["events", ""],
        &["wait", "", "--gone"],
        &["wait", "a", "--gone", "--since", "-1"],
        &["vm", ""],
        &["ping", "--server", ""],
        &["ping", "--time-limit", "-1"],
        &["daemon", "--allow-host", ""],
        &["daemon", "--allow-host", "http://a"],
        &["events", "a", "b"],
        &["wait"],
        &["wait", "a"],
        &["wait", "a", "state"],
        &["wait", "a", "bogus=1"],
        &["wait", "a", "alias=~("],
        &["wait", "a", "state=x", "--gone"],
        &["wait", "a", "--gone", "--timeout", "soon"],
        &["top", "x"],
        &["diagnose", "x"],
        &["daemon", "--listen", "0.0.0.0:9090"],
        &["daemon", "--refresh-interval", "soon"],
        &["daemon", "--log-level", "loud"],
        &["daemon", "extra"],
        &["--version", "x"],
    ] {
        let output = tool(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
        assert!(said.starts_with("vminfod: "), "{said}");
    }
    // An unknown verb prints the usage.
    let bogus = tool(&["bogus"]);
    assert_eq!(bogus.status.code(), Some(2));
    let said = String::from_utf8(bogus.stderr).unwrap();
    assert!(said.starts_with("Invalid command: \"bogus\".\nusage: "), "{said}");
    assert!(tool(&["help"]).stdout.starts_with(b"usage: vminfod"));
    assert!(tool(&["--version"]).stdout.starts_with(b"vminfod "));
    let nowhere = tool(&["daemon", "--root", "/no/such/dir"]);
    assert_eq!(nowhere.status.code(), Some(1));
}

#[test]
fn every_line_of_the_log_is_a_bunyan_record() {
    let host = TestHost::with_vms(3);
    let mut daemon = host.start();
    let zonename = host.zonenames().unwrap().remove(0);
    host.update(&zonename, "alias", "new\nline").unwrap();
    daemon.settle(&host);
    daemon.signal("TERM");
    daemon.wait();
    let log = daemon.log();
    assert!(log.len() > 5);
    for line in &log {
        let record = parse(line.as_bytes());
        for member in ["v", "level", "name", "hostname", "pid", "time", "msg"] {
            let value = record.get(member);
            assert!(!matches!(value, None | Some(Json::Null)), "{line}");
        }
    }
    let said = |what: &str| log.iter().any(|line| line.contains(what));
    assert!(said("event: file"));
    assert!(said("job done"));
    assert!(said("modify alias"));
}
