//! The example programs of the client library, and its README.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::{DEADLINE, TestHost, VMINFOD, lines_of, wait_for};

/// Builds and starts an example of the library for the daemon at `addr`; its
/// output is piped.
fn example(addr: &str, name: &str, args: &[&str]) -> Child {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "vminfod-client"])
        .args(["--example", name])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built.unwrap().success());
    let programs = Path::new(VMINFOD).with_file_name("examples");
    Command::new(programs.join(name))
        .args(args)
        .env("VMINFOD_SERVER", addr)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn the_readme_of_the_client_begins_with_its_shortest_example() {
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/client");
    let read = |file| std::fs::read_to_string(client.join(file)).unwrap();
    let (readme, example) = (read("README.md"), read("examples/stops.rs"));
    let block = readme.split("```").nth(1).unwrap();
    assert_eq!(block.trim_start_matches("no_run\n"), example);
    let is_code = |line: &&str| !line.is_empty() && !line.starts_with("//");
    let code = example.lines().filter(is_code).count();
    assert!(code <= 10, "{code} lines");
}

#[test]
fn the_example_programs_work() {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    let addr = daemon.addr.to_string();
    let vm0 = simhost::layout::uuid_of(0);
    let all = |child: Child| {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let said = all(example(&addr, "ask", &["vm0"]));
    assert_eq!(said, "2 VMs run\nits quota is 25 GiB\nit runs\n");

    let mut stops = example(&addr, "stops", &[]);
    let stopped = lines_of(stops.stdout.take().unwrap());
    let mut follow = example(&addr, "follow", &["1"]);
    let followed = lines_of(follow.stdout.take().unwrap());
    assert_eq!(followed.recv_timeout(DEADLINE).unwrap(), "ready");
    let mut watch = example(&addr, "watch", &[&vm0, "stopped"]);
    let watched = lines_of(watch.stdout.take().unwrap());
    assert_eq!(watched.recv_timeout(DEADLINE).unwrap(), "ready: None");
    assert_eq!(watched.recv_timeout(DEADLINE).unwrap(), "3 VMs");
    wait_for("three clients listen", || {
        let status = daemon.status();
        let listeners = status.get("eventsListeners").unwrap();
        match listeners.as_object().unwrap().len() {
            3 => Ok(()),
            n => Err(n.to_string()),
        }
    });
    host.stop(&vm0, 0).unwrap();
    let line = stopped.recv_timeout(DEADLINE).unwrap();
    assert_eq!(line, format!("{vm0} has stopped"));
    stops.kill().unwrap();
    stops.wait().unwrap();
    let line = followed.recv_timeout(DEADLINE).unwrap();
    let begin = format!("modify {vm0}: \"");
    assert!(line.starts_with(&begin), "{line}");
    let line = watched.recv_timeout(DEADLINE).unwrap();
    let begin = format!("{vm0}: Some(\"running\") -> ");
    assert!(line.starts_with(&begin), "{line}");
    let rest: Vec<_> = watched.iter().collect();
    assert!(
        rest.contains(&"the VM is in the wanted state".to_string()),
        "{rest:?}"
    );
    assert_eq!(rest.last().unwrap(), "ended: stopped");
    assert!(follow.wait().unwrap().success());
    assert!(watch.wait().unwrap().success());
}
