//! A simulated host with the real daemon on it: real processes, files and
//! sockets. Every wait has a deadline; a test that misses it fails, and prints
//! what it saw last.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

pub mod programs;
mod stream;

pub use crate::processes::{TempDir, kill};
use simhost::Host;
use vminfod::vm::json::Json;

pub use stream::{Stream, read_chunks};

/// The deadline of a wait: long enough on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How many cases a test tries: `few`, or `many` in a run of
/// `make test LONG=1`.
pub fn few_or_many(few: u64, many: u64) -> u64 {
    match std::env::var("LONG") {
        Ok(long) if !long.is_empty() => many,
        _ => few,
    }
}

/// The program under test.
pub const VMINFOD: &str = env!("CARGO_BIN_EXE_vminfod");

/// Builds the program of the simulated host, once, and returns its path.
pub fn simhost_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "simhost"]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        let built = cargo
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo");
        assert!(built.success(), "simhost does not build");
        let program = Path::new(VMINFOD).with_file_name("simhost");
        assert!(program.exists(), "{}", program.display());
        program
    })
}

/// Calls `look` until it returns `Ok`. At the deadline it fails with the last
/// `Err`, which says what `look` saw.
pub fn wait_for<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    wait_within(DEADLINE, what, look)
}

/// As [`wait_for`], with another deadline.
pub fn wait_within<T>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let begin = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(saw) if begin.elapsed() > deadline => {
                panic!("{what}: not in {deadline:?}; saw {saw}")
            }
            Err(_) => pause(),
        }
    }
}

/// Lets other threads run between two looks.
fn pause() {
    let (_keep, receiver) = channel::<()>();
    let _ = receiver.recv_timeout(Duration::from_millis(5));
}

/// A simulated host.
pub struct TestHost {
    pub host: Host,
    _dir: TempDir,
}

impl std::ops::Deref for TestHost {
    type Target = Host;
    fn deref(&self) -> &Host {
        &self.host
    }
}

impl TestHost {
    /// A host with this many VMs.
    pub fn with_vms(vms: u64) -> Self {
        let dir = TempDir::new();
        let host = Host::new(&dir.0);
        host.init(simhost_program(), vms).unwrap();
        Self { host, _dir: dir }
    }

    /// A recorded host.
    pub fn recorded(recorded: &Path) -> Self {
        let dir = TempDir::new();
        let host = Host::new(&dir.0);
        host.import(simhost_program(), recorded).unwrap();
        Self { host, _dir: dir }
    }

    /// Runs vminfod with the host's root.
    pub fn dump(&self) -> Output {
        Command::new(VMINFOD)
            .arg("dump")
            .arg("--root")
            .arg(self.host.root())
            .output()
            .unwrap()
    }

    /// The VM objects that `vminfod dump` loads, without a daemon.
    pub fn dumped(&self) -> Json {
        let output = self.dump();
        assert!(output.status.success(), "{output:?}");
        parse(&output.stdout)
    }

    /// The zonename of the first VM of a brand.
    pub fn vm_of(&self, brand: &str) -> String {
        let dumped = self.dumped();
        let vms = dumped.as_array().unwrap();
        let vm = vms.iter().find(|vm| text(vm, "brand") == brand).unwrap();
        text(vm, "zonename").to_string()
    }

    /// Starts the daemon and waits until it serves.
    pub fn start(&self) -> Daemon {
        self.start_with(&[])
    }

    pub fn start_with(&self, args: &[&str]) -> Daemon {
        self.start_by(Command::new(VMINFOD), args)
    }

    /// Starts the daemon, and returns at once.
    pub fn spawn(&self, args: &[&str]) -> Daemon {
        self.spawn_with(args, &[])
    }

    /// As [`TestHost::spawn`], with these variables in its environment.
    pub fn spawn_with(&self, args: &[&str], env: &[(&str, &str)]) -> Daemon {
        let mut command = Command::new(VMINFOD);
        command.envs(env.iter().copied());
        self.spawn_by(command, args)
    }

    /// Starts the daemon under a limit, given as arguments of ulimit(1), and
    /// waits until it serves.
    pub fn start_under(&self, args: &[&str], limit: &str) -> Daemon {
        let mut shell = Command::new("sh");
        let words = format!("ulimit {limit} && exec \"$0\" \"$@\"");
        shell.args(["-c", &words, VMINFOD]);
        self.start_by(shell, args)
    }

    /// Starts the daemon with a command that runs it, and waits until it
    /// serves.
    pub fn start_by(&self, command: Command, args: &[&str]) -> Daemon {
        let mut daemon = self.spawn_by(command, args);
        daemon.addr = daemon.wait_for_address();
        daemon
    }

    fn spawn_by(&self, mut command: Command, args: &[&str]) -> Daemon {
        command.arg("daemon").arg("--root").arg(self.host.root());
        if !args.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let mut child = command
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        for pipe in [
            Box::new(child.stdout.take().unwrap()) as Box<dyn Read + Send>,
            Box::new(child.stderr.take().unwrap()),
        ] {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    log.lock().unwrap().push(line);
                }
            });
        }
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        Daemon { child, addr, log, before: self.published() }
    }
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    pub child: Child,
    pub addr: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    /// How many zone and ZFS sysevents were published before it started.
    before: (u64, u64),
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.len().saturating_sub(60);
            eprintln!("--- log ---\n{}", log[tail..].join("\n"));
        }
    }
}

impl Daemon {
    /// The lines that it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    pub fn wait_for_address(&self) -> SocketAddr {
        let marker = "listening on ";
        wait_for("the daemon listens", || {
            let log = self.log();
            log.iter()
                .filter_map(|line| {
                    let (_, rest) = line.split_once(marker)?;
                    rest.split('"').next()?.parse().ok()
                })
                .next()
                .ok_or_else(|| log.join("\n"))
        })
    }

    /// The answer to a GET.
    pub fn get(&self, path: &str) -> Answer {
        get_at(self.addr, path)
    }

    /// Sends bytes, and reads until the daemon closes.
    pub fn send(&self, bytes: &[u8]) -> Answer {
        send_to(self.addr, bytes)
    }

    pub fn vms(&self) -> Json {
        let answer = self.get("/vms");
        assert_eq!(answer.status, 200);
        parse(&answer.body)
    }

    pub fn vm(&self, zonename: &str) -> Option<Json> {
        let answer = self.get(&format!("/vms/{zonename}"));
        (answer.status == 200).then(|| parse(&answer.body))
    }

    pub fn status(&self) -> Json {
        parse(&self.get("/status").body)
    }

    /// Subscribes to events.
    pub fn events(&self) -> Stream {
        Stream::open(self.addr, "")
    }

    /// Subscribes to events with this query; `seq` may then skip numbers.
    pub fn events_of(&self, query: &str) -> Stream {
        Stream::open(self.addr, query)
    }

    /// The sum of all samples of /metrics that begin with this.
    pub fn sum_of_metrics(&self, begin: &str) -> f64 {
        let page = self.get("/metrics").text();
        let samples = page.lines().filter(|line| line.starts_with(begin));
        let values = samples.filter_map(|line| line.rsplit(' ').next());
        values.map(|value| value.parse::<f64>().unwrap()).sum()
    }

    /// One value of /metrics, by its name and labels as they are printed.
    pub fn metric(&self, sample: &str) -> f64 {
        let page = self.get("/metrics").text();
        let of = |line: &str| {
            line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok()
        };
        let found = page.lines().find_map(of);
        found.unwrap_or_else(|| panic!("no {sample} in {page}"))
    }

    /// Runs one of the tools against this daemon.
    pub fn tool(&self, args: &[&str]) -> Output {
        // timeout(1) ends a tool that hangs, and changes its exit status.
        Command::new("timeout")
            .args(["120", VMINFOD])
            .args(args)
            .env("VMINFOD_SERVER", self.addr.to_string())
            .output()
            .unwrap()
    }

    /// Waits until the daemon has read every sysevent, is idle, and serves what
    /// a load without a daemon gives; returns these VMs.
    pub fn settle(&self, host: &TestHost) -> Json {
        wait_for("the daemon serves what there is", || {
            let (zone, zfs) = host.published();
            let (zone, zfs) = (zone - self.before.0, zfs - self.before.1);
            let status = self.status();
            let events = |source: &str| {
                let source = status.get("sources").unwrap().get(source);
                source.unwrap().get("events").unwrap().as_u64().unwrap()
            };
            let idle = status.get("queue").unwrap().get("idle");
            if (events("zone"), events("zfs")) != (zone, zfs)
                || idle != Some(&Json::Bool(true))
            {
                return Err(format!("{zone} {zfs} {status}"));
            }
            let (served, loaded) = (self.vms(), host.dumped());
            match first_difference(&served, &loaded) {
                None => Ok(served),
                Some(difference) => Err(difference),
            }
        })
    }

    /// Sends a signal.
    pub fn signal(&self, signal: &str) {
        assert!(kill(signal, self.child.id()));
    }

    /// Waits until the process ends; returns its exit status.
    pub fn wait(&mut self) -> Option<i32> {
        wait_for("the daemon ends", || {
            self.child.try_wait().unwrap().ok_or("running".to_string())
        })
        .code()
    }
}

/// An address and port that stay free while nothing listens there: each call
/// takes another loopback address.
pub fn free_address() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed) % 250;
    let free = format!("127.{}.{n}.1:0", 1 + std::process::id() % 250);
    TcpListener::bind(free).unwrap().local_addr().unwrap().to_string()
}

/// The answer to a GET of the daemon at `addr`.
pub fn get_at(addr: SocketAddr, path: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n");
    send_to(addr, request.as_bytes())
}

fn send_to(addr: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    Answer::parse(&answer)
}

/// The faults that /status reports, as `zonename source`.
pub fn errors(daemon: &Daemon) -> Vec<String> {
    let status = daemon.status();
    let errors = status.get("errors").unwrap().as_array().unwrap();
    errors
        .iter()
        .map(|e| format!("{} {}", text(e, "zonename"), text(e, "source")))
        .collect()
}

/// Waits until /status reports exactly these faults.
pub fn wait_for_errors(daemon: &Daemon, wanted: &[String]) {
    wait_for("the faults are as expected", || {
        let errors = errors(daemon);
        if errors == wanted { Ok(()) } else { Err(format!("{errors:?}")) }
    });
}

/// How many commands have been run whose command line contains `words`.
pub fn runs_of(host: &TestHost, words: &str) -> usize {
    host.runs().iter().filter(|run| run.contains(words)).count()
}

/// Waits until a member of a VM is this JSON; empty if the VM has no such
/// member.
pub fn wait_for_member(
    daemon: &Daemon,
    zonename: &str,
    name: &str,
    value: &str,
) {
    wait_for(&format!("{name} is {value}"), || {
        let vm = daemon.vm(zonename);
        let found = vm.and_then(|vm| vm.get(name).map(Json::to_string));
        let found = found.unwrap_or_default();
        if found == value { Ok(()) } else { Err(found) }
    });
}

/// The first VM and member that differ; VMs are matched by zonename.
pub fn first_difference(a: &Json, b: &Json) -> Option<String> {
    let by_name = |vms: &Json| -> BTreeMap<String, Json> {
        let vms = vms.as_array().unwrap().iter();
        vms.map(|vm| (text(vm, "zonename").to_string(), vm.clone())).collect()
    };
    let (a, b) = (by_name(a), by_name(b));
    let names = |vms: &BTreeMap<String, Json>| -> Vec<String> {
        vms.keys().cloned().collect()
    };
    if names(&a) != names(&b) {
        return Some(format!("{:?}\nand {:?}", names(&a), names(&b)));
    }
    for (name, vm) in &a {
        let (vm, other) = (vm.as_object()?, b[name].as_object()?);
        for (key, value) in vm.iter() {
            if other.get(key) != Some(value) {
                let other = other.get(key).cloned().unwrap_or_default();
                return Some(format!("{name}.{key}: {value} and {other}"));
            }
        }
        if let Some((key, _)) = other.iter().find(|(k, _)| !vm.contains(k)) {
            return Some(format!("{name}: lacks {key}"));
        }
    }
    None
}

/// Lines as they come, so that a wait for one can have a deadline.
pub fn lines_of(out: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(out).lines().map_while(Result::ok);
        lines.all(|line| sender.send(line).is_ok())
    });
    lines
}

/// A complete HTTP answer.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
        let Some(end) = end else {
            return Self { status: 0, head: String::new(), body: vec![] };
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head[9..12].parse().unwrap();
        Self { status, head, body: bytes[end + 4..].to_vec() }
    }

    /// The value of a header field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|l| l.split_once(": "));
        fields.find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    pub fn json(&self) -> Json {
        parse(&self.body)
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

pub fn parse(bytes: &[u8]) -> Json {
    let text = std::str::from_utf8(bytes).unwrap();
    Json::parse(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

pub fn text<'a>(json: &'a Json, name: &str) -> &'a str {
    json.get(name).and_then(Json::as_str).unwrap_or_default()
}
