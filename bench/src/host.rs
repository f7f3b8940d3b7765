//! A simulated host and a real daemon on it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use simhost::Host;
use vminfod::vm::json::Json;

use crate::Result;

/// How long to wait at most for anything that is not measured.
const DEADLINE: Duration = Duration::from_secs(30);

/// The programs that are measured and used.
#[derive(Clone, Debug)]
pub struct Programs {
    /// vminfod, as it is released.
    pub vminfod: PathBuf,
    /// The simulated host's commands.
    pub simhost: PathBuf,
}

/// A simulated host. Its directory is removed when this is dropped.
pub struct BenchHost {
    host: Host,
    dir: PathBuf,
}

impl std::ops::Deref for BenchHost {
    type Target = Host;
    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Drop for BenchHost {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl BenchHost {
    /// Lays out a host with this many VMs.
    pub fn new(programs: &Programs, vms: u64) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("vmb-{}-{n}", std::process::id());
        // In memory if possible, because the speed of disks is not measured.
        let memory = Path::new("/dev/shm");
        let temp = match memory.is_dir() {
            true => memory.to_path_buf(),
            false => std::env::temp_dir(),
        };
        let dir = temp.join(name);
        fs::create_dir_all(&dir)?;
        let host = Host::new(&dir);
        host.init(&programs.simhost, vms)?;
        Ok(Self { host, dir })
    }

    /// Starts a daemon and waits until it serves.
    pub fn start(&self, programs: &Programs, args: &[&str]) -> Result<Daemon> {
        Daemon::start(programs, self.root(), args)
    }
}

/// A running daemon; ended when this is dropped.
pub struct Daemon {
    child: Child,
    /// Where it listens.
    pub addr: SocketAddr,
    /// From its start to its first answer.
    pub start_time: Duration,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // On SIGTERM it ends its sysevents; if it is killed, they stay.
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").arg(pid).status();
        if !asked.is_ok_and(|status| status.success()) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

impl Daemon {
    fn start(programs: &Programs, root: &Path, args: &[&str]) -> Result<Self> {
        // The port was free a moment ago, and no other process takes it here.
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let begin = Instant::now();
        let child = Command::new(&programs.vminfod)
            .args(["daemon", "--log-level", "warn", "--root"])
            .arg(root)
            .args(["--listen", &addr.to_string()])
            .args(args)
            // As the resource control process.max-port-events, which has to
            // be raised for so many VMs.
            .env("PROCESS_MAX_PORT_EVENTS", "200000")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut daemon = Self { child, addr, start_time: Duration::ZERO };
        until("the daemon serves", Duration::from_micros(500), || {
            Ok(get(addr, "/ping").is_ok().then_some(()))
        })?;
        daemon.start_time = begin.elapsed();
        Ok(daemon)
    }

    /// CPU time of the daemon without its children, in seconds; Linux reports
    /// it in hundredths.
    pub fn cpu(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = fs::read_to_string(path)?;
        let fields = text.rsplit(')').next().unwrap_or_default();
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: Vec<f64> =
            ticks.map(str::parse).collect::<std::result::Result<_, _>>()?;
        // USER_HZ, which is 100 wherever Linux runs.
        Ok(ticks.iter().sum::<f64>() / 100.0)
    }

    /// Bytes of memory that are resident.
    pub fn rss(&self) -> Result<f64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(path)?;
        let line = text.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(kib.ok_or("no VmRSS")?.parse::<f64>()? * 1024.0)
    }

    /// The answer to /status.
    pub fn status(&self) -> Result<Json> {
        let (_, body) = get(self.addr, "/status")?;
        Ok(Json::parse(&String::from_utf8(body)?)?)
    }

    /// How many times it has run zoneadm, kstat and zfs, in all.
    pub fn command_runs(&self) -> Result<f64> {
        let status = self.status()?;
        let runs = ["zoneadm", "kstat", "zfs"];
        Ok(runs.map(|name| of_command(&status, name, "runs")).iter().sum())
    }

    /// How long zoneadm, kstat and zfs have run, in seconds.
    pub fn command_times(&self) -> Result<[f64; 3]> {
        let status = self.status()?;
        let names = ["zoneadm", "kstat", "zfs"];
        Ok(names.map(|name| of_command(&status, name, "seconds")))
    }

    /// How long the first load has waited for commands, in seconds: for
    /// zoneadm, then for the slower of the others, which run side by side.
    pub fn first_commands(&self) -> Result<f64> {
        let [zoneadm, kstat, zfs] = self.command_times()?;
        Ok(zoneadm + kstat.max(zfs))
    }

    /// Waits until it has nothing to do.
    pub fn settle(&self) -> Result<()> {
        until("the daemon rests", Duration::from_millis(5), || {
            let status = self.status()?;
            let queue = status.get("queue").ok_or("no queue")?;
            let is_idle = queue.get("idle") == Some(&Json::Bool(true));
            Ok(is_idle.then_some(()))
        })
    }

    /// The names of its VMs.
    pub fn zonenames(&self) -> Result<Vec<String>> {
        let (_, body) = get(self.addr, "/vms?fields=zonename")?;
        let vms = Json::parse(&String::from_utf8(body)?)?;
        let vms = vms.as_array().ok_or("/vms is no array")?;
        let name = |vm: &Json| vm.get("zonename")?.as_str().map(String::from);
        Ok(vms.iter().filter_map(name).collect())
    }

    /// Subscribes to events.
    pub fn events(&self, query: &str) -> Result<Events> {
        let mut stream = TcpStream::connect(self.addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        write!(
            stream,
            "GET /events{query} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )?;
        let mut events = Events { reader: BufReader::new(stream) };
        let mut line = String::new();
        // The head ends when the daemon has subscribed us.
        while line != "\r\n" {
            line.clear();
            if events.reader.read_line(&mut line)? == 0 {
                return Err("no stream".into());
            }
        }
        Ok(events)
    }
}

/// A stream of events.
pub struct Events {
    reader: BufReader<TcpStream>,
}

impl Events {
    /// The next line of JSON. Lines of the chunked encoding are skipped: each
    /// line of the daemon is a chunk.
    pub fn next(&mut self) -> Result<String> {
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Err("the stream has ended".into());
            }
            if line.starts_with("{\"error\"") {
                return Err(line.into());
            }
            if line.starts_with('{') {
                return Ok(line);
            }
        }
    }

    /// The next line, unless none comes for this long.
    pub fn next_within(&mut self, time: Duration) -> Result<Option<String>> {
        self.reader.get_ref().set_read_timeout(Some(time))?;
        match self.next() {
            Ok(line) => Ok(Some(line)),
            Err(e) => match e.downcast_ref::<std::io::Error>() {
                Some(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    Ok(None)
                }
                _ => Err(e),
            },
        }
    }

    /// The next line that has all of `words`.
    pub fn next_with(&mut self, words: &[&str]) -> Result<String> {
        loop {
            let line = self.next()?;
            if words.iter().all(|word| line.contains(word)) {
                return Ok(line);
            }
        }
    }
}

/// Head and body of an answer.
pub fn get(addr: SocketAddr, path: &str) -> Result<(String, Vec<u8>)> {
    request(addr, "GET", path)
}

/// As [`get`], with another method.
pub fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
) -> Result<(String, Vec<u8>)> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let close = "Connection: close";
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{close}\r\n\r\n"
    )?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
    let end = end.ok_or("no answer")? + 4;
    let body = bytes.split_off(end);
    let head = String::from_utf8(bytes)?;
    match head.starts_with("HTTP/1.1 200 ") {
        true => Ok((head, body)),
        false => Err(format!("{path}: {head}").into()),
    }
}

/// Calls `look` every `pause` until it returns something.
pub fn until<T>(
    what: &str,
    pause: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if begin.elapsed() > DEADLINE {
            return Err(format!("{what}: not within {DEADLINE:?}").into());
        }
        std::thread::sleep(pause);
    }
}

fn of_command(status: &Json, command: &str, member: &str) -> f64 {
    let commands = status.get("commands");
    let of = commands.and_then(|all| all.get(command)?.get(member)?.as_f64());
    of.unwrap_or(0.0)
}
