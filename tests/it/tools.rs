//! Tools that wait, watch and compare.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::Receiver;

use vminfod::vm::json::Json;

use crate::harness::programs::needs;
use crate::harness::{
    DEADLINE, Daemon, TestHost, VMINFOD, few_or_many, free_address, lines_of,
    parse, simhost_program, text, wait_for,
};
use crate::terminal::Terminal;

/// A command line of the simulated host.
fn simhost<'a>(
    host: &'a TestHost,
    verb: &'a str,
    args: &[&'a str],
) -> Vec<&'a str> {
    let mut words = vec![simhost_program().to_str().unwrap(), verb];
    words.push(host.root().to_str().unwrap());
    words.extend(args);
    words
}

fn wait_with(daemon: &Daemon, args: &[&str], command: &[&str]) -> Output {
    let words = [&["wait"], args, &["--"], command].concat();
    daemon.tool(&words)
}

#[test]
fn wait_runs_a_command_and_waits_for_its_effect() {
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let zonename = host.zonenames().unwrap().remove(0);
    let vm_of = |output: Output| {
        assert!(output.status.success(), "{output:?}");
        parse(&output.stdout)
    };
    // The recipes of vminfod(8).
    let new = simhost::layout::uuid_of(7);
    let create = simhost(&host, "create", &["7", "lx"]);
    let output = wait_with(&daemon, &[&new, "state=running"], &create);
    // What the command prints comes first.
    let printed = String::from_utf8(output.stdout).unwrap();
    let (uuid, vm) = printed.split_once('\n').unwrap();
    assert_eq!(uuid, new);
    assert_eq!(text(&parse(vm.as_bytes()), "state"), "running");
    let stop = simhost(&host, "stop", &[&new]);
    let vm = vm_of(wait_with(&daemon, &[&new, "state=stopped"], &stop));
    assert!(vm.get("exit_status").is_some(), "{vm}");
    let start = simhost(&host, "start", &[&new]);
    let vm = vm_of(wait_with(&daemon, &[&new, "state=running"], &start));
    assert_eq!(text(&vm, "state"), "running");
    let boot = vm.get("zoneid").unwrap().to_string();
    let update = simhost(&host, "update", &[&new, "alias=x", "quota=44"]);
    let wanted = [&*new, "alias=x", "quota=44"];
    let vm = vm_of(wait_with(&daemon, &wanted, &update));
    assert_eq!(text(&vm, "alias"), "x");
    let snapshot = simhost(&host, "snapshot", &[&new, "before"]);
    let wanted = [&*new, "snapshots.*.name=before"];
    vm_of(wait_with(&daemon, &wanted, &snapshot));
    let delete = simhost(&host, "delete-snapshot", &[&new, "before"]);
    let wanted = [&*new, "snapshots.*.name=!before"];
    vm_of(wait_with(&daemon, &wanted, &delete));
    // Another boot than the last.
    let other_boot = format!("zoneid=!{boot}");
    let reboot = simhost(&host, "reboot", &[&new]);
    let wanted = [&*new, "state=running", &other_boot];
    let vm = vm_of(wait_with(&daemon, &wanted, &reboot));
    assert_ne!(vm.get("zoneid").unwrap().to_string(), boot);
    let delete = simhost(&host, "delete", &[&new]);
    let gone = wait_with(&daemon, &[&new, "--gone"], &delete);
    assert!(gone.status.success() && gone.stdout.is_empty(), "{gone:?}");
    assert_eq!(daemon.get(&format!("/vms/{new}")).status, 404);

    // Without a command, a state that the VM has already is enough.
    let now = daemon.tool(&["wait", &zonename, "state=running"]);
    assert_eq!(text(&vm_of(now), "zonename"), zonename);
    let now = daemon.tool(&["wait", "nobody", "--gone", "--timeout", "0"]);
    assert!(now.status.success(), "{now:?}");
}

#[test]
fn wait_says_why_it_has_failed() {
    let host = TestHost::with_vms(1);
    let daemon = host.start();
    let zonename = host.zonenames().unwrap().remove(0);
    let late = |args: &[&str], wanted: &str| {
        let mut words = vec!["wait"];
        words.extend(args);
        words.extend(["--timeout", "2"]);
        let output = daemon.tool(&words);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(wanted), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        output.stdout
    };
    let vm = late(
        &[&zonename, "state=stopped", "quota=25", "tags.x=1"],
        "gave up after 2 s: state is running (waited for state=stopped); the \
         VM has no tags.x (waited for tags.x=1)",
    );
    // The VM is printed as it is instead.
    assert_eq!(text(&parse(&vm), "state"), "running");
    late(&[&zonename, "--gone"], "the VM still exists");
    assert!(late(&["nobody", "state=running"], "no such VM").is_empty());

    // After a command that fails, nothing is waited for.
    for (command, status, wanted) in [
        (&["false"][..], 1, "false failed (exit status: 1); did not wait"),
        (&["sh", "-c", "exit 42"], 42, "sh failed (exit status: 42)"),
        (&["sh", "-c", "kill -TERM $$"], 143, "SIGTERM"),
        (&["/no/such/command"], 127, "/no/such/command: No such file"),
    ] {
        let output = wait_with(&daemon, &[&zonename, "state=running"], command);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(wanted), "{said}");
        assert!(output.stdout.is_empty());
    }
    // Words after `--` belong to the command, even if they look like options.
    let echo = ["echo", "--gone", "--"];
    let output = wait_with(&daemon, &[&zonename, "state=running"], &echo);
    assert!(output.stdout.starts_with(b"--gone --\n{"), "{output:?}");
}

#[test]
fn wait_since_also_counts_past_events() {
    let host = TestHost::with_vms(1);
    let daemon = host.start();
    let zonename = host.zonenames().unwrap().remove(0);
    let status = daemon.status();
    let seq = status.get("seq").unwrap().to_string();
    let of_epoch = format!("{}-{seq}", text(&status, "epoch"));
    host.update(&zonename, "alias", "short-lived").unwrap();
    let path = format!("/vms/{zonename}?wait=alias=short-lived");
    assert_eq!(daemon.get(&path).status, 200);
    host.update(&zonename, "alias", "other").unwrap();
    let path = format!("/vms/{zonename}?wait=alias=other");
    assert_eq!(daemon.get(&path).status, 200);
    for since in [&seq, &of_epoch] {
        let args = ["wait", &zonename, "alias=short-lived", "--since", since];
        let output = daemon.tool(&args);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(text(&parse(&output.stdout), "alias"), "short-lived");
    }
    let args = ["wait", &zonename, "alias=short-lived", "--timeout", "2"];
    assert_eq!(daemon.tool(&args).status.code(), Some(3));
}

/// Faults that may occur during the waits.
const FAULTS: [(&str, &str); 10] = [
    ("zoneadm", "slow 20 times=2"),
    ("zfs", "slow 30 times=2"),
    ("zoneadm", "fail not now times=1"),
    ("zfs", "garbage times=1"),
    ("zfs", "truncate times=1"),
    ("zoneadm", "empty times=1"),
    ("sysevent-zone", "drop times=3"),
    ("sysevent-zone", "duplicate times=3"),
    ("sysevent-zone", "reorder times=3"),
    ("sysevent-zfs", "drop times=2"),
];

/// How many commands are waited for, on each of [`SIDES`] hosts, in `make test`
/// and with LONG=1.
const ROUNDS: (u64, u64) = (40, 250);

/// How many hosts run at once.
const SIDES: usize = 4;

#[test]
fn waits_under_faults_end_with_the_right_verdict() {
    std::thread::scope(|scope| {
        for side in 0..SIDES {
            scope.spawn(move || waits_under_faults(side));
        }
    });
}

fn waits_under_faults(side: usize) {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    let zonename = host.zonenames().unwrap().remove(0);
    let mut random = 0x9e37_79b9_u64 + side as u64;
    for round in 0..few_or_many(ROUNDS.0, ROUNDS.1) {
        random = random.wrapping_mul(6_364_136_223_846_793_005) + 1;
        let (what, words) = FAULTS[(random >> 33) as usize % FAULTS.len()];
        host.hurt(what, words).unwrap();
        let is_up = host.is_up(&zonename).unwrap();
        let (verb, state) = match is_up {
            true => ("stop", "state=stopped"),
            false => ("start", "state=running"),
        };
        let tag = format!("round=r{round}");
        let tag_set = format!("tags.{tag}");
        let (wanted, command) = match round % 5 {
            0 => {
                let update = simhost(&host, "update", &[&zonename, &tag_set]);
                (tag_set.as_str(), update)
            }
            _ => (state, simhost(&host, verb, &[&zonename])),
        };
        // After a command that does nothing, the wait must time out.
        if round % 10 == 9 {
            let args = [&*zonename, wanted, "--timeout", "0.2"];
            let output = wait_with(&daemon, &args, &["true"]);
            assert_eq!(output.status.code(), Some(3), "{round}: {output:?}");
        }
        let timeout = DEADLINE.as_secs().to_string();
        let args = [&*zonename, wanted, "--timeout", &timeout];
        let output = wait_with(&daemon, &args, &command);
        let context = format!("{side} {round} {what} {words}: {output:?}");
        assert!(output.status.success(), "{context}");
        // The condition holds for the VM that was printed, for the system, and
        // for what the daemon serves from now on.
        let vm = parse(&output.stdout);
        let served = daemon.vm(&zonename).unwrap();
        let (property, value) = wanted.split_once('=').unwrap();
        for vm in [&vm, &served] {
            let told = match property {
                "state" => text(vm, "state"),
                _ => text(vm.get("tags").unwrap(), "round"),
            };
            assert_eq!(told, value, "{context}");
        }
        if property == "state" {
            assert_eq!(host.is_up(&zonename).unwrap(), !is_up, "{context}");
        }
    }
}

/// `vminfod events` with its two outputs.
pub struct Events {
    child: Child,
    lines: Receiver<String>,
    notes: Receiver<String>,
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Events {
    pub fn start(addr: &str, args: &[&str]) -> Self {
        let mut child = Command::new(VMINFOD)
            .args(["events", "-r"])
            .args(args)
            .env("VMINFOD_SERVER", addr)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let notes = lines_of(child.stderr.take().unwrap());
        Self { child, lines, notes }
    }

    /// The next line, except changes of `last_modified`, which come in between.
    pub fn line(&self) -> String {
        loop {
            let line = self.lines.recv_timeout(DEADLINE).unwrap();
            if !line.contains(" modify: last_modified ") {
                return line;
            }
        }
    }

    pub fn note(&self) -> String {
        self.notes.recv_timeout(DEADLINE).unwrap()
    }
}

#[test]
fn events_continue_after_a_restart_with_a_note() {
    let host = TestHost::with_vms(3);
    let addr = free_address();
    let names = host.zonenames().unwrap();
    let daemon = host.start_with(&["--listen", &addr]);
    let events = Events::start(&addr, &[]);
    assert!(events.line().contains("] ready (uuid "));
    drop(daemon);
    let note = events.note();
    assert!(note.ends_with("; reconnecting"), "{note}");
    host.update(&names[0], "alias", "renamed").unwrap();
    host.delete(&names[1]).unwrap();
    let daemon = host.start_with(&["--listen", &addr]);
    let note = events.note();
    let wanted = "vminfod: the event stream started over (another epoch): \
                  events may be missing; printing the differences as events";
    assert_eq!(note, wanted);
    assert!(events.line().contains("] ready (uuid "));
    let mut lines: Vec<_> = (0..2).map(|_| events.line()).collect();
    lines.sort_by_key(|line| line.contains("modify"));
    let end = format!("] {} delete", names[1]);
    assert!(lines[0].ends_with(&end), "{lines:?}");
    let end = format!(
        "] {} modify: alias changed :: \"vm0\" -> \"renamed\"",
        names[0]
    );
    // The file's time has changed too.
    assert!(lines[1].ends_with(&end), "{lines:?}");
    // With --retry 0 it ends with the stream, as vmadm does.
    let mut ends = Events::start(&addr, &["--retry", "0"]);
    assert!(ends.line().contains("] ready (uuid "));
    drop(daemon);
    let note = ends.note();
    assert!(note.contains("/events: "), "{note}");
    assert_eq!(ends.child.wait().unwrap().code(), Some(1));
}

#[test]
fn events_print_only_what_the_options_select() {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    let addr = daemon.addr.to_string();
    let names = host.zonenames().unwrap();
    let (a, b) = (&*names[0], &*names[1]);
    let ready = |args: &[&str]| {
        let events = Events::start(&addr, args);
        assert!(events.line().contains("ready"), "{args:?}");
        events
    };
    let of_vm = ready(&[a]);
    let of_uuid = ready(&["--uuid", b]);
    let of_paths = ready(&["--path", "alias,quota"]);
    let of_type = ready(&["--type", "create", "--type", "delete"]);
    let json = ready(&["-j", a]);
    let seq = daemon.status().get("seq").unwrap().to_string();
    host.update(b, "tags.x", "1").unwrap();
    let path = format!("/vms/{b}?wait=tags.x=1");
    assert_eq!(daemon.get(&path).status, 200);
    host.update(a, "alias", "\x1b]0;owned\x07").unwrap();
    let path = format!("/vms/{a}?wait=alias=~owned");
    assert_eq!(daemon.get(&path).status, 200);
    let new = simhost::Host::spec(9);
    host.create(&new).unwrap();

    assert!(of_uuid.line().contains(&format!("] {b} modify: tags")));
    let line = of_vm.line();
    // Text of a tenant can't control the terminal.
    let wanted = "modify: alias changed :: \"vm0\" -> \
                  \"\\u001b]0;owned\\u0007\"";
    assert!(line.contains(wanted), "{line}");
    assert!(of_paths.line().contains("modify: alias changed"));
    assert!(of_type.line().ends_with(" create"));
    let event = parse(json.line().as_bytes());
    assert_eq!(text(&event, "type"), "modify");
    // Events since an event of this daemon, and since one of another epoch.
    let since = ready(&["--since", &seq]);
    assert!(since.line().contains("modify: tags"));
    let since = Events::start(&addr, &["--since", "nonsense-5"]);
    let note = since.note();
    assert!(note.contains("another epoch"), "{note}");
}

#[test]
fn events_have_colours_only_on_a_terminal() {
    needs!["tmux"];
    let host = TestHost::with_vms(1);
    let daemon = host.start();
    let addr = daemon.addr.to_string();
    let zonename = host.zonenames().unwrap().remove(0);
    for (script, has_colours) in [
        ("\"$V\" events -r", true),
        ("NO_COLOR=1 \"$V\" events -r", false),
        ("\"$V\" events -r | cat", false),
    ] {
        let terminal = Terminal::run(script, &addr);
        terminal.wait_for_text("] ready");
        host.update(&zonename, "alias", script).unwrap();
        terminal.wait_for_text("modify: alias");
        let coloured = terminal.screen(&["-e"]);
        assert_eq!(
            coloured.contains("\x1b[33malias"),
            has_colours,
            "{coloured}"
        );
    }
}

#[test]
fn diagnose_finds_the_differences_of_a_stale_daemon() {
    let host = TestHost::with_vms(6);
    let daemon = host.start_with(&["--refresh-interval", "100000"]);
    let root = host.root().to_str().unwrap();
    let diagnose = |args: &[&str]| {
        let mut words = vec!["diagnose", "--root", root];
        words.extend(args);
        let output = daemon.tool(&words);
        let stdout = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), stdout, stderr)
    };
    let nothing = (Some(0), String::new(), String::new());
    assert_eq!(diagnose(&[]), nothing);
    assert_eq!(diagnose(&["-j"]).1, "[]\n");
    let names = host.zonenames().unwrap();
    host.hurt("sysevent-zfs", "drop").unwrap();
    host.update(&names[0], "quota", "77").unwrap();
    let wanted = format!("{} quota: system 77, daemon 25\n", names[0]);
    let (status, stdout, stderr) = diagnose(&[]);
    assert_eq!((status, &stdout), (Some(1), &wanted), "{stderr}");
    assert_eq!(stderr, "vminfod: 1 difference\n");
    let json = parse(diagnose(&["-j"]).1.as_bytes());
    let told = &json.as_array().unwrap()[0];
    assert_eq!(text(told, "path"), "quota");
    assert_eq!(told.get("daemon"), Some(&Json::from(25u32)));
    // Once the daemon has loaded the VM again, there is no difference.
    assert!(daemon.tool(&["get", "--sync", &names[0]]).status.success());
    assert_eq!(diagnose(&[]), nothing);
    // A VM that can't be read now is no difference: the daemon serves the last
    // good version.
    host.hurt("zfs:zones", "suspended").unwrap();
    let (status, stdout, stderr) = diagnose(&[]);
    assert_eq!((status, &*stdout), (Some(2), ""), "{stderr}");
    for name in &names {
        assert!(
            stderr.contains(&format!("vminfod: {name}: zfs: ")),
            "{stderr}"
        );
    }
    assert!(stderr.ends_with("could not be compared: 6 (reasons above)\n"));
    host.hurt("zfs:zones", "heal").unwrap();
    // Without zoneadm, it can't compare.
    host.hurt("zoneadm", "fail no").unwrap();
    let (status, _, stderr) = diagnose(&[]);
    assert_eq!(status, Some(2), "{stderr}");
    host.hurt("zoneadm", "heal").unwrap();
    // A command that fails once is run again.
    for (command, fault) in [
        ("zoneadm", "fail once times=1"),
        ("zfs", "fail once times=1"),
        ("kstat", "garbage times=1"),
        ("zoneadm", "truncate times=2"),
    ] {
        host.hurt(command, fault).unwrap();
        assert_eq!(diagnose(&[]), nothing, "{command} {fault}");
    }
    let away = Command::new(VMINFOD)
        .args(["diagnose", "--root", root, "--server", &free_address()])
        .output();
    assert_eq!(away.unwrap().status.code(), Some(2));
}

#[test]
fn status_names_the_vms_that_have_faults() {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    let zonename = host.zonenames().unwrap().remove(1);
    let path = format!("/zones/{zonename}/config/metadata.json");
    fs::write(host.path(&path), "{broken").unwrap();
    let status = || {
        let output = daemon.tool(&["status"]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let said = wait_for("the fault is told", || {
        let said = status();
        let is_told = said.contains("NOT healthy: 1 fault\n");
        if is_told { Ok(said) } else { Err(said) }
    });
    let vm = daemon.vm(&zonename).unwrap();
    let alias = text(&vm, "alias");
    let wanted =
        format!("\nVM {zonename} ({alias}): metadata.json\n    since 20");
    assert!(said.contains(&wanted), "{said}");
    // `get --sync` says which file could not be read.
    let output = daemon.tool(&["get", "--sync", &zonename]);
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    let wanted = "cannot read metadata.json; showing the last good values\n";
    assert_eq!(said, wanted);
    fs::write(host.path(&path), "{}").unwrap();
    wait_for("it is mended", || {
        let said = status();
        if said.contains(": healthy\n") { Ok(()) } else { Err(said) }
    });
}

#[test]
fn the_tools_end_quietly_when_their_pipe_is_closed() {
    let host = TestHost::with_vms(40);
    let daemon = host.start();
    let sh = |words: &str| {
        Command::new("bash")
            .args(["-c", &format!("set -o pipefail; {words}")])
            .env("V", Path::new(VMINFOD))
            .env("VMINFOD_SERVER", daemon.addr.to_string())
            .output()
            .unwrap()
    };
    for words in [
        "\"$V\" vms | head -c 10",
        "\"$V\" list | head -n 1",
        "\"$V\" lookup -j | head -c 10",
        // This one ends though no event comes that it could print.
        "\"$V\" events -r | head -n 1",
    ] {
        let output = sh(words);
        assert_eq!(output.status.code(), Some(0), "{words} {output:?}");
        assert!(output.stderr.is_empty(), "{words} {output:?}");
    }
    let full = sh("\"$V\" list > /dev/full");
    assert_eq!(full.status.code(), Some(1), "{full:?}");
    assert!(full.stderr.starts_with(b"vminfod: standard output: "));
}
