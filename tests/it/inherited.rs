//! What the program inherits from its caller, and what it passes on to its
//! children.

use std::fs;
use std::process::{Command, Stdio};

use vminfod::vm::json::Json;

use crate::harness::{TestHost, VMINFOD, free_address, get_at, kill, wait_for};
use crate::processes;

/// A command that runs the program with these signals ignored and blocked.
fn by(ignored: &str, blocked: &str) -> Command {
    let mut command = Command::new("env");
    // The caller of the tests may ignore other signals.
    command.args([
        "--default-signal",
        &format!("--ignore-signal={ignored}"),
        &format!("--block-signal={blocked}"),
        VMINFOD,
    ]);
    command
}

/// A set of signals as proc(5) prints it, without 32 and 33, which glibc keeps
/// for itself and no program can set.
fn signals(set: &str) -> u64 {
    u64::from_str_radix(set, 16).unwrap() & !(3 << 31)
}

/// A field of /proc/PID/status or /proc/PID/limits.
fn of_process(pid: &str, file: &str, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line[field.len()..].split_whitespace().next().unwrap().to_string()
}

#[test]
fn the_daemon_starts_and_ends_whatever_signals_it_inherits() {
    let all = "CHLD,TERM,INT,QUIT,PIPE,ALRM,USR1,XFSZ";
    for (signal, ignored, blocked) in [
        ("TERM", all, "TERM,INT,HUP,CHLD,USR1"),
        ("INT", all, "TERM,INT,HUP,CHLD"),
        ("HUP", "CHLD", "HUP"),
        ("TERM", "TERM", "CHLD"),
    ] {
        let host = TestHost::with_vms(2);
        let mut daemon = host.start_by(by(ignored, blocked), &[]);
        let status = daemon.status();
        let zone = status.get("sources").unwrap().get("zone").unwrap();
        let pid = zone.get("pid").unwrap().to_string();
        // The simulated sysevent sets no signal handlers.
        for field in ["SigIgn:", "SigBlk:"] {
            let set = of_process(&pid, "status", field);
            // Only SIGPIPE may be ignored: by the runtime of the simulated
            // sysevent.
            let set = signals(&set) & !(1 << 12);
            assert_eq!(set, 0, "{signal} {field} {set:x}");
        }
        daemon.signal(signal);
        assert_eq!(daemon.wait(), Some(0), "{signal}");
    }
}

#[test]
fn the_command_of_wait_gets_default_signal_actions() {
    let host = TestHost::with_vms(1);
    let daemon = host.start();
    let zonename = host.zonenames().unwrap().remove(0);
    let output = by("CHLD,TERM,PIPE,USR1", "TERM,CHLD,USR1")
        .args(["wait", &zonename, "state=running", "--timeout", "0"])
        .args(["--server", &daemon.addr.to_string(), "--"])
        .args(["grep", "-E", "^Sig(Ign|Blk):", "/proc/self/status"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let sets: Vec<_> = said
        .lines()
        .filter_map(|line| line.strip_prefix("Sig")?.split_once(":\t"))
        .map(|(_, set)| signals(set))
        .collect();
    assert_eq!(sets, [0, 0], "{output:?}");
}

#[test]
fn children_get_the_original_descriptor_limit() {
    let host = TestHost::with_vms(1);
    let daemon = host.start_under(&[], "-Sn 200");
    let limit = |pid: &str| of_process(pid, "limits", "Max open files");
    let own = limit(&daemon.child.id().to_string());
    assert!(own.parse::<u64>().unwrap() > 200, "{own}");
    let status = daemon.status();
    for source in ["zone", "zfs"] {
        let source = status.get("sources").unwrap().get(source).unwrap();
        let pid = source.get("pid").unwrap().to_string();
        assert_eq!(limit(&pid), "200");
    }
}

/// 8,192 blocks of ulimit(1), in bytes.
const LIMIT: u64 = 4 << 20;

#[test]
fn a_log_at_its_size_limit_does_not_end_the_daemon() {
    let host = TestHost::with_vms(2);
    let addr = free_address();
    // Of the 4 MiB, room for some thirty lines is left. The simulated commands
    // have the same limit.
    let path = host.path("/log");
    let log = fs::OpenOptions::new().create(true).append(true).open(&path);
    let log = log.unwrap();
    log.set_len(LIMIT - (4 << 10)).unwrap();
    let mut daemon = Command::new("sh")
        .args(["-c", "ulimit -f 8192; exec \"$0\" \"$@\"", VMINFOD, "daemon"])
        .args(["--listen", &addr, "--log-level", "trace"])
        .args(["--refresh-interval", "0.001", "--root"])
        .arg(host.root())
        .stdout(log)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("it works though its log is full", || match host.runs().len() {
        300.. => Ok(()),
        runs => match daemon.try_wait().unwrap() {
            Some(status) => panic!("{status}"),
            None => Err(runs.to_string()),
        },
    });
    let ping = get_at(addr.parse().unwrap(), "/ping");
    assert_eq!(ping.json().get("ping"), Some(&Json::from("pong")));
    assert_eq!(fs::metadata(&path).unwrap().len(), LIMIT);
    assert!(kill("TERM", daemon.id()));
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
}

#[test]
fn a_failed_start_leaves_no_child_process() {
    let host = TestHost::with_vms(1);
    // There is no memory for the stacks of so many threads.
    let script = "ulimit -v 300000; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, VMINFOD, "daemon", "--listen", "127.0.0.1:0"])
        .args(["--set", "workers-max=256", "--root"])
        .arg(host.root())
        // With stacks this large, a thread can find no memory while there is
        // still enough for what the other threads need.
        .env("RUST_MIN_STACK", "16777216")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("can't start: "), "{said}");
    wait_until_no_process_is_left(&host);
}

/// Waits until no process has the host's directory in its command line.
pub fn wait_until_no_process_is_left(host: &TestHost) {
    wait_for("no process is left", || {
        let left: Vec<_> =
            processes::of(host.root()).into_iter().map(|(_, l)| l).collect();
        if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
    });
}
