//! Real clients: curl, Node's http with a keep-alive agent, Python's
//! http.client and urllib, and wrk.

use std::path::PathBuf;
use std::process::{Command, Output};

use simhost::emit::Channel;

use crate::harness::programs::needs;
use crate::harness::{Daemon, TempDir, TestHost, parse, text, wait_for};

/// Runs a program.
pub fn run(program: &str, args: &[&str]) -> Output {
    let run = Command::new(program).args(args).output();
    run.unwrap_or_else(|e| panic!("{program}: {e}"))
}

fn curl(daemon: &Daemon, args: &[&str], path: &str) -> (i32, String) {
    let url = format!("http://127.0.0.1:{}{path}", daemon.addr.port());
    let mut all = vec!["-s", "-m", "60"];
    all.extend(args);
    all.push(&url);
    let output = run("curl", &all);
    let stdout = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), stdout)
}

#[test]
fn curl_works_with_the_flags_that_people_use() {
    needs!["curl"];
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    let name = host.zonenames().unwrap().remove(0);
    let vm_path = format!("/vms/{name}");
    let vm = daemon.get(&vm_path).text();
    let ping = "{\"ping\":\"pong\"}".to_string();
    for args in [
        &[][..],
        &["-f"],
        &["--http1.0"],
        &["--http1.1"],
        &["--compressed"],
        &["-N"],
        &["-L"],
        &["-H", "Connection: close"],
        &["--no-keepalive"],
        &["--ipv4"],
        &["--retry", "3"],
        &["--raw"],
        &["-r", "0-1"],
        // curl falls back to HTTP/1.1 if HTTP/2 is not answered.
        &["--http2"],
    ] {
        assert_eq!(curl(&daemon, args, "/ping"), (0, ping.clone()), "{args:?}");
        assert_eq!(curl(&daemon, args, &vm_path).1, vm, "{args:?}");
    }
    let (exit, head) = curl(&daemon, &["-I"], "/vms");
    assert!(exit == 0 && head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(curl(&daemon, &["-f"], "/vms/nobody").0, 22);
    let code = ["-o", "/dev/null", "-w", "%{http_code}"];
    for (path, wanted) in [
        ("/nothing", "404"),
        ("/vms?bogus=1", "400"),
        ("/vms/nobody?wait=x=y", "400"),
        ("/vms/nobody?wait=alias=y&timeout=0", "504"),
    ] {
        assert_eq!(curl(&daemon, &code, path), (0, wanted.to_string()));
    }
    // Methods other than GET and HEAD, and foreign origins and hosts, are
    // refused.
    for args in [
        &["-X", "POST"][..],
        &["-d", "x=1"],
        &["-d", "x=1", "-H", "Expect: 100-continue"],
        &["-X", "DELETE"],
        &["-T", "Cargo.toml"],
        &["-d", "x", "-H", "Transfer-Encoding: chunked"],
        &["-H", "Origin: http://x"],
        &["-H", "Host: evil.example"],
    ] {
        let args = [args, &code].concat();
        let (_, status) = curl(&daemon, &args, "/vms");
        assert!(["400", "403"].contains(&&*status), "{args:?}: {status}");
    }
    let path = "/vms?fields=zonename";
    let args = ["-G", "--data-urlencode", "alias=~^.", "--data-urlencode"];
    let args = [&args[..], &["type=OS"]].concat();
    let filtered = curl(&daemon, &args, path).1;
    assert!(!parse(filtered.as_bytes()).as_array().unwrap().is_empty());
    // Several requests on one connection.
    let again = format!("http://127.0.0.1:{}/ping", daemon.addr.port());
    let args = ["-w", "%{num_connects}", &again];
    assert_eq!(curl(&daemon, &args, "/ping").1, format!("{ping}1{ping}0"));
    let args = ["-Z", &again, &again, &again];
    assert_eq!(curl(&daemon, &args, "/ping").1, ping.repeat(4));
    // A stream, until curl's time limit is over.
    let (exit, lines) = curl(&daemon, &["-N", "-m", "1"], "/events");
    let ready = parse(lines.trim_end().as_bytes());
    assert_eq!((exit, text(&ready, "type")), (28, "ready"));
    let dir = TempDir::new();
    let file = dir.0.join("etag");
    let file = file.to_str().unwrap();
    let (_, whole) = curl(&daemon, &["--etag-save", file], "/vms");
    assert!(whole.contains(&name));
    let compare = ["--etag-compare", file, "-w", "%{http_code}"];
    assert_eq!(curl(&daemon, &compare, "/vms"), (0, "304".to_string()));
}

fn script(name: &str) -> String {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    dir.join("tests/it/clients").join(name).to_str().unwrap().to_string()
}

#[test]
fn node_and_python_clients_work_with_keep_alive() {
    needs!["node", "python3"];
    let host = TestHost::with_vms(5);
    let daemon = host.start();
    let name = host.zonenames().unwrap().remove(2);
    let port = daemon.addr.port().to_string();
    for (program, file) in [("node", "agent.js"), ("python3", "agent.py")] {
        let output = run(program, &[&script(file), &port, &name]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {said}");
    }
}

#[test]
fn wrk_gets_no_socket_errors_and_no_error_answers() {
    needs!["wrk"];
    let host = TestHost::with_vms(50);
    let daemon = host.start();
    let name = host.zonenames().unwrap().remove(0);
    let seconds = std::env::var("WRK_SECONDS");
    let seconds = seconds.unwrap_or_else(|_| "1".to_string());
    for (connections, path) in [
        ("8", "/ping".to_string()),
        ("100", format!("/vms/{name}")),
        ("400", "/ping".to_string()),
        ("16", "/vms".to_string()),
    ] {
        let url = format!("http://127.0.0.1:{}{path}", daemon.addr.port());
        let time = format!("-d{seconds}s");
        let connections = format!("-c{connections}");
        let output = run("wrk", &["-t2", &connections, &time, &url]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        println!("{said}");
        assert!(said.contains("Requests/sec"), "{said}");
        for wrong in ["Socket errors", "Non-2xx"] {
            assert!(!said.contains(wrong), "{path} {connections}: {said}");
        }
    }
    assert!(!daemon.log().iter().any(|line| line.contains("panic")));
}

#[test]
fn bunyan_can_read_every_line_of_the_log() {
    needs!["bunyan"];
    let host = TestHost::with_vms(4);
    let mut daemon = host.start_with(&["--log-level", "trace"]);
    let name = host.zonenames().unwrap().remove(0);
    // Changes, odd characters, faults, rubbish from a sysevent, and a sysevent
    // that dies.
    host.update(&name, "alias", "Zoë \u{2028} \"}{\\").unwrap();
    host.update(&name, "tags.x", "a\nb\u{1}\u{7f}").unwrap();
    let xml = host.root().join(format!("etc/zones/{name}.xml"));
    let good = std::fs::read_to_string(&xml).unwrap();
    std::fs::write(&xml, "<zone name=\"\u{1b}[31m\n").unwrap();
    host.raw_sysevent(Channel::Zone, b"rub\x01bish \xff\n").unwrap();
    host.kill_sysevent(Channel::Zfs).unwrap();
    daemon.get("/vms/nobody?wait=x%0A");
    wait_for("the faults are logged", || {
        let log = daemon.log();
        let has = |level| {
            let level = format!("\"level\":{level},");
            log.iter().any(|line| line.contains(&level))
        };
        match has(50) && has(30) && has(20) {
            true => Ok(()),
            false => Err(log.join("\n")),
        }
    });
    std::fs::write(&xml, good).unwrap();
    daemon.settle(&host);
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
    let ended = |log: &[String]| log.iter().any(|l| l.contains("\"stopped\""));
    wait_for("the log is read", || match daemon.log() {
        log if ended(&log) => Ok(()),
        log => Err(log.join("\n")),
    });

    let log = daemon.log();
    let dir = TempDir::new();
    let path = dir.0.join("log");
    let foreign = "[ Nov 22 10:00:00 Executing start method. ]";
    std::fs::write(&path, format!("{}\n{foreign}\n", log.join("\n"))).unwrap();
    let output = Command::new("bunyan")
        .args(["--no-color", path.to_str().unwrap()])
        // Where Debian puts Node's packages; another node would not look there.
        .env("NODE_PATH", "/usr/share/nodejs")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let shown = String::from_utf8(output.stdout).unwrap();
    // bunyan prints a line that is no record as it is; no line of the daemon is
    // printed so.
    let echoed = |line: &str| shown.lines().any(|shown| shown == line);
    assert!(echoed(foreign), "{shown}");
    for line in &log {
        assert!(!echoed(line), "not taken: {line}");
    }
    let records = shown.lines().filter(|l| l.contains(": vminfod/"));
    assert_eq!(records.count(), log.len(), "{shown}");
    assert!(log.len() > 20, "{log:?}");
}
