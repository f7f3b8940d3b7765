//! `vminfod check`: on a host that is as expected, every fact holds. The check
//! ends in time, and leaves nothing behind.

/// A way to make each fact differ.
mod cases;

/// A daemon to compare with, and reports for other people.
mod against;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;

use vminfod::vm::json::Json;

use crate::harness::*;
use crate::inherited::wait_until_no_process_is_left;

/// A directory that is the root of a file system.
const MOUNT_POINT: &str = "/dev/shm";

/// Held by a test that uses [`MOUNT_POINT`]: what it creates there is an event
/// for the others.
static MOUNT_POINT_USE: Mutex<()> = Mutex::new(());

/// Checks a host, with these arguments.
fn check(host: &TestHost, args: &[&str]) -> Output {
    command(host, args).output().unwrap()
}

fn command(host: &TestHost, args: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["120", VMINFOD, "check", "--root"]).arg(host.root());
    if !args.contains(&"--scratch") {
        let scratch = host.path("/scratch");
        fs::create_dir_all(&scratch).unwrap();
        command.arg("--scratch").arg(scratch);
    }
    command.args(args);
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The ids of the facts, by verdict.
#[derive(Debug, Default)]
struct Verdicts {
    holds: BTreeSet<String>,
    differs: BTreeSet<String>,
    untried: BTreeSet<String>,
    absent: BTreeSet<String>,
}

fn verdicts(output: &Output) -> Verdicts {
    let json = parse(&output.stdout);
    let mut verdicts = Verdicts::default();
    for fact in json.get("facts").unwrap().as_array().unwrap() {
        let of = match text(fact, "verdict") {
            "holds" => &mut verdicts.holds,
            "differs" => &mut verdicts.differs,
            _ if fact.get("absent") == Some(&Json::Bool(true)) => {
                &mut verdicts.absent
            }
            _ => &mut verdicts.untried,
        };
        of.insert(text(fact, "id").to_string());
    }
    verdicts
}

/// The facts that do not hold, with their details.
fn shown(output: &Output) -> String {
    let json = parse(&output.stdout);
    let facts = json.get("facts").unwrap().as_array().unwrap().iter();
    let facts = facts.filter(|fact| text(fact, "verdict") != "holds");
    facts.map(|fact| format!("{fact}\n")).collect()
}

/// Replaces a command of the host by a script. In the script, `$real` is the
/// command, and `$*` are its arguments.
fn replace(host: &TestHost, command: &str, script: &str) {
    let real = host.path("/sim/real").join(command);
    fs::create_dir_all(real.parent().unwrap()).unwrap();
    let _ = fs::remove_file(&real);
    symlink(simhost_program(), &real).unwrap();
    let paths = simhost::commands::PATHS;
    let path = paths.iter().find(|p| p.ends_with(&format!("/{command}")));
    let path = host.path(path.unwrap());
    fs::remove_file(&path).unwrap();
    let text = format!(
        "#!/bin/bash\nset -o pipefail\nreal={}\n{script}\n",
        real.display()
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A script that runs `then` if the arguments contain `words`, and else the
/// command itself.
fn when(words: &str, then: &str) -> String {
    format!(
        "case \"$*\" in *\"{words}\"*) {then} ;; *) exec $real \"$@\" ;; esac"
    )
}

/// A stopped VM without disks, and the path of its XML.
fn stopped(host: &TestHost) -> (String, PathBuf) {
    let dumped = host.dumped();
    let vms = dumped.as_array().unwrap();
    let vm = vms.iter().find(|vm| {
        text(vm, "zone_state") == "installed" && vm.get("disks").is_none()
    });
    let name = text(vm.unwrap(), "zonename").to_string();
    let path = host.xml_path(&name);
    (name, path)
}

fn edit(path: &Path, change: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(path).unwrap();
    let changed = change(text.clone());
    assert_ne!(changed, text, "{}", path.display());
    fs::write(path, changed).unwrap();
}

fn edit_index(host: &TestHost, change: impl FnOnce(String) -> String) {
    edit(&host.path("/etc/zones/index"), change);
}

/// A file in the config directory of the first VM.
fn config_file(host: &TestHost, name: &str) -> PathBuf {
    let zonename = host.zonenames().unwrap().remove(0);
    host.zone_dir(&zonename).unwrap().join("config").join(name)
}

#[test]
fn on_a_simulated_host_every_fact_holds() {
    let host = TestHost::with_vms(20);
    let (name, _) = stopped(&host);
    host.move_zone(&name, "/zones/a:b").unwrap();
    let _use = MOUNT_POINT_USE.lock().unwrap();
    let output = check(&host, &["-j", "--scratch", MOUNT_POINT]);
    let found = verdicts(&output);
    let none = BTreeSet::new();
    assert_eq!(found.differs, none, "{}", stdout(&output));
    assert_eq!(found.untried, none, "{}", stdout(&output));
    assert_eq!(found.absent, none, "{}", stdout(&output));
    assert_eq!(output.status.code(), Some(0));
    // Without -j: a line for each group, or with -v for each fact.
    let groups = stdout(&check(&host, &[]));
    assert!(groups.contains("zoneadm: 10 facts hold\n"), "{groups}");
    let last = groups.lines().last().unwrap();
    let sentence = "this machine is as vminfod expects: 56 facts hold";
    assert!(last.starts_with(sentence), "{groups}");
    let each = stdout(&check(&host, &["-v"]));
    assert!(each.contains("\n  zfs.order holds: "), "{each}");
    // The check has removed the files that it made.
    let left = fs::read_dir(host.path("/scratch")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn a_fact_that_differs_is_shown_with_its_consequence() {
    let host = TestHost::with_vms(6);
    let (name, xml) = stopped(&host);
    edit(&xml, |text| text[..text.len() / 2].to_string());
    let output = check(&host, &[]);
    let said = stdout(&output);
    let wanted = format!("    zone {name}: {}: ", xml.display());
    assert!(
        said.contains("  files.xml differs\n    why it matters: most "),
        "{said}"
    );
    assert!(said.contains(&wanted), "{said}");
    assert!(said.contains("    consequence: these VMs"), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("this machine is not as vminfod"), "{said}");
}

#[test]
fn a_check_ends_in_time_and_names_the_command_that_hangs() {
    let cases = [
        ("zoneadm", "zoneadm.list", "zoneadm list -p -c: killed: ran for"),
        ("zfs", "zfs.list", "killed: ran for over 1s"),
        ("zfs:zones", "zfs.list", "zones: killed: ran for over 1s"),
        ("kstat", "kstat.filters", "zone_misc"),
        ("prctl", "host.descriptors", "prctl -P -n process.max-port-events"),
        ("sysevent-zone-start", "sysevent.zones", "not ready in 1s"),
    ];
    std::thread::scope(|scope| {
        for (what, fact, named) in cases {
            scope.spawn(move || ends_in_time(what, fact, named));
        }
    });
}

fn ends_in_time(what: &str, fact: &str, named: &str) {
    let host = TestHost::with_vms(4);
    host.hurt(what, "hang").unwrap();
    let times = ["-j", "--set", "command-time=1", "--set", "list-time=1"];
    let output = check(&host, &times);
    let said = stdout(&output);
    let is_known = [Some(1), Some(2)].contains(&output.status.code());
    assert!(is_known, "{what}: {output:?}");
    assert!(said.contains(named), "{what}: {said}");
    let found = verdicts(&output);
    assert!(found.holds.contains("ports.write"), "{said}");
    let is_found = found.untried.contains(fact) || found.differs.contains(fact);
    assert!(is_found, "{what}: {said}");
}

#[test]
fn an_unreadable_index_does_not_count_as_an_empty_one() {
    let host = TestHost::with_vms(1);
    fs::remove_file(host.path("/etc/zones/index")).unwrap();
    let found = verdicts(&check(&host, &["-j"]));
    assert!(found.differs.contains("files.index"), "{found:?}");
    for fact in ["host.port-events", "zfs.list", "zoneadm.order"] {
        assert!(found.untried.contains(fact), "{fact}: {found:?}");
    }
}

/// Starts a check without timeout(1), so that signals reach it.
fn start(host: &TestHost, environment: &[(&str, &Path)]) -> Child {
    let scratch = host.path("/scratch");
    fs::create_dir(&scratch).unwrap();
    let mut child = Command::new(VMINFOD);
    child.args(["check", "--root"]).arg(host.root());
    child.arg("--scratch").arg(scratch).stdout(Stdio::null());
    child.envs(environment.iter().copied()).spawn().unwrap()
}

#[test]
fn a_check_that_is_killed_removes_its_files() {
    let host = TestHost::with_vms(1);
    // The check waits for an event that does not come, and meanwhile its
    // directory stays.
    let deaf = [("LD_PRELOAD", cases::deaf()), ("DEAF", Path::new("create"))];
    let mut child = start(&host, &deaf);
    let made = || fs::read_dir(host.path("/scratch")).unwrap().count();
    wait_for("there is a directory when it is stopped", || {
        assert!(kill("STOP", child.id()));
        match made() {
            0 => {
                assert!(kill("CONT", child.id()));
                Err("none".to_string())
            }
            _ => Ok(()),
        }
    });
    assert!(kill("TERM", child.id()));
    assert!(kill("CONT", child.id()));
    let status = wait_for("it ends", || {
        child.try_wait().unwrap().ok_or_else(|| "it runs".to_string())
    });
    assert_eq!(status.code(), Some(2));
    assert_eq!(made(), 0);
}

#[test]
fn a_check_that_is_killed_ends_its_commands() {
    let host = TestHost::with_vms(2);
    host.hurt("zfs", "block").unwrap();
    let mut child = start(&host, &[]);
    let waiting = || runs_of(&host, "zfs list");
    wait_for("a command is run", || match waiting() {
        0 => Err("none".to_string()),
        _ => Ok(()),
    });
    assert!(kill("TERM", child.id()));
    let status = wait_for("it ends", || {
        child.try_wait().unwrap().ok_or_else(|| "it runs".to_string())
    });
    assert_eq!(status.code(), Some(2));
    wait_until_no_process_is_left(&host);
}

#[test]
fn arguments_that_check_cannot_use_are_refused() {
    let host = TestHost::with_vms(1);
    for (args, status, said) in [
        (&["--scratch", "/no/such/dir"][..], 2, "No such file"),
        (&["--scratch", ""], 2, "expected a directory"),
        (&["--against", "nowhere"], 2, "neither ADDR:PORT nor"),
        (&["--against", "127.0.0.1:1"], 2, "against.vms could not be tried"),
        (&["--report", "/no/such/file"], 2, "/no/such/file: "),
        (&["--set", "bogus=1"], 2, "no such setting: bogus"),
        (&["x"], 2, "unexpected argument \"x\""),
    ] {
        let output = check(&host, args);
        let stderr = String::from_utf8(output.stderr.clone()).unwrap();
        let all = stdout(&output) + &stderr;
        assert_eq!(output.status.code(), Some(status), "{args:?}: {all}");
        assert!(all.contains(said), "{args:?}: {all}");
    }
}
