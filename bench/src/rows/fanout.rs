//! Many subscribers.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use vminfod::os::socket::{Polled, poll_sockets};
use vminfod::vm::json::Json;

use crate::Result;
use crate::host::{BenchHost, Daemon, Programs, get};
use crate::report::{Figure, Goal};

const EVENTS: usize = 1000;

/// Each event is a chunk of three lines: its size, the event, and an empty
/// line. The first chunk says that the stream has begun.
const LINES: usize = 3 * (1 + EVENTS);
const DEADLINE: Duration = Duration::from_secs(60);

/// One subscriber.
struct Subscriber {
    stream: TcpStream,
    bytes: f64,
    /// Newlines received since the head of the answer; `None` until the head
    /// has been received.
    lines: Option<usize>,
    /// When it received the last event.
    done: Option<Instant>,
}

/// 1,000 events for 500 subscribers, and then for a tenth of the subscribers,
/// to see whether the cost of a byte grows with their number.
pub fn subscribers(programs: &Programs, runs: usize) -> Result<Vec<Figure>> {
    let host = BenchHost::new(programs, 50)?;
    let (mut late, mut many, mut few) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let daemon = host.start(programs, &[])?;
        daemon.settle()?;
        let (_, alone) = listen(&host, &daemon, 0)?;
        let (lateness, cost) = listen(&host, &daemon, 500)?;
        late.push(lateness * 1e3);
        many.push((cost.cpu - alone.cpu) * 1e9 / cost.bytes);
        let (_, cost) = listen(&host, &daemon, 50)?;
        few.push((cost.cpu - alone.cpu) * 1e9 / cost.bytes);
    }
    let name = "last of 500 subscribers after the first, 1,000 events";
    Ok(vec![
        Figure::new(9, name, "ms", late).goal(Goal::AtMost(50.0)),
        Figure::new(9, "CPU for a byte, 500 subscribers", "ns", many)
            .floor("50 subscribers", few)
            .goal(Goal::TimesFloor(1.3)),
    ])
}

/// What subscribers cost the daemon: CPU time in seconds, and bytes sent.
struct Cost {
    cpu: f64,
    bytes: f64,
}

/// Makes events for `count` subscribers. Returns the time from when the first
/// of them has the last event until all have it, in seconds, and the cost.
fn listen(
    host: &BenchHost,
    daemon: &Daemon,
    count: usize,
) -> Result<(f64, Cost)> {
    let (_, body) = get(daemon.addr, "/vms?fields=zonename,zonepath")?;
    let vms = Json::parse(&String::from_utf8(body)?)?;
    let vm = vms.as_array().and_then(|vms| vms.first());
    let zonepath = vm.and_then(|vm| vm.get("zonepath")?.as_str());
    let zonepath = zonepath.ok_or("no VM")?;
    let tags = host.path(&format!("{zonepath}/config/tags.json"));
    // The number of subscribers is limited, and includes those of before.
    crate::host::until("no subscriber left", Duration::from_millis(5), || {
        Ok((listeners(daemon)? == 0).then_some(()))
    })?;
    let mut probe = daemon.events("?snapshot=none")?;
    let subscribers = (0..count).map(|_| {
        let mut stream = TcpStream::connect(daemon.addr)?;
        let request =
            "GET /events?snapshot=none HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes())?;
        stream.set_nonblocking(true)?;
        Ok(Subscriber { stream, bytes: 0.0, lines: None, done: None })
    });
    let mut subscribers = subscribers.collect::<Result<Vec<_>>>()?;
    // Wait until all have subscribed.
    crate::host::until("all listen", Duration::from_millis(5), || {
        Ok((listeners(daemon)? > count).then_some(()))
    })?;
    let before = daemon.cpu()?;
    let unique = std::process::id();
    let temp = tags.with_extension("tmp");
    let maker = std::thread::spawn(move || -> std::io::Result<()> {
        for n in 1..=EVENTS {
            fs::write(&temp, format!("{{\"n\":\"{unique}-{n}\"}}"))?;
            fs::rename(&temp, &tags)?;
            // One event for each write: write again when this one has come.
            let mark = format!("{{\"n\":\"{unique}-{n}\"}}");
            probe.next_with(&[&mark]).map_err(std::io::Error::other)?;
        }
        fs::write(&temp, "{}")?;
        fs::rename(&temp, &tags)
    });
    read_all(&mut subscribers)?;
    maker.join().map_err(|_| "the maker has panicked")??;
    let cpu = daemon.cpu()? - before;
    let done = || subscribers.iter().filter_map(|s| s.done);
    let lateness = match (done().min(), done().max()) {
        (Some(first), Some(last)) => (last - first).as_secs_f64(),
        _ => 0.0,
    };
    let bytes = subscribers.iter().map(|s| s.bytes).sum();
    Ok((lateness, Cost { cpu, bytes }))
}

/// How many subscribers there are, by the daemon's count.
fn listeners(daemon: &Daemon) -> Result<usize> {
    let status = daemon.status()?;
    let listeners = status.get("eventsListeners").and_then(Json::as_object);
    Ok(listeners.ok_or("no listeners in /status")?.len())
}

/// Reads until all have received the last event.
fn read_all(subscribers: &mut [Subscriber]) -> Result<()> {
    let begin = Instant::now();
    let mut buffer = vec![0; 64 << 10];
    while subscribers.iter().any(|s| s.done.is_none()) {
        if begin.elapsed() > DEADLINE {
            return Err("not all have had all events".into());
        }
        let mut polled: Vec<_> = subscribers
            .iter()
            .map(|s| Polled {
                fd: s.stream.as_raw_fd(),
                want_read: true,
                want_write: false,
                readable: false,
                writable: false,
                failed: false,
            })
            .collect();
        poll_sockets(&mut polled, Duration::from_secs(1))?;
        let ready = subscribers.iter_mut().zip(&polled);
        for (subscriber, _) in ready.filter(|(_, p)| p.readable) {
            match subscriber.stream.read(&mut buffer) {
                Ok(0) => return Err("a stream has ended".into()),
                Ok(n) => subscriber.take(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(())
}

impl Subscriber {
    /// Only counts lines. That is quick, so that the readers are not what is
    /// measured.
    #[allow(clippy::cast_precision_loss)]
    fn take(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as f64;
        if self.lines.is_none() {
            // The head comes in one piece.
            let head = bytes.windows(4).position(|w| w == b"\r\n\r\n");
            let Some(head) = head else { return };
            bytes = &bytes[head + 4..];
        }
        let lines = self.lines.get_or_insert(0);
        *lines += bytes.iter().filter(|byte| **byte == b'\n').count();
        if *lines >= LINES && self.done.is_none() {
            self.done = Some(Instant::now());
        }
    }
}
