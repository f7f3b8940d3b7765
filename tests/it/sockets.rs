//! The Unix socket, the settings file, and hosts on which the daemon does not
//! start.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use vminfod_client::Address;

use crate::harness::programs::needs;
use crate::harness::*;

fn socket_of(host: &TestHost) -> PathBuf {
    host.root().join("vminfod.sock")
}

fn spawn_at(host: &TestHost, socket: &Path) -> Daemon {
    let socket = socket.to_str().unwrap();
    host.spawn(&["--listen", "none", "--socket", socket])
}

fn wait_for_log(daemon: &Daemon, what: &str) {
    wait_for("the log says so", || {
        let log = daemon.log();
        match log.iter().any(|line| line.contains(what)) {
            true => Ok(()),
            false => Err(format!("{what}: {}", log.join("\n"))),
        }
    });
}

fn wait_until_it_listens(daemon: &Daemon) {
    wait_for_log(daemon, "listening on /");
}

/// The body of curl's answer.
fn curl(socket: &Path, path: &str) -> String {
    let output = Command::new("curl")
        .args(["-s", "-m", "60", "--unix-socket"])
        .arg(socket)
        .arg(format!("http://localhost{path}"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn tool(socket: &Path, args: &[&str]) -> String {
    let output = Command::new(VMINFOD)
        .args(args)
        .arg("--server")
        .arg(socket)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_unix_socket_serves_every_tool_and_only_root() {
    needs!["curl"];
    let host = TestHost::with_vms(3);
    let socket = socket_of(&host);
    let mut daemon = spawn_at(&host, &socket);
    wait_until_it_listens(&daemon);
    assert_eq!(curl(&socket, "/ping"), "{\"ping\":\"pong\"}");
    let vms = parse(curl(&socket, "/vms").as_bytes());
    assert_eq!(vms.as_array().unwrap().len(), 3);
    assert_eq!(tool(&socket, &["list", "-H"]).lines().count(), 3);
    let name = text(&vms.as_array().unwrap()[0], "zonename").to_string();
    host.update(&name, "alias", "seen").unwrap();
    tool(&socket, &["wait", &name, "alias=seen", "--timeout", "60"]);

    let of_socket = fs::symlink_metadata(&socket).unwrap();
    assert!(of_socket.file_type().is_socket());
    assert_eq!(of_socket.permissions().mode() & 0o777, 0o600);
    // It has no TCP socket.
    let pid = daemon.child.id();
    let listening = Command::new("sh")
        .args(["-c", &format!("ls -l /proc/{pid}/fd | grep -o 'socket:.*'")])
        .output()
        .unwrap();
    let listening = String::from_utf8(listening.stdout).unwrap();
    let tcp = ["tcp", "tcp6"].map(|name| {
        fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap()
    });
    for line in listening.lines() {
        let inode = line.trim_start_matches("socket:[").trim_end_matches(']');
        let is_tcp = |table: &String| {
            let mut lines = table.lines();
            lines.any(|l| l.split_whitespace().nth(9) == Some(inode))
        };
        assert!(!tcp.iter().any(is_tcp), "{inode} is of TCP");
    }

    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn only_one_daemon_can_have_a_socket() {
    needs!["curl"];
    let host = TestHost::with_vms(2);
    let socket = socket_of(&host);
    host.hurt("zoneadm", "block").unwrap();
    let mut first = spawn_at(&host, &socket);
    wait_for("it has taken it", || match socket.exists() {
        true => Ok(()),
        false => Err("not yet".to_string()),
    });
    // Not even while the first daemon loads and answers no client.
    let mut second = spawn_at(&host, &socket);
    assert_eq!(second.wait(), Some(1));
    wait_for_log(&second, "can't listen on /");
    host.hurt("zoneadm", "heal").unwrap();
    wait_until_it_listens(&first);
    // The socket that a killed daemon has left is no hindrance.
    first.signal("KILL");
    first.wait();
    assert!(socket.exists());
    let third = spawn_at(&host, &socket);
    wait_until_it_listens(&third);
    assert_eq!(curl(&socket, "/ping"), "{\"ping\":\"pong\"}");
    drop(third);
    // A file that is no socket is left alone.
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "mine").unwrap();
    let mut fourth = spawn_at(&host, &socket);
    assert_eq!(fourth.wait(), Some(1));
    assert_eq!(fs::read_to_string(&socket).unwrap(), "mine");
}

#[test]
fn fifos_links_and_bad_paths_do_not_block_a_start() {
    needs!["curl"];
    let host = TestHost::with_vms(2);
    let refused = |socket: &Path, why: &str| {
        let mut daemon = spawn_at(&host, socket);
        assert_eq!(daemon.wait(), Some(1));
        wait_for_log(&daemon, why);
    };
    // A FIFO in place of the lock is not waited for, and a link is not
    // followed.
    let fifo = host.root().join("fifo");
    let made = Command::new("mkfifo").arg(with_lock(&fifo)).status();
    assert!(made.unwrap().success());
    refused(&fifo, "the lock file is not a regular file of this user");
    let link = host.root().join("link");
    std::os::unix::fs::symlink("elsewhere", with_lock(&link)).unwrap();
    refused(&link, "can't listen on");
    assert!(!host.root().join("elsewhere").exists());
    // A path that can't be a socket leaves no lock.
    let long = host.root().join("l".repeat(200));
    refused(&long, "longer than");
    assert!(!with_lock(&long).exists());
    refused(&host.root().join("nowhere/s"), "No such file");

    let socket = socket_of(&host);
    let mut first = spawn_at(&host, &socket);
    wait_until_it_listens(&first);
    // If the lock is removed, another daemon may take the path, and keeps it
    // when the first one ends.
    fs::remove_file(with_lock(&socket)).unwrap();
    let second = spawn_at(&host, &socket);
    wait_until_it_listens(&second);
    first.signal("TERM");
    assert_eq!(first.wait(), Some(0));
    assert_eq!(curl(&socket, "/ping"), "{\"ping\":\"pong\"}");

    // A start that fails for another reason leaves no socket.
    let other = host.root().join("other");
    let taken = host.start();
    let taken_at = taken.addr.to_string();
    let other_text = other.to_str().unwrap();
    let mut third =
        host.spawn(&["--socket", other_text, "--listen", &taken_at]);
    assert_eq!(third.wait(), Some(1));
    assert!(!other.exists());
}

fn with_lock(socket: &Path) -> PathBuf {
    PathBuf::from(format!("{}.lock", socket.display()))
}

/// A process that listens at a path but accepts no connection.
struct Deaf(Child);

impl Deaf {
    /// The process's queue has room for one connection. A second one waits.
    fn listen(path: &Path) -> Self {
        let python = "import socket, sys\n\
            s = socket.socket(socket.AF_UNIX)\n\
            s.bind(sys.argv[1])\n\
            s.listen(0)\n\
            print('listens', flush=True)\n\
            sys.stdin.read()";
        let mut child = Command::new("python3")
            .args(["-c", python])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "listens\n");
        Self(child)
    }
}

impl Drop for Deaf {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_time_limit_holds_for_a_socket_that_does_not_accept() {
    needs!["python3"];
    let dir = TempDir::new();
    let path = dir.0.join("full");
    let _deaf = Deaf::listen(&path);
    let address = Address::from(path.clone());
    let _first = address.connect(DEADLINE).unwrap();
    let output = Command::new(VMINFOD)
        .args(["ping", "--time-limit", "0.01", "--server"])
        .arg(&path)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no answer in 0.01 s"), "{said}");
}

#[test]
fn a_socket_that_does_not_accept_costs_few_threads() {
    needs!["python3"];
    let dir = TempDir::new();
    let path = dir.0.join("full");
    let deaf = Deaf::listen(&path);
    let address = Address::from(path);
    let _first = address.connect(DEADLINE).unwrap();
    for _ in 0..30 {
        let refused = address.connect(Duration::from_millis(5)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::TimedOut);
    }
    // Other tests of this process connect as well, but do not wait for long.
    let wait_for_threads = |condition: fn(usize) -> bool| {
        wait_for("threads that connect", || match connecting_threads() {
            count if condition(count) => Ok(()),
            count => Err(format!("{count} threads")),
        });
    };
    wait_for_threads(|count| count == 4);
    drop(deaf);
    wait_for_threads(|count| count < 4);
}

/// How many threads of this process connect to a Unix socket.
fn connecting_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    // A thread may end meanwhile.
    let names =
        tasks.flatten().map(|t| fs::read_to_string(t.path().join("comm")));
    names.flatten().filter(|name| name.trim() == "connect-unix").count()
}

#[test]
fn sighup_reads_the_settings_again() {
    let host = TestHost::with_vms(2);
    let file = host.root().join("settings");
    let path = file.to_str().unwrap();
    fs::write(&file, "# of the operator\nlog-level=info\n\njobs = 7\n")
        .unwrap();
    let mut refused = host.spawn(&["--settings", path]);
    assert_eq!(refused.wait(), Some(2));
    wait_for_log(&refused, "settings:4: no such setting: jobs ;");

    fs::write(&file, "log-level=info\njobs=7\n").unwrap();
    let daemon = host.start_with(&["--settings", path, "--set", "batch=9"]);
    let says = |what: &str| wait_for_log(&daemon, what);
    let has_debug = || daemon.log().iter().any(|l| l.contains("\"level\":20,"));
    assert!(!has_debug());
    let changed = "log-level=debug # more\nrefresh-interval=0.05\njobs=8\n";
    fs::write(&file, changed).unwrap();
    daemon.signal("HUP");
    says("log-level is now debug");
    says("refresh-interval is now 0.05 s");
    says("jobs can't change while the daemon runs; it will be 8 after");
    // Logged by the next full reload, which would have come only minutes later.
    says("(periodic)");
    says("\"level\":20,");
    fs::write(&file, "log-level=loud\n").unwrap();
    daemon.signal("HUP");
    says("settings:1: log-level=loud: must be error, warn, info");
    fs::remove_file(&file).unwrap();
    daemon.signal("HUP");
    says("settings: No such file");
    // A FIFO without a writer is not waited for.
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    daemon.signal("HUP");
    says("settings: is not a regular file");
    assert_eq!(daemon.get("/ping").status, 200);
}

#[test]
fn the_daemon_does_not_start_on_a_system_without_zones() {
    for args in [&["daemon"][..], &["dump"], &["daemon", "--root", "/"]] {
        let output = Command::new(VMINFOD).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("it is not SmartOS"), "{said}");
    }
    for (args, why) in [
        (&["--listen", "none"][..], "no client could connect"),
        (&["--listen", "none", "--listen", "127.0.0.1:1"], "combined with"),
        (&["--listen", "192.0.2.1:9090"], "not a loopback address"),
        (&["--listen", "nowhere"], "nowhere: neither ADDR:PORT nor"),
        (&["--socket", "/a/s", "--socket", "/a/./s"], "/a/s is given twice"),
    ] {
        let output =
            Command::new(VMINFOD).arg("daemon").args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(why), "{said}");
    }
}
