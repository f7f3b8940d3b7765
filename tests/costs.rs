//! What things cost, without a clock: the bytes that are allocated for a
//! request and for an event, and the memory of a full queue and a full hub. A
//! copy of a body, a second serialisation, or a cost that grows with the number
//! of VMs or subscribers shows here.

#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vminfod::cache::{Applied, Cache, Prepared, Update};
use vminfod::event::{Cause, Job, Lane};
use vminfod::http::{Host, Server};
use vminfod::hub::{About, Hub, HubLimits, LineDraft};
use vminfod::load::assemble::Parts;
use vminfod::load::{zoneadm, zonexml};
use vminfod::metrics::Page;
use vminfod::os::net;
use vminfod::queue::Queue;
use vminfod::settings::{HttpLimits, QueueLimits, SourceTimes};
use vminfod::source::{EventSource, Source, Sources};
use vminfod::sync::Wake;
use vminfod::sync_requests::SyncRequest;
use vminfod::threads::Stop;
use vminfod::vm::json::{Json, Object};
use vminfod_client::EventKind;

/// The timeout of a read; no cost depends on it.
const DEADLINE: Duration = Duration::from_secs(60);

/// The system's allocator, with a count of the bytes that it is asked for.
struct Counting;

/// All bytes that have been allocated, whether or not they are free again.
static ASKED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Bytes that this thread has allocated, less those that it has freed. For
    /// one thread, because threads of another test may still be ending.
    static IN_USE: Cell<isize> = const { Cell::new(0) };
}

/// Counts bytes of this thread, unless the thread is ending and its counter is
/// gone.
fn count(bytes: isize) {
    let _ = IN_USE.try_with(|in_use| in_use.set(in_use.get() + bytes));
}

fn in_use() -> isize {
    IN_USE.with(Cell::get)
}

// SAFETY: every call is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(layout.size(), Ordering::SeqCst);
        count(layout.size().cast_signed());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Lets one test run at a time: all tests share the counters.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bytes that one run of `body` allocates, on average.
fn bytes_each(times: usize, mut body: impl FnMut(usize)) -> usize {
    // Allocations that are made once and kept are made in this first round.
    (0..times).for_each(&mut body);
    let before = ASKED.load(Ordering::SeqCst);
    (times..2 * times).for_each(&mut body);
    (ASKED.load(Ordering::SeqCst) - before) / times
}

/// The parts of VM `n`, about as large as those of a usual VM.
fn parts(n: usize) -> Parts {
    let name = format!("00000000-0000-4000-8000-{n:012x}");
    let row =
        format!("{n}:{name}:running:/zones/{name}:{name}:joyent:excl:1\n");
    let row = zoneadm::parse(&row).rows.pop().unwrap();
    let attributes: String = ["alias", "hostname", "dns-domain", "owner-uuid"]
        .iter()
        .map(|key| format!("<attr name=\"{key}\" value=\"of {name}\"/>"))
        .collect();
    let xml = format!(
        "<zone name=\"{name}\" zonepath=\"/zones/{name}\" brand=\"joyent\">\
         {attributes}</zone>"
    );
    let xml = Arc::new(zonexml::parse(&xml).unwrap().xml);
    let mut parts = Parts::new(row, xml, Arc::default());
    let keys = (0..20).map(|key| {
        let value = Json::from("a value of a hundred bytes, so ".repeat(3));
        (format!("key{key}").into(), value)
    });
    let keys = keys.collect::<Object>();
    *parts.map_mut("customer_metadata").unwrap() = Json::from(keys);
    parts
}

/// A cache of VMs, and the hub to which it publishes.
struct Picture {
    cache: Arc<Cache>,
    hub: Arc<Hub>,
    cause: Cause,
}

fn hub_limits() -> HubLimits {
    HubLimits {
        kept_events: 100,
        kept_bytes: 1 << 20,
        subscribers: 512,
        versions: 16,
        lag_events: 1000,
        lag_bytes: 8 << 20,
    }
}

impl Picture {
    fn new(vms: usize) -> Self {
        let hub = Arc::new(Hub::new(hub_limits()));
        let cache = Arc::new(Cache::new("life".into(), Arc::clone(&hub)));
        let picture =
            Self { cache, hub, cause: Cause::now(EventSource::Zone, "a test") };
        (0..vms).for_each(|n| picture.store(parts(n)));
        picture
    }

    fn store(&self, parts: Parts) {
        let name = Arc::clone(&parts.row.zonename);
        let base = self.cache.parts(&name);
        let vm = Update::Vm(Prepared::new(parts).unwrap());
        let none = Vec::new();
        let applied =
            self.cache.apply(&name, base.as_ref(), vm, &none, &self.cause);
        assert!(matches!(applied, Applied::Stored { .. }));
    }

    /// Gives VM `n` another tag, which makes one event.
    fn change(&self, n: usize, tag: usize) {
        let name = format!("00000000-0000-4000-8000-{n:012x}");
        let mut parts = (*self.cache.parts(&name).unwrap()).clone();
        let mut tags = Object::new();
        tags.set("tag", tag);
        *parts.map_mut("tags").unwrap() = Json::from(tags);
        self.store(parts);
    }

    fn serve(&self) -> Served {
        let (cache, hub) = (Arc::clone(&self.cache), Arc::clone(&self.hub));
        let limits = HttpLimits::default();
        let send_buffer = limits.send_buffer;
        let stop = Stop::default();
        let host = Box::new(NoHost);
        let server = Server::new(limits, cache, hub, host, &stop).unwrap();
        // A port that was free a moment ago, because the client must know it.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let bound = net::bind(&address.into(), send_buffer).unwrap();
        server.listen(vec![bound]).unwrap();
        Served { server, stop, address }
    }
}

/// There is no daemon behind the cache.
struct NoHost;

impl Host for NoHost {
    fn status(&self, _: bool) -> Json {
        Json::Null
    }

    fn metrics(&self, _: &mut Page) {}

    fn request(
        &self,
        _: Option<&Arc<str>>,
        _: Wake,
    ) -> Option<Arc<SyncRequest>> {
        None
    }

    fn faults(&self, _: Option<&str>) -> Vec<(Source, String)> {
        Vec::new()
    }
}

struct Served {
    server: Server,
    stop: Stop,
    address: SocketAddr,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.set();
        self.server.end();
    }
}

impl Served {
    fn connect(&self, path: &str) -> Connection {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let buffer = vec![0; 64 << 10];
        Connection { stream, request, buffer, len: 0 }
    }
}

/// A client that sends the same request again and again, and allocates nothing.
struct Connection {
    stream: TcpStream,
    request: String,
    buffer: Vec<u8>,
    /// Bytes in the buffer.
    len: usize,
}

impl Connection {
    /// Sends the request and reads the answer; returns the length of its body.
    fn ask(&mut self) -> usize {
        self.stream.write_all(self.request.as_bytes()).unwrap();
        let head = self.read_until(b"\r\n\r\n");
        let text = std::str::from_utf8(&self.buffer[..head]).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        let (_, length) = text.split_once("Content-Length: ").unwrap();
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        let mut left: usize = length;
        left -= (self.len - head).min(left);
        while left > 0 {
            let most = left.min(self.buffer.len());
            left -= self.stream.read(&mut self.buffer[..most]).unwrap();
        }
        self.len = 0;
        length
    }

    /// Reads until the buffer contains `end`; returns the index behind it.
    /// Bytes after that stay in the buffer.
    fn read_until(&mut self, end: &[u8]) -> usize {
        loop {
            let have = &self.buffer[..self.len];
            if let Some(at) = have.windows(end.len()).position(|w| w == end) {
                return at + end.len();
            }
            let read = self.stream.read(&mut self.buffer[self.len..]).unwrap();
            assert!(read > 0, "the connection was closed within the answer");
            self.len += read;
        }
    }

    /// Reads one line of a stream of events.
    fn read_line(&mut self) {
        let end = self.read_until(b"}\n\r\n");
        self.buffer.copy_within(end..self.len, 0);
        self.len -= end;
    }
}

#[test]
fn a_request_costs_no_copy_of_its_body() {
    let _alone = alone();
    let picture = Picture::new(500);
    let served = picture.serve();
    let mut ping = served.connect("/ping");
    let bytes = bytes_each(500, |_| _ = ping.ask());
    eprintln!("/ping: {bytes} bytes");
    assert!(bytes < 900, "/ping: {bytes} bytes");

    let name = "00000000-0000-4000-8000-000000000007";
    let mut one = served.connect(&format!("/vms/{name}"));
    let body = one.ask();
    assert!(body > 2500, "{body}");
    let bytes = bytes_each(500, |_| _ = one.ask());
    eprintln!("/vms/NAME: {bytes} bytes");
    assert!(bytes < 1300, "/vms/NAME: {bytes} bytes, body {body}");

    let mut all = served.connect("/vms");
    let body = all.ask();
    assert!(body > 1_250_000, "{body}");
    let bytes = bytes_each(50, |_| _ = all.ask());
    eprintln!("/vms: {bytes} bytes");
    // The pointers to the pieces that are written at a time.
    assert!(bytes < 200 * 500, "/vms: {bytes} bytes, body {body}");
    // Only the VM that has changed is serialised again.
    let of_change = bytes_each(50, |n| picture.change(n, n));
    let bytes = bytes_each(50, |n| {
        picture.change(n, 1000 + n);
        all.ask();
    });
    let of_next = bytes.saturating_sub(of_change);
    eprintln!("/vms after a change: {of_next} bytes");
    // A few machine words for each VM in the answer.
    assert!(of_next < 300 * 500, "the next /vms: {of_next} bytes");
}

#[test]
fn the_cost_of_an_event_does_not_grow_with_vms_or_subscribers() {
    let _alone = alone();
    let cost_at = |vms: usize| {
        let picture = Picture::new(vms);
        bytes_each(200, |n| picture.change(n % vms, n))
    };
    let (few, many) = (cost_at(100), cost_at(5000));
    eprintln!("an event: {few} bytes at 100 VMs, {many} at 5,000");
    // The VM's JSON, the line that contains it, and the line as a chunk, each
    // of which grows while it is written; and two VM objects, the old and the
    // new one.
    assert!(few < 42 << 10, "{few} bytes");
    assert!(many < few + few / 10, "{many} bytes at 5,000 VMs, {few} at 100");

    let cost_with = |subscribers: usize| {
        let picture = Picture::new(100);
        let served = picture.serve();
        let mut all: Vec<_> = (0..subscribers)
            .map(|_| {
                let mut events = served.connect("/events?snapshot=none");
                let request = events.request.clone();
                events.stream.write_all(request.as_bytes()).unwrap();
                events.read_line();
                events
            })
            .collect();
        bytes_each(100, |n| {
            picture.change(n % 100, 10_000 + n);
            all.iter_mut().for_each(Connection::read_line);
        })
    };
    let (one, more) = (cost_with(1), cost_with(41));
    // No subscriber gets a copy of the line, which is over 3,000 bytes.
    let each = more.saturating_sub(one) / 40;
    eprintln!("{one} bytes with a subscriber, {each} for each more");
    assert!(each < 500, "{each} bytes for each subscriber more");
}

#[test]
fn a_vm_takes_less_memory_than_five_times_its_json() {
    const VMS: usize = 1000;
    let _alone = alone();
    let begin = in_use();
    let picture = Picture::new(VMS);
    // There are no subscribers: each event is dropped when the next one comes.
    let _ = picture.hub.hand_out(usize::MAX);
    picture.change(0, 0);
    let vm = (in_use() - begin) / VMS.cast_signed();
    let vms = picture.cache.snapshot().vms;
    let json = vms.iter().map(|vm| vm.json().len()).sum::<usize>() / VMS;
    let json = json.cast_signed();
    eprintln!("a VM: {vm} bytes, {json} of them JSON");
    // Besides the JSON there are the object and the parts that it is made of,
    // which share their strings; the rest is tables and the list of VMs.
    assert!(vm < 5 * json, "a VM: {vm} bytes, {json} of them JSON");
}

#[test]
fn the_memory_of_the_queue_is_bounded() {
    let _alone = alone();
    let most = 1000;
    let begin = in_use();
    let limits = QueueLimits { jobs: most, ..QueueLimits::default() };
    let queue = Queue::new(limits, &SourceTimes::default());
    let cause = Cause::now(EventSource::Zone, "a test");
    let push = |n: usize| {
        let lane = Lane::Vm(format!("zone-{n}").into());
        queue.push(Job::new(lane, Sources::ALL, cause.clone()));
    };
    (0..most).for_each(push);
    assert_eq!(queue.status(0).waiting_count, most);
    let full = in_use() - begin;
    (most..100 * most).for_each(push);
    let status = queue.status(0);
    // The queue no longer knows which VMs were meant: it will load them all.
    assert!(status.waiting_count <= most, "{}", status.waiting_count);
    assert!(status.overflows > 0);
    let after = in_use() - begin;
    // After a hundred times as many jobs, only the tables have grown.
    assert!(after < 2 * full, "{after} bytes, {full} when it was full");
}

#[test]
fn the_memory_of_the_hub_is_bounded() {
    let _alone = alone();
    let limits = hub_limits();
    let hub = Hub::new(limits);
    let about = About {
        kind: EventKind::Modify,
        zonename: "zone".into(),
        uuid: "zone".into(),
    };
    let publish = |n: usize| {
        // Each of another size, up to 64 KiB.
        let line = vec![b'x'; 1 + n * 7919 % (64 << 10)];
        hub.publish(about.clone(), None, LineDraft::of(&line), |_, _| ());
        // Every subscriber has had it.
        let _ = hub.hand_out(usize::MAX);
    };
    (0..1000).for_each(publish);
    let full = in_use();
    (1000..20_000).for_each(publish);
    let (events, bytes, held) = hub.size();
    assert!(events <= limits.kept_events, "{events}");
    assert!(bytes <= limits.kept_bytes, "{bytes}");
    assert_eq!(bytes, held);
    let more = in_use() - full;
    // Other lines are kept by now, of other sizes.
    assert!(more < limits.kept_bytes.cast_signed(), "{more} bytes more");
    // Lines that are not handed out are bounded, too.
    for _ in 0..5000 {
        hub.publish(about.clone(), None, LineDraft::of(b"x"), |_, _| ());
    }
    assert!(hub.size().0 as u64 <= limits.lag_events, "{:?}", hub.size());
}
